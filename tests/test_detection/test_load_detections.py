"""LoadDetections: each box followed to the pixel through pipelines, and everything refused."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from detection_files import draw, unpack, write_detections
from mmcv.transforms import Compose
from mmseg.registry import DATASETS, MODELS, TRANSFORMS
from scene_files import STRONG, WEAK

from mmseg_semi.datasets import DataError, SampleKey, semi_collate
from mmseg_semi.datasets.audit_masks import AuditMasks
from mmseg_semi.datasets.seeding import seeded
from mmseg_semi.datasets.transforms import CarryMaps, InitValidMask, PackSemiInputs
from mmseg_semi.detection import LoadDetections
from mmseg_semi.detection.load_detections import DETECTIONS, draw_boxes
from mmseg_semi.models.mixers import CutMix
from mmseg_semi.structures import PseudoLabel

VIEWS = dict(type='StrongViews', num_views=1, transforms=[dict(type='RandomColorJitter')])


def class_names(number):
    return tuple(f'class {i}' for i in range(number))


def some_boxes(rng, number, num_classes, size):
    """Class and (x, y, width, height); edges on quarters of pixels, some cut by the border."""
    height, width = size
    boxes = []
    for _ in range(number):
        x, y = rng.integers(-4, 4 * width), rng.integers(-4, 4 * height)
        w = rng.integers(0, min(4 * width // 2, 4 * width + 4 - x) + 1)
        h = rng.integers(0, min(4 * height // 2, 4 * height + 4 - y) + 1)
        boxes.append((int(rng.integers(num_classes)), (x / 4, y / 4, w / 4, h / 4)))
    return boxes


def some_transforms(rng):
    """Two to six geometric transforms in any order."""

    def choice(*values):
        return values[rng.integers(len(values))]

    def one():
        kind = choice('Resize', 'RandomResize', 'RandomCrop', 'RandomFlip', 'Pad', 'RandomRotate')
        height, width = map(int, rng.integers(16, 72, 2))
        if kind == 'Resize':
            return dict(type=kind, scale=(width, height), keep_ratio=choice(True, False))
        if kind == 'RandomResize':
            ratios = (0.5, 2.0)
            return dict(type=kind, scale=(width, height), ratio_range=ratios, keep_ratio=True)
        if kind == 'RandomCrop':
            return dict(type=kind, crop_size=(height, width))
        if kind == 'RandomFlip':
            return dict(type=kind, prob=0.7, direction=choice('horizontal', 'vertical', 'diagonal'))
        if kind == 'Pad':
            divisor = choice(7, 16, 32)
            return dict(type=kind, size_divisor=divisor, pad_val=dict(img=0, seg=255))
        return dict(type=kind, prob=0.8, degree=50.0)

    return [one() for _ in range(rng.integers(2, 7))]


def results_of(image, path):
    return dict(
        img=image.copy(), img_shape=image.shape[:2], ori_shape=image.shape[:2], img_path=path
    )


def reference(transforms, image, seed, covered):
    """Bits (K, H, W) and valid (H, W): each class goes through the pipeline as its own mask."""
    geometric = Compose(copy.deepcopy(transforms))

    def carried(mask):
        results = dict(results_of(image, 'x.png'), gt_seg_map=mask, seg_fields=['gt_seg_map'])
        with seeded(seed):
            return geometric(results)['gt_seg_map']

    maps = [carried(mask.astype(np.uint8)) for mask in covered]
    assert set(np.unique(maps)) <= {0, 1, 255}
    valid = carried(np.zeros(image.shape[:2], np.uint8)) == 0
    return np.array(maps) == 1, valid


def check_followed(folder, seed, num_classes, num_boxes, crop=None, size=None):
    """Compare a random pipeline with the reference.

    Returns the packed sample and its bits.
    """
    rng = np.random.default_rng(seed)
    size = size or tuple(map(int, rng.integers(20, 60, 2)))
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    boxes = some_boxes(rng, num_boxes, num_classes, size)
    found = [('x.png', number, box, 0.9) for number, box in boxes]
    files = write_detections(folder, {'x.png': size}, class_names(num_classes), found)
    transforms = some_transforms(rng)
    if crop:
        fitting = dict(type='Resize', scale=crop[::-1], keep_ratio=False)
        transforms += [fitting, dict(type='RandomRotate', prob=1.0, degree=20.0)]
    load = LoadDetections(**files, classes=class_names(num_classes))
    first = [InitValidMask(), load]
    carry = CarryMaps(copy.deepcopy(transforms))
    pipeline = Compose([*first, carry, VIEWS, PackSemiInputs()])
    with seeded(seed):
        packed = pipeline(results_of(image, '/some/root/x.png'))
    covered = draw(boxes, num_classes, size)
    bits, valid = reference(transforms, image, seed, covered)
    sample = packed['data_samples']
    assert np.array_equal(sample.valid.data[0].numpy(), valid)
    data = sample.detections.data
    assert data.dtype == torch.uint8 and data.is_contiguous()
    assert data.shape == (-(-num_classes // 8), *packed['weak'].shape[1:])
    assert np.array_equal(unpack(data.numpy(), num_classes), bits)
    assert len(packed['strong']) == 1 and packed['strong'][0].shape == packed['weak'].shape
    return packed, bits


# --------------------------------------------------------------------------------- to the pixel
@pytest.mark.parametrize('num_classes', [1, 8, 9, 21, 81])
def test_each_class_goes_where_its_own_mask_would(tmp_path, num_classes):
    share, invalid = [], 0
    for seed in range(40 if num_classes < 81 else 12):
        number = 1 + seed % 9
        packed, bits = check_followed(tmp_path, 100 * num_classes + seed, num_classes, number)
        share.append(bits.mean())
        invalid += int((~packed['data_samples'].valid.data).sum())
    assert invalid > 0 and sum(share) > 0, 'the pipelines are no test'


def test_every_pixel_may_have_a_set_of_classes_of_its_own():
    """Classes of one column each and of one row each: 256 x 256 sets of 512 classes."""
    side = 256
    boxes = [(x, 0, x + 1, side) for x in range(side)] + [(0, y, side, y + 1) for y in range(side)]
    bits = draw_boxes(np.array(boxes), list(range(2 * side)), 2 * side, (side, side))
    covered = unpack(bits.transpose(2, 0, 1), 2 * side)
    eye = np.eye(side, dtype=bool)
    assert np.array_equal(covered[:side], np.broadcast_to(eye[:, None], (side,) * 3))
    assert np.array_equal(covered[side:], np.broadcast_to(eye[:, :, None], (side,) * 3))


def test_a_box_covers_the_pixels_whose_centers_lie_inside(tmp_path):
    cases = [
        ((0, 0, 2, 1), [(0, 0), (0, 1)]),
        ((0.5, 0.5, 1, 1), [(0, 0)]),  # its left and upper edge count, the others do not
        ((0.51, 0, 1.98, 1), [(0, 1)]),
        ((0.51, 0, 2.0, 1), [(0, 1), (0, 2)]),
        ((3, 2, 0, 3), []),
        ((2.6, 2.6, 0.8, 0.8), []),
        ((-0.75, 3.25, 1.5, 0.5), [(3, 0)]),  # cut off at the left
        ((6.4, 4.4, 1.5, 1.5), [(4, 6)]),  # at the corner
        ((-1, -1, 9, 7), [(r, c) for r in range(5) for c in range(7)]),
    ]
    names = [f'{i}.png' for i in range(len(cases))]
    found = [(name, 1, box, 0.9) for name, (box, _) in zip(names, cases)]
    files = write_detections(tmp_path, dict.fromkeys(names, (5, 7)), class_names(2), found)
    load = LoadDetections(**files, classes=class_names(2))
    for name, (box, pixels) in zip(names, cases):
        bits = loaded(load, name)
        wanted = np.zeros((2, 5, 7), bool)
        for row, column in pixels:
            wanted[1, row, column] = True
        assert np.array_equal(bits, wanted), box
        assert np.array_equal(bits, draw([(1, box)], 2, (5, 7))), box


def loaded(load, path, size=(5, 7)):
    results = InitValidMask()(results_of(np.zeros((*size, 3), np.uint8), path))
    packed = PackSemiInputs()(load(results))
    assert packed['data_samples'].valid.data.all()
    return unpack(packed['data_samples'].detections.data.numpy(), len(load.classes))


def test_the_lowest_score_is_kept(tmp_path):
    scores = [0.5, np.nextafter(0.5, 0), np.nextafter(0.5, 1), 0.0, 1.0]
    found = [('x.png', k, (k, 0, 1, 1), float(score)) for k, score in enumerate(scores)]
    files = write_detections(tmp_path, {'x.png': (5, 7)}, class_names(5), found)
    for threshold, kept in ((0.5, [0, 2, 4]), (0, [0, 1, 2, 3, 4]), (1, [4]), (0.85, [4])):
        load = LoadDetections(**files, score_thr=threshold, classes=class_names(5))
        bits = loaded(load, 'x.png')
        assert [k for k in range(5) if bits[k].any()] == kept
    assert LoadDetections(**files).score_thr == 0.85


def test_cutmix_takes_the_boxes_of_the_partner(tmp_path):
    """From the pipeline through the preprocessor into a mixed view."""
    size, num_classes = (40, 48), 9
    items, wanted = [], []
    for seed in range(4):
        packed, bits = check_followed(tmp_path / str(seed), seed, num_classes, 8, crop=size)
        items.append(dict(packed, source='unlabeled'))
        wanted.append(bits)
    detections, images = preprocessed(items)
    assert detections.dtype == torch.uint8 and detections.shape == (4, 2, *size)
    logits = torch.randn(4, num_classes, *size, generator=torch.Generator().manual_seed(0))
    valid = torch.stack([item['data_samples'].valid.data[0] for item in items])
    pseudo = PseudoLabel.from_logits(logits, valid)
    pseudo.extras[DETECTIONS] = detections
    torch.manual_seed(3)
    view = CutMix(prob=1.0)(images, pseudo, None)
    mixed = unpack(view.pseudo.extras[DETECTIONS].numpy(), num_classes)
    pasted = 0
    for i, partner in enumerate(view.mix.partners.tolist()):
        assert partner != i
        for row in range(size[0]):
            for column in range(size[1]):
                source = partner if view.mix.mask[i, row, column] else i
                assert np.array_equal(mixed[i, :, row, column], wanted[source][:, row, column])
                assert torch.equal(view.image[i, :, row, column], images[source, :, row, column])
                assert view.pseudo.valid[i, row, column] == valid[source, row, column]
        pasted += int((mixed[i] != wanted[i]).sum())
    assert pasted > 0


def preprocessed(items):
    """Detections and weak images of a batch of packed unlabeled images."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
    labeled = dict(results_of(image, 'l.png'), gt_seg_map=image[..., 0] % 3)
    pack = TRANSFORMS.build(dict(type='PackSegInputs', meta_keys=('img_path',)))
    batch = semi_collate([dict(pack(labeled), source='labeled'), *items])
    config = dict(type='SemiDataPreprocessor', mean=[100.0] * 3, std=[50.0] * 3)
    inputs = MODELS.build(config)(batch, True)['inputs']
    return inputs['maps']['detections'], inputs['weak']


def test_padding_of_the_batch_has_no_boxes(tmp_path):
    items, wanted = [], []
    for seed, size in enumerate([(24, 40), (40, 24)]):
        folder = tmp_path / str(seed)
        packed, bits = check_followed(folder, 7 + seed, 17, 9, crop=size)
        assert bits.any()
        items.append(dict(packed, source='unlabeled'))
        wanted.append(bits)
    detections, _ = preprocessed(items)
    assert detections.shape == (2, 3, 40, 40)
    for data, bits in zip(unpack(detections.numpy(), 17), wanted):
        height, width = bits.shape[1:]
        assert np.array_equal(data[:, :height, :width], bits)
        assert not data[:, height:].any() and not data[..., width:].any()
    del items[0]['data_samples'].detections
    with pytest.raises(ValueError, match="of a batch have the map 'detections' and some do not"):
        preprocessed(items)


# ------------------------------------------------------------------------------- in a SemiDataset
CLASSES = ('ground', 'tree', 'house')
NAMES = [f'u{i}.png' for i in range(7)]


def part_with(scenes, files=None, **changes):
    detections = files and dict(type='LoadDetections', **files)
    parts = dict(pipeline=None, geometry=WEAK, strong=dict(transforms=STRONG))
    return scenes.unlabeled(**{**parts, 'detections': detections, **changes})


def build(scenes, files=None, **changes):
    part = part_with(scenes, files, **changes)
    return DATASETS.build(dict(type='SemiDataset', labeled=scenes.labeled(), unlabeled=part))


def files_of(scenes, found=None, names=NAMES, classes=CLASSES, size=(32, 40)):
    if found is None:
        rng = np.random.default_rng(1)
        boxes = [(name, *box) for name in names for box in some_boxes(rng, 4, len(classes), size)]
        found = [(*box, 0.9) for box in boxes]
    return write_detections(Path(scenes.root), dict.fromkeys(names, size), classes, found)


def test_it_changes_nothing_but_adds_the_boxes(scenes):
    """Image, views and valid map are those of the pipeline without it."""
    with_boxes, without = build(scenes, files_of(scenes)), build(scenes)
    found = 0
    for index in range(7):
        items = [d[SampleKey('unlabeled', index, 50 + index)] for d in (with_boxes, without)]
        assert torch.equal(items[0]['weak'], items[1]['weak'])
        assert all(map(torch.equal, items[0]['strong'], items[1]['strong']))
        samples = [item['data_samples'] for item in items]
        assert torch.equal(samples[0].valid.data, samples[1].valid.data)
        assert 'detections' not in samples[1]
        found += int((samples[0].detections.data != 0).sum())
    assert found > 0


@pytest.mark.parametrize('rotate', [False, True])
def test_audit_masks_of_a_pipeline_with_boxes(scenes, rotate):
    geometry = [*WEAK, *([dict(type='RandomRotate', prob=1.0, degree=30.0)] if rotate else [])]
    rng = np.random.default_rng(2)
    masks = {}
    for name in NAMES:
        masks[name] = rng.integers(0, 3, (32, 40), dtype=np.uint8)
        scenes.mask(f'audit/{name}', masks[name])
    dataset = build(scenes, files_of(scenes), geometry=geometry)
    audit = AuditMasks(dataset, str(scenes.root / 'audit'))
    for index in range(7):
        key = SampleKey('unlabeled', index, 5 + index)
        item = dataset[key]
        sample = item['data_samples']
        results = dict(img_path=sample.img_path, seg_fields=['gt_seg_map'])
        results = TRANSFORMS.build(dict(type='LoadImageFromFile'))(results)
        results['gt_seg_map'] = masks[Path(sample.img_path).name]
        geometric = Compose([dict(t) for t in geometry])
        with seeded(key.seed):
            wanted = geometric(results)['gt_seg_map']
        got = audit.load(sample, item['weak'])
        assert got.dtype == torch.uint8 and np.array_equal(got.numpy(), wanted)
        assert torch.equal(got == 255, ~sample.valid.data[0])


def test_two_data_sets_with_files_of_their_own(scenes):
    first = files_of(scenes, [('u0.png', 1, (0, 0, 40, 32), 0.9)], NAMES[:4])
    other = write_detections(
        scenes.root / 'other',
        dict.fromkeys(NAMES[4:], (32, 40)),
        CLASSES,
        [('u4.png', 2, (0, 0, 40, 32), 0.9)],
    )
    (scenes.root / 'more').mkdir()
    for name in NAMES[4:]:
        shutil.move(scenes.root / 'unlabeled' / name, scenes.root / 'more' / name)
    parts = [
        part_with(scenes, files, data_prefix=dict(img_path=path))
        for path, files in (('unlabeled', first), ('more', other))
    ]
    dataset = DATASETS.build(
        dict(
            type='SemiDataset',
            labeled=scenes.labeled(),
            unlabeled=dict(type='ConcatDataset', datasets=parts),
        )
    )
    assert len(dataset.unlabeled) == 7
    values = [set_bytes(dataset[SampleKey('unlabeled', i, 3)]) for i in range(7)]
    assert values == [{2}, {0}, {0}, {0}, {4}, {0}, {0}]


def set_bytes(item):
    sample = item['data_samples']
    return set(sample.detections.data[0][sample.valid.data[0]].unique().tolist())


def test_nested_folders_with_equal_names(scenes):
    (scenes.root / 'nested').mkdir()
    names = [f'{folder}/{i}.png' for folder in ('a', 'b', 'a/b') for i in range(2)] + ['0.png']
    for name in names:
        scenes.image(f'nested/{name}')
    found = [(name, 1, (i, 0, 1, 1), 0.9) for i, name in enumerate(names)]
    files = files_of(scenes, found, names)
    dataset = build(scenes, files, data_prefix=dict(img_path='nested'))
    assert len(dataset.unlabeled) == len(names)
    (load,) = (t for t in dataset.unlabeled.pipeline.transforms if isinstance(t, LoadDetections))
    for i, name in enumerate(names):
        bits = loaded(load, str(scenes.root / 'nested' / name), (32, 40))
        assert np.argwhere(bits).tolist() == [[1, 0, i]], name


def test_without_any_box_training_goes_on_and_the_log_says_so(scenes, warnings_logged):
    dataset = build(scenes, files_of(scenes, []))
    (text,) = [text for text in warnings_logged if 'boxes of score' in text]
    assert text.startswith(f'{scenes.root}/found.bbox.json: 0 boxes of score >= 0.85 on 0 of 7')
    assert 'No pixel of an unlabeled image will be reliable' in text and 'score_thr' in text
    sample = dataset[SampleKey('unlabeled', 0, 0)]['data_samples']
    assert sample.detections.data.shape[0] == 1 and not sample.detections.data.any()
    assert sample.valid.data.any()


def test_classes_without_a_kept_box_are_named(scenes, warnings_logged):
    found = [(name, 1, (1, 1, 5, 5), 0.9) for name in NAMES]
    build(scenes, files_of(scenes, [*found, ('u3.png', 2, (0, 0, 9, 9), 0.5)]))
    (text,) = [text for text in warnings_logged if 'boxes of score' in text]
    assert '7 boxes of score >= 0.85 on 7 of 7 unlabeled images. No box of: ground, house' in text
    warnings_logged.clear()
    build(scenes, dict(files_of(scenes), score_thr=0.0))
    assert not [text for text in warnings_logged if 'boxes of score' in text]


# -------------------------------------------------------------------------------------- refused
def test_images_that_are_not_listed(scenes, warnings_logged):
    files = files_of(scenes, names=NAMES[:5])
    message = r'listed\.json lacks 2 of 7 unlabeled images: \S+u5\.png, \S+u6\.png\..*allow_missing'
    with pytest.raises(DataError, match=message):
        build(scenes, files)
    dataset = build(scenes, dict(files, allow_missing=True))
    assert any('2 images are not listed there' in text for text in warnings_logged)
    samples = [dataset[SampleKey('unlabeled', i, 0)]['data_samples'] for i in range(7)]
    assert [bool(s.detections.data.any()) for s in samples[5:]] == [False, False]
    assert any(s.detections.data.any() for s in samples[:5])
    files = files_of(scenes, names=['another.png'])
    for arguments in (files, dict(files, allow_missing=True)):
        with pytest.raises(DataError, match='lacks 7 of 7 unlabeled images.*some image must have'):
            build(scenes, arguments)
    load = LoadDetections(**files, classes=CLASSES)
    with pytest.raises(DataError, match=r'u0\.png is not listed in .*listed\.json.*allow_missing'):
        loaded(load, 'u0.png', (32, 40))


def test_images_of_another_size(scenes):
    dataset = build(scenes, files_of(scenes, [], size=(40, 32)))
    message = (
        r'u2\.png is 32 x 40 pixels \(height x width\), but .*listed\.json lists it with 40 x 32'
    )
    with pytest.raises(DataError, match=message):
        dataset[SampleKey('unlabeled', 2, 0)]


@pytest.mark.parametrize('places', ['resized', 'rotated', 'flipped', 'cut', 'twice'])
def test_wrong_places_in_the_pipeline(scenes, places):
    files = dict(type='LoadDetections', **files_of(scenes), classes=CLASSES)
    init = dict(type='InitValidMask')
    before = dict(
        resized=[init, dict(type='Resize', scale=(40, 32))],  # of the same size
        rotated=[init, dict(type='RandomRotate', prob=1.0, degree=(30, 31))],
        flipped=[init, dict(type='RandomFlip', prob=0.0)],  # boxes would lie on the wrong side
        cut=[init, dict(type='RandomCrop', crop_size=(20, 16))],
        twice=[init, files],
    )[places]
    image = np.zeros((32, 40, 3), np.uint8)
    stand = 'LoadDetections must stand before the geometric transforms'
    with pytest.raises(DataError, match=rf'u1\.png: {stand}|u1\.png is 20 x 16') as error:
        Compose([*before, files])(results_of(image, 'u1.png'))
    assert stand in str(error.value) or places == 'cut'


def test_it_needs_no_neighbor(scenes):
    """Before or after InitValidMask, with another map between them."""

    def another(results):
        results['seg_fields'] = [*results.get('seg_fields', []), 'another']
        return dict(results, another=np.ones((32, 40)))

    files = files_of(scenes, [('u1.png', 1, (0, 0, 5, 5), 0.9)])
    load, init = LoadDetections(**files, classes=CLASSES), InitValidMask()
    for order in ([load, init], [init, another, load], [load, another, init]):
        results = Compose(order)(results_of(np.zeros((32, 40, 3), np.uint8), 'u1.png'))
        sample = PackSemiInputs()(results)['data_samples']
        assert sample.valid.data.all() and int((sample.detections.data == 2).sum()) == 25
        assert ('another' in sample) == (another in order)


def test_two_images_of_one_listed_name_are_refused(scenes):
    """a/0.png is not listed, but its name ends with that of 0.png."""
    for name in ('0.png', 'a/0.png'):
        scenes.image(f'nested/{name}')
    files = files_of(scenes, [('0.png', 1, (0, 0, 9, 9), 0.9)], ['0.png'])
    with pytest.raises(DataError, match='a/0.png'):
        build(scenes, files, data_prefix=dict(img_path='nested'))


def test_without_classes(scenes):
    files = files_of(scenes)
    with pytest.raises(DataError, match='does not know the classes.*metainfo.classes'):
        loaded(LoadDetections(**files), 'u0.png', (32, 40))
    other = ('ground', 'house', 'tree')
    with pytest.raises(DataError, match=r"classes is \('ground', 'house', 'tree'\), but the labe"):
        build(scenes, dict(files, classes=other))
    same = build(scenes, dict(files, classes=list(CLASSES)))
    assert 'detections' in same[SampleKey('unlabeled', 0, 0)]['data_samples']


def test_categories_that_are_no_class(scenes):
    files = files_of(scenes, classes=('ground', 'tree', 'hause'))
    message = r"listed\.json has categories that are no class.*: hause\. Did you mean 'house'"
    with pytest.raises(DataError, match=message):
        build(scenes, files)
    build(scenes, files_of(scenes, classes=('house', 'ground')))  # fewer, in another order


def test_numbers_are_those_of_the_data_set(scenes):
    found = [('u0.png', 0, (0, 0, 1, 1), 0.9), ('u0.png', 1, (2, 0, 1, 1), 0.9)]
    files = files_of(scenes, found, classes=('house', 'ground'))
    bits = loaded(LoadDetections(**files, classes=CLASSES), 'u0.png', (32, 40))
    assert np.argwhere(bits).tolist() == [[0, 0, 2], [2, 0, 0]]


@pytest.mark.parametrize('value', [-0.1, 1.01, True, float('nan')])
def test_wrong_score_thr(value):
    with pytest.raises(ValueError, match=r'LoadDetections\.score_thr must be a number in \[0, 1\]'):
        LoadDetections('a', 'b', score_thr=value)


@pytest.mark.parametrize('key', ['results', 'images'])
def test_files_that_are_missing_or_no_json(scenes, key):
    files = files_of(scenes)
    with pytest.raises(FileNotFoundError, match=rf'LoadDetections\.{key}: there is no file \S*no'):
        build(scenes, dict(files, **{key: str(scenes.root / 'no.json')}))
    Path(files[key]).write_text('[{"image_id": 7,')
    with pytest.raises(DataError, match=rf'LoadDetections\.{key}: .*\.json is no JSON file'):
        build(scenes, files)
    Path(files[key]).write_bytes(b'\xff\xfe\x00')
    with pytest.raises(DataError, match=rf'LoadDetections\.{key}: .*\.json is no JSON file'):
        build(scenes, files)


def test_files_of_the_wrong_kind(scenes):
    files = files_of(scenes)
    with pytest.raises(
        DataError, match=r'results: .*listed.json must hold a list.*annotation file'
    ):
        build(scenes, dict(files, results=files['images']))
    with pytest.raises(DataError, match=r'images: .*found.* is no COCO annotation file'):
        build(scenes, dict(files, images=files['results']))
    assert isinstance(json.loads(Path(files['results']).read_text()), list)
