"""Boxes around the connected components of a map of class numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Union

import numpy as np
from torch import Tensor

from mmseg_semi.arguments import check_choice, check_number


def masks_to_boxes(
    seg_map: Union[np.ndarray, Tensor],
    classes: Sequence[int],
    min_area: int = 0,
    connectivity: int = 8,
    ignore_index: int = 255,
) -> list[tuple[int, int, int, int, int]]:
    """Box every connected component of some classes.

    So the boxes of the detector in "Weighting Pseudo-Labels via High-Activation Feature Index
    Similarity and Object Detection for Semi-Supervised Segmentation" (ECCV 2024) are made from
    segmentation masks.

    Args:
        seg_map: Integers (H, W), class numbers.
        classes: The classes that get boxes.
        min_area: Components of fewer pixels get none.
        connectivity: 8: pixels that touch at a corner are connected too; 4: they are not.
        ignore_index: Number of the pixels of unknown class.

    Returns:
        One ``(class, x1, y1, x2, y2)`` a component, in pixels, half-open: ``x2 - x1`` is the
        width. In the order of ``classes``, within a class in the order of the components' first
        pixels, row by row.

    Raises:
        ValueError: ``seg_map`` is not two-dimensional or not of integers; ``classes`` is no list
            of non-negative integers, names one twice or names ``ignore_index``; another
            ``connectivity`` than 4 and 8; a negative ``min_area``.
    """
    seg_map = seg_map.detach().cpu().numpy() if isinstance(seg_map, Tensor) else seg_map
    _check(seg_map, classes, min_area, connectivity, ignore_index)
    height, width = seg_map.shape
    if not seg_map.size:
        return []
    starts, lengths, values = _runs(seg_map)
    ranks = np.full(len(values), -1, np.int32)  # place in `classes`
    for rank, one in enumerate(classes):
        ranks[values == one] = rank
    first, second = _touching(starts, lengths, ranks, width, connectivity)
    runs = np.flatnonzero(ranks >= 0)
    if not len(runs):
        return []
    # The root of a component is its first run, so sorting by rank and root gives the order wanted;
    # the runs of a group stay in raster order.
    roots = _roots(first, second, len(starts))[runs]
    order = np.lexsort((roots, ranks[runs]))
    runs, roots = runs[order], roots[order]
    groups = np.flatnonzero(np.r_[True, roots[1:] != roots[:-1]])
    rows, lefts = np.divmod(starts[runs], width)
    columns = (
        ranks[runs[groups]],
        np.minimum.reduceat(lefts, groups),
        rows[groups],
        np.maximum.reduceat(lefts + lengths[runs], groups),
        np.maximum.reduceat(rows, groups) + 1,
    )
    kept = np.add.reduceat(lengths[runs], groups) >= min_area
    boxes = np.stack(columns, 1)[kept].tolist()
    return [(int(classes[rank]), x1, y1, x2, y2) for rank, x1, y1, x2, y2 in boxes]


def _check(
    seg_map: np.ndarray,
    classes: Sequence[int],
    min_area: int,
    connectivity: int,
    ignore_index: int,
) -> None:
    if not isinstance(seg_map, np.ndarray) or seg_map.ndim != 2 or seg_map.dtype.kind not in 'iu':
        what = f'{getattr(seg_map, "dtype", "")} {getattr(seg_map, "shape", type(seg_map))}'
        raise ValueError(f'seg_map must be an array or tensor of integers (H, W), got {what}')
    if not isinstance(classes, Sequence) or not all(map(_is_class, classes)):
        raise ValueError(f'classes must be a list of class numbers from 0, got {classes!r}')
    if len(set(classes)) < len(classes):
        raise ValueError(f'classes must name each class once, got {list(classes)}')
    if ignore_index in classes:
        raise ValueError(
            f'classes has ignore_index={ignore_index}, the pixels of unknown class: remove it'
        )
    check_choice('connectivity', connectivity, (4, 8))
    check_number('min_area', min_area, 0)


def _is_class(one: object) -> bool:
    return isinstance(one, (int, np.integer)) and not isinstance(one, bool) and bool(one >= 0)


def _runs(seg_map: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split the rows into runs of equal values: flat starts, lengths and values, each (R,)."""
    flat = seg_map.ravel()
    begins = np.empty(flat.size, bool)
    np.not_equal(flat[1:], flat[:-1], out=begins[1:])
    begins[:: seg_map.shape[1]] = True
    starts = np.flatnonzero(begins)
    return starts, np.diff(starts, append=flat.size), flat[starts]


def _touching(
    starts: np.ndarray, lengths: np.ndarray, ranks: np.ndarray, width: int, connectivity: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of runs of the same class in neighboring rows that touch, as two index arrays.

    Where two runs overlap, one of them starts over or under a pixel of the other. Where they touch
    at a corner, one starts just right of the other's last column.
    """
    size = len(starts)
    run_at = np.repeat(np.arange(size, dtype=np.int32), lengths)
    wanted = np.flatnonzero(ranks >= 0).astype(np.int32)
    inner = wanted[starts[wanted] % width > 0]
    pairs = []
    for shift in (0, 1) if connectivity == 8 else (0,):
        runs = inner if shift else wanted
        for step in (-width, width):
            other = starts[runs] + (step - shift)
            inside = (other >= 0) & (other < len(run_at))
            one, two = runs[inside], run_at[other[inside]]
            same = ranks[one] == ranks[two]
            pairs.append((one[same], two[same]))
    first, second = (np.concatenate(several) for several in zip(*pairs))
    return first, second


def _roots(first: np.ndarray, second: np.ndarray, size: int) -> np.ndarray:
    """Smallest index of each index's connected component; ``first`` and ``second`` are the edges.

    Every root that has a smaller neighbor is hung on the smallest one, then all paths are
    shortened. Two rounds halve the number of roots that still have neighbors.
    """
    parent = np.arange(size, dtype=np.int32)
    while True:
        first, second = parent[first], parent[second]
        apart = first != second
        if not apart.any():
            return parent
        first, second = first[apart], second[apart]
        np.minimum.at(parent, np.maximum(first, second), np.minimum(first, second))
        while not np.array_equal(parent, shorter := parent[parent]):
            parent = shorter
