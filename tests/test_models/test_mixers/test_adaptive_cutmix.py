"""AugSeg's CutMix: what it takes from where, and how often."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch

from mmseg_semi.models.mixers import AdaptiveCutMix
from mmseg_semi.structures import PseudoLabel

from ..helpers import make_step

LABELED = 100  # color of the first labeled image; unlabeled ones count from 0


def colored(count, first, size):
    """Images (count, 3, H, W) whose every pixel tells its image, row and column."""
    height, width = size
    number = torch.arange(first, first + count)[:, None, None].expand(count, height, width)
    rows = torch.arange(height)[None, :, None].expand_as(number)
    columns = torch.arange(width)[None, None].expand_as(number)
    return torch.stack([number, rows, columns], dim=1).float()


def origin_of(image):
    """Image that each pixel (B, H, W) comes from; no pixel may have moved."""
    number, rows, columns = image.long().unbind(1)
    height, width = rows.shape[-2:]
    assert torch.equal(rows, torch.arange(height)[:, None].expand_as(rows))
    assert torch.equal(columns, torch.arange(width).expand_as(columns))
    return number


def full_pseudo(prob, valid, seed=0):
    """A pseudo-label in which no two pixels hold the same values, with every field and extra."""
    source = torch.Generator().manual_seed(seed)

    def coin():
        return torch.rand(valid.shape, generator=source) < 0.5

    extras = {
        'detections': torch.randint(0, 256, (len(valid), 2, *valid.shape[1:]), generator=source),
        'mask': coin(),
        'score': torch.rand(valid.shape, generator=source) + 1,
    }
    extras['detections'] = extras['detections'].to(torch.uint8)
    return PseudoLabel.from_logits(prob.log(), valid).update(
        selected=coin(),
        weight=torch.rand(valid.shape, generator=source) + 1.5,
        reliable=coin(),
        extras=extras,
    )


def colored_step(prob, labeled=2, size=(24, 20), seed=0):
    """A step of colored images: prob (Bu, K) is what the teacher says everywhere."""
    source = torch.Generator().manual_seed(seed)
    prob = torch.as_tensor(prob, dtype=torch.float32)
    count = len(prob)
    prob = prob[:, :, None, None].expand(*prob.shape, *size)
    valid = torch.ones(count, *size, dtype=torch.bool)
    valid[-1, :, -3:] = False
    truth = torch.randint(0, prob.shape[1], (labeled, *size), generator=source)
    truth[torch.rand(labeled, *size, generator=source) < 0.3] = 255
    images = colored(count, 0, size)
    raw = PseudoLabel.from_logits(prob.clamp(min=1e-30).log(), valid)
    step = make_step(
        raw,
        truth=truth,
        strong=[images],
        labeled_images=colored(labeled, LABELED, size),
        weak_images=images,
    )
    step.pseudo = full_pseudo(prob.clamp(min=1e-30), valid, seed)
    return step


def mixed(step, seed=0, paste='image', **arguments):
    torch.manual_seed(seed)
    mixer = AdaptiveCutMix(paste=paste, **arguments)
    return mixer(step.strong_images[0], step.pseudo, step)


UNSURE, SURE = [1 / 3] * 3, [1.0, 0.0, 0.0]


def expected_field(name, step, origin):
    """A field (B, ..., H, W) of a view, pixel by pixel from the pixel's origin."""
    extra = name in step.pseudo.extras
    source = step.pseudo.extras[name] if extra else getattr(step.pseudo, name)
    out = torch.empty_like(source)
    classes = step.raw_pseudo.prob.shape[1]
    for b, image in enumerate(origin.tolist()):
        for y, row in enumerate(image):
            for x, number in enumerate(row):
                if number < LABELED:
                    out[b, ..., y, x] = source[number, ..., y, x]
                    continue
                truth = int(step.labeled_samples[number - LABELED].gt_sem_seg.data[0, y, x])
                known = truth != 255
                truth = truth if known else 0
                one_hot = torch.eye(classes)[truth]
                values = dict(
                    prob=one_hot,
                    label=truth,
                    confidence=1,
                    valid=known,
                    selected=True,
                    weight=1,
                    reliable=True,
                    mask=True,
                    score=0,
                )
                out[b, ..., y, x] = torch.as_tensor(values.get(name, 0)).to(out.dtype)
    return out


FIELDS = ('prob', 'label', 'confidence', 'valid', 'selected', 'weight', 'reliable')


EXTRAS = ('detections', 'mask', 'score')


@pytest.mark.parametrize(
    'unlabeled, labeled, paste',
    [*((4, n, p) for n in (3, 1) for p in ('image', 'partner')), (1, 2, 'image'), (1, 1, 'image')],
)
def test_every_field_of_a_pixel_comes_from_where_its_color_does(unlabeled, labeled, paste):
    step = colored_step([UNSURE] * unlabeled, labeled)
    view = mixed(step, seed=2, paste=paste)
    origin = origin_of(view.image)
    present = set(origin.unique().tolist())
    assert any(number >= LABELED for number in present), 'labeled pixels must be seen'
    for name in FIELDS:
        ours = getattr(view.pseudo, name)
        assert torch.equal(ours, expected_field(name, step, origin)), name
    for name in EXTRAS:
        ours = view.pseudo.extras[name]
        assert torch.equal(ours, expected_field(name, step, origin)), name
    labeled_pixels = origin >= LABELED
    torch.testing.assert_close(
        view.pseudo.logits.softmax(1).amax(1)[labeled_pixels],
        torch.ones(int(labeled_pixels.sum())),
    )
    assert torch.equal(view.mix.foreign, labeled_pixels)


def test_the_pixels_that_are_not_labeled_are_the_images_own_or_its_partners():
    step = colored_step([UNSURE] * 5)
    view = mixed(step)
    origin = origin_of(view.image)
    for b, partner in enumerate(view.mix.partners.tolist()):
        assert partner != b
        for y in range(origin.shape[1]):
            for x in range(origin.shape[2]):
                number = int(origin[b, y, x])
                if number < LABELED:
                    assert number == (partner if view.mix.mask[b, y, x] else b)


@pytest.mark.parametrize('seed', range(5))
def test_pasted_boxes_travel_with_their_image_into_the_second_mixing(seed):
    """What two views show of the same image is one box of one labeled image."""
    step = colored_step([UNSURE] * 4, labeled=3)
    view = mixed(step, seed=seed)
    origin, partners = origin_of(view.image), view.mix.partners.tolist()
    traveled = 0
    for b in range(4):
        taker = partners.index(b)
        own, taken = ~view.mix.mask[b], view.mix.mask[taker]
        seen = own | taken
        pasted = (own & (origin[b] >= LABELED)) | (taken & (origin[taker] >= LABELED))
        numbers = {int(n) for n in origin[b][own & (origin[b] >= LABELED)]}
        numbers |= {int(n) for n in origin[taker][taken & (origin[taker] >= LABELED)]}
        assert len(numbers) == (1 if pasted.any() else 0)
        traveled += int((taken & pasted).sum())
        if pasted.any():
            rows, columns = pasted.nonzero().unbind(1)
            box = torch.zeros_like(pasted)
            box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
            assert torch.equal(box & seen, pasted)
    assert traveled > 0


def test_a_labeled_box_is_seen_inside_the_second_box_only():
    """With the same draws: the image's own pixels are as they were outside the mixer's box."""
    step = colored_step([UNSURE] * 4, labeled=3)
    both = [mixed(step, seed=1, paste=paste) for paste in ('image', 'partner')]
    inside = both[0].mix.mask
    assert torch.equal(both[1].mix.mask, inside)
    origin = [origin_of(view.image) for view in both]
    assert torch.equal(origin[0][inside], origin[1][inside])
    own = torch.arange(4)[:, None, None].expand_as(inside)
    assert torch.equal(origin[1][~inside], own[~inside])
    assert (origin[0][~inside] >= LABELED).any() and (origin[1] >= LABELED).any()


def test_clipped_boxes_are_those_of_the_program():
    """One side for all; centers in the last seven eighths; what is outside is cut off."""
    step = colored_step([SURE] * 400, size=(32, 40))
    mask = mixed(step, seed=3, boxes='clipped', prob=1.0).mix.mask
    rows, columns = mask.any(2), mask.any(1)
    sides = {}
    for name, line, length in (('rows', rows, 32), ('columns', columns, 40)):
        first, last = line.int().argmax(1), length - line.flip(1).int().argmax(1)
        whole = (first > 0) & (last < length)
        sides[name] = set((last - first)[whole].tolist())
        assert len(sides[name]) == 1, 'one side for the batch'
        (side,) = sides[name]
        assert side % 2 == 0
        assert first.max() == length - 1 - side // 2, 'the last center is the last pixel'
        assert (last < length).any() and (last == length).any()
        assert last.min() == length // 8 + side // 2, 'the first center'
    (high,), (wide,) = sides['rows'], sides['columns']
    assert abs(high / 32 - wide / 40) < 2 / 32, 'the same share of both'
    other = mixed(step, seed=4, boxes='clipped').mix.mask.any(2).sum(1).max()
    assert other != rows.sum(1).max(), 'another side in another batch'


def test_nothing_that_was_given_is_changed():
    step = colored_step([UNSURE] * 3)
    before = deepcopy(step)
    mixed(step)
    assert torch.equal(step.labeled_images, before.labeled_images)
    assert torch.equal(step.strong_images[0], before.strong_images[0])
    for name in (*FIELDS, 'logits'):
        assert torch.equal(getattr(step.pseudo, name), getattr(before.pseudo, name)), name
    for ours, theirs in zip(step.labeled_samples, before.labeled_samples):
        assert torch.equal(ours.gt_sem_seg.data, theirs.gt_sem_seg.data)


def test_fields_that_are_none_stay_none():
    step = colored_step([UNSURE] * 2)
    bare = dict(logits=None, prob=None, weight=None, reliable=None, extras={})
    step.pseudo = step.pseudo.update(**bare)
    pseudo = mixed(step).pseudo
    assert [getattr(pseudo, name) for name in bare] == list(bare.values())
    assert pseudo.label is not None


def rho_of(prob):
    entropy = -sum(p * math.log(p) for p in prob if p > 0)
    return max(prob) * (1 - entropy / math.log(len(prob)))


def pasted_share(step, draws, **arguments):
    """Share of the draws in which each image took a labeled box, without the second mixing."""
    torch.manual_seed(0)
    mixer = AdaptiveCutMix(prob=0.0, paste='image', **arguments)
    took = torch.zeros(len(step.weak_images))
    for _ in range(draws):
        view = mixer(step.strong_images[0], step.pseudo, step)
        took += (origin_of(view.image) >= LABELED).flatten(1).any(1)
    return took / draws


def test_a_labeled_box_comes_with_probability_one_minus_rho_of_each_image():
    half = [0.9, 0.08, 0.02]
    step = colored_step([SURE, half, UNSURE] * 4, size=(8, 8))
    # Only what the teacher said before the refiners counts.
    step.pseudo = full_pseudo(torch.full((12, 3, 8, 8), 1 / 3), step.valid)
    # Boxes are almost the whole image, so none rounds to nothing.
    share = pasted_share(step, 250, labeled_beta=(1.0, 1000.0)).view(4, 3).mean(0)
    assert 0.4 < rho_of(half) < 0.7
    assert share[0] == 0 and share[2] == 1
    spread = math.sqrt(0.25 / 1000)
    assert abs(float(share[1]) - (1 - rho_of(half))) < 3 * spread
    # Each image has a draw of its own.
    view = mixed(colored_step([half] * 400, size=(8, 8)), labeled_beta=(1.0, 1000.0), prob=0.0)
    share = float(view.mix.foreign.flatten(1).any(1).float().mean())
    assert abs(share - (1 - rho_of(half))) < 3 * math.sqrt(0.25 / 400)


def test_every_labeled_image_is_as_likely():
    step = colored_step([UNSURE] * 8, labeled=3, size=(8, 8))
    torch.manual_seed(0)
    mixer, counts = AdaptiveCutMix(0.0, (1.0, 1000.0), paste='image'), torch.zeros(3)
    for _ in range(150):
        origin = origin_of(mixer(step.strong_images[0], step.pseudo, step).image)
        for number in range(3):
            counts[number] += (origin == LABELED + number).flatten(1).any(1).sum()
    assert counts.sum() == 1200
    assert (counts - 400).abs().max() < 4 * math.sqrt(1200 * 2 / 9)


def test_areas_of_the_boxes_have_the_papers_distributions():
    """The area is 1 - lambda: means 0.2 and 0.5, variances 0.0145 and 0.0278."""
    step = colored_step([UNSURE] * 600, size=(40, 40))
    view = mixed(step, prob=0.0)
    assert not view.mix.mask.any()
    labeled = view.mix.foreign.float().mean(dim=(1, 2))
    unlabeled = mixed(colored_step([SURE] * 600, size=(40, 40))).mix
    assert not unlabeled.foreign.any()
    for area, a, b in ((labeled, 8, 2), (unlabeled.mask.float().mean(dim=(1, 2)), 4, 4)):
        variance = a * b / ((a + b) ** 2 * (a + b + 1))
        assert abs(float(area.mean()) - b / (a + b)) < 4 * math.sqrt(variance / 600)
        assert abs(float(area.var()) / variance - 1) < 0.25


def test_prob_is_that_of_an_unlabeled_box():
    view = mixed(colored_step([SURE] * 800, size=(8, 8)), prob=0.3, unlabeled_beta=(1.0, 1000.0))
    share = float(view.mix.mask.flatten(1).any(1).float().mean())
    assert abs(share - 0.3) < 4 * math.sqrt(0.21 / 800)


def test_one_unlabeled_image_is_pasted_into_and_not_mixed():
    step = colored_step([UNSURE])
    view = mixed(step)
    assert not view.mix.mask.any() and view.mix.foreign.any()
    assert torch.equal(origin_of(view.image)[~view.mix.foreign].unique(), torch.tensor([0]))
    assert torch.equal(origin_of(mixed(colored_step([SURE])).image).unique(), torch.tensor([0]))


def test_an_image_without_a_valid_pixel_takes_a_labeled_box():
    step = colored_step([SURE] * 2)
    step.raw_pseudo.valid[:] = False
    assert pasted_share(step, 20, labeled_beta=(1.0, 1000.0)).tolist() == [1, 1]


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(prob=-0.1), r'prob must be a number in \[0, 1\], got -0.1'),
        (dict(prob=1.5), r'prob must be a number in \[0, 1\], got 1.5'),
        (dict(prob='often'), r"prob must be a number in \[0, 1\], got 'often'"),
        (dict(labeled_beta=(8.0,)), r'labeled_beta must be a list of 2 values, got \(8.0,\)'),
        (dict(labeled_beta=8.0), 'labeled_beta must be a list of 2 values, got 8.0'),
        (dict(unlabeled_beta=(4.0, 0)), 'unlabeled_beta must be a number >.*got 0'),
        (dict(unlabeled_beta=(-4.0, 4.0)), 'unlabeled_beta must be a number >.*got -4.0'),
        (dict(paste='both'), "paste must be one of .*'partner', 'image'.*got 'both'"),
        (dict(boxes='outside'), "boxes must be one of .*'inside', 'clipped'.*got 'outside'"),
        (dict(labeled_beta=(float('nan'), 2.0)), 'labeled_beta must be a number >.*got nan'),
    ],
)
def test_wrong_arguments_are_refused_with_the_config_key(build, wrong, message):
    with pytest.raises(ValueError, match=rf'model\.mixer: AdaptiveCutMix\.{message}'):
        build(mixer=dict(type='AdaptiveCutMix', **wrong))


def test_defaults_are_the_papers():
    mixer = AdaptiveCutMix()
    assert (mixer.prob, mixer.labeled_beta, mixer.unlabeled_beta) == (1.0, (8.0, 2.0), (4.0, 4.0))
    assert 'labeled_beta=(8.0, 2.0)' in repr(mixer)
