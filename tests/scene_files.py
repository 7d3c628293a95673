"""A small set of images on disk, configs for it, and fixtures of the tests that read it."""

import copy
import itertools
from pathlib import Path

import cv2
import mmseg.datasets  # noqa: F401  (registers mmseg's datasets and transforms)
import numpy as np
import pytest
from mmengine.registry import DefaultScope

import mmseg_semi.datasets  # noqa: F401

CLASSES = ('ground', 'tree', 'house')
WEAK = [
    dict(type='RandomResize', scale=(40, 32), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(24, 24), cat_max_ratio=1.0),
    dict(type='RandomFlip', prob=0.5),
]
STRONG = [
    dict(type='RandomColorJitter'),
    dict(type='RandomGray'),
    dict(type='RandomGaussianBlur'),
]
LABELED_PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='CheckAnnotations'),
    *WEAK,
    dict(type='PackLabeledInputs'),
]
UNLABELED_PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='InitValidMask'),
    *WEAK,
    dict(type='StrongViews', num_views=2, transforms=STRONG),
    dict(type='PackSemiInputs'),
]


class Scenes:
    """5 labeled and 7 unlabeled images of 32 x 40 under a root folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rng = np.random.default_rng(0)
        for i in range(5):
            self.image(f'images/l{i}.png')
            self.mask(f'masks/l{i}.png', self.rng.integers(0, 3, (32, 40)))
        self.split([f'l{i}' for i in range(5)])
        for i in range(7):
            self.image(f'unlabeled/u{i}.png')

    def image(self, name, size=(32, 40)):
        pixels = self.rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        return self.write(name, pixels)

    def mask(self, name, values):
        return self.write(name, np.asarray(values, np.uint8))

    def write(self, name, pixels):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), pixels)
        return path

    def split(self, names, file='split.txt'):
        (self.root / file).write_text('\n'.join(names) + '\n')

    def labeled(self, **changes):
        config = dict(
            type='BaseSegDataset',
            data_root=str(self.root),
            ann_file='split.txt',
            data_prefix=dict(img_path='images', seg_map_path='masks'),
            img_suffix='.png',
            metainfo=dict(classes=CLASSES),
            pipeline=copy.deepcopy(LABELED_PIPELINE),
            serialize_data=False,  # serializing collects garbage, which takes long in a test suite
        )
        return {**config, **changes}

    def unlabeled(self, **changes):
        config = dict(
            type='UnlabeledDataset',
            data_root=str(self.root),
            data_prefix=dict(img_path='unlabeled'),
            pipeline=copy.deepcopy(UNLABELED_PIPELINE),
            serialize_data=False,
        )
        return {**config, **changes}


@pytest.fixture(autouse=True)
def mmseg_scope():
    """What a runner does: mmengine builds transforms of pipelines in mmseg's registry."""
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


@pytest.fixture
def batches_of():
    """First batches of a loader; its workers are stopped even when loading fails."""

    def batches_of(loader, number):
        iterator = iter(loader)
        try:
            return list(itertools.islice(iterator, number))
        finally:
            # Garbage collection of an iterator that failed waits 5 s for each worker.
            getattr(iterator, '_shutdown_workers', lambda: None)()

    return batches_of


@pytest.fixture
def scenes(tmp_path):
    return Scenes(tmp_path)


@pytest.fixture
def warnings_logged(monkeypatch):
    """Texts that print_log got as warnings, wherever mmseg_semi logs."""
    import logging
    import sys

    texts = []

    def record(text, logger=None, level=logging.INFO):
        if level == logging.WARNING:
            texts.append(text)

    for name, module in list(sys.modules.items()):
        if name.startswith('mmseg_semi.') and hasattr(module, 'print_log'):
            monkeypatch.setattr(module, 'print_log', record)
    return texts
