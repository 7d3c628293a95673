"""Steps whose numbers can be followed by hand: the logits of a pixel are its three colors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_semi.models.segmentors import SemiSegmentor
from mmseg_semi.structures import SemiStep

from .helpers import hooked

METHODS = Path(__file__).parents[2] / 'configs/_base_/methods'


@MODELS.register_module()
class IdentityBackboneForTest(BaseModule):
    """Gives the images as its only map."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (images,)


SEGMENTOR = dict(
    type='EncoderDecoder',
    backbone=dict(type='IdentityBackboneForTest'),
    decode_head=dict(
        type='FCNHead',
        in_channels=3,
        channels=3,
        num_convs=0,
        concat_input=False,
        num_classes=3,
        dropout_ratio=0,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    ),
    test_cfg=dict(mode='whole'),
)


def method_of(name: str) -> dict[str, Any]:
    """Arguments of the model of a paper's preset."""
    method = Config.fromfile(METHODS / f'{name}.py').method
    method.pop('type')
    return method


def identity_model(method: dict[str, Any]) -> SemiSegmentor:
    """Build a method on a network whose logits are the images; the teacher's are, too."""
    model = hooked(SemiSegmentor(SEGMENTOR, **method))
    for network in (model.segmentor, getattr(model.teacher, 'network', None)):
        if network is not None:
            head = network.decode_head.conv_seg
            head.weight.data.copy_(torch.eye(3)[:, :, None, None])
            head.bias.data.zero_()
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
