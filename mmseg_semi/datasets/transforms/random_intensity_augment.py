"""AugSeg's random intensity augmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Callable, NamedTuple

import cv2
import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from mmseg_semi.errors import hint, name_some

from .channel_operations import (
    adjust_sharpness,
    blurred,
    channel_auto_contrast,
    channel_blur,
    channel_brightness,
    channel_contrast,
    channel_equalize,
    channel_sharpness,
    channel_solarize,
)
from .random_color_jitter import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
)
from .value_ranges import SaysWhatDoesNotApply, check_kind, is_rgb

# mmcv.image's auto_contrast, imequalize and solarize give the same images as ours and take 4 to 14
# times as long. Its adjust_sharpness also filters the outermost pixels, which PIL leaves alone.


def auto_contrast(image: np.ndarray) -> np.ndarray:
    """Stretch each channel to 0..255, as PIL's ``ImageOps.autocontrast``; image (H, W, 3) uint8."""
    return _lut_by_channel(image, _stretch)


def equalize(image: np.ndarray) -> np.ndarray:
    """Flatten each channel's histogram, as PIL's ``ImageOps.equalize``; image (H, W, 3) uint8."""
    return _lut_by_channel(image, _flatten)


def posterize(image: np.ndarray, bits: float) -> np.ndarray:
    """Keep the highest ``bits`` bits of each level, cut to whole bits; image uint8."""
    return mmcv.posterize(image, int(bits))


def solarize(image: np.ndarray, threshold: float) -> np.ndarray:
    """Invert the levels at or above ``threshold``, cut to a whole number; image uint8."""
    levels = np.arange(256, dtype=np.uint8)
    return cv2.LUT(image, np.where(levels < int(threshold), levels, 255 - levels))


def _lut_by_channel(
    image: np.ndarray, make_table: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    tables = [
        make_table(cv2.calcHist([image], [channel], None, [256], [0, 256]).ravel().astype(int))
        for channel in range(3)
    ]
    return cv2.LUT(image, np.stack(tables, axis=-1)[None])


def _stretch(histogram: np.ndarray) -> np.ndarray:
    low, high = np.flatnonzero(histogram)[[0, -1]]
    if low == high:
        return np.arange(256, dtype=np.uint8)
    scale = 255.0 / (high - low)
    return (np.arange(256) * scale - low * scale).clip(0, 255).astype(np.uint8)


def _flatten(histogram: np.ndarray) -> np.ndarray:
    highest = histogram[np.flatnonzero(histogram)[-1]]
    step = (histogram.sum() - highest) // 255
    if step == 0:
        return np.arange(256, dtype=np.uint8)
    below = np.cumsum(histogram) - histogram
    return ((below + step // 2) // step).clip(0, 255).astype(np.uint8)


class _Operation(NamedTuple):
    """A photometric operation.

    Attributes:
        function: Of an 8-bit RGB image, and a strength if there is a range.
        range: AugSeg's.
        lowest: The limit of other ranges.
        highest: Likewise.
        channels: The same of ``results`` with any other image; None where it does not apply.
    """

    function: Callable[..., np.ndarray]
    range: tuple[float, float] | None = None
    lowest: float = 0
    highest: float = 10
    channels: Callable[..., np.ndarray] | None = None


_FACTORS = (0.05, 0.95)

OPERATIONS = {
    'identity': _Operation(lambda image: image, channels=lambda results: results['img']),
    'autocontrast': _Operation(auto_contrast, channels=channel_auto_contrast),
    'equalize': _Operation(equalize, channels=channel_equalize),
    'gaussian_blur': _Operation(blurred, (0.1, 2.0), 0.01, 100, channel_blur),
    'contrast': _Operation(adjust_contrast, _FACTORS, channels=channel_contrast),
    'brightness': _Operation(adjust_brightness, _FACTORS, channels=channel_brightness),
    'color': _Operation(adjust_saturation, _FACTORS),
    'sharpness': _Operation(adjust_sharpness, _FACTORS, channels=channel_sharpness),
    'posterize': _Operation(posterize, (4, 8), lowest=1, highest=8),
    'solarize': _Operation(solarize, (1, 256), highest=256, channels=channel_solarize),
    'hue': _Operation(adjust_hue, (-0.5, 0.5), lowest=-0.5, highest=0.5),
}


@TRANSFORMS.register_module()
class RandomIntensityAugment(SaysWhatDoesNotApply, BaseTransform):
    """A random number of random photometric operations, each of a random strength.

    The random intensity-based augmentation of AugSeg (Zhao et al., "Augmentation Matters: A
    Simple-yet-Effective Approach to Semi-supervised Semantic Segmentation", CVPR 2023). The number
    of operations is uniform in 1..``max_ops``; the operations are drawn uniformly and with
    replacement; each strength is uniform in its range:

    ================= =========================================== =============
    operation         strength                                    default range
    ================= =========================================== =============
    ``identity``      none
    ``autocontrast``  none
    ``equalize``      none
    ``gaussian_blur`` sigma in pixels                             0.1 to 2.0
    ``contrast``      factor; 0 is the mean gray, 1 no change     0.05 to 0.95
    ``brightness``    factor; 0 is black, 1 no change             0.05 to 0.95
    ``color``         factor; 0 is gray, 1 no change              0.05 to 0.95
    ``sharpness``     factor; 0 is smoothed, 1 no change          0.05 to 0.95
    ``posterize``     bits kept, cut to a whole number            4 to 8
    ``solarize``      level from which on levels are inverted     1 to 256
    ``hue``           shift, as part of the color circle          -0.5 to 0.5
    ================= =========================================== =============

    Bits and levels are cut to whole numbers: 4, 5, 6 and 7 bits are equally likely, and so are the
    levels 1 to 255. The operations follow PIL's ``ImageOps`` and ``ImageEnhance``. Random numbers
    come from ``numpy.random``.

    Images that are not (H, W, 3) BGR uint8 have no ``color``, ``hue`` and ``posterize``, which the
    log says once: the other operations are drawn, on each channel by itself and relative to its
    range (see ``RandomColorJitter``); the level of ``solarize`` is in 256 parts of it.

    Required and Modified Keys: ``img`` (H, W, C) uint8 or float32; a new array, or the given one
    where nothing changes.

    Args:
        max_ops: Largest number of operations.
        ops: Names of the operations to draw from; None takes all.
        ranges: Lowest and highest strength by operation, in place of the default.

    Raises:
        ValueError: ``max_ops`` below 1, an unknown or repeated operation, or a wrong range.
    """

    def __init__(
        self,
        max_ops: int = 3,
        ops: Sequence[str] | None = None,
        ranges: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        if not isinstance(max_ops, int) or isinstance(max_ops, bool) or max_ops < 1:
            raise ValueError(
                f'RandomIntensityAugment.max_ops is {max_ops!r}; it must be a whole number, 1 or '
                'more'
            )
        self.max_ops = max_ops
        self.ops = _check_ops(list(OPERATIONS) if ops is None else ops)
        self.ranges = _check_ranges({} if ranges is None else ranges, self.ops)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Change the image.

        Raises:
            DataError: The image is not (H, W, C) uint8 or float32.
        """
        image = results['img']
        check_kind(image, type(self).__name__, results.get('img_path'))
        self.say_what_does_not_apply(image)
        rgb = is_rgb(image)
        ops = self.ops if rgb else [name for name in self.ops if OPERATIONS[name].channels]
        for _ in range(np.random.randint(1, self.max_ops + 1) if ops else 0):
            name = ops[np.random.randint(len(ops))]
            strength = [np.random.uniform(*self.ranges[name])] if name in self.ranges else []
            operation = OPERATIONS[name]
            if operation.channels is None or rgb:
                results['img'] = operation.function(results['img'], *strength)
            else:
                results['img'] = operation.channels(results, *strength)
        return results

    def _left_out(self, image: np.ndarray) -> str:
        names = [name for name in self.ops if OPERATIONS[name].channels is None]
        return f'{name_some(names)}: left out' if names else ''

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(max_ops={self.max_ops}, ops={self.ops}, ranges={self.ranges})'
        )


def _check_ops(ops: Sequence[str]) -> list[str]:
    key = 'RandomIntensityAugment.ops'
    if isinstance(ops, str) or not isinstance(ops, Sequence) or not ops:
        raise ValueError(
            f'{key} is {ops!r}; give a list of one or more of: {", ".join(OPERATIONS)}; or None '
            'for all'
        )
    for name in ops:
        if name not in list(OPERATIONS):
            raise ValueError(
                f'{key} has {name!r}, which is no operation.{hint(str(name), list(OPERATIONS))} '
                f'Allowed are: {", ".join(OPERATIONS)}.'
            )
    if len(set(ops)) < len(ops):
        raise ValueError(f'{key} is {list(ops)}; give each operation once')
    return list(ops)


def _check_ranges(
    ranges: Mapping[str, Sequence[float]], ops: list[str]
) -> dict[str, tuple[float, float]]:
    """The strength range of each of ``ops`` that has one."""
    key = 'RandomIntensityAugment.ranges'
    checked = {name: pair for name in ops if (pair := OPERATIONS[name].range)}
    if not isinstance(ranges, Mapping):
        raise ValueError(f'{key} is {ranges!r}; give a dict such as dict(hue=(-0.1, 0.1))')
    for name, given in ranges.items():
        if name not in checked:
            raise ValueError(
                f'{key} has {name!r}, which is not among the operations in use that have a '
                f'strength.{hint(str(name), list(checked))} These are: '
                f'{", ".join(checked) or "none"}.'
            )
        lowest, highest = OPERATIONS[name].lowest, OPERATIONS[name].highest
        if not (_is_pair(given) and lowest <= given[0] <= given[1] <= highest):
            raise ValueError(
                f"{key}['{name}'] is {given!r}; give (lowest, highest) strength, both in "
                f'[{lowest}, {highest}]'
            )
        checked[name] = (given[0], given[1])
    return checked


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and len(value) == 2
        and all(isinstance(number, Real) for number in value)
    )
