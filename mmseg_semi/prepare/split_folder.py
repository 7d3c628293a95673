"""Divide a folder into labeled, unlabeled, validation and test images: ``mmseg-semi split``.

``DIR/images`` has all images and ``DIR/annotations`` the masks of some, of the same name with
``.png``; both may have subfolders. Images without a mask become unlabeled. The others are divided
so that each class has its share in each part, the rarest class first (iterative stratification:
Sechidis, Tsoumakas and Vlahavas, On the Stratification of Multi-Label Data, ECML PKDD 2011).
With a group (a patient, a plant, a sequence) all images of a group stay in one part. The lists are
``DIR/splits/NAME/{labeled,unlabeled,val,test}.txt``, with ``split.json``, which has their hashes.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import click
import numpy as np

from mmseg_semi.datasets.image_files import IMG_SUFFIXES
from mmseg_semi.datasets.listed_files import files_by_name
from mmseg_semi.datasets.splits import same_names, split_hash
from mmseg_semi.errors import DataError, exiting, name_some
from mmseg_semi.files import check_there, write_files
from mmseg_semi.prepare.make_splits import classes_in
from mmseg_semi.utils.progress import track

PARTS = ('labeled', 'unlabeled', 'val', 'test')


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        labeled: Number of labeled images.
        val: Share of the images with masks that validate, from 0 to below 1.
        test: Share of those that test.
        seed: Seed of the order.
        group_by: Regular expression that finds the group in a name: its first group in
            parentheses, or all of it; None when each image is a group of its own.
    """

    labeled: int
    val: float = 0.2
    test: float = 0.2
    seed: int = 0
    group_by: Optional[str] = None

    @property
    def name(self) -> str:
        """Name of the folder of the lists."""
        return f'{self.labeled}-seed{self.seed}'

    def check(self) -> None:
        """Refuse values outside their ranges.

        Raises:
            DataError: Names the option.
        """
        if self.labeled < 1:
            raise DataError(f'--labeled {self.labeled}: give the number of labeled images, >= 1')
        if self.seed < 0:
            raise DataError(f'--seed {self.seed}: it must not be negative')
        for option, share in (('--val', self.val), ('--test', self.test)):
            if not 0 <= share < 1:
                raise DataError(f'{option} {share}: give a share from 0 to below 1, such as 0.2')
        if self.val + self.test >= 1:
            raise DataError(
                f'--val {self.val} --test {self.test}: together they must be below 1, or no '
                'labeled image is left'
            )


# --------------------------------------------------------------------------------- what there is
def group_of(name: str, pattern: Optional[str]) -> str:
    """Group of an image.

    Raises:
        DataError: The pattern is none, or does not occur in the name.
    """
    if pattern is None:
        return name
    try:
        found = re.search(pattern, name)
    except re.error as error:
        raise DataError(f'--group-by {pattern}: no regular expression ({error})') from None
    if found is None:
        raise DataError(
            f'--group-by {pattern}: it does not occur in the name {name!r}; every name must have '
            'its group'
        )
    return found.group(1) if found.groups() and found.group(1) is not None else found.group()


# ---------------------------------------------------------------------------------------- dividing
def stratify(
    presence: np.ndarray, sizes: np.ndarray, targets: Sequence[int], seed: int
) -> np.ndarray:
    """Part of each group, so that the parts have their sizes and their shares of every class.

    The class that the fewest groups left have is taken; each of its groups, the largest first,
    goes to the part that lacks most of that class (of several, most images) and has room for it.

    Args:
        presence: (G, K), how many images of a group have a class.
        sizes: (G,), how many images a group has.
        targets: Number of images of each part.
        seed: Seed of the order among equals.

    Returns:
        (G,) numbers of parts; the last part takes what has room nowhere.
    """
    random = np.random.default_rng(seed)
    lacking = np.asarray(targets, float)
    of_class = np.outer(lacking / max(lacking.sum(), 1), presence.sum(axis=0))
    found = np.full(len(sizes), -1)
    while (found < 0).any():
        free = found < 0
        groups_with = (presence[free] > 0).sum(axis=0)
        rarest = int(np.where(groups_with > 0, groups_with, len(sizes) + 1).argmin())
        some = groups_with.any()
        free &= presence[:, rarest] > 0 if some else True
        members = random.permutation(np.flatnonzero(free))
        for group in members[np.argsort(-sizes[members], kind='stable')]:
            room = lacking >= sizes[group]
            wants = of_class[:, rarest] if some else lacking
            order = np.lexsort((lacking, np.where(room, wants, -np.inf)))
            part = int(order[-1]) if room.any() else len(targets) - 1
            found[group] = part
            lacking[part] -= sizes[group]
            of_class[part] -= presence[group]
    return found


def divide(
    images: Sequence[str], presence: Mapping[str, np.ndarray], request: Request
) -> tuple[dict[str, list[str]], list[str]]:
    """Names of each part.

    Args:
        images: Names of all images.
        presence: Which classes the mask of an image has, (K,) bool, by the names of those with a
            mask.
        request: What is asked for.

    Returns:
        The parts, and images without a mask whose group validates, tests or is labeled, which are
        in no part.

    Raises:
        DataError: There are not enough images or groups.
    """
    request.check()
    groups: dict[str, list[str]] = defaultdict(list)
    for name in images:
        groups[group_of(name, request.group_by)].append(name)
    with_masks = {
        group: masked
        for group, names in groups.items()
        if (masked := [name for name in names if name in presence])
    }
    total = len(presence)
    val, test = (round(share * total) for share in (request.val, request.test))
    rest = total - val - test - request.labeled
    if rest < 0:
        raise DataError(
            f'--labeled {request.labeled}: of {total} images with masks {val} validate and {test} '
            f'test, so at most {max(total - val - test, 0)} can be labeled; give smaller '
            'numbers'
        )
    counts = np.array([sum(presence[n].astype(int) for n in one) for one in with_masks.values()])
    sizes = np.array([len(one) for one in with_masks.values()])
    numbers = stratify(counts, sizes, [request.labeled, val, test, rest], request.seed)
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    left_out: list[str] = []
    part_of = dict(zip(with_masks, (('labeled', 'val', 'test', 'unlabeled')[n] for n in numbers)))
    for group, names in groups.items():
        part = part_of.get(group, 'unlabeled')
        for name in names:
            used = part == 'unlabeled' or name in presence
            (parts[part] if used else left_out).append(name)
    _check_parts(parts, request, (val, test))
    return {part: sorted(names) for part, names in parts.items()}, left_out


def _check_parts(
    parts: Mapping[str, Sequence[str]], request: Request, wanted: tuple[int, int]
) -> None:
    """Refuse an empty part."""
    for part, number in zip(PARTS, (request.labeled, 1, *wanted)):
        if number and not parts[part]:
            why = (
                f'no group of --group-by {request.group_by} has so few images with masks'
                if request.group_by
                else 'all images have a mask and a place elsewhere'
            )
            raise DataError(
                f'the {part} part would be empty: {why}; give other numbers, or add images'
            )


# ------------------------------------------------------------------------------------- the command
def split_folder(root: Path, request: Request, overwrite: bool = False) -> str:
    """Write the lists of a folder.

    Args:
        root: Has ``images`` and ``annotations``.
        request: What is asked for.
        overwrite: Whether other lists of that name are replaced.

    Returns:
        What was done, for the user.

    Raises:
        DataError, ValueError: See ``files_by_name``, ``classes_in`` and :func:`divide`; a mask
            without an image; other lists are there.
    """
    request.check()
    for folder in (root / 'images', root / 'annotations'):
        remedy = 'mmseg-semi import-labels makes images and annotations.'
        check_there(folder, remedy, what='folder', error=DataError)
    images = sorted(files_by_name(str(root / 'images'), IMG_SUFFIXES))
    masks = files_by_name(str(root / 'annotations'), ('.png',))
    alone = sorted(masks.keys() - set(images))
    if alone:
        raise DataError(
            f'{root / "annotations"}: {len(alone)} masks have no image in {root / "images"} '
            f'({name_some(alone)}); give both the same name'
        )
    if not masks:
        raise DataError(f'{root / "annotations"} has no mask (*.png); put masks there')
    known = {}
    for name, file in track(sorted(masks.items()), 'masks'):
        found = classes_in(root / 'annotations' / file, None)
        if found.any():
            known[name] = found
    parts, left_out = divide(images, known, request)
    folder = root / 'splits' / request.name
    unchanged = _refuse_others(folder, parts, overwrite)
    if not unchanged:
        write_lists(folder, parts, request)
    return _said(folder, parts, known, len(masks) - len(known), left_out, unchanged)


def _note(parts: Mapping[str, Sequence[str]], request: Request) -> dict[str, object]:
    """What ``split.json`` has; ``hash`` is the one that the log of a training names."""
    return dict(
        hash=split_hash(parts['labeled'], parts['unlabeled']),
        hash_of_val_and_test=split_hash(parts['val'], parts['test']),
        images={part: len(names) for part, names in parts.items()},
        labeled=request.labeled,
        val=request.val,
        test=request.test,
        seed=request.seed,
        group_by=request.group_by,
    )


def write_lists(folder: Path, parts: Mapping[str, Sequence[str]], request: Request) -> None:
    """Write the lists of the parts that have images, and remove those of the others."""
    texts = {part: ''.join(f'{name}\n' for name in names) for part, names in parts.items()}
    files = {folder / f'{part}.txt': text for part, text in texts.items() if text}
    files[folder / 'split.json'] = json.dumps(_note(parts, request), indent=1) + '\n'
    write_files(files)
    for part in (part for part, text in texts.items() if not text):
        (folder / f'{part}.txt').unlink(missing_ok=True)


def _refuse_others(folder: Path, parts: Mapping[str, Sequence[str]], overwrite: bool) -> bool:
    """Whether the same lists are there; other ones are refused."""
    paths = {part: folder / f'{part}.txt' for part in PARTS}
    same = {part: same_names(paths[part], parts[part]) for part in PARTS}
    other = [part for part in PARTS if same[part] is False]
    if other and not overwrite:
        raise DataError(
            f'{paths[other[0]]} exists and names other images; nothing was written. Give '
            '--overwrite to replace the lists, or another --seed.'
        )
    return all(same[part] or not parts[part] for part in PARTS) and not other


def _said(
    folder: Path,
    parts: Mapping[str, Sequence[str]],
    presence: Mapping[str, np.ndarray],
    unknown: int,
    left_out: Sequence[str],
    unchanged: bool,
) -> str:
    """The parts with their classes, and what a user should know."""
    every = np.flatnonzero(np.any(list(presence.values()), axis=0))
    lines = [f'{folder}: {"unchanged" if unchanged else "written"}']
    for part in PARTS:
        rows = [presence[name] for name in parts[part] if name in presence]
        found = np.sum(rows, axis=0, dtype=int)[every] if rows else np.zeros(len(every), int)
        classes = ', '.join(f'{number}: {count}' for number, count in zip(every, found))
        shown = f'  images with class {classes}' if part != 'unlabeled' else ''
        lines.append(f'{part:9} {len(parts[part]):7}{shown}')
        lacking = every[found == 0]
        if part != 'unlabeled' and parts[part] and lacking.size:
            lines.append(
                f'WARNING: no {part} image has the class {name_some(list(map(str, lacking)))}'
            )
    if unknown:
        lines.append(f'{unknown} masks have no known pixel; their images are unlabeled')
    if left_out:
        lines.append(
            f'{len(left_out)} images without a mask are in no part, since their group is labeled, '
            f'validates or tests ({name_some(list(left_out))})'
        )
    return '\n'.join(lines)


@click.command('split')
@click.argument('folder', metavar='DIR', type=click.Path(path_type=Path))
@click.option('--labeled', type=int, required=True, help='Number of labeled images.')
@click.option(
    '--val',
    type=float,
    default=0.2,
    show_default=True,
    help='Share that validates, of those with masks.',
)
@click.option('--test', type=float, default=0.2, show_default=True, help='Share that tests.')
@click.option('--seed', type=int, default=0, show_default=True, help='Other lists with another.')
@click.option(
    '--group-by',
    metavar='REGEX',
    help='What the images of a patient, a plant or a sequence have in common in their names: they '
    'stay in one part.',
)
@click.option('--overwrite', is_flag=True, help='Replace other lists of the same name.')
def command(
    folder: Path,
    labeled: int,
    val: float,
    test: float,
    seed: int,
    group_by: Optional[str],
    overwrite: bool,
) -> None:
    """Divide DIR/images into labeled, unlabeled, validation and test images.

    Images without a mask in DIR/annotations become unlabeled; the others are divided so that each
    class has its share in each part. The lists are DIR/splits/LABELED-seedSEED/*.txt.
    """
    request = Request(labeled, val, test, seed, group_by)
    with exiting(DataError, ValueError, OSError):
        click.echo(split_folder(folder, request, overwrite))
