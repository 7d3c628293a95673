"""Moving of dynamic confidence thresholds."""

from __future__ import annotations

from typing import Any, Optional

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmseg.registry import HOOKS

from mmseg_semi.models.refiners import EMAThreshold


@HOOKS.register_module()
class EMAThresholdHook(Hook):
    """Move every ``EMAThreshold`` of the model after each iteration.

    Initial value, momentum and kind of update are arguments of ``EMAThreshold``, and its value is
    a buffer of the model, so it is in every checkpoint.

    Raises:
        ValueError: The model has no ``EMAThreshold``.
    """

    priority = 'ABOVE_NORMAL'  # before checkpoints are written

    def before_train(self, runner: Any) -> None:
        """Find the thresholds."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        refiners = getattr(model, 'refiners', {}).values()
        self.thresholds = [one for one in refiners if isinstance(one, EMAThreshold)]
        if not self.thresholds:
            raise ValueError(
                'EMAThresholdHook needs an EMAThreshold in model.refiners: add '
                "refiners=dict(select=dict(type='EMAThreshold')) or remove the hook from "
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
        """Update the thresholds."""
        for threshold in self.thresholds:
            threshold.update_state()
