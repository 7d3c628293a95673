import colorsys

import numpy as np
import pytest
from mmseg.registry import TRANSFORMS
from PIL import Image, ImageEnhance

from mmseg_semi.datasets.transforms import random_color_jitter as module

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (9, 11, 3), dtype=np.uint8)


def luma(image):
    return image[..., 0] * 0.114 + image[..., 1] * 0.587 + image[..., 2] * 0.299


def test_brightness_by_hand():
    image = np.array([[[10, 20, 200], [0, 255, 3]]], np.uint8)
    assert module.adjust_brightness(image, 1.5).tolist() == [[[15, 30, 255], [0, 255, 4]]]
    assert module.adjust_brightness(image, 0.5).tolist() == [[[5, 10, 100], [0, 127, 1]]]
    assert module.adjust_brightness(np.full((1, 1, 3), 100, np.uint8), 1.15).max() == 115


def test_contrast_by_hand():
    image = np.array([[[100] * 3, [51] * 3]], np.uint8)  # mean 75.5, rounded to 76
    assert module.adjust_contrast(image, 0).tolist() == [[[76] * 3, [76] * 3]]
    assert module.adjust_contrast(image, 0.5).tolist() == [[[88] * 3, [63] * 3]]
    assert module.adjust_contrast(image, 2).tolist() == [[[124] * 3, [26] * 3]]


def test_saturation_against_the_formula():
    gray = luma(IMAGE.astype(float))[..., None]
    for factor in (0.0, 0.4, 1.3):
        expected = (factor * IMAGE + (1 - factor) * gray).clip(0, 255)
        result = module.adjust_saturation(IMAGE, factor)
        difference = np.abs(result - expected)
        assert result.dtype == np.uint8 and difference.max() <= 1 and difference.mean() < 0.35
    same = module.adjust_saturation(IMAGE, 0.0)
    assert (same[..., 0] == same[..., 1]).all() and (same[..., 0] == same[..., 2]).all()


def test_hue_by_hand():
    red = np.array([[[0, 0, 255]]], np.uint8)
    assert np.abs(module.adjust_hue(red, 1 / 3).astype(int) - [0, 255, 0]).max() <= 6
    assert np.abs(module.adjust_hue(red, -1 / 3).astype(int) - [255, 0, 0]).max() <= 6
    assert np.abs(module.adjust_hue(red, 0.5).astype(int) - [255, 255, 0]).max() <= 6
    gray = np.full((2, 2, 3), 90, np.uint8)
    assert (module.adjust_hue(gray, 0.2) == gray).all()


@pytest.mark.parametrize('shift', [0.0, 0.1, -0.1, 0.25, -0.25, 0.5, -0.5])
def test_hue_against_colorsys(shift):
    expected = np.empty(IMAGE.shape)
    for place in np.ndindex(IMAGE.shape[:2]):
        b, g, r = IMAGE[place] / 255
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        expected[place] = colorsys.hsv_to_rgb((h + shift) % 1, s, v)[::-1]
    difference = np.abs(module.adjust_hue(IMAGE, shift) - expected * 255)
    assert (
        difference.max() <= 12 and difference.mean() < 1.5
    )  # the circle has 256 steps, each up to 6 levels


# ------------------------------------------------------------------------------ as Pillow has it
def pillow(image, function):
    return np.asarray(function(Image.fromarray(image[..., ::-1])))[..., ::-1]


def hue_in_8_bits(shift):
    """Hue, saturation and value of a Pillow image, the first one moved and wrapped in 8 bits."""

    def turn(image):
        hue, saturation, value = image.convert('HSV').split()
        moved = hue.point([(level + int(shift * 255)) % 256 for level in range(256)])
        return Image.merge('HSV', (moved, saturation, value)).convert('RGB')

    return turn


@pytest.mark.parametrize('shift', [0.0, 0.1, -0.1, 0.25, -0.25, 0.5, -0.5, 0.0039, -0.0039])
def test_hue_of_the_pillow_backend_is_pillows(shift):
    wanted = pillow(IMAGE, hue_in_8_bits(shift))
    assert np.array_equal(pillow(IMAGE, lambda image: module.pillow_hue(image, shift)), wanted)


def test_hue_of_the_pillow_backend_by_hand():
    """0.0039 * 255 is cut to 0; a third of 255 is 85, from red (0) to Pillow's green (85)."""
    red = Image.new('RGB', (1, 1), (255, 0, 0))
    for shift, green in (
        (0.0039, False),
        (-0.0039, False),
        (85.5 / 255, True),
        (84.9 / 255, False),
    ):
        pixel = module.pillow_hue(red, shift).getpixel((0, 0))
        assert (pixel == (0, 255, 0)) == green
        assert (pixel == (255, 0, 0)) == (abs(shift) < 0.01)


@pytest.mark.parametrize('factor', [0.0, 0.4, 0.77, 1.0, 1.3, 1.5])
@pytest.mark.parametrize(
    ('name', 'kind'),
    [('brightness', 'Brightness'), ('contrast', 'Contrast'), ('saturation', 'Color')],
)
def test_factors_of_the_pillow_backend_are_pillows(name, kind, factor):
    wanted = pillow(IMAGE, lambda image: getattr(ImageEnhance, kind)(image).enhance(factor))
    found = pillow(IMAGE, lambda image: getattr(module, f'pillow_{name}')(image, factor))
    assert np.array_equal(found, wanted)
    both = getattr(module, f'adjust_{name}')(IMAGE, factor).astype(int)
    assert np.abs(both - wanted).max() <= 1


def test_the_backend_says_whose_functions_run():
    def jittered(backend):
        np.random.seed(1)
        jitter = module.RandomColorJitter(0, 0, 0, 0.25, prob=1, backend=backend)
        return jitter(dict(img=IMAGE.copy()))['img']

    np.random.seed(1)
    np.random.rand()
    shift = [np.random.uniform(*pair) for pair in [(1, 1)] * 3 + [(-0.25, 0.25)]][3]
    wanted = pillow(IMAGE, hue_in_8_bits(shift))
    assert np.array_equal(jittered('pillow'), wanted)
    assert np.array_equal(jittered('cv2'), module.adjust_hue(IMAGE, shift))
    assert not np.array_equal(jittered('pillow'), jittered('cv2'))


def test_factor_one_changes_nothing():
    assert (module.adjust_brightness(IMAGE, 1) == IMAGE).all()
    assert (module.adjust_contrast(IMAGE, 1) == IMAGE).all()
    assert (module.adjust_saturation(IMAGE, 1) == IMAGE).all()


def record(monkeypatch):
    calls = []
    for name in ('brightness', 'contrast', 'saturation', 'hue'):
        monkeypatch.setattr(
            module, f'adjust_{name}', lambda img, x, name=name: calls.append((name, x)) or img
        )
    return calls


OWN = dict(brightness=(0, 2.4), contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-0.1, 0.1))
UNIMATCH = {**OWN, 'brightness': (0.5, 1.5), 'hue': (-0.25, 0.25)}


@pytest.mark.parametrize(
    ('arguments', 'wanted'), [(dict(brightness=1.4, hue=0.1), OWN), ({}, UNIMATCH)]
)
def test_ranges_order_and_probability(monkeypatch, arguments, wanted):
    np.random.seed(0)
    calls = record(monkeypatch)
    jitter = TRANSFORMS.build(dict(type='RandomColorJitter', **arguments))
    orders, ranges, jittered = set(), {}, 0
    for _ in range(2000):
        calls.clear()
        jitter(dict(img=IMAGE))
        if calls:
            jittered += 1
            orders.add(tuple(name for name, _ in calls))
            values = dict(calls)
            assert sorted(values) == ['brightness', 'contrast', 'hue', 'saturation']
            for name, value in values.items():
                ranges.setdefault(name, []).append(value)
    assert 0.77 < jittered / 2000 < 0.83
    assert len(orders) == 24
    for name, (low, high) in wanted.items():
        seen = ranges[name]
        slack = (high - low) * 0.02
        assert low <= min(seen) < low + slack and high - slack < max(seen) <= high
        assert abs(np.mean(seen) - (low + high) / 2) < 3 * slack


def test_probability_limits():
    np.random.seed(0)
    for prob, changed in ((0, False), (1, True)):
        result = module.RandomColorJitter(prob=prob)(dict(img=IMAGE.copy()))['img']
        assert (not np.array_equal(result, IMAGE)) == changed


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(hue=0.6), r'hue must be a number in \[0, 0.5\], got 0.6'),
        (dict(contrast=-1), 'contrast must be a number >= 0, got -1'),
        (dict(prob=2), r'prob must be a number in \[0, 1\], got 2'),
        (dict(backend='PIL'), "backend must be one of .* got 'PIL'"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        module.RandomColorJitter(**arguments)
