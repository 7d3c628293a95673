"""The map of real pixels of an unlabeled image."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from mmseg_semi.errors import DataError

from .carry_maps import VALID_MAP
from .value_ranges import check_kind


@TRANSFORMS.register_module()
class InitValidMask(BaseTransform):
    """Mark every pixel of an unlabeled image as real, before geometric transforms.

    The map ``valid_map`` is listed in ``seg_fields``, so that geometric transforms carry it along
    and fill it with 255 where they make pixels that are not of the image: 0 is a real pixel, 255
    none. ``PackSemiInputs`` turns it into ``valid``.

    Required Keys: ``img`` (H, W, C) uint8 or float32. Added Keys: ``valid_map`` (H, W) uint8.
    Modified Keys: ``seg_fields``.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the map.

        Raises:
            DataError: The image is not (H, W, C) uint8 or float32, or has a mask already.
        """
        image, name = results['img'], results.get('img_path', 'the image')
        check_kind(image, type(self).__name__, name)
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
