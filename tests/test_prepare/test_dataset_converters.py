"""The converters of VOC with SBD, Cityscapes, COCO and Lucchi, on tiny copies of the raw data."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from miniature_data import (
    COCO_IDS,
    VOC_TRAIN,
    VOC_VAL,
    cityscapes_ids,
    lucchi_mask,
    make_cityscapes,
    make_coco,
    make_lucchi,
    make_sbd,
    make_voc,
    sbd_mask,
    voc_mask,
)
from PIL import Image
from tool_runs import TOOLS

from mmseg_semi import files
from mmseg_semi.prepare.conversion import Task, convert

# pycocotools says so for every mask that it decodes.
pytestmark = pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning')

CONVERTERS = ('voc_sbd', 'cityscapes_train_ids', 'coco_masks', 'lucchi')
# Class of each of Cityscapes' label ids 0 to 33.
TRAIN_IDS = (
    *(255, 255, 255, 255, 255, 255, 255, 0, 1, 255, 255, 2, 3, 4, 255, 255, 255, 5, 255, 6, 7, 8),
    *(9, 10, 11, 12, 13, 14, 15, 255, 255, 16, 17, 18),
)


def script(name):
    return TOOLS / 'dataset_converters' / f'{name}.py'


@pytest.fixture(scope='module')
def tools():
    return {name: importlib.import_module(f'mmseg_semi.prepare.{name}') for name in CONVERTERS}


@pytest.fixture(scope='module')
def raw_data(tmp_path_factory):
    """All raw data; not to be changed."""
    root = tmp_path_factory.mktemp('raw')
    make_voc(root / 'voc_sbd')
    make_sbd(root / 'voc_sbd')
    make_cityscapes(root / 'cityscapes_train_ids')
    make_coco(root / 'coco_masks')
    make_lucchi(root / 'lucchi')
    return root


class Conversion:
    """One converter on its own copy of the raw data."""

    def __init__(self, name, root, main, capsys):
        self.name, self.root, self.main, self.capsys = name, root, main, capsys
        self.voc = root / 'VOCdevkit' / 'VOC2012'
        self.sbd = root / 'benchmark_RELEASE' / 'dataset'
        self.roots = [self.voc, self.sbd] if name == 'voc_sbd' else [root]

    def run(self, *options):
        """Printed lines of a run that takes an incomplete data set."""
        return self.run_strictly('--partial', *options)

    def run_strictly(self, *options):
        self.capsys.readouterr()
        self.main([*map(str, self.roots), *options])
        return self.capsys.readouterr().out.splitlines()

    def refused(self, *options, strictly=False):
        """What it says when it ends with an error."""
        with pytest.raises(SystemExit) as error:
            (self.run_strictly if strictly else self.run)(*options)
        assert isinstance(error.value.code, str)
        return error.value.code

    def outputs(self):
        """Paths of everything that was written."""
        patterns = {
            'voc_sbd': ('VOCdevkit/VOC2012/SegmentationClassAug/*', '**/train_aug.txt*'),
            'cityscapes_train_ids': ('gtFine/*/*/*TrainIds*',),
            'coco_masks': ('semantic_masks/*/*',),
            'lucchi': ('images/*/*', 'annotations/*/*'),
        }
        return sorted(path for one in patterns[self.name] for path in self.root.glob(one))

    def states(self):
        """Content, time and inode of every output."""
        return {p: (p.read_bytes(), p.stat().st_mtime_ns, p.stat().st_ino) for p in self.outputs()}

    def contents(self):
        return {path: path.read_bytes() for path in self.outputs()}


@pytest.fixture
def conversion(tools, raw_data, tmp_path, capsys):
    def conversion(name):
        shutil.copytree(raw_data / name, tmp_path / name)
        return Conversion(name, tmp_path / name, tools[name].main, capsys)

    return conversion


@pytest.fixture
def voc(conversion):
    return conversion('voc_sbd')


@pytest.fixture
def cityscapes(conversion):
    return conversion('cityscapes_train_ids')


@pytest.fixture
def coco(conversion):
    return conversion('coco_masks')


@pytest.fixture
def lucchi(conversion):
    return conversion('lucchi')


def read(path):
    """An image as OpenCV gives it: colors for a PNG with a palette, which these must not have."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image.dtype == np.uint8 and image.ndim == 2
    return image


def write(path, array):
    assert cv2.imwrite(str(path), np.asarray(array, np.uint8))


def cut_short(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# -------------------------------------------------------------------------------------- VOC and SBD
def test_voc_masks_come_before_those_of_sbd(voc):
    voc.run()
    folder = voc.voc / 'SegmentationClassAug'
    with_voc = {*VOC_TRAIN, *VOC_VAL}
    only_sbd = {'2008_000002', '2008_000003', '2008_000007', '2008_000008'}
    assert {path.name for path in folder.iterdir()} == {f'{n}.png' for n in with_voc | only_sbd}
    for name in with_voc:
        assert np.array_equal(read(folder / f'{name}.png'), voc_mask(name))
        assert 255 in voc_mask(name) and not np.array_equal(voc_mask(name), sbd_mask(name))
    for name in only_sbd:
        assert np.array_equal(read(folder / f'{name}.png'), sbd_mask(name))


def test_train_aug_is_both_without_the_validation_images(voc):
    voc.run()
    assert (voc.voc / 'ImageSets/Segmentation/train_aug.txt').read_text().split() == [
        *('2007_000032', '2007_000039', '2007_000063', '2007_000068'),
        *('2008_000002', '2008_000003', '2008_000007', '2008_000008'),
    ]


@pytest.mark.parametrize(
    'voc_root, sbd_root',
    [
        ('VOCdevkit/VOC2012', 'benchmark_RELEASE'),
        ('VOCdevkit', 'benchmark_RELEASE/dataset'),
        ('.', '.'),
    ],
)
def test_folders_above_voc_and_sbd_do_too(voc, voc_root, sbd_root):
    voc.roots = [voc.root / voc_root, voc.root / sbd_root]
    assert voc.run()[-1] == f'{voc.voc / "SegmentationClassAug"}: 11 masks written, 0 kept'


def test_sbd_without_the_folder_dataset(voc):
    voc.roots[1] = voc.sbd.rename(voc.root / 'VOCaug')
    assert '11 masks written' in voc.run()[-1]


def test_images_or_masks_that_are_missing(voc):
    image = voc.voc / 'JPEGImages' / '2008_000002.jpg'
    mat, png = (
        voc.sbd / 'cls' / '2008_000003.mat',
        voc.voc / 'SegmentationClass' / '2007_000039.png',
    )
    for path in (image, mat, png):
        path.unlink()
    message = voc.refused(strictly=True)
    assert all(str(path) in message for path in (image, mat, png)) and '--partial' in message
    assert '3 images or masks' in message and not voc.outputs()
    output = voc.run()
    assert any(line.startswith('WARNING') and str(mat) in line for line in output)
    assert '8 masks written' in output[-1]
    names = (voc.voc / 'ImageSets/Segmentation/train_aug.txt').read_text().split()
    assert names == ['2007_000032', '2007_000063', '2007_000068', '2008_000007', '2008_000008']


def test_a_list_of_an_earlier_incomplete_run_is_replaced(voc):
    path = voc.voc / 'JPEGImages' / '2008_000002.jpg'
    image = path.read_bytes()
    path.unlink()
    voc.run()
    path.write_bytes(image)
    output = voc.run()
    assert 'train_aug.txt: 8 images, written' in output[-2]
    assert '1 masks written, 10 kept' in output[-1]


def test_voc_masks_that_are_wrong(voc):
    masks, cls = voc.voc / 'SegmentationClass', voc.sbd / 'cls'
    write(masks / f'{VOC_TRAIN[0]}.png', np.full_like(voc_mask(VOC_TRAIN[0]), 21))
    write(masks / f'{VOC_TRAIN[1]}.png', voc_mask(VOC_TRAIN[1])[:, 1:])
    colors = np.zeros((*voc_mask(VOC_TRAIN[2]).shape, 3))
    write(masks / f'{VOC_TRAIN[2]}.png', colors)
    cut_short(masks / f'{VOC_TRAIN[3]}.png')
    cut_short(cls / '2008_000002.mat')
    message = voc.refused()
    lines = {
        line.split('.png')[0].split('.mat')[0].split('/')[-1]: line for line in message.split('\n')
    }
    assert 'has the numbers 21' in lines[VOC_TRAIN[0]]
    height, width = voc_mask(VOC_TRAIN[1]).shape
    expected = (
        f'{width - 1} x {height} pixels, its image {voc.voc / "JPEGImages" / VOC_TRAIN[1]}.jpg '
    )
    assert f'{expected}{width} x {height}' in lines[VOC_TRAIN[1]]
    assert 'mode RGB' in lines[VOC_TRAIN[2]] and 'cannot be read' in lines[VOC_TRAIN[3]]
    assert 'cannot be read' in lines['2008_000002']
    assert '5 of 11 masks could not be made' in message and len(voc.outputs()) == 6
    assert not (voc.voc / 'ImageSets/Segmentation/train_aug.txt').exists()


def test_mat_files_of_another_kind(voc):
    from scipy.io import savemat

    path = voc.sbd / 'cls' / '2008_000002.mat'
    mask = sbd_mask('2008_000002')
    for content, problem in (
        (dict(GTinst=dict(Segmentation=mask)), 'no GTcls.Segmentation'),
        (dict(GTcls=dict(Boundaries=mask)), 'no GTcls.Segmentation'),
        (dict(GTcls=dict(Segmentation=mask.astype(float))), 'must be a matrix of 8-bit numbers'),
        (dict(GTcls=dict(Segmentation=np.full_like(mask, 77))), 'numbers 77'),
    ):
        savemat(str(path), content)
        message = voc.refused()
        assert str(path) in message and problem in message


# --------------------------------------------------------------------------------------- Cityscapes
def test_cityscapes_classes_by_the_table(cityscapes):
    cityscapes.run()
    assert len(cityscapes.outputs()) == 7
    for path in cityscapes.outputs():
        name = f'{path.parent.name}/{path.name.replace("_gtFine_labelTrainIds.png", "")}'
        ids = cityscapes_ids(name)
        assert set(ids.ravel()) == set(range(34))
        expected = [[TRAIN_IDS[number] for number in row] for row in ids]
        assert np.array_equal(read(path), expected)


def test_label_ids_that_do_not_exist(cityscapes):
    path = cityscapes.root / 'gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png'
    ids = read(path)
    ids[3, 4:6] = 34, 255
    write(path, ids)
    message = cityscapes.refused()
    assert f'{path} has the numbers 34, 255' in message and '0 to 33' in message
    assert len(cityscapes.outputs()) == 6


def test_cityscapes_images_and_labels_go_in_pairs(cityscapes):
    label = cityscapes.root / 'gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png'
    image = cityscapes.root / 'leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit.png'
    label.unlink()
    assert str(label) in cityscapes.refused(strictly=True)
    image.unlink()
    output = cityscapes.run()
    assert any(str(label) in line for line in output) and any(str(image) in line for line in output)
    assert '5 masks written' in output[-1]


# --------------------------------------------------------------------------------------------- COCO
def inside_polygon(polygon, x, y):
    """Whether the center of a pixel is inside, by the crossings of a ray to the right."""
    points = list(zip(polygon[::2], polygon[1::2]))
    crossings = 0
    for (x1, y1), (x2, y2) in zip(points, [*points[1:], points[0]]):
        if min(y1, y2) <= y < max(y1, y2):
            assert x1 == x2
            crossings += x1 > x + 0.5
    return crossings % 2 == 1


def covers(one, x, y):
    """Whether an annotation covers a pixel."""
    shape = one['segmentation']
    if isinstance(shape, list):
        return any(inside_polygon(polygon, x, y) for polygon in shape)
    position, inside = x * shape['size'][0] + y, False
    for count in shape['counts']:
        if position < count:
            return inside
        position, inside = position - count, not inside
    raise AssertionError('run lengths end early')


def coco_pixel(found, x, y, overlap, crowd):
    objects = [one for one in found if not one['iscrowd'] and covers(one, x, y)]
    if len(objects) > 1 and overlap == 'ignore':
        return 255
    if objects:
        return 1 + COCO_IDS.index(min(objects, key=lambda one: one['area'])['category_id'])
    crowds = [one for one in found if one['iscrowd'] and covers(one, x, y)]
    if crowds:
        return 255 if crowd == 'ignore' else 1 + COCO_IDS.index(crowds[0]['category_id'])
    return 0


def instances(root, part):
    return json.loads((root / 'annotations' / f'instances_{part}2017.json').read_text())


def change_instances(root, part, change):
    path = root / 'annotations' / f'instances_{part}2017.json'
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    'options, overlap, crowd',
    [
        ((), 'smaller', 'class'),
        (('--overlap', 'ignore'), 'ignore', 'class'),
        (('--crowd', 'ignore'), 'smaller', 'ignore'),
    ],
)
def test_coco_masks_against_a_test_of_every_pixel(coco, options, overlap, crowd):
    coco.run(*options)
    values = set()
    for part in ('train', 'val'):
        content = instances(coco.root, part)
        for image in content['images']:
            found = [one for one in content['annotations'] if one['image_id'] == image['id']]
            path = coco.root / f'semantic_masks/{part}2017/{image["id"]:012d}.png'
            expected = [
                [coco_pixel(found, x, y, overlap, crowd) for x in range(image['width'])]
                for y in range(image['height'])
            ]
            assert np.array_equal(read(path), expected)
            values |= set(np.unique(expected).tolist())
    assert len(values) > 15 and (255 in values) == bool(options) and max(values - {255}) > 70
    assert len(coco.outputs()) == 11
    assert not read(coco.root / 'semantic_masks/train2017/000000000025.png').any()


def one_image(content, annotations):
    """Leave one image of 7 x 5 pixels with some annotations."""
    content['images'] = [dict(id=1, file_name='000000000001.jpg', width=7, height=5)]
    base = dict(image_id=1, iscrowd=0, area=1.0)
    content['annotations'] = [dict(base, id=n, **one) for n, one in enumerate(annotations)]


def draw_one(coco, annotations, *options):
    """The mask of an image of 7 x 5 pixels."""
    write(coco.root / 'train2017' / '000000000001.jpg', np.zeros((5, 7, 3)))
    change_instances(coco.root, 'train', lambda content: one_image(content, annotations))
    coco.run('--overwrite', *options)
    return read(coco.root / 'semantic_masks/train2017/000000000001.png').tolist()


def test_coco_order_of_objects(coco):
    whole = [[0, 0, 7, 0, 7, 5, 0, 5]]
    left, right = [[0, 0, 4, 0, 4, 5, 0, 5]], [[3, 0, 7, 0, 7, 5, 3, 5]]
    annotations = [
        dict(category_id=90, segmentation=right, area=20.0),
        dict(category_id=13, segmentation=left, area=20.0),
        dict(category_id=1, segmentation=whole, area=35.0),
        dict(category_id=2, segmentation=dict(counts=[0, 35], size=[5, 7]), area=1.0, iscrowd=1),
    ]
    assert draw_one(coco, annotations) == [[12, 12, 12, 12, 80, 80, 80]] * 5
    annotations[1]['area'] = 20.5  # the area that is written down counts, not that of the pixels
    assert draw_one(coco, annotations) == [[12, 12, 12, 80, 80, 80, 80]] * 5
    del annotations[2]
    ignoring = draw_one(coco, annotations, '--overlap', 'ignore', '--crowd', 'ignore')
    assert ignoring == [[12, 12, 12, 255, 80, 80, 80]] * 5


def test_coco_segmentations_of_all_forms(coco):
    annotations = [
        dict(category_id=1, segmentation=dict(counts=';23000004', size=[5, 7])),  # compressed
        dict(category_id=2, segmentation=dict(counts=[2, 1, 32], size=[5, 7])),
        dict(category_id=3, segmentation=[[0, 4, 7, 5], [6, 0, 7, 0, 7, 1, 6, 1]]),
        dict(category_id=4, segmentation=[]),
    ]
    assert draw_one(coco, annotations) == [
        [0, 0, 0, 0, 0, 0, 3],
        [0, 0, 1, 1, 1, 1, 0],
        [2, 0, 1, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0],
    ]


@pytest.mark.parametrize(
    'segmentation, problem',
    [
        (dict(counts=[35, 1], size=[5, 7]), '36 pixels'),
        (dict(counts=[35], size=[7, 5]), r'the size [7, 5]'),
        (dict(size=[5, 7]), "KeyError: 'counts'"),
        ([1, 2, 3], 'cannot be drawn'),
        (None, 'cannot be drawn'),
    ],
)
def test_segmentations_that_are_wrong(coco, segmentation, problem):
    annotation = dict(category_id=1, segmentation=segmentation)
    with pytest.raises(SystemExit) as error:
        draw_one(coco, [annotation])
    message = str(error.value)
    assert problem in message and 'instances_train2017.json, image 000000000001.jpg' in message
    assert len(list((coco.root / 'semantic_masks' / 'val2017').iterdir())) == 4


def rename_category(content):
    content['categories'][3]['name'] = 'bike'


def drop_category(content):
    content['categories'].pop()


def lose_image(content):
    content['images'].pop(0)


def lose_area(content):
    del content['annotations'][0]['area']


def lose_images(content):
    del content['images']


@pytest.mark.parametrize(
    'change, problem',
    [
        (rename_category, 'bike (not motorcycle)'),
        (drop_category, 'has 79 categories'),
        (lose_image, 'annotation 100 is of image 9'),
        (lose_area, "KeyError: 'area'"),
        (lose_images, 'must have the lists images, annotations, categories'),
    ],
)
def test_instances_that_are_wrong(coco, change, problem):
    path = change_instances(coco.root, 'train', change)
    message = coco.refused()
    assert str(path) in message and problem in message and not coco.outputs()


def test_instances_that_are_cut_short(coco):
    path = coco.root / 'annotations' / 'instances_val2017.json'
    cut_short(path)
    assert f'{path} cannot be read' in coco.refused()


def test_coco_images_that_are_missing_or_of_another_size(coco):
    path = coco.root / 'train2017' / '000000000030.jpg'
    write(path, np.zeros((9, 8, 3)))
    message = coco.refused()
    assert f'image 000000000030.jpg has 54 x 33 pixels, its image {path} 8 x 9' in message
    path.unlink()
    assert str(path) in coco.refused(strictly=True)
    output = coco.run()
    assert any(line.startswith('WARNING') and str(path) in line for line in output)
    assert '0 masks written, 10 kept' in output[-1]


def test_other_options_make_the_masks_anew(coco):
    coco.run()
    first = coco.contents()
    assert '11 masks written, 0 kept' in coco.run('--overlap', 'ignore')[-1]
    assert '0 masks written, 11 kept' in coco.run('--overlap', 'ignore')[-1]
    assert '11 masks written, 0 kept' in coco.run()[-1] and coco.contents() == first


def test_masks_of_other_programs_are_kept_and_said_to_be_so(coco):
    coco.run()
    path = coco.outputs()[0]
    write(path, read(path))
    other = path.read_bytes()
    output = coco.run('--overlap', 'ignore')[-1]
    assert '10 masks written, 1 kept (1 of them made by another program; --overwrite' in output
    assert path.read_bytes() == other
    assert '11 masks written, 0 kept' in coco.run('--overwrite')[-1] and path.read_bytes() != other


# ------------------------------------------------------------------------------------------- Lucchi
def pages(path):
    return cv2.imreadmulti(str(path), flags=cv2.IMREAD_UNCHANGED)[1]


def save_stack(path, arrays):
    first, *rest = map(Image.fromarray, arrays)
    first.save(path, save_all=True, append_images=rest)


def test_lucchi_slices(lucchi):
    lucchi.run()
    for part, stack, count in (('train', 'training', 6), ('val', 'testing', 4)):
        images = pages(lucchi.root / f'{stack}.tif')
        names = [f'slice_{number:03d}.png' for number in range(count)]
        for kind in ('images', 'annotations'):
            folder = lucchi.root / kind / part
            assert sorted(path.name for path in folder.iterdir()) == names
        for number, name in enumerate(names):
            assert np.array_equal(read(lucchi.root / 'images' / part / name), images[number])
            mask = read(lucchi.root / 'annotations' / part / name)
            assert np.array_equal(mask, lucchi_mask(stack, number)) and set(mask.ravel()) == {0, 1}


def test_lucchi_stacks_with_the_other_suffix_and_values(lucchi):
    lucchi.run()
    expected = lucchi.contents()
    shutil.rmtree(lucchi.root / 'annotations')
    truth = lucchi.root / 'training_groundtruth.tif'
    save_stack(truth.with_suffix('.tiff'), [page // 255 for page in pages(truth)])
    truth.unlink()
    lucchi.run()
    assert lucchi.contents() == expected


@pytest.mark.parametrize(
    'change, share',
    [(lambda page: page, None), (lambda page: 255 - page, '8'), (np.zeros_like, '0')],
)
def test_lucchi_says_how_much_is_mitochondria_and_doubts_what_can_not_be(lucchi, change, share):
    truth = lucchi.root / 'training_groundtruth.tif'
    save_stack(truth, [change(page) for page in pages(truth)])
    printed = '\n'.join(lucchi.run())
    assert re.search(rf'training_groundtruth.tif: {share or ""}[0-9.]*% of the pixels', printed)
    assert ('training_groundtruth.tif: that is not plausible' in printed) == (share is not None)


def test_voc_lists_that_can_not_be(voc):
    lists = voc.voc / 'ImageSets' / 'Segmentation'
    train = (lists / 'train.txt').read_text()
    (lists / 'train.txt').write_text(train + '2007_000033\n')
    assert 'train.txt and val.txt: 1 images are in both: 2007_000033' in voc.refused()
    (lists / 'train.txt').write_text('')
    assert 'train.txt names no image' in voc.refused()


def test_the_environment_says_where_the_data_are(lucchi, monkeypatch):
    monkeypatch.setenv('LUCCHI_ROOT', str(lucchi.root))
    lucchi.main(['--partial'])
    assert (lucchi.root / 'images' / 'train' / 'slice_000.png').is_file()


def test_a_stopped_conversion_says_how_to_go_on(lucchi, monkeypatch):
    written = []

    def stop_at_the_third(path, content):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        files.write_file(path, content)

    monkeypatch.setattr('mmseg_semi.prepare.conversion.write_file', stop_at_the_third)
    assert 'stopped; 2 slices were written and 0 kept so far. Run the same' in lucchi.refused()
    monkeypatch.undo()
    assert '2 kept' in lucchi.run()[-1]


@pytest.mark.parametrize(
    'name, change, problem',
    [
        ('training', lambda stack: stack[:-1], 'has 5 slices of 48 x 36 pixels'),
        ('training_groundtruth', lambda stack: [p[1:] for p in stack], '6 slices of 48 x 35;'),
        ('testing', lambda stack: [*stack[1:], stack[0][:, 2:]], 'slices must have one size'),
        ('testing_groundtruth', lambda stack: [p // 2 for p in stack], 'the values [0, 127]'),
        ('testing_groundtruth', lambda stack: [stack[0] // 255, *stack[1:]], '[0, 1, 255]'),
        ('testing', lambda stack: [p.astype(np.uint16) for p in stack], 'slice 0 has pixels of'),
    ],
)
def test_lucchi_stacks_that_are_wrong(lucchi, name, change, problem):
    path = lucchi.root / f'{name}.tif'
    save_stack(path, change(pages(path)))
    message = lucchi.refused()
    assert str(path) in message and problem in message and not lucchi.outputs()


def test_lucchi_stacks_that_are_cut_short(lucchi):
    path = lucchi.root / 'testing.tif'
    cut_short(path)
    message = lucchi.refused()
    assert str(path) in message and not lucchi.outputs()


# -------------------------------------------------------------------------------------- all of them
@pytest.mark.parametrize('name', CONVERTERS)
def test_a_second_run_keeps_what_is_complete_and_replaces_what_is_not(conversion, name):
    one = conversion(name)
    one.run()
    first = one.states()
    written = [path for path in first if path.suffix == '.png']
    assert (
        f'0 {"slices" if name == "lucchi" else "masks"} written, {len(written)} kept'
        in (one.run()[-1])
    )
    assert one.states() == first

    cut, empty, other = written[:3]
    cut_short(cut)
    empty.write_bytes(b'')
    write(other, np.zeros((*read(other).shape, 3)))
    kept = f' {len(written) - 3} kept'
    assert kept in one.run()[-1]
    second = one.states()
    assert {path: state[0] for path, state in second.items()} == one.contents()
    assert one.contents() == {path: state[0] for path, state in first.items()}
    changed = {path for path in first if first[path] != second[path]}
    assert changed == {cut, empty, other}


@pytest.mark.parametrize('name', CONVERTERS)
def test_overwriting_makes_the_same_files_anew(conversion, name):
    one = conversion(name)
    one.run()
    first = one.states()
    assert ' 0 kept' in one.run('--overwrite')[-1]
    second = one.states()
    assert {path: state[0] for path, state in first.items()} == one.contents()
    assert all(first[path][1:] != second[path][1:] for path in first)


def test_masks_of_another_size_than_their_image_are_made_anew(voc):
    voc.run()
    path = voc.voc / 'SegmentationClassAug' / f'{VOC_VAL[0]}.png'
    write(path, read(path)[1:])
    assert '1 masks written, 10 kept' in voc.run()[-1]
    assert np.array_equal(read(path), voc_mask(VOC_VAL[0]))


@pytest.mark.parametrize('name', CONVERTERS[:3])
def test_any_number_of_workers_writes_the_same(server, conversion, name):
    one = conversion(name)
    one.run()
    expected = one.contents()
    for path in one.outputs():
        path.unlink()
    args = (*one.roots, '--partial', '--workers', 2)
    output = server.run(script(name), *args).output.splitlines()
    assert one.contents() == expected and ' 0 kept' in output[-1]
    assert ' 0 masks written' in server.run(script(name), *args).output.splitlines()[-1]


@pytest.mark.parametrize('name', CONVERTERS[:3])
def test_zero_workers_are_refused(tools, name, capsys):
    with pytest.raises(SystemExit):
        tools[name].main(['--workers', '0'])
    assert "--workers: '0' is no number of processes; give 1 or more" in capsys.readouterr().err


DYING = """
import os, signal
from pathlib import Path
from mmseg_semi.prepare import {tool}

write, calls = Path.write_bytes, []

def write_half(path, data):
    calls.append(path)
    if len(calls) < 4:
        return write(path, data)
    write(path, data[:len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)

Path.write_bytes = write_half
{tool}.main()
"""


@pytest.mark.parametrize('name', CONVERTERS)
def test_a_killed_run_leaves_no_half_file_and_is_continued(server, conversion, tmp_path, name):
    one = conversion(name)
    one.run()
    expected = one.contents()
    for path in one.outputs():
        path.unlink()
    dying = tmp_path / 'dying.py'
    dying.write_text(DYING.format(tool=name))
    server.run(dying, *one.roots, '--partial', code=-signal.SIGKILL)
    done = {path for path in one.outputs() if path.suffix != '.part'}
    assert len(done) == 3 and len(one.outputs()) == 4
    assert all(path.read_bytes() == expected[path] for path in done)
    assert ' 3 kept' in one.run()[-1] and one.contents() == expected


@pytest.mark.parametrize('name', CONVERTERS)
def test_a_broken_input_does_not_keep_the_others_and_a_repaired_one_goes_on(conversion, name):
    one = conversion(name)
    broken = {
        'voc_sbd': one.voc / 'SegmentationClass' / f'{VOC_TRAIN[0]}.png',
        'cityscapes_train_ids': one.root
        / 'gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png',
        'coco_masks': one.root / 'train2017' / '000000000009.jpg',
        'lucchi': one.root / 'testing.tif',
    }[name]
    content = broken.read_bytes()
    broken.write_bytes(b'nothing')
    message = one.refused()
    assert f'{broken} cannot be read' in message and 'Copy or download it anew' in message
    done = one.states()
    broken.write_bytes(content)
    if name == 'lucchi':  # its stacks are read before anything is written
        assert not done
    else:
        assert len(done) == {'voc_sbd': 10, 'cityscapes_train_ids': 6, 'coco_masks': 10}[name]
    output = one.run()[-1]
    assert f' {len(done)} kept' in output
    assert all(one.states()[path] == state for path, state in done.items())


@pytest.mark.parametrize(
    'name, found, complete',
    [
        ('voc_sbd', '(train 4, val 3)', 10582),
        ('voc_sbd', '8 images for train_aug.txt', 10582),
        ('cityscapes_train_ids', '5 images with label ids', 2975),
        ('coco_masks', '7 images', 118287),
        ('lucchi', '6 slices', 165),
    ],
)
def test_incomplete_data_are_refused(conversion, name, found, complete):
    one = conversion(name)
    message = one.refused(strictly=True)
    assert found in message and f'has {complete}' in message and '--partial' in message
    assert not one.outputs()


def test_the_validation_part_is_counted_too(coco, cityscapes, tools, monkeypatch):
    monkeypatch.setitem(tools['coco_masks'].COMPLETE, 'train2017', 7)
    monkeypatch.setitem(tools['cityscapes_train_ids'].COMPLETE, 'train', 5)
    assert '4 images found, the complete data set has 5000' in coco.refused(strictly=True)
    message = cityscapes.refused(strictly=True)
    assert '2 images with label ids found, the complete data set has 500' in message


def test_complete_data_need_no_option(coco, tools, monkeypatch):
    for part, count in (('train2017', 7), ('val2017', 4)):
        monkeypatch.setitem(tools['coco_masks'].COMPLETE, part, count)
    assert '11 masks written' in coco.run_strictly()[-1]


@pytest.mark.parametrize(
    'name, missing, says',
    [
        ('voc_sbd', 'VOCdevkit/VOC2012/JPEGImages', 'VOC2012 lacks JPEGImages/ '),
        ('voc_sbd', 'VOCdevkit/VOC2012/SegmentationClass', 'lacks SegmentationClass/ '),
        (
            'voc_sbd',
            'VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt',
            'lacks ImageSets/Segmentation/val.txt ',
        ),
        ('voc_sbd', 'benchmark_RELEASE/dataset/cls', 'dataset lacks cls/ '),
        ('voc_sbd', 'benchmark_RELEASE/dataset/train.txt', 'dataset lacks train.txt '),
        ('voc_sbd', 'benchmark_RELEASE/dataset', 'there is no folder '),
        ('cityscapes_train_ids', 'gtFine/val', 'lacks gtFine/val/ '),
        ('cityscapes_train_ids', 'leftImg8bit', 'lacks leftImg8bit/train/, leftImg8bit/val/ '),
        ('coco_masks', 'val2017', 'lacks val2017/ '),
        (
            'coco_masks',
            'annotations/instances_train2017.json',
            'lacks annotations/instances_train2017.json ',
        ),
        (
            'lucchi',
            'testing_groundtruth.tif',
            'lacks testing_groundtruth.tif or testing_groundtruth.tiff ',
        ),
    ],
)
def test_other_layouts_are_refused(conversion, name, missing, says):
    one = conversion(name)
    path = one.root / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    message = one.refused()
    assert says in message and 'Expected: ' in message and str(one.root) in message
    assert f'looked for from {os.getcwd()}' in message and not one.outputs()


@pytest.mark.parametrize('name', CONVERTERS)
def test_default_folders(tools, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match='there is no folder data/') as error:
        tools[name].main([])
    folder = {
        'voc_sbd': 'data/VOCdevkit/VOC2012 ',
        'cityscapes_train_ids': 'data/cityscapes ',
        'coco_masks': 'data/coco ',
        'lucchi': 'data/lucchi ',
    }[name]
    assert folder in str(error.value)


@pytest.mark.parametrize('name', CONVERTERS)
def test_folders_without_any_image(conversion, name):
    one = conversion(name)
    if name == 'voc_sbd':
        for path in (*one.voc.rglob('*.txt'), *one.sbd.glob('*.txt')):
            path.write_text('')
    elif name == 'coco_masks':
        change_instances(one.root, 'train', lambda content: one_image(content, []))
    elif name == 'cityscapes_train_ids':
        for path in one.root.glob('*/train/*'):
            shutil.rmtree(path)
    else:
        (one.root / 'training.tif').write_bytes(b'')
    message = one.refused()
    assert (
        any(text in message for text in ('found', 'cannot be read', 'names no image'))
        and not one.outputs()
    )


@pytest.mark.parametrize(
    'name, module', [('voc_sbd', 'scipy.io'), ('coco_masks', 'pycocotools.mask')]
)
def test_packages_that_are_not_installed(conversion, name, module, monkeypatch):
    one = conversion(name)
    monkeypatch.setitem(sys.modules, module, None)
    message = one.refused()
    assert f'needs {module.split(".")[0]}' in message and 'mmdet>=3.3.0,<4.0.0' in message
    assert not one.outputs()


def test_a_full_disk(cityscapes, monkeypatch):
    def write_bytes(path, data):
        if 'val' in path.parts:
            raise OSError(28, 'No space left on device', str(path))
        return write_all(path, data)

    write_all = Path.write_bytes
    monkeypatch.setattr(files.Path, 'write_bytes', write_bytes)
    message = cityscapes.refused()
    assert 'No space left on device' in message and 'frankfurt' in message
    assert len(cityscapes.outputs()) == 5
    monkeypatch.undo()
    assert '2 masks written, 5 kept' in cityscapes.run()[-1]


def die_at_two(number):
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return np.full((2, 3), number, np.uint8)


def test_a_worker_that_is_killed(tmp_path):
    tasks = [Task(tmp_path / f'{n}.png', 'test', None, n) for n in range(4)]
    with pytest.raises(SystemExit, match='a worker process was killed.*fewer --workers'):
        convert(tasks, die_at_two, 'test', workers=2)
    for path in tmp_path.glob('*.png'):
        assert (read(path) == int(path.stem)).all()
