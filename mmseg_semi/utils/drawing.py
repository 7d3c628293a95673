"""Pictures of images and labels for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

_PERCENTILES = (1, 99)  # that become black and white


def colors(metainfo: Mapping[str, Any]) -> np.ndarray:
    """RGB of the labels 0 to 255, uint8 (256, 3); unknown pixels are white."""
    table = np.full((256, 3), 255, np.uint8)
    palette = metainfo.get('palette')
    if palette is None or not len(palette):
        palette = np.random.default_rng(0).integers(0, 255, (len(metainfo['classes']), 3))
    table[: len(palette)] = palette
    return table


def as_rgb(image: np.ndarray, bgr: bool = True) -> np.ndarray:
    """What can be shown of an image: its first three channels, or the first one in gray.

    Args:
        image: (H, W) or (H, W, C), of any type. Other than 8 bits are stretched, from the 1st to
            the 99th percentile of each channel.
        bgr: Whether three channels are in the order of OpenCV.

    Returns:
        uint8 (H, W, 3).
    """
    image = image[..., None] if image.ndim == 2 else image
    image = image[..., ::-1] if bgr and image.shape[2] == 3 else image
    image = image[..., :3] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, axis=2)
    if image.dtype != np.uint8:
        low, high = np.nanpercentile(image, _PERCENTILES, axis=(0, 1))
        scaled = (image - low) / np.where(high > low, high - low, 1)
        image = (255 * np.nan_to_num(scaled).clip(0, 1)).round().astype(np.uint8)
    return np.ascontiguousarray(image)


def overlay(image: np.ndarray, label: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Lay the colors of labels over an image, half and half.

    Args:
        image: uint8 RGB (H, W, 3).
        label: uint8 (H, W).
        table: See :func:`colors`.
    """
    return cv2.addWeighted(np.ascontiguousarray(image), 0.5, table[label], 0.5, 0)


def fit(image: np.ndarray, side: int) -> np.ndarray:
    """Shrink an image (H, W, 3) whose longer side is longer than ``side``."""
    factor = side / max(image.shape[:2])
    if factor >= 1:
        return image
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA)
