"""Checkpoints that are whole or not there."""

from __future__ import annotations

import logging
import os
import os.path as osp
from typing import Any, Optional

from mmengine.dist import get_world_size, is_main_process, master_only
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmseg.registry import HOOKS

from mmseg_semi.engine.stopping import StopRequest, end_run, ignore_signals
from mmseg_semi.errors import name_some
from mmseg_semi.files import PART_SUFFIX, UNLABELED_BEST
from mmseg_semi.utils.safe_checkpoints import not_finite

GRADIENTS_KEY = 'accumulated_gradients'


def updates_now(optim_wrapper: Any) -> bool:
    """Whether no gradient waits for further iterations."""
    wrappers = getattr(optim_wrapper, 'optim_wrappers', None)
    several = list(wrappers.values()) if wrappers else [optim_wrapper]
    return all(one.should_update() for one in several)


def _replace(part: str, final: str) -> None:
    """Rename a finished file into place, on disk before it is visible."""
    with open(part, 'rb') as file:
        os.fsync(file.fileno())
    os.replace(part, final)


def _refuse_infinite(runner: Any) -> None:
    """Keep the checkpoints that are there when the weights are not finite.

    Raises:
        FloatingPointError: Names some of the tensors.
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    infinite = not_finite(model.state_dict())
    if infinite:
        raise FloatingPointError(
            f'iteration {runner.iter + 1}: {len(infinite)} tensors of the model are not finite '
            f'({name_some(infinite, 3)}), so no checkpoint is written and the earlier ones are '
            'kept; lower the learning rate or clip gradients (optim_wrapper.clip_grad).'
        )


class _AtomicRunner:
    """A runner whose ``save_checkpoint`` writes aside and renames."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    @master_only
    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        _refuse_infinite(self._runner)
        final = osp.join(out_dir, filename)
        part = final + PART_SUFFIX
        try:
            self._runner.save_checkpoint(out_dir, filename + PART_SUFFIX, *args, **kwargs)
            _replace(part, final)
        except BaseException as error:
            if osp.exists(part):
                os.remove(part)
            if isinstance(error, OSError) and error.filename is None:
                error.filename = final
            raise


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, safe against being killed at any moment.

    A checkpoint is written beside its final name and renamed when complete; ``last_checkpoint``
    likewise; an outdated checkpoint is removed only after the new one is there. One whose weights
    are not finite is refused. Inside accumulated gradients it holds these too (in a single
    process; several ranks are warned when they resume there). SIGTERM, SIGINT and SIGUSR1 end a run
    after a checkpoint of the current iteration, see ``StopRequest``.
    With ``by_epoch``
    under ``SemiTrainLoop``, ``interval`` and ``save_begin`` count passes over the unlabeled
    images. Remote backends are left to mmengine.
    """

    by_epoch: bool
    filename_tmpl: str
    _gradients: Optional[dict[str, Any]] = None
    _stop: Optional[StopRequest] = None

    def before_train(self, runner: Any) -> None:
        """Turn epochs of the unlabeled part into iterations."""
        epoch = getattr(runner.train_loop, 'iters_per_epoch', None)
        if self.by_epoch and epoch is not None:
            self.by_epoch = False
            self.interval *= epoch
            self.save_begin *= epoch
            self.filename_tmpl = self.filename_tmpl.replace('epoch_', 'iter_')
        super().before_train(runner)
        if runner.iter > 0:  # 0 after load_from
            self._restore_gradients(runner)
        self._atomic = isinstance(self.file_backend, LocalBackend)
        if self._atomic and self.save_best:
            self._find_best(runner)
        if not self.save_best:  # what is resumed may have kept one
            known = runner.message_hub.runtime_info
            for key in [one for one in known if one.startswith(('best_ckpt', 'best_score'))]:
                known.pop(key)
        self._stop = StopRequest()
        self._stop.listen()

    def _find_best(self, runner: Any) -> None:
        """Look for the best checkpoint in the own folder, and leave that of another one alone.

        The path in a checkpoint is that of the run that wrote it, which may have been moved, copied
        or resumed into another folder.
        """
        single = len(self.key_indicators) == 1
        for name in self.key_indicators:
            end = '' if single else f'_{name}'
            path = runner.message_hub.runtime_info.get(f'best_ckpt{end}')
            file = osp.basename(str(path or '')).replace(UNLABELED_BEST, '')
            names = [UNLABELED_BEST + file, file]  # the guard may have taken the labels alone
            there = [one for one in names if osp.isfile(osp.join(self.out_dir, one))]
            here = osp.join(self.out_dir, there[0]) if path and there else None
            if here:
                runner.message_hub.update_info(f'best_ckpt{end}', here)
            elif path:
                for key in ('best_ckpt', 'best_score'):
                    runner.message_hub.runtime_info.pop(f'{key}{end}', None)
                print_log(
                    f'the best checkpoint so far, {path}, is not in {self.out_dir}: that of the '
                    'validations from here on is kept',
                    logger='current',
                )
            if single:
                self.best_ckpt_path = here
            else:
                self.best_ckpt_path_dict[name] = here

    def after_train(self, runner: Any) -> None:
        """Publish as mmengine does; signals are no more asked for."""
        super().after_train(runner)
        if self._stop is not None:
            self._stop.release()

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        """Save as mmengine does, and before the run ends because of a signal."""
        super().after_train_iter(runner, *args, **kwargs)
        number = self._stop.asked_of_any() if self._stop else 0
        if number:
            self._end_run(runner, number, runner.iter + 1, together=True)

    def after_val_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        """End a run in its validation because of a signal; each rank for itself."""
        number = self._stop.asked() if self._stop else 0
        if number:
            self._end_run(runner, number, runner.iter, together=False)

    def _end_run(self, runner: Any, number: int, iteration: int, together: bool) -> None:
        ignore_signals()
        saved = not self.by_epoch and iteration > 0
        path = osp.join(self.out_dir, self.filename_tmpl.format(iteration))
        if saved and self.last_ckpt != path:
            meta = dict(epoch=runner.epoch, iter=iteration)
            self._save_checkpoint_with_step(runner, iteration, meta=meta)
        end_run(runner, number, iteration, saved, together)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Keep the gradients of a checkpoint until the optimizer is there."""
        self._gradients = checkpoint.get(GRADIENTS_KEY)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Save the gradients that wait for further iterations before they are applied."""
        inside = get_world_size() == 1 and not updates_now(runner.optim_wrapper)
        if 'optimizer' in checkpoint and inside:
            checkpoint[GRADIENTS_KEY] = {
                name: parameter.grad.detach().cpu().clone()
                for name, parameter in runner.model.named_parameters()
                if parameter.grad is not None
            }

    def _restore_gradients(self, runner: Any) -> None:
        if updates_now(runner.optim_wrapper):
            return
        if self._gradients is None or get_world_size() > 1:
            print_log(
                f'the run is resumed at iteration {runner.iter}, between two updates of the '
                'optimizer (optim_wrapper.accumulative_counts), and the gradients since the last '
                'update are lost; save at multiples of it (default_hooks.checkpoint.interval)',
                logger='current',
                level=logging.WARNING,
            )
            return
        for name, parameter in runner.model.named_parameters():
            gradient = self._gradients.get(name)
            if gradient is not None:
                parameter.grad = gradient.to(parameter.device)

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict) -> None:
        if not self._atomic:
            super()._save_checkpoint_with_step(runner, step, meta)
            return
        outdated = self._register_step(runner, step)
        filename = self.filename_tmpl.format(step)
        self.last_ckpt = osp.join(self.out_dir, filename)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        # mmengine saves the last checkpoint again from within _save_best_checkpoint.
        runner = runner if isinstance(runner, _AtomicRunner) else _AtomicRunner(runner)
        runner.save_checkpoint(
            self.out_dir,
            filename,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            _write_pointer(osp.join(runner.work_dir, 'last_checkpoint'), self.last_ckpt)
            if outdated is not None and osp.isfile(outdated):
                os.remove(outdated)

    def _register_step(self, runner: Any, step: int) -> Optional[str]:
        """Note the checkpoint to be kept and return the path of the one it replaces."""
        outdated = None
        if self.max_keep_ckpts > 0 and (not self.keep_ckpt_ids or self.keep_ckpt_ids[-1] != step):
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                oldest = self.keep_ckpt_ids.popleft()
                outdated = osp.join(self.out_dir, self.filename_tmpl.format(oldest))
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        return outdated

    def _save_best_checkpoint(self, runner: Any, metrics: dict) -> None:
        if not self._atomic or not self.save_best:
            super()._save_best_checkpoint(runner, metrics)
            return
        for name in self.key_indicators:
            if name != 'auto' and name not in metrics:
                raise KeyError(
                    f"default_hooks.checkpoint.save_best: there is no metric '{name}'; validation "
                    f'gave {", ".join(metrics)}'
                )
        # mmengine removes the previous best file before it writes the new one; it is hidden from
        # it and removed afterwards.
        single = getattr(self, 'best_ckpt_path', None)
        several = dict(getattr(self, 'best_ckpt_path_dict', {}))
        self.best_ckpt_path = None
        self.best_ckpt_path_dict = dict.fromkeys(several)
        super()._save_best_checkpoint(_AtomicRunner(runner), metrics)
        self.best_ckpt_path = _keep_newer(single, self.best_ckpt_path)
        for name, path in several.items():
            newer = self.best_ckpt_path_dict.get(name)
            self.best_ckpt_path_dict[name] = _keep_newer(path, newer)


def _keep_newer(old: Optional[str], new: Optional[str]) -> Optional[str]:
    """Remove the old file when there is a new one; return the one that counts."""
    if new is None:
        return old
    if old is not None and old != new and is_main_process() and osp.isfile(old):
        os.remove(old)
    return new


def _write_pointer(path: str, target: str) -> None:
    with open(path + PART_SUFFIX, 'w') as file:
        file.write(target)
    _replace(path + PART_SUFFIX, path)
