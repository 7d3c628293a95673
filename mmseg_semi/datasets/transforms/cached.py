"""Decoded images and masks in a folder, shared by data workers, ranks and runs."""

from __future__ import annotations

import errno
import hashlib
import logging
import mmap
import os
import shutil
import struct
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine.logging import print_log
from mmseg.datasets.transforms import LoadAnnotations

from mmseg_semi.files import is_local

from ..file_records import file_key
from .load_channels import LoadChannels

#: Bytes that a disk must have left for another file to be kept.
LEAST_FREE = 2**30
_PARTS = 'parts'  # folder of files that are being written
_MAGIC, _HEAD = b'uint8 1\n', struct.Struct('<8sIII4x')  # height, width, channels; 0 of a mask
#: What is known to give nothing but an image or a mask; subclasses may add to that.
_LOADERS = (LoadImageFromFile, LoadChannels, LoadAnnotations)


class Cached(BaseTransform):
    """A loading transform that decodes a file once.

    What it has decoded is a ``.raw`` file of ``folder``, which later calls of any process map into
    memory: each page is there once, and no more of it is read than is used. Arrays of other types
    than uint8 are not kept. A file whose path, size or time of change is another is decoded anew.

    Args:
        loader: A ``LoadImageFromFile``, ``LoadChannels`` or ``LoadAnnotations``.
        folder: Where the files are.
    """

    def __init__(self, loader: BaseTransform, folder: Path) -> None:
        self.loader, self.folder = loader, folder
        self._of_mask = isinstance(loader, LoadAnnotations)
        self._text, self._full = repr(loader), False  # mmseg's loaders change as they load

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Load the image or mask."""
        place = self._place(results)
        array = None if place is None else _read(place)
        if array is not None:
            return self._add(results, array)
        found = self.loader.transform(results)
        if place is not None and found is not None:
            self._keep(place, found['gt_seg_map' if self._of_mask else 'img'])
        return found

    def _place(self, results: dict[str, Any]) -> Path | None:
        path = results.get('seg_map_path' if self._of_mask else 'img_path')
        key = file_key(path) if isinstance(path, str) else 0
        if not key:
            return None
        # What is done to a mask's numbers, besides what the loader's own arguments say.
        labels = results.get('label_map'), results.get('reduce_zero_label')
        text = f'{key} {self._text} {labels if self._of_mask else ""}'
        name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        return self.folder / name[:2] / f'{name}.raw'

    def _add(self, results: dict[str, Any], array: np.ndarray) -> dict[str, Any]:
        if self._of_mask:
            results['gt_seg_map'] = array
            results['seg_fields'].append('gt_seg_map')
            return results
        return dict(results, img=array, img_shape=array.shape[:2], ori_shape=array.shape[:2])

    def _keep(self, place: Path, array: np.ndarray) -> None:
        if array.dtype != np.uint8 or array.ndim not in (2, 3) or self._full:
            return
        try:
            if shutil.disk_usage(self.folder).free - array.nbytes >= LEAST_FREE:
                _write(self.folder, place, array)
                return
            reason = f'less than {LEAST_FREE >> 30} GiB would be left on its disk'
            remedy = 'free some space'
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            reason = str(error)
            remedy = 'free some space' if full else 'make it a folder that can be written'
        self._full = True
        print_log(
            f'cache {self.folder}: nothing more is kept, since {reason}. Training goes on, and '
            f'decodes what is not there; {remedy}, or set train_dataloader.dataset.cache to a '
            'folder of another disk.',
            logger='current',
            level=logging.WARNING,
        )

    def __repr__(self) -> str:
        return f'{type(self).__name__}(loader={self.loader}, folder={str(self.folder)!r})'


def cached(transforms: list[Any], folder: Path, backend_args: Any = None) -> list[Any]:
    """Transforms of a pipeline, those that load local files ``Cached``.

    Args:
        transforms: Built transforms.
        folder: From ``open_cache``.
        backend_args: Of the dataset.
    """
    if not is_local(backend_args):
        return transforms
    return [
        Cached(one, folder) if type(one) in _LOADERS and is_local(one.backend_args) else one
        for one in transforms
    ]


def open_cache(folder: str) -> Path:
    """Make the folder of decoded files.

    What killed runs have left half-written is removed.

    Raises:
        ValueError: It is no folder, or cannot be made or written.
    """
    path, reason = Path(), 'it is no folder'
    if isinstance(folder, (str, os.PathLike)) and str(folder).strip() and '://' not in str(folder):
        path, reason = Path(folder).expanduser().absolute(), 'it cannot be written'
        try:
            (path / _PARTS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or str(error)
    if not path.is_absolute() or not os.access(path / _PARTS, os.W_OK | os.X_OK):
        raise ValueError(
            f'train_dataloader.dataset.cache is {folder!r}: {reason}. Name a folder that can be '
            'written, on a disk with room for the decoded images (3 bytes a pixel), or None.'
        )
    for part in (path / _PARTS).iterdir():
        with suppress(OSError):  # another run may do so at the same time
            if time.time() - part.stat().st_mtime > 3600:
                part.unlink()
    return path


def _write(folder: Path, place: Path, array: np.ndarray) -> None:
    """Keep an array; several processes may do so at once, and readers see a whole file or none."""
    height, width, channels = (*array.shape, 0)[:3]
    part = folder / _PARTS / uuid.uuid4().hex
    for one in (place, part):
        one.parent.mkdir(exist_ok=True)
    try:
        with open(part, 'xb') as file:
            file.write(_HEAD.pack(_MAGIC, height, width, channels))
            file.write(np.ascontiguousarray(array).data)
        os.replace(part, place)
    finally:
        part.unlink(missing_ok=True)


def _read(place: Path) -> np.ndarray | None:
    """Map a kept array, None where there is none or it is not whole."""
    try:
        with open(place, 'rb') as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        magic, height, width, channels = _HEAD.unpack_from(content)
        pixels = np.frombuffer(content, np.uint8, offset=_HEAD.size)
        if magic == _MAGIC:
            return pixels.reshape((height, width, channels) if channels else (height, width))
    except (OSError, ValueError, struct.error):
        pass
    return None
