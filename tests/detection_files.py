"""COCO files of detected boxes for tests, and a slow drawing of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

#: Name of the image, class number, (x, y, width, height), score.
Detection = tuple[str, int, Sequence[float], float]


def category_id(number: int) -> int:
    """An id that neither is the class number nor has its order."""
    return 1000 - 3 * number


def write_detections(
    folder: Path,
    sizes: Mapping[str, tuple[int, int]],
    classes: Sequence[str],
    found: Sequence[Detection],
) -> dict[str, str]:
    """Write both files, the results in the order of ``found``.

    Args:
        folder: Where.
        sizes: Height and width by file name.
        classes: Names of the classes.
        found: The boxes.

    Returns:
        The arguments ``results`` and ``images`` of ``LoadDetections``.
    """
    ids = {name: 7 + 2 * i for i, name in enumerate(sizes)}
    listed: dict[str, Any] = dict(
        images=[
            dict(id=ids[name], file_name=name, height=height, width=width)
            for name, (height, width) in sizes.items()
        ],
        annotations=[],
        categories=[dict(id=category_id(i), name=name) for i, name in enumerate(classes)],
    )
    results = [
        dict(image_id=ids[n], category_id=category_id(k), bbox=list(map(float, box)), score=score)
        for n, k, box, score in found
    ]
    files = dict(results=folder / 'found.bbox.json', images=folder / 'listed.json')
    folder.mkdir(parents=True, exist_ok=True)
    files['results'].write_text(json.dumps(results))
    files['images'].write_text(json.dumps(listed))
    return {key: str(path) for key, path in files.items()}


def rewrite(path: str, change: Any) -> None:
    """Apply ``change`` to what a json file holds."""
    content = json.loads(Path(path).read_text())
    changed = change(content)
    Path(path).write_text(json.dumps(content if changed is None else changed))


def draw(
    boxes: Sequence[tuple[int, Sequence[float]]], num_classes: int, size: tuple[int, int]
) -> np.ndarray:
    """Bool (K, H, W): pixels whose center lies in a box (x, y, width, height) of the class."""
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    covered = np.zeros((num_classes, *size), bool)
    for number, (x, y, width, height) in boxes:
        inside = (x <= columns) & (columns < x + width) & (y <= rows) & (rows < y + height)
        covered[number] |= inside
    return covered


def unpack(packed: np.ndarray, num_classes: int) -> np.ndarray:
    """Bool (..., K, H, W) from the packed map (..., ceil(K/8), H, W)."""
    bits = np.unpackbits(np.asarray(packed), axis=-3, bitorder='little')
    assert not bits[..., num_classes:, :, :].any(), 'a bit of no class is set'
    return bits[..., :num_classes, :, :].astype(bool)
