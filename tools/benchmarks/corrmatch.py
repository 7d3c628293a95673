#!/usr/bin/env python
"""Measure what CorrMatch costs, against plain torch, and write a Markdown table.

`regions`, `sampling` and `pixels` time `propagate_regions`, `sample_shapes` and `propagate_pixels`
beside references written here; their results are compared first, and a difference stops the tool.
`step` tells how much CorrMatch adds to a training step of DeepLabV3+ on ResNet-50.

Both sides of a ratio take turns in one process, on the same inputs and threads, after a warm-up.
The ratio is the median over the turns, and so are the times.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Optional, Union
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
from mmseg_semi.functional import propagate_pixels, propagate_regions, sample_shapes

# Targets by device type: speed-up of `regions` (at least), time and memory of `pixels` (at most),
# percent that `step` adds beside network layers (at most).
SPEED_UP = dict(cpu=5.0, cuda=20.0)
SAMPLING_TIME = 3.0  # of `propagate_regions`, at most
PIXEL_TIME, PIXEL_MEMORY = 1.5, 0.1
STEP_PERCENT = dict(cpu=15.0, cuda=10.0)
REGION_THRESHOLD = 0.85


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, BENCHMARKS)
    parser.add_argument('--size', type=int, default=321, help='regions: side of the images')
    parser.add_argument('--shapes', type=int, default=128, help='regions: shapes of an image')
    parser.add_argument('--grid', type=int, default=101, help='pixels: side of the feature map')
    parser.add_argument(
        '--peak-of',
        choices=('ours', 'reference'),
        help='only print the bytes that this side of `pixels` takes at its peak',
    )
    return read_options(parser, argv, size=8, shapes=1, grid=1)


# ------------------------------------------------------------------------------------- regions


def reference_regions(
    label: Tensor, selected: Tensor, shapes: Tensor, threshold: float
) -> tuple[Tensor, Tensor]:
    """Propagate shape by shape, as the paper's Algorithm 1 says.

    Arguments and result as in ``propagate_regions``.
    """
    label, out_selected = label.clone(), selected.clone()
    for image in range(len(label)):
        for shape in shapes[image]:
            overlap = shape & selected[image]
            size = overlap.sum()
            if size == 0 or size.double() / shape.sum() < threshold:
                continue
            classes, counts = torch.unique(label[image][overlap], return_counts=True)
            most = counts.argmax()
            if counts[most].double() / size > threshold:
                label[image][shape] = classes[most]
                out_selected[image][shape] = True
    return label, out_selected


def passing(selected: Tensor, shapes: Tensor, threshold: Union[float, Tensor]) -> float:
    """Return the share of the shapes that pass the test of selected pixels."""
    sizes = (shapes & selected[:, None]).sum((-1, -2))
    covered = (sizes > 0) & (sizes / shapes.sum((-1, -2)) >= threshold)
    return covered.float().mean().item()


def region_inputs(
    size: int, shapes: int, batch: int = 4, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw labels, selected pixels and shapes of which about half pass the test of selected pixels.

    Labels are blobs of 21 classes, class 0 the most frequent. The shapes are blobs of 3 to 30 % of
    the image, and every second one stays within a class, but for a rim.

    Returns:
        Label int64 and selected bool (B, H, W), shapes bool (B, N, H, W), on the CPU.
    """
    source = torch.Generator().manual_seed(seed)
    scores = noise(source, batch, CLASSES, size, 6)
    scores[:, 0] += 1.0
    label = scores.argmax(1)
    masks = []
    for image in range(batch):
        areas = torch.empty(shapes).uniform_(0.03, 0.3, generator=source)
        maps = noise(source, shapes, 1, size, 7)[:, 0]
        limits = [torch.quantile(one, 1 - float(area)) for one, area in zip(maps, areas)]
        mask = maps > torch.stack(limits)[:, None, None]
        present = label[image].unique()
        drawn = present[torch.randint(len(present), (shapes,), generator=source)]
        within = (label[image] == drawn[:, None, None]).float()
        within = F.max_pool2d(within, 3, stride=1, padding=1) > 0
        inside = mask & within
        use = (torch.arange(shapes) % 2 == 0) & inside.flatten(1).any(1)
        masks.append(torch.where(use[:, None, None], inside, mask))
    mask = torch.stack(masks)
    confidence = noise(source, batch, 1, size, 5)[:, 0]
    low, high = 0.0, 1.0
    for _ in range(8):  # the selected share at which half of the shapes pass
        middle = (low + high) / 2
        selected = confidence >= torch.quantile(confidence.flatten(), 1 - middle)
        if passing(selected, mask, REGION_THRESHOLD) < 0.5:
            low = middle
        else:
            high = middle
    return label, selected, mask


def benchmark_regions(args: argparse.Namespace) -> Report:
    """Compare ``propagate_regions`` with the loop over shapes."""
    label, selected, shapes = (x.to(args.device) for x in region_inputs(args.size, args.shapes))

    def ours() -> tuple[Tensor, Tensor]:
        return propagate_regions(label, selected, shapes, REGION_THRESHOLD, CLASSES)

    def reference() -> tuple[Tensor, Tensor]:
        return reference_regions(label, selected, shapes, REGION_THRESHOLD)

    found, wanted = ours(), reference()
    check_same('propagate_regions', all(torch.equal(a, b) for a, b in zip(found, wanted)))
    report = Report()
    report.notes.append(
        f'`regions`: {len(label)} images of {args.size}x{args.size}, {args.shapes} shapes each, '
        f'{selected.float().mean():.0%} of the pixels selected, '
        f'{passing(selected, shapes, REGION_THRESHOLD):.0%} of the shapes pass the test of '
        f'selected pixels at {REGION_THRESHOLD}. Propagation selects '
        f'{wanted[1].float().mean():.0%} and changes the class of '
        f'{(wanted[0] != label).float().mean():.1%} of the pixels. Results are equal bit by bit. '
        'The reference is a loop over shapes with `torch.unique`.'
    )
    report.notes += note_without_sync('regions', ours, args.device)
    own, plain = in_turns([ours, reference], args.repeats, args.device)
    faster, target = median_ratio(plain, own), SPEED_UP[args.device]
    report.rows.append(
        Row(
            'regions',
            'time of region propagation',
            duration(statistics.median(own)),
            duration(statistics.median(plain)),
            f'{faster:.1f}x faster',
            f'>= {target:g}x',
            at_least(faster, target),
        )
    )
    return report


# ------------------------------------------------------------------------------------- sampling


def reference_shapes(w1: Tensor, w2: Tensor, size: int, index: Tensor) -> Tensor:
    """Sample shapes as the paper says: resize whole maps, scale them to [0, 1], take what is above.

    Arguments and result as in ``sample_shapes`` with ``align_corners=True``.
    """
    chosen = w1.flatten(2).gather(2, index[:, None].expand(-1, w1.shape[1], -1))
    maps = torch.bmm(chosen.transpose(1, 2) * w1.shape[1] ** -0.5, w2.flatten(2)).softmax(-1)
    maps = F.interpolate(
        maps.unflatten(2, w1.shape[-2:]), size=(size, size), mode='bilinear', align_corners=True
    )
    low, high = torch.aminmax(maps.flatten(2), dim=-1, keepdim=True)
    return maps - low[..., None] > 0.5 * (high - low)[..., None]


def benchmark_sampling(args: argparse.Namespace) -> Report:
    """Compare ``sample_shapes`` with whole maps, and with the propagation of its shapes."""
    grid = (args.size - 1) // 4 + 1
    source = torch.Generator().manual_seed(0)
    w1, w2 = (noise(source, 4, CLASSES, grid, 12).to(args.device) for _ in range(2))
    index = torch.randint(grid * grid, (4, args.shapes), generator=source).to(args.device)
    label, selected, _ = (x.to(args.device) for x in region_inputs(args.size, 1))

    def ours() -> Tensor:
        size = (args.size, args.size)
        return sample_shapes(w1, w2, args.shapes, size, align_corners=True, index=index)

    def reference() -> Tensor:
        return reference_shapes(w1, w2, args.size, index)

    shapes = ours()
    check_same('sample_shapes', torch.equal(shapes, reference()))

    def propagate() -> tuple[Tensor, Tensor]:
        return propagate_regions(label, selected, shapes, REGION_THRESHOLD, CLASSES)

    own, plain, other = in_turns([ours, reference, propagate], args.repeats, args.device)
    times = [duration(statistics.median(one)) for one in (own, plain, other)]
    faster, share = median_ratio(plain, own), median_ratio(own, other)
    report = Report()
    report.rows = [
        Row('sampling', 'time of sampling shapes', times[0], times[1], f'{faster:.1f}x faster'),
        Row(
            'sampling',
            'time of sampling against propagating them',
            times[0],
            times[2],
            f'{share:.1f}',
            f'<= {SAMPLING_TIME:g}',
            at_most(share, SAMPLING_TIME),
        ),
    ]
    report.notes = [
        f'`sampling`: {args.shapes} shapes of 4 images of {args.size}x{args.size}, features of '
        f'{grid}x{grid} with {CLASSES} channels; {shapes.float().mean():.1%} of the pixels are in '
        'a shape. Results are equal bit by bit. The reference resizes whole maps.'
    ]
    report.notes += note_without_sync('sampling', ours, args.device)
    return report


# -------------------------------------------------------------------------------------- pixels


def reference_pixels(logits: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    """Propagate logits (B, K, h, w) by softmax attention over the full map."""
    scores = w1.flatten(2).transpose(1, 2) @ w2.flatten(2) / w1.shape[1] ** 0.5
    return (logits.flatten(2) @ scores.softmax(dim=-1)).view_as(logits)


def pixel_inputs(grid: int, device: str, batch: int = 2) -> list[Tensor]:
    """Draw logits, w1, w2 and the gradient of the result, (B, 21, grid, grid) each."""
    source = torch.Generator().manual_seed(0)
    drawn = [torch.randn(batch, CLASSES, grid, grid, generator=source) for _ in range(4)]
    return [one.to(device) for one in drawn]


def pixel_pass(
    function: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: list[Tensor]
) -> Callable[[], None]:
    """Return a call of the forward and backward pass; the logits are detached, as in training."""
    logits, w1, w2, grad = inputs
    leaves = [one.clone().requires_grad_() for one in (w1, w2)]

    def run() -> None:
        torch.autograd.grad(function(logits, *leaves), leaves, grad)

    return run


def peak_bytes(side: str, grid: int, device: str) -> int:
    """Return the bytes that a forward and backward pass takes at its peak beyond its inputs."""
    ours = side == 'ours'
    function = propagate_pixels if ours else reference_pixels
    run, warm_up = (pixel_pass(function, pixel_inputs(size, device)) for size in (grid, 2))
    return peak_of_call(run, warm_up, device)


def check_pixels(inputs: list[Tensor], tolerance: float = 1e-5) -> float:
    """Compare values and gradients of both sides; return the largest relative difference."""
    results = []
    for function in (propagate_pixels, reference_pixels):
        leaves = [one.clone().requires_grad_() for one in inputs[:3]]
        out = function(*leaves)
        results.append([out.detach(), *torch.autograd.grad(out, leaves, inputs[3])])
    return check_close('propagate_pixels', *results, tolerance)


def benchmark_pixels(args: argparse.Namespace) -> Report:
    """Compare ``propagate_pixels`` with attention over the full map."""
    inputs = pixel_inputs(args.grid, args.device)
    worst = check_pixels(inputs)
    sides = [pixel_pass(function, inputs) for function in (propagate_pixels, reference_pixels)]
    own, plain = in_turns(sides, args.repeats, args.device)
    ratio = median_ratio(own, plain)
    peaks = [
        peak_in_own_process(__file__, side, args.device, grid=args.grid)
        for side in ('ours', 'reference')
    ]
    memory = peak_ratio(*peaks)
    report = Report()
    report.rows += [
        Row(
            'pixels',
            'time, forward and backward',
            duration(statistics.median(own)),
            duration(statistics.median(plain)),
            f'{ratio:.2f}',
            f'<= {PIXEL_TIME:g}',
            at_most(ratio, PIXEL_TIME),
        ),
        Row(
            'pixels',
            'peak memory, forward and backward',
            *map(mebibytes, peaks),
            f'{memory:.3f}',
            f'<= {PIXEL_MEMORY:g}',
            at_most(memory, PIXEL_MEMORY),
        ),
    ]
    report.notes.append(
        f'`pixels`: {len(inputs[0])} images, {args.grid}x{args.grid} positions, D = K = {CLASSES}. '
        f'Values and gradients differ by at most {worst:.1e} of their scale. The reference is '
        'softmax attention over the full map. Memory is what a fresh process takes at its peak '
        'beyond its inputs.'
    )
    return report


# ---------------------------------------------------------------------------------------- step


def build(with_corrmatch: bool) -> torch.nn.Module:
    """Build CorrMatch, or what is left of the method without its parts."""
    method = load_method('corrmatch')
    if not with_corrmatch:
        method.refiners.select = dict(type='ConfidenceThreshold', threshold=0.5)
        method.refiners.regions = None
        method.losses.soft = None
        method.heads.correlation = None
    return build_model(method)


class AddedParts:
    """The parts that CorrMatch adds to a step, run by themselves on what the network gave.

    Gradients go back to the student's full-size logits (the network's own losses go on from
    there) and to the head's two maps; the projection that makes the maps is timed by itself, back
    to the encoder's features.

    Args:
        step: The finished training step of ``model``.
        model: The CorrMatch model.
    """

    def __init__(self, step: Any, model: torch.nn.Module) -> None:
        self.step, self.model = step, model
        self.head = head = model.heads['correlation']
        self.select, self.regions = model.refiners['select'], model.refiners['regions']
        # What goes through the projection together: labeled and weak, the strong views.
        views = step.streams['strong']
        together = [[step.labeled, step.weak], [view.outputs for view in views]]
        self.features = [[leaf(one.features[head.tap]) for one in part] for part in together]
        with torch.no_grad():
            made = [head._maps(torch.cat(part)) for part in self.features]
        self.first = [tuple(leaf(w) for w in pair) for pair in zip(*(w.chunk(2) for w in made[0]))]
        self.strong = tuple(leaf(w) for w in made[1])
        self.grads = [[torch.randn_like(w) for w in pair] for pair in made]
        for view in views:
            view.outputs = replace(view.outputs, _logits=leaf(view.outputs.logits))
        with torch.no_grad():
            self.selected = self.select(step.raw_pseudo, step.teacher, step)
        self.optimizer = torch.optim.SGD(head.parameters(), lr=0.0, momentum=0.9, weight_decay=1e-4)

    @contextmanager
    def _given_maps(self) -> Iterator[None]:
        """Let the head take the maps that are there instead of projecting features."""
        keys = [(self.head, stream) for stream in ('labeled', 'weak')]
        self.step.shared.update(zip(keys, self.first))
        with mock.patch.object(self.head, '_maps', lambda features: self.strong):
            yield
        for key in keys:
            del self.step.shared[key]

    def leaves(self) -> list[Tensor]:
        """Return the tensors at which gradients end."""
        maps = [w for pair in (*self.first, self.strong) for w in pair]
        return maps + [view.outputs.logits for view in self.step.streams['strong']]

    def time_parts(self, device: str) -> dict[str, float]:
        """Return the seconds of each part but the projection."""
        step, times, losses = self.step, {}, {}

        def part(name: str, function: Callable[[], Any]) -> None:
            times[name] = timed(function, device)

        def mix() -> None:
            before = step.pseudo.selected
            for view in step.streams['strong']:
                if view.mix is not None:
                    view.mix(step.pseudo.logits), view.mix(before)

        def select() -> None:
            self.select(step.raw_pseudo, step.teacher, step)
            self.select.observe(step)

        def propagate() -> None:
            self.regions(self.selected, step.teacher, step)

        def compare() -> None:
            soft = self.model.losses['soft']
            of_views = [soft(view) for view in step.streams['strong']]
            losses['soft.loss'] = soft.loss_weight * torch.stack(of_views).mean()

        def backward() -> None:
            torch.autograd.grad(sum(v for k, v in losses.items() if 'loss' in k), self.leaves())

        with self._given_maps():
            with torch.no_grad():
                part('threshold', select)
                part('sampling and region propagation', propagate)
                part('mixing', mix)
            part('labeled correlation loss', lambda: losses.update(self.head.supervised(step)))
            part('unlabeled correlation loss', lambda: losses.update(self.head(step)))
            part('soft loss', compare)
            part('backward of the three losses', backward)
            part('threshold update', self.select.update_state)
        return times

    def project(self) -> None:
        """Run the projection forward and backward, and update its weights."""
        made = [w for part in self.features for w in self.head._maps(torch.cat(part))]
        self.optimizer.zero_grad()
        for part in self.features:
            for one in part:
                one.grad = None
        torch.autograd.backward(made, [grad for pair in self.grads for grad in pair])
        self.optimizer.step()


def benchmark_step(args: argparse.Namespace) -> Report:
    """Tell how much CorrMatch adds to a training step."""
    torch.manual_seed(0)
    device = args.device
    torch.backends.cudnn.benchmark = True  # as in the shipped configs
    model, plain = (build(on).to(device) for on in (True, False))
    plain.segmentor.load_state_dict(model.segmentor.state_dict())
    data = step_inputs(model, args.batch, args.crop)
    threshold = confident_share(model, data, 0.6)
    steps = [TrainingStep(one, data, threshold) for one in (model, plain)]
    steps[0].prepare()
    step = run_network(model, data)
    share = step.pseudo.selected.float().mean()
    added = AddedParts(step, model)
    shapes = sample_shapes(*added.first[1], 128, tuple(step.pseudo.label.shape[-2:]))
    pass_share = passing(added.selected.selected, shapes, threshold)
    del shapes

    whole, without, found = step_turns(
        steps,
        lambda: (added.time_parts(device), timed(added.project, device)),
        args.step_repeats,
        device,
    )
    parts, projections = zip(*found)
    sums = [sum(one.values()) for one in parts]
    rows = added_rows(
        'CorrMatch',
        'all but the projection, by itself',
        sums,
        whole,
        without,
        STEP_PERCENT[device],
    )
    projection = Row(
        'step',
        'projection convolutions (network layers), by themselves',
        duration(statistics.median(projections)),
        duration(statistics.median(without)),
        f'+{100 * median_ratio(projections, without):.1f} %',
    )
    report = Report()
    report.rows += [rows[0], projection, rows[1]]
    report.notes += [
        f'`step`: DeepLabV3+ on ResNet-50, {CLASSES} classes, crops of {args.crop}, {args.batch} '
        f'labeled and {args.batch} unlabeled random images with one strong view, forward, '
        f'backward and SGD; {share:.0%} of the pixels are selected, {pass_share:.0%} of the shapes '
        f'pass the test of selected pixels. Without CorrMatch: the same configuration with a fixed '
        'threshold and no region propagation, correlation head and soft loss.',
        f'`step`, each part by itself: {split_of(parts)}.',
        differences_note(whole, without),
    ]
    return report


BENCHMARKS: dict[str, Callable[[argparse.Namespace], Report]] = dict(
    regions=benchmark_regions,
    sampling=benchmark_sampling,
    pixels=benchmark_pixels,
    step=benchmark_step,
)


def main(argv: Optional[list[str]] = None) -> None:
    """Measure and tabulate."""
    args = parse_args(argv)
    set_up(args)
    if args.peak_of:
        print(peak_bytes(args.peak_of, args.grid, args.device))
        return
    tabulate(args, BENCHMARKS)


if __name__ == '__main__':
    main()
