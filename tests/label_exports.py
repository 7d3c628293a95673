"""Photographs for exports of labeling tools, and reading what was brought."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from mmseg_semi.prepare.import_labels import import_labels


def photo(path: Path, width: int = 40, height: int = 30, orientation: int = 1, seed: int = 0):
    """A photograph of noise, as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    if orientation != 1:
        exif[0x0112] = orientation
    image.save(path, exif=exif)
    return path


def bring(source: Path, out: Path, **options):
    """Run the command's function; the new folder."""
    options = {'kind': 'auto', **options}
    import_labels(source, out=out, **options)
    return out


def mask(out: Path, name: str) -> np.ndarray:
    with Image.open(out / 'annotations' / name) as image:
        assert image.mode == 'L'
        return np.array(image)


def classes(out: Path) -> list[str]:
    return json.loads((out / 'classes.json').read_text())['classes']


def boxes(out: Path) -> list[tuple]:
    """File, class, box, crowd of each box."""
    content = json.loads((out / 'boxes.json').read_text())
    names = {one['id']: one['file_name'] for one in content['images']}
    kinds = {one['id']: one['name'] for one in content['categories']}
    return [
        (names[one['image_id']], kinds[one['category_id']], one['bbox'], one['iscrowd'])
        for one in content['annotations']
    ]


def not_used(out: Path) -> list[str]:
    return (out / 'not_used.txt').read_text().splitlines()


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of change of all files."""
    return {
        one.relative_to(folder).as_posix(): (one.read_bytes(), one.stat().st_mtime_ns)
        for one in sorted(folder.rglob('*'))
        if one.is_file()
    }
