"""Make the cell nuclei of the 2018 Data Science Bowl ready, with few labels.

Takes the folders of Kaggle's stage1_train (NAME/images/NAME.png, NAME/masks/*.png, one mask a
nucleus), best with the corrected masks, or img/NAME.png and mask/NAME.png with 0 for background.
Masks become 0 for background and 1 for nucleus; images keep their sizes, and the first 12
characters of their names.

The names alone decide, by their hash, about train (60 %), val (10 %) and test (30 %). The type of
an image is found from its pixels: stained tissue has colors (the channels of a pixel differ by 5 or
more of 255 on average), fluorescence is gray on a dark ground (the median is below 100), bright
field gray on a light one. Every list of labeled images has all types, in their shares.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmseg_semi.errors import DataError, exiting
from mmseg_semi.prepare.conversion import check_count, find_folder, leave_out_missing
from mmseg_semi.prepare.few_labels import (
    PARTS,
    check_labels,
    convert_pairs,
    few_labels_parser,
    find_pairs,
    list_images,
    order_by_group,
    part_by_hash,
    read_colors,
    read_foreground,
    write_lists,
)
from mmseg_semi.utils.progress import track

#: Images of the corrected set, and of Kaggle's.
COMPLETE = (664, 670)
NAME_LENGTH = 12
LAYOUT = 'NAME/images/NAME.png and NAME/masks/*.png, or img/NAME.png and mask/NAME.png'
CLASSES = ('background', 'nucleus')
LABELS = (10, 20, 40, 80)
VAL, TEST = 0.1, 0.3
COLORED, DARK = 5, 100
KINDS = ('images', 'masks')

Pair = tuple[Path, tuple[Path, ...]]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    return few_labels_parser(__doc__, LAYOUT, 'data/nuclei', LABELS).parse_args(argv)


def image_type(colors: np.ndarray) -> str:
    """'stained', 'fluorescence' or 'bright field' of RGB pixels, uint8 (H, W, 3)."""
    if (colors.max(axis=-1) - colors.min(axis=-1)).mean() >= COLORED:
        return 'stained'
    return 'fluorescence' if np.median(colors.mean(axis=-1)) < DARK else 'bright field'


def make_image(source: Pair) -> np.ndarray:
    """The image as RGB."""
    return read_colors(source[0])


def make_mask(source: Pair) -> np.ndarray:
    """1 where one of the masks is not 0."""
    path, masks = source
    return np.any([read_foreground(mask, path) for mask in masks], axis=0).astype(np.uint8)


def find_all(root: str, partly: bool) -> dict[str, Pair]:
    """Images and masks by name, in either layout."""
    if (Path(root) / 'stage1_train').is_dir():
        root = str(Path(root) / 'stage1_train')
    if not any(Path(root).glob('*/masks')):
        folder = find_folder(root, ('', 'dsb2018'), ('img/', 'mask/'), LAYOUT)
        pairs = find_pairs(folder / 'img', folder / 'mask', partly)
        return _shortened({name: (image, (mask,)) for name, (image, mask) in pairs.items()})
    found, missing = {}, []
    for folder in sorted({path.parent for kind in KINDS for path in Path(root).glob(f'*/{kind}')}):
        images, masks = (
            [*list_images(path).values()] if (path := folder / kind).is_dir() else []
            for kind in KINDS
        )
        if images and masks:
            found[folder.name] = (images[0], tuple(masks))
        else:
            missing.append(str(folder / KINDS[bool(images)]))
    leave_out_missing(root, 'folders of images or masks', missing, partly)
    return _shortened(found)


def _shortened(pairs: dict[str, Pair]) -> dict[str, Pair]:
    """The same under the beginnings of the names, which are hashes of 64 digits."""
    found: dict[str, Pair] = {}
    for name, pair in pairs.items():
        other = found.setdefault(name[:NAME_LENGTH], pair)
        if other is not pair:
            raise SystemExit(
                f'{other[0]} and {pair[0]}: names differ in their first {NAME_LENGTH} letters in '
                'this data set. Rename one, or bring your own images in as docs/own_images.md says'
            )
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Find and check everything, then write."""
    args = parse_args(argv)
    found = find_all(args.raw, args.partial)
    complete = len(found) if len(found) in COMPLETE else COMPLETE[0]
    check_count(args.raw, 'images with masks', len(found), complete, args.partial)
    parts: dict[str, dict[str, tuple[Pair, Pair]]] = {part: {} for part in PARTS}
    for name, pair in found.items():
        parts[part_by_hash(name, VAL, TEST)][name] = (pair, pair)
    check_labels(parts['train'], args)
    with exiting(DataError):
        types = {
            name: image_type(read_colors(found[name][0])) for name in track(list(found), 'types')
        }
    for part, pairs in parts.items():
        numbers = sorted(Counter(types[name] for name in pairs).items())
        print(f'{part}: {", ".join(f"{number} {kind}" for kind, number in numbers)}')
    out = Path(args.out)
    convert_pairs(out, parts, make_image, make_mask, 'nuclei', args)
    order = order_by_group({name: types[name] for name in parts['train']}, args.seed)
    write_lists(out, order, CLASSES, args)
