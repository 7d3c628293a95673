"""Make the masks of Cityscapes' 19 classes out of its label ids.

Beside every gtFine/{train,val}/CITY/*_gtFine_labelIds.png a *_gtFine_labelTrainIds.png is written:
0 to 18 by the table below, 255 for all other labels.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmseg_semi.datasets.benchmark_layouts import CITYSCAPES
from mmseg_semi.prepare.conversion import (
    Task,
    check_count,
    conversion_parser,
    convert,
    find_folder,
    leave_out_missing,
    report,
)
from mmseg_semi.prepare.label_maps import check_numbers, read_numbers

COMPLETE = {'train': 2975, 'val': 500}
PARTS = ('leftImg8bit/train/', 'leftImg8bit/val/', 'gtFine/train/', 'gtFine/val/')
LAYOUT = (
    'leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and '
    'gtFine/{train,val}/CITY/*_gtFine_labelIds.png'
)
IMAGE, LABEL, MASK = '_leftImg8bit.png', '_gtFine_labelIds.png', '_gtFine_labelTrainIds.png'
NUM_LABELS = 34
# Label ids of road, sidewalk, building, wall, fence, pole, traffic light, traffic sign,
# vegetation, terrain, sky, person, rider, car, truck, bus, train, motorcycle, bicycle.
LABEL_OF_CLASS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CLASS_OF_LABEL = np.full(256, 255, np.uint8)
CLASS_OF_LABEL[list(LABEL_OF_CLASS)] = range(len(LABEL_OF_CLASS))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = conversion_parser(__doc__)
    parser.add_argument(
        'root',
        nargs='?',
        default=CITYSCAPES.default_root(),
        help='the folder of leftImg8bit and gtFine (default: %(default)s)',
    )
    return parser.parse_args(argv)


def read_classes(path: Path) -> np.ndarray:
    """Class numbers of a file of label ids."""
    ids = read_numbers(path)
    check_numbers(path, ids, range(NUM_LABELS), 'label ids are 0 to 33')
    return CLASS_OF_LABEL[ids]


def list_names(folder: Path, suffix: str) -> set[str]:
    """Names such as aachen/aachen_000000_000019 of the files with a suffix."""
    paths = folder.glob(f'*/*{suffix}')
    return {f'{path.parent.name}/{path.name[: -len(suffix)]}' for path in paths}


def make_tasks(root: Path, part: str, partly: bool) -> list[Task]:
    """What to write of a part, when everything is there."""
    images, labels = root / 'leftImg8bit' / part, root / 'gtFine' / part
    with_image, with_label = list_names(images, IMAGE), list_names(labels, LABEL)
    missing = [f'{labels / name}{LABEL}' for name in with_image - with_label]
    missing += [f'{images / name}{IMAGE}' for name in with_label - with_image]
    leave_out_missing(f'{root}, {part}', 'images or labels of a pair', missing, partly)
    names = sorted(with_image & with_label)
    check_count(labels, 'images with label ids', len(names), COMPLETE[part], partly)
    tasks = []
    for name in names:
        label = Path(f'{labels / name}{LABEL}')
        mask, image = Path(f'{labels / name}{MASK}'), Path(f'{images / name}{IMAGE}')
        tasks.append(Task(mask, str(label), image, label))
    return tasks


def main(argv: Sequence[str] | None = None) -> None:
    """Check both parts, then write."""
    args = parse_args(argv)
    root = find_folder(args.root, ('',), PARTS, LAYOUT)
    tasks = [task for part in COMPLETE for task in make_tasks(root, part, args.partial)]
    counts = convert(
        tasks,
        read_classes,
        'cityscapes_train_ids',
        workers=args.workers,
        overwrite=args.overwrite,
    )
    report(root / 'gtFine', counts)
