"""The map of real pixels of an unlabeled image."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from mmseg_semi.errors import DataError


@TRANSFORMS.register_module()
class InitValidMask(BaseTransform):
    """Mark every pixel of an unlabeled image as real, before geometric transforms.

    The map stands in ``gt_seg_map``, which every geometric transform of mmcv and mmseg carries
    along and fills with 255 where it makes pixels that are not of the image: 0 is a real pixel,
    255 none. ``PackSemiInputs`` turns it into ``valid``.

    Required Keys: ``img`` (H, W, 3) uint8. Added Keys: ``gt_seg_map`` (H, W) uint8,
    ``seg_fields``.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the map.

        Raises:
            DataError: The image is not (H, W, 3) uint8, or has a mask already.
        """
        image, name = results['img'], results.get('img_path', 'the image')
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise DataError(
                f'{name} was loaded as {image.dtype} of shape {image.shape}; (H, W, 3) uint8 is '
                "needed. Use LoadImageFromFile with color_type='color' and to_float32=False, which "
                'makes that of grey, RGBA and 16-bit images too.'
            )
        if 'gt_seg_map' in results:
            raise DataError(
                f'{name} has a mask already: InitValidMask is for unlabeled images; remove '
                'LoadAnnotations from the unlabeled pipeline'
            )
        results['gt_seg_map'] = np.zeros(image.shape[:2], np.uint8)
        results['seg_fields'] = ['gt_seg_map']
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'
