"""The image files that belong to an export."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from mmseg_semi.datasets.image_files import IMG_SUFFIXES
from mmseg_semi.files import folders_below


class Photos:
    """Image files of a folder and its subfolders, by their paths in it.

    Args:
        folder: Where they are.
        without: Files and folders that are left out.
    """

    def __init__(self, folder: Path, without: Iterable[Path] = ()) -> None:
        self.folder = folder
        self.files = [
            Path(root, name).relative_to(folder).as_posix()
            for root, names in folders_below(folder, without)
            for name in names
            if name.lower().endswith(IMG_SUFFIXES)
        ]

    def match(self, wanted: Sequence[tuple[str, ...]]) -> list[str | None]:
        """Find the file of each image.

        It is the file of this path; else the one with the longest path that it ends with; else the
        only one whose path ends with it; else, where neither the files nor the export have this
        name twice, the one of the name in any folder. A path without suffix stands for a file of
        any suffix. A letter with an accent is one in either form that Unicode has for it.

        Args:
            wanted: Paths that an image may have, the most likely first.
        """
        by_path, by_name = defaultdict(list), defaultdict(list)
        for file in self.files:
            known = clean(file)
            for path in (known, without_suffix(known)):
                by_path[path].append(file)
                by_name[PurePosixPath(path).name].append(path)
        often = Counter(one for names in wanted for one in {clean(n).split('/')[-1] for n in names})
        found: list[str | None] = []
        for names in wanted:
            paths = (_choose(clean(one), by_path, by_name, often) for one in names)
            chosen = next((one for one in paths if one is not None), None)
            files = by_path[chosen] if chosen is not None else []
            found.append(files[0] if len(files) == 1 else None)
        return found


def without_suffix(path: str) -> str:
    """The path of an image file without its suffix."""
    return path[: -len(PurePosixPath(path).suffix)] if path.lower().endswith(IMG_SUFFIXES) else path


def clean(name: str) -> str:
    """A path of any system with slashes, without drive and dots, in Unicode's composed form."""
    parts = unicodedata.normalize('NFC', name).replace('\\', '/').split('/')
    return '/'.join(one for one in parts if one not in ('', '.', '..') and not one.endswith(':'))


def _choose(
    name: str,
    by_path: Mapping[str, list[str]],
    by_name: Mapping[str, list[str]],
    often: Counter[str],
) -> str | None:
    if name in by_path:
        return name
    last = PurePosixPath(name).name
    alike = sorted(set(by_name.get(last, [])))
    inside = [one for one in alike if name.endswith(f'/{one}')]
    if inside:
        return max(inside, key=len)
    ends = [one for one in alike if one.endswith(f'/{name}')]
    if len(ends) == 1:
        return ends[0]
    return alike[0] if len(alike) == 1 and often[last] == 1 else None
