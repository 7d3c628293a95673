"""Images that look alike: saved anew, in another size or format, or a little brighter.

An image is shrunk to 12 x 12 gray pixels. Its perceptual hash is 64 bits: the signs of the 64
lowest frequencies of their cosine transform, but for the mean. Two images are compared further when
their hashes differ in 7 bits at most. One of the four parts of 16 bits then differs in a single bit
at most, so that a table of each part finds all such pairs without comparing every image with every
other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from .file_records import LookRecord, look_at
from .gray_images import open_channels_gray
from .image_files import open_gray

SIDE = 12
#: Bits in which the hashes of two images that look alike differ at most.
MOST_BITS = 7
_LEAST_CORRELATION, _MOST_LEVELS, _LEAST_CONTRAST = 0.98, 6.0, 3.0
_PARTS, _BITS = 4, 16  # of a hash
_PAIRS = 1 << 16  # whose hashes are compared at once
_TRIED = 4  # of an image's pairs among those, whose pixels are compared
_FREQUENCIES = sorted(range(SIDE * SIDE), key=lambda i: (i // SIDE + i % SIDE, i // SIDE))[1:65]
_COSINES = cv2.dct(np.eye(SIDE, dtype=np.float32), flags=cv2.DCT_ROWS).T
_BASIS = np.kron(_COSINES, _COSINES)[_FREQUENCIES]


def thumbnail(path: str) -> np.ndarray:
    """Shrink an image to gray pixels, uint8 (144,).

    Raises:
        Exception: Whatever its decoder raises.
    """
    small = _gray(path)
    return cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_AREA).ravel()


def read_look(path: str) -> LookRecord:
    """Compute the perceptual hash of an image."""
    try:
        pixels = thumbnail(path)
    except Exception as error:  # unreadable images are named elsewhere
        return LookRecord(type(error).__name__)
    if pixels.std(dtype=np.float32) < _LEAST_CONTRAST:
        return LookRecord(None)
    return LookRecord(None, np.packbits(_BASIS @ pixels.astype(np.float32) > 0).tobytes().hex())


def _gray(path: str) -> np.ndarray:
    try:
        return open_gray(path, 8 * SIDE)
    except Exception:  # Pillow does not know images of many channels
        return open_channels_gray(path)


class Looks:
    """How images look.

    Args:
        paths: The images; those that cannot be read and those of nearly one color are left out.

    Attributes:
        paths: The others.
        parts: uint16 (N, 4), the perceptual hash of each.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        paths = list(dict.fromkeys(paths))
        records = look_at(paths, read_look, LookRecord, 'images, for copies among them')
        self.paths, data = [], bytearray()
        for path, one in zip(paths, records):
            if one.hash:
                self.paths.append(path)
                data += bytes.fromhex(one.hash)
        self.parts = np.frombuffer(bytes(data), np.uint16).reshape(-1, _PARTS)
        self._pixels = np.zeros((len(self.paths), SIDE * SIDE), np.uint8)
        self._known = np.zeros(len(self.paths), bool)

    def pixels(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """The gray pixels of an image, float32 (144,), and those less their mean, of length 1.

        Raises:
            Exception: Whatever its decoder raises, when it has been changed since.
        """
        if not self._known[i]:
            self._pixels[i], self._known[i] = thumbnail(self.paths[i]), True
        pixels = self._pixels[i].astype(np.float32)
        vector = pixels - pixels.mean()
        return pixels, vector / np.linalg.norm(vector)


def find_similar(ours: Looks, theirs: Looks) -> dict[str, str]:
    """Find images that look like one of others.

    Beside their hashes, the gray pixels are compared: their correlation must be 0.98 at least, with
    a difference of 6 levels at most on average.

    Args:
        ours: Images to look at.
        theirs: Images to compare with; the same paths are no pairs.

    Returns:
        ``{path: one of theirs that it looks like}``.
    """
    found: dict[str, str] = {}
    wanted = np.ones(len(ours.paths), bool)
    for mine, other, bits in _candidates(ours.parts, theirs.parts, wanted):
        order = np.lexsort((bits, mine))
        mine, other = mine[order], other[order]
        first = np.searchsorted(mine, mine)  # place of the first pair of the same image
        near = np.arange(len(mine)) - first < _TRIED
        for i, j in zip(mine[near].tolist(), other[near].tolist()):
            if wanted[i] and _alike(ours, i, theirs, j):
                found[ours.paths[i]], wanted[i] = theirs.paths[j], False
    return found


def _alike(ours: Looks, i: int, theirs: Looks, j: int) -> bool:
    if ours.paths[i] == theirs.paths[j]:
        return False
    (one, vector), (two, other) = ours.pixels(i), theirs.pixels(j)
    close = float(np.abs(one - two).mean()) <= _MOST_LEVELS
    return close and float(vector @ other) >= _LEAST_CORRELATION


def _candidates(
    ours: np.ndarray, theirs: np.ndarray, wanted: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pairs whose hashes differ in few bits: both indices, and in how many.

    A pair may come several times.

    Args:
        ours: uint16 (N, 4).
        theirs: uint16 (M, 4).
        wanted: bool (N,), which of ours are to be paired still; may change on the way.
    """
    changes = np.array([0, *(1 << bit for bit in range(_BITS))], np.uint16)
    for part in range(_PARTS if len(ours) and len(theirs) else 0):
        order = np.argsort(theirs[:, part], kind='stable')
        lengths = np.bincount(theirs[:, part], minlength=1 << _BITS)
        starts = np.cumsum(lengths) - lengths
        for change in changes:
            key = ours[:, part] ^ change
            for mine, place in _expanded(starts[key], np.where(wanted, lengths[key], 0)):
                other = order[place]
                bits = _TABLE[ours[mine] ^ theirs[other]].sum(axis=1, dtype=np.int64)
                near = bits <= MOST_BITS
                if near.any():
                    yield mine[near], other[near], bits[near]


def _expanded(starts: np.ndarray, lengths: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each index as often as its range is long, and the places of the range.

    In blocks, so that many images that are alike take no memory.
    """
    some = np.flatnonzero(lengths)
    total = np.cumsum(lengths[some])
    begin = 0
    while begin < len(some):
        before = total[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(total, before + _PAIRS, 'right')))
        block = some[begin:end]
        index = np.repeat(block, lengths[block])
        first = np.repeat(total[begin:end] - lengths[block] - before, lengths[block])
        yield index, np.arange(len(index)) - first + starts[index]
        begin = end


_TABLE = np.unpackbits(np.arange(1 << _BITS, dtype=np.uint16).view(np.uint8)).reshape(-1, _BITS)
_TABLE = _TABLE.sum(axis=1, dtype=np.uint8)
