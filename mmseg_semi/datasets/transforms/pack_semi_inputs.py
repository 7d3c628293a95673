"""Pack labeled and unlabeled images for the data preprocessor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import PixelData
from mmseg.datasets.transforms import PackSegInputs
from mmseg.registry import TRANSFORMS
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_semi.errors import DataError

from .carry_maps import VALID_MAP, check_maps
from .memory_layout import to_tensor, unflipped

META_KEYS = (
    'img_path',
    'seg_map_path',
    'ori_shape',
    'img_shape',
    'pad_shape',
    'scale_factor',
    'flip',
    'flip_direction',
    'reduce_zero_label',
    'padded',
)


@TRANSFORMS.register_module()
class PackLabeledInputs(PackSegInputs):
    """mmseg's ``PackSegInputs``, but a mask of 8 bits stays one until it is on the device.

    ``SemiDataPreprocessor`` makes it int64 there, an eighth of which workers hand over; mmseg's
    ``SegDataPreProcessor`` does not, and wants ``PackSegInputs``.

    Required Keys, arguments and the result are those of ``PackSegInputs``, and ``padded`` is kept.
    """

    def __init__(self, meta_keys: Sequence[str] = META_KEYS) -> None:
        super().__init__(meta_keys)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Pack."""
        mask = results.get('gt_seg_map')
        small = mask is not None and mask.dtype == np.uint8 and mask.ndim == 2
        left = ('img', 'gt_seg_map') if small else ('img',)
        packed = super().transform({key: one for key, one in results.items() if key not in left})
        if 'img' in results:
            packed['inputs'] = to_tensor(unflipped(results['img']))
        if small:
            data = torch.from_numpy(np.ascontiguousarray(mask)[None])
            packed['data_samples'].gt_sem_seg = PixelData(data=data)
        return packed


@TRANSFORMS.register_module()
class PackSemiInputs(BaseTransform):
    """Pack weak image, strong views and maps of an unlabeled image.

    Required Keys: ``img`` (H, W, C), ``valid_map`` of ``InitValidMask``, and optionally
    ``strong_imgs`` and further maps (H, W) or (H, W, C) that ``seg_fields`` lists. Returns
    ``dict(weak, strong, data_samples)``: ``weak`` (C, H, W) of the image's type, ``strong`` a list
    of the same kind (empty without ``StrongViews``), ``data_samples`` a ``SegDataSample`` with
    ``valid.data`` bool (1, H, W) and every further map under its name, (C, H, W), 0 where the pixel
    is not of the image.

    Args:
        meta_keys: Keys to keep as meta information, as in ``PackSegInputs``.
    """

    def __init__(self, meta_keys: Sequence[str] = META_KEYS) -> None:
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Pack.

        Raises:
            DataError: There is no valid map, or a map has another size than the image.
        """
        if VALID_MAP not in results:
            raise DataError(
                f'{results.get("img_path", "the image")} has no valid map: put InitValidMask '
                'directly after LoadImageFromFile in the unlabeled pipeline'
            )
        check_maps(
            results,
            'a transform of the unlabeled pipeline changed the image and not each map of '
            "results['seg_fields']; put the geometric transforms into dict(type='CarryMaps', "
            'transforms=[...])',
        )
        valid = results[VALID_MAP] == 0
        fields = dict(valid=PixelData(data=torch.from_numpy(valid[None])))
        for name in results['seg_fields']:
            if name != VALID_MAP:
                fields[name] = PixelData(data=_pack_map(results[name], valid))
        sample = SegDataSample()
        for key in (key for key in self.meta_keys if key in results):  # set_metainfo makes copies
            sample.set_field(results[key], key, field_type='metainfo')
        sample.set_data(fields)
        return dict(
            weak=to_tensor(results['img']),
            strong=[to_tensor(image) for image in results.get('strong_imgs', [])],
            data_samples=sample,
        )

    def __repr__(self) -> str:
        return f'{type(self).__name__}(meta_keys={self.meta_keys})'


def _pack_map(one: np.ndarray, valid: np.ndarray) -> Tensor:
    one = np.atleast_3d(one).copy()
    one[~valid] = 0
    return to_tensor(one)
