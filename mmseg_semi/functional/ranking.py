r"""Plackett-Luce distributions over the order of a pixel's agents, as RankMatch compares them.

A ranking is a sequence of choices: from the agents left over, one is drawn in proportion to its
correlation. The probability that the next choice is :math:`a` depends on the *set* :math:`S` that
is left and not on its order, so n! permutations need no more than 2^n sets.

Shape legend: ``B`` images, ``N`` agents, ``h w`` feature grid, ``n`` agents that are ranked.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, permutations
from math import factorial
from typing import Any, Optional

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmseg_semi.arguments import check_choice, check_shapes

CONSISTENCY_KINDS = ('rank', 'kl', 'l2', 'ce')
REDUCTIONS = ('sum', 'mean')
MAX_RANKED = 8
# A correlation of zero counts as e^-10000: finite, and far below what any softmax returns.
LOG_FLOOR = -1e4
_CHUNK = 8192


def rank_log_prob(log_corr: Tensor, indices: Tensor) -> Tensor:
    r"""Log-probability of every order of a few agents (RankMatch, CVPR 2024).

    :math:`P(\pi) = \prod_{i=1}^n c_{\pi(i)} / \sum_{j \ge i} c_{\pi(j)}`, computed from
    log-ratios: value and gradient are finite however small the correlations are. Those under
    e^-10000, zero included, count as e^-10000.

    Args:
        log_corr: Log-correlations (B, N, h, w), from ``agent_correlation``; -inf is a zero. They
            need not be normalized.
        indices: int64 (B, n, h, w), the ranked agents of each pixel, n in [1, 8].

    Returns:
        (B, n!, h, w), in float32 at least, whose exponentials sum to 1 over dim 1. The
        permutations stand in lexicographic order, as ``itertools.permutations(range(n))`` gives
        them, ``[0, 1, 2]`` meaning that agent ``indices[:, 0]`` comes first.

    Raises:
        ValueError: The shapes do not fit, or n is not in [1, min(N, 8)].
    """
    check_shapes(log_corr=(log_corr, 'B N h w'), indices=(indices, 'B n h w'))
    _check_top(indices.shape[1], log_corr.shape[1])
    logs = _finite(log_corr.gather(1, indices)).unbind(dim=1)
    orders: dict[tuple[int, ...], Tensor] = {(): torch.zeros_like(logs[0])[:, None]}
    for size in range(1, len(logs) + 1):
        smaller, orders = orders, {}
        for left in combinations(range(len(logs)), size):
            choice = torch.stack([logs[i] for i in left], dim=1).log_softmax(dim=1)
            first = choice.split(1, dim=1)
            later = [smaller[left[:k] + left[k + 1 :]] for k in range(size)]
            orders[left] = torch.cat([first[k] + later[k] for k in range(size)], dim=1)
    return orders[tuple(range(len(logs)))]


def rank_consistency(
    log_corr_weak: Tensor,
    log_corr_strong: Tensor,
    top: int = 4,
    kind: str = 'rank',
    reduction: str = 'sum',
    valid: Optional[Tensor] = None,
    epsilon: float = 0.0,
) -> Tensor:
    r"""Make the strong view rank the agents as the weak view does (RankMatch, CVPR 2024).

    Per pixel, ``'rank'`` compares the orders of the ``top`` agents that correlate most in the
    *weak* view, on both sides: :math:`KL(P_w \| P_s) = \sum_\pi P_w(\pi) \log (P_w/P_s)(\pi)`
    over all their permutations. It equals the sum, over the sets of agents that can be left, of
    the probability that the weak ranking comes to that set times the KL of the next choice: no
    permutation is ever built, and ``top`` values a pixel are kept for the backward. Among equal
    correlations the agents taken are those of ``torch.topk``.

    The paper's ablations compare the correlations themselves, of all agents: ``'kl'``
    :math:`\sum_n c_w \log (c_w/c_s)`, ``'ce'`` :math:`-\sum_n c_w \log c_s`, ``'l2'``
    :math:`\sum_n (c_w - c_s)^2`.

    Args:
        log_corr_weak: Log-probabilities (B, N, h, w) from ``agent_correlation``; gets no gradient.
        log_corr_strong: The same of the strong view, with the same agents. Those under e^-10000
            (zero is -inf) count as e^-10000 on both sides.
        top: How many agents are ranked, in [1, min(N, 8)]; 1 leaves nothing to rank, and the
            loss is 0. The other kinds compare all agents whatever it says.
        kind: ``'rank'``, ``'kl'``, ``'l2'`` or ``'ce'``.
        reduction: ``'sum'`` over the outcomes as above (the paper), or ``'mean'``, which divides
            by their number: ``top!`` permutations (the authors' program), or N agents.
        valid: Bool (B, h, w), False on pixels left out (padding). Defaults to all.
        epsilon: For ``'rank'``: added to every sum of correlations that is divided by, and to
            P_s inside the logarithm, as the authors' program does with 1e-10. Pixels whose last
            agents are far less likely than that then give almost nothing. The paper's Eq. 6 has
            none, and the default is exact.

    Returns:
        0-dim mean over the (valid) pixels, in float32 at least, differentiable once with respect
        to ``log_corr_strong``; 0 and connected to the graph when no pixel is valid.

    Raises:
        ValueError: A shape does not fit, ``top`` is out of range, or a name is unknown.
    """
    check_shapes(
        log_corr_weak=(log_corr_weak, 'B N h w'), log_corr_strong=(log_corr_strong, 'B N h w')
    )
    check_choice('kind', kind, CONSISTENCY_KINDS)
    check_choice('reduction', reduction, REDUCTIONS)
    log_corr_weak = log_corr_weak.detach()
    if kind == 'rank':
        _check_top(top, log_corr_weak.shape[1])
        weak, indices = log_corr_weak.topk(top, dim=1)
        outcomes = factorial(top)
        if epsilon:
            strong = log_corr_strong.gather(1, indices)
            loss = _rank_kl_of_shifted(_finite(weak).exp(), _finite(strong).exp(), epsilon)
        else:
            loss = _RankKL.apply(log_corr_strong, weak, indices)
    else:
        loss, outcomes = _divergence(log_corr_weak, log_corr_strong, kind), len(log_corr_weak[0])
    if reduction == 'mean':
        loss = loss / outcomes
    if valid is None:
        return loss.mean()
    check_shapes(loss=(loss, 'B h w'), valid=(valid, 'B h w'))
    return torch.where(valid, loss, torch.zeros_like(loss)).sum() / valid.sum().clamp(min=1)


def _check_top(top: int, agents: int) -> None:
    if not 1 <= top <= min(agents, MAX_RANKED):
        raise ValueError(
            f'the number of ranked agents must be in [1, {min(agents, MAX_RANKED)}] '
            f'(there are {agents} agents, and at most {MAX_RANKED} can be ranked), got {top}'
        )


def _finite(log_corr: Tensor) -> Tensor:
    dtype = torch.promote_types(log_corr.dtype, torch.float32)
    return log_corr.to(dtype).clamp(min=LOG_FLOOR)


def _divergence(log_weak: Tensor, log_strong: Tensor, kind: str) -> Tensor:
    """Compare the correlations (B, N, h, w) themselves; (B, h, w)."""
    log_weak, log_strong = _finite(log_weak), _finite(log_strong)
    if kind == 'kl':
        return (log_weak.exp() * (log_weak - log_strong)).sum(dim=1)
    if kind == 'ce':
        return (log_weak.exp() * log_strong).sum(dim=1).neg()
    return (log_weak.exp() - log_strong.exp()).square().sum(dim=1)


def _grouped(tensor: Tensor, groups: list[list[int]]) -> Tensor:
    """Channels of (B, C, P) in equally long groups, (B, groups, length, P).

    Stacked from views: indexing with a list would wait for a copy to the device.
    """
    channels = tensor.unbind(dim=1)
    stacked = torch.stack([channels[i] for group in groups for i in group], dim=1)
    return stacked.unflatten(1, (len(groups), -1))


def _rank_kl(log_weak: Tensor, log_strong: Tensor) -> tuple[Tensor, Tensor]:
    """KL of the rankings (B, P), and its gradient for ``log_strong``; both sides are (B, n, P).

    The derivative of ``-log softmax`` over a set is the softmax less the choice, so each set S
    adds reach(S) * (p_strong - p_weak) to the agents in it.
    """
    top = log_weak.shape[1]
    loss, grad = torch.zeros_like(log_weak[:, 0]), torch.zeros_like(log_weak)
    # Probability that the weak ranking comes to each set of this size: surely to the full one.
    reach = torch.ones_like(log_weak[:, :1])
    for size in range(top, 1, -1):
        sets = [list(group) for group in combinations(range(top), size)]
        weak = _grouped(log_weak, sets).log_softmax(dim=2)
        strong = _grouped(log_strong, sets).log_softmax(dim=2)
        reach = reach.unsqueeze(2)
        drawn = weak.exp() * reach
        loss += weak.sub_(strong).mul_(drawn).sum(dim=(1, 2))
        change = strong.exp_().mul_(reach).sub_(drawn).flatten(1, 2)
        # One entry for each set and member: who is drawn, and which set that leaves.
        draws = [(a, [b for b in group if b != a]) for group in sets for a in group]
        members = [[k for k, (a, _) in enumerate(draws) if a == i] for i in range(top)]
        grad += _grouped(change, members).sum(dim=2)
        left = [list(group) for group in combinations(range(top), size - 1)]
        ways = [[k for k, (_, rest) in enumerate(draws) if rest == group] for group in left]
        reach = _grouped(drawn.flatten(1, 2), ways).sum(dim=2)
    return loss, grad


def _rank_kl_of_shifted(weak: Tensor, strong: Tensor, epsilon: float) -> Tensor:
    """KL (B, h, w) of the rankings of correlations (B, n, h, w), with ``epsilon`` added."""
    loss = torch.zeros_like(weak[:, 0])
    for order in permutations(range(weak.shape[1])):
        one, other = (_order_prob(side, order, epsilon) for side in (weak, strong))
        # xlogy gives 0 where the weak probability is 0.
        loss = loss + torch.xlogy(one, one) - one * torch.log(other + epsilon)
    return loss


def _order_prob(corr: Tensor, order: Sequence[int], epsilon: float) -> Tensor:
    left, prob = corr.new_zeros(()), corr.new_ones(())
    for agent in reversed(order):
        left = left + corr[:, agent]
        prob = prob * (corr[:, agent] / (left + epsilon))
    return prob


class _RankKL(torch.autograd.Function):
    """KL of the rankings of each pixel's agents ``indices``, (B, h, w).

    The gradient is found in the forward pass, so that n values a pixel are kept and no graph of
    the sets; and pixels are taken some at a time, since the sets need about n 2^n values each.
    """

    @staticmethod
    def forward(ctx: Any, log_strong: Tensor, weak: Tensor, indices: Tensor) -> Tensor:
        strong = log_strong.gather(1, indices)
        step = max(1, _CHUNK // max(1, len(strong)))
        parts = [
            _rank_kl(_finite(weak_part), _finite(strong_part))
            for weak_part, strong_part in zip(
                weak.flatten(2).split(step, dim=2), strong.flatten(2).split(step, dim=2)
            )
        ]
        loss, grad = (torch.cat(part, dim=-1) for part in zip(*parts))
        grad = grad.view(strong.shape).masked_fill_(strong < LOG_FLOOR, 0)
        ctx.save_for_backward(indices, grad)
        ctx.like = (log_strong.shape, log_strong.dtype)
        return loss.unflatten(1, strong.shape[2:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        indices, grad = ctx.saved_tensors
        shape, dtype = ctx.like
        grad = (grad_output.unsqueeze(1) * grad).to(dtype)
        return grad_output.new_zeros(shape, dtype=dtype).scatter_(1, indices, grad), None, None
