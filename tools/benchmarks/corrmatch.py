#!/usr/bin/env python
"""Measure what CorrMatch costs, against plain torch, and write a Markdown table.

`regions` and `pixels` time `propagate_regions` and `propagate_pixels` beside references written
here; their results are compared first, and a difference stops the tool. `step` tells how much
CorrMatch adds to a training step of DeepLabV3+ on ResNet-50.

Both sides of a ratio take turns in one process, on the same inputs and threads, after a warm-up.
The ratio is the median over the turns, and so are the times.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional, Union
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

REPO = Path(__file__).resolve().parents[2]
CLASSES = 21
# Targets by device type: speed-up of `regions` (at least), time and memory of `pixels` (at most),
# percent that `step` adds beside network layers (at most).
SPEED_UP = dict(cpu=5.0, cuda=20.0)
PIXEL_TIME, PIXEL_MEMORY = 1.5, 0.25
STEP_PERCENT = dict(cpu=15.0, cuda=10.0)
REGION_THRESHOLD = 0.85


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--device', default='cpu', choices=('cpu', 'cuda'))
    parser.add_argument('--threads', type=int, help='CPU threads (default: what torch takes)')
    parser.add_argument('--repeats', type=int, default=5, help='turns of each side')
    parser.add_argument(
        '--step-repeats', type=int, default=3, help='turns of `step`, whose calls are long'
    )
    parser.add_argument('--out', help='Markdown file to write (default: only print)')
    parser.add_argument('--only', choices=tuple(BENCHMARKS), help='run one benchmark')
    parser.add_argument('--size', type=int, default=321, help='regions: side of the images')
    parser.add_argument('--shapes', type=int, default=128, help='regions: shapes of an image')
    parser.add_argument('--grid', type=int, default=101, help='pixels: side of the feature map')
    parser.add_argument('--crop', type=int, default=321, help='step: side of the crops')
    parser.add_argument(
        '--batch', type=int, default=2, help='step: labeled images, and as many unlabeled ones'
    )
    parser.add_argument(
        '--peak-of',
        choices=('ours', 'reference'),
        help='only print the bytes that this side of `pixels` takes at its peak',
    )
    args = parser.parse_args(argv)
    # BatchNorm over images pooled to one pixel needs two of them.
    smallest = dict(repeats=1, step_repeats=1, size=8, shapes=1, grid=1, crop=33, batch=2)
    for name, least in smallest.items():
        if getattr(args, name) < least:
            option = name.replace('_', '-')
            parser.error(f'--{option} must be at least {least}, got {getattr(args, name)}')
    return args


# ------------------------------------------------------------------------------------- results


@dataclass
class Row:
    """A line of the table.

    Attributes:
        benchmark: Name of the benchmark.
        measure: What is measured.
        ours: Our side, with its unit.
        reference: The other side.
        ratio: The ratio of the two.
        target: What the ratio should be.
        result: Whether it is.
    """

    benchmark: str
    measure: str
    ours: str
    reference: str
    ratio: str
    target: str = '-'
    result: str = '-'


@dataclass
class Report:
    """What a benchmark found: rows of the table and what was measured, in words."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def at_least(value: float, target: float) -> str:
    """Compare a value that should be large."""
    return 'PASS' if value >= target else 'below target'


def at_most(value: float, target: float) -> str:
    """Compare a value that should be small."""
    return 'PASS' if value <= target else 'above target'


def duration(seconds: float) -> str:
    """Format a time."""
    return f'{seconds:.2f} s' if abs(seconds) >= 1 else f'{seconds * 1e3:.3g} ms'


def machine(device: str) -> str:
    """Name what the figures were measured on."""
    processor = platform.processor() or platform.machine()
    with suppress(OSError):
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                processor = line.split(':', 1)[1].strip()
                break
    text = f'{processor}, {torch.get_num_threads()} thread(s), torch {torch.__version__}'
    return f'{torch.cuda.get_device_name()}, {text}' if device == 'cuda' else text


def to_markdown(reports: list[Report], device: str) -> str:
    """Format the table and the notes."""
    lines = [
        f'Measured on {machine(device)}.',
        '',
        '| benchmark | measure | ours | reference | ratio | target | result |',
        '| --- | --- | --- | --- | --- | --- | --- |',
    ]
    for report in reports:
        for row in report.rows:
            cells = (f'`{row.benchmark}`', row.measure, row.ours, row.reference)
            lines.append(f'| {" | ".join((*cells, row.ratio, row.target, row.result))} |')
    for report in reports:
        lines += ['', *(f'- {note}' for note in report.notes)]
    return '\n'.join(lines) + '\n'


# -------------------------------------------------------------------------------------- timing


def timed(function: Callable[[], Any], device: str) -> float:
    """Return the seconds that a call takes, the device's work included."""
    if device == 'cuda':
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == 'cuda':
        torch.cuda.synchronize()
    return time.perf_counter() - start


def paired(
    ours: Callable[[], Any], reference: Callable[[], Any], repeats: int, device: str
) -> tuple[list[float], list[float]]:
    """Time both in turns, after one call of each; every second turn the other one begins."""
    ours(), reference()
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats):
        for side in (0, 1) if turn % 2 == 0 else (1, 0):
            times[side].append(timed((ours, reference)[side], device))
    return times


def median_ratio(top: list[float], bottom: list[float]) -> float:
    """Return the median of the ratios of the turns."""
    return statistics.median(a / b for a, b in zip(top, bottom))


def noise(
    source: torch.Generator, count: int, channels: int, size: int, cells: int
) -> Tensor:  # (count, channels, size, size)
    """Draw smooth noise, whose blobs are about ``size / cells`` wide."""
    coarse = torch.randn(count, channels, cells, cells, generator=source)
    return F.interpolate(coarse, size=(size, size), mode='bicubic', align_corners=True)


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
    from mmseg_semi.functional import propagate_regions

    label, selected, shapes = (x.to(args.device) for x in region_inputs(args.size, args.shapes))

    def ours() -> tuple[Tensor, Tensor]:
        return propagate_regions(label, selected, shapes, REGION_THRESHOLD, CLASSES)

    def reference() -> tuple[Tensor, Tensor]:
        return reference_regions(label, selected, shapes, REGION_THRESHOLD)

    found, wanted = ours(), reference()
    if not all(torch.equal(a, b) for a, b in zip(found, wanted)):
        raise AssertionError('propagate_regions and the reference differ')
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
    if args.device == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode('error')
        try:
            ours()
        finally:
            torch.cuda.set_sync_debug_mode('default')
        report.notes.append(
            "`regions`: ours ran under `torch.cuda.set_sync_debug_mode('error')`; nothing "
            'synchronised.'
        )
    own, plain = paired(ours, reference, args.repeats, args.device)
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


# -------------------------------------------------------------------------------------- pixels


def reference_pixels(logits: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    """Propagate logits (B, K, h, w) by softmax attention over the full map."""
    scores = w1.flatten(2).transpose(1, 2) @ w2.flatten(2) / w1.shape[1] ** 0.5
    return (logits.flatten(2) @ scores.softmax(dim=-1)).view_as(logits)


def own_pixels() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Load ``propagate_pixels`` without the rest of the package, which takes seconds to import."""
    package = importlib.util.find_spec('mmseg_semi')
    if package is None:
        raise ModuleNotFoundError('mmseg_semi is not installed')
    path = Path(package.origin).parent / 'functional' / 'correlation.py'
    spec = importlib.util.spec_from_file_location('correlation', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.propagate_pixels


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
    """Return the bytes that a forward and backward pass takes at its peak beyond its inputs.

    On the CPU this is the peak of the process, which should do nothing else. The kernel's mark is
    read from ``/proc`` where there is one: ``ru_maxrss`` starts at the size of the parent.
    """
    function = own_pixels() if side == 'ours' else reference_pixels
    run = pixel_pass(function, pixel_inputs(grid, device))
    # Libraries and the autograd engine's threads do not count.
    pixel_pass(function, pixel_inputs(2, device))()
    if device == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with suppress(OSError):
        Path('/proc/self/clear_refs').write_text('5')  # the mark falls to the present size
    before = _peak_of_process()
    run()
    return _peak_of_process() - before


def _peak_of_process() -> int:
    with suppress(OSError):
        for line in Path('/proc/self/status').read_text().splitlines():
            if line.startswith('VmHWM'):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_in_own_process(side: str, args: argparse.Namespace) -> int:
    """Return ``peak_bytes`` measured in a fresh process."""
    options = dict(grid=args.grid, device=args.device, threads=torch.get_num_threads())
    command = [sys.executable, str(Path(__file__).resolve()), '--peak-of', side]
    command += [f'--{name}={value}' for name, value in options.items()]
    return int(subprocess.check_output(command, text=True, cwd=REPO).split()[-1])


def largest_difference(found: Tensor, wanted: Tensor) -> float:
    """Return the largest difference relative to the largest value."""
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def check_pixels(inputs: list[Tensor], tolerance: float = 1e-5) -> float:
    """Compare values and gradients of both sides; return the largest relative difference."""
    from mmseg_semi.functional import propagate_pixels

    results = []
    for function in (propagate_pixels, reference_pixels):
        leaves = [one.clone().requires_grad_() for one in inputs[:3]]
        out = function(*leaves)
        results.append([out.detach(), *torch.autograd.grad(out, leaves, inputs[3])])
    worst = max(largest_difference(a, b) for a, b in zip(*results))
    if not worst <= tolerance:
        raise AssertionError(f'propagate_pixels and the reference differ by {worst:.1e}')
    return worst


def benchmark_pixels(args: argparse.Namespace) -> Report:
    """Compare ``propagate_pixels`` with attention over the full map."""
    from mmseg_semi.functional import propagate_pixels

    inputs = pixel_inputs(args.grid, args.device)
    worst = check_pixels(inputs)
    own, plain = paired(
        pixel_pass(propagate_pixels, inputs),
        pixel_pass(reference_pixels, inputs),
        args.repeats,
        args.device,
    )
    ratio = median_ratio(own, plain)
    peaks = [peak_in_own_process(side, args) for side in ('ours', 'reference')]
    # A tiny grid may fit the memory that the process already has.
    memory = peaks[0] / peaks[1] if peaks[1] > 0 else float('nan')
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
            *(f'{peak / 2**20:.1f} MiB' for peak in peaks),
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


def build_model(with_corrmatch: bool) -> torch.nn.Module:
    """Build DeepLabV3+ R50 with CorrMatch, or what is left of the method without its parts."""
    from mmengine.config import Config
    from mmengine.registry import DefaultScope
    from mmseg.registry import MODELS

    import mmseg_semi  # noqa: F401  (registers the components)

    base = REPO / 'configs' / '_base_'
    segmentor = Config.fromfile(base / 'models' / 'deeplabv3plus_r50.py').model
    segmentor.pretrained = None
    segmentor.backbone.norm_cfg.type = segmentor.decode_head.norm_cfg.type = 'BN'
    segmentor.decode_head.update(num_classes=CLASSES, align_corners=True)
    method = Config.fromfile(base / 'methods' / 'corrmatch.py').method
    if not with_corrmatch:
        method.refiners.select = dict(type='ConfidenceThreshold', threshold=0.5)
        method.refiners.regions = None
        method.losses.soft = None
        method.heads.correlation = None
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(dict(segmentor=segmentor, **method))
    model.hook_attached('EMAThresholdHook')  # update_state is called here instead
    return model.train()


def step_inputs(model: torch.nn.Module, batch: int, crop: int) -> dict[str, Any]:
    """Draw a batch of smooth images with one strong view, prepared for ``model.loss``."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    source = torch.Generator().manual_seed(0)

    def images() -> list[Tensor]:
        drawn = noise(source, batch, 3, crop, 8) * 50 + 120
        drawn += torch.randn(drawn.shape, generator=source) * 10
        return list(drawn.clamp(0, 255).to(torch.uint8))

    def sample(**data: Tensor) -> SegDataSample:
        size = (crop, crop)
        out = SegDataSample(metainfo=dict(img_path='random', img_shape=size, ori_shape=size))
        for name, value in data.items():
            setattr(out, name, PixelData(data=value))
        return out

    truth = noise(source, batch, CLASSES, crop, 6).argmax(1, keepdim=True)
    valid = torch.ones(1, crop, crop, dtype=torch.bool)
    data = dict(
        labeled=dict(inputs=images(), data_samples=[sample(gt_sem_seg=one) for one in truth]),
        unlabeled=dict(
            weak=images(),
            strong=[images()],
            data_samples=[sample(valid=valid.clone()) for _ in range(batch)],
        ),
    )
    return model.data_preprocessor(data, True)


class TrainingStep:
    """A training step that can be repeated: the learning rate is 0 and the seed the same.

    Args:
        model: The ``SemiSegmentor``.
        data: The prepared batch.
        threshold: Confidence threshold that every step begins with.
    """

    def __init__(self, model: torch.nn.Module, data: dict[str, Any], threshold: float) -> None:
        self.model, self.data, self.threshold = model, data, threshold
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=0.0, momentum=0.9, weight_decay=1e-4
        )

    def prepare(self) -> None:
        """Go back to the beginning of the step."""
        torch.manual_seed(0)
        select = self.model.refiners['select']
        if isinstance(getattr(select, 'value', None), Tensor):
            select.value.fill_(self.threshold)
        else:
            select.threshold = self.threshold

    def __call__(self) -> None:
        """Run forward, backward and update."""
        losses = self.model.loss(**self.data)
        total, _ = self.model.parse_losses(losses)
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        if hasattr(self.model.refiners['select'], 'update_state'):
            self.model.refiners['select'].update_state()


@torch.no_grad()
def run_network(model: torch.nn.Module, data: dict[str, Any]) -> Any:
    """Run the parts of a step up to the student's passes; return the ``SemiStep``."""
    step = model.begin_step(**data)
    model.forward_student(step)
    model.make_pseudo_label(step)
    model.refine(step)
    model.make_views(step)
    model.forward_views(step)
    return step


def leaf(tensor: Tensor) -> Tensor:
    """Cut a tensor from whatever made it; gradients end here."""
    return tensor.detach().clone().requires_grad_()


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
        together = [[step.labeled, step.weak], [view.outputs for view in step.views]]
        self.features = [[leaf(one.features[head.tap]) for one in part] for part in together]
        with torch.no_grad():
            made = [head._maps(torch.cat(part)) for part in self.features]
        self.first = [tuple(leaf(w) for w in pair) for pair in zip(*(w.chunk(2) for w in made[0]))]
        self.strong = tuple(leaf(w) for w in made[1])
        self.grads = [[torch.randn_like(w) for w in pair] for pair in made]
        for view in step.views:
            view.outputs = replace(view.outputs, _logits=leaf(view.outputs.logits))
        with torch.no_grad():
            self.selected = self.select(step.raw_pseudo, step)
        self.optimizer = torch.optim.SGD(head.parameters(), lr=0.0, momentum=0.9, weight_decay=1e-4)

    @contextmanager
    def _given_maps(self) -> Iterator[None]:
        """Let the head take the maps that are there instead of projecting features."""
        self.step.shared[self.head] = tuple(self.first)
        with mock.patch.object(self.head, '_maps', lambda features: self.strong):
            yield
        del self.step.shared[self.head]

    def leaves(self) -> list[Tensor]:
        """Return the tensors at which gradients end."""
        maps = [w for pair in (*self.first, self.strong) for w in pair]
        return maps + [view.outputs.logits for view in self.step.views]

    def time_parts(self, device: str) -> dict[str, float]:
        """Return the seconds of each part but the projection."""
        step, times, losses = self.step, {}, {}

        def part(name: str, function: Callable[[], Any]) -> None:
            times[name] = timed(function, device)

        def mix() -> None:
            before = step.pseudo.extras['selected_before_propagation']
            for view in step.views:
                if view.mix is not None:
                    view.mix(step.pseudo.logits), view.mix(before)

        def backward() -> None:
            torch.autograd.grad(sum(v for k, v in losses.items() if 'loss' in k), self.leaves())

        with self._given_maps():
            with torch.no_grad():
                part('threshold', lambda: self.select(step.raw_pseudo, step))
                part('sampling and region propagation', lambda: self.regions(self.selected, step))
                part('mixing', mix)
            part('labeled correlation loss', lambda: losses.update(self.head.supervised(step)))
            part('unlabeled correlation loss', lambda: losses.update(self.head(step)))
            soft = self.model.losses['soft']
            part('soft loss', lambda: losses.update({'soft.loss': soft(step)['loss']}))
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
    from mmseg_semi.functional import sample_shapes

    torch.manual_seed(0)
    device = args.device
    torch.backends.cudnn.benchmark = True  # as in the shipped configs
    model, plain = (build_model(on).to(device) for on in (True, False))
    plain.segmentor.load_state_dict(model.segmentor.state_dict())
    data = step_inputs(model, args.batch, args.crop)
    # An untrained network is sure of nothing: take the threshold that selects 60 % of the pixels.
    torch.manual_seed(0)
    threshold = torch.quantile(run_network(model, data).raw_pseudo.confidence.flatten(), 0.4)
    steps = [TrainingStep(one, data, threshold.item()) for one in (model, plain)]
    steps[0].prepare()
    step = run_network(model, data)
    share = step.pseudo.extras['selected_before_propagation'].float().mean()
    added = AddedParts(step, model)
    shapes = sample_shapes(*added.first[1], 128, tuple(step.pseudo.label.shape[-2:]))
    pass_share = passing(added.selected.selected, shapes, threshold)
    del shapes

    for one in steps:  # warm-up
        one.prepare()
        one()
    added.time_parts(device), added.project()
    whole: tuple[list[float], list[float]] = ([], [])
    parts, projections = [], []
    for turn in range(args.step_repeats):
        for side in (0, 1) if turn % 2 == 0 else (1, 0):
            steps[side].prepare()
            whole[side].append(timed(steps[side], device))
        steps[0].prepare()
        parts.append(added.time_parts(device))
        projections.append(timed(added.project, device))
    sums = [sum(one.values()) for one in parts]
    extra = [a - b for a, b in zip(*whole)]
    without = statistics.median(whole[1])
    percent = 100 * median_ratio(sums, whole[1])
    target = STEP_PERCENT[device]
    report = Report()
    report.rows += [
        Row(
            'step',
            'all but the projection, by itself',
            duration(statistics.median(sums)),
            f'{duration(without)} (step without CorrMatch)',
            f'+{percent:.1f} %',
            f'<= {target:g} %',
            at_most(percent, target),
        ),
        Row(
            'step',
            'projection convolutions (network layers), by themselves',
            duration(statistics.median(projections)),
            duration(without),
            f'+{100 * median_ratio(projections, whole[1]):.1f} %',
        ),
        Row(
            'step',
            'whole step with CorrMatch against without',
            duration(statistics.median(whole[0])),
            duration(without),
            f'{100 * median_ratio(extra, whole[1]):+.1f} %',
        ),
    ]
    report.notes += [
        f'`step`: DeepLabV3+ on ResNet-50, {CLASSES} classes, crops of {args.crop}, {args.batch} '
        f'labeled and {args.batch} unlabeled random images with one strong view, forward, '
        f'backward and SGD; {share:.0%} of the pixels are selected, {pass_share:.0%} of the shapes '
        f'pass the test of selected pixels. Without CorrMatch: the same configuration with a fixed '
        'threshold and no region propagation, correlation head and soft loss.',
        '`step`, each part by itself: '
        + ', '.join(
            f'{name} {duration(statistics.median(one[name] for one in parts))}' for name in parts[0]
        )
        + '.',
        '`step`, differences of the whole steps by turn, as noisy as the machine: '
        f'{", ".join(map(duration, extra))}.',
    ]
    return report


BENCHMARKS: dict[str, Callable[[argparse.Namespace], Report]] = dict(
    regions=benchmark_regions, pixels=benchmark_pixels, step=benchmark_step
)


def main(argv: Optional[list[str]] = None) -> None:
    """Measure and tabulate."""
    args = parse_args(argv)
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise SystemExit('--device cuda: torch sees no GPU')
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    if args.peak_of:
        print(peak_bytes(args.peak_of, args.grid, args.device))
        return
    names = [args.only] if args.only else list(BENCHMARKS)
    text = to_markdown([BENCHMARKS[name](args) for name in names], args.device)
    print(text)
    if args.out:
        Path(args.out).write_text(text)


if __name__ == '__main__':
    main()
