"""A folder or a list of images without masks."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Callable

from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from mmseg.registry import DATASETS

from mmseg_semi.errors import name_some
from mmseg_semi.files import check_there, read_list

from .dataset_tree import nested_transforms, pipeline_transforms
from .image_files import IMG_SUFFIXES
from .pipelines import unlabeled_pipeline
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
        pipeline: All transforms, ending with ``PackSemiInputs``, in place of the pipeline that is
            composed of the four arguments above.
        indices: As in ``BaseDataset``: the first few, or those given.
        serialize_data: As in ``BaseDataset``.
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
        parts = dict(geometry=geometry, strong=strong, detections=detections, maps=maps)
        given = [f'unlabeled.{name}' for name, part in parts.items() if part]
        if pipeline is None:
            maps = [*list_transforms(maps, 'unlabeled.maps'), *([detections] if detections else [])]
            pipeline = unlabeled_pipeline(geometry, strong, maps)
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
            if getattr(transform, 'cat_max_ratio', 1) < 1:
                raise ValueError(
                    f'unlabeled: {type(transform).__name__}.cat_max_ratio is '
                    f'{transform.cat_max_ratio}, but unlabeled images have no classes to look at: '
                    'give the unlabeled part a geometry of its own, with cat_max_ratio=1.0'
                )

    def load_data_list(self) -> list[dict[str, Any]]:
        """List the images.

        Returns:
            One ``dict(img_path, seg_fields=[])`` an image.
        """
        folder = self.data_prefix.get('img_path')
        if not folder:
            folder = '.'
        remedy = 'Correct data_root or data_prefix.img_path of the unlabeled part.'
        check_there(folder, remedy, 'unlabeled.data_prefix.img_path', 'folder')
        paths = self._listed_paths(folder) if self.ann_file else self._folder_paths(folder)
        return [dict(img_path=path, seg_fields=[]) for path in paths]

    def _is_image(self, name: str) -> bool:
        return not name.startswith('.') and name.lower().endswith(self.img_suffix)

    def _stem(self, name: str) -> str:
        fitting = [suffix for suffix in self.img_suffix if name.lower().endswith(suffix)]
        return name[: -len(max(fitting, key=len))]

    def _folder_paths(self, folder: str) -> list[str]:
        paths, stems, visited = [], defaultdict(list), set()
        for root, folders, names in os.walk(folder, followlinks=True):
            visited.add(os.path.realpath(root))
            folders[:] = [
                name
                for name in sorted(folders)
                if not name.startswith('.')
                # A link to a folder above would be followed for ever.
                and os.path.realpath(os.path.join(root, name)) not in visited
            ]
            for name in filter(self._is_image, names):
                paths.append(os.path.join(root, name))
                stems[os.path.join(root, self._stem(name))].append(name)
        if not paths:
            raise ValueError(
                f'unlabeled.data_prefix.img_path: the folder {folder} holds no image (suffixes '
                f'looked for: {", ".join(self.img_suffix)}). Correct data_prefix.img_path or '
                'img_suffix of the unlabeled part.'
            )
        self._refuse_ambiguous([' = '.join(sorted(n)) for n in stems.values() if len(n) > 1])
        return sorted(paths)

    def _refuse_ambiguous(self, groups: list[str]) -> None:
        if groups:
            raise ValueError(
                f'unlabeled: {len(groups)} images of {self.data_prefix["img_path"]} have a twin '
                f'that differs in the suffix only: {name_some(sorted(groups))}. If one of them is '
                "a mask, say which suffix images have (img_suffix='.jpg'); if both are images, "
                'list them with suffix in a list file (ann_file).'
            )

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
            raise ValueError(
                f'unlabeled.ann_file: {len(missing)} of {len(missing) + len(paths)} names in '
                f'{self.ann_file} have no image in {folder}: {name_some(missing)}. Names are '
                'relative to data_prefix.img_path, with or without suffix; suffixes looked for: '
                f'{", ".join(self.img_suffix)}.'
            )
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


class _ImageFinder:
    """Finds the images that a name of a list can mean; lists every folder once."""

    def __init__(
        self, folder: str, is_image: Callable[[str], bool], stem: Callable[[str], str]
    ) -> None:
        self.folder, self.is_image, self.stem = folder, is_image, stem
        self._folders: dict[str, tuple[set[str], dict[str, list[str]]]] = {}

    def find(self, name: str) -> list[str]:
        folder, base = os.path.split(os.path.normpath(os.path.join(self.folder, name)))
        names, stems = self._list(folder)
        found = [base] if base in names else stems.get(base, [])
        return [os.path.join(folder, one) for one in found]

    def _list(self, folder: str) -> tuple[set[str], dict[str, list[str]]]:
        if folder not in self._folders:
            entries = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
            names, stems = set(filter(self.is_image, entries)), defaultdict(list)
            for name in sorted(names):
                stems[self.stem(name)].append(name)
            self._folders[folder] = names, dict(stems)
        return self._folders[folder]
