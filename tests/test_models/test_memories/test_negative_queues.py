"""U2PL's queues of negatives are deques, also on two ranks."""

from __future__ import annotations

from collections import deque

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmseg_semi.models.memories import NegativeQueues

from ..helpers import queue_of, same_rows


def small_queues(size=7, first_size=10, num_push=5, classes=4, channels=3):
    return NegativeQueues(classes, channels, size, first_size, num_push)


def test_queues_are_deques():
    queues = small_queues()
    wanted = [deque(maxlen=length) for length in (10, 7, 7, 7)]
    source = torch.Generator().manual_seed(0)
    for round_ in range(30):
        numbers = torch.randint(0, 6, (4,), generator=source)
        if round_ < 10:
            numbers[3] = 0
        items = torch.randn(4, 5, 3, generator=source)
        present = torch.arange(5) < numbers[:, None]
        queues.push(items, present)
        for row, rows, number in zip(wanted, items, numbers.tolist()):
            row.extend(rows[:number])
        for c in range(4):
            entries = queue_of(queues, c)
            assert len(entries) == len(wanted[c])
            assert not wanted[c] or entries.equal(torch.stack(list(wanted[c])))
            drawn, filled = queues.draw(2, 3)
            assert bool(filled[c]) == bool(wanted[c]) and drawn.shape == (4, 2, 3, 3)
            if not wanted[c]:
                assert not drawn[c].any()
    assert queues.counts.tolist() == [10, 7, 7, 7]
    drawn, _ = queues.draw(20, 30)
    for c in range(4):
        assert same_rows(drawn[c].flatten(0, 1).unique(dim=0), torch.stack(list(wanted[c])))


def test_a_random_part_of_the_negatives_enters_once():
    queues = small_queues(size=50, num_push=20, first_size=50, classes=3)
    features = torch.randn(2, 3, 5, 6)
    negative = torch.zeros(2, 3, 5, 6, dtype=torch.bool)
    negative[:, 0] = True
    negative[1, 1, 2, :4] = True
    queues.note(features, negative)
    assert not queues.counts.any(), 'not before the hook'
    queues.update_state()
    assert queues.counts.tolist() == [20, 4, 0]
    rows = features.movedim(1, -1).flatten(0, 2)
    entries = queue_of(queues, 0)
    assert (
        len(entries.unique(dim=0)) == 20
        and torch.cdist(entries.double(), rows.double()).amin(1).max() < 1e-6
    )
    assert same_rows(queue_of(queues, 1), features[1, :, 2, :4].T)
    queues.note(features, negative)
    queues.discard()
    queues.update_state()
    assert queues.counts.tolist() == [20, 4, 0]
    # A map of fewer pixels than num_push.
    queues.note(features[:1, :, :1], negative[:1, :, :1])
    queues.update_state()
    assert queues.counts.tolist() == [26, 4, 0]


def test_moving_queues_does_not_wait_for_the_device():
    queues = small_queues()
    with FakeTensorMode() as mode:
        for name, value in queues.named_buffers():
            setattr(queues, name, mode.from_tensor(value))
        queues.note(torch.zeros(2, 3, 5, 6), torch.ones(2, 4, 5, 6, dtype=torch.bool))
        queues.push(*queues._pending)
        negatives, filled = queues.draw(6, 2)
        assert negatives.shape == (4, 6, 2, 3) and filled.shape == (4,)


def test_queues_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r'of shape \(31, 3\), the config \(34, 3\)'):
        small_queues(first_size=13).load_state_dict(small_queues().state_dict())


def test_lengths_of_the_paper():
    queues = NegativeQueues(3, 2)
    assert queues.lengths.tolist() == [50000, 30000, 30000] and queues.num_push == 256
    assert NegativeQueues(2, 2, size=300).lengths.tolist() == [500, 300]


def test_all_negatives_can_enter_in_the_order_of_the_pixels():
    """Of more than a queue holds the last ones stay, and its length is that of each class."""
    queues = NegativeQueues(3, 1, size=4, first_size=6, num_push=None)
    features = torch.arange(1.0, 9.0).view(2, 1, 2, 2)
    negative = torch.zeros(2, 3, 2, 2, dtype=torch.bool)
    negative[:, :2] = True
    negative[0, 2, 0, 1] = negative[1, 2, 1, 0] = True
    for last in ([2, 7], [2, 7, 2, 7]):
        queues.note(features, negative)
        queues.update_state()
        entries = [queue_of(queues, number).flatten().tolist() for number in range(3)]
        assert entries == [[3, 4, 5, 6, 7, 8], [5, 6, 7, 8], last]
    assert queues.counts.tolist() == [6, 4, 4]


@pytest.mark.parametrize('filled', [0, 2, 6])
@pytest.mark.parametrize('arrive', [0, 3, 9])
def test_the_own_negatives_can_be_drawn(filled, arrive):
    """``push='before'`` draws from what the queues will be, and moves them later."""
    queues = NegativeQueues(1, 1, size=6, first_size=6, num_push=None, push='before')
    queues.push(-torch.arange(1.0, 9.0).view(1, 8, 1), torch.arange(8)[None] < filled)
    features, negative = torch.arange(1.0, 10.0).view(1, 1, 3, 3), torch.zeros(1, 1, 3, 3).bool()
    negative.view(-1)[:arrive] = True
    before = queues.features.clone()
    queues.note(features, negative)
    counts = queues.counts_now.clone()
    drawn, there = queues.draw(1, 6, torch.arange(6).view(1, 1, 6) % counts.clamp(min=1))
    assert queues.features.equal(before), 'not before the hook'
    queues.update_state()
    wanted = [-float(i) for i in range(1, filled + 1)] + [float(i) for i in range(1, arrive + 1)]
    entries = queue_of(queues, 0).flatten()
    assert entries.tolist() == wanted[-6:]
    assert counts.tolist() == queues.counts.tolist() == [min(filled + arrive, 6)]
    assert there.tolist() == [bool(len(entries))]
    assert drawn.flatten()[: len(entries)].equal(entries)
    if not len(entries):
        assert not drawn.any()
