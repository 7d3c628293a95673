"""Geometric transforms of an unlabeled image and of every per-pixel map that belongs to it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Callable

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.datasets.transforms import RandomCrop, RandomFlip, Resize
from mmseg.registry import TRANSFORMS

from mmseg_semi.errors import DataError

from .named_transforms import Named, list_transforms
from .random_padded_crop import OUTSIDE, RandomPaddedCrop
from .random_relative_resize import RandomRelativeResize, crop_while_resizing

#: Name of the map that says which pixels are of the image: 0, and 255 for those that are not.
VALID_MAP = 'valid_map'
# These carry every map of seg_fields, as long as OpenCV knows its type and number of channels.
_CARRY_ALL = (RandomCrop, RandomFlip, RandomPaddedCrop, RandomRelativeResize, Resize)
_FIRST = 256  # smaller pixel numbers are what transforms fill with
_EXACT = 2**24  # float32 holds whole numbers up to here


@TRANSFORMS.register_module()
class CarryMaps(BaseTransform):
    """Run geometric transforms on an image and on all its maps.

    A map is an array (H, W) or (H, W, C) of any type under a name of its own, listed in
    ``results['seg_fields']``. Most of mmseg's transforms carry each of them; mmcv's (``Pad``,
    ``CenterCrop``), ``Albu`` and many others know ``gt_seg_map`` alone. So a transform that is not
    one of the common ones is given the number of each pixel there, and the maps follow the numbers.

    Required Keys: ``img``, ``seg_fields`` and the maps. Modified Keys: the same, and those of the
    transforms. Pixels that are not of the image become 255.

    Args:
        transforms: Geometric transforms, by name or as a list.
    """

    def __init__(self, transforms: Named) -> None:
        transforms = list_transforms(transforms, f'{type(self).__name__}.transforms')
        self.transforms = [TRANSFORMS.build(t) if isinstance(t, dict) else t for t in transforms]
        crop_while_resizing(self.transforms)

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Run the transforms.

        Raises:
            DataError: A map has another size than the image, or a transform that interpolates it.
        """
        check_maps(results, 'the transform that adds it must stand before geometric transforms')
        for transform in self.transforms:
            simple = all(_is_simple(results[name]) for name in results['seg_fields'])
            carry = type(transform) in _CARRY_ALL and simple
            moved = transform(results) if carry else _follow(transform, results)
            if moved is None:
                return None
            results = moved
            if results['img'].ndim == 2:  # OpenCV drops a single channel
                results['img'] = results['img'][..., None]
            check_maps(results, f'{_name(transform)} did not carry gt_seg_map')
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(transforms={self.transforms})'


def check_maps(results: dict[str, Any], reason: str) -> None:
    """Refuse maps that have another size than the image.

    Raises:
        DataError: Names the image, the map, both sizes and the reason.
    """
    size = results['img'].shape[:2]
    for name in results['seg_fields']:
        shape = results[name].shape
        if shape[:2] != size or len(shape) not in (2, 3):
            raise DataError(
                f'the map {name!r} of {results.get("img_path")} is {shape}, the image {size}: '
                f'{reason}'
            )


@lru_cache(maxsize=8)
def pixel_numbers(height: int, width: int) -> np.ndarray:
    """A read-only map (height, width) with a different number for each pixel, 256 the first."""
    exact = np.float32 if height * width + _FIRST <= _EXACT else np.float64
    numbers = np.arange(_FIRST, height * width + _FIRST, dtype=exact).reshape(height, width)
    numbers.flags.writeable = False
    return numbers


def _is_simple(one: np.ndarray) -> bool:
    return one.dtype == np.uint8 and (one.ndim == 2 or one.shape[2] <= 4)


def _name(transform: Callable) -> str:
    return getattr(transform, '__name__', type(transform).__name__)


def _follow(transform: Callable, results: dict[str, Any]) -> dict[str, Any] | None:
    """Run a transform and let the maps follow the numbers of their pixels."""
    names = results['seg_fields']
    maps = {name: results.pop(name) for name in names}
    numbers = pixel_numbers(*results['img'].shape[:2]).copy()
    results = transform(dict(results, gt_seg_map=numbers, seg_fields=['gt_seg_map']))
    if results is None:
        return None
    moved = results.pop('gt_seg_map')
    index = moved.astype(np.int64)
    if (index != moved).any():
        raise DataError(
            f'{_name(transform)} interpolates between the pixels of gt_seg_map; geometric '
            'transforms of unlabeled images must take the nearest one'
        )
    index -= _FIRST
    outside = index < 0
    index[outside] = 0
    for name, one in maps.items():
        results[name] = one.reshape(-1, *one.shape[2:])[index]
        results[name][outside] = OUTSIDE
    return dict(results, seg_fields=names)
