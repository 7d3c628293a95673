"""True masks of unlabeled images, for looking at pseudo-labels and never for training."""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np
import torch
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_semi.errors import DataError, check_one_size, name_some
from mmseg_semi.files import check_there

from .dataset_tree import leaf_datasets, pipeline_transforms
from .seeding import seeded
from .semi_dataset import SemiDataset
from .transforms import InitValidMask, PackSemiInputs, StrongViews

AUDIT_MASK = 'audit_mask'


class AuditMasks:
    """Gives the truth under the augmented crops of unlabeled images.

    ``SemiDataset`` augments a sample by a seed that the sample carries. The geometric part of the
    pipeline is run again with that seed, and with the mask as one more map; the image that comes
    out must be the one that was trained on.

    Args:
        dataset: The dataset that is trained on.
        root: Folder with one single-channel mask an image, of the same relative name.
        suffix: Suffix of the masks.

    Raises:
        FileNotFoundError: The folder or some of the masks are missing.
        ValueError: The dataset is no ``SemiDataset``, its unlabeled pipeline has no
            ``InitValidMask``, or two images would share a mask.
    """

    def __init__(self, dataset: SemiDataset, root: str, suffix: str = '.png') -> None:
        if not isinstance(dataset, SemiDataset) or dataset.unlabeled is None:
            raise ValueError(
                'audit masks belong to a SemiDataset with unlabeled images, not to a '
                f'{type(dataset).__name__}: set train_dataloader.dataset'
            )
        remedy = 'Correct it, or leave it out to go without audit masks.'
        check_there(root, remedy, 'audit_root', 'folder')
        self.dataset, self.root, self.suffix = dataset, root, suffix
        self._transforms: dict[str, list[Any]] = {}
        self._masks: dict[str, str] = {}
        for leaf in leaf_datasets(dataset.unlabeled):
            transforms = pipeline_transforms(leaf)
            if not any(isinstance(t, InitValidMask) for t in transforms):
                raise ValueError(
                    'the unlabeled pipeline has no InitValidMask for audit masks: add it after '
                    'LoadImageFromFile'
                )
            folder = leaf.data_prefix.get('img_path') or '.'
            for index in range(len(leaf)):
                path = leaf.get_data_info(index)['img_path']
                stem = os.path.splitext(os.path.relpath(path, folder))[0]
                self._masks[path] = os.path.join(root, stem + suffix)
                self._transforms[path] = transforms
        if len(set(self._masks.values())) < len(self._masks):
            seen: dict[str, list[str]] = {}
            for path, mask in self._masks.items():
                seen.setdefault(mask, []).append(path)
            shared = [f'{" and ".join(p)} ({m})' for m, p in sorted(seen.items()) if len(p) > 1]
            raise ValueError(
                f'audit_root: {len(shared)} masks would belong to several unlabeled images: '
                f'{name_some(shared)}. Images of several folders need different relative names.'
            )
        missing = [mask for mask in self._masks.values() if not os.path.isfile(mask)]
        if missing:
            raise FileNotFoundError(
                f'audit_root: {len(missing)} of {len(self._masks)} unlabeled images have no mask '
                f'there: {name_some(sorted(missing))}. A mask has the name of its image, relative '
                f'to data_prefix.img_path, with the suffix {suffix}.'
            )

    def read(self, path: str) -> np.ndarray:
        """Return the mask of an unlabeled image as it is stored, uint8 (H, W).

        Raises:
            DataError: It can not be read.
        """
        mask = cv2.imread(self._masks[path], cv2.IMREAD_UNCHANGED)
        if mask is None or mask.ndim != 2 or mask.dtype != np.uint8:
            raise DataError(
                f'audit mask {self._masks[path]} must be a single-channel 8-bit image of '
                'class numbers'
            )
        return mask

    def load(self, sample: SegDataSample, weak: Tensor) -> Tensor:
        """Return the truth under one augmented image.

        Args:
            sample: Data sample of the unlabeled image as ``SemiDataset`` made it.
            weak: The image that was trained on, uint8 (3, H, W).

        Returns:
            uint8 (H, W), 255 where nobody knows.

        Raises:
            DataError: The mask cannot be read or has another size than the image, the sample
                lacks its path or seed, or running the pipeline again gave another image.
        """
        path, seed = sample.metainfo.get('img_path'), sample.metainfo.get('sample_seed')
        if path not in self._masks or seed is None:
            raise DataError(
                f'audit masks need the image path and the seed of a sample, got {path!r} and '
                f"{seed!r}: keep 'img_path' in PackSemiInputs.meta_keys, and use SemiSampler"
            )
        mask = self.read(path)
        results: dict[str, Any] = dict(img_path=path, seg_fields=[])
        with seeded(seed):
            for transform in self._transforms[path]:
                if isinstance(transform, (StrongViews, PackSemiInputs)):
                    break
                results = transform(results)
                if isinstance(transform, InitValidMask):
                    check_one_size(
                        f'audit mask {self._masks[path]}', mask.shape, path, results['img'].shape
                    )
                    results[AUDIT_MASK] = mask
                    results['seg_fields'].append(AUDIT_MASK)
        image = torch.from_numpy(np.ascontiguousarray(results['img'].transpose(2, 0, 1)))
        if not torch.equal(image, weak.cpu()):
            raise DataError(
                f'{path}: running its pipeline again gave another image, so the audit mask would '
                'not fit. A transform of the unlabeled pipeline has a random generator of its own; '
                'audit masks do not work with it.'
            )
        return torch.from_numpy(np.ascontiguousarray(results[AUDIT_MASK]))
