"""The bank of features is a plain FIFO of what real training steps show, also on two ranks."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapper

from mmseg_semi.engine.hooks import MemoryBankHook
from mmseg_semi.models.memories import FeatureMemoryBank, feature_memory_bank

from ..helpers import make_step, run_step, runner_of
from ..weighting_parts import (
    AGREE,
    BANK,
    COARSE,
    PADDED,
    PUSH,
    REFINERS,
    SELECT,
    SIZE,
    WEIGHT,
    K,
    Record,
    after,
    bank_of,
    candidates,
    check_equal,
    filled,
    hook_of,
    nearest,
    prototypes_of,
    pushed,
    queues_of,
    rank_weight,
)


@pytest.mark.parametrize('tap', ['penultimate', 'backbone.decoder.1'])
def test_content_of_real_steps_is_that_of_a_plain_fifo(weighting, boxed, monkeypatch, tap):
    """Prototypes and weights too, which are those that the steps before left."""
    weight = dict(tap=tap, **(dict(in_channels=8) if '.' in tap else {}))
    model = weighting(weight)
    record = Record(monkeypatch)
    hook, bank = hook_of(model), bank_of(model)
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.05))
    fifo = [[deque(maxlen=SIZE) for _ in range(3)] for _ in range(2)]
    steps, shares = [], []
    model.add_observer(steps.append)
    for iteration in range(6):
        model.train_step(boxed(seed=iteration, **PADDED), optimizer)
        step = steps.pop()
        prototypes = prototypes_of(fifo)
        expected = rank_weight(step.teacher.features[tap], step.pseudo.label, prototypes, K)
        torch.testing.assert_close(step.pseudo.weight, expected)
        assert iteration or (step.pseudo.weight == 1).all(), 'there are no prototypes yet'
        shares.append(expected.mean().item())
        after(hook, model, iteration)
        items = pushed(step, tap, record.take())
        for queues, new in zip(fifo, items):
            for queue, features in zip(queues, new):
                queue.extend(features)
        check_equal(bank, fifo)
        ours, known = bank.prototypes()
        for mine, has, wanted in zip(ours, known, prototypes_of(fifo)):
            assert has == (wanted is not None)
            torch.testing.assert_close(mine, wanted.float() if has else torch.zeros_like(mine))
    lengths = [[len(queue) for queue in queues] for queues in fifo]
    assert max(map(max, lengths)) == SIZE, 'no queue was ever full'
    assert all(sum(one) for one in lengths)
    assert len(set(shares)) > 3 and all(0 < share < 1 for share in shares[1:])


def test_labeled_and_reliable_features_share_a_queue(weighting, boxed, monkeypatch):
    """The paper's one memory: in an iteration labeled ones enter, then reliable ones."""
    record = Record(monkeypatch)
    model = weighting(dict(bank=dict(BANK, shared=True)))
    hook, bank = hook_of(model), bank_of(model)
    fifo = [deque(maxlen=SIZE) for _ in range(3)]
    for iteration in range(4):
        step, _ = run_step(model, boxed(seed=iteration, **PADDED))
        after(hook, model, iteration)
        for source in pushed(step, 'penultimate', record.take()):
            for queue, features in zip(fifo, source):
                queue.extend(features)
    for ours, theirs in zip(queues_of(bank)[0], fifo):
        assert len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))
    assert max(map(len, fifo)) == SIZE and bank.features.shape[0] == 1
    prototypes, known = bank.prototypes()
    for mine, has, queue in zip(prototypes, known, fifo):
        assert has == bool(queue)
        if queue:
            torch.testing.assert_close(mine, torch.stack(list(queue)).mean(0))


def test_as_many_features_enter_as_there_are_images(weighting, boxed, monkeypatch):
    record = Record(monkeypatch)
    model = weighting(dict(bank=dict(BANK, num_push=None)))
    run_step(model, boxed(**PADDED))
    assert [num for _, _, num in record.take()] == [2, 3], 'labeled and unlabeled ones'
    model = weighting(dict(bank=dict(BANK, num_push=None, reliable_from='strong')))
    run_step(model, boxed(**PADDED))
    assert [num for _, _, num in record.take()] == [2, 3, 3], 'of each strong view'


@pytest.mark.parametrize('upsample', [False, True])
def test_reliable_features_of_the_strong_views(weighting, boxed, monkeypatch, upsample):
    """The features of mixed strong views, where the mixed pseudo-label is reliable."""
    record = Record(monkeypatch)
    weight = dict(upsample=upsample, bank=dict(BANK, reliable_from='strong'))
    model = weighting(weight, mixer=dict(type='CutMix', prob=1.0))
    bank = bank_of(model)
    step, _ = run_step(model, boxed(**PADDED))
    bank.update_state()
    _, *calls = record.take()
    assert len(calls) == 2
    content = []
    for (index, present, _), view in zip(calls, step.streams['strong']):
        features = view.outputs.features['penultimate'].detach()
        pseudo = view.pseudo
        label = torch.where(pseudo.reliable, pseudo.label, -1)
        if upsample:
            size = label.shape[-2:]
            features = F.interpolate(features, size=size, mode='bilinear', align_corners=False)
        else:
            label = nearest(label, features.shape[-2:])
        columns, flat = features.permute(0, 2, 3, 1).flatten(0, 2), label.flatten()
        for number in range(3):
            drawn = [i for i, there in zip(index[number], present[number]) if there]
            assert len(drawn) == min(PUSH, int((flat == number).sum()))
            assert all(flat[i] == number for i in drawn)
            content += [(number, columns[i]) for i in drawn]
    assert content
    queues = queues_of(bank)[1]
    for number, queue in enumerate(queues):
        wanted = [one for k, one in content if k == number][-SIZE:]
        assert len(queue) == len(wanted)
        for mine, one in zip(queue, wanted):
            torch.testing.assert_close(mine, one, rtol=1e-4, atol=1e-5)


def test_before_the_push_nothing_of_the_step_counts(weighting, boxed):
    model = weighting()
    bank = bank_of(model)
    run_step(model, boxed())
    assert not bank.counts.any() and not bank.features.any()
    run_step(model, boxed(seed=1))
    hook_of(model)
    bank.update_state()
    once = bank.counts.clone()
    assert once.any() and (once <= PUSH).all(), 'only the last noted step'
    bank.update_state()
    assert torch.equal(bank.counts, once), 'nothing twice'


def test_without_a_second_source_labeled_pixels_alone_enter(weighting, batch, monkeypatch):
    record = Record(monkeypatch)
    model = weighting(refiners=dict(select=SELECT, weight=WEIGHT))
    hook, bank = hook_of(model), bank_of(model)
    assert run_step(model, batch())[0].pseudo.reliable is None
    after(hook, model)
    assert len(record.take()) == 1
    assert bank.counts[0].any() and not bank.counts[1].any() and not bank.features[1].any()


def test_padding_and_unsure_pixels_stay_out(weighting, boxed):
    """With features that say what their pixel is."""
    model = weighting(dict(bank=dict(BANK, size=2048, num_push=2048)))
    hook, bank = hook_of(model), bank_of(model)
    step, _ = run_step(model, boxed(**PADDED))
    after(hook, model)
    for source, (features, label) in enumerate(candidates(step, 'penultimate')):
        columns = features.permute(0, 2, 3, 1)
        for number in range(3):
            wanted = columns[label == number]
            got = bank.features[source, number, : len(wanted)]
            assert bank.counts[source, number] == len(wanted)
            assert torch.equal(*(one[np.lexsort(one.T.numpy())] for one in (got, wanted)))
    truth = torch.stack([s.gt_sem_seg.data[0] for s in step.labeled_samples])
    assert (truth == 255).any() and (~step.valid).any()
    assert 0 < bank.counts[0].sum() < truth.numel() / 4
    assert 0 < bank.counts[1].sum() < step.valid.numel() / 4


def test_the_warm_up_notes_nothing(weighting, boxed):
    model = weighting(warmup_iters=3)
    hook = hook_of(model)
    for iteration in range(3):
        model.set_progress(iteration, 10)
        model(**model.data_preprocessor(boxed(), True), mode='loss')
        after(hook, model, iteration)
        assert not bank_of(model).counts.any()
    model.set_progress(3, 10)
    run_step(model, boxed())
    after(hook, model, 3)
    assert bank_of(model).counts.any()


@pytest.mark.parametrize('start, interval', [(0, 1), (3, 1), (0, 3), (2, 4)])
def test_start_and_interval(weighting, boxed, start, interval):
    model = weighting(dict(bank=dict(BANK, size=10_000)))
    hook, bank = hook_of(model, start=start, interval=interval), bank_of(model)
    changed = []
    for iteration in range(9):
        run_step(model, boxed(seed=iteration))
        before = bank.counts.clone()
        after(hook, model, iteration)
        if not torch.equal(before, bank.counts):
            changed.append(iteration)
        bank.update_state()
        assert iteration in changed or torch.equal(before, bank.counts), 'nothing is left over'
    assert changed == list(range(start, 9, interval))


@pytest.mark.parametrize(
    'argument, value',
    [('start', -1), ('start', 1.0), ('interval', 0), ('interval', True), ('interval', '2')],
)
def test_wrong_arguments_of_the_hook(argument, value):
    with pytest.raises(ValueError, match=rf'MemoryBankHook\.{argument} must be a whole number >='):
        MemoryBankHook(**{argument: value})


def test_hook_and_bank_need_each_other(build, boxed):
    refiners = dict(select=SELECT, agreement=AGREE)
    assert hook_of(build(refiners=refiners)).parts == []
    model = build(refiners=REFINERS).train()
    with pytest.raises(RuntimeError, match=r'MemoryBankHook.*custom_hooks'):
        run_step(model, boxed())
    hook_of(model)
    run_step(model, boxed())


def test_state_dict_round_trip_goes_on_where_it_was(weighting, boxed, monkeypatch):
    model = filled(weighting(), boxed, 4)
    names = {f'refiners.weight.bank.{name}' for name in ('features', 'counts', 'heads')}
    state = {key: value.clone() for key, value in model.state_dict().items()}
    assert {key for key in state if key.startswith('refiners')} == names
    assert (state['refiners.weight.bank.counts'] == SIZE).any()
    other = weighting()
    assert not bank_of(other).counts.any()
    other.load_state_dict(state)
    check_equal(bank_of(other), queues_of(bank_of(model)))
    for one in (model, other):
        torch.manual_seed(4)
        run_step(one, boxed(seed=3))
        after(hook_of(one), one)
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key
    assert not torch.equal(bank_of(model).features, state['refiners.weight.bank.features'])


@pytest.mark.parametrize('change', [dict(bank=dict(BANK, size=SIZE + 1)), COARSE])
def test_a_bank_of_another_size_is_refused(weighting, change):
    state = weighting().state_dict()
    message = (
        r'refiners\.weight\.bank\.features: the checkpoint has a memory bank \(queues, classes, '
        r'size, channels\) of shape \(2, 3, 24, 6\), the config \(2, 3, 2'
    )
    with pytest.raises(ValueError, match=message):
        weighting(change).load_state_dict(state)


def test_a_hook_twice_is_refused(weighting):
    hooks = [MemoryBankHook(), MemoryBankHook(interval=2)]
    with pytest.raises(ValueError, match='custom_hooks has MemoryBankHook more than once'):
        hooks[0].before_train(runner_of(weighting(), hooks=hooks))


def bank_of_a_rank(rank, inputs):
    """State of the bank after each iteration, and what was drawn."""
    draw, drawn = feature_memory_bank.sample_per_class, []

    def sample_per_class(label, *args):
        drawn.append(draw(label, *args))
        return drawn[-1]

    feature_memory_bank.sample_per_class = sample_per_class
    torch.manual_seed(rank)
    bank = FeatureMemoryBank(4, 3, size=7, num_push=4, min_confidence=0.5, shared=False)
    hook = MemoryBankHook(start=1)
    hook.parts = [bank]
    states = []
    for iteration, one in enumerate(inputs[rank]):
        labeled = SimpleNamespace(features=dict(f=one['features']), stages=[one['logits']])
        teacher = SimpleNamespace(features=dict(f=one['weak']))
        step = make_step(labeled=labeled, teacher=teacher, truth=one['truth'])
        step.pseudo = SimpleNamespace(reliable=one['reliable'], label=one['label'])
        bank.note(step, 'f', [])
        hook.after_train_iter(SimpleNamespace(iter=iteration), iteration)
        states.append({k: v.clone() for k, v in bank.state_dict().items()})
    return dict(states=states, drawn=drawn)


def rank_inputs(rank, iterations=6):
    """Labels of classes that the ranks see unequally often; class 3 only rank 1 has."""
    source = torch.Generator().manual_seed(rank)
    inputs = []
    for _ in range(iterations):
        truth = torch.randint(0, 4 if rank else 3, (2, 4, 4), generator=source)
        label = torch.randint(0, 4 if rank else 2, (3, 4, 4), generator=source)
        inputs.append(
            dict(
                truth=truth,
                label=label,
                features=torch.randn(2, 3, 4, 4, generator=source),
                weak=torch.randn(3, 3, 4, 4, generator=source),
                logits=6 * F.one_hot(truth, 4).permute(0, 3, 1, 2).float(),
                reliable=torch.rand(3, 4, 4, generator=source) < (0.5 if rank else 0.1),
            )
        )
    return inputs


def test_two_ranks_hold_one_bank(on_two_ranks):
    """That of a plain queue which gets the items of rank 0 and then those of rank 1."""
    inputs = [rank_inputs(rank) for rank in (0, 1)]
    ranks = on_two_ranks(bank_of_a_rank, inputs)
    fifo = [[deque(maxlen=7) for _ in range(4)] for _ in range(2)]
    bank = FeatureMemoryBank(4, 3, size=7, shared=False)
    for iteration in range(6):
        for rank in range(2 if iteration else 0):
            one = inputs[rank][iteration]
            reliable = torch.where(one['reliable'], one['label'], -1)
            for source, (features, label) in enumerate(
                ((one['features'], one['truth']), (one['weak'], reliable))
            ):
                index, present = ranks[rank]['drawn'][2 * iteration + source]
                columns = features.permute(0, 2, 3, 1).flatten(0, 2)
                for number in range(4):
                    found = index[number][present[number]].tolist()
                    assert all(label.flatten()[i] == number for i in found)
                    assert len(set(found)) == min(4, int((label == number).sum()))
                    fifo[source][number].extend(columns[i] for i in found)
        for rank in (0, 1):
            bank.load_state_dict(ranks[rank]['states'][iteration])
            check_equal(bank, fifo)
    lengths = [len(queue) for queues in fifo for queue in queues]
    assert min(lengths) > 0 and max(lengths) == 7
