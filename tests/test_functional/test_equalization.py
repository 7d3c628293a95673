from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch

from mmseg_semi.functional.equalization import (
    class_boxes,
    class_confidence_sums,
    draw_classes,
    draw_true,
    equalization_mask,
    sampling_weights,
)


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def chi_square(counts, expected):
    """Pearson's statistic, and a bound that it passes less than once in 10 000 times."""
    value = sum((c - e) ** 2 / e for c, e in zip(counts, expected))
    free = len(counts) - 1
    # Wilson and Hilferty's approximation at 3.72 standard deviations.
    bound = free * (1 - 2 / (9 * free) + 3.72 * math.sqrt(2 / (9 * free))) ** 3
    return value, bound


# ---------------------------------------------------------------------------- class confidence
def sums_by_hand(logits, label):
    classes = logits.shape[1]
    sums, counts = [0.0] * classes, [0] * classes
    prob = logits.double().softmax(1)
    for b, y, x in torch.cartesian_prod(*map(torch.arange, label.shape)).tolist():
        k = int(label[b, y, x])
        if k != 255:
            sums[k] += float(prob[b, k, y, x])
            counts[k] += 1
    return torch.tensor([sums, counts], dtype=torch.float64)


@pytest.mark.parametrize('dtype', [torch.int64, torch.uint8])
def test_sums_are_those_of_a_loop_over_the_pixels(dtype):
    logits = 3 * torch.randn(2, 5, 7, 9, generator=source())
    label = torch.randint(0, 4, (2, 7, 9), generator=source(1))  # class 4 is absent
    label[torch.rand(label.shape, generator=source(2)) < 0.2] = 255
    found = class_confidence_sums(logits, label.to(dtype))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, sums_by_hand(logits, label), rtol=1e-6, atol=1e-6)
    assert found[1, 4] == 0 and found[1].sum() == (label != 255).sum()


def test_sums_of_parts_add_up_and_nothing_known_gives_zero():
    logits = torch.randn(4, 3, 6, 5, generator=source())
    label = torch.randint(0, 3, (4, 6, 5), generator=source(1))
    parts = (
        class_confidence_sums(logits[:1], label[:1]),
        class_confidence_sums(logits[1:], label[1:]),
    )
    torch.testing.assert_close(class_confidence_sums(logits, label), sum(parts))
    assert not class_confidence_sums(logits, torch.full_like(label, 255)).any()
    # Large logits of a sure network neither overflow nor leave [0, 1].
    sure = class_confidence_sums(1e4 * logits, label)
    assert sure.isfinite().all() and (sure[0] <= sure[1]).all()


def test_sums_refuse_other_sizes():
    with pytest.raises(ValueError, match=r'label \(B, H, W\).* got \(1, 3, 4, 4\), \(1, 4, 5\)$'):
        class_confidence_sums(torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 5).long())


# ------------------------------------------------------------------------------------- drawing
def test_sampling_weights_are_the_softmax():
    confidence = torch.tensor([0.0, 0.36, 0.99], dtype=torch.float64)
    for power in (1.0, 0.5, 0.0):
        raw = [math.exp((1 - c) ** power) for c in (0.0, 0.36, 0.99)]
        expected = torch.tensor([one / sum(raw) for one in raw], dtype=torch.float64)
        torch.testing.assert_close(sampling_weights(confidence, power), expected)


def test_classes_are_drawn_without_replacement_by_their_weights():
    """Every order of 2 out of 4 classes comes up as often as drawing one after the other says."""
    weights = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    times = 20000
    drawn = draw_classes(weights, times, 2, source())
    assert drawn.shape == (times, 2)
    orders = list(permutations(range(4), 2))
    w = weights.tolist()
    expected = [times * w[a] * w[b] / (1 - w[a]) for a, b in orders]
    counts = [int((drawn == torch.tensor(order)).all(1).sum()) for order in orders]
    assert sum(counts) == times  # no class twice
    value, bound = chi_square(counts, expected)
    assert value < bound
    # A test that would see another distribution.
    value, bound = chi_square(counts, [times / 12] * 12)
    assert value > bound


def test_all_classes_can_be_drawn():
    drawn = draw_classes(torch.ones(3), 50, 3, source())
    assert drawn.sort(1).values.tolist() == [[0, 1, 2]] * 50


def test_true_places_are_drawn_uniformly():
    mask = torch.zeros(3, 8, dtype=torch.bool)
    mask[0, [1, 2, 5, 7]] = True
    mask[1, 6] = True
    times = 8000
    place, found = draw_true(mask.expand(times, 3, 8), source())
    assert found.all(0).tolist() == [True, True, False] and not found[:, 2].any()
    assert (place[:, 1] == 6).all() and (place[:, 2] == 0).all()
    counts = [int((place[:, 0] == one).sum()) for one in (1, 2, 5, 7)]
    assert sum(counts) == times
    value, bound = chi_square(counts, [times / 4] * 4)
    assert value < bound


# -------------------------------------------------------------------------------- equalization
def test_pixels_are_kept_with_the_formulas_probability():
    confidence = torch.tensor([0.9, 0.2, 0.5, 1.0], dtype=torch.float64)
    number = 20000
    label = torch.arange(4).repeat(number).view(2, -1, 4)
    kept = equalization_mask(label, confidence, source())
    assert kept.shape == label.shape and kept.dtype == torch.bool
    for k, rate in enumerate((0.1 / 0.8, 1.0, 0.5 / 0.8, 0.0)):
        share = kept[label == k].double().mean().item()
        assert abs(share - rate) <= 4 * math.sqrt(rate * (1 - rate) / number), k


def test_everything_is_kept_when_every_class_is_known():
    label = torch.randint(0, 3, (1, 5, 6))
    assert equalization_mask(label, torch.ones(3, dtype=torch.float64)).all()
    assert equalization_mask(label, torch.zeros(3, dtype=torch.float64)).all()
    label[0, 0, 0] = 255  # no class at all
    equalization_mask(label, torch.zeros(3, dtype=torch.float64))


def test_a_generator_decides_what_is_kept():
    label = torch.randint(0, 3, (2, 20, 20), generator=source())
    confidence = torch.tensor([0.1, 0.5, 0.9])
    first, again, other = (equalization_mask(label, confidence, source(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


# --------------------------------------------------------------------------------------- boxes
def bounds(mask):
    y, x = mask.nonzero(as_tuple=True)
    return int(y.min()), int(y.max()) + 1, int(x.min()), int(x.max()) + 1


def test_small_classes_get_their_bounding_box():
    for seed in range(20):
        target = torch.rand(3, 12, 17, generator=source(seed)) < 0.02
        target[2] = False
        boxes = class_boxes(target, 1.0, source(seed))
        for one, box in zip(target, boxes):
            if not one.any():
                assert not box.any()
                continue
            top, bottom, left, right = bounds(one)
            expected = torch.zeros_like(one)
            expected[top:bottom, left:right] = True
            assert torch.equal(box, expected)


@pytest.mark.parametrize('max_area', [0.5, 0.2, 0.04, 0.004])
def test_a_large_bounding_box_becomes_a_window_inside_it(max_area):
    height, width = 20, 30
    limit, places = max_area * height * width, set()
    for seed in range(60):
        target = torch.zeros(1, height, width, dtype=torch.bool)
        target[0, 2:19, 1:28] = torch.rand(17, 27, generator=source(seed)) < 0.3
        box = class_boxes(target, max_area, source(seed))[0]
        top, bottom, left, right = bounds(box)
        outer = bounds(target[0])
        assert box.sum() == (bottom - top) * (right - left), 'a rectangle'
        assert outer[0] <= top < bottom <= outer[1] and outer[2] <= left < right <= outer[3]
        assert 0.7 * limit - 1 <= int(box.sum()) <= max(limit, 1)
        assert (box & target[0]).any()
        if limit > 50:  # of about the bounding box's shape
            shape = (bottom - top) / (right - left)
            assert shape == pytest.approx((outer[1] - outer[0]) / (outer[3] - outer[2]), rel=0.25)
        places.add((top, left))
    assert len(places) > (3 if max_area == 0.5 else 10), 'the place is random'


def test_a_window_is_around_a_random_pixel_of_the_class():
    """Two specks in the corners of the bounding box: the window holds one of them, each half."""
    target = torch.zeros(400, 20, 20, dtype=torch.bool)
    target[:, 1, 1] = target[:, 18, 18] = True
    boxes = class_boxes(target, 0.1, source())
    first, second = boxes[:, 1, 1], boxes[:, 18, 18]
    assert (first ^ second).all()
    assert 140 < int(first.sum()) < 260


def test_thin_classes_stay_under_the_limit():
    target = torch.zeros(2, 8, 40, dtype=torch.bool)
    target[0, 3] = True
    target[1, :, 7] = True
    areas = class_boxes(target, 0.01, source()).flatten(1).sum(1)
    assert areas.tolist() == [3, 3]
