"""Measure the training step of each framework as a multiple of the supervised one.

A step is forward, losses, backward, optimizer and what the custom hooks do in an iteration (EMA
teacher, thresholds, banks), past the warm-up of the run, on random images that are prepared once;
nothing is loaded. Beside the time stands what the passes through the network let expect: they are
counted in one step, a pass with gradient as 3 and one without as 1.

`--network unet` measures the configs of digit scenes, `deeplabv3plus_r50` the methods of
`configs/_base_/methods` with 21 classes. The frameworks take turns in one process, after a
warm-up. The multiple is the median over the turns, and so are the times.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Optional

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmseg.registry import HOOKS, MODELS
from torch import Tensor

from mmseg_semi.benchmarks import measuring
from mmseg_semi.benchmarks.measuring import (
    REPO,
    confident_share,
    duration,
    in_turns,
    leaf,
    median_ratio,
    step_inputs,
)
from mmseg_semi.engine.hooks import ImageBankHook, LabeledSourceHook
from mmseg_semi.files import write_file
from mmseg_semi.models.heads import PreviousGuidance
from mmseg_semi.models.held_network import HeldNetwork
from mmseg_semi.models.segmentors.building import needed_hooks

SUPERVISED = 'supervised'
FRAMEWORKS = (
    SUPERVISED,
    'fixmatch',
    'unimatch',
    'mean_teacher',
    'cutmix_seg',
    'augseg',
    'ael',
    'u2pl',
    'corrmatch',
    'rankmatch',
    's4mc',
    's4mc_fixmatch',
    'prevmatch',
    'weighting',
)
#: Where a framework's config has another name: what it is put on follows.
CONFIG_NAMES = dict(weighting='weighting_unimatch')
CROPS = dict(unet=64, deeplabv3plus_r50=321)
UNET_STRIDE = 16
# A pass with gradient goes forward, and backward to the inputs and to the weights of each layer.
COST = {True: 3, False: 1}
# Steps are taken in the middle of a run, when no config is in its warm-up.
ITERATION, MAX_ITERS = 1000, 2000
BANK_SIZE = 1440  # unlabeled images that AEL's bank has a row of, as many as digit scenes


# -------------------------------------------------------------------------------- command line


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--device', default='cpu', choices=('cpu', 'cuda'))
    parser.add_argument('--threads', type=int, help='CPU threads (default: what torch takes)')
    parser.add_argument('--repeats', type=int, default=20, help='turns of each framework')
    parser.add_argument('--warm-up', type=int, default=3, help='steps of each before any is timed')
    parser.add_argument('--out', help='Markdown file to write (default: only print)')
    parser.add_argument('--network', default='unet', choices=tuple(CROPS))
    parser.add_argument(
        '--crop',
        type=int,
        help='side of the images (default: '
        + ', '.join(f'{size} for {name}' for name, size in CROPS.items())
        + ')',
    )
    parser.add_argument(
        '--batch', type=int, default=8, help='labeled images, and as many unlabeled ones'
    )
    parser.add_argument(
        '--frameworks',
        nargs='+',
        default=FRAMEWORKS,
        choices=FRAMEWORKS,
        metavar='NAME',
        help=f'which ones, beside {SUPERVISED} (default: all of {", ".join(FRAMEWORKS)})',
    )
    args = parser.parse_args(argv)
    # BatchNorm over images pooled to one pixel needs two of them.
    for name, least in dict(repeats=1, warm_up=1, batch=2).items():
        if getattr(args, name) < least:
            option = name.replace('_', '-')
            parser.error(f'--{option} must be at least {least}, got {getattr(args, name)}')
    check_crop(parser, args)
    measuring.check_shared(parser, args)
    if set(args.frameworks) <= {SUPERVISED}:
        parser.error(f'--frameworks needs one beside {SUPERVISED}, which always takes part')
    args.frameworks = [n for n in FRAMEWORKS if n == SUPERVISED or n in args.frameworks]
    return args


def check_crop(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Take the network's own crop where none is given; refuse one that it does not take."""
    if args.crop is None:
        args.crop = CROPS[args.network]
    if args.crop < 32:
        parser.error(f'--crop must be at least 32, got {args.crop}')
    if args.network == 'unet' and args.crop % UNET_STRIDE:
        parser.error(f'--crop must be a multiple of {UNET_STRIDE} for unet, got {args.crop}')


# ------------------------------------------------------------------------------------ building


def load_config(name: str, network: str, crop: int) -> Any:
    """Read a framework's config of digit scenes; put another network into it if asked to.

    Args:
        name: One of ``FRAMEWORKS``.
        network: One of ``CROPS``.
        crop: Side of the images in pixels.
    """
    configs = REPO / 'configs'
    file = f'{CONFIG_NAMES.get(name, name)}_unet_digit-scenes-60.py'
    config = Config.fromfile(next(configs.glob(f'*/{file}')))
    if network != 'unet':
        config.model = measuring.load_segmentor()
        if name != SUPERVISED:
            config.model = dict(segmentor=config.model, **measuring.load_method(name))
        schedule = Config.fromfile(configs / '_base_' / 'schedules' / 'sgd_20k.py')
        config.optim_wrapper = schedule.optim_wrapper
    segmentor = config.model.get('segmentor', config.model)
    segmentor.data_preprocessor.size = (crop, crop)
    return config


def num_views(config: Any) -> int:
    """Return how many strong views the config makes; 0 for supervised training."""
    unlabeled = config.train_dataloader.dataset.unlabeled
    return 0 if unlabeled is None else unlabeled.strong.num_views


def attach_hooks(configs: Sequence[Any], model: Any) -> tuple[list[Any], Any]:
    """Build hooks and let them begin a run.

    Args:
        configs: ``custom_hooks``; the one that checks the data is left out, and those that the
            model needs are added.
        model: The model.

    Returns:
        The hooks, and what they take for the runner, in the middle of the run.
    """
    runner = SimpleNamespace(model=model, iter=0, max_iters=MAX_ITERS)
    hooks = [HOOKS.build(one) for one in configs if one['type'] != 'DataCheckHook']
    hooks += [HOOKS.build(one) for one in needed_hooks(model, hooks)]
    for hook in hooks:
        if isinstance(hook, ImageBankHook):
            # Its before_train wants a dataset to load from.
            hook.parts = [model.mixer]
            model.mixer.set_bank_size(BANK_SIZE, keep=False)
            model.hook_attached(hook)
        elif isinstance(hook, LabeledSourceHook):
            # So does this one's: classes are pasted from the batch.
            model.labeled_mixer.source = 'batch'
            model.hook_attached(hook)
        else:
            hook.before_train(runner)
    runner.iter = ITERATION
    return hooks, runner


class Step:
    """A training step of a framework that can be repeated: the learning rate is 0.

    Args:
        config: From ``load_config``.
        device: ``'cpu'`` or ``'cuda'``.
    """

    def __init__(self, config: Any, device: str) -> None:
        with DefaultScope.overwrite_default_scope('mmseg'):
            self.model = MODELS.build(config.model).to(device).train()
            config.optim_wrapper.optimizer.lr = 0.0
            self.optimizer = build_optim_wrapper(self.model, config.optim_wrapper)
            self.hooks, self.runner = attach_hooks(config.get('custom_hooks', []), self.model)
        self.views = num_views(config)
        self.student = getattr(self.model, 'segmentor', self.model)
        held = [part for part in self.model.modules() if isinstance(part, HeldNetwork)]
        self.teacher = held[0].network if held else None  # or PrevMatch's earlier weights
        if hasattr(self.model, 'set_progress'):
            self.model.set_progress(ITERATION, MAX_ITERS, iters_per_epoch=1)
        for part in self.model.modules():
            if isinstance(part, PreviousGuidance):
                part.keep()  # by now there are earlier weights that label

    def set_data(self, data: dict[str, Any]) -> None:
        """Take a prepared batch, and thresholds that many pixels reach.

        Args:
            data: From ``step_inputs``, with as many strong views as the framework needs or more.
        """
        inputs, samples = data['inputs'], data['data_samples']
        if not self.views:
            self.data = dict(inputs=inputs['labeled'], data_samples=samples['labeled'])
            return
        inputs = dict(inputs, strong=inputs['strong'][: self.views])
        if any('detections' in part.reads_maps for part in self.model.components):
            valid = inputs['valid']  # a bit for each class: no box covers anything
            empty = valid.new_zeros(
                len(valid), -(-self.model.num_classes // 8), *valid.shape[1:], dtype=torch.uint8
            )
            inputs['maps'] = dict(detections=empty)
        self.data = dict(inputs=inputs, data_samples=samples)
        select = self.model.refiners['select']
        if isinstance(getattr(select, 'value', None), Tensor):
            select.value.fill_(confident_share(self.model, self.data, 0.6))
        elif hasattr(select, 'threshold'):
            select.threshold = confident_share(self.model, self.data, 0.6)

    def __call__(self) -> None:
        """Run an iteration."""
        for hook in self.hooks:
            hook.before_train_iter(self.runner, ITERATION, self.data)
        with self.optimizer.optim_context(self.model):
            losses = self.model.loss(**self.data)
        total, log_vars = self.model.parse_losses(losses)
        self.optimizer.update_params(total)
        for hook in self.hooks:
            hook.after_train_iter(self.runner, ITERATION, self.data, log_vars)

    def on(self, images: Tensor, samples: list[Any]) -> Step:
        """Return the supervised step of the same network on other images (B, 3, H, W)."""
        other = copy.copy(self)
        other.data = dict(inputs=images, data_samples=samples)
        return other


def make_data(model: torch.nn.Module, batch: int, crop: int, views: int = 2) -> dict[str, Any]:
    """Draw and prepare a batch.

    Args:
        model: What prepares it, a ``SemiDataPreprocessor`` in it.
        batch: Labeled images, and as many unlabeled ones.
        crop: Their side in pixels.
        views: Strong views.
    """
    data = step_inputs(model, batch, crop, views)
    network: Any = getattr(model, 'segmentor', model)
    for sample in data['data_samples']['labeled']:
        sample.gt_sem_seg.data = sample.gt_sem_seg.data % network.decode_head.num_classes
    for index, sample in enumerate(data['data_samples']['unlabeled']):
        sample.set_metainfo(dict(sample_index=index))  # AEL's bank has a row of each
    if getattr(model, 'channels_last', False):
        # A supervised config has no such switch, and the network's time depends on it.
        images = data['inputs']['labeled']
        data['inputs']['labeled'] = images.contiguous(memory_format=torch.channels_last)
    return data


# -------------------------------------------------------------------------------------- passes


@dataclass
class Passes:
    """The passes through networks in a step.

    Attributes:
        encoded: Images of each call of an encoder, by network: (images, with gradient).
        decoded: The same of the decode heads.
    """

    encoded: dict[str, list[tuple[int, bool]]] = field(default_factory=dict)
    decoded: dict[str, list[tuple[int, bool]]] = field(default_factory=dict)

    def encoder_images(self, grad: bool) -> int:
        """Count the images that were encoded with or without gradient."""
        return _images(self.encoded, grad)

    def decoder_only(self, grad: bool) -> int:
        """Count the images that were decoded once more than they were encoded."""
        return _images(self.decoded, grad) - _images(self.encoded, grad)

    def work(self, decoder_share: float) -> float:
        """Return what the passes cost, in forward passes of one image.

        Args:
            decoder_share: Share of the decode head in the time of a pass.
        """
        return sum(
            cost * (self.encoder_images(grad) + decoder_share * self.decoder_only(grad))
            for grad, cost in COST.items()
        )

    def in_words(self) -> str:
        """List the images of each call, ``+`` between the calls of a network."""
        parts = [
            f'{name} {" + ".join(str(images) for images, _ in calls)}'
            for name, calls in self.encoded.items()
        ]
        more = sum(self.decoder_only(grad) for grad in COST)
        return ', '.join(parts + ([f'decoder {more}'] if more else []))


def _images(calls: dict[str, list[tuple[int, bool]]], grad: bool) -> int:
    return sum(n for several in calls.values() for n, with_grad in several if with_grad == grad)


@contextmanager
def watched(
    module: torch.nn.Module, watch: Callable[[Any, Callable[[], Any]], Any]
) -> Iterator[None]:
    """Let ``watch`` make each call of a module, of its inputs and what runs it.

    It replaces ``forward``: the frameworks call that of decode heads without the module's hooks.
    """
    forward = module.forward

    def wrapper(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return watch(inputs, lambda: forward(inputs, *args, **kwargs))

    module.forward = wrapper
    try:
        yield
    finally:
        del module.forward


def keeps_gradients(module: torch.nn.Module) -> bool:
    """Whether a call of a module now keeps what gradients need."""
    return torch.is_grad_enabled() and any(one.requires_grad for one in module.parameters())


def recorded(module: torch.nn.Module, calls: list[tuple[int, bool]]) -> Any:
    """Note the images of each call of a module and whether it keeps what gradients need."""

    def note(inputs: Any, run: Callable[[], Any]) -> Any:
        images = inputs if isinstance(inputs, Tensor) else inputs[-1]
        calls.append((len(images), keeps_gradients(module)))
        return run()

    return watched(module, note)


def count_passes(run: Callable[[], Any], student: Any, teacher: Any) -> Passes:
    """Run it once and count the passes of both networks."""
    passes = Passes()
    with ExitStack() as stack:
        for name, network in dict(student=student, teacher=teacher).items():
            if network is not None:
                passes.encoded[name], passes.decoded[name] = [], []
                stack.enter_context(recorded(network.backbone, passes.encoded[name]))
                stack.enter_context(recorded(network.decode_head, passes.decoded[name]))
        run()
    return passes


def measure_decoder_share(segmentor: Any, images: Tensor, repeats: int, device: str) -> float:
    """Return the share of the decode head in forward and backward of the network."""
    with torch.no_grad():
        maps = [leaf(one) for one in segmentor.extract_feat(images)]

    def decode() -> None:
        segmentor.decode_head(maps).mean().backward()

    def whole() -> None:
        segmentor.decode_head(segmentor.extract_feat(images)).mean().backward()

    return median_ratio(*in_turns([decode, whole], repeats, device))


# ------------------------------------------------------------------------------------- results


@dataclass
class Row:
    """A line of the table.

    Attributes:
        name: The framework.
        passes: Its passes.
        times: Seconds of its steps, by turn.
    """

    name: str
    passes: Passes
    times: list[float]


def to_markdown(
    rows: list[Row], others: Sequence[list[float]], share: float, args: argparse.Namespace
) -> str:
    """Format the table and the notes.

    Args:
        rows: The frameworks, the supervised one first.
        others: Seconds of the supervised step in the default memory format, and on three times as
            many images, by turn.
        share: Share of the decode head in the time of a pass.
        args: The command line.
    """
    lines = [
        f'Measured on {measuring.machine(args.device)}.',
        '',
        '| framework | images of each pass | encoder with gradient | encoder without gradient '
        '| decoder only | expected | step | measured |',
        '| --- | --- | --- | --- | --- | --- | --- | --- |',
    ]
    base = rows[0]
    for row in rows:
        passes = row.passes
        counts = [passes.encoder_images(grad) for grad in (True, False)]
        counts.append(sum(passes.decoder_only(grad) for grad in COST))
        expected = passes.work(share) / base.passes.work(share)
        cells = [f'`{row.name}`', passes.in_words(), *(f'{n / args.batch:g}' for n in counts)]
        cells += [f'{expected:.2f}', duration(statistics.median(row.times))]
        cells.append(f'{median_ratio(row.times, base.times):.2f}')
        lines.append(f'| {" | ".join(cells)} |')
    contiguous, triple = (f'{median_ratio(one, base.times):.2f}' for one in others)
    lines += [
        '',
        f'- `{args.network}`, {args.batch} labeled and {args.batch} unlabeled random images of '
        f'{args.crop}x{args.crop}; medians of {args.repeats} turns. The columns of encoder and '
        'decoder are images per labeled image. The encoder is what mmseg calls the backbone (with '
        'a UNet its decoder too), the decoder is the decode head.',
        '- Expected: a pass with gradient counts 3 and one without 1; of the decode head alone '
        f'{share:.1%} of that, its measured share of forward and backward; divided by the same '
        'of the supervised step. Left out are losses, mixing, refiners, heads, the update of the '
        'teacher, and what a step costs whatever its number of images: a supervised step on three '
        f'times as many labeled images takes {triple} times as long.',
        "- All networks run in the same memory format, that of the frameworks' configs; in torch's "
        f'default format the supervised step takes {contiguous} times as long.',
        '- Thresholds are lowered to what 60 % of the pixels reach at first. Nothing is loaded, '
        'augmented or normalized. AEL takes its partners from the batch: the images that its '
        'training loads and labels besides are no part.',
    ]
    return '\n'.join(lines) + '\n'


def measure(args: argparse.Namespace) -> str:
    """Measure all frameworks in turns; return the table."""
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True  # as in the shipped configs
    configs = [load_config(name, args.network, args.crop) for name in args.frameworks]
    steps = [Step(config, args.device) for config in configs]
    data = make_data(steps[1].model, args.batch, args.crop)
    passes = []
    for step in steps:
        step.set_data(data)
        passes.append(count_passes(step, step.student, step.teacher))
    images, samples = data['inputs']['labeled'], data['data_samples']['labeled']
    several = torch.cat([images] * 3)  # keeps the memory format
    others = [steps[0].on(images.contiguous(), samples), steps[0].on(several, samples * 3)]
    for _ in range(args.warm_up):
        for step in (*steps, *others):
            step()
    share = measure_decoder_share(steps[0].student, images, args.repeats, args.device)
    times = in_turns([*steps, *others], args.repeats, args.device)
    rows = [Row(*one) for one in zip(args.frameworks, passes, times)]
    return to_markdown(rows, times[len(steps) :], share, args)


def main(argv: Optional[list[str]] = None) -> None:
    """Measure and tabulate."""
    args = parse_args(argv)
    measuring.set_up(args)
    text = measure(args)
    print(text)
    if args.out:
        write_file(args.out, text)
