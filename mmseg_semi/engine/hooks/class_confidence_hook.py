"""Moving of class confidences."""

from __future__ import annotations

from typing import Any, Optional

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmseg.registry import HOOKS

from mmseg_semi.models.heads import ClassConfidence


@HOOKS.register_module()
class ClassConfidenceHook(Hook):
    """Move every ``ClassConfidence`` of the model after each iteration.

    Momentum and the treatment of absent classes are arguments of ``ClassConfidence``, and its
    values are a buffer of the model, so they are in every checkpoint.

    Raises:
        ValueError: The model has no ``ClassConfidence``.
    """

    priority = 'ABOVE_NORMAL'  # before checkpoints are written

    def before_train(self, runner: Any) -> None:
        """Find the heads."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        heads = getattr(model, 'heads', {}).values()
        self.heads = [one for one in heads if isinstance(one, ClassConfidence)]
        if not self.heads:
            raise ValueError(
                'ClassConfidenceHook needs a ClassConfidence in model.heads: add '
                "heads=dict(class_confidence=dict(type='ClassConfidence')) or remove the hook "
                'from custom_hooks'
            )
        model.hook_attached(type(self).__name__)

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Update the confidences."""
        for head in self.heads:
            head.update_state()
