"""COCO files out of masks: against a flood fill of the masks, and what mmcv loads."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from PIL import Image
from tool_runs import CONFIGS, SUPERVISED, TOOLS, UNIMATCH, merged, write_config

from mmseg_semi.detection import masks_to_coco as tool
from mmseg_semi.detection.coco import (
    coco_annotations,
    coco_categories,
    coco_images,
    image_size,
    read_coco,
    write_coco_files,
)

TOOL = TOOLS / 'dataset_converters' / 'masks_to_coco.py'
CLASSES = ['background', 'zero', 'one', 'two', 'three', 'four']
DIGITS = dict(detection_classes=None, detection_min_area=20)
ORIENTATION = 0x0112


@pytest.fixture
def root(digit_root, tmp_path):
    """A copy of the tiny scenes that may be written to, some of the masks with speckles."""
    root = tmp_path / 'digit_scenes'
    shutil.copytree(digit_root, root)
    source = np.random.default_rng(0)
    for path in sorted(masks_folder(root).glob('*.png'))[:4]:
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        speckled = source.random(mask.shape) < 0.05
        mask[speckled] = source.choice([0, 3, 255], speckled.sum())
        assert cv2.imwrite(str(path), mask)
    return root


def masks_folder(root):
    return root / 'annotations' / 'labeled'


def config_of(folder, root, **changes):
    return write_config(folder / 'config.py', UNIMATCH, root, **{**DIGITS, **changes})


def convert(server, config, *args, code=0):
    return server.run(TOOL, config, *args, code=code).output


def flood_fill(mask, min_area, connectivity=8):
    """``{class: {(x, y, width, height), ...}}`` of a mask's components, as a sorted list."""
    rows, found = mask.tolist(), {}
    todo = {(y, x) for y in range(mask.shape[0]) for x in range(mask.shape[1])}
    while todo:
        border = [todo.pop()]
        one, component = rows[border[0][0]][border[0][1]], []
        while border:
            y, x = border.pop()
            component.append((y, x))
            for v in (y - 1, y, y + 1):
                for u in (x - 1, x, x + 1):
                    near = connectivity == 8 or v == y or u == x
                    if near and (v, u) in todo and rows[v][u] == one:
                        todo.remove((v, u))
                        border.append((v, u))
        if len(component) >= min_area:
            ys, xs = zip(*component)
            box = (min(xs), min(ys), max(xs) - min(xs) + 1, max(ys) - min(ys) + 1)
            found.setdefault(one, []).append(box)
    return {one: sorted(boxes) for one, boxes in found.items()}


def expected_boxes(root, classes, min_area, connectivity=8, names=None):
    """``{file name: {class: boxes}}`` of the PNG masks."""
    names = names or (root / 'splits' / 'labeled_8.txt').read_text().split()
    out = {}
    for name in names:
        mask = cv2.imread(str(masks_folder(root) / f'{name}.png'), cv2.IMREAD_UNCHANGED)
        found = flood_fill(mask, min_area, connectivity)
        out[f'{name}.png'] = {one: found[one] for one in classes if one in found}
    return out


def boxes_in(path):
    """What a COCO file says, in the form of ``expected_boxes``."""
    content = json.loads(path.read_text())
    names = {image['id']: image['file_name'] for image in content['images']}
    out = {name: {} for name in names.values()}
    for one in content['annotations']:
        assert one['area'] == one['bbox'][2] * one['bbox'][3] and one['iscrowd'] == 0
        boxes = out[names[one['image_id']]].setdefault(one['category_id'], [])
        boxes.append(tuple(one['bbox']))
    return {name: {k: sorted(v) for k, v in found.items()} for name, found in out.items()}


def count(expected, one):
    return sum(len(found.get(one, [])) for found in expected.values())


# ---------------------------------------------------------------------------------- what is written
def test_files_have_the_boxes_of_a_flood_fill(server, root, tmp_path):
    output = convert(server, config_of(tmp_path, root))
    folder = root / 'detection' / 'labeled_8'
    assert sorted(path.name for path in folder.iterdir()) == ['labeled.json', 'unlabeled.json']
    expected = expected_boxes(root, range(1, 6), 20)
    assert boxes_in(folder / 'labeled.json') == expected
    total = sum(count(expected, one) for one in range(1, 6))
    assert total > 8 and f'labeled.json: 8 images, {total} boxes' in output
    for number, name in enumerate(CLASSES[1:], 1):
        images = sum(number in found for found in expected.values())
        row = f'{name} {count(expected, number)} {images}'
        assert row in [' '.join(line.split()) for line in output.splitlines()]

    labeled, unlabeled = (
        json.loads((folder / f'{part}.json').read_text()) for part in ('labeled', 'unlabeled')
    )
    categories = [dict(id=n, name=name) for n, name in enumerate(CLASSES) if n]
    assert labeled['categories'] == unlabeled['categories'] == categories
    assert [image['id'] for image in labeled['images']] == list(range(1, 9))
    assert [one['id'] for one in labeled['annotations']] == list(range(1, total + 1))
    paths = sorted((root / 'images' / 'unlabeled').glob('*.png'))
    assert unlabeled['annotations'] == [] and unlabeled['images'] == [
        dict(id=i, file_name=path.name, width=64, height=64) for i, path in enumerate(paths, 1)
    ]
    assert labeled['info']['image_folders'] == ['images/labeled']
    assert unlabeled['info']['image_folders'] == ['images/unlabeled']
    assert labeled['info']['ann_files'] == ['splits/labeled_8.txt']
    assert str(root) not in (folder / 'labeled.json').read_text()
    read_coco(folder / 'labeled.json')


@pytest.mark.parametrize(
    'options, changes, classes, min_area, connectivity',
    [
        (['--min-area', 0, '--connectivity', 4], {}, (1, 2, 3, 4, 5), 0, 4),
        ([], dict(detection_min_area=150), (1, 2, 3, 4, 5), 150, 8),
        (['--min-area', 3], dict(detection_min_area=150), (1, 2, 3, 4, 5), 3, 8),
        (['--classes', 'three', 'background'], {}, (0, 4), 20, 8),
        (['--classes', 'two', 'one', '--exclude', 'two'], {}, (2,), 20, 8),
        (['--exclude', 'three', 'one'], {}, (0, 1, 3, 5), 20, 8),
        (['--exclude'], {}, (0, 1, 2, 3, 4, 5), 20, 8),
        ([], dict(detection_classes=('four', 'background')), (0, 5), 20, 8),
        (['--classes', 'zero'], dict(detection_classes=('four',)), (1,), 20, 8),
        (['--cfg-options', 'detection_min_area=7'], {}, (1, 2, 3, 4, 5), 7, 8),
    ],
)
def test_options_and_config_keys(
    server, root, tmp_path, options, changes, classes, min_area, connectivity
):
    out = tmp_path / 'a' / 'b'
    config = config_of(tmp_path, root, **changes)
    convert(server, config, '--out-dir', out, *options)
    expected = expected_boxes(root, classes, min_area, connectivity)
    assert boxes_in(out / 'labeled.json') == expected
    content = json.loads((out / 'labeled.json').read_text())
    assert content['categories'] == [dict(id=n, name=CLASSES[n]) for n in classes]
    assert content['info']['min_area'] == min_area
    assert content['info']['connectivity'] == connectivity
    assert not (root / 'detection').exists()


def test_without_config_keys_90_pixels_and_all_classes_but_background():
    assert tool.choose_min_area({}, None) == 90
    assert tool.choose_classes(CLASSES, {}) == dict(enumerate(CLASSES[1:], 1))
    assert tool.choose_classes(CLASSES[1:], {}) == dict(enumerate(CLASSES[1:]))


@pytest.mark.parametrize(
    'ann_file, name',
    [
        ('', 'all'),
        ('data/splits/labeled_60.txt', 'labeled_60'),
        ('data/semi/186/labeled.txt', '186'),
        ('labeled.txt', 'labeled'),
    ],
)
def test_names_of_splits(ann_file, name):
    assert tool.split_name(ann_file) == name


def test_pipelines_that_read_the_boxes_do_not_stand_in_the_way(server, root, tmp_path):
    """The unlabeled pipeline of a config that trains with the detector needs files of later."""
    unlabeled = dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='StrongViews', num_views=-1, transforms=[]),  # cannot be built
            dict(type='PackSemiInputs'),
        ]
    )
    config = config_of(tmp_path, root, train_dataloader=dict(dataset=dict(unlabeled=unlabeled)))
    convert(server, config)
    assert (root / 'detection' / 'labeled_8' / 'unlabeled.json').is_file()


def test_a_class_without_boxes_is_named(server, root, tmp_path):
    for path in masks_folder(root).glob('*.png'):
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        mask[mask == 4] = 255
        assert cv2.imwrite(str(path), mask)
    out = tmp_path / 'out'
    output = convert(server, config_of(tmp_path, root), '--out-dir', out)
    warnings = [line for line in output.splitlines() if 'cannot learn it' in line]
    assert len(warnings) == 1 and "'three'" in warnings[0]
    assert boxes_in(out / 'labeled.json') == expected_boxes(root, (1, 2, 3, 5), 20)


def test_all_images_without_a_split_file(server, root, tmp_path):
    labeled = dict(labeled=dict(ann_file=''))
    convert(server, config_of(tmp_path, root, train_dataloader=dict(dataset=labeled)))
    names = sorted(path.stem for path in (root / 'images' / 'labeled').glob('*.png'))
    found = boxes_in(root / 'detection' / 'all' / 'labeled.json')
    assert found == expected_boxes(root, range(1, 6), 20, names=names)


def test_reduce_zero_label_is_respected(server, root, tmp_path):
    names = CLASSES[1:]
    labeled = dict(
        reduce_zero_label=True,
        metainfo=dict(classes=names, palette=[[n, 0, 0] for n in range(5)]),
    )
    config = config_of(tmp_path, root, train_dataloader=dict(dataset=dict(labeled=labeled)))
    convert(server, config, '--out-dir', tmp_path / 'out')
    expected = {
        name: {one - 1: boxes for one, boxes in found.items()}
        for name, found in expected_boxes(root, range(1, 6), 20).items()
    }
    assert boxes_in(tmp_path / 'out' / 'labeled.json') == expected


def with_datasets(root, folder, labeled, unlabeled):
    """A config whose parts are wrapped datasets; both are functions of the plain part."""
    config = folder / 'wrapped.py'
    config.write_text(
        f'_base_ = {str(config_of(folder, root))!r}\n'
        'plain = _base_.train_dataloader.dataset\n'
        f'labeled = {labeled}\n'
        f'unlabeled = {unlabeled}\n'
        'labeled["_delete_"] = unlabeled["_delete_"] = True\n'
        'train_dataloader = dict(dataset=dict(labeled=labeled, unlabeled=unlabeled))\n'
    )
    return config


def test_wrapped_datasets(server, root, tmp_path):
    names = (root / 'splits' / 'labeled_8.txt').read_text().split()
    (root / 'splits' / 'first.txt').write_text('\n'.join(names[:5]))
    (root / 'splits' / 'last.txt').write_text('\n'.join(names[3:]))
    part = 'dict(plain.labeled, ann_file="splits/{}.txt")'
    both = f'[{part.format("first")}, {part.format("last")}]'
    config = with_datasets(
        root,
        tmp_path,
        f'dict(type="ConcatDataset", datasets={both})',
        'dict(type="RepeatDataset", times=3, dataset=dict(plain.unlabeled))',
    )
    output = convert(server, config, code=1)
    assert '--out-dir' in output and not (root / 'detection').exists()
    convert(server, config, '--out-dir', tmp_path / 'out')
    found = boxes_in(tmp_path / 'out' / 'labeled.json')
    assert found == expected_boxes(root, range(1, 6), 20)
    assert len(boxes_in(tmp_path / 'out' / 'unlabeled.json')) == 13


def test_names_that_stand_for_two_images_are_refused(server, root, tmp_path):
    shutil.copytree(root / 'images' / 'unlabeled', root / 'images' / 'more')
    more = 'dict(plain.unlabeled, data_prefix=dict(img_path="images/more"))'
    both = f'dict(type="ConcatDataset", datasets=[dict(plain.unlabeled), {more}])'
    config = with_datasets(root, tmp_path, 'dict(plain.labeled)', both)
    output = convert(server, config, code=1)
    assert 'images/more/0000' in output and 'images/unlabeled/0000' in output
    assert 'Traceback' not in output and not (root / 'detection').exists()
    for path in (root / 'images' / 'more').iterdir():
        path.rename(path.with_name(f'more_{path.name}'))
    output = convert(server, config)
    assert 'several folders' in output
    assert len(boxes_in(root / 'detection' / 'labeled_8' / 'unlabeled.json')) == 26


def test_sizes_and_nested_names_are_those_that_are_loaded(server, root, tmp_path):
    folder = root / 'images' / 'unlabeled'
    (folder / 'deep' / 'er').mkdir(parents=True)
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    picture = Image.new('RGB', (50, 30))
    picture.save(folder / 'deep' / 'plain.jpg')
    picture.save(folder / 'deep' / 'er' / 'turned.jpg', exif=turned)
    convert(server, config_of(tmp_path, root))
    content = json.loads((root / 'detection' / 'labeled_8' / 'unlabeled.json').read_text())
    sizes = {one['file_name']: (one['width'], one['height']) for one in content['images']}
    assert sizes.pop('deep/plain.jpg') == (50, 30)
    assert sizes.pop('deep/er/turned.jpg') == (30, 50)
    assert set(sizes.values()) == {(64, 64)} and len(sizes) == 13


def test_transforms_that_need_later_files_are_left_out():
    class LoadBoxes:
        pass

    load, annotate = dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations')
    later = [dict(type=LoadBoxes), dict(type='PackSemiInputs')]
    plain = dict(type='A', pipeline=[load, annotate, *later], ann_file='x')
    kept = dict(plain, pipeline=[load, annotate])
    assert tool.loading_only(plain) == kept and len(plain['pipeline']) == 4
    assert tool.loading_only(dict(type='R', dataset=plain)) == dict(type='R', dataset=kept)
    assert tool.loading_only(dict(datasets=[plain, plain])) == dict(datasets=[kept, kept])
    by_class = dict(pipeline=[dict(type=LoadImageFromFile), LoadImageFromFile(), LoadBoxes()])
    assert len(tool.loading_only(by_class)['pipeline']) == 2


# ----------------------------------------------------------------------------------------- failures
@pytest.mark.parametrize(
    'options, changes, words',
    [
        (['--classes', 'fuor'], {}, ["'fuor'", "'four'", '--classes', 'background, zero']),
        (['--exclude', 'backgruond'], {}, ["'backgruond'", "'background'", '--exclude']),
        ([], dict(detection_classes=('tow',)), ["'tow'", "'two'", 'detection_classes']),
        ([], dict(detection_classes='four'), ["'four'", 'tuple of class names']),
        ([], dict(detection_classes=()), ['no class is left']),
        (['--exclude', *CLASSES], {}, ['no class is left']),
        (['--min-area', -1], {}, ['--min-area is -1']),
        ([], dict(detection_min_area=2.5), ['detection_min_area is 2.5']),
        (['--min-area', 4000], {}, ['4000 pixels', 'nothing was written']),
    ],
)
def test_wrong_settings_are_refused(server, root, tmp_path, options, changes, words):
    output = convert(server, config_of(tmp_path, root, **changes), *options, code=1)
    assert all(word in output for word in words), output
    assert 'Traceback' not in output and not (root / 'detection').exists()


def test_wrong_connectivity_is_refused(server, root, tmp_path):
    output = convert(server, config_of(tmp_path, root), '--connectivity', 6, code=2)
    assert '--connectivity' in output and not (root / 'detection').exists()


def test_masks_of_background_only(server, root, tmp_path):
    for path in masks_folder(root).glob('*.png'):
        assert cv2.imwrite(str(path), np.zeros((64, 64), np.uint8))
    config = config_of(tmp_path, root)
    output = convert(server, config, code=1)
    assert 'none of the 8 masks' in output and 'Traceback' not in output
    assert not (root / 'detection').exists()
    convert(server, config, '--classes', 'background', 'one')
    found = boxes_in(root / 'detection' / 'labeled_8' / 'labeled.json')
    assert len(found) == 8 and all(boxes == {0: [(0, 0, 64, 64)]} for boxes in found.values())


@pytest.mark.parametrize('broken', ['cut', 'color', 'small', 'image'])
def test_a_run_that_fails_leaves_earlier_files_alone(server, root, tmp_path, broken):
    config = config_of(tmp_path, root)
    convert(server, config)
    folder = root / 'detection' / 'labeled_8'
    before = {path: path.read_bytes() for path in folder.iterdir()}
    path = masks_folder(root) / f'{(root / "splits/labeled_8.txt").read_text().split()[-1]}.png'
    if broken == 'cut':
        path.write_bytes(path.read_bytes()[:40])
    elif broken == 'color':
        assert cv2.imwrite(str(path), np.zeros((64, 64, 3), np.uint8))
    elif broken == 'small':
        assert cv2.imwrite(str(path), np.zeros((32, 64), np.uint8))
    else:
        path = sorted((root / 'images' / 'unlabeled').glob('*.png'))[-1]
        path.write_bytes(b'nothing')
    output = convert(server, config, code=1)
    assert str(path) in output and 'Traceback' not in output
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_files_of_another_split_are_not_overwritten(server, root, tmp_path):
    (root / 'other').mkdir()
    shutil.copy(root / 'splits' / 'labeled_8.txt', root / 'other' / 'labeled_8.txt')
    convert(server, config_of(tmp_path, root))
    convert(server, config_of(tmp_path, root))
    other = dict(labeled=dict(ann_file='other/labeled_8.txt'))
    config = config_of(tmp_path, root, train_dataloader=dict(dataset=other))
    output = convert(server, config, code=1)
    assert 'splits/labeled_8.txt' in output and 'other/labeled_8.txt' in output
    folder = root / 'detection' / 'labeled_8'
    convert(server, config, '--out-dir', folder)
    assert read_coco(folder / 'labeled.json')['info']['ann_files'] == ['other/labeled_8.txt']


def test_configs_without_unlabeled_images_or_masks_are_refused(server, root, tmp_path):
    dataset = dict(data_root=str(root), ann_file='splits/labeled_8.txt')
    plain = tmp_path / 'plain.py'
    plain.write_text(
        f'_base_ = {str(CONFIGS / SUPERVISED)!r}\n'
        f'train_dataloader = dict(dataset=dict(labeled={dataset!r}))\n'
    )
    assert "has no part 'unlabeled'" in convert(server, plain, code=1)
    bare = dict(labeled=dict(pipeline=[dict(type='LoadImageFromFile')]))
    config = config_of(tmp_path, root, train_dataloader=dict(dataset=bare))
    assert 'no mask is loaded' in convert(server, config, code=1)
    (tmp_path / 'file').touch()
    output = convert(server, config_of(tmp_path, root), '--out-dir', tmp_path / 'file', code=1)
    assert 'is no folder' in output and not (root / 'detection').exists()


# -------------------------------------------------------------------------------------- image sizes
def save_image(path, orientation=None, size=(30, 20)):
    picture, exif = Image.new('RGB', size), {}
    if orientation is not None:
        tags = Image.Exif()
        tags[ORIENTATION] = orientation
        exif = dict(exif=tags)
    picture.save(path, **exif)
    return str(path)


def add_png_chunk(path, name, data, last=True):
    """Add a chunk before the pixels or behind them."""
    content = Path(path).read_bytes()
    chunk = struct.pack('>I', len(data)) + name + data
    chunk += struct.pack('>I', zlib.crc32(name + data))
    position = content.rindex(b'IEND') - 4 if last else content.index(b'IDAT') - 4
    Path(path).write_bytes(content[:position] + chunk + content[position:])


LOADERS = [
    dict(),
    dict(imdecode_backend='pillow'),
    dict(color_type='unchanged'),
    dict(color_type='color_ignore_orientation'),
    dict(color_type='grayscale'),
]


@pytest.mark.parametrize('settings', LOADERS)
@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp', 'tiff', 'bmp'])
def test_sizes_are_those_that_the_loader_gives(tmp_path, suffix, settings):
    load = LoadImageFromFile(**settings)
    orientations = (None,) if suffix == 'bmp' else (None, 0, *range(1, 10))
    for orientation in orientations:
        path = save_image(tmp_path / f'{orientation}.{suffix}', orientation)
        height, width = load.transform(dict(img_path=path))['img'].shape[:2]
        assert image_size(path, load) == (width, height), orientation


@pytest.mark.parametrize('settings', LOADERS[:2])
@pytest.mark.parametrize('last', [True, False])
def test_pngs_with_exif_data_in_any_place(tmp_path, last, settings):
    tags = Image.Exif()
    tags[ORIENTATION] = 6
    path = save_image(tmp_path / 'a.png')
    add_png_chunk(path, b'eXIf', tags.tobytes()[6:], last)
    load = LoadImageFromFile(**settings)
    height, width = load.transform(dict(img_path=path))['img'].shape[:2]
    assert image_size(path, load) == (width, height)


class NeverLoads:
    def transform(self, results):
        raise AssertionError(f'{results["img_path"]} was decoded')


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp', 'bmp'])
def test_upright_images_are_not_decoded(tmp_path, suffix):
    assert image_size(save_image(tmp_path / f'a.{suffix}'), NeverLoads()) == (30, 20)
    if suffix in ('jpg', 'webp'):
        assert image_size(save_image(tmp_path / f'b.{suffix}', 1), NeverLoads()) == (30, 20)
    with pytest.raises(AssertionError, match='was decoded'):
        image_size(save_image(tmp_path / f'a.{suffix}'), NeverLoads(), local=False)


# --------------------------------------------------------------------------------------- COCO files
def small_content():
    return dict(
        info=dict(min_area=3),
        images=coco_images({'a/b.png': (8, 6), 'ü.png': (4, 5)}),
        annotations=coco_annotations([[], [(0, 1, 2, 3, 5), (7, 0, 0, 4, 1)]]),
        categories=coco_categories({0: 'road', 7: 'traffic light'}),
    )


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / 'deep' / 'file.json'
    write_coco_files({path: small_content()})
    assert read_coco(path) == small_content()
    assert small_content()['annotations'] == [
        dict(id=1, image_id=2, category_id=0, bbox=[1, 2, 2, 3], area=6, iscrowd=0),
        dict(id=2, image_id=2, category_id=7, bbox=[0, 0, 4, 1], area=4, iscrowd=0),
    ]
    assert small_content()['images'][1] == dict(id=2, file_name='ü.png', width=4, height=5)


def test_detectors_read_the_files(tmp_path):
    """The reader that mmdet's CocoDataset uses."""
    coco = pytest.importorskip('pycocotools.coco')
    write_coco_files({tmp_path / 'file.json': small_content()})
    found = coco.COCO(str(tmp_path / 'file.json'))
    assert found.getCatIds(catNms=['road', 'traffic light']) == [0, 7]
    assert [one['bbox'] for one in found.loadAnns(found.getAnnIds(imgIds=[2]))] == [
        [1, 2, 2, 3],
        [0, 0, 4, 1],
    ]


def test_no_file_is_written_before_all_are_complete(tmp_path):
    first, second = tmp_path / 'first.json', tmp_path / 'second.json'
    first.write_text('earlier')
    bad = dict(small_content(), info=dict(not_json=object()))
    with pytest.raises(TypeError):
        write_coco_files({first: small_content(), second: bad})
    assert first.read_text() == 'earlier' and list(tmp_path.iterdir()) == [first]


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(images=None), 'must have the lists'),
        (dict(categories=[3]), 'must have the lists'),
        (dict(images=[dict(id=2), dict(id=2)]), r'images has the id 2'),
        (dict(annotations=[dict(id='1')]), r"annotations has the id '1'"),
        (dict(images=[dict(id=1)]), 'annotation 1 has image_id=2'),
        (dict(categories=[dict(id=7)]), 'annotation 1 has category_id=0'),
        (dict(annotations=[dict(id=1, image_id=1, category_id=0)]), 'bbox=None'),
        (dict(annotations=[dict(id=1, image_id=1, category_id=0, bbox=[0, 0, 3, 0])]), 'bbox='),
        (dict(annotations=[dict(id=1, image_id=1, category_id=0, bbox=[0, 0, 3])]), 'bbox='),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, change, message):
    path = tmp_path / 'file.json'
    path.write_text(json.dumps(merged(small_content(), change)))
    with pytest.raises(ValueError, match=message) as error:
        read_coco(path)
    assert str(path) in str(error.value)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(FileNotFoundError, match='masks_to_coco'):
        read_coco(tmp_path / 'file.json')
    (tmp_path / 'file.json').write_text('{"images": [')
    with pytest.raises(ValueError, match='no JSON file'):
        read_coco(tmp_path / 'file.json')
    (tmp_path / 'file.json').write_text('[]')
    with pytest.raises(ValueError, match='must have the lists'):
        read_coco(tmp_path / 'file.json')
