"""Cross entropy against pseudo-labels."""

from __future__ import annotations

import torch
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.functional import weighted_cross_entropy
from mmseg_semi.functional.losses import DENOMINATORS
from mmseg_semi.models.component import check_choice
from mmseg_semi.structures import PseudoLabel, SegOutputs, SemiStep

from .base_semi_loss import BaseSemiLoss


@MODELS.register_module()
class PseudoLabelCrossEntropy(BaseSemiLoss):
    """Train a stream of unlabeled images with the selected pixels of its pseudo-label.

    FixMatch's unsupervised loss (Sohn et al., NeurIPS 2020, Eq. 4) per pixel. With several strong
    views it is the mean over them, so UniMatch's 1/4 + 1/4 of two views is one ``loss_weight``.

    Args:
        stream: ``'strong'`` or ``'perturbed'``.
        loss_weight: Factor of the loss.
        denominator: ``'valid'`` divides by the number of valid pixels (FixMatch, UniMatch),
            ``'selected'`` by that of the selected ones, ``'weight'`` by the sum of their weights.

    Raises:
        ValueError: An argument outside its allowed values.
    """

    def __init__(
        self, stream: str = 'strong', loss_weight: float = 1.0, denominator: str = 'valid'
    ) -> None:
        super().__init__(stream, loss_weight)
        check_choice('PseudoLabelCrossEntropy.denominator', denominator, DENOMINATORS)
        self.denominator = denominator

    def forward(self, step: SemiStep) -> dict[str, Tensor]:
        """Return ``dict(loss=...)``."""
        if self.stream == 'perturbed':
            losses = [self._loss(step.perturbed, step.pseudo)]
        else:
            losses = [self._loss(view.outputs, view.pseudo) for view in step.views]
        return dict(loss=self.loss_weight * torch.stack(losses).mean())

    def _loss(self, outputs: SegOutputs, pseudo: PseudoLabel) -> Tensor:
        return weighted_cross_entropy(
            outputs.logits,
            pseudo.label,
            pseudo.valid,
            pseudo.selected,
            pseudo.weight,
            self.denominator,
        )
