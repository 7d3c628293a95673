"""Images of any number of channels and of any type of numbers, as arrays."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import tifffile
from mmengine import fileio

from mmseg_semi.errors import DataError, UnreadableImage

from .image_files import (
    NUMPY_START,
    ORIENTATION_TAG,
    PNG_START,
    SIDEWAYS,
    TIFF_STARTS,
    exif_orientation,
    is_turned_data,
)

_PNG_GRAY_ALPHA = 4  # color type of the header
_WHOLE = 2**24  # float32 holds whole numbers up to here
_BIG_TIFF = (b'II+\x00', b'MM\x00+')
_ALPHA = (1, 2)  # values of ExtraSamples
_DEPTH_OR_TIME = 'ZT'  # axes of slices
_REMEDY = 'use mmseg-semi import-labels, which makes images of the slices of a volume'


def load_image(path: str, channels: int, backend_args: dict[str, Any] | None = None) -> np.ndarray:
    """Load an image for a network of so many channels.

    Args:
        path: PNG, JPEG, BMP, WebP, TIFF (GeoTIFF too) or ``.npy`` file.
        channels: C, the number that it must have.
        backend_args: Of mmengine's file backend.

    Returns:
        (H, W, C): uint8 where the file has 8 bits, else float32 of the same values. Three channels
        are in the order of OpenCV, the last of the file first (BGR); others in that of the file.

    Raises:
        UnreadableImage: The file cannot be read or decoded.
        DataError: It has another number of channels, values that are not finite, or whole numbers
            that float32 cannot hold.
    """
    image = stored_image(path, channels, backend_args)
    return image if image.dtype == np.uint8 else _as_float32(image, path)


def stored_image(
    path: str, channels: int, backend_args: dict[str, Any] | None = None
) -> np.ndarray:
    """:func:`load_image` with the type of numbers that the file has."""
    try:
        data = fileio.get(path, backend_args=backend_args)
        if data.startswith(NUMPY_START):
            image = _numpy(data, channels)
        elif data[:4] in (*TIFF_STARTS, *_BIG_TIFF):
            image = _tiff(data, path, channels)
        else:
            image = _picture(data, channels)
    except DataError:
        raise
    except Exception as error:  # every decoder has errors of its own
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise UnreadableImage(
            f'{path} can not be read as an image: {reason}. Replace it by a whole and sound PNG, '
            'JPEG, BMP, WebP, TIFF or .npy file.'
        ) from error
    return _checked(image, path, channels)


def _checked(image: np.ndarray, path: str, channels: int) -> np.ndarray:
    image = image[..., None] if image.ndim == 2 else image
    if image.ndim != 3 or not image.size or image.dtype.kind not in 'uif':
        raise DataError(
            f'{path} is {image.dtype} of shape {image.shape}; it must be (H, W) or (H, W, C) of '
            'whole or floating-point numbers'
        )
    gray = image.shape[2] == 1 and image.dtype in (np.uint8, np.uint16)
    if channels == 3 and gray:
        image = np.repeat(image, 3, axis=2)
    if image.shape[2] != channels:
        first = ''
        if image.shape[0] == channels:
            first = ' Its channels stand first: save it as (H, W, C).'
        raise DataError(
            f'{path} has {image.shape[2]} channels ({image.dtype}, {image.shape[0]} x '
            f'{image.shape[1]} pixels), but in_channels is {channels}: set in_channels='
            f'{image.shape[2]} if all images have so many, or take the image out.{first}'
        )
    return np.ascontiguousarray(image)


def _as_float32(image: np.ndarray, path: str) -> np.ndarray:
    with np.errstate(over='ignore'):
        found = image.astype(np.float32)
    if image.dtype.kind == 'f':
        wrong = int((~np.isfinite(found)).sum())
        if wrong:
            raise DataError(
                f'{path} has {wrong} values of {found.size} that are NaN, infinite or too large '
                'for float32: replace them, for example by the mean of their channel, or take the '
                'image out'
            )
    elif image.dtype.itemsize > 2 and (image.max() > _WHOLE or int(image.min()) < -_WHOLE):
        raise DataError(
            f'{path} has {image.dtype} values beyond {_WHOLE}, which float32 cannot hold: give it '
            'a smaller scale'
        )
    return found


def _numpy(data: bytes, channels: int) -> np.ndarray:
    image = np.load(io.BytesIO(data), allow_pickle=False)
    return image[..., ::-1] if channels == 3 and image.ndim == 3 else image


def _picture(data: bytes, channels: int) -> np.ndarray:
    """Decode what OpenCV knows; 8 bits of three channels as mmcv does."""
    raw = np.frombuffer(data, np.uint8)
    if channels == 3:
        return _found(cv2.imdecode(raw, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH))
    image = _found(cv2.imdecode(raw, cv2.IMREAD_UNCHANGED))  # as it is stored, not turned
    if data.startswith(PNG_START) and data[25] == _PNG_GRAY_ALPHA:
        image = image[..., [0, 3]]
    elif image.ndim == 3 and image.shape[2] >= 3:
        image = image[..., [2, 1, 0, *range(3, image.shape[2])]]
    orientation = exif_orientation(io.BytesIO(data))
    return turn(image, orientation) if orientation > 1 and is_turned_data(raw) else image


def _found(image: np.ndarray | None) -> np.ndarray:
    if image is None:
        raise ValueError('OpenCV cannot load it')
    return image


def turn(image: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation, 1 to 8, of an array (H, W, ...)."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
        orientation = {5: 1, 6: 2, 7: 3, 8: 4}[orientation]
    if orientation in (2, 3):
        image = image[:, ::-1]
    return image[::-1] if orientation in (3, 4) else image


class TiffLayout(NamedTuple):
    """How the numbers of a TIFF file are ordered.

    Attributes:
        axes: One letter for each dimension, without those of length 1: ``YX`` rows and columns,
            ``S`` samples of a pixel, ``C`` channels by name, ``Z`` and ``T`` depth and time, ``I``
            pages, ``Q`` what nobody has said.
        shape: Length of each dimension.
        series: Those of equal pages that are looked at.
    """

    axes: str
    shape: tuple[int, ...]
    series: Sequence[Any]

    def numbers(self) -> np.ndarray:
        """All numbers, in this order."""
        return np.stack([one.asarray() for one in self.series]).reshape(self.shape)


def tiff_layout(file: tifffile.TiffFile) -> TiffLayout:
    """Look at the headers of a TIFF file; smaller copies and masks in it are left out."""
    first = file.series[0]
    series = [one for one in file.series if (one.shape, one.dtype) == (first.shape, first.dtype)]
    axes, shape = first.axes, first.shape
    kept = [i for i, length in enumerate(shape) if length > 1 or axes[i] in 'YX']
    axes, shape = ''.join(axes[i] for i in kept), tuple(shape[i] for i in kept)
    if len(series) > 1:
        return TiffLayout(f'I{axes}', (len(series), *shape), series)
    return TiffLayout(axes, shape, series)


def _tiff(data: bytes, path: str, channels: int) -> np.ndarray:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[0]
        layout = tiff_layout(file)
        samples = page.samplesperpixel
        alpha = samples == 4 and page.extrasamples and page.extrasamples[0] in _ALPHA
        color = samples == 3 and page.photometric != tifffile.PHOTOMETRIC.MINISBLACK
        photograph = layout.axes in ('YX', 'YXS') and page.dtype == np.uint8
        if channels == 3 and photograph and (samples == 1 or color or alpha):
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            if image is not None:
                return image  # as mmcv loads it
        image = _channels_last(_tiff_numbers(layout, data, path), layout, path, channels)
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and image.dtype.kind == 'u':
            image = np.invert(image)
        orientation = page.tags.get(ORIENTATION_TAG)
        image = turn(image, orientation.value if orientation else 1)
    if channels != 3 or image.ndim == 2:  # gray is repeated by who asks for three
        return image
    image = image[..., :3] if alpha else image
    return image[..., ::-1] if image.shape[2] == 3 else image


def _tiff_numbers(layout: TiffLayout, data: bytes, path: str) -> np.ndarray:
    try:
        return layout.numbers()
    except ValueError as error:
        if 'imagecodecs' not in str(error):
            raise
        return _by_rasterio(data, layout, path, str(error)).reshape(layout.shape)


def _by_rasterio(data: bytes, layout: TiffLayout, path: str, reason: str) -> np.ndarray:
    """Read one image whose compression tifffile does not know alone."""
    try:
        from rasterio.io import MemoryFile
    except ImportError as error:
        raise UnreadableImage(
            f"{path}: {reason}: pip install imagecodecs, or pip install 'mmseg_semi[geotiff]', or "
            'save the image without compression or with deflate'
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of images without a place on the earth
        with MemoryFile(data) as memory, memory.open() as opened:
            found = opened.read()
    return np.moveaxis(found, 0, -1) if layout.axes == 'YXS' else found


def _channels_last(image: np.ndarray, layout: TiffLayout, path: str, channels: int) -> np.ndarray:
    """Bring the numbers into the order (H, W, C), by the rule that docs/own_images.md has.

    Raises:
        DataError: Slices of a volume, or an order that nobody can tell.
    """
    axes = layout.axes
    if axes in ('YX', 'YXS', 'YXC'):
        return image
    if axes in ('SYX', 'CYX'):
        return np.moveaxis(image, 0, -1)
    if len(axes) > 3 or axes[0] in _DEPTH_OR_TIME:
        raise DataError(
            f'{path} is a volume or a sequence (TIFF axes {axes}, {image.shape}), and no image: '
            f'{_REMEDY}'
        )
    first, last = image.shape[0], image.shape[-1]
    if axes == 'QYX' and last == channels and first == channels:
        raise DataError(
            f'{path} does not say whether its channels stand first or last ({image.shape}): save '
            "it with tifffile.imwrite(..., photometric='minisblack', planarconfig='contig')"
        )
    if axes == 'QYX' and last == channels:
        return image
    if first == channels and axes in ('QYX', 'IYX'):
        return np.moveaxis(image, 0, -1)
    raise DataError(
        f'{path} has {first} pages (TIFF axes {axes}, {image.shape}), but in_channels is '
        f'{channels}: pages are channels only where there are as many, or {_REMEDY}'
    )


def tiff_sizes(path: str) -> tuple[list[tuple[int, int]], int]:
    """Widths and heights that a TIFF file may have as it is stored, and its orientation, 1 to 8.

    There are two sizes where nobody says whether its channels stand first or last, and none where
    the file cannot be read.
    """
    try:
        with tifffile.TiffFile(path) as file:
            layout, page = tiff_layout(file), file.pages[0]
            tag = getattr(page, 'tags', {}).get(ORIENTATION_TAG)
    except Exception:  # a broken header is named by those who read the file
        return [], 1
    axes, shape = layout.axes, layout.shape
    sizes = [(shape[axes.index('X')], shape[axes.index('Y')])] if {*'XY'} <= {*axes} else []
    if axes == 'QYX':
        sizes.insert(0, (shape[1], shape[0]))
    return sizes, tag.value if tag and tag.value in range(1, 9) else 1


def tiff_size(path: str) -> tuple[int, int] | None:
    """Width and height of a TIFF file as it is loaded; None where its header does not say it."""
    sizes, orientation = tiff_sizes(path)
    if len(sizes) != 1:
        return None
    return sizes[0][::-1] if orientation >= SIDEWAYS else sizes[0]
