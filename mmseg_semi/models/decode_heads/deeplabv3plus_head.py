"""The decoder that the semi-supervised papers train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import torch
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_semi.arguments import Number, OneOf, Rule, check_choice, check_whole

INITIALIZATIONS = ('torch', 'mmcv')


def reset_convolutions(module: nn.Module) -> None:
    """Start every convolution inside as torch does, weights and biases."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.reset_parameters()


@MODELS.register_module()
class DeepLabV3PlusHead(BaseDecodeHead):
    r"""DeepLabV3+ with plain convolutions, as UniMatch and the methods on it have it.

    `Chen et al., ECCV 2018 <https://arxiv.org/abs/1802.02611>`_, Fig. 2. mmseg's
    ``DepthwiseSeparableASPPHead`` differs in width, in separable convolutions, in a 3x3 projection
    and in dropout.

    ASPP on the high-level map: a 1x1 convolution, a 3x3 convolution for each of ``dilations`` and
    image pooling, concatenated in this order and projected by a 1x1 convolution. The result is
    enlarged to the low-level map, which a 1x1 convolution reduces. Both are concatenated, low level
    first; two 3x3 convolutions and the classifier follow. Every convolution but the classifier is
    without bias and has normalization and ReLU. The decoder of U2PL's program, on which S4MC and
    AEL build, has ``low_channels=256, low_bias=True, project_kernel=3, fuse_bias=True,
    dropout2d=0.1``.

    Convolutions start as torch's own do, uniform within 1 / sqrt(fan-in), as in the papers'
    programs. mmcv starts those before a normalization up to 7 times as wide, which changes nothing
    in the forward pass but divides their learning rate by the square of that, and the classifier
    4 times as narrow; ``initialization='mmcv'`` does so.

    The tap ``'aspp'`` is the projected ASPP output, ``'penultimate'`` the classifier's input.

    Args:
        in_channels: Channels of the low-level and of the high-level map.
        channels: Channels of the two 3x3 convolutions before the classifier.
        in_index: Which of the backbone's maps these are.
        dilations: Of the 3x3 branches; (6, 12, 18) goes with output stride 16, (12, 24, 36) with 8.
        aspp_channels: Channels of each branch and of the projection. None: an eighth of the
            high-level map's.
        low_channels: Channels that the low-level map is reduced to.
        low_bias: Whether the convolution that does it has a bias.
        project_kernel: Side of the kernel that projects the branches: 1 or 3.
        fuse_bias: Whether the two convolutions before the classifier have a bias.
        dropout2d: Probability with which each channel is dropped after the projection and after
            each of those two, in [0, 1).
        dropout_ratio: Dropout before the classifier; the papers have none.
        initialization: ``'torch'``, or ``'mmcv'`` for what ``init_cfg`` and mmcv do.
        norm_cfg: Normalization; None for BatchNorm.
        align_corners: Used wherever maps are resized.
        input_transform: Must be ``'multiple_select'``.
        **kwargs: Further arguments of ``BaseDecodeHead``, such as ``num_classes``.

    Raises:
        ValueError: An argument outside its values; in the forward pass, maps with other channels.
    """

    def __init__(
        self,
        in_channels: Sequence[int] = (256, 2048),
        channels: int = 256,
        *,
        in_index: Sequence[int] = (0, 3),
        dilations: Sequence[int] = (6, 12, 18),
        aspp_channels: Optional[int] = None,
        low_channels: int = 48,
        low_bias: bool = False,
        project_kernel: int = 1,
        fuse_bias: bool = False,
        dropout2d: float = 0,
        dropout_ratio: float = 0,
        initialization: str = 'torch',
        norm_cfg: Optional[dict[str, Any]] = None,
        align_corners: bool = True,
        input_transform: str = 'multiple_select',
        **kwargs: Any,
    ) -> None:
        _check_pair('in_channels', in_channels, 1)
        _check_pair('in_index', in_index, None)
        _check_dilations(dilations)
        for name, value in (('channels', channels), ('low_channels', low_channels)):
            check_whole(f'decode_head.{name} (DeepLabV3PlusHead)', value, 1)
        if aspp_channels is None:
            aspp_channels = max(in_channels[1] // 8, 1)
        check_whole('decode_head.aspp_channels (DeepLabV3PlusHead)', aspp_channels, 1)
        options: list[tuple[str, Rule, Any]] = [
            ('project_kernel', OneOf(1, 3), project_kernel),
            ('low_bias', OneOf(True, False), low_bias),
            ('fuse_bias', OneOf(True, False), fuse_bias),
            ('dropout2d', Number(0, 1, below=True), dropout2d),
        ]
        for name, rule, given in options:
            rule.check(f'decode_head.{name} (DeepLabV3PlusHead)', given)
        if input_transform != 'multiple_select':
            raise ValueError(
                "decode_head.input_transform (DeepLabV3PlusHead) must be 'multiple_select', got "
                f'{input_transform!r}: remove the key'
            )
        check_choice(
            'decode_head.initialization (DeepLabV3PlusHead)', initialization, INITIALIZATIONS
        )
        super().__init__(
            tuple(in_channels),
            channels,
            in_index=tuple(in_index),
            input_transform=input_transform,
            dropout_ratio=dropout_ratio,
            norm_cfg=norm_cfg or dict(type='BN', requires_grad=True),
            align_corners=align_corners,
            **kwargs,
        )
        self.initialization = initialization
        low, high = self.in_channels
        self.dilations, self.aspp_channels, self.low_channels = (
            tuple(dilations),
            aspp_channels,
            low_channels,
        )
        self.aspp_modules = nn.ModuleList([self._conv(high, aspp_channels)])
        self.aspp_modules.extend(self._conv(high, aspp_channels, 3, d) for d in self.dilations)
        self.image_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), self._conv(high, aspp_channels))
        branches = len(self.aspp_modules) + 1
        self.bottleneck = self._conv(branches * aspp_channels, aspp_channels, project_kernel)
        self.low_level = self._conv(low, low_channels, bias=low_bias)
        self.drop_channels = nn.Dropout2d(dropout2d)
        layers: list[nn.Module] = []
        for width in (low_channels + aspp_channels, channels):
            layers.append(self._conv(width, channels, 3, bias=fuse_bias))
            if dropout2d:
                layers.append(nn.Dropout2d(dropout2d))
        self.fuse = nn.Sequential(*layers)

    def _conv(
        self, inputs: int, outputs: int, kernel: int = 1, dilation: int = 1, bias: bool = False
    ) -> ConvModule:
        return ConvModule(
            inputs,
            outputs,
            kernel,
            padding=dilation * (kernel // 2),
            dilation=dilation,
            bias=bias,
            conv_cfg=self.conv_cfg,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg,
        )

    def init_weights(self) -> None:
        """Start the convolutions; a checkpoint in ``init_cfg`` stays loaded."""
        first = not self.is_init
        super().init_weights()
        cfgs = self.init_cfg if isinstance(self.init_cfg, list) else [self.init_cfg]
        loaded = any(cfg and cfg['type'] == 'Pretrained' for cfg in cfgs)
        if first and self.initialization == 'torch' and not loaded:
            reset_convolutions(self)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return class logits at the size of the low-level map.

        Args:
            inputs: The backbone's maps.
        """
        low, high = self._select(inputs)
        branches = [branch(high) for branch in self.aspp_modules]
        branches.append(self.image_pool(high).expand(-1, -1, *high.shape[2:]))
        aspp = self.drop_channels(self.bottleneck(torch.cat(branches, dim=1)))
        low = self.low_level(low)
        aspp = resize(aspp, low.shape[2:], mode='bilinear', align_corners=self.align_corners)
        return self.cls_seg(self.fuse(torch.cat([low, aspp], dim=1)))

    def _select(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        count = len(inputs)
        if not all(-count <= index < count for index in self.in_index):
            raise ValueError(
                f'decode_head.in_index={self.in_index} (DeepLabV3PlusHead), but the backbone gives '
                f'{count} map(s): set in_index to the low-level and the high-level one'
            )
        maps = self._transform_inputs(inputs)
        found = tuple(one.shape[1] for one in maps)
        if found != self.in_channels:
            raise ValueError(
                f'decode_head.in_channels={self.in_channels} (DeepLabV3PlusHead), but the maps '
                f'{self.in_index} of the backbone have {found} channels: set in_channels={found} '
                'or choose others with in_index'
            )
        return maps


def _check_pair(name: str, value: Any, low: Optional[int]) -> None:
    pair = isinstance(value, (list, tuple)) and len(value) == 2
    if not pair or not all(_is_whole(one, low) for one in value):
        raise ValueError(
            f'decode_head.{name} (DeepLabV3PlusHead) must be two whole numbers, of the low-level '
            f'and of the high-level map, got {value!r}'
        )


def _check_dilations(value: Any) -> None:
    known = isinstance(value, (list, tuple)) and len(value) > 0
    if not known or not all(_is_whole(one, 1) for one in value):
        raise ValueError(
            'decode_head.dilations (DeepLabV3PlusHead) must be whole numbers >= 1, such as '
            f'(6, 12, 18), got {value!r}'
        )


def _is_whole(value: Any, low: Optional[int]) -> bool:
    return type(value) is int and (low is None or value >= low)
