"""Copies of images in another order of memory, by OpenCV where it knows the image."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from .value_ranges import is_rgb


def unflipped(image: np.ndarray) -> np.ndarray:
    """The same image (H, W, C), its rows from left to right in memory.

    A flipped image of mmcv is a view that runs backwards, of which numpy takes fifty times as long
    to make a copy.
    """
    if is_rgb(image) and image.strides[1] < 0 < image.strides[0]:
        return cv2.flip(image[:, ::-1], 1)
    return image


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """Image (H, W, C) or (H, W) as a tensor (C, H, W) of the same type."""
    image = np.atleast_3d(image)  # OpenCV drops a single channel
    planes = np.empty((image.shape[2], *image.shape[:2]), image.dtype)
    if is_rgb(image) and image.flags.c_contiguous:
        cv2.split(image, list(planes))
    else:
        planes[:] = image.transpose(2, 0, 1)
    return torch.from_numpy(planes)
