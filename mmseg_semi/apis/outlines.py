"""Outlines of objects: polygons along the edges of their pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

Polygon = list[float]  # x, y, x, y, ...


class Region(NamedTuple):
    """Pixels of one class that are connected by their sides.

    Attributes:
        number: Class number.
        x: Of the left column.
        y: Of the top row.
        inside: Bool (h, w), within its box.
    """

    number: int
    x: int
    y: int
    inside: np.ndarray


def regions(labels: np.ndarray, without: int | None = None) -> Iterator[Region]:
    """Connected regions of the classes of a label map (H, W).

    Args:
        labels: Class numbers.
        without: A class that is left out.
    """
    for number in np.unique(labels):
        if number == without:
            continue
        mask = (labels == number).astype(np.uint8)
        count, parts, boxes, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
        for part in range(1, count):
            x, y, width, height = (int(one) for one in boxes[part][:4])
            inside = parts[y : y + height, x : x + width] == part
            yield Region(int(number), x, y, inside)


def polygons(inside: np.ndarray, x: int = 0, y: int = 0) -> list[Polygon]:
    """Polygons that together cover exactly the pixels of a mask.

    They follow the edges of pixels: one pixel at (0, 0) is 0, 0, 1, 0, 1, 1, 0, 1. Polygons have no
    holes: a mask with a hole is cut in two through its middle.

    Args:
        inside: Bool (H, W).
        x: Of its left column.
        y: Of its top row.
    """
    loops = list(_loops(inside))
    hole = next((one for one in loops if _area(one) < 0), None)
    if hole is None:
        return [(one + (x, y)).ravel().tolist() for one in loops]
    cut = (int(hole[:, 0].min()) + int(hole[:, 0].max()) + 1) // 2
    return polygons(inside[:, :cut], x, y) + polygons(inside[:, cut:], x + cut, y)


def _area(loop: np.ndarray) -> int:
    """Of a loop of corners (N, 2): negative if it goes around a hole."""
    x, y = loop.T
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())


def _loops(inside: np.ndarray) -> Iterator[np.ndarray]:
    """Corners (N, 2) of each border, with the pixels inside on the right."""
    pixels = np.pad(inside, 1)
    above, below = pixels[:-1], pixels[1:]  # of each row of corners
    ways = (
        below[:, 1:] & ~above[:, 1:],  # to the right, along the top of a pixel
        below[:, :-1] & ~below[:, 1:],  # down its right side
        above[:, :-1] & ~below[:, :-1],  # to the left, along its bottom
        above[:, 1:] & ~above[:, :-1],  # up its left side
    )
    codes = sum(way.astype(np.uint8) << turn for turn, way in enumerate(ways))
    width = codes.shape[1]
    open_ways, steps = bytearray(codes.tobytes()), (1, width, -1, -width)
    for start in np.flatnonzero(ways[0]).tolist():
        if not open_ways[start] & 1:
            continue
        corners, place, way = [start], start + 1, 0
        while True:
            # To the right where two pixels touch at a corner: they are apart.
            after = next(
                one % 4 for one in (way + 1, way, way + 3) if open_ways[place] >> one % 4 & 1
            )
            open_ways[place] &= ~(1 << after)
            if (place, after) == (start, 0):
                break
            if after != way:
                corners.append(place)
            place, way = place + steps[after], after
        yield np.stack([np.array(corners) % width, np.array(corners) // width], axis=1)
