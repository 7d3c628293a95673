"""Filling of memory banks."""

from __future__ import annotations

from typing import Annotated, Any, Optional

from mmseg.registry import HOOKS

from mmseg_semi.arguments import Whole, checked
from mmseg_semi.models.memories import BaseMemory

from .state_hook import StateHook


@HOOKS.register_module()
class MemoryBankHook(StateHook):
    """Push the features of an iteration into every memory (``BaseMemory``) of the model.

    How long the queues are and which features enter are arguments of the memory.

    Args:
        start: First iteration, counted from 0, whose features are pushed. Before
            ``model.warmup_iters`` there are none.
        interval: Iterations from one push to the next.

    Raises:
        ValueError: An argument is not a whole number of its range.
    """

    kind = BaseMemory

    @checked
    def __init__(
        self, start: Annotated[int, Whole(0)] = 0, interval: Annotated[int, Whole(1)] = 1
    ) -> None:
        self.start, self.interval = start, interval

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Push, or forget what this iteration noted."""
        past = runner.iter - self.start
        if past >= 0 and past % self.interval == 0:
            super().after_train_iter(runner, batch_idx, data_batch, outputs)
            return
        for memory in self.parts:
            memory.discard()
