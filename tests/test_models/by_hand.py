"""Paper presets on a network whose logits are its input: a step can be worked out by hand."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.registry import HOOKS, MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmseg_semi.models.mixers import CutMix
from mmseg_semi.models.segmentors import SemiSegmentor
from mmseg_semi.models.segmentors.building import needed_hooks
from mmseg_semi.structures import Mix, SemiStep

from .helpers import hooked

METHODS = Path(__file__).parents[2] / 'configs' / '_base_' / 'methods'
SEGMENTOR = dict(
    type='EncoderDecoder',
    backbone=dict(type='InputForTest'),
    decode_head=dict(
        type='FCNHead',
        in_channels=3,
        channels=3,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes=3,
        align_corners=True,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    ),
    test_cfg=dict(mode='whole'),
)


@MODELS.register_module()
class InputForTest(nn.Module):
    """A backbone that gives its input."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images]


@MODELS.register_module()
class LeftHalfCutMix(CutMix):
    """Both images take their left half from the other one."""

    def plan(self, images: Tensor, step: SemiStep) -> Mix:
        mask = torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool)
        mask[..., : images.shape[-1] // 2] = True
        return Mix(mask, torch.arange(len(images)).roll(-1))


def identity(layer: nn.Module) -> None:
    """Let a 1x1 convolution give its input."""
    layer.weight.data.copy_(torch.eye(3)[..., None, None])
    layer.bias.data.zero_()


def preset(name: str, **changes: Any) -> Any:
    """A paper preset's model in float64, logits being the images, mixed by halves.

    Args:
        name: Name of the method's file.
        **changes: Values by dotted keys of the preset.
    """
    cfg = Config.fromfile(METHODS / f'{name}.py')
    cfg.merge_from_dict({f'method.{key}': value for key, value in changes.items()})
    method = copy.deepcopy(cfg.method)
    method.mixer.type = 'LeftHalfCutMix'
    model = MODELS.build(dict(segmentor=copy.deepcopy(SEGMENTOR), **method)).double().train()
    identity(model.segmentor.decode_head.conv_seg)
    for head in model.heads.values():
        if isinstance(getattr(head, 'project', [None])[-1], nn.Conv2d):
            identity(head.project[-1])
    if model.teacher is not None:
        model.teacher.reset()
    return model


def image(pixel: Sequence[float], *others: tuple[Any, Sequence[float]]) -> Tensor:
    """4x4 pixels of one value (3, 4, 4), but for ``(index, value)`` of others."""
    out = torch.tensor(pixel, dtype=torch.float64)[:, None, None].repeat(1, 4, 4)
    for index, value in others:
        changed = torch.tensor(value, dtype=torch.float64)
        out[(slice(None), *index)] = changed.view(-1, *[1] * (out[(0, *index)].dim()))
    return out


def take_step(
    model: Any,
    labeled: Tensor,
    truth: Tensor,
    unlabeled: Tensor,
    views: int = 1,
    progress: tuple[int, int, int] = (0, 8, 4),
) -> tuple[SemiStep, dict[str, Tensor], Tensor]:
    """A step to its gradients, strong views being the weak images: the step, losses and total."""
    runner = SimpleNamespace(model=model, iter=0, hooks=[])
    hooks = [HOOKS.build(dict(cfg)) for cfg in needed_hooks(model)]
    for hook in hooks:
        hook.before_train(runner)
    model.set_progress(*progress)
    steps: list[SemiStep] = []
    model.add_observer(steps.append)
    samples = []
    for one in truth:
        samples.append(SegDataSample(gt_sem_seg=PixelData(data=one[None])))
    inputs = dict(
        labeled=labeled,
        weak=unlabeled,
        strong=[unlabeled.clone() for _ in range(views)],
        valid=torch.ones(len(unlabeled), 4, 4, dtype=torch.bool),
    )
    unknown = [SegDataSample() for _ in unlabeled]
    losses = model.loss(inputs, dict(labeled=samples, unlabeled=unknown))
    total, _ = model.parse_losses(losses)
    total.backward()
    for hook in hooks:
        hook.after_train_iter(runner, 0)
    return steps[-1], losses, total


def method_of(name: str) -> dict[str, Any]:
    """Arguments of the model of a paper's preset."""
    method = Config.fromfile(METHODS / f'{name}.py').method
    method.pop('type')
    return method


def identity_model(method: dict[str, Any]) -> SemiSegmentor:
    """Build a method on a network whose logits are the images; the teacher's are, too."""
    model = hooked(SemiSegmentor(copy.deepcopy(SEGMENTOR), **method))
    for network in (model.segmentor, getattr(model.teacher, 'network', None)):
        if network is not None:
            identity(network.decode_head.conv_seg)
    model.batch_checked = True
    return model.train()


def plain(*colors: Sequence[float]) -> Tensor:
    """Images (B, 3, 4, 4) of one color each."""
    return torch.tensor(colors, dtype=torch.float32)[:, :, None, None].expand(-1, -1, 4, 4).clone()


def hand_step(
    model: SemiSegmentor,
    labeled: Tensor,
    truth: Tensor,
    weak: Tensor,
    strong: Sequence[Tensor],
    **maps: Tensor,
) -> tuple[SemiStep, dict[str, Tensor], Tensor]:
    """Run a step of normalized images: the step, its losses and their sum."""
    samples = [SegDataSample(gt_sem_seg=PixelData(data=one[None])) for one in truth]
    steps: list[SemiStep] = []
    model.add_observer(steps.append)
    valid = torch.ones_like(weak[:, 0], dtype=torch.bool)
    losses = model.loss(
        dict(labeled=labeled, weak=weak, strong=list(strong), valid=valid, maps=maps),
        dict(labeled=samples, unlabeled=[SegDataSample() for _ in weak]),
    )
    return steps[-1], losses, model.parse_losses(losses)[0]
