"""Consistency with the whole class distribution of the weak view."""

from __future__ import annotations

import torch
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import check_choice
from mmseg_semi.functional import soft_consistency
from mmseg_semi.functional.losses import CONSISTENCY_KINDS, DENOMINATORS
from mmseg_semi.models.refiners.region_propagation import BEFORE_PROPAGATION
from mmseg_semi.structures import PseudoLabel, SegOutputs, SemiStep

from .base_semi_loss import BaseSemiLoss


@MODELS.register_module()
class SoftConsistencyLoss(BaseSemiLoss):
    r"""Pull a stream towards the teacher's class distribution of the same (mixed) pixels.

    CorrMatch's :math:`L_u^s` (Sun et al., CVPR 2024): :math:`KL(p_w || p_s)` within the mask
    before region propagation. The target is the softmax of the teacher's logits, mixed with the
    view's own boxes; refined probabilities do not enter.

    Args:
        stream: ``'strong'`` (the mean over the views) or ``'perturbed'``.
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
        kind: str = 'kl',
        denominator: str = 'valid',
        before_propagation: bool = True,
    ) -> None:
        super().__init__(stream, loss_weight)
        check_choice('SoftConsistencyLoss.kind', kind, CONSISTENCY_KINDS)
        check_choice('SoftConsistencyLoss.denominator', denominator, DENOMINATORS)
        check_choice('SoftConsistencyLoss.before_propagation', before_propagation, (True, False))
        self.kind, self.denominator = kind, denominator
        self.before_propagation = before_propagation

    def forward(self, step: SemiStep) -> dict[str, Tensor]:
        """Return ``dict(loss=...)``."""
        if self.stream == 'perturbed':
            losses = [self._loss(step.perturbed, step.pseudo)]
        else:
            losses = [self._loss(view.outputs, view.pseudo) for view in step.views]
        return dict(loss=self.loss_weight * torch.stack(losses).mean())

    def _loss(self, outputs: SegOutputs, pseudo: PseudoLabel) -> Tensor:
        selected = pseudo.selected
        if self.before_propagation:
            selected = pseudo.extras.get(BEFORE_PROPAGATION, selected)
        return soft_consistency(
            outputs.logits,
            pseudo.logits,
            pseudo.valid,
            selected,
            pseudo.weight,
            kind=self.kind,
            denominator=self.denominator,
        )
