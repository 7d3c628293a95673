"""Quantiles of a score over the valid pixels of a batch."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from mmseg_semi.arguments import check_number


@torch.no_grad()
def quantile_threshold(score: Tensor, valid: Tensor, quantile: float) -> Tensor:
    """Score under which a given share of the valid pixels lies (S4MC's threshold).

    Exact, with linear interpolation between order statistics as numpy and ``torch.quantile``
    have it by default, but for any number of pixels (``torch.quantile`` takes 2^24). Found by
    one sort on the device; neither the maps nor their count are read back.

    Over several ranks: each packs its scores with ``pack_scores`` to one common size, gathers
    the packs of all ranks into ``scores`` and calls
    ``quantile_threshold(scores, ~scores.isnan(), quantile)``.

    Args:
        score: Floating point, any shape, e.g. (B, H, W).
        valid: Bool of the same shape; False is left out.
        quantile: Share in [0, 1]; 0 asks for the smallest score, 1 for the largest.

    Returns:
        0-dim threshold in float32 at least, without gradient: NaN when no pixel is valid or a
        valid score is NaN.

    Raises:
        ValueError: ``quantile`` is outside [0, 1], or the shapes differ.
    """
    check_number('quantile', quantile, 0, 1)
    _check_shapes(score, valid)
    score = score.to(torch.promote_types(score.dtype, torch.float32))
    if score.numel() == 0:
        return score.new_full((), float('nan'))
    # Invalid pixels go behind all valid ones but NaN, which sorts last and is propagated.
    ordered = score.masked_fill(~valid, float('inf')).flatten().sort().values
    count = valid.sum()
    last = (count - 1).clamp(min=0)
    position = last.double() * quantile
    below = position.floor().long()
    pair = ordered.gather(0, torch.stack([below, (below + 1).minimum(last)])).double()
    low, high = pair.unbind()
    share = position - below
    # Without a step to make there is none: 0 * inf is not 0.
    value = torch.where((share > 0) & (high > low), low + share * (high - low), low)
    nan = torch.full_like(value, float('nan'))
    return torch.where((count > 0) & ~ordered[-1].isnan(), value, nan).to(score.dtype)


@torch.no_grad()
def pack_scores(score: Tensor, valid: Tensor, size: Optional[int] = None) -> Tensor:
    """Put a rank's scores into one flat tensor that can be gathered from ranks.

    Args:
        score: Floating point, any shape, e.g. (B, H, W).
        valid: Bool of the same shape.
        size: Length of the result, the same on every rank: at least the largest number of
            pixels (valid or not) that a rank holds. Defaults to this one's number.

    Returns:
        Scores (size,) of the input's dtype; NaN stands for what is not valid or not there.

    Raises:
        ValueError: The shapes differ, or ``size`` is too small.
    """
    _check_shapes(score, valid)
    size = score.numel() if size is None else size
    if size < score.numel():
        raise ValueError(f'size must be at least the {score.numel()} pixels given, got {size}')
    packed = score.new_full((size,), float('nan'))
    packed[: score.numel()] = score.masked_fill(~valid, float('nan')).flatten()
    return packed


def _check_shapes(score: Tensor, valid: Tensor) -> None:
    if score.shape != valid.shape:
        raise ValueError(
            f'score {tuple(score.shape)} and valid {tuple(valid.shape)} must have one shape'
        )
