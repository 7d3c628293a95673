"""The pipelines of labeled and of unlabeled images, composed of what differs between data sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mmseg_semi.arguments import check_arguments

from .transforms.named_transforms import Named, Transform, list_transforms
from .transforms.strong_views import StrongViews

LOADING = dict(type='LoadImageFromFile')


def labeled_pipeline(
    geometry: Named = None, loading: Mapping[str, Any] | None = None, beside_unlabeled: bool = True
) -> list[Transform]:
    """The pipeline of labeled images: load and check, move, pack.

    Args:
        geometry: Geometric transforms, by name or as a list.
        loading: The transform that loads an image; None for ``LoadImageFromFile``.
        beside_unlabeled: Whether there are unlabeled images, so that ``SemiDataPreprocessor`` gets
            the batch, which wants no masks of 64 bits; mmseg's preprocessor does.
    """
    return [
        dict(loading or LOADING),
        dict(type='LoadAnnotations'),
        dict(type='CheckAnnotations'),
        *list_transforms(geometry, 'geometry'),
        dict(type='PackLabeledInputs' if beside_unlabeled else 'PackSegInputs'),
    ]


def unlabeled_pipeline(
    geometry: Named = None,
    strong: Mapping[str, Any] | None = None,
    maps: Iterable[Transform] = (),
    loading: Mapping[str, Any] | None = None,
) -> list[Transform]:
    """The pipeline of unlabeled images: load, add maps, move all of it, make views, pack.

    Args:
        geometry: Geometric transforms, by name or as a list.
        strong: Arguments of ``StrongViews``; None or ``num_views=0`` for no strong view.
        maps: Transforms that add a map.
        loading: The transform that loads an image; None for ``LoadImageFromFile``.
    """
    geometry = list_transforms(geometry, 'geometry')
    strong, views = dict(strong or {}), []
    check_arguments(StrongViews, strong, 'unlabeled.strong', complete=False)
    if strong and strong.get('num_views') != 0:
        views = [dict(strong, type='StrongViews')]
    return [
        dict(loading or LOADING),
        dict(type='InitValidMask'),
        *maps,
        *([dict(type='CarryMaps', transforms=geometry)] if geometry else []),
        *views,
        dict(type='PackSemiInputs'),
    ]
