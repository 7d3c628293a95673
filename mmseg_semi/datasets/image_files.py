"""What can be told about an image file without decoding it."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

JPEG_START, JPEG_SCAN, JPEG_END = b'\xff\xd8', 0xDA, b'\xff\xd9'
PNG_START, PNG_END = b'\x89PNG\r\n\x1a\n', b'\x00\x00\x00\x00IEND\xaeB`\x82'
TIFF_STARTS = {b'II*\x00': '<', b'MM\x00*': '>'}
TIFF_BITS_PER_SAMPLE, TIFF_SHORT = 258, 3


def unreadable_reason(path: str) -> str | None:
    """Say why an image file can not be read completely, or None when nothing is wrong.

    Finds missing and empty files, and JPEG and PNG files that end too early: OpenCV 4 decodes
    those without an error and fills the rest with gray. Reads a few bytes of a sound file.
    """
    try:
        size = os.path.getsize(path)
        if size == 0:
            return 'the file is empty'
        with open(path, 'rb') as file:
            start = file.read(8)
            file.seek(max(size - len(PNG_END), 0))
            end = file.read()
            if start.startswith(JPEG_START):
                complete = end.endswith(JPEG_END) or _jpeg_has_end(_rewound(file))
            elif start == PNG_START:
                complete = end == PNG_END or _png_has_end(_rewound(file))
            else:
                complete = True
    except OSError as error:
        return f'{type(error).__name__}: {error.strerror or error}'
    return None if complete else 'the file ends too early (cut short while copied or written?)'


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
