"""CVAT's "Segmentation mask 1.1": colors, with their names in ``labelmap.txt``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from mmseg_semi.errors import DataError, check_one_size, name_some
from mmseg_semi.files import files_below, read_list
from mmseg_semi.prepare.label_formats.mask_values import Table, color_table, read_pixels
from mmseg_semi.prepare.label_formats.photos import Photos
from mmseg_semi.prepare.label_formats.records import (
    BACKGROUND,
    Box,
    Color,
    Drawn,
    Export,
    LabelMap,
    Numbers,
    Picture,
    box_around,
)
from mmseg_semi.prepare.label_maps import opened

LABEL_MAP, IMAGES = 'labelmap.txt', 'JPEGImages'
CLASSES, OBJECTS = 'SegmentationClass', 'SegmentationObject'


def find(source: Path) -> Path | None:
    """The folder of the label map and the masks, None where there is none.

    Raises:
        DataError: There are several, which may have other numbers of classes.
    """
    found = [one.parent for one in files_below(source, LABEL_MAP)]
    found = [one for one in found if (one / CLASSES).is_dir()]
    if len(found) > 1:
        raise DataError(
            f'{source} has several exports, {name_some(list(map(str, found)))}: name one, and '
            'import each into a folder of its own'
        )
    return found[0] if found else None


def read_label_map(path: Path) -> dict[str, Color]:
    """Colors by class, of lines ``name:R,G,B:parts:actions``; a background first.

    Raises:
        DataError: A line has no color, or a color or a name is there twice; names the line.
    """
    colors: dict[str, Color] = {}
    for number, line in read_list(path, error=DataError):
        name, _, rest = line.partition(':')
        parts = rest.split(':')[0].split(',')
        if len(parts) != 3 or not all(one.strip().isdecimal() and int(one) < 256 for one in parts):
            raise DataError(f'{path}, line {number}: {line!r} must be name:R,G,B:parts:actions')
        color = int(parts[0]), int(parts[1]), int(parts[2])
        if name in colors or color in colors.values():
            raise DataError(
                f'{path}, line {number}: {line!r} must have a name and a color of its own'
            )
        colors[name] = color
    if (0, 0, 0) not in colors.values():
        colors = {BACKGROUND[0]: (0, 0, 0), **colors}
    return dict(sorted(colors.items(), key=lambda pair: pair[1] != (0, 0, 0)))


def read(folder: Path) -> Export:
    """Read the masks; boxes come from the masks of objects.

    Raises:
        DataError: A file is broken; names it.
    """
    colors = read_label_map(folder / LABEL_MAP)
    black = next(name for name, color in colors.items() if color == (0, 0, 0))
    export = Export([], list(colors), colors, background=black.lower() in BACKGROUND)
    table = color_table(colors)
    masks, objects = Photos(folder / CLASSES), Photos(folder / OBJECTS)
    for file in masks.files:
        path, other = masks.folder / file, objects.folder / file
        with opened(path) as image:
            size = image.size
        draw = partial(_draw, path, other if file in objects.files else None, table)
        stem = file[: -len(Path(file).suffix)]
        export.pictures.append(Picture(str(path), (stem,), size, LabelMap(draw)))
    images = folder / IMAGES
    export.folder = images if images.is_dir() else None
    export.own_files = {one.folder / file for one in (masks, objects) for file in one.files}
    return export


def _draw(path: Path, objects: Path | None, table: Table, numbers: Numbers) -> Drawn:
    mask, changed, notes = table.decode(path, numbers)
    boxes: list[Box] = []
    if objects is not None:
        values = read_pixels(objects, as_colors=True).values
        check_one_size(objects, values.shape, path, mask.shape, DataError)
        for value in np.unique(values[values != 0]):
            inside = values == value
            number = int(np.bincount(mask[inside]).argmax())
            if number in numbers.of_name.values() and number != numbers.other:
                boxes.append(box_around(inside, number))
    return Drawn(mask, boxes, notes, *changed)
