"""Pixels whose pseudo-label a detector confirms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from mmseg.registry import MODELS

from mmseg_semi.arguments import Each, Number, Whole
from mmseg_semi.functional import box_agreement, selected_ratio
from mmseg_semi.models.component import last_head
from mmseg_semi.structures import PseudoLabel, SegOutputs, SemiStep

from .base_refiner import BaseRefiner

if TYPE_CHECKING:
    from mmseg_semi.models.segmentors import SemiSegmentor


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
    reads_maps = ('detections',)

    def __init__(
        self,
        min_confidence: Annotated[float, Number(0, 1)] = 0.95,
        restrict: bool = False,
        exempt: Annotated[Sequence[int], Each(Whole(0))] = (),
    ) -> None:
        super().__init__()
        if exempt and not restrict:
            raise ValueError(
                f'DetectionAgreement.exempt={tuple(exempt)} has no effect: set restrict=True, or '
                'remove exempt'
            )
        self.min_confidence, self.restrict, self.exempt = min_confidence, restrict, tuple(exempt)

    def attach(self, model: SemiSegmentor) -> None:
        """Refuse classes that do not exist."""
        classes = last_head(model.segmentor).out_channels
        if any(one >= classes for one in self.exempt):
            raise ValueError(
                f'DetectionAgreement.exempt={self.exempt} has a class that the segmentor has not; '
                f'its classes are 0 to {classes - 1}'
            )

    def forward(self, pseudo: PseudoLabel, outputs: SegOutputs, step: SemiStep) -> PseudoLabel:
        """Set ``reliable``, and narrow ``selected`` if asked to."""
        agreed = box_agreement(pseudo.label, pseudo.extras['detections']) & pseudo.valid
        reliable = agreed & (pseudo.confidence > self.min_confidence)
        if not self.restrict:
            return pseudo.update(reliable=reliable)
        kept = agreed
        for one in self.exempt:
            kept = kept | (pseudo.label == one)
        return pseudo.update(reliable=reliable, selected=pseudo.selected & kept)

    def observe(self, step: SemiStep) -> None:
        """Log the share of the valid pixels that are reliable."""
        pseudo = step.refined[self.name]
        assert pseudo.reliable is not None  # forward has set it
        step.log(f'{self.name}.reliable', selected_ratio(pseudo.reliable, pseudo.valid))

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return (
            f'min_confidence={self.min_confidence}, restrict={self.restrict}, exempt={self.exempt}'
        )
