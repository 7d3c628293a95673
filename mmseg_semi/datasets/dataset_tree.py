"""Looking into datasets that are wrapped by ConcatDataset, RepeatDataset and the like."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from mmcv.transforms import LoadImageFromFile


def leaf_datasets(dataset: Any) -> list[Any]:
    """The datasets at the bottom of any nesting of wrappers, in order."""
    if hasattr(dataset, 'datasets'):
        return [leaf for inner in dataset.datasets for leaf in leaf_datasets(inner)]
    if hasattr(dataset, 'dataset'):
        return leaf_datasets(dataset.dataset)
    return [dataset]


def data_infos(leaf: Any) -> Iterator[dict[str, Any]]:
    """All data infos of an unwrapped dataset, none for a dataset that keeps no such list."""
    if hasattr(leaf, 'get_data_info'):
        for index in range(len(leaf)):
            yield leaf.get_data_info(index)


def image_paths(dataset: Any, limit: int | None = None) -> list[str]:
    """``img_path`` of every sample, each wrapped dataset once; samples without one are left out.

    Args:
        dataset: A dataset, wrapped or not.
        limit: How many samples to look at; None for all.
    """
    infos = (info for leaf in leaf_datasets(dataset) for info in data_infos(leaf))
    return [info['img_path'] for info in itertools.islice(infos, limit) if 'img_path' in info]


def pipeline_transforms(leaf: Any) -> list[Any]:
    """The transforms of an unwrapped dataset's pipeline."""
    return list(getattr(getattr(leaf, 'pipeline', None), 'transforms', []))


def image_loaders(dataset: Any) -> list[LoadImageFromFile]:
    """Every image loading transform in the pipelines of a dataset."""
    transforms = (t for leaf in leaf_datasets(dataset) for t in pipeline_transforms(leaf))
    return [transform for transform in transforms if isinstance(transform, LoadImageFromFile)]
