"""Random brightness, contrast, saturation and hue."""

from __future__ import annotations

from typing import Annotated, Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS
from PIL import Image, ImageEnhance

from mmseg_semi.arguments import Number, OneOf, checked

from .channel_operations import channel_brightness, channel_contrast
from .value_ranges import SaysWhatDoesNotApply, check_kind, is_rgb

_LUMA = np.array([0.114, 0.587, 0.299])  # of blue, green and red (ITU-R 601)
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
    return cv2.transform(image, factor * np.eye(3) + (1 - factor) * _LUMA)


def adjust_hue(image: np.ndarray, shift: float) -> np.ndarray:
    """Turn the hue by ``shift`` of the color circle, in steps of 1/256; image (H, W, 3) BGR."""
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV_FULL)
    # uint8 wraps around as the circle does; rows of all three are faster than every third number.
    hsv += np.tile(np.array([round(shift * 256) % 256, 0, 0], np.uint8), (hsv.shape[1], 1))
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR_FULL)


def pillow_brightness(image: Image.Image, factor: float) -> Image.Image:
    """``adjust_brightness`` of an RGB image as Pillow has it; it may differ by a level."""
    return ImageEnhance.Brightness(image).enhance(factor)


def pillow_contrast(image: Image.Image, factor: float) -> Image.Image:
    """``adjust_contrast`` of an RGB image as Pillow has it; it may differ by a level."""
    return ImageEnhance.Contrast(image).enhance(factor)


def pillow_saturation(image: Image.Image, factor: float) -> Image.Image:
    """``adjust_saturation`` of an RGB image as Pillow has it; it may differ by a level."""
    return ImageEnhance.Color(image).enhance(factor)


def pillow_hue(image: Image.Image, shift: float) -> Image.Image:
    """Turn the hue of Pillow's 8-bit HSV by ``255 * shift``, cut to a whole number, modulo 256.

    What torchvision's ``adjust_hue`` does with Pillow images.

    Args:
        image: An RGB image.
        shift: Part of the color circle, -0.5 to 0.5.
    """
    hue, saturation, value = image.convert('HSV').split()
    turned = np.asarray(hue) + np.uint8(int(255 * shift) % 256)  # uint8 wraps around
    return Image.merge('HSV', (Image.fromarray(turned), saturation, value)).convert('RGB')


def _table(values: np.ndarray) -> np.ndarray:
    # The small number keeps 100 * 1.15 (114.999...) from being truncated one level too low.
    return (values + 1e-6).clip(0, 255).astype(np.uint8)


@TRANSFORMS.register_module()
class RandomColorJitter(SaysWhatDoesNotApply, BaseTransform):
    """Brightness, contrast, saturation and hue by random factors in random order.

    What torchvision's ``ColorJitter`` does, here on BGR uint8 images: the first three factors are
    uniform in [max(0, 1 - x), 1 + x], the hue shift is uniform in [-hue, hue] of the color
    circle. The defaults are those of UniMatch (CVPR 2023).

    Other images (any number of channels, uint8 or float32) have no saturation and no hue: the log
    says so once. Brightness blends each channel with the smallest value of its range, contrast with
    its mean, and the result is cut to the range: 0 to 255 of 8 bits, else the ``value_range`` of
    ``LoadChannels``, or that of the image.

    Required and Modified Keys: ``img`` (H, W, C) uint8 or float32.

    Args:
        brightness: Largest distance of the brightness factor from 1.
        contrast: The same for contrast.
        saturation: The same for saturation.
        hue: Largest hue shift, 0 to 0.5.
        prob: Probability of changing the image at all.
        backend: 'cv2'; or 'pillow', to the level what torchvision makes of Pillow images in the
            papers' programs: its hues have steps of 1/255 of the circle.

    Raises:
        ValueError: An argument outside its values.
    """

    @checked
    def __init__(
        self,
        brightness: Annotated[float, Number(0)] = 0.5,
        contrast: Annotated[float, Number(0)] = 0.5,
        saturation: Annotated[float, Number(0)] = 0.5,
        hue: Annotated[float, Number(0, 0.5)] = 0.25,
        prob: Annotated[float, Number(0, 1)] = 0.8,
        backend: Annotated[str, OneOf('cv2', 'pillow')] = 'cv2',
    ) -> None:
        self.brightness, self.contrast = brightness, contrast
        self.saturation, self.hue, self.prob = saturation, hue, prob
        self.backend = backend

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Jitter the image."""
        if np.random.rand() >= self.prob:
            return results
        amounts = [*map(self._factor, (self.brightness, self.contrast, self.saturation))]
        amounts.append(np.random.uniform(-self.hue, self.hue))
        order = np.random.permutation(len(amounts))
        check_kind(results['img'], type(self).__name__, results.get('img_path'))
        if not is_rgb(results['img']):
            return self._jitter_channels(results, amounts, order)
        if self.backend == 'pillow':
            picture = Image.fromarray(cv2.cvtColor(results['img'], cv2.COLOR_BGR2RGB))
            adjust = pillow_brightness, pillow_contrast, pillow_saturation, pillow_hue
            for i in order:
                picture = adjust[i](picture, amounts[i])
            results['img'] = cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2BGR)
            return results
        functions = adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue
        for i in order:
            results['img'] = functions[i](results['img'], amounts[i])
        return results

    def _jitter_channels(
        self, results: dict[str, Any], amounts: list[float], order: np.ndarray
    ) -> dict[str, Any]:
        self.say_what_does_not_apply(results['img'])
        for i in order:
            if i < 2:
                change = (channel_brightness, channel_contrast)[i]
                results['img'] = change(results, amounts[i])
        return results

    def _left_out(self, image: np.ndarray) -> str:
        return 'saturation and hue are left out' if self.saturation or self.hue else ''

    @staticmethod
    def _factor(spread: float) -> float:
        return np.random.uniform(max(0.0, 1 - spread), 1 + spread)

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(brightness={self.brightness}, contrast={self.contrast}, '
            f'saturation={self.saturation}, hue={self.hue}, prob={self.prob}, '
            f'backend={self.backend!r})'
        )
