"""Pack an unlabeled image for the data preprocessor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import PixelData
from mmseg.registry import TRANSFORMS
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_semi.errors import DataError

from .load_detections import OUTSIDE

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
)


@TRANSFORMS.register_module()
class PackSemiInputs(BaseTransform):
    """Pack weak image, strong views and valid map of an unlabeled image.

    Required Keys: ``img`` (H, W, 3) uint8, ``gt_seg_map`` of ``InitValidMask``, and optionally
    ``strong_imgs`` and ``detection_sets`` of ``LoadDetections``. Returns ``dict(weak, strong,
    data_samples)``: ``weak`` uint8 (3, H, W) BGR, ``strong`` a list of the same kind (empty
    without ``StrongViews``), ``data_samples`` a ``SegDataSample`` with ``valid.data`` bool
    (1, H, W), and with ``LoadDetections`` ``detections.data`` uint8 (ceil(K/8), H, W), packed as
    ``functional.box_agreement`` reads it.

    Args:
        meta_keys: Keys to keep as meta information, as in ``PackSegInputs``.
    """

    def __init__(self, meta_keys: Sequence[str] = META_KEYS) -> None:
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Pack.

        Raises:
            DataError: There is no valid map, or it has another size than the image.
        """
        name = results.get('img_path', 'the image')
        if 'gt_seg_map' not in results:
            raise DataError(
                f'{name} has no valid map: put InitValidMask directly after LoadImageFromFile in '
                'the unlabeled pipeline'
            )
        ids, sets = results['gt_seg_map'], results.get('detection_sets')
        valid = ids == 0 if sets is None else (ids < len(sets)) & (ids != OUTSIDE)
        if valid.shape != results['img'].shape[:2]:
            raise DataError(
                f'the valid map of {name} is {valid.shape}, the image {results["img"].shape[:2]}: '
                'a transform of the unlabeled pipeline changed the image but not the maps in '
                "results['seg_fields']"
            )
        sample = SegDataSample(metainfo={k: results[k] for k in self.meta_keys if k in results})
        sample.set_data(dict(valid=PixelData(data=torch.from_numpy(valid[None]))))
        if sets is not None:
            packed = sets[np.where(valid, ids, 0)].transpose(2, 0, 1)
            packed = torch.from_numpy(np.ascontiguousarray(packed))
            sample.set_data(dict(detections=PixelData(data=packed)))
        return dict(
            weak=_to_tensor(results['img']),
            strong=[_to_tensor(image) for image in results.get('strong_imgs', [])],
            data_samples=sample,
        )

    def __repr__(self) -> str:
        return f'{type(self).__name__}(meta_keys={self.meta_keys})'


def _to_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
