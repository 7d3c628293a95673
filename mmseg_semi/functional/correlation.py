"""CorrMatch's correlation map: propagation of pixels, and of regions by sampled shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional, Union

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .grids import grid_stride
from .losses import at_least_float32

SAMPLING_STRATEGIES = ('random', 'random_shared', 'uniform')
# Elements of the correlation map that exist at once: 2 MiB (fits a cache) and 128 MiB in float32.
_MAX_ELEMENTS = {'cpu': 2**19, 'cuda': 2**25}
# Height and width together up to which interpolate goes another way on a CPU, whose rounding
# depends on the number of channels.
_SMALL = 128
# Cells of a map that are enlarged at once, and the share of a map's cells that is worth it.
_CELLS, _WIDE = 2**12, 0.25
# Bins of the class counts where the number of classes is not known: class maps are 8-bit images.
_DEFAULT_BINS = 256
# Counters of each class that neighboring pixels spread over, so that they do not wait in line.
_LANES = 64


def _check_maps(w1: Tensor, w2: Tensor) -> None:
    if w1.dim() != 4 or w1.shape != w2.shape:
        raise ValueError(
            f'w1 and w2 must have the same shape (B, D, h, w), got {tuple(w1.shape)} and '
            f'{tuple(w2.shape)}'
        )


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
        rows, columns = at_least_float32(w1).flatten(2), at_least_float32(w2).flatten(2)
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
        grad_logits: Any = torch.empty_like(logits) if need_logits else None
        grad_w1: Any = torch.empty_like(w1) if need_w1 else None
        grad_w2: Any = torch.zeros_like(w2) if need_w2 else None
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
        parts = [at_least_float32(tensor).flatten(2) for tensor in (logits, w1, w2)]
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
    size: Sequence[int],
    strategy: str = 'random',
    generator: Optional[torch.Generator] = None,
    align_corners: bool = False,
    index: Optional[Tensor] = None,
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
            hw``; ``'random_shared'`` the same positions for all images, with repetition (the
            authors' program); ``'uniform'`` takes the cell centers of a regular grid.
        generator: Source of randomness, on its own device. Defaults to the global one of ``w1``'s
            device.
        align_corners: As in bilinear ``interpolate``; the segmentor's own.
        index: int64 (B, num), positions ``row * w + column`` to take instead of drawing any.

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
    source = generator.device if generator is not None else w1.device
    if index is not None:
        index = index.to(w1.device)
    elif strategy == 'random_shared':
        draws = torch.randint(positions, (1, num), generator=generator, device=source)
        index = draws.to(w1.device).expand(batch, -1)
    elif strategy == 'random':
        rounds = -(-num // positions)
        draws = torch.rand(batch, rounds, positions, generator=generator, device=source)
        index = draws.argsort(dim=-1).flatten(1)[:, :num].to(w1.device)
    elif strategy == 'uniform':
        index = _grid_rows(num, height, width).to(w1.device, non_blocking=True).expand(batch, num)
    else:
        raise ValueError(f'strategy must be one of {SAMPLING_STRATEGIES}, got {strategy!r}')
    with torch.autocast(w1.device.type, enabled=False):
        columns = at_least_float32(w2).flatten(2)
        rows = at_least_float32(w1).flatten(2).transpose(1, 2)
        rows = rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))
        maps = _softmax_rows(rows, columns).unflatten(2, (height, width))
        return _binarize(maps.flatten(0, 1), size, align_corners).unflatten(0, (batch, num))


def _binarize(maps: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Resize maps (n, h, w) and keep what lies above the middle of each map's range."""
    if not align_corners or sum(size) <= _SMALL or maps.device.type != 'cpu':
        return _binarize_whole(maps, size, align_corners)
    strides = [grid_stride(*sides) for sides in zip(size, maps.shape[-2:])]
    if not all(one and not one & (one - 1) for one in strides):  # powers of 2 are exact
        return _binarize_whole(maps, size, align_corners)
    shapes, left = _binarize_cells(maps, strides, size)
    if left.any():
        shapes[left] = _binarize_whole(maps[left], size, align_corners)
    return shapes


def _binarize_whole(maps: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """The same, pixel by pixel. What is resized at once fits a cache, and on a GPU is bounded."""
    shapes = torch.zeros(len(maps), *size, dtype=torch.bool, device=maps.device)
    some = max(1, _MAX_ELEMENTS.get(maps.device.type, 2**25) // (size[0] * size[1]))
    for part, out in zip(maps.split(some), shapes.split(some)):
        least, most = part.flatten(1).amin(1), part.flatten(1).amax(1)
        if tuple(part.shape[-2:]) != tuple(size):
            part = _resized(part, size, align_corners)
        low, high = part.flatten(1).amin(1), part.flatten(1).amax(1)
        # Resizing rounds: what was constant may not be quite constant any more.
        bound = torch.where(most > least, 0.5 * (high - low), torch.inf)
        torch.gt(part - low[:, None, None], bound[:, None, None], out=out)
    return shapes


def _resized(maps: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Resize maps (n, h, w): where they get large, to the bits that a map has by itself."""
    size, dim = tuple(size), 1 if sum(size) > _SMALL else 0
    maps = maps.unsqueeze(dim)
    return F.interpolate(maps, size, mode='bilinear', align_corners=align_corners).squeeze(dim)


def _binarize_cells(
    maps: Tensor, strides: Sequence[int], size: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The same around the peaks of maps that lie on pixels, and which shapes are left to do.

    A pixel is a mean of its cell's corners, so none is above the middle where no corner is.

    Args:
        maps: (n, h, w).
        strides: Pixels of a cell, down and across.
        size: ``(H, W)``.

    Returns:
        Bool (n, H, W), and bool (n,): wide shapes, where little would be saved, and those of maps
        whose range may change by rounding when they are resized.
    """
    # numpy takes large pages where the system has them, which is a tenth of torch's time for zeros.
    shapes = torch.from_numpy(np.zeros((len(maps), *size), dtype=bool))
    low, high = maps.flatten(1).amin(1), maps.flatten(1).amax(1)
    rounding, bound = 64 * torch.finfo(maps.dtype).eps, 0.5 * (high - low)
    above = maps > (low + bound - rounding * high)[:, None, None]
    above = above[:, :-1] | above[:, 1:]
    above = above[:, :, :-1] | above[:, :, 1:]  # of a cell's corners, any
    left = above.flatten(1).sum(1) > _WIDE * above[0].numel()
    if max(strides) > 4:  # means of equal values, 3/8 of one and 5/8, may differ from them
        highest = maps >= ((1 - rounding) * high)[:, None, None]
        lowest = maps <= ((1 + rounding) * low)[:, None, None]
        left |= highest.flatten(1).sum(1) > 1
        left |= (lowest.flatten(1).sum(1) > 1) & (low > 0)
    above &= ~left[:, None, None]
    corners, pixels = maps, shapes
    for dim, stride in enumerate(strides, 1):  # cells share their edges
        corners, pixels = corners.unfold(dim, 2, 1), pixels.unfold(dim, stride + 1, stride)
    down, across = strides
    for cells in above.nonzero().split(_CELLS):
        image, y, x = cells.unbind(1)
        # One beside the other in a strip, which is as wide as what is not small.
        strip = corners[image, y, x].transpose(0, 1).flatten(1)
        strip = F.pad(strip, (0, max(0, _SMALL - strip.shape[1])))
        wide_strip = (strip.shape[1] - 1) * across + 1
        fine = _resized(strip[None], (down + 1, wide_strip), align_corners=True)[0]
        fine = fine.unfold(1, across + 1, 2 * across)[:, : len(cells)].transpose(0, 1)
        found = fine - low[image, None, None] > bound[image, None, None]
        pixels.numpy()[image.numpy(), y.numpy(), x.numpy()] = found.numpy()
    return shapes, left


def propagate_regions(
    label: Tensor,
    selected: Tensor,
    shapes: Tensor,
    threshold: Union[float, Tensor],
    num_classes: Optional[int] = None,
) -> tuple[Tensor, Tensor]:
    r"""Give whole shapes the class that prevails among their selected pixels.

    CorrMatch's region propagation (Sun et al., CVPR 2024, Algorithm 1), a sequential rule that
    this function follows to the bit. For each shape of an image, in order: with :math:`O` its
    overlap with ``selected`` as given, the shape is skipped when O is empty or :math:`|O| /
    |shape| < \tau`; the classes of the *current* label inside O are counted; the shape is skipped
    unless the share of the most frequent class (of equals, the smallest) is :math:`> \tau`; then
    all its pixels get that class and become selected in the output.

    Ratios are compared in float64 when ``threshold`` is a number or a float64 tensor, in float32
    when it is any other tensor, so a threshold that is the quotient of two counts in that
    precision equals their ratio.

    On CUDA nothing waits for the device. On CPUs masks are packed to bits.

    Args:
        label: int64 (B, H, W), classes from 0.
        selected: Bool (B, H, W), the mask before any propagation.
        shapes: Bool (B, N, H, W).
        threshold: tau, a number or a 0-dim tensor.
        num_classes: Labels are below this. Without it, labels on a GPU must be below 256.

    Returns:
        ``(label, selected)``, new tensors like the inputs.

    Raises:
        ValueError: Shapes or dtypes do not fit each other.
    """
    if label.dim() != 3 or label.shape != selected.shape or shapes.dim() != 4:
        raise ValueError(
            f'label and selected must be (B, H, W) and shapes (B, N, H, W), got '
            f'{tuple(label.shape)}, {tuple(selected.shape)}, {tuple(shapes.shape)}'
        )
    if shapes.shape[0] != label.shape[0] or shapes.shape[-2:] != label.shape[-2:]:
        raise ValueError(
            f'shapes {tuple(shapes.shape)} and label {tuple(label.shape)} must agree in batch and '
            'size'
        )
    if selected.dtype != torch.bool or shapes.dtype != torch.bool or label.dtype != torch.int64:
        raise ValueError(
            f'label must be int64, selected and shapes bool, got {label.dtype}, {selected.dtype}, '
            f'{shapes.dtype}'
        )
    if isinstance(threshold, Tensor) and threshold.numel() != 1:
        raise ValueError(f'threshold must be a number or 0-dim, got {tuple(threshold.shape)}')
    label, selected = label.contiguous(), selected.contiguous()
    if label.numel() == 0 or shapes.shape[1] == 0:
        return label.clone(), selected.clone()
    if label.device.type == 'cpu' and hasattr(np, 'bitwise_count'):  # numpy 2
        return _propagate_packed(label, selected, shapes, threshold)
    if num_classes is None and label.device.type == 'cpu':
        num_classes = int(label.max()) + 1
    return _propagate_dense(label, selected, shapes, threshold, num_classes or _DEFAULT_BINS)


# ------------------------------------------------------------------------------------ any device


def _exact(threshold: Union[float, Tensor]) -> tuple[torch.dtype, Union[float, Tensor]]:
    """The dtype in which ratios are compared, and the threshold in it."""
    if not isinstance(threshold, Tensor):
        return torch.float64, float(threshold)
    dtype = torch.float64 if threshold.dtype == torch.float64 else torch.float32
    return dtype, threshold.detach().reshape(()).to(dtype)


def _propagate_dense(
    label: Tensor,
    selected: Tensor,
    shapes: Tensor,
    threshold: Union[float, Tensor],
    num_classes: int,
) -> tuple[Tensor, Tensor]:
    """All images in one sequence of tensor operations; the host never reads a result."""
    batch, number = shapes.shape[:2]
    pixels = label.shape[1] * label.shape[2]
    dtype, tau = _exact(threshold)
    shapes = shapes.flatten(2)
    overlaps = shapes & selected.flatten(1)[:, None]
    areas, sizes = shapes.sum(-1).to(dtype), overlaps.sum(-1).to(dtype)  # (B, N)
    covered = (sizes > 0) & ~(sizes / areas < tau)
    torch._assert_async(
        ((label >= 0) & (label < num_classes)).all(),
        'propagate_regions: a label is negative or not below num_classes (256 if not given)',
    )
    # A pixel's bin is its class and its lane; the last bin takes everything outside the overlap.
    lanes = min(_LANES, pixels)
    offset = (torch.arange(pixels, device=label.device) % lanes) * num_classes
    outside = lanes * num_classes
    current = label.flatten(1) + offset
    ones = torch.ones((), dtype=torch.int32, device=label.device).expand(batch, pixels)
    painted = torch.zeros_like(selected).flatten(1)
    for i in range(number):
        bins = torch.zeros(batch, outside + 1, dtype=torch.int32, device=label.device)
        bins.scatter_add_(1, torch.where(overlaps[:, i], current, outside), ones)
        counts = bins[:, :outside].unflatten(1, (lanes, num_classes)).sum(1)
        most = counts.argmax(1, keepdim=True)  # the first of equals
        share = counts.gather(1, most).to(dtype) / sizes[:, i : i + 1]
        fill = shapes[:, i] & covered[:, i : i + 1] & (share > tau)
        current = torch.where(fill, most + offset, current)
        painted |= fill
    return (current - offset).view_as(label), selected | painted.view_as(selected)


# ------------------------------------------------------------------------------------------ CPU


def _propagate_packed(
    label: Tensor, selected: Tensor, shapes: Tensor, threshold: Union[float, Tensor]
) -> tuple[Tensor, Tensor]:
    """Each class is a bit plane of the current label: counting is AND and population count."""
    dtype, tau = _exact(threshold)
    real = np.float64 if dtype == torch.float64 else np.float32
    out_label, out_selected = label.clone(), selected.clone()
    for image in range(label.shape[0]):
        _propagate_image(
            out_label[image].view(-1).numpy(),
            out_selected[image].view(-1).numpy(),
            shapes[image].flatten(1).numpy(),
            real(tau),
            real,
        )
    return out_label, out_selected


def _pack(masks: np.ndarray) -> np.ndarray:
    """Bool (N, P) -> uint64 (N, words); unused bits are 0."""
    packed = np.packbits(masks, axis=1)
    padded = np.zeros((len(masks), -(-masks.shape[1] // 64) * 8), np.uint8)
    padded[:, : packed.shape[1]] = packed
    return padded.view(np.uint64)


def _count(packed: np.ndarray) -> np.ndarray:
    return np.bitwise_count(packed).sum(axis=-1, dtype=np.int64)


def _propagate_image(
    label: np.ndarray, selected: np.ndarray, shapes: np.ndarray, tau: np.floating, real: type
) -> None:
    """Propagate in one image, in place: label int64 (P,), selected bool (P,), shapes (N, P)."""
    known = label[selected]
    if not known.size:
        return
    classes = np.flatnonzero(np.bincount(known)) if known.max() < 4096 else np.unique(known)
    packed = _pack(shapes)
    overlaps = packed & _pack(selected[None])
    areas, sizes = _count(packed), _count(overlaps)
    with np.errstate(invalid='ignore'):
        covered = (sizes > 0) & ~(sizes.astype(real) / areas.astype(real) < tau)
    # Bit planes of the classes within `selected`, and for the output the index of the class that
    # was painted last (0: none). A shape touches a range of words only.
    planes = _pack((label == classes[:, None]) & selected)
    painted = np.zeros(planes.shape[1] * 64, np.min_scalar_type(len(classes)))
    used = packed != 0
    first, last = used.argmax(axis=1), used.shape[1] - used[:, ::-1].argmax(axis=1)
    for i in np.flatnonzero(covered):
        words, pixels = slice(first[i], last[i]), slice(first[i] * 64, last[i] * 64)
        part, overlap = planes[:, words], overlaps[i, words]
        counts = np.bitwise_count(part & overlap).sum(axis=1, dtype=np.uint32)
        most = int(counts.argmax())  # the first of equals
        if not real(counts[most]) / real(sizes[i]) > tau:
            continue
        part &= ~overlap
        part[most] |= overlap
        inside = np.negative(shapes[i, pixels].astype(painted.dtype))  # all bits set in the shape
        region = painted[pixels][: len(inside)]
        region ^= (region ^ painted.dtype.type(most + 1)) & inside
    painted = painted[: len(label)]
    filled = painted > 0
    label[filled] = classes[painted[filled] - 1]
    selected |= filled
