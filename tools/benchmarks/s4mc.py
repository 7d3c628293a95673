#!/usr/bin/env python
"""Measure what S4MC costs, against plain torch, and write a Markdown table.

`refine` and `quantile` time `refine_neighborhood` and `quantile_threshold` beside a reference
written here and `torch.quantile`; their results are compared first, and a difference stops the
tool. `step` tells how much S4MC adds to a training step of CutMix-Seg with DeepLabV3+ on ResNet-50.

Both sides of a ratio take turns in one process, on the same inputs and threads, after a warm-up.
The ratio is the median over the turns, and so are the times.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from math import exp
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_semi.benchmarks.measuring import (
    CLASSES,
    Report,
    Row,
    TrainingStep,
    added_rows,
    build_model,
    check_close,
    confident_share,
    differences_note,
    duration,
    in_turns,
    load_method,
    make_parser,
    mebibytes,
    median_ratio,
    noise,
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
from mmseg_semi.functional import quantile_threshold, refine_neighborhood

WINDOW, SHARE = 3, 0.4
# Percent that `step` adds (at most), by device type.
STEP_PERCENT = dict(cpu=10.0, cuda=5.0)


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, BENCHMARKS)
    parser.add_argument('--size', type=int, default=321, help='refine: side of the images')
    parser.add_argument('--values', type=int, default=1_600_000, help='quantile: scores')
    parser.add_argument(
        '--peak-of',
        choices=('ours', 'reference'),
        help='only print the bytes that this side of `refine` takes at its peak',
    )
    return read_options(parser, argv, size=8, values=2)


# -------------------------------------------------------------------------------------- refine


def reference_refine(prob: Tensor) -> Tensor:
    """Unite every pixel with the neighbor of the largest gain, from all windows laid out."""
    reach = WINDOW // 2
    steps = [(dy, dx) for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1)]
    others = [i for i, step in enumerate(steps) if step != (0, 0)]
    weights = prob.new_tensor([exp(-(abs(dy) + abs(dx)) / 2) for dy, dx in steps])[others]
    windows = F.unfold(prob, WINDOW, padding=reach).unflatten(1, (prob.shape[1], len(steps)))
    neighbors, pixel = windows[:, :, others], prob.flatten(2)[:, :, None]
    gain = weights[:, None] * (neighbors - pixel * neighbors)
    return prob + gain.amax(dim=2).view_as(prob)


def refine_inputs(size: int, device: str, batch: int = 4) -> Tensor:
    """Draw smooth probabilities (B, 21, size, size)."""
    source = torch.Generator().manual_seed(0)
    return (noise(source, batch, CLASSES, size, 8) * 3).softmax(dim=1).to(device)


def peak_bytes(side: str, size: int, device: str) -> int:
    """Return the bytes that refining takes at its peak beyond its inputs."""
    ours = side == 'ours'
    function = refine_neighborhood if ours else reference_refine
    prob, small = (refine_inputs(one, device) for one in (size, 8))
    return peak_of_call(lambda: function(prob), lambda: function(small), device)


def check_refine(prob: Tensor, tolerance: float = 1e-6) -> float:
    """Compare both sides; return the largest relative difference."""
    found, wanted = refine_neighborhood(prob, WINDOW), reference_refine(prob)
    return check_close('refine_neighborhood', [found], [wanted], tolerance)


def benchmark_refine(args: argparse.Namespace) -> Report:
    """Compare ``refine_neighborhood`` with unfolded windows."""
    prob = refine_inputs(args.size, args.device)
    worst = check_refine(prob)

    def ours() -> Tensor:
        return refine_neighborhood(prob, WINDOW)

    own, plain = in_turns([ours, lambda: reference_refine(prob)], args.repeats, args.device)
    peaks = [
        peak_in_own_process(__file__, side, args.device, size=args.size)
        for side in ('ours', 'reference')
    ]
    report = Report()
    report.rows += [
        Row(
            'refine',
            'time of refining',
            duration(statistics.median(own)),
            duration(statistics.median(plain)),
            f'{median_ratio(plain, own):.1f}x faster',
        ),
        Row(
            'refine',
            'peak memory of refining',
            *map(mebibytes, peaks),
            f'{peak_ratio(*peaks):.3f}',
        ),
    ]
    report.notes.append(
        f'`refine`: {len(prob)} images of {args.size}x{args.size}, {CLASSES} classes '
        f'({mebibytes(prob.nbytes)} of probabilities), window {WINDOW}, one neighbor. Results '
        f'differ by at most {worst:.1e} of their scale. The reference lays out all windows with '
        '`F.unfold`. Memory is what a fresh process takes at its peak beyond its inputs.'
    )
    report.notes += note_without_sync('refine', ours, args.device)
    return report


# ------------------------------------------------------------------------------------ quantile


def reference_quantile(score: Tensor, valid: Tensor) -> Tensor:
    """Find the quantile of the valid scores with ``torch.quantile``."""
    return torch.quantile(score[valid], SHARE)


def quantile_inputs(values: int, device: str) -> tuple[Tensor, Tensor]:
    """Draw scores in [0, 1) and which of them are valid, about 95 % and at least one."""
    source = torch.Generator().manual_seed(0)
    score, draw = (torch.rand(values, generator=source) for _ in range(2))
    valid = draw < 0.95
    valid[0] = True
    return score.to(device), valid.to(device)


def check_quantile(score: Tensor, valid: Tensor, tolerance: float = 1e-6) -> float:
    """Compare both sides; return the relative difference."""
    found, wanted = quantile_threshold(score, valid, SHARE), reference_quantile(score, valid)
    return check_close('quantile_threshold', [found], [wanted], tolerance)


def benchmark_quantile(args: argparse.Namespace) -> Report:
    """Compare ``quantile_threshold`` with ``torch.quantile``."""
    score, valid = quantile_inputs(args.values, args.device)
    difference = check_quantile(score, valid)

    def ours() -> Tensor:
        return quantile_threshold(score, valid, SHARE)

    def reference() -> Tensor:
        return reference_quantile(score, valid)

    own, plain = in_turns([ours, reference], args.repeats, args.device)
    report = Report()
    report.rows.append(
        Row(
            'quantile',
            'time of the quantile',
            duration(statistics.median(own)),
            duration(statistics.median(plain)),
            f'{median_ratio(own, plain):.2f}',
        )
    )
    report.notes.append(
        f'`quantile`: the {SHARE}-quantile of {args.values:,} scores, {valid.float().mean():.0%} '
        f'of them valid. Results differ by {difference:.1e} of their scale. The reference is '
        '`torch.quantile` of `score[valid]`, which waits for a GPU to count them.'
    )
    report.notes += note_without_sync('quantile', ours, args.device)
    return report


# ---------------------------------------------------------------------------------------- step


def build(method: str) -> torch.nn.Module:
    """Build a method of ``configs/_base_/methods``, at the beginning of a run."""
    model = build_model(load_method(method))
    model.set_progress(0, 1000)
    return model


@torch.no_grad()
def take_statistics(model: torch.nn.Module, data: dict[str, Any]) -> None:
    """Give BatchNorm the statistics of the weak images: a new teacher's maps would fade."""
    norms = [m for m in model.segmentor.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    model.segmentor(data['inputs']['weak'])
    for norm, momentum in zip(norms, kept):
        norm.momentum = momentum


class AddedRefiners:
    """The refiners of S4MC by themselves, on the pseudo-label that the teacher gave.

    Args:
        step: The finished training step.
        model: The S4MC model.
    """

    def __init__(self, step: Any, model: torch.nn.Module) -> None:
        self.step, self.refiners = step, model.refiners

    @torch.no_grad()
    def time_parts(self, device: str) -> dict[str, float]:
        """Return the seconds of each part."""
        pseudo, times = self.step.raw_pseudo, {}
        self.step.shared.clear()  # what a step computes once is part of it

        def refine(name: str) -> None:
            nonlocal pseudo
            pseudo = self.refiners[name](pseudo, self.step.teacher, self.step)

        times['neighborhood'] = timed(lambda: refine('context'), device)
        times['quantile threshold'] = timed(lambda: refine('select'), device)
        return times


def benchmark_step(args: argparse.Namespace) -> Report:
    """Tell how much S4MC adds to a training step."""
    torch.manual_seed(0)
    device = args.device
    torch.backends.cudnn.benchmark = True  # as in the shipped configs
    model, plain = (build(method).to(device) for method in ('s4mc', 'cutmix_seg'))
    data = step_inputs(model, args.batch, args.crop)
    take_statistics(model, data)
    plain.segmentor.load_state_dict(model.segmentor.state_dict())
    model.teacher.reset(), plain.teacher.reset()
    threshold = confident_share(plain, data, 0.6)
    steps = [TrainingStep(one, data, threshold) for one in (model, plain)]
    steps[0].prepare()
    step = run_network(model, data)
    share = step.pseudo.used.float().mean()
    added = AddedRefiners(step, model)

    whole, without, parts = step_turns(
        steps, lambda: added.time_parts(device), args.step_repeats, device
    )
    report = Report()
    report.rows += added_rows(
        'S4MC',
        'refinement and threshold, by themselves',
        [sum(one.values()) for one in parts],
        whole,
        without,
        STEP_PERCENT[device],
    )
    report.notes += [
        f'`step`: DeepLabV3+ on ResNet-50, {CLASSES} classes, crops of {args.crop}, {args.batch} '
        f'labeled and {args.batch} unlabeled random images with one strong view, EMA teacher; '
        'forward, backward, SGD and the move of the teacher. '
        f'{share:.0%} of the pixels are selected, 60 % without S4MC: CutMix-Seg with a fixed '
        'threshold.',
        f'`step`, each part by itself: {split_of(parts)}.',
        differences_note(whole, without),
    ]
    return report


BENCHMARKS: dict[str, Callable[[argparse.Namespace], Report]] = dict(
    refine=benchmark_refine, quantile=benchmark_quantile, step=benchmark_step
)


def main(argv: Optional[list[str]] = None) -> None:
    """Measure and tabulate."""
    args = parse_args(argv)
    set_up(args)
    if args.peak_of:
        print(peak_bytes(args.peak_of, args.size, args.device))
        return
    tabulate(args, BENCHMARKS)


if __name__ == '__main__':
    main()
