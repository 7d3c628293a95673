"""CSL's and CoVar's weights: pixels against the reliable ones of their image."""

from __future__ import annotations

from typing import Annotated, Any

from mmseg.registry import MODELS

from mmseg_semi.arguments import Number
from mmseg_semi.functional import separation_weight
from mmseg_semi.structures import PseudoLabel, SegOutputs, SemiStep

from .base_refiner import BaseRefiner


@MODELS.register_module()
class SeparationWeight(BaseRefiner):
    """Weigh each pixel by confidence and by how unequal its other classes are, without threshold.

    CSL (Liu and Liu, ICCV 2025) and CoVar (Liu et al., arXiv 2601.11670): in each image the pixels
    fall into two groups, and weigh the less the further they are from the reliable one
    (``functional.separation_weight``). It takes the place of a threshold:
    ``refiners=dict(select=None, separate=dict(type='SeparationWeight'))``.

    Args:
        variance_weight: What the residual variance counts against the confidence where the
            reliable group is chosen.
        alpha: How slowly the weight falls outside that group: 8 in CoVar's program, 2 in CSL's.

    Raises:
        ValueError: An argument outside its values.
    """

    stage = 'weighting'

    def __init__(
        self,
        variance_weight: Annotated[float, Number(0)] = 0.25,
        alpha: Annotated[float, Number(0, above=True)] = 8.0,
    ) -> None:
        super().__init__()
        self.variance_weight, self.alpha = variance_weight, alpha

    def forward(self, pseudo: PseudoLabel, outputs: SegOutputs, step: SemiStep) -> PseudoLabel:
        """Set ``weight``, or multiply the one that is there."""
        weight = separation_weight(pseudo.prob, pseudo.valid, self.variance_weight, self.alpha)
        return pseudo.update(weight=weight if pseudo.weight is None else pseudo.weight * weight)

    def observe(self, step: SemiStep) -> None:
        """Log the mean weight of the valid pixels."""
        weight: Any = step.refined[self.name].weight
        valid = step.pseudo.valid
        step.log(f'{self.name}.mean', (weight * valid).sum() / valid.sum().clamp(min=1))

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return f'variance_weight={self.variance_weight}, alpha={self.alpha}'
