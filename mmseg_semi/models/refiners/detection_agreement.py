"""Pixels whose pseudo-label a detector confirms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_semi.arguments import check_choice, check_number, check_whole
from mmseg_semi.functional import box_agreement, selected_ratio
from mmseg_semi.models.component import last_head
from mmseg_semi.structures import DETECTIONS, PseudoLabel, SegOutputs, SemiStep

from .base_refiner import BaseRefiner


@MODELS.register_module()
class DetectionAgreement(BaseRefiner):
    """Mark pixels as reliable where a detected box of their class covers them.

    RPPI of Weighting Pseudo-Labels (ECCV 2024): a pixel is reliable when its pseudo-label has a
    kept box of that class over it and its confidence is above ``min_confidence``. Classes without
    boxes, such as the background, are never reliable. ``LoadDetections`` in the unlabeled part
    gives the boxes, and its ``score_thr`` decides which are kept.

    Args:
        min_confidence: Confidence above which a pixel can be reliable, in [0, 1].
        restrict: Whether the losses use pixels only that a box of their class covers, whatever
            their confidence. Off in the paper.
        exempt: Class numbers that ``restrict`` leaves alone, such as (0,) for a background that
            no detector finds.

    Raises:
        ValueError: An argument outside its values; in the first step, a batch without detections.
    """

    stage = 'reliability'
    reads_detections = True
    handles_more = True

    def __init__(
        self, min_confidence: float = 0.95, restrict: bool = False, exempt: Sequence[int] = ()
    ) -> None:
        super().__init__()
        check_number('DetectionAgreement.min_confidence', min_confidence, 0, 1)
        check_choice('DetectionAgreement.restrict', restrict, (True, False))
        if isinstance(exempt, (str, int)):
            raise ValueError(
                f'DetectionAgreement.exempt must be a list of class numbers, got {exempt!r}'
            )
        for one in exempt:
            check_whole('DetectionAgreement.exempt', one, 0)
        if exempt and not restrict:
            raise ValueError(
                f'DetectionAgreement.exempt={tuple(exempt)} has no effect without restrict=True'
            )
        self.min_confidence, self.restrict, self.exempt = min_confidence, restrict, tuple(exempt)
        self._ratio: Optional[Tensor] = None

    def attach(self, model: nn.Module) -> None:
        """Refuse classes that do not exist."""
        classes = last_head(model.segmentor).out_channels
        if any(one >= classes for one in self.exempt):
            raise ValueError(
                f'DetectionAgreement.exempt={self.exempt} has a class that the segmentor has not; '
                f'its classes are 0 to {classes - 1}'
            )

    def check_batch(self, step: SemiStep) -> None:
        """Refuse a batch without boxes."""
        if step.detections is None:
            raise ValueError(
                f'{self.config_key} (DetectionAgreement): the batch has no detections. Set '
                "detections=dict(type='LoadDetections', results=..., images=...) of "
                'train_dataloader.dataset.unlabeled, or take the refiner out by setting it to None'
            )

    def forward(self, pseudo: PseudoLabel, step: SemiStep) -> PseudoLabel:
        """Set ``reliable``, and narrow ``selected`` if asked to."""
        pseudo = self._refine(pseudo)
        self._ratio = selected_ratio(pseudo.reliable, pseudo.valid)
        return pseudo

    def refine_more(self, pseudo: PseudoLabel, outputs: SegOutputs) -> PseudoLabel:
        """Set ``reliable`` of any images, and narrow ``selected`` if asked to."""
        return self._refine(pseudo)

    def _refine(self, pseudo: PseudoLabel) -> PseudoLabel:
        agreed = box_agreement(pseudo.label, pseudo.extras[DETECTIONS]) & pseudo.valid
        reliable = agreed & (pseudo.confidence > self.min_confidence)
        if not self.restrict:
            return pseudo.update(reliable=reliable)
        kept = agreed
        for one in self.exempt:
            kept = kept | (pseudo.label == one)
        return pseudo.update(reliable=reliable, selected=pseudo.selected & kept)

    def log_values(self) -> dict[str, Tensor]:
        """Give the share of the valid pixels that are reliable."""
        return {} if self._ratio is None else dict(reliable=self._ratio)

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return (
            f'min_confidence={self.min_confidence}, restrict={self.restrict}, exempt={self.exempt}'
        )
