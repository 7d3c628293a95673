"""Earlier weights of a network."""

from __future__ import annotations

import pytest
import torch

from mmseg_semi.models.memories import Snapshots


def values(number):
    return [torch.full((2, 3), float(number)), torch.full((4,), float(-number))]


def kept(snapshots):
    """The numbers of what is kept, oldest first."""
    found = []
    for number in range(len(snapshots)):
        into = values(0)
        snapshots.load(number, into)
        assert torch.equal(into[0], values(into[0][0, 0])[0])
        assert torch.equal(into[1], values(into[0][0, 0])[1])
        found.append(int(into[0][0, 0]))
    return found


def filled(size, count, **arguments):
    snapshots = Snapshots(values(0), size, **arguments)
    for number in range(1, count + 1):
        snapshots.push(values(number))
    return snapshots


@pytest.mark.parametrize(
    ('count', 'wanted'), [(0, []), (2, [1, 2]), (3, [1, 2, 3]), (5, [3, 4, 5]), (7, [5, 6, 7])]
)
def test_the_last_ones_are_kept(count, wanted):
    assert kept(filled(3, count)) == wanted


def test_what_was_kept_does_not_follow_the_network():
    network = values(1)
    snapshots = Snapshots(network, 2)
    snapshots.push(network)
    network[0].fill_(9)
    assert kept(snapshots) == [1]


@pytest.mark.parametrize(('count', 'wanted'), [(0, []), (1, [1]), (5, [3, 4, 5])])
def test_a_checkpoint_has_them(count, wanted):
    state = filled(3, count).state_dict()
    assert list(state) == ['count', '0', '1', '2'], 'as many keys, whatever is kept'
    other = filled(3, 2)
    other.load_state_dict(state)
    assert kept(other) == wanted
    other.push(values(6))
    assert kept(other) == [*wanted, 6][-3:]


def test_those_of_another_network_or_number_are_refused():
    state = filled(2, 1).state_dict()
    for other, own in (
        (Snapshots([torch.zeros(3)], 2), '2 x 3'),
        (Snapshots(values(0), 3), '3 x 10'),
    ):
        with pytest.raises(RuntimeError, match=f'has 2 x 10 numbers .* the config {own}'):
            other.load_state_dict(state)
        assert len(other) == 0


def test_a_checkpoint_without_them_is_said():
    assert filled(2, 1).load_state_dict({}, strict=False).missing_keys == ['*']


def test_they_move_with_the_model_unless_they_stay_on_the_cpu():
    for on_cpu, device in ((False, 'meta'), (True, 'cpu')):
        snapshots = filled(2, 1, on_cpu=on_cpu).to('meta')
        assert {row.device.type for row in snapshots.rows} == {device}
    assert not [*snapshots.parameters(), *snapshots.buffers()]


def test_room_is_taken_at_once():
    assert [row.numel() for row in filled(3, 0).rows] == [10, 10, 10]
