"""CorrMatch's region propagation: a sequential rule, computed on whole shapes at once."""

from __future__ import annotations

from typing import Optional, Union

import numpy as np
import torch
from torch import Tensor

# Bins of the class counts where the number of classes is not known: class maps are 8-bit images.
_DEFAULT_BINS = 256
# Counters of each class that neighboring pixels spread over, so that they do not wait in line.
_LANES = 64


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
            f'shapes {tuple(shapes.shape)} and label {tuple(label.shape)} differ in batch or size'
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
