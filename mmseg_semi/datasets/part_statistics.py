"""What a part of the data holds: sizes of images, pixels of classes, and what that means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mmseg.datasets.transforms import LoadAnnotations

from .dataset_tree import crop_size, data_infos, image_paths, leaf_datasets, pipeline_transforms
from .file_records import ImageRecord, MaskRecord, look_at, read_image, read_mask
from .mask_checks import coding_of
from .part_checks import Part

RARE, MUCH_UNKNOWN, FAR_APART = 0.001, 0.5, 0.4


@dataclass
class PartStatistics:
    """Numbers of a part.

    Attributes:
        key: Config key of the dataset.
        role: ``'train'``, ``'unlabeled'``, ``'val'`` or ``'test'``.
        images: Number of images.
        sizes: Number of images of each (width, height).
        classes: Names of the classes, empty without masks.
        pixels: Pixels of each class.
        images_with: Masks that have a class.
        unknown: Pixels without a class.
        crop: Height and width of the crop, None without one.
    """

    key: str
    role: str
    images: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    classes: Sequence[str] = ()
    pixels: Counter[int] = field(default_factory=Counter)
    images_with: Counter[int] = field(default_factory=Counter)
    unknown: int = 0
    crop: tuple[int, int] | None = None

    @property
    def total(self) -> int:
        """Pixels of all masks."""
        return sum(self.pixels.values()) + self.unknown

    def share(self, number: int) -> float:
        """Share of a class in the pixels that have one, from 0 to 1."""
        return self.pixels[number] / max(sum(self.pixels.values()), 1)


def statistics_of(part: Part) -> PartStatistics:
    """Count what a part holds; files that cannot be read are left out.

    Args:
        part: The part.
    """
    out = PartStatistics(part.key, part.role, crop=crop_size(part.dataset))
    for leaf in leaf_datasets(part.dataset):
        paths = list(dict.fromkeys(image_paths(leaf)))
        out.images += len(paths)
        for image in look_at(paths, read_image, ImageRecord, f'images of {part.key}'):
            if image.reason is None and image.width:
                out.sizes[image.width, image.height] += 1
        coding = coding_of(leaf, None)
        loads = any(isinstance(one, LoadAnnotations) for one in pipeline_transforms(leaf))
        if part.role == 'unlabeled' or coding is None or not loads:
            continue
        out.classes = coding.classes
        masks = [info['seg_map_path'] for info in data_infos(leaf) if info.get('seg_map_path')]
        masks = list(dict.fromkeys(masks))
        for mask in look_at(masks, read_mask, MaskRecord, f'masks of {part.key}'):
            found: Counter[int] = Counter()
            for value, count in mask.values:
                number = coding.loaded(value)
                if number is not None:
                    found[number] += int(count)
            out.unknown += found.pop(len(coding.classes), 0)
            out.pixels += found
            out.images_with.update(found.keys())
    return out


def advice(parts: Sequence[PartStatistics], batch: Mapping[str, int]) -> Iterator[str]:
    """Sentences about data that can be trained on, but perhaps not as they were meant.

    Args:
        parts: All parts.
        batch: Images a step, by ``'labeled'`` and ``'unlabeled'``.
    """
    train = next((one for one in parts if one.role == 'train'), None)
    for one in parts:
        yield from _of_one(one)
    if train is None:
        return
    if batch.get('labeled', 0) > train.images:
        yield (
            f'{train.key} has {train.images} images, fewer than the {batch["labeled"]} of a batch, '
            'so that images are in it twice: give a smaller train_dataloader.batch_size'
        )
    for one in parts:
        if one.role in ('val', 'test') and list(one.classes) == list(train.classes):
            yield from _far_apart(train, one)


def _of_one(one: PartStatistics) -> Iterator[str]:
    if one.classes and one.total and one.unknown / one.total > MUCH_UNKNOWN:
        yield (
            f'{one.key}: {100 * one.unknown / one.total:.0f} % of the pixels are unknown (255): is '
            'that meant, or has a class that number?'
        )
    if one.role == 'train':
        for number, name in enumerate(one.classes):
            if 0 < one.share(number) < RARE:
                yield (
                    f'{one.key}: {name} has {100 * one.share(number):.3f} % of the pixels, in '
                    f'{one.images_with[number]} of {one.images} images: label more of it, or weigh '
                    'it with decode_head.loss_decode.class_weight'
                )
    if one.crop and one.sizes:
        smaller = sum(
            count
            for (width, height), count in one.sizes.items()
            if height < one.crop[0] and width < one.crop[1]
        )
        if 2 * smaller > sum(one.sizes.values()):
            yield (
                f'{one.key}: {smaller} of {sum(one.sizes.values())} images are smaller than the '
                f'crop of {one.crop[0]} x {one.crop[1]} (height x width) and are padded, unless '
                'they are enlarged before: give a smaller geometry.crop.crop_size'
            )


def _far_apart(train: PartStatistics, other: PartStatistics) -> Iterator[str]:
    """Two classes that are exchanged, or parts of other images."""
    shares = np.array(
        [[one.share(number) for number in range(len(train.classes))] for one in (train, other)]
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


def table(parts: Sequence[PartStatistics]) -> list[str]:
    """Lines of the parts, and of the classes where there are masks."""
    lines = []
    for one in parts:
        sizes = sorted(one.sizes)
        least, most = (sizes[0], sizes[-1]) if sizes else ((0, 0), (0, 0))
        size = f'{least[0]} x {least[1]}' + (f' to {most[0]} x {most[1]}' if most != least else '')
        crop = f', crop {one.crop[1]} x {one.crop[0]}' if one.crop else ''
        lines.append(f'{one.role:9} {one.images:7} images of {size} (width x height){crop}')
    labeled = [one for one in parts if one.classes]
    if labeled:
        names = [str(name) for name in labeled[0].classes]
        width = max(len(name) for name in [*names, 'unknown'])
        lines.append(f'{"":{width}}' + ''.join(f'{one.role:>22}' for one in labeled))
        for number, name in enumerate(names):
            cells = (
                f'{100 * one.share(number):9.3f} % in {one.images_with[number]:7}'
                for one in labeled
            )
            lines.append(f'{name:{width}}' + ''.join(f'{cell:>22}' for cell in cells))
        cells = (f'{100 * one.unknown / max(one.total, 1):9.3f} %           ' for one in labeled)
        lines.append(f'{"unknown":{width}}' + ''.join(f'{cell:>22}' for cell in cells))
    return lines


def as_json(one: PartStatistics) -> dict[str, Any]:
    """The numbers of a part for a file."""
    return dict(
        key=one.key,
        role=one.role,
        images=one.images,
        sizes={f'{width}x{height}': count for (width, height), count in sorted(one.sizes.items())},
        crop=one.crop,
        unknown=one.unknown,
        classes=[
            dict(name=str(name), pixels=one.pixels[number], images=one.images_with[number])
            for number, name in enumerate(one.classes)
        ],
    )
