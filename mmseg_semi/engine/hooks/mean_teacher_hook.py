"""Moving of teachers."""

from __future__ import annotations

from typing import Any, Optional

from mmseg.registry import HOOKS

from mmseg_semi.models.teachers import BaseTeacher

from .state_hook import StateHook


@HOOKS.register_module()
class MeanTeacherHook(StateHook):
    """Move ``model.teacher`` after every update of the student.

    How it moves is said by the teacher (``EMATeacher``: momentum, buffers). At the start of a run
    that is not resumed it is reset (made a copy of the student).

    An update is an iteration, or, when gradients are accumulated
    (``optim_wrapper.accumulative_counts``), the iterations whose gradients the optimizer applies
    together: the teacher rests in the iterations between. Updates are counted from the end of the
    model's warm-up, unless the teacher's ``from_start`` says otherwise. What a teacher's own passes
    found it takes in after every iteration.
    """

    kind = BaseTeacher
    moved = {name: f'model.teacher.{name}' for name in ('momentum', 'buffers', 'warm_up')}

    def find(self, model: Any) -> list[Any]:
        """Return the model's teacher, which moves what it is made of itself."""
        teacher = getattr(model, 'teacher', None)
        return [teacher] if isinstance(teacher, self.kind) else []

    def begin(self, runner: Any, model: Any) -> None:
        """Reset the teacher unless the run is resumed."""
        self.model = model
        if runner.iter == 0:
            self.parts[0].reset()

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Move the teacher, if the optimizer has just updated the student."""
        if not self.parts:
            return
        self.parts[0].update_state()
        wrapper, iterations = getattr(runner, 'optim_wrapper', None), 1
        if wrapper is not None:
            if not wrapper.should_update():
                return
            iterations = wrapper._accumulative_counts  # of an update; only the last may have fewer
        start = 0 if self.parts[0].from_start else getattr(self.model, 'warmup_length', 0)
        self.parts[0].move((runner.iter - start) // iterations)
