"""Sizes of the objects in masks: connected parts of a class."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from mmseg_semi.errors import name_some

from .dataset_tree import data_infos, leaf_datasets, pipeline_transforms, resized
from .file_records import ObjectRecord, look_at
from .findings import Finding
from .mask_checks import coding_of
from .part_checks import Part

#: Masks of a part that are looked at, evenly chosen.
MOST_MASKS = 500
#: Objects of so many pixels are specks; a class needs so many objects to be spoken of.
SPECK, LEAST = 3, 5
_STEPS = 4  # bins of an octave


def read_objects(path: str) -> ObjectRecord:
    """Count the objects of each value of a mask by their size.

    The size of an object is the root of its pixels; neighbors across a corner belong together.
    """
    try:
        with Image.open(path) as image:
            mask = np.asarray(image)
    except Exception as error:  # unreadable masks are named elsewhere
        return ObjectRecord(type(error).__name__)
    if mask.ndim != 2 or mask.dtype not in (np.bool_, np.uint8):
        return ObjectRecord('no mask of 8 bits')
    found: Counter[tuple[int, int]] = Counter()
    mask = mask.astype(np.uint8)
    for value in np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist():
        same = (mask == value).view(np.uint8)
        areas = cv2.connectedComponentsWithStats(same, connectivity=8)[2][1:, cv2.CC_STAT_AREA]
        bins, counts = np.unique(np.round(_STEPS / 2 * np.log2(areas)), return_counts=True)
        for one, count in zip(bins.tolist(), counts.tolist()):
            found[value, int(one)] += count
    return ObjectRecord(None, [[value << 8 | one, count] for (value, one), count in found.items()])


def check_objects(part: Part, stride: float | None) -> Iterator[Finding]:
    """Say which classes have objects that a network can hardly see.

    Args:
        part: A part with masks, after ``check_parts``; its sizes of objects are kept in it.
        stride: Pixels of an image, after resizing, to one pixel of the network's logits; None where
            it is not known.
    """
    sizes, specks = _sizes(part)
    noisy: dict[int, str] = {}
    small: dict[int, str] = {}
    factor = _factor(part)
    for number, name in enumerate(part.classes):
        counts = sizes[number]
        objects = sum(counts.values())
        if objects < LEAST:
            continue
        tiny = sum(n for size, n in counts.items() if size * size < SPECK + 0.5)
        if 2 * tiny > objects:
            noisy[number] = f'{tiny} of {objects} of {name}'
            continue
        middle = part.object_sizes[number] = _median(counts) * factor
        if stride and middle < stride:
            small[number] = f'{middle:.1f} x {middle:.1f} of the {objects} of {name}'
    if noisy:
        files = sorted({path for number in noisy for path in specks[number]})
        yield Finding(
            48,
            f'{part.key}: most connected parts have {SPECK} pixels at most: '
            f'{", ".join(noisy.values())}, as in {name_some(files)}.',
            'Look whether the masks are noisy (made from JPEG, resized with interpolation), and '
            'draw them anew or filter them.',
            files,
        )
    if small:
        yield Finding(
            47,
            f'{part.key}: half of the objects are smaller, when they are cropped, than a pixel of '
            f'the network, which is {stride:g} x {stride:g}: {", ".join(small.values())}.',
            'Enlarge the images (train_dataloader.dataset.geometry.resize.scale), or lower the '
            'stride (strides and dilations of the backbone).',
            sorted({path for number in small for path in part.masks.masks_with[number]}),
        )


def _sizes(part: Part) -> tuple[dict[int, Counter[float]], dict[int, list[str]]]:
    """Number of objects by size of each class, and the masks with most specks of it."""
    sizes: dict[int, Counter[float]] = defaultdict(Counter)
    specks: dict[int, list[str]] = defaultdict(list)
    readable = {*part.masks.paths}
    for leaf in leaf_datasets(part.dataset):
        loader = any(isinstance(one, LoadAnnotations) for one in pipeline_transforms(leaf))
        coding = coding_of(leaf, None) if loader else None
        paths = [path for path in _mask_paths(leaf) if path in readable] if coding else []
        paths = paths[:: max(1, -(-len(paths) // MOST_MASKS))]
        for path, record in zip(paths, look_at(paths, read_objects, ObjectRecord, 'masks')):
            small: Counter[int] = Counter()
            for packed, count in record.objects:
                number = coding.loaded(packed >> 8) if coding else None
                if number is None or number >= len(part.classes):
                    continue
                size = 2 ** ((packed & 255) / _STEPS)
                sizes[number][size] += count
                small[number] += count if size * size < SPECK + 0.5 else -count
            for number, excess in small.items():
                if excess > 0:
                    specks[number].append(path)
    return sizes, specks


def _mask_paths(leaf: Any) -> list[str]:
    paths = (one.get('seg_map_path') for one in data_infos(leaf))
    return list(dict.fromkeys(path for path in paths if path))


def _median(counts: Counter[float]) -> float:
    """Of values with their numbers."""
    half, seen = sum(counts.values()) / 2, 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= half:
            return value
    return math.nan


def _factor(part: Part) -> float:
    """By what the most frequent size of the images is enlarged when they are resized."""
    (width, height), _ = max(part.sizes.items(), key=lambda item: item[1], default=((1, 1), 0))
    wide, high = resized(part.dataset, (width, height))
    return math.sqrt(wide * high / (width * height))
