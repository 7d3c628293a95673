"""Label Studio's json (also JSON-MIN), with polygons, rectangles, ellipses and brush strokes.

Coordinates are percents of the image. Where PNG files of brush labels lie beside the json, they
take the place of its brush labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from mmseg_semi.datasets.image_files import IMG_SUFFIXES
from mmseg_semi.errors import DataError
from mmseg_semi.files import files_below
from mmseg_semi.prepare.instances import encode_runs
from mmseg_semi.prepare.label_formats.brush import decode
from mmseg_semi.prepare.label_formats.mask_values import read_pixels
from mmseg_semi.prepare.label_formats.records import (
    Export,
    Object,
    Objects,
    Picture,
    box_polygon,
    broken,
    ellipse_polygon,
    in_order,
    rotate,
)

#: Types of results that are no shapes of the image.
OTHER = ('relation', 'choices', 'rating', 'textarea', 'taxonomy', 'number', 'datetime', 'pairwise')
UPLOADED = re.compile(r'^[0-9a-f]{8}-')
BRUSH_FILE = re.compile(r'^task-(\d+)-annotation-(\d+)-by-.*?-tag-(.+)-\d+\.png$')


def is_label_studio(content: Any) -> bool:
    """Whether the content of a json file is in this format."""
    if not (isinstance(content, list) and content and all(isinstance(t, dict) for t in content)):
        return False
    return all('data' in task for task in content) or any(_is_short(task) for task in content)


def _is_short(task: Mapping[str, Any]) -> bool:
    """Whether a task is one of JSON-MIN."""
    return 'data' not in task and bool({'annotation_id', 'annotator', 'lead_time'} & task.keys())


def read(files: Mapping[Path, Any]) -> Export:
    """Read files; classes are in the order of the alphabet.

    Args:
        files: Content by path.

    Raises:
        DataError: An entry lacks something; names file and entry.
    """
    export = Export([], [])
    for path, content in files.items():
        brushes = _brush_files(path.parent)
        export.own_files |= {file for several in brushes.values() for _, file in several}
        for place, task in enumerate(content, 1):
            entry = f'task {task.get("id", f"number {place}")}'
            try:
                names = _names(task)
                results = _results(task, f'{path}, {entry}', export)
                brush = brushes.get(str(task.get('id')), [])
                picture = _picture(f'{path}, {entry}', names, results, brush, export)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                raise broken(path, entry, error) from error
            export.pictures.append(picture)
            if isinstance(picture.labels, Objects):
                export.classes += [one.name for one in picture.labels.several]
    export.classes = in_order(export.classes)
    return export


def _names(task: Mapping[str, Any]) -> tuple[str, ...]:
    """Paths that the image may have."""
    data = task.get('data', task)
    texts = [data['image']] if isinstance(data.get('image'), str) else []
    texts += [one for one in data.values() if isinstance(one, str)]
    for text in texts:
        parts = urlsplit(text.replace('\\', '/'))
        path = unquote(parse_qs(parts.query).get('d', [parts.path])[0])
        if path.lower().endswith(IMG_SUFFIXES):
            last = path.rpartition('/')[2]
            return (path, UPLOADED.sub('', last)) if UPLOADED.match(last) else (path,)
    raise ValueError(f'data must name an image, and has {", ".join(data) or "nothing"}')


def _results(task: Mapping[str, Any], label: str, export: Export) -> list[Any] | None:
    """The results of the annotation that is used; None where the task has none."""
    if _is_short(task):
        shapes = [one for one in task.values() if isinstance(one, list)]
        return [
            dict(value=one, **{key: one.get(key) for key in ('original_width', 'original_height')})
            for several in shapes
            for one in several
            if isinstance(one, dict)
        ]
    several = task.get('annotations', task.get('completions')) or []
    finished = [one for one in several if not one.get('was_cancelled')]
    if not finished:
        return None
    chosen = next((one for one in finished if one.get('ground_truth')), finished[-1])
    if len(finished) > 1:
        export.notes.append(
            f'{label}: of {len(finished)} annotations only {chosen.get("id", "the last")} is used'
        )
    results: list[Any] = chosen['result']
    return results


def _picture(
    label: str,
    names: tuple[str, ...],
    results: list[Any] | None,
    brush: list[tuple[str, Path]],
    export: Export,
) -> Picture:
    if results is None and not brush:
        return Picture(label, names, None, None)
    objects: list[Object] = []
    sizes = set()
    for name, file in brush:
        inside = read_pixels(file).values > 0
        sizes.add(inside.shape[::-1])
        objects.append(Object(file.name, name, encode_runs(inside)))
    named = {one.get('id') for one in results or [] if _class_of(one) is not None}
    for place, one in enumerate(results or [], 1):
        value, where = one.get('value', {}), f'result number {place}'
        if one.get('type') in OTHER or (brush and 'rle' in value):
            continue
        if one.get('image_rotation'):
            export.notes.append(f'{label}: labels of a turned view are not used')
            return Picture(label, names, None, None)
        kind = _class_of(one)
        if kind is None:
            if one.get('id') not in named:
                export.notes.append(f'{label}, {where}: it has no class')
            continue
        size = int(one['original_width']), int(one['original_height'])
        try:
            segmentation = _segmentation(value, *size)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise broken(label, where, error) from error
        if segmentation is None:
            export.notes.append(f'{label}, {where}: {one.get("type", "it")} has no pixels')
            continue
        sizes.add(size)
        objects.append(Object(where, kind, segmentation))
    if len(sizes) > 1:
        raise DataError(f'{label}: its labels must belong to one size, and have {sorted(sizes)}')
    return Picture(label, names, next(iter(sizes), None), Objects(tuple(objects)))


def _class_of(result: Mapping[str, Any]) -> str | None:
    value = result.get('value', {})
    several = next((one for key, one in value.items() if key.endswith('labels') and one), None)
    return str(several[0]) if isinstance(several, list) else None


def _segmentation(value: Mapping[str, Any], width: int, height: int) -> Any:
    """Polygons or run lengths of a shape; None for one without pixels."""
    across, down = width / 100, height / 100
    if 'rle' in value:
        return encode_runs(decode(value['rle'], width, height))
    if 'points' in value:
        if len(value['points']) < 3:
            return None
        return [[float(one) for x, y in value['points'] for one in (x * across, y * down)]]
    degrees = float(value.get('rotation') or 0)
    if 'radiusX' in value:
        x, y = value['x'] * across, value['y'] * down
        polygon = ellipse_polygon(x, y, value['radiusX'] * across, value['radiusY'] * down)
        return [rotate(polygon, degrees, x, y)]
    if 'height' in value and 'x' in value:
        x, y = value['x'] * across, value['y'] * down
        corners = x, y, x + value['width'] * across, y + value['height'] * down
        return [rotate(box_polygon(*corners), degrees, x, y)]
    return None


def _brush_files(folder: Path) -> dict[str, list[tuple[str, Path]]]:
    """Classes and PNG files of brush labels by task, of the last annotation of each."""
    found: dict[str, dict[int, list[tuple[str, Path]]]] = {}
    for file in files_below(folder, '.png'):
        match = BRUSH_FILE.match(file.name)
        if match:
            task, annotation, name = match.groups()
            found.setdefault(task, {}).setdefault(int(annotation), []).append((name, file))
    return {task: several[max(several)] for task, several in found.items()}


def brush_files_alone(source: Path) -> Iterator[Path]:
    """PNG files of brush labels, whose tasks only a json file can name."""
    if source.is_dir():
        yield from (one for one in files_below(source, '.png') if BRUSH_FILE.match(one.name))
