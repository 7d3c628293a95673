"""Pictures of images and labels for people."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmseg_semi.datasets.coco81_dataset import bit_color

_PERCENTILES = (1, 99)  # that become black and white
_DARK = (96, 96, 96)  # in place of black, which is what is not selected
_MARGIN, _GAP, _TEXT, _LINE = 8, 8, 14, 22  # pixels
_LEAST = 192  # longest side that the tiles of a sheet are enlarged to, by a whole factor
NOT_SELECTED = ('not selected', (0, 0, 0))
Entry = tuple[str, Sequence[int]]


class Tile(NamedTuple):
    """A picture, and what it shows.

    Attributes:
        title: A few words.
        image: uint8 RGB (H, W, 3).
    """

    title: str
    image: np.ndarray


# ------------------------------------------------------------------------------------ colors
def palette(metainfo: Mapping[str, Any]) -> np.ndarray:
    """RGB of the labels 0 to 255, uint8 (256, 3); unknown pixels are white.

    Args:
        metainfo: ``classes``, and ``palette`` where there is one, else the color map of VOC.
    """
    table = np.full((256, 3), 255, np.uint8)
    known = metainfo.get('palette')
    if known is None or not len(known):
        known = [bit_color(number) for number in range(len(_names(metainfo)))]
    table[: len(known)] = known[:256]
    return table


def colors(metainfo: Mapping[str, Any]) -> np.ndarray:
    """:func:`palette` for pictures: a class that is black there is dark gray.

    Black is what is not selected.
    """
    table = palette(metainfo)
    table[(table == 0).all(axis=1)] = _DARK
    return table


def paint(labels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Color labels (H, W) of any whole type by a table, see :func:`colors`; uint8 (H, W, 3)."""
    return table[labels.astype(np.int64) % 256]


def legend(metainfo: Mapping[str, Any], *labels: np.ndarray) -> list[Entry]:
    """Name and color of each class, and of unknown pixels, that labels have.

    Args:
        metainfo: ``classes``, and ``palette`` where there is one.
        labels: Label maps of any shape.
    """
    table, names = colors(metainfo), _names(metainfo)
    there = sorted({int(one) for each in labels for one in np.unique(each)})
    known = [one for one in there if one < min(len(names), 256)]
    found: list[Entry] = [(str(names[one]), tuple(table[one].tolist())) for one in known]
    if any(one >= len(names) for one in there):
        found.append(('unknown', (255, 255, 255)))
    return found


def _names(metainfo: Mapping[str, Any]) -> Sequence[str]:
    return metainfo.get('classes') or [f'class {number}' for number in range(255)]


# ------------------------------------------------------------------------------------ images


def as_rgb(image: np.ndarray, bgr: bool = True) -> np.ndarray:
    """What can be shown of an image: its first three channels, or the first one in gray.

    Args:
        image: (H, W) or (H, W, C), of any type. Other than 8 bits are stretched, from the 1st to
            the 99th percentile of each channel.
        bgr: Whether three channels are in the order of OpenCV.

    Returns:
        uint8 (H, W, 3).
    """
    image = image[..., None] if image.ndim == 2 else image
    image = image[..., ::-1] if bgr and image.shape[2] == 3 else image
    image = image[..., :3] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, axis=2)
    if image.dtype != np.uint8:
        low, high = np.nanpercentile(image, _PERCENTILES, axis=(0, 1))
        scaled = (image - low) / np.where(high > low, high - low, 1)
        image = (255 * np.nan_to_num(scaled).clip(0, 1)).round().astype(np.uint8)
    return np.ascontiguousarray(image)


def overlay(image: np.ndarray, label: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Lay the colors of labels over an image, half and half.

    Args:
        image: uint8 RGB (H, W, 3).
        label: uint8 (H, W).
        table: See :func:`colors`.
    """
    return cv2.addWeighted(np.ascontiguousarray(image), 0.5, table[label], 0.5, 0)


def fit(image: np.ndarray, side: int) -> np.ndarray:
    """Shrink an image (H, W, 3) whose longer side is longer than ``side``."""
    factor = side / max(image.shape[:2])
    if factor >= 1:
        return image
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA)


def png_of(image: np.ndarray) -> bytes:
    """An image uint8 RGB (H, W, 3) as the content of a PNG file."""
    data = io.BytesIO()
    Image.fromarray(image).save(data, 'PNG')
    return data.getvalue()


# ------------------------------------------------------------------------------------ sheets
def sheet(
    rows: Sequence[Sequence[Tile]], entries: Iterable[Entry] = (), most: int = 1280
) -> np.ndarray:
    """Put pictures together, with their titles above and a legend below.

    A title that stands above in its column already is not repeated; one whose neighbors to the
    right have none may be as long as they are wide.

    Args:
        rows: Tiles side by side, one row below the other. Small ones are enlarged by a whole
            factor, the same for all.
        entries: Name and color of what the legend explains, see :func:`legend`.
        most: Longer sides of tiles are shrunk to it.

    Returns:
        uint8 RGB (H, W, 3).
    """
    longest = max(max(tile.image.shape[:2]) for row in rows for tile in row)
    factor = max(1, -(-_LEAST // longest))
    lines = [[Image.fromarray(_sized(one.image, factor, most)) for one in row] for row in rows]
    titles = [[tile.title for tile in row] for row in rows]
    widths = [max(one.width for one in column if one is not None) for column in zip_longest(*lines)]
    needed = max(_needed(one, widths) for one in titles)
    entries = list(entries)
    longest = max((_LINE + _length(name) for name, _ in entries), default=0)
    width = 2 * _MARGIN + max(sum(widths) + _GAP * (len(widths) - 1), needed, longest)
    key = _drawn_legend(entries, width - 2 * _MARGIN)
    titled = [i == 0 or one != titles[i - 1] for i, one in enumerate(titles)]
    heights = [max(one.height for one in line) + _LINE * t for line, t in zip(lines, titled)]
    height = 2 * _MARGIN + sum(heights) + _GAP * (len(rows) - 1) + key.height
    canvas = Image.new('RGB', (width, height), 'white')
    draw, top = ImageDraw.Draw(canvas), _MARGIN
    for line, names, has_title, one in zip(lines, titles, titled, heights):
        left = _MARGIN
        for tile, name, column in zip(line, names, widths):
            if has_title:
                draw.text((left, top + 1), name, 'black', _font())
            canvas.paste(tile, (left, top + _LINE * has_title))
            left += column + _GAP
        top += one + _GAP
    canvas.paste(key, (_MARGIN, top - _GAP))
    return np.asarray(canvas)


def drawn_legend(metainfo: Mapping[str, Any]) -> np.ndarray:
    """A picture uint8 RGB (H, W, 3) of all classes and their colors, and of unknown pixels."""
    numbers = np.arange(len(metainfo['classes']) + 1)
    key = _drawn_legend(legend(metainfo, numbers), 640)
    return np.pad(np.asarray(key), ((0, _MARGIN), (_MARGIN, _MARGIN), (0, 0)), constant_values=255)


def _sized(image: np.ndarray, factor: int, most: int) -> np.ndarray:
    return fit(image, most).repeat(factor, axis=0).repeat(factor, axis=1)


@cache
def _font() -> ImageFont.FreeTypeFont:
    """A font that has more than Latin letters, which comes with matplotlib."""
    import matplotlib  # 10 MiB, which only what draws needs

    path = Path(matplotlib.get_data_path(), 'fonts/ttf/DejaVuSans.ttf')
    return ImageFont.truetype(str(path), _TEXT)


def _length(text: str) -> int:
    return int(np.ceil(_font().getlength(text)))


def _needed(titles: Sequence[str], widths: list[int]) -> int:
    """Widen columns for titles with a neighbor to the right; return the end of the last title."""
    for i, title in enumerate(titles[:-1]):
        if titles[i + 1]:
            widths[i] = max(widths[i], _length(title))
    ends = [sum(widths[:i]) + _GAP * i + _length(title) for i, title in enumerate(titles)]
    return max(ends)


def _drawn_legend(entries: Sequence[Entry], width: int) -> Image.Image:
    """Swatches with their names, as many in a line as there is room for; with a margin above."""
    places, left, line = [], 0, 0
    for name, _ in entries:
        needed = _LINE + _length(name)
        if left and left + needed > width:
            left, line = 0, line + 1
        places.append((left, _MARGIN + line * _LINE))
        left += needed + 2 * _GAP
    image = Image.new('RGB', (width, _MARGIN + (line + 1) * _LINE if entries else 1), 'white')
    draw = ImageDraw.Draw(image)
    for (name, color), (x, y) in zip(entries, places):
        draw.rectangle((x, y + 3, x + 14, y + 17), tuple(color), 'gray')
        draw.text((x + _LINE, y + 1), name, 'black', _font())
    return image
