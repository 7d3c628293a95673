#!/usr/bin/env python
"""Measure what every method shares: ways to train, the teacher's update, the plan of the memory.

`modes` times a training step in mixed precision, in torch's channels-last memory format, in both,
and (`--compile`) with the encoder compiled, beside the plain step. `ema` times the move of
an EMA teacher beside a loop over its parameters; both give the same numbers, or the tool stops.
`plan` compares the memory of a step with what `mmseg-semi plan` says of it from smaller crops.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.logging import MMLogger

from mmseg_semi.apis.runner_setup import enable_amp
from mmseg_semi.benchmarks import measuring
from mmseg_semi.benchmarks.frameworks import (
    CROPS,
    FRAMEWORKS,
    SUPERVISED,
    Step,
    load_config,
    make_data,
)
from mmseg_semi.benchmarks.measuring import (
    Report,
    Row,
    at_least,
    at_most,
    check_close,
    duration,
    in_turns,
    mebibytes,
    median_ratio,
)
from mmseg_semi.benchmarks.step_memory import measure, peak_of_step
from mmseg_semi.errors import run_tool
from mmseg_semi.models.teachers.ema_teacher import update_teacher

#: A CPU has no kernels to launch: there, it must only be no slower, but for noise.
EMA_FASTER, PLAN_PERCENT = dict(cpu=0.9, cuda=2.0), 10.0


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = measuring.make_parser(__doc__, BENCHMARKS)
    methods = [name for name in FRAMEWORKS if name != SUPERVISED]
    parser.add_argument('--method', default='unimatch', choices=methods)
    parser.add_argument('--network', default='deeplabv3plus_r50', choices=tuple(CROPS))
    parser.add_argument('--compile', action='store_true', help='modes: compile the encoder, too')
    return measuring.read_options(parser, argv)


def step_of(args: argparse.Namespace, *modes: str) -> Step:
    """A step in some modes: ``'amp'``, ``'channels_last'``, ``'compile'``."""
    torch.manual_seed(0)
    config = load_config(args.method, args.network, args.crop)
    config.model.channels_last = 'channels_last' in modes
    if 'compile' in modes:
        config.model.compiled = 'inductor'
    if 'amp' in modes:
        enable_amp(config)
    step = Step(config, args.device)
    if 'channels_last' in modes:
        step.model.to(memory_format=torch.channels_last)
    step.set_data(make_data(step.model, args.batch, args.crop))
    return step


def benchmark_modes(args: argparse.Namespace) -> Report:
    """Time the step in each mode."""
    modes = [(), ('channels_last',), ('amp',), ('amp', 'channels_last')]
    modes += [('compile',), ('amp', 'channels_last', 'compile')] if args.compile else []
    steps: list[Callable[[], Any]] = [step_of(args, *one) for one in modes]
    plain, *others = in_turns(steps, args.step_repeats, args.device)
    report = Report()
    for names, times in zip(modes[1:], others):
        pair = duration(statistics.median(times)), duration(statistics.median(plain))
        ratio = f'{median_ratio(plain, times):.2f}x faster'
        report.rows.append(Row('modes', f'a step with {" and ".join(names)}', *pair, ratio))
    kind = 'float16' if args.device == 'cuda' else 'bfloat16'
    report.notes = [
        f'`modes`: {args.method}, `{args.network}`, {args.batch} labeled and {args.batch} '
        f'unlabeled images of {args.crop}; amp is {kind}. The reference is the step without any.'
    ]
    return report


def loop(teacher: torch.nn.Module, student: torch.nn.Module, momentum: float) -> None:
    """The plain way: one operation for each parameter and each floating buffer."""
    with torch.no_grad():
        for own, other in zip(teacher.parameters(), student.parameters()):
            own.lerp_(other, 1 - momentum)
        for own, other in zip(teacher.buffers(), student.buffers()):
            if own.is_floating_point():
                own.lerp_(other, 1 - momentum)
            else:
                own.copy_(other)


def benchmark_ema(args: argparse.Namespace) -> Report:
    """Time the move of a teacher."""
    student = step_of(args).student
    first, second = copy.deepcopy(student), copy.deepcopy(student)
    with torch.no_grad():
        for value in student.parameters():
            value.add_(torch.randn_like(value))
    update_teacher(first, student, 0.99), loop(second, student, 0.99)
    for one, other in zip(first.parameters(), second.parameters()):
        check_close('ema', one, other, 1e-6)
    sides: list[Callable[[], Any]] = [
        lambda: update_teacher(first, student, 0.99),
        lambda: loop(second, student, 0.99),
    ]
    ours, plain = in_turns(sides, args.repeats, args.device)
    ratio, target = median_ratio(plain, ours), EMA_FASTER[args.device]
    report = Report()
    report.rows = [
        Row(
            'ema',
            "the teacher's update",
            duration(statistics.median(ours)),
            duration(statistics.median(plain)),
            f'{ratio:.1f}x faster',
            f'>= {target:g}x',
            at_least(ratio, target),
        )
    ]
    tensors = len([*student.parameters(), *student.buffers()])
    report.notes = [f'`ema`: {tensors} tensors of `{args.network}`.']
    return report


def benchmark_plan(args: argparse.Namespace) -> Report:
    """Compare the planned memory of a step with its own."""
    config = load_config(args.method, args.network, args.crop)
    smaller = None if args.crop > 256 else (args.crop // 4, args.crop // 2)
    found = measure(args.method, config, smaller, False)
    peak = peak_of_step(config, args.batch, args.crop, False, args.device)
    planned = found.at(2 * args.batch, (args.crop, args.crop))
    percent = 100 * (planned / peak.total - 1)
    report = Report()
    report.rows = [
        Row(
            'plan',
            'memory of a step, planned and counted',
            mebibytes(planned),
            mebibytes(peak.total),
            f'{percent:+.1f} %',
            f'<= {PLAN_PERCENT:g} %',
            at_most(abs(percent), PLAN_PERCENT),
        )
    ]
    report.notes = [
        '`plan`: counted are the tensors that live on a CPU, and what torch has allocated on a GPU.'
    ]
    return report


BENCHMARKS: dict[str, Callable[[argparse.Namespace], Report]] = dict(
    modes=benchmark_modes, ema=benchmark_ema, plan=benchmark_plan
)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and tabulate."""
    args = parse_args(argv)
    measuring.set_up(args)
    MMLogger.get_instance('mmengine', log_level='ERROR')  # optimizers report every parameter
    torch.backends.cudnn.benchmark = True  # as in the shipped configs
    measuring.tabulate(args, BENCHMARKS)


if __name__ == '__main__':
    run_tool(main)
