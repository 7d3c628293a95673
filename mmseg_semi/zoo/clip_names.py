"""Weights of CLIP's vision transformer of Hugging Face under the names of this package."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

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
    for name in [one for one in out if '.attn.q_proj.' in one]:
        parts = [out.pop(name.replace('.q_', f'.{letter}_')) for letter in 'qkv']
        out[name.replace('.q_proj.', '.qkv.')] = torch.cat(parts)
    return out
