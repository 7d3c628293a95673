"""Drawing objects that are given as polygons or run lengths, in the forms of COCO's files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmseg_semi.errors import DataError

IGNORED = 255
#: How many times its size a polygon may reach out of its image: it is drawn point by point.
MOST_OUTSIDE = 10


class Instance(NamedTuple):
    """One object.

    Attributes:
        number: Class number.
        area: In pixels.
        crowd: Whether it is a group of objects, which is below all single ones.
        segmentation: Polygons, each a list x, y, x, y, ... in pixels, or run lengths
            (``dict(size=[height, width], counts=...)``, column by column; a list or compressed).
        order: A higher one is above lower ones, whatever their areas.
    """

    number: int
    area: float
    crowd: bool
    segmentation: Any
    order: float = 0.0


class Instances(NamedTuple):
    """Everything that the mask of an image is drawn from; ``label`` is its name in messages."""

    label: str
    height: int
    width: int
    instances: list[Instance]
    overlap: str = 'smaller'
    crowd: str = 'class'


def draw(image: Instances) -> np.ndarray:
    """Class numbers (H, W) uint8 of an image."""
    mask = np.zeros((image.height, image.width), np.uint8)
    covers = np.zeros(mask.shape, np.uint16)
    for one, inside in layers(image):
        ignored = one.crowd and image.crowd == 'ignore'
        mask[inside] = IGNORED if ignored else one.number
        if not one.crowd:
            covers += inside
    if image.overlap == 'ignore':
        mask[covers > 1] = IGNORED
    return mask


def layers(image: Instances) -> Iterator[tuple[Instance, np.ndarray]]:
    """Objects with their pixels, bool (H, W), from the lowest to the one on top.

    Crowds are below all objects. Of the others the one of a higher order, then the smaller one,
    then the later one is above.
    """
    for one in sorted(image.instances, key=lambda one: (not one.crowd, one.order, -one.area)):
        yield one, rasterize(one.segmentation, image)


def rasterize(segmentation: Any, image: Instances) -> np.ndarray:
    """Pixels (H, W) bool of polygons or of run lengths, compressed or not."""
    from pycocotools import mask as coco_mask

    height, width = image.height, image.width
    try:
        if isinstance(segmentation, dict):
            check_runs(segmentation, image)
            runs = segmentation
            if isinstance(segmentation['counts'], list):
                runs = coco_mask.frPyObjects(segmentation, height, width)
        else:
            # Two corners have no area, and pycocotools would take four numbers for a box.
            polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
            if not polygons:
                return np.zeros((height, width), bool)
            check_polygons(polygons, image)
            runs = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        return coco_mask.decode(runs).astype(bool)
    except DataError:
        raise
    except Exception as error:  # whatever pycocotools finds wrong
        raise DataError(
            f'{image.label}: a segmentation cannot be drawn: {type(error).__name__}: {error}'
        ) from error


def check_runs(segmentation: Mapping[str, Any], image: Instances) -> None:
    """Refuse run lengths of another size than the image's: pycocotools would write beyond it."""
    size, counts = segmentation['size'], segmentation['counts']
    pixels = sum(counts) if isinstance(counts, list) else image.height * image.width
    if list(size) != [image.height, image.width] or pixels != image.height * image.width:
        raise DataError(
            f'{image.label}: run lengths have the size {size} and {pixels} pixels, the image '
            f'{[image.height, image.width]}'
        )


def check_polygons(polygons: Sequence[Sequence[float]], image: Instances) -> None:
    """Refuse coordinates that are no numbers or far away: pycocotools would fill the memory."""
    farthest = MOST_OUTSIDE * max(image.height, image.width)
    for polygon in polygons:
        for one in polygon:
            if not math.isfinite(one) or abs(one) > farthest:
                raise DataError(
                    f'{image.label}: a polygon has the coordinate {one}, far outside of the image '
                    f'of {image.width} x {image.height} pixels: correct or remove it.'
                )
