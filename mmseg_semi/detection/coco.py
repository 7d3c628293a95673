"""Making, writing and reading COCO files of boxes, and the sizes of images that they name.

Category ids are class numbers of the segmentation data set, so they may begin at 0 and have gaps.
Ids of images and annotations begin at 1. There are no masks in the files: ``area`` is that of the
box, width times height.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from mmcv.transforms import LoadImageFromFile
from PIL import Image

from mmseg_semi.files import read_json, write_files

PARTS = ('images', 'annotations', 'categories')
_ORIENTATION = 0x0112
_HEADER_FORMATS = ('BMP', 'JPEG', 'PNG', 'WEBP')


# ------------------------------------------------------------------------------------------ making
def coco_images(sizes: Mapping[str, tuple[int, int]]) -> list[dict[str, Any]]:
    """List the images.

    Args:
        sizes: Width and height in pixels by file name, in the order of the ids.
    """
    return [
        dict(id=number, file_name=name, width=width, height=height)
        for number, (name, (width, height)) in enumerate(sizes.items(), 1)
    ]


def coco_annotations(
    boxes: Iterable[Sequence[tuple[int, int, int, int, int]]],
) -> list[dict[str, Any]]:
    """List the boxes.

    Args:
        boxes: For each image, in the order of the ids, its ``(class, x1, y1, x2, y2)`` as
            :func:`mmseg_semi.functional.components.masks_to_boxes` gives them.
    """
    found = [(image, *box) for image, of_image in enumerate(boxes, 1) for box in of_image]
    return [
        dict(
            id=number,
            image_id=image,
            category_id=one,
            bbox=[x1, y1, x2 - x1, y2 - y1],
            area=(x2 - x1) * (y2 - y1),
            iscrowd=0,
        )
        for number, (image, one, x1, y1, x2, y2) in enumerate(found, 1)
    ]


def coco_categories(names: Mapping[int, str]) -> list[dict[str, Any]]:
    """List the classes that get boxes, given their names by class number."""
    return [dict(id=number, name=name) for number, name in names.items()]


# ----------------------------------------------------------------------------------------- writing
def write_coco_files(files: Mapping[Path, Mapping[str, Any]]) -> None:
    """Write files that belong together, none of them before all are complete.

    Args:
        files: Content by path: ``info``, ``images``, ``annotations`` and ``categories``. Folders
            are made as needed.
    """
    write_files({path: json.dumps(content) + '\n' for path, content in files.items()})


# ----------------------------------------------------------------------------------------- reading
def read_coco(path: str | Path) -> dict[str, Any]:
    """Read a file and verify that its entries belong together.

    Returns:
        ``images``, ``annotations`` and ``categories``, lists of dicts, and ``info``, a dict.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: No COCO file, ids that occur twice, annotations of unknown images or
            categories, boxes that are not four numbers with a positive width and height.
    """
    maker = 'tools/dataset_converters/masks_to_coco.py makes it from the masks.'
    content = read_json(path, maker, what='COCO file')
    if not isinstance(content, dict) or not all(_is_list(content.get(part)) for part in PARTS):
        raise ValueError(f'{path} is no COCO file: it must have the lists {", ".join(PARTS)}')
    content['info'] = content.get('info') or {}
    ids = {part: _unique_ids(path, part, content[part]) for part in PARTS}
    for entry in content['annotations']:
        for key, part in (('image_id', 'images'), ('category_id', 'categories')):
            if entry.get(key) not in ids[part]:
                raise ValueError(
                    f'{path}: annotation {entry["id"]} has {key}={entry.get(key)!r}, which is the '
                    f'id of none of the {part}: write the file anew'
                )
        if not _is_box(entry.get('bbox')):
            raise ValueError(
                f'{path}: annotation {entry["id"]} has bbox={entry.get("bbox")!r}; it must be '
                '[x, y, width, height] in pixels, the last two above 0'
            )
    return content


def _is_list(part: object) -> bool:
    return isinstance(part, list) and all(isinstance(entry, dict) for entry in part)


def _unique_ids(path: str | Path, part: str, entries: list[dict[str, Any]]) -> set[int]:
    ids: set[int] = set()
    for entry in entries:
        number = entry.get('id')
        if not isinstance(number, int) or number in ids:
            raise ValueError(
                f'{path}: {part} has the id {number!r}, which is no number or is twice: write the '
                'file anew'
            )
        ids.add(number)
    return ids


def _is_box(box: object) -> bool:
    if not isinstance(box, list) or any(type(number) not in (int, float) for number in box):
        return False
    return len(box) == 4 and box[2] > 0 and box[3] > 0


# ------------------------------------------------------------------------------------- image sizes
def image_size(path: str, load: LoadImageFromFile, local: bool = True) -> tuple[int, int]:
    """Width and height of an image as its loader gives it, turned as its EXIF orientation says.

    Most files are not decoded: only those of other formats than BMP, JPEG, PNG and WebP, and those
    that may be turned.

    Args:
        path: Image file.
        load: The loading transform of the data set's pipeline.
        local: Whether the path is one of the file system.
    """
    size = _size_of_header(path) if local else None
    if size is None:
        height, width = load.transform(dict(img_path=path))['img'].shape[:2]
        size = width, height
    return size


def _size_of_header(path: str) -> tuple[int, int] | None:
    """The size when it is certain without decoding."""
    try:
        with open(path, 'rb') as file, Image.open(file) as image:
            if image.format not in _HEADER_FORMATS or _may_be_turned(image, file):
                return None
            return image.size
    except Exception:  # every parser has errors of its own; the loader has the last word
        return None


def _may_be_turned(image: Image.Image, file: BinaryIO) -> bool:
    if image.format == 'PNG':  # of which PIL decodes the pixels before it looks for EXIF data
        return _png_has_exif(file)
    orientation = image.getexif().get(_ORIENTATION)
    return orientation != 1 and not (orientation is None and 'exif' not in image.info)


def _png_has_exif(file: BinaryIO) -> bool:
    file.seek(8)
    while len(head := file.read(8)) == 8:
        if head[4:] in (b'eXIf', b'zTXt', b'iTXt', b'tEXt'):  # texts may hold EXIF or XMP data
            return True
        file.seek(int.from_bytes(head[:4], 'big') + 4, os.SEEK_CUR)
    return False
