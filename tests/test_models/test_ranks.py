"""What ranks tell each other: the right values, in one call."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from mmseg_semi.functional import quantile_threshold
from mmseg_semi.models.ranks import GlobalQuantiles, gather_items

#: Pixels of the two ranks in each round; 256 are a unit.
SIZES = [(20, 300), (300, 20), (512, 512), (1, 513), (513, 1), (7, 9)]


def counting(monkeypatch):
    calls = []
    gather = dist.all_gather
    monkeypatch.setattr(dist, 'all_gather', lambda *a, **k: (calls.append(1), gather(*a, **k))[1])
    return calls


def quantiles_of_a_rank(rank, rounds):
    with pytest.MonkeyPatch.context() as patch:
        calls, own, found = counting(patch), GlobalQuantiles(), []
        for ranks in rounds:
            before = len(calls)
            found.append((own(*ranks[rank], [0.25, 0.5]), len(calls) - before))
        return found


def test_quantiles_of_two_ranks_whose_sizes_differ(on_two_ranks):
    source = torch.Generator().manual_seed(0)
    rounds = [
        [
            (torch.randn(n, generator=source), torch.rand(n, generator=source) < 0.8 - 0.5 * rank)
            for rank, n in enumerate(sizes)
        ]
        for sizes in SIZES
    ]
    for found in on_two_ranks(quantiles_of_a_rank, rounds):
        for ranks, (values, _) in zip(rounds, found):
            score, valid = (torch.cat(one) for one in zip(*ranks))
            assert values == [quantile_threshold(score, valid, q) for q in (0.25, 0.5)]
        # One call as a rule; one more where a rank has more pixels than any had before.
        assert [calls for _, calls in found] == [2, 1, 1, 2, 1, 1]


def items_of_a_rank(rank, items, present):
    with pytest.MonkeyPatch.context() as patch:
        calls = counting(patch)
        return gather_items(items[rank], present[rank]), len(calls)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_items_of_two_ranks(on_two_ranks, dtype):
    items = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    present = torch.tensor([0, 1, 1, 0]).bool().expand(2, 3, 4).clone()
    present[1] = ~present[1]
    for found, calls in on_two_ranks(items_of_a_rank, items, present):
        assert calls == 1 and len(found) == 2
        for rank in (0, 1):
            assert found[rank][0].equal(items[rank]) and found[rank][1].equal(present[rank])


def test_one_process_gathers_nothing():
    items, present = torch.ones(2, 3, 4), torch.ones(2, 3).bool()
    ((own, there),) = gather_items(items, present)
    assert own is items and there is present
    score = torch.tensor([3.0, 1.0, 2.0])
    assert GlobalQuantiles()(score, torch.tensor([True, True, False]), [0, 1]) == [1, 3]
