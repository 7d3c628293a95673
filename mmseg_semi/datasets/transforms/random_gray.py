"""Random conversion to gray."""

from __future__ import annotations

from typing import Annotated, Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from mmseg_semi.arguments import Number, checked

from .value_ranges import SaysWhatDoesNotApply, check_kind, is_rgb


@TRANSFORMS.register_module()
class RandomGray(SaysWhatDoesNotApply, BaseTransform):
    """Replace the colors by their luma (ITU-R 601) in all three channels.

    mmcv's ``RandomGrayscale`` averages the channels unless told otherwise and takes about a hundred
    times as long. Images that are not (H, W, 3) BGR uint8 have no luma and stay as they are; the
    log says so once. Required and Modified Keys: ``img`` (H, W, C) uint8 or float32.

    Args:
        prob: Probability of doing so.

    Raises:
        ValueError: ``prob`` outside [0, 1].
    """

    @checked
    def __init__(self, prob: Annotated[float, Number(0, 1)] = 0.2) -> None:
        self.prob = prob

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Make the image gray."""
        drawn, image = np.random.rand() < self.prob, results['img']
        check_kind(image, type(self).__name__, results.get('img_path'))
        self.say_what_does_not_apply(image)
        if drawn and is_rgb(image):
            gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
            results['img'] = cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR)
        return results

    def _left_out(self, image: np.ndarray) -> str:
        return 'nothing is made gray' if self.prob else ''

    def __repr__(self) -> str:
        return f'{type(self).__name__}(prob={self.prob})'
