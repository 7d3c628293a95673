"""Fixed confidence threshold."""

from __future__ import annotations

from typing import Annotated

from mmseg.registry import MODELS

from mmseg_semi.arguments import Number
from mmseg_semi.structures import PseudoLabel, SegOutputs, SemiStep

from .base_refiner import BaseRefiner


@MODELS.register_module()
class ConfidenceThreshold(BaseRefiner):
    """Keep the pixels whose largest class probability reaches a fixed threshold.

    FixMatch (Sohn et al., NeurIPS 2020, Eq. 4): ``selected = confidence >= threshold``.

    Args:
        threshold: In [0, 1]; 0 keeps every pixel. UniMatch uses 0.95 on VOC, 0 on Cityscapes.

    Raises:
        ValueError: The threshold is outside [0, 1].
    """

    stage = 'selection'

    def __init__(self, threshold: Annotated[float, Number(0, 1)] = 0.95) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, pseudo: PseudoLabel, outputs: SegOutputs, step: SemiStep) -> PseudoLabel:
        """Narrow ``selected``."""
        return pseudo.update(selected=pseudo.selected & (pseudo.confidence >= self.threshold))

    def extra_repr(self) -> str:
        """Show the threshold in the model's printout."""
        return f'threshold={self.threshold}'
