"""Random crops in which rare classes are seen as often as frequent ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from mmcv.transforms.utils import cache_randomness
from mmseg.datasets.transforms import RandomCrop
from mmseg.registry import TRANSFORMS

from mmseg_semi.arguments import Each, Number, Whole, checked

from .random_padded_crop import OUTSIDE


@TRANSFORMS.register_module()
class ClassBalancedCrop(RandomCrop):
    """mmseg's ``RandomCrop``, a share of which lies around a pixel of a class drawn at random.

    With probability ``prob`` one of the classes of the mask is drawn, all alike, and one of its
    pixels; the crop is drawn from those that hold this pixel. nnU-Net does so with a third of its
    patches (Isensee et al., Nature Methods 2021, "oversampling of foreground"). It needs a mask, so
    it is for labeled images: ``train_dataloader.dataset.labeled.geometry``.

    Required and Modified Keys: those of ``RandomCrop``, ``gt_seg_map`` (H, W) among them.

    Args:
        crop_size: Height and width of the crop in pixels.
        prob: Share of the crops, in [0, 1].

    Raises:
        ValueError: An argument outside its values.
    """

    @checked
    def __init__(
        self,
        crop_size: Annotated[Sequence[int], Each(Whole(1), 2)],
        prob: Annotated[float, Number(0, 1)] = 1 / 3,
    ) -> None:
        super().__init__((crop_size[0], crop_size[1]), ignore_index=OUTSIDE)
        self.prob = prob

    @cache_randomness
    def crop_bbox(self, results: dict[str, Any]) -> tuple[int, int, int, int]:
        """Top, bottom, left and right of a crop."""
        mask = results['gt_seg_map']
        classes = np.flatnonzero(np.bincount(mask.ravel(), minlength=OUTSIDE + 1)[:OUTSIDE])
        if np.random.rand() >= self.prob or not classes.size:
            return super().crop_bbox(results)
        places = np.flatnonzero(mask == np.random.choice(classes))
        pixel = divmod(int(np.random.choice(places)), mask.shape[1])
        box: list[int] = []
        for place, length, side in zip(pixel, self.crop_size, mask.shape):
            last = max(side - length, 0)
            start = np.random.randint(max(place - length + 1, 0), min(place, last) + 1)
            box += [start, start + length]
        return tuple(box)  # type: ignore[return-value]

    def __repr__(self) -> str:
        return f'{type(self).__name__}(crop_size={self.crop_size}, prob={self.prob})'
