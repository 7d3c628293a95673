"""The image files that belong to an export."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from mmseg_semi.datasets.image_files import IMG_SUFFIXES


class Photos:
    """Image files of a folder and its subfolders, by their paths in it.

    Args:
        folder: Where they are.
        without: Files and folders that are left out.
    """

    def __init__(self, folder: Path, without: Iterable[Path] = ()) -> None:
        self.folder = folder
        leave = {one.resolve() for one in without}
        self.files: list[str] = []
        for root, folders, names in os.walk(folder):
            here = Path(root)
            folders[:] = sorted(
                one for one in folders if one[0] != '.' and (here / one).resolve() not in leave
            )
            self.files += [
                (here / one).relative_to(folder).as_posix()
                for one in sorted(names)
                if one.lower().endswith(IMG_SUFFIXES)
                and one[0] != '.'
                and (here / one).resolve() not in leave
            ]

    def match(self, wanted: Sequence[tuple[str, ...]]) -> list[str | None]:
        """Find the file of each image.

        It is the file of this path; else the only one whose path ends like it or whose path it ends
        with; else, where neither the files nor the export have this name twice, the one of the name
        in any folder.

        Args:
            wanted: Paths that an image may have, the most likely first.
        """
        there, by_name = set(self.files), defaultdict(list)
        for file in self.files:
            by_name[PurePosixPath(file).name].append(file)
        often = Counter(PurePosixPath(one).name for names in wanted for one in set(names))
        found: list[str | None] = []
        for names in wanted:
            choices = (_choose(clean(one), there, by_name, often) for one in names)
            found.append(next((one for one in choices if one is not None), None))
        return found


def clean(name: str) -> str:
    """A path of any system with slashes, and without drive and dots."""
    parts = name.replace('\\', '/').split('/')
    return '/'.join(one for one in parts if one not in ('', '.', '..') and not one.endswith(':'))


def _choose(
    name: str, there: set[str], by_name: dict[str, list[str]], often: Counter[str]
) -> str | None:
    if name in there:
        return name
    last = PurePosixPath(name).name
    alike = by_name.get(last, [])
    ends = [one for one in alike if one.endswith(f'/{name}') or name.endswith(f'/{one}')]
    if len(ends) == 1:
        return ends[0]
    return alike[0] if len(alike) == 1 and often[last] == 1 else None
