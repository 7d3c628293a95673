"""DINOv2 against transformers' on copied weights, and what UniMatch V2 says of it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from mmseg_semi.models import DINOv2

CHANNELS = dict(small=384, base=768, large=1024, giant=1536)
#: Parameters of the published encoders, in millions.
MILLIONS = dict(small=22.06, base=86.58, large=304.37, giant=1136.48)


def random_encoder(seed=0, **given):
    """A small encoder of 3 blocks whose weights, norms and factors are all random."""
    torch.manual_seed(seed)
    encoder = DINOv2(**{**dict(arch='small', depth=3, out_indices=(0, 1, 2)), **given})
    for one in encoder.parameters():
        torch.nn.init.normal_(one, std=0.2)
    return encoder.eval()


def theirs(encoder):
    """Transformers' network with the same weights (its names are of transformers 4 or 5)."""
    transformers = pytest.importorskip('transformers')
    last = len(encoder.blocks)
    kind = (
        transformers.Dinov2WithRegistersConfig if encoder.registers else transformers.Dinov2Config
    )
    more = dict(num_register_tokens=encoder.registers) if encoder.registers else {}
    cfg = kind(
        hidden_size=384,
        num_hidden_layers=last,
        num_attention_heads=6,
        image_size=518,
        patch_size=14,
        layerscale_value=1e-5,
        out_indices=[number + 1 for number in range(last)],
        **more,
    )
    network = transformers.AutoBackbone.from_config(cfg).eval()
    state = {}
    for name in network.state_dict():
        state[name] = _our_weight(encoder.state_dict(), name)
    network.load_state_dict(state)
    return network


def _our_weight(ours, name):
    embeddings = {
        'embeddings.cls_token': 'cls_token',
        'embeddings.mask_token': 'mask_token',
        'embeddings.position_embeddings': 'pos_embed',
        'embeddings.register_tokens': 'register_tokens',
        'embeddings.patch_embeddings.projection.weight': 'patch_embed.proj.weight',
        'embeddings.patch_embeddings.projection.bias': 'patch_embed.proj.bias',
        'layernorm.weight': 'norm.weight',
        'layernorm.bias': 'norm.bias',
    }
    if name in embeddings:
        return ours[embeddings[name]]
    number = next(part for part in name.split('.') if part.isdigit())
    block, kind = f'blocks.{number}', name.rsplit('.', 1)[-1]
    for place, word in enumerate(('query', 'key', 'value')):
        if f'.{word}.' in name or f'.{word[0]}_proj.' in name:
            return ours[f'{block}.attn.qkv.{kind}'].chunk(3)[place]
    for theirs_, our in (
        ('norm1', f'norm1.{kind}'),
        ('norm2', f'norm2.{kind}'),
        ('layer_scale1', 'ls1.gamma'),
        ('layer_scale2', 'ls2.gamma'),
        ('fc1', f'mlp.fc1.{kind}'),
        ('fc2', f'mlp.fc2.{kind}'),
        ('attention', f'attn.proj.{kind}'),
    ):
        if f'.{theirs_}.' in name:
            return ours[f'{block}.{our}']
    raise AssertionError(name)


def difference(first, second):
    """Mean difference in units of the mean size."""
    return float((first - second).abs().mean() / second.abs().mean())


@torch.no_grad()
def test_it_is_transformers_network_at_the_size_of_the_weights():
    encoder = random_encoder()
    images = torch.randn(1, 3, 518, 518)
    wanted = theirs(encoder)(images).feature_maps
    found = encoder(images)
    assert [tuple(one.shape) for one in found] == [(1, 384, 37, 37)] * 3
    for ours, their in zip(found, wanted):
        torch.testing.assert_close(ours, their, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_at_other_sizes_the_offset_is_metas():
    """Transformers interpolates to the size, Meta by (n + 0.1) / 37: a little apart."""
    encoder = random_encoder()
    network = theirs(encoder)
    for size, low, high in (((504, 518), 1e-4, 0.02), ((70, 98), 1e-3, 0.1)):
        images = torch.randn(1, 3, *size)
        for ours, their in zip(encoder(images), network(images).feature_maps):
            assert low < difference(ours, their) < high
    table = encoder.pos_embed[:, 1:].reshape(1, 37, 37, 384).permute(0, 3, 1, 2)
    scale = 5.1 / 37, 7.1 / 37
    wanted = F.interpolate(table, scale_factor=scale, mode='bicubic', antialias=False)
    found = encoder._positions(5, 7)
    torch.testing.assert_close(found[:, 1:], wanted.flatten(2).transpose(1, 2))
    assert torch.equal(found[:, 0], encoder.pos_embed[:, 0])


@torch.no_grad()
def test_registers():
    encoder = random_encoder(registers=4)
    images = torch.randn(1, 3, 518, 518)
    for ours, their in zip(encoder(images), theirs(encoder)(images).feature_maps):
        torch.testing.assert_close(ours, their, atol=1e-5, rtol=1e-5)
    images = torch.randn(2, 3, 70, 98)
    for ours, their in zip(encoder(images), theirs(encoder)(images).feature_maps):
        torch.testing.assert_close(ours, their, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('arch', CHANNELS)
def test_published_sizes(arch):
    with torch.device('meta'):
        encoder = DINOv2(arch)
    millions = sum(one.numel() for one in encoder.parameters()) / 1e6
    assert millions == pytest.approx(MILLIONS[arch], abs=0.005)
    assert encoder.embed_dim == CHANNELS[arch]
    names = set(encoder.state_dict())
    mlp = ('mlp.w12', 'mlp.w3') if arch == 'giant' else ('mlp.fc1', 'mlp.fc2')
    parts = ['norm1', 'norm2', 'attn.qkv', 'attn.proj', *mlp]
    block = {f'blocks.1.{part}.{kind}' for part in parts for kind in ('weight', 'bias')}
    block |= {'blocks.1.ls1.gamma', 'blocks.1.ls2.gamma'}
    assert {name for name in names if name.startswith('blocks.1.')} == block
    assert {name for name in names if not name.startswith('blocks')} == {
        *('cls_token', 'pos_embed', 'mask_token', 'norm.weight', 'norm.bias'),
        *('patch_embed.proj.weight', 'patch_embed.proj.bias'),
    }


def test_maps_are_counted_by_block_and_normed():
    encoder = random_encoder(depth=4, out_indices=(1, 3))
    seen = []
    for block in encoder.blocks:
        block.register_forward_hook(lambda _m, _i, out: seen.append(out))
    with torch.no_grad():
        found = encoder(torch.randn(2, 3, 28, 42))
    assert len(seen) == 4
    for one, number in zip(found, (1, 3)):
        wanted = encoder.norm(seen[number][:, 1:]).transpose(1, 2).reshape(2, 384, 2, 3)
        torch.testing.assert_close(one, wanted)


def test_frozen_and_checkpointed():
    frozen = random_encoder(frozen=True, drop_path_rate=0.5).train()
    assert not any(module.training for module in frozen.modules())
    assert not any(one.requires_grad for one in frozen.parameters())
    images = torch.randn(1, 3, 28, 28, requires_grad=True)
    assert not any(one.requires_grad for one in frozen(images))
    plain, spared = random_encoder().train(), random_encoder(with_cp=True).train()
    for encoder in (plain, spared):
        sum(one.square().sum() for one in encoder(images)).backward()
    for one, two in zip(plain.parameters(), spared.parameters()):
        assert (one.grad is None) == (two.grad is None) == (one is plain.mask_token)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, two.grad)


def test_no_parameter_is_left_out_of_a_step():
    """So that several GPUs need no ``find_unused_parameters``."""
    encoder = random_encoder()
    sum(one.sum() for one in encoder(torch.randn(1, 3, 28, 28))).backward()
    unused = {n for n, one in encoder.named_parameters() if one.requires_grad and one.grad is None}
    assert unused == set()


def test_it_starts_as_its_program_does():
    torch.manual_seed(0)
    encoder = DINOv2('small', depth=2, out_indices=(1,))
    encoder.init_weights()
    encoder.requires_grad_(False)
    assert encoder.blocks[0].mlp.fc1.weight.std() == pytest.approx(0.02, rel=0.05)
    assert encoder.pos_embed.std() == pytest.approx(0.02, rel=0.05)
    assert encoder.blocks[1].attn.qkv.bias.abs().max() == 0
    bound = 1 / math.sqrt(3 * 14 * 14)
    assert 0.95 * bound < encoder.patch_embed.proj.weight.abs().max() <= bound


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        (dict(arch='vit-b'), 'arch must be one of'),
        (dict(out_indices=(2, 12)), 'out_indices must name blocks from 0 to 11, got'),
        (dict(registers=-1), 'registers must be a whole number >= 0'),
        (dict(drop_path_rate=1), r'drop_path_rate must be a number in \[0.*1'),
    ],
)
def test_arguments_that_cannot_be(given, message):
    with pytest.raises(ValueError, match=message):
        DINOv2(**given)


def test_other_sizes_than_multiples_of_the_patch_are_refused():
    with pytest.raises(ValueError, match='sides are multiples of 14, got 28 x 30: crop to such'):
        random_encoder()(torch.zeros(1, 3, 28, 30))


def test_blocks_that_nothing_reads_have_no_gradient():
    """Several ranks would wait for theirs."""
    encoder = random_encoder(depth=4, out_indices=(0, 2)).train()
    sum(one.sum() for one in encoder(torch.randn(1, 3, 28, 28))).backward()
    named = dict(encoder.named_parameters())
    assert all(one.grad is not None for one in named.values() if one.requires_grad)
    last = [one.requires_grad for name, one in named.items() if name.startswith('blocks.3.')]
    assert last and not any(last)
