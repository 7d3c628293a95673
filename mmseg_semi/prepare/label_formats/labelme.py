"""labelme's json, one file an image: polygons, rectangles, circles and masks."""

from __future__ import annotations

import base64
import binascii
import io
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmseg_semi.errors import reading
from mmseg_semi.prepare.instances import encode_runs
from mmseg_semi.prepare.label_formats.records import (
    Export,
    Object,
    Objects,
    Picture,
    box_polygon,
    broken,
    ellipse_polygon,
    in_order,
)

SHAPES = ('polygon', 'rectangle', 'circle', 'mask')


def is_labelme(content: Any) -> bool:
    """Whether the content of a json file is in this format."""
    return isinstance(content, dict) and isinstance(content.get('shapes'), list)


def read(files: Mapping[Path, Any]) -> Export:
    """Read files; classes are in the order of the alphabet.

    Args:
        files: Content by path.

    Raises:
        DataError: An entry lacks something; names file and entry.
    """
    export = Export([], [])
    for path, content in files.items():
        try:
            image = str(content.get('imagePath') or path.stem).replace('\\', '/')
            size = _size(content)
            data = content.get('imageData')
            embedded = base64.b64decode(data, validate=True) if data else None
        except (TypeError, ValueError, binascii.Error) as error:
            raise broken(path, 'image', error) from error
        beside = os.path.normpath(path.resolve().parent / image)
        names = (beside, image, str(path.resolve().with_suffix('')))
        if size is None and embedded is not None:
            with reading(f'{path}, imageData'), Image.open(io.BytesIO(embedded)) as opened:
                size = opened.size
        objects = Objects(tuple(_objects(path, content['shapes'], size, export)))
        export.pictures.append(Picture(str(path), names, size, objects, embedded))
        export.classes += [one.name for one in objects.several]
    export.classes = in_order(export.classes)
    return export


def _size(content: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = content.get('imageWidth'), content.get('imageHeight')
    return (int(width), int(height)) if width and height else None


def _objects(
    path: Path, shapes: list[Any], size: tuple[int, int] | None, export: Export
) -> list[Object]:
    """Shapes as objects; polygons of the same label and group are one."""
    found: list[Object] = []
    groups: dict[Any, int] = {}
    for place, shape in enumerate(shapes, 1):
        label = f'shape number {place}'
        try:
            kind, name = shape.get('shape_type') or 'polygon', str(shape['label'])
            if kind not in SHAPES:
                export.notes.append(f'{path}, {label}: a {kind} has no pixels')
                continue
            segmentation = _segmentation(kind, shape, size)
        except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            raise broken(path, label, error) from error
        group = (name, shape.get('group_id'))
        if isinstance(segmentation, list) and group[1] is not None:
            if group in groups:
                earlier = found[groups[group]]
                joined = [*earlier.segmentation, *segmentation]
                found[groups[group]] = earlier._replace(segmentation=joined)
                continue
            groups[group] = len(found)
        found.append(Object(label, name, segmentation))
    return found


def _segmentation(kind: str, shape: Mapping[str, Any], size: tuple[int, int] | None) -> Any:
    points = [(float(x), float(y)) for x, y in shape['points']]
    if kind == 'mask':
        return _mask(shape['mask'], points, size)
    if kind == 'circle':
        if len(points) != 2:
            raise ValueError(f'a circle must have 2 points, and has {len(points)}')
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        return [ellipse_polygon(x, y, radius, radius)]
    if kind == 'rectangle' and len(points) == 2:
        (x1, x2), (y1, y2) = (sorted(one) for one in zip(*points))
        return [box_polygon(x1, y1, x2, y2)]
    if len(points) < 3:
        raise ValueError(f'a {kind} must have 3 points or more, and has {len(points)}')
    return [[one for point in points for one in point]]


def _mask(data: str, points: list[tuple[float, float]], size: tuple[int, int] | None) -> Any:
    """Run lengths of a mask that is a PNG of its rectangle."""
    if size is None:
        raise ValueError('imageWidth=null: a mask needs imageWidth and imageHeight')
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        part = np.array(image.convert('L')) > 0
    left, top = (int(min(one)) for one in zip(*points))
    inside = np.zeros(size[::-1], bool)
    target = inside[max(top, 0) : top + part.shape[0], max(left, 0) : left + part.shape[1]]
    if target.shape != part.shape:
        raise ValueError(f'the mask at {left}, {top} of {part.shape} must be in the image')
    target[:] = part
    return encode_runs(inside)
