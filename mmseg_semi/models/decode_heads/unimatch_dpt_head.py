"""The decoder of UniMatch V2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import torch.nn.functional as F
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_semi.arguments import check_whole

#: Channels of the reassembled maps by those of the encoder; 64, 128, 256 and 384 are the head's.
WIDTHS = {
    384: (48, 96, 192, 384),
    768: (96, 192, 384, 768),
    1024: (256, 512, 1024, 1024),
    1536: (1536, 1536, 1536, 1536),
}


class ResidualUnit(nn.Module):
    """The input and two 3x3 convolutions of it, each after ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Refine (B, F, h, w)."""
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Fusion(nn.Module):
    """Add a map to what comes from the deeper ones, refine, and enlarge."""

    def __init__(self, channels: int, deepest: bool) -> None:
        super().__init__()
        self.unit1 = None if deepest else ResidualUnit(channels)
        self.unit2 = ResidualUnit(channels)
        self.out_conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, deeper: Optional[Tensor], size: Sequence[int]) -> Tensor:
        """Fuse (B, F, h, w) into (B, F, *size)."""
        if self.unit1 is not None:
            x = deeper + self.unit1(x)
        x = F.interpolate(self.unit2(x), tuple(size), mode='bilinear', align_corners=True)
        return self.out_conv(x)


@MODELS.register_module()
class UniMatchDPTHead(BaseDecodeHead):
    """DPT's decoder as UniMatch V2 has it.

    Ranftl et al., ICCV 2021; UniMatch V2, TPAMI 2025. mmseg's ``DPTHead`` differs: it resizes the
    encoder's maps to the decoder's and not the decoder's to them, has normalization, dropout, no
    biases in the residual units, and another start of the weights.

    The four maps of a vision transformer, all at one stride, become maps at four: a 1x1 convolution
    each, then a transposed convolution by 4, one by 2, nothing, and a 3x3 convolution of stride 2.
    After a 3x3 convolution each they are fused from deep to shallow. A 3x3 convolution, ReLU and
    the classifier follow. There is no normalization; convolutions start as torch's do. The logits
    have 8 times the sides of the encoder's maps.

    The tap ``'penultimate'`` is the classifier's input.

    Args:
        in_channels: Channels of each of the four maps.
        channels: Channels of the fused maps: 64, 128, 256 or 384 for DINOv2 small, base, large or
            giant.
        widths: Channels of the four maps after the 1x1 convolutions; None: those of the program for
            ``in_channels`` of 384, 768, 1024 or 1536.
        in_index: Which of the backbone's maps these are, shallow first.
        dropout_ratio: Dropout before the classifier; the paper has none.
        align_corners: For resizing the logits to the image, True in the program.
        **kwargs: Further arguments of ``BaseDecodeHead``, such as ``num_classes``.

    Raises:
        ValueError: Not four maps, or channels for which no ``widths`` are known.
    """

    def __init__(
        self,
        in_channels: Sequence[int] = (768, 768, 768, 768),
        channels: int = 128,
        *,
        widths: Optional[Sequence[int]] = None,
        in_index: Sequence[int] = (0, 1, 2, 3),
        dropout_ratio: float = 0,
        align_corners: bool = True,
        **kwargs: Any,
    ) -> None:
        if widths is None and len({*in_channels}) == 1:
            widths = WIDTHS.get(in_channels[0])
        if widths is None:
            raise ValueError(
                f'decode_head.in_channels (UniMatchDPTHead) is {tuple(in_channels)}, for which the '
                'program has no widths: set decode_head.widths to the channels of the four maps'
            )
        for name, given in (
            ('in_channels', in_channels),
            ('widths', widths),
            ('in_index', in_index),
        ):
            if len(given) != 4:
                raise ValueError(
                    f'decode_head.{name} (UniMatchDPTHead) must have four numbers, got '
                    f'{tuple(given)}'
                )
        check_whole('decode_head.channels (UniMatchDPTHead)', channels, 1)
        kwargs.setdefault('init_cfg', None)
        super().__init__(
            tuple(in_channels),
            channels,
            in_index=tuple(in_index),
            input_transform=kwargs.pop('input_transform', 'multiple_select'),
            dropout_ratio=dropout_ratio,
            align_corners=align_corners,
            **kwargs,
        )
        self.projects = nn.ModuleList(nn.Conv2d(i, w, 1) for i, w in zip(in_channels, widths))
        self.resizes = nn.ModuleList(
            [
                nn.ConvTranspose2d(widths[0], widths[0], 4, 4),
                nn.ConvTranspose2d(widths[1], widths[1], 2, 2),
                nn.Identity(),
                nn.Conv2d(widths[3], widths[3], 3, 2, padding=1),
            ]
        )
        self.reduces = nn.ModuleList(
            nn.Conv2d(width, channels, 3, padding=1, bias=False) for width in widths
        )
        self.fusions = nn.ModuleList(Fusion(channels, level == 3) for level in range(4))
        self.output_conv = nn.Conv2d(channels, channels, 3, padding=1)

    def _forward_feature(self, inputs: Sequence[Tensor]) -> Tensor:
        """The classifier's input (B, F, 8 h, 8 w) of four maps (B, D, h, w)."""
        maps = [
            reduce(resize(project(x)))
            for x, project, resize, reduce in zip(
                self._transform_inputs(inputs), self.projects, self.resizes, self.reduces
            )
        ]
        sizes = [[2 * side for side in maps[0].shape[2:]], *(one.shape[2:] for one in maps[:3])]
        fused: Optional[Tensor] = None
        for level in (3, 2, 1, 0):
            fused = self.fusions[level](maps[level], fused, sizes[level])
        return F.relu(self.output_conv(fused))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Class logits (B, K, 8 h, 8 w) of four maps (B, D, h, w)."""
        return self.cls_seg(self._forward_feature(inputs))
