#!/usr/bin/env python
"""Measure what Weighting Pseudo-Labels costs, against plain torch, and write a Markdown table.

`overlap` times `rank_statistics_overlap` beside upsampled and sorted features, `bank` the sampling
and pushing of features beside a loop over classes, `boxes` `box_agreement` beside a mask of each
class; their results are compared first, and a difference stops the tool. `step` tells how much the
method adds to a training step of UniMatch with DeepLabV3+ on ResNet-50.

Both sides of a ratio take turns in one process, on the same inputs and threads, after a warm-up.
The ratio is the median over the turns, and so are the times.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
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
    at_least,
    build_model,
    check_close,
    check_same,
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
    read_options,
    run_network,
    set_up,
    split_of,
    step_inputs,
    step_turns,
    tabulate,
    timed,
)
from mmseg_semi.functional import (
    box_agreement,
    pack_boxes,
    push_queues,
    rank_statistics_overlap,
    sample_per_class,
)

TOP, QUEUE, PUSHED, BOXES = 5, 256, 32, 40
SPEED_UP = 30.0  # of `overlap` on one CPU thread
# Percent that `step` adds (at most), by device type.
STEP_PERCENT = dict(cpu=15.0, cuda=10.0)


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, BENCHMARKS)
    parser.add_argument('--size', type=int, default=321, help='overlap, boxes: side of the labels')
    parser.add_argument('--grid', type=int, default=81, help='overlap, bank: side of the features')
    parser.add_argument('--channels', type=int, default=256, help='overlap, bank: channels')
    args = read_options(parser, argv, size=1, grid=1, channels=TOP)
    if args.grid > args.size:
        parser.error(f'--grid must be at most --size, which is {args.size}, got {args.grid}')
    return args


def labels(source: torch.Generator, count: int, size: int) -> Tensor:
    """Draw blobs of all classes, 5 % of the pixels ignored: int64 (count, size, size)."""
    label = noise(source, count, CLASSES, size, 6).argmax(1)
    return label.masked_fill(torch.rand(label.shape, generator=source) < 0.05, 255)


# ------------------------------------------------------------------------------------- overlap


def reference_overlap(
    features: Tensor,
    label: Tensor,
    prototypes: Tensor,
    has_prototype: Tensor,
    k: int,
    exact: bool = False,
) -> Tensor:
    """Bring the features to the labels' size, sort all channels, compare top with top.

    ``exact`` upsamples and orders equals as ours does, for the comparison of the results.
    """
    mode = 'nearest' if exact else 'bilinear'
    overlap = torch.full_like(label, k)
    for image, names in enumerate(label):
        fine = F.interpolate(features[image : image + 1], size=names.shape, mode=mode)[0]
        tops = fine.argsort(dim=0, descending=True, stable=exact)[:k]
        for one in range(len(prototypes)):
            if not has_prototype[one]:
                continue
            pixels = names == one
            found = tops[:, pixels]
            shared = torch.zeros_like(found[0])
            for wanted in prototypes[one].argsort(descending=True, stable=exact)[:k]:
                for channel in found:
                    shared += channel == wanted
            overlap[image][pixels] = shared
    return overlap


def overlap_inputs(
    grid: int, size: int, channels: int, device: str, batch: int = 4
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw features, labels, prototypes, and flags of which the last class has none."""
    source = torch.Generator().manual_seed(0)
    features = noise(source, batch, channels, grid, 8)
    features += 0.5 * torch.randn(features.shape, generator=source)
    has_prototype = torch.ones(CLASSES, dtype=torch.bool)
    has_prototype[-1] = False
    prototypes = torch.randn(CLASSES, channels, generator=source)
    drawn = (features, labels(source, batch, size), prototypes, has_prototype)
    return tuple(one.to(device) for one in drawn)


def check_overlap(inputs: Sequence[Tensor]) -> None:
    """Compare both sides, the reference upsampling as ours reads: to the nearest."""
    found = rank_statistics_overlap(*inputs, TOP)
    wanted = reference_overlap(*inputs, TOP, exact=True)
    check_close('rank_statistics_overlap', [found.float()], [wanted.float()], 0)


def benchmark_overlap(args: argparse.Namespace) -> Report:
    """Compare ``rank_statistics_overlap`` with upsampled and sorted features."""
    inputs = overlap_inputs(args.grid, args.size, args.channels, args.device)
    check_overlap(inputs)

    def ours() -> Tensor:
        return rank_statistics_overlap(*inputs, TOP)

    def reference() -> Tensor:
        return reference_overlap(*inputs, TOP)

    own, plain = in_turns([ours, reference], args.repeats, args.device)
    faster, on_cpu = median_ratio(plain, own), args.device == 'cpu'
    report = Report()
    report.rows.append(
        Row(
            'overlap',
            'time of the rank statistics',
            duration(statistics.median(own)),
            duration(statistics.median(plain)),
            f'{faster:.1f}x faster',
            f'>= {SPEED_UP:g}x' if on_cpu else '-',
            at_least(faster, SPEED_UP) if on_cpu else '-',
        )
    )
    report.notes.append(
        f'`overlap`: {len(inputs[0])} images, {args.channels} channels at {args.grid}x{args.grid}, '
        f'labels of {args.size}x{args.size}, {CLASSES} classes, k = {TOP}. The target is for one '
        'CPU thread. The reference upsamples the features bilinearly, sorts all channels of each '
        'pixel, and loops over images, classes and the k x k pairs; where it upsamples to the '
        'nearest, the results are the same.'
    )
    report.notes += note_without_sync('overlap', ours, args.device)
    return report


# ---------------------------------------------------------------------------------------- bank


def take(features: Tensor, index: Tensor) -> Tensor:
    """Read the features (B, C, h, w) at flat positions: (..., C)."""
    pixels = features.shape[-2] * features.shape[-1]
    return features.flatten(2)[index // pixels, :, index % pixels]


def reference_sample(label: Tensor, num: int) -> list[Tensor]:
    """Draw up to ``num`` positions of each class."""
    found = []
    for one in range(CLASSES):
        own = (label == one).nonzero()[:, 0]
        found.append(own[torch.randperm(len(own), device=own.device)[:num]])
    return found


def reference_push(queues: Sequence[Tensor], items: Sequence[Tensor]) -> list[Tensor]:
    """Append to each queue and cut off what is too much."""
    return [torch.cat([old, new])[-QUEUE:] for old, new in zip(queues, items)]


def bank_inputs(
    grid: int, channels: int, device: str, batch: int = 8
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Draw features, flat labels and full ring buffers with their counts and heads."""
    source = torch.Generator().manual_seed(0)
    features = torch.randn(batch, channels, grid, grid, generator=source).to(device)
    label = labels(source, batch, grid).flatten().to(device)
    queues = torch.randn(CLASSES, QUEUE, channels, generator=source)
    heads = torch.randint(0, QUEUE, (CLASSES,), generator=source)
    full = torch.full((CLASSES,), QUEUE)
    return features, label, tuple(one.to(device) for one in (queues, full, heads))


def in_order(queues: Tensor, heads: Tensor) -> list[Tensor]:
    """Read full ring buffers, the oldest entry first."""
    return [queue.roll(-head, 0) for queue, head in zip(queues, heads.tolist())]


def check_bank(features: Tensor, label: Tensor, state: tuple[Tensor, Tensor, Tensor]) -> None:
    """Check what is drawn, and push it on both sides."""
    index, present = sample_per_class(label, CLASSES, PUSHED)
    drawn = [row[there] for row, there in zip(index, present)]
    for one, (own, wanted) in enumerate(zip(drawn, reference_sample(label, PUSHED))):
        same = len(own.unique()) == len(own) == len(wanted) and bool((label[own] == one).all())
        check_same('sample_per_class', same)
    queues, _, heads = push_queues(*state, take(features, index), present)
    wanted = reference_push(in_order(state[0], state[2]), [take(features, own) for own in drawn])
    check_close('push_queues', in_order(queues, heads), wanted, 0)


def benchmark_bank(args: argparse.Namespace) -> Report:
    """Compare sampling and pushing with a loop over classes."""
    features, label, state = bank_inputs(args.grid, args.channels, args.device)
    check_bank(features, label, state)
    lists = in_order(state[0], state[2])

    def ours() -> None:
        index, present = sample_per_class(label, CLASSES, PUSHED)
        push_queues(*state, take(features, index), present)

    def reference() -> None:
        drawn = reference_sample(label, PUSHED)
        reference_push(lists, [take(features, own) for own in drawn])

    own, plain = in_turns([ours, reference], args.repeats, args.device)
    report = Report()
    report.rows.append(
        Row(
            'bank',
            'time of sampling and pushing',
            duration(statistics.median(own)),
            duration(statistics.median(plain)),
            f'{median_ratio(own, plain):.2f}',
        )
    )
    report.notes.append(
        f'`bank`: {len(features)} images, {args.channels} channels at {args.grid}x{args.grid}; of '
        f'each of {CLASSES} classes up to {PUSHED} pixels go to a queue of {QUEUE}. What is drawn '
        'is checked, and the queues hold the same afterwards. The reference loops over the '
        'classes, with `nonzero`, which waits for a GPU, `torch.cat` and a slice.'
    )
    report.notes += note_without_sync('bank', ours, args.device)
    return report


# --------------------------------------------------------------------------------------- boxes


def reference_agreement(label: Tensor, planes: Tensor) -> Tensor:
    """Look up each pixel in bool masks (B, K, H, W)."""
    known = (label >= 0) & (label < planes.shape[1])
    return known & planes.gather(1, torch.where(known, label, 0)[:, None])[:, 0]


def draw_boxes(source: torch.Generator, size: int) -> tuple[Tensor, Tensor]:
    """Draw boxes (N, 4), and take the classes in turn."""
    corners = torch.rand(2, BOXES, 2, generator=source) * size
    boxes = torch.cat([corners.amin(0), corners.amax(0)], dim=1)
    return boxes, torch.arange(BOXES) % CLASSES


def box_inputs(size: int, device: str, batch: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Draw labels, and boxes as packed maps and as bool masks (B, K, H, W)."""
    source = torch.Generator().manual_seed(0)
    packed, planes = [], torch.zeros(batch, CLASSES, size, size, dtype=torch.bool)
    centers = torch.arange(size) + 0.5
    for image in range(batch):
        boxes, classes = draw_boxes(source, size)
        packed.append(pack_boxes(boxes, classes, CLASSES, (size, size)))
        for (x1, y1, x2, y2), one in zip(boxes.tolist(), classes.tolist()):
            columns, rows = ((a <= centers) & (centers < b) for a, b in ((x1, x2), (y1, y2)))
            planes[image, one] |= rows[:, None] & columns
    return tuple(x.to(device) for x in (labels(source, batch, size), torch.stack(packed), planes))


def check_boxes(label: Tensor, packed: Tensor, planes: Tensor) -> None:
    """Compare both sides."""
    found, wanted = box_agreement(label, packed), reference_agreement(label, planes)
    check_same('box_agreement', torch.equal(found, wanted))


def benchmark_boxes(args: argparse.Namespace) -> Report:
    """Compare ``box_agreement`` on bits with a mask of each class."""
    label, packed, planes = box_inputs(args.size, args.device)
    check_boxes(label, packed, planes)

    def ours() -> Tensor:
        return box_agreement(label, packed)

    def reference() -> Tensor:
        return reference_agreement(label, planes)

    own, plain = in_turns([ours, reference], args.repeats, args.device)
    sizes = [one.nbytes for one in (packed, planes)]
    report = Report()
    report.rows += [
        Row(
            'boxes',
            'time of the agreement',
            duration(statistics.median(own)),
            duration(statistics.median(plain)),
            f'{median_ratio(own, plain):.2f}',
        ),
        Row(
            'boxes',
            'size of the maps',
            *(f'{mebibytes(one)} ({one // label.numel()} B a pixel)' for one in sizes),
            f'{sizes[0] / sizes[1]:.3f}',
        ),
    ]
    report.notes.append(
        f'`boxes`: {len(label)} images of {args.size}x{args.size}, {CLASSES} classes, {BOXES} '
        'boxes an image. Results are the same. The reference looks each pixel up in a bool mask '
        'of each class.'
    )
    report.notes += note_without_sync('boxes', ours, args.device)
    return report


# ---------------------------------------------------------------------------------------- step


def build(method: str) -> torch.nn.Module:
    """Build a method of ``configs/_base_/methods``."""
    return build_model(load_method(method))


def with_detections(data: dict[str, Any]) -> dict[str, Any]:
    """Add a packed map of random boxes to a prepared batch."""
    source, valid = torch.Generator().manual_seed(0), data['inputs']['valid']
    size = valid.shape[-1]
    maps = [pack_boxes(*draw_boxes(source, size), CLASSES, (size, size)) for _ in valid]
    maps = dict(detections=torch.stack(maps).to(valid.device))
    return dict(data, inputs=dict(data['inputs'], maps=maps))


class WeightingStep(TrainingStep):
    """A training step that also fills the memory bank, as ``MemoryBankHook`` does."""

    def __call__(self) -> None:
        """Run the step and push."""
        super().__call__()
        self.model.refiners['weight'].bank.update_state()


class AddedParts:
    """What the method adds to UniMatch, by itself, on the pseudo-label that the network gave.

    Args:
        step: The finished training step.
        model: The model with the method.
    """

    def __init__(self, step: Any, model: torch.nn.Module) -> None:
        self.step, self.refiners = step, model.refiners

    @torch.no_grad()
    def time_parts(self, device: str) -> dict[str, float]:
        """Return the seconds of each part."""
        step, times = self.step, {}
        step.shared.clear()  # what a step computes once is part of it
        pseudo = self.refiners['select'](step.raw_pseudo, step.teacher, step)

        def refine(name: str) -> None:
            nonlocal pseudo
            pseudo = self.refiners[name](pseudo, step.teacher, step)

        def remember() -> None:
            weight = self.refiners['weight']
            step.refined[weight.name] = pseudo
            weight.observe(step)
            weight.bank.update_state()

        def mix() -> None:
            for view in step.streams['strong']:
                if view.mix is not None:
                    view.mix(pseudo.weight), view.mix(pseudo.reliable)
                    view.mix(pseudo.extras['detections'])

        times['agreement with boxes'] = timed(lambda: refine('agreement'), device)
        times['rank statistics'] = timed(lambda: refine('weight'), device)
        times['memory bank'] = timed(remember, device)
        times['mixing'] = timed(mix, device)
        return times


def benchmark_step(args: argparse.Namespace) -> Report:
    """Tell how much the method adds to a training step."""
    torch.manual_seed(0)
    device = args.device
    torch.backends.cudnn.benchmark = True  # as in the shipped configs
    model, plain = (build(method).to(device) for method in ('weighting', 'unimatch'))
    plain.segmentor.load_state_dict(model.segmentor.state_dict())
    data = step_inputs(model, args.batch, args.crop, views=2)
    threshold = confident_share(plain, data, 0.6)
    marked = with_detections(data)
    # An untrained network is sure of nothing: the method's own thresholds would let nothing in.
    weight = model.refiners['weight']
    model.refiners['agreement'].min_confidence = threshold
    weight.bank.min_confidence = 0.0
    steps = [WeightingStep(model, marked, threshold), TrainingStep(plain, data, threshold)]
    steps[0].prepare()
    step = run_network(model, marked)
    added = AddedParts(step, model)
    for _ in range(QUEUE // PUSHED):  # fill the bank
        added.time_parts(device)

    whole, without, parts = step_turns(
        steps, lambda: added.time_parts(device), args.step_repeats, device
    )
    report = Report()
    report.rows += added_rows(
        'weighting',
        'agreement, weights, memory bank and mixing, by themselves',
        [sum(one.values()) for one in parts],
        whole,
        without,
        STEP_PERCENT[device],
    )
    share, reliable = (one.float().mean() for one in (step.pseudo.used, step.pseudo.reliable))
    report.notes += [
        f'`step`: DeepLabV3+ on ResNet-50, {CLASSES} classes, crops of {args.crop}, {args.batch} '
        f'labeled and {args.batch} unlabeled random images with two strong views and perturbed '
        f'features; forward, backward and SGD. The features have {weight.bank.channels} channels. '
        f'{share:.0%} of the pixels are selected, {reliable:.0%} reliable, and '
        f'{int(weight.bank.counts.any(0).sum())} classes have a prototype. Without weighting: '
        'UniMatch.',
        f'`step`, each part by itself: {split_of(parts)}.',
        differences_note(whole, without),
    ]
    return report


BENCHMARKS: dict[str, Callable[[argparse.Namespace], Report]] = dict(
    overlap=benchmark_overlap, bank=benchmark_bank, boxes=benchmark_boxes, step=benchmark_step
)


def main(argv: Optional[list[str]] = None) -> None:
    """Measure and tabulate."""
    args = parse_args(argv)
    set_up(args)
    tabulate(args, BENCHMARKS)


if __name__ == '__main__':
    main()
