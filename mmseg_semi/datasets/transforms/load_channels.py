"""Loading images of any number of channels."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Optional

import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmseg.registry import TRANSFORMS

from mmseg_semi.arguments import Whole, checked
from mmseg_semi.structures import read_statistics

from ..image_arrays import load_image
from .value_ranges import VALUE_RANGE


@TRANSFORMS.register_module()
class LoadChannels(LoadImageFromFile):
    """Load an image of ``in_channels`` channels: PNG, JPEG, BMP, WebP, TIFF, GeoTIFF or ``.npy``.

    ``img`` is (H, W, C). Images of 8 bits stay uint8; all others (uint16, int16, float32, ...)
    become float32 with the same values, because OpenCV and torch do not know every type. With three
    channels a photograph is what ``LoadImageFromFile`` makes of it, to the bit: BGR, gray ones
    repeated, without alpha. Other numbers of channels are in the order of the file, alpha included.
    An EXIF orientation turns the image in each case.

    Required Keys: ``img_path``. Added Keys: ``img``, ``img_shape``, ``ori_shape``, and with
    ``statistics`` ``value_range`` (2, C) float32, the smallest and the largest value of each
    channel in the labeled images.

    Args:
        in_channels: C, of the file and of the network.
        statistics: File that ``mmseg-semi check`` writes; photometric transforms of images that are
            not of 8 bits take their range from it, or else from each image.
        backend_args: Of mmengine's file backend.

    Raises:
        ValueError: An argument outside its values.
    """

    @checked
    def __init__(
        self,
        in_channels: Annotated[int, Whole(1)] = 3,
        statistics: Optional[str] = None,
        backend_args: Optional[dict[str, Any]] = None,
    ) -> None:
        super().__init__(backend_args=backend_args)
        self.in_channels, self.statistics = in_channels, statistics

    @cached_property
    def _range(self) -> Optional[np.ndarray]:
        if self.statistics is None:
            return None
        found = read_statistics(self.statistics, self.in_channels)
        if found is None:
            return None
        limits = np.array([found.min, found.max], np.float32)
        return limits[:, ::-1] if self.in_channels == 3 else limits

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Load the image.

        Raises:
            UnreadableImage: The file cannot be read.
            DataError: Another number of channels, or values that are not finite.
        """
        image = load_image(results['img_path'], self.in_channels, self.backend_args)
        if image.dtype != np.uint8 and self._range is not None:
            results[VALUE_RANGE] = self._range
        return dict(results, img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(in_channels={self.in_channels}, '
            f'statistics={self.statistics!r}, backend_args={self.backend_args})'
        )
