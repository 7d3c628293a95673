"""Consistency with the whole class distribution of the weak view."""

from __future__ import annotations

from typing import Annotated, Optional

from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import OneOf
from mmseg_semi.functional import soft_consistency
from mmseg_semi.functional.losses import CONSISTENCY_KINDS, DENOMINATORS
from mmseg_semi.models.refiners.region_propagation import BEFORE_PROPAGATION
from mmseg_semi.structures import View

from .base_semi_loss import BaseSemiLoss


@MODELS.register_module()
class SoftConsistencyLoss(BaseSemiLoss):
    r"""Pull a stream towards the teacher's class distribution of the same (mixed) pixels.

    CorrMatch's :math:`L_u^s` (Sun et al., CVPR 2024): :math:`KL(p_w || p_s)` within the mask
    before region propagation. The target is the softmax of the teacher's logits, mixed with the
    view's own boxes; refined probabilities do not enter.

    Args:
        stream: Name of the stream; the loss is the mean over its views.
        loss_weight: Factor of the loss.
        kind: ``'kl'``, ``'cross_entropy'`` (soft, without the target's entropy) or ``'cosine'``
            (1 - cosine of the two distributions); the last two are the paper's ablations.
        denominator: As in ``PseudoLabelCrossEntropy``.
        before_propagation: Whether the pixels are those selected before region propagation;
            False takes those after it. Without a ``RegionPropagation`` both are the same.

    Raises:
        ValueError: An argument outside its values.
    """

    pseudo_fields = ('logits',)

    def __init__(
        self,
        stream: str = 'strong',
        loss_weight: float = 1.0,
        kind: Annotated[str, OneOf(*CONSISTENCY_KINDS)] = 'kl',
        denominator: Annotated[str, OneOf(*DENOMINATORS)] = 'valid',
        before_propagation: bool = True,
    ) -> None:
        super().__init__(stream, loss_weight)
        self.kind, self.denominator = kind, denominator
        self.before_propagation = before_propagation

    def pixels(self, view: View) -> tuple[Tensor, Optional[Tensor]]:
        """Return the pixels selected before propagation or after it, and their weights."""
        selected = view.pseudo.selected
        if self.before_propagation:
            selected = view.pseudo.extras.get(BEFORE_PROPAGATION, selected)
        return selected, view.pseudo.weight

    def forward(self, view: View) -> Tensor:
        """Return the 0-dim loss of one view."""
        pseudo = view.pseudo
        selected, weight = self.pixels(view)
        return soft_consistency(
            view.outputs.logits,
            pseudo.logits,
            pseudo.valid,
            selected,
            weight,
            kind=self.kind,
            denominator=self.denominator,
        )
