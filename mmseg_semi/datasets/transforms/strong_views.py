"""Photometric views of a weakly augmented image."""

from __future__ import annotations

from typing import Annotated, Any, Callable

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from mmseg_semi.arguments import Whole, checked
from mmseg_semi.errors import DataError

from .carry_maps import pixel_numbers
from .memory_layout import unflipped
from .named_transforms import Named, list_transforms


@TRANSFORMS.register_module()
class StrongViews(BaseTransform):
    """Make strong views by photometric transforms of the present (weak) image.

    Each view goes through all transforms by itself, with random numbers of its own, and the weak
    image is left as it is. Weak image and views show the same pixels in the same places: a
    transform that moves pixels (crop, flip, rotation, resize, padding) is refused when it does so.

    Required Keys: ``img`` (H, W, C) uint8 or float32. Added Keys: ``strong_imgs``, a list of
    ``num_views`` images of the same kind.

    Args:
        num_views: How many views, at least 1.
        transforms: Photometric transforms, as configs or built, by name or as a list, applied in
            order. None for methods that only mix (S4MC, U2PL, AEL, CutMix-Seg): each view is the
            weak image.

    Raises:
        ValueError: An argument outside its values.
    """

    @checked
    def __init__(self, num_views: Annotated[int, Whole(1)] = 1, transforms: Named = None) -> None:
        transforms = list_transforms(transforms, 'StrongViews.transforms')
        self.num_views = num_views
        self.transforms = [TRANSFORMS.build(t) if isinstance(t, dict) else t for t in transforms]

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the views.

        Raises:
            DataError: A transform moves pixels or changes shape or type of the image.
        """
        results['img'] = unflipped(results['img'])
        results['strong_imgs'] = [self._view(results) for _ in range(self.num_views)]
        return results

    def _view(self, results: dict[str, Any]) -> np.ndarray:
        weak = results['img']
        # A map of the pixels' numbers travels along: whatever moves pixels moves it as well, even
        # where the shape stays the same.
        probe = pixel_numbers(*weak.shape[:2])
        view = dict(results, img=weak.copy(), gt_seg_map=probe, seg_fields=['gt_seg_map'])
        for transform in self.transforms:
            view = transform(view)
            self._check(view, weak, probe, transform)
        return view['img']

    def _check(
        self, view: dict[str, Any] | None, weak: np.ndarray, probe: np.ndarray, transform: Callable
    ) -> None:
        name = f'StrongViews: {type(transform).__name__}'
        if view is None:
            raise DataError(f'{name} returned None; a strong view can not be left out')
        image, moved = view['img'], view['gt_seg_map']
        if image.shape != weak.shape or image.dtype != weak.dtype:
            raise DataError(
                f'{name} turned the image from {weak.dtype} {weak.shape} to {image.dtype} '
                f'{image.shape}; photometric transforms that keep both are allowed. Move it '
                'before StrongViews.'
            )
        if moved is not probe and not np.array_equal(moved, probe):
            raise DataError(
                f'{name} moves pixels, so that pseudo-labels of the weak image would not fit the '
                'view. Photometric transforms are allowed; move it before StrongViews.'
            )

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_views={self.num_views}, transforms={self.transforms})'
