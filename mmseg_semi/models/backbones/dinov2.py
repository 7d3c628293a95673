"""DINOv2: vision transformers trained without labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, Optional, Union

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from mmengine.model.weight_init import trunc_normal_
from mmseg.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmseg_semi.arguments import Each, Number, OneOf, Whole, checked

PATCH = 14
#: Side of the grid of patches that the position embedding of the published weights has: 518 / 14.
GRID = 37
#: What Meta's program adds to a side of the grid before it divides by ``GRID``.
OFFSET = 0.1


class Architecture(NamedTuple):
    """Sizes of an encoder (Oquab et al., TMLR 2024, Table 16).

    Attributes:
        channels: Of a token.
        depth: Number of blocks.
        heads: Of the attention.
        maps: Blocks, counted from 0, after which UniMatch V2 takes its four maps.
    """

    channels: int
    depth: int
    heads: int
    maps: tuple[int, ...]


ARCHITECTURES = {
    'small': Architecture(384, 12, 6, (2, 5, 8, 11)),
    'base': Architecture(768, 12, 12, (2, 5, 8, 11)),
    'large': Architecture(1024, 24, 16, (4, 11, 17, 23)),
    'giant': Architecture(1536, 40, 24, (9, 19, 29, 39)),
}


class PatchEmbed(nn.Module):
    """The patches as tokens, each by the same linear map."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, channels, PATCH, PATCH)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, 14 h, 14 w) to maps (B, D, h, w)."""
        return self.proj(x)


class Attention(nn.Module):
    """Scaled dot product attention of all tokens with all tokens."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, D)."""
        batch, tokens, channels = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, channels // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(query, key, value)
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, channels))


class LayerScale(nn.Module):
    """A factor for each channel (Touvron et al., ICCV 2021)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        """Scale (B, N, D)."""
        return x * self.gamma


class MLP(nn.Module):
    """Two linear layers with GELU in between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, D)."""
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGLU(nn.Module):
    """A linear layer whose halves multiply, one of them after SiLU (Shazeer, 2020)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = (int(4 * channels * 2 / 3) + 7) // 8 * 8
        self.w12 = nn.Linear(channels, 2 * inner)
        self.w3 = nn.Linear(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, D)."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class Block(nn.Module):
    """Attention and MLP, each after a normalization, scaled, and added to its input."""

    def __init__(self, channels: int, heads: int, gated: bool, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = Attention(channels, heads)
        self.ls1 = LayerScale(channels)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = SwiGLU(channels) if gated else MLP(channels)
        self.ls2 = LayerScale(channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, D)."""
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


@MODELS.register_module()
class DINOv2(BaseModule):
    """Vision transformer of DINOv2, patch 14, as UniMatch V2 uses it.

    `Oquab et al., TMLR 2024 <https://arxiv.org/abs/2304.07193>`_; registers: Darcet et al., ICLR
    2024. Each map is the tokens of the patches after a block, through the encoder's one final
    normalization (UniMatch V2, TPAMI 2025). For other sizes than 518 x 518 the position embedding
    is interpolated as in Meta's program: bicubic, by (n + 0.1) / 37 for n patches a side; with
    registers by n / 37 and antialiased. The names of the weights are those of the published files
    (``dinov2_vitb14_pretrain.pth``), which are of ImageNet's mean and deviation in RGB.

    Args:
        arch: 'small', 'base', 'large' or 'giant': 384, 768, 1024 or 1536 channels.
        in_channels: Channels of the images.
        registers: Register tokens: 0, or 4 for the published weights that have them.
        out_indices: Blocks, counted from 0, that maps come from; None: UniMatch V2's four (2, 5, 8,
            11 of 12 blocks; 4, 11, 17, 23 of 24; 9, 19, 29, 39 of 40).
        depth: Number of blocks; None: the architecture's. Fewer are for tests.
        frozen: Whether no weight is trained, no gradient kept and the mode always eval.
        with_cp: Whether activations in the blocks are computed again in the backward pass: less
            memory, more time.
        drop_path_rate: Stochastic depth: the last block's probability to be left out for an image,
            falling linearly to 0 at the first block.
        init_cfg: Weights, such as ``dict(type='Pretrained', checkpoint='FILE')``.

    Raises:
        ValueError: An argument that is not allowed; in the forward pass, images whose sides are no
            multiples of 14.
    """

    patch_size = PATCH

    @checked
    def __init__(
        self,
        arch: Annotated[str, OneOf(*ARCHITECTURES)] = 'base',
        in_channels: Annotated[int, Whole(1)] = 3,
        registers: Annotated[int, Whole(0)] = 0,
        out_indices: Annotated[Optional[Sequence[int]], Each(Whole(0))] = None,
        depth: Annotated[Optional[int], Whole(1)] = None,
        frozen: bool = False,
        with_cp: bool = False,
        drop_path_rate: Annotated[float, Number(0, 1, below=True)] = 0.0,
        init_cfg: Optional[Union[dict[str, Any], list[dict[str, Any]]]] = None,
    ) -> None:
        super().__init__(init_cfg)
        channels, usual, heads, maps = ARCHITECTURES[arch]
        depth = usual if depth is None else depth
        self.out_indices = maps if out_indices is None else tuple(out_indices)
        if not self.out_indices or max(self.out_indices) >= depth:
            raise ValueError(
                f'DINOv2.out_indices must name blocks from 0 to {depth - 1}, got {self.out_indices}'
            )
        self.frozen, self.with_cp, self.registers = frozen, with_cp, registers
        self.embed_dim = channels
        self.channels = (channels,) * len(self.out_indices)
        self.patch_embed = PatchEmbed(in_channels, channels)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, channels))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + GRID * GRID, channels))
        # Published files have it; it stands for hidden patches, which segmentation has none of.
        self.mask_token = nn.Parameter(torch.zeros(1, channels), requires_grad=False)
        if registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, registers, channels))
        rates = [drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
        blocks = [Block(channels, heads, arch == 'giant', rate) for rate in rates]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.blocks[max(self.out_indices) + 1 :].requires_grad_(False)  # nothing reads them
        if frozen:
            self.requires_grad_(False).eval()

    def init_weights(self) -> None:
        """Load what ``init_cfg`` says, or draw as DINOv2's program does."""
        if self.init_cfg:
            super().init_weights()
            return
        trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        if self.registers:
            nn.init.normal_(self.register_tokens, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Encode images (B, C, H, W) into maps (B, D, H / 14, W / 14)."""
        height, width = x.shape[2:]
        if height % PATCH or width % PATCH:
            raise ValueError(
                f'DINOv2 takes images whose sides are multiples of {PATCH}, got {height} x '
                f'{width}: crop to such a size in training, as 518 x 518, and give the segmentor '
                "type='PatchEncoderDecoder', which resizes images of any size for predictions"
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self._encode(x)

    def _encode(self, x: Tensor) -> tuple[Tensor, ...]:
        patches = self.patch_embed(x)
        grid = patches.shape[2:]
        tokens = torch.cat(
            [self.cls_token.expand(x.shape[0], -1, -1), patches.flatten(2).transpose(1, 2)], dim=1
        ) + self._positions(grid[0], grid[1])
        if self.registers:
            register = self.register_tokens.expand(x.shape[0], -1, -1)
            tokens = torch.cat([tokens[:, :1], register, tokens[:, 1:]], dim=1)
        maps: dict[int, Tensor] = {}
        for number, block in enumerate(self.blocks[: max(self.out_indices) + 1]):
            if self.with_cp and tokens.requires_grad:
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
            if number in self.out_indices:
                normed = self.norm(tokens[:, 1 + self.registers :])
                maps[number] = normed.transpose(1, 2).reshape(x.shape[0], -1, *grid)
        return tuple(maps[number] for number in self.out_indices)

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Position embedding (1, 1 + rows x columns, D) of the class token and a grid."""
        if (rows, columns) == (GRID, GRID):
            return self.pos_embed
        table = self.pos_embed[:, 1:].float().reshape(1, GRID, GRID, -1).permute(0, 3, 1, 2)
        if self.registers:
            table = F.interpolate(table, (rows, columns), mode='bicubic', antialias=True)
        else:
            scale = (rows + OFFSET) / GRID, (columns + OFFSET) / GRID
            table = F.interpolate(table, scale_factor=scale, mode='bicubic')
        table = table.flatten(2).transpose(1, 2).to(self.pos_embed.dtype)
        return torch.cat([self.pos_embed[:, :1], table], dim=1)

    def train(self, mode: bool = True) -> DINOv2:
        """Set the mode; a frozen encoder stays in eval mode."""
        super().train(mode and not self.frozen)
        return self
