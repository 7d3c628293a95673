"""Data preprocessor for labeled, weak and strong images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Optional

import torch
import torch.nn.functional as F
from mmseg.models.data_preprocessor import SegDataPreProcessor
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import Whole, checked
from mmseg_semi.errors import DataError
from mmseg_semi.structures import REMEDY, read_statistics


@MODELS.register_module()
class SemiDataPreprocessor(SegDataPreProcessor):
    """Move, pad and normalize labeled images and the weak and strong views of unlabeled ones.

    Takes the arguments of mmseg's ``SegDataPreProcessor`` and behaves as that one for plain
    batches (``inputs``, ``data_samples``), so validation, test and inference do not change.

    A semi-supervised batch is ``dict(labeled=dict(inputs, data_samples), unlabeled=dict(weak,
    strong, data_samples))`` as ``semi_collate`` makes it. All its images are padded right and
    bottom to one common size, because labeled and weak images go through the student together:
    ``size``, or else at least the crop that ``SemiDataset`` tells with its samples
    (``crop_size``), in training on labeled images alone too. This padding is in the mean color; a
    ``RandomPaddedCrop`` pads before flip and photometry, in any color, and leaves nothing to it.

    Args:
        in_channels: C, the number of channels of the images.
        statistics: File of the mean and the standard deviation of each channel, in the order of the
            image files, that ``mmseg-semi check`` writes; they replace ``mean`` and ``std``. Where
            there is no such file, ``mean`` and ``std`` hold, for images of 8 bits alone.
        mean: Of each channel; None with ``std=None`` for images that are not normalized.
        std: Likewise.
        **kwargs: Of ``SegDataPreProcessor``.

    Attributes:
        dtype: Type of the numbers in the image files, '' where there is no file of statistics.

    Raises:
        DataError: There is no such file, and ``mean`` has another number of channels; or the file
            does not fit ``in_channels``.
    """

    size: tuple[int, int] | None

    @checked
    def __init__(
        self,
        in_channels: Annotated[int, Whole(1)] = 3,
        statistics: Optional[str] = None,
        mean: Optional[Sequence[float]] = None,
        std: Optional[Sequence[float]] = None,
        **kwargs: Any,
    ) -> None:
        key = 'model.data_preprocessor.statistics'
        found = read_statistics(statistics, in_channels, key) if statistics else None
        swapped = kwargs.get('bgr_to_rgb') or kwargs.get('rgb_to_bgr')
        if found is not None:
            step = 1 if swapped or in_channels != 3 else -1  # loaded in the order of OpenCV
            mean, std = found.mean[::step], found.std[::step]
        elif statistics and (mean is None or len(mean) != in_channels):
            raise DataError(f'{key}: {statistics} is not there: {REMEDY}')
        super().__init__(mean, std, **kwargs)
        self._statistics, self.dtype = statistics, '' if found is None else found.dtype

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Prepare a batch.

        Args:
            data: A semi-supervised or a plain batch.
            training: Whether it is a training batch.

        Returns:
            For a semi-supervised batch ``dict(inputs=dict(labeled, weak, strong, valid, maps),
            data_samples=dict(labeled, unlabeled))``: images (B, C, H, W) float32, ``strong`` a
            list of views, ``valid`` bool (Bu, H, W), and ``maps``, the further maps of the
            unlabeled images (Bu, C, H, W) by name. Otherwise what ``SegDataPreProcessor`` returns.

        Raises:
            ValueError: Images are larger than ``size``, a part is missing, some unlabeled images
                lack a map, or ``batch_augments`` is set.
        """
        if 'labeled' not in data and 'unlabeled' not in data:
            return self._plain(data, training)
        if self.batch_augments is not None:
            raise ValueError(
                'data_preprocessor.batch_augments does not know unlabeled images: remove it and '
                'augment in the pipelines'
            )
        data = self.cast_data(data)
        labeled, unlabeled = data.get('labeled'), data.get('unlabeled')
        if labeled is None or unlabeled is None:
            missing = 'labeled' if labeled is None else 'unlabeled'
            raise ValueError(
                f'the batch has no {missing} image; every batch needs both. Set train_dataloader.'
                f'dataset.{missing}, or train the config of the plain segmentor (supervised) where '
                'there are no unlabeled images.'
            )
        samples = [*labeled['data_samples'], *unlabeled['data_samples']]
        size = self._common_size([*labeled['inputs'], *unlabeled['weak']], _crops(samples))
        inputs = dict(
            labeled=self.prepare_labeled(labeled, size),
            **self.prepare_unlabeled(unlabeled, size),
        )
        kept = dict(labeled=labeled['data_samples'], unlabeled=unlabeled['data_samples'])
        return dict(inputs=inputs, data_samples=kept)

    def prepare_labeled(self, part: dict[str, Any], size: tuple[int, int]) -> Tensor:
        """Prepare labeled images, which are on the right device, and pad the maps of their samples.

        Args:
            part: ``inputs`` and ``data_samples`` as ``semi_collate`` makes them.
            size: ``(H, W)`` to pad, or cut, them to.
        """
        self._pad_labels(part['data_samples'], size)
        return self.prepare_images(part['inputs'], size)

    def prepare_unlabeled(self, part: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
        """Prepare unlabeled images, which are on the right device.

        Args:
            part: ``weak``, ``strong`` and ``data_samples`` as ``semi_collate`` makes them.
            size: ``(H, W)`` to pad, or cut, them to.

        Returns:
            ``weak``, ``strong``, ``valid`` and ``maps`` as :meth:`forward` returns them.
        """
        return dict(
            weak=self.prepare_images(part['weak'], size),
            strong=[self.prepare_images(view, size) for view in part['strong']],
            valid=_stack('valid', part['data_samples'], size)[:, 0].bool(),
            maps=_stack_maps(part['data_samples'], size),
        )

    def _plain(self, data: dict[str, Any], training: bool) -> dict[str, Any]:
        self._check_numbers(data['inputs'])
        _widen_labels(data.get('data_samples') or [])
        crops = _crops(data.get('data_samples') or []) if training else []
        if self.size is not None or self.size_divisor is not None or not crops:
            return super().forward(data, training)
        height, width = map(max, zip(*crops))
        self.size = height, width
        try:
            return super().forward(data, training)
        finally:
            self.size = None

    def _common_size(self, images: list[Tensor], crops: list[tuple[int, int]]) -> tuple[int, int]:
        sizes = [tuple(image.shape[-2:]) for image in images]
        height, width = map(max, zip(*sizes, *(crops if self.size is None else ())))
        if self.size is not None:
            if height > self.size[0] or width > self.size[1]:
                raise ValueError(
                    f'model.data_preprocessor.size is {tuple(self.size)} but the pipeline gives '
                    f'images of {(height, width)}: leave size out, so that images are padded to '
                    'the crop of train_dataloader.dataset.geometry'
                )
            return int(self.size[0]), int(self.size[1])
        divisor = self.size_divisor or 1
        return -(-height // divisor) * divisor, -(-width // divisor) * divisor

    def prepare_images(self, images: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Normalize images (C, h, w), pad them to ``size`` and stack them.

        Raises:
            DataError: Their numbers are of another type than the file of statistics says.
        """
        self._check_numbers(images)
        # Normalized in one pass over the batch; padding is pad_val after normalization, as in
        # SegDataPreProcessor.
        if all(tuple(image.shape[-2:]) == size for image in images):
            return self._normalize(torch.stack(images))
        out = []
        for image in images:
            pad = (0, size[1] - image.shape[-1], 0, size[0] - image.shape[-2])
            out.append(F.pad(self._normalize(image[None])[0], pad, value=self.pad_val))
        return torch.stack(out)

    def _check_numbers(self, images: Sequence[Tensor]) -> None:
        """Refuse images that mean and standard deviation do not belong to."""
        if not self._statistics:
            return
        whole = self.dtype in ('', 'uint8')
        if all((image.dtype == torch.uint8) == whole for image in images):
            return
        found = 'more than 8 bits a channel, or no whole numbers' if whole else '8 bits a channel'
        if self.dtype:
            raise DataError(
                f'an image has {found}, but {self._statistics} is of {self.dtype} images: give '
                f'images of one type, or remove the file and {REMEDY}'
            )
        raise DataError(
            f'an image has {found}, so its mean must be known, and model.data_preprocessor.'
            f'statistics={self._statistics!r} is not there: {REMEDY}'
        )

    def _normalize(self, images: Tensor) -> Tensor:
        # The attribute's name differs between mmseg and its maintained fork.
        swap = getattr(self, 'channel_conversion', None)
        if (self._channel_conversion if swap is None else swap) and images.shape[1] == 3:
            images = images.flip(1)
        images = images.float()
        if self._enable_normalize:
            images = (images - self.mean) / self.std
        return images

    def _pad_labels(self, samples: list[Any], size: tuple[int, int]) -> None:
        _widen_labels(samples)
        for sample in samples:
            for name in ('gt_sem_seg', 'gt_edge_map', 'gt_depth_map'):
                if name not in sample:
                    continue
                element = sample.get(name)
                data = element.data
                pad = (0, size[1] - data.shape[-1], 0, size[0] - data.shape[-2])
                del element.data  # a PixelData refuses data of another size
                element.data = F.pad(data, pad, value=self.seg_pad_val)
                sample.set_metainfo(
                    dict(img_shape=tuple(data.shape[-2:]), pad_shape=size, padding_size=pad)
                )


def _widen_labels(samples: list[Any]) -> None:
    """Make masks of 8 bits int64, as losses want them."""
    for sample in samples:
        if 'gt_sem_seg' in sample and sample.gt_sem_seg.data.dtype == torch.uint8:
            sample.gt_sem_seg.data = sample.gt_sem_seg.data.long()


def _crops(samples: list[Any]) -> list[tuple[int, int]]:
    return [tuple(one.metainfo['crop_size']) for one in samples if 'crop_size' in one.metainfo]


def _stack_maps(samples: list[Any], size: tuple[int, int]) -> dict[str, Tensor]:
    """Stack every map but ``valid``."""
    names = sorted(set().union(*(sample.keys() for sample in samples)) - {'valid'})
    for name in names:
        if not all(name in sample for sample in samples):
            raise ValueError(
                f'some unlabeled images of a batch have the map {name!r} and some do not: every '
                'dataset of the unlabeled part needs the transform that adds it, or none'
            )
    return {name: _stack(name, samples, size) for name in names}


def _stack(name: str, samples: list[Any], size: tuple[int, int]) -> Tensor:
    """Stack maps (C, h, w) of the samples, padded with 0 to ``size``."""
    maps = [sample.get(name).data for sample in samples]
    pads = [(0, size[1] - one.shape[-1], 0, size[0] - one.shape[-2]) for one in maps]
    return torch.stack([F.pad(one, pad, value=0) for one, pad in zip(maps, pads)])
