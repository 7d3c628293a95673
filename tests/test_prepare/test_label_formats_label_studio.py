"""Label Studio's json and PNG files, written as its documentation lays them out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from label_exports import boxes, bring, classes, mask, not_used, photo
from PIL import Image

from mmseg_semi.errors import DataError

pytestmark = pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning')

H, W = 30, 40


def pack(inside):
    """RGBA pixels of a stroke in rle-pack's format, by repeats and plain blocks in turn."""
    words = np.repeat(inside.ravel(), 4) * 255
    bits = f'{words.size:032b}{7:05b}' + ''.join(f'{size - 1:04b}' for size in (3, 4, 8, 16))
    place = 0
    while place < words.size:
        end = place
        while end < words.size and words[end] == words[place] and end - place < 2**16:
            end += 1
        count = end - place
        if count > 8:
            kind, size = (2, 8) if count <= 256 else (3, 16)
            bits += f'1{kind:02b}{count - 1:0{size}b}{words[place]:08b}'
        else:
            bits += f'000{count - 1:03b}' + ''.join(f'{one:08b}' for one in words[place:end])
        place = end
    bits += '0' * (-len(bits) % 8)
    return [int(bits[one : one + 8], 2) for one in range(0, len(bits), 8)]


def result(kind, label, **value):
    return dict(
        id='x',
        type=f'{kind}labels',
        from_name='tag',
        to_name='image',
        original_width=W,
        original_height=H,
        image_rotation=0,
        value={**value, f'{kind}labels': [label]},
    )


def polygon(label, points):
    percents = [[100 * x / W, 100 * y / H] for x, y in points]
    return result('polygon', label, points=percents, closed=True)


def rectangle(label, x1, y1, x2, y2, rotation=0):
    return result(
        'rectangle',
        label,
        x=100 * x1 / W,
        y=100 * y1 / H,
        width=100 * (x2 - x1) / W,
        height=100 * (y2 - y1) / H,
        rotation=rotation,
    )


def stroke():
    return np.kron(np.random.default_rng(0).random((6, 8)) < 0.5, np.ones((5, 5), bool))


def brush(label, inside):
    return result('brush', label, format='rle', rle=pack(inside))


def task(number, image, *annotations):
    return dict(
        id=number,
        data=dict(image=image),
        annotations=[
            dict(id=10 * number + place, result=results, was_cancelled=False)
            for place, results in enumerate(annotations)
        ],
        predictions=[],
    )


def write(folder, *tasks):
    folder.mkdir(exist_ok=True)
    (folder / 'project.json').write_text(json.dumps(tasks))
    return folder


@pytest.fixture
def images(tmp_path):
    for seed, name in enumerate(('a b.png', 'sub/b.png', 'c.png')):
        photo(tmp_path / 'photos' / name, W, H, seed=seed)
    return tmp_path / 'photos'


def test_polygons_rectangles_and_strokes_in_percents(tmp_path, images):
    inside = stroke()
    source = write(
        tmp_path / 'export',
        task(
            1,
            '/data/upload/3/0a1b2c3d-a%20b.png',
            [
                brush('dog', inside),
                rectangle('cat', 4, 3, 12, 9),
                polygon('dog', [(20, 6), (28, 6), (28, 9), (20, 9)]),
                result('keypoint', 'cat', x=1, y=1, width=0.5),
                dict(id='y', type='choices', value=dict(choices=['good'])),
            ],
        ),
        task(2, '/data/local-files/?d=photos/sub/b.png', []),
        task(3, 's3://bucket/c.png'),
    )
    out = bring(source, tmp_path / 'out', images=images)
    wanted = np.where(inside, 2, 0).astype(np.uint8)
    wanted[3:9, 4:12] = 1
    wanted[6:9, 20:28] = 2
    np.testing.assert_array_equal(mask(out, 'a b.png'), wanted)
    assert not mask(out, 'sub/b.png').any()
    assert not (out / 'annotations/c.png').exists() and (out / 'images/c.png').exists()
    assert classes(out) == ['background', 'cat', 'dog']
    assert ('a b.png', 'cat', [4, 3, 8, 6], 0) in boxes(out)
    assert any('task 1, result number 4: keypointlabels has no pixels' in n for n in not_used(out))


def test_a_rectangle_turns_around_its_corner(tmp_path, images):
    source = write(tmp_path / 'export', task(1, 'c.png', [rectangle('cat', 20, 4, 30, 8, 90)]))
    wanted = np.zeros((H, W), np.uint8)
    wanted[4:14, 16:20] = 1
    np.testing.assert_array_equal(
        mask(bring(source, tmp_path / 'o', images=images), 'c.png'), wanted
    )


def test_the_short_form(tmp_path, images):
    value = rectangle('cat', 4, 3, 12, 9)['value']
    source = write(
        tmp_path / 'export',
        dict(
            image='/data/upload/0a1b2c3d-c.png',
            id=1,
            annotator=1,
            annotation_id=1,
            label=[dict(**value, original_width=W, original_height=H)],
        ),
    )
    assert mask(bring(source, tmp_path / 'out', images=images), 'c.png').sum() == 48


def test_one_annotation_is_used_and_canceled_ones_are_not(tmp_path, images):
    first, second = ([rectangle(name, 0, 0, 4, 4)] for name in ('cat', 'dog'))
    canceled = task(2, 'sub/b.png', first)
    canceled['annotations'][0]['was_cancelled'] = True
    source = write(tmp_path / 'export', task(1, 'c.png', first, second), canceled)
    out = bring(source, tmp_path / 'out', images=images)
    assert classes(out) == ['background', 'dog']
    assert not (out / 'annotations/sub/b.png').exists()
    assert any('task 1: of 2 annotations only 11 is used' in note for note in not_used(out))


def test_png_files_of_brush_labels(tmp_path, images):
    inside = stroke()
    source = write(tmp_path / 'export', task(7, 'c.png'), task(8, 'sub/b.png'))
    for name, pixels in (('big dog', inside), ('cat', inside & (np.arange(W) < 15))):
        path = source / f'task-7-annotation-2-by-1-tag-{name}-0.png'
        Image.fromarray(pixels.astype(np.uint8) * 255).save(path)
    out = bring(source, tmp_path / 'out', images=images)
    wanted = inside.astype(np.uint8)
    wanted[:, :15] *= 2
    np.testing.assert_array_equal(mask(out, 'c.png'), wanted)
    assert classes(out) == ['background', 'big dog', 'cat']
    assert not (out / 'annotations/sub/b.png').exists()
    (source / 'project.json').unlink()
    with pytest.raises(DataError, match='only the json export names: put that file beside'):
        bring(source, tmp_path / 'other', images=images)


def test_labels_of_a_turned_view_leave_the_image_unlabeled(tmp_path, images):
    turned = rectangle('cat', 0, 0, 4, 4)
    turned['image_rotation'] = 90
    source = write(
        tmp_path / 'export',
        task(1, 'c.png', [turned]),
        task(2, 'sub/b.png', [rectangle('cat', 0, 0, 4, 4)]),
    )
    out = bring(source, tmp_path / 'out', images=images)
    assert not (out / 'annotations/c.png').exists()
    assert 'task 1: labels of a turned view are not used' in not_used(out)[0]


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda r: r.pop('original_width'), "task 1: 'original_width' is missing"),
        (lambda r: r['value'].pop('width'), "result number 1: 'width' is missing"),
        (
            lambda r: r['value'].update(rle=pack(stroke())[:-5]),
            'number 1: value.rle ends too early',
        ),
        (lambda r: r['value'].update(rle=[0, 0, 0, 8] + 9 * [0]), 'rle has 8 values and must'),
        (lambda r: r['value'].update(rle=[300]), 'rle must be a list of bytes'),
    ],
)
def test_bad_input_is_named(tmp_path, images, change, message):
    one = rectangle('cat', 0, 0, 4, 4)
    change(one)
    source = write(tmp_path / 'export', task(1, 'c.png', [one]))
    with pytest.raises(DataError, match=message) as error:
        bring(source, tmp_path / 'out', images=images)
    assert 'project.json, task 1' in str(error.value)
