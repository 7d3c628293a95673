"""Mean, standard deviation and range of each channel: against numpy over all pixels."""

from __future__ import annotations

import json

import numpy as np
import pytest
from channel_files import pixels, write

from mmseg_semi.datasets import DataError, channel_statistics
from mmseg_semi.datasets.channel_statistics import compute_statistics
from mmseg_semi.structures import read_statistics, write_statistics

RNG = np.random.default_rng(0)


def images(folder, count, channels, dtype, suffix):
    """Images of different sizes, and their pixels (N, C)."""
    arrays = [pixels(RNG, channels, dtype, (12 + i, 20)) for i in range(count)]
    paths = [str(write(folder / f'{i}{suffix}', one)) for i, one in enumerate(arrays)]
    return paths, np.concatenate([one.reshape(-1, channels) for one in arrays])


@pytest.mark.parametrize(
    ('channels', 'dtype', 'suffix'),
    [(1, 'uint8', '.png'), (3, 'uint16', '.png'), (4, 'uint8', '.tif'), (7, 'float32', '.npy')],
)
def test_they_are_those_of_all_pixels(tmp_path, channels, dtype, suffix):
    paths, values = images(tmp_path, 5, channels, dtype, suffix)
    for _ in range(2):  # the second time from the cache
        found = compute_statistics(paths, channels)
        assert (found.in_channels, found.dtype, found.images) == (channels, dtype, 5)
        exact = values.astype(np.float64)
        assert np.allclose(found.mean, exact.mean(0), rtol=1e-9)
        assert np.allclose(found.std, exact.std(0), rtol=1e-9)
        assert found.min == exact.min(0).tolist() and found.max == exact.max(0).tolist()
    file = str(tmp_path / 'channels.json')
    write_statistics(file, found)
    assert read_statistics(file, channels) == found
    assert read_statistics(str(tmp_path / 'none.json'), channels) is None


def test_a_constant_channel_is_not_divided_by_nothing(tmp_path):
    image = pixels(RNG, 2, 'uint16')
    image[..., 1] = 500
    found = compute_statistics([str(write(tmp_path / 'a.tif', image))], 2)
    assert (found.mean[1], found.std[1]) == (500, 1)


def test_many_images_are_read_in_part(tmp_path, monkeypatch):
    paths, _ = images(tmp_path, 7, 2, 'uint8', '.tif')
    monkeypatch.setattr(channel_statistics, 'MOST_IMAGES', 3)
    found = compute_statistics(paths, 2)
    assert found.images == 3
    chosen = np.concatenate([pixels_of(path) for path in paths[::3]])
    assert np.allclose(found.mean, chosen.mean(0))


def pixels_of(path):
    from tifffile import imread

    return imread(path).reshape(-1, 2).astype(np.float64)


def test_images_that_have_no_common_mean_are_refused(tmp_path):
    first = write(tmp_path / 'a.tif', pixels(RNG, 4, 'uint8'))
    second = write(tmp_path / 'b.tif', pixels(RNG, 4, 'uint16'))
    message = r'several types of numbers: 1 of uint8 \(.*a.tif\), 1 of uint16 \(.*b.tif\)'
    with pytest.raises(DataError, match=message):
        compute_statistics([str(first), str(second)], 4)
    other = write(tmp_path / 'c.tif', pixels(RNG, 5, 'uint8'))
    with pytest.raises(DataError, match=r'c.tif has 5 channels .*in_channels is 4'):
        compute_statistics([str(first), str(other)], 4)
    image = pixels(RNG, 4, 'float32')
    image[0, 0, 0] = np.nan
    broken = write(tmp_path / 'd.tif', image)
    with pytest.raises(DataError, match='d.tif has values that are NaN'):
        compute_statistics([str(broken)], 4)
    (tmp_path / 'e.tif').write_bytes(first.read_bytes()[:99])
    several = [str(first), str(tmp_path / 'e.tif')]
    with pytest.raises(DataError, match='e.tif can not be read'):
        compute_statistics(several, 4)
    assert compute_statistics(several, 4, skip=True).images == 1


def test_the_digest_is_that_of_the_list(tmp_path):
    paths, _ = images(tmp_path / 'a', 3, 2, 'uint8', '.tif')
    others, _ = images(tmp_path / 'b', 3, 2, 'uint8', '.tif')
    here = str(tmp_path / 'a/channels.json')
    first = compute_statistics(paths, 2, here).files
    assert first == compute_statistics(paths[::-1], 2, here).files
    assert first != compute_statistics(paths[:2], 2, here).files
    # The same folder elsewhere.
    assert first == compute_statistics(others, 2, str(tmp_path / 'b/channels.json')).files


@pytest.mark.parametrize(
    'change',
    [dict(mean=[1.0]), dict(std=[0.0, 1.0]), dict(max=[float('nan'), 1.0]), dict(extra=1), None],
)
def test_another_file_is_refused(tmp_path, change):
    paths, _ = images(tmp_path, 1, 2, 'uint8', '.tif')
    content = compute_statistics(paths, 2)._asdict()
    content = [] if change is None else {**content, **change}
    (tmp_path / 'channels.json').write_text(json.dumps(content))
    with pytest.raises(DataError, match='channels.json is no file of channel statistics. Remove'):
        read_statistics(str(tmp_path / 'channels.json'), 2)
