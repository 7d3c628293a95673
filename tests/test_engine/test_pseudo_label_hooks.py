"""Figures and pictures of pseudo-labels, and the true masks that only they read."""

from __future__ import annotations

import json
import math
import random
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from mmseg.registry import DATASETS, MODELS
from PIL import Image
from tool_runs import CONFIGS, differing, load_checkpoint, load_config, train_scalars

import mmseg_semi  # noqa: F401
from mmseg_semi.datasets import SampleKey, semi_collate
from mmseg_semi.datasets.audit_masks import AuditMasks
from mmseg_semi.engine.hooks import EMAThresholdHook, PseudoLabelStatsHook, PseudoLabelVisHook
from mmseg_semi.errors import DataError
from mmseg_semi.structures import PseudoLabel

CLASSES = ('zero', 'one', 'two', 'three')
PALETTE = [[0, 0, 0], [200, 10, 20], [10, 200, 20], [10, 20, 200]]
SIZES = ((30, 40), (40, 30), (24, 24), (36, 44), (33, 25))
NORM = dict(type='BN')
SEGMENTOR = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[100.0] * 3, std=[50.0] * 3, bgr_to_rgb=True, size=(32, 32)
    ),
    backbone=dict(
        type='UNet',
        base_channels=4,
        num_stages=3,
        strides=(2, 1, 1),
        enc_num_convs=(1, 1, 1),
        dec_num_convs=(1, 1),
        downsamples=(True, True),
        enc_dilations=(1, 1, 1),
        dec_dilations=(1, 1),
        norm_cfg=NORM,
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=4,
        in_index=2,
        channels=4,
        num_convs=1,
        concat_input=False,
        num_classes=4,
        norm_cfg=NORM,
        init_cfg=dict(type='Normal', std=1.0, override=dict(name='conv_seg')),
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    ),
)
STRONG = dict(num_views=1, transforms=[dict(type='RandomColorJitter')])
GEOMETRY = dict(
    crop=[dict(type='RandomCrop', crop_size=(28, 30))],
    resize=[dict(type='Resize', scale_factor=1.0, keep_ratio=True)],
    flip=[dict(type='RandomFlip', prob=0.7, direction=['horizontal', 'vertical', 'diagonal'])],
    pad=[
        dict(type='RandomCrop', crop_size=(20, 34)),
        dict(type='Pad', size=(40, 48), pad_val=dict(img=0, seg=255)),
    ],
    holes=[
        dict(
            type='RandomCutOut',
            prob=0.8,
            n_holes=(1, 3),
            cutout_shape=[(5, 6), (9, 3)],
            fill_in=(0, 0, 0),
            seg_fill_in=255,
        )
    ],
)
GEOMETRY['all'] = [t for name in ('resize', 'crop', 'flip', 'holes') for t in GEOMETRY[name]]
WEAK = [*GEOMETRY['crop'], *GEOMETRY['flip']]


def true_classes(image: np.ndarray) -> np.ndarray:
    """The class of every pixel (..., 3) of an image is a function of its color; black: unknown."""
    blue, green, red = np.moveaxis(image.astype(np.int64), -1, 0)
    found = (blue + 2 * green + 3 * red) % 4
    return np.where((image == 0).all(-1), 255, found).astype(np.uint8)


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


@pytest.fixture(autouse=True)
def mmseg_scope():
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Images of several sizes and their masks, the unlabeled ones' in another folder."""
    folder = tmp_path_factory.mktemp('colors')
    rng = np.random.default_rng(0)
    for i, size in enumerate(SIZES):
        for image, mask in (('images', 'masks'), ('unlabeled', 'audit')):
            pixels = rng.integers(1, 256, (*size, 3), dtype=np.uint8)
            write(folder / image / 'sub' / f'{i}.png', pixels)
            write(folder / mask / 'sub' / f'{i}.png', true_classes(pixels))
    return folder


def dataset_of(root: Path, weak: Any = WEAK, **changes: Any) -> Any:
    common = dict(data_root=str(root), serialize_data=False)
    load, pack = dict(type='LoadImageFromFile'), dict(type='PackSegInputs')
    crop = dict(type='RandomCrop', crop_size=(28, 30))
    labeled = dict(
        common,
        type='BaseSegDataset',
        metainfo=dict(classes=CLASSES, palette=PALETTE),
        data_prefix=dict(img_path='images', seg_map_path='masks'),
        img_suffix='.png',
        pipeline=[load, dict(type='LoadAnnotations'), crop, pack],
    )
    unlabeled = dict(
        common,
        type='UnlabeledDataset',
        data_prefix=dict(img_path='unlabeled'),
        geometry=weak,
        strong=STRONG,
    )
    config = dict(type='SemiDataset', labeled=labeled, unlabeled=unlabeled, **changes)
    return DATASETS.build(deepcopy(config))


def items(dataset: Any, rounds: int) -> list[dict[str, Any]]:
    """Unlabeled samples, every image with several seeds."""
    count = len(dataset.unlabeled)
    return [dataset[SampleKey('unlabeled', i % count, 7 * i)] for i in range(rounds * count)]


def pixels_of(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


# ------------------------------------------------------------------------------------- audit masks
@pytest.mark.parametrize('geometry', GEOMETRY)
def test_masks_fit_the_augmented_images_exactly(root, geometry):
    dataset = dataset_of(root, GEOMETRY[geometry])
    masks = AuditMasks(dataset, str(root / 'audit'))
    found = []
    for item in items(dataset, 8):
        truth = masks.load(item['data_samples'], item['weak'])
        assert truth.dtype == torch.uint8 and truth.shape == item['weak'].shape[1:]
        np.testing.assert_array_equal(truth.numpy(), true_classes(pixels_of(item['weak'])))
        valid = item['data_samples'].valid.data[0]
        assert torch.equal(truth == 255, ~valid), 'unknown is what the augmentation made'
        found.append(truth)
    if geometry != 'resize':
        first, again = found[:: len(SIZES)][:2]
        assert first.shape != again.shape or not torch.equal(first, again), 'nothing was random'
    unknown = geometry in ('pad', 'holes', 'all')
    assert any((one == 255).any() for one in found) is unknown


def test_reading_masks_touches_no_random_state(root):
    dataset = dataset_of(root)
    masks = AuditMasks(dataset, str(root / 'audit'))
    item = items(dataset, 1)[0]
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    masks.load(item['data_samples'], item['weak'])
    assert random.getstate() == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])
    assert torch.equal(torch.get_rng_state(), before[2])


def test_mask_of_the_image_that_takes_the_place_of_a_broken_one(root, tmp_path):
    for path in root.rglob('*.png'):
        write(tmp_path / path.relative_to(root), cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
    dataset = dataset_of(tmp_path, on_error='skip')
    (tmp_path / 'unlabeled/sub/1.png').write_bytes(b'no image')
    masks = AuditMasks(dataset, str(tmp_path / 'audit'))
    item = dataset[SampleKey('unlabeled', 1, 3)]
    assert item['data_samples'].img_path.endswith('2.png')
    truth = masks.load(item['data_samples'], item['weak'])
    np.testing.assert_array_equal(truth.numpy(), true_classes(pixels_of(item['weak'])))


class OwnShift:
    """Moves pixels by a counter, which no seed can bring back."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        self.count += 1
        for key in ('img', 'gt_seg_map'):
            results[key] = np.roll(results[key], self.count, axis=1)
        return results


def test_another_image_is_an_error_and_never_a_wrong_mask(root):
    dataset = dataset_of(root, [OwnShift()])
    masks, errors = AuditMasks(dataset, str(root / 'audit')), 0
    samples = items(dataset, 4)
    for item in samples:
        try:
            truth = masks.load(item['data_samples'], item['weak'])
        except DataError as error:
            errors += 1
            assert 'gave another image' in str(error) and item['data_samples'].img_path in str(
                error
            )
        else:
            np.testing.assert_array_equal(truth.numpy(), true_classes(pixels_of(item['weak'])))
    assert errors > len(samples) // 2


def test_missing_folder_masks_and_valid_map_are_named(root, tmp_path):
    dataset = dataset_of(root)
    with pytest.raises(FileNotFoundError, match=f'audit_root: there is no folder {tmp_path}/no'):
        AuditMasks(dataset, str(tmp_path / 'no'))
    write(tmp_path / 'sub/0.png', np.zeros((4, 4), np.uint8))
    with pytest.raises(FileNotFoundError, match=r'4 of 5 .* no mask.*sub/1\.png'):
        AuditMasks(dataset, str(tmp_path))
    with pytest.raises(FileNotFoundError, match='5 of 5 .*suffix .bmp'):
        AuditMasks(dataset, str(root / 'audit'), '.bmp')
    with pytest.raises(ValueError, match='belong to a SemiDataset .*, not to a BaseSeg'):
        AuditMasks(dataset.labeled, str(root / 'audit'))
    transforms = dataset.unlabeled.pipeline.transforms
    del transforms[1]
    with pytest.raises(ValueError, match='no InitValidMask'):
        AuditMasks(dataset, str(root / 'audit'))


def test_a_mask_for_two_images_is_refused(root):
    dataset = dataset_of(root)
    pipeline = dataset.unlabeled.pipeline.transforms
    leaf = dict(type='UnlabeledDataset', data_root=str(root), pipeline=pipeline)
    folders = [dict(leaf, data_prefix=dict(img_path=name)) for name in ('unlabeled', 'images')]
    dataset.unlabeled = DATASETS.build(dict(type='ConcatDataset', datasets=folders))
    with pytest.raises(ValueError, match=r'audit_root: 5 masks .*several.*0\.png and .*0\.png'):
        AuditMasks(dataset, str(root / 'audit'))


@pytest.mark.parametrize('missing', ['img_path', 'sample_seed'])
def test_a_sample_without_path_or_seed_is_named(root, missing):
    dataset = dataset_of(root)
    item = dataset[SampleKey('unlabeled', 0, 7)]
    sample = item['data_samples']
    AuditMasks(dataset, str(root / 'audit')).load(sample, item['weak'])
    sample.set_metainfo({missing: None})
    with pytest.raises(DataError, match='None.*img_path.*SemiSampler'):
        AuditMasks(dataset, str(root / 'audit')).load(sample, item['weak'])


@pytest.mark.parametrize(
    ('mask', 'message'),
    [
        (np.zeros((30, 39), np.uint8), r'has 39 x 30 pixels, its image \S+ 40 x 30;'),
        (np.zeros((30, 40, 3), np.uint8), 'must be a single-channel 8-bit image'),
        (np.zeros((30, 40), np.uint16), 'must be a single-channel 8-bit image'),
        (None, 'must be a single-channel 8-bit image'),
    ],
    ids=['size', 'color', 'depth', 'broken'],
)
def test_unusable_masks_are_named(root, tmp_path, mask, message):
    for i, size in enumerate(SIZES):
        write(tmp_path / 'sub' / f'{i}.png', np.zeros(size, np.uint8))
    wrong = tmp_path / 'sub/0.png'
    if mask is None:
        wrong.write_bytes(b'no image')
    else:
        write(wrong, mask)
    dataset = dataset_of(root)
    masks = AuditMasks(dataset, str(tmp_path))
    first, second = items(dataset, 1)[:2]
    with pytest.raises(DataError, match=f'{wrong} .*{message}'):
        masks.load(first['data_samples'], first['weak'])
    assert (masks.load(second['data_samples'], second['weak']) == 0).all()


def test_masks_are_read_as_those_of_the_labeled_part(root, tmp_path):
    """A palette, values that count from 1 and the labeled part's endings of names."""
    config = deepcopy(dataset_of(root))
    leaf = config.labeled
    leaf.img_suffix, leaf.seg_map_suffix = '0.png', '0_gt.png'
    for info in leaf.data_list:
        info['reduce_zero_label'] = True
    leaf.pipeline.transforms[1].reduce_zero_label = None
    stored = np.array([[0, 1], [4, 255]], np.uint8)
    for i in range(len(SIZES)):  # only the first name ends as the labeled images do
        path = tmp_path / 'sub' / ('0_gt.png' if i == 0 else f'{i}0_gt.png')
        path.parent.mkdir(exist_ok=True)
        image = Image.fromarray(stored, 'P')
        image.putpalette(list(range(256)) * 3)
        image.save(path)
    masks = AuditMasks(config, str(tmp_path), None)
    for i in range(len(SIZES)):
        found = masks.read(str(root / 'unlabeled' / 'sub' / f'{i}.png'))
        assert found.tolist() == [[255, 0], [3, 255]]
    with pytest.raises(FileNotFoundError, match='--truth: 5 of 5 .*suffix 1.png'):
        AuditMasks(config, str(tmp_path), '1.png', '--truth')


def test_values_that_are_no_class_are_refused(root, tmp_path):
    for i, size in enumerate(SIZES):
        write(tmp_path / 'sub' / f'{i}.png', np.full(size, 4, np.uint8))
    masks = AuditMasks(dataset_of(root), str(tmp_path))
    with pytest.raises(DataError, match=r'sub/2\.png .*values that are no class: 4 \(576 pixels\)'):
        masks.read(str(root / 'unlabeled' / 'sub' / '2.png'))


# ------------------------------------------------------------------------------------- one process
REFINERS = dict(
    select=dict(_delete_=True, type='EMAThreshold', initial=0.6, momentum=0.5),
    regions=dict(num_shapes=16, threshold=0.4),
)


class Trainer:
    """A model, a data set and what a runner is for hooks."""

    def __init__(self, root: Path, seed: int = 0, **model: Any) -> None:
        method = Config.fromfile(CONFIGS / '_base_/methods/corrmatch.py')
        method.merge_from_dict(dict(method=dict(refiners=REFINERS)))
        torch.manual_seed(seed)
        config = dict(method.method.to_dict(), segmentor=deepcopy(SEGMENTOR), **model)
        self.model = MODELS.build(ConfigDict(config))
        self.model.init_weights()
        self.dataset = dataset_of(root)
        self.scalars: dict[str, float] = {}
        self.pictures: list[tuple[str, np.ndarray, int]] = []
        self.steps: list[Any] = []
        self.iter = 0
        self.train_dataloader = SimpleNamespace(dataset=self.dataset)
        self.message_hub = SimpleNamespace(update_scalar=self.scalars.__setitem__)
        self.visualizer = SimpleNamespace(add_image=self._add_image)
        EMAThresholdHook().before_train(self)
        begin = self.model.begin_step

        def remember(*args: Any) -> Any:
            self.steps.append(begin(*args))
            return self.steps[-1]

        self.model.begin_step = remember

    def _add_image(self, name: str, image: np.ndarray, step: int) -> None:
        self.pictures.append((name, image, step))

    def train(self, *hooks: Any, iterations: int = 1) -> None:
        for hook in hooks:
            hook.before_train(self)
        for self.iter in range(iterations):
            for hook in hooks:
                hook.before_train_iter(self, self.iter)
            keys = [SampleKey('labeled', i, self.iter) for i in (0, 1)]
            keys += [SampleKey('unlabeled', i, self.iter + 5 * i) for i in range(5)]
            self.batch = semi_collate([self.dataset[key] for key in keys])
            data = self.model.data_preprocessor(deepcopy(self.batch), True)
            self.model(**data, mode='loss')
            for hook in hooks:
                hook.after_train_iter(self, self.iter, self.batch, {})

    def truth(self) -> np.ndarray:
        """Classes of the last batch's weak images, 255 on padding."""
        weak = self.batch['unlabeled']['weak']
        out = np.full((len(weak), 32, 32), 255, np.uint8)
        for one, image in zip(out, weak):
            one[: image.shape[1], : image.shape[2]] = true_classes(pixels_of(image))
        return out


def expected_figures(step: Any, truth: np.ndarray) -> dict[str, float]:
    """Counted pixel by pixel from the definitions."""
    values = {}
    stages = dict(raw=step.raw_pseudo, **step.refined)
    for name, pseudo in stages.items():
        pixels = [
            (bool(chosen), int(label) == int(true))
            for valid, chosen, label, true in zip(
                *(x.flatten().tolist() for x in (pseudo.valid, pseudo.selected, pseudo.label)),
                truth.flatten().tolist(),
            )
            if valid
        ]
        chosen = [right for used, right in pixels if used]
        right = [used for used, hit in pixels if hit]
        values[f'{name}/filter_ratio'] = sum(not used for used, _ in pixels) / len(pixels)
        values[f'{name}/accuracy'] = sum(chosen) / len(chosen)
        values[f'{name}/effective_ratio'] = sum(chosen) / len(pixels)
        values[f'{name}/mining_ratio'] = sum(right) / len(right)
    return {f'train/pseudo/{key}': value for key, value in values.items()}


def test_figures_are_those_of_an_independent_count(root):
    trainer = Trainer(root)
    trainer.train(PseudoLabelStatsHook(1, str(root / 'audit')))
    (step,) = trainer.steps
    assert list(step.refined) == ['select', 'regions']
    assert not step.raw_pseudo.valid.all(), 'some padding'
    expected = expected_figures(step, trainer.truth())
    assert trainer.scalars == pytest.approx(expected)
    assert len(expected) == 12
    assert expected['train/pseudo/raw/filter_ratio'] == 0
    ratios = [expected[f'train/pseudo/{name}/filter_ratio'] for name in ('select', 'regions')]
    assert 0 < ratios[1] < ratios[0] < 1


def test_without_masks_only_the_filter_ratio(root):
    trainer = Trainer(root)
    trainer.train(PseudoLabelStatsHook(1))
    (step,) = trainer.steps
    assert trainer.scalars == pytest.approx(
        {k: v for k, v in expected_figures(step, trainer.truth()).items() if 'filter' in k}
    )


def test_undefined_figures_are_nan(root, tmp_path):
    """Nothing selected has no accuracy; nothing known has only the filter ratio.

    Left out, the log would repeat the figure of an earlier iteration.
    """
    trainer = Trainer(root)
    trainer.model.refiners['select'].value.fill_(1.1)
    trainer.train(PseudoLabelStatsHook(1, str(root / 'audit')))
    for name in ('select', 'regions'):
        values = {k.split('/')[-1]: v for k, v in trainer.scalars.items() if name in k}
        assert math.isnan(values.pop('accuracy'))
        assert values == dict(filter_ratio=1, effective_ratio=0, mining_ratio=0)
    for i, size in enumerate(SIZES):
        write(tmp_path / 'sub' / f'{i}.png', np.full(size, 255, np.uint8))
    trainer = Trainer(root)
    trainer.train(PseudoLabelStatsHook(1, str(tmp_path)))
    known = {key.split('/')[-1] for key, v in trainer.scalars.items() if not math.isnan(v)}
    assert known == {'filter_ratio'}
    assert sum(math.isnan(value) for value in trainer.scalars.values()) == 9


def test_looks_at_every_interval_alone(root):
    trainer = Trainer(root)
    stats, pictures = PseudoLabelStatsHook(2), PseudoLabelVisHook(3)
    seen = []
    count = stats.after_train_iter

    def after(*args: Any) -> None:
        trainer.scalars.clear()
        count(*args)
        seen.append(bool(trainer.scalars))

    stats.after_train_iter = after
    looks = []
    for hook in (stats, pictures):
        observe = hook._observe
        hook._observe = lambda step, hook=hook, observe=observe: (
            looks.append((type(hook), trainer.iter)),
            observe(step),
        )
    trainer.train(stats, pictures, iterations=6)
    assert seen == [False, True] * 3
    assert [number for kind, number in looks if kind is PseudoLabelStatsHook] == [1, 3, 5]
    assert [number for kind, number in looks if kind is PseudoLabelVisHook] == [2, 5]
    assert [(name, step) for name, _, step in trainer.pictures] == [
        *(('pseudo_labels', 3), ('pseudo_labels', 6))
    ]


def test_nothing_is_seen_in_the_warm_up(root):
    trainer = Trainer(root, warmup_iters=3)
    hooks = PseudoLabelStatsHook(1), PseudoLabelVisHook(1)
    trainer.model.set_progress(0, 5)
    trainer.train(*hooks)
    assert not trainer.scalars and not trainer.pictures and trainer.steps[0].pseudo is None
    trainer.model.set_progress(3, 5)
    trainer.train(*hooks)
    assert trainer.scalars and trainer.pictures


def test_off_by_default(root):
    # The rows of CorrMatch's figures are made of them.
    paths = [path for path in CONFIGS.rglob('*.py') if '_figures' not in path.stem]
    texts = [path.read_text() for path in paths]
    assert texts and not any('PseudoLabelStats' in t or 'PseudoLabelVis' in t for t in texts)
    trainer = Trainer(root)
    trainer.train()
    (step,) = trainer.steps
    assert trainer.model.observers == [] and step.pseudo is not None


@pytest.mark.parametrize('hook', [PseudoLabelStatsHook, PseudoLabelVisHook])
def test_wrong_uses_are_refused(root, hook):
    for interval in (0, -1, 2.0, '5'):
        with pytest.raises(ValueError, match=f'{hook.__name__}.interval must be a whole number'):
            hook(interval)
    trainer = Trainer(root)
    with pytest.raises(FileNotFoundError, match='audit_root: there is no folder'):
        hook(1, audit_root=str(root / 'no')).before_train(trainer)
    trainer.model = trainer.model.segmentor
    with pytest.raises(ValueError, match=f'{hook.__name__} .* plain EncoderDecoder'):
        hook(1).before_train(trainer)
    with pytest.raises(ValueError, match='PseudoLabelVisHook.num_images'):
        PseudoLabelVisHook(num_images=0)


def test_picture_shows_image_labels_and_truth(root):
    trainer = Trainer(root)
    trainer.train(PseudoLabelVisHook(1, num_images=3, audit_root=str(root / 'audit')))
    ((name, picture, number),) = trainer.pictures
    assert (name, number, picture.dtype) == ('pseudo_labels', 1, np.uint8)
    assert picture.shape[1] == 2 * 8 + 5 * 192 + 4 * 8
    assert (picture[8:30, 208:400] < 100).any(), 'a title'
    (step,) = trainer.steps
    # The palette, its black in gray.
    colors = np.array([[96, 96, 96], *PALETTE[1:], *[[255] * 3] * 252], np.uint8)
    for row in range(3):
        tiles = [tile_of(picture, row, column) for column in range(5)]
        weak = pixels_of(trainer.batch['unlabeled']['weak'][row])[..., ::-1]
        np.testing.assert_array_equal(tiles[0][: weak.shape[0], : weak.shape[1]], weak)
        stages = (step.raw_pseudo, step.refined['select'], step.refined['regions'])
        for tile, pseudo in zip(tiles[1:4], stages):
            used = (pseudo.selected & pseudo.valid)[row].numpy()
            assert 0 < used.sum() < used.size
            np.testing.assert_array_equal((tile == 0).all(-1), ~used)
            np.testing.assert_array_equal(tile[used], colors[pseudo.label[row].numpy()][used])
        np.testing.assert_array_equal(tiles[4], colors[trainer.truth()[row]])
    bottom = picture[30 + 3 * 200 :]
    shown = {tuple(color) for color in bottom.reshape(-1, 3).tolist()}
    assert {(96, 96, 96), (0, 0, 0), *map(tuple, PALETTE[1:])} <= shown, 'a legend'


def tile_of(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    """A tile of 32 pixels, which is six times as large under a margin and a line of titles."""
    top, left = 30 + 200 * row, 8 + 200 * column
    tile = picture[top : top + 192, left : left + 192]
    np.testing.assert_array_equal(tile, tile[::6, ::6].repeat(6, 0).repeat(6, 1))
    return tile[::6, ::6]


def test_picture_without_masks_palette_and_with_fewer_images(root):
    trainer = Trainer(root, seed=1)
    trainer.dataset.labeled._metainfo.pop('palette')
    trainer.train(PseudoLabelVisHook(1, num_images=9))
    picture = trainer.pictures[0][1]
    assert picture.shape[0] > 30 + 5 * 200 and picture.shape[1] == 2 * 8 + 4 * 192 + 3 * 8
    label = trainer.steps[0].raw_pseudo.label[0].numpy()
    tile = tile_of(picture, 0, 1)
    valid = trainer.steps[0].raw_pseudo.valid[0].numpy()
    shown = {k: {tuple(c) for c in tile[valid & (label == k)]} for k in np.unique(label[valid])}
    assert all(len(one) == 1 for one in shown.values())
    assert len(set.union(*shown.values())) == len(shown) >= 2
    assert (0, 0, 0) not in set.union(*shown.values())


# --------------------------------------------------------------------------------------- two ranks
def labels_of_half_padded_images(seed, number):
    source = torch.Generator().manual_seed(seed)
    logits = torch.randn(number, 4, 8, 9, generator=source)
    # The second half has much more padding.
    limit = torch.linspace(0.9, 0.1, number).view(-1, 1, 1)
    raw = PseudoLabel.from_logits(logits, torch.rand(number, 8, 9, generator=source) < limit)
    truth = torch.randint(0, 4, (number, 8, 9), generator=source).to(torch.uint8)
    truth[torch.rand(truth.shape, generator=source) < 0.1] = 255
    return raw, raw.update(selected=raw.selected & (raw.confidence > 0.5)), truth


class TruthAsData(PseudoLabelStatsHook):
    def truth(self, data_batch, size):
        return data_batch


def figures(part):
    raw, select, truth = labels_of_half_padded_images(0, 6)
    raw, select, truth = raw.map(part), select.map(part), part(truth)
    model, values = SimpleNamespace(), {}
    model.add_observer = lambda observe, due: setattr(model, 'observe', observe)
    hub = SimpleNamespace(update_scalar=values.__setitem__)
    runner = SimpleNamespace(model=model, iter=0, message_hub=hub)
    hook = TruthAsData(1)
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)
    model.observe(SimpleNamespace(raw_pseudo=raw, refined=dict(select=select)))
    hook.after_train_iter(runner, 0, truth)
    return values


def figures_of_a_rank(rank):
    return figures(lambda x: x[3 * rank : 3 * rank + 3])


def test_figures_of_two_ranks_are_of_the_global_batch(on_two_ranks):
    for rank, mine in enumerate(on_two_ranks(figures_of_a_rank)):
        assert len(mine) == 8
        assert mine == figures(lambda x: x)
        for key, value in figures_of_a_rank(rank).items():
            assert (
                key.endswith('raw/filter_ratio')
                or key.endswith('raw/mining_ratio')
                or (value != mine[key])
            )


# ------------------------------------------------------------------------------------------- a run
@pytest.fixture(scope='module')
def observed_run(train, digit_root):
    audit = dict(audit_root=str(digit_root / 'audit' / 'unlabeled'))
    hooks = [
        dict(type='DataCheckHook'),
        dict(type='PseudoLabelStatsHook', interval=2, **audit),
        dict(type='PseudoLabelVisHook', interval=4, **audit),
    ]
    return train(custom_hooks=hooks)


def test_training_is_the_same_with_and_without_looking(observed_run, unimatch_run):
    first, second = (load_checkpoint(run.checkpoint) for run in (observed_run, unimatch_run))
    for part in ('state_dict', 'optimizer'):
        assert first[part] and differing(first[part], second[part], part) == []
    plain, seen = train_scalars(unimatch_run.work_dir), train_scalars(observed_run.work_dir)
    assert not any('pseudo' in key for values in plain.values() for key in values)
    for step, values in seen.items():
        assert {k: v for k, v in values.items() if 'pseudo/' not in k} == plain[step]
    text = json.dumps(load_config(unimatch_run.config).to_dict())
    assert 'audit' not in text


def test_figures_are_in_the_log(observed_run):
    values = train_scalars(observed_run.work_dir)
    assert not any('pseudo/' in key for key in values[1])
    for step in (2, 4, 6, 8):
        found = {k: v for k, v in values[step].items() if k.startswith('pseudo/')}
        assert len(found) == 8 and all(0 <= value <= 1 for value in found.values())
        assert found['pseudo/raw/filter_ratio'] == 0
        selected = 1 - found['pseudo/select/filter_ratio']
        assert selected == pytest.approx(values[step]['selected'], abs=1e-6)
        effective = found['pseudo/select/accuracy'] * selected
        assert found['pseudo/select/effective_ratio'] == pytest.approx(effective)
    figures = {json.dumps({k: v for k, v in values[s].items() if 'pseudo' in k}) for s in values}
    assert len(figures) == 5, 'measured four times'


def test_pictures_are_written(observed_run):
    pictures = sorted(observed_run.work_dir.rglob('pseudo_labels*.png'))
    assert [path.name for path in pictures] == ['pseudo_labels_4.png', 'pseudo_labels_8.png']
    for path in pictures:
        picture = cv2.imread(str(path))
        assert picture.shape == (30 + 2 * 192 + 8 + 8 + 22 + 8, 2 * 8 + 4 * 192 + 3 * 8, 3)
        tiles = [picture[30:222, 8 + 200 * i : 200 + 200 * i] for i in range(4)]
        black = [(tile == 0).all(-1) for tile in tiles]
        assert not black[1].all() and black[2].any() and not black[2].all() and not black[3].any()


def test_masks_of_another_folder_stop_the_run(train, digit_root):
    hook = dict(type='PseudoLabelStatsHook', audit_root=str(digit_root / 'annotations' / 'val'))
    run = train(custom_hooks=[hook], code=1)
    assert 'unlabeled images have no mask' in run.output


def test_a_refiner_named_raw_is_refused(root):
    trainer = Trainer(root)
    trainer.model.refiners['raw'] = trainer.model.refiners['select']
    with pytest.raises(ValueError, match="'raw'.*give it another one"):
        trainer.train(PseudoLabelStatsHook(1))
