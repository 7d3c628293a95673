"""Gray pixels of images that Pillow does not know, to compare them."""

from __future__ import annotations

import numpy as np
import tifffile

from .image_arrays import tiff_layout


def open_channels_gray(path: str) -> np.ndarray:
    """The mean of all channels of a ``.npy`` or TIFF file, stretched to 8 bits, as it is stored.

    Where a TIFF file does not say which dimension its channels are, they are the shortest one.

    Args:
        path: The image.

    Returns:
        uint8 (H, W).

    Raises:
        Exception: Whatever its decoder raises.
    """
    if path.lower().endswith('.npy'):
        values, axes = np.load(path, allow_pickle=False), 'YXC'
    else:
        with tifffile.TiffFile(path) as file:
            layout = tiff_layout(file)
            values, axes = layout.numbers(), layout.axes
    if axes == 'QYX':
        axes = {0: 'CYX', 1: 'YCX', 2: 'YXC'}[int(np.argmin(values.shape))]
    channels = tuple(i for i in range(values.ndim) if axes[i] not in 'YX')
    gray = values.mean(axis=channels, dtype=np.float64)
    low, high = gray.min(), gray.max()
    return ((gray - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
