"""Random brightness, contrast, saturation and hue."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

# mmcv.image has these operations too. Ours exist because mmcv 2.1.0's adjust_hue fails for
# negative shifts on numpy 2 and its contrast and brightness take over ten times as long.


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with black: ``factor * image``, cut to 0..255 and truncated; image uint8."""
    return cv2.LUT(image, _table(np.arange(256) * factor))


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the mean gray: ``factor * image + (1 - factor) * mean``; image (H, W, 3) BGR."""
    # Rounded, as PIL and torchvision's PIL path do.
    mean = int(cv2.mean(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))[0] + 0.5)
    return cv2.LUT(image, _table(np.arange(256) * factor + mean * (1 - factor)))


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the gray image: ``factor * image + (1 - factor) * gray``; image (H, W, 3) BGR."""
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    return cv2.addWeighted(image, factor, gray, 1 - factor, 0)


def adjust_hue(image: np.ndarray, shift: float) -> np.ndarray:
    """Turn the hue by ``shift`` of the color circle, in steps of 1/256; image (H, W, 3) BGR."""
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV_FULL)
    hsv[..., 0] += np.uint8(round(shift * 256) % 256)  # uint8 wraps around as the circle does
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR_FULL)


def _table(values: np.ndarray) -> np.ndarray:
    # The small number keeps 100 * 1.15 (114.999...) from being truncated one level too low.
    return (values + 1e-6).clip(0, 255).astype(np.uint8)


@TRANSFORMS.register_module()
class RandomColorJitter(BaseTransform):
    """Brightness, contrast, saturation and hue by random factors in random order.

    What torchvision's ``ColorJitter`` does, here on BGR uint8 images: the first three factors are
    uniform in [max(0, 1 - x), 1 + x], the hue shift is uniform in [-hue, hue] of the color
    circle. The defaults are those of UniMatch (CVPR 2023).

    Required and Modified Keys: ``img`` (H, W, 3) uint8.

    Args:
        brightness: Largest distance of the brightness factor from 1.
        contrast: The same for contrast.
        saturation: The same for saturation.
        hue: Largest hue shift, 0 to 0.5.
        prob: Probability of changing the image at all.

    Raises:
        ValueError: A number outside its range.
    """

    def __init__(
        self,
        brightness: float = 0.5,
        contrast: float = 0.5,
        saturation: float = 0.5,
        hue: float = 0.25,
        prob: float = 0.8,
    ) -> None:
        for name, value, top in (
            ('brightness', brightness, np.inf),
            ('contrast', contrast, np.inf),
            ('saturation', saturation, np.inf),
            ('hue', hue, 0.5),
            ('prob', prob, 1),
        ):
            if not 0 <= value <= top:
                raise ValueError(
                    f'RandomColorJitter.{name} is {value}; it must be in [0, {top}]'
                    if top < np.inf
                    else f'RandomColorJitter.{name} is {value}; it must be 0 or more'
                )
        self.brightness, self.contrast = brightness, contrast
        self.saturation, self.hue, self.prob = saturation, hue, prob

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Jitter the image."""
        if np.random.rand() >= self.prob:
            return results
        steps = [
            (adjust_brightness, self._factor(self.brightness)),
            (adjust_contrast, self._factor(self.contrast)),
            (adjust_saturation, self._factor(self.saturation)),
            (adjust_hue, np.random.uniform(-self.hue, self.hue)),
        ]
        for i in np.random.permutation(len(steps)):
            adjust, amount = steps[i]
            results['img'] = adjust(results['img'], amount)
        return results

    @staticmethod
    def _factor(spread: float) -> float:
        return np.random.uniform(max(0.0, 1 - spread), 1 + spread)

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(brightness={self.brightness}, contrast={self.contrast}, '
            f'saturation={self.saturation}, hue={self.hue}, prob={self.prob})'
        )
