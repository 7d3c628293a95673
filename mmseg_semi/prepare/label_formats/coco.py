"""COCO's json: ``images``, ``annotations`` with polygons or run lengths, ``categories``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmseg_semi.errors import DataError
from mmseg_semi.prepare.label_formats.records import Export, Object, Objects, Picture, broken

PARTS = ('images', 'annotations', 'categories')
#: An entry of each of them.
EXAMPLES = dict(
    images='{"id": 1, "file_name": "a.jpg", "width": 640, "height": 480}',
    annotations='{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[...]]}',
    categories='{"id": 1, "name": "cat"}',
)


def is_coco(content: Any) -> bool:
    """Whether the content of a json file is in this format."""
    return isinstance(content, dict) and all(isinstance(content.get(one), list) for one in PARTS)


def missing_key(content: Any) -> str | None:
    """The key that a json file lacks to be in this format, if it has the two others."""
    if not isinstance(content, dict):
        return None
    lacking = [one for one in PARTS if not isinstance(content.get(one), list)]
    return lacking[0] if len(lacking) == 1 else None


def read(files: Mapping[Path, Any]) -> Export:
    """Read files; their categories are joined by name, in the order of the first file's ids.

    Args:
        files: Content by path.

    Raises:
        DataError: An entry lacks something; names file and entry.
    """
    export, classes = Export([], []), {}
    for path, content in files.items():
        names = _by_id(path, 'category', content['categories'], 'name')
        classes.update(dict.fromkeys(names[number] for number in sorted(names)))
        for name in sorted({one for one in names.values() if [*names.values()].count(one) > 1}):
            numbers = ', '.join(str(one) for one in sorted(names) if names[one] == name)
            export.notes.append(f'{path}: categories {numbers} are all {name}, one class here')
        images = _by_id(path, 'image', content['images'], 'file_name')
        found = defaultdict(list)
        for entry in content['annotations']:
            label = f'annotation {entry.get("id")}' if isinstance(entry, dict) else str(entry)
            try:
                if entry['image_id'] not in images or entry['category_id'] not in names:
                    lacking = [
                        f'{key} {entry[f"{key}_id"]}'
                        for key, listed in (('image', images), ('category', names))
                        if entry[f'{key}_id'] not in listed
                    ]
                    raise DataError(
                        f'{path}, {label} is of {" and ".join(lacking)}, which the file does not '
                        'list: add it, or take the annotation out'
                    )
                found[entry['image_id']].append(_object(label, entry, names))
            except (KeyError, TypeError, ValueError) as error:
                raise broken(path, label, error) from error
        inside = path.parent.name if len(files) > 1 else ''
        for entry in content['images']:
            name = str(entry['file_name']).replace('\\', '/')
            try:
                size = int(entry['width']), int(entry['height'])
            except (KeyError, TypeError, ValueError) as error:
                raise broken(path, f'image {name}', error) from error
            several = (f'{inside}/{name}', name) if inside else (name,)
            objects = Objects(tuple(found[entry['id']]))
            export.pictures.append(Picture(f'{path}, image {name}', several, size, objects))
    export.classes = list(classes)
    return export


def _by_id(path: Path, kind: str, entries: list[Any], key: str) -> dict[Any, str]:
    found: dict[Any, str] = {}
    for place, entry in enumerate(entries, 1):
        try:
            number, name = entry['id'], entry[key]
            if number in found:
                raise ValueError(f'id={number} must be there only once')
            if not isinstance(name, str) or not isinstance(number, int):
                raise ValueError(f'id must be a whole number and {key} a text')
        except (KeyError, TypeError, ValueError) as error:
            raise broken(path, f'{kind} number {place}', error) from error
        found[number] = name
    return found


def _is_line(polygon: Any) -> bool:
    return isinstance(polygon, list) and len(polygon) in (2, 4)


def _object(label: str, entry: Mapping[str, Any], names: Mapping[Any, str]) -> Object:
    segmentation, box = entry.get('segmentation'), entry.get('bbox')
    if isinstance(segmentation, dict):
        if not {'size', 'counts'} <= segmentation.keys():
            raise ValueError(f'run lengths must have size and counts, not {list(segmentation)}')
    elif segmentation and not isinstance(segmentation[0], list):
        segmentation = [segmentation]  # one polygon, as some tools write it
    if isinstance(segmentation, list):  # a point and a line have no pixels; others are broken
        segmentation = [one for one in segmentation if one != [] and not _is_line(one)]
    corners = None
    if box and len(box) == 4:
        x, y, width, height = map(float, box)
        corners = x, y, x + width, y + height
    crowd = bool(entry.get('iscrowd'))
    return Object(label, names[entry['category_id']], segmentation or [], crowd, box=corners)
