#!/usr/bin/env python
"""Measure what RankMatch costs, against plain torch, and write a Markdown table.

`agents` and `rank` time `select_agents` and `rank_consistency` beside references written here;
their results are compared first, and a difference stops the tool. `step` tells how much
RankMatch adds to a training step of UniMatch with DeepLabV3+ on ResNet-50.

Both sides of a ratio take turns in one process, on the same inputs and threads, after a warm-up.
The ratio is the median over the turns, and so are the times.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from itertools import permutations
from typing import Any, Optional
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_semi.benchmarks.measuring import (
    CLASSES,
    Report,
    Row,
    TrainingStep,
    added_rows,
    at_least,
    at_most,
    build_model,
    check_close,
    check_same,
    confident_share,
    differences_note,
    duration,
    in_turns,
    leaf,
    load_method,
    make_parser,
    mebibytes,
    median_ratio,
    note_without_sync,
    peak_in_own_process,
    peak_of_call,
    peak_ratio,
    read_options,
    run_network,
    set_up,
    split_of,
    step_inputs,
    step_turns,
    tabulate,
    timed,
)
from mmseg_semi.functional import rank_consistency, select_agents

TOP = 4
# Targets: speed-up of `agents` (at least), memory of `rank` (at most), percent that `step` adds by
# device type (at most).
SPEED_UP, RANK_MEMORY = 10.0, 0.2
STEP_PERCENT = dict(cpu=15.0, cuda=10.0)
# The functions that the head calls, as its module names them.
HEAD_PARTS = dict(
    mix_features='mixing of weak features',
    select_agents='choice of agents',
    gather_agents='reading agents',
    agent_correlation='correlations',
    rank_consistency='rank consistency',
)


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, BENCHMARKS)
    parser.add_argument(
        '--grid', type=int, default=101, help='agents, rank: side of the feature map'
    )
    parser.add_argument('--channels', type=int, default=256, help='agents: channels')
    parser.add_argument('--agents', type=int, default=128, help='agents of an image')
    parser.add_argument(
        '--peak-of',
        choices=tuple(RANK_SIDES),
        help='only print the bytes that this side of `rank` takes at its peak',
    )
    args = read_options(parser, argv, grid=1, channels=1, agents=TOP)
    if args.agents > args.grid**2:
        parser.error(f'--agents must be at most the {args.grid**2} pixels, got {args.agents}')
    return args


# -------------------------------------------------------------------------------------- agents


def reference_agents(features: Tensor, num: int, start: Tensor) -> Tensor:
    """Choose orthogonal agents, comparing every pixel with all that are chosen, each time.

    Arguments and result as in ``select_agents``.
    """
    unit = F.normalize(features.flatten(2), dim=1)
    chosen = start[:, None]
    while chosen.shape[1] < num:
        agents = unit.gather(2, chosen[:, None].expand(-1, unit.shape[1], -1))
        nearest = (agents.transpose(1, 2) @ unit).abs().amax(dim=1)
        nearest.scatter_(1, chosen, float('inf'))
        chosen = torch.cat([chosen, nearest.argmin(dim=1, keepdim=True)], dim=1)
    return chosen


def agent_inputs(grid: int, channels: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Draw features (B, C, grid, grid), rectified like a network's, and the first agents (B,)."""
    source = torch.Generator().manual_seed(0)
    features = torch.randn(batch, channels, grid, grid, generator=source).relu_()
    return features, torch.randint(grid**2, (batch,), generator=source)


def check_agents(features: Tensor, num: int, start: Tensor) -> float:
    """Compare the choices in float64; return the share of equal ones in float32.

    In float32, rounding may decide between two pixels that are about as near.
    """
    exact = features.double()
    found, wanted = (find(exact, num, start) for find in (select_agents, reference_agents))
    check_same('select_agents', torch.equal(found, wanted))
    same = select_agents(features, num, start) == reference_agents(features, num, start)
    return same.float().mean().item()


def benchmark_agents(args: argparse.Namespace) -> Report:
    """Compare ``select_agents`` with comparing all chosen agents each time."""
    drawn = (one.to(args.device) for one in agent_inputs(args.grid, args.channels))
    features, start = drawn
    equal = check_agents(features, args.agents, start)

    def ours() -> Tensor:
        return select_agents(features, args.agents, start)

    def reference() -> Tensor:
        return reference_agents(features, args.agents, start)

    report = Report()
    report.notes.append(
        f'`agents`: {len(features)} images, {args.grid}x{args.grid} positions, {args.channels} '
        f'channels, {args.agents} agents, float32. Indices are identical in float64, where '
        f'rounding does not decide between pixels, and {equal:.1%} of them in float32. The '
        'reference multiplies all pixels with all agents chosen so far before each choice, in one '
        'matrix product.'
    )
    report.notes += note_without_sync('agents', ours, args.device)
    own, plain = in_turns([ours, reference], args.repeats, args.device)
    faster = median_ratio(plain, own)
    report.rows.append(
        Row(
            'agents',
            'time of the orthogonal choice',
            duration(statistics.median(own)),
            duration(statistics.median(plain)),
            f'{faster:.1f}x faster',
            f'>= {SPEED_UP:g}x',
            at_least(faster, SPEED_UP),
        )
    )
    return report


# ---------------------------------------------------------------------------------------- rank


def all_orders(device: torch.device) -> Tensor:
    """Return the permutations of the ranked agents, (24, 4)."""
    return torch.tensor(list(permutations(range(TOP))), device=device)


def ranking_kl(weak: Tensor, strong: Tensor) -> Tensor:
    """Compare rankings by the sum over all permutations.

    Args:
        weak: Log-correlations of the agents in the order of each permutation, (B, 24, 4, h, w).
        strong: The same of the strong view.
    """
    weak, strong = (
        sum(logs[:, :, i] - logs[:, :, i:].logsumexp(dim=2) for i in range(TOP))
        for logs in (weak, strong)
    )
    return (weak.exp() * (weak - strong)).sum(dim=1).mean()


def reference_rank(log_weak: Tensor, log_strong: Tensor, top: int = TOP) -> Tensor:
    """Read the agents of every permutation from all agents, repeated for each of them."""
    best = log_weak.topk(top, dim=1).indices
    index = best[:, all_orders(best.device)]
    repeated = (
        logs[:, None].expand(-1, len(index[0]), -1, -1, -1) for logs in (log_weak, log_strong)
    )
    return ranking_kl(*(logs.gather(2, index) for logs in repeated))


def lean_reference_rank(log_weak: Tensor, log_strong: Tensor, top: int = TOP) -> Tensor:
    """Read the ranked agents first, then put them into the order of every permutation."""
    best = log_weak.topk(top, dim=1).indices
    orders = all_orders(best.device)
    return ranking_kl(*(logs.gather(1, best)[:, orders] for logs in (log_weak, log_strong)))


RANK_SIDES: dict[str, Optional[Callable[..., Tensor]]] = dict(
    ours=None, reference=reference_rank, lean=lean_reference_rank
)


def rank_inputs(grid: int, agents: int, device: str, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Draw the log-correlations (B, N, grid, grid) of a weak and of a strong view."""
    source = torch.Generator().manual_seed(0)
    weak, change = (torch.randn(batch, agents, grid, grid, generator=source) for _ in range(2))
    return weak.log_softmax(dim=1).to(device), (weak + change).log_softmax(dim=1).to(device)


def rank_pass(function: Callable[..., Tensor], inputs: tuple[Tensor, Tensor]) -> Callable[[], Any]:
    """Return a call of the forward and backward pass; it gives the value and the gradient."""
    weak, strong = inputs[0], leaf(inputs[1])

    def run() -> tuple[Tensor, Tensor]:
        loss = function(weak, strong, top=TOP)
        return loss.detach(), *torch.autograd.grad(loss, strong)

    return run


def peak_bytes(side: str, grid: int, agents: int, device: str) -> int:
    """Return the bytes that a forward and backward pass takes at its peak beyond its inputs."""
    function = RANK_SIDES[side] or rank_consistency
    run, warm_up = (rank_pass(function, rank_inputs(size, agents, device)) for size in (grid, 2))
    return peak_of_call(run, warm_up, device)


def check_rank(inputs: tuple[Tensor, Tensor], tolerance: float = 1e-4) -> float:
    """Compare values and gradients of all sides; return the largest relative difference."""
    found = rank_pass(rank_consistency, inputs)()
    return max(
        check_close('rank_consistency', found, rank_pass(function, inputs)(), tolerance)
        for function in (reference_rank, lean_reference_rank)
    )


def benchmark_rank(args: argparse.Namespace) -> Report:
    """Compare ``rank_consistency`` with the sum over permutations."""
    inputs = rank_inputs(args.grid, args.agents, args.device)
    worst = check_rank(inputs)
    functions = (rank_consistency, reference_rank, lean_reference_rank)
    sides = [rank_pass(function, inputs) for function in functions]
    own, *others = in_turns(sides, args.repeats, args.device)
    sizes = dict(grid=args.grid, agents=args.agents)
    peak, *peaks = (
        peak_in_own_process(__file__, side, args.device, **sizes) for side in RANK_SIDES
    )
    report = Report()
    for what, plain, reference in zip(('plain', 'leaner plain'), others, peaks):
        ratio = peak_ratio(peak, reference)
        held = (f'<= {RANK_MEMORY:g}', at_most(ratio, RANK_MEMORY)) if what == 'plain' else ()
        report.rows += [
            Row(
                'rank',
                f'time, forward and backward, against the {what} way',
                duration(statistics.median(own)),
                duration(statistics.median(plain)),
                f'{median_ratio(own, plain):.2f}',
            ),
            Row(
                'rank',
                f'peak memory, forward and backward, against the {what} way',
                mebibytes(peak),
                mebibytes(reference),
                f'{ratio:.3f}',
                *held,
            ),
        ]
    report.notes.append(
        f'`rank`: {len(inputs[0])} images, {args.grid}x{args.grid} positions, {args.agents} '
        f'agents of which {TOP} are ranked. Values and gradients differ by at most {worst:.1e} of '
        'their scale. Both plain ways sum over the 24 permutations with autograd. The plain way '
        'expands all agents to (B, 24, N, h, w) and gathers from that: the expansion itself is a '
        'view and takes nothing, but its gradient is a tensor of that size. The leaner one '
        f'gathers the {TOP} ranked agents and indexes them to (B, 24, {TOP}, h, w). Memory is what '
        'a fresh process takes at its peak beyond its inputs; the gradient of all agents '
        f'({mebibytes(inputs[1].nbytes)}) is part of it on all sides.'
    )
    return report


# ---------------------------------------------------------------------------------------- step


class AddedHead:
    """The head of RankMatch by itself, on what the network gave.

    Gradients go back to the strong views' features; the network's own losses go on from there.

    Args:
        step: The finished training step.
        head: The ``AgentRankHead``.
    """

    def __init__(self, step: Any, head: torch.nn.Module) -> None:
        self.step, self.head = step, head
        # The weak features keep no gradient: the head detaches them.
        self.leaves = []
        for view in step.streams[head.stream]:
            strong = leaf(view.outputs.features[head.tap])
            self.leaves.append(strong)
            view.outputs = replace(view.outputs, features={head.tap: strong})

    def run(self) -> None:
        """Run forward and backward, the mixing of weak features included."""
        torch.autograd.grad(self.head(self.step)['loss'], self.leaves)

    def time_parts(self, device: str) -> dict[str, float]:
        """Return the seconds of each part of ``run``."""
        from mmseg_semi.models.heads import agent_rank_head
        from mmseg_semi.structures import step as structures

        owners = dict.fromkeys(HEAD_PARTS, agent_rank_head)
        owners['mix_features'] = structures

        times = dict.fromkeys(HEAD_PARTS.values(), 0.0)
        losses: dict[str, Tensor] = {}

        def watched(name: str) -> Callable[..., Any]:
            function = getattr(owners[name], name)

            def call(*args: Any, **kwargs: Any) -> Any:
                out = []
                seconds = timed(lambda: out.append(function(*args, **kwargs)), device)
                times[HEAD_PARTS[name]] += seconds
                return out[0]

            return call

        with ExitStack() as stack:
            for name in HEAD_PARTS:
                stack.enter_context(mock.patch.object(owners[name], name, watched(name)))
            forward = timed(lambda: losses.update(self.head(self.step)), device)
        times['rest of the forward pass'] = forward - sum(times.values())
        times['backward'] = timed(lambda: torch.autograd.grad(losses['loss'], self.leaves), device)
        return times


def build(method: str, num_agents: Optional[int] = None) -> torch.nn.Module:
    """Build a method of ``configs/_base_/methods``."""
    config = load_method(method)
    if num_agents is not None:
        config.heads.rank.num_agents = num_agents
    return build_model(config)


def benchmark_step(args: argparse.Namespace) -> Report:
    """Tell how much RankMatch adds to a training step."""
    torch.manual_seed(0)
    device = args.device
    torch.backends.cudnn.benchmark = True  # as in the shipped configs
    model, plain = build('rankmatch', args.agents).to(device), build('unimatch').to(device)
    plain.segmentor.load_state_dict(model.segmentor.state_dict())
    data = step_inputs(model, args.batch, args.crop, views=2)
    threshold = confident_share(model, data, 0.6)
    steps = [TrainingStep(one, data, threshold) for one in (model, plain)]
    steps[0].prepare()
    added = AddedHead(run_network(model, data), model.heads['rank'])
    shape = tuple(added.leaves[0].shape)

    whole, without, found = step_turns(
        steps,
        lambda: (timed(added.run, device), added.time_parts(device)),
        args.step_repeats,
        device,
    )
    own, parts = map(list, zip(*found))
    report = Report()
    report.rows += added_rows(
        'RankMatch',
        'rank consistency of both views, by itself',
        own,
        whole,
        without,
        STEP_PERCENT[device],
    )
    report.notes += [
        f'`step`: DeepLabV3+ on ResNet-50, {CLASSES} classes, crops of {args.crop}, {args.batch} '
        f'labeled and {args.batch} unlabeled random images with two strong views, forward, '
        'backward and SGD; 60 % of the pixels are selected. The head compares features '
        f'{shape} of each view with {args.agents} agents; by itself, it is run forward and '
        'backward down to the features of the strong views. Without RankMatch: UniMatch.',
        f'`step`, each part in a run of its own: {split_of(parts)}.',
        differences_note(whole, without),
    ]
    return report


BENCHMARKS: dict[str, Callable[[argparse.Namespace], Report]] = dict(
    agents=benchmark_agents, rank=benchmark_rank, step=benchmark_step
)


def main(argv: Optional[list[str]] = None) -> None:
    """Measure and tabulate."""
    args = parse_args(argv)
    set_up(args)
    if args.peak_of:
        print(peak_bytes(args.peak_of, args.grid, args.agents, args.device))
        return
    tabulate(args, BENCHMARKS)


if __name__ == '__main__':
    main()
