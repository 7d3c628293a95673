"""What the converters of the small sets of real images share.

They write ``images/{train,val,test}``, ``annotations/{train,val,test}`` and, when all of these are
complete, the lists ``splits/<n>/{labeled,unlabeled}.txt`` of the training images. A smaller list of
labeled images is part of every larger one.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmseg_semi.datasets.splits import NameList, Split, read_lines, summary_lines, write_splits
from mmseg_semi.errors import DataError, check_one_size, exiting, name_some
from mmseg_semi.prepare.conversion import (
    Counts,
    Task,
    conversion_parser,
    convert,
    leave_out_missing,
    report,
)
from mmseg_semi.prepare.label_maps import opened, read_numbers

SUFFIXES = ('.png', '.jpg', '.jpeg', '.tif', '.tiff')
PARTS = ('train', 'val', 'test')


# ------------------------------------------------------------------------------------- command line
def few_labels_parser(
    description: str | None, layout: str, out: str, labels: Sequence[int]
) -> argparse.ArgumentParser:
    """Return a parser with the options of these converters.

    Args:
        description: The tool's docstring.
        layout: What is in the folder of the raw data.
        out: Where the data set is written by default.
        labels: Numbers of labeled images of the lists that are written by default.
    """
    parser = conversion_parser(description)
    parser.add_argument('raw', help=f'the folder of {layout}')
    add_list_options(parser, out, labels)
    return parser


def add_list_options(parser: argparse.ArgumentParser, out: str, labels: Sequence[int]) -> None:
    """Add the options that say what is written where, see :func:`few_labels_parser`."""
    parser.add_argument('--out', default=out, help='the folder to write (default: %(default)s)')
    parser.add_argument(
        '--labels',
        nargs='+',
        type=_number_of_labels,
        default=list(labels),
        metavar='N',
        help=f'numbers of labeled images (default: {" ".join(map(str, labels))})',
    )
    parser.add_argument(
        '--seed', type=int, default=0, help='seed of the lists (default: %(default)s)'
    )


def _number_of_labels(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is no number of images; give 1 or more')
    return int(text)


# ------------------------------------------------------------------------------------ what there is
def list_images(folder: Path) -> dict[str, Path]:
    """Image files of a folder by their names without suffix, sorted.

    Raises:
        SystemExit: Two files have one name.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith('.'):
            if path.stem in found:
                raise SystemExit(
                    f'{folder}: {found[path.stem].name} and {path.name} have one name. Remove one.'
                )
            found[path.stem] = path
    return found


def find_pairs(images: Path, masks: Path, partly: bool) -> dict[str, tuple[Path, Path]]:
    """Images and masks of one name, by name.

    Args:
        images: Folder of the images.
        masks: Folder of the masks.
        partly: Whether ``--partial`` was given.

    Raises:
        SystemExit: Some have no partner, and ``partly`` is not set.
    """
    first, second = list_images(images), list_images(masks)
    missing = [f'{masks / name}.png' for name in first.keys() - second.keys()]
    missing += [f'{images / name}.*' for name in second.keys() - first.keys()]
    leave_out_missing(images, 'images or masks of a pair', missing, partly)
    return {name: (path, second[name]) for name, path in first.items() if name in second}


# --------------------------------------------------------------------------------------- converting
def read_colors(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read an image as RGB, uint8 (H, W, 3); pixels are averaged where it is made smaller.

    Args:
        path: The file.
        size: Width and height to resize it to; None leaves it as it is.

    Raises:
        DataError: Names the file.
    """
    with opened(path) as image:
        colors = image.convert('RGB')
        if size is not None and colors.size != size:
            colors = colors.resize(size, Image.Resampling.BOX)
        return np.array(colors)


def read_foreground(path: Path, image: Path) -> np.ndarray:
    """Read where a mask that numbers objects, or is black and white, is not 0; bool (H, W).

    Args:
        path: The mask.
        image: Its image, which must have the same size.

    Raises:
        DataError: Names the file.
    """
    with opened(image) as opened_image, opened(path) as mask:
        if mask.mode not in ('1', 'L', 'P', 'I', 'I;16'):
            raise DataError(
                f'{path} has pixels of mode {mask.mode}; it must have one channel of numbers'
            )
        numbers = np.array(mask)
        check_one_size(path, numbers.shape, image, opened_image.size[::-1])
    return numbers > 0


def nearest(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a mask (H, W) to a width and height; every pixel is the nearest one of before."""
    return np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def convert_pairs(
    out: Path,
    parts: Mapping[str, Mapping[str, tuple[Any, Any]]],
    make_image: Callable[[Any], np.ndarray],
    make_mask: Callable[[Any], np.ndarray],
    note: str,
    args: argparse.Namespace,
) -> None:
    """Write images and masks of all parts.

    Args:
        out: Folder of the data set.
        parts: By part and name what ``make_image`` and ``make_mask`` get.
        make_image: Returns uint8 (H, W, 3); a function of a module, as ``make_mask``.
        make_mask: Returns the class numbers, uint8 (H, W).
        note: See :func:`convert`.
        args: ``workers`` and ``overwrite``, and ``raw`` where there is such a folder.

    Raises:
        SystemExit: See :func:`convert` and :func:`refuse_others`.
    """
    refuse_others(out, parts, getattr(args, 'raw', None))
    options = dict(workers=args.workers, overwrite=args.overwrite)
    for kind, make in (('images', make_image), ('annotations', make_mask)):
        tasks = [
            Task(out / kind / part / f'{name}.png', name, None, pair[kind != 'images'])
            for part, pairs in parts.items()
            for name, pair in pairs.items()
        ]
        what = 'images' if kind == 'images' else 'masks'
        counts: Counts = convert(tasks, make, note, what=what, colors=what == 'images', **options)
        report(out, counts, what)


def refuse_others(
    out: Path, parts: Mapping[str, Iterable[str]], raw: str | Path | None = None
) -> None:
    """Refuse a folder that has files of another data set, before anything is written.

    Args:
        out: Folder of the data set.
        parts: Names of the images of each part.
        raw: Folder that is read.

    Raises:
        SystemExit: Names some of the files.
    """
    if raw is not None and out.resolve() == Path(raw).resolve():
        raise SystemExit(f'--out {out} is the folder that is read: name another one')
    for kind in ('images', 'annotations'):
        for part, names in parts.items():
            folder, known = out / kind / part, set(names)
            others = [one.name for one in sorted(folder.glob('*.png')) if one.stem not in known]
            if others:
                raise SystemExit(
                    f'{folder} has {len(others)} files of which there is nothing in what is read, '
                    f'as of another data set: {name_some(others, 3)}. Name another folder with '
                    '--out, or remove that one.'
                )


# -------------------------------------------------------------------------------------------- lists
def fraction(name: str, seed: int | str = 0) -> float:
    """A number in [0, 1) that a name has by its hash, whatever else there is."""
    digest = hashlib.sha256(f'{seed} {name}'.encode()).digest()
    return int.from_bytes(digest[:6], 'big') / 2**48


def part_by_hash(name: str, val: float, test: float) -> str:
    """Part of an image that its name alone decides.

    Args:
        name: The image's.
        val: Share of the validation images.
        test: Share of the test images.
    """
    value = fraction(name, 'part')
    return 'val' if value < val else 'test' if value < val + test else 'train'


def order_by_group(groups: Mapping[str, str], seed: int) -> list[str]:
    """Order of names of which every beginning has the groups in their shares.

    The first names are one of each group; in a group the order is that of the names' hashes.

    Args:
        groups: Group of each name.
        seed: Changes the order.
    """
    places = []
    for group in sorted(set(groups.values())):
        members = [name for name, one in groups.items() if one == group]
        members.sort(key=lambda name: fraction(name, seed))
        places += [(i / len(members), group, name) for i, name in enumerate(members)]
    return [name for *_, name in sorted(places)]


def order_by_time(names: Sequence[str], seed: int) -> list[str]:
    """Order of a sequence's names of which every beginning is spread over the sequence.

    After a first one, that the seed chooses, each is the one farthest from all before it.

    Args:
        names: Names in the order of the sequence.
        seed: Chooses the first one.
    """
    chosen = [int(fraction('first', seed) * len(names))]
    distance = np.full(len(names), len(names))
    while len(chosen) < len(names):
        distance = np.minimum(distance, np.abs(np.arange(len(names)) - chosen[-1]))
        chosen.append(int(distance.argmax()))
    return [names[i] for i in chosen]


def write_lists(
    out: Path, order: Sequence[str], classes: Sequence[str], args: argparse.Namespace
) -> None:
    """Write the lists, and warn of classes that the labeled images of a list lack.

    Args:
        out: Folder of the data set, whose masks are complete.
        order: All training images; a list has the first ones.
        classes: Names of the classes.
        args: ``labels``, ``seed`` and ``overwrite``.

    Raises:
        SystemExit: Lists of another order are there, which are not written anew; or those that
            are, and ``overwrite`` is not set.
    """
    splits = []
    for path in sorted((out / 'splits').glob('*/labeled.txt')):
        if path.parent.name.isdecimal() and int(path.parent.name) not in args.labels:
            with exiting(DataError):
                there = [name for _, name in read_lines(path)]
            if sorted(there) != sorted(order[: len(there)]):
                raise SystemExit(
                    f'{path} has not the first {len(there)} images of --seed {args.seed}, of which '
                    'a smaller list is part of every larger one: give the seed of before, name '
                    f'{path.parent.name} in --labels as well, or another folder with --out'
                )
    for size in sorted(set(args.labels)):
        labeled, rest = sorted(order[:size]), sorted(order[size:])
        splits.append(Split(str(size), NameList(labeled), NameList(rest)))
    with exiting(DataError):
        states = write_splits(splits, out / 'splits', args.overwrite)
        masks = [out / 'annotations' / 'train' / f'{name}.png' for name in order]
        found = np.stack([_classes_in(path, len(classes)) for path in masks])
    print('\n'.join(summary_lines(splits, states)))
    for size in sorted(set(args.labels)):
        lacking = np.flatnonzero(found.any(axis=0) & ~found[:size].any(axis=0))
        if lacking.size:
            names = [classes[int(number)] for number in lacking]
            print(f'WARNING: the {size} labeled images have no {name_some(names)}')


def check_labels(train: Iterable[str], args: argparse.Namespace) -> None:
    """Refuse lists of more labeled images than there are beside an unlabeled one.

    Raises:
        SystemExit: Says how many there are.
    """
    number = len(list(train))
    if max(args.labels) >= number:
        raise SystemExit(
            f'--labels {max(args.labels)}: there are {number} training images, of which one at '
            'least stays unlabeled. Give smaller numbers.'
        )


def _classes_in(path: Path, classes: int) -> np.ndarray:
    return np.bincount(read_numbers(path).ravel(), minlength=256)[:classes] > 0
