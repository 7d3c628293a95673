"""Loading of what guides a training."""

from __future__ import annotations

from typing import Any, Optional

from mmseg.registry import HOOKS

from mmseg_semi.models.heads import CLIPGuidance

from .state_hook import StateHook


@HOOKS.register_module()
class CLIPGuidanceHook(StateHook):
    """Let every ``CLIPGuidance`` take CLIP's weights and texts at the start, which stay."""

    kind = CLIPGuidance

    def begin(self, runner: Any, model: Any) -> None:
        """Load; a run that is resumed has a student of other weights."""
        for head in self.parts:
            head.load(resumed=runner.iter > 0)

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Leave all as it is."""
