"""Checks of the labeled part, which may be any dataset of mmseg, wrapped or not."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from mmseg.registry import DATASETS

from mmseg_semi.errors import name_some
from mmseg_semi.files import check_paths, check_split_file, is_local, read_list

from .dataset_tree import data_infos, leaf_datasets, pipeline_transforms
from .findings import Finding
from .image_files import IMG_SUFFIXES
from .listed_files import check_left_out
from .transforms.check_annotations import CheckAnnotations


def build_labeled(config: Any) -> Any:
    """Build the labeled dataset from its config (or take a built one), list it and verify it.

    Raises:
        FileNotFoundError: A folder or the split file is missing.
        ValueError: An empty split, names without an image or a mask, no sample at all.
    """
    if not isinstance(config, Mapping):
        config.full_init()
        verify_labeled(config)
        return config
    check_paths(config)
    dataset = DATASETS.build(config)
    dataset.full_init()
    verify_labeled(dataset)
    return dataset


def verify_labeled(dataset: Any, key: str = 'labeled', masks: bool = True) -> None:
    """Verify that every sample has an image and a mask.

    Args:
        dataset: A built dataset, its samples listed.
        key: Config key of the dataset, for messages.
        masks: Whether masks are needed.

    Raises:
        FileNotFoundError: The split file is missing.
        ValueError: No sample, or samples without an image or a mask (with the first names).
    """
    for leaf in leaf_datasets(dataset):
        if not is_local(getattr(leaf, 'backend_args', None)):
            continue
        ann_file = getattr(leaf, 'ann_file', '')
        if ann_file:
            check_split_file(ann_file, key)
        check_left_out(leaf, key)
        where = f'named in {ann_file}' if ann_file else f'of {type(leaf).__name__}'
        for kind, name, config_key, what in (
            (6, 'img_path', 'img_path and img_suffix', 'image'),
            (7, 'seg_map_path', 'seg_map_path and seg_map_suffix', 'mask'),
        )[: 2 if masks else 1]:
            found = (info.get(name) for info in data_infos(leaf))
            lacking = [str(path) for path in found if not _is_file(path)]
            if lacking:
                text = (
                    f'{key}: {len(lacking)} of {len(leaf)} samples {where} have no {what}: '
                    f'{name_some(lacking)}{_twins(lacking)}.'
                )
                others = (
                    f'take their lines out of {ann_file} (one name a line, without suffix)'
                    if ann_file
                    else 'take the images out of this folder'
                )
                remedy = (
                    f'Put the {what}s there, or {others}, or say with {config_key} where files are.'
                )
                raise ValueError(Finding(kind, text, remedy, lacking))
    if len(dataset) == 0:
        text = f'{key}: the dataset has no sample.'
        remedy = 'Check data_root, data_prefix, ann_file, img_suffix and indices.'
        raise ValueError(Finding(5, text, remedy))


def named_twice(dataset: Any, key: str) -> list[Finding]:
    """Say which names stand in a list file more than once.

    Args:
        dataset: A built dataset, wrapped or not.
        key: Its config key, for messages.
    """
    found = []
    for leaf in leaf_datasets(dataset):
        path = getattr(leaf, 'ann_file', '')
        if not path or not os.path.isfile(path):
            continue
        lines = Counter(line for _, line in read_list(path, key))
        twice = [name for name, count in lines.items() if count > 1]
        if twice:
            text = f'{key}: {path} names {len(twice)} images more than once: {name_some(twice)}.'
            found.append(Finding(19, text, 'Take the lines out; each image is taken once.', [path]))
    return found


def _twins(paths: list[str]) -> str:
    """Files that differ from the first of those that are not there in suffix or an end alone."""
    suffixes = [*IMG_SUFFIXES, *(suffix.upper() for suffix in IMG_SUFFIXES)]
    found, listed = [], dict[str, list[str]]()
    for path in paths[:5]:
        folder, name = os.path.split(os.path.splitext(path)[0])
        twins = [name + suffix for suffix in suffixes if _is_file(f'{folder}/{name}{suffix}')]
        if not twins and os.path.isdir(folder):
            names = listed.setdefault(folder, os.listdir(folder))
            # l1_mask.png for l1.png, and not l10.png
            longer = re.compile(rf'{re.escape(name)}(_|\W)')
            twins = sorted(filter(longer.match, names))
        found += [os.path.join(folder, one) for one in twins]
    return f' (there is {name_some(found)})' if found else ''


def _is_file(path: str | None) -> bool:
    return os.path.isfile(path or '')


def fill_num_classes(dataset: Any, key: str) -> None:
    """Tell every ``CheckAnnotations`` of a dataset's pipelines how many classes there are.

    Args:
        dataset: A dataset, wrapped or not.
        key: Config key of the dataset, for the message.

    Raises:
        ValueError: A transform was given another number than ``metainfo['classes']`` has.
    """
    for leaf in leaf_datasets(dataset):
        classes = getattr(leaf, 'metainfo', {}).get('classes')
        for transform in pipeline_transforms(leaf):
            if classes is None or not isinstance(transform, CheckAnnotations):
                continue
            if transform.num_classes not in (None, len(classes)):
                raise ValueError(
                    f'{key}: CheckAnnotations has num_classes={transform.num_classes}, but the '
                    f'dataset has {len(classes)} classes ({name_some(list(classes))}). Leave '
                    'num_classes out, or correct it or metainfo.classes.'
                )
            transform.num_classes = len(classes)
