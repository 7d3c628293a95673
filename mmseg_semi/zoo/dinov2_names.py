"""Weights of DINOv2 and of UniMatch V2's networks under the names of this package."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from mmseg_semi.models.backbones.dinov2 import ARCHITECTURES

_BACKBONE = 'backbone.'
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
    return join_attention(out, '.attn.{}.')


def join_attention(state: dict[str, Tensor], layer: str) -> dict[str, Tensor]:
    """Join the layers of query, key and value of each block into one, in place.

    Args:
        state: Weights by their names.
        layer: Part of these names, with ``{}`` for q, k or v.
    """
    for name in [one for one in state if layer.format('q') in one]:
        names = [name.replace(layer.format('q'), layer.format(letter)) for letter in 'qkv']
        joined = name.replace(layer.format('q'), '.attn.qkv.')
        state[joined] = torch.cat([state.pop(one) for one in names])
    return state


def convert(
    state: dict[str, Tensor], kind: str, what: str, path: str
) -> tuple[str, dict[str, Tensor], dict[str, int]]:
    """Rename the tensors of UniMatch V2's network, or of DINOv2 of Hugging Face.

    Returns:
        What is written, the state dict, and the channels, blocks, registers and classes.
    """
    try:
        found = rename(state, kind)
    except KeyError as error:
        raise SystemExit(
            f'{path}: the key {error} is none of UniMatch V2; --drop PREFIX leaves keys out'
        ) from error
    whole = kind == DPT
    if what == 'model' and not whole:
        raise SystemExit(f'--what model: {path} is DINOv2 alone: use --what backbone')
    part = 'model' if whole and what != 'backbone' else 'backbone'
    start = _BACKBONE if whole else ''
    encoder = {k[len(start) :]: v for k, v in found.items() if k.startswith(start)}
    blocks = {key.split('.')[1] for key in encoder if key.startswith('blocks.')}
    registers = encoder.get('register_tokens')
    facts = dict(
        channels=encoder['cls_token'].shape[-1],
        depth=len(blocks),
        registers=0 if registers is None else registers.shape[1],
    )
    if part == 'model':
        facts['num_classes'] = len(found['decode_head.conv_seg.weight'])
    return part, {k: v.clone() for k, v in (found if part == 'model' else encoder).items()}, facts


def report(facts: Mapping[str, int], part: str, out: str) -> None:
    """Print the config lines that fit."""
    arch = next((n for n, a in ARCHITECTURES.items() if a.channels == facts['channels']), '?')
    print(
        f'DINOv2 of {facts["channels"]} channels, {facts["depth"]} blocks. Config lines that fit:'
    )
    print(f"  backbone: type='DINOv2', arch={arch!r}, registers={facts['registers']}")
    if part == 'backbone':
        print(f"  backbone: init_cfg=dict(type='Pretrained', checkpoint={out!r})")
        return
    print(f"  decode_head: type='UniMatchDPTHead', num_classes={facts['num_classes']}")
    print(f'  load_from={out!r}')
