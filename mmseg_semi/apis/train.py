"""Train a config, with or without unlabeled images, or a detector of mmdet."""

from __future__ import annotations

import argparse
import copy
import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.logging import print_log

from mmseg_semi.apis.runner_setup import (
    add_checks,
    check_data_paths,
    enable_amp,
    enable_auto_scale_lr,
    enable_tensorboard,
    explaining_built,
    explaining_lost_ranks,
    finish_distributed,
    set_work_dir,
    setup_distributed,
)
from mmseg_semi.apis.start import StartRunner, best_of, end_logs, start_is_best
from mmseg_semi.arguments import OneOf
from mmseg_semi.files import LABELS_ALONE, PART_SUFFIX
from mmseg_semi.utils.config import is_detector, load_config, parse_tool
from mmseg_semi.utils.config_settings import SEED, check_together
from mmseg_semi.utils.safe_checkpoints import (
    latest_checkpoint,
    numbered,
    refuse_incomplete,
    resumable_checkpoint,
)
from mmseg_semi.utils.user_variables import GUARDS
from mmseg_semi.utils.weight_checks import check_pretrained, fetch, without_downloads
from mmseg_semi.utils.work_dirs import claimed, leaving_nothing
from mmseg_semi_cli import runs


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    args = parse_tool(runs.train(), argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def checkpoint_folder(cfg: Config) -> str:
    """Where ``CheckpointHook`` writes: the folder of the run, or one of its name in ``out_dir``."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if hook.get('out_dir') in (None, cfg.work_dir):
        return str(cfg.work_dir)
    return os.path.join(hook['out_dir'], os.path.basename(cfg.work_dir.rstrip(os.sep)))


def check_writable(folder: str) -> None:
    """Try to write a file where checkpoints are going to be, before the first iteration.

    Raises:
        ValueError: It cannot be written.
    """
    if '://' in folder:  # a file backend of mmengine
        return
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f'{folder}: no checkpoint can be written there ({error.strerror}): name another folder '
            'with --work-dir or default_hooks.checkpoint.out_dir'
        ) from error


def refuse_used(folder: str) -> None:
    """Refuse to mix the checkpoints of a new run with those of an earlier one.

    Raises:
        ValueError: The folder has some.
    """
    used = [path for _, path in numbered(folder)] or sorted(Path(folder).glob('best_*.pth'))
    if used:
        raise ValueError(
            f'{folder} has checkpoints of an earlier run ({used[0].name}): go on with it by '
            '--resume, or name another --work-dir.'
        )


def set_resume(cfg: Config, resume: str, seed: int | None) -> None:
    """Point the config to the checkpoint to be resumed from and take over its seed."""
    if resume == 'auto':
        folder = checkpoint_folder(cfg)
        checkpoint = latest_checkpoint(folder)
        if checkpoint is None:
            print_log(f'no checkpoint in {folder}: training starts from scratch')
            cfg.resume = False
            return
    elif '://' in resume:
        raise SystemExit(
            f'--resume {resume}: it takes a file; load_from takes an address, and begins a new run'
        )
    else:
        checkpoint = resume
    # Samplers and data workers are seeded when they are built, before mmengine reads the file.
    written = resumable_checkpoint(checkpoint)['meta'].get('seed')
    print_log(f'goes on from {checkpoint}', logger=None)
    cfg.resume = True
    cfg.load_from = checkpoint
    if written is not None:
        cfg.setdefault('randomness', {})
        asked = f'--seed {seed}' if seed is not None else 'randomness.seed of the config'
        if cfg.randomness.get('seed') not in (None, written):
            print_log(f'{asked} is not used: the run to be resumed has seed {written}')
        cfg.randomness.seed = written


def main(argv: Sequence[str] | None = None) -> None:
    """Train."""
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    set_work_dir(cfg, args.work_dir, args.config)
    folders = (cfg.work_dir, checkpoint_folder(cfg))
    with claimed(cfg.work_dir, args.launcher), leaving_nothing(*folders, written=end_logs) as begin:
        train(cfg, args, begin)


def train(cfg: Config, args: argparse.Namespace, begin: Callable[[], None]) -> None:
    """Train in a work folder that is claimed.

    Args:
        cfg: The config.
        args: The command line.
        begin: To be called before the first step.
    """
    check_guard(cfg)
    setup_distributed(cfg, args.launcher)
    add_checks(cfg)
    enable_tensorboard(cfg)
    if args.amp:
        enable_amp(cfg)
    if args.auto_scale_lr:
        enable_auto_scale_lr(cfg)
    if args.seed is not None:
        SEED.check('--seed', args.seed)
        cfg.setdefault('randomness', {})
        cfg.randomness.seed = args.seed
    alone = copy.deepcopy(cfg)  # what the guard may train
    if cfg.get('resume'):  # load_from is a checkpoint of this run
        alone.load_from = None
    if args.resume or cfg.get('resume'):
        set_resume(cfg, args.resume or cfg.get('load_from') or 'auto', args.seed)
    else:
        refuse_used(checkpoint_folder(cfg))
        refuse_used(os.path.join(checkpoint_folder(cfg), LABELS_ALONE))
    if is_main_process():
        check_writable(checkpoint_folder(cfg))
    if cfg.get('load_from') and not cfg.get('resume'):
        refuse_incomplete(cfg.load_from, 'load_from')
        if '://' in cfg.load_from:
            fetch(f'load_from={cfg.load_from!r}', cfg.load_from, 'set it to a local file')
    check_together(cfg)
    check_data_paths(cfg, ('train', 'val') if is_detector(cfg) else ('val',))
    if cfg.get('resume'):
        cfg.model = without_downloads(cfg.model)  # all weights come from the checkpoint
        if cfg.get('guarded'):
            check_pretrained(alone)
    check_pretrained(cfg)
    with explaining_lost_ranks(), explaining_built(cfg):
        runner = StartRunner.from_cfg(cfg)
        runner.begin = begin
        runner.train()
        best, score = best_of(runner)
        if best is not None and wants_labels_alone(cfg, runner):
            alone.randomness = dict(cfg.get('randomness') or {}, seed=runner.seed)
            label_alone(alone, runner.max_iters)
            del runner
            gc.collect()  # its memory is needed
            train_labels_alone(alone, str(best), score)
    finish_distributed()


def check_guard(cfg: Config) -> None:
    """Refuse a guard that could not say which checkpoint is better.

    Raises:
        ValueError: ``guarded`` is no such value, or ``'always'`` without a score to compare.
    """
    guarded = cfg.get('guarded', False)
    OneOf(*GUARDS).check('guarded', guarded)
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    best, validates = hook.get('save_best'), cfg.get('val_dataloader') is not None
    if guarded == 'always' and not (isinstance(best, str) and validates):
        raise ValueError(
            "guarded='always' compares checkpoints by their validation, but "
            f'default_hooks.checkpoint.save_best is {best!r}'
            f"{'' if validates else ' and val_dataloader is None'}: set save_best='mIoU' and the "
            'three val_* keys, or guarded=False'
        )


def wants_labels_alone(cfg: Config, runner: StartRunner) -> bool:
    """Whether the guard trains the labels alone after a run; it goes on with what it has begun."""
    if not cfg.get('guarded') or 'segmentor' not in cfg.model:
        return False
    begun = latest_checkpoint(os.path.join(checkpoint_folder(cfg), LABELS_ALONE)) is not None
    return begun or cfg.guarded == 'always' or start_is_best(runner)


def label_alone(cfg: Config, steps: int) -> None:
    """Let a config train on labels alone, in a folder below its own.

    Args:
        cfg: The config as it was before a resumption; changed.
        steps: Of the whole run.
    """
    hook = cfg.default_hooks.checkpoint
    if hook.get('out_dir'):
        hook.out_dir = checkpoint_folder(cfg)
    cfg.work_dir = os.path.join(cfg.work_dir, LABELS_ALONE)
    if cfg.get('visualizer'):
        cfg.visualizer.name = LABELS_ALONE  # mmengine has one for each name
    cfg.model.update(warmup_iters=steps, warmup_epochs=0)
    checkpoint = latest_checkpoint(checkpoint_folder(cfg))  # of a run that was interrupted
    cfg.resume = checkpoint is not None
    if checkpoint is not None:
        cfg.load_from = checkpoint
        cfg.model = without_downloads(cfg.model)


def train_labels_alone(cfg: Config, best: str, score: float) -> None:
    """Train the labels alone to their end, and take their best checkpoint where it is better.

    Args:
        cfg: From ``label_alone``.
        best: The best checkpoint so far, which is replaced.
        score: Its score.
    """
    print_log(
        f'The guard is on: training on the labels alone, in {cfg.work_dir}, whose best checkpoint '
        'is taken where it is better (guard = False, or guarded=False, leaves that out)',
        logger='current',
    )
    runner = StartRunner.from_cfg(cfg)
    runner.train()
    found, other = best_of(runner)
    if found is None or other <= score or '://' in found:  # a file backend keeps both
        print_log(f'Best on the validation images stays {score:.2f}, {best}', logger='current')
        return
    kept = os.path.join(os.path.dirname(best), os.path.basename(found))
    if is_main_process():
        shutil.copyfile(found, kept + PART_SUFFIX)
        os.replace(kept + PART_SUFFIX, kept)
        if kept != best:
            Path(best).unlink(missing_ok=True)
    print_log(
        f'Best on the validation images: {other:.2f}, of the labels alone: {kept}',
        logger='current',
    )
