"""The guard of own images: what the labels alone reach, and whether unlabeled images have helped.

After a run the labels alone are trained as long, in a folder below the run's, and their best
checkpoint is taken if it is better.
"""

from __future__ import annotations

import copy
import os
import re
import shutil
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.logging import print_log

from mmseg_semi.apis.runner_setup import checkpoint_folder
from mmseg_semi.apis.start import StartRunner, best_of, start_of
from mmseg_semi.arguments import OneOf
from mmseg_semi.files import LABELS_ALONE, PART_SUFFIX, UNLABELED_BEST
from mmseg_semi.utils.safe_checkpoints import latest_checkpoint
from mmseg_semi.utils.weight_checks import without_downloads


def check_guard(cfg: Config) -> None:
    """Refuse a guard that is neither on nor off, or has no best checkpoints to compare.

    Raises:
        ValueError: It is so.
    """
    OneOf(True, False).check('guarded', cfg.get('guarded', False))
    if not is_guarded(cfg):
        return
    best = ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('save_best')
    key = 'default_hooks.checkpoint.save_best' if cfg.get('val_dataloader') else 'val_dataloader'
    if not best or key == 'val_dataloader':
        raise ValueError(
            f'the guard compares the best checkpoints on validation images, but {key} is None: '
            'set it, or guard = False (guarded=False in a config without variables)'
        )


def is_guarded(cfg: Config) -> bool:
    """Whether the guard is on for a config that trains with unlabeled images."""
    return bool(cfg.get('guarded')) and 'segmentor' in cfg.model


def wants_labels_alone(cfg: Config, runner: StartRunner) -> bool:
    """Whether the guard trains the labels alone after a run, which has trained with more."""
    return is_guarded(cfg) and start_of(runner) < runner.max_iters


def of_labels_alone(cfg: Config) -> Config:
    """A copy of a config before it is pointed to a checkpoint to be resumed from."""
    alone = copy.deepcopy(cfg)
    if cfg.get('resume'):  # load_from is a checkpoint of the run with unlabeled images
        alone.load_from = None
    return alone


def set_labels_alone(cfg: Config, steps: int, seed: int) -> None:
    """Let a config train on labels alone, in a folder below its own.

    Args:
        cfg: From ``of_labels_alone``; changed.
        steps: Of the whole run.
        seed: Of the run with unlabeled images.
    """
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)
    hook = cfg.default_hooks.checkpoint
    if hook.get('out_dir'):
        hook.out_dir = checkpoint_folder(cfg)
    cfg.work_dir = os.path.join(cfg.work_dir, LABELS_ALONE)
    if cfg.get('visualizer'):
        cfg.visualizer.name = LABELS_ALONE  # mmengine has one for each name
    cfg.model.update(warmup_iters=steps, warmup_epochs=0, supervised_weight=1.0)
    checkpoint = latest_checkpoint(checkpoint_folder(cfg))  # of a run that was interrupted
    cfg.resume = checkpoint is not None
    if checkpoint is not None:
        cfg.load_from = checkpoint
        cfg.model = without_downloads(cfg.model)


def train_labels_alone(cfg: Config, best: str, score: float) -> None:
    """Train the labels alone to their end, and take their best checkpoint where it is better.

    Args:
        cfg: From ``set_labels_alone``.
        best: The best checkpoint so far, which gets another name then.
        score: Its score.
    """
    print_log(
        f'The guard is on: training as long on the labels alone, in {cfg.work_dir}, whose best '
        'checkpoint is taken where it is better (guard = False, or guarded=False, leaves that out)',
        logger='current',
    )
    runner = StartRunner.from_cfg(cfg)
    runner.train()
    found, other = best_of(runner)
    both = f'the labels alone: {other:.2f}'
    if found is None or '://' in found:  # a file backend keeps both
        print_log(f'Best on the validation images: {score:.2f} ({both}), {best}', logger='current')
    elif other > score:
        kept = os.path.join(os.path.dirname(best), os.path.basename(found))
        if is_main_process():
            take_labels_alone(found, best, kept)
        print_log(
            f'Best on the validation images: {other:.2f}, of the labels alone (with the unlabeled '
            f'images: {score:.2f}): {kept}',
            logger='current',
        )
    else:
        kept = best.replace(UNLABELED_BEST, '')
        if is_main_process():
            keep_best(best, kept)
        print_log(
            f'Best on the validation images stays {score:.2f} ({both}), {kept}', logger='current'
        )


def take_labels_alone(found: str, best: str, kept: str) -> None:
    """Copy the best checkpoint of the labels alone, and give the other one another name.

    Args:
        found: The former.
        best: The latter.
        kept: The copy, in the folder of the latter.
    """
    shutil.copyfile(found, kept + PART_SUFFIX)
    if UNLABELED_BEST not in best:
        folder, name = os.path.split(best)
        os.replace(best, os.path.join(folder, UNLABELED_BEST + name))
    keep_best(kept + PART_SUFFIX, kept)


def keep_best(file: str, kept: str) -> None:
    """Give the best checkpoint its name, and remove one that the guard has taken before it."""
    if file != kept:
        os.replace(file, kept)
    for path in Path(kept).parent.glob(re.sub(r'\d+', '*', os.path.basename(kept))):
        if path != Path(kept):
            path.unlink()
