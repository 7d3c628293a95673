"""Random Gaussian blur."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS
from PIL import Image, ImageFilter

from mmseg_semi.arguments import Each, Number, OneOf, checked

from .channel_operations import blurred
from .value_ranges import check_kind, is_rgb


@TRANSFORMS.register_module()
class RandomGaussianBlur(BaseTransform):
    """Blur with a random sigma.

    Required and Modified Keys: ``img`` (H, W, C) uint8 or float32, each channel by itself.

    Args:
        sigma: Smallest and largest sigma, in pixels; uniform between them.
        prob: Probability of blurring.
        backend: 'cv2', a Gaussian cut off at three sigmas; or 'pillow', the approximation by three
            box blurs that ``ImageFilter.GaussianBlur`` of the papers' programs is, for 8-bit RGB
            images; others are blurred by 'cv2'.

    Raises:
        ValueError: An argument outside its values, or the larger sigma first.
    """

    @checked
    def __init__(
        self,
        sigma: Annotated[Sequence[float], Each(Number(0, above=True), 2)] = (0.1, 2.0),
        prob: Annotated[float, Number(0, 1)] = 0.5,
        backend: Annotated[str, OneOf('cv2', 'pillow')] = 'cv2',
    ) -> None:
        if sigma[0] > sigma[1]:
            raise ValueError(f'RandomGaussianBlur.sigma is {sigma}: write the smallest first')
        self.sigma, self.prob, self.backend = (sigma[0], sigma[1]), prob, backend

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Blur the image."""
        if np.random.rand() < self.prob:
            sigma = np.random.uniform(*self.sigma)
            image = results['img']
            check_kind(image, type(self).__name__, results.get('img_path'))
            pillow = self.backend == 'pillow' and is_rgb(image)
            results['img'] = (_blur_pillow if pillow else blurred)(image, sigma)
        return results

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(sigma={self.sigma}, prob={self.prob}, backend={self.backend!r})'
        )


def _blur_pillow(image: np.ndarray, sigma: float) -> np.ndarray:
    # Every channel by itself, so that their order does not matter.
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.array(picture.filter(ImageFilter.GaussianBlur(sigma)))
