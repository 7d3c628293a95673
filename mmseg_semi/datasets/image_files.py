"""What can be told about an image file without decoding it."""

from __future__ import annotations

import math
import os
import re
import stat
import struct
import warnings
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image

IMG_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.npy')
JPEG_START, JPEG_SCAN, JPEG_END = b'\xff\xd8', 0xDA, b'\xff\xd9'
PNG_START, PNG_END = b'\x89PNG\r\n\x1a\n', b'\x00\x00\x00\x00IEND\xaeB`\x82'
TIFF_STARTS = {b'II*\x00': '<', b'MM\x00*': '>'}
RIFF_START = b'RIFF'
NUMPY_START = b'\x93NUMPY'
OTHER_STARTS = (b'BM', b'GIF8', b'II+\x00', b'MM\x00+')
ORIENTATION_TAG, SIDEWAYS = 0x0112, 5  # from this orientation on, sides are exchanged
TIFF_BITS_PER_SAMPLE, TIFF_SHORT = 258, 3

MAX_PIXELS_VARIABLE = 'MMSEG_SEMI_MAX_PIXELS'
# Where Pillow refuses an image as one that may have been made to fill the memory.
DEFAULT_MAX_PIXELS = 178_956_970

TURNED_REMEDY = (
    'Save the images turned, without an orientation (for example by PIL.ImageOps.exif_transpose), '
    "and the masks with them, or set color_type='color_ignore_orientation' of LoadImageFromFile to "
    'load the pixels as they are stored.'
)


def unreadable_reason(path: str) -> str | None:
    """Say why an image file can not be read completely, or None when nothing is wrong.

    Finds missing and empty files, pipes and folders, files that are no images, and JPEG, PNG, WebP
    and TIFF files that end too early: OpenCV 4 decodes some of those without an error and fills the
    rest with gray. Reads a few bytes of a sound file.
    """
    try:
        found = os.stat(path)  # opening a pipe would wait for ever
        if not stat.S_ISREG(found.st_mode):
            return 'it is no regular file'
        if found.st_size == 0:
            return 'the file is empty'
        with open(path, 'rb') as file:
            complete = _is_complete(file, found.st_size)
            size = stored_size(file)
    except OSError as error:
        return f'{type(error).__name__}: {error.strerror or error}'
    if complete is None and not _is_image(path):
        return 'it is no image (JPEG, PNG, BMP, WebP, TIFF and .npy files are allowed)'
    if complete is False:
        return 'the file ends too early (cut short while copied or written?)'
    if size is not None and size[0] * size[1] > max_pixels():
        return (
            f'it has {size[0]} x {size[1]} pixels, more than the {max_pixels()} that are allowed; '
            f'the environment variable {MAX_PIXELS_VARIABLE} raises that'
        )
    return None


def max_pixels() -> int:
    """How many pixels an image may have; the environment can raise it.

    Raises:
        ValueError: The variable is no whole number.
    """
    text = os.environ.get(MAX_PIXELS_VARIABLE, str(DEFAULT_MAX_PIXELS))
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f'{MAX_PIXELS_VARIABLE} must be a whole number of pixels, got {text!r}')
    return int(text)


def stored_size(file: BinaryIO) -> tuple[int, int] | None:
    """Width and height of an image by its header, None where that does not say."""
    file.seek(0)
    head = file.read(32)
    if head.startswith(NUMPY_START):
        try:
            shape = numpy_header(file)[0]
        except ValueError:
            return None
        return (shape[1], shape[0]) if len(shape) in (2, 3) else None
    if head.startswith(PNG_START):
        return struct.unpack('>II', head[16:24]) if len(head) >= 24 else None
    if head.startswith(JPEG_START):
        return _jpeg_size(file)
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            with Image.open(file) as image:
                return image.size
    except Exception as error:  # every decoder has errors of its own
        if isinstance(error, Image.DecompressionBombError):
            found = re.search(r'\((\d+) pixels\)', str(error))
            return (int(found.group(1)), 1) if found else None
        return None


def numpy_header(file: BinaryIO) -> tuple[tuple[int, ...], int]:
    """Shape of the array of a ``.npy`` file, and the size that the whole file must have.

    Raises:
        ValueError: The header is broken.
    """
    file.seek(0)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    shape, _, kind = (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(file)
    return shape, file.tell() + kind.itemsize * math.prod(shape)


def _jpeg_size(file: BinaryIO) -> tuple[int, int] | None:
    """Of the frame header, which stands in front of the first scan."""
    file.seek(2)
    while True:
        marker = file.read(2)
        while marker == b'\xff\xff':  # fill bytes
            marker = b'\xff' + file.read(1)
        length = file.read(2)
        if len(marker + length) < 4 or marker[0] != 0xFF or marker[1] == JPEG_SCAN:
            return None
        if 0xC0 <= marker[1] <= 0xCF and marker[1] not in (0xC4, 0xC8, 0xCC):
            frame = file.read(5)
            if len(frame) < 5:
                return None
            height, width = struct.unpack('>HH', frame[1:])
            return width, height
        file.seek(int.from_bytes(length, 'big') - 2, os.SEEK_CUR)


def _is_complete(file: BinaryIO, size: int) -> bool | None:
    """Whether an image reaches its end; None for a format that is not looked into."""
    start = file.read(8)
    if start[:4] in TIFF_STARTS:
        return struct.unpack(TIFF_STARTS[start[:4]] + 'I', start[4:].ljust(4, b'\xff'))[0] < size
    if start.startswith(RIFF_START):
        return int.from_bytes(start[4:].ljust(4, b'\xff'), 'little') + 8 <= size
    if start.startswith(OTHER_STARTS):
        return True
    if start.startswith(NUMPY_START):
        try:
            return numpy_header(file)[1] <= size
        except ValueError:
            return False
    if not start.startswith(JPEG_START) and start != PNG_START:
        return None
    file.seek(max(size - len(PNG_END), 0))
    end = file.read()
    if start == PNG_START:
        return end == PNG_END or _png_has_end(_rewound(file))
    return end.endswith(JPEG_END) or _jpeg_has_end(_rewound(file))


def _is_image(path: str) -> bool:
    if cv2.haveImageReader(path):
        return True
    try:
        with Image.open(path):
            return True
    except Exception:  # every decoder has errors of its own
        return False


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation of an opened image, 1 to 8: 1 is upright, from 5 on sides are exchanged."""
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # broken EXIF data
        return 1
    return value if value in range(1, 9) else 1


def exif_orientation(file: BinaryIO) -> int:
    """EXIF orientation of an image file, 1 for one that PIL does not know."""
    try:
        with Image.open(file) as image:
            return orientation_of(image)
    except Exception:  # every decoder has errors of its own
        return 1


def open_gray(path: str, side: int = 0) -> np.ndarray:
    """Decode an image to gray pixels of 8 bits, as it is stored.

    Args:
        path: The image.
        side: A size in pixels that is enough, so that JPEG decodes less of itself; 0 for all.

    Returns:
        uint8 (H, W).

    Raises:
        Exception: Whatever its decoder raises.
    """
    with Image.open(path) as image:
        if side:
            image.draft('L', (side, side))
        deep = image.mode.startswith(('I', 'F'))
        pixels = np.asarray(image if deep else image.convert('L'))
    if not deep:
        return pixels
    low, high = float(pixels.min()), float(pixels.max())
    return ((pixels - low) * (255 / max(high - low, 1e-6))).astype(np.uint8)


def is_turned(path: str) -> bool:
    """Whether OpenCV turns or mirrors an image by its EXIF orientation when it loads it."""
    return is_turned_data(np.fromfile(path, np.uint8))


def is_turned_data(data: np.ndarray) -> bool:
    """:func:`is_turned` of the bytes of a file, uint8 (N,)."""
    if data[:4].tobytes() in TIFF_STARTS:  # turned whatever the flag says
        return True
    turned = cv2.imdecode(data, cv2.IMREAD_COLOR)
    stored = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return turned is not None and stored is not None and not np.array_equal(turned, stored)


def bit_depth(path: str) -> int | None:
    """Bits per channel of a PNG or TIFF file, None for other and unreadable files."""
    try:
        with open(path, 'rb') as file:
            head = file.read(26)
            if head.startswith(PNG_START) and len(head) > 24:
                return head[24]
            if head[:4] in TIFF_STARTS:
                return _tiff_bits(file, TIFF_STARTS[head[:4]], head)
    except (OSError, struct.error):
        return None
    return None


def _rewound(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


def _jpeg_has_end(data: bytes) -> bool:
    # Up to the first scan a JPEG is a list of segments with lengths (one may hold a thumbnail with
    # an end marker of its own); after it, the two bytes of the end marker can mean nothing else.
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == JPEG_SCAN:
            return data.find(JPEG_END, position) >= 0
        if marker == 0xFF:  # fill byte
            position += 1
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], 'big')
    return False


def _png_has_end(data: bytes) -> bool:
    position = len(PNG_START)
    while position + 12 <= len(data):
        if data[position + 4 : position + 8] == b'IEND':
            return True
        position += 12 + int.from_bytes(data[position : position + 4], 'big')
    return False


def _tiff_bits(file: BinaryIO, order: str, head: bytes) -> int | None:
    (directory,) = struct.unpack(order + 'I', head[4:8])
    file.seek(directory)
    (entries,) = struct.unpack(order + 'H', file.read(2))
    for _ in range(entries):
        tag, kind, count, offset = struct.unpack(order + 'HHI4s', file.read(12))
        if tag == TIFF_BITS_PER_SAMPLE and kind == TIFF_SHORT:
            if count <= 2:
                return struct.unpack(order + 'H', offset[:2])[0]
            file.seek(struct.unpack(order + 'I', offset)[0])
            return struct.unpack(order + 'H', file.read(2))[0]
    return None
