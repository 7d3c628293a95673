"""Faults of mmsegmentation that a user of this package would meet."""

from __future__ import annotations

from typing import Any

import torch
from mmseg.models.losses import cross_entropy_loss


def let_class_weights_meet_unknown_pixels() -> None:
    """Let mmseg's weighted cross entropy take masks with unknown pixels (``ignore_index``).

    mmseg 1.2.2 looks the weight of every pixel up by its class, also of those without one, and ends
    with an IndexError (on a GPU with a device-side assertion). Here unknown pixels weigh nothing:
    the loss is the mean over known pixels, weighted by the weights of their classes.
    """
    plain = cross_entropy_loss.cross_entropy
    if getattr(plain, 'knows_unknown_pixels', False):
        return

    def cross_entropy(
        pred: torch.Tensor,
        label: torch.Tensor,
        weight: Any = None,
        class_weight: torch.Tensor | None = None,
        reduction: str = 'mean',
        avg_factor: Any = None,
        ignore_index: int = -100,
        avg_non_ignore: bool = False,
    ) -> torch.Tensor:
        if class_weight is not None and avg_factor is None and reduction == 'mean':
            known = label != ignore_index
            weights = class_weight[torch.where(known, label, 0)]
            avg_factor = (weights * known).sum()
        return plain(
            pred,
            label,
            weight=weight,
            class_weight=class_weight,
            reduction=reduction,
            avg_factor=avg_factor,
            ignore_index=ignore_index,
            avg_non_ignore=avg_non_ignore,
        )

    cross_entropy.knows_unknown_pixels = True  # type: ignore[attr-defined]
    cross_entropy_loss.cross_entropy = cross_entropy
