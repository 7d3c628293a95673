"""What parts of the data hold, for people: a table, advice, and numbers for a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mmseg_semi.errors import name_some

from .dataset_tree import crop_size, resized
from .findings import Finding
from .part_checks import Part

#: A crop shows too little of an image that has so many times its pixels.
LARGE = 50
_GEOMETRY = 'train_dataloader.dataset.geometry'
RARE, NEARLY_ALL, MUCH_UNKNOWN, FAR_APART = 0.001, 0.95, 0.5, 0.4


def share(part: Part, number: int) -> float:
    """Share of a class in the pixels that have one, from 0 to 1."""
    return part.masks.pixels[number] / max(sum(part.masks.pixels.values()), 1)


def class_weights(part: Part) -> list[float]:
    """Weights of the classes for the loss: one by the root of the share, 10 at most."""
    found = [share(part, number) for number in range(len(part.classes))]
    return [round(min(10.0, (max(found) / one) ** 0.5), 1) if one else 1.0 for one in found]


def unknown_share(part: Part) -> float:
    """Share of the pixels without a class, from 0 to 1."""
    masks = part.masks
    return masks.unknown / max(sum(masks.pixels.values()) + masks.unknown, 1)


def advice(parts: Sequence[Part], batch: int) -> Iterator[Finding]:
    """What to think of in data that can be trained on, but perhaps not as they were meant.

    Args:
        parts: All parts, after ``check_parts``.
        batch: Labeled images of a batch.
    """
    for one in parts:
        yield from _of_masks(one)
        yield from _against_crop(one)
    for train in (one for one in parts if one.role == 'train'):
        yield from _uneven(train)
        images = len(train.dataset)
        if batch > images:
            yield Finding(
                46,
                f'{train.key} has {images} images, fewer than the {batch} of a batch, so that '
                'images are in it twice.',
                'Give a smaller train_dataloader.batch_size.',
            )
        for one in parts:
            if one.role in ('val', 'test') and list(one.classes) == list(train.classes):
                yield from _far_apart(train, one)
                yield from _untrained(train, one)


def _of_masks(one: Part) -> Iterator[Finding]:
    if unknown_share(one) > MUCH_UNKNOWN:
        yield Finding(
            25,
            f'{one.key}: {100 * unknown_share(one):.0f} % of the pixels are unknown (255).',
            'Is that meant, or has a class that number? Then write its own.',
            one.masks.paths,
        )
    single, masks = one.masks.single, one.masks.masks
    if len(one.classes) > 1 and masks > 1 and 2 * len(single) > masks:
        yield Finding(
            29,
            f'{one.key}: {len(single)} of {masks} masks are of a single class each: '
            f'{name_some(single)}.',
            'Look whether objects are missing in them.',
            single,
        )


def _uneven(train: Part) -> Iterator[Finding]:
    """Classes of very few or nearly all pixels."""
    for number, name in enumerate(train.classes):
        with_it, part = train.masks.masks_with[number], share(train, number)
        if 0 < part < RARE:
            yield Finding(
                26,
                f'{train.key}: {name} has {100 * part:.3f} % of the pixels, in {len(with_it)} of '
                f'{train.masks.masks} masks.',
                f'Label more of it, or weigh it with {_weights(train)}.',
                with_it,
            )
        if NEARLY_ALL < part < 1:
            yield Finding(
                27,
                f'{train.key}: {name} has {100 * part:.1f} % of the pixels.',
                f'Weigh the others with {_weights(train)}.',
                train.masks.single,
            )


def _weights(train: Part) -> str:
    """The key of the loss's class weights with their values."""
    model = 'model.segmentor' if train.key.endswith('.labeled') else 'model'
    return f'{model}.decode_head.loss_decode.class_weight={class_weights(train)}'


def _against_crop(one: Part) -> Iterator[Finding]:
    """Images that are smaller than the crop, or so large that it shows next to nothing of them."""
    crop = crop_size(one.dataset)
    if crop is None:
        return
    small: list[str] = []
    large: list[str] = []
    for image, paths in one.images.items():
        width, height = resized(one.dataset, (image.width, image.height))
        small += paths if height < crop[0] and width < crop[1] else []
        large += paths if width * height > LARGE * crop[0] * crop[1] else []
    images = sum(map(len, one.images.values()))
    if 2 * len(small) > images:
        yield Finding(
            45,
            f'{one.key}: {len(small)} of {images} images are smaller than the crop of {crop[0]} x '
            f'{crop[1]} (height x width) when they are cropped, and are padded.',
            f'Give a smaller {_GEOMETRY}.crop.crop_size, or a larger {_GEOMETRY}.resize.scale.',
            small,
        )
    if 2 * len(large) > images:
        yield Finding(
            39,
            f'{one.key}: the crop of {crop[0]} x {crop[1]} (height x width) shows less than 1/'
            f'{LARGE} of {len(large)} of {images} images.',
            f'Give a smaller {_GEOMETRY}.resize.scale, or a larger {_GEOMETRY}.crop.crop_size.',
            large,
        )


def _untrained(train: Part, other: Part) -> Iterator[Finding]:
    """Classes of validation or test without a labeled pixel."""
    known = train.masks.pixels and not train.masks.wrong
    for number, name in enumerate(train.classes if known else ()):
        masks = other.masks.masks_with[number]
        if masks and not train.masks.pixels[number]:
            yield Finding(
                30,
                f'{name} is in {len(masks)} masks of {other.key} and in none of {train.key}, so '
                f'that it cannot be learned: {name_some(masks)}.',
                'Label images that show it, or divide the images anew with mmseg-semi split.',
                masks,
            )


def _far_apart(train: Part, other: Part) -> Iterator[Finding]:
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
        yield Finding(
            28,
            f'{names[0]} has {100 * shares[0, first]:.0f} % of the pixels of {train.key} and '
            f'{100 * shares[1, first]:.0f} % of {other.key}, {names[1]} '
            f'{100 * shares[0, second]:.0f} % and {100 * shares[1, second]:.0f} %: are the two '
            'exchanged in the masks of one of them?',
            'Write the same numbers in all masks, or correct the order of metainfo.classes.',
            other.masks.paths,
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
        shares = (
            f'{100 * share(p, number):.3f} % in {len(p.masks.masks_with[number])}' for p in masked
        )
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
            dict(name=str(name), pixels=masks.pixels[number], images=len(masks.masks_with[number]))
            for number, name in enumerate(one.classes)
        ],
    )
