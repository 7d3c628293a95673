"""One training step of a model, as the runner takes it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.models.losses import CrossEntropyLoss
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmseg_semi.models.segmentors import SemiSegmentor
from mmseg_semi.models.segmentors.building import needed_hooks
from mmseg_semi.structures import SemiStep

METHODS = Path(__file__).parents[2] / 'configs' / '_base_' / 'methods'


@MODELS.register_module()
class ExactCrossEntropy(CrossEntropyLoss):
    """mmseg's loss with ``avg_non_ignore``, which does not round weights of pixels to float32."""

    def forward(self, cls_score: Tensor, label: Tensor, weight: Any = None, **_: Any) -> Tensor:
        """Return the weighted mean over the known pixels."""
        loss = nn.functional.cross_entropy(cls_score, label, ignore_index=255, reduction='none')
        loss = loss if weight is None else loss * weight
        return self.loss_weight * loss.sum() / (label != 255).sum()


def exact_segmentor(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Config of a recorded network, whose sampled losses keep float64."""
    cfg = copy.deepcopy(dict(cfg))
    for name in ('decode_head', 'auxiliary_head'):
        if cfg.get(name) and cfg[name].get('sampler'):
            cfg[name]['loss_decode']['type'] = 'ExactCrossEntropy'
    return cfg


@dataclass
class StepResult:
    """What a step left.

    Attributes:
        step: The finished step.
        losses: What ``model.loss`` returned.
        total: The trained sum.
        gradients: Of each parameter, by its name in the model.
    """

    step: SemiStep
    losses: dict[str, Tensor]
    total: Tensor
    gradients: dict[str, Tensor]


def released(preset: str, changes: Mapping[str, Any]) -> Any:
    """The released preset of a method, with single entries changed.

    Args:
        preset: Name of the file.
        changes: Values by dotted keys of ``method``, such as ``mixer.partner_stream``.
    """
    cfg = Config.fromfile(METHODS / 'released' / f'{preset}.py')
    cfg.merge_from_dict({f'method.{key}': value for key, value in changes.items()})
    return copy.deepcopy(cfg.method)


def without_type(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a component."""
    return {key: value for key, value in cfg.items() if key != 'type'}


def batch_of(
    labeled: Tensor, truth: Tensor, weak: Tensor, strong: Sequence[Tensor], valid: Tensor
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and data samples of normalized images (B, 3, H, W) and truth (Bl, H, W)."""
    samples = []
    for one in truth:
        sample = SegDataSample()
        sample.gt_sem_seg = PixelData(data=one.long()[None])
        samples.append(sample)
    unlabeled = [SegDataSample() for _ in range(len(weak))]
    inputs = dict(labeled=labeled, weak=weak, strong=list(strong), valid=valid.bool())
    return inputs, dict(labeled=samples, unlabeled=unlabeled)


def run_step(
    model: SemiSegmentor,
    inputs: dict[str, Any],
    samples: dict[str, Any],
    lr: Callable[[str], float],
    weight_decay: float = 0.0,
    iteration: int = 0,
    max_iters: int = 1,
) -> StepResult:
    """Take one step, losses to the first update of SGD (of any momentum).

    Args:
        model: In any mode; trained in training mode.
        inputs: As ``SemiSegmentor.loss`` takes them.
        samples: Likewise.
        lr: Learning rate of a parameter by its name.
        weight_decay: Of all parameters.
        iteration: Iterations done before.
        max_iters: Of the whole run.
    """
    seen: list[SemiStep] = []
    model.train()
    model.add_observer(seen.append)
    for cfg in needed_hooks(model):
        model.hook_attached(type(str(cfg['type']), (), {}))
    model.set_progress(iteration, max_iters)
    model.batch_checked = True
    losses = model.loss(inputs, samples)
    total, _ = model.parse_losses(losses)
    total.backward()
    parameters = {name: one for name, one in model.named_parameters() if one.grad is not None}
    gradients = {name: one.grad.clone() for name, one in parameters.items()}
    with torch.no_grad():
        for name, one in parameters.items():
            one -= lr(name) * (one.grad + weight_decay * one)
    return StepResult(seen[0], losses, total.detach(), gradients)
