"""A segmentor as one graph: from the numbers of an image to logits of its size."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmseg.models.backbones.swin import ShiftWindowMSA
from mmseg.models.utils import Upsample
from mmseg.models.utils.embed import AdaptivePadding
from torch import Tensor, nn

from mmseg_semi.models.backbones.dinov2 import GRID, OFFSET, DINOv2
from mmseg_semi.models.segmentors import PatchEncoderDecoder


class Graph(nn.Module):
    """Normalizes, pads, predicts and resizes, with tensors alone.

    Args:
        segmentor: The network that predicts, in evaluation mode.
        preprocessor: Its data preprocessor.

    The input is (B, C, H, W) float32 with the values of the image files (0 to 255 for photographs),
    in the order RGB where there are three channels, the output logits (B, K, H, W).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, segmentor: Any, preprocessor: Any) -> None:
        super().__init__()
        self.segmentor = segmentor
        channels = preprocessor.mean.numel() if preprocessor._enable_normalize else 0
        swap = getattr(preprocessor, 'channel_conversion', None)
        swapped = preprocessor._channel_conversion if swap is None else swap
        # Images are loaded as BGR: without a conversion the network has seen them so.
        self.reverse = not swapped and channels == 3
        if channels:
            self.register_buffer('mean', preprocessor.mean.clone())
            self.register_buffer('std', preprocessor.std.clone())
        self.normalize = bool(channels)
        self.divisor = int((preprocessor.test_cfg or {}).get('size_divisor') or 1)
        self.padding = float(preprocessor.pad_val)
        fits = isinstance(segmentor, PatchEncoderDecoder)
        self.patch = int(segmentor.backbone.patch_size) if fits else 1

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K, H, W) of images (B, C, H, W)."""
        height: Any = images.shape[2]  # a tensor while the graph is made
        width: Any = images.shape[3]
        if self.reverse:
            images = images.flip(1)
        if self.normalize:
            images = (images - self.mean) / self.std
        if self.divisor > 1:
            below, right = (
                (side + self.divisor - 1) // self.divisor * self.divisor - side
                for side in (height, width)
            )
            images = F.pad(images, (0, right, 0, below), value=self.padding)
        size = (images.shape[2], images.shape[3])
        if self.patch > 1:  # see PatchEncoderDecoder
            fitting = [(2 * side + self.patch) // (2 * self.patch) * self.patch for side in size]
            images = F.interpolate(images, fitting, mode='bilinear', align_corners=True)
        logits = self.segmentor._forward(images)
        align = self.segmentor.align_corners
        inner = (images.shape[2], images.shape[3])
        logits = F.interpolate(logits, inner, mode='bilinear', align_corners=align)
        if self.patch > 1:
            logits = F.interpolate(logits, size, mode='bilinear', align_corners=True)
        return logits[:, :, :height, :width]


class PooledBins(nn.Module):
    """``nn.AdaptiveAvgPool2d`` of sizes that are only known when the graph runs.

    Bin i of n covers the rows from floor(i h / n) to ceil((i + 1) h / n), so the mean is a product
    with a matrix (n, h).

    Args:
        bins: n, of rows and columns.
    """

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins = bins

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, n, n) of (B, C, h, w)."""
        rows, columns = (self._means(maps.shape[dim], maps) for dim in (2, 3))
        return rows @ maps @ columns.transpose(0, 1)

    def _means(self, size: Any, maps: Tensor) -> Tensor:
        place = torch.arange(size, device=maps.device)[None]
        number = torch.arange(self.bins, device=maps.device)[:, None]
        start = torch.div(number * size, self.bins, rounding_mode='floor')
        end = torch.div((number + 1) * size + self.bins - 1, self.bins, rounding_mode='floor')
        inside = ((place >= start) & (place < end)).to(maps.dtype)
        return inside / inside.sum(dim=1, keepdim=True)


class Attention(nn.Module):
    """``nn.MultiheadAttention`` in evaluation mode, whose own graph has the sizes of one image.

    Args:
        source: The module that it replaces.
    """

    def __init__(self, source: nn.MultiheadAttention) -> None:
        super().__init__()
        self.source, self.batch_first = source, source.batch_first

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **_: Any) -> tuple[Tensor, None]:
        """(B, N, C) of (B, N, C) and twice (B, M, C); batches stand second if the source has it."""
        weights, biases = self.source.in_proj_weight.chunk(3), self.source.in_proj_bias.chunk(3)
        parts = [
            self._heads(F.linear(one if self.batch_first else one.transpose(0, 1), weight, bias))
            for one, weight, bias in zip((query, key, value), weights, biases)
        ]
        scores = parts[0] @ parts[1].transpose(2, 3) * self.source.head_dim**-0.5
        mixed = (scores.softmax(dim=-1) @ parts[2]).transpose(1, 2).flatten(2)
        out = self.source.out_proj(mixed)
        return (out if self.batch_first else out.transpose(0, 1)), None

    def _heads(self, part: Tensor) -> Tensor:
        return part.unflatten(2, (self.source.num_heads, self.source.head_dim)).transpose(1, 2)


class Enlarged(nn.Module):
    """mmseg's ``Upsample`` by a factor, without sizes that are numbers of Python.

    Args:
        source: The module that it replaces.
    """

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.factor, self.mode = source.scale_factor, source.mode
        self.align_corners = source.align_corners

    def forward(self, maps: Tensor) -> Tensor:
        """Resize (B, C, h, w)."""
        return F.interpolate(
            maps, scale_factor=self.factor, mode=self.mode, align_corners=self.align_corners
        )


class Padded(nn.Module):
    """mmseg's ``AdaptivePadding``, whose kernels are not smaller than their strides.

    Args:
        source: The module that it replaces.
    """

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.strides, self.corner = source.stride, source.padding == 'corner'
        sizes = zip(source.kernel_size, source.dilation)
        self.reaches = [(kernel - 1) * dilation + 1 for kernel, dilation in sizes]

    def forward(self, maps: Tensor) -> Tensor:
        """Pad (B, C, h, w)."""
        below, right = (
            (size + stride - 1) // stride * stride - stride + reach - size
            for size, stride, reach in zip(maps.shape[2:], self.strides, self.reaches)
        )
        if self.corner:
            return F.pad(maps, (0, right, 0, below))
        return F.pad(maps, (right // 2, right - right // 2, below // 2, below - below // 2))


class Windows(nn.Module):
    """Swin's attention in shifted windows, mmseg's ``ShiftWindowMSA``.

    Args:
        source: The module that it replaces.
    """

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.attention, self.window, self.shift = (
            source.w_msa,
            source.window_size,
            source.shift_size,
        )

    def forward(self, query: Tensor, size: tuple[Any, Any]) -> Tensor:
        """(B, H W, C) of the same."""
        (batch, _, channels), (height, width), window = query.shape, size, self.window
        rows, columns = ((side + window - 1) // window for side in size)
        tall, wide = rows * window, columns * window
        maps = query.view(batch, height, width, channels)
        maps = F.pad(maps, (0, 0, 0, wide - width, 0, tall - height))
        mask = None
        if self.shift:
            maps = torch.roll(maps, (-self.shift, -self.shift), (1, 2))
            parts = self._parts(tall)[:, None] * 3 + self._parts(wide)
            apart = (
                parts.view(rows, window, columns, window).transpose(1, 2).flatten(2).flatten(0, 1)
            )
            mask = (apart[:, None] != apart[:, :, None]).to(maps.dtype) * -100.0
        maps = maps.view(batch, rows, window, columns, window, channels).transpose(2, 3)
        found = self.attention(maps.reshape(-1, window**2, channels), mask=mask)
        found = found.view(batch, rows, columns, window, window, channels).transpose(2, 3)
        found = found.reshape(batch, tall, wide, channels)
        if self.shift:
            found = torch.roll(found, (self.shift, self.shift), (1, 2))
        return found[:, :height, :width].reshape(batch, height * width, channels)

    def _parts(self, side: Any) -> Tensor:
        """Which of three parts of the image a row or column of the last windows belongs to."""
        place = torch.arange(side)
        return (place >= side - self.window).long() + (place >= side - self.shift).long()


class Positions:
    """DINOv2's position embedding for grids that are only known when the graph runs.

    Args:
        source: The encoder, whose ``_positions`` it replaces.
    """

    def __init__(self, source: DINOv2) -> None:
        self.table = source.pos_embed

    def __call__(self, rows: Any, columns: Any) -> Tensor:
        """(1, 1 + rows columns, D)."""
        number = [torch.as_tensor(side).float() for side in (rows, columns)]
        # At the size of the weights nothing is interpolated, and with a scale of 1 nothing is.
        same = torch.logical_and(number[0] == GRID, number[1] == GRID)
        one = torch.ones(())
        scales = [torch.where(same, one, (side + OFFSET) / GRID) for side in number]
        down, across = map(self._cubic, (rows, columns), scales)
        grid = self.table[0, 1:].reshape(GRID, GRID, -1).permute(2, 0, 1)
        found = (down @ grid @ across.transpose(0, 1)).flatten(1).transpose(0, 1)
        return torch.cat([self.table[:, :1], found[None]], dim=1)

    def _cubic(self, side: Any, scale: Tensor) -> Tensor:
        """Weights (side, 37) of torch's bicubic interpolation, which repeats the border."""
        place = (torch.arange(side)[:, None] + 0.5) / scale - 0.5
        first = place.floor()
        weights = torch.zeros(())
        for tap in (-1, 0, 1, 2):
            near = (first + tap).clamp(0, GRID - 1) == torch.arange(GRID)
            weights = weights + near * _cubic_weight((place - first - tap).abs())
        return weights


def _cubic_weight(far: Tensor) -> Tensor:
    """Keys' kernel with a = -0.75 at a distance of 0 to 2."""
    near = ((1.25 * far - 2.25) * far) * far + 1
    return torch.where(far <= 1, near, ((-0.75 * far + 3.75) * far - 6) * far + 3)


def made_exportable(module: nn.Module) -> nn.Module:
    """Replace, in place, parts of a network whose graph would have the sizes of one image."""
    if isinstance(module, DINOv2) and not module.registers:
        module._positions = Positions(module)  # type: ignore[method-assign]
    for name, child in module.named_children():
        size = getattr(child, 'output_size', None)
        bins = size[0] if isinstance(size, (list, tuple)) and len(set(size)) == 1 else size
        new: nn.Module | None = None
        if isinstance(child, nn.AdaptiveAvgPool2d) and isinstance(bins, int) and bins > 1:
            new = PooledBins(bins)
        elif isinstance(child, nn.MultiheadAttention) and child.in_proj_weight is not None:
            new = Attention(child)
        elif isinstance(child, AdaptivePadding):
            new = Padded(child)
        elif isinstance(child, ShiftWindowMSA):
            new = Windows(child)
        elif isinstance(child, Upsample) and child.scale_factor:
            new = Enlarged(child)
        if new is None:
            made_exportable(child)
        else:
            setattr(module, name, new)
    return module
