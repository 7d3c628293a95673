"""Training steps of small models, whole or up to a point."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from mmseg.registry import HOOKS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmseg_semi.models.component import Component
from mmseg_semi.models.segmentors.building import missing_hooks
from mmseg_semi.models.segmentors.network import FeatureTaps
from mmseg_semi.structures import SegOutputs, SemiStep, View


def hooked(model: nn.Module) -> nn.Module:
    """Tell a model that every hook its components need is there."""
    for cfg in missing_hooks(model, model._hooks_seen):
        model.hook_attached(HOOKS.build(dict(cfg)))
    return model


def run(model: nn.Module, data: dict[str, Any]) -> tuple[SemiStep, dict[str, Tensor]]:
    """One training step: the finished step and what it returned."""
    steps: list[SemiStep] = []
    hooked(model).add_observer(steps.append)
    losses = model(**model.data_preprocessor(deepcopy(data), True), mode='loss')
    return steps[-1], losses


def clean_step(model: nn.Module, data: dict[str, Any]) -> SemiStep:
    """A step up to the passes of images that are not mixed; nothing is labeled."""
    step = hooked(model).begin_step(**model.data_preprocessor(deepcopy(data), True))
    model.mix_labeled(step)
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
    step = mixed_step(model, data)
    for streams in model.passes[1]:
        model.run_pass(step, streams)
    return step


def bare_step(
    valid: Tensor,
    labeled_samples: list[SegDataSample] = (),
    labeled: SegOutputs | None = None,
    weak: SegOutputs | None = None,
    strong: list[View] = (),
    **more: Any,
) -> SemiStep:
    """A step without a model or images, made of the outputs that a component reads.

    Args:
        valid: Bool (Bu, H, W).
        labeled_samples: Samples of the labeled images.
        labeled: Student outputs on them.
        weak: Student outputs on the weak images.
        strong: The views of the stream ``strong``.
        **more: Further fields of ``SemiStep``, such as ``raw_pseudo``.
    """
    unlabeled, (height, width) = len(valid), valid.shape[-2:]
    images = torch.zeros(unlabeled, 3, height, width)
    step = SemiStep(
        labeled_images=torch.zeros(max(len(labeled_samples), 1), 3, height, width),
        labeled_samples=list(labeled_samples),
        weak_images=images,
        strong_images=[images for _ in strong],
        valid=valid,
        unlabeled_samples=[SegDataSample() for _ in range(unlabeled)],
        **more,
    )
    given = dict(labeled=labeled, weak=weak)
    step.streams = {name: [View(outputs=one)] for name, one in given.items() if one is not None}
    step.streams['strong'] = list(strong)
    return step


def taps_of(*names: str) -> FeatureTaps:
    """Taps of a component that reads these features."""
    reader = Component()
    reader.taps = names
    return FeatureTaps([reader])
