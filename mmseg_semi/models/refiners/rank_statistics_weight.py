"""Weights of pseudo-labels by how their features fit their class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Optional

import torch
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import Feature, Number, OneOf, Whole
from mmseg_semi.functional import prototype_similarity, rank_statistics_overlap
from mmseg_semi.models.component import last_head
from mmseg_semi.models.memories import FeatureMemoryBank, check_memory
from mmseg_semi.structures import PseudoLabel, SegOutputs, SemiStep

from .base_refiner import BaseRefiner

if TYPE_CHECKING:
    from mmseg_semi.models.segmentors import SemiSegmentor

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
    hooks = (dict(type='MemoryBankHook'),)

    def __init__(
        self,
        k: Annotated[int, Whole(1)] = 5,
        base_weight: Annotated[float, Number(0)] = 0.0,
        similarity: Annotated[str, OneOf(*SIMILARITIES)] = 'rank',
        tap: Annotated[str, Feature()] = 'penultimate',
        in_channels: Annotated[Optional[int], Whole(1)] = None,
        bank: Optional[dict[str, Any]] = None,
    ) -> None:
        super().__init__()
        self.k, self.base_weight, self.similarity = k, base_weight, similarity
        self.tap, self.taps, self.in_channels = tap, (tap,), in_channels
        self._bank_cfg = check_memory('RankStatisticsWeight.bank', FeatureMemoryBank, bank)

    def attach(self, model: SemiSegmentor) -> None:
        """Build the bank, whose size follows the segmentor."""
        head = last_head(model.segmentor)
        channels = self.tapped_channels(head, self.tap, self.in_channels)
        if self.k > channels:
            raise ValueError(
                f'RankStatisticsWeight.k={self.k} is more than the {channels} channels of the '
                f"features '{self.tap}'"
            )
        self.bank = FeatureMemoryBank(head.out_channels, channels, **self._bank_cfg)

    def forward(self, pseudo: PseudoLabel, outputs: SegOutputs, step: SemiStep) -> PseudoLabel:
        """Set ``weight``, or multiply the one that is there."""
        weight = self.weigh(outputs.features[self.tap], pseudo.label)
        return pseudo.update(weight=weight if pseudo.weight is None else pseudo.weight * weight)

    def observe(self, step: SemiStep) -> None:
        """Note what enters the bank; log the mean weight and the number of prototypes."""
        pseudo = step.refined[self.name]
        assert pseudo.weight is not None  # forward has set it
        mean = (pseudo.weight * pseudo.used).sum() / pseudo.used.sum().clamp(min=1)
        step.log(f'{self.name}.mean', mean)
        step.log(f'{self.name}.prototypes', self.bank.counts.any(0).sum())
        self.bank.note(step, pseudo, self.tap)

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

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return (
            f'k={self.k}, base_weight={self.base_weight}, similarity={self.similarity!r}, '
            f'tap={self.tap!r}'
        )
