"""Maps that hold, for each pixel, the set of classes whose boxes cover it, as bits."""

from __future__ import annotations

import torch
from torch import Tensor


def box_agreement(label: Tensor, boxes: Tensor) -> Tensor:
    """Find the pixels that a box of their class covers.

    Args:
        label: int64 (B, H, W). A label that the map has no bit for (255) agrees with nothing.
        boxes: uint8 (B, ceil(K/8), H, W): bit k % 8 of byte k // 8 is set where a box of class k
            covers the pixel (:func:`pack_boxes`).

    Returns:
        Bool (B, H, W).

    Raises:
        ValueError: Shapes or dtypes do not fit.
    """
    if boxes.dim() != 4 or boxes.dtype != torch.uint8:
        raise ValueError(
            f'boxes must be uint8 (B, bytes, H, W), got {boxes.dtype} {tuple(boxes.shape)}'
        )
    if label.shape != (boxes.shape[0], *boxes.shape[2:]) or label.is_floating_point():
        raise ValueError(
            f'label must be integers of shape {(boxes.shape[0], *boxes.shape[2:])}, got '
            f'{label.dtype} {tuple(label.shape)}'
        )
    label = label.long()
    known = (label >= 0) & (label < 8 * boxes.shape[1])
    label = torch.where(known, label, 0)
    byte = boxes.gather(1, (label >> 3)[:, None])[:, 0]
    return known & ((byte >> (label & 7).to(torch.uint8)) & 1).bool()


def pack_boxes(boxes: Tensor, classes: Tensor, num_classes: int, size: tuple[int, int]) -> Tensor:
    """Draw boxes into a packed map.

    A box covers the pixels whose centers lie inside it, so whole numbers x1, x2 cover the columns
    x1 to x2 - 1.

    Args:
        boxes: (N, 4), each x1, y1, x2, y2 in pixels; parts outside the image are cut off.
        classes: int64 (N,), 0 to K - 1.
        num_classes: K.
        size: Height and width of the map.

    Returns:
        uint8 (ceil(K/8), H, W), as :func:`box_agreement` reads it for one image.

    Raises:
        ValueError: Not one class a box, or a class outside 0..K-1.
    """
    if boxes.shape != (len(classes), 4):
        raise ValueError(f'{len(classes)} classes need as many boxes, got {tuple(boxes.shape)}')
    if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < num_classes:
        raise ValueError(f'classes must be 0 to {num_classes - 1}, got {classes.tolist()}')
    packed = torch.zeros(-(-num_classes // 8), *size, dtype=torch.uint8)
    limits = torch.tensor([size[1], size[0], size[1], size[0]])
    edges = (boxes.double() - 0.5).ceil().clamp(min=0).minimum(limits).long()
    for (x1, y1, x2, y2), one in zip(edges.tolist(), classes.tolist()):
        packed[one >> 3, y1:y2, x1:x2] |= 1 << (one & 7)
    return packed
