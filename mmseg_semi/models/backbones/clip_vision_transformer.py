"""CLIP's vision transformer, with maps that are aligned with text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Optional, Union

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.model.weight_init import trunc_normal_
from mmseg.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmseg_semi.arguments import Each, OneOf, Whole, checked

from .dinov2 import Attention

PATCH = 16
#: Side of the grid of patches that the position embedding of the published weights has: 224 / 16.
GRID = 14
#: Of every normalization. CLIP itself has 1e-5, SemiVL 1e-6.
EPS = 1e-6
TRAINED = ('attention', 'all', 'none')
#: Mean and deviation of RGB images: CLIP's, and those of ImageNet weights of other networks.
CLIP_PIXELS = ((122.771, 116.746, 104.094), (68.501, 66.632, 70.323))
IMAGENET_PIXELS = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


class MLP(nn.Module):
    """Two linear layers with CLIP's approximation of GELU, x sigmoid(1.702 x), in between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, D)."""
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))


class Block(nn.Module):
    """Attention and MLP, each after a normalization, and added to its input."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=EPS)
        self.attn = Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels, eps=EPS)
        self.mlp = MLP(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, D)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def values(self, x: Tensor) -> Tensor:
        """The block's output if each token attended to itself alone, (B, N, D)."""
        attn, channels = self.attn, x.shape[-1]
        value = F.linear(self.norm1(x), attn.qkv.weight[-channels:], attn.qkv.bias[-channels:])
        x = x + attn.proj(value)
        return x + self.mlp(self.norm2(x))


@MODELS.register_module()
class CLIPVisionTransformer(BaseModule):
    """CLIP's vision transformer (B/16 by default), as SemiVL uses it.

    `Radford et al., ICML 2021 <https://arxiv.org/abs/2103.00020>`_. Maps come from the value path
    of blocks, where a token takes its own value in place of the attention's mean (MaskCLIP, Zhou
    et al., ECCV 2022). The last map is that of the last block, through the final normalization and
    CLIP's projection, of length 1 at each place: its product with the embedding of a text is the
    cosine of both. For other sizes than 224 x 224 the position embedding is interpolated, bicubic.
    ``semi2mmseg.py`` writes weights of Hugging Face under the names of this class.

    Args:
        channels: Of a token.
        depth: Number of blocks.
        heads: Of the attention.
        embed_dim: Channels of the last map, those of CLIP's texts.
        in_channels: Channels of the images.
        out_indices: Blocks, counted from 0, whose value paths are the maps before the last one.
        trained: ``'attention'``: the attention's weights and the position embedding, and nothing
            else (SemiVL); ``'all'``; ``'none'``: no gradient, and the mode is always eval.
        detail: Config of a backbone with ImageNet weights whose first map comes before all others:
            SemiVL's first stage of a ResNet on Cityscapes. It is trained unless ``trained`` is
            ``'none'``. Images are then normalized as CLIP's, and for this backbone as ImageNet's.
        with_cp: Whether activations in the blocks are computed again in the backward pass: less
            memory, more time.
        init_cfg: Weights, such as ``dict(type='Pretrained', checkpoint='FILE')``.

    Raises:
        ValueError: An argument that is not allowed; in the forward pass, images whose sides are no
            multiples of 16.
    """

    patch_size = PATCH
    scale: Tensor
    shift: Tensor

    @checked
    def __init__(
        self,
        channels: Annotated[int, Whole(1)] = 768,
        depth: Annotated[int, Whole(1)] = 12,
        heads: Annotated[int, Whole(1)] = 12,
        embed_dim: Annotated[int, Whole(1)] = 512,
        in_channels: Annotated[int, Whole(1)] = 3,
        out_indices: Annotated[Sequence[int], Each(Whole(0))] = (0, 4),
        trained: Annotated[str, OneOf(*TRAINED)] = 'attention',
        detail: Optional[dict[str, Any]] = None,
        with_cp: bool = False,
        init_cfg: Optional[Union[dict[str, Any], list[dict[str, Any]]]] = None,
    ) -> None:
        super().__init__(init_cfg)
        if channels % heads:
            raise ValueError(
                f'CLIPVisionTransformer.channels={channels} must be a multiple of heads={heads}'
            )
        if any(number >= depth for number in out_indices):
            raise ValueError(
                f'CLIPVisionTransformer.out_indices must name blocks from 0 to {depth - 1}, got '
                f'{tuple(out_indices)}'
            )
        self.out_indices, self.with_cp = tuple(out_indices), with_cp
        self.channels = (*[channels] * len(self.out_indices), embed_dim)
        self.patch_embed = nn.Conv2d(in_channels, channels, PATCH, PATCH, bias=False)
        self.cls_token = nn.Parameter(torch.zeros(channels))
        self.pos_embed = nn.Parameter(torch.zeros(1 + GRID * GRID, channels))
        self.norm_pre = nn.LayerNorm(channels, eps=EPS)
        self.blocks = nn.ModuleList(Block(channels, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(channels, eps=EPS)
        self.proj = nn.Linear(channels, embed_dim, bias=False)
        self.frozen = trained == 'none'
        if trained != 'all':
            self.requires_grad_(False)
        if trained == 'attention':
            self.pos_embed.requires_grad_(True)
            for block in self.blocks:
                block.attn.requires_grad_(True)
        self.detail: Any = None
        if detail is not None:
            self._add_detail(detail, in_channels)
        self.train()

    def _add_detail(self, detail: dict[str, Any], in_channels: int) -> None:
        if in_channels != len(CLIP_PIXELS[0]):
            raise ValueError(
                f'CLIPVisionTransformer.detail is for images of 3 channels, got in_channels='
                f'{in_channels}: leave detail out'
            )
        self.detail = MODELS.build(detail).requires_grad_(not self.frozen)
        self.detail.eval()
        with torch.no_grad():
            (first, *_) = self.detail(torch.zeros(1, in_channels, 2 * PATCH, 2 * PATCH))
        self.channels = (first.shape[1], *self.channels)
        (mean, std), (other_mean, other_std) = map(torch.tensor, (CLIP_PIXELS, IMAGENET_PIXELS))
        for name, value in (('scale', std), ('shift', mean - other_mean)):
            value = (value / other_std)[:, None, None]
            self.register_buffer(name, value, persistent=False)

    def init_weights(self) -> None:
        """Load what ``init_cfg`` says, or draw numbers."""
        if self.init_cfg:
            super().init_weights()
            return
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.detail is not None:
            self.detail.init_weights()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Encode images (B, C, H, W) into maps (B, D, H / 16, W / 16), the last (B, E, ...).

        The map of ``detail`` comes first, in its own size.
        """
        height, width = x.shape[2:]
        if height % PATCH or width % PATCH:
            raise ValueError(
                f'CLIPVisionTransformer takes images whose sides are multiples of {PATCH}, got '
                f'{height} x {width}: crop to such a size in training, as 512 x 512, and give the '
                "segmentor type='PatchEncoderDecoder', which resizes images of any size for "
                'predictions'
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self._encode(x)

    def _encode(self, x: Tensor) -> tuple[Tensor, ...]:
        size = (x.shape[2] // PATCH, x.shape[3] // PATCH)
        tokens, last = self.tokens(x), len(self.blocks) - 1
        maps: dict[int, Tensor] = {}
        for number, block in enumerate(self.blocks):
            if number in self.out_indices:
                maps[number] = self._map(self._run(block.values, tokens), size)
            if number < last:
                tokens = self._run(block, tokens)
        value = self._run(self.blocks[last].values, tokens)
        embedding = F.normalize(self.proj(self.norm(value)), dim=-1)
        out = (*(maps[number] for number in self.out_indices), self._map(embedding, size))
        if self.detail is None:
            return out
        return (self.detail(x * self.scale + self.shift)[0], *out)

    def _run(self, function: Any, tokens: Tensor) -> Tensor:
        if self.with_cp and tokens.requires_grad:
            return checkpoint(function, tokens, use_reentrant=False)
        return function(tokens)

    @staticmethod
    def _map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
        return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, *size)

    def tokens(self, x: Tensor) -> Tensor:
        """Tokens (B, 1 + h w, D) of images (B, C, 16 h, 16 w), as the first block gets them."""
        patches = self.patch_embed(x)
        tokens = torch.cat(
            [self.cls_token.expand(len(x), 1, -1), patches.flatten(2).transpose(1, 2)], dim=1
        )
        return self.norm_pre(tokens + self._positions(*patches.shape[2:]))

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Position embedding (1 + rows x columns, D) of the class token and a grid."""
        if (rows, columns) == (GRID, GRID):
            return self.pos_embed
        table = self.pos_embed[1:].float().reshape(1, GRID, GRID, -1).permute(0, 3, 1, 2)
        table = F.interpolate(table, (rows, columns), mode='bicubic')
        table = table.flatten(2).transpose(1, 2)[0].to(self.pos_embed.dtype)
        return torch.cat([self.pos_embed[:1], table])

    def train(self, mode: bool = True) -> CLIPVisionTransformer:
        """Set the mode; an encoder that is not trained stays in eval mode."""
        super().train(mode and not self.frozen)
        return self
