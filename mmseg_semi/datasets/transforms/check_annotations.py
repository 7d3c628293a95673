"""Refuse masks that do not fit their image or the classes."""

from __future__ import annotations

import logging
from typing import Annotated, Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.logging import print_log
from mmseg.registry import TRANSFORMS
from PIL import Image

from mmseg_semi.arguments import Whole, checked
from mmseg_semi.errors import DataError, name_some

from ..image_files import PNG_START, SIDEWAYS, TURNED_REMEDY, orientation_of

WIDE_MODES = ('I', 'F', 'I;16', 'I;16B', 'I;16L', 'I;16N')


@TRANSFORMS.register_module()
class CheckAnnotations(BaseTransform):
    """Check a mask directly after ``LoadAnnotations``, before any geometric transform of it.

    The mask must be one channel of the size of its image, with values 0..K-1 and ``ignore_index``
    alone. The loader keeps the lower 8 bits of wider masks and the first of several images, so
    files other than 8-bit PNG are looked at. In test pipelines, where mmseg loads the mask after
    resizing the image, the size is compared with that of the image file. An image that has no mask
    at all passes, as in mmseg's inferencer.

    Required Keys: ``gt_seg_map``, ``ori_shape``; ``img_path`` and ``seg_map_path`` for messages.

    Args:
        num_classes: K. None takes ``results['num_classes']`` or else the number that
            ``SemiDataset`` (labeled part) and ``DataCheckHook`` (validation and test) fill in from
            the dataset's classes. Where nobody knows it, values are not checked and a warning
            says so once.
        ignore_index: Value of pixels without a class.

    Raises:
        ValueError: A number outside its range.
    """

    @checked
    def __init__(
        self,
        num_classes: Annotated[int | None, Whole(1, 256)] = None,
        ignore_index: Annotated[int, Whole(0, 255)] = 255,
    ) -> None:
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self._warned = False

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Check the mask.

        Raises:
            DataError: Names mask and image, what the mask has, and what is allowed.
        """
        if 'gt_seg_map' not in results:
            if results.get('seg_map_path') is None:  # mmseg's inferencer drops LoadAnnotations
                return results
            raise DataError('CheckAnnotations found no mask: put it directly after LoadAnnotations')
        mask = results['gt_seg_map']
        name = f'mask {results.get("seg_map_path")} of image {results.get("img_path")}'
        self._check_shape(mask, results, name)
        num_classes = self.num_classes or results.get('num_classes')
        if num_classes is None:
            self._warn_once()
            return results
        _check_file(results.get('seg_map_path'), name, num_classes, self.ignore_index)
        self._check_values(mask, name, num_classes)
        return results

    def _check_shape(self, mask: np.ndarray, results: dict[str, Any], name: str) -> None:
        if mask.ndim != 2:
            raise DataError(
                f'{name} has shape {mask.shape}; one channel (H, W) of class numbers is needed. A '
                'mask that shows classes as colors must be converted first: replace each color '
                'by its class number and save a single-channel PNG (gray or palette).'
            )
        shape = tuple(results['ori_shape'][:2])
        if mask.shape != shape:
            remedy = (
                'They must agree: check that the two files belong together, or resize the mask '
                'with nearest neighbor. (CheckAnnotations must stand directly after '
                'LoadAnnotations.)'
            )
            if mask.shape == shape[::-1] and _is_sideways(results.get('img_path')):
                remedy = (
                    'The EXIF orientation of the image turns it when it is loaded, and not the '
                    f'mask. {TURNED_REMEDY}'
                )
            raise DataError(
                f'{name}: the mask is {_size(mask.shape)}, the image {_size(shape)} (height x '
                f'width). {remedy}'
            )

    def _check_values(self, mask: np.ndarray, name: str, num_classes: int) -> None:
        no_class = (mask >= num_classes) & (mask != self.ignore_index)
        if no_class.any():
            wrong = dict(
                zip(*(one.tolist() for one in np.unique(mask[no_class], return_counts=True)))
            )
            raise DataError(_values_message(name, wrong, num_classes, self.ignore_index))

    def _warn_once(self) -> None:
        if not self._warned:
            self._warned = True
            print_log(
                'CheckAnnotations: mask values are not checked, because the number of classes is '
                'unknown; set num_classes, or metainfo.classes of the dataset',
                logger='current',
                level=logging.WARNING,
            )

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(num_classes={self.num_classes}, '
            f'ignore_index={self.ignore_index})'
        )


def _is_sideways(path: str | None) -> bool:
    try:
        with Image.open(path or '') as image:
            return orientation_of(image) >= SIDEWAYS
    except OSError:
        return False


def _size(shape: tuple[int, ...]) -> str:
    return f'{shape[0]} x {shape[1]}'


def _values_message(name: str, wrong: dict[float, int], num_classes: int, ignore_index: int) -> str:
    values = name_some([f'{value:g} ({count} pixels)' for value, count in sorted(wrong.items())])
    return (
        f'{name} has values that are no class: {values}. Allowed are 0 to {num_classes - 1} and '
        f'{ignore_index} for pixels to ignore. Correct the mask, or metainfo.classes if classes '
        'are missing there; reduce_zero_label=True is for masks that count classes from 1.'
    )


def _check_file(path: str | None, name: str, num_classes: int, ignore_index: int) -> None:
    """Refuse values that the loader would wrap around or cut off, and files of several images.

    Most masks are 8-bit PNG, where nothing can be lost.
    """
    try:
        with open(path or '', 'rb') as file:
            head = file.read(26)
            if head.startswith(PNG_START) and head[24] <= 8:
                return
            file.seek(0)
            with Image.open(file) as image:
                pages = getattr(image, 'n_frames', 1)
                mask = np.array(image) if image.mode in WIDE_MODES else None
    except OSError:
        return  # a file that LoadAnnotations reads through a backend of its own
    if pages > 1:
        raise DataError(
            f'{name} is a file of {pages} images, of which only the first would be read. Save one '
            'image a file.'
        )
    if mask is None:
        return
    lost = ~((mask >= 0) & (mask <= 255) & (mask == np.floor(mask)))
    if lost.any():
        values, counts = np.unique(mask[lost], return_counts=True)
        wrong = dict(zip(values.tolist(), counts.tolist()))
        raise DataError(_values_message(name, wrong, num_classes, ignore_index))
