"""Train a config, with or without unlabeled images, or a detector of mmdet."""

from __future__ import annotations

import argparse
import gc
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.logging import print_log

from mmseg_semi.apis.guard import (
    check_guard,
    of_labels_alone,
    set_labels_alone,
    train_labels_alone,
    wants_labels_alone,
)
from mmseg_semi.apis.runner_setup import (
    add_checks,
    check_data_paths,
    checkpoint_folder,
    enable_amp,
    enable_auto_scale_lr,
    enable_tensorboard,
    explaining_built,
    explaining_lost_ranks,
    finish_distributed,
    set_work_dir,
    setup_distributed,
)
from mmseg_semi.apis.start import StartRunner, best_of, end_logs
from mmseg_semi.files import LABELS_ALONE, check_writable
from mmseg_semi.utils.config import is_detector, load_config, parse_tool
from mmseg_semi.utils.config_settings import SEED, check_together
from mmseg_semi.utils.safe_checkpoints import (
    latest_checkpoint,
    numbered,
    refuse_incomplete,
    resumable_checkpoint,
)
from mmseg_semi.utils.weight_checks import check_pretrained, fetch, without_downloads
from mmseg_semi.utils.work_dirs import claimed, leaving_nothing
from mmseg_semi_cli import runs


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    args = parse_tool(runs.train(), argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


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
    alone = of_labels_alone(cfg)
    if args.resume or cfg.get('resume'):
        set_resume(cfg, args.resume or cfg.get('load_from') or 'auto', args.seed)
    else:
        refuse_used(checkpoint_folder(cfg))
        refuse_used(os.path.join(checkpoint_folder(cfg), LABELS_ALONE))
    if is_main_process() and '://' not in checkpoint_folder(cfg):  # a file backend of mmengine
        check_writable(
            checkpoint_folder(cfg),
            'checkpoint',
            'name another folder with --work-dir or default_hooks.checkpoint.out_dir',
        )
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
            set_labels_alone(alone, runner.max_iters, runner.seed)
            del runner
            gc.collect()  # its memory is needed
            train_labels_alone(alone, best, score)
    finish_distributed()
