"""Weights of pseudo-labels by how their features fit their class."""

from __future__ import annotations

from typing import Any, Optional

import torch
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_semi.arguments import (
    check_arguments,
    check_choice,
    check_feature,
    check_number,
    check_whole,
)
from mmseg_semi.functional import prototype_similarity, rank_statistics_overlap
from mmseg_semi.models.component import feature_channels, last_head
from mmseg_semi.models.memories import FeatureMemoryBank
from mmseg_semi.structures import PseudoLabel, SegOutputs, SemiStep

from .base_refiner import BaseRefiner

SIMILARITIES = ('rank', 'cosine')


@MODELS.register_module()
class RankStatisticsWeight(BaseRefiner):
    r"""Weigh each pixel by the top channels that it shares with the prototype of its class.

    PPW of Weighting Pseudo-Labels (ECCV 2024): :math:`w(x) = |top_k(f(x)) \\cap
    top_k(\\bar f_c)| / k` with c the pseudo-label, f the features that the network which makes
    the pseudo-label has at x, and :math:`\\bar f_c` the mean of the class's features in a
    ``FeatureMemoryBank``: labeled ones and, with ``DetectionAgreement``, reliable unlabeled ones.
    A class without prototype weighs 1. The prototypes are those that the iterations before left.

    Args:
        k: Channels that are compared, at most those of the features.
        base_weight: Added to the weight of classes with a prototype: :math:`b + s / k`. The paper
            has 0; the authors' program 1, together with ``denominator='weight'`` of the losses.
        similarity: ``'rank'``, or ``'cosine'`` for the cosine of features and prototype, 0 when
            negative (ablation).
        tap: The features: ``'penultimate'``, the input of the classifier (the paper), or the path
            of a module of the segmentor.
        in_channels: Channels of the features; found for the named ones.
        bank: ``dict(size=256, num_push=32, min_confidence=0.95)``, arguments of
            ``FeatureMemoryBank``.

    Raises:
        ValueError, TypeError: An argument outside its values, or one that does not exist.
    """

    stage = 'weighting'
    handles_more = True
    required_hooks = ('MemoryBankHook',)

    def __init__(
        self,
        k: int = 5,
        base_weight: float = 0.0,
        similarity: str = 'rank',
        tap: str = 'penultimate',
        in_channels: Optional[int] = None,
        bank: Optional[dict[str, Any]] = None,
    ) -> None:
        super().__init__()
        check_whole('RankStatisticsWeight.k', k, 1)
        check_number('RankStatisticsWeight.base_weight', base_weight, 0)
        check_choice('RankStatisticsWeight.similarity', similarity, SIMILARITIES)
        check_feature('RankStatisticsWeight.tap', tap)
        if in_channels is not None:
            check_whole('RankStatisticsWeight.in_channels', in_channels, 1)
        self.k, self.base_weight, self.similarity = k, base_weight, similarity
        self.tap, self.taps, self.in_channels = tap, (tap,), in_channels
        self._bank_cfg = dict(bank or {})
        key = 'RankStatisticsWeight.bank'
        check_arguments(FeatureMemoryBank, self._bank_cfg, key, complete=False)
        if {'num_classes', 'channels'} & set(self._bank_cfg):
            raise ValueError(f'{key}: num_classes and channels follow from the segmentor')
        self._mean: Optional[Tensor] = None

    def attach(self, model: nn.Module) -> None:
        """Build the bank, whose size follows the segmentor."""
        head = last_head(model.segmentor)
        channels = self.in_channels or feature_channels(head, self.tap)
        if channels is None:
            raise ValueError(
                f"RankStatisticsWeight.tap is the module path '{self.tap}': give its number of "
                'channels too (in_channels=...)'
            )
        if self.k > channels:
            raise ValueError(
                f'RankStatisticsWeight.k={self.k} is more than the {channels} channels of the '
                f"features '{self.tap}'"
            )
        try:
            self.bank = FeatureMemoryBank(head.out_channels, channels, **self._bank_cfg)
        except ValueError as error:
            raise ValueError(f'RankStatisticsWeight.bank: {error}') from error

    def forward(self, pseudo: PseudoLabel, step: SemiStep) -> PseudoLabel:
        """Set ``weight``, or multiply the one that is there, and note what the bank needs."""
        features = step.teacher.features[self.tap]
        if features.shape[1] != self.bank.channels:
            raise ValueError(
                f"{self.config_key} (RankStatisticsWeight): the features '{self.tap}' have "
                f'{features.shape[1]} channels, not {self.bank.channels}: set '
                f'in_channels={features.shape[1]}'
            )
        weight = self.weigh(features, pseudo.label)
        self._mean = (weight * pseudo.used).sum() / pseudo.used.sum().clamp(min=1)
        self._known = self.bank.counts.any(0).sum().float()
        self.bank.note(step, pseudo, self.tap)
        return _weighted(pseudo, weight)

    def refine_more(self, pseudo: PseudoLabel, outputs: SegOutputs) -> PseudoLabel:
        """Set ``weight`` of any images, or multiply the one that is there."""
        return _weighted(pseudo, self.weigh(outputs.features[self.tap], pseudo.label))

    @torch.no_grad()
    def weigh(self, features: Tensor, label: Tensor) -> Tensor:
        """Return the weights (B, H, W) of labels (B, H, W) with features (B, C, h, w)."""
        prototypes, known = self.bank.prototypes()
        if self.similarity == 'rank':
            overlap = rank_statistics_overlap(features, label, prototypes, known, self.k)
            weight = overlap.float() / self.k
        else:
            weight = prototype_similarity(features, label, prototypes, known).clamp(min=0)
        return weight + (self.base_weight * known)[label] if self.base_weight else weight

    def log_values(self) -> dict[str, Tensor]:
        """Give the mean weight of the selected pixels and the number of classes with prototype."""
        if self._mean is None:
            return {}
        return dict(mean=self._mean, prototypes=self._known)

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return (
            f'k={self.k}, base_weight={self.base_weight}, similarity={self.similarity!r}, '
            f'tap={self.tap!r}'
        )


def _weighted(pseudo: PseudoLabel, weight: Tensor) -> PseudoLabel:
    return pseudo.update(weight=weight if pseudo.weight is None else pseudo.weight * weight)
