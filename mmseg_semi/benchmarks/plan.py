"""``mmseg-semi plan``: the memory of a config, and what of it fits on which card."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmseg.registry import MODELS

from mmseg_semi.arguments import Each, Whole
from mmseg_semi.benchmarks.step_memory import (
    GIB,
    Line,
    measure,
    patch_of,
    peak_of_step,
    segmentor_of,
)
from mmseg_semi.datasets.samplers.semi_sampler import check_batch_size
from mmseg_semi.errors import exiting
from mmseg_semi.files import check_out, write_file
from mmseg_semi.utils.config import is_detector, load_config, parse_tool
from mmseg_semi_cli import runs


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the configs and print what fits."""
    args = parse_tool(runs.plan(), argv)
    if args.crops and args.crops[0] >= args.crops[1]:
        low, high = args.crops
        runs.plan().error(f'--crops {low} {high}: give the smaller side first')
    MMLogger.get_instance('mmengine', log_level='ERROR')  # optimizers report every parameter
    warnings.simplefilter('ignore')  # of what the networks are made of
    if min(args.gpu_memory) <= args.reserve:
        runs.plan().error(
            f'--gpu-memory {min(args.gpu_memory):g}: --reserve {args.reserve:g} leaves nothing of '
            'it for tensors; give a larger card or a smaller reserve'
        )
    check_out(runs.plan(), '--out', args.out, 'plan.md')
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise SystemExit('--device cuda: torch sees no GPU, use --device cpu')
    lines, texts = [], []
    for path in args.configs:
        cfg = read(path, args.cfg_options)
        name = Path(path).stem
        if args.device == 'cuda':
            texts.append(measured(name, cfg, args.amp))
        else:
            lines.append(measure(name, cfg, args.crops, args.amp))
            saved = with_checkpoints(lines[-1], cfg, args.crops, args.amp)
            texts.append(in_words(lines[-1], saved, args.gpu_memory, args.reserve))
        print(texts[-1], flush=True)
    if len(lines) > 1:
        texts = [table(lines, args.gpu_memory, args.reserve)]
        print(texts[0])
    if args.out:
        write_file(args.out, '\n'.join(texts))


def read(path: str, options: dict[str, Any] | None) -> Config:
    """Read a config that trains a segmentor with crops.

    Raises:
        SystemExit: It does not.
    """
    with exiting(ValueError, KeyError, TypeError, FileNotFoundError, ModuleNotFoundError):
        cfg = load_config(path, options)
    dataset = (cfg.get('train_dataloader') or {}).get('dataset') or {}
    crop = (dataset.get('geometry') or {}).get('crop')
    if is_detector(cfg) or crop is None or not cfg.get('model'):
        raise SystemExit(
            f'{path}: this is no config whose memory can be planned: name one that trains a '
            'segmentor on crops (train_dataloader.dataset.geometry.crop)'
        )
    size = crop.get('crop_size')
    crop.crop_size = (size, size) if isinstance(size, int) else size
    with exiting(ValueError):
        Each(Whole(1), 2).check('train_dataloader.dataset.geometry.crop.crop_size', crop.crop_size)
    if segmentor_of(cfg) is not cfg.model:
        ratio = tuple((cfg.train_dataloader.get('sampler') or {}).get('ratio', (1, 1)))
        if ratio != (1, 1):
            raise SystemExit(
                f'{path}: train_dataloader.sampler.ratio is {ratio}, and plans are of batches with '
                'as many unlabeled images as labeled ones: set it to (1, 1) for the plan'
            )
        with exiting(ValueError):
            check_batch_size(cfg.train_dataloader.batch_size, ratio)
    return cfg


def with_checkpoints(
    line: Line, cfg: Config, crops: Sequence[int] | None, amp: bool
) -> Line | None:
    """Measure a config whose encoder computes activations again in the backward pass.

    Args:
        line: Of the config as it is.
        cfg: The config.
        crops: As in ``measure``.
        amp: Whether in mixed precision.

    Returns:
        The line; None where the encoder cannot, does so already, or saves less than 5 %.
    """
    backbone = segmentor_of(cfg).backbone
    classes = MODELS.get(backbone.type).__mro__
    takes = any('with_cp' in inspect.signature(one.__init__).parameters for one in classes)
    if backbone.get('with_cp') or not takes:
        return None
    cfg = copy.deepcopy(cfg)
    segmentor_of(cfg).backbone.with_cp = True
    try:
        saved = measure(f'{line.name} with with_cp=True', cfg, crops, amp)
    except ValueError:  # one of transformers that computes nothing again
        return None
    return saved if saved.peak.total < 0.95 * line.peak.total else None


def measured(name: str, cfg: Config, amp: bool) -> str:
    """Run a step on the GPU, with square crops of as many pixels as the config's have."""
    height, width = cfg.train_dataloader.dataset.geometry.crop.crop_size
    patch = patch_of(cfg)
    multiple = patch if patch > 1 else 32  # as UNets need
    side = max(1, round(math.sqrt(height * width) / multiple)) * multiple
    parts = 1 if segmentor_of(cfg) is cfg.model else 2
    batch = cfg.train_dataloader.batch_size
    peak = peak_of_step(cfg, batch // parts, side, amp, 'cuda').total
    return f'{name}: {peak / GIB:.1f} GiB with {batch} images of {side} x {side}'


# ---------------------------------------------------------------------------------------- words
def in_words(
    line: Line, saved: Line | None, cards: Sequence[float], reserve: float
) -> str:  # of one config
    """Say what a config takes, part by part, and what fits.

    Args:
        line: Of the config.
        saved: The same with checkpoints in the encoder, None where it has none.
        cards: Memory of cards in GiB.
        reserve: GiB of a card that tensors cannot have.
    """
    peak = line.peak
    parts = dict(weights=peak.weights, optimizer=peak.optimizer)
    parts['teachers and banks'] = peak.others
    parts['gradients and activations of the step'] = int(peak.step)
    listed = ', '.join(f'{name} {_size(value)}' for name, value in parts.items() if value >= 2**20)
    crop = ' x '.join(map(str, line.crop))
    lines = [
        f'{line.name}: {_size(peak.total)} on each GPU with {_images(line, line.images)} of {crop}',
        f'  {listed}',
    ]
    if saved:
        lines.append(f'  {_size(saved.peak.total)} with {_CHECKPOINTS}')
    for card in cards:
        lines += [f'  a GPU of {card:g} GB:', *_fits(line, saved, (card - reserve) * GIB)]
    return '\n'.join(lines) + '\n'


_CHECKPOINTS = 'with_cp=True of the encoder (computes activations again, same results)'


def _fits(line: Line, saved: Line | None, room: float) -> list[str]:
    most, recipe = line.most_images(room), line.recipe(room)
    if not recipe:
        if saved and saved.recipe(room):
            return [f'    fits with {_CHECKPOINTS}:', *_fits(saved, None, room)]
        side = line.largest_crop(room)
        smaller = f': crops of {side} x {side} would fit with this batch' if side >= 64 else ''
        return [f'    does not fit with this crop{smaller}']
    batch, updates = recipe
    found = [f'    at most {_images(line, most)} of this crop, train_dataloader.batch_size={most}']
    side = line.largest_crop(room)
    if side >= 64:
        found.append(f'    at most crops of {side} x {side} with the batch of the config')
    if (batch, updates) != (line.images, line.updates):
        whole = f'{line.update} images an update' + (
            f', as {line.gpus} GPUs of the config have' if line.gpus > 1 else ''
        )
        found.append(
            f'    for {whole}: train_dataloader.batch_size={batch} '
            f'optim_wrapper.accumulative_counts={updates}'
        )
    return found


def _images(line: Line, number: int) -> str:
    half = number // 2
    return f'{half} + {half} images' if line.parts == 2 else f'{number} images'


def _size(value: float) -> str:
    return f'{value / GIB:.1f} GiB' if value >= GIB / 10 else f'{value / 2**20:.0f} MiB'


def table(lines: Sequence[Line], cards: Sequence[float], reserve: float) -> str:
    """All configs in a Markdown table."""
    heads = ['config', 'crop', 'batch a GPU', 'state', 'peak a GPU']
    heads += [f'one {card:g} GB card' for card in cards]
    rows = [heads, ['---'] * len(heads)]
    for line in lines:
        batch = _images(line, line.images).removesuffix(' images')
        recipes = [line.recipe((card - reserve) * GIB) for card in cards]
        rows.append(
            [
                f'`{line.name}`',
                ' x '.join(map(str, line.crop)),
                f'{batch} on {line.gpus}',
                f'{line.peak.state / GIB:.1f} GiB',
                f'{line.peak.total / GIB:.1f} GiB',
                *(f'{one[0]} x {one[1]}' if one else 'does not fit' for one in recipes),
            ]
        )
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows) + '\n'
