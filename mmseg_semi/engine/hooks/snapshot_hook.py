"""Keeping of a student's earlier weights."""

from __future__ import annotations

import logging
from typing import Any, Optional

from mmengine.logging import print_log
from mmseg.registry import HOOKS

from mmseg_semi.models.heads import PreviousGuidance

from .state_hook import StateHook


@HOOKS.register_module()
class SnapshotHook(StateHook):
    """Keep the weights of the student for every ``PreviousGuidance``, which says when.

    Raises:
        ValueError: ``push='best'`` in a run without validation.
    """

    kind = PreviousGuidance

    def begin(self, runner: Any, model: Any) -> None:
        """Forget the weights of another run, unless this one is resumed."""
        for head in self.parts:
            if runner.iter == 0:
                head.reset()
            if head.push != 'best':
                continue
            if runner.val_loop is None:
                raise ValueError(
                    f"{head.config_key}.push is 'best', which needs a validation, and the config "
                    "has none: set val_dataloader, val_evaluator and val_cfg, or push='epochs'"
                )
            print_log(
                f"{head.config_key}.push='best' chooses the weights that label by the labels of "
                'the validation images, so that figures on these images are no fair ones: use '
                "push='epochs' where they are compared",
                logger='current',
                level=logging.WARNING,
            )

    def after_val_epoch(self, runner: Any, metrics: Optional[dict[str, float]] = None) -> None:
        """Tell the heads what a validation in training has given."""
        for head in getattr(self, 'parts', ()):
            head.validated(metrics or {})
