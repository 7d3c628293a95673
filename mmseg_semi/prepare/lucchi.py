"""Take the Lucchi mitochondria stacks apart.

training.tif and testing.tif become images/{train,val}/slice_000.png and so on, their
*_groundtruth.tif become annotations/{train,val}/slice_000.png with 0 for background and 1 for
mitochondrion.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmseg_semi.datasets.benchmark_layouts import LUCCHI
from mmseg_semi.errors import DataError, exiting
from mmseg_semi.prepare.conversion import (
    Task,
    check_count,
    conversion_parser,
    convert,
    find_folder,
    report,
)
from mmseg_semi.prepare.label_maps import opened

MOST_MITOCHONDRIA = 0.5  # they are about a twentieth
COMPLETE = 165
PARTS = {'training': 'train', 'testing': 'val'}
SUFFIXES = ('.tif', '.tiff')
STACKS = [f'{part}{kind}' for part in PARTS for kind in ('', '_groundtruth')]
LAYOUT = '{training,testing}.tif and {training,testing}_groundtruth.tif (or .tiff)'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = conversion_parser(__doc__, slow=False)
    parser.add_argument(
        'root',
        nargs='?',
        default=LUCCHI.default_root(),
        help='the folder of the four stacks (default: %(default)s)',
    )
    return parser.parse_args(argv)


def read_stack(path: Path) -> np.ndarray:
    """Pages (N, H, W) uint8 of a TIFF file."""
    pages: list[np.ndarray] = []
    with opened(path) as image:
        for page in range(getattr(image, 'n_frames', 1)):
            image.seek(page)
            if image.mode != 'L':
                raise DataError(
                    f'{path}: slice {page} has pixels of mode {image.mode}; slices must be gray '
                    'with 8 bits'
                )
            image.load()
            pages.append(np.array(image))
    sizes = {page.shape[::-1] for page in pages}
    if len(sizes) > 1:
        raise DataError(
            f'{path}: slices must have one size, found {sorted(sizes)}. Download it anew.'
        )
    return np.stack(pages)


def check_pair(image: Path, images: np.ndarray, truth: Path, masks: np.ndarray) -> None:
    """Refuse stacks that do not belong together, and other ground truth than of two values."""
    if images.shape != masks.shape:
        described = [
            '{} slices of {} x {}'.format(a.shape[0], *a.shape[:0:-1]) for a in (images, masks)
        ]
        raise DataError(
            f'{image} has {described[0]} pixels, {truth} {described[1]}; they must be the same. '
            'Download both anew.'
        )
    values = np.flatnonzero(np.bincount(masks.ravel(), minlength=256)).tolist()
    if not (set(values) <= {0, 255} or set(values) <= {0, 1}):
        raise DataError(f'{truth} has the values {values}; allowed are 0 and 255, or 0 and 1')


def take(array: np.ndarray) -> np.ndarray:
    """Give what is written: it is in memory already."""
    return array


def make_tasks(root: Path, part: str, partly: bool) -> list[Task]:
    """What to write of a part, when everything is right."""
    image, truth = (find_stack(root, f'{part}{kind}') for kind in ('', '_groundtruth'))
    images, masks = read_stack(image), read_stack(truth)
    check_pair(image, images, truth, masks)
    check_count(image, 'slices', len(images), COMPLETE, partly)
    share = float((masks > 0).mean())
    print(f'{truth}: {share:.1%} of the pixels are mitochondria')
    if not 0 < share < MOST_MITOCHONDRIA:
        print(f'WARNING: {truth}: that is not plausible. Are the values swapped, or the stacks?')
    tasks = []
    for kind, path, stack in (
        ('images', image, images),
        ('annotations', truth, (masks > 0).astype(np.uint8)),
    ):
        folder = root / kind / PARTS[part]
        tasks += [
            Task(folder / f'slice_{number:03d}.png', str(path), None, array)
            for number, array in enumerate(stack)
        ]
    return tasks


def find_stack(root: Path, name: str) -> Path:
    """Path of a stack, whatever its suffix."""
    return next(path for suffix in SUFFIXES if (path := root / f'{name}{suffix}').is_file())


def main(argv: Sequence[str] | None = None) -> None:
    """Check all stacks, then write."""
    args = parse_args(argv)
    files = ['|'.join(f'{name}{suffix}' for suffix in SUFFIXES) for name in STACKS]
    root = find_folder(args.root, ('',), files, LAYOUT)
    with exiting(DataError):
        tasks = [task for part in PARTS for task in make_tasks(root, part, args.partial)]
    report(root, convert(tasks, take, 'lucchi', overwrite=args.overwrite, what='slices'), 'slices')
