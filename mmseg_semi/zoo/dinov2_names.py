"""Weights of DINOv2 and of UniMatch V2's networks under the names of this package."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

#: What tells the kinds of files apart: a part of a key.
DPT, HUGGING_FACE = 'head.scratch.', 'embeddings.patch_embeddings.projection.'
#: Their names as patterns and ours, for UniMatch V2's program; {n} is a number of theirs less 1.
_HEAD = (
    (r'head\.projects\.(\d)\.', r'decode_head.projects.{0}.'),
    (r'head\.resize_layers\.(\d)\.', r'decode_head.resizes.{0}.'),
    (r'head\.scratch\.layer(\d)_rn\.', r'decode_head.reduces.{n}.'),
    (r'head\.scratch\.refinenet(\d)\.out_conv\.', r'decode_head.fusions.{n}.out_conv.'),
    (
        r'head\.scratch\.refinenet(\d)\.resConfUnit([12])\.conv([12])\.',
        r'decode_head.fusions.{n}.unit{1}.conv{2}.',
    ),
    (r'head\.scratch\.output_conv\.0\.', r'decode_head.output_conv.'),
    (r'head\.scratch\.output_conv\.2\.', r'decode_head.conv_seg.'),
)
#: In the program and never used: the deepest fusion has nothing to add.
_UNUSED = 'head.scratch.refinenet4.resConfUnit1.'
#: Their names and ours, for transformers 4 and 5.
_TRANSFORMERS = (
    ('embeddings.patch_embeddings.projection.', 'patch_embed.proj.'),
    ('embeddings.position_embeddings', 'pos_embed'),
    ('embeddings.', ''),
    ('encoder.layer.', 'blocks.'),
    ('layernorm.', 'norm.'),
    ('layer_scale1.lambda1', 'ls1.gamma'),
    ('layer_scale2.lambda1', 'ls2.gamma'),
    ('mlp.weights_in.', 'mlp.w12.'),
    ('mlp.weights_out.', 'mlp.w3.'),
    ('attention.output.dense.', 'attn.proj.'),
    ('attention.o_proj.', 'attn.proj.'),
    ('attention.attention.query.', 'attn.q.'),
    ('attention.attention.key.', 'attn.k.'),
    ('attention.attention.value.', 'attn.v.'),
    ('attention.q_proj.', 'attn.q.'),
    ('attention.k_proj.', 'attn.k.'),
    ('attention.v_proj.', 'attn.v.'),
)


def kind_of(state: Mapping[str, Tensor]) -> str:
    """Tell weights of UniMatch V2's program (``DPT``) and transformers; '' for others."""
    return next((kind for kind in (DPT, HUGGING_FACE) if any(kind in key for key in state)), '')


def rename(state: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Give weights the names of ``DINOv2`` (and, under ``DPT``, of a segmentor with its decoder).

    Args:
        state: Weights by their names in the file.
        kind: As :func:`kind_of` says.

    Raises:
        KeyError: A name that is not known.
    """
    return _rename_dpt(state) if kind == DPT else _rename_hugging_face(state)


def _rename_dpt(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    out = {}
    for name, value in state.items():
        if not name.startswith(_UNUSED):
            out[name if name.startswith('backbone.') else _ours(name)] = value
    return out


def _ours(name: str) -> str:
    for pattern, ours in _HEAD:
        match = re.match(pattern, name)
        if match:
            first = int((match.groups() or ('1',))[0])
            return ours.format(*match.groups(), n=first - 1) + name[match.end() :]
    raise KeyError(name)


def _rename_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    start = next(key.split('embeddings.')[0] for key in state if HUGGING_FACE in key)
    for name, value in state.items():
        if not name.startswith((f'{start}embeddings.', f'{start}encoder.', f'{start}layernorm.')):
            continue  # a classifier
        name = name[len(start) :]
        for theirs, ours in _TRANSFORMERS:
            name = name.replace(theirs, ours)
        out[name] = value
    for name in [one for one in out if '.attn.q.' in one]:
        parts = [out.pop(name.replace('.q.', f'.{letter}.')) for letter in 'qkv']
        out[name.replace('.q.', '.qkv.')] = torch.cat(parts)
    return out
