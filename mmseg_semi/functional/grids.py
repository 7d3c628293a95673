"""Per-pixel maps at the resolution of features."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def to_grid(tensor: Tensor, grid: Sequence[int]) -> Tensor:
    """Bring a map to the features' resolution: each cell takes its nearest pixel.

    Args:
        tensor: (B, H, W) or (B, C, H, W), of any dtype; whole numbers below 2^24.
        grid: Height and width of the features.

    Returns:
        The map of the same dtype, (B, h, w) or (B, C, h, w).
    """
    if tuple(tensor.shape[-2:]) == tuple(grid):
        return tensor
    if tensor.dim() == 3:
        return to_grid(tensor[:, None], grid)[:, 0]
    # interpolate takes no integers; float32 holds these exactly.
    values = tensor if tensor.is_floating_point() else tensor.float()
    return F.interpolate(values, size=tuple(grid), mode='nearest').to(tensor.dtype)
