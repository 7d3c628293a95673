"""Make CamVid ready: 11 classes at 240 x 180 pixels, with few labels.

Takes the form of the SegNet tutorial: {train,val,test}/NAME.png (or .jpg) and
{train,val,test}annot/NAME.png with the classes 0 to 10 and 11 for void, which becomes 255.

A name begins with its sequence. The labeled images come from one sequence after another, spread
over its time, as somebody has them who labels a video: neighboring frames are nearly equal.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmseg_semi.errors import check_one_size
from mmseg_semi.prepare.conversion import check_count, find_folder
from mmseg_semi.prepare.few_labels import (
    PARTS,
    check_labels,
    convert_pairs,
    few_labels_parser,
    find_pairs,
    fraction,
    nearest,
    order_by_time,
    read_colors,
    write_lists,
)
from mmseg_semi.prepare.label_maps import check_numbers, opened, read_numbers

COMPLETE = {'train': 367, 'val': 101, 'test': 233}
LAYOUT = '{train,val,test}/NAME.png (or .jpg) and {train,val,test}annot/NAME.png'
CLASSES = (
    *('sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign', 'fence', 'car'),
    *('pedestrian', 'bicyclist'),
)
SIZE, VOID, IGNORED = (240, 180), 11, 255
LABELS = (12, 23, 46, 92)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    return few_labels_parser(__doc__, LAYOUT, 'data/camvid', LABELS).parse_args(argv)


def make_image(source: tuple[Path, Path]) -> np.ndarray:
    """The image at the size of the data set."""
    return read_colors(source[0], SIZE)


def make_mask(source: tuple[Path, Path]) -> np.ndarray:
    """Classes at the size of the data set."""
    image, path = source
    mask = read_numbers(path)
    with opened(image) as opened_image:
        check_one_size(path, mask.shape, image, opened_image.size[::-1])
    check_numbers(path, mask, range(VOID + 1), 'classes are 0 to 10, and 11 for void')
    return nearest(np.where(mask == VOID, IGNORED, mask).astype(np.uint8), SIZE)


def order(names: Sequence[str], seed: int) -> list[str]:
    """All training images, sequence after sequence."""
    sequences: dict[str, list[str]] = {}
    for name in sorted(names):
        sequences.setdefault(name.split('_')[0], []).append(name)
    first = sorted(sequences, key=lambda sequence: fraction(sequence, seed))
    return [name for sequence in first for name in order_by_time(sequences[sequence], seed)]


def main(argv: Sequence[str] | None = None) -> None:
    """Check all parts, then write."""
    args = parse_args(argv)
    folders = [f'{part}{kind}/' for part in PARTS for kind in ('', 'annot')]
    root = find_folder(args.raw, ('', 'CamVid'), folders, LAYOUT)
    parts = {}
    for part in PARTS:
        pairs = find_pairs(root / part, root / f'{part}annot', args.partial)
        check_count(root / part, 'images with masks', len(pairs), COMPLETE[part], args.partial)
        parts[part] = {name: (pair, pair) for name, pair in pairs.items()}
    check_labels(parts['train'], args)
    out = Path(args.out)
    convert_pairs(out, parts, make_image, make_mask, 'camvid', args)
    write_lists(out, order(list(parts['train']), args.seed), CLASSES, args)
