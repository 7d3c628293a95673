"""Image files of any number of channels, by writers that the package does not use."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image


def pixels(rng: np.random.Generator, channels: int, dtype: str, size=(24, 30)) -> np.ndarray:
    """Smooth noise (H, W, C), each channel in a range of its own."""
    coarse = rng.random((*(-(-side // 6) for side in size), channels))
    image = np.kron(coarse, np.ones((6, 6, 1)))[: size[0], : size[1]]
    image = 0.9 * image + 0.1 * rng.random((*size, channels))
    if dtype == 'uint8':
        return (255 * image).astype(np.uint8)
    if dtype == 'uint16':
        return (4000 + 9000 * image * (1 + np.arange(channels))).clip(0, 65535).astype(np.uint16)
    return (image * 30 - 20 + 5 * np.arange(channels)).astype(np.float32)


def write(path: Path, image: np.ndarray) -> Path:
    """Write an image (H, W, C) by the suffix of its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    single = image[..., 0] if image.shape[2] == 1 else image
    if path.suffix == '.npy':
        np.save(path, single)
    elif path.suffix == '.tif':
        tifffile.imwrite(path, single, photometric='minisblack', planarconfig='contig')
    elif image.dtype == np.uint8:
        Image.fromarray(single).save(path)
    else:  # Pillow has no colors of 16 bits
        order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[image.shape[2]]
        assert cv2.imwrite(str(path), image[..., order])
    return path
