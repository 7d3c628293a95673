"""Random cropping of images that are padded to the crop first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Optional

import cv2
import numpy as np
from mmseg.datasets.transforms import RandomCrop
from mmseg.registry import TRANSFORMS

from mmseg_semi.arguments import Each, Whole, checked
from mmseg_semi.errors import DataError

from .value_ranges import is_rgb

#: What geometric transforms give to pixels of a map that are not of the image.
OUTSIDE = 255


@TRANSFORMS.register_module()
class RandomPaddedCrop(RandomCrop):
    """mmseg's ``RandomCrop`` after padding to the crop, to the right and below.

    So the padding has a color like the rest of the image: it is flipped and goes through the
    photometric transforms of the strong views, as in the programs of the semi-supervised papers
    (UniMatch, CVPR 2023). Without it a smaller image stays smaller, and ``SemiDataPreprocessor``
    pads the batch after normalization.

    Required and Modified Keys: those of ``RandomCrop``; an image that was padded gets ``padded``.
    Every map of ``seg_fields`` gets 255 where it is padded: a mask is ignored there, and the valid
    map of an unlabeled image is False.

    Args:
        crop_size: Height and width of the crop in pixels.
        pad_color: Color of the padding, RGB from 0 to 255, three equal numbers where images have
            another number of channels; None for no padding, so that the data preprocessor pads with
            the mean of each channel.
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
        """Pad and crop the image (H, W, C), BGR where C is 3, and its maps.

        Raises:
            DataError: ``pad_color`` is a color, and the image has no three channels.
        """
        height, width = results['img'].shape[:2]
        lacking = max(self.crop_size[0] - height, 0), max(self.crop_size[1] - width, 0)
        if self.pad_color is not None and any(lacking):
            size = height + lacking[0], width + lacking[1]
            results['img'] = self._padded(results['img'], size, results.get('img_path'))
            results['padded'] = True
            for name in results.get('seg_fields', []):
                one = results[name]
                pad = [(0, lacking[0]), (0, lacking[1]), *[(0, 0)] * (one.ndim - 2)]
                results[name] = np.pad(one, pad, constant_values=OUTSIDE)
        return super().transform(results)

    def _padded(self, image: np.ndarray, size: tuple[int, int], path: Any) -> np.ndarray:
        image, color = np.atleast_3d(image), self.pad_color or (0, 0, 0)
        channels = image.shape[2]
        if channels != 3 and len(set(color)) > 1:
            raise DataError(
                f'RandomPaddedCrop.pad_color is {color}, but {path} has {channels} channels: give '
                'three equal numbers, such as (0, 0, 0), or None'
            )
        if is_rgb(image):
            below, right = size[0] - image.shape[0], size[1] - image.shape[1]
            kind, bgr = cv2.BORDER_CONSTANT, color[::-1]
            return cv2.copyMakeBorder(image, 0, below, 0, right, kind, value=bgr)
        padded = np.empty((*size, channels), image.dtype)
        padded[:] = color[::-1] if channels == 3 else color[0]
        padded[: image.shape[0], : image.shape[1]] = image
        return padded

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(crop_size={self.crop_size}, pad_color={self.pad_color}, '
            f'cat_max_ratio={self.cat_max_ratio})'
        )
