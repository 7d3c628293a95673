"""Random resizing relative to the image's own size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.datasets.transforms import Resize
from mmseg.registry import TRANSFORMS

from mmseg_semi.arguments import Each, Number, checked


@TRANSFORMS.register_module()
class RandomRelativeResize(BaseTransform):
    """Resize so that the long side becomes a random multiple of what it is.

    The new long side is a whole number of pixels, uniform from ``int(low * long)`` to
    ``int(high * long)``, both included; the aspect is kept. This is the weak augmentation of the
    semi-supervised papers (UniMatch, CVPR 2023). mmcv's ``RandomResize`` multiplies a size that is
    the same for all images instead, which differs where images differ in size.

    Required and Modified Keys: those of mmseg's ``Resize``: ``img``, the maps of ``seg_fields``,
    ``scale_factor``, ``img_shape``, ...

    Args:
        ratio_range: Smallest and largest multiple, both above 0.

    Raises:
        ValueError: An argument outside its values, or the larger multiple first.
    """

    @checked
    def __init__(
        self,
        ratio_range: Annotated[Sequence[float], Each(Number(0, above=True), 2)] = (0.5, 2.0),
    ) -> None:
        if ratio_range[0] > ratio_range[1]:
            raise ValueError(
                f'RandomRelativeResize.ratio_range is {ratio_range}; the smallest multiple of the '
                'long side comes first'
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
