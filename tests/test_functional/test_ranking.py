import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from mmseg_semi.functional import rank_consistency, rank_log_prob, ranking


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def log_softmax_maps(*shape, seed=0, scale=2.0, dtype=torch.float64):
    maps = torch.randn(*shape, generator=generator(seed), dtype=torch.float64) * scale
    return maps.log_softmax(dim=1).to(dtype)


def enumerate_orders(weights):
    """Probability of each order, from the definition."""
    result = []
    for order in permutations(range(len(weights))):
        value = 1.0
        for i, agent in enumerate(order):
            value *= weights[agent] / math.fsum(weights[j] for j in order[i:])
        result.append(value)
    return result


def plain_rank_kl(weak, strong, top):
    """KL over all permutations (B, h, w), with every permutation's positions gathered."""
    indices = weak.topk(top, dim=1).indices
    orders = torch.tensor(list(permutations(range(top))))

    def log_prob(logs):
        logs = logs.gather(1, indices)[:, orders]
        left = torch.stack([logs[:, :, i:].logsumexp(dim=2) for i in range(top)], dim=2)
        return (logs - left).sum(dim=2)

    log_weak, log_strong = log_prob(weak.detach()), log_prob(strong)
    return (log_weak.exp() * (log_weak - log_strong)).sum(dim=1)


@pytest.mark.parametrize('n', [1, 2, 3, 4, 5])
def test_log_prob_equals_enumeration(n):
    log_corr = log_softmax_maps(2, 9, 2, 3, seed=n)
    indices = torch.rand(2, 9, 2, 3, generator=generator(n)).argsort(dim=1)[:, :n]
    result = rank_log_prob(log_corr, indices)
    assert result.shape == (2, math.factorial(n), 2, 3)
    for b in range(2):
        for y in range(2):
            for x in range(3):
                weights = log_corr[b, indices[b, :, y, x], y, x].exp().tolist()
                expected = enumerate_orders(weights)
                assert result[b, :, y, x].exp().tolist() == pytest.approx(expected, rel=1e-10)
    single = rank_log_prob(log_corr.float(), indices)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.exp().sum(1), torch.ones(2, 2, 3), rtol=0, atol=1e-5)


def test_log_prob_by_hand():
    log_corr = torch.tensor([0.5, 0.2, 0.3]).log().view(1, 3, 1, 1)
    indices = torch.tensor([2, 0]).view(1, 2, 1, 1)
    # Agent 2 (0.3) before agent 0 (0.5), then the other order.
    assert rank_log_prob(log_corr, indices).exp().flatten().tolist() == pytest.approx(
        [3 / 8, 5 / 8]
    )


@settings(derandomize=True, deadline=None, max_examples=80)
@given(st.lists(st.floats(-5000, 0), min_size=1, max_size=5), st.floats(-4000, 100))
def test_log_prob_sums_to_one_and_ignores_the_scale(logs, shift):
    log_corr = torch.tensor(logs).view(1, -1, 1, 1).requires_grad_()
    indices = torch.arange(len(logs)).view(1, -1, 1, 1)
    result = rank_log_prob(log_corr, indices)
    assert abs(float(result.detach().exp().sum()) - 1) < 1e-5
    (grad,) = torch.autograd.grad(result.sum(), log_corr)
    assert result.isfinite().all() and grad.isfinite().all()
    shifted = rank_log_prob((log_corr.double() + shift), indices)
    torch.testing.assert_close(shifted.float(), result, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    'corr',
    [
        [1.0, 1e-30, 1e-30, 1e-30],
        [1e-30, 1e-20, 1e-10, 1.0],
        [1e-30] * 4,
        [1.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 1.0, 0.0],
        [0.0] * 4,
    ],
)
def test_tiny_and_one_hot_correlations_stay_finite(corr):
    log_corr = torch.tensor(corr).log().view(1, 4, 1, 1).requires_grad_()
    indices = torch.arange(4).view(1, 4, 1, 1)
    result = rank_log_prob(log_corr, indices)
    result.sum().backward()
    assert result.isfinite().all() and log_corr.grad.isfinite().all()
    assert abs(float(result.detach().exp().sum()) - 1) < 1e-5
    # Zeros are equally likely to come next: enumeration with a common tiny weight.
    expected = enumerate_orders([max(c, 1e-60) for c in torch.tensor(corr).double().tolist()])
    assert result.exp().flatten().tolist() == pytest.approx(expected, rel=1e-5, abs=1e-30)

    other = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().view(1, 4, 1, 1)
    for weak, strong in ((other, log_corr), (log_corr, other), (log_corr, log_corr.flip(1))):
        for kind in ('rank', 'kl', 'ce', 'l2'):
            strong = strong.detach().clone().requires_grad_()
            loss = rank_consistency(weak, strong, kind=kind)
            loss.backward()
            assert loss.isfinite() and strong.grad.isfinite().all()


def test_far_apart_log_correlations_still_have_a_gradient():
    weak = torch.tensor([0.0, -600.0, -700.0, -800.0]).view(1, 4, 1, 1)
    strong = weak.flip(1).clone().requires_grad_()
    loss = rank_consistency(weak, strong)
    loss.backward()
    # The weak order 0 1 2 3 is sure; each choice leaves the strong view's best, agent 3, at 0.
    assert loss.item() == pytest.approx(800 + 700 + 600)
    assert strong.grad.flatten().tolist() == pytest.approx([-1, -1, -1, 3])


def test_zero_correlations_get_no_gradient_and_cost_ten_thousand():
    weak = torch.tensor([1.0, 1e-30]).log().view(1, 2, 1, 1)
    strong = torch.tensor([0.0, 1.0]).log().view(1, 2, 1, 1).requires_grad_()
    loss = rank_consistency(weak, strong, top=2)
    loss.backward()
    assert loss.item() == pytest.approx(1e4)
    assert strong.grad.flatten().tolist() == pytest.approx([0, 1])


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.integers(1, 5), st.integers(0, 1000), st.sampled_from([0.1, 1.0, 5.0]))
def test_rank_consistency_equals_enumeration(top, seed, scale):
    weak = log_softmax_maps(2, 7, 2, 2, seed=seed, scale=scale)
    strong = log_softmax_maps(2, 7, 2, 2, seed=seed + 1, scale=scale)
    total = 0.0
    for b in range(2):
        for y in range(2):
            for x in range(2):
                order = sorted(range(7), key=lambda n: -float(weak[b, n, y, x]))[:top]
                p = enumerate_orders(weak[b, order, y, x].exp().tolist())
                q = enumerate_orders(strong[b, order, y, x].exp().tolist())
                total += math.fsum(i * math.log(i / j) for i, j in zip(p, q))
    loss = rank_consistency(weak, strong, top=top)
    assert loss.dim() == 0 and loss.item() == pytest.approx(total / 8, rel=1e-9, abs=1e-12)
    mean = rank_consistency(weak, strong, top=top, reduction='mean')
    assert mean.item() * math.factorial(top) == pytest.approx(loss.item())


@pytest.mark.parametrize('top', [2, 3, 4, 5])
@pytest.mark.parametrize('chunk', [8192, 5])
def test_gradient_is_that_of_the_plain_way_and_leaves_the_weak_side(top, chunk, monkeypatch):
    monkeypatch.setattr(ranking, '_CHUNK', chunk)
    weak = log_softmax_maps(2, 9, 3, 4, seed=1).requires_grad_()
    strong = log_softmax_maps(2, 9, 3, 4, seed=2).requires_grad_()
    weight = torch.rand(2, 3, 4, generator=generator(3)) > 0.3
    plain = plain_rank_kl(weak, strong, top)
    (expected,) = torch.autograd.grad(plain[weight].sum() / weight.sum(), strong)
    loss = rank_consistency(weak, strong, top=top, valid=weight)
    loss.backward()
    torch.testing.assert_close(loss, plain[weight].mean())
    torch.testing.assert_close(strong.grad, expected)
    assert weak.grad is None


@pytest.mark.parametrize('kind', ['rank', 'kl', 'ce', 'l2'])
def test_no_kind_moves_the_weak_side(kind):
    weak = log_softmax_maps(1, 5, 2, 2, seed=14).requires_grad_()
    strong = log_softmax_maps(1, 5, 2, 2, seed=15).requires_grad_()
    rank_consistency(weak, strong, kind=kind).backward()
    assert weak.grad is None and strong.grad.abs().sum() > 0


@pytest.mark.parametrize('kind', ['rank', 'kl', 'ce', 'l2'])
def test_gradcheck(kind):
    weak = log_softmax_maps(1, 5, 2, 2, seed=4)
    strong = log_softmax_maps(1, 5, 2, 2, seed=5).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: rank_consistency(weak, s, 3, kind=kind), (strong,))


def test_consistency_vanishes_for_equal_rankings_only():
    weak = log_softmax_maps(2, 8, 3, 3, seed=6)
    assert rank_consistency(weak, weak).item() == pytest.approx(0, abs=1e-12)
    # Rankings do not see a common factor of a pixel's correlations; the other kinds do.
    assert rank_consistency(weak, weak - 1).item() == pytest.approx(0, abs=1e-12)
    assert rank_consistency(weak, weak - 1, kind='kl').item() == pytest.approx(1)
    assert rank_consistency(weak, weak.flip(1)).item() > 0.1


def test_kinds_by_hand():
    weak = torch.tensor([0.7, 0.2, 0.1]).log().view(1, 3, 1, 1)
    strong = torch.tensor([0.5, 0.1, 0.4]).log().view(1, 3, 1, 1)
    kl = 0.7 * math.log(0.7 / 0.5) + 0.2 * math.log(0.2 / 0.1) + 0.1 * math.log(0.1 / 0.4)
    ce = -0.7 * math.log(0.5) - 0.2 * math.log(0.1) - 0.1 * math.log(0.4)
    l2 = 0.2**2 + 0.1**2 + 0.3**2
    first = 7 / 9  # of the best two: agent 0, then 1
    second = 5 / 6
    rank = first * math.log(first / second) + (1 - first) * math.log((1 - first) / (1 - second))
    for kind, value in (('kl', kl), ('ce', ce), ('l2', l2), ('rank', rank)):
        loss = rank_consistency(weak, strong, top=2, kind=kind)
        assert loss.item() == pytest.approx(value, rel=1e-5)
        outcomes = 2 if kind == 'rank' else 3
        mean = rank_consistency(weak, strong, top=2, kind=kind, reduction='mean')
        assert mean.item() == pytest.approx(value / outcomes, rel=1e-5)


@pytest.mark.parametrize('kind', ['rank', 'kl', 'ce', 'l2'])
def test_only_valid_pixels_count(kind):
    weak, strong = log_softmax_maps(2, 6, 2, 3, seed=7), log_softmax_maps(2, 6, 2, 3, seed=8)
    valid = torch.zeros(2, 2, 3, dtype=torch.bool)
    valid[0, 1, 2] = valid[1, 0, 0] = True
    alone = [
        rank_consistency(
            weak[b, :, y, x].view(1, 6, 1, 1), strong[b, :, y, x].view(1, 6, 1, 1), kind=kind
        ).item()
        for b, y, x in ((0, 1, 2), (1, 0, 0))
    ]
    loss = rank_consistency(weak, strong, kind=kind, valid=valid)
    assert loss.item() == pytest.approx(sum(alone) / 2)
    strong = strong.requires_grad_()
    nothing = rank_consistency(weak, strong, kind=kind, valid=torch.zeros_like(valid))
    nothing.backward()
    assert nothing.item() == 0 and strong.grad.abs().sum() == 0


def test_half_precision_is_computed_in_single():
    weak = log_softmax_maps(1, 6, 2, 2, seed=9).half()
    strong = log_softmax_maps(1, 6, 2, 2, seed=10).half().requires_grad_()
    loss = rank_consistency(weak, strong)
    loss.backward()
    assert loss.dtype == torch.float32 and strong.grad.dtype == torch.float16
    expected = rank_consistency(weak.double(), strong.detach().double())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


class PeakMemory(TorchDispatchMode):
    """Largest sum of the storages alive at once, in bytes, without those that came before."""

    def __init__(self, *given):
        super().__init__()
        self.given = {tensor.untyped_storage()._cdata for tensor in given}
        self.alive, self.peak, self.largest = {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.alive = {k: v for k, v in self.alive.items() if not v[0].expired()}
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage._cdata not in self.given:
                self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
                self.largest = max(self.largest, storage.nbytes())
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return out


def test_memory_is_a_fifth_of_the_plain_way():
    weak = log_softmax_maps(2, 128, 101, 101, seed=11, dtype=torch.float32)
    strong = weak.roll(1, dims=2).requires_grad_()
    pixels = 2 * 101 * 101
    with PeakMemory(weak, strong) as plain:
        expected = plain_rank_kl(weak, strong, 4).mean()
    with PeakMemory(weak, strong) as ours:
        loss = rank_consistency(weak, strong)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert plain.largest == 24 * 4 * pixels * 4
    assert ours.peak <= plain.peak / 5
    # Forward: at most 4 int64 indices a pixel in one tensor. Backward: the gradient, once.
    assert ours.largest <= 4 * pixels * 8
    with PeakMemory(weak, strong) as backward:
        loss.backward()
    assert backward.largest == strong.nbytes
    assert backward.peak < 1.1 * strong.nbytes


@pytest.mark.parametrize(
    'call, word',
    [
        (lambda c: rank_consistency(c[:, :3], c[:, :3]), r'\[1, 3\].*3 agents.*got 4'),
        (lambda c: rank_consistency(c, c, top=0), 'got 0'),
        (lambda c: rank_consistency(c, c, top=9), 'got 9'),
        (lambda c: rank_consistency(c, c, kind='rankings'), 'rankings'),
        (lambda c: rank_consistency(c, c, reduction='none'), 'none'),
        (
            lambda c: rank_consistency(c, c[:, :5]),
            r'log_corr_strong \(B, N, h, w\), .* got .* \(\d, 5, ',
        ),
        (lambda c: rank_consistency(c, c, valid=torch.ones(2, 4, 4)), 'valid'),
        (lambda c: rank_log_prob(c, torch.zeros(2, 0, 4, 5, dtype=torch.int64)), 'got 0'),
        (lambda c: rank_log_prob(c, torch.zeros(2, 9, 4, 5, dtype=torch.int64)), 'got 9'),
        (lambda c: rank_log_prob(c, torch.zeros(2, 4, 5, 5, dtype=torch.int64)), 'size'),
        (lambda c: rank_log_prob(c, torch.zeros(1, 4, 4, 5, dtype=torch.int64)), 'B, n, h, w'),
    ],
)
def test_wrong_arguments_are_refused(call, word):
    with pytest.raises(ValueError, match=word):
        call(torch.zeros(2, 10, 4, 5))


def test_the_gradient_cannot_be_differentiated_silently():
    weak = log_softmax_maps(1, 5, 2, 2, seed=12)
    strong = log_softmax_maps(1, 5, 2, 2, seed=13).requires_grad_()
    loss = rank_consistency(weak, strong).square()
    (grad,) = torch.autograd.grad(loss, strong, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()


@pytest.mark.parametrize('top', [2, 4])
def test_epsilon_stands_where_the_program_has_it(top):
    """P = prod c_i / (sum of those left + e), and P_w (log P_w - log(P_s + e))."""
    weak, strong = (log_softmax_maps(1, 6, 2, 2, seed=s, scale=12.0) for s in (0, 1))
    for epsilon in (1e-10, 1e-3):
        total = 0.0
        for y in range(2):
            for x in range(2):
                one, other = weak[0, :, y, x].exp(), strong[0, :, y, x].exp()
                best = one.topk(top).indices.tolist()
                for order in permutations(best):
                    p = q = 1.0
                    for i, agent in enumerate(order):
                        p *= float(one[agent]) / (float(sum(one[j] for j in order[i:])) + epsilon)
                        q *= float(other[agent]) / (
                            float(sum(other[j] for j in order[i:])) + epsilon
                        )
                    total += p * (math.log(p) - math.log(q + epsilon)) if p else 0.0
        found = rank_consistency(weak, strong.requires_grad_(), top, epsilon=epsilon)
        assert float(found) == pytest.approx(total / 4, rel=1e-9)
        assert torch.autograd.grad(found, strong)[0].isfinite().all()
        strong = strong.detach()
    small = rank_consistency(weak, strong, top, epsilon=1e-300)
    torch.testing.assert_close(small, rank_consistency(weak, strong, top), rtol=1e-6, atol=1e-9)
