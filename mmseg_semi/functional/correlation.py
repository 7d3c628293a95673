"""CorrMatch's correlation map: pixel propagation and shapes, without the map where it is large."""

from __future__ import annotations

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

SAMPLING_STRATEGIES = ('random', 'uniform')
# Elements of the correlation map that exist at once: 2 MiB (fits a cache) and 128 MiB in float32.
_MAX_ELEMENTS = {'cpu': 2**19, 'cuda': 2**25}


def _check_maps(w1: Tensor, w2: Tensor) -> None:
    if w1.dim() != 4 or w1.shape != w2.shape:
        raise ValueError(
            f'w1 and w2 must have the same shape (B, D, h, w), got {tuple(w1.shape)} and '
            f'{tuple(w2.shape)}'
        )


def _full(tensor: Tensor) -> Tensor:
    """At least float32: scores of half precision overflow, and so do sums over positions."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def correlation_map(w1: Tensor, w2: Tensor) -> Tensor:
    r"""Compute the whole correlation map.

    CorrMatch (Sun et al., CVPR 2024): :math:`C = softmax_{rows}(w_1^T w_2 / \sqrt{D})`. The paper
    prints the division outside the softmax; inside is what its results were made with.

    Args:
        w1: Row features (B, D, h, w).
        w2: Column features (B, D, h, w).

    Returns:
        (B, hw, hw), at least float32; entry ``[b, i, j]`` tells how much position i belongs to
        position j, and rows sum to 1. Takes hw x hw memory; ``propagate_pixels`` and
        ``sample_shapes`` do not.

    Raises:
        ValueError: The shapes differ.
    """
    _check_maps(w1, w2)
    with torch.autocast(w1.device.type, enabled=False):
        rows, columns = _full(w1).flatten(2), _full(w2).flatten(2)
        return _softmax_rows(rows.transpose(1, 2), columns)


def _softmax_rows(rows: Tensor, columns: Tensor) -> Tensor:
    """Rows (B, n, D) of the map over all columns (B, D, hw): (B, n, hw)."""
    return torch.bmm(rows * rows.shape[-1] ** -0.5, columns).softmax(dim=-1)


class _PropagatePixels(torch.autograd.Function):
    """z = logits . C in chunks of rows; the backward pass makes each chunk again.

    C's rows are normalized over the columns, so a chunk of whole rows is normalized by itself.
    When one chunk holds everything, it is kept instead.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, w1: Tensor, w2: Tensor, rows: int) -> Tensor:
        """Arguments: (B, K, n), (B, D, n), (B, D, n), rows in a chunk. Returns (B, K, n)."""
        out = torch.zeros_like(logits)
        weights = None
        for start in range(0, w1.shape[-1], rows):
            part = slice(start, start + rows)
            weights = _softmax_rows(w1[..., part].transpose(1, 2), w2)
            out.baddbmm_(logits[..., part], weights)
        ctx.rows = rows
        ctx.save_for_backward(logits, w1, w2, weights if rows >= w1.shape[-1] else None)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Optional[Tensor], ...]:
        """Gradients of the three tensors."""
        with torch.autocast(grad.device.type, enabled=False):  # the caller's may be on
            return _PropagatePixels._gradients(ctx, grad)

    @staticmethod
    def _gradients(ctx: Any, grad: Tensor) -> tuple[Optional[Tensor], ...]:
        logits, w1, w2, kept = ctx.saved_tensors
        scale = w1.shape[1] ** -0.5
        need_logits, need_w1, need_w2, _ = ctx.needs_input_grad
        grad_logits = torch.empty_like(logits) if need_logits else None
        grad_w1 = torch.empty_like(w1) if need_w1 else None
        grad_w2 = torch.zeros_like(w2) if need_w2 else None
        columns = grad.transpose(1, 2)
        for start in range(0, w1.shape[-1], ctx.rows):
            part = slice(start, start + ctx.rows)
            weights = kept
            if weights is None:
                weights = _softmax_rows(w1[..., part].transpose(1, 2), w2)
            back = torch.bmm(weights, columns).transpose(1, 2)  # (B, K, rows)
            if need_logits:
                grad_logits[..., part] = back
            if not (need_w1 or need_w2):
                continue
            # Softmax: dS = C * (dC - sum_j C dC), and that sum is logits . back.
            mean = (logits[..., part] * back).sum(dim=1).unsqueeze(-1)
            scores = torch.bmm(logits[..., part].transpose(1, 2), grad)
            scores.sub_(mean).mul_(weights).mul_(scale)
            if need_w1:
                grad_w1[..., part] = torch.bmm(w2, scores.transpose(1, 2))
            if need_w2:
                grad_w2.baddbmm_(w1[..., part], scores)
        return grad_logits, grad_w1, grad_w2, None


def propagate_pixels(
    logits: Tensor, w1: Tensor, w2: Tensor, max_elements: Optional[int] = None
) -> Tensor:
    r"""Let every position take the logits of the positions that correlate with it.

    CorrMatch's pixel propagation (Sun et al., CVPR 2024): :math:`z_{kj} = \sum_i logits_{ki}
    C_{ij}` with the C of :func:`correlation_map`. At most ``max_elements`` of C exist at once, in
    the backward pass too, so memory grows with hw.

    Args:
        logits: (B, K, h, w), already at the resolution of the features.
        w1: Row features (B, D, h, w).
        w2: Column features (B, D, h, w).
        max_elements: Elements of the map (over the batch) to hold at once. Defaults to 2^19 on
            CPUs and 2^25 elsewhere.

    Returns:
        (B, K, h, w), float32 at least, whatever autocast says.

    Raises:
        ValueError: Batch or grid differ, or ``max_elements`` is not positive.
    """
    _check_maps(w1, w2)
    if logits.dim() != 4 or logits.shape[0] != w1.shape[0] or logits.shape[-2:] != w1.shape[-2:]:
        raise ValueError(
            f'logits {tuple(logits.shape)} must be (B, K, h, w) with the batch and grid of w1 '
            f'{tuple(w1.shape)}; resize them first'
        )
    if max_elements is None:
        max_elements = _MAX_ELEMENTS.get(w1.device.type, 2**25)
    if max_elements < 1:
        raise ValueError(f'max_elements must be at least 1, got {max_elements}')
    batch, _, height, width = w1.shape
    rows = max(1, max_elements // (batch * height * width))
    with torch.autocast(w1.device.type, enabled=False):
        parts = [_full(tensor).flatten(2) for tensor in (logits, w1, w2)]
        double = any(part.dtype == torch.float64 for part in parts)
        parts = [part.double() if double else part for part in parts]
        out = _PropagatePixels.apply(*parts, rows)
    return out.unflatten(2, (height, width))


def _grid_rows(num: int, height: int, width: int) -> Tensor:
    """``num`` positions of a regular grid over h x w, spread evenly when the grid has more."""
    down = max(1, min(height, round((num * height / width) ** 0.5)))
    across = -(-num // down)
    if across > width and num <= height * width:  # a narrow grid: spread over all positions
        return ((torch.arange(num) + 0.5) * height * width / num).long()
    y = ((torch.arange(down) + 0.5) * height / down).long()
    x = ((torch.arange(across) + 0.5) * width / across).long()
    cells = (y[:, None] * width + x[None, :]).flatten()
    return cells[(torch.arange(num) * len(cells)) // num]


@torch.no_grad()
def sample_shapes(
    w1: Tensor,
    w2: Tensor,
    num: int,
    size: tuple[int, int],
    strategy: str = 'random',
    generator: Optional[torch.Generator] = None,
    align_corners: bool = False,
) -> Tensor:
    """Turn some rows of the correlation map into binary shapes.

    CorrMatch's region propagation (Sun et al., CVPR 2024): a row is resized to the image, scaled
    to [0, 1] by its minimum and maximum, and its part above 0.5 is the shape. Only the sampled
    rows are computed.

    Args:
        w1: Row features (B, D, h, w).
        w2: Column features (B, D, h, w).
        num: Shapes of each image, at least 1.
        size: Height and width ``(H, W)`` of the shapes in pixels.
        strategy: ``'random'`` draws positions for each image, without repetition while ``num <=
            hw``; ``'uniform'`` takes the cell centers of a regular grid.
        generator: Source of randomness, on its own device. Defaults to the global one of ``w1``'s
            device.
        align_corners: As in bilinear ``interpolate``; the segmentor's own.

    Returns:
        Bool (B, num, H, W) in the order sampled. A row that is the same everywhere gives an empty
        shape.

    Raises:
        ValueError: The maps' shapes differ, ``num`` or ``size`` is not positive, or the strategy
            is unknown.
    """
    _check_maps(w1, w2)
    if num < 1:
        raise ValueError(f'num must be at least 1, got {num}')
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f'size must be a positive (H, W), got {tuple(size)}')
    batch, _, height, width = w1.shape
    positions = height * width
    if strategy == 'random':
        source = generator.device if generator is not None else w1.device
        rounds = -(-num // positions)
        draws = torch.rand(batch, rounds, positions, generator=generator, device=source)
        index = draws.argsort(dim=-1).flatten(1)[:, :num].to(w1.device)
    elif strategy == 'uniform':
        index = _grid_rows(num, height, width).to(w1.device, non_blocking=True).expand(batch, num)
    else:
        raise ValueError(f'strategy must be one of {SAMPLING_STRATEGIES}, got {strategy!r}')
    with torch.autocast(w1.device.type, enabled=False):
        columns = _full(w2).flatten(2)
        rows = _full(w1).flatten(2).transpose(1, 2)
        rows = rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))
        maps = _softmax_rows(rows, columns).unflatten(2, (height, width))
        shapes = torch.empty(batch, num, *size, dtype=torch.bool, device=w1.device)
        # An image at a time bounds the memory of the resized maps.
        for image in range(batch):
            shapes[image] = _binarize(maps[image : image + 1], size, align_corners)[0]
    return shapes


def _binarize(maps: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Resize maps (B, n, h, w) and keep what lies above the middle of each map's range."""
    least, most = torch.aminmax(maps.flatten(2), dim=-1)
    if tuple(maps.shape[-2:]) != tuple(size):
        maps = F.interpolate(maps, size=size, mode='bilinear', align_corners=align_corners)
    low, high = torch.aminmax(maps.flatten(2), dim=-1, keepdim=True)
    low, high = low.unsqueeze(-1), high.unsqueeze(-1)
    # Resizing rounds: what was constant may not be quite constant any more.
    return ((maps - low) > 0.5 * (high - low)) & (most > least)[..., None, None]
