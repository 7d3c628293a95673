"""Merge SBD's masks into Pascal VOC 2012.

SegmentationClassAug gets a mask of every image of VOC's train.txt and val.txt and of SBD: VOC's own
mask where there is one, pixel for pixel, else SBD's. ImageSets/Segmentation/train_aug.txt lists
VOC's train and all of SBD without VOC's val, sorted: 10582 images.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mmseg_semi.datasets.benchmark_layouts import VOC12
from mmseg_semi.errors import DataError, name_some, reading
from mmseg_semi.files import write_file
from mmseg_semi.prepare.conversion import (
    Task,
    check_count,
    conversion_parser,
    convert,
    find_folder,
    import_optional,
    leave_out_missing,
    read_names,
    report,
)
from mmseg_semi.prepare.label_maps import check_numbers, read_numbers

COMPLETE = 10582
LISTS = 'ImageSets/Segmentation'
VOC_PARTS = ('JPEGImages/', 'SegmentationClass/', f'{LISTS}/train.txt', f'{LISTS}/val.txt')
VOC_LAYOUT = (
    'VOCdevkit/VOC2012 with JPEGImages/*.jpg, SegmentationClass/*.png and '
    'ImageSets/Segmentation/{train,val}.txt'
)
SBD_PARTS = ('cls/', 'train.txt', 'val.txt')
SBD_LAYOUT = 'benchmark_RELEASE/dataset with cls/*.mat, train.txt and val.txt'
CLASSES = (*range(21), 255)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = conversion_parser(__doc__)
    parser.add_argument(
        'voc',
        nargs='?',
        default=VOC12.default_root(),
        help='the folder VOC2012, or VOCdevkit above it (default: %(default)s)',
    )
    parser.add_argument(
        'sbd',
        nargs='?',
        default='data/benchmark_RELEASE',
        help='the folder benchmark_RELEASE, or dataset in it (default: %(default)s)',
    )
    return parser.parse_args(argv)


def read_mat(path: Path) -> np.ndarray:
    """Class numbers (H, W) uint8 of one of SBD's files: the field Segmentation of GTcls."""
    from scipy.io import loadmat

    with reading(path):
        content = loadmat(str(path), squeeze_me=True, struct_as_record=False)
        try:
            mask = content['GTcls'].Segmentation
        except (KeyError, AttributeError) as error:
            raise DataError(
                f'{path} has no GTcls.Segmentation; give the folder cls of SBD, not inst'
            ) from error
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.dtype != np.uint8:
        raise DataError(f'{path}: GTcls.Segmentation must be a matrix of 8-bit numbers')
    return mask


def read_label(path: Path) -> np.ndarray:
    """Class numbers of a mask of VOC or of SBD."""
    mask = read_mat(path) if path.suffix == '.mat' else read_numbers(path)
    check_numbers(path, mask, CLASSES, 'allowed are the classes 0 to 20, and 255')
    return mask


def list_labels(voc: Path, sbd: Path) -> tuple[dict[str, Path], list[str], str]:
    """Mask of every image, the images of train_aug.txt, and what was found in words."""
    train, val = (read_names(voc / LISTS / f'{part}.txt') for part in ('train', 'val'))
    both = sorted({*train} & {*val})
    if both or not train or not val:
        what = 'no name was found in one of them'
        if both:
            what = f'{len(both)} images are in both: {name_some(both)}'
        raise SystemExit(f'{voc / LISTS}/train.txt and val.txt: {what}. Unpack VOC 2012 anew.')
    others = [name for part in ('train', 'val') for name in read_names(sbd / f'{part}.txt')]
    labels = {name: sbd / 'cls' / f'{name}.mat' for name in others}
    labels.update({name: voc / 'SegmentationClass' / f'{name}.png' for name in (*train, *val)})
    found = f'{voc} (train {len(train)}, val {len(val)}) with {sbd} ({len(others)})'
    return labels, sorted({*train, *others} - {*val}), found


def write_names(path: Path, names: Sequence[str], overwrite: bool) -> None:
    """Write a list, unless it is there already."""
    text = ''.join(f'{name}\n' for name in names)
    kept = not overwrite and path.is_file() and path.read_bytes() == text.encode()
    if not kept:
        write_file(path, text)
    print(f'{path}: {len(names)} images, {"kept" if kept else "written"}')


def make_tasks(voc: Path, labels: Mapping[str, Path]) -> list[Task]:
    """What to write."""
    folder, images = voc / 'SegmentationClassAug', voc / 'JPEGImages'
    return [
        Task(folder / f'{name}.png', str(label), images / f'{name}.jpg', label)
        for name, label in sorted(labels.items())
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Check both data sets, write the masks, then the list."""
    args = parse_args(argv)
    import_optional('scipy.io', "reading SBD's .mat files")
    voc = find_folder(args.voc, ('', 'VOC2012', 'VOCdevkit/VOC2012'), VOC_PARTS, VOC_LAYOUT)
    below = ('', 'dataset', 'benchmark_RELEASE/dataset')
    sbd = find_folder(args.sbd, below, SBD_PARTS, SBD_LAYOUT)
    labels, train_aug, found = list_labels(voc, sbd)
    tasks = make_tasks(voc, labels)
    missing = {
        task.output.stem: path
        for task in tasks
        for path in (task.source, task.image)
        if path is not None and not path.is_file()
    }
    what = 'images or masks of the lists'
    leave_out_missing(found, what, [str(path) for path in missing.values()], args.partial)
    train_aug = [name for name in train_aug if name not in missing]
    check_count(found, 'images for train_aug.txt', len(train_aug), COMPLETE, args.partial)

    tasks = [task for task in tasks if task.output.stem not in missing]
    counts = convert(tasks, read_label, 'voc_sbd', workers=args.workers, overwrite=args.overwrite)
    write_names(voc / LISTS / 'train_aug.txt', train_aug, args.overwrite)
    report(voc / 'SegmentationClassAug', counts)
