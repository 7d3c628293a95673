import colorsys
from collections import Counter

import cv2
import numpy as np
import pytest
from mmseg.registry import TRANSFORMS
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from mmseg_semi.datasets import DataError, StrongViews
from mmseg_semi.datasets.transforms import random_intensity_augment as module

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (40, 53, 3), dtype=np.uint8)
SMOOTH = cv2.resize(RNG.integers(0, 256, (5, 6, 3), dtype=np.uint8), (53, 40))
IMAGES = {
    'noise': NOISE,
    'smooth': SMOOTH,
    'dark': SMOOTH // 4 + np.uint8(7),
    'two levels': np.where(RNG.random((30, 30, 3)) < 0.1, 254, 255).astype(np.uint8),
    'one level': np.full((20, 30, 3), 254, np.uint8),
    'one pixel': np.array([[[3, 200, 90]]], np.uint8),
    'two rows': NOISE[:2, :9],
    'strided': NOISE[3:30:2, ::-1],
}
FACTORS = {'contrast': 'Contrast', 'brightness': 'Brightness', 'color': 'Color'}
FACTORS['sharpness'] = 'Sharpness'
RANGES = {
    'gaussian_blur': (0.1, 2.0),
    'contrast': (0.05, 0.95),
    'brightness': (0.05, 0.95),
    'color': (0.05, 0.95),
    'sharpness': (0.05, 0.95),
    'posterize': (4, 8),
    'solarize': (1, 256),
    'hue': (-0.5, 0.5),
}
NAMES = {'identity', 'autocontrast', 'equalize', *RANGES}


def apply(name, image, *strength):
    result = module.OPERATIONS[name].function(image, *strength)
    assert result.dtype == np.uint8 and result.shape == image.shape
    return result.astype(int)


def pillow(image, function):
    rgb = function(Image.fromarray(np.ascontiguousarray(image[..., ::-1])))
    return np.asarray(rgb)[..., ::-1].astype(int)


def pillow_hue(shift):
    def turn(image):
        hue, saturation, value = image.convert('HSV').split()
        turned = (np.asarray(hue).astype(int) + round(shift * 256)) % 256
        hue = Image.fromarray(turned.astype(np.uint8))
        return Image.merge('HSV', (hue, saturation, value)).convert('RGB')

    return turn


def slow_blur(image, sigma):
    """Gaussian weights in floats, cut off at four sigmas, the image mirrored at its edge pixels."""
    reach = int(np.ceil(4 * sigma))
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    result = image.astype(float)
    for axis in (0, 1):
        padding = [(reach, reach) if i == axis else (0, 0) for i in range(3)]
        wide = np.pad(result, padding, 'reflect')
        size = image.shape[axis]
        result = sum(w * np.take(wide, range(i, i + size), axis) for i, w in enumerate(weights))
    return result


@pytest.fixture(params=IMAGES)
def image(request):
    return IMAGES[request.param]


def test_operations_that_equal_pillow_exactly(image):
    assert (apply('identity', image) == image).all()
    assert (apply('autocontrast', image) == pillow(image, ImageOps.autocontrast)).all()
    assert (apply('equalize', image) == pillow(image, ImageOps.equalize)).all()
    for bits in range(1, 9):
        expected = pillow(image, lambda x, bits=bits: ImageOps.posterize(x, bits))
        for draw in (bits, bits + 0.5, bits + 0.99):
            assert (apply('posterize', image, draw) == expected).all()
    for threshold in (0, 1, 57, 57.3, 128, 254.5, 255, 256):
        expected = pillow(image, lambda x, t=int(threshold): ImageOps.solarize(x, t))
        assert (apply('solarize', image, threshold) == expected).all()


@pytest.mark.parametrize(
    ('name', 'tolerance'),
    [('brightness', 0), ('contrast', 0), ('sharpness', 1), ('color', 2)],
)
def test_factors_against_pillow(image, name, tolerance):
    """Pillow truncates; sharpness and color round here, and the gray itself may differ by one."""
    for factor in (0.05, 0.31, 0.5, 0.77, 0.95):
        enhance = getattr(ImageEnhance, FACTORS[name])
        expected = pillow(image, lambda x, f=factor, e=enhance: e(x).enhance(f))
        assert np.abs(apply(name, image, factor) - expected).max() <= tolerance


@pytest.mark.parametrize('name', FACTORS)
def test_factor_one_changes_nothing(image, name):
    assert (apply(name, image, 1.0) == image).all()


def test_sharpness_keeps_the_edge_and_smooths_the_rest():
    result = apply('sharpness', NOISE, 0.05)
    changed = (result != NOISE).any(-1)
    assert changed[1:-1, 1:-1].mean() > 0.95
    changed[1:-1, 1:-1] = False
    assert not changed.any()


@pytest.mark.parametrize('sigma', [0.1, 0.4, 0.8, 1.3, 2.0])
def test_blur(sigma):
    """Pillow approximates the Gaussian by boxes, so that only smooth images agree closely."""
    for image in (NOISE, SMOOTH):
        difference = np.abs(apply('gaussian_blur', image, sigma) - slow_blur(image, sigma))
        assert difference.max() < 2
    expected = pillow(SMOOTH, lambda x: x.filter(ImageFilter.GaussianBlur(sigma)))
    difference = np.abs(apply('gaussian_blur', SMOOTH, sigma) - expected)
    assert difference[4:-4, 4:-4].max() <= 2


def slow_hue(image, shift):
    result = np.empty(image.shape)
    for place in np.ndindex(image.shape[:2]):
        blue, green, red = image[place] / 255
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        result[place] = colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)[::-1]
    return result * 255


@pytest.mark.parametrize('shift', [0.0, 0.1, 0.25, 0.3337, 0.5])
def test_hue(image, shift):
    """Hues have 256 steps here and 255 in Pillow, each step up to 6 levels in one channel."""
    turned = apply('hue', image, shift)
    for expected in (slow_hue(image, shift), pillow(image, pillow_hue(shift))):
        difference = np.abs(turned - expected)
        assert difference.max() <= 14 and difference.mean() < 1.8


@pytest.mark.parametrize('name', sorted(NAMES))
def test_the_given_image_stays_as_it_is(name):
    np.random.seed(0)
    for image in IMAGES.values():
        given = image.copy()
        given.flags.writeable = False
        result = module.RandomIntensityAugment(4, [name])(dict(img=given))['img']
        assert (given == image).all()
        assert result.dtype == np.uint8 and result.shape == image.shape


def record(monkeypatch):
    calls = []

    def recorder(name):
        return lambda image, *strength: calls.append((name, *strength)) or image

    operations = {
        name: operation._replace(function=recorder(name))
        for name, operation in module.OPERATIONS.items()
    }
    monkeypatch.setattr(module, 'OPERATIONS', operations)
    return calls


def chi_square(counts, kinds):
    assert len(counts) == kinds
    expected = sum(counts.values()) / kinds
    return sum((count - expected) ** 2 / expected for count in counts.values())


def test_numbers_operations_and_strengths(monkeypatch):
    """Bounds on chi-square: the value that a right sampler exceeds once in 10,000 seeds."""
    np.random.seed(0)
    calls = record(monkeypatch)
    augment = TRANSFORMS.build(dict(type='RandomIntensityAugment'))
    lengths, first, last, pairs, strengths = Counter(), Counter(), Counter(), Counter(), {}
    for _ in range(9000):
        calls.clear()
        augment(dict(img=NOISE))
        lengths[len(calls)] += 1
        first[calls[0][0]] += 1
        if len(calls) == 3:
            last[calls[2][0]] += 1
            pairs[calls[0][0] == calls[2][0]] += 1
        for name, *strength in calls:
            strengths.setdefault(name, []).extend(strength)
    assert set(lengths) == {1, 2, 3} and chi_square(lengths, 3) < 18.4
    assert set(first) == NAMES and chi_square(first, 11) < 35.6
    assert set(last) == NAMES and chi_square(last, 11) < 35.6
    assert 1 / 16 < pairs[True] / (pairs[True] + pairs[False]) < 1 / 8  # 1/11: with replacement
    assert {name for name, values in strengths.items() if values} == set(RANGES)
    for name, (low, high) in RANGES.items():
        values = np.array(strengths[name])
        assert len(values) > 1200 and low <= values.min() and values.max() <= high
        tenths = Counter(np.floor((values - low) / (high - low) * 10).astype(int).tolist())
        assert chi_square(tenths, 10) < 33.7
        assert len(set(values.tolist())) == len(values)  # continuous


def test_whole_numbers_and_both_signs():
    """4 to 7 bits are equally likely, and no 8; 1 to 255 levels; hues turn both ways."""
    np.random.seed(0)
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    bits = Counter()
    thresholds = set()
    for _ in range(2000):
        levels = module.RandomIntensityAugment(1, ['posterize'])(dict(img=ramp))['img']
        bits[len(np.unique(levels))] += 1
        inverted = module.RandomIntensityAugment(1, ['solarize'])(dict(img=ramp))['img']
        thresholds.add(int((inverted[0, :, 0] == np.arange(256)).sum()))
    assert set(bits) == {16, 32, 64, 128} and chi_square(bits, 4) < 21.1
    assert min(thresholds) == 1 and max(thresholds) == 255 and len(thresholds) > 250
    red = np.array([[[0, 0, 255]]], np.uint8)
    turned = [module.RandomIntensityAugment(1, ['hue'])(dict(img=red))['img'] for _ in range(400)]
    blue = sum(int(image[0, 0, 0]) > int(image[0, 0, 1]) for image in turned)
    assert 150 < blue < 250


def test_arguments_limit_numbers_operations_and_strengths(monkeypatch):
    np.random.seed(0)
    calls = record(monkeypatch)
    config = dict(
        type='RandomIntensityAugment',
        max_ops=5,
        ops=['hue', 'identity', 'color'],
        ranges=dict(hue=[-0.2, -0.1]),
    )
    augment = TRANSFORMS.build(config)
    lengths, hues, colors = set(), [], []
    for _ in range(500):
        calls.clear()
        augment(dict(img=NOISE))
        lengths.add(len(calls))
        assert {name for name, *_ in calls} <= {'hue', 'identity', 'color'}
        hues += [strength[0] for name, *strength in calls if name == 'hue']
        colors += [strength[0] for name, *strength in calls if name == 'color']
    assert lengths == {1, 2, 3, 4, 5}
    assert -0.2 <= min(hues) < -0.19 and -0.11 < max(hues) <= -0.1
    assert 0.05 <= min(colors) < 0.07 and 0.93 < max(colors) <= 0.95


def test_strengths_reach_the_image():
    augment = module.RandomIntensityAugment(1, ['posterize'], dict(posterize=(1, 1)))
    assert (augment(dict(img=NOISE))['img'] == NOISE // 128 * 128).all()


def test_operations_act_one_after_the_other():
    np.random.seed(3)
    augment = module.RandomIntensityAugment(2, ['brightness'], dict(brightness=(0.5, 0.5)))
    results = {augment(dict(img=np.full((2, 2, 3), 200, np.uint8)))['img'].max() for _ in range(30)}
    assert results == {100, 50}


def test_equal_seeds_give_equal_images():
    augment = module.RandomIntensityAugment()

    def images(seed):
        np.random.seed(seed)
        return [augment(dict(img=NOISE))['img'] for _ in range(20)]

    assert all(np.array_equal(a, b) for a, b in zip(images(4), images(4)))
    assert not all(np.array_equal(a, b) for a, b in zip(images(4), images(5)))


def test_in_strong_views():
    np.random.seed(0)
    valid = np.zeros(SMOOTH.shape[:2], np.uint8)
    given = dict(img=SMOOTH.copy(), gt_seg_map=valid, seg_fields=['gt_seg_map'], img_path='x')
    views = StrongViews(8, [dict(type='RandomIntensityAugment')])(given)['strong_imgs']
    assert (given['img'] == SMOOTH).all()
    assert len({view.tobytes() for view in views}) >= 7


def test_repr_names_the_arguments():
    text = repr(module.RandomIntensityAugment(2, ['hue', 'equalize']))
    assert text == (
        "RandomIntensityAugment(max_ops=2, ops=['hue', 'equalize'], ranges={'hue': (-0.5, 0.5)})"
    )


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(max_ops=0), 'max_ops is 0; it must be a whole number, 1 or more'),
        (dict(max_ops=2.0), 'max_ops is 2.0; it must'),
        (dict(max_ops=True), 'max_ops is True; it must'),
        (dict(ops=[]), r'ops is \[\]; give a list of one or more of: identity, '),
        (dict(ops='hue'), "ops is 'hue'; give a list"),
        (dict(ops=3), 'ops is 3; give a list'),
        (dict(ops=['hue', 'equalized']), "'equalized', which is no operation. .*'equalize'"),
        (dict(ops=[['hue']]), r"\['hue'\], which is no operation"),
        (dict(ops=['hue', 'hue']), r"ops is \['hue', 'hue'\]; give each operation once"),
        (dict(ranges=[0, 1]), r'ranges is \[0, 1\]; give a dict'),
        (dict(ranges=dict(contrst=(0, 1))), "ranges has 'contrst', .* Did you mean 'contrast'"),
        (dict(ranges=dict(equalize=(0, 1))), "'equalize', .* have a strength"),
        (dict(ops=['hue'], ranges=dict(color=(0, 1))), "'color', .*: hue"),
        (dict(ops=['identity'], ranges=dict(hue=(0, 1))), "'hue', .*: none"),
        (dict(ranges=dict(hue=(0, 0.6))), r"\['hue'\] is \(0, 0.6\); .* both in \[-0.5, 0.5\]"),
        (dict(ranges=dict(hue=(0.2, 0.1))), r"\['hue'\] is \(0.2, 0.1\); give \(lowest, highest\)"),
        (dict(ranges=dict(color=(-0.1, 1))), r'both in \[0, 10\]'),
        (dict(ranges=dict(color=(0, float('nan')))), 'nan'),
        (dict(ranges=dict(color=0.5)), r"\['color'\] is 0.5"),
        (dict(ranges=dict(color='01')), r"\['color'\] is '01'"),
        (dict(ranges=dict(color=(0, 1, 2))), r"\['color'\] is \(0, 1, 2\)"),
        (dict(ranges=dict(gaussian_blur=(0, 1))), r'both in \[0.01, 100\]'),
        (dict(ranges=dict(posterize=(0, 8))), r'both in \[1, 8\]'),
        (dict(ranges=dict(solarize=(1, 257))), r'both in \[0, 256\]'),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        module.RandomIntensityAugment(**arguments)


@pytest.mark.parametrize(
    ('image', 'found'),
    [
        (NOISE.astype(np.float64), r'float64 \(40, 53, 3\)'),
        (NOISE[..., 0], r'uint8 \(40, 53\)'),
        (NOISE[:0], r'uint8 \(0, 53, 3\)'),
        (None, 'NoneType'),
    ],
)
def test_wrong_images(image, found):
    with pytest.raises(DataError, match=f'image a.png is {found}; it must be a uint8 or float32'):
        module.RandomIntensityAugment()(dict(img=image, img_path='a.png'))


@pytest.mark.parametrize('name', sorted(RANGES))
def test_the_widest_ranges_work(name):
    operation = module.OPERATIONS[name]
    for strength in (operation.lowest, operation.highest):
        for image in IMAGES.values():
            augment = module.RandomIntensityAugment(1, [name], {name: (strength, strength)})
            assert augment(dict(img=image))['img'].shape == image.shape
