"""Draw labeled images of a data set at random, and list the other ones as unlabeled.

Splits of one seed are nested: each is a part of every larger one, whatever sizes are asked for
together. A seed gives the same splits everywhere, as long as the data set has the same images. A
size is a number of images or a share such as 1/16, rounded up as the published splits are.
"""

from __future__ import annotations

import argparse
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmseg_semi.datasets.benchmark_layouts import BENCHMARK_LAYOUTS, BenchmarkLayout
from mmseg_semi.datasets.split_checks import DataFiles, find_data, verify_split
from mmseg_semi.datasets.splits import NameList, Split, summary_lines, write_splits
from mmseg_semi.errors import DataError, exiting, reading
from mmseg_semi.utils.progress import track

IGNORED = 255
CUSTOM = 'custom'
CUSTOM_OPTIONS = dict(
    images='img_dir',
    masks='seg_map_dir',
    img_suffix='img_suffix',
    seg_map_suffix='seg_map_suffix',
    split_dir='split_dir',
)


def parse_args(args: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('dataset', choices=[*BENCHMARK_LAYOUTS, CUSTOM])
    parser.add_argument(
        '--sizes', nargs='+', required=True, metavar='N', help='labeled images: 20, or 1/16'
    )
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--balanced',
        action='store_true',
        help='the next image is drawn among those that contain the class which the images drawn '
        'before contain least often',
    )
    parser.add_argument(
        '--data-root',
        help="folder of the data set; default: the config's, such as data/coco, or what COCO_ROOT, "
        'VOC12_ROOT, ... say',
    )
    parser.add_argument(
        '--name',
        help='names of the splits; default: {size}-seed{seed}, for balanced ones with -balanced',
    )
    parser.add_argument(
        '--partial', action='store_true', help='go on when the data set is not complete'
    )
    parser.add_argument('--overwrite', action='store_true', help='replace other splits')
    custom = parser.add_argument_group(f'options of {CUSTOM}, folders being below --data-root')
    custom.add_argument('--images', metavar='FOLDER', help='all images of it are drawn from')
    custom.add_argument('--masks', metavar='FOLDER')
    custom.add_argument('--img-suffix', metavar='SUFFIX', help='default: .png')
    custom.add_argument('--seg-map-suffix', metavar='SUFFIX', help='default: .png')
    custom.add_argument('--split-dir', metavar='FOLDER', help='where splits go; default: semi')
    parsed = parser.parse_args(args)
    if parsed.name is None:
        parsed.name = '{size}-seed{seed}' + ('-balanced' if parsed.balanced else '')
    return parsed


# ---------------------------------------------------------------------------------------- arguments
def choose_layout(args: argparse.Namespace) -> BenchmarkLayout:
    """The layout of the data set, from the options where it is a custom one."""
    given = {key: getattr(args, key) for key in CUSTOM_OPTIONS if getattr(args, key) is not None}
    if args.dataset != CUSTOM:
        if given:
            option = f'--{next(iter(given))}'.replace('_', '-')
            raise DataError(
                f'{option} is an option of {CUSTOM}; the folders of {args.dataset} are known, '
                'leave it out'
            )
        layout = BENCHMARK_LAYOUTS[args.dataset]
        return replace(layout, num_train=None) if args.partial else layout
    for name in ('data_root', 'images', 'masks'):
        if not getattr(args, name):
            option = f'--{name}'.replace('_', '-')
            raise DataError(
                f'{CUSTOM} needs {option}: --data-root R --images FOLDER --masks FOLDER'
            )
    settings: dict[str, Any] = dict(img_suffix='.png', seg_map_suffix='.png')
    settings.update({CUSTOM_OPTIONS[key]: value for key, value in given.items()})
    return BenchmarkLayout(name=CUSTOM, data_root=args.data_root, **settings)


def parse_size(text: str, total: int) -> int:
    """A number of images from ``20`` or ``1/16``; shares are rounded up."""
    if re.fullmatch(r'\d+', text):
        size = int(text)
    elif re.fullmatch(r'\d+/0*[1-9]\d*', text):
        size = -int(-Fraction(text) * total // 1)
    else:
        raise DataError(f'--sizes {text}: give a number of images such as 20, or a share: 1/16')
    if not 0 < size < total:
        raise DataError(
            f'--sizes {text} is {size} of {total} images; at least one must be labeled and one '
            'unlabeled'
        )
    return size


def split_names(template: str, sizes: Sequence[int], seed: int) -> list[str]:
    """Name of each split."""
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(template) if field}
        if not fields <= {'size', 'seed'}:
            raise ValueError
        names = [template.format(size=size, seed=seed) for size in sizes]
    except (ValueError, IndexError, KeyError):
        raise DataError(f'--name {template}: it may contain {{size}} and {{seed}} only') from None
    for name in names:
        if not re.fullmatch(r'\w[\w.+-]*', name):
            raise DataError(f'--name {template}: {name!r} is no name of a folder')
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise DataError(
            f'--sizes and --name {template} give the name {repeated[0]} more than once; give sizes '
            'that differ and {size} in the name'
        )
    return names


# ------------------------------------------------------------------------------------------ drawing
def draw_random(num_images: int, seed: int) -> list[int]:
    """All images in the order in which they are labeled."""
    return np.random.default_rng(seed).permutation(num_images).tolist()


def draw_balanced(presence: np.ndarray, size: int, seed: int) -> list[int]:
    """Images in the order in which they are labeled, so that all classes get their share.

    Each time, the class that the fewest drawn images contain is taken (of several the one that the
    fewest images of the data contain, then the one of the lowest number), and an image is drawn at
    random among the remaining ones that contain it. A class without remaining images is passed
    over; when no class has any, all remaining images are drawn from.

    Args:
        presence: (N, K) bool, which image contains which class.
        size: How many images to draw.
        seed: Seed of the random numbers.
    """
    source = np.random.default_rng(seed)
    total = presence.sum(0)
    drawn_with, left_with = np.zeros_like(total), total.copy()
    free = np.ones(len(presence), dtype=bool)
    order: list[int] = []
    while len(order) < size:
        classes = [k for k in range(presence.shape[1]) if left_with[k]]
        candidates = free
        if classes:
            rarest = min(classes, key=lambda k: (drawn_with[k], total[k], k))
            candidates = free & presence[:, rarest]
        indices = np.flatnonzero(candidates)
        index = int(indices[source.integers(len(indices))])
        order.append(index)
        free[index] = False
        drawn_with += presence[index]
        left_with -= presence[index]
    return order


def classes_in(path: Path, num_classes: int | None, reduced: bool = False) -> np.ndarray:
    """Which of the classes 0 to 254 a mask contains, (255,) bool.

    Args:
        path: The mask.
        num_classes: How many classes there are; None: any number.
        reduced: Whether 0 is ignored and the classes are counted from 1.
    """
    with reading(f'mask {path}'), Image.open(path) as image:
        mask = np.asarray(image)
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise DataError(
            f'mask {path} has the shape {mask.shape} and the type {mask.dtype}; it must be a '
            'single-channel image of 8 bits that holds class numbers'
        )
    found = np.bincount(mask.reshape(-1), minlength=256)[:IGNORED] > 0
    if reduced:
        found = np.append(found[1:], False)
    highest = int(np.flatnonzero(found)[-1]) if found.any() else 0
    if num_classes is not None and highest >= num_classes:
        raise DataError(
            f'mask {path} has the class {highest + reduced}; allowed are {int(reduced)} to '
            f'{num_classes - 1 + reduced}, and '
            f'{IGNORED} for ignored pixels. Convert the masks first.'
        )
    return found


def read_presence(names: Sequence[str], layout: BenchmarkLayout, root: Path) -> np.ndarray:
    """Which training image contains which class, (N, 255) bool."""
    folder = root / layout.seg_map_dir
    paths = [folder / f'{name}{layout.seg_map_suffix}' for name in names]
    coding = layout.num_classes, layout.reduce_zero_label
    return np.stack([classes_in(path, *coding) for path in track(paths, 'masks')])


# ----------------------------------------------------------------------------------------- the tool
def training_images(layout: BenchmarkLayout, files: DataFiles, balanced: bool) -> Sequence[str]:
    """All training images, which must be as many as the data set has."""
    names = files.train or ()
    if layout.num_train is not None and len(names) != layout.num_train:
        raise DataError(
            f'{layout.name} has {layout.num_train} training images, found are {len(names)} '
            f'({layout.train_list or layout.img_dir}). Complete the data set, or go on with what '
            'is there: --partial'
        )
    lacking = [name for name in names if name not in files.masks] if balanced else []
    if lacking:
        raise DataError(
            f'--balanced: {len(lacking)} of {len(names)} images have no mask in '
            f'{layout.seg_map_dir}, such as {lacking[0]}; it needs the masks of all of them'
        )
    return names


def make_splits(args: argparse.Namespace) -> tuple[list[Split], Mapping[str, str]]:
    """Draw, verify and write."""
    layout = choose_layout(args)
    if args.seed < 0:
        raise DataError(f'--seed {args.seed}: it must not be negative')
    root = Path(args.data_root or layout.default_root())
    files = find_data(layout, root, need_train=True)
    names = training_images(layout, files, args.balanced)
    sizes = [parse_size(text, len(names)) for text in args.sizes]
    titles = split_names(args.name, sizes, args.seed)
    if args.balanced:
        order = draw_balanced(read_presence(names, layout, root), max(sizes), args.seed)
    else:
        order = draw_random(len(names), args.seed)
    splits = []
    for title, size in zip(titles, sizes):
        labeled = [names[i] for i in order[:size]]
        rest = set(labeled)
        unlabeled = [name for name in names if name not in rest]
        split = Split(title, NameList(labeled), NameList(unlabeled))
        verify_split(split, layout, files=files)
        splits.append(split)
    return splits, write_splits(splits, root / layout.split_dir, args.overwrite)


def main(args: Sequence[str] | None = None) -> None:
    """Draw."""
    with exiting(DataError, OSError):
        splits, states = make_splits(parse_args(args))
    print('\n'.join(summary_lines(splits, states)))
