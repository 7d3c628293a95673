"""Images of many channels are compared with each other, too."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from channel_files import pixels, write

from mmseg_semi.datasets.gray_images import open_channels_gray
from mmseg_semi.datasets.near_duplicates import Looks, find_similar

RNG = np.random.default_rng(0)


@pytest.mark.parametrize('kind', ['npy', 'samples', 'planes', 'no word'])
def test_it_is_the_mean_of_the_channels(tmp_path, kind):
    image = pixels(RNG, 7, 'uint16')
    path = tmp_path / ('a.npy' if kind == 'npy' else 'a.tif')
    if kind == 'planes':
        tifffile.imwrite(path, image.transpose(2, 0, 1).copy())
    elif kind == 'no word':
        tifffile.imwrite(path, image)
    else:
        write(path, image)
    mean = image.mean(axis=2)
    wanted = 255 * (mean - mean.min()) / (mean.max() - mean.min())
    found = open_channels_gray(str(path))
    assert found.dtype == np.uint8 and np.abs(found - wanted).max() <= 1


def test_copies_of_other_types_are_found(tmp_path):
    images = [pixels(RNG, 6, 'uint16', (48, 64)) for _ in range(4)]
    ours = [str(write(tmp_path / f'{i}.tif', one)) for i, one in enumerate(images)]
    brighter = (images[2] * 0.9).astype(np.float32)
    other = str(write(tmp_path / 'other.npy', brighter))
    assert find_similar(Looks(ours), Looks([other])) == {ours[2]: other}
