"""Exponential moving average of the student's weights."""

from __future__ import annotations

from typing import Any, Optional

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmseg.registry import HOOKS

from mmseg_semi.models.segmentors.ema_teacher import (
    BUFFER_MODES,
    check_same_state,
    update_teacher,
)

from .state_hook import refuse_second


@HOOKS.register_module()
class MeanTeacherHook(Hook):
    """Move ``SemiSegmentor``'s EMA teacher, and those of its heads, after every update.

    Mean Teacher (Tarvainen and Valpola, NeurIPS 2017): ``teacher = m_t teacher + (1 - m_t)
    student`` with ``m_t = min(1 - 1 / (t + 1), momentum)``, t counted from 0, so the teacher is
    the student after the first update.

    An update is an iteration, or, when gradients are accumulated
    (``optim_wrapper.accumulative_counts``), the iterations whose gradients the optimizer applies
    together: the teacher then rests, and t stands, in the iterations between.

    At the start of a run that is not resumed the teacher is made a copy of the student. The same
    goes for the ``teacher_pairs()`` of the model's heads.

    Args:
        momentum: In [0, 1).
        buffers: ``'ema'`` moves BatchNorm statistics like parameters, ``'copy'`` takes the
            student's.
        warm_up: Whether to limit the momentum by ``1 - 1 / (t + 1)``.

    Raises:
        ValueError: An argument outside its values, a teacher of another architecture, or a model
            without an EMA teacher.
    """

    priority = 'ABOVE_NORMAL'  # before checkpoints are written

    def __init__(self, momentum: float = 0.99, buffers: str = 'ema', warm_up: bool = True) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f'MeanTeacherHook.momentum must be in [0, 1), got {momentum}')
        if buffers not in BUFFER_MODES:
            raise ValueError(
                f'MeanTeacherHook.buffers must be one of {BUFFER_MODES}, got {buffers!r}'
            )
        self.momentum, self.buffers, self.warm_up = momentum, buffers, warm_up

    def before_train(self, runner: Any) -> None:
        """Check the teacher; start it as a copy of the student unless the run is resumed."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if getattr(model, 'teacher', None) is None:
            # Not TypeError, which mmengine's call_hook wraps.
            raise ValueError(
                'MeanTeacherHook needs a model with an EMA teacher: set '
                "model.teacher=dict(type='ema') or remove the hook from custom_hooks"
            )
        refuse_second(self, runner)
        check_same_state(model.segmentor, model.teacher)
        self.head_pairs = [pair for head in model.heads.values() for pair in head.teacher_pairs()]
        if runner.iter == 0:
            model.reset_teacher()
            for teacher, student in self.head_pairs:
                update_teacher(teacher, student, momentum=0.0, buffers='copy')
        model.hook_attached(type(self).__name__)
        self.model = model

    def momentum_at(self, update: int) -> float:
        """Momentum of the move after the optimizer's ``update`` (from 0)."""
        if not self.warm_up:
            return self.momentum
        return min(1 - 1 / (update + 1), self.momentum)

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Update the teachers, if the optimizer has just updated the student."""
        wrapper, iterations = getattr(runner, 'optim_wrapper', None), 1
        if wrapper is not None:
            if not wrapper.should_update():
                return
            iterations = wrapper._accumulative_counts  # of an update; only the last may have fewer
        momentum = self.momentum_at(runner.iter // iterations)
        for teacher, student in ((self.model.teacher, self.model.segmentor), *self.head_pairs):
            update_teacher(teacher, student, momentum, self.buffers)
