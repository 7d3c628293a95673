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
    have it by default, but for any number of pixels (``torch.quantile`` takes 2^24). Nothing is
    sorted, and neither the maps nor their count are read back from the device.

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
    count = valid.sum()
    last = (count - 1).clamp(min=0)
    position = last.double() * quantile
    below = position.floor().long()
    # Invalid pixels go behind all valid ones.
    pair = _order_statistics(score.masked_fill(~valid, float('inf')), below).double()
    low, high = pair[0], torch.where(below < last, pair[1], pair[0])
    share = position - below
    # Without a step to make there is none: 0 * inf is not 0.
    value = torch.where((share > 0) & (high > low), low + share * (high - low), low)
    nan = torch.full_like(value, float('nan'))
    return torch.where((count > 0) & ~(score.isnan() & valid).any(), value, nan).to(score.dtype)


def _order_statistics(values: Tensor, rank: Tensor) -> Tensor:
    """Value number ``rank`` (0-dim, from 0) in ascending order and the next one, (2,).

    Found bit by bit, from the number of values below a bound; ``values`` has no NaN to count on.
    """
    whole, bits = (torch.int64, 64) if values.dtype == torch.float64 else (torch.int32, 32)
    keys = values.flatten().view(whole)
    keys = torch.where(keys < 0, keys ^ torch.iinfo(whole).max, keys)  # in the order of values

    def at_least(bound: Tensor) -> Tensor:
        return torch.count_nonzero(keys < bound) <= rank

    found = keys.new_full((), torch.iinfo(whole).min)
    found = torch.where(at_least(found.new_zeros(())), 0, found)
    for bit in reversed(range(bits - 1)):
        bound = found | (1 << bit)
        found = torch.where(at_least(bound), bound, found)
    above = torch.where(keys > found, keys, torch.iinfo(whole).max).amin()
    repeated = torch.count_nonzero(keys <= found) > rank + 1
    both = torch.stack([found, torch.where(repeated, found, above)])
    return torch.where(both < 0, both ^ torch.iinfo(whole).max, both).view(values.dtype)


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
