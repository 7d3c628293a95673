"""True masks of unlabeled images, for looking at pseudo-labels and never for training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np
import torch
import torch.nn.functional as F
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.structures import SegDataSample
from PIL import Image
from torch import Tensor

from mmseg_semi.errors import DataError, check_one_size, name_some, reading
from mmseg_semi.files import check_there

from .dataset_tree import leaf_datasets, pipeline_transforms
from .seeding import seeded
from .semi_dataset import SemiDataset
from .transforms import CheckAnnotations, InitValidMask, PackSemiInputs, StrongViews

AUDIT_MASK = 'audit_mask'
SINGLE_CHANNEL = ('L', 'P', '1')
_LOOKED_AT = 16


class AuditMasks:
    """Gives the truth under the augmented crops of unlabeled images.

    ``SemiDataset`` augments a sample by a seed that the sample carries. The geometric part of the
    pipeline is run again with that seed, and with the mask as one more map; the image that comes
    out must be the one that was trained on. Masks are read as those of the labeled part are
    (``reduce_zero_label``, ``label_map``).

    Args:
        dataset: The dataset that is trained on.
        root: Folder with one single-channel mask an image, of the same relative name.
        suffix: Suffix of the masks, in place of what follows the last dot of the image's name.
            None takes the labeled part's ``seg_map_suffix``, in place of its ``img_suffix``.
        key: What the folder is called in messages.

    Raises:
        FileNotFoundError: The folder or some of the masks are missing.
        ValueError: The dataset is no ``SemiDataset``, its unlabeled pipeline has no
            ``InitValidMask``, or two images would share a mask.
    """

    def __init__(
        self,
        dataset: SemiDataset,
        root: str,
        suffix: Optional[str] = '.png',
        key: str = 'audit_root',
    ) -> None:
        if not isinstance(dataset, SemiDataset) or dataset.unlabeled is None:
            raise ValueError(
                'audit masks belong to a SemiDataset with unlabeled images, not to a '
                f'{type(dataset).__name__}: set train_dataloader.dataset'
            )
        self._key = key
        remedy = 'Name the folder of the true masks of the unlabeled images.'
        check_there(root, remedy, key, 'folder')
        labeled = leaf_datasets(dataset.labeled)[0]
        ending = ''
        if suffix is None:
            ending = getattr(labeled, 'img_suffix', '')
            ending = ending if isinstance(ending, str) else ''
            suffix = str(getattr(labeled, 'seg_map_suffix', '.png'))
        self._set_reader(labeled)
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
                name = os.path.relpath(path, folder)
                cut = len(name) - len(ending)
                stem = name[:cut] if ending and name[cut:] == ending else os.path.splitext(name)[0]
                self._masks[path] = os.path.join(root, stem + suffix)
                self._transforms[path] = transforms
        if len(set(self._masks.values())) < len(self._masks):
            seen: dict[str, list[str]] = {}
            for path, mask in self._masks.items():
                seen.setdefault(mask, []).append(path)
            shared = [f'{" and ".join(p)} ({m})' for m, p in sorted(seen.items()) if len(p) > 1]
            raise ValueError(
                f'{key}: {len(shared)} masks would belong to several unlabeled images: '
                f'{name_some(shared)}. Images of several folders need different relative names.'
            )
        missing = [mask for mask in self._masks.values() if not os.path.isfile(mask)]
        if missing:
            raise FileNotFoundError(
                f'{key}: {len(missing)} of {len(self._masks)} unlabeled images have no mask '
                f'there: {name_some(sorted(missing))}. A mask has the name of its image, relative '
                f'to data_prefix.img_path, with the suffix {suffix}.'
            )

    def _set_reader(self, labeled: Any) -> None:
        """Read masks as a labeled dataset does, and check their values if it has class names."""
        transforms = pipeline_transforms(labeled)
        loaders = [one for one in transforms if isinstance(one, LoadAnnotations)]
        self._loader = loaders[0] if loaders else LoadAnnotations()
        names = ('reduce_zero_label', 'label_map')
        info = labeled.get_data_info(0) if hasattr(labeled, 'get_data_info') else {}
        self._coding = {**dict.fromkeys(names), **{k: v for k, v in info.items() if k in names}}
        classes = getattr(labeled, 'metainfo', {}).get('classes')
        self._check = CheckAnnotations(len(classes)) if classes else None

    def read(self, path: str) -> np.ndarray:
        """Return the classes of an unlabeled image, uint8 (H, W), 255 where nobody knows.

        Raises:
            DataError: The mask can not be read, or has values that are no class.
        """
        mask = self._masks[path]
        try:
            with Image.open(mask) as image:
                mode = image.mode
        except OSError:
            mode = ''
        if mode not in SINGLE_CHANNEL:
            raise DataError(
                f'audit mask {mask} must be a single-channel 8-bit image of class numbers'
            )
        results = dict(self._coding, img_path=path, seg_map_path=mask, seg_fields=[])
        with reading(mask):
            results = self._loader.transform(results)
        if self._check is not None:
            results['ori_shape'] = results['gt_seg_map'].shape  # load() compares the sizes
            results = self._check.transform(results)
        return results['gt_seg_map']

    def doubt(self) -> Optional[str]:
        """Say where the first masks look like those of 0 and 255; None where they do not.

        Raises:
            DataError: See :meth:`read`.
        """
        held = np.zeros(256, np.int64)
        for path in [*self._masks][:_LOOKED_AT]:
            held += np.bincount(self.read(path).ravel(), minlength=256)
        there = np.flatnonzero(held[:255])
        if not held[255] or len(there) > 1:
            return None
        others = f'all others are class {there[0]}' if len(there) else 'no other is there'
        return (
            f'{self._key}: {held[255] / held.sum():.1%} of the pixels of the first masks are 255, '
            f'which is unknown, and {others}: where 255 is a class, write its number in its place'
        )

    def load_batch(self, unlabeled: Mapping[str, Any], size: Sequence[int]) -> Tensor:
        """Return the truth under the unlabeled images of a batch.

        Args:
            unlabeled: ``weak`` and ``data_samples``, as ``semi_collate`` gives them.
            size: Height and width (H, W) that the batch is padded to.

        Returns:
            uint8 (B, H, W), 255 where nobody knows and on padding.

        Raises:
            DataError: See :meth:`load`.
        """
        truth = []
        for sample, weak in zip(unlabeled['data_samples'], unlabeled['weak']):
            one = self.load(sample, weak)
            below, right = size[0] - one.shape[0], size[1] - one.shape[1]
            truth.append(F.pad(one, (0, right, 0, below), value=255))
        return torch.stack(truth)

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
