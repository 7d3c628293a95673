"""Moving of dynamic confidence thresholds."""

from __future__ import annotations

from mmseg.registry import HOOKS

from mmseg_semi.models.refiners import EMAThreshold

from .state_hook import StateHook


@HOOKS.register_module()
class EMAThresholdHook(StateHook):
    """Move every ``EMAThreshold`` of the model after each iteration.

    Initial value, momentum and kind of update are arguments of ``EMAThreshold``.
    """

    kind = EMAThreshold
