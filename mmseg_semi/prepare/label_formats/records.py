"""What the reader of every label format gives: images with their objects, classes, what is left."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Union

import numpy as np

from mmseg_semi.errors import DataError, reading
from mmseg_semi.prepare.instances import (
    IGNORED,
    Instance,
    Instances,
    layer_key,
    rasterize,
)

BACKGROUND = ('background', '_background_', '__background__')
#: Label of what is of unknown class.
IGNORE = '__ignore__'
Color = tuple[int, int, int]
Turn = Callable[[np.ndarray], np.ndarray]


class Numbers(NamedTuple):
    """Class numbers by name, and the number of what is of none of these classes."""

    of_name: Mapping[str, int]
    other: int

    def get(self, name: str) -> int:
        """Number of a class."""
        return IGNORED if name == IGNORE else self.of_name.get(name, self.other)


class Box(NamedTuple):
    """Box of an object in pixels, half-open, with its class number."""

    number: int
    x1: int
    y1: int
    x2: int
    y2: int
    crowd: bool


class Drawn(NamedTuple):
    """Labels of an image.

    Attributes:
        mask: Class numbers (H, W) uint8, 255 for unknown.
        boxes: Of the objects.
        notes: What could not be used, and why.
        changed: Pixels whose color or number was none of the classes' and became the nearest.
        far: Those of them that are far from it.
    """

    mask: np.ndarray
    boxes: list[Box]
    notes: list[str]
    changed: int = 0
    far: int = 0


class Object(NamedTuple):
    """An object as a file has it.

    Attributes:
        label: Its name in messages.
        name: Its class.
        segmentation: As in :class:`~mmseg_semi.prepare.instances.Instance`; empty where the file
            has only its box.
        crowd: Whether it is a group of objects.
        order: As in :class:`~mmseg_semi.prepare.instances.Instance`.
        box: x1, y1, x2, y2, for an object without segmentation.
    """

    label: str
    name: str
    segmentation: Any
    crowd: bool = False
    order: float = 0.0
    box: tuple[float, float, float, float] | None = None


class Objects(NamedTuple):
    """The objects of an image."""

    several: Sequence[Object]

    def draw(self, label: str, size: tuple[int, int], numbers: Numbers, turn: Turn) -> Drawn:
        """Draw them.

        Of an object without segmentation the box becomes unknown, below all others.

        Args:
            label: The image's name in messages.
            size: Width and height in pixels.
            numbers: Class numbers.
            turn: Turns what was drawn as the image is turned.

        Raises:
            DataError: A segmentation cannot be drawn.
        """
        mask = np.full(size[::-1], numbers.other, np.uint8)
        notes, boxes = [], []
        layers: list[tuple[Instance, Box, np.ndarray]] = []
        for one in self.several:
            if one.name not in numbers.of_name and one.name != IGNORE:
                notes.append(f'{one.label}: {one.name} is none of the classes')
            canvas = Instances(f'{label}, {one.label}', size[1], size[0], [])
            inside = pixels_of(one, canvas)
            number = numbers.get(one.name)
            box = box_around(inside, number, one.crowd) if inside.any() else None
            if not one.segmentation:
                mask[inside] = IGNORED
                remark = 'its box is unknown in the mask' if box else 'nothing is drawn'
                notes.append(f'{one.label}: no segmentation, {remark}')
            elif box is None:
                notes.append(f'{one.label}: it covers no pixel')
            else:
                part = inside[box.y1 : box.y2, box.x1 : box.x2].copy()
                layer = Instance(number, float(part.sum()), one.crowd, None, one.order)
                layers.append((layer, box, part))
            if box is not None and one.name in numbers.of_name:
                boxes.append(turn_box(box, mask.shape, turn))
        for layer, box, part in sorted(layers, key=lambda each: layer_key(each[0])):
            mask[box.y1 : box.y2, box.x1 : box.x2][part] = layer.number
        return Drawn(turn(mask), boxes, notes)


class Picture(NamedTuple):
    """An image of an export.

    Attributes:
        label: Its name in messages.
        names: Its path as the export has it, and what else the file may be called.
        size: Width and height that the labels belong to, None for the image's own.
        labels: What draws its mask; None where the export says that it has no labels yet.
        embedded: The image file itself, where the export has it.
    """

    label: str
    names: tuple[str, ...]
    size: tuple[int, int] | None
    labels: Labels | None
    embedded: bytes | None = None


class LabelMap(NamedTuple):
    """A mask that is there already; ``read`` gives it as class numbers."""

    read: Callable[[Numbers], Drawn]

    def draw(self, label: str, size: tuple[int, int], numbers: Numbers, turn: Turn) -> Drawn:
        """Read it, see :meth:`Objects.draw`."""
        drawn = self.read(numbers)
        height, width = drawn.mask.shape
        if (width, height) != tuple(size):
            raise DataError(
                f'{label}: the mask has {width} x {height} pixels, its image '
                f'{size[0]} x {size[1]}; they must have one size'
            )
        boxes = [turn_box(one, (height, width), turn) for one in drawn.boxes]
        return drawn._replace(mask=turn(drawn.mask), boxes=boxes)


Labels = Union[Objects, LabelMap]


@dataclass
class Export:
    """What a labeling tool has written.

    Attributes:
        pictures: Its images.
        classes: Names of the classes, in the order in which they get their numbers.
        colors: RGB of classes, as far as they are known.
        background: Whether what has no object is background, so that this class is needed.
        notes: What could not be used, and why.
        own_files: Images that hold labels, and are none of the images.
        folder: Where the images are, None where that is not known.
    """

    pictures: list[Picture]
    classes: list[str]
    colors: dict[str, Color] = field(default_factory=dict)
    background: bool = True
    notes: list[str] = field(default_factory=list)
    own_files: set[Path] = field(default_factory=set)
    folder: Path | None = None


# ------------------------------------------------------------------------------------------ pixels
def box_around(inside: np.ndarray, number: int, crowd: bool = False) -> Box:
    """Box of pixels, bool (H, W) with one at least."""
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    ends = int(columns[-1]) + 1, int(rows[-1]) + 1
    return Box(number, int(columns[0]), int(rows[0]), *ends, crowd)


def turn_box(box: Box, shape: tuple[int, ...], turn: Turn) -> Box:
    """The box in the turned image; ``shape`` is height and width of the image that it is in."""
    corners = np.zeros(shape, bool)
    corners[[box.y1, box.y2 - 1], [box.x1, box.x2 - 1]] = True
    return box_around(turn(corners), box.number, box.crowd)


def pixels_of(one: Object, canvas: Instances) -> np.ndarray:
    """Pixels (H, W) bool of an object; of one without segmentation those of its box."""
    if one.segmentation:
        return rasterize(one.segmentation, canvas)
    if one.box is None or not (one.box[2] > one.box[0] and one.box[3] > one.box[1]):
        return np.zeros((canvas.height, canvas.width), bool)
    return rasterize([box_polygon(*one.box)], canvas)


def box_polygon(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    """Corners of a box, in the form of COCO's polygons."""
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def ellipse_polygon(
    x: float, y: float, radius_x: float, radius_y: float, corners: int = 180
) -> list[float]:
    """Polygon of an ellipse with upright axes."""
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    points = np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1)
    return [float(one) for one in points.ravel()]


def rotate(polygon: Sequence[float], degrees: float, x: float, y: float) -> list[float]:
    """Turn a polygon around a point, clockwise as seen on the screen (y points downward)."""
    if not degrees:
        return list(polygon)
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    points = np.reshape(polygon, (-1, 2)) - (x, y)
    turned = points @ np.array([[cosine, sine], [-sine, cosine]]) + (x, y)
    return [float(one) for one in turned.ravel()]


def color_of(text: str) -> Color:
    """RGB of ``#rrggbb``."""
    red, green, blue = bytes.fromhex(text.lstrip('#'))
    return red, green, blue


# ------------------------------------------------------------------------------------------- files
def load_json(path: Path) -> Any:
    """Content of a JSON file.

    Raises:
        DataError: It is none; names it.
    """
    with reading(path):
        return json.loads(path.read_bytes())


def in_order(names: Iterable[str]) -> list[str]:
    """Names of classes without repetition, by the alphabet, a background first."""
    return sorted(set(names) - {IGNORE}, key=lambda name: (name.lower() not in BACKGROUND, name))


def broken(path: object, entry: object, error: Exception) -> DataError:
    """The refusal of an entry that lacks something or has something else in its place."""
    what = f'{error} is missing' if isinstance(error, KeyError) else str(error)
    return DataError(f'{path}, {entry}: {what}. Correct it, or write the export anew.')
