"""Filling of memory banks."""

from __future__ import annotations

from typing import Any, Optional

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmseg.registry import HOOKS

from mmseg_semi.models.memories import BaseMemory


@HOOKS.register_module()
class MemoryBankHook(Hook):
    """Push the features of an iteration into every memory (``BaseMemory``) of the model.

    How long the queues are and which features enter are arguments of the memory, and its content
    is in buffers of the model, so it is in every checkpoint.

    Args:
        start: First iteration, counted from 0, whose features are pushed. Before
            ``model.warmup_iters`` there are none.
        interval: Iterations from one push to the next.

    Raises:
        ValueError: An argument is not a whole number of its range; the model has no bank.
    """

    priority = 'ABOVE_NORMAL'  # before checkpoints are written

    def __init__(self, start: int = 0, interval: int = 1) -> None:
        for name, value, low in (('start', start, 0), ('interval', interval, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(
                    f'MemoryBankHook.{name} must be a whole number >= {low}, got {value!r}'
                )
        self.start, self.interval = start, interval

    def before_train(self, runner: Any) -> None:
        """Find the banks."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self.banks = [part for part in model.modules() if isinstance(part, BaseMemory)]
        if not self.banks:
            raise ValueError(
                'MemoryBankHook needs a component with a memory bank: add '
                "refiners=dict(weight=dict(type='RankStatisticsWeight')) or "
                "heads=dict(contrast=dict(type='ContrastHead')), or remove the hook from "
                'custom_hooks'
            )
        model.hook_attached(type(self).__name__)

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Push, or forget what this iteration noted."""
        past = runner.iter - self.start
        due = past >= 0 and past % self.interval == 0
        for bank in self.banks:
            if due:
                bank.update_state()
            else:
                bank.discard()
