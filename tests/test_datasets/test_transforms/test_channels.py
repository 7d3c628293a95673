"""Transforms of images of any number of channels, uint8 and float32."""

from __future__ import annotations

import logging

import cv2
import numpy as np
import pytest
import torch
from channel_files import pixels, write
from mmcv.transforms import Compose
from mmengine.logging import MMLogger
from mmseg.datasets.transforms import PackSegInputs
from mmseg.registry import TRANSFORMS

from mmseg_semi.datasets import DataError
from mmseg_semi.datasets.pipelines import unlabeled_pipeline
from mmseg_semi.datasets.transforms.random_intensity_augment import OPERATIONS
from mmseg_semi.structures import ChannelStatistics, write_statistics

KINDS = [(1, 'uint8'), (4, 'uint8'), (7, 'uint8'), (1, 'float32'), (3, 'float32'), (7, 'float32')]
RNG = np.random.default_rng(0)


def build(kind: str, **arguments):
    return TRANSFORMS.build(dict(type=kind, **arguments))


def moved(transform, image, seed):
    """A pipeline's weak image and valid map after a geometric transform."""
    np.random.seed(seed)
    results = dict(img=image.copy(), img_shape=image.shape[:2], img_path='a.tif')
    chain = [dict(type='InitValidMask'), dict(type='CarryMaps', transforms=[transform])]
    packed = Compose([*chain, dict(type='PackSemiInputs')])(results)
    return packed['weak'].numpy().transpose(1, 2, 0), packed['data_samples'].valid.data.numpy()[0]


GEOMETRY = [
    dict(type='RandomRelativeResize', ratio_range=(0.5, 2.0)),
    dict(type='RandomRelativeResize', ratio_range=(0.5, 2.0), backend='pillow'),
    dict(type='RandomResize', scale=(40, 32), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='Resize', scale=(50, 20), keep_ratio=False),
    dict(type='RandomCrop', crop_size=(16, 20)),
    dict(type='RandomPaddedCrop', crop_size=(40, 50), pad_color=(7, 7, 7)),
    dict(type='RandomFlip', prob=1.0),
]


@pytest.mark.parametrize('transform', GEOMETRY, ids=lambda one: one['type'])
@pytest.mark.parametrize(('channels', 'dtype'), KINDS)
def test_each_channel_moves_as_it_does_alone(transform, channels, dtype):
    image = pixels(RNG, channels, dtype)
    for seed in range(4):
        whole, valid = moved(transform, image, seed)
        assert whole.dtype == image.dtype and whole.shape == (*valid.shape, channels)
        for i in range(channels):
            alone, alone_valid = moved(transform, image[..., i : i + 1], seed)
            assert np.array_equal(valid, alone_valid)
            assert np.allclose(whole[..., i], alone[..., 0], rtol=0, atol=1e-4)


def test_padding_is_zero_or_the_color():
    image = pixels(RNG, 5, 'float32')
    crop = dict(type='RandomPaddedCrop', crop_size=(32, 40))
    padded, valid = moved(dict(crop, pad_color=(9, 9, 9)), image, 0)
    assert (padded[~valid] == 9).all() and np.array_equal(padded[:24, :30], image)
    with pytest.raises(DataError, match=r'pad_color is \(1, 2, 3\), but a.tif has 5 channels'):
        moved(dict(crop, pad_color=(1, 2, 3)), image, 0)


# ----------------------------------------------------------------------------------- photometry
def photometric(kind, image, seed, limits=None, **arguments):
    np.random.seed(seed)
    results = dict(img=image.copy())
    if limits is not None:
        results['value_range'] = np.array(limits, np.float32)
    return build(kind, **arguments)(results)['img']


PHOTOMETRY = [
    ('RandomColorJitter', dict(prob=1.0)),
    ('RandomColorJitter', dict(prob=1.0, backend='pillow')),
    ('RandomGaussianBlur', dict(prob=1.0)),
    ('RandomGaussianBlur', dict(prob=1.0, backend='pillow')),
    ('RandomIntensityAugment', dict(max_ops=4)),
    *(('RandomIntensityAugment', dict(max_ops=1, ops=[name])) for name in OPERATIONS),
    ('RandomGray', dict(prob=1.0)),
]


@pytest.mark.parametrize(('kind', 'arguments'), PHOTOMETRY)
@pytest.mark.parametrize(('channels', 'dtype'), KINDS)
def test_each_channel_changes_as_it_does_alone(kind, arguments, channels, dtype):
    image = pixels(RNG, channels, dtype)
    low, high = image.min((0, 1)) - 1.0, image.max((0, 1)) + 1.0
    for seed in range(3):
        found = photometric(kind, image, seed, (low, high), **arguments)
        assert found.dtype == image.dtype and found.shape == image.shape
        assert np.isfinite(found).all()
        if dtype == 'float32':
            assert (found >= low - 1e-4).all() and (found <= high + 1e-4).all()
        for i in range(channels):
            limits = ([low[i]], [high[i]])
            alone = photometric(kind, image[..., i : i + 1], seed, limits, **arguments)
            assert np.allclose(found[..., i], alone[..., 0], rtol=0, atol=1e-3)


def test_brightness_and_contrast_by_their_formulas():
    image = pixels(RNG, 4, 'float32')
    low, high = np.float32([-30, -25, -20, -15]), np.float32([40, 45, 50, 55])
    np.random.seed(5)
    assert np.random.rand() < 1  # whether at all
    brightness = np.random.uniform(0.6, 1.4)
    found = photometric(
        'RandomColorJitter', image, 5, (low, high), brightness=0.4, contrast=0, prob=1.0
    )
    wanted = np.clip(low + brightness * (image - low), low, high)
    assert np.allclose(found, wanted, atol=1e-4) and not np.allclose(found, image, atol=1)
    np.random.seed(5)
    np.random.rand(2)
    contrast = np.random.uniform(0.6, 1.4)
    found = photometric(
        'RandomColorJitter', image, 5, (low, high), brightness=0, contrast=0.4, prob=1.0
    )
    mean = image.mean((0, 1))
    assert np.allclose(found, np.clip(mean + contrast * (image - mean), low, high), atol=1e-4)


@pytest.mark.parametrize('name', ['RandomColorJitter', 'RandomIntensityAugment'])
def test_it_does_not_matter_in_what_unit_the_data_are(name):
    """Photometry is relative to the range of the data: meters or millimeters give the same."""
    image = pixels(RNG, 3, 'float32')
    low, high = image.min((0, 1)), image.max((0, 1))
    for seed in range(8):
        found = photometric(name, image, seed, (low, high))
        other = photometric(name, 100 * image + 7, seed, (100 * low + 7, 100 * high + 7))
        assert np.allclose(100 * found + 7, other, atol=0.5)


def test_the_range_is_that_of_the_image_where_nobody_knows_it():
    image = pixels(RNG, 2, 'float32')
    low, high = image.min((0, 1)), image.max((0, 1))
    for seed in range(4):
        found = photometric('RandomColorJitter', image, seed, prob=1.0)
        assert np.array_equal(
            found, photometric('RandomColorJitter', image, seed, (low, high), prob=1.0)
        )


def test_a_sharp_edge_by_hand():
    image = np.zeros((5, 5, 4), np.float32)
    image[:, 3:] = 13
    found = photometric(
        'RandomIntensityAugment', image, 0, max_ops=1, ops=['sharpness'],
        ranges=dict(sharpness=(0, 0)),
    )  # fmt: skip
    assert np.allclose(found[2, 2], 3) and np.allclose(found[2, 3], 10)
    assert np.array_equal(found[0], image[0])


def test_equalized_channels_are_flat():
    image = (RNG.random((40, 40, 2)) ** 3).astype(np.float32)
    arguments = dict(max_ops=1, ops=['equalize'])
    found = photometric('RandomIntensityAugment', image, 0, ([0, 0], [10, 20]), **arguments)
    for i, top in enumerate((10, 20)):
        counts, _ = np.histogram(found[..., i], 10, (0, top))
        assert counts.min() > 120 and counts.max() < 200
        order = np.argsort(image[..., i], axis=None)
        assert (np.diff(found[..., i].ravel()[order]) >= -1e-5).all()


# ------------------------------------------------------------------------------ what does not apply
@pytest.fixture
def said():
    """What the log says."""
    texts, handler = [], logging.Handler()

    def emit(record):
        if 'for images of' in record.getMessage():  # not what the registry says
            texts.append(record.getMessage())

    handler.emit = emit
    logger = MMLogger.get_instance('said')
    logger.addHandler(handler)
    yield texts
    logger.removeHandler(handler)


@pytest.mark.parametrize(
    ('kind', 'arguments', 'text'),
    [
        ('RandomColorJitter', {}, 'RandomColorJitter: saturation and hue are left out'),
        ('RandomGray', {}, 'RandomGray: nothing is made gray'),
        ('RandomIntensityAugment', {}, 'RandomIntensityAugment: color, posterize, hue: left out'),
    ],
)
def test_what_does_not_apply_is_said_once(said, kind, arguments, text):
    transform = build(kind, **arguments)
    for _ in range(20):
        transform(dict(img=pixels(RNG, 4, 'uint8')))
    (line,) = said
    assert line.startswith(f'{text} for images of 4 channels of uint8, because')


def test_nothing_is_said_of_photographs(said):
    for kind in ('RandomColorJitter', 'RandomGray', 'RandomIntensityAugment'):
        transform = build(kind)
        for _ in range(9):
            transform(dict(img=pixels(RNG, 3, 'uint8')))
    build('RandomColorJitter', saturation=0, hue=0, prob=1.0)(dict(img=pixels(RNG, 4, 'uint8')))
    assert said == []


# ------------------------------------------------------------------------------ 8-bit RGB as before
def test_photographs_go_through_the_operations_of_colors():
    """The operations of 8-bit RGB images, written out once more."""
    image = pixels(RNG, 3, 'uint8')
    levels = np.arange(256)

    def table(values):
        return (values + 1e-6).clip(0, 255).astype(np.uint8)

    def gray(one):
        return cv2.cvtColor(cv2.cvtColor(one, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)

    def jitter(one, which, amount):
        if which == 0:
            return cv2.LUT(one, table(levels * amount))
        if which == 1:
            mean = int(cv2.mean(cv2.cvtColor(one, cv2.COLOR_BGR2GRAY))[0] + 0.5)
            return cv2.LUT(one, table(levels * amount + mean * (1 - amount)))
        if which == 2:
            luma = np.array([0.114, 0.587, 0.299])
            return cv2.transform(one, amount * np.eye(3) + (1 - amount) * luma)
        hsv = cv2.cvtColor(one, cv2.COLOR_BGR2HSV_FULL)
        hsv[..., 0] += np.uint8(round(amount * 256) % 256)
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR_FULL)

    chain = [build('RandomColorJitter'), build('RandomGray'), build('RandomGaussianBlur')]
    for seed in range(30):
        np.random.seed(seed)
        results = dict(img=image.copy())
        for transform in chain:
            results = transform(results)
        np.random.seed(seed)
        wanted = image.copy()
        if np.random.rand() < 0.8:
            amounts = [np.random.uniform(0.5, 1.5) for _ in range(3)]
            amounts.append(np.random.uniform(-0.25, 0.25))
            for i in np.random.permutation(4):
                wanted = jitter(wanted, i, amounts[i])
        if np.random.rand() < 0.2:
            wanted = gray(wanted)
        if np.random.rand() < 0.5:
            sigma = np.random.uniform(0.1, 2.0)
            kernel = cv2.getGaussianKernel(2 * int(np.ceil(3 * sigma)) + 1, sigma)
            wanted = cv2.sepFilter2D(wanted, -1, kernel, kernel)
        assert np.array_equal(results['img'], wanted)


def test_intensity_operations_of_photographs_are_drawn_as_before():
    image = pixels(RNG, 3, 'uint8')
    names = list(OPERATIONS)
    for seed in range(30):
        np.random.seed(seed)
        found = build('RandomIntensityAugment')(dict(img=image.copy()))['img']
        np.random.seed(seed)
        wanted = image.copy()
        for _ in range(np.random.randint(1, 4)):
            operation = OPERATIONS[names[np.random.randint(len(names))]]
            strength = [np.random.uniform(*operation.range)] if operation.range else []
            wanted = operation.function(wanted, *strength)
        assert np.array_equal(found, wanted)


# ------------------------------------------------------------------------------ loading and packing
@pytest.mark.parametrize(('channels', 'dtype'), [(1, 'uint16'), (4, 'uint8'), (7, 'float32')])
def test_whole_pipelines(tmp_path, channels, dtype):
    image = pixels(RNG, channels, dtype)
    path = write(tmp_path / 'a.tif', image)
    loading = dict(type='LoadChannels', in_channels=channels)
    resize = [dict(type='Resize', scale=(60, 48), keep_ratio=True)]
    strong = dict(num_views=2, transforms=[dict(type='RandomGaussianBlur', prob=1.0)])
    packed = Compose(unlabeled_pipeline(resize, strong, (), loading))(
        dict(img_path=str(path), seg_fields=[])
    )
    kind = torch.uint8 if dtype == 'uint8' else torch.float32
    for one in (packed['weak'], *packed['strong']):
        assert one.shape == (channels, 48, 60) and one.dtype == kind
    plain = Compose([loading, *resize, PackSegInputs()])(dict(img_path=str(path)))
    assert torch.equal(plain['inputs'], packed['weak'])
    assert plain['data_samples'].ori_shape == (24, 30)


def test_the_range_comes_from_the_statistics(tmp_path):
    path = write(tmp_path / 'a.npy', pixels(RNG, 3, 'float32'))
    columns = dict(mean=[1.0] * 3, std=[1.0] * 3, min=[-1.0, -2.0, -3.0], max=[1.0, 2.0, 3.0])
    found = ChannelStatistics(in_channels=3, dtype='float32', images=1, files='', **columns)
    file = str(tmp_path / 'channels.json')
    load = build('LoadChannels', statistics=file)
    assert 'value_range' not in load(dict(img_path=str(path)))  # none is there yet
    write_statistics(file, found)
    results = build('LoadChannels', statistics=file)(dict(img_path=str(path)))
    # In the order of the array: BGR.
    assert results['value_range'].tolist() == [[-3, -2, -1], [3, 2, 1]]
    with pytest.raises(
        DataError, match='channels.json is of images of 3 channels, but in_channels'
    ):
        build('LoadChannels', in_channels=4, statistics=file)._range  # noqa: B018
