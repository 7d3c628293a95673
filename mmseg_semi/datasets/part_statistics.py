"""What parts of the data hold, for people: a table, advice, and numbers for a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .dataset_tree import crop_size
from .part_checks import Part

RARE, MUCH_UNKNOWN, FAR_APART = 0.001, 0.5, 0.4


def share(part: Part, number: int) -> float:
    """Share of a class in the pixels that have one, from 0 to 1."""
    return part.masks.pixels[number] / max(sum(part.masks.pixels.values()), 1)


def unknown_share(part: Part) -> float:
    """Share of the pixels without a class, from 0 to 1."""
    masks = part.masks
    return masks.unknown / max(sum(masks.pixels.values()) + masks.unknown, 1)


def advice(parts: Sequence[Part], batch: int) -> Iterator[str]:
    """Sentences about data that can be trained on, but perhaps not as they were meant.

    Args:
        parts: All parts, after ``check_parts``.
        batch: Labeled images of a batch.
    """
    for one in parts:
        yield from _of_one(one)
    for train in (one for one in parts if one.role == 'train'):
        images = len(train.dataset)
        if batch > images:
            yield (
                f'{train.key} has {images} images, fewer than the {batch} of a batch, so that '
                'images are in it twice: give a smaller train_dataloader.batch_size'
            )
        for one in parts:
            if one.role in ('val', 'test') and list(one.classes) == list(train.classes):
                yield from _far_apart(train, one)


def _of_one(one: Part) -> Iterator[str]:
    if unknown_share(one) > MUCH_UNKNOWN:
        yield (
            f'{one.key}: {100 * unknown_share(one):.0f} % of the pixels are unknown (255): is that '
            'meant, or has a class that number?'
        )
    for number, name in enumerate(one.classes if one.role == 'train' else ()):
        if 0 < share(one, number) < RARE:
            yield (
                f'{one.key}: {name} has {100 * share(one, number):.3f} % of the pixels, in '
                f'{one.masks.masks_with[number]} of {one.masks.masks} masks: label more of it, or '
                'weigh it with decode_head.loss_decode.class_weight'
            )
    crop, images = crop_size(one.dataset), sum(one.sizes.values())
    if crop:
        sizes = one.sizes.items()
        smaller = sum(n for (width, height), n in sizes if height < crop[0] and width < crop[1])
        if 2 * smaller > images:
            yield (
                f'{one.key}: {smaller} of {images} images are smaller than the crop of {crop[0]} x '
                f'{crop[1]} (height x width) and are padded, unless they are enlarged before: give '
                'a smaller geometry.crop.crop_size'
            )


def _far_apart(train: Part, other: Part) -> Iterator[str]:
    """Two classes that are exchanged, or parts of other images."""
    shares = np.array(
        [[share(one, number) for number in range(len(train.classes))] for one in (train, other)]
    )
    if not shares.any(axis=1).all():
        return
    distance = np.abs(shares[0] - shares[1])
    first, second = np.argsort(-distance)[:2] if len(distance) > 1 else (0, 0)
    exchanged = abs(shares[0, first] - shares[1, second]) + abs(
        shares[0, second] - shares[1, first]
    )
    if distance[first] > FAR_APART and exchanged < distance[first]:
        names = train.classes[first], train.classes[second]
        yield (
            f'{names[0]} has {100 * shares[0, first]:.0f} % of the pixels of {train.key} and '
            f'{100 * shares[1, first]:.0f} % of {other.key}, {names[1]} '
            f'{100 * shares[0, second]:.0f} % and {100 * shares[1, second]:.0f} %: are the two '
            'exchanged in the masks of one of them?'
        )


def table(parts: Sequence[Part]) -> list[str]:
    """Lines of the parts, and of the classes where there are masks."""
    lines = []
    for one in parts:
        sizes, crop = sorted(one.sizes), crop_size(one.dataset)
        ends = dict.fromkeys(sizes[:1] + sizes[-1:])
        text = ' to '.join(f'{width} x {height}' for width, height in ends)
        text = f' of {text} (width x height)' if text else ''
        text += f', crop {crop[1]} x {crop[0]}' if crop else ''
        lines.append(f'{one.role:9} {len(one.dataset):7} images{text}')
    masked = [one for one in parts if one.classes]
    if not masked:
        return lines
    names = [str(name) for name in masked[0].classes]
    cells = [['', *(one.role for one in masked)]]
    for number, name in enumerate(names):
        shares = (f'{100 * share(p, number):.3f} % in {p.masks.masks_with[number]}' for p in masked)
        cells.append([name, *shares])
    cells.append(['unknown', *(f'{100 * unknown_share(p):.3f} %' for p in masked)])
    widths = [max(map(len, column)) for column in zip(*cells)]
    first, *rest = widths
    for name, *row in cells:
        others = (f'  {cell:>{width}}' for cell, width in zip(row, rest))
        lines.append(f'{name:{first}}{"".join(others)}')
    return lines


def as_json(one: Part) -> dict[str, Any]:
    """The numbers of a part for a file."""
    masks = one.masks
    return dict(
        key=one.key,
        role=one.role,
        images=len(one.dataset),
        sizes={f'{width}x{height}': count for (width, height), count in sorted(one.sizes.items())},
        crop=crop_size(one.dataset),
        unknown=masks.unknown,
        classes=[
            dict(name=str(name), pixels=masks.pixels[number], images=masks.masks_with[number])
            for number, name in enumerate(one.classes)
        ],
    )
