"""Training loop that a resumed run continues exactly."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, Optional

import numpy as np
import torch
from mmengine.dist import all_reduce_params, get_rank, get_world_size
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, IterBasedTrainLoop
from mmengine.runner.loops import _InfiniteDataloaderIterator
from mmengine.runner.utils import calc_dynamic_intervals
from mmseg.registry import LOOPS
from torch import nn

from mmseg_semi.arguments import check_whole
from mmseg_semi.engine.hooks.state_hook import StateHook
from mmseg_semi.engine.workers import end_workers, explaining, prepare_workers
from mmseg_semi.models.segmentors.building import needed_hooks


def seed_step(seed: int, rank: int, iteration: int) -> None:
    """Seed python's, numpy's and torch's generators for one iteration of one rank."""
    words = np.random.SeedSequence([seed, rank, iteration]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]))


def average_norm_statistics(model: nn.Module) -> None:
    """Average the running statistics of plain BatchNorm over the ranks.

    Every rank's normalization sees its own images. The teacher follows these statistics, validation
    uses them and a checkpoint holds those of the first rank only, so they must be the same
    everywhere. SyncBN's already are. Does nothing in a single process.
    """
    if get_world_size() == 1:
        return
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    statistics = [b for norm in norms for b in norm.buffers() if b.is_floating_point()]
    if statistics:
        all_reduce_params(statistics, op='mean')


def register_needed_hooks(runner: Any) -> None:
    """Register the hooks that components of the model need and the config does not list."""
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    for cfg in needed_hooks(model, runner.hooks):
        runner.register_hook(dict(cfg))
    for hook in runner.hooks:  # a StateHook says so itself, once it has found its components
        if not isinstance(hook, StateHook) and hasattr(model, 'hook_attached'):
            model.hook_attached(hook)


@LOOPS.register_module()
class SemiTrainLoop(IterBasedTrainLoop):
    """Iteration-based training in which nothing depends on how a run was interrupted.

    Hooks that components of the model need, and the config does not list, are registered.
    A validation that was interrupted is done when the run is resumed. Data workers get a time-out.
    Every iteration's randomness (dropout, CutMix boxes, ...) is a function of the run's seed, the
    rank and the iteration, and the sampler starts at the iteration it is told. So a checkpoint
    needs no generator states, and a resumed run replays no data.

    Args:
        runner: The runner.
        dataloader: Dataloader or its config. ``sampler.batch_size`` is taken from ``batch_size``.
        max_iters: Number of iterations; exactly one of it and ``max_epochs`` is given.
        max_epochs: Number of passes over the unlabeled images.
        val_begin: First iteration (epoch with ``max_epochs``) at which to validate.
        val_interval: Iterations (epochs with ``max_epochs``) between validations.
        dynamic_intervals: As in mmengine, in iterations.

    Raises:
        ValueError: Both or none of ``max_iters`` and ``max_epochs``, a number below 1, or a
            parameter scheduler that counts epochs.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        max_iters: Optional[int] = None,
        max_epochs: Optional[int] = None,
        val_begin: int = 1,
        val_interval: int = 1000,
        dynamic_intervals: Optional[list[tuple[int, int]]] = None,
    ) -> None:
        if (max_iters is None) == (max_epochs is None):
            raise ValueError(
                'train_cfg needs exactly one of max_iters and max_epochs, got '
                f'max_iters={max_iters}, max_epochs={max_epochs}. Set the other one to None, for '
                'example --cfg-options train_cfg.max_epochs=None train_cfg.max_iters=100.'
            )
        given: dict[str, Any] = dict(val_interval=val_interval, val_begin=val_begin)
        given['max_iters' if max_epochs is None else 'max_epochs'] = max_iters or max_epochs
        for name, value in given.items():
            check_whole(f'train_cfg.{name}', value, 1)
        if isinstance(dataloader, dict):
            dataloader = runner.build_dataloader(dataloader, seed=runner.seed)
        prepare_workers(dataloader)
        sampler = dataloader.sampler
        if hasattr(sampler, 'set_batch_size'):
            sampler.set_batch_size(dataloader.batch_size)
        self.iters_per_epoch = getattr(sampler, 'iters_per_epoch', len(dataloader))
        if max_epochs is not None:
            max_iters = int(max_epochs) * self.iters_per_epoch
            val_interval *= self.iters_per_epoch
            val_begin *= self.iters_per_epoch
        # Not IterBasedTrainLoop.__init__, which starts the data workers before the position is
        # known.
        BaseLoop.__init__(self, runner, dataloader)
        self._max_iters, self._max_epochs = int(max_iters or 0), max_epochs or 1
        self._iter = self._epoch = 0
        self.val_begin, self.val_interval = val_begin, val_interval
        self.stop_training = False
        self.dynamic_milestones, self.dynamic_intervals = calc_dynamic_intervals(
            val_interval, dynamic_intervals
        )
        runner.visualizer.dataset_meta = getattr(self.dataloader.dataset, 'metainfo', None)
        register_needed_hooks(runner)

    def run(self) -> torch.nn.Module:
        """Launch training from the runner's current iteration."""
        try:
            return self._run()
        finally:
            for loop in (self, getattr(self.runner, '_val_loop', None)):
                end_workers(getattr(loop, 'dataloader', None))

    def _run(self) -> torch.nn.Module:
        self._check_schedulers()
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        if self._iter > 0:  # its validation may have been interrupted
            self._validate()
        batches = self._batches()
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self._epoch = self._iter // self.iters_per_epoch
            # Plain datasets draw their augmentation from the global generators.
            seed_step(self.runner.seed, get_rank(), self._iter)
            with explaining('train_dataloader'):
                batch = next(batches)
            self.run_iter(batch)
            self._validate()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def _validate(self) -> None:
        """Validate after this iteration, if it is time and has not been done."""
        self._decide_current_val_interval()
        loop, hub = self.runner.val_loop, self.runner.message_hub
        last = self._iter == self._max_iters
        due = self._iter >= self.val_begin and (self._iter % self.val_interval == 0 or last)
        if loop is None or not due or hub.runtime_info.get('last_validation') == self._iter:
            return
        prepare_workers(loop.dataloader)
        with explaining('val_dataloader'):
            loop.run()
        hub.update_info('last_validation', self._iter)

    def _check_schedulers(self) -> None:
        schedulers = self.runner.param_schedulers or []
        if isinstance(schedulers, dict):
            schedulers = [one for several in schedulers.values() for one in several]
        for scheduler in schedulers:
            if scheduler.by_epoch:
                raise ValueError(
                    f'param_scheduler: {type(scheduler).__name__} has by_epoch=True, but '
                    'SemiTrainLoop counts iterations and would never move it: set by_epoch=False '
                    '(without `end` it lasts the whole run) or convert_to_iter_based=True'
                )

    def _batches(self) -> Iterator[Any]:
        sampler = self.dataloader.sampler
        if hasattr(sampler, 'set_position'):
            sampler.set_position(self._iter, seed=self.runner.seed)
            return iter(self.dataloader)
        batches = _InfiniteDataloaderIterator(self.dataloader)
        for _ in range(self._iter):  # a sampler without positions is advanced by replaying
            next(batches)
        return batches

    def run_iter(self, data_batch: Sequence[dict]) -> None:
        """Run one iteration with its own seed.

        Raises:
            FloatingPointError: The loss is not finite; names the iteration.
        """
        seed_step(self.runner.seed, get_rank(), self._iter)
        model = self.runner.model
        model = model.module if is_model_wrapper(model) else model
        if hasattr(model, 'set_progress'):
            model.set_progress(self._iter, self._max_iters, self.iters_per_epoch)
        self.runner.call_hook('before_train_iter', batch_idx=self._iter, data_batch=data_batch)
        try:
            outputs = self.runner.model.train_step(
                data_batch, optim_wrapper=self.runner.optim_wrapper
            )
        except FloatingPointError as error:
            raise FloatingPointError(f'iteration {self._iter + 1}: {error}') from None
        if not all(torch.isfinite(v).all() for k, v in outputs.items() if 'loss' in k):
            # SemiSegmentor stops before the update; a plain segmentor is stopped after it.
            raise FloatingPointError(
                f'iteration {self._iter + 1}: loss is not finite: '
                f'{ {k: float(v) for k, v in outputs.items() if "loss" in k} }. The last '
                'checkpoint is kept; lower the learning rate or clip gradients '
                '(optim_wrapper.clip_grad).'
            )
        average_norm_statistics(self.runner.model)
        self.runner.call_hook(
            'after_train_iter', batch_idx=self._iter, data_batch=data_batch, outputs=outputs
        )
        self._iter += 1
