"""How well the features of a pixel fit the prototype of its class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_semi.arguments import check_shapes

from .losses import at_least_float32


def top_channels(values: Tensor, k: int) -> Tensor:
    """Find the k largest channels; of equal values the lower channel comes first.

    Args:
        values: (N, C, *), finite.
        k: 1 to C.

    Returns:
        int64 (N, k, *), the largest channel first.

    Raises:
        ValueError: ``k`` is not in 1..C.
    """
    if not 1 <= k <= values.shape[1]:
        raise ValueError(f'k must be 1 to {values.shape[1]}, the number of channels; got {k}')
    # k rounds of max: topk breaks ties as it likes, and a whole sort takes several times as long.
    dtype = torch.promote_types(values.dtype, torch.float32)
    rest, found = values.detach().to(dtype, copy=True), []
    for _ in range(k):
        found.append(rest.max(dim=1, keepdim=True)[1])  # the first of equals
        rest.scatter_(1, found[-1], float('-inf'))
    return torch.cat(found, dim=1)


@torch.no_grad()
def rank_statistics_overlap(
    features: Tensor, label: Tensor, prototypes: Tensor, has_prototype: Tensor, k: int = 5
) -> Tensor:
    r"""Count the channels that are among the top k both of a pixel and of its class's prototype.

    :math:`s(x) = |top_k(f(x)) \\cap top_k(\\bar f_{label(x)})|` of Weighting Pseudo-Labels (ECCV
    2024). Channels are compared by value, and of equal values the lower channel comes first. A
    pixel is compared with the feature that nearest upsampling would give it; features are never
    upsampled. No gradient.

    Args:
        features: (B, C, h, w), finite, as fine as the labels or coarser.
        label: int64 (B, H, W). Labels outside 0..K-1 (255) count as classes without prototype.
        prototypes: (K, C).
        has_prototype: Bool (K,).
        k: 1 to C.

    Returns:
        int64 (B, H, W), 0 to k; k where the class has no prototype.

    Raises:
        ValueError: Shapes do not fit each other, or ``k`` is not in 1..C.
    """
    _check(features, label, prototypes, has_prototype)
    classes, channels = prototypes.shape
    tops = top_channels(features, k)  # (B, k, h, w)
    table = torch.zeros(channels, classes, device=features.device)
    table.scatter_(0, top_channels(prototypes, k).t(), 1.0)
    shared = F.embedding_bag(tops.permute(0, 2, 3, 1).reshape(-1, k), table, mode='sum')
    shared = shared.view(*_grid(features), classes)
    return _of_label(shared, label, has_prototype, k).long()


@torch.no_grad()
def prototype_similarity(
    features: Tensor, label: Tensor, prototypes: Tensor, has_prototype: Tensor
) -> Tensor:
    """Cosine of each pixel's features and the prototype of its class.

    The ablation of :func:`rank_statistics_overlap`, with the same arguments.

    Returns:
        float32 (B, H, W), -1 to 1; 1 where the class has no prototype.

    Raises:
        ValueError: Shapes do not fit each other.
    """
    _check(features, label, prototypes, has_prototype)
    features = F.normalize(at_least_float32(features.detach()), dim=1)
    prototypes = F.normalize(prototypes.to(features.dtype), dim=1)
    with torch.autocast(features.device.type, enabled=False):
        cosine = torch.einsum('bchw,kc->bhwk', features, prototypes)
    return _of_label(cosine.contiguous(), label, has_prototype, 1)


def _check(features: Tensor, label: Tensor, prototypes: Tensor, has_prototype: Tensor) -> None:
    check_shapes(
        features=(features, 'B C h w'), label=(label, 'B H W'), prototypes=(prototypes, 'K C')
    )
    if any(small > large for small, large in zip(features.shape[-2:], label.shape[-2:])):
        raise ValueError(
            f'features {tuple(features.shape)} must not be finer than the label '
            f'{tuple(label.shape)}'
        )
    if has_prototype.shape != prototypes.shape[:1] or has_prototype.dtype != torch.bool:
        raise ValueError(
            f'has_prototype must be bool ({prototypes.shape[0]},), got {has_prototype.dtype} '
            f'{tuple(has_prototype.shape)}'
        )


def _grid(features: Tensor) -> tuple[int, int, int]:
    return features.shape[0], features.shape[2], features.shape[3]


def nearest_index(size: int, grid: int, device: torch.device) -> Tensor:
    """int64 (size,): the cell of a coarser grid that nearest upsampling takes for each pixel."""
    cells = torch.arange(grid, device=device, dtype=torch.float32)
    return F.interpolate(cells[None, None], size=size, mode='nearest')[0, 0].long()


def _of_label(values: Tensor, label: Tensor, has_prototype: Tensor, default: float) -> Tensor:
    """Read values (B, h, w, K) at each pixel's nearest cell and class; (B, H, W)."""
    batch, height, width, classes = values.shape
    known = (label >= 0) & (label < classes)
    label = torch.where(known, label, 0)
    known &= has_prototype[label]
    rows = nearest_index(label.shape[1], height, label.device)
    columns = nearest_index(label.shape[2], width, label.device)
    images = torch.arange(batch, device=label.device)[:, None, None]
    cell = (images * height + rows[:, None]) * width + columns
    return torch.where(known, values.view(-1)[cell * classes + label], default)
