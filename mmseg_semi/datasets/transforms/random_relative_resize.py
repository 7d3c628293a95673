"""Random resizing relative to the image's own size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform, Resize
from mmseg.registry import TRANSFORMS


@TRANSFORMS.register_module()
class RandomRelativeResize(BaseTransform):
    """Resize so that the long side becomes a random multiple of what it is.

    The new long side is a whole number of pixels, uniform from ``int(low * long)`` to
    ``int(high * long)``, both included; the aspect is kept. This is the weak augmentation of the
    semi-supervised papers (UniMatch, CVPR 2023). mmcv's ``RandomResize`` multiplies a size that is
    the same for all images instead, which differs where images differ in size.

    Required and Modified Keys: those of ``Resize``: ``img``, ``gt_seg_map``, ``scale_factor``,
    ``img_shape``, ...

    Args:
        ratio_range: Smallest and largest multiple.

    Raises:
        ValueError: A ratio that is not above 0, or the larger one first.
    """

    def __init__(self, ratio_range: Sequence[float] = (0.5, 2.0)) -> None:
        if len(ratio_range) != 2 or not 0 < ratio_range[0] <= ratio_range[1]:
            raise ValueError(
                f'RandomRelativeResize.ratio_range is {ratio_range}; give the smallest and the '
                'largest multiple of the long side, both above 0'
            )
        self.ratio_range = tuple(ratio_range)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Resize the image and its maps."""
        side = max(results['img'].shape[:2])
        low, high = (max(int(ratio * side), 1) for ratio in self.ratio_range)
        side = int(np.random.randint(low, high + 1))
        return Resize(scale=(side, side), keep_ratio=True)(results)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(ratio_range={self.ratio_range})'
