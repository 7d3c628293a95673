"""Random conversion to gray."""

from __future__ import annotations

from typing import Annotated, Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from mmseg_semi.arguments import Number, checked


@TRANSFORMS.register_module()
class RandomGray(BaseTransform):
    """Replace the colors by their luma (ITU-R 601) in all three channels.

    mmcv's ``RandomGrayscale`` averages the channels unless told otherwise and takes about a hundred
    times as long. Required and Modified Keys: ``img`` (H, W, 3) BGR uint8.

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
        if np.random.rand() < self.prob:
            gray = cv2.cvtColor(results['img'], cv2.COLOR_BGR2GRAY)
            results['img'] = cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(prob={self.prob})'
