"""Predictions for a labeling tool, which reads them as annotations to correct."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmseg_semi.apis.outlines import polygons, regions
from mmseg_semi.apis.prediction_files import read_labels
from mmseg_semi.prepare.label_formats.cvat_masks import CLASSES, LABEL_MAP, OBJECTS
from mmseg_semi.prepare.label_formats.records import BACKGROUND, Color
from mmseg_semi.prepare.label_maps import encode_png
from mmseg_semi.prepare.own_files import OwnFiles
from mmseg_semi.utils.progress import track

FORMATS = ('coco', 'cvat')
_NOTE = 'predict'
_ODD = 0x9E3779  # multiplied by it, numbers below 2**24 are different colors
Labels = Callable[[], Iterable[tuple[str, np.ndarray]]]


def write_annotations(
    out: Path, kind: str, files: Mapping[str, Path], meta: Mapping[str, Any], reduced: bool
) -> None:
    """Write the predictions of images in a format that labeling tools read.

    Each region of a class, its pixels connected by their sides, is an object; the background, where
    a class is called so, has none.

    Args:
        out: Folder: gets ``coco.json``, or the folder ``cvat``.
        kind: One of ``FORMATS``.
        files: Label maps by the names of their images.
        meta: ``classes``, and ``palette`` where it is known.
        reduced: Whether the numbers in label maps are one more than those of classes.

    Raises:
        DataError: Files would be replaced that this function has not written.
    """
    own = OwnFiles(out, f'{kind}-files.json')

    def labels() -> Iterable[tuple[str, np.ndarray]]:
        for name, path in track(files.items(), f'images for {kind}', len(files)):
            yield name, read_labels(path) - int(reduced)

    (_write_coco if kind == 'coco' else _write_cvat)(own, list(files), labels, meta)


def _background(classes: Sequence[str]) -> int | None:
    names = [name.lower() for name in classes]
    return next((names.index(name) for name in BACKGROUND if name in names), None)


def _write_coco(
    own: OwnFiles, names: Sequence[str], labels: Labels, meta: Mapping[str, Any]
) -> None:
    wanted = {'coco.json': None}
    own.claim(wanted)
    background = _background(meta['classes'])
    kept = [number for number in range(len(meta['classes'])) if number != background]
    ids = {number: place for place, number in enumerate(kept, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for place, (name, found) in enumerate(labels(), 1):
        height, width = found.shape
        images.append(dict(id=place, file_name=name, width=width, height=height))
        for one in regions(found, background):
            rows, columns = one.inside.shape
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=place,
                    category_id=ids[one.number],
                    segmentation=polygons(one.inside, one.x, one.y),
                    area=int(one.inside.sum()),
                    bbox=[one.x, one.y, columns, rows],
                    iscrowd=0,
                )
            )
    categories = [dict(id=place, name=meta['classes'][number]) for number, place in ids.items()]
    content = dict(info={}, images=images, annotations=annotations, categories=categories)
    own.write('coco.json', json.dumps(content) + '\n')
    own.close(wanted)


def class_colors(meta: Mapping[str, Any]) -> list[Color]:
    """A color for each class: black for the background alone, the palette's where it is unique."""
    classes, palette = meta['classes'], meta.get('palette') or []
    background = _background(classes)
    used: set[Color] = {(0, 0, 0)}
    colors: list[Color] = []
    for number in range(len(classes)):
        red, green, blue = palette[number] if number < len(palette) else (0, 0, 0)
        color = int(red), int(green), int(blue)
        turn = number + 1
        while color in used and number != background:
            color, turn = _color(turn), turn + len(classes)
        colors.append((0, 0, 0) if number == background else color)
        used.add(colors[-1])
    return colors


def _color(number: int) -> Color:
    mixed = number * _ODD & 0xFFFFFF
    return mixed >> 16, mixed >> 8 & 255, mixed & 255


def _stem(name: str) -> str:
    return name[: -len(Path(name).suffix)]


def _write_cvat(
    own: OwnFiles, names: Sequence[str], labels: Labels, meta: Mapping[str, Any]
) -> None:
    counts = Counter(map(_stem, names))
    stems = [name if counts[stem] > 1 else stem for name, stem in zip(names, map(_stem, names))]
    lists = [f'cvat/{LABEL_MAP}', 'cvat/ImageSets/Segmentation/default.txt']
    masks = [f'cvat/{folder}/{stem}.png' for folder in (CLASSES, OBJECTS) for stem in stems]
    wanted = dict.fromkeys([*lists, *masks])
    own.claim(wanted)
    background, colors = _background(meta['classes']), class_colors(meta)
    table = np.array(colors, np.uint8)
    for stem, (_, found) in zip(stems, labels()):
        objects = np.zeros((*found.shape, 3), np.uint8)
        for number, one in enumerate(regions(found, background), 1):
            height, width = one.inside.shape
            box = objects[one.y : one.y + height, one.x : one.x + width]
            box[one.inside] = _color(number)
        own.write(f'cvat/{CLASSES}/{stem}.png', encode_png(table[found], _NOTE))
        own.write(f'cvat/{OBJECTS}/{stem}.png', encode_png(objects, _NOTE))
    lines = [f'{name}:{r},{g},{b}::' for name, (r, g, b) in zip(meta['classes'], colors)]
    own.write(lists[0], '# label:color_rgb:parts:actions\n' + '\n'.join(lines) + '\n')
    own.write(lists[1], '\n'.join(stems) + '\n')
    own.close(wanted)
