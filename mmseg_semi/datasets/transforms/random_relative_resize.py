"""Random resizing relative to the image's own size."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from operator import le
from typing import Annotated, Any, Optional

import cv2
import numpy as np
from mmcv.image import rescale_size
from mmcv.transforms import BaseTransform
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

    Required and Modified Keys: ``img`` and the maps of ``seg_fields``. Added Keys, as mmseg's
    ``Resize`` has them: ``scale``, ``scale_factor``, ``img_shape``, ``keep_ratio``.

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
        width, height = rescale_size(before[::-1], (side, side))
        resized = _with_pillow if self.backend == 'pillow' else _with_cv2
        maps = {name: results[name] for name in results.get('seg_fields', [])}
        part = slice(0, height), slice(0, width)
        if self.crop is not None and all(map(le, self.crop.crop_size, (height, width))):
            shown = dict(results, img=np.broadcast_to(np.uint8(0), (height, width)))
            if self.crop.cat_max_ratio < 1 and 'gt_seg_map' in maps:  # it chooses by what is seen
                shown['gt_seg_map'] = resized(maps['gt_seg_map'], (height, width), part, True)
            top, bottom, left, right = self.crop.crop_bbox(shown)
            part = slice(top, bottom), slice(left, right)
        for name, one in maps.items():
            results[name] = resized(one, (height, width), part, nearest=True)
        results['img'] = resized(results['img'], (height, width), part, nearest=False)
        return dict(
            results,
            scale=(side, side),
            scale_factor=(width / before[1], height / before[0]),
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

    A ``RandomRelativeResize`` directly before a ``RandomPaddedCrop`` draws its place, resizes that
    part of the image, and the crop finds an image of its own size. Random numbers stay the same.
    With Pillow, maps do, and a pixel may be rounded to another level, by 2 at most; with OpenCV,
    which cannot begin between two pixels, the crop moves by less than one of the image's.

    Args:
        transforms: Built transforms, in order.
    """
    for resize, crop in zip(transforms, transforms[1:]):
        if isinstance(resize, RandomRelativeResize) and type(crop) is RandomPaddedCrop:
            resize.crop = crop


def _with_cv2(
    image: np.ndarray, size: tuple[int, int], part: tuple[slice, slice], nearest: bool
) -> np.ndarray:
    """A part, rows and columns, of an image or map that is resized to ``size``."""
    filtered = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    lengths = tuple(one.stop - one.start for one in part)
    if lengths == size:
        return cv2.resize(image, size[::-1], interpolation=filtered)
    steps = [old / new for old, new in zip(image.shape, size)]
    needed = []
    for old, step, one, length in zip(image.shape, steps, part, lengths):
        pixels = min(ceil(length * step), old)
        start = min(int(one.start * step), old - pixels)
        needed.append(slice(start, start + pixels + 1))  # the last one's neighbor
    down, across = (1 / step for step in steps)
    found = cv2.resize(image[tuple(needed)], None, fx=across, fy=down, interpolation=filtered)
    return found[: lengths[0], : lengths[1]]


def _with_pillow(
    image: np.ndarray, size: tuple[int, int], part: tuple[slice, slice], nearest: bool
) -> np.ndarray:
    """The same by Pillow's filters, for images and maps of any type.

    Channels of other images than 8-bit RGB are resized one by one; whole numbers are rounded.
    """
    if nearest:
        rows, columns = (_nearest(*one)[of] for *one, of in zip(image.shape, size, part))
        return image[rows[:, None], columns]
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
