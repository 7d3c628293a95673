"""The packed run lengths of Label Studio's brush labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Bits:
    """Bits of bytes, from the highest on."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.place = 0

    def read(self, count: int) -> int:
        """The next bits as a number.

        Raises:
            ValueError: There are not so many.
        """
        end = self.place + count
        if end > 8 * len(self.data):
            raise ValueError('value.rle ends too early: it must be complete')
        first, last = self.place // 8, (end + 7) // 8
        value = int.from_bytes(self.data[first:last], 'big') >> (8 * last - end)
        self.place = end
        return value & ((1 << count) - 1)


def decode(data: Sequence[int], width: int, height: int) -> np.ndarray:
    """Pixels (H, W) bool where the stroke is.

    The bytes hold RGBA pixels, row by row, in the format of thi.ng's rle-pack: the number of words
    (32 bits), bits of a word less 1 (5), bits of the four kinds of lengths less 1 (4 each); then
    blocks of one bit (1: a word that repeats, 0: words as they are), the kind of length (2), the
    length less 1, and the words. The stroke is where alpha is not 0.

    Raises:
        ValueError: It is broken, or of another size.
    """
    try:
        bits = Bits(bytes(data))
    except ValueError as error:
        raise ValueError(f'value.rle must be a list of bytes: {error}') from error
    total, word = bits.read(32), bits.read(5) + 1
    if total != 4 * width * height:
        raise ValueError(f'value.rle has {total} values and must have 4 x {width} x {height}')
    lengths = [bits.read(4) + 1 for _ in range(4)]
    pixels, place = np.zeros(total, np.int64), 0
    while place < total:
        repeats = bits.read(1)
        end = place + 1 + bits.read(lengths[bits.read(2)])
        if end > total:
            raise ValueError(f'value.rle has more values than {total}: it must be written anew')
        if repeats:
            pixels[place:end] = bits.read(word)
        else:
            pixels[place:end] = [bits.read(word) for _ in range(end - place)]
        place = end
    return pixels.reshape(height, width, 4)[..., 3] > 0
