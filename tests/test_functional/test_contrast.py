from __future__ import annotations

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmseg_semi.functional.contrast import (
    class_ranks,
    class_sums,
    contrast_loss,
    draw_below,
    draw_per_class,
    gather_pixels,
    labeled_negatives,
    unlabeled_negatives,
)

CLASSES = pytest.mark.parametrize('classes', [2, 3, 6, 21])


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def places(prob):
    """Place of each class of one pixel, from a plain sort."""
    order = sorted(range(len(prob)), key=lambda c: (-prob[c], c))
    return [order.index(c) for c in range(len(prob))]


@CLASSES
def test_ranks_are_the_places_in_a_sort_and_ties_go_to_the_lower_class(classes):
    prob = noise(2, classes, 3, 4).softmax(1)
    prob[0, :, 0] = 1 / classes
    prob[1, 1, 1] = prob[1, 0, 1]
    ranks = class_ranks(prob)
    for b in range(2):
        for y in range(3):
            for x in range(4):
                assert ranks[b, :, y, x].tolist() == places(prob[b, :, y, x].tolist())
    assert ranks[0, :, 0, 0].tolist() == list(range(classes))


@CLASSES
@pytest.mark.parametrize('low, high', [(1, 2), (3, 20), (2, 5)])
def test_negatives_are_those_of_the_rules(classes, low, high):
    source = torch.Generator().manual_seed(1)
    prob = noise(2, classes, 4, 5, seed=2).softmax(1)
    label = torch.randint(0, classes, (2, 4, 5), generator=source)
    label[0, 0, :3] = torch.tensor([255, classes, -1])
    unsure = torch.rand(2, 4, 5, generator=source) < 0.5
    ranks = class_ranks(prob)
    labeled = labeled_negatives(ranks, label, low)
    unlabeled = unlabeled_negatives(ranks, unsure, low, high)
    for b in range(2):
        for y in range(4):
            for x in range(5):
                place = places(prob[b, :, y, x].tolist())
                truth = int(label[b, y, x])
                for c in range(classes):
                    wanted = truth in range(classes) and c != truth and place[c] < low
                    assert bool(labeled[b, c, y, x]) == wanted
                    wanted = bool(unsure[b, y, x]) and low <= place[c] < high
                    assert bool(unlabeled[b, c, y, x]) == wanted


@CLASSES
def test_sums_of_each_class(classes):
    features = noise(2, 5, 3, 4)
    label = torch.randint(0, classes, (2, 3, 4), generator=torch.Generator().manual_seed(3))
    label[0, 0] = torch.tensor([255, classes, -1, 0])
    label[label == 1] = 0
    sums, counts = class_sums(features, label, classes)
    expected, number = torch.zeros(classes, 5), [0] * classes
    for b in range(2):
        for y in range(3):
            for x in range(4):
                c = int(label[b, y, x])
                if 0 <= c < classes:
                    expected[c] += features[b, :, y, x]
                    number[c] += 1
    torch.testing.assert_close(sums, expected)
    assert counts.tolist() == number and number[1] == 0 and not sums[1].any()


def test_sums_are_exact_under_autocast():
    features, label = noise(1, 3, 20, 20), torch.zeros(1, 20, 20, dtype=torch.int64)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        sums, _ = class_sums(features, label, 2)
    torch.testing.assert_close(sums[0], features.sum(dim=(0, 2, 3)))
    sums, counts = class_sums(features.half(), label, 2)
    assert sums.dtype == counts.dtype == torch.float32


def test_drawn_numbers_are_uniform_below_each_count():
    counts = torch.tensor([0, 1, 5, 7])
    draw = draw_below(counts, 7000, torch.Generator().manual_seed(0))
    assert draw.shape == (4, 7000)
    for row, count in zip(draw, counts.tolist()):
        seen = torch.bincount(row, minlength=max(count, 1))
        assert len(seen) == max(count, 1)
        expected = 7000 / max(count, 1)
        assert (seen - expected).abs().max() < 5 * math.sqrt(expected), '5 sigma'
    assert not draw[2].equal(draw[3] % 5)


def test_draws_are_of_their_class_with_replacement():
    label = torch.tensor([2, 255, 0, 2, -1, 2, 4, 0, 5, 2])
    index, present = draw_per_class(label, 4, 400, torch.Generator().manual_seed(0))
    assert present.tolist() == [True, False, True, False]
    assert set(index[0].tolist()) == {2, 7} and set(index[2].tolist()) == {0, 3, 5, 9}
    assert not index[1].any() and not index[3].any()
    counts = torch.bincount(index[2], minlength=10)[[0, 3, 5, 9]]
    assert (counts - 100).abs().max() < 45
    again, _ = draw_per_class(label, 4, 400, torch.Generator().manual_seed(0))
    assert index.equal(again)
    nothing, present = draw_per_class(torch.full((3,), 255), 2, 5)
    assert not nothing.any() and not present.any()


def test_pixels_are_counted_over_the_batch_in_raster_order():
    features = noise(2, 3, 4, 5)
    rows = [features[b, :, y, x] for b in range(2) for y in range(4) for x in range(5)]
    index = torch.tensor([[0, 7, 39], [20, 19, 7]])
    taken = gather_pixels(features, index)
    assert taken.shape == (2, 3, 3)
    for row, numbers in zip(taken, index.tolist()):
        assert row.equal(torch.stack([rows[i] for i in numbers]))


# ---------------------------------------------------------------------------------------- loss
def cosine(a, b):
    length = math.sqrt(sum(float(x) ** 2 for x in a) * sum(float(x) ** 2 for x in b))
    return sum(x * y for x, y in zip(a, b)) / length if length else 0.0


def slow_loss(anchors, positives, negatives, present, temperature):
    """Eq. 7 with plain loops and math."""
    classes = []
    for c in range(len(anchors)):
        if not present[c]:
            continue
        terms = []
        for anchor, others in zip(anchors[c], negatives[c]):
            near = math.exp(cosine(anchor, positives[c]) / temperature)
            far = sum(math.exp(cosine(anchor, other) / temperature) for other in others)
            terms.append(-math.log(near / (near + far)))
        classes.append(sum(terms) / len(terms))
    return sum(classes) / len(classes) if classes else 0.0


def inputs(classes=3, queries=4, negatives=5, channels=6, seed=0):
    shapes = [
        (classes, queries, channels),
        (classes, channels),
        (classes, queries, negatives, channels),
    ]
    return [3 * noise(*shape, seed=seed + i).double() for i, shape in enumerate(shapes)]


@CLASSES
@pytest.mark.parametrize('temperature', [0.5, 0.07])
def test_loss_is_the_papers(classes, temperature):
    anchors, positives, negatives = inputs(classes)
    negatives[0, 0, 2] = 0
    present = torch.ones(classes, dtype=torch.bool)
    present[1] = False
    for mask in (present, ~present, torch.ones_like(present)):
        expected = slow_loss(
            *(x.tolist() for x in (anchors, positives, negatives, mask)), temperature
        )
        loss = contrast_loss(anchors, positives, negatives, mask, temperature)
        assert expected > 0.1 and float(loss) == pytest.approx(expected, rel=1e-12)


def test_gradient_is_that_of_the_formula_and_the_anchors_alone_have_one():
    anchors, positives, negatives = inputs()
    present = torch.tensor([True, False, True])
    tensors = [x.requires_grad_() for x in (anchors, positives, negatives)]
    contrast_loss(*tensors, present).backward()
    assert positives.grad is None and negatives.grad is None
    assert not anchors.grad[1].any()
    plain = [x.detach().tolist() for x in tensors]
    step = 1e-6
    for c in (0, 2):
        for q in range(4):
            for i in range(6):
                values = []
                for sign in (1, -1):
                    plain[0][c][q][i] += sign * step
                    values.append(slow_loss(*plain, present.tolist(), 0.5))
                    plain[0][c][q][i] -= sign * step
                slope = (values[0] - values[1]) / (2 * step)
                assert float(anchors.grad[c, q, i]) == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_nothing_present_gives_zero_with_a_gradient():
    anchors, positives, negatives = inputs()
    anchors.requires_grad_()
    loss = contrast_loss(anchors, positives * 0, negatives * 0, torch.zeros(3, dtype=torch.bool))
    loss.backward()
    assert loss == 0 and anchors.grad is not None and not anchors.grad.any()


def test_vectors_of_zeros_are_finite():
    """An untrained projection, a class without positive, an empty queue."""
    anchors, positives, negatives = inputs(1)
    zero = torch.zeros_like(anchors).requires_grad_()
    loss = contrast_loss(zero, positives * 0, negatives * 0, torch.tensor([True]))
    loss.backward()
    assert float(loss) == pytest.approx(math.log(6)) and zero.grad.isfinite().all()


def test_low_precision_is_computed_in_float32():
    anchors, positives, negatives = (x.to(torch.bfloat16) for x in inputs())
    present = torch.ones(3, dtype=torch.bool)
    exact = contrast_loss(anchors.double(), positives.double(), negatives.double(), present)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = contrast_loss(anchors, positives, negatives, present)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=0)


def test_nothing_waits_for_the_device():
    """Fake tensors have no values: whatever would wait for the device raises here."""
    with FakeTensorMode():
        prob = torch.zeros(2, 6, 5, 7)
        label = torch.zeros(2, 5, 7, dtype=torch.int64)
        ranks = class_ranks(prob)
        unsure = torch.ones(2, 5, 7, dtype=torch.bool)
        assert labeled_negatives(ranks, label, 2).shape == prob.shape
        assert unlabeled_negatives(ranks, unsure, 2, 6).shape == prob.shape
        sums, counts = class_sums(prob, label, 6)
        index, present = draw_per_class(label.flatten(), 6, 9)
        anchors = gather_pixels(prob, index)
        assert sums.shape == (6, 6) and counts.shape == present.shape == (6,)
        assert contrast_loss(anchors, sums, torch.zeros(6, 9, 4, 6), present).shape == ()
