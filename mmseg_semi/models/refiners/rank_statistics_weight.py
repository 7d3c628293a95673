"""Weights of pseudo-labels by how their features fit their class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Optional

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import Feature, Number, OneOf, Whole
from mmseg_semi.functional import (
    at_least_float32,
    prototype_similarity,
    rank_statistics_overlap,
)
from mmseg_semi.models.component import last_head
from mmseg_semi.models.memories import FeatureMemoryBank, check_memory
from mmseg_semi.structures import PseudoLabel, SegOutputs, SemiStep, View

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
    A class without prototype weighs 1.

    Args:
        k: Channels that are compared, at most those of the features.
        base_weight: Added to the weight of classes with a prototype: :math:`b + s / k`. The paper
            has 0; the authors' program 1, with ``denominator='valid_weight'`` of the losses.
        similarity: ``'rank'``, or ``'cosine'`` for the cosine of features and prototype, 0 when
            negative (ablation).
        tap: The features: ``'penultimate'``, the input of the classifier (the paper), or the path
            of a module of the segmentor.
        in_channels: Channels of the features; found for the named ones.
        upsample: Whether features are enlarged to the images (bilinear) before the top channels
            are found and before the bank draws from them, as in the authors' program: up to
            C x H x W numbers an image. Else a pixel has the features of its nearest grid cell.
        after_mixing: Whether the streams of unlabeled images that losses read are weighed after
            all passes, by their own labels, instead of the weak images before they are mixed. The
            features are the same: those of the network that labels, and inside the mixer's boxes
            those that labeled the partner. Pixels of labeled or loaded images weigh 1 then.
        bank: ``dict(size=256, num_push=None, min_confidence=0.95, ...)``, arguments of
            ``FeatureMemoryBank``; its ``push='before'`` needs ``after_mixing=True``.

    Raises:
        ValueError, TypeError: An argument outside its values, or one that does not exist.
    """

    stage = 'weighting'
    sources = ('weak', 'strong')
    hooks = (dict(type='MemoryBankHook'),)
    bank_type = FeatureMemoryBank

    def __init__(
        self,
        k: Annotated[int, Whole(1)] = 5,
        base_weight: Annotated[float, Number(0)] = 0.0,
        similarity: Annotated[str, OneOf(*SIMILARITIES)] = 'rank',
        tap: Annotated[str, Feature()] = 'penultimate',
        in_channels: Annotated[Optional[int], Whole(1)] = None,
        upsample: bool = False,
        after_mixing: bool = False,
        bank: Optional[dict[str, Any]] = None,
    ) -> None:
        super().__init__()
        self.k, self.base_weight, self.similarity = k, base_weight, similarity
        self.tap, self.taps, self.in_channels = tap, (tap,), in_channels
        self.upsample, self.after_mixing = upsample, after_mixing
        self._bank_cfg = check_memory('RankStatisticsWeight.bank', self.bank_type, bank)
        if self._bank_cfg.get('push') == 'before' and not after_mixing:
            raise ValueError(
                "RankStatisticsWeight.bank: push='before' needs the outputs of the step's passes, "
                'which are there when the mixed views are weighed: set after_mixing=True'
            )
        self._strong: list[str] = []

    def attach(self, model: SemiSegmentor) -> None:
        """Build the bank, whose size follows the segmentor."""
        head = last_head(model.segmentor)
        channels = self.tapped_channels(head, self.tap, self.in_channels)
        if self.k > channels:
            raise ValueError(
                f'RankStatisticsWeight.k={self.k} is more than the {channels} channels of the '
                f"features '{self.tap}': set k lower, or another tap"
            )
        self.bank = self.bank_type(head.out_channels, channels, **self._bank_cfg)
        streams = model.streams.values()
        self._strong = [one.name for one in streams if one.images == 'strong' and one.trains]

    def forward(self, pseudo: PseudoLabel, outputs: SegOutputs, step: SemiStep) -> PseudoLabel:
        """Set ``weight``, or multiply the one that is there."""
        return self._weighed(pseudo, self.weigh(outputs.features[self.tap], pseudo.label, outputs))

    def refine_view(self, view: View, step: SemiStep) -> PseudoLabel:
        """Set ``weight`` of a view, or multiply the one that is there."""
        step.once((self, 'noted'), lambda: self._note(step))
        label, outputs, mix = view.pseudo.label, step.teacher, view.mix
        weight = self.weigh(outputs.features[self.tap], label, outputs, step)
        if mix is not None:
            given = mix.outputs or outputs
            partners = given.features[self.tap][mix.partners]
            weight = torch.where(mix.mask, self.weigh(partners, label, given, step), weight)
            if mix.foreign is not None:
                weight = torch.where(mix.foreign, 1.0, weight)
        return self._weighed(view.pseudo, weight)

    def _weighed(self, pseudo: PseudoLabel, weight: Tensor) -> PseudoLabel:
        return pseudo.update(weight=weight if pseudo.weight is None else pseudo.weight * weight)

    def observe(self, step: SemiStep) -> None:
        """Note what enters the bank; log the mean weight and the number of prototypes."""
        views = self._views(step) if self.after_mixing else []
        several = [view.pseudo for view in views] or [step.refined[self.name]]
        weights = [one.weight * one.used for one in several if one.weight is not None]
        used = torch.stack([one.used.sum() for one in several]).sum().clamp(min=1)
        step.log(f'{self.name}.mean', torch.stack([one.sum() for one in weights]).sum() / used)
        step.log(f'{self.name}.prototypes', self.bank.prototypes()[1].sum())
        step.once((self, 'noted'), lambda: self._note(step))

    def _views(self, step: SemiStep) -> list[View]:
        return [view for name in self._strong for view in step.streams[name]]

    def _note(self, step: SemiStep) -> bool:
        self.bank.note(step, self.tap, self._views(step), self.upsample)
        return True

    @torch.no_grad()
    def weigh(
        self,
        features: Tensor,
        label: Tensor,
        outputs: Optional[SegOutputs] = None,
        step: Optional[SemiStep] = None,
    ) -> Tensor:
        """Return the weights (B, H, W) of labels (B, H, W) with features (B, C, h, w).

        Args:
            features: Of these images.
            label: Their labels.
            outputs: Which the features are of; with ``upsample`` it says how they are enlarged.
            step: The step by which ``push='before'`` has moved the bank; None for the iterations
                before.
        """
        prototypes, known = self.bank.prototypes(step)
        if not self.upsample:
            weight = self._compare(features, label, prototypes, known)
        else:
            corners = outputs is not None and outputs.align_corners
            size = tuple(label.shape[-2:])
            weight = torch.cat(
                [
                    self._compare(
                        F.interpolate(one, size=size, mode='bilinear', align_corners=corners),
                        its_label,
                        prototypes,
                        known,
                    )
                    for one, its_label in zip(features.split(1), label.split(1))
                ]
            )
        return weight + (self.base_weight * known)[label] if self.base_weight else weight

    def _compare(
        self, features: Tensor, label: Tensor, prototypes: Tensor, known: Tensor
    ) -> Tensor:
        if self.similarity == 'cosine':
            return prototype_similarity(features, label, prototypes, known).clamp(min=0)
        overlap = rank_statistics_overlap(features, label, prototypes, known, self.k)
        return overlap.to(at_least_float32(features[:0]).dtype) / self.k

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return (
            f'k={self.k}, base_weight={self.base_weight}, similarity={self.similarity!r}, '
            f'tap={self.tap!r}, upsample={self.upsample}, after_mixing={self.after_mixing}'
        )
