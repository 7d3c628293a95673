"""Pictures of images of any number of channels."""

from __future__ import annotations

import numpy as np
import pytest
from channel_files import pixels

from mmseg_semi.utils.drawing import as_rgb

RNG = np.random.default_rng(0)


def test_photographs_and_other_8_bits_stay_as_they_are():
    image = pixels(RNG, 4, 'uint8')
    assert np.array_equal(as_rgb(image[..., :3]), image[..., 2::-1])
    assert np.array_equal(as_rgb(image), image[..., :3])
    assert np.array_equal(as_rgb(image[..., :1]), np.repeat(image[..., :1], 3, axis=2))


@pytest.mark.parametrize('channels', [1, 2, 3, 7])
def test_other_values_are_stretched(channels):
    image = pixels(RNG, channels, 'float32')
    image[..., -1] = 5  # nothing to stretch
    picture = as_rgb(image)
    assert picture.dtype == np.uint8 and picture.shape == (24, 30, 3)
    first = image[..., 2 if channels == 3 else 0]  # BGR
    shown = picture[..., 0]
    if channels in (1, 3):  # the constant one
        assert (shown == 0).all()
    else:
        assert shown.min() == 0 and shown.max() == 255
        order = np.argsort(first, axis=None)
        assert (np.diff(shown.ravel()[order].astype(int)) >= 0).all()
