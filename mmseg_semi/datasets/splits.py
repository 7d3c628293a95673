"""Lists of labeled and unlabeled images: reading, checking, writing, and a hash that names them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmseg_semi.errors import DataError
from mmseg_semi.files import check_there, list_text, read_list, write_files

from .benchmark_layouts import BenchmarkLayout
from .dataset_tree import data_infos, leaf_datasets

PARTS = ('labeled', 'unlabeled')


def split_hash(labeled: Iterable[str], unlabeled: Iterable[str]) -> str:
    """Name what a split holds, whatever the order in its files.

    The first 12 hexadecimal digits of the SHA-256 of these bytes in UTF-8: the labeled names in
    the order of their code points, each followed by a line feed; one more line feed; the unlabeled
    names likewise. Where each line of the files ends with a line feed, a shell gives the same:
    ``export LC_ALL=C; (sort labeled.txt; echo; sort unlabeled.txt) | sha256sum | cut -c 1-12``.

    Args:
        labeled: Image names below the image folder, without suffix.
        unlabeled: Likewise; none for supervised training.
    """
    parts = (''.join(f'{name}\n' for name in sorted(names)) for names in (labeled, unlabeled))
    # Names of files need not be text; their bytes are taken as they are.
    return hashlib.sha256('\n'.join(parts).encode('utf-8', 'surrogateescape')).hexdigest()[:12]


def dataset_names(dataset: Any) -> list[str] | None:
    """The image names of a built dataset as they stand in split files.

    Args:
        dataset: A dataset, wrapped or not; a wrapper's repetitions are not counted.

    Returns:
        The path of each image below ``data_prefix.img_path`` without ``img_suffix``; None for a
        dataset that keeps no list of its images.
    """
    names = []
    for leaf in leaf_datasets(dataset):
        if not hasattr(leaf, 'get_data_info'):
            return None
        folder = (getattr(leaf, 'data_prefix', None) or {}).get('img_path') or '.'
        suffixes = getattr(leaf, 'img_suffix', ())
        suffixes = (suffixes,) if isinstance(suffixes, str) else tuple(suffixes)
        for info in data_infos(leaf):
            if not info.get('img_path'):
                return None
            names.append(_name_of(info['img_path'], folder, suffixes))
    return names


def _name_of(path: str, folder: str, suffixes: Sequence[str]) -> str:
    inside = folder.rstrip('/') + '/'  # the usual case, without looking up the working folder
    name = path[len(inside) :] if path.startswith(inside) else os.path.relpath(path, folder)
    name = name.replace(os.sep, '/')
    fitting = [suffix for suffix in suffixes if name.lower().endswith(suffix.lower())]
    return name[: -len(max(fitting, key=len))] if fitting else os.path.splitext(name)[0]


# --------------------------------------------------------------------------------------- one split
@dataclass(frozen=True)
class NameList:
    """Image names and where they were read.

    Attributes:
        names: The names, in the order of the file.
        path: The file, '' for names that were drawn.
        lines: Line number of each name.
    """

    names: Sequence[str]
    path: str = ''
    lines: Sequence[int] = ()

    def where(self, index: int) -> str:
        """File and line of a name, followed by a colon; '' for drawn names."""
        return f'{self.path}, line {self.lines[index]}: ' if self.path else ''


@dataclass(frozen=True)
class Split:
    """The two parts of the training images.

    Attributes:
        name: Name of its folder.
        labeled: The labeled images.
        unlabeled: The other ones.
    """

    name: str
    labeled: NameList
    unlabeled: NameList

    @property
    def hash(self) -> str:
        """See :func:`split_hash`."""
        return split_hash(self.labeled.names, self.unlabeled.names)


def read_lines(path: str | Path) -> list[tuple[int, str]]:
    """Lines of a list file that are not blank, with their numbers.

    See :func:`read_list`.

    Raises:
        DataError: The file is missing, no UTF-8 text or empty.
    """
    check_there(path, 'Put it there, or correct the folder.', what='list file', error=DataError)
    return list(read_list(path, error=DataError))


def image_name(text: str, layout: BenchmarkLayout, img_dir: str) -> str | None:
    """Name of the image that a list means, None when it means none of ``img_dir``.

    Args:
        text: The name itself, or the image file below ``data_root`` or below ``img_dir``.
        layout: Layout of the data set.
        img_dir: Folder of the image.
    """
    for start in (f'{img_dir}/', './'):
        text = text[len(start) :] if text.startswith(start) else text
    text = text[: -len(layout.img_suffix)] if text.endswith(layout.img_suffix) else text
    return text if re.fullmatch(layout.name_pattern, text) else None


def read_names(path: str | Path, layout: BenchmarkLayout, img_dir: str) -> NameList:
    """Read a published list of images; a second column is not looked at.

    Raises:
        DataError: See ``read_lines``; a line that names no image of ``img_dir``.
    """
    names, numbers = [], []
    for number, line in read_lines(path):
        name = image_name(line.split()[0], layout, img_dir)
        if name is None:
            raise DataError(
                f'{path}, line {number}: {line.split()[0]!r} is no image of {layout.name} in '
                f'{img_dir}; allowed are names such as {layout.example!r}, or image files such as '
                f"'{img_dir}/{layout.example}{layout.img_suffix}'. Give the lists of this data set."
            )
        names.append(name)
        numbers.append(number)
    return NameList(names, str(path), numbers)


# ----------------------------------------------------------------------------------------- writing
def write_splits(
    splits: Sequence[Split], folder: str | Path, overwrite: bool = False
) -> Mapping[str, str]:
    """Write the files of all splits, or none of them.

    Args:
        splits: Splits with different names.
        folder: Folder of the folders of splits.
        overwrite: Whether another split that has the name already is replaced.

    Returns:
        ``'written'`` or ``'unchanged'`` by name; a split is unchanged when both of its files exist
        and name the same images.

    Raises:
        DataError: Another split has the name, and ``overwrite`` is not set.
    """
    files: dict[Path, str] = {}
    states: dict[str, str] = {}
    for split in splits:
        parts = dict(labeled=split.labeled, unlabeled=split.unlabeled)
        paths = {part: Path(folder) / split.name / f'{part}.txt' for part in PARTS}
        same = {part: same_names(paths[part], parts[part].names) for part in PARTS}
        if False in same.values() and not overwrite:
            part = next(part for part in PARTS if same[part] is False)
            raise DataError(
                f'{paths[part]} exists and names other images than the new split {split.name}. '
                'Nothing was written. Give --overwrite to replace it, or another name.'
            )
        states[split.name] = 'unchanged' if set(same.values()) == {True} else 'written'
        if states[split.name] == 'written':
            for part, path in paths.items():
                files[path] = list_text(parts[part].names, DataError)
    write_files(files)
    return states


def same_names(path: Path, names: Sequence[str]) -> bool | None:
    """Whether a file names just these images; None when there is no such file."""
    if not path.exists():
        return None
    try:
        return sorted(line for _, line in read_lines(path)) == sorted(names)
    except (DataError, OSError):
        return False


def summary_lines(splits: Sequence[Split], states: Mapping[str, str]) -> list[str]:
    """One line a split: name, numbers, hash, and whether it was written."""
    width = max(len(split.name) for split in splits)
    return [
        f'{split.name:{width}}  {len(split.labeled.names):6} labeled  '
        f'{len(split.unlabeled.names):6} unlabeled  {split.hash}  {states[split.name]}'
        for split in splits
    ]
