"""Steps of a model up to a point, and the features that a component reads."""

from __future__ import annotations

from typing import Any

from torch import nn

from mmseg_semi.benchmarks.measuring import advance
from mmseg_semi.models.component import Component
from mmseg_semi.models.segmentors.network import FeatureTaps
from mmseg_semi.structures import SemiStep

from .helpers import begin_step, hooked


def clean_step(model: nn.Module, data: dict[str, Any]) -> SemiStep:
    """A step up to the passes of images that are not mixed; nothing is labeled."""
    step = begin_step(hooked(model), data)
    for streams in model.passes[0]:
        model.run_pass(step, streams)
    return step


def labeled_step(model: nn.Module, data: dict[str, Any]) -> SemiStep:
    """A step up to the refined pseudo-label."""
    step = clean_step(model, data)
    model.make_pseudo_label(step)
    return step


def mixed_step(model: nn.Module, data: dict[str, Any]) -> SemiStep:
    """A step up to the mixed strong views, which the student has not seen."""
    step = labeled_step(model, data)
    model.mix_views(step)
    return step


def whole_step(model: nn.Module, data: dict[str, Any]) -> SemiStep:
    """A step up to its losses: all passes are done."""
    return advance(model, begin_step(hooked(model), data))


def taps_of(*names: str) -> FeatureTaps:
    """Taps of a component that reads these features."""
    reader = Component()
    reader.taps = names
    return FeatureTaps([reader])
