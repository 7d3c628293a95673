"""CVAT's xml "CVAT for images 1.1": polygons, boxes, ellipses and masks with a z-order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Optional
from xml.etree import ElementTree

import numpy as np

from mmseg_semi.errors import DataError, reading
from mmseg_semi.files import files_below
from mmseg_semi.prepare.instances import encode_runs
from mmseg_semi.prepare.label_formats.records import (
    Color,
    Export,
    Object,
    Objects,
    Picture,
    box_polygon,
    broken,
    color_of,
    ellipse_polygon,
    in_order,
    rotate,
)

SHAPES = ('polygon', 'box', 'ellipse', 'mask')


def find(source: Path) -> list[Path]:
    """Files of this format."""
    single = source.is_file() and source.suffix.lower() == '.xml'
    files = [source] if single else files_below(source, '.xml')
    return [path for path in files if path.is_file() and _root_of(path) == 'annotations']


def _root_of(path: Path) -> str:
    try:
        return next((element.tag for _, element in ElementTree.iterparse(path, ['start'])), '')
    except ElementTree.ParseError as error:
        raise DataError(f'{path} is no XML file: {error}. Write the export anew.') from error


def read(paths: list[Path]) -> Export:
    """Read files; classes are in the order of their labels.

    Raises:
        DataError: An image or a shape lacks something; names file and entry.
    """
    export, classes = Export([], []), dict[str, Optional[Color]]()
    for path in paths:
        with reading(path):
            root = ElementTree.parse(path).getroot()
        if root.find('track') is not None:
            raise DataError(
                f"{path} has tracks of a video: write the export in the format 'CVAT for images'"
            )
        classes.update(_labels(root))
        for place, image in enumerate(root.iter('image'), 1):
            entry = f'image number {place}'
            try:
                entry = f'image {image.attrib["name"]}'
                size = int(image.attrib['width']), int(image.attrib['height'])
            except (KeyError, ValueError) as error:
                raise broken(path, entry, error) from error
            objects = Objects(tuple(_objects(path, image, size, export)))
            names = (image.attrib['name'],)
            export.pictures.append(Picture(f'{path}, {entry}', names, size, objects))
    export.colors = {name: color for name, color in classes.items() if color is not None}
    used = {
        one.name
        for picture in export.pictures
        if isinstance(picture.labels, Objects)
        for one in picture.labels.several
    }
    export.classes = [*classes, *in_order(used - classes.keys())]
    return export


def _labels(root: ElementTree.Element) -> Iterator[tuple[str, Color | None]]:
    for label in root.iterfind('meta//labels/label'):
        name, color = label.findtext('name'), (label.findtext('color') or '').strip()
        if name and not label.findtext('parent'):
            yield name, color_of(color) if re.fullmatch('#[0-9a-fA-F]{6}', color) else None


def _objects(
    path: Path, image: ElementTree.Element, size: tuple[int, int], export: Export
) -> Iterator[Object]:
    for place, shape in enumerate(image, 1):
        label = f'{shape.tag} number {place}'
        where = f'image {image.attrib["name"]}, {label}'
        if shape.tag not in SHAPES:
            export.notes.append(f'{path}, {where}: a {shape.tag} has no pixels')
            continue
        try:
            segmentation = _segmentation(shape, size)
            order = float(shape.attrib.get('z_order', 0))
            yield Object(label, shape.attrib['label'], segmentation, order=order)
        except (KeyError, ValueError, IndexError) as error:
            raise broken(path, where, error) from error


def _segmentation(shape: ElementTree.Element, size: tuple[int, int]) -> object:
    get = shape.attrib.__getitem__
    if shape.tag == 'mask':
        return encode_runs(_decode(shape, size))
    if shape.tag == 'polygon':
        points = [point.split(',') for point in get('points').split(';')]
        return [[float(one) for x, y in points for one in (x, y)]]
    degrees = float(shape.attrib.get('rotation', 0))
    if shape.tag == 'ellipse':
        x, y, radius_x, radius_y = (float(get(key)) for key in ('cx', 'cy', 'rx', 'ry'))
        return [rotate(ellipse_polygon(x, y, radius_x, radius_y), degrees, x, y)]
    x1, y1, x2, y2 = (float(get(key)) for key in ('xtl', 'ytl', 'xbr', 'ybr'))
    return [rotate(box_polygon(x1, y1, x2, y2), degrees, (x1 + x2) / 2, (y1 + y2) / 2)]


def _decode(shape: ElementTree.Element, size: tuple[int, int]) -> np.ndarray:
    """Pixels (H, W) bool of a mask: run lengths of its rectangle, row by row, off first."""
    left, top, width, height = (
        int(float(shape.attrib[key])) for key in ('left', 'top', 'width', 'height')
    )
    counts = [int(one) for one in shape.attrib['rle'].split(',')]
    if min(counts) < 0 or sum(counts) != width * height or width < 1 or height < 1:
        raise ValueError(f'rle has {sum(counts)} pixels and must have {width} x {height}')
    if left < 0 or top < 0 or left + width > size[0] or top + height > size[1]:
        raise ValueError(f'the mask at {left}, {top} of {width} x {height} must be in the image')
    inside = np.zeros(size[::-1], bool)
    runs = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    inside[top : top + height, left : left + width] = runs.reshape(height, width)
    return inside
