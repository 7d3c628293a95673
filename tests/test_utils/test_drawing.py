"""Pictures of images of any number of channels."""

from __future__ import annotations

import numpy as np
import pytest
from channel_files import pixels

from mmseg_semi.utils.drawing import (
    Tile,
    as_rgb,
    colors,
    drawn_legend,
    legend,
    paint,
    palette,
    sheet,
)

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


# ------------------------------------------------------------------------------------ colors
def test_black_is_dark_gray_in_pictures_and_unknown_is_white():
    meta = dict(classes=['ground', 'leaf'], palette=[[0, 0, 0], [1, 2, 3]])
    assert palette(meta)[:3].tolist() == [[0, 0, 0], [1, 2, 3], [255, 255, 255]]
    assert colors(meta)[:2].tolist() == [[96, 96, 96], [1, 2, 3]]
    labels = np.array([[0, 1, 255]], np.uint8)
    assert paint(labels, colors(meta)).tolist() == [[[96] * 3, [1, 2, 3], [255] * 3]]


@pytest.mark.parametrize('meta', [{}, dict(palette=None), dict(palette=[])])
def test_without_a_palette_all_classes_have_the_same_colors_everywhere(meta):
    few, many = (colors(dict(meta, classes=[f'c{i}' for i in range(n)])) for n in (3, 200))
    assert few[:3].tolist() == many[:3].tolist() == [[96] * 3, [128, 0, 0], [0, 128, 0]]
    assert len(np.unique(many[:200], axis=0)) == 200


def test_more_classes_than_8_bits_hold():
    meta = dict(classes=[f'c{i}' for i in range(300)])
    assert colors(meta).shape == (256, 3)
    assert paint(np.array([[257]], np.uint16), colors(meta)).tolist() == [[[128, 0, 0]]]


def test_the_legend_has_what_occurs():
    meta = dict(classes=[f'class {i}' for i in range(150)])
    found = legend(meta, np.array([[3, 149]]), np.array([[3, 255]], np.uint8))
    table = colors(meta).tolist()
    assert found == [
        ('class 3', tuple(table[3])),
        ('class 149', tuple(table[149])),
        ('unknown', (255, 255, 255)),
    ]
    assert legend(meta, np.array([[1]])) == [('class 1', tuple(table[1]))]


# ------------------------------------------------------------------------------------ sheets
def flat(color: int, height: int = 64, width: int = 48) -> np.ndarray:
    return np.full((height, width, 3), color, np.uint8)


def test_a_sheet_has_titles_tiles_and_a_legend():
    rows = [[Tile('one', flat(10)), Tile('two', flat(20))], [Tile('one', flat(30))]]
    picture = sheet(rows, [('leaf', (0, 255, 0))])
    # Three times as large; a title where the row above has others.
    assert (picture[30:222, 8:152] == 10).all() and (picture[30:222, 160:304] == 20).all()
    assert (picture[252:444, 8:152] == 30).all() and (picture[252:444, 160:] == 255).all()
    assert (picture[8:30, 8:60] < 128).any() and (picture[8:30, 160:220] < 128).any()
    assert (picture[230:252, 8:60] < 128).any() and (picture[230:252, 160:] == 255).all()
    assert (picture[444:] == (0, 255, 0)).all(axis=-1).sum() == 13 * 13
    again = sheet([rows[0], rows[0]])
    assert again.shape[0] == 8 + 22 + 192 + 8 + 192 + 1 + 8, 'no title twice'


def test_tiles_of_any_size_and_long_titles_have_room():
    narrow = [Tile('a title that is longer than its tile', flat(9, 300, 20)), Tile('b', flat(7))]
    picture = sheet([narrow])
    columns = np.flatnonzero((picture[40:60] == 7).all(axis=(0, 2)))
    assert columns[0] > 200 and (picture[40:60, 8:28] == 9).all()
    large = sheet([[Tile('', flat(5, 40, 2560))]])
    assert large.shape[1] == 16 + 1280, 'large ones are shrunk'


@pytest.mark.parametrize('number', [2, 150])
def test_long_lists_of_classes_have_room(number):
    meta = dict(classes=[f'a class with the number {i}' for i in range(number)])
    picture = drawn_legend(meta)
    assert picture.shape[1] <= 700
    found = {tuple(color) for color in picture.reshape(-1, 3).tolist()}
    assert {tuple(color) for color in colors(meta)[:number].tolist()} <= found
    labels = np.arange(number, dtype=np.uint8)[None]
    wide = sheet([[Tile('image', flat(9))]], legend(meta, labels))
    assert wide.shape[1] < 300, 'the legend has as many lines as it needs'
