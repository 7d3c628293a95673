"""What photometric transforms need of images that are no 8-bit RGB ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmengine.logging import print_log

from mmseg_semi.errors import DataError

#: Key of the smallest and the largest value of each channel, (2, C), where they are known.
VALUE_RANGE = 'value_range'


def is_rgb(image: np.ndarray) -> bool:
    """Whether an image is (H, W, 3) uint8."""
    return image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8


def check_kind(image: Any, name: str, path: Any) -> None:
    """Refuse what is no image (H, W, C) of uint8 or float32.

    Raises:
        DataError: Names the transform, the image and what it is.
    """
    if isinstance(image, np.ndarray):
        known = image.dtype in (np.uint8, np.float32)
        if known and image.ndim == 3 and image.size:
            return
        found = f'{image.dtype} {image.shape}'
    else:
        found = type(image).__name__
    raise DataError(
        f'{name}: image {path} is {found}; it must be a uint8 or float32 array (H, W, C). Load it '
        "with LoadChannels, or with LoadImageFromFile(color_type='color'), and put this transform "
        'before any that makes a tensor of it.'
    )


def value_range(results: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value of each channel, float32 (C,).

    0 and 255 in images of 8 bits; else those of the labeled images (``value_range``), or without
    them those of the image, before its first photometric operation.

    Args:
        results: With ``img`` (H, W, C).
    """
    image = results['img']
    channels = image.shape[2]
    if image.dtype == np.uint8:
        return np.zeros(channels, np.float32), np.full(channels, 255, np.float32)
    known = results.get(VALUE_RANGE)
    if known is not None and len(known[0]) == channels:
        return np.asarray(known[0]), np.asarray(known[1])
    results[VALUE_RANGE] = image.min(axis=(0, 1)), image.max(axis=(0, 1))
    return results[VALUE_RANGE]


class SaysWhatDoesNotApply:
    """A photometric transform that does less, or nothing, to images that are no 8-bit RGB ones."""

    _said = False

    def say_what_does_not_apply(self, image: np.ndarray) -> None:
        """Log once what is left out for an image of this kind, if anything is."""
        left_out = '' if self._said or is_rgb(image) else self._left_out(image)
        if not left_out:
            return
        self._said = True
        print_log(
            f'{type(self).__name__}: {left_out} for images of {image.shape[2]} channels of '
            f'{image.dtype}, because only 8-bit RGB images have it',
            logger='current',
        )

    def _left_out(self, image: np.ndarray) -> str:
        """What does not apply to an image that is no 8-bit RGB one, such as 'hue is left out'."""
        raise NotImplementedError
