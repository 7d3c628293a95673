"""Crops in which rare classes are seen as often as frequent ones."""

from __future__ import annotations

import numpy as np
import pytest

from mmseg_semi.datasets.transforms import ClassBalancedCrop


def sample(height=40, width=60):
    """Class 1 in 6 of 2400 pixels, class 2 in a third, 255 in the last row."""
    mask = np.zeros((height, width), np.uint8)
    mask[3:5, 50:53] = 1
    mask[:, :20] = 2
    mask[-1] = 255
    image = np.repeat(np.arange(height * width).reshape(height, width, 1), 3, axis=2)
    return dict(img=image, gt_seg_map=mask, seg_fields=['gt_seg_map'])


def crops(prob, size=(8, 10), number=600, **given):
    np.random.seed(0)
    crop = ClassBalancedCrop(crop_size=size, prob=prob)
    return [crop(dict(sample(), **given)) for _ in range(number)]


def test_every_class_is_in_a_third_of_the_crops_or_more():
    seen = [np.bincount(one['gt_seg_map'].ravel(), minlength=3)[:3] > 0 for one in crops(1.0)]
    rare = np.mean(seen, axis=0)[1]
    assert 0.28 < rare < 0.4  # one class of three, and hardly ever by chance
    assert np.mean([one[1] for one in seen if one[1]]) == 1.0
    by_chance = np.mean([(one['gt_seg_map'] == 1).any() for one in crops(0.0)])
    assert by_chance < 0.12


def test_the_share_is_that_of_the_crops():
    rare = np.mean([(one['gt_seg_map'] == 1).any() for one in crops(0.5, number=1500)])
    half = np.mean([(one['gt_seg_map'] == 1).any() for one in crops(0.0, number=1500)]) / 2
    assert rare == pytest.approx(half + 0.5 * 0.35, abs=0.04)


@pytest.mark.parametrize('size', [(8, 10), (40, 60), (50, 10), (64, 64)])
def test_crops_lie_in_the_image_and_the_mask_is_cut_alike(size):
    for one in crops(1.0, size=size, number=40):
        shape = min(size[0], 40), min(size[1], 60)
        assert one['gt_seg_map'].shape == one['img'].shape[:2] == one['img_shape'] == shape
        top, left = divmod(int(one['img'][0, 0, 0]), 60)
        whole = sample()['gt_seg_map']
        cut = whole[top : top + shape[0], left : left + shape[1]]
        np.testing.assert_array_equal(one['gt_seg_map'], cut)


def test_the_pixel_may_lie_anywhere_in_the_crop():
    mask = np.zeros((40, 60), np.uint8)
    mask[20, 30] = 1
    found = [np.argwhere(one['gt_seg_map'] == 1) for one in crops(1.0, gt_seg_map=mask)]
    places = np.concatenate(found)
    assert set(places[:, 0]) == set(range(8)) and set(places[:, 1]) == set(range(10))


def test_a_mask_that_says_nothing_is_cut_at_random():
    unknown = np.full((40, 60), 255, np.uint8)
    first = crops(1.0, number=5, gt_seg_map=unknown)
    assert [one['gt_seg_map'].shape for one in first] == [(8, 10)] * 5


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(crop_size=(8, 0)), 'crop_size'),
        (dict(crop_size=(8, 8), prob=1.5), r'prob must be a number in \[0, 1\], got 1.5'),
    ],
)
def test_arguments_outside_their_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClassBalancedCrop(**arguments)
