"""COCO's json, and what holds for every format: folders, second runs, files of others."""

from __future__ import annotations

import json
import re
import shutil
import zipfile

import numpy as np
import pytest
from label_exports import (
    boxes,
    bring,
    classes,
    files,
    mask,
    not_used,
    photo,
)
from pycocotools import mask as coco_mask

from mmseg_semi.errors import DataError

pytestmark = pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning')

H, W = 30, 40


def rectangle(x1, y1, x2, y2):
    inside = np.zeros((H, W), bool)
    inside[y1:y2, x1:x2] = True
    return inside


def polygon(x1, y1, x2, y2):
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


def compressed(inside):
    runs = coco_mask.encode(np.asfortranarray(inside, np.uint8))
    return dict(size=list(runs['size']), counts=runs['counts'].decode())


def uncompressed(inside):
    counts, value = [0], False
    for pixel in inside.ravel(order='F'):
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return dict(size=[H, W], counts=counts)


def entry(number, image, category, segmentation, bbox=(0, 0, 1, 1), crowd=0):
    return dict(
        id=number,
        image_id=image,
        category_id=category,
        segmentation=segmentation,
        bbox=list(bbox),
        area=1,
        iscrowd=crowd,
    )


@pytest.fixture
def export(tmp_path):
    """Images of all forms of segmentation; category 3 stands before 1 in the file."""
    source = tmp_path / 'export'
    names = ('a.png', 'sub/b.png', 'empty.png')
    for seed, name in enumerate((*names, 'later.png')):
        photo(source / 'images' / name, W, H, seed=seed)
    content = dict(
        images=[dict(id=n, file_name=one, width=W, height=H) for n, one in enumerate(names, 1)],
        categories=[dict(id=3, name='dog'), dict(id=1, name='cat')],
        annotations=[
            entry(1, 1, 1, polygon(5, 5, 15, 12)),
            entry(2, 1, 3, uncompressed(rectangle(10, 10, 14, 14))),
            entry(3, 1, 3, compressed(rectangle(0, 0, 40, 8)), crowd=1),
            entry(4, 1, 1, [], bbox=(30, 20, 5, 5)),
            entry(5, 2, 3, compressed(rectangle(20, 3, 30, 30))),
            entry(6, 2, 1, polygon(22, 5, 24, 9) + polygon(1, 1, 3, 3)),
        ],
    )
    (source / 'annotations').mkdir()
    (source / 'annotations/instances.json').write_text(json.dumps(content))
    return source, content


def write(export, change):
    source, content = export
    change(content)
    (source / 'annotations/instances.json').write_text(json.dumps(content))
    return source


def test_all_forms_are_drawn_smaller_objects_on_top_and_crowds_below(export, tmp_path):
    out = bring(export[0], tmp_path / 'out')
    wanted = np.zeros((H, W), np.uint8)
    wanted[20:25, 30:35] = 255  # only a box is known
    wanted[rectangle(0, 0, 40, 8)] = 2
    wanted[rectangle(5, 5, 15, 12)] = 1
    wanted[rectangle(10, 10, 14, 14)] = 2
    np.testing.assert_array_equal(mask(out, 'a.png'), wanted)
    wanted = np.zeros((H, W), np.uint8)
    wanted[rectangle(20, 3, 30, 30)] = 2
    wanted[rectangle(22, 5, 24, 9) | rectangle(1, 1, 3, 3)] = 1
    np.testing.assert_array_equal(mask(out, 'sub/b.png'), wanted)
    assert not mask(out, 'empty.png').any()
    assert classes(out) == ['background', 'cat', 'dog']
    assert boxes(out) == [
        ('a.png', 'cat', [5, 5, 10, 7], 0),
        ('a.png', 'dog', [10, 10, 4, 4], 0),
        ('a.png', 'dog', [0, 0, 40, 8], 1),
        ('a.png', 'cat', [30, 20, 5, 5], 0),
        ('sub/b.png', 'dog', [20, 3, 10, 27], 0),
        ('sub/b.png', 'cat', [1, 1, 23, 8], 0),
    ]
    (note,) = not_used(out)
    assert 'image a.png, annotation 4: no segmentation, its box is unknown' in note


def test_images_are_copied_byte_for_byte_unlisted_ones_too(export, tmp_path, capsys):
    out = bring(export[0], tmp_path / 'out')
    brought = {name: data for name, (data, _) in files(out / 'images').items()}
    assert brought == {name: data for name, (data, _) in files(export[0] / 'images').items()}
    assert not (out / 'annotations/later.png').exists()
    said = capsys.readouterr().out
    assert '3 images with labels, 6 boxes' in said
    assert '1 images without labels (unlabeled): later.png' in said
    assert '1 images are listed without any object' in said


def test_images_without_objects_may_be_unlabeled(export, tmp_path):
    out = bring(export[0], tmp_path / 'out', empty='unlabeled')
    assert not (out / 'annotations/empty.png').exists() and (out / 'images/empty.png').exists()


def test_a_zip_and_images_elsewhere_give_the_same(export, tmp_path):
    source = export[0]
    out = bring(source, tmp_path / 'out')
    with zipfile.ZipFile(tmp_path / 'export.zip', 'w') as archive:
        archive.write(source / 'annotations/instances.json', 'annotations/instances.json')
    other = bring(tmp_path / 'export.zip', tmp_path / 'other', images=source / 'images')
    wanted, found = ({n: data for n, (data, _) in files(one).items()} for one in (out, other))
    note = found.pop('not_used.txt').decode()
    assert note.startswith(f'{tmp_path}/export.zip/instances.json, image a.png, annotation 4')
    del wanted['not_used.txt']
    wanted.pop('import-labels.json'), found.pop('import-labels.json')
    assert found == wanted
    before = files(other)
    assert files(bring(tmp_path / 'export.zip', other, images=source / 'images')) == before


def test_a_second_run_writes_nothing_even_into_the_folder_of_the_export(export, tmp_path):
    source = export[0]
    for out in (tmp_path / 'out', source / 'out'):
        before = files(bring(source, out))
        assert files(bring(source, out)) == before


def test_files_of_others_are_kept(export, tmp_path):
    out = tmp_path / 'out'
    (out / 'annotations').mkdir(parents=True)
    (out / 'annotations/a.png').write_bytes(b'mine')
    before = files(out)
    with pytest.raises(DataError, match=r'not written by this command.*: annotations/a\.png\. Mo'):
        bring(export[0], out)
    assert files(out) == before
    (out / 'annotations/a.png').unlink()
    bring(export[0], out)
    (out / 'classes.json').write_text('{}')  # changed by the user
    with pytest.raises(DataError, match=r'or were changed since: classes\.json\.'):
        bring(export[0], out)
    assert (out / 'classes.json').read_text() == '{}'


def test_images_that_are_in_place_stay_theirs(export, tmp_path):
    source = export[0]
    out = tmp_path / 'out'
    shutil.copytree(source / 'images', out / 'images')
    before = files(out / 'images')
    bring(source / 'annotations/instances.json', out, images=out / 'images')
    assert files(out / 'images') == before
    listed = json.loads((out / 'import-labels.json').read_text())
    assert 'annotations/a.png' in listed['files'] and 'images/a.png' not in listed['files']


def test_a_run_that_was_stopped_goes_on(export, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    out = tmp_path / 'out'
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr('mmseg_semi.prepare.import_labels.boxes_file', stop)
        bring(export[0], out)
    assert (out / 'annotations/a.png').exists() and not (out / 'boxes.json').exists()
    kept = files(out / 'annotations')
    bring(export[0], out)
    assert files(out / 'annotations') == kept and (out / 'boxes.json').exists()
    assert not list(out.rglob('*.part'))


def test_masks_that_lost_their_labels_are_removed(export, tmp_path):
    out = bring(export[0], tmp_path / 'out')

    def forget(content):
        content['images'] = content['images'][1:]
        content['annotations'] = [one for one in content['annotations'] if one['image_id'] != 1]

    bring(write(export, forget), out)
    assert not (out / 'annotations/a.png').exists() and (out / 'images/a.png').exists()


def test_a_class_that_the_export_does_not_have_is_said(export, tmp_path, capsys):
    bring(export[0], tmp_path / 'out', classes=['background,dog,kat'])
    assert (
        "--classes: kat is no class of the export, which has cat, dog. Did you mean 'cat'?\n"
    ) in capsys.readouterr().out
    bring(export[0], tmp_path / 'other', classes=['dog'])
    assert 'no class of the export' not in capsys.readouterr().out


def test_chosen_classes_have_the_order_and_colors_that_were_given(export, tmp_path):
    out = bring(export[0], tmp_path / 'out', classes=['dog=#ff8000', 'background'])
    assert classes(out) == ['dog', 'background']
    assert json.loads((out / 'classes.json').read_text())['palette'][0] == [255, 128, 0]
    wanted = np.ones((H, W), np.uint8)
    wanted[20:25, 30:35] = 255
    wanted[rectangle(0, 0, 40, 8)] = 0
    wanted[rectangle(5, 5, 15, 12)] = 1  # cats are none of the classes
    wanted[rectangle(10, 10, 14, 14)] = 0
    np.testing.assert_array_equal(mask(out, 'a.png'), wanted)
    assert {one[1] for one in boxes(out)} == {'dog'}
    assert any('annotation 1: cat is none of the classes' in one for one in not_used(out))


@pytest.mark.parametrize('orientation', range(1, 9))
def test_masks_are_turned_like_their_images(tmp_path, orientation):
    """Labels of the upright size stay; those of the stored size are turned with the pixels."""
    import cv2

    source = tmp_path / 'export'
    path = photo(source / 'a.jpg', W, H, orientation)
    inside = np.zeros((H, W), bool)
    inside[2:9, 5:20] = True
    content = dict(
        images=[dict(id=1, file_name='a.jpg', width=W, height=H)],
        categories=[dict(id=1, name='cat')],
        annotations=[entry(1, 1, 1, compressed(inside))],
    )
    (source / 'labels.json').write_text(json.dumps(content))
    out = bring(source, tmp_path / 'out')
    found = mask(out, 'a.png')
    assert found.shape == cv2.imread(str(path)).shape[:2]
    wanted = {5: inside.T, 6: np.rot90(inside, -1), 7: np.rot90(inside, 2).T, 8: np.rot90(inside)}
    np.testing.assert_array_equal(found, wanted.get(orientation, inside))
    rows, columns = np.nonzero(found)
    box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    assert boxes(out) == [('a.jpg', 'cat', box, 0)]


@pytest.mark.parametrize(
    'change, message',
    [
        (
            lambda c: c['annotations'][0].pop('category_id'),
            'annotation 1: .category_id. is mis',
        ),
        (lambda c: c['annotations'][0].update(image_id=9), 'annotation 1 is of image 9'),
        (lambda c: c['images'][0].pop('file_name'), 'image number 1: .file_name. is missing'),
        (lambda c: c['images'][1].update(id=1), 'image number 2: id=1 must be there only once'),
        (lambda c: c['images'][0].pop('width'), 'image a.png: .width. is missing'),
        (lambda c: c['images'][0].update(width=50), 'a.png: the labels belong to 50 x 30 pixels'),
        (
            lambda c: c['annotations'][4].update(segmentation=dict(size=[9, 9], counts=[81])),
            'image sub/b.png, annotation 5: run lengths have the size',
        ),
        (
            lambda c: c['annotations'][0].update(segmentation=[[1, 1, 1e9, 1, 5, 5]]),
            'annotation 1: a polygon has the coordinate 1000000000.0',
        ),
        (
            lambda c: c['annotations'][0].update(segmentation=[[1, 1, 'x', 1, 5, 5]]),
            'annotation 1: a segmentation cannot be drawn',
        ),
        (lambda c: [one.update(file_name='z.png') for one in c['images']], 'none of the images'),
    ],
)
def test_bad_input_is_named_with_file_and_entry(export, tmp_path, change, message):
    source = write(export, change)
    with pytest.raises(DataError, match=message) as error:
        bring(source, tmp_path / 'out')
    assert re.search(r'instances\.json|none of the images', str(error.value))


def test_one_bad_image_does_not_keep_the_others(export, tmp_path):
    source = write(export, lambda c: c['images'][0].update(width=50))
    out = tmp_path / 'out'
    with pytest.raises(DataError, match='1 of 4 images could not be brought'):
        bring(source, out)
    assert not (out / 'annotations/a.png').exists() and not (out / 'images/a.png').exists()
    assert mask(out, 'sub/b.png').any()
    assert 'a.png' in not_used(out)[0]


@pytest.mark.parametrize('wrong', [[[1, 2, 3]], [[1, 2, 3, 4, 5, 6, 7]], 'foo', [1, 2, 3], 7])
def test_a_broken_segmentation_is_none_of_none(export, tmp_path, wrong):
    source = write(export, lambda c: c['annotations'][0].update(segmentation=wrong))
    with pytest.raises(DataError, match=r'annotation \d+'):
        bring(source, tmp_path / 'out')


def test_categories_of_one_name_are_one_class_and_said_to_be(export, tmp_path):
    source = write(export, lambda c: c['categories'].append(dict(c['categories'][0], id=99)))
    out = bring(source, tmp_path / 'out')
    assert len(set(classes(out))) == len(classes(out))
    assert any('99 are all ' in line and 'one class here' in line for line in not_used(out))


def test_missing_images_are_listed(export, tmp_path):
    (export[0] / 'images/a.png').unlink()
    out = bring(export[0], tmp_path / 'out')
    assert 'image a.png: there is no such image' in not_used(out)[0]


@pytest.mark.parametrize('key', ['images', 'annotations', 'categories'])
@pytest.mark.parametrize('kind', ['auto', 'coco'])
def test_a_list_that_is_missing_is_named(tmp_path, key, kind):
    lists = {one: [] for one in ('images', 'annotations', 'categories') if one != key}
    (tmp_path / 'a.json').write_text(json.dumps(lists))
    with pytest.raises(DataError, match=f"a.json is a COCO json without the list '{key}': export"):
        bring(tmp_path, tmp_path / 'out', kind=kind)


def test_what_is_no_export_is_refused(tmp_path):
    photo(tmp_path / 'x/a.txt.png')
    (tmp_path / 'x/a.json').write_text('{"a": 1}')
    with pytest.raises(DataError, match='has no labels in'):
        bring(tmp_path / 'x', tmp_path / 'out', kind='coco')
    (tmp_path / 'x/a.json').write_text('{')
    with pytest.raises(DataError, match=r'a\.json cannot be read'):
        bring(tmp_path / 'x', tmp_path / 'out', kind='coco')
    with pytest.raises(FileNotFoundError, match='SRC: there is no'):
        bring(tmp_path / 'y', tmp_path / 'out')
