"""What hooks that move the state of components share."""

from __future__ import annotations

from typing import Any, ClassVar, Optional

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch import nn


def refuse_second(hook: Hook, runner: Any) -> None:
    """Raise ValueError when the runner has another hook of the same class."""
    if sum(type(one) is type(hook) for one in getattr(runner, 'hooks', ())) > 1:
        raise ValueError(
            f'custom_hooks has {type(hook).__name__} more than once, which would move the state '
            'more than once in an iteration: leave one of them'
        )


class StateHook(Hook):
    """Calls ``update_state`` of every component of one kind after each iteration.

    The state is in buffers of the component, so it is in every checkpoint.

    Attributes:
        kind: Class of the components.
        remedy: What the config needs, for the error when there is none of them.

    Raises:
        ValueError: The model has no such component.
    """

    priority = 'ABOVE_NORMAL'  # before checkpoints are written
    kind: ClassVar[type[nn.Module]]
    remedy: ClassVar[str]

    def before_train(self, runner: Any) -> None:
        """Find the components."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self.parts = [part for part in model.modules() if isinstance(part, self.kind)]
        if not self.parts:
            raise ValueError(
                f'{type(self).__name__} needs {self.remedy}, or remove the hook from custom_hooks'
            )
        refuse_second(self, runner)
        model.hook_attached(type(self).__name__)

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Move the state."""
        for part in self.parts:
            part.update_state()
