"""Are validation, test or labeled images among the unlabeled ones?"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Hashable, Iterable
from typing import Callable

from mmseg_semi.errors import DataError, name_some

_SAMPLE = 16384


def find_copies(paths: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Find files that are the same file or have the same content as one of ``others``.

    Only files of equal size are read, and all of a file only when 16 KiB from its middle agree.
    Files that do not exist are left out.

    Args:
        paths: Files to look at.
        others: Files to compare with.

    Returns:
        ``{path: its equal among others}``.
    """
    ours, theirs = _existing(paths), _existing(others)
    real = {os.path.realpath(path): path for path in theirs}
    found = {p: real[os.path.realpath(p)] for p in ours if os.path.realpath(p) in real}
    ours = [path for path in ours if path not in found]
    # Each step compares more of the files and has fewer of them to compare.
    for key in (os.path.getsize, _middle_digest, _digest):
        pairs = _equal_groups(ours, theirs, key)
        ours = sorted({path for mine, _ in pairs for path in mine})
        theirs = sorted({path for _, other in pairs for path in other})
    found.update({path: other[0] for mine, other in pairs for path in mine})
    return found


def check_overlap(
    unlabeled_paths: Iterable[str], labeled_paths: Iterable[str], heldout_paths: Iterable[str]
) -> int:
    """Refuse unlabeled images that are validation or test images.

    Images count as the same when they are the same file, links followed, or byte-wise copies.

    Args:
        unlabeled_paths: Images of the unlabeled part.
        labeled_paths: Images of the labeled part.
        heldout_paths: Images of the validation and test parts.

    Returns:
        How many unlabeled images are labeled ones too; the caller decides what to say.

    Raises:
        DataError: Validation or test images among the unlabeled ones, with the first names.
    """
    unlabeled = list(unlabeled_paths)
    held = find_copies(unlabeled, heldout_paths)
    if held:
        names = [a if a == b else f'{a} (= {b})' for a, b in sorted(held.items())]
        raise DataError(
            f'unlabeled: {len(held)} of {len(unlabeled)} images are validation or test images, so '
            f'scores would not be honest: {name_some(names)}. Take them out of the unlabeled folder'
            ', or list the images to use in a list file (unlabeled.ann_file).'
        )
    return len(find_copies(unlabeled, labeled_paths))


def _existing(paths: Iterable[str]) -> list[str]:
    return [path for path in dict.fromkeys(paths) if os.path.isfile(path)]


def _equal_groups(
    ours: list[str], theirs: list[str], key: Callable[[str], Hashable]
) -> list[tuple[list[str], list[str]]]:
    groups: dict[Hashable, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for i, paths in enumerate((ours, theirs)):
        for path in paths:
            groups[key(path)][i].append(path)
    return [group for group in groups.values() if all(group)]


def _middle_digest(path: str) -> tuple[int, bytes]:
    size = os.path.getsize(path)
    with open(path, 'rb') as file:
        file.seek(max(size - _SAMPLE, 0) // 2)
        return size, hashlib.blake2b(file.read(_SAMPLE)).digest()


def _digest(path: str) -> bytes:
    digest = hashlib.blake2b()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()
