"""Measure what the pseudo-labels of a trained model are worth, by true masks of unlabeled images.

Goes through training steps of the run that the checkpoint is of, without training: the batches, the
weak geometry, the mode of the networks, the thresholds and the mixing are those of training. Prints
how much the teacher's label and each refiner select and how right that is, what each refiner
changed, what each loss trains with (after mixing), the last refiner's label class by class, and how
strongly each loss pulls the student. Training never reads these masks.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, Optional

import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.runner import Runner

from mmseg_semi.analysis.draw_method import load_weights, refuse_plain
from mmseg_semi.analysis.pseudo_label_counts import GradientCounts, PseudoLabelCounts
from mmseg_semi.arguments import Whole
from mmseg_semi.datasets.audit_masks import AuditMasks
from mmseg_semi.datasets.samplers import SemiSampler
from mmseg_semi.engine.resuming import SETTINGS_KEY, changed_settings
from mmseg_semi.engine.semi_train_loop import SemiTrainLoop, seed_step
from mmseg_semi.errors import name_some
from mmseg_semi.files import write_file
from mmseg_semi.models.component import last_head
from mmseg_semi.models.teachers.base_teacher import forward_mode
from mmseg_semi.structures import SemiStep
from mmseg_semi.utils.config import CfgOptions, load_config
from mmseg_semi.utils.config_settings import SEED
from mmseg_semi.utils.progress import track

#: Hooks that log, save and check a training run; none of them is for a measurement.
_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help="training config of a method, that of the run's work folder")
    parser.add_argument('checkpoint')
    parser.add_argument(
        '--truth', required=True, metavar='DIR', help='true masks of the unlabeled images'
    )
    parser.add_argument('--images', type=int, default=200, help='unlabeled images, 200 by default')
    parser.add_argument(
        '--gradients', type=int, default=4, metavar='N', help='batches whose gradients are taken'
    )
    parser.add_argument('--seed', type=int, default=0, help='of order, augmentation and mixing')
    parser.add_argument('--out', metavar='FILE.json', help='file for all figures')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, help='override config keys')
    args = parser.parse_args(argv)
    for name, rule in (('images', Whole(1)), ('gradients', Whole(0)), ('seed', SEED)):
        try:
            rule.check(f'--{name}', getattr(args, name))
        except ValueError as error:
            parser.error(str(error))
    if args.out and not args.out.endswith('.json'):
        parser.error(f'--out must end in .json, got {args.out}')
    return args


def start_run(cfg: Config, checkpoint: str, work_dir: str, seed: int) -> Runner:
    """Build the run of a checkpoint as it stands there, with no hooks but those of components.

    Args:
        cfg: The training config.
        checkpoint: The file.
        work_dir: A folder for what the runner writes.
        seed: Seed of the batches.

    Raises:
        SystemExit: See :func:`check_run`; the model is a plain one, or the checkpoint of another.
    """
    refuse_plain(cfg)
    cfg.default_hooks = dict.fromkeys(_HOOKS)
    cfg.update(custom_hooks=[], work_dir=work_dir, log_level='ERROR', randomness=dict(seed=seed))
    cfg.update(launcher='none', load_from=None, resume=False)
    for part in ('val', 'test'):
        cfg.update({f'{part}_{name}': None for name in ('dataloader', 'cfg', 'evaluator')})
    runner = Runner.from_cfg(cfg)
    model, loop = runner.model, runner.train_loop
    check_run(runner)
    loaded = load_weights(model, checkpoint)
    changed, meta = changed_settings(loaded, runner.cfg), loaded.get('meta', {})
    trained = meta.get(SETTINGS_KEY, {})
    if trained.get('model.warmup_iters', '0') == trained.get('train_cfg.max_iters'):
        print(
            f'{checkpoint} was trained on labels alone to its end, as the guard does, so that its '
            'method has not begun: name with_unlabeled_best_*.pth or iter_*.pth of the work folder '
            "for the method's pseudo-labels",
            file=sys.stderr,
        )
    elif changed:
        print(
            f'the checkpoint was trained with {name_some([*changed.values()])}; its step is '
            'measured with what the config says now: name the config in its work folder for the '
            'step as it was',
            file=sys.stderr,
        )
    done = meta.get('iter', 0)
    model.set_progress(0, loop.max_iters, loop.iters_per_epoch)
    iteration = max(min(done, loop.max_iters - 1), model.warmup_length, 1)
    loop._iter = iteration  # hooks leave a resumed run's teacher and banks as they are
    runner.call_hook('before_train')
    model.set_progress(iteration, max(loop.max_iters, iteration + 1), loop.iters_per_epoch)
    for module in model.modules():  # the graph is gone through several times
        if getattr(module, 'with_cp', False):
            module.with_cp = False
    model.train()
    return runner


def check_run(runner: Runner) -> None:
    """Refuse a run whose steps or classes are not known.

    Raises:
        SystemExit: A loop or sampler without positions, or class names that do not fit the model.
    """
    loop, sampler = runner.train_loop, runner.train_dataloader.sampler
    for key, one, kind in (
        ('train_cfg', loop, SemiTrainLoop),
        ('train_dataloader.sampler', sampler, SemiSampler),
    ):
        if not isinstance(one, kind):
            raise SystemExit(
                f'{key}.type is {type(one).__name__}, with which nobody knows the step of an '
                f'iteration: set {key}=dict(type={kind.__name__!r}, ...)'
            )
    names = runner.train_dataloader.dataset.metainfo.get('classes') or ()
    classes = last_head(runner.model.segmentor).out_channels
    if len(names) != classes:
        raise SystemExit(
            f'train_dataloader.dataset.labeled.metainfo.classes has {len(names)} names and the '
            f'model {classes} classes: make them agree'
        )


def measure(runner: Runner, masks: AuditMasks, images: int, gradients: int) -> dict[str, Any]:
    """Go through steps of a run that stands still.

    Args:
        runner: From :func:`start_run`.
        masks: The truth.
        images: How many unlabeled images to look at, at most all.
        gradients: How many batches to take gradients of.
    """
    model, loader = runner.model, runner.train_dataloader
    dataset, sampler = loader.dataset, loader.sampler
    counts = PseudoLabelCounts(model, dataset.metainfo['classes'])
    pulls = GradientCounts(model)
    seen: list[SemiStep] = []
    model.add_observer(seen.append)
    sampler.set_position(0, seed=runner.seed)
    a_batch = sampler.samples_per_batch['unlabeled']
    images = min(images, len(dataset.unlabeled))
    batches = iter(loader)
    for i in track(range(-(-images // a_batch)), 'batches'):
        seed_step(runner.seed, get_rank(), i)
        batch = next(batches)
        data = model.data_preprocessor(batch, True)
        # Nothing moves: running statistics are put back, and no hook moves the other state.
        with forward_mode(model, 'train'), torch.set_grad_enabled(i < gradients):
            losses = model.loss(data['inputs'], data['data_samples'])
            if i < gradients:
                pulls.add(losses)
        step = seen.pop()
        truth = masks.load_batch(batch['unlabeled'], step.valid.shape[-2:]).to(step.valid.device)
        truth[images - i * a_batch :] = 255  # the last batch may be larger than what is left
        with torch.no_grad():
            counts.add(step, truth)
    return dict(images=images, **counts.figures(), gradients=pulls.figures())


# ----------------------------------------------------------------------------------------- tables


def percent(value: Optional[float], digits: int = 1) -> str:
    """Format a share; a dash where there is none."""
    return '-' if value is None else f'{100 * value:.{digits}f} %'


def number(value: Optional[float]) -> str:
    """Format a number; a dash where there is none."""
    return '-' if value is None else f'{value:.3g}'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table in Markdown."""
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines) + '\n'


def quality_row(name: str, figures: dict[str, Any]) -> list[str]:
    """Format the figures of a pseudo-label; weights only where they are not all 1."""
    weighted = figures['mean_weight'] not in (None, 1.0)
    cells = [percent(figures[key]) for key in ('selected', 'accuracy', 'accuracy_of_all')]
    cells.append(number(figures['mean_weight']) if weighted else '-')
    cells.append(percent(figures['weighted_accuracy']) if weighted else '-')
    return [name, *cells]


def quality_table(found: dict[str, Any]) -> str:
    """Format what is selected and how right it is, in the order of the step."""
    rows = [quality_row("the teacher's own", found['raw'])]
    for name, one in found['refiners'].items():
        if one['after_mixing']:  # on a part of the pixels: those where nothing was pasted
            rows.append(quality_row(f'mixed view, before {name}', one['before']))
        rows.append(quality_row(f'after {name} ({one["type"]})', one['after']))
    for name, one in found['losses'].items():
        rows.append(quality_row(f'loss {name}, stream {one["stream"]}', one))
    head = ('pseudo-label', 'selected', 'right of them', 'right of all', 'mean weight', 'weighted')
    return table(head, rows)


def change_table(found: dict[str, Any]) -> str:
    """Format what each refiner changed."""
    rows = [
        [name, change, percent(row['share'], 2)]
        + [percent(row[key]) for key in ('right_before', 'right_after')]
        for name, one in found['refiners'].items()
        for change, row in one['changes'].items()
        if row['pixels']
    ]
    return table(('refiner', 'pixels', 'share', 'right before', 'right after'), rows)


def class_table(found: dict[str, Any]) -> str:
    """Format the label after the last refiner, class by class."""
    last = [found['raw'], *(one['after'] for one in found['refiners'].values())][-1]
    rows = [
        [
            name,
            percent(one['pixels'] / max(last['pixels'], 1)),
            *(percent(one[key]) for key in ('selected', 'precision', 'recall')),
        ]
        for name, one in last['per_class'].items()
    ]
    return table(('class', 'share', 'selected', 'precision', 'recall'), rows)


def gradient_table(found: dict[str, Any]) -> str:
    """Format the gradients of the loss terms."""
    rows = [
        [name, number(one['loss']), number(one['norm']), percent(one['share'])]
        + ['-' if one['cosine'] is None else f'{one["cosine"]:.2f}']
        for name, one in found['gradients'].items()
    ]
    return table(('loss', 'value', 'gradient norm', 'share', 'cosine with supervised'), rows)


def report(found: dict[str, Any]) -> str:
    """Return the tables, in Markdown."""
    parts = [quality_table(found), change_table(found), class_table(found)]
    if found['gradients']:
        parts.append(gradient_table(found))
    return '\n'.join(parts)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options)
    with tempfile.TemporaryDirectory() as work_dir:
        runner = start_run(cfg, args.checkpoint, work_dir, args.seed)
        dataset = runner.train_dataloader.dataset
        masks = AuditMasks(dataset, args.truth, None, '--truth')
        if doubt := masks.doubt():
            print(doubt, file=sys.stderr)
        found = measure(runner, masks, args.images, args.gradients)
    of_run = dict(config=args.config, checkpoint=args.checkpoint, iteration=runner.iter)
    found = dict(of_run, truth=args.truth, seed=args.seed, **found)
    print(f'\n{found["images"]} unlabeled images as in iteration {runner.iter}\n\n{report(found)}')
    if args.out:
        write_file(args.out, json.dumps(found, indent=1) + '\n')
