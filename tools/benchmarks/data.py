#!/usr/bin/env python
"""Measure how many images a second a data worker makes ready, beside a plain Pillow pipeline.

Makes images of the sizes of Pascal VOC (JPEG, 500 x 375) and of Cityscapes (PNG, 2048 x 1024) and
loads them in one process with the pipelines of configs/_base_/datasets: labeled ones (resize, crop,
flip) and unlabeled ones (the same, and strong views of colors, gray and blur). Each is run with the
OpenCV operations and with the Pillow ones of the papers' programs, and with OpenCV from a cache of
decoded images. The reference is the same pipeline on Pillow images as those programs have it, from
the file to normalized float tensors; ours leaves the normalization to the device, as training does.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope
from mmseg.registry import DATASETS
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from mmseg_semi.benchmarks import measuring
from mmseg_semi.benchmarks.measuring import REPO, Report, Row, at_least, duration, in_turns
from mmseg_semi.datasets import SampleKey, SemiDataset
from mmseg_semi.datasets.dataset_tree import leaf_datasets, nested_transforms
from mmseg_semi.datasets.transforms.random_color_jitter import pillow_hue
from mmseg_semi.errors import run_tool

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
TARGETS = dict(unlabeled=6.0, labeled=4.0)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--only', choices=tuple(SETS), help='images of one kind')
    parser.add_argument('--images', type=int, default=16, help='of each kind; a turn loads each')
    parser.add_argument('--views', type=int, default=2, help='strong views of an unlabeled image')
    parser.add_argument('--repeats', type=int, default=5, help='turns of each side')
    parser.add_argument('--scale', type=float, default=1.0, help='of the sizes, for a try')
    parser.add_argument('--out', help='Markdown file to write (default: only print)')
    args = parser.parse_args(argv)
    for name, least in (('images', 1), ('views', 1), ('repeats', 1)):
        if getattr(args, name) < least:
            parser.error(f'--{name} must be at least {least}, got {getattr(args, name)}')
    if not 0.05 <= args.scale <= 1:  # below, an image has no detail
        parser.error(f'--scale must be from 0.05 to 1, got {args.scale}')
    measuring.check_shared(parser, args)
    args.device, args.threads = 'cpu', 1
    return args


# --------------------------------------------------------------------------------------- images


def make_images(root: Path, size: tuple[int, int], suffix: str, count: int) -> None:
    """Write images with detail of all sizes, as photographs have it, and masks of blobs."""
    source = torch.Generator().manual_seed(0)
    names = [f'{number:03d}' for number in range(count)]
    for folder in ('images', 'masks'):
        (root / folder).mkdir(parents=True)
    (root / 'list.txt').write_text('\n'.join(names) + '\n')
    side = max(size)
    for name in names:
        cells = [c for c in (4, 8, 16, 32, 64, 128, 256, 512) if c < side]
        layers = [measuring.noise(source, 1, 3, side, c)[0] * 40 / c**0.5 for c in cells]
        image = (sum(layers) + 120).clamp(0, 255).permute(1, 2, 0)[: size[0], : size[1]]
        cv2.imwrite(str(root / 'images' / f'{name}{suffix}'), image.numpy().astype(np.uint8))
        mask = measuring.noise(source, 1, 19, side, 6)[0].argmax(0)[: size[0], : size[1]]
        cv2.imwrite(str(root / 'masks' / f'{name}.png'), mask.numpy().astype(np.uint8))


# ------------------------------------------------------------------------------------- our side


def make_dataset(root: Path, base: str, pillow: bool, cache: bool, args: Any) -> SemiDataset:
    """Build the training data of a shipped base on these images."""
    config = Config.fromfile(REPO / f'configs/_base_/datasets/{base}.py').train_dataloader.dataset
    suffix = SETS[base][1]
    own = dict(data_root=str(root), ann_file='list.txt', img_suffix=suffix)
    images = dict(img_path='images')
    config.labeled.update(own, data_prefix=dict(images, seg_map_path='masks'))
    config.labeled.update(seg_map_suffix='.png')
    config.unlabeled.update(own, data_prefix=images)
    config.unlabeled.strong.num_views = args.views
    config.geometry.crop.crop_size = crop_of(base, args)
    if not pillow:
        config.geometry.resize.pop('backend')
        for one in ('color', 'blur'):
            config.unlabeled.strong.transforms[one].pop('backend')
    config.cache = str(root / 'cache') if cache else None
    return DATASETS.build(config)


def crop_of(base: str, args: argparse.Namespace) -> tuple[int, int]:
    """The crop of a base, at the scale that was asked for."""
    side = max(int(SETS[base][2] * args.scale), 16)
    return side, side


def load_all(dataset: SemiDataset, part: str, seeds: Any) -> None:
    """Load every image of a part once."""
    for index in range(len(getattr(dataset, part))):
        dataset[SampleKey(part, index, next(seeds))]


def split(dataset: SemiDataset, part: str, repeats: int) -> dict[str, float]:
    """Seconds that an image takes in each transform, those inside others by themselves."""
    dataset = copy.deepcopy(dataset)
    leaf = leaf_datasets(getattr(dataset, part))[0]
    spent: dict[str, float] = defaultdict(float)
    stack: list[list[float]] = []
    for one in nested_transforms(leaf.pipeline.transforms):
        one.transform = _watched(one.transform, type(one).__name__, spent, stack)
    seeds = itertools.count()
    start = time.perf_counter()
    for _ in range(repeats):
        load_all(dataset, part, seeds)
    whole = time.perf_counter() - start
    spent['besides'] = whole - sum(spent.values())
    return {name: seconds / repeats / len(leaf) for name, seconds in spent.items()}


def _watched(
    transform: Callable[[Any], Any], name: str, spent: dict[str, float], stack: list[list[float]]
) -> Callable[[Any], Any]:
    def run(results: Any) -> Any:
        stack.append([0.0])
        start = time.perf_counter()
        found = transform(results)
        seconds = time.perf_counter() - start
        spent[name] += seconds - stack.pop()[0]
        if stack:
            stack[-1][0] += seconds
        return found

    return run


# ------------------------------------------------------------------------------------ reference


def reference_item(root: Path, name: str, base: str, part: str, args: Any) -> Any:
    """Load an image as the papers' programs do."""
    suffix, crop = SETS[base][1], crop_of(base, args)[0]
    image = Image.open(root / 'images' / f'{name}{suffix}').convert('RGB')
    if part == 'labeled':
        mask = Image.open(root / 'masks' / f'{name}.png')
    else:
        mask = Image.fromarray(np.zeros(image.size[::-1], np.uint8))
    image, mask = _weak(image, mask, crop, 255 if part == 'labeled' else 254)
    label = torch.from_numpy(np.array(mask)).long()
    if part == 'labeled':
        return _tensor(image), label
    views = [_tensor(_strong(image.copy())) for _ in range(args.views)]
    return _tensor(image), views, label


def _weak(
    image: Image.Image, mask: Image.Image, crop: int, fill: int
) -> tuple[Image.Image, Image.Image]:
    width, height = image.size
    long = random.randint(int(max(width, height) * 0.5), int(max(width, height) * 2))
    if width > height:
        size = long, int(height * long / width + 0.5)
    else:
        size = int(width * long / height + 0.5), long
    image = image.resize(size, Image.Resampling.BILINEAR)
    mask = mask.resize(size, Image.Resampling.NEAREST)
    border = 0, 0, max(crop - size[0], 0), max(crop - size[1], 0)
    image, mask = ImageOps.expand(image, border, 0), ImageOps.expand(mask, border, fill)
    x, y = (random.randint(0, side - crop) for side in image.size)
    box = x, y, x + crop, y + crop
    image, mask = image.crop(box), mask.crop(box)
    if random.random() < 0.5:
        flip = Image.Transpose.FLIP_LEFT_RIGHT
        return image.transpose(flip), mask.transpose(flip)
    return image, mask


def _strong(image: Image.Image) -> Image.Image:
    if random.random() < 0.8:
        changes: list[Callable[[Image.Image], Image.Image]] = [
            lambda one: ImageEnhance.Brightness(one).enhance(random.uniform(0.5, 1.5)),
            lambda one: ImageEnhance.Contrast(one).enhance(random.uniform(0.5, 1.5)),
            lambda one: ImageEnhance.Color(one).enhance(random.uniform(0.5, 1.5)),
            lambda one: pillow_hue(one, random.uniform(-0.25, 0.25)),
        ]
        random.shuffle(changes)
        for change in changes:
            image = change(image)
    if random.random() < 0.2:
        gray = image.convert('L')
        image = Image.merge('RGB', (gray, gray, gray))
    if random.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))
    return image


def _tensor(image: Image.Image) -> torch.Tensor:
    values = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
    return values.sub_(MEAN[:, None, None]).div_(STD[:, None, None])


# ---------------------------------------------------------------------------------------- table


def benchmark(base: str, args: argparse.Namespace) -> Report:
    """Measure both parts of a base."""
    size, suffix, _ = SETS[base]
    size = int(size[0] * args.scale), int(size[1] * args.scale)
    report = Report()
    with tempfile.TemporaryDirectory(prefix='mmseg_semi_data_') as folder:
        root = Path(folder)
        make_images(root, size, suffix, args.images)
        names = (root / 'list.txt').read_text().split()
        kinds = (
            ('OpenCV', dict(pillow=False, cache=False)),
            ('OpenCV, cached', dict(pillow=False, cache=True)),
            ('Pillow', dict(pillow=True, cache=False)),
        )
        datasets = {name: make_dataset(root, base, args=args, **kind) for name, kind in kinds}
        seeds = itertools.count()
        for part in ('unlabeled', 'labeled'):

            def plain(part: str = part) -> None:
                for name in names:
                    reference_item(root, name, base, part, args)

            sides: list[Callable[[], Any]] = [plain]
            for dataset in datasets.values():
                sides.append(lambda dataset=dataset, part=part: load_all(dataset, part, seeds))
            reference, *others = in_turns(sides, args.repeats, 'cpu')
            for name, times in zip(datasets, others):
                ratio = measuring.median_ratio(reference, times)
                target = TARGETS[part] if name != 'Pillow' else None
                report.rows.append(
                    Row(
                        base,
                        f'{part} images a second, {name}',
                        f'{args.images / statistics.median(times):.1f}',
                        f'{args.images / statistics.median(reference):.1f}',
                        f'{ratio:.1f}x',
                        f'>= {target:g}x' if target else '-',
                        at_least(ratio, target) if target else '-',
                    )
                )
            for name, dataset in datasets.items():
                parts = split(dataset, part, args.repeats)
                text = ', '.join(f'{one} {duration(seconds)}' for one, seconds in parts.items())
                report.notes.append(f'`{base}`, {part} image, {name}: {text}.')
    crop = crop_of(base, args)
    report.notes.append(
        f'`{base}`: {args.images} images of {size[1]} x {size[0]} ({suffix[1:]}), crops of '
        f'{crop[0]}, {args.views} strong views.'
    )
    return report


#: Height and width, suffix, and side of the crops.
SETS: dict[str, tuple[tuple[int, int], str, int]] = dict(
    voc12=((375, 500), '.jpg', 321), cityscapes=((1024, 2048), '.png', 801)
)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and tabulate."""
    args = parse_args(argv)
    measuring.set_up(args)
    cv2.setNumThreads(1)
    with suppress(KeyError):
        init_default_scope('mmseg')
    with DefaultScope.overwrite_default_scope('mmseg'):
        reports = {name: lambda args, name=name: benchmark(name, args) for name in SETS}
        measuring.tabulate(args, reports)


if __name__ == '__main__':
    run_tool(main)
