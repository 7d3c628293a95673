"""What the pixels of masks mean: numbers of classes, gray levels, or colors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from mmseg_semi.errors import DataError, name_some, reading
from mmseg_semi.prepare.instances import IGNORED
from mmseg_semi.prepare.label_formats.records import BACKGROUND, Color, Numbers
from mmseg_semi.prepare.label_maps import opened

#: Lossless masks: colors this near to a class's, as a distance in RGB, are taken for it.
NEAR = 48
#: Binary masks that were compressed: this share of pixels is this near to the two levels.
BINARY_SHARE, BINARY_NEAR = 0.97, 24
#: As many levels a mask may have that are no noise.
MOST_LEVELS = 16
FEW = 5
#: Up to here values are numbers where some files have a palette and others none.
MOST_NUMBERS = 64


class Pixels(NamedTuple):
    """Pixels of a mask.

    Attributes:
        values: Integers (H, W): numbers or gray levels, or 65536 R + 256 G + B.
        colored: Which of them.
        lossy: Whether the file format changes pixels.
        palette: RGB by number, where the file has them.
    """

    values: np.ndarray
    colored: bool
    lossy: bool
    palette: bytes | None = None


def read_pixels(path: Path, as_colors: bool = False) -> Pixels:
    """Read a mask.

    Args:
        path: The file.
        as_colors: Whether numbers with a palette and gray levels are wanted as colors, too.

    Raises:
        DataError: It is broken, or has no whole numbers; names it.
    """
    if path.suffix.lower() == '.npy':
        return Pixels(_read_numbers(path) * (0x010101 if as_colors else 1), as_colors, False)
    with _opened(path) as file:
        lossy = file.format in ('JPEG', 'WEBP', 'MPO')
        image = file.convert('L') if file.mode == '1' else file
        image.load()
        numbered = image.mode in ('P', 'PA') and not as_colors
        if numbered or image.mode in ('L', 'I', 'I;16', 'I;16B'):
            palette = image.getpalette() if numbered else None
            one = image.getchannel(0) if image.mode == 'PA' else image
            values = np.array(one).astype(np.int64)
            values = values * 0x010101 if as_colors else values
            return Pixels(values, as_colors, lossy, bytes(palette) if palette else None)
        if image.mode in ('F', 'CMYK', 'LAB', 'YCbCr', 'HSV'):
            raise DataError(f'{path} has the mode {image.mode}: save masks as gray or RGB PNG')
        colors = np.array(image.convert('RGB')).astype(np.int64)
    if not as_colors and (colors == colors[..., :1]).all():
        return Pixels(colors[..., 0], False, lossy)
    return Pixels(pack(colors), True, lossy)


def _read_numbers(path: Path) -> np.ndarray:
    with reading(path):
        values = np.load(path, allow_pickle=False)
    values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
    if values.ndim != 2 or values.dtype.kind not in 'bui' or (values < 0).any():
        raise DataError(
            f'{path} is {values.dtype} of shape {values.shape}; a mask must be (H, W) of whole '
            'numbers from 0 on'
        )
    return values.astype(np.int64)


def mask_size(path: Path) -> tuple[int, int]:
    """Width and height of a mask.

    Raises:
        DataError: It is broken; names it.
    """
    if path.suffix.lower() == '.npy':
        height, width = _read_numbers(path).shape
        return width, height
    with _opened(path) as file:
        return file.size


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    with opened(path) as file:
        pages = getattr(file, 'n_frames', 1)
        if pages > 1 and file.format != 'MPO':  # a photograph with its preview
            raise DataError(
                f'{path} has {pages} pages, and the mask of one image must have one: import '
                'volumes with --pages slices, or write a mask of one page'
            )
        yield file


def pack(colors: np.ndarray) -> np.ndarray:
    """One integer for each RGB, (..., 3) to (...)."""
    packed: np.ndarray = colors @ np.array([65536, 256, 1])
    return packed


def unpack(values: np.ndarray) -> np.ndarray:
    """RGB of integers, (...) to (..., 3)."""
    return np.stack([values >> 16, (values >> 8) & 255, values & 255], axis=-1)


@dataclass(frozen=True)
class Table:
    """Classes by value.

    Attributes:
        names: Class of a value as in :class:`Pixels`; None for unknown.
        colored: Whether values are colors.
        nearest: Whether other values become the nearest; else only those near a color.
    """

    names: Mapping[int, str | None]
    colored: bool
    nearest: bool = False

    def decode(self, path: Path, numbers: Numbers) -> tuple[np.ndarray, tuple[int, int], list[str]]:
        """Class numbers (H, W) uint8 of a mask, changed pixels, and what could not be used.

        Changed are those that get the class of the nearest value; the second number is of those
        that are farther from it than ``NEAR``.

        Raises:
            DataError: It is broken; names it.
        """
        pixels = read_pixels(path, self.colored)
        found, places = np.unique(pixels.values, return_inverse=True)
        counts = np.bincount(places.ravel(), minlength=len(found))
        known = np.array(list(self.names), np.int64)
        chosen, distance = nearest_of(found, known, self.colored)
        exact = distance == 0
        limit = np.inf if self.nearest or (pixels.lossy and self.colored) else NEAR
        taken = exact | ((distance <= limit) & (self.colored or self.nearest))
        names = [self.names[int(known[one])] for one in chosen]
        mapped = [IGNORED if name is None else numbers.get(name) for name in names]
        lookup = np.where(taken, mapped, IGNORED).astype(np.uint8)
        notes = [
            f'{path}: {count} pixels of {self.say(int(value))} are of no class, and unknown'
            for value, count in zip(found[~taken][:FEW], counts[~taken])
        ]
        left = {name for name, use in zip(names, taken) if use and name} - numbers.of_name.keys()
        notes += [f'{path}: {name} is none of the classes' for name in sorted(left)]
        mask = lookup[places.reshape(pixels.values.shape)]
        changed = [int(counts[taken & (distance > least)].sum()) for least in (0, NEAR)]
        return mask, (changed[0], changed[1]), notes

    def say(self, value: int) -> str:
        """A value in words."""
        return f'the color #{value:06x}' if self.colored else f'the number {value}'


def nearest_of(
    values: np.ndarray, known: np.ndarray, colored: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Index of the nearest of the known values, and its distance, of each value."""
    points, ends = (unpack(one) if colored else one[:, None] for one in (values, known))
    chosen = np.zeros(len(values), np.int64)
    best = np.full(len(values), np.inf)
    for index, end in enumerate(ends):
        distance = np.sqrt(((points - end) ** 2).sum(axis=-1))
        chosen[distance < best] = index
        best = np.minimum(best, distance)
    return chosen, best


# --------------------------------------------------------------------------------------- guessing
def color_table(colors: Mapping[str, Color]) -> Table:
    """Classes of known colors."""
    packed = {int(pack(np.array(color))): name for name, color in colors.items()}
    return Table(packed, colored=True)


def guess_table(
    paths: Sequence[Path], wanted: Sequence[str], what: Iterable[Path]
) -> tuple[Table, list[str], dict[str, Color]]:
    """Find out what the pixels of masks mean.

    Args:
        paths: The masks, all of them.
        wanted: Names of the classes that the user gave; empty if he gave none.
        what: The same masks, perhaps with a display of how far it is.

    Returns:
        The table, names of the classes in their order, and their colors where they are known.

    Raises:
        DataError: They may mean several things; says what to give.
    """
    counts: Counter[int] = Counter()
    palettes, colored, lossy, broken = set(), False, False, set()
    for path in what:
        try:
            pixels = read_pixels(path)
        except DataError:  # its image is left out, when it is drawn
            broken.add(path)
            continue
        palettes.add(pixels.palette)
        colored, lossy = colored or pixels.colored, lossy or pixels.lossy
        counts.update(_count(pixels.values))
    if not counts:
        read_pixels(paths[0])  # which says why
    # Numbers may be saved with a palette in some files and as gray in others.
    some = palettes - {None}
    small = max((value for value in counts if value != IGNORED), default=0) < MOST_NUMBERS
    palette = next(iter(some)) if len(some) == 1 and (some == palettes or small) else None
    if colored or (some and palette is None):
        counts = Counter()
        for path in (one for one in paths if one not in broken):
            counts.update(_count(read_pixels(path, as_colors=True).values))
        return _of_colors(paths[0], counts, wanted, lossy)
    table, names = _of_numbers(paths[0], counts, wanted, lossy, palette is not None)
    known: dict[str, Color] = {}
    if palette is not None:
        for value, name in table.names.items():
            color = palette[3 * value : 3 * value + 3]
            if name is not None and len(color) == 3:
                known[name] = (color[0], color[1], color[2])
    return table, names, known


def _count(values: np.ndarray) -> dict[int, int]:
    return dict(zip(*(one.tolist() for one in np.unique(values, return_counts=True))))


def _of_colors(
    path: Path, counts: Counter[int], wanted: Sequence[str], lossy: bool
) -> tuple[Table, list[str], dict[str, Color]]:
    if wanted or lossy or len(counts) >= IGNORED:
        some = name_some([f'#{value:06x}' for value, _ in counts.most_common(8)], 8)
        raise DataError(
            f'{path} and the other masks have {len(counts)} colors, the most frequent {some}: give '
            'the color of each class with --classes, such as background=#000000,cat=#ff0000'
        )
    values = sorted(counts)
    names = ['background' if value == 0 else f'#{value:06x}' for value in values]
    colors = {name: _rgb(value) for name, value in zip(names, values)}
    return Table(dict(zip(values, names)), colored=True), names, colors


def _rgb(value: int) -> Color:
    return value >> 16, (value >> 8) & 255, value & 255


def _of_numbers(
    path: Path, counts: Counter[int], wanted: Sequence[str], lossy: bool, palette: bool
) -> tuple[Table, list[str]]:
    values = sorted(counts)
    levels = _binary_levels(counts, lossy)
    if levels is not None and not palette and len(wanted) in (0, 1, 2):
        names = ['background', 'foreground'] if not wanted else list(wanted)
        names = ['background', *names] if len(names) == 1 else names
        return Table(dict(zip(levels, names)), False, nearest=True), names
    if levels == (0, IGNORED) and len(wanted) > 2 and not palette:
        raise DataError(
            f'{path} and the other masks have only 0 and 255, which are two classes: give two with '
            f'--classes, not {len(wanted)}'
        )
    rest = [value for value in values if value != IGNORED]
    most = max(rest, default=0)
    void = {IGNORED: None}
    if wanted and most == len(wanted) and not any(one.lower() in BACKGROUND for one in wanted):
        wanted = [BACKGROUND[0], *wanted]
    if wanted and most < len(wanted):
        return Table({**dict(enumerate(wanted)), **void}, False), list(wanted)
    if not wanted and most < IGNORED and (palette or 2 * len(rest) >= most + 1):
        names = [f'class_{number}' for number in range(most + 1)]
        return Table({**dict(enumerate(names)), **void}, False), names
    for several in (values, rest):
        if len(several) == len(wanted) or (not wanted and len(several) <= MOST_LEVELS):
            names = list(wanted) or [f'level_{value}' for value in several]
            return Table({**void, **dict(zip(several, names))}, False), names
    some = name_some(list(map(str, values)), 8)
    number = f', which are not those of {len(wanted)} classes' if wanted else ''
    raise DataError(
        f'{path} and the other masks have the numbers {some}{number}: give the gray of each class '
        'with --classes, such as background=#000000,cat=#808080; if the numbers count objects, '
        'give --numbers objects'
    )


def _binary_levels(counts: Counter[int], lossy: bool) -> tuple[int, int] | None:
    """The two levels of binary masks, clean or compressed; None for others."""
    for high in (255, 128):
        if counts.keys() <= {0, high} and high in counts:
            return 0, high
    total, bright = sum(counts.values()), {one: n for one, n in counts.items() if one >= 64}
    if not bright or not (lossy or len(counts) > MOST_LEVELS):
        return None
    most = max(bright, key=lambda value: bright[value])
    high = 255 if most > 191 else 128
    dark = sum(n for one, n in counts.items() if one <= BINARY_NEAR)
    light = sum(n for one, n in counts.items() if abs(one - high) <= BINARY_NEAR)
    numbers = counts.keys() - {IGNORED}
    dense = not lossy and 2 * len(numbers) >= max(numbers, default=0) + 1
    two = dark + light >= BINARY_SHARE * total and 2 * light >= total - dark
    return (0, high) if two and not dense else None
