"""Is a split what it should be, and is everything on the disk that it names?"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from mmseg_semi.errors import DataError, name_some
from mmseg_semi.files import check_there

from .benchmark_layouts import BenchmarkLayout
from .splits import NameList, Split, read_names


@dataclass(frozen=True)
class DataFiles:
    """What of a data set is on the disk, all as image names.

    Attributes:
        images: Training images (VOC: all images) that exist.
        masks: Masks that exist.
        train: All training images, sorted; None where the list that says so is missing.
        val: Validation images.
    """

    images: frozenset[str]
    masks: frozenset[str]
    train: Sequence[str] | None
    val: frozenset[str]


def list_folder(root: str | Path, folder: str, suffix: str) -> frozenset[str]:
    """Names, without suffix, of the files below a folder that end with the suffix.

    Raises:
        DataError: The folder is missing or has no such file.
    """
    top = os.path.join(root, folder)
    remedy = 'Give the folder of the data set with --data-root.'
    check_there(top, remedy, what='folder', error=DataError)
    names: set[str] = set()
    for path, folders, files in os.walk(top, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith('.')]
        inside = os.path.relpath(path, top).replace(os.sep, '/')
        before = '' if inside == '.' else f'{inside}/'
        names.update(
            before + name[: -len(suffix)]
            for name in files
            if name.endswith(suffix) and not name.startswith('.')
        )
    if not names:
        raise DataError(f'folder {top} has no file *{suffix}. Give another --data-root.')
    return frozenset(names)


def find_data(layout: BenchmarkLayout, root: str | Path, need_train: bool = False) -> DataFiles:
    """List the files of a data set.

    Args:
        layout: Layout of the data set.
        root: Its folder.
        need_train: Whether the list of the training images must be there.

    Raises:
        DataError: A folder or a list is missing.
    """
    images = list_folder(root, layout.img_dir, layout.img_suffix)
    masks = list_folder(root, layout.seg_map_dir, layout.seg_map_suffix)
    train: Sequence[str] | None = None
    train_list = os.path.join(root, layout.train_list)
    if not layout.train_list:
        train = sorted(images)
    elif os.path.isfile(train_list):
        train = sorted(read_names(train_list, layout, layout.img_dir).names)
    elif need_train:
        raise DataError(
            f'there is no list {train_list} of the training images. Run '
            f'{layout.train_list_tool}, which writes it, or put it there: one name a line.'
        )
    val: Iterable[str] = ()
    if layout.val_list:
        val = read_names(os.path.join(root, layout.val_list), layout, layout.val_img_dir).names
    elif layout.val_img_dir and layout.names_are_unique:
        val = list_folder(root, layout.val_img_dir, layout.img_suffix)
    return DataFiles(images, masks, train, frozenset(val))


def verify_split(
    split: Split,
    layout: BenchmarkLayout,
    num_labeled: int | None = None,
    files: DataFiles | None = None,
    val: Iterable[str] = (),
) -> None:
    """Refuse a split that is not what it should be.

    Args:
        split: The split.
        layout: Layout of the data set.
        num_labeled: How many labeled images it must have, None: any number.
        files: What is on the disk; None: only the names are looked at.
        val: Names of validation images that are known without ``files``.

    Raises:
        DataError: A name given twice or in both parts; other numbers of images than the data set
            and the published split have; validation images; missing images or masks.
    """
    parts = (split.labeled, split.unlabeled)
    _refuse_repeated(parts)
    _check_numbers(split, layout, num_labeled)
    held = frozenset(val) | (files.val if files else frozenset())
    for part in parts:
        found = 'validation images; scores would not be honest. Take them out of the split.'
        _refuse(part, held.__contains__, found)
    if files is None:
        return
    train = frozenset(files.train) if files.train is not None else files.images
    where = layout.train_list if files.train is not None and layout.train_list else layout.img_dir
    remedy = 'Complete the data, or give another --data-root.'
    for part in parts:
        _refuse(part, lambda name: name not in files.images, f'not in {layout.img_dir}. {remedy}')
        _refuse(part, lambda name: name not in train, f'no training images by {where}. {remedy}')
    masks = f'without mask in {layout.seg_map_dir}. {remedy}'
    _refuse(split.labeled, lambda name: name not in files.masks, masks)
    missing = sorted(set(files.train or ()) - {name for part in parts for name in part.names})
    if missing:
        raise DataError(
            f'split {split.name}: {len(missing)} training images of {where} are in neither part: '
            f'{name_some(missing)}. {remedy}'
        )


def _refuse_repeated(parts: Sequence[NameList]) -> None:
    places: dict[str, str] = {}
    for part in parts:
        for i, name in enumerate(part.names):
            place = part.where(i) or 'drawn names: '
            if name in places:
                raise DataError(
                    f'{place}{name} stands here and in {places[name][:-2]}; an image must be in '
                    'one of labeled.txt and unlabeled.txt, once. Correct the lists.'
                )
            places[name] = place


def _check_numbers(split: Split, layout: BenchmarkLayout, num_labeled: int | None) -> None:
    found = [len(split.labeled.names), len(split.unlabeled.names)]
    where = os.path.dirname(split.labeled.path) or f'split {split.name}'
    if num_labeled is not None and found[0] != num_labeled:
        raise DataError(
            f'{where}: labeled.txt names {found[0]} images, but the published split {split.name} '
            f'has {num_labeled} labeled ones. Fetch the list again, or rename the folder when it '
            'is a split of your own.'
        )
    if layout.num_train is not None and sum(found) != layout.num_train:
        raise DataError(
            f'{where}: labeled.txt and unlabeled.txt name {found[0]} + {found[1]} = {sum(found)} '
            f'images, but {layout.name} has {layout.num_train} training images. Fetch both lists '
            'again.'
        )


def _refuse(part: NameList, wrong: Callable[[str], bool], what: str) -> None:
    found = [i for i, name in enumerate(part.names) if wrong(name)]
    if found:
        names = [part.names[i] for i in found]
        raise DataError(
            f'{part.where(found[0])}{len(found)} of {len(part.names)} images ({name_some(names)}) '
            f'are {what}'
        )
