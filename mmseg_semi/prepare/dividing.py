"""Who is labeled, validates and tests, by class and by group.

Each class has its share in each part, the rarest class first (iterative stratification: Sechidis,
Tsoumakas and Vlahavas, On the Stratification of Multi-Label Data, ECML PKDD 2011). All images of a
group (a patient, a plant, a sequence) stay in one part.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np

from mmseg_semi.errors import DataError

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
            parentheses, or all of it; None when each image is a group of its own, or with the
            other slices of its volume.
        volumes: Names of volumes; their slices are named ``VOLUME_zNUMBER``.
    """

    labeled: int
    val: float = 0.2
    test: float = 0.2
    seed: int = 0
    group_by: Optional[str] = None
    volumes: frozenset[str] = frozenset()

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


def group_of(name: str, pattern: Optional[str], volumes: Collection[str] = ()) -> str:
    """Group of an image: by the pattern, or else its volume, or else itself.

    Raises:
        DataError: The pattern is none, or does not occur in the name.
    """
    if pattern is None:
        volume, _, number = name.rpartition('_z')
        return volume if volume in volumes and number.isdecimal() else name
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


def fill_empty(numbers: np.ndarray, sizes: np.ndarray, wanted: Sequence[int]) -> None:
    """Give parts that are wanted and have no group the group whose size is nearest.

    It comes from the unlabeled part, or else from the part that has most groups, and none gives its
    only one, but for the unlabeled, to which images without masks may belong besides. A part stays
    empty only where there are fewer groups than parts.

    Args:
        numbers: (G,) parts of the groups; changed.
        sizes: (G,), how many images a group has.
        wanted: Number of images of each part but the last one, the unlabeled.
    """
    for part, number in enumerate(wanted):
        if not number or (numbers == part).any():
            continue
        groups_of = np.bincount(numbers, minlength=len(wanted) + 1)
        giver = len(wanted) if groups_of[-1] > 1 else int(groups_of.argmax())
        if groups_of[giver] < 2:
            giver = len(wanted)
            if not groups_of[giver]:
                continue
        groups = np.flatnonzero(numbers == giver)
        numbers[groups[np.abs(sizes[groups] - number).argmin()]] = part


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
        groups[group_of(name, request.group_by, request.volumes)].append(name)
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
    wanted = [request.labeled, val, test, rest]
    numbers = stratify(counts, sizes, wanted, request.seed)
    fill_empty(numbers, sizes, wanted[:3])
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    left_out: list[str] = []
    part_of = dict(zip(with_masks, (('labeled', 'val', 'test', 'unlabeled')[n] for n in numbers)))
    for group, names in groups.items():
        part = part_of.get(group, 'unlabeled')
        for name in names:
            used = part == 'unlabeled' or name in presence
            (parts[part] if used else left_out).append(name)
    _check_parts(parts, request, (val, test), len(groups))
    return {part: sorted(names) for part, names in parts.items()}, left_out


def _check_parts(
    parts: Mapping[str, Sequence[str]], request: Request, wanted: tuple[int, int], groups: int
) -> None:
    """Refuse an empty part."""
    for part, number in zip(PARTS, (request.labeled, 1, *wanted)):
        if number and not parts[part]:
            what = 'images have a mask and'
            if request.group_by or request.volumes:
                kind = f'groups of --group-by {request.group_by}' if request.group_by else 'volumes'
                what = f'{kind} ({groups}) have'
            raise DataError(
                f'the {part} part would be empty: all {what} a place elsewhere; give other numbers '
                '(--val 0, --test 0), another pattern, or add images'
            )
