"""What hooks that move the state of components share."""

from __future__ import annotations

from typing import Any, ClassVar, Optional

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from torch import nn


class StateHook(Hook):
    """Moves the state of the components of one kind after each iteration.

    The state is in buffers of the component, so it is in every checkpoint. A component names the
    hook that it needs (``Component.hooks``), and ``SemiTrainLoop`` registers it; a hook of this
    kind that the config lists goes before, and one without a component is left out.

    Attributes:
        kind: Class of the components, whose ``update_state`` is called.
    """

    priority = 'ABOVE_NORMAL'  # before checkpoints are written
    kind: ClassVar[type[nn.Module]]
    parts: list[Any]

    def before_train(self, runner: Any) -> None:
        """Find the components.

        Raises:
            ValueError: There is a second hook of its class or of a subclass, which would move the
                state twice.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self.parts = self.find(model)
        if not self.parts:
            print_log(
                f'{type(self).__name__} is left out: the model has no component whose state it '
                'moves',
                logger='current',
            )
            return
        others = [one for one in getattr(runner, 'hooks', ()) if one is not self]
        for other in (one for one in others if isinstance(one, type(self))):
            if other.kind is not self.kind:  # a hook for a narrower kind moves that alone
                self.parts = [part for part in self.parts if not isinstance(part, other.kind)]
        if any(isinstance(one, type(self)) and one.kind is self.kind for one in others):
            raise ValueError(
                f'custom_hooks has {type(self).__name__} more than once (a subclass counts), which '
                'would move the state more than once in an iteration: leave one of them'
            )
        self.begin(runner, model)
        model.hook_attached(self)

    def find(self, model: Any) -> list[Any]:
        """Return the components whose state is moved; none for a plain segmentor."""
        if not hasattr(model, 'hook_attached'):
            return []
        return [part for part in model.modules() if isinstance(part, self.kind)]

    def begin(self, runner: Any, model: Any) -> None:
        """Prepare the components for the run."""

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
