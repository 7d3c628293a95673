"""Random cropping of images that are padded to the crop first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Optional

import mmcv
import numpy as np
from mmseg.datasets.transforms import RandomCrop
from mmseg.registry import TRANSFORMS

from mmseg_semi.arguments import Each, Whole, checked

#: What geometric transforms give to pixels of a map that are not of the image.
OUTSIDE = 255


@TRANSFORMS.register_module()
class RandomPaddedCrop(RandomCrop):
    """mmseg's ``RandomCrop`` after padding to the crop, to the right and below.

    So the padding has a color like the rest of the image: it is flipped and goes through the
    photometric transforms of the strong views, as in the programs of the semi-supervised papers
    (UniMatch, CVPR 2023). Without it a smaller image stays smaller, and ``SemiDataPreprocessor``
    pads the batch after normalization.

    Required and Modified Keys: those of ``RandomCrop``. Every map of ``seg_fields`` gets 255 where
    it is padded: a mask is ignored there, and the valid map of an unlabeled image is False.

    Args:
        crop_size: Height and width of the crop in pixels.
        pad_color: Color of the padding, RGB from 0 to 255; None for no padding.
        cat_max_ratio: See ``RandomCrop``.

    Raises:
        ValueError: An argument outside its values.
    """

    @checked
    def __init__(
        self,
        crop_size: Annotated[Sequence[int], Each(Whole(1), 2)],
        pad_color: Annotated[Optional[Sequence[int]], Each(Whole(0, 255), 3)] = None,
        cat_max_ratio: float = 1.0,
    ) -> None:
        super().__init__((crop_size[0], crop_size[1]), cat_max_ratio, ignore_index=OUTSIDE)
        self.pad_color = None if pad_color is None else tuple(pad_color)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Pad and crop the image (H, W, 3) BGR and its maps."""
        height, width = results['img'].shape[:2]
        lacking = max(self.crop_size[0] - height, 0), max(self.crop_size[1] - width, 0)
        if self.pad_color is not None and any(lacking):
            size = height + lacking[0], width + lacking[1]
            results['img'] = mmcv.impad(
                results['img'], shape=size, pad_val=tuple(map(float, self.pad_color[::-1]))
            )
            for name in results.get('seg_fields', []):
                one = results[name]
                pad = [(0, lacking[0]), (0, lacking[1]), *[(0, 0)] * (one.ndim - 2)]
                results[name] = np.pad(one, pad, constant_values=OUTSIDE)
        return super().transform(results)

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(crop_size={self.crop_size}, pad_color={self.pad_color}, '
            f'cat_max_ratio={self.cat_max_ratio})'
        )
