"""Reading COCO results: what is found for which image, and files that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
from detection_files import category_id, rewrite, write_detections

from mmseg_semi.datasets import DataError
from mmseg_semi.detection import cached_detections
from mmseg_semi.detection.cached_detections import CachedDetections

CLASSES = ('ground', 'tree', 'house')
SIZES = {'a/1.png': (20, 30), '1.png': (20, 30), 'c.jpg': (8, 9), 'd.jpg': (8, 9)}


def some_results(number=200, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(number):
        name = ('a/1.png', '1.png', 'c.jpg')[rng.integers(3)]
        height, width = SIZES[name]
        x, y = rng.random() * width, rng.random() * height
        box = (x, y, rng.random() * (width - x), rng.random() * (height - y))
        found.append((name, int(rng.integers(3)), box, float(rng.integers(0, 11)) / 10))
    return found


def read(folder, found, score_thr=0.5, sizes=SIZES, classes=CLASSES):
    files = write_detections(folder, sizes, classes, found)
    return CachedDetections(files['results'], files['images'], score_thr)


@pytest.mark.parametrize('score_thr', [0, 0.3, 0.5, 1])
def test_boxes_of_each_image_in_the_order_of_the_file(tmp_path, score_thr):
    found = some_results()
    detections = read(tmp_path, found, score_thr)
    total = 0
    for row, (name, size) in enumerate(SIZES.items()):
        assert detections.find(f'/root/{name}') == row and detections.size(row) == size
        boxes, categories = detections.boxes(row)
        kept = [(k, box) for n, k, box, score in found if n == name and score >= score_thr]
        assert categories.tolist() == [category_id(k) for k, _ in kept]
        wanted = np.array([(x, y, x + w, y + h) for _, (x, y, w, h) in kept]).reshape(-1, 4)
        assert np.array_equal(boxes, wanted)
        total += len(kept)
    assert len(detections) == total > 0
    assert detections.without_result == 1
    numbers = detections.class_numbers(CLASSES)
    assert numbers == {category_id(i): i for i in range(3)}


def test_names_match_by_their_longest_end(tmp_path):
    sizes = dict.fromkeys(['1.png', 'a/1.png', 'b/a/1.png', 'b/2.png', 'xb/3.png'], (4, 4))
    detections = read(tmp_path, [], sizes=sizes)
    for path, row in {
        '1.png': 0,
        'root/1.png': 0,
        '/root/a/1.png': 1,
        'a/1.png': 1,
        '/root/b/a/1.png': 2,
        '/a/b/1.png': 0,
        '/b/2.png': 3,
        '2.png': None,
        '/root/a/2.png': None,
        '/b/3.png': None,
        '/root/11.png': None,
        '/root/1.jpg': None,
        '': None,
    }.items():
        assert detections.find(path) == row, path


def test_no_result_at_all(tmp_path):
    detections = read(tmp_path, [])
    assert len(detections) == 0 and detections.without_result == 4
    boxes, categories = detections.boxes(2)
    assert boxes.shape == (0, 4) and categories.shape == (0,)


@pytest.fixture
def logged(monkeypatch):
    texts = []
    monkeypatch.setattr(
        cached_detections, 'print_log', lambda text, logger, level: texts.append((text, level))
    )
    return texts


def test_what_the_log_says(tmp_path, logged):
    found = [(name, k, (1, 1, 2, 2), 0.9) for name in SIZES for k in range(3)]
    paths = [f'/x/{name}' for name in SIZES]
    detections = read(tmp_path, found)
    detections.check_images(paths, False)
    (text, level) = logged.pop()
    assert level == 20 and text.endswith('12 boxes of score >= 0.5 on 4 of 4 unlabeled images')
    detections.check_images(paths[:2], False)  # a part of the images
    assert '6 boxes of score >= 0.5 on 2 of 2 unlabeled images' in logged.pop()[0]
    detections.check_images([*paths, 'new.png'], True)
    (text, level) = logged.pop()
    assert level == 30 and 'on 4 of 5 unlabeled images; 1 images are not listed there' in text
    fewer = read(tmp_path, [one for one in found if one[0] != 'd.jpg' and one[1] != 2])
    fewer.check_images(paths, False)
    (text, level) = logged.pop()
    assert level == 30 and '6 boxes' in text and 'No box of: house; their' in text
    assert '1 images have no result of any score' in text
    with pytest.raises(DataError, match=r'lacks 1 of 5 unlabeled images: new\.png'):
        detections.check_images([*paths, 'new.png'], False)
    assert not logged


# -------------------------------------------------------------------------------------- refused
def refused(folder, found, message, change=None, of='results'):
    files = write_detections(folder, SIZES, CLASSES, found)
    if change:
        rewrite(files[of], change)
    with pytest.raises(DataError, match=message):
        CachedDetections(files['results'], files['images'], 0.5)


NO_RESULT = (
    r'1 of 2 results are no dict of image_id, category_id, bbox, score with bbox=.* first is'
)
FINE = ('c.jpg', 0, (0, 0, 9, 8), 0.1)


@pytest.mark.parametrize(
    'box, fits',
    [
        ((0, 0, 9, 8), True),
        ((-1, -1, 11, 10), True),
        ((-1.01, 0, 3, 3), False),
        ((0, -1.01, 3, 3), False),
        ((5, 0, 5.01, 3), False),
        ((0, 5, 3, 4.01), False),
    ],
)
def test_boxes_outside_their_image(tmp_path, box, fits):
    """Whatever their score, since then all of them are on the wrong scale."""
    found = [FINE, FINE, ('c.jpg', 1, box, 0.0)]
    if fits:
        assert len(read(tmp_path, found, 0)) == 3
        return
    message = (
        r'results: .*found\.bbox\.json: 1 of 3 boxes are not inside their image; the first is '
        r'\[.*\] \(x, y, width, height\) in c\.jpg of 9 x 8 pixels \(width x height\)'
    )
    refused(tmp_path, found, message)


def test_results_of_other_images_or_categories(tmp_path):
    message = r'results for 1 images that .*listed\.json does not have \(id 999\)'
    refused(tmp_path, [FINE] * 3, message, lambda x: x[1].update(image_id=999))
    message = r'results for 2 categories that .*listed\.json does not have \(id 4, 5\)'

    def change(results):
        for one, number in zip(results, (5, 4, 5)):
            one['category_id'] = number

    refused(tmp_path, [FINE] * 4, message, change)


@pytest.mark.parametrize('key', ['image_id', 'category_id', 'bbox', 'score'])
def test_results_without_a_part(tmp_path, key):
    refused(tmp_path, [FINE] * 2, NO_RESULT, lambda results: results[1].pop(key) and None)


@pytest.mark.parametrize(
    'change',
    [
        dict(bbox=[0, 0, 3]),
        dict(bbox='0 0 3 3'),
        dict(bbox=[0, 0, '3', 3]),
        dict(bbox=[0, 0, float('nan'), 3]),
        dict(bbox=[0, 0, float('inf'), 3]),
        dict(bbox=[5, 5, -2, 3]),
        dict(score=None),
        dict(score=95.0),
        dict(score=-0.1),
        dict(score=float('nan')),
    ],
)
def test_results_of_wrong_values(tmp_path, change):
    refused(tmp_path, [FINE] * 2, NO_RESULT, lambda results: results[1].update(change))


def test_boxes_that_are_shares_of_the_image(tmp_path):
    found = [('c.jpg', 0, (0.1, 0.2, 0.5, 0.8), 0.9), ('a/1.png', 1, (0, 0, 1, 1), 0.1)]
    found = [one for one in found if one[0] in SIZES]
    refused(tmp_path, found, 'no box reaches beyond the first pixel of its image, as if they were')


def test_results_that_are_no_dict(tmp_path):
    refused(tmp_path, [FINE] * 2, NO_RESULT, lambda results: [results[0], 7])


@pytest.mark.parametrize('part, key', [('images', 'width'), ('categories', 'name')])
def test_lists_with_entries_that_lack_a_key(tmp_path, part, key):
    message = rf'listed\.json: each of `{part}` must have .*{key}'
    refused(tmp_path, [FINE], message, lambda all_: all_[part][1].pop(key) and None, 'images')


@pytest.mark.parametrize('key', ['id', 'file_name'])
def test_lists_that_repeat_an_image(tmp_path, key):
    def change(listed):
        listed['images'][1][key] = listed['images'][0][key]

    message = rf'listed\.json: images have the same {key} more than once: '
    refused(tmp_path, [FINE], message, change, 'images')


def test_file_names_may_begin_with_a_dot(tmp_path):
    files = write_detections(tmp_path, {'./x/c.jpg': (8, 9)}, CLASSES, [])
    assert CachedDetections(files['results'], files['images'], 0.5).find('/root/x/c.jpg') == 0


@pytest.mark.parametrize('key', ['images', 'categories'])
def test_lists_without_a_part(tmp_path, key):
    message = r'images: .*listed\.json is no COCO annotation file with `images` and `categories`'
    refused(tmp_path, [FINE], message, lambda listed: listed.pop(key) and None, 'images')


def test_category_that_is_no_class(tmp_path):
    detections = read(tmp_path, [])
    with pytest.raises(DataError, match=r'no class of the labeled part: tree, house\.'):
        detections.class_numbers(('ground', 'sky'))


def test_it_can_be_imported_first(plain_server, tmp_path):
    """Before anything else of mmseg_semi, and without mmdet."""
    script = tmp_path / 'script.py'
    script.write_text(
        'from mmseg_semi.detection.cached_detections import CachedDetections\n'
        'from mmseg_semi.detection import LoadDetections\n'
        "assert LoadDetections('a', 'b').score_thr == 0.85\n"
        'try:\n'
        '    import mmdet\n'
        'except ModuleNotFoundError:\n'
        "    print('mmdet is blocked')\n"
    )
    assert 'mmdet is blocked' in plain_server.run(script, unblock=['mmseg_semi']).output
