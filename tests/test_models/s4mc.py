"""S4MC's components, and the scores that they compare."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor, nn

from mmseg_semi.structures import PseudoLabel, SemiStep

from .helpers import hooked, make_step

CONTEXT = dict(type='NeighborhoodRefiner', window=3)


QUANTILE = dict(type='QuantileThreshold', score='margin', alpha=0.4)


S4MC = dict(context=CONTEXT, select=QUANTILE)


def pseudo_of(logits: Tensor, valid: Optional[Tensor] = None) -> PseudoLabel:
    """The pseudo-label of logits (B, K, H, W)."""
    batch, _, height, width = logits.shape
    valid = torch.ones(batch, height, width, dtype=torch.bool) if valid is None else valid
    return PseudoLabel.from_logits(logits, valid)


def at(raw: PseudoLabel, iteration: int = 0, max_iters: int = 10) -> SemiStep:
    """A step of a run whose teacher said this."""
    return make_step(raw, iteration=iteration, max_iters=max_iters)


def margin(scores: Tensor) -> Tensor:
    """Largest minus second largest score (B, H, W)."""
    first, second = scores.topk(2, dim=1).values.unbind(dim=1)
    return first - second


def third_of_ten(model: nn.Module) -> Any:
    """The model as its hooks and SemiTrainLoop leave it at the third of ten iterations."""
    model = hooked(model)
    model.set_progress(2, 10)
    return model.train()
