"""The decoder of SemiVL, which segments by the likeness of pixels and texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Optional

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_semi.arguments import Each, Whole, checked
from mmseg_semi.models.class_texts import class_means, read_texts

#: Channels that a group of GroupNorm normalizes together.
GROUP = 16
#: Sides of the windows whose mean attends across classes.
POOL = 4


def conv_unit(inputs: int, channels: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """A convolution that keeps the size, GroupNorm and ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, channels, kernel, 1, padding, dilation, bias=False),
        nn.GroupNorm(max(channels // GROUP, 1), channels),
        nn.ReLU(),
    )


class ClassASPP(nn.Module):
    """Convolutions of several dilations and the image's mean, joined and added to the input."""

    def __init__(self, channels: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            conv_unit(channels, channels, 1 if dilation == 1 else 3, dilation)
            for dilation in dilations
        )
        self.pool = conv_unit(channels, channels, 1)
        self.join = conv_unit((len(dilations) + 1) * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Refine maps (N, D, h, w)."""
        mean = self.pool(x.mean((2, 3), keepdim=True)).expand_as(x)
        return x + self.join(torch.cat([*(branch(x) for branch in self.branches), mean], dim=1))


class ClassAttention(nn.Module):
    """Attention of the classes of a place to each other, and an MLP, each added to its input."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(channels)
        # Query and key know which class they are of by its text.
        self.query = nn.Linear(2 * channels, channels)
        self.key = nn.Linear(2 * channels, channels)
        self.value = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.ReLU(), nn.Linear(4 * channels, channels)
        )

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """Places (N, K, D) with the texts (K, D)."""
        normed = self.norm1(x)
        named = torch.cat([normed, text.expand_as(x)], dim=-1)
        query, key, value = (
            one.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for one in (self.query(named), self.key(named), self.value(normed))
        )
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + self.proj(mixed)
        return x + self.mlp(self.norm2(x))


class UpBlock(nn.Module):
    """Enlarge class maps by two, join a map of the encoder, and convolve twice."""

    def __init__(self, inputs: int, channels: int, skip: int, skip_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, inputs - skip_channels, 2, 2)
        self.skip = nn.Conv2d(skip, skip_channels, 1)
        self.convs = nn.Sequential(conv_unit(inputs, channels, 3), conv_unit(channels, channels, 3))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Class maps (B K, D, h, w) and a map (B, C, ...) of the encoder to (B K, F, 2 h, 2 w)."""
        x = self.up(x)
        skip = F.interpolate(self.skip(skip), x.shape[2:], mode='bilinear', align_corners=False)
        skip = skip.repeat_interleave(len(x) // len(skip), dim=0)
        return self.convs(torch.cat([x, skip], dim=1))


@MODELS.register_module()
class LanguageGuidedHead(BaseDecodeHead):
    """Decode the cosines of image and texts, each class's map by the same layers.

    SemiVL (Hoyer et al., ECCV 2024). Pixels times texts is a map for each class. Each goes through
    a 7x7 convolution and ASPP alone; then the classes of a place attend to each other, on means of
    4x4 places, with their texts; two blocks enlarge by 4, each with a map of the encoder. All
    classes share all layers, so that no parameter depends on their number; time and memory grow
    with it.

    Args:
        in_channels: Of the encoder's maps: two that are joined in the blocks, in the encoder's
            order, and the last one, which has as many as the texts.
        channels: Of a class's map.
        text: File of the texts' embeddings, see :func:`~mmseg_semi.models.class_texts.read_texts`;
            of several texts the class has the mean. It is read when a run begins and kept in
            checkpoints. None draws embeddings, which says nothing of the classes: for tests.
        dilations: Of ASPP.
        heads: Of the attention across classes.
        layers: Number of layers of attention across classes.
        widths: Channels of a class's map after each enlargement.
        skip_channels: Of the encoder's maps when they are joined, the deeper one first.
        in_index: Which maps of the encoder.
        align_corners: For resizing the logits to the image.
        **kwargs: Further arguments of ``BaseDecodeHead``, such as ``num_classes``.

    Raises:
        ValueError: An argument that is not allowed; in ``init_weights``, a file that does not fit.
        FileNotFoundError: In ``init_weights``, there is no file ``text``.
    """

    text: Tensor

    @checked
    def __init__(
        self,
        in_channels: Annotated[Sequence[int], Each(Whole(1), 3)] = (768, 768, 512),
        channels: Annotated[int, Whole(1)] = 128,
        *,
        text: Optional[str] = None,
        dilations: Annotated[Sequence[int], Each(Whole(1))] = (1, 6, 12, 18),
        heads: Annotated[int, Whole(1)] = 4,
        layers: Annotated[int, Whole(0)] = 2,
        widths: Annotated[Sequence[int], Each(Whole(1), 2)] = (64, 32),
        skip_channels: Annotated[Sequence[int], Each(Whole(1), 2)] = (32, 16),
        in_index: Annotated[Sequence[int], Each(Whole(0), 3)] = (0, 1, 2),
        align_corners: bool = False,
        **kwargs: Any,
    ) -> None:
        if channels % heads:
            raise ValueError(
                f'LanguageGuidedHead.channels={channels} must be a multiple of heads={heads}'
            )
        kwargs.setdefault('init_cfg', None)
        kwargs.setdefault('dropout_ratio', 0)
        super().__init__(
            tuple(in_channels),
            channels,
            in_index=tuple(in_index),
            input_transform=kwargs.pop('input_transform', 'multiple_select'),
            align_corners=align_corners,
            **kwargs,
        )
        self.conv_seg = None  # no layer of all classes together
        self.text_file = text
        self.register_buffer('text', F.normalize(torch.randn(self.num_classes, in_channels[2])))
        self.embed = nn.Conv2d(1, channels, 7, padding=3)
        self.aspp = ClassASPP(channels, dilations)
        self.text_proj = nn.Linear(in_channels[2], channels)
        self.attention = nn.ModuleList(ClassAttention(channels, heads) for _ in range(layers))
        inputs, skips = (channels, widths[0]), (in_channels[1], in_channels[0])
        self.ups = nn.ModuleList(map(UpBlock, inputs, widths, skips, skip_channels))
        self.classifier = nn.Conv2d(widths[1], 1, 3, padding=1)

    def init_weights(self) -> None:
        """Read the texts; the layers begin as torch's do."""
        super().init_weights()
        if self.text_file is not None:
            classes, channels = self.text.shape
            texts = read_texts('decode_head.text', self.text_file, classes, channels)
            self.text.copy_(class_means(*texts, classes))

    def attend(self, x: Tensor) -> Tensor:
        """Let the classes of (B, K, D, h, w) attend to each other, and add what they find."""
        batch, classes = x.shape[:2]
        pooled = F.avg_pool2d(x.flatten(0, 1), POOL, ceil_mode=True)
        size = pooled.shape[2:]
        places = pooled.unflatten(0, (batch, classes)).permute(0, 3, 4, 1, 2).flatten(0, 2)
        text = self.text_proj(self.text)
        for layer in self.attention:
            places = layer(places, text)
        found = places.unflatten(0, (batch, *size)).permute(0, 3, 4, 1, 2).flatten(0, 1)
        found = F.interpolate(found, x.shape[3:], mode='bilinear', align_corners=False)
        return x + found.unflatten(0, (batch, classes))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Class logits (B, K, 4 h, 4 w) of the encoder's maps (B, C, h, w)."""
        first, second, image = self._transform_inputs(inputs)
        cosine = torch.einsum('bchw,kc->bkhw', image, self.text.to(image.dtype))
        batch, classes = cosine.shape[:2]
        x = self.aspp(self.embed(cosine.flatten(0, 1)[:, None]))
        x = self.attend(x.unflatten(0, (batch, classes))).flatten(0, 1)
        for up, skip in zip(self.ups, (second, first)):
            x = up(x, skip)
        return self.classifier(x).flatten(0, 1).unflatten(0, (batch, classes))
