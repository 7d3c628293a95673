"""labelme's json, written as labelme lays it out."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from label_exports import boxes, bring, classes, files, mask, not_used, photo
from PIL import Image

from mmseg_semi.errors import DataError

pytestmark = pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning')

H, W = 30, 40


def shape(label, points, kind='polygon', **extra):
    return dict(label=label, points=points, group_id=None, shape_type=kind, flags={}, **extra)


def write(path, image, shapes, **extra):
    content = dict(
        version='5.0.1',
        flags={},
        shapes=shapes,
        imagePath=image,
        imageData=None,
        imageHeight=H,
        imageWidth=W,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**content, **extra}))


def square(x1, y1, x2, y2):
    return [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]


def test_polygons_rectangles_circles_and_masks(tmp_path):
    source = tmp_path / 'export'
    photo(source / 'a.png', W, H)
    photo(source / 'b.png', W, H)
    inside = np.random.default_rng(0).random((5, 7)) < 0.5
    data = io.BytesIO()
    Image.fromarray(inside.astype(np.uint8) * 255).save(data, 'png')
    shapes = [
        shape('dog', [[20, 12], [4, 2]], 'rectangle'),
        shape('cat', square(6, 4, 10, 8)),
        shape('cat', [[30, 20], [30, 26]], 'circle'),
        shape('dog', [[1, 20], [7, 24]], 'mask', mask=base64.b64encode(data.getvalue()).decode()),
        shape('cat', [[1, 1], [5, 5]], 'line'),
        shape('__ignore__', square(36, 0, 40, 4)),
    ]
    del shapes[1]['shape_type']  # as old versions write polygons
    write(source / 'a.json', 'a.png', shapes)
    out = bring(source, tmp_path / 'out')
    found = mask(out, 'a.png')
    wanted = np.zeros((H, W), np.uint8)
    wanted[2:12, 4:20] = 2
    wanted[4:8, 6:10] = 1
    wanted[20:25, 1:8][inside] = 2
    wanted[0:4, 36:40] = 255
    y, x = np.mgrid[:H, :W] + 0.5
    distance = np.hypot(x - 30, y - 20)
    assert (found[distance < 5.3] == 1).all() and not (
        found[(distance > 6.7) & (x > 22)] == 1
    ).any()
    elsewhere = distance > 7
    np.testing.assert_array_equal(found[elsewhere], wanted[elsewhere])
    assert classes(out) == ['background', 'cat', 'dog']
    assert boxes(out)[:2] == [
        ('a.png', 'dog', [4, 2, 16, 10], 0),
        ('a.png', 'cat', [6, 4, 4, 4], 0),
    ]
    assert not (out / 'annotations/b.png').exists() and (out / 'images/b.png').exists()
    (note,) = not_used(out)
    assert 'a.json, shape number 5: a line has no pixels' in note


def test_parts_of_a_group_are_one_object(tmp_path):
    photo(tmp_path / 'export/a.png', W, H)
    shapes = [shape('cat', square(x, 2, x + 4, 6)) for x in (0, 10, 20)]
    shapes[0]['group_id'] = shapes[2]['group_id'] = 7
    write(tmp_path / 'export/a.json', 'a.png', shapes)
    out = bring(tmp_path / 'export', tmp_path / 'out')
    assert [one[2] for one in boxes(out)] == [[0, 2, 24, 4], [10, 2, 4, 4]]
    wanted = np.zeros((H, W), np.uint8)
    for x in (0, 10, 20):
        wanted[2:6, x : x + 4] = 1
    np.testing.assert_array_equal(mask(out, 'a.png'), wanted)


@pytest.mark.parametrize(
    'image', ['..\\photos\\a.jpg', 'C:\\work\\photos\\a.jpg', '../photos/a.jpg']
)
def test_paths_of_windows(tmp_path, image):
    source = tmp_path / 'export'
    photo(source / 'photos/a.jpg', W, H)
    write(source / 'labels/a.json', image, [shape('cat', square(2, 2, 6, 6))])
    out = bring(source, tmp_path / 'out')
    assert mask(out, 'a.png').sum() == 16


def test_images_of_the_same_name_in_several_folders(tmp_path):
    source = tmp_path / 'export'
    for number, name in enumerate(('x', 'y'), 1):
        photo(source / name / 'a.png', W, H, seed=number)
        write(source / name / 'a.json', 'a.png', [shape('cat', square(0, 0, number, 2))])
    out = bring(source, tmp_path / 'out')
    assert mask(out, 'x/a.png').sum() == 2 and mask(out, 'y/a.png').sum() == 4


def test_an_image_that_is_only_in_the_json(tmp_path):
    photo(tmp_path / 'a.png', W, H)
    data = (tmp_path / 'a.png').read_bytes()
    for folder in ('x', 'y'):
        write(
            tmp_path / 'export' / folder / 'a.json',
            'a.png',
            [shape('cat', square(2, 2, 6, 6))],
            imageData=base64.b64encode(data).decode(),
        )
    out = bring(tmp_path / 'export', tmp_path / 'out')
    assert (out / 'images/x/a.png').read_bytes() == data
    assert mask(out, 'y/a.png').sum() == 16
    before = files(out)
    assert files(bring(tmp_path / 'export', out)) == before


@pytest.mark.parametrize(
    'shapes, extra, message',
    [
        ([dict(points=[])], {}, "shape number 1: 'label' is missing"),
        ([shape('cat', [[1, 1], [2, 2]])], {}, 'shape number 1: a polygon must have 3 points'),
        ([shape('cat', [[1, 1]], 'circle')], {}, 'a circle must have 2 points'),
        ([shape('cat', [[1, 'x'], [2, 2], [3, 3]])], {}, 'shape number 1: could not convert'),
        (
            [shape('cat', [[0, 0], [1, 1]], 'mask', mask='AA==')],
            {},
            'number 1: cannot identify',
        ),
        ([], dict(imageData='%%'), 'a.json, image: '),
        ([], dict(imageHeight=31), 'the labels belong to 40 x 31 pixels'),
    ],
)
def test_bad_input_is_named(tmp_path, shapes, extra, message):
    photo(tmp_path / 'export/a.png', W, H)
    write(tmp_path / 'export/a.json', 'a.png', shapes, **extra)
    with pytest.raises(DataError, match=message) as error:
        bring(tmp_path / 'export', tmp_path / 'out')
    assert 'a.json' in str(error.value)
