"""Random resizing relative to the image's own size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Optional

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.datasets.transforms import Resize
from mmseg.registry import TRANSFORMS
from PIL import Image

from mmseg_semi.arguments import Each, Number, OneOf, Whole, checked

from .value_ranges import is_rgb


@TRANSFORMS.register_module()
class RandomRelativeResize(BaseTransform):
    """Resize so that the long side becomes a random multiple of what it is.

    The weak augmentation of the semi-supervised papers. With ``law='uniform'`` the new long side is
    a whole number of pixels, uniform from ``int(low * long)`` to ``int(high * long)``, both
    included (UniMatch, CVPR 2023; AugSeg, CVPR 2023). With ``law='halves'`` the multiple is
    uniform in [low, 1] or in [1, high], each with probability 1/2, so that as many images shrink
    as grow (AEL, NeurIPS 2021; U2PL, CVPR 2022; S4MC, TMLR 2024). The aspect is kept. mmcv's
    ``RandomResize`` multiplies a size that is the same for all images instead, which differs where
    images differ in size.

    Required and Modified Keys: those of mmseg's ``Resize``: ``img``, the maps of ``seg_fields``,
    ``scale_factor``, ``img_shape``, ...

    Args:
        ratio_range: Smallest and largest multiple, both above 0.
        law: 'uniform' or 'halves', which needs multiples on both sides of 1.
        long_side: Pixels of which the multiples are, in place of the image's own long side. AugSeg
            has 500 on VOC.
        short_side: The same of the short side. SemiVL has 512 on VOC.
        backend: 'cv2', bilinear between the four nearest pixels; or 'pillow', whose bilinear filter
            is as wide as the step where it shrinks (antialiased). Maps take the nearest pixel with
            either, 'cv2' at the pixel's corner and 'pillow' at its center.

    Raises:
        ValueError: An argument outside its values, the larger multiple first, both sides, or
            'halves' with multiples on one side of 1.
    """

    @checked
    def __init__(
        self,
        ratio_range: Annotated[Sequence[float], Each(Number(0, above=True), 2)] = (0.5, 2.0),
        law: Annotated[str, OneOf('uniform', 'halves')] = 'uniform',
        long_side: Annotated[Optional[int], Whole(1)] = None,
        short_side: Annotated[Optional[int], Whole(1)] = None,
        backend: Annotated[str, OneOf('cv2', 'pillow')] = 'cv2',
    ) -> None:
        if ratio_range[0] > ratio_range[1]:
            raise ValueError(
                f'RandomRelativeResize.ratio_range is {ratio_range}: write the smallest multiple '
                'of the long side first'
            )
        if long_side and short_side:
            raise ValueError(
                f'RandomRelativeResize.long_side={long_side} and short_side={short_side}: leave '
                'one of them out'
            )
        if law == 'halves' and not ratio_range[0] <= 1 <= ratio_range[1]:
            raise ValueError(
                f"RandomRelativeResize.ratio_range is {ratio_range}; law='halves' needs 1 between "
                "the two multiples, or take law='uniform'"
            )
        self.ratio_range = tuple(ratio_range)
        self.law, self.backend = law, backend
        self.long_side, self.short_side = long_side, short_side

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Resize the image and its maps."""
        before = results['img'].shape[:2]
        side = self.long_side or max(before)
        if self.short_side:
            side = round(self.short_side * max(before) / min(before))
        side = self._draw(side)
        resize = Resize(scale=(side, side), keep_ratio=True, backend=self.backend)
        if self.backend == 'cv2':
            return resize(results)
        # mmcv gives Pillow no images and maps but those of 8 bits.
        names, image = results.get('seg_fields', []), results['img']
        rgb = is_rgb(image)
        shown = image if rgb else np.zeros(image.shape[:2], np.uint8)
        results = resize(dict(results, seg_fields=[], img=shown))
        if not rgb:
            results['img'] = _by_channel(np.atleast_3d(image), results['img'].shape[:2])
        rows, columns = map(_nearest, before, results['img'].shape[:2])
        for name in names:
            results[name] = results[name][rows[:, None], columns]
        return dict(results, seg_fields=names)

    def _draw(self, side: int) -> int:
        """The new long side."""
        low, high = self.ratio_range
        if self.law == 'halves':
            ends = (low, 1) if np.random.rand() < 0.5 else (1, high)
            return max(int(np.random.uniform(*ends) * side), 1)
        return int(np.random.randint(max(int(low * side), 1), max(int(high * side), 1) + 1))

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(ratio_range={self.ratio_range}, law={self.law!r}, '
            f'long_side={self.long_side}, short_side={self.short_side}, backend={self.backend!r})'
        )


def _by_channel(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pillow's bilinear filter of each channel; whole numbers are rounded."""
    channels = [
        Image.fromarray(one.astype(np.float32)).resize(size[::-1], Image.Resampling.BILINEAR)
        for one in np.moveaxis(image, -1, 0)
    ]
    found = np.stack([np.asarray(one) for one in channels], axis=-1)
    return found if image.dtype == np.float32 else np.rint(found).astype(image.dtype)


def _nearest(old: int, new: int) -> np.ndarray:
    """The pixel of ``old`` in a row that Pillow's nearest filter gives to each of ``new``."""
    row = Image.fromarray(np.arange(old, dtype=np.int32)[None])
    return np.asarray(row.resize((new, 1), Image.Resampling.NEAREST))[0]
