"""A folder or a list of images without masks."""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from mmengine.dataset import BaseDataset, force_full_init
from mmengine.logging import print_log
from mmseg.registry import DATASETS

from mmseg_semi.errors import name_some
from mmseg_semi.files import check_there, folders_below, read_list

from .dataset_tree import nested_transforms, pipeline_transforms
from .findings import Finding
from .image_files import IMG_SUFFIXES
from .pipelines import unlabeled_pipeline
from .transforms.class_balanced_crop import ClassBalancedCrop
from .transforms.named_transforms import Named, Transform, list_transforms


@DATASETS.register_module()
class UnlabeledDataset(BaseDataset):
    """Images of a folder or of a list file; a mask is never looked for.

    Folders may be nested and suffixes mixed; names that begin with a dot are left out, and the
    order is that of the sorted paths. Two images of one folder that differ in their suffix only
    are refused, because one of them is usually a mask. A list file has one image a line, relative
    to ``data_prefix.img_path``, with or without suffix; blank lines, lines that begin with ``#``
    and further columns (lists of ``image mask`` pairs) are ignored, and so are repeated names,
    with a warning. Images are read from the file system.

    Args:
        ann_file: List file, relative to ``data_root``; '' takes every image of the folder.
        metainfo: As in mmengine's ``BaseDataset``.
        data_root: Folder that relative paths begin in.
        data_prefix: ``img_path`` is the folder of the images.
        img_suffix: Suffix or suffixes of images, upper and lower case alike.
        geometry: Geometric transforms, ``dict(order=(...), name=dict(type=...))``, None for one
            that is left out; or a list. ``SemiDataset`` fills in its own.
        strong: Strong views: the arguments of ``StrongViews``, ``dict(num_views=...,
            transforms=...)``, ``transforms=None`` for views that are only mixed; None or
            ``num_views=0`` for no view.
        detections: Boxes of a detector: ``dict(type='LoadDetections', ...)``.
        maps: Further transforms that add a per-pixel map, by name: each puts an array (H, W) or
            (H, W, C) into the results and lists its name in ``seg_fields``. The model gets it as
            ``inputs['maps'][name]``.
        loading: The transform that loads an image, such as ``dict(type='LoadChannels',
            in_channels=4)``; None for ``LoadImageFromFile``. ``SemiDataset`` fills in its own.
        pipeline: All transforms, ending with ``PackSemiInputs``, in place of the pipeline that is
            composed of the five arguments above.
        indices: As in ``BaseDataset``: the first few, or those given.
        serialize_data: Whether the paths are kept in one array, which data workers share.
        lazy_init: As in ``BaseDataset``; ``SemiDataset`` lists the images at once all the same.
        max_refetch: As in ``BaseDataset``: how often a sample for which the pipeline returns None
            is drawn again.

    Raises:
        FileNotFoundError: The folder or the list file is missing.
        ValueError: No image in the folder, an empty list file, names in it without an image, or a
            name that fits several images; ``pipeline`` beside what it would be composed of; a
            ``RandomCrop`` that looks at classes.
    """

    def __init__(
        self,
        ann_file: str = '',
        metainfo: dict[str, Any] | None = None,
        data_root: str = '',
        data_prefix: dict[str, str] | None = None,
        img_suffix: str | Sequence[str] = IMG_SUFFIXES,
        geometry: Named = None,
        strong: Mapping[str, Any] | None = None,
        detections: dict[str, Any] | None = None,
        maps: Named = None,
        loading: Mapping[str, Any] | None = None,
        pipeline: Sequence[Transform] | None = None,
        indices: int | Sequence[int] | None = None,
        serialize_data: bool = True,
        lazy_init: bool = False,
        max_refetch: int = 1000,
    ) -> None:
        suffixes = [img_suffix] if isinstance(img_suffix, str) else list(img_suffix)
        if not suffixes or not all(isinstance(s, str) and s for s in suffixes):
            raise ValueError(
                f'unlabeled.img_suffix is {img_suffix!r}: give a suffix or a list of them, such '
                f'as {list(IMG_SUFFIXES)}'
            )
        self.img_suffix = tuple(suffix.lower() for suffix in suffixes)
        self._plain = all(suffix.rfind('.') == 0 for suffix in suffixes)
        parts: dict[str, Any] = dict(
            geometry=geometry, strong=strong, detections=detections, maps=maps, loading=loading
        )
        given = [f'unlabeled.{name}' for name, part in parts.items() if part]
        if pipeline is None:
            maps = [*list_transforms(maps, 'unlabeled.maps'), *([detections] if detections else [])]
            pipeline = unlabeled_pipeline(geometry, strong, maps, loading)
        elif given:
            raise ValueError(
                f'unlabeled.pipeline replaces {", ".join(given)}, which would have no effect: set '
                'them to None, or leave pipeline out'
            )
        super().__init__(
            ann_file=ann_file,
            metainfo=metainfo,
            data_root=data_root or '',
            data_prefix=data_prefix or dict(img_path='images/unlabeled'),
            pipeline=list(pipeline),
            indices=indices,
            serialize_data=serialize_data,
            lazy_init=lazy_init,
            max_refetch=max_refetch,
        )
        for transform in nested_transforms(pipeline_transforms(self)):
            looks = dict(cat_max_ratio=getattr(transform, 'cat_max_ratio', 1) < 1)
            looks['prob'] = isinstance(transform, ClassBalancedCrop) and transform.prob > 0
            for key in (key for key, value in looks.items() if value):
                raise ValueError(
                    f'unlabeled: {type(transform).__name__}.{key} is {getattr(transform, key)}, '
                    'but unlabeled images have no classes to look at: give the unlabeled part a '
                    "geometry of its own, with type='RandomCrop' and cat_max_ratio=1.0"
                )

    def load_data_list(self) -> list[str]:
        """List the paths of the images."""
        folder = self.data_prefix.get('img_path')
        if not folder:
            folder = '.'
        remedy = 'Correct data_root or data_prefix.img_path of the unlabeled part.'
        check_there(folder, remedy, 'unlabeled.data_prefix.img_path', 'folder')
        return self._listed_paths(folder) if self.ann_file else self._folder_paths(folder)

    def _serialize_data(self) -> tuple[np.ndarray, np.ndarray]:
        """Join the paths to one array, which all workers share, and their ends.

        Python counts references inside of texts, so that a worker would copy a list of them.
        """
        encoded = [os.fsencode(path) for path in self.data_list]
        self.data_list.clear()
        ends = np.cumsum([len(one) for one in encoded], dtype=np.int64)
        return np.frombuffer(b''.join(encoded), np.uint8), ends

    @force_full_init
    def get_data_info(self, idx: int) -> dict[str, Any]:
        """``dict(img_path, seg_fields=[], sample_idx)`` of an image."""
        if self.serialize_data:
            place = range(len(self.data_address))[idx]
            start = self.data_address[place - 1] if place else 0
            path = os.fsdecode(self.data_bytes[start : self.data_address[place]].tobytes())
        else:
            place, path = range(len(self.data_list))[idx], self.data_list[idx]
        return dict(img_path=path, seg_fields=[], sample_idx=place)

    def _is_image(self, name: str) -> bool:
        return not name.startswith('.') and name.lower().endswith(self.img_suffix)

    def _stem(self, name: str) -> str:
        stem, dot, end = name.rpartition('.')
        if self._plain and dot:
            return stem
        fitting = [suffix for suffix in self.img_suffix if name.lower().endswith(suffix)]
        return name[: -len(max(fitting, key=len))]

    def _folder_paths(self, folder: str) -> list[str]:
        paths: list[str] = []
        twins = []
        for root, names in folders_below(folder):
            images = list(filter(self._is_image, names))
            paths += [os.path.join(root, name) for name in images]
            twins += [' = '.join(several) for several in _twins(images, self._stem).values()]
        if not paths:
            text = (
                f'unlabeled.data_prefix.img_path: the folder {folder} holds no image (suffixes '
                f'looked for: {", ".join(self.img_suffix)}).'
            )
            remedy = 'Correct data_prefix.img_path or img_suffix of the unlabeled part.'
            raise ValueError(Finding(5, text, remedy))
        self._refuse_ambiguous(twins)
        paths.sort()
        return paths

    def _refuse_ambiguous(self, groups: list[str]) -> None:
        if groups:
            text = (
                f'unlabeled: {len(groups)} images of {self.data_prefix["img_path"]} have a twin '
                f'that differs in the suffix only: {name_some(sorted(groups))}.'
            )
            remedy = (
                "If one of them is a mask, say which suffix images have (img_suffix='.jpg'); if "
                'both are images, list them with suffix in a list file (ann_file).'
            )
            raise ValueError(Finding(8, text, remedy, sorted(groups)))

    def _read_list(self) -> list[str]:
        every = f"to '' to take every image of {self.data_prefix['img_path']}"
        remedy = f'Correct ann_file, or set it {every}.'
        check_there(self.ann_file, remedy, 'unlabeled.ann_file', 'list file')
        return [line for _, line in read_list(self.ann_file, 'unlabeled')]

    def _listed_paths(self, folder: str) -> list[str]:
        finder = _ImageFinder(folder, self._is_image, self._stem)
        paths, missing, ambiguous = [], [], []
        for line in self._read_list():
            # The whole line first: names may contain spaces.
            found = finder.find(line) or finder.find(line.split()[0])
            if len(found) == 1:
                paths.append(found[0])
            elif found:
                ambiguous.append(f'{line} ({", ".join(map(os.path.basename, found))})')
            else:
                missing.append(line)
        if missing:
            text = (
                f'unlabeled.ann_file: {len(missing)} of {len(missing) + len(paths)} names in '
                f'{self.ann_file} have no image in {folder}: {name_some(missing)}.'
            )
            remedy = (
                'Names are relative to data_prefix.img_path, with or without suffix; suffixes '
                f'looked for: {", ".join(self.img_suffix)}.'
            )
            raise ValueError(Finding(6, text, remedy, missing))
        if ambiguous:
            raise ValueError(
                f'unlabeled.ann_file: {len(ambiguous)} names in {self.ann_file} fit more than one '
                f'image: {name_some(ambiguous)}. Write the suffix in the list, or set img_suffix.'
            )
        unique = list(dict.fromkeys(paths))
        if len(unique) < len(paths):
            print_log(
                f'unlabeled.ann_file: {self.ann_file} names {len(paths) - len(unique)} images more '
                'than once; each is taken once',
                logger='current',
                level=logging.WARNING,
            )
        return sorted(unique)


@DATASETS.register_module()
class ImageFolder(UnlabeledDataset):
    """Images to predict: an ``UnlabeledDataset`` that takes those that differ in the suffix."""

    def _refuse_ambiguous(self, groups: list[str]) -> None:
        """Both are taken; the names of their predictions keep the suffix."""


def _twins(names: list[str], stem: Callable[[str], str]) -> dict[str, list[str]]:
    """Sorted names that share a stem, by it."""
    stems = Counter(map(stem, names))
    if len(stems) == len(names):
        return {}
    found = defaultdict(list)
    for name in sorted(names):
        if stems[stem(name)] > 1:
            found[stem(name)].append(name)
    return dict(found)


class _Folder(NamedTuple):
    """The images of a folder: its path, their names, one name by stem, several by stem."""

    path: str
    names: frozenset[str]
    stems: dict[str, str]
    twins: dict[str, list[str]]


class _ImageFinder:
    """Finds the images that a name of a list can mean; lists every folder once."""

    def __init__(
        self, folder: str, is_image: Callable[[str], bool], stem: Callable[[str], str]
    ) -> None:
        self.folder, self.is_image, self.stem = folder, is_image, stem
        self._folders: dict[str, _Folder] = {}

    def find(self, name: str) -> list[str]:
        inside, _, base = name.rpartition('/')
        folder = self._folders.get(inside) or self._list(inside)
        if base in folder.names:
            found = [base]
        elif base in folder.twins:
            found = folder.twins[base]
        else:
            found = [folder.stems[base]] if base in folder.stems else []
        return [f'{folder.path}/{one}' for one in found]

    def _list(self, inside: str) -> _Folder:
        path = os.path.normpath(os.path.join(self.folder, inside))
        entries = os.listdir(path) if os.path.isdir(path) else []
        names = list(filter(self.is_image, entries))
        stems = {self.stem(name): name for name in names}
        self._folders[inside] = found = _Folder(
            path, frozenset(names), stems, _twins(names, self.stem)
        )
        return found
