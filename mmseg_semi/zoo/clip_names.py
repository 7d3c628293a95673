"""Weights of CLIP's vision transformer of Hugging Face under the names of this package."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mmseg_semi.errors import name_some
from mmseg_semi.models.backbones.clip_vision_transformer import CLIPVisionTransformer
from mmseg_semi.utils.weight_checks import shapes_alone
from mmseg_semi.zoo.dinov2_names import join_attention

#: What tells such a file: a key of it.
PROJECTION = 'visual_projection.weight'
_TOWER = 'vision_model.'
#: Their names and ours; the first one is spelled so.
_NAMES = (
    ('pre_layrnorm.', 'norm_pre.'),
    ('post_layernorm.', 'norm.'),
    ('embeddings.class_embedding', 'cls_token'),
    ('embeddings.patch_embedding.', 'patch_embed.'),
    ('embeddings.position_embedding.weight', 'pos_embed'),
    ('encoder.layers.', 'blocks.'),
    ('self_attn.out_proj.', 'attn.proj.'),
    ('self_attn.', 'attn.'),
    ('layer_norm1.', 'norm1.'),
    ('layer_norm2.', 'norm2.'),
)


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give weights of ``CLIPModel`` or its vision part the names of ``CLIPVisionTransformer``."""
    out = {'proj.weight': state[PROJECTION]}
    for name, value in state.items():
        if name.startswith(_TOWER) and not name.endswith('position_ids'):
            name = name[len(_TOWER) :]
            for theirs, ours in _NAMES:
                name = name.replace(theirs, ours)
            out[name] = value
    return join_attention(out, '.attn.{}_proj.')


def convert(
    state: dict[str, Tensor], what: str, path: str
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Rename the tensors of CLIP's vision transformer.

    Returns:
        The state dict, and the channels, blocks and channels of an embedding.
    """
    if what == 'model':
        raise SystemExit(f'--what model: {path} is CLIP alone: use --what backbone')
    found = {name: value.float().clone() for name, value in rename(state).items()}
    blocks = {key.split('.')[1] for key in found if key.startswith('blocks.')}
    embed_dim, channels = found['proj.weight'].shape
    with shapes_alone():
        wanted = CLIPVisionTransformer(channels, len(blocks), 1, embed_dim, out_indices=())
    shapes = {name: value.shape for name, value in wanted.state_dict().items()}
    wrong = sorted(shapes.keys() ^ found.keys())
    wrong += [name for name in shapes.keys() & found.keys() if found[name].shape != shapes[name]]
    if wrong:
        raise SystemExit(
            f'{path}: no CLIP ViT with patches of 16 pixels for images of 224 x 224: '
            f'{name_some(wrong)} missing, unknown or of another shape; give the weights of '
            'openai/clip-vit-base-patch16'
        )
    return found, dict(channels=channels, depth=len(blocks), embed_dim=embed_dim)


def report(facts: Mapping[str, int], part: str, out: str) -> None:
    """Print the config lines that fit."""
    print(f'CLIP of {facts["channels"]} channels, {facts["depth"]} blocks. Config lines that fit:')
    print("  backbone: type='CLIPVisionTransformer'")
    print(f"  {part}: init_cfg=dict(type='Pretrained', checkpoint={out!r})")
