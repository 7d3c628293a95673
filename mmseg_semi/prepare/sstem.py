"""Make the mitochondria of the ssTEM stack of a fly's nerve cord ready, with few labels.

Takes raw/NN.tif and mitochondria/NN.png (0 for background, other values number the mitochondria)
of the 20 slices of stack 1, 1024 x 1024 pixels. They are halved to 512 x 512 pixels of about 9 nm;
masks become 0 for background and 1 for mitochondrion.

Slices 0 to 11 are for training, 13 and 14 for validation, 16 to 19 for the test. 12 and 15 are left
out, since neighboring slices are nearly equal. Labeled slices are spread over the training ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmseg_semi.prepare.conversion import check_count, find_folder
from mmseg_semi.prepare.few_labels import (
    check_labels,
    convert_pairs,
    few_labels_parser,
    find_pairs,
    nearest,
    order_by_time,
    read_colors,
    read_foreground,
    write_lists,
)
from mmseg_semi.prepare.label_maps import opened

COMPLETE = 20
LAYOUT = 'raw/NN.tif and mitochondria/NN.png'
CLASSES = ('background', 'mitochondrion')
LABELS = (1, 2, 4)
SLICES = {'train': range(12), 'val': range(13, 15), 'test': range(16, 20)}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    return few_labels_parser(__doc__, LAYOUT, 'data/sstem', LABELS).parse_args(argv)


def half_size(path: Path) -> tuple[int, int]:
    """Half the width and height of an image."""
    with opened(path) as image:
        return image.width // 2, image.height // 2


def make_image(source: tuple[Path, Path]) -> np.ndarray:
    """The slice at half its size."""
    return read_colors(source[0], half_size(source[0]))


def make_mask(source: tuple[Path, Path]) -> np.ndarray:
    """1 for every mitochondrion, at half the size."""
    path, mask = source
    return nearest(read_foreground(mask, path).astype(np.uint8), half_size(path))


def main(argv: Sequence[str] | None = None) -> None:
    """Check the slices, then write."""
    args = parse_args(argv)
    folders = ('raw/', 'mitochondria/')
    root = find_folder(args.raw, ('', 'stack1', 'vnc_em'), folders, LAYOUT)
    pairs = find_pairs(root / 'raw', root / 'mitochondria', args.partial)
    check_count(root, 'slices', len(pairs), COMPLETE, args.partial)
    parts = {
        part: {
            name: (pair, pair)
            for name, pair in pairs.items()
            if name.isdecimal() and int(name) in numbers
        }
        for part, numbers in SLICES.items()
    }
    check_labels(parts['train'], args)
    out = Path(args.out)
    convert_pairs(out, parts, make_image, make_mask, 'sstem', args)
    write_lists(out, order_by_time(list(parts['train']), args.seed), CLASSES, args)
