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
            (``dict(size=[height, width], counts=...)``, column by column; numbers or compressed).
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
    """Objects with their pixels, bool (H, W), from the lowest to the one on top."""
    for one in sorted(image.instances, key=layer_key):
        yield one, rasterize(one.segmentation, image)


def layer_key(one: Instance) -> tuple[bool, float, float]:
    """What objects are sorted by, from the lowest to the one on top.

    Crowds are below all objects. Of the others the one of a higher order, then the smaller one,
    then the later one is above.
    """
    return not one.crowd, one.order, -one.area


def rasterize(segmentation: Any, image: Instances) -> np.ndarray:
    """Pixels (H, W) bool of polygons or of run lengths, compressed or not.

    Raises:
        DataError: They are broken or do not fit the image; names it.
    """
    try:
        if isinstance(segmentation, Mapping):
            return decode_runs(segmentation, image)
        return draw_polygons(segmentation, image)
    except DataError:
        raise
    except Exception as error:  # whatever pycocotools finds wrong
        raise DataError(
            f'{image.label}: a segmentation cannot be drawn: {type(error).__name__}: {error}. '
            'Correct it, or write the file anew.'
        ) from error


def draw_polygons(polygons: Sequence[Sequence[float]], image: Instances) -> np.ndarray:
    """Pixels (H, W) bool of the union of polygons."""
    from pycocotools import mask as coco_mask

    height, width = image.height, image.width
    # Two corners have no area, and pycocotools would take four numbers for a box.
    polygons = [polygon for polygon in polygons if len(polygon) not in (0, 2, 4)]
    if not polygons:
        return np.zeros((height, width), bool)
    check_polygons(polygons, image)
    runs = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    inside: np.ndarray = coco_mask.decode(runs).astype(bool)
    return inside


def decode_runs(segmentation: Mapping[str, Any], image: Instances) -> np.ndarray:
    """Pixels (H, W) bool of run lengths, not by pycocotools, which writes beyond broken ones."""
    size, counts = segmentation['size'], segmentation['counts']
    if isinstance(counts, (str, bytes)):
        counts = unpack_counts(counts.encode() if isinstance(counts, str) else counts)
    counts = np.asarray(counts, np.int64)
    pixels, wanted = int(counts.sum()), [image.height, image.width]
    if list(size) != wanted or pixels != image.height * image.width or counts.min() < 0:
        raise DataError(
            f'{image.label}: run lengths have the size {size} and {pixels} pixels, the image '
            f'{wanted}: correct them, or write the file anew.'
        )
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(wanted, order='F')


def unpack_counts(text: bytes) -> list[int]:
    """Run lengths of COCO's compressed form.

    Each number has 5 bits in a character from '0' on, the lowest first; bit 6 says that it goes on.
    From the fourth on they are differences to the number before the last.

    Raises:
        ValueError: The last number is not complete.
    """
    counts: list[int] = []
    number = shift = 0
    for one in text:
        bits = one - 48
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
        number = shift = 0
    if shift:
        raise ValueError(f'the run lengths end in {text[-3:]!r}: they must be complete')
    return counts


def encode_runs(inside: np.ndarray) -> dict[str, Any]:
    """Run lengths of bool (H, W)."""
    flat = inside.ravel(order='F')
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], ends, [flat.size]]))
    if flat[:1].any():
        counts = np.concatenate([[0], counts])
    return dict(size=list(inside.shape), counts=counts)


def check_polygons(polygons: Sequence[Sequence[float]], image: Instances) -> None:
    """Refuse coordinates that are no numbers or far away: pycocotools would fill the memory."""
    farthest = MOST_OUTSIDE * max(image.height, image.width)
    for polygon in polygons:
        if isinstance(polygon, str) or len(polygon) % 2:
            raise DataError(
                f'{image.label}: a polygon must be pairs of x and y, got {str(polygon)[:60]!r}; '
                'correct or remove it.'
            )
        for one in polygon:
            if not math.isfinite(one) or abs(one) > farthest:
                raise DataError(
                    f'{image.label}: a polygon has the coordinate {one}, far outside of the image '
                    f'of {image.width} x {image.height} pixels: correct or remove it.'
                )
