"""Reading and writing images whose pixels are numbers of classes: gray 8-bit PNG files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mmseg_semi.errors import DataError, name_some, reading

NOTE = 'mmseg_semi'  # keyword of the text in a PNG file that says how it was made


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file.

    Raises:
        DataError: It is broken; names it.
    """
    with reading(path), Image.open(path) as image:
        yield image


def read_numbers(path: Path) -> np.ndarray:
    """Read the numbers of a single-channel 8-bit image, gray or with a palette; uint8 (H, W).

    Raises:
        DataError: Names the file.
    """
    with opened(path) as image:
        if image.mode not in ('L', 'P'):
            raise DataError(
                f'{path} has pixels of mode {image.mode}; it must have one channel of 8 bits'
            )
        image.load()
        return np.array(image)


def encode_png(array: np.ndarray, note: str) -> bytes:
    """PNG file of a uint8 array (H, W), or RGB (H, W, 3), with a note about how it was made."""
    info, data = PngInfo(), io.BytesIO()
    info.add_text(NOTE, note)
    Image.fromarray(array).save(data, 'png', pnginfo=info)
    return data.getvalue()


def note_of_complete(
    path: Path, size: tuple[int, int] | None = None, colors: bool = False
) -> str | None:
    """Note of a whole 8-bit PNG, '' when it has none.

    Args:
        path: The file.
        size: Width and height that it must have.
        colors: Whether it must have the channels RGB, not a single one.

    Returns:
        None when the file is missing, broken, or another kind of image.
    """
    try:
        with Image.open(path) as image:
            image.verify()  # every chunk to the end of the file; nothing is decoded
    except Exception:  # whatever it is, it is made anew
        return None
    modes = ('RGB',) if colors else ('L', 'P')
    fits = image.format == 'PNG' and image.mode in modes and size in (None, image.size)
    return str(image.info.get(NOTE, '')) if fits else None


def check_numbers(label: object, array: np.ndarray, allowed: Iterable[int], rule: str) -> None:
    """Refuse numbers that a label map cannot have.

    Args:
        label: What the array was read from.
        array: uint8 (H, W).
        allowed: The numbers that are allowed.
        rule: The same in words.

    Raises:
        DataError: Names the file and the numbers.
    """
    found = np.flatnonzero(np.bincount(array.ravel(), minlength=256))
    wrong = sorted(set(found.tolist()) - set(allowed))
    if wrong:
        raise DataError(f'{label} has the numbers {name_some(list(map(str, wrong)))}; {rule}')
