"""Confidence of an image, boxes of given sides and pasting labeled pixels, against slow loops."""

from __future__ import annotations

import math
from dataclasses import fields
from itertools import product

import pytest
import torch

from mmseg_semi.functional import instance_confidence, ratio_boxes
from mmseg_semi.structures import PseudoLabel


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# -------------------------------------------------------------------------- instance confidence
def rho(prob, valid):
    """AugSeg's confidence of one image: prob [K][H][W] and valid [H][W] as lists."""
    total, count, classes = 0.0, 0, len(prob)
    for y, row in enumerate(valid):
        for x, inside in enumerate(row):
            if inside:
                values = [plane[y][x] for plane in prob]
                entropy = -sum(p * math.log(p) for p in values if p > 0)
                total += max(values) * (1 - entropy / math.log(classes))
                count += 1
    return total / count if count else 0.0


@pytest.mark.parametrize('classes', [2, 3, 21])
def test_confidence_is_the_papers_formula_over_the_valid_pixels(classes):
    sharpness = torch.tensor([0.2, 1.0, 4.0, 30.0])[:, None, None, None]
    logits = torch.randn(4, classes, 5, 7, generator=generator())
    prob = (logits * sharpness).softmax(dim=1)
    valid = torch.rand(4, 5, 7, generator=generator(1)) < 0.6
    ours = instance_confidence(prob, valid)
    expected = [rho(p.tolist(), v.tolist()) for p, v in zip(prob, valid)]
    assert ours.shape == (4,) and expected[0] < 0.1 and expected[3] > 0.8
    assert ours.tolist() == pytest.approx(expected, abs=1e-5)
    everywhere = [rho(p.tolist(), [[True] * 7] * 5) for p in prob]
    assert ours.tolist() != pytest.approx(everywhere, abs=1e-3), 'padding must matter'


def test_confidence_at_its_ends():
    sure = torch.eye(3)[torch.randint(3, (4, 4), generator=generator())].permute(2, 0, 1)
    prob = torch.stack([sure, torch.full((3, 4, 4), 1 / 3), sure])
    valid = torch.ones(3, 4, 4, dtype=torch.bool)
    valid[2] = False
    ours = instance_confidence(prob, valid)
    assert ours[0] == 1 and 0 <= ours[1] < 1e-6 and ours[2] == 0


def test_padding_may_hold_anything():
    prob = torch.rand(1, 3, 4, 4, generator=generator()).softmax(dim=1)
    valid = torch.ones(1, 4, 4, dtype=torch.bool)
    valid[:, 2:] = False
    expected = instance_confidence(prob, valid)
    prob[:, :, 2:] = math.nan
    assert torch.equal(instance_confidence(prob, valid), expected)
    valid[:, 1:], valid[..., 1:] = False, False  # one pixel is left
    pixel = prob[0, :, :1, :1].tolist()
    assert instance_confidence(prob, valid).item() == pytest.approx(rho(pixel, [[True]]), abs=1e-6)


def test_confidence_needs_two_classes_and_gives_no_gradient():
    with pytest.raises(ValueError, match=r'2 classes, got \(1, 1, 2, 2\)'):
        instance_confidence(torch.ones(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool))
    prob = torch.rand(1, 3, 2, 2).softmax(dim=1).requires_grad_()
    assert not instance_confidence(prob, torch.ones(1, 2, 2, dtype=torch.bool)).requires_grad


# ---------------------------------------------------------------------------------------- boxes
def corner_and_sides(mask):
    """(top, left, height, width) of the True pixels of one mask, which must be a rectangle."""
    points = mask.nonzero().tolist()
    rows, columns = [y for y, _ in points], [x for _, x in points]
    top, left = min(rows), min(columns)
    height, width = max(rows) - top + 1, max(columns) - left + 1
    assert len(points) == height * width, 'a box has no holes'
    return top, left, height, width


def test_sides_are_the_given_share_of_each_image():
    ratio = torch.tensor([0.1, 0.25, 0.5, 0.77, 0.9, 0.98])
    masks = ratio_boxes(ratio, (40, 64), generator())
    assert masks.shape == (6, 40, 64) and masks.dtype == torch.bool
    for mask, share in zip(masks, ratio.tolist()):
        _, _, height, width = corner_and_sides(mask)
        assert abs(height - 40 * share) <= 0.5 and abs(width - 64 * share) <= 0.5


def test_a_ratio_of_0_gives_no_box_and_1_the_whole_image():
    ratio = torch.tensor([0.0, 1.0] * 200)
    masks = ratio_boxes(ratio, (7, 5), generator())
    assert not masks[0::2].any() and masks[1::2].all()


def test_every_place_where_the_box_fits_is_equally_likely():
    """5 of 8 rows and 7 of 12 columns leave 4 x 6 places, drawn independently."""
    draws = 6000
    masks = ratio_boxes(torch.full((draws,), 0.6), (8, 12), generator(1))
    top, left = (masks.any(dim).int().argmax(1)[:, None] for dim in (2, 1))
    rows, columns = torch.arange(8), torch.arange(12)
    inside = (rows >= top) & (rows < top + 5), (columns >= left) & (columns < left + 7)
    assert torch.equal(masks, inside[0][:, :, None] & inside[1][:, None])
    assert top.max() == 3 and left.max() == 5
    counts = torch.bincount((6 * top + left)[:, 0], minlength=24)
    spread = math.sqrt(draws * (1 / 24) * (23 / 24))
    assert (counts - draws / 24).abs().max() < 4 * spread


def test_boxes_follow_the_generator_or_the_global_one():
    ratio = torch.full((5,), 0.5)
    first = ratio_boxes(ratio, (32, 32), generator(3))
    assert torch.equal(first, ratio_boxes(ratio, (32, 32), generator(3)))
    assert not torch.equal(first, ratio_boxes(ratio, (32, 32), generator(4)))
    assert not torch.equal(first[0], first[1]), 'each image has its own place'
    torch.manual_seed(5)
    one = ratio_boxes(ratio, (32, 32))
    torch.manual_seed(5)
    assert torch.equal(one, ratio_boxes(ratio, (32, 32)))
    assert not torch.equal(one, ratio_boxes(ratio, (32, 32)))


# ---------------------------------------------------------------------------------------- paste
SIZE = (4, 5)


def pseudo_label(seed=0, **without):
    """Two images of three classes with every field and four kinds of extras."""
    source = generator(seed)

    def coin():
        return torch.rand(2, *SIZE, generator=source) < 0.5

    valid = coin()
    pseudo = PseudoLabel.from_logits(torch.randn(2, 3, *SIZE, generator=source), valid)
    changes = dict(
        selected=coin(),
        weight=torch.rand(2, *SIZE, generator=source) + 1.5,
        reliable=coin(),
        extras=dict(
            mask=coin(),
            packed=torch.randint(1, 256, (2, 2, *SIZE), generator=source).to(torch.uint8),
            score=torch.rand(2, *SIZE, generator=source) + 1,
            number=torch.randint(1, 9, (2, *SIZE), generator=source),
        ),
    )
    return pseudo.update(**{**changes, **without})


def flat(pseudo):
    """Every tensor by name, extras as ``extras.name``; None stays None."""
    out = {}
    for item in fields(pseudo):
        value = getattr(pseudo, item.name)
        if isinstance(value, dict):
            out.update({f'{item.name}.{name}': entry for name, entry in value.items()})
        else:
            out[item.name] = value
    return out


def pasted_value(name, truth):
    """What a pasted pixel of class ``truth`` must hold; a list for maps with channels."""
    known = truth != 255
    own = truth if known else 0
    return dict(
        prob=[float(k == own) for k in range(3)],
        label=own,
        confidence=1.0,
        valid=known,
        selected=True,
        weight=1.0,
        reliable=True,
        **{
            'extras.mask': True,
            'extras.packed': [0, 0],
            'extras.score': 0.0,
            'extras.number': 0,
        },
    )[name]


def check_pasted(old, new, mask, truth):
    """Compare every tensor pixel by pixel."""
    old, new = flat(old), flat(new)
    assert old.keys() == new.keys()
    for name, before in old.items():
        if before is None:
            assert new[name] is None, name
            continue
        assert new[name].dtype == before.dtype and new[name].shape == before.shape, name
        for b, y, x in product(range(2), range(SIZE[0]), range(SIZE[1])):
            got, was = new[name][b, ..., y, x].tolist(), before[b, ..., y, x].tolist()
            if not mask[b, y, x]:
                assert got == was, name
            elif name == 'logits':
                own = int(truth[b, y, x]) % 255
                prob = torch.tensor(got).softmax(dim=0)
                assert all(map(math.isfinite, got)) and prob[own] == 1
            else:
                assert got == pasted_value(name, int(truth[b, y, x])), name


def mask_and_truth():
    mask = torch.rand(2, *SIZE, generator=generator(7)) < 0.5
    truth = torch.randint(0, 3, (2, *SIZE), generator=generator(8))
    truth[torch.rand(2, *SIZE, generator=generator(9)) < 0.3] = 255
    assert (mask & (truth == 255)).any() and (mask & (truth == 2)).any() and not mask.all()
    return mask, truth


@pytest.mark.parametrize(
    'without',
    [
        {},
        dict(logits=None),
        dict(prob=None),
        dict(weight=None, reliable=None),
        dict(logits=None, prob=None, weight=None, reliable=None, extras={}),
    ],
    ids=['all', 'logits', 'prob', 'weight', 'bare'],
)
def test_paste_changes_every_field_inside_the_mask_alone(without):
    mask, truth = mask_and_truth()
    pseudo, untouched = pseudo_label(**without), pseudo_label(**without)
    check_pasted(pseudo, pseudo.paste(mask, truth), mask, truth)
    for name, value in flat(pseudo).items():
        other = flat(untouched)[name]
        assert value is other is None or torch.equal(value, other), f'{name} was written to'


def test_unknown_truth_becomes_padding_and_known_truth_ends_it():
    pseudo = pseudo_label().update(valid=torch.zeros(2, *SIZE, dtype=torch.bool))
    mask = torch.ones(2, *SIZE, dtype=torch.bool)
    truth = torch.full((2, *SIZE), 255)
    truth[0, 0, 0] = 2
    pasted = pseudo.paste(mask, truth)
    assert pasted.used.nonzero().tolist() == [[0, 0, 0]]
    assert pasted.label.max() == 2, 'no 255 is left for a one-hot code or an index'


def test_pasting_nothing_changes_nothing():
    pseudo = pseudo_label()
    pasted = pseudo.paste(torch.zeros(2, *SIZE, dtype=torch.bool), torch.full((2, *SIZE), 255))
    for name, value in flat(pasted).items():
        assert torch.equal(value, flat(pseudo)[name]), name
