"""Random Gaussian blur."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS


@TRANSFORMS.register_module()
class RandomGaussianBlur(BaseTransform):
    """Blur with a random sigma.

    The kernel reaches three sigmas to each side. Required and Modified Keys: ``img`` (H, W, 3)
    uint8.

    Args:
        sigma: Smallest and largest sigma, in pixels; uniform between them.
        prob: Probability of blurring.

    Raises:
        ValueError: A number outside its range.
    """

    def __init__(self, sigma: Sequence[float] = (0.1, 2.0), prob: float = 0.5) -> None:
        if len(sigma) != 2 or not 0 < sigma[0] <= sigma[1]:
            raise ValueError(
                f'RandomGaussianBlur.sigma is {sigma}; give the smallest and largest, both above 0'
            )
        if not 0 <= prob <= 1:
            raise ValueError(f'RandomGaussianBlur.prob is {prob}; it must be in [0, 1]')
        self.sigma, self.prob = (sigma[0], sigma[1]), prob

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Blur the image."""
        if np.random.rand() < self.prob:
            sigma = np.random.uniform(*self.sigma)
            size = 2 * int(np.ceil(3 * sigma)) + 1
            results['img'] = cv2.GaussianBlur(results['img'], (size, size), sigma)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(sigma={self.sigma}, prob={self.prob})'
