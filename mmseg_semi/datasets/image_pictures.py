"""Pictures of images that no screen can show as they are."""

from __future__ import annotations

import numpy as np

_PERCENTILES = (1, 99)  # that become black and white


def as_picture(image: np.ndarray) -> np.ndarray:
    """RGB of an image as it is loaded, (H, W, C) to uint8 (H, W, 3).

    8-bit RGB images (BGR in the array) are shown as they are. Of others, the first three channels
    are red, green and blue, or the first one is gray where there are fewer; 8 bits are kept, other
    values stretched from the 1st to the 99th percentile of each channel.
    """
    image = image[..., ::-1] if image.shape[2] == 3 else image
    shown = np.ascontiguousarray(image[..., :3] if image.shape[2] >= 3 else image[..., [0, 0, 0]])
    if shown.dtype == np.uint8:
        return shown
    low, high = np.percentile(shown, _PERCENTILES, axis=(0, 1))
    scaled = (shown - low) / np.where(high > low, high - low, 1)
    return (255 * scaled.clip(0, 1)).round().astype(np.uint8)
