"""Per-pixel maps at the resolution of features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .losses import at_least_float32


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


def bilinear_at(
    features: Tensor, index: Tensor, size: Sequence[int], align_corners: bool
) -> Tensor:
    """Read features at pixels of the images, as if they were enlarged to the images' size.

    Args:
        features: (B, C, h, w).
        index: int64 (N,), places in the flattened pixels (B, H, W).
        size: ``(H, W)``.
        align_corners: As in bilinear ``interpolate``.

    Returns:
        (N, C) of the features' dtype.
    """
    height, width = size
    fine = at_least_float32(features)  # half precision would round the places
    place = []
    for value, length in ((index % width, width), (index // width % height, height)):
        value = value.to(fine.dtype)
        relative = value / max(length - 1, 1) if align_corners else (value + 0.5) / length
        place.append(2 * relative - 1)
    grid = torch.stack(place, dim=-1)[None, :, None].expand(len(features), -1, -1, -1)
    read = F.grid_sample(fine, grid, padding_mode='border', align_corners=align_corners)
    read = read[index // (height * width), :, torch.arange(len(index), device=index.device), 0]
    return read.to(features.dtype)


def grid_stride(pixels: int, cells: int) -> int:
    """Pixels between the positions of a grid whose outer ones lie on the outer pixels.

    0 where the others lie between pixels.
    """
    if cells < 2 or (pixels - 1) % (cells - 1):
        return 0
    return (pixels - 1) // (cells - 1)
