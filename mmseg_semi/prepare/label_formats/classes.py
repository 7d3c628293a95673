"""The classes of an export: which, in which order, and their colors."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmseg_semi.datasets.coco81_dataset import bit_color
from mmseg_semi.errors import DataError
from mmseg_semi.prepare.instances import IGNORED
from mmseg_semi.prepare.label_formats.records import (
    BACKGROUND,
    Color,
    Export,
    Numbers,
    color_of,
)


def split_classes(words: Sequence[str]) -> dict[str, Color | None]:
    """Names with their colors, of ``name`` and ``name=#rrggbb``, commas between them.

    Raises:
        DataError: A color is none, or a class is named twice.
    """
    found: dict[str, Color | None] = {}
    for word in (one.strip() for several in words for one in several.split(',')):
        name, equals, color = word.partition('=')
        if not name or name in found:
            raise DataError(f'--classes: {word!r} has no name or is there twice; give each once')
        if equals and not re.fullmatch('#[0-9a-fA-F]{6}', color):
            raise DataError(f'--classes {word}: a color must be like #ff8000, red, green and blue')
        found[name] = color_of(color) if equals else None
    return found


def number_classes(export: Export, wanted: Sequence[str]) -> tuple[list[str], Numbers]:
    """Names in the order of their numbers, and the numbers.

    Without a choice of the user, background is 0 and the others follow as the export has them.
    """
    names = list(wanted or export.classes)
    ground = next((name for name in names if name.lower() in BACKGROUND), None)
    if ground is None and export.background:
        ground = BACKGROUND[0]
        names.insert(0, ground)
    elif ground is not None and not wanted and export.background:
        names.sort(key=lambda name: name != ground)
    if len(names) > IGNORED:
        raise DataError(
            f'there are {len(names)} classes; a mask of 8 bits has room for {IGNORED}: '
            'choose some with --classes.'
        )
    numbers = {name: number for number, name in enumerate(names)}
    return names, Numbers(numbers, IGNORED if ground is None else numbers[ground])


def class_colors(names: Sequence[str], known: dict[str, Color]) -> list[list[int]]:
    """A color for each class: the known one, or one of VOC's color map."""
    return [list(known.get(name, bit_color(number))) for number, name in enumerate(names)]
