"""What the benchmarks of single methods share: taking turns, peak memory, steps, and the table.

Both sides of a ratio take turns in one process, on the same inputs and threads, after a warm-up.
The ratio is the median over the turns, and so are the times.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.registry import HOOKS, MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_semi.files import shipped_root, write_file
from mmseg_semi.models.segmentors.building import needed_hooks
from mmseg_semi.models.teachers.ema_teacher import update_teacher
from mmseg_semi.utils.collect_env import checkout_commit

REPO = shipped_root()
CLASSES = 21


# -------------------------------------------------------------------------------- command line


def make_parser(description: str, benchmarks: Iterable[str] = ()) -> argparse.ArgumentParser:
    """Make a parser of the options that all tools have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--device', default='cpu', choices=('cpu', 'cuda'))
    parser.add_argument('--threads', type=int, help='CPU threads (default: what torch takes)')
    parser.add_argument(
        '--step-repeats',
        type=int,
        default=3,
        help='turns of `step`, whose calls are long (default: %(default)s)',
    )
    parser.add_argument('--out', help='Markdown file to write (default: only print)')
    if benchmarks:
        parser.add_argument(
            '--repeats', type=int, default=5, help='turns of each side (default: %(default)s)'
        )
        parser.add_argument('--only', choices=tuple(benchmarks), help='run one benchmark')
    parser.add_argument(
        '--crop', type=int, default=321, help='step: side of the crops (default: %(default)s)'
    )
    parser.add_argument(
        '--batch',
        type=int,
        default=2,
        help='step: labeled images, and as many unlabeled ones (default: %(default)s)',
    )
    return parser


def read_options(
    parser: argparse.ArgumentParser, argv: Optional[list[str]], **smallest: int
) -> argparse.Namespace:
    """Read the command line and refuse sizes below the ``smallest`` ones."""
    args = parser.parse_args(argv)
    # BatchNorm over images pooled to one pixel needs two of them.
    for name, least in dict(repeats=1, step_repeats=1, **smallest, crop=33, batch=2).items():
        if getattr(args, name, least) < least:
            option = name.replace('_', '-')
            parser.error(f'--{option} must be at least {least}, got {getattr(args, name)}')
    check_shared(parser, args)
    return args


def check_shared(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse a file that could not be written, and no threads, before anything is measured."""
    if args.out and not Path(args.out).parent.is_dir():
        parser.error(f'--out {args.out}: its folder does not exist, make it first')
    if args.out and Path(args.out).is_dir():
        parser.error(f'--out {args.out} is a folder: name a file in it, such as table.md')
    if getattr(args, 'threads', None) is not None and args.threads < 1:
        parser.error(f'--threads must be at least 1, got {args.threads}')


def set_up(args: argparse.Namespace) -> None:
    """Take the device and the threads that were asked for."""
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise SystemExit('--device cuda: torch sees no GPU, use --device cpu')
    if args.threads is not None:
        torch.set_num_threads(args.threads)


def tabulate(
    args: argparse.Namespace, benchmarks: Mapping[str, Callable[[argparse.Namespace], Report]]
) -> None:
    """Run the benchmarks, or the one that was asked for; print and write what they found.

    The file is written after each of them, so that a stopped run leaves those that it finished.
    """
    only = getattr(args, 'only', None)
    reports: list[Report] = []
    for name in [only] if only else benchmarks:
        reports.append(benchmarks[name](args))
        if args.out:
            write_file(args.out, to_markdown(reports, args.device))
    print(to_markdown(reports, args.device))


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


def mebibytes(count: float) -> str:
    """Format a number of bytes."""
    return f'{count / 2**20:.1f} MiB'


def split_of(parts: list[dict[str, float]]) -> str:
    """List parts, each with the median of its times."""
    medians = {name: statistics.median(one[name] for one in parts) for name in parts[0]}
    return ', '.join(f'{name} {duration(seconds)}' for name, seconds in medians.items())


def machine(device: str) -> str:
    """Name what the figures were measured on, the commit and the day."""
    processor = platform.processor() or platform.machine()
    with suppress(OSError):
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                processor = line.split(':', 1)[1].strip()
                break
    text = f'{processor}, {torch.get_num_threads()} thread(s), torch {torch.__version__}'
    text += f', commit {checkout_commit()}, {datetime.date.today()}'
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


def in_turns(
    sides: Sequence[Callable[[], Any]], repeats: int, device: str
) -> list[list[float]]:  # the times of each side
    """Time all sides in turns, after one call of each; every second turn goes backwards."""
    for side in sides:
        side()
    times: list[list[float]] = [[] for _ in sides]
    order = range(len(sides))
    for turn in range(repeats):
        for i in order if turn % 2 == 0 else reversed(order):
            times[i].append(timed(sides[i], device))
    return times


def median_ratio(top: list[float], bottom: list[float]) -> float:
    """Return the median of the ratios of the turns."""
    return statistics.median(a / b for a, b in zip(top, bottom))


def note_without_sync(name: str, function: Callable[[], Any], device: str) -> list[str]:
    """Run it once on a GPU, where waiting for the device is an error; return a note of that."""
    if device != 'cuda':
        return []
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode('error')
    try:
        function()
    finally:
        torch.cuda.set_sync_debug_mode('default')
    return [
        f"`{name}`: ours ran under `torch.cuda.set_sync_debug_mode('error')`; nothing synchronized."
    ]


# --------------------------------------------------------------------------- inputs and results


def noise(
    source: torch.Generator, count: int, channels: int, size: int, cells: int
) -> Tensor:  # (count, channels, size, size)
    """Draw smooth noise, whose blobs are about ``size / cells`` wide."""
    coarse = torch.randn(count, channels, cells, cells, generator=source)
    return F.interpolate(coarse, size=(size, size), mode='bicubic', align_corners=True)


def leaf(tensor: Tensor) -> Tensor:
    """Cut a tensor from whatever made it; gradients end here."""
    return tensor.detach().clone().requires_grad_()


def largest_difference(found: Tensor, wanted: Tensor) -> float:
    """Return the largest difference relative to the largest value."""
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def check_same(name: str, same: bool) -> None:
    """Stop the tool unless a function and its reference agree."""
    if not same:
        raise AssertionError(f'{name} and the reference differ')


def check_close(
    name: str, found: Sequence[Tensor], wanted: Sequence[Tensor], tolerance: float
) -> float:
    """Return the largest relative difference; stop the tool when it is above the tolerance."""
    worst = max(largest_difference(a, b) for a, b in zip(found, wanted))
    if not worst <= tolerance:
        raise AssertionError(f'{name} and the reference differ by {worst:.1e}')
    return worst


# --------------------------------------------------------------------------------- peak memory


def peak_of_call(run: Callable[[], Any], warm_up: Callable[[], Any], device: str) -> int:
    """Return the bytes that a call takes at its peak beyond what is there before.

    On the CPU this is the peak of the process, which should do nothing else. The kernel's mark is
    read from ``/proc`` where there is one: ``ru_maxrss`` starts at the size of the parent.

    Args:
        run: The call.
        warm_up: A small call before it: libraries and the threads of autograd do not count.
        device: ``'cpu'`` or ``'cuda'``.
    """
    warm_up()
    if device == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what imports have freed is no room for the call
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


def peak_in_own_process(script: str, side: str, device: str, **sizes: int) -> int:
    """Return what ``script --peak-of side`` prints in a fresh process."""
    options = dict(sizes, device=device, threads=torch.get_num_threads())
    command = [sys.executable, str(Path(script).resolve()), '--peak-of', side]
    command += [f'--{name}={value}' for name, value in options.items()]
    return int(subprocess.check_output(command, text=True, cwd=REPO).split()[-1])


def peak_ratio(ours: int, reference: int) -> float:
    """Divide two peaks; tiny inputs may fit the memory that the process already has."""
    return ours / reference if reference > 0 else float('nan')


# ---------------------------------------------------------------------------------------- step


def load_method(name: str) -> Any:
    """Read ``configs/_base_/methods/<name>.py``."""
    return Config.fromfile(REPO / 'configs' / '_base_' / 'methods' / f'{name}.py').method


def load_segmentor() -> Any:
    """Read the config of DeepLabV3+ R50 for one device, without pretrained weights."""
    base = REPO / 'configs' / '_base_' / 'models' / 'deeplabv3plus_r50.py'
    segmentor = Config.fromfile(base).model
    segmentor.pretrained = None
    segmentor.backbone.norm_cfg.type = segmentor.decode_head.norm_cfg.type = 'BN'
    segmentor.decode_head.update(num_classes=CLASSES, align_corners=True)
    return segmentor


def build_model(method: Any) -> torch.nn.Module:
    """Build a method on DeepLabV3+ R50; ``TrainingStep`` does the work of its hooks.

    Args:
        method: From ``load_method``.
    """
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(dict(segmentor=load_segmentor(), **method))
        for hook in needed_hooks(model):
            model.hook_attached(HOOKS.build(hook))
    return model.train()


def step_inputs(
    model: Any, batch: int, crop: int, views: int = 1
) -> dict[str, Any]:  # the arguments of ``model.loss``
    """Draw a batch of smooth images, as many labeled as unlabeled, and prepare it."""
    source = torch.Generator().manual_seed(0)
    channels = model.data_preprocessor.mean.numel()

    def images() -> list[Tensor]:
        drawn = noise(source, batch, channels, crop, 8) * 50 + 120
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
            strong=[images() for _ in range(views)],
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

    def __init__(self, model: Any, data: dict[str, Any], threshold: float) -> None:
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
        elif hasattr(select, 'threshold'):
            select.threshold = self.threshold

    def __call__(self) -> None:
        """Run forward, backward and update, and what hooks do after an iteration."""
        model = self.model
        losses = model.loss(**self.data)
        total, _ = model.parse_losses(losses)
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        if hasattr(model.refiners['select'], 'update_state'):
            model.refiners['select'].update_state()
        if model.teacher is not None:
            # Momentum 1 costs the same and moves nothing.
            update_teacher(model.teacher.network, model.segmentor, momentum=1.0)


def advance(model: Any, step: Any) -> Any:
    """Take a ``SemiStep`` to where its losses are computed, and return it."""
    before, after = model.passes
    for streams in before:
        model.run_pass(step, streams)
    model.make_pseudo_label(step)
    model.mix_views(step)
    for streams in after:
        model.run_pass(step, streams)
    model.refine_views(step)
    return step


@torch.no_grad()
def run_network(model: Any, data: dict[str, Any]) -> Any:
    """Run the parts of a step up to the student's passes; return the ``SemiStep``."""
    return advance(model, model.begin_step(**data))


def confident_share(model: Any, data: dict[str, Any], share: float) -> float:
    """Return the threshold that this share of the pixels reaches.

    An untrained network is sure of nothing: no pixel would reach a method's own threshold.
    """
    torch.manual_seed(0)
    confidence = run_network(model, data).raw_pseudo.confidence
    return torch.quantile(confidence.flatten(), 1 - share).item()


def step_turns(
    steps: Sequence[TrainingStep], added: Callable[[], Any], repeats: int, device: str
) -> tuple[list[float], list[float], list[Any]]:
    """Time two steps in turns, and what the first adds by itself, after one run of each.

    Args:
        steps: The step with the method's parts, and the one without.
        added: Times the parts.
        repeats: Turns.
        device: ``'cpu'`` or ``'cuda'``.

    Returns:
        Seconds of both steps, and what ``added`` returned, by turn.
    """
    for one in steps:
        one.prepare()
        one()
    added()
    whole: tuple[list[float], list[float]] = ([], [])
    parts = []
    for turn in range(repeats):
        for side in (0, 1) if turn % 2 == 0 else (1, 0):
            steps[side].prepare()
            whole[side].append(timed(steps[side], device))
        steps[0].prepare()
        parts.append(added())
    return *whole, parts


def added_rows(
    name: str, what: str, own: list[float], whole: list[float], plain: list[float], target: float
) -> list[Row]:
    """Compare parts by themselves, and the whole step, with the step without them.

    Args:
        name: Of the method.
        what: The parts.
        own: Seconds of the parts.
        whole: Seconds of the step with them.
        plain: Seconds of the step without them.
        target: Percent that the parts may add.
    """
    percent, without = 100 * median_ratio(own, plain), duration(statistics.median(plain))
    extra = [a - b for a, b in zip(whole, plain)]
    return [
        Row(
            'step',
            what,
            duration(statistics.median(own)),
            f'{without} (step without {name})',
            f'+{percent:.1f} %',
            f'<= {target:g} %',
            at_most(percent, target),
        ),
        Row(
            'step',
            f'whole step with {name} against without',
            duration(statistics.median(whole)),
            without,
            f'{100 * median_ratio(extra, plain):+.1f} %',
        ),
    ]


def differences_note(whole: list[float], plain: list[float]) -> str:
    """Tell the differences of the whole steps."""
    extra = ', '.join(duration(a - b) for a, b in zip(whole, plain))
    return f'`step`, differences of the whole steps by turn, as noisy as the machine: {extra}.'
