"""The map of real pixels of an unlabeled image."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from mmseg_semi.errors import DataError

from .carry_maps import VALID_MAP


@TRANSFORMS.register_module()
class InitValidMask(BaseTransform):
    """Mark every pixel of an unlabeled image as real, before geometric transforms.

    The map ``valid_map`` is listed in ``seg_fields``, so that geometric transforms carry it along
    and fill it with 255 where they make pixels that are not of the image: 0 is a real pixel, 255
    none. ``PackSemiInputs`` turns it into ``valid``.

    Required Keys: ``img`` (H, W, 3) uint8. Added Keys: ``valid_map`` (H, W) uint8. Modified Keys:
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
                'makes that of gray, RGBA and 16-bit images too.'
            )
        if 'gt_seg_map' in results:
            raise DataError(
                f'{name} has a mask already: InitValidMask is for unlabeled images; remove '
                'LoadAnnotations from the unlabeled pipeline'
            )
        results[VALID_MAP] = np.zeros(image.shape[:2], np.uint8)
        results['seg_fields'] = [*results.get('seg_fields', []), VALID_MAP]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'
