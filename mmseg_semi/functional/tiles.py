"""Predicting a large image in overlapping tiles, a band of rows at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

#: Tiles begin at multiples of it, so that a network of this output stride sees the same grid as in
#: the whole image.
ALIGN = 32
_MOST_NUMBERS = 2**24  # of a band that is resized at once


def tile_spans(size: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Where tiles start and end along one side of an image.

    Args:
        size: Length of the side.
        tile: Length of a tile, a multiple of ``ALIGN``; only the last one may be shorter, by less
            than ``ALIGN``.
        overlap: Pixels that neighbors share at least; so many fewer than ``tile`` that ``ALIGN``
            are left.
    """
    if size <= tile:
        return [(0, size)]
    stride = (tile - overlap) // ALIGN * ALIGN
    last = -(-(size - tile) // ALIGN) * ALIGN
    return [(start, min(start + tile, size)) for start in (*range(0, size - tile, stride), last)]


def tile_weights(span: tuple[int, int], size: int, overlap: int) -> Tensor:
    """Weights (n,) of a tile's pixels along one side: a trapezoid.

    0 on the outer quarter of the overlap, where a network sees the tile's border, then a linear
    rise over half of it, then 1. There is no slope at the borders of the image.
    """
    (start, end), margin = span, overlap // 4
    rise = overlap - 2 * margin
    slope = torch.cat([torch.zeros(margin), (torch.arange(rise) + 0.5) / max(rise, 1)])
    weights = torch.ones(end - start)
    if start > 0:
        weights[: len(slope)] *= slope
    if end < size:
        weights[len(weights) - len(slope) :] *= slope.flip(0)
    return weights


def blended_bands(
    predict: Callable[[tuple[int, int], tuple[int, int]], Tensor],
    size: tuple[int, int],
    tile: int,
    overlap: int,
) -> Iterator[Tensor]:
    """Blend the logits of overlapping tiles; no more than two rows of tiles are held.

    The result is that of the whole image, for a network that looks no farther than a quarter of the
    overlap.

    Args:
        predict: Logits (K, h, w) of the rows and the columns from and to which it gets.
        size: H and W of the image.
        tile: See :func:`tile_spans`.
        overlap: Likewise.

    Yields:
        Logits (K, n, W) of the next n rows.
    """
    rows, columns = (tile_spans(side, tile, overlap) for side in size)
    held, held_weights, top = torch.zeros(0), torch.zeros(0), 0
    for number, span in enumerate(rows):
        band = _row_of_tiles(predict, span, columns, size[1], overlap)
        weights = tile_weights(span, size[0], overlap).to(band)
        band *= weights[:, None]
        if number:
            more = span[1] - top - held.shape[1]
            held, held_weights = F.pad(held, (0, 0, 0, more)), F.pad(held_weights, (0, more))
            held[:, span[0] - top :] += band
            held_weights[span[0] - top :] += weights
        else:
            held, held_weights = band, weights
        done = (rows[number + 1][0] if number + 1 < len(rows) else size[0]) - top
        yield held[:, :done] / held_weights[:done, None]
        held, held_weights, top = held[:, done:], held_weights[done:], top + done


def _row_of_tiles(
    predict: Callable[[tuple[int, int], tuple[int, int]], Tensor],
    rows: tuple[int, int],
    columns: list[tuple[int, int]],
    width: int,
    overlap: int,
) -> Tensor:
    band: Tensor | None = None
    total = torch.zeros(width)
    for span in columns:
        logits = predict(rows, span).float()
        if band is None:
            band = logits.new_zeros(*logits.shape[:2], width)
            total = total.to(band)
        weights = tile_weights(span, width, overlap).to(band)
        band[:, :, slice(*span)] += logits * weights
        total[slice(*span)] += weights
    assert band is not None
    return band / total


def resized_bands(
    bands: Iterable[Tensor], size: tuple[int, int], wanted: tuple[int, int], align_corners: bool
) -> Iterator[Tensor]:
    """Resize logits bilinearly while they come, as ``F.interpolate`` would all of them at once.

    Args:
        bands: Logits (K, n, W) of the next n rows.
        size: H and W of all of them.
        wanted: H and W of the result.
        align_corners: As in ``F.interpolate``.

    Yields:
        Logits (K, m, W) of the next m rows of the result.
    """
    if size == wanted:
        yield from bands
        return
    places = _source_rows(size[0], wanted[0], align_corners)
    low = places.long()
    high = (low + 1).clamp(max=size[0] - 1)
    share = places - low
    held, first, done = torch.zeros(0), 0, 0
    for band in bands:
        held = torch.cat([held, band], dim=1) if held.numel() else band
        ready = int((high < first + held.shape[1]).sum())
        step = max(1, _MOST_NUMBERS // (held.shape[0] * wanted[1]))
        for start in range(done, ready, step):
            rows = slice(start, min(start + step, ready))
            above, below = (held[:, (one[rows] - first).to(held.device)] for one in (low, high))
            mixed = torch.lerp(above, below, share[rows, None].to(held))
            shape = (mixed.shape[1], wanted[1])
            yield F.interpolate(mixed[None], shape, mode='bilinear', align_corners=align_corners)[0]
        done = ready
        if done < wanted[0]:
            unneeded = min(int(low[done]) - first, held.shape[1])
            held, first = held[:, unneeded:], first + unneeded


def _source_rows(size: int, wanted: int, align_corners: bool) -> Tensor:
    """Where each row of the result lies among the rows, float32 (wanted,)."""
    rows = torch.arange(wanted, dtype=torch.float32)
    if align_corners:
        return rows * ((size - 1) / max(wanted - 1, 1))
    return ((rows + 0.5) * (size / wanted) - 0.5).clamp(min=0)
