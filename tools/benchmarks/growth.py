#!/usr/bin/env python
"""Measure how the cost of the methods' own operations grows with the crop, classes and settings.

Each operation is timed at several sizes, all in turns; the exponent is the slope of a line through
the logarithms of size and median time, 1 for a cost that doubles with the size. Fixed costs make it
smaller at small sizes, memory that no longer fits a cache makes it larger.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmseg_semi.benchmarks import measuring
from mmseg_semi.benchmarks.measuring import Report, Row, at_most, duration, in_turns, noise
from mmseg_semi.errors import run_tool
from mmseg_semi.files import read_list
from mmseg_semi.functional import (
    box_agreement,
    mix,
    propagate_pixels,
    propagate_regions,
    quantile_threshold,
    rank_consistency,
    rank_statistics_overlap,
    refine_neighborhood,
    sample_shapes,
    select_agents,
    soft_consistency,
)

CROPS, CLASSES, AGENTS, SHAPES = (321, 513, 801), (2, 21, 150), (32, 64, 128, 256), (16, 64, 256)
LINES = (10_000, 100_000, 1_000_000)
SMALLEST = 0.3
#: What an exponent may be beyond that of the operation's count, for caches and noise.
SLACK = 0.25

Calls = dict[int, Callable[[], Any]]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--device', default='cpu', choices=('cpu', 'cuda'))
    parser.add_argument('--threads', type=int, help='CPU threads (default: what torch takes)')
    parser.add_argument('--repeats', type=int, default=5, help='turns of each size')
    parser.add_argument('--scale', type=float, default=1.0, help='of the crops, for a try')
    parser.add_argument('--out', help='Markdown file to write (default: only print)')
    args = parser.parse_args(argv)
    if args.repeats < 1:
        parser.error(f'--repeats must be at least 1, got {args.repeats}')
    if not SMALLEST <= args.scale <= 1:  # an eighth of a crop has the 128 agents
        parser.error(f'--scale must be from {SMALLEST} to 1, got {args.scale}')
    measuring.check_shared(parser, args)
    return args


class Inputs:
    """What the operations are given: two images, the same for the same sizes.

    Args:
        args: The command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.device, self.scale = args.device, args.scale

    def side(self, crop: int) -> int:
        """The side of a crop at the scale that was asked for."""
        return int(crop * self.scale) // 8 * 8 + 1

    def source(self) -> torch.Generator:
        """A generator that starts anew."""
        return torch.Generator().manual_seed(0)

    def maps(self, channels: int, side: int) -> Tensor:
        """Smooth maps (2, channels, side, side)."""
        return noise(self.source(), 2, channels, side, 6).to(self.device)

    def label(self, classes: int, side: int) -> Tensor:
        """Labels (2, side, side)."""
        return self.maps(classes, side).argmax(1)

    def shapes(self, count: int, side: int) -> Tensor:
        """Shapes of some of the image, bool (2, count, side, side)."""
        return self.maps(count, side) > 0.7


def regions(given: Inputs, crop: int, shapes: int) -> Callable[[], Any]:
    """A propagation of regions."""
    side = given.side(crop)
    label, found = given.label(21, side), given.shapes(shapes, side)
    selected = given.maps(1, side)[:, 0] > -0.5
    return lambda: propagate_regions(label, selected, found, 0.85, 21)


def shapes_of(given: Inputs, crop: int, shapes: int) -> Callable[[], Any]:
    """A sampling of shapes from features of a quarter of the crop."""
    side = given.side(crop)
    w1 = w2 = given.maps(21, (side - 1) // 4 + 1)
    index = torch.randint(w1[0, 0].numel(), (2, shapes), generator=given.source())
    index = index.to(given.device)
    return lambda: sample_shapes(w1, w2, shapes, (side, side), align_corners=True, index=index)


def pixels(given: Inputs, crop: int) -> Callable[[], Any]:
    """A propagation of logits between all positions of an eighth of the crop."""
    side = (given.side(crop) - 1) // 8 + 1
    logits, w1, w2 = (given.maps(21, side) for _ in range(3))
    return lambda: propagate_pixels(logits, w1, w2)


def agents(given: Inputs, crop: int, count: int) -> Callable[[], Any]:
    """A choice of agents among features of an eighth of the crop."""
    features = given.maps(256, (given.side(crop) - 1) // 8 + 1)
    start = torch.zeros(2, dtype=torch.long, device=given.device)
    return lambda: select_agents(features, count, start)


def ranking(given: Inputs, crop: int, count: int) -> Callable[[], Any]:
    """The loss of RankMatch between the correlations of two views."""
    side = (given.side(crop) - 1) // 8 + 1
    weak, strong = (given.maps(count, side).log_softmax(1) for _ in range(2))
    strong.requires_grad_()
    return lambda: rank_consistency(weak, strong).backward()


def neighborhood(given: Inputs, crop: int, classes: int) -> Callable[[], Any]:
    """A refinement by S4MC."""
    prob = given.maps(classes, given.side(crop)).softmax(1)
    return lambda: refine_neighborhood(prob)


def threshold(given: Inputs, crop: int) -> Callable[[], Any]:
    """S4MC's threshold."""
    score = given.maps(1, given.side(crop))[:, 0]
    valid = torch.ones_like(score, dtype=torch.bool)
    return lambda: quantile_threshold(score, valid, 0.4)


def overlap(given: Inputs, crop: int, classes: int) -> Callable[[], Any]:
    """The rank statistics of weighting, of features of a quarter of the crop."""
    side = given.side(crop)
    features = given.maps(256, (side - 1) // 4 + 1)
    prototypes = torch.randn(classes, 256, generator=given.source()).to(given.device)
    there = torch.ones(classes, dtype=torch.bool, device=given.device)
    label = given.label(classes, side)
    return lambda: rank_statistics_overlap(features, label, prototypes, there)


def agreement(given: Inputs, crop: int, classes: int) -> Callable[[], Any]:
    """The agreement of labels with boxes."""
    label = given.label(classes, given.side(crop))
    packed = torch.full((2, (classes + 7) // 8, *label.shape[1:]), 255, dtype=torch.uint8)
    packed = packed.to(given.device)
    return lambda: box_agreement(label, packed)


def soft_loss(given: Inputs, crop: int, classes: int) -> Callable[[], Any]:
    """CorrMatch's soft loss of logits of an image's size."""
    logits, target = (given.maps(classes, given.side(crop)) for _ in range(2))
    logits.requires_grad_()
    valid = torch.ones_like(logits[:, 0], dtype=torch.bool)
    return lambda: soft_consistency(logits, target, valid).backward()


def mixing(given: Inputs, crop: int, classes: int) -> Callable[[], Any]:
    """A mix of logits of an image's size."""
    logits = given.maps(classes, given.side(crop))
    mask, partners = logits[:, 0] > 0, torch.tensor([1, 0], device=given.device)
    return lambda: mix(logits, mask, partners)


def listing(folder: Path, scale: float) -> Iterator[tuple[int, Callable[[], Any]]]:
    """Readings of lists of unlabeled images, in nested folders."""
    for count in (int(lines * scale) for lines in LINES):
        path = folder / f'{count}.txt'
        path.write_text(''.join(f'{i // 1000:04d}/image_{i:07d}\n' for i in range(count)))
        yield count, lambda path=path: [*read_list(path)]


def growths(given: Inputs) -> Iterator[tuple[str, str, float, Calls]]:
    """Operation, what grows, the exponent of its count, and a call for each size."""
    for name, make, power in (
        ('propagate_regions', lambda crop: regions(given, crop, 64), 1),
        ('sample_shapes', lambda crop: shapes_of(given, crop, 64), 1),
        ('propagate_pixels', lambda crop: pixels(given, crop), 2),
        ('select_agents', lambda crop: agents(given, crop, 128), 1),
        ('rank_consistency', lambda crop: ranking(given, crop, 128), 1),
        ('refine_neighborhood', lambda crop: neighborhood(given, crop, 21), 1),
        ('quantile_threshold', lambda crop: threshold(given, crop), 1),
        ('rank_statistics_overlap', lambda crop: overlap(given, crop, 21), 1),
        ('box_agreement', lambda crop: agreement(given, crop, 21), 1),
    ):
        yield name, 'pixels', power, {given.side(crop) ** 2: make(crop) for crop in CROPS}
    for name, one in (
        ('refine_neighborhood', neighborhood),
        ('rank_statistics_overlap', overlap),
        ('box_agreement', agreement),
        ('soft_consistency', soft_loss),
        ('mix', mixing),
    ):
        yield name, 'classes', 1, {count: one(given, 321, count) for count in CLASSES}
    for name, one in (('select_agents', agents), ('rank_consistency', ranking)):
        yield name, 'agents', 1, {count: one(given, 513, count) for count in AGENTS}
    for name, one in (('propagate_regions', regions), ('sample_shapes', shapes_of)):
        yield name, 'shapes', 1, {count: one(given, 321, count) for count in SHAPES}
    with tempfile.TemporaryDirectory(prefix='mmseg_semi_lists_') as folder:
        yield 'read_list', 'lines', 1, dict(listing(Path(folder), given.scale))


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The slope of the line through the logarithms."""
    return float(np.polyfit([math.log(one) for one in sizes], np.log(seconds), 1)[0])


def benchmark(args: argparse.Namespace) -> Report:
    """Measure all growths."""
    report = Report()
    for name, what, power, calls in growths(Inputs(args)):
        times = [
            statistics.median(one) for one in in_turns([*calls.values()], args.repeats, args.device)
        ]
        found = exponent([*calls], times)
        ends = list(calls)[0], list(calls)[-1]
        report.rows.append(
            Row(
                name,
                f'{ends[0]} to {ends[1]} {what}',
                duration(times[-1]),
                f'{duration(times[0])} (smallest)',
                f'exponent {found:.2f}',
                f'<= {power} + {SLACK:g}',
                at_most(found, power + SLACK),
            )
        )
    report.notes = [
        'Two images; features of a quarter (`sample_shapes`, `rank_statistics_overlap`) or an '
        'eighth of the crop, as its heads have them; `propagate_pixels` compares all positions.'
    ]
    return report


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and tabulate."""
    args = parse_args(argv)
    measuring.set_up(args)
    measuring.tabulate(args, dict(growth=benchmark))


if __name__ == '__main__':
    run_tool(main)
