"""The modified aligned Xception of DeepLabV3+."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional, Union

import torch.nn.functional as F
from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from mmengine.model import BaseModule
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_semi.arguments import check_choice

OUTPUT_STRIDES = (8, 16, 32)
# Per output stride: stride of the third entry block, dilation of the middle flow, stride and
# dilation of the exit block, dilation of the last three convolutions. A layer that would have been
# strided keeps the dilation of the layers before it.
_PLANS = {32: (2, 1, 2, 1, 1), 16: (2, 1, 1, 1, 2), 8: (1, 2, 1, 2, 4)}
_MIDDLE_BLOCKS = 16
# Of the stem, the first two entry blocks, the middle flow, the exit block, the last convolutions.
_WIDTHS = (32, 64, 128, 256, 728, 1024, 1536, 2048)


class SeparableConv(DepthwiseSeparableConvModule):
    """ReLU, 3x3 depthwise convolution, norm, ReLU, 1x1 convolution, norm.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Of the depthwise convolution.
        dilation: Of the depthwise convolution.
        norm_cfg: Normalization.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        dilation: int,
        norm_cfg: dict[str, Any],
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            3,
            stride=stride,
            padding=dilation,
            dilation=dilation,
            norm_cfg=norm_cfg,
            pw_act_cfg=None,
            bias=False,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, h, w)."""
        return super().forward(F.relu(x))


class XceptionBlock(nn.Module):
    """Three separable convolutions beside a shortcut.

    Args:
        in_channels: Channels of the input.
        channels: Output channels of each convolution.
        norm_cfg: Normalization.
        stride: Of the last convolution and of the shortcut.
        dilation: Of all three convolutions.

    The shortcut is a 1x1 convolution with norm where size or channels change, else the identity.
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        norm_cfg: dict[str, Any],
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        widths = [in_channels, *channels]
        self.convs = nn.ModuleList(
            SeparableConv(before, after, stride if i == 2 else 1, dilation, norm_cfg)
            for i, (before, after) in enumerate(zip(widths, channels))
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels[-1]:
            self.shortcut = ConvModule(
                in_channels, channels[-1], 1, stride=stride, norm_cfg=norm_cfg, act_cfg=None
            )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum, and the output of the second convolution."""
        second = self.convs[1](self.convs[0](x))
        return self.convs[2](second) + self.shortcut(x), second


@MODELS.register_module()
class Xception65(BaseModule):
    """Xception-65 of DeepLabV3+, the backbone of the papers' COCO results.

    `Chen et al., ECCV 2018 <https://arxiv.org/abs/1802.02611>`_, Fig. 4: deeper than Xception,
    every max pooling replaced by a strided separable convolution, and batch normalization and ReLU
    after each 3x3 depthwise convolution. The figure does not show the other activations. They are
    placed as in Xception (Chollet, CVPR 2017): a ReLU in front of every separable convolution and
    none behind it, so that the sums with the shortcuts stay linear; one ReLU follows the last
    convolution.

    ``forward`` gives two maps for ``DeepLabV3PlusHead(in_index=(0, 1))``: the second separable
    convolution of the second entry block, after the ReLU (256 channels, stride 4), and the last one
    (2048 channels, stride ``output_stride``).

    Args:
        in_channels: Channels of the image.
        output_stride: 8, 16 or 32; smaller ones by dilation.
        norm_cfg: Normalization; None for BatchNorm.
        norm_eval: Whether BatchNorm keeps its running statistics in training.
        init_cfg: Weights, such as ``dict(type='Pretrained', checkpoint=...)``. None: Kaiming for
            convolutions.

    Raises:
        ValueError: Another output stride.
    """

    def __init__(
        self,
        in_channels: int = 3,
        output_stride: int = 16,
        norm_cfg: Optional[dict[str, Any]] = None,
        norm_eval: bool = False,
        init_cfg: Optional[Union[dict[str, Any], list[dict[str, Any]]]] = None,
    ) -> None:
        super().__init__(init_cfg)
        check_choice('backbone.output_stride (Xception65)', output_stride, OUTPUT_STRIDES)
        if init_cfg is None:
            self.init_cfg = [
                dict(type='Kaiming', layer='Conv2d', mode='fan_in'),  # for depthwise ones
                dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
            ]
        norm_cfg = norm_cfg or dict(type='BN', requires_grad=True)
        self.norm_eval = norm_eval
        entry_stride, middle, exit_stride, exit_dilation, last = _PLANS[output_stride]
        first, stem, one, two, mid, leaving, late, out_channels = _WIDTHS
        self.stem = nn.Sequential(
            ConvModule(in_channels, first, 3, stride=2, padding=1, norm_cfg=norm_cfg),
            ConvModule(first, stem, 3, padding=1, norm_cfg=norm_cfg),
        )
        self.entry1 = XceptionBlock(stem, [one] * 3, norm_cfg, stride=2)
        self.entry2 = XceptionBlock(one, [two] * 3, norm_cfg, stride=2)
        self.entry3 = XceptionBlock(two, [mid] * 3, norm_cfg, stride=entry_stride)
        self.middle = nn.ModuleList(
            XceptionBlock(mid, [mid] * 3, norm_cfg, dilation=middle) for _ in range(_MIDDLE_BLOCKS)
        )
        self.exit = XceptionBlock(
            mid, [mid, leaving, leaving], norm_cfg, stride=exit_stride, dilation=exit_dilation
        )
        self.last = nn.Sequential(
            *(
                SeparableConv(before, after, 1, last, norm_cfg)
                for before, after in ((leaving, late), (late, late), (late, out_channels))
            )
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images (B, 3, H, W) into the low-level and the high-level map."""
        x, _ = self.entry1(self.stem(x))
        x, low = self.entry2(x)
        for block in (self.entry3, *self.middle, self.exit):
            x, _ = block(x)
        return F.relu(low), F.relu(self.last(x))

    def train(self, mode: bool = True) -> Xception65:
        """Set the mode; with ``norm_eval`` BatchNorm stays in eval mode."""
        super().train(mode)
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self
