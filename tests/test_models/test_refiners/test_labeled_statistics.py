"""DAW's threshold and its alignment of classes."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmseg_semi.engine.hooks import LabeledStatisticsHook
from mmseg_semi.models.refiners import DistributionAlignment, GaussianThreshold
from mmseg_semi.models.refiners.labeled_statistics import UNKNOWN, gaussian_crossing
from mmseg_semi.structures import PseudoLabel, SegOutputs
from mmseg_semi.utils.safe_checkpoints import not_finite

from ..corrmatch import COARSE, PADDED
from ..helpers import run_step, runner_of

CLASSES = 4


def refiner(kind, **arguments):
    made = kind(**arguments)
    made.name = 'select'
    head = SimpleNamespace(out_channels=CLASSES)
    made.attach(SimpleNamespace(segmentor=SimpleNamespace(decode_head=head)))
    return made


def step_of(seed, size=9, absent=()):
    """A step with random labeled and unlabeled predictions; some truth is unknown."""
    source = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, 2, CLASSES, size, size, generator=source)
    logits[:, :, list(absent)] = -30
    truth = torch.randint(CLASSES, (2, size, size), generator=source)
    truth = torch.where(torch.rand(truth.shape, generator=source) < 0.5, logits[0].argmax(1), truth)
    logits[0] *= torch.where(truth == logits[0].argmax(1), 1.5, 0.5)[:, None]  # mostly surer
    truth[:, 0] = 255
    valid = torch.rand(truth.shape, generator=source) < 0.8
    return SimpleNamespace(
        labeled=SegOutputs([logits[0]], (size, size), False),
        labeled_truth=truth,
        raw_pseudo=PseudoLabel.from_logits(logits[1], valid),
        log=lambda name, value: None,
    )


def labeled_confidences(step):
    """Confidences of the wrong and of the right labeled pixels."""
    prob = step.labeled.logits.softmax(1).numpy().astype(np.float64)
    truth = step.labeled_truth.numpy()
    right = prob.argmax(1) == truth
    return [prob.max(1)[(truth != 255) & kind] for kind in (~right, right)]


@pytest.mark.parametrize(
    'low, high',
    [((0.5, 0.02), (0.9, 0.01)), ((0.5, 0.01), (0.9, 0.01)), ((0.7, 0.03), (0.8, 0.002))],
)
def test_densities_are_equal_where_they_cross(low, high):
    pair = [torch.tensor(one, dtype=torch.float64) for one in (low, high)]
    place = gaussian_crossing(*pair).item()
    assert low[0] <= place <= high[0]

    def density(mean, variance):
        return math.exp(-((place - mean) ** 2) / (2 * variance)) / math.sqrt(variance)

    assert density(*low) == pytest.approx(density(*high), rel=1e-9)
    assert gaussian_crossing(*pair[::-1]).item() == pytest.approx(place)


def test_there_may_be_no_crossing_between_the_means():
    wide = torch.tensor([0.80, 0.0001], dtype=torch.float64)
    narrow = torch.tensor([0.81, 0.1], dtype=torch.float64)
    assert torch.isnan(gaussian_crossing(wide, narrow))
    assert torch.isnan(gaussian_crossing(wide, wide)), 'the same everywhere'
    assert torch.isnan(gaussian_crossing(torch.full((2,), torch.nan), wide))


def test_the_threshold_is_where_the_averages_cross():
    select = refiner(GaussianThreshold, momentum=0.9)
    moments = None
    for seed in range(4):
        step = step_of(seed)
        select.observe(step)
        before = select.value.item()
        out = select(step.raw_pseudo, None, step)
        kept = step.raw_pseudo.confidence >= before
        assert torch.equal(out.selected, step.raw_pseudo.selected & kept)
        select.update_state()
        found = np.array([(one.mean(), one.var()) for one in labeled_confidences(step)])
        moments = found if moments is None else 0.9 * moments + 0.1 * found
        np.testing.assert_allclose(select.moments.numpy(), moments, rtol=1e-6)
        wanted = gaussian_crossing(*torch.from_numpy(moments)).item()
        assert select.value.item() == pytest.approx(max(wanted, 1 / CLASSES), rel=1e-5)
        assert select.value.item() != before
    select.update_state()
    np.testing.assert_allclose(select.moments.numpy(), moments, rtol=1e-6)  # nothing noted since


def test_few_pixels_and_no_crossing_leave_it():
    select = refiner(GaussianThreshold)
    step = step_of(0)
    step.labeled_truth.fill_(255)
    step.labeled_truth[0, 1, :9] = 0
    select.observe(step)
    select.update_state()
    assert (select.moments == UNKNOWN).all() and select.value == 0.95
    sure = torch.tensor([[[10.0, 5.05, 2.57], [1000.0, 805.0, 648.1]]])[0].double()
    select.moments.fill_(UNKNOWN)
    select.move(sure * torch.tensor([[0.0], [1.0]]))
    assert (select.moments[0] == UNKNOWN).all() and select.value == 0.95, 'no wrong pixels yet'
    select.moments.fill_(UNKNOWN)
    select.move(sure)  # wrong pixels 0.505, right ones 0.805 of next to no variance
    assert 0.505 < select.value < 0.805
    before = select.value.item()
    select.moments.fill_(UNKNOWN)
    select.move(sure[[0, 0]])
    assert select.value == before, 'the same Gaussian twice'


def test_several_steps_before_an_update_count_as_one_batch():
    steps = [step_of(0), step_of(1)]
    for kind in (GaussianThreshold, DistributionAlignment):
        split = refiner(kind)
        found = sum(split.statistics(step) for step in steps)
        for step in steps:
            split.observe(step)
        split.update_state()
        whole = refiner(kind)
        whole.move(found)
        for name, value in split.state_dict().items():
            torch.testing.assert_close(value, whole.state_dict()[name])


def states_of_a_rank(rank, seeds):
    """States after four iterations, of which each has one step of those that the rank is given."""
    made = [refiner(kind, momentum=0.8) for kind in (GaussianThreshold, DistributionAlignment)]
    for seed in seeds[rank]:
        for one in made:
            one.observe(step_of(seed, size=7 + 2 * rank, absent=(3 - rank,)))
            one.update_state()
    return [dict(one.state_dict()) for one in made]


def test_two_ranks_move_as_one_with_both_batches(on_two_ranks):
    """Of other sizes, each without a class of its own."""
    seeds = [[0, 1, 2, 3], [4, 5, 6, 7]]
    whole = [refiner(kind, momentum=0.8) for kind in (GaussianThreshold, DistributionAlignment)]
    for both in zip(*seeds):
        for one in whole:
            for rank, seed in enumerate(both):
                one.observe(step_of(seed, size=7 + 2 * rank, absent=(3 - rank,)))
            one.update_state()
    for rank, found in enumerate(on_two_ranks(states_of_a_rank, seeds)):
        alone = states_of_a_rank(rank, seeds)
        for state, own, one in zip(found, alone, whole):
            for name, value in one.state_dict().items():
                torch.testing.assert_close(state[name], value, rtol=1e-12, atol=0)
                assert not torch.allclose(own[name], value, rtol=1e-3)


def test_classes_become_as_confident_as_on_labeled_images():
    align = refiner(DistributionAlignment, momentum=0.5)
    step = step_of(0, absent=(3,))
    same = align(step.raw_pseudo, None, step)
    torch.testing.assert_close(same.prob, step.raw_pseudo.prob)  # nothing is known yet
    means = np.full((2, CLASSES), np.nan)
    for seed in range(3):
        step = step_of(seed, absent=(3,))
        align.observe(step)
        align.update_state()
        labeled, raw = step.labeled.logits.softmax(1), step.raw_pseudo
        parts = (labeled.amax(1), labeled.argmax(1), step.labeled_truth != 255)
        for row, (confidence, label, valid) in enumerate(
            [parts, (raw.confidence, raw.label, raw.valid)]
        ):
            for k in range(3):
                found = confidence[valid & (label == k)].double().mean().item()
                old = means[row, k]
                means[row, k] = found if np.isnan(old) else 0.5 * old + 0.5 * found
    np.testing.assert_allclose(align.means.numpy(), np.nan_to_num(means, nan=UNKNOWN), rtol=1e-6)
    out = align(raw, None, step)
    ratio = np.nan_to_num(means[0] / means[1], nan=1.0)
    prob = raw.prob.numpy() * ratio[:, None, None]
    prob /= prob.sum(1, keepdims=True)
    np.testing.assert_allclose(out.prob.numpy(), prob, rtol=1e-5)
    assert torch.equal(out.label, out.prob.argmax(1))
    assert torch.equal(out.confidence, out.prob.amax(1))
    assert torch.equal(raw.prob, step.raw_pseudo.prob), 'the raw one stays'


def test_they_are_moved_after_a_step_and_saved(corrmatch, batch):
    refiners = dict(align=dict(type='DistributionAlignment'), select=dict(type='GaussianThreshold'))
    model = corrmatch(COARSE, refiners=refiners)
    assert not_finite(model.state_dict()) == [], 'a checkpoint takes what is not known yet'
    step, losses = run_step(model, batch(**PADDED))
    assert losses['select.threshold'] == torch.tensor(0.95)
    torch.testing.assert_close(step.pseudo.prob, step.raw_pseudo.prob)  # no means yet
    hook, runner = LabeledStatisticsHook(), runner_of(model)
    hook.before_train(runner)
    assert len(hook.parts) == 2
    hook.after_train_iter(runner, 0)
    state = model.state_dict()
    assert (state['refiners.align.means'] != UNKNOWN).any()
    other = corrmatch(COARSE, refiners=refiners)
    other.load_state_dict(state)
    for name, value in state.items():
        torch.testing.assert_close(other.state_dict()[name], value)
    step, _ = run_step(model, batch(**PADDED))
    assert not torch.allclose(step.pseudo.prob, step.raw_pseudo.prob)


@pytest.mark.parametrize('kind', [GaussianThreshold, DistributionAlignment])
def test_wrong_arguments(kind):
    with pytest.raises(ValueError, match='momentum'):
        kind(momentum=1.5)
    with pytest.raises(ValueError, match='initial'):
        GaussianThreshold(initial=2)
