"""Random resizing relative to the image's own size."""

from __future__ import annotations

from collections.abc import Sequence
from operator import le
from typing import Annotated, Any, Optional

import numpy as np
from mmcv.image import rescale_size
from mmcv.transforms import BaseTransform
from mmseg.datasets.transforms import Resize
from mmseg.registry import TRANSFORMS
from PIL import Image

from mmseg_semi.arguments import Each, Number, OneOf, Whole, checked

from .random_padded_crop import RandomPaddedCrop
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
        self.crop: Optional[RandomPaddedCrop] = None  # see crop_while_resizing

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Resize the image and its maps."""
        before = results['img'].shape[:2]
        side = self.long_side or max(before)
        if self.short_side:
            side = round(self.short_side * max(before) / min(before))
        side = self._draw(side)
        if self.backend == 'cv2':
            return Resize(scale=(side, side), keep_ratio=True)(results)
        return self._pillow(results, side)

    def _pillow(self, results: dict[str, Any], side: int) -> dict[str, Any]:
        """What mmseg's ``Resize`` does, with Pillow and for maps and images of any type."""
        image, names = results['img'], results.get('seg_fields', [])
        old = image.shape[:2]
        width, height = rescale_size(old[::-1], (side, side))
        maps = {name: results[name] for name in names}
        rows, columns = _nearest(old[0], height), _nearest(old[1], width)
        part = slice(0, height), slice(0, width)
        if self.crop is not None and all(map(le, self.crop.crop_size, (height, width))):
            shown = dict(results, img=np.broadcast_to(np.uint8(0), (height, width)))
            if self.crop.cat_max_ratio < 1 and 'gt_seg_map' in maps:  # it chooses by what is seen
                shown['gt_seg_map'] = maps['gt_seg_map'][rows[:, None], columns]
            top, bottom, left, right = self.crop.crop_bbox(shown)
            part = slice(top, bottom), slice(left, right)
        results['img'] = _resized(image, (height, width), part)
        for name, one in maps.items():
            results[name] = one[rows[part[0], None], columns[part[1]]]
        return dict(
            results,
            scale=(side, side),
            scale_factor=(width / old[1], height / old[0]),
            img_shape=results['img'].shape[:2],
            keep_ratio=True,
        )

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


def crop_while_resizing(transforms: Sequence[Any]) -> None:
    """Let each resizing make no more pixels than the crop after it keeps.

    A ``RandomRelativeResize`` with Pillow directly before a ``RandomPaddedCrop`` draws its place,
    resizes that part of the image, and the crop finds an image of its own size. Random numbers and
    maps stay the same; a pixel may be rounded to another level, by 2 at most.

    Args:
        transforms: Built transforms, in order.
    """
    for resize, crop in zip(transforms, transforms[1:]):
        if isinstance(resize, RandomRelativeResize) and type(crop) is RandomPaddedCrop:
            resize.crop = crop


def _resized(image: np.ndarray, size: tuple[int, int], part: tuple[slice, slice]) -> np.ndarray:
    """A part, rows and columns, of an image that is resized to ``size`` by Pillow's filter.

    Channels of other images than 8-bit RGB are resized one by one; whole numbers are rounded.
    """
    (top, bottom), (left, right) = ((one.start, one.stop) for one in part)
    down, across = image.shape[0] / size[0], image.shape[1] / size[1]
    box = (left * across, top * down, right * across, bottom * down)

    def resized(one: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(one)
        bilinear = Image.Resampling.BILINEAR
        return np.array(picture.resize((right - left, bottom - top), bilinear, box=box))

    if is_rgb(image):
        return resized(image)
    channels = np.moveaxis(np.atleast_3d(image).astype(np.float32), -1, 0)
    found = np.stack([resized(np.ascontiguousarray(one)) for one in channels], axis=-1)
    return found if image.dtype == np.float32 else np.rint(found).astype(image.dtype)


def _nearest(old: int, new: int) -> np.ndarray:
    """The pixel of ``old`` in a row that Pillow's nearest filter gives to each of ``new``."""
    row = Image.fromarray(np.arange(old, dtype=np.int32)[None])
    return np.asarray(row.resize((new, 1), Image.Resampling.NEAREST))[0]
