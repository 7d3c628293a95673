"""Photometric operations on each channel by itself, relative to the range of its values."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from .value_ranges import value_range


def blend(
    image: np.ndarray, other: np.ndarray, factor: float, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """``factor * image + (1 - factor) * other``, cut to the range of each channel.

    Args:
        image: (H, W, C), uint8 or float32.
        other: (C,) or (H, W, C).
        factor: Share of the image.
        low: Smallest values, (C,).
        high: Largest values, (C,).

    Returns:
        (H, W, C) of the image's type, whole numbers rounded.
    """
    mixed = np.float32(factor) * image + np.float32(1 - factor) * other.astype(np.float32)
    return as_kind(mixed, image, low, high)


def as_kind(values: np.ndarray, image: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Cut values to the range of each channel and give them the type of ``image``."""
    values = values.clip(low, high)
    return (values if image.dtype == np.float32 else np.rint(values)).astype(image.dtype)


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """Every channel of (H, W, C) through a Gaussian that is cut off at three sigmas."""
    # Of 8 bits, OpenCV's GaussianBlur rounds between the directions, up to 2 levels off in all, and
    # takes a third longer.
    kernel = cv2.getGaussianKernel(2 * int(np.ceil(3 * sigma)) + 1, sigma)
    return cv2.sepFilter2D(image, -1, kernel, kernel).reshape(image.shape)


def channel_brightness(results: dict[str, Any], factor: float) -> np.ndarray:
    """Blend ``img`` (H, W, C) with the smallest value of each channel's range."""
    low, high = value_range(results)
    return blend(results['img'], low, factor, low, high)


def channel_contrast(results: dict[str, Any], factor: float) -> np.ndarray:
    """Blend ``img`` (H, W, C) with the mean of each channel."""
    mean = results['img'].mean(axis=(0, 1), dtype=np.float64)
    return blend(results['img'], mean, factor, *value_range(results))


def adjust_sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the smoothed image: ``factor * image + (1 - factor) * smooth``.

    As PIL's ``ImageEnhance.Sharpness``: the center of the 3 x 3 smoothing kernel weighs 5/13, the
    others 1/13, and the outermost pixels stay as they are.

    Args:
        image: (H, W, C), uint8 or float32.
        factor: 1 changes nothing, less smooths, more sharpens.

    Returns:
        (H, W, C) of the same type, levels rounded.
    """
    kernel = np.full((3, 3), (1 - factor) / 13)
    kernel[1, 1] = factor + (1 - factor) * 5 / 13
    sharpened = cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE)
    sharpened = sharpened.reshape(image.shape)  # OpenCV drops a single channel
    for edge in (0, -1):
        sharpened[edge], sharpened[:, edge] = image[edge], image[:, edge]
    return sharpened


def channel_auto_contrast(results: dict[str, Any]) -> np.ndarray:
    """Stretch each channel of ``img`` (H, W, C) to its range."""
    image, (low, high) = results['img'], value_range(results)
    least, most = (function(axis=(0, 1)).astype(np.float32) for function in (image.min, image.max))
    flat = least == most
    scale = (high - low) / np.where(flat, 1, most - least)
    return as_kind(np.where(flat, image, (image - least) * scale + low), image, low, high)


def channel_equalize(results: dict[str, Any]) -> np.ndarray:
    """Flatten the histogram of each channel of ``img`` (H, W, C): values by their rank."""
    image, (low, high) = results['img'], value_range(results)
    flat = image.astype(np.float32)
    for i in range(image.shape[2]):
        _, places, counts = np.unique(image[..., i], return_inverse=True, return_counts=True)
        if len(counts) > 1:
            below = (np.cumsum(counts) - counts) / (counts.sum() - counts[-1])
            flat[..., i] = low[i] + below[places.reshape(image.shape[:2])] * (high[i] - low[i])
    return as_kind(flat, image, low, high)


def channel_blur(results: dict[str, Any], sigma: float) -> np.ndarray:
    """Blur ``img`` (H, W, C) with a Gaussian of ``sigma`` pixels."""
    return blurred(results['img'], sigma)


def channel_sharpness(results: dict[str, Any], factor: float) -> np.ndarray:
    """:func:`adjust_sharpness` of ``img`` (H, W, C), cut to the range of each channel."""
    image = results['img']
    sharp = adjust_sharpness(image.astype(np.float32), factor)
    return as_kind(sharp, image, *value_range(results))


def channel_solarize(results: dict[str, Any], threshold: float) -> np.ndarray:
    """Invert the values of ``img`` (H, W, C) from ``threshold`` of 256 parts of the range on."""
    image, (low, high) = results['img'], value_range(results)
    bound = low + int(threshold) / 256 * (high - low)
    values = image.astype(np.float32)
    return as_kind(np.where(values < bound, values, low + high - values), image, low, high)
