"""What a run trained on, in its log and in its checkpoints."""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import mmcv
import mmengine
import mmseg
import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import BaseLoop
from mmseg.registry import HOOKS

from mmseg_semi.datasets.file_digests import changed_files, digest_parts
from mmseg_semi.datasets.samplers import SemiSampler
from mmseg_semi.datasets.semi_dataset import SemiDataset
from mmseg_semi.datasets.splits import PARTS, dataset_names, split_hash
from mmseg_semi.engine.resuming import (
    SETTINGS_KEY,
    check_resumed,
    refuse_other_statistics,
    settings_of,
)
from mmseg_semi.errors import name_some
from mmseg_semi.version import __version__

RECORD_KEY, VERSIONS_KEY = 'mmseg_semi', 'versions'
_BATCH = ('ranks', 'labeled_per_rank', 'unlabeled_per_rank', 'accumulation')


@HOOKS.register_module()
class RunRecordHook(Hook):
    """Record the split, the effective batch and the seed of a run.

    Before training one line says what they are. The same facts go to
    ``checkpoint['meta']['mmseg_semi']`` of every checkpoint and to the message hub's info
    ``mmseg_semi``, as plain numbers and texts:

    - ``split``: ``split_hash`` of the labeled and the unlabeled image names, the one that the tools
      which import and make splits print; None when a dataset keeps no list of its images.
    - ``labeled``, ``unlabeled``: numbers of images; ``unlabeled`` is 0 in supervised training.
    - ``ranks``, ``labeled_per_rank``, ``unlabeled_per_rank``, ``accumulation``: the batch of a rank
      and how many of them make one update.
    - ``labeled_batch``, ``unlabeled_batch``: images of one update, the product of these.
    - ``seed``.
    - ``files``: digests of the labeled images and masks and of the unlabeled images, see
      ``digest_parts``; empty on ranks but the main one and without lists of images.

    ``checkpoint['meta']['versions']`` has those of the packages.

    A run that is resumed must have the split of its checkpoint's record, and its model, see
    ``check_resumed``. Another batch, seed, content of the files or setting is a warning.
    ``load_from``, which starts a new run, is not looked at.
    """

    def __init__(self) -> None:
        self.record: dict[str, Any] | None = None
        self.settings: dict[str, str] = {}
        self._loaded: dict[str, Any] | None = None
        self._configured_seed: int | None = None

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Compare a checkpoint that is resumed or tested; data are compared before training.

        Raises:
            CheckpointError: See ``check_resumed`` and ``refuse_other_statistics``.
        """
        if getattr(runner, '_resume', False) and 'optimizer' in checkpoint:
            check_resumed(runner, checkpoint)
        if not isinstance(getattr(runner, '_train_loop', None), BaseLoop):
            refuse_other_statistics(runner.cfg, checkpoint)
        loaded = checkpoint.get('meta', {}).get(RECORD_KEY)
        self._loaded = loaded if isinstance(loaded, dict) else None
        # mmengine replaces it by the checkpoint's after this call.
        self._configured_seed = getattr(runner, '_randomness_cfg', {}).get('seed')

    def before_train(self, runner: Any) -> None:
        """Log the record, and compare it with that of the checkpoint that is resumed.

        Raises:
            ValueError: The resumed run was trained on another split.
        """
        self.record, self.settings = make_record(runner), settings_of(runner.cfg)
        if self._loaded is not None and runner.iter > 0:  # 0 after load_from
            self._compare(runner.train_dataloader.dataset, self._loaded, self.record)
        runner.message_hub.update_info(RECORD_KEY, dict(self.record))
        print_log(record_line(self.record), logger='current')

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Write the record into a checkpoint."""
        if self.record is not None:
            checkpoint['meta'][RECORD_KEY] = dict(self.record)
            checkpoint['meta'][SETTINGS_KEY] = dict(self.settings)
            checkpoint['meta'][VERSIONS_KEY] = versions()

    def _compare(self, dataset: Any, old: dict[str, Any], new: dict[str, Any]) -> None:
        hashes = old.get('split'), new['split']
        if None not in hashes and hashes[0] != hashes[1]:
            raise ValueError(
                f'the run to be resumed was trained on split {hashes[0]} ({old.get("labeled")} '
                f'labeled, {old.get("unlabeled")} unlabeled), but the config now gives split '
                f'{hashes[1]} ({new["labeled"]} labeled, {new["unlabeled"]} unlabeled). Put the '
                'split files back (ann_file of train_dataloader.dataset) to go on with it, or '
                'start a new run from its weights: load_from=CHECKPOINT without resume.'
            )
        if all(old.get(key) is not None for key in _BATCH) and any(
            old[key] != new[key] for key in _BATCH
        ):
            _warn(
                f'the run to be resumed had an effective batch of {batch_text(old)}, now it is '
                f'{batch_text(new)}. Its results will be those of neither; set '
                'train_dataloader.batch_size, the number of ranks or '
                'optim_wrapper.accumulative_counts as they were.'
            )
        _warn_of_files(dataset, old.get('files') or {}, new['files'])
        seed = new['seed'] if self._configured_seed is None else self._configured_seed
        if old.get('seed') is not None and old['seed'] != seed:
            _warn(
                f'the run to be resumed has seed {old["seed"]}, the config says {seed}; it goes on '
                f'with seed {new["seed"]}'
            )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a training runs on."""
    modules = (torch, mmengine, mmcv, mmseg)
    found = {module.__name__: str(module.__version__) for module in modules}
    return dict(python=platform.python_version(), mmseg_semi=__version__, **found)


def make_record(runner: Any) -> dict[str, Any]:
    """Collect the facts about a run that is about to train, see ``RunRecordHook``."""
    loader = runner.train_dataloader
    parts = _parts_of(loader.dataset)
    names = [_names_of(part) for part in parts]
    counts = [len(part if known is None else known) for part, known in zip(parts, names)]
    ranks, accumulation = get_world_size(), accumulative_counts(runner.optim_wrapper)
    batch = batch_of(loader)
    return dict(
        split=None if None in names else split_hash(*(known or [] for known in names)),
        **dict(zip(PARTS, counts)),
        ranks=ranks,
        **{f'{part}_per_rank': batch[part] for part in PARTS},
        accumulation=accumulation,
        **{f'{part}_batch': ranks * batch[part] * accumulation for part in PARTS},
        seed=None if runner.seed is None else int(runner.seed),
        files=_digests_of(parts, names),
    )


def _parts_of(dataset: Any) -> tuple[Any, Any]:
    """The labeled and the unlabeled dataset, None for none."""
    semi = isinstance(dataset, SemiDataset)
    return (dataset.labeled, dataset.unlabeled) if semi else (dataset, None)


def _names_of(part: Any) -> list[str] | None:
    return [] if part is None else dataset_names(part)


def _digests_of(parts: Sequence[Any], names: Sequence[list[str] | None]) -> dict[str, str]:
    if not is_main_process():  # it writes the checkpoints
        return {}
    (labeled, unlabeled), (ours, theirs) = parts, (one or [] for one in names)
    return digest_parts(labeled, ours, unlabeled, theirs)


def _warn_of_files(dataset: Any, old: Mapping[str, str], new: Mapping[str, str]) -> None:
    labeled, unlabeled = _parts_of(dataset)
    for part, digest in new.items():
        before = old.get(part)
        if not before or not digest or before == digest:
            continue
        owner = unlabeled if part.startswith('unlabeled') else labeled
        key = 'seg_map_path' if part.endswith('masks') else 'img_path'
        files = changed_files(before, digest, owner, _names_of(owner) or [], key)
        which = f' ({len(files)} of them: {name_some(files)})' if files else ''
        _warn(
            f'{part} of the run to be resumed have been changed since{which}, and its results '
            'will be those of neither. Put them back, or start a new run.'
        )


def batch_of(loader: Any) -> dict[str, int]:
    """Labeled and unlabeled images of a batch on a rank."""
    if isinstance(loader.sampler, SemiSampler):
        return {part: int(loader.sampler.samples_per_batch[part]) for part in PARTS}
    # A loader that was given a batch sampler has no batch size of its own.
    size = loader.batch_size or getattr(loader.batch_sampler, 'batch_size', None) or 1
    return dict(labeled=int(size), unlabeled=0)


def accumulative_counts(optim_wrapper: Any) -> int:
    """How many iterations make one update; the most of them where there are several optimizers."""
    wrappers = getattr(optim_wrapper, 'optim_wrappers', None)
    several = list(wrappers.values()) if wrappers else [optim_wrapper]
    return max(int(getattr(one, '_accumulative_counts', 1)) for one in several)


def record_line(record: dict[str, Any]) -> str:
    """The record in one line."""
    split = record['split'] or 'without hash (a dataset keeps no list of its images)'
    return (
        f'Run: split {split} ({record["labeled"]} labeled, {record["unlabeled"]} unlabeled), '
        f'effective batch {batch_text(record)}, seed {record["seed"]}'
    )


def batch_text(record: dict[str, Any]) -> str:
    """The images of an update, and what they are made of."""
    return (
        f'{record["labeled_batch"]} + {record["unlabeled_batch"]} images '
        f'({record["ranks"]} rank{"s" if record["ranks"] > 1 else ""} x '
        f'{record["labeled_per_rank"]} + {record["unlabeled_per_rank"]} x accumulation '
        f'{record["accumulation"]})'
    )


def _warn(text: str) -> None:
    print_log(text, logger='current', level=logging.WARNING)
