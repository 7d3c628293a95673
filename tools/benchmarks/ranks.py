#!/usr/bin/env python
"""Measure what two ranks take for the same global batch, and what share of it is communication.

One process takes steps with the whole batch; then two take them with half of it each (gloo on a
CPU, NCCL on GPUs), as `tools/dist_train.sh` has them. The share of the gradients is what a step
takes less without their exchange; the collectives of the methods (thresholds, memory banks,
figures of the log) are counted and timed by themselves, the waiting for the other rank included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel

from mmseg_semi.benchmarks import measuring
from mmseg_semi.benchmarks.frameworks import (
    CROPS,
    FRAMEWORKS,
    ITERATION,
    Step,
    check_crop,
    load_config,
    make_data,
)
from mmseg_semi.benchmarks.measuring import Report, Row, duration
from mmseg_semi.engine.semi_train_loop import average_norm_statistics
from mmseg_semi.errors import run_tool

#: What torch's functions that communicate are called.
COLLECTIVES = ('all_reduce', 'all_gather', 'broadcast', 'all_gather_object', 'reduce')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = measuring.make_parser(__doc__)
    parser.add_argument('--method', nargs='+', default=['unimatch'], choices=FRAMEWORKS)
    parser.add_argument('--network', default='unet', choices=tuple(CROPS))
    parser.add_argument('--rank', help=argparse.SUPPRESS)  # RANK/RANKS:FILE of a started process
    parser.set_defaults(crop=None, batch=8, step_repeats=9)
    args = parser.parse_args(argv)
    check_crop(parser, args)
    if args.step_repeats < 1 or args.batch < 4 or args.batch % 2:
        parser.error(
            f'--step-repeats must be at least 1 and --batch even and at least 4, got '
            f'{args.step_repeats} and {args.batch}'
        )
    measuring.check_shared(parser, args)
    return args


# ---------------------------------------------------------------------------------------- a rank


@contextmanager
def counted() -> Iterator[dict[str, float]]:
    """Count calls, bytes and seconds of the collectives that Python starts."""
    found = dict(calls=0.0, bytes=0.0, seconds=0.0)
    held = {name: getattr(dist, name) for name in COLLECTIVES}

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            out = function(*args, **kwargs)
            found['seconds'] += time.perf_counter() - start
            found['calls'] += 1
            sizes = [one.nbytes for one in args if isinstance(one, torch.Tensor)]
            found['bytes'] += sum(sizes[-1:])  # of all_gather the own part
            return out

        return run

    try:
        for name, function in held.items():
            setattr(dist, name, wrap(function))
        yield found
    finally:
        for name, function in held.items():
            setattr(dist, name, function)


def run_rank(args: argparse.Namespace, ranks: int) -> dict[str, float]:
    """Take steps as one of the ranks; medians of their seconds, and what was communicated."""
    torch.manual_seed(0)
    step = Step(load_config(args.method[0], args.network, args.crop), args.device)
    model: Any = step.model
    if ranks > 1:
        model = MMDistributedDataParallel(model, broadcast_buffers=False)
    step.set_data(make_data(step.model, args.batch // ranks, args.crop))

    def take(sync: bool = True) -> None:
        for hook in step.hooks:
            hook.before_train_iter(step.runner, ITERATION, step.data)
        with nullcontext() if sync else model.no_sync():
            losses = model(**step.data, mode='loss')
            total, log_vars = step.model.parse_losses(losses)
            step.optimizer.update_params(total)
        average_norm_statistics(step.model)
        for hook in step.hooks:
            hook.after_train_iter(step.runner, ITERATION, step.data, log_vars)

    take()
    if ranks > 1:
        take(sync=False)
    times: dict[bool, list[float]] = {True: [], False: []}
    spent: list[dict[str, float]] = []
    for _ in range(args.step_repeats):
        for sync in (True, False)[: min(ranks, 2)]:
            if ranks > 1:
                dist.barrier()
            with counted() as found:
                times[sync].append(measuring.timed(lambda sync=sync: take(sync), args.device))
            if sync:
                spent.append(found)
    result = {name: statistics.median(one[name] for one in spent) for name in spent[0]}
    result['step'] = statistics.median(times[True])
    result['without'] = statistics.median(times[False] or times[True])
    used = [one for one in step.model.parameters() if one.requires_grad]
    result['gradients'] = sum(one.nbytes for one in used)
    return result


def run_ranks(args: argparse.Namespace, method: str, ranks: int) -> dict[str, float]:
    """Start the ranks, each a process, and return what the first has found."""
    options = ['--method', method, '--network', args.network, '--device', args.device]
    for name in ('crop', 'batch', 'step_repeats', 'threads'):
        if getattr(args, name) is not None:
            options += [f'--{name.replace("_", "-")}', str(getattr(args, name))]
    with tempfile.TemporaryDirectory(prefix='mmseg_semi_ranks_') as folder:
        started = [
            subprocess.Popen(
                [sys.executable, __file__, *options, '--rank', f'{rank}/{ranks}:{folder}/meet'],
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(ranks)
        ]
        said = [one.communicate()[0] for one in started]
    if any(one.returncode for one in started):
        raise SystemExit(f'ranks.py: a rank of {method} has failed, see above')
    return json.loads(said[0].splitlines()[-1])


def be_a_rank(args: argparse.Namespace) -> None:
    """Take part in what ``run_ranks`` has started; print JSON."""
    place, _, meet = args.rank.partition(':')
    rank, ranks = map(int, place.split('/'))
    if args.device == 'cuda':
        torch.cuda.set_device(rank % torch.cuda.device_count())
    backend = 'nccl' if args.device == 'cuda' else 'gloo'
    if ranks > 1:
        store = dist.FileStore(meet, ranks)
        dist.init_process_group(backend, store=store, rank=rank, world_size=ranks)
    print(json.dumps(run_rank(args, ranks)), flush=True)
    if ranks > 1:
        dist.destroy_process_group()


# ----------------------------------------------------------------------------------------- table


def rows(method: str, one: dict[str, float], two: dict[str, float]) -> list[Row]:
    """The table's rows of a method."""
    gradients = max(two['step'] - two['without'], 0)
    own = f'{two["calls"]:.0f} calls, {two["bytes"] / 1024:.1f} KiB a rank'
    return [
        Row(
            method,
            'a step of two ranks, against one with the whole batch',
            duration(two['step']),
            duration(one['step']),
            f'{two["step"] / one["step"]:.2f}',
        ),
        Row(
            method,
            f'exchange of gradients ({two["gradients"] / 2**20:.1f} MiB), of the step',
            duration(gradients),
            duration(two['step']),
            f'{100 * gradients / two["step"]:.1f} %',
        ),
        Row(
            method,
            f'other collectives ({own}), of the step',
            duration(two['seconds']),
            duration(two['step']),
            f'{100 * two["seconds"] / two["step"]:.1f} %',
        ),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and tabulate."""
    args = parse_args(argv)
    measuring.set_up(args)
    MMLogger.get_instance('mmengine', log_level='ERROR')  # optimizers report every parameter
    if args.rank:
        be_a_rank(args)
        return

    def benchmark(args: argparse.Namespace) -> Report:
        report = Report()
        for method in args.method:
            report.rows += rows(method, *(run_ranks(args, method, ranks) for ranks in (1, 2)))
        report.notes = [
            f'`{args.network}`, {args.batch} labeled and {args.batch} unlabeled images of '
            f'{args.crop} in all, {os.cpu_count()} cores; medians of {args.step_repeats} steps.'
        ]
        return report

    measuring.tabulate(args, dict(ranks=benchmark))


if __name__ == '__main__':
    run_tool(main)
