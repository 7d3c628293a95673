"""Looking into datasets that are wrapped by ConcatDataset, RepeatDataset and the like."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Callable

from mmcv.image import rescale_size
from mmcv.transforms import LoadImageFromFile, RandomResize, Resize
from mmseg.datasets.transforms import RandomCrop

from .transforms.cached import Cached


def leaf_datasets(dataset: Any) -> list[Any]:
    """The datasets at the bottom of any nesting of wrappers, in order."""
    if hasattr(dataset, 'datasets'):
        return [leaf for inner in dataset.datasets for leaf in leaf_datasets(inner)]
    if hasattr(dataset, 'dataset'):
        return leaf_datasets(dataset.dataset)
    return [dataset]


def data_infos(leaf: Any) -> Iterator[dict[str, Any]]:
    """All data infos of an unwrapped dataset, none for a dataset that keeps no such list.

    Their paths are the same objects whenever they are asked for: very many of them take much
    memory.
    """
    if hasattr(leaf, 'get_data_info'):
        for index in range(len(leaf)):
            info = leaf.get_data_info(index)
            for name in ('img_path', 'seg_map_path'):
                if type(info.get(name)) is str:
                    info[name] = sys.intern(info[name])
            yield info


def image_paths(dataset: Any, limit: int | None = None) -> list[str]:
    """``img_path`` of every sample, each wrapped dataset once; samples without one are left out.

    Args:
        dataset: A dataset, wrapped or not.
        limit: How many samples to look at; None for all.
    """
    infos = (info for leaf in leaf_datasets(dataset) for info in data_infos(leaf))
    return [info['img_path'] for info in itertools.islice(infos, limit) if 'img_path' in info]


def pipeline_transforms(leaf: Any) -> list[Any]:
    """The transforms of an unwrapped dataset's pipeline, those that are cached as they are."""
    transforms = getattr(getattr(leaf, 'pipeline', None), 'transforms', [])
    return [one.loader if isinstance(one, Cached) else one for one in transforms]


def image_loaders(dataset: Any) -> list[LoadImageFromFile]:
    """Every image loading transform in the pipelines of a dataset."""
    transforms = (t for leaf in leaf_datasets(dataset) for t in pipeline_transforms(leaf))
    return [transform for transform in transforms if isinstance(transform, LoadImageFromFile)]


def nested_transforms(transforms: Sequence[Any]) -> Iterator[Any]:
    """Transforms and those inside them (``CarryMaps``, ``RandomApply`` and the like), in order."""
    for transform in transforms:
        yield transform
        inner = getattr(transform, 'transforms', [])
        yield from nested_transforms(getattr(inner, 'transforms', inner))


def crop_size(dataset: Any) -> tuple[int, int] | None:
    """Height and width of the ``RandomCrop`` of a dataset's pipelines, the largest of several.

    The last ``RandomCrop`` of a pipeline counts; None without any.
    """
    sizes = []
    for leaf in leaf_datasets(dataset):
        transforms = nested_transforms(pipeline_transforms(leaf))
        sizes += [t.crop_size for t in transforms if isinstance(t, RandomCrop)][-1:]
    return tuple(map(max, zip(*sizes))) or None


def resized(dataset: Any, size: tuple[int, int]) -> tuple[int, int]:
    """Width and height that an image has after the resizing of a dataset, random parts left out.

    Args:
        dataset: A dataset, wrapped or not; the pipeline of its first part counts.
        size: Width and height of the image as it is loaded.
    """
    for transform in nested_transforms(pipeline_transforms(leaf_datasets(dataset)[0])):
        scale = getattr(transform, 'scale', None)
        if not isinstance(scale, (tuple, list)) or [type(one) for one in scale] != [int, int]:
            continue
        scale = (scale[0], scale[1])
        inner = getattr(transform, 'resize', transform)
        if getattr(inner, 'keep_ratio', False):
            size = rescale_size(size, scale)
        elif isinstance(transform, (Resize, RandomResize)):
            size = scale
    return size


def map_leaf_configs(
    config: dict[str, Any],
    change: Callable[[dict[str, Any], Any], dict[str, Any]],
    geometry: Any = None,
) -> dict[str, Any]:
    """Change the configs of unwrapped datasets, and take every ``geometry`` out of the config.

    Args:
        config: Config of a dataset, wrapped or not; it is left as it is.
        change: Given the config of an unwrapped dataset and its geometry (its own, or that of the
            closest wrapper with one), returns another config.
        geometry: The geometry of what holds the dataset.
    """
    config = config.copy()
    geometry = config.pop('geometry', geometry)
    inner = {name: config[name] for name in ('dataset', 'datasets') if name in config}
    for name, found in inner.items():
        several = found if name == 'datasets' else [found]
        several = [
            map_leaf_configs(one, change, geometry) if isinstance(one, dict) else one
            for one in several
        ]
        config[name] = several if name == 'datasets' else several[0]
    return config if inner else change(config, geometry)
