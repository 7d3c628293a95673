"""Labeled and unlabeled images in one dataset."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Optional, Union

from mmengine.logging import print_log
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS
from PIL import Image
from torch.utils.data import Dataset

from mmseg_semi.arguments import OneOf, checked
from mmseg_semi.errors import DataError, UnreadableImage
from mmseg_semi.files import is_local

from .dataset_tree import (
    crop_size,
    image_loaders,
    image_paths,
    leaf_datasets,
    map_leaf_configs,
    nested_transforms,
    pipeline_transforms,
)
from .image_files import bit_depth, unreadable_reason
from .labeled_checks import build_labeled, fill_num_classes
from .pipelines import labeled_pipeline
from .seeding import seeded
from .transforms.cached import cached, open_cache
from .transforms.load_channels import LoadChannels
from .transforms.named_transforms import Named
from .transforms.random_relative_resize import crop_while_resizing
from .transforms.value_ranges import SaysWhatDoesNotApply
from .unlabeled_dataset import UnlabeledDataset

SOURCES = ('labeled', 'unlabeled')


class SampleKey(NamedTuple):
    """Which sample to load and how to augment it.

    Attributes:
        source: 'labeled' or 'unlabeled'.
        index: Index in that part.
        seed: Seed of the augmentation, a non-negative integer.
    """

    source: str
    index: int  # type: ignore[assignment]  # in place of tuple's method
    seed: int


@DATASETS.register_module()
class SemiDataset(Dataset):
    """A labeled dataset and an unlabeled one, addressed by ``SampleKey``.

    The augmentation of a sample depends on ``SampleKey.seed`` alone: ``random``, ``numpy.random``
    and torch's CPU generator are seeded while its pipeline runs and put back afterwards. So data
    do not depend on the number of workers, and a resumed run needs no replay. Transforms that
    keep a random generator of their own are outside this promise.

    Both parts are listed and verified when the dataset is built, ``lazy_init`` or not.

    Pipelines are composed, see ``labeled_pipeline`` and ``UnlabeledDataset``. ``geometry`` is what
    both parts share::

        geometry=dict(
            order=('resize', 'crop', 'flip'),
            resize=dict(type='RandomRelativeResize', ratio_range=(0.5, 2.0)),
            crop=dict(type='RandomCrop', crop_size=(321, 321)),
            flip=dict(type='RandomFlip', prob=0.5),
        )

    so that a child config changes one entry by its name, takes it out by None, or adds one and says
    in ``order`` where. A dataset's own ``geometry`` replaces it, and a dataset with a ``pipeline``
    of its own is left as it is. The size of ``RandomCrop`` goes with each sample (``crop_size`` of
    its meta information): ``SemiDataPreprocessor`` pads to it.

    Args:
        labeled: Config of any mmseg dataset (wrappers too) or the dataset; a pipeline of its own
            ends with ``PackLabeledInputs`` or ``PackSegInputs``.
        unlabeled: Config of an ``UnlabeledDataset`` (wrappers too) or the dataset; a pipeline of
            its own ends with ``PackSemiInputs``. None for labeled images alone.
        loading: The transform that loads images of both parts, such as ``dict(type='LoadChannels',
            in_channels=4)``; None for ``LoadImageFromFile``. A dataset's own ``loading`` replaces
            it, and one with a ``pipeline`` of its own does not read it.
        geometry: Geometric transforms by name, None for one that is left out, with their
            ``order``; or a list.
        on_error: What an image that can not be read does: 'raise' an error that names it, or
            'skip': it is named in the log once by each worker, and the next image of the same part
            takes its place. Everything else that is wrong (masks, sizes, transforms) is an error
            always.
        cache: Folder of decoded images and masks of 8 bits, 3 bytes and 1 a pixel, which data
            workers, ranks and later runs share; None for none. A full disk ends it with a warning.

    Raises:
        ValueError: See ``UnlabeledDataset`` and ``build_labeled``; an argument outside its values;
            a geometry that no dataset would use; a loading transform with ``ignore_empty=True``; a
            cache that cannot be written.
        FileNotFoundError: A folder or list file is missing.
        TypeError: ``unlabeled`` is another kind of dataset.
    """

    @checked
    def __init__(
        self,
        labeled: Union[Mapping[str, Any], Any],
        unlabeled: Optional[Union[Mapping[str, Any], Any]],
        geometry: Named = None,
        loading: Optional[Mapping[str, Any]] = None,
        on_error: Annotated[str, OneOf('raise', 'skip')] = 'raise',
        cache: Optional[str] = None,
    ) -> None:
        self.on_error = on_error
        labeled, unlabeled = _compose(labeled, unlabeled, geometry, loading)
        self.labeled = build_labeled(labeled)
        self.unlabeled: Any = None if unlabeled is None else self._build_unlabeled(unlabeled)
        self._parts = {'labeled': self.labeled}
        if self.unlabeled is not None:
            self._parts['unlabeled'] = self.unlabeled
        fill_num_classes(self.labeled, 'labeled')
        self._prepare_transforms()
        for source in self._parts:
            self._refuse_ignore_empty(source)
            self._warn_deep_images(source)
        self._say_what_does_not_apply()
        if cache is not None:
            self._cache(open_cache(cache))
        sizes = [size for size in map(crop_size, self._parts.values()) if size]
        self._meta = dict(crop_size=tuple(map(max, zip(*sizes)))) if sizes else {}
        self._named: set[str] = set()

    @staticmethod
    def _build_unlabeled(config: Mapping[str, Any] | Any) -> Any:
        if isinstance(config, Mapping):
            kind = config.get('type')
            entry = DATASETS.get(kind) if isinstance(kind, str) else kind
            if isinstance(entry, type) and issubclass(entry, BaseSegDataset):
                raise TypeError(
                    f'unlabeled: the dataset is a {entry.__name__}, which looks for masks; use '
                    "type='UnlabeledDataset'"
                )
            config = DATASETS.build(config)
        dataset = config
        for leaf in leaf_datasets(dataset):
            if not isinstance(leaf, UnlabeledDataset):
                raise TypeError(
                    f'unlabeled: the dataset is a {type(leaf).__name__}; use '
                    "type='UnlabeledDataset', which looks for no masks"
                )
        dataset.full_init()
        if len(dataset) == 0:
            raise ValueError(
                'unlabeled: the dataset has no sample: correct '
                'train_dataloader.dataset.unlabeled.indices'
            )
        return dataset

    def _prepare_transforms(self) -> None:
        """Tell transforms what follows them, and those of unlabeled images what they meet."""
        for leaf in leaf_datasets(self.labeled):
            crop_while_resizing(pipeline_transforms(leaf))
        for leaf in leaf_datasets(self.unlabeled):
            for transform in pipeline_transforms(leaf):
                if hasattr(transform, 'prepare'):
                    transform.prepare(self.labeled.metainfo.get('classes'), image_paths(leaf))

    def _refuse_ignore_empty(self, source: str) -> None:
        if any(loader.ignore_empty for loader in image_loaders(self._parts[source])):
            raise ValueError(
                f'{source}: LoadImageFromFile has ignore_empty=True, which replaces unreadable '
                "images in silence. Remove it; on_error='skip' of SemiDataset names them"
            )

    def _warn_deep_images(self, source: str, num: int = 16) -> None:
        if any(isinstance(one, LoadChannels) for one in image_loaders(self._parts[source])):
            return  # which keeps all bits
        deep = [path for path in image_paths(self._parts[source], num) if _is_deep(path)]
        if deep:
            print_log(
                f'{source}: {deep[0]} has more than 8 bits a channel; the loader keeps the upper '
                '8 bits of 16 (value // 256). Convert the images to 8 bits yourself when they use '
                'a part of that range only (12-bit sensors), or they become nearly black.',
                logger='current',
                level=logging.WARNING,
            )

    def _say_what_does_not_apply(self) -> None:
        """Once here, before each data worker does."""
        for leaf in leaf_datasets(self.unlabeled) if self.unlabeled is not None else ():
            paths, loaders = image_paths(leaf, 1), image_loaders(leaf)
            if not paths or not loaders or not isinstance(loaders[0], LoadChannels):
                continue
            try:
                image = loaders[0].transform(dict(img_path=paths[0]))['img']
            except DataError:  # is named when its turn comes
                continue
            for transform in nested_transforms(pipeline_transforms(leaf)):
                if isinstance(transform, SaysWhatDoesNotApply):
                    transform.say_what_does_not_apply(image)

    def _cache(self, folder: Path) -> None:
        for leaf in (leaf for part in self._parts.values() for leaf in leaf_datasets(part)):
            pipeline: Any = getattr(leaf, 'pipeline', None)
            if hasattr(pipeline, 'transforms'):
                remote = getattr(leaf, 'backend_args', None)
                pipeline.transforms = cached(pipeline.transforms, folder, remote)

    @property
    def metainfo(self) -> dict[str, Any]:
        """Meta information of the labeled part."""
        return self.labeled.metainfo

    def full_init(self) -> None:
        """List the parts; does nothing, since building did."""

    def __len__(self) -> int:
        return sum(map(len, self._parts.values()))

    def __getitem__(self, key: SampleKey | int) -> dict[str, Any]:
        """Load and augment a sample.

        Args:
            key: A ``SampleKey``, or an integer: the labeled samples come first, then the unlabeled
                ones, and nothing is seeded.

        Returns:
            What the pipeline of that part returns, and ``source``. Labeled: ``inputs`` (C, H, W),
            uint8 BGR in the usual case, and ``data_samples``. Unlabeled: ``weak`` alike, ``strong``
            a list of views of the same kind, and ``data_samples`` with ``valid``, further maps and,
            in their meta information, the seed (``sample_seed``) and the place in the part
            (``sample_index``). With a ``RandomCrop``, both have ``crop_size`` there.

        Raises:
            DataError: Names the image (and mask) and what is wrong.
            IndexError: No such sample.
        """
        source, index, seed = self._resolve(key)
        part = self._parts[source]
        for step in range(len(part)):
            place = (index + step) % len(part)
            item = self._load(source, place, seed)
            if item is not None:
                meta: dict[str, Any] = dict(self._meta)
                if source == 'unlabeled' and seed is not None:
                    meta.update(sample_seed=seed, sample_index=place)
                if 'data_samples' in item:  # semi_collate says what a pipeline without it lacks
                    item['data_samples'].set_metainfo(meta)
                return dict(item, source=source)
        raise DataError(
            f'{source}: none of the {len(part)} images can be read, so on_error={self.on_error!r} '
            'has nothing to go on with. Check data_root and whether the disk is there.'
        )

    def _resolve(self, key: SampleKey | int) -> tuple[str, int, int | None]:
        if isinstance(key, SampleKey):
            if key.source not in self._parts:
                allowed = tuple(self._parts)
                raise ValueError(f'SampleKey.source is {key.source!r}; allowed: {allowed}')
            source, index, seed = key
        else:
            source, index, seed = 'labeled', int(key), None
            if index >= len(self.labeled) and self.unlabeled is not None:
                source, index = 'unlabeled', index - len(self.labeled)
        if not 0 <= index < len(self._parts[source]):
            raise IndexError(f'{source} has {len(self._parts[source])} samples; got {key}')
        return source, index, seed

    def _load(self, source: str, index: int, seed: int | None) -> dict[str, Any] | None:
        """Run a pipeline; None when the image can not be read and is to be skipped."""
        part, info = self._parts[source], self._info(source, index)
        path = info.get('img_path')
        reason = unreadable_reason(path) if path and self._reads_files(source) else None
        cause = None
        if reason is None:
            try:
                with nullcontext() if seed is None else seeded(seed):
                    return part[index]
            except UnreadableImage as error:
                if self.on_error == 'raise':
                    raise
                reason = str(error.__cause__ or error)
            except DataError:
                raise
            except Exception as error:  # whatever a user's pipeline may raise
                cause, reason = error, self._decode_error(source, path)
                if reason is None:
                    mask = _mask_error(info.get('seg_map_path'))
                    if mask is not None:
                        raise DataError(
                            f'{source}: mask {info["seg_map_path"]} of image {path} can not be '
                            f'read: {mask}. Replace it by a whole single-channel PNG of class '
                            'numbers, or take the image out of the split.'
                        ) from error
                    raise DataError(
                        f'{source}: a transform failed on {_name(info, index)}: '
                        f'{type(error).__name__}: {error}'
                    ) from error
        if self.on_error == 'raise':
            raise DataError(
                f'{source}: image {path} can not be read: {reason}. Replace it by a whole file of '
                "the same name, or set train_dataloader.dataset.on_error='skip' to take the next "
                'image in its place; a run can be resumed with either, and not without the file.'
            ) from cause
        self._name_once(source, str(path), reason)
        return None

    def _info(self, source: str, index: int) -> dict[str, Any]:
        part = self._parts[source]
        return part.get_data_info(index) if hasattr(part, 'get_data_info') else {}

    def _reads_files(self, source: str) -> bool:
        leaves = leaf_datasets(self._parts[source])
        return all(is_local(getattr(leaf, 'backend_args', None)) for leaf in leaves)

    def _decode_error(self, source: str, path: str | None) -> str | None:
        """Why the part's own loader can not decode an image, None when it can."""
        loaders = image_loaders(self._parts[source])
        if path is None or not loaders:
            return None
        try:
            loaders[0].transform(dict(img_path=path))
        except Exception as error:  # every decoder has errors of its own
            text = str(error).strip() or 'no reason given'
            return (
                f'{type(error).__name__}: {text} (whole and sound JPEG, PNG, BMP, WebP and TIFF '
                'files of 1, 3 or 4 channels and 8 or 16 bits are allowed; other images need '
                'in_channels, see docs/own_images.md)'
            )
        return None

    def _name_once(self, source: str, path: str, reason: str) -> None:
        if path not in self._named:
            self._named.add(path)
            print_log(
                f'{source}: image {path} can not be read: {reason}. The next one takes its place.',
                logger='current',
                level=logging.WARNING,
            )


def _compose(
    labeled: Any, unlabeled: Any, geometry: Named, loading: Mapping[str, Any] | None
) -> tuple[Any, Any]:
    """Give every dataset config without a pipeline what its pipeline is made of."""
    used = not geometry

    def fill(source: str, config: dict[str, Any], own: Named) -> dict[str, Any]:
        nonlocal used
        if config.get('pipeline') is None:
            used = used or own is geometry
            if source == 'unlabeled':
                return {'loading': loading, **config, 'geometry': own}
            config = config.copy()
            beside = unlabeled is not None
            pipeline = labeled_pipeline(own, config.pop('loading', loading), beside)
            return {**config, 'pipeline': pipeline}
        if own and own is not geometry:
            raise ValueError(
                f'{source}.pipeline replaces {source}.geometry, which would have no effect: leave '
                'one of them out'
            )
        return config

    parts = [
        map_leaf_configs(part, partial(fill, source), geometry) if isinstance(part, dict) else part
        for source, part in zip(SOURCES, (labeled, unlabeled))
    ]
    if not used:
        raise ValueError(
            'geometry of SemiDataset has no effect, because both parts have a pipeline or geometry '
            'of their own: set it to None, or leave theirs out'
        )
    return parts[0], parts[1]


def _mask_error(path: str | None) -> str | None:
    """Why a local mask file can not be decoded, None when it can or there is none."""
    if not path or not os.path.isfile(path):
        return None
    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:  # every decoder has errors of its own
        return f'{type(error).__name__}: {error}'
    return None


def _is_deep(path: str) -> bool:
    return (bit_depth(path) or 8) > 8


def _name(info: dict[str, Any], index: int) -> str:
    names = [
        f'{what} {info[key]}'
        for key, what in (('img_path', 'image'), ('seg_map_path', 'mask'))
        if info.get(key)
    ]
    return ', '.join(names) or f'sample {index}'
