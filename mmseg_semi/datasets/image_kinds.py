"""Images that the loader of photographs does not read: of other channels, or of other numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import tifffile
from mmcv.transforms import LoadImageFromFile

from mmseg_semi.errors import name_some

from .file_records import ImageRecord, has_start
from .findings import Finding
from .image_arrays import tiff_layout
from .image_files import NUMPY_START

_DOUBTFUL = ('', 'I', 'F')  # Pillow knows no such image, or it has more than 16 bits or a sign
_PHOTOGRAPH = ((1, 3, 4), ('uint8', 'uint16'))  # channels and numbers of TIFF that OpenCV loads


def check_kinds(key: str, loader: Any, images: Mapping[str, ImageRecord]) -> list[Finding]:
    """Name images that need ``LoadChannels``, and the number of channels for it.

    Args:
        key: Config key of the part, for messages.
        loader: What loads its images; one that is not OpenCV's may know any kind.
        images: What their headers say, by path.
    """
    plain = type(loader) is LoadImageFromFile and loader.imdecode_backend == 'cv2'
    doubtful = [path for path, one in images.items() if not one.reason and one.mode in _DOUBTFUL]
    kinds = {path: stored_kind(path) for path in doubtful} if plain else {}
    found = {path: kind for path, kind in kinds.items() if kind is not None}
    if not found:
        return []
    names = [f'{path} ({channels} of {dtype})' for path, (channels, dtype) in found.items()]
    text = (
        f'{key}: {len(found)} of {len(images)} images are not photographs of 8 or 16 bits, and the '
        f'config has no in_channels (channels and numbers): {name_some(names)}.'
    )
    (channels, _), *others = Counter(channels for channels, _ in found.values()).most_common()
    numbers = ', '.join(str(number) for number, _ in others)
    remedy = (
        f'Set in_channels = {channels} at the top of a config of own images; other configs load '
        f"with dict(type='LoadChannels', in_channels={channels}, statistics=...) in place of "
        'LoadImageFromFile, see docs/own_images.md.'
        + (f' All images must have as many: there are {numbers}, too.' if others else '')
    )
    return [Finding(51, text, remedy, found)]


def stored_kind(path: str) -> tuple[int, str] | None:
    """Channels and type of the numbers of a ``.npy`` or TIFF file, by its header.

    Returns:
        None for other files, those that cannot be read, volumes, and images that OpenCV loads.
    """
    try:
        if has_start(path, NUMPY_START):
            array = np.load(path, mmap_mode='r', allow_pickle=False)
            return (array.shape[2] if array.ndim == 3 else 1), str(array.dtype)
        with tifffile.TiffFile(path) as file:
            layout, dtype = tiff_layout(file), str(file.series[0].dtype)
    except Exception:  # every decoder has errors of its own
        return None
    if layout.axes == 'QYX':  # nobody says which dimension the channels are
        return min(layout.shape), dtype
    others = [n for axis, n in zip(layout.axes, layout.shape) if axis not in 'YX']
    if len(others) > 1 or {*layout.axes} & {*'ZT'}:
        return None
    channels = others[0] if others else 1
    loaded = layout.axes in ('YX', 'YXS') and channels in _PHOTOGRAPH[0]
    return None if loaded and dtype in _PHOTOGRAPH[1] else (channels, dtype)
