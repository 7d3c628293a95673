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

from .file_records import ThumbnailRecord, look_at
from .gray_images import open_channels_gray
from .image_files import open_gray

SIDE = 12
#: Bits in which the hashes of two images that look alike differ at most.
MOST_BITS = 7
_LEAST_CORRELATION, _MOST_LEVELS, _LEAST_CONTRAST = 0.98, 6.0, 3.0
_PARTS, _BITS = 4, 16  # of a hash
_PAIRS = 1 << 21  # compared at once
_FREQUENCIES = sorted(range(SIDE * SIDE), key=lambda i: (i // SIDE + i % SIDE, i // SIDE))[1:65]


def read_thumbnail(path: str) -> ThumbnailRecord:
    """Shrink an image to 12 x 12 gray pixels."""
    try:
        small = _gray(path)
        small = cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    except Exception as error:  # unreadable images are named elsewhere
        return ThumbnailRecord(type(error).__name__)
    return ThumbnailRecord(None, small.tobytes().hex())


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
        pixels: uint8 (N, 144), 12 x 12 gray pixels of each.
        parts: uint16 (N, 4), the perceptual hash of each.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        paths = list(dict.fromkeys(paths))
        records = look_at(paths, read_thumbnail, ThumbnailRecord, 'images, for copies among them')
        sound = [i for i, one in enumerate(records) if not one.reason]
        data = bytearray().join(bytes.fromhex(records[i].pixels) for i in sound)
        del records
        pixels = np.frombuffer(data, np.uint8).reshape(-1, SIDE * SIDE)
        varied = pixels.std(axis=1, dtype=np.float32) >= _LEAST_CONTRAST
        self.paths = [paths[i] for i, one in zip(sound, varied) if one]
        self.pixels = pixels[varied]
        self.parts = _hashes(self.pixels)

    def __len__(self) -> int:
        return len(self.paths)


def _hashes(pixels: np.ndarray) -> np.ndarray:
    """Perceptual hashes uint16 (N, 4) of gray pixels (N, 144)."""
    one = cv2.dct(np.eye(SIDE, dtype=np.float32), flags=cv2.DCT_ROWS).T
    basis = np.kron(one, one)[_FREQUENCIES]
    bits = np.empty((len(pixels), _PARTS * _BITS), bool)
    for start in range(0, len(pixels), 1 << 14):
        block = pixels[start : start + (1 << 14)].astype(np.float32)
        bits[start : start + (1 << 14)] = block @ basis.T > 0
    return np.packbits(bits, axis=1).view(np.uint16)


def find_similar(ours: Looks, theirs: Looks) -> dict[str, str]:
    """Find images that look like one of others.

    Beside their hashes, the gray pixels are compared: their correlation must be 0.98 at least, with
    a difference of 6 levels at most on average.

    Args:
        ours: Images to look at.
        theirs: Images to compare with; the same paths are no pairs.

    Returns:
        ``{path: that of theirs which it looks like most}``.
    """
    best: dict[int, tuple[float, int]] = {}
    for mine, other in _candidates(ours.parts, theirs.parts):
        a, b = (_unit_vectors(x.pixels[i]) for x, i in ((ours, mine), (theirs, other)))
        correlation = np.einsum('nc,nc->n', a, b)
        levels = np.abs(ours.pixels[mine].astype(np.int16) - theirs.pixels[other]).mean(axis=1)
        for i in np.flatnonzero((correlation >= _LEAST_CORRELATION) & (levels <= _MOST_LEVELS)):
            pair = (float(correlation[i]), -int(other[i]))
            if ours.paths[mine[i]] != theirs.paths[other[i]]:
                best[int(mine[i])] = max(best.get(int(mine[i]), pair), pair)
    return {ours.paths[mine]: theirs.paths[-other] for mine, (_, other) in best.items()}


def _candidates(ours: np.ndarray, theirs: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices of pairs whose hashes differ in few bits; a pair may come several times."""
    changes = np.array([0, *(1 << bit for bit in range(_BITS))], np.uint16)
    for part in range(_PARTS if len(ours) and len(theirs) else 0):
        order = np.argsort(theirs[:, part], kind='stable')
        ends = np.cumsum(np.bincount(theirs[:, part], minlength=1 << _BITS))
        starts = ends - np.bincount(theirs[:, part], minlength=1 << _BITS)
        for change in changes:
            wanted = ours[:, part] ^ change
            for mine, place in _expanded(starts[wanted], ends[wanted]):
                other = order[place]
                bits = _ones(ours[mine] ^ theirs[other])
                near = bits <= MOST_BITS
                if near.any():
                    yield mine[near], other[near]


def _expanded(starts: np.ndarray, ends: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each index as often as its range from ``starts`` to ``ends`` is long, and the range's places.

    In blocks, so that many images that are alike take no memory.
    """
    lengths = ends - starts
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


def _ones(words: np.ndarray) -> np.ndarray:
    """Number of bits that are set in uint16 (N, 4), int (N,)."""
    return _TABLE[words].sum(axis=1, dtype=np.int64)


_TABLE = np.unpackbits(np.arange(1 << _BITS, dtype=np.uint16).view(np.uint8)).reshape(-1, _BITS)
_TABLE = _TABLE.sum(axis=1, dtype=np.uint8)


def _unit_vectors(pixels: np.ndarray) -> np.ndarray:
    vectors = pixels - pixels.mean(axis=1, keepdims=True, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
