"""Moving of statistics of labeled pixels."""

from __future__ import annotations

from mmseg.registry import HOOKS

from mmseg_semi.models.refiners import LabeledStatistics

from .state_hook import StateHook


@HOOKS.register_module()
class LabeledStatisticsHook(StateHook):
    """Move every ``GaussianThreshold`` and ``DistributionAlignment`` after each iteration.

    Initial value and momentum are their arguments.
    """

    kind = LabeledStatistics
