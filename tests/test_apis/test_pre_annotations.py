"""Predictions as annotations of labeling tools, and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from label_exports import bring, classes, files, mask, not_used
from PIL import Image
from pycocotools import mask as coco_mask
from saved_models import PALETTE, saved_model

from mmseg_semi.apis import predict
from mmseg_semi.apis.outlines import polygons, regions
from mmseg_semi.apis.pre_annotations import class_colors, write_annotations
from mmseg_semi.errors import DataError

META = dict(classes=['background', 'leaf', 'disease'], palette=PALETTE)


def covered(several, shape) -> np.ndarray:
    runs = coco_mask.frPyObjects(several, *shape)
    return coco_mask.decode(coco_mask.merge(runs)).astype(bool)


def test_outlines_follow_the_edges_of_pixels():
    inside = np.zeros((4, 5), bool)
    inside[1:3, 1:4] = True
    assert polygons(inside, 10, 20) == [[11, 21, 14, 21, 14, 23, 11, 23]]
    corner = np.array([[True, False], [False, True]])  # two pixels that touch at a corner
    assert polygons(corner) == [[0, 0, 1, 0, 1, 1, 0, 1], [1, 1, 2, 1, 2, 2, 1, 2]]
    assert len(list(regions(corner.astype(int), 0))) == 2


@pytest.mark.parametrize('seed', range(4))
def test_polygons_of_any_mask_with_its_holes_cover_its_pixels(seed):
    rng = np.random.default_rng(seed)
    inside = rng.random((23, 31)) < (0.2, 0.5, 0.7, 0.9)[seed]
    assert (covered(polygons(inside), inside.shape) == inside).all()
    labels = rng.integers(0, 3, (23, 31))
    again = np.zeros_like(labels)
    for one in regions(labels, without=0):
        again[covered(polygons(one.inside, one.x, one.y), labels.shape)] = one.number
    np.testing.assert_array_equal(again, labels)


def test_a_ring_is_cut_in_two_and_the_middle_is_another_object():
    labels = np.zeros((9, 9), int)
    labels[1:8, 1:8], labels[3:6, 3:6] = 1, 2
    ring, middle = regions(labels, without=0)
    assert polygons(middle.inside, middle.x, middle.y) == [[3, 3, 6, 3, 6, 6, 3, 6]]
    assert len(polygons(ring.inside)) == 2
    assert sum(len(one) for one in polygons(ring.inside)) // 2 == 16


@pytest.fixture(scope='module')
def predicted(tmp_path_factory):
    """The folder of images, and that of their predictions with both formats."""
    run = saved_model(tmp_path_factory.mktemp('saved'))
    images, out = run.parents[1] / 'leaves/images', run.parents[1] / 'out'
    for kind in ('coco', 'cvat'):
        predict.main([str(run), str(images), '--out', str(out), '--polygons', kind])
    return images, out


@pytest.mark.parametrize(('source', 'kind'), [('coco.json', 'coco'), ('cvat', 'cvat')])
def test_import_labels_brings_the_labels_back(predicted, source, kind, tmp_path):
    images, out = predicted
    own = bring(out / source, tmp_path / 'own', images=images)
    assert classes(own) == META['classes'] and not not_used(own)
    labels = sorted((out / 'labels').rglob('*.png'))
    assert len(labels) == 13 == len(files(own / 'annotations'))
    several = set()
    for path in labels:
        name = path.relative_to(out / 'labels').as_posix()
        wanted = np.array(Image.open(path))
        np.testing.assert_array_equal(mask(own, name), wanted)
        several |= set(np.unique(wanted))
    assert several == {0, 1, 2}
    if kind == 'cvat':
        assert json.loads((own / 'classes.json').read_text())['palette'] == PALETTE


def test_objects_are_counted_with_boxes_and_areas(predicted):
    content = json.loads((predicted[1] / 'coco.json').read_text())
    first = content['images'][0]
    assert first['file_name'] == 'labeled/l0.jpg' and (first['width'], first['height']) == (64, 48)
    assert content['categories'] == [dict(id=1, name='leaf'), dict(id=2, name='disease')]
    labels = np.array(Image.open(predicted[1] / 'labels/labeled/l0.png'))
    mine = [one for one in content['annotations'] if one['image_id'] == 1]
    for number in (1, 2):
        total = sum(one['area'] for one in mine if one['category_id'] == number)
        assert total == (labels == number).sum()


def test_a_corrected_file_is_not_replaced(tmp_path):
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / 'a.png')
    maps = {'a.jpg': tmp_path / 'a.png'}
    write_annotations(tmp_path, 'coco', maps, META, False)
    (tmp_path / 'coco.json').write_text('{}')
    with pytest.raises(DataError, match='changed since: coco.json'):
        write_annotations(tmp_path, 'coco', maps, META, False)


def test_numbers_of_masks_are_one_more_with_reduce_zero_label(tmp_path):
    Image.fromarray(np.full((4, 6), 2, np.uint8)).save(tmp_path / 'a.png')
    names = dict(classes=['road', 'tree'])
    write_annotations(tmp_path, 'coco', {'a.jpg': tmp_path / 'a.png'}, names, True)
    content = json.loads((tmp_path / 'coco.json').read_text())
    assert content['categories'] == [dict(id=1, name='road'), dict(id=2, name='tree')]
    assert [one['category_id'] for one in content['annotations']] == [2]
    assert content['annotations'][0]['area'] == 24


def test_every_class_has_a_color_of_its_own_and_only_background_is_black():
    assert class_colors(META) == [tuple(one) for one in PALETTE]
    names = [f'class {i}' for i in range(300)]
    colors = class_colors(dict(classes=names, palette=[[0, 0, 0], [9, 9, 9], [9, 9, 9]]))
    assert len(set(colors)) == 300 and (0, 0, 0) not in colors and colors[1] == (9, 9, 9)
    assert class_colors(dict(classes=['tree', 'background']))[1] == (0, 0, 0)


def test_images_that_differ_in_the_suffix_have_masks_of_their_own(tmp_path):
    for name in ('a.jpg.png', 'a.png.png'):
        Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / name)
    maps = {name: Path(tmp_path, f'{name}.png') for name in ('a.jpg', 'a.png')}
    write_annotations(tmp_path, 'cvat', maps, META, False)
    assert len(files(tmp_path / 'cvat/SegmentationClass')) == 2
