"""What a run trained on, in its log and in its checkpoints."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmseg.registry import HOOKS

from mmseg_semi.datasets.samplers import SemiSampler
from mmseg_semi.datasets.semi_dataset import SemiDataset
from mmseg_semi.datasets.splits import PARTS, dataset_names, split_hash

RECORD_KEY = 'mmseg_semi'


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

    A run that is resumed must have the split of its checkpoint's record; another effective batch
    or seed is a warning. ``load_from``, which starts a new run, is not looked at.
    """

    def __init__(self) -> None:
        self.record: dict[str, Any] | None = None
        self._loaded: dict[str, Any] | None = None
        self._configured_seed: int | None = None

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Keep the record of a checkpoint; ``before_train`` knows whether the run is resumed."""
        loaded = checkpoint.get('meta', {}).get(RECORD_KEY)
        self._loaded = loaded if isinstance(loaded, dict) else None
        # mmengine replaces it by the checkpoint's after this call.
        self._configured_seed = getattr(runner, '_randomness_cfg', {}).get('seed')

    def before_train(self, runner: Any) -> None:
        """Log the record, and compare it with that of the checkpoint that is resumed.

        Raises:
            ValueError: The resumed run was trained on another split.
        """
        self.record = make_record(runner)
        if self._loaded is not None and runner.iter > 0:  # 0 after load_from
            self._compare(self._loaded, self.record)
        runner.message_hub.update_info(RECORD_KEY, dict(self.record))
        print_log(record_line(self.record), logger='current')

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Write the record into a checkpoint."""
        if self.record is not None:
            checkpoint['meta'][RECORD_KEY] = dict(self.record)

    def _compare(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        hashes = old.get('split'), new['split']
        if None not in hashes and hashes[0] != hashes[1]:
            raise ValueError(
                f'the run to be resumed was trained on split {hashes[0]} ({old.get("labeled")} '
                f'labeled, {old.get("unlabeled")} unlabeled), but the config now gives split '
                f'{hashes[1]} ({new["labeled"]} labeled, {new["unlabeled"]} unlabeled). Put the '
                'split files back (ann_file of train_dataloader.dataset) to go on with it, or '
                'start a new run from its weights: load_from=CHECKPOINT without resume.'
            )
        batches = [[record.get(f'{part}_batch') for part in PARTS] for record in (old, new)]
        if None not in batches[0] and batches[0] != batches[1]:
            texts = [f'{batch[0]} + {batch[1]}' for batch in batches]
            _warn(
                f'the run to be resumed had an effective batch of {texts[0]} images, now it is '
                f'{texts[1]}. Its results will be those of neither; set train_dataloader.batch_size'
                ', the number of ranks or optim_wrapper.accumulative_counts as they were.'
            )
        seed = new['seed'] if self._configured_seed is None else self._configured_seed
        if old.get('seed') is not None and old['seed'] != seed:
            _warn(
                f'the run to be resumed has seed {old["seed"]}, the config says {seed}; it goes on '
                f'with seed {new["seed"]}'
            )


def make_record(runner: Any) -> dict[str, Any]:
    """Collect the facts about a run that is about to train, see ``RunRecordHook``."""
    loader = runner.train_dataloader
    labeled, unlabeled = loader.dataset, None
    if isinstance(loader.dataset, SemiDataset):
        labeled, unlabeled = loader.dataset.labeled, loader.dataset.unlabeled
    names: list[Any] = [
        dataset_names(labeled),
        [] if unlabeled is None else dataset_names(unlabeled),
    ]
    counts = [
        len(part if known is None else known) for part, known in zip((labeled, unlabeled), names)
    ]
    ranks, accumulation = get_world_size(), accumulative_counts(runner.optim_wrapper)
    batch = batch_of(loader)
    return dict(
        split=None if None in names else split_hash(*names),
        **dict(zip(PARTS, counts)),
        ranks=ranks,
        **{f'{part}_per_rank': batch[part] for part in PARTS},
        accumulation=accumulation,
        **{f'{part}_batch': ranks * batch[part] * accumulation for part in PARTS},
        seed=None if runner.seed is None else int(runner.seed),
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
        f'effective batch {record["labeled_batch"]} + {record["unlabeled_batch"]} images '
        f'({record["ranks"]} rank{"s" if record["ranks"] > 1 else ""} x '
        f'{record["labeled_per_rank"]} + {record["unlabeled_per_rank"]} x accumulation '
        f'{record["accumulation"]}), seed {record["seed"]}'
    )


def _warn(text: str) -> None:
    print_log(text, logger='current', level=logging.WARNING)
