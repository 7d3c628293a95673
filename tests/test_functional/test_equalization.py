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


def test_a_random_large_component_is_boxed():
    """Of three components two are large enough; what touches at a corner is connected."""
    target = torch.zeros(300, 10, 20, dtype=torch.bool)
    target[:, 0, 0] = True  # a speck
    target[:, 2:5, 3:6] = True  # 9 + 1 pixels
    target[:, 5, 6] = True
    target[:, 7:9, 12:18] = True  # 12 pixels, a hole of which changes nothing
    target[:, 7, 14] = False
    boxes, found = class_boxes(target, 9 / 200, source())  # more than 9 pixels
    assert found.all()
    kinds = {bounds(box) for box in boxes}
    assert kinds == {(2, 6, 3, 7), (7, 9, 12, 18)}
    for box in boxes:
        top, bottom, left, right = bounds(box)
        assert box.sum() == (bottom - top) * (right - left), 'a rectangle'
    assert 110 < int(boxes[:, 2, 3].sum()) < 190, 'each half of the times'
    boxes, _ = class_boxes(target, 10 / 200, source())  # the first is no longer large enough
    assert {bounds(box) for box in boxes} == {(7, 9, 12, 18)}


def test_a_large_component_is_boxed_whole():
    boxes, found = class_boxes(torch.ones(1, 6, 7, dtype=torch.bool), 0.03, source())
    assert found.all() and boxes.all()


def test_without_a_large_component_a_random_half_is_boxed():
    """Height H 2^-r with r uniform in [0, 1], half the area, anywhere."""
    target = torch.zeros(500, 64, 100, dtype=torch.bool)
    target[:, 0, 0] = True
    boxes, found = class_boxes(target, 0.0005, source())
    assert not found.any()
    edges = torch.tensor([bounds(box) for box in boxes]).double()
    rows, columns = edges[:, 1] - edges[:, 0], edges[:, 3] - edges[:, 2]
    assert (rows * columns / 6400 - 0.5).abs().max() < 0.013
    r = -(rows / 64).log2()
    assert r.min() >= 0 and r.max() <= 1
    assert abs(float(r.mean()) - 0.5) < 4 / math.sqrt(12 * 500)
    share = edges[:, 0] / (64 - rows).clamp(min=1)
    assert share.min() == 0 and share.max() == 1 and abs(float(share.mean()) - 0.5) < 0.06
    assert len(set(edges[:, 2].tolist())) > 30
    again, _ = class_boxes(target, 0.0005, source())
    assert torch.equal(boxes, again)


def test_maps_of_draws_are_shared_by_the_images():
    """Kept where the draw of the class at the place is at least 1 - rate: rates 1/2, 1 and 0."""
    label = torch.tensor([[[0, 1], [2, 0]], [[1, 0], [0, 255]]])
    confidence = torch.tensor([0.6, 0.2, 1.0], dtype=torch.float64)
    draw = torch.tensor([[[0.4, 0.6], [0.5, 0.49]], [[0.0, 0.0], [0.0, 0.0]], [[0.9] * 2] * 2])
    kept = equalization_mask(label, confidence, draw=draw)
    assert kept[0].tolist() == [[False, True], [False, False]]
    assert kept[1, 0].tolist() == [True, True] and kept[1, 1, 0]
