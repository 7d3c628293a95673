"""What is remembered of files between runs."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import mmseg_semi.datasets.file_records as module
from mmseg_semi.datasets.file_records import (
    ImageRecord,
    MaskRecord,
    cache_folder,
    look_at,
    read_image,
    read_mask,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.fixture
def masks(tmp_path):
    paths = [str(tmp_path / f'data/{i}.png') for i in range(3)]
    (tmp_path / 'data').mkdir()
    for i, path in enumerate(paths):
        assert cv2.imwrite(path, np.full((2, 3), i, np.uint8))
    return paths


def looked(paths, read=read_mask, kind=MaskRecord):
    """Look at files; return the records and which files were read."""
    seen = []

    def counted(path):
        seen.append(path)
        return read(path)

    counted.__name__ = read.__name__
    return list(look_at(paths, counted, kind, 'masks')), seen


def test_a_file_is_read_once_for_a_size_and_time(masks):
    expected = [MaskRecord(None, 3, 2, values=[[i, 6]], palette=[]) for i in range(3)]
    assert looked(masks) == (expected, masks)
    assert looked(masks) == (expected, [])
    os.utime(masks[1], ns=(0, 10**9))
    assert looked(masks) == (expected, masks[1:2])
    cv2.imwrite(masks[0], np.full((2, 3), 9, np.uint8))
    os.utime(masks[0], ns=(0, 2 * 10**9))
    assert looked(masks)[0][0].values == [[9, 6]]
    assert looked(masks[:1]) == looked(masks[:1])
    assert looked(masks)[1] == []


def test_what_is_broken_is_looked_at_again(masks):
    first = Path(masks[0])
    whole = first.read_bytes()
    first.write_bytes(b'')
    assert looked(masks)[0][0] == MaskRecord('the file is empty')
    assert looked(masks)[1] == masks[:1]
    first.write_bytes(whole)
    assert looked(masks)[0][0].reason is None
    first.unlink()
    assert 'No such file' in looked(masks)[0][0].reason


@pytest.mark.parametrize(
    'change', ['empty', 'text', 'cut', 'flipped', 'unsorted', 'short', 'pickle']
)
def test_a_broken_cache_costs_time_only(masks, change):
    first, _ = looked(masks)
    (store,) = cache_folder().iterdir()
    data = store.read_bytes()
    content = dict(np.load(store))
    if change in ('empty', 'text', 'cut'):
        store.write_bytes(dict(empty=b'', text=b'no records', cut=data[: len(data) // 2])[change])
    elif change == 'flipped':
        place = data.index(b'[3, 2, 1')
        store.write_bytes(data[:place] + b'{' + data[place + 1 :])
    else:
        keys = content['keys_2']
        broken = dict(unsorted=keys[::-1], short=keys[1:], pickle=np.array([{}] * 3))[change]
        np.savez(store, **{**content, 'keys_2': broken})
    assert looked(masks) == (first, masks)
    assert looked(masks) == (first, [])


@pytest.mark.parametrize(
    'record',
    [
        '',
        '3',
        '{',
        '[]',
        '[3, 2, 1, 1]',
        '["3", 2, 1, 1, [], "", []]',
        '[3, 2, 1, 1, [1], "", []]',
        '[' * 9999,
    ],
)
def test_a_broken_record_is_read_again(masks, record):
    first, _ = looked(masks)
    (store,) = cache_folder().iterdir()
    content = dict(np.load(store))
    texts = ['[3, 2, 1, 1, [[7, 6]], "", []]', record or '[]', '[3, 2, 1, 1, [[7, 6]], "", []]']
    ends = np.cumsum([len(one) for one in texts])
    text = np.frombuffer(''.join(texts).encode(), np.uint8)
    np.savez(store, **{**content, 'ends_2': ends, 'text_2': text})
    records, seen = looked(masks)
    assert len(seen) == 1  # the others are taken as they stand in the cache
    assert [one.values for one in records].count([[7, 6]]) == 2
    assert records[masks.index(seen[0])] == first[masks.index(seen[0])]


def test_a_cache_that_can_not_be_written(masks, monkeypatch, tmp_path):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    assert looked(masks) == looked(masks)


def test_the_cache_is_private(masks):
    looked(masks)
    assert cache_folder().stat().st_mode & 0o077 == 0


def test_progress_is_told(masks, monkeypatch):
    texts = []
    monkeypatch.setattr(module, '_SAY_AFTER', -1.0)
    monkeypatch.setattr(module, 'print_log', lambda text, **_: texts.append(text))
    looked(masks)
    assert texts == ['Looking at files: 3 of 3 masks, 0 s left']
    looked(masks)
    assert len(texts) == 1


@pytest.mark.parametrize(
    ('image', 'suffix', 'expected'),
    [
        (np.array([[0, 255], [7, 7]], np.uint8), 'png', [[0, 1], [7, 2], [255, 1]]),
        (np.array([[0, 65535], [7, 7]], np.uint16), 'png', [[0, 1], [7, 2], [65535, 1]]),
        (np.array([[-1, 2], [2, 2]], np.int32), 'tif', [[-1, 1], [2, 3]]),
        (np.array([[0.5, 2], [2, 2]], np.float32), 'tif', [[0.5, 1], [2, 3]]),
        (np.array([[True, False], [True, True]]), 'png', [[0, 1], [1, 3]]),
    ],
)
def test_values_of_masks(tmp_path, image, suffix, expected):
    path = str(tmp_path / f'mask.{suffix}')
    Image.fromarray(image).save(path)
    found = read_mask(path)
    assert not found.palette
    assert found._replace(palette=()) == MaskRecord(None, 2, 2, values=expected)


def test_kinds_of_masks(tmp_path):
    path = str(tmp_path / 'mask.tif')
    pages = [Image.new('L', (3, 2), i) for i in range(3)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    assert read_mask(path).pages == 3
    for mode, channels in (('RGB', 3), ('RGBA', 4), ('LA', 2)):
        Image.new(mode, (3, 2)).save(tmp_path / 'mask.png')
        assert read_mask(str(tmp_path / 'mask.png')) == MaskRecord(None, 3, 2, channels)
    palette = Image.new('P', (3, 2), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(tmp_path / 'mask.png')
    assert read_mask(str(tmp_path / 'mask.png')).values == [[1, 6]]


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp', 'tif'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_sizes_are_those_of_the_loaded_image(tmp_path, suffix, orientation):
    path = str(tmp_path / f'image.{suffix}')
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new('RGB', (3, 2)).save(path, exif=exif)
    height, width = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR).shape[:2]
    assert read_image(path) == ImageRecord(None, width, height, orientation, 'RGB', 8)
    assert (width, height) == ((3, 2) if orientation < 5 else (2, 3))


def test_paths_may_be_of_both_kinds(masks, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert looked(['data/0.png', masks[1]])[1] == ['data/0.png', masks[1]]
    assert looked(['data/0.png', masks[1]])[1] == []
