from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmseg_semi.engine.hooks import EMAThresholdHook
from mmseg_semi.models.refiners import BaseRefiner, EMAThreshold
from mmseg_semi.structures import PseudoLabel

from ..corrmatch import COARSE, EMA, PADDED
from ..helpers import make_step, run_step, runner_of

FORMULAS = ('presence', 'per_pixel', 'max', 'mean', 'per_class')
UPDATES = (*FORMULAS, 'per_class_max', 'per_position')
STATE = dict.fromkeys(('per_class', 'per_class_max'), {'class_values'})
STATE['per_position'] = {'position_values'}
CLASSES = 5


def threshold_of(update, momentum=0.9, initial=0.7, **kwargs):
    refiner = EMAThreshold(initial, momentum, update, **kwargs)
    refiner.name = 'select'
    head = SimpleNamespace(out_channels=CLASSES)
    refiner.attach(SimpleNamespace(segmentor=SimpleNamespace(decode_head=head)))
    return refiner


def predictions(seed, absent=(), valid=0.7, scale=2.0):
    """A pseudo-label in which some classes have no valid pixel."""
    source = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(3, CLASSES, 6, 7, generator=source)
    mask = torch.rand(3, 6, 7, generator=source) < valid
    mask &= ~torch.isin(logits.argmax(1), torch.tensor(absent, dtype=torch.int64))
    return PseudoLabel.from_logits(logits, mask)


def reference_delta(update, pseudo):
    """What the threshold moves towards, and the classes' means; NaN without a pixel."""
    confidence = pseudo.prob.numpy().max(1).astype(np.float64)
    label, valid = pseudo.prob.numpy().argmax(1), pseudo.valid.numpy()
    by_class = [confidence[valid & (label == k)] for k in range(CLASSES)]
    present = [values for values in by_class if len(values)]
    means = np.array([values.mean() if len(values) else np.nan for values in by_class])
    if not present:
        return np.nan, means
    delta = dict(
        presence=np.mean([values.max() for values in present]),
        max=confidence[valid].max(),
        mean=np.mean([values.mean() for values in present]),
        per_pixel=confidence[valid].mean(),
        per_class=confidence[valid].mean(),
        per_class_max=np.mean([values.max() for values in present]),
        per_position=confidence[valid].mean(),
    )
    return delta[update], means


def feed(refiner, pseudo):
    """What the refiner makes of it, and the step that it has observed."""
    step = make_step(pseudo)
    out = refiner(pseudo, None, step)
    refiner.observe(step)
    return out, step


SEQUENCE = [
    dict(absent=()),
    dict(absent=(1, 3)),
    dict(absent=(0, 1, 2, 3)),
    dict(valid=0.0),
    dict(absent=(2,), scale=0.3),
    dict(absent=(4,), scale=5.0),
]


def test_thresholds_by_class_from_zero_select_everything():
    refiner = EMAThreshold(initial=0.0, update='per_class')
    refiner.register_buffer('class_values', torch.zeros(CLASSES, dtype=torch.float64))
    prob = torch.rand(2, CLASSES, 4, 4).softmax(1)
    pseudo = PseudoLabel.from_logits(prob.log(), torch.ones(2, 4, 4, dtype=torch.bool))
    assert feed(refiner, pseudo)[0].selected.all()


@pytest.mark.parametrize('update', FORMULAS)
@pytest.mark.parametrize('momentum', [0.0, 0.9, 0.999])
def test_threshold_follows_the_formula(update, momentum):
    """Each batch is filtered by the value from before it."""
    refiner = threshold_of(update, momentum)
    tau, classes = 0.7, np.full(CLASSES, 0.7)
    for seed, kind in enumerate(SEQUENCE):
        pseudo = predictions(seed, **kind)
        used = float(refiner.threshold)
        out, step = feed(refiner, pseudo)
        limit = torch.full((CLASSES,), tau, dtype=torch.float64)
        if update == 'per_class':
            limit = torch.from_numpy(tau * classes / classes.max())
        expected = pseudo.confidence >= limit[pseudo.label].float()
        assert torch.equal(out.selected, pseudo.selected & expected)
        assert used == pytest.approx(tau, abs=1e-9 + 1e-7 * (1 - momentum))
        before = refiner.value.item()
        assert step.figures['select.threshold'].item() == pytest.approx(tau, abs=1e-6)
        refiner.update_state()
        delta, means = reference_delta(update, pseudo)
        if np.isnan(delta):
            assert refiner.value.item() == before, 'no pixel leaves it to the bit'
        else:
            tau = momentum * tau + (1 - momentum) * delta
            moved = momentum * classes + (1 - momentum) * means
            classes = np.where(np.isnan(means), classes, moved)
        assert refiner.value.dtype == torch.float64
        assert refiner.value.item() == pytest.approx(tau, abs=1e-7)
        tau = refiner.value.item()  # so that a comparison on the edge is the same one
        if update == 'per_class':
            np.testing.assert_allclose(refiner.class_values.numpy(), classes, atol=1e-7)
            classes = refiner.class_values.numpy().copy()


@pytest.mark.parametrize('update', FORMULAS)
def test_a_threshold_that_warms_up_is_the_mean_of_what_was_found(update):
    """With m = 0.75 of the first four updates; of a class, of those that found it."""
    refiner = threshold_of(update, 0.75, warm_up=True)
    found, by_class = [], [[] for _ in range(CLASSES)]

    def average(values):
        mean = 0.7
        for t, value in enumerate(values):
            m = min(t / (t + 1), 0.75)
            mean = m * mean + (1 - m) * value
        return mean

    for seed in range(3):
        for kind in SEQUENCE:
            pseudo = predictions(seed, **kind)
            feed(refiner, pseudo)
            refiner.update_state()
            delta, means = reference_delta(update, pseudo)
            found += [delta] * (not np.isnan(delta))
            for values, mean in zip(by_class, means):
                values += [mean] * (not np.isnan(mean))
            if len(found) <= 4:
                assert refiner.value.item() == pytest.approx(np.mean(found), abs=1e-7)
            assert refiner.value.item() == pytest.approx(average(found), abs=1e-7)
            if update == 'per_class':
                expected = [average(values) for values in by_class]
                np.testing.assert_allclose(refiner.class_values.numpy(), expected, atol=1e-7)
                assert refiner.updates.tolist() == [len(found), *map(len, by_class)]
    assert len(found) > 8, 'past the end of the warm-up'
    again = threshold_of(update, 0.75, warm_up=True)
    again.load_state_dict(refiner.state_dict())
    for one in (refiner, again):
        feed(one, predictions(9))
        one.update_state()
    assert torch.equal(again.value, refiner.value)
    assert again.value.item() == pytest.approx(
        0.75 * average(found) + 0.25 * reference_delta(update, predictions(9))[0], abs=1e-7
    )


def test_small_steps_are_not_lost():
    """Steps of about 1e-9: in float32 none of them would be seen."""
    refiner = threshold_of('per_pixel', momentum=1 - 1e-8)
    pseudo = predictions(0)
    delta, _ = reference_delta('per_pixel', pseudo)
    for _ in range(20):
        feed(refiner, pseudo)
        refiner.update_state()
    assert refiner.value.item() - 0.7 == pytest.approx(20e-8 * (delta - 0.7), rel=1e-3)


def test_absent_classes_do_not_count():
    """Class 0 is predicted with 0.6 and class 1 with 0.9; class 1 only on padding in the second."""
    pair = torch.tensor([[0.6, 0.9], [0.3, 0.05], [0.1, 0.05]])
    pair[:, 1] = pair[[1, 0, 2], 1]
    logits = pair.log().view(1, 3, 1, 2)
    for valid, delta in (([True, True], 0.75), ([True, False], 0.6)):
        refiner = EMAThreshold(0.0, 0.0)
        feed(refiner, PseudoLabel.from_logits(logits, torch.tensor(valid).view(1, 1, 2)))
        refiner.update_state()
        assert refiner.value.item() == pytest.approx(delta)


@pytest.mark.parametrize('update', UPDATES)
def test_several_steps_before_an_update_count_as_one_batch(update):
    parts = [predictions(0, absent=(1, 3)), predictions(1, absent=(0, 4))]
    split, whole = threshold_of(update), threshold_of(update)
    for part in parts:
        feed(split, part)
    pairs = [torch.cat([getattr(p, name) for p in parts]) for name in ('logits', 'valid')]
    feed(whole, PseudoLabel.from_logits(*pairs))
    for refiner in (split, whole):
        refiner.update_state()
        refiner.update_state()  # nothing noted since
    for name, value in split.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[name], rtol=1e-12, atol=0)
    assert whole.value != 0.7


def test_threshold_follows_the_unrefined_prediction(corrmatch, batch):
    """Also with a refiner before it that changes everything, and only in the hook."""

    class Unsure(BaseRefiner):
        stage = 'probability'

        def forward(self, pseudo, outputs, step):
            half = 0.5 * pseudo.prob
            return pseudo.update(prob=half, confidence=half.amax(1))

    model = corrmatch(COARSE, refiners=dict(unsure=Unsure(), select=EMA))
    step, losses = run_step(model, batch(**PADDED))
    select = model.refiners['select']
    assert select.value == 0.6 and losses['select.threshold'] == torch.tensor(0.6)
    assert not step.pseudo.selected.any()
    hook, runner = EMAThresholdHook(), runner_of(model)
    hook.before_train(runner)
    hook.after_train_iter(runner, 0)
    peaks = []
    for k in range(3):
        found = step.raw_pseudo.valid & (step.raw_pseudo.label == k)
        peaks += [float(step.raw_pseudo.confidence[found].max())] if found.any() else []
    assert select.value.item() == pytest.approx(0.9 * 0.6 + 0.1 * np.mean(peaks), abs=1e-7)


@pytest.mark.parametrize('update', UPDATES)
def test_threshold_is_saved_and_restored(corrmatch, batch, update):
    refiners = dict(select=dict(EMA, update=update))
    model = corrmatch(COARSE, refiners=refiners)
    run_step(model, batch())
    model.refiners['select'].update_state()
    state = model.state_dict()
    names = {'value'} | STATE.get(update, set())
    assert {k for k in state if k.startswith('refiners')} == {f'refiners.select.{n}' for n in names}
    assert state['refiners.select.value'] != 0.6
    other = corrmatch(COARSE, refiners=refiners)
    other.load_state_dict(state)
    for name, value in model.refiners['select'].state_dict().items():
        assert torch.equal(other.refiners['select'].state_dict()[name], value)


@pytest.mark.parametrize(
    ('argument', 'value'),
    [
        *(('initial', value) for value in (-0.01, 1.01, float('nan'))),
        *(('momentum', value) for value in (-0.01, 1.01, float('nan'))),
        ('update', 'median'),
    ],
)
def test_wrong_arguments_of_the_threshold(argument, value):
    with pytest.raises(ValueError, match=f'EMAThreshold.{argument} must be'):
        EMAThreshold(**{argument: value})


def test_a_threshold_that_nothing_moves_is_refused(build, batch):
    model = build(refiners=dict(select=EMA))
    with pytest.raises(RuntimeError, match='only EMAThresholdHook moves.*SemiTrainLoop'):
        run_step(model, batch())
    EMAThresholdHook().before_train(runner_of(model))
    run_step(model, batch())


def test_filtering_alone_notes_nothing():
    """Images of partners are filtered too; the threshold follows what was observed."""
    refiner = threshold_of('presence')
    for seed in (0, 1):
        refiner(predictions(seed), None, None)
    refiner.update_state()
    assert refiner.value == 0.7
    feed(refiner, predictions(0))
    refiner.update_state()
    assert refiner.value != 0.7


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: EMAThreshold(initial='high'), r"EMAThreshold.initial .* in \[0, 1\], got 'high'"),
        (lambda: EMAThreshold(momentum=None), 'EMAThreshold.momentum .* got None'),
    ],
)
def test_wrong_types_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize('update', UPDATES)
def test_moved_before_it_selects(update):
    """The batch's own statistics count already, and the state is where it is otherwise."""
    pseudo, other = predictions(0), predictions(1)
    before, after = threshold_of(update), threshold_of(update)
    before.when = 'before'
    for one in (pseudo, other):
        out, step = feed(before, one)
        start = float(before.value)
        assert float(before.threshold_at(step)) != start
        feed(after, one)
        for refiner in (before, after):
            refiner.update_state()
        assert torch.equal(before.value, after.value)
        # What selected is the state after the update.
        expected = feed(after, one)[0]
        after._pending = None
        assert torch.equal(out.selected, expected.selected)


def test_a_class_follows_its_highest_confidence():
    refiner = threshold_of('per_class_max', momentum=0.9, initial=0.7)
    pseudo = predictions(3, absent=(1,))
    expected = []
    for k in range(CLASSES):
        mine = pseudo.confidence[pseudo.valid & (pseudo.label == k)]
        expected.append(0.9 * 0.7 + 0.1 * float(mine.max()) if len(mine) else 0.7)
    feed(refiner, pseudo)
    refiner.update_state()
    np.testing.assert_allclose(refiner.class_values.numpy(), expected, rtol=1e-6)
    assert refiner.class_values[1] == 0.7, 'an absent class keeps its value'
    out = feed(refiner, pseudo)[0]
    limit = refiner.class_values.float()[pseudo.label]
    assert torch.equal(out.selected, pseudo.selected & (pseudo.confidence >= limit))


def test_each_position_follows_the_mean_there():
    refiner = threshold_of('per_position', momentum=0.9, initial=0.7)
    pseudo = predictions(4)
    first = feed(refiner, pseudo)[0]
    assert torch.equal(first.selected, pseudo.selected & (pseudo.confidence >= 0.7))
    refiner.update_state()
    expected = np.full((6, 7), 0.7)
    for y in range(6):
        for x in range(7):
            mine = pseudo.confidence[:, y, x][pseudo.valid[:, y, x]]
            if len(mine):
                expected[y, x] = 0.9 * 0.7 + 0.1 * float(mine.mean())
    np.testing.assert_allclose(refiner.position_values.numpy(), expected, rtol=1e-6)
    out = feed(refiner, pseudo)[0]
    limit = refiner.position_values.float()
    assert torch.equal(out.selected, pseudo.selected & (pseudo.confidence >= limit))
    again = threshold_of('per_position')
    again.load_state_dict(refiner.state_dict())
    assert torch.equal(again.position_values, refiner.position_values)
    small = PseudoLabel.from_logits(torch.zeros(1, CLASSES, 3, 3), torch.ones(1, 3, 3).bool())
    with pytest.raises(ValueError, match='thresholds of .6, 7. places and got images of .3, 3.'):
        again(small, None, make_step(small))


def test_a_class_that_was_never_found_does_not_lower_the_others():
    """FreeMatch's largest value is that of the surest class, here 0.6; the third has none."""
    refiner = threshold_of('per_class', initial=0.85, warm_up=True)
    refiner.value.fill_(0.55)
    refiner.class_values[:2] = torch.tensor([0.6, 0.5], dtype=torch.float64)
    refiner.updates[:3] = 200
    pseudo = predictions(0, valid=1.1)
    selected = refiner(pseudo, None, None).selected
    limits = torch.tensor([0.55, 0.55 * 0.5 / 0.6, 0.55, 0.55, 0.55])
    assert torch.equal(selected, pseudo.confidence >= limits[pseudo.label])
    assert selected.any() and not selected.all()
