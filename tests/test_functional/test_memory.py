"""Memories: sampling against lists of places, queues against a deque of each class."""

from __future__ import annotations

from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from mmseg_semi.functional import push_queues, sample_per_class


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------------------------ sampling


def places(label, num_classes):
    """The positions of each class."""
    values = label.tolist()
    return [{p for p, value in enumerate(values) if value == one} for one in range(num_classes)]


def check_sample(label, num_classes, num, index, present):
    """Assert all that holds for any draw."""
    assert index.dtype == torch.int64 and present.dtype == torch.bool
    assert index.shape == present.shape == (num_classes, num)
    for row, there, own in zip(index.tolist(), present.tolist(), places(label, num_classes)):
        count = min(num, len(own))
        assert there == [True] * count + [False] * (num - count)
        assert row[count:] == [0] * (num - count)
        assert len(set(row[:count])) == count and set(row[:count]) <= own


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    label=st.lists(st.sampled_from([-1, 0, 1, 2, 3, 4, 5, 6, 255]), max_size=40),
    num_classes=st.integers(1, 6),
    num=st.integers(1, 12),
    seed=st.integers(0, 2**31 - 1),
)
def test_a_sample_is_of_the_class_and_without_repetition(label, num_classes, num, seed):
    label = torch.tensor(label, dtype=torch.int64)
    before = label.clone()
    found = sample_per_class(label, num_classes, num, generator(seed))
    check_sample(label, num_classes, num, *found)
    assert torch.equal(label, before)
    again = sample_per_class(label, num_classes, num, generator(seed))
    assert all(torch.equal(a, b) for a, b in zip(found, again))


def test_every_pixel_of_a_small_class_comes():
    label = torch.randint(0, 50, (4000,), generator=generator(1))
    label[label > 20] = 255
    label[label == 7] = 255
    label[[100, 900, 3999]] = 7
    index, present = sample_per_class(label, 21, 200, generator(2))
    check_sample(label, 21, 200, index, present)
    assert set(index[7][present[7]].tolist()) == {100, 900, 3999}
    assert [set(row[there].tolist()) for row, there in zip(index, present)] == places(label, 21)


def test_nothing_to_sample():
    for label in (torch.zeros(0).long(), torch.full((9,), 255), torch.full((9,), -1)):
        index, present = sample_per_class(label, 3, 4)
        assert index.tolist() == [[0] * 4] * 3 and not present.any()


def test_draws_differ_and_follow_the_seed():
    label = torch.arange(4000) % 3
    torch.manual_seed(3)
    first = sample_per_class(label, 3, 16)[0]
    second = sample_per_class(label, 3, 16)[0]
    torch.manual_seed(3)
    assert torch.equal(sample_per_class(label, 3, 16)[0], first)
    assert not torch.equal(first, second)
    a, b = (sample_per_class(label, 3, 16, generator(seed))[0] for seed in (4, 5))
    assert not torch.equal(a, b)


def chi_square(counts, expected):
    return ((counts - expected) ** 2 / expected).sum().item()


def test_samples_are_uniform_in_place_and_order():
    label = torch.tensor([0, 1] * 10 + [255] * 5 + [1] * 3)
    own = sorted(places(label, 2)[1])  # 13 pixels
    turns, num, source = 6000, 4, generator(6)
    counts, pairs = torch.zeros(num, len(label)), torch.zeros(len(label), len(label))
    for _ in range(turns):
        row = sample_per_class(label, 2, num, source)[0][1]
        counts[torch.arange(num), row] += 1
        pairs[row[0], row[1]] += 1
    # Each of the 4 columns is uniform over the 13 pixels: 12 degrees of freedom, 99.99 % are
    # below 39; all ordered pairs are as likely: 155 degrees, 99.99 % are below 227.
    for column in counts[:, own]:
        assert chi_square(column, turns / len(own)) < 39
    flat = pairs[own][:, own][~torch.eye(len(own), dtype=torch.bool)]
    assert pairs.diagonal().sum() == 0 and flat.sum() == turns
    assert chi_square(flat, turns / len(flat)) < 227


# -------------------------------------------------------------------------------------- queues


class Deques:
    """The queues as one deque each."""

    def __init__(self, count, size):
        self.rows = [deque(maxlen=size) for _ in range(count)]

    def push(self, items, present):
        for row, values, there in zip(self.rows, items.tolist(), present.tolist()):
            for value, is_there in zip(values, there):
                if is_there:
                    row.append(value)


def entries(queues, counts, heads):
    """What the ring buffers hold, the oldest first."""
    size, found = queues.shape[1], []
    for row, count, head in zip(queues.tolist(), counts.tolist(), heads.tolist()):
        found.append([row[(head - count + i) % size] for i in range(count)])
    return found


def empty(count, size, channels):
    zeros = torch.zeros(count, dtype=torch.int64)
    return torch.zeros(count, size, channels), zeros, zeros.clone()


def items_of(turn, count, num, channels, share, source):
    """Items that occur once only, each there with a probability of ``share``."""
    values = torch.arange(count * num * channels).view(count, num, channels)
    return values + 1.0 + 10_000 * turn, torch.rand(count, num, generator=source) < share


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    count=st.integers(1, 4),
    size=st.integers(1, 7),
    channels=st.integers(1, 3),
    pushes=st.lists(
        st.tuples(st.integers(0, 20), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])), max_size=8
    ),
    seed=st.integers(0, 2**31 - 1),
)
def test_queues_are_deques(count, size, channels, pushes, seed):
    source, wanted = generator(seed), Deques(count, size)
    state = empty(count, size, channels)
    for turn, (num, share) in enumerate(pushes):
        items, present = items_of(turn, count, num, channels, share, source)
        before = [one.clone() for one in (*state, items, present)]
        new = push_queues(*state, items, present)
        assert all(torch.equal(a, b) for a, b in zip(before, (*state, items, present)))
        wanted.push(items, present)
        assert [one.shape for one in new] == [one.shape for one in state]
        assert [one.dtype for one in new] == [torch.float32, torch.int64, torch.int64]
        assert ((new[2] >= 0) & (new[2] < size)).all()
        assert entries(*new) == [list(row) for row in wanted.rows]
        state = new


def test_a_full_queue_by_hand():
    items = torch.tensor([[[1.0], [2], [3]], [[4], [5], [6]]])
    present = torch.tensor([[True, False, True], [False, False, True]])
    state = push_queues(*empty(2, 2, 1), items, present)
    assert [one.tolist() for one in state] == [[[[1], [3]], [[6], [0]]], [2, 1], [0, 1]]
    state = push_queues(*state, items + 10, present)
    assert [one.tolist() for one in state] == [[[[11], [13]], [[6], [16]]], [2, 2], [0, 0]]
    state = push_queues(*state, items + 20, present | True)
    assert entries(*state) == [[[22], [23]], [[25], [26]]]


def test_slots_that_are_not_filled_stay_zero():
    state = empty(3, 5, 2)
    for turn in range(3):
        present = torch.tensor([[True], [False], [turn == 1]])
        state = push_queues(*state, torch.full((3, 1, 2), turn + 1.0), present)
    assert state[1].tolist() == [3, 0, 1]
    for row, count in zip(state[0], state[1]):
        assert row[:count].all() and not row[count:].any()


@pytest.mark.parametrize('num', [0, 1, 6])
def test_nothing_present_changes_nothing(num):
    source, state = generator(7), empty(2, 4, 3)
    state = push_queues(*state, *items_of(0, 2, 5, 3, 0.7, source))
    new = push_queues(*state, *items_of(1, 2, num, 3, 0.0, source))
    assert all(torch.equal(a, b) for a, b in zip(new, state))


def test_values_that_are_not_present_do_not_matter():
    items = torch.tensor([[[float('nan')], [1.0], [float('inf')], [2.0]]])
    present = torch.tensor([[False, True, False, True]])
    state = push_queues(*empty(1, 3, 1), items, present)
    assert entries(*state) == [[[1], [2]]]
    assert state[0].isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_queues_keep_their_type_and_take_no_gradient(dtype):
    items = torch.ones(2, 3, 4, dtype=dtype, requires_grad=True)
    queues, *_ = push_queues(*empty(2, 5, 4), items, torch.ones(2, 3, dtype=torch.bool))
    assert queues.dtype == torch.float32 and not queues.requires_grad
    assert queues[:, :3].eq(1).all() and not queues[:, 3:].any()


def test_items_may_lie_in_memory_in_any_order():
    source, wanted = generator(8), Deques(3, 4)
    items, present = items_of(0, 3, 6, 2, 0.7, source)
    wanted.push(items, present)
    strided = items.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    flags = present.t().contiguous().t()
    state = push_queues(*empty(3, 4, 2), strided, flags)
    assert entries(*state) == [list(row) for row in wanted.rows]


# ------------------------------------------------------------------------------------- devices


def test_nothing_is_read_back_from_the_device():
    """Fake tensors have no values: whatever would wait for the device raises here."""
    with FakeTensorMode():
        label = torch.zeros(90, dtype=torch.int64)
        index, present = sample_per_class(label, 5, 7)
        assert index.shape == present.shape == (5, 7)
        zeros = torch.zeros(5, dtype=torch.int64)
        new = push_queues(torch.zeros(5, 3, 2), zeros, zeros, torch.ones(5, 7, 2), present)
        assert [one.shape for one in new] == [(5, 3, 2), (5,), (5,)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('pixels', [200, 100_000])
def test_cuda_gives_the_same_without_waiting(pixels):
    label = torch.randint(-1, 8, (pixels,), generator=generator(9))
    items, present = items_of(0, 7, 30, 3, 0.5, generator(10))
    state, moved = empty(7, 8, 3), [one.cuda() for one in (label, items, present)]
    on_device = [one.cuda() for one in state]
    sample_per_class(moved[0], 6, 50), push_queues(*on_device, *moved[1:])
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode('error')
    try:
        found = sample_per_class(moved[0], 6, 50)
        new = push_queues(*on_device, *moved[1:])
    finally:
        torch.cuda.set_sync_debug_mode('default')
    check_sample(label, 6, 50, *[one.cpu() for one in found])
    wanted = push_queues(*state, items, present)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(new, wanted))
