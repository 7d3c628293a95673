"""Moving of class confidences."""

from __future__ import annotations

from mmseg.registry import HOOKS

from mmseg_semi.models.heads import ClassConfidence

from .state_hook import StateHook


@HOOKS.register_module()
class ClassConfidenceHook(StateHook):
    """Move every ``ClassConfidence`` of the model after each iteration.

    Momentum and the treatment of absent classes are arguments of ``ClassConfidence``.
    """

    kind = ClassConfidence
