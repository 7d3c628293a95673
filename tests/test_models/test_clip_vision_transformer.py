"""CLIP's vision transformer against transformers' on copied weights, and the value path by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmseg_semi.models import CLIPVisionTransformer
from mmseg_semi.zoo import semi2mmseg

TINY = dict(channels=16, depth=3, heads=2, embed_dim=6, out_indices=(0, 1))


def random_encoder(seed=0, **given):
    """A tiny encoder whose weights and norms are all random."""
    torch.manual_seed(seed)
    encoder = CLIPVisionTransformer(**{**TINY, **given})
    for one in encoder.parameters():
        torch.nn.init.normal_(one, std=0.3)
    return encoder.eval()


def theirs(depth=3):
    """Transformers' network of the same sizes, with random weights."""
    transformers = pytest.importorskip('transformers')
    cfg = transformers.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=64,
        num_hidden_layers=depth,
        num_attention_heads=2,
        image_size=224,
        patch_size=16,
        projection_dim=6,
        layer_norm_eps=1e-6,
    )
    torch.manual_seed(1)
    network = transformers.CLIPVisionModelWithProjection(cfg).eval()
    for one in network.parameters():
        torch.nn.init.normal_(one, std=0.3)
    return network


def converted(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / 'in.pth')
    semi2mmseg.main([str(tmp_path / 'in.pth'), str(tmp_path / 'out.pth')])
    state = torch.load(tmp_path / 'out.pth', weights_only=True)['state_dict']
    encoder = CLIPVisionTransformer(**TINY).eval()
    encoder.load_state_dict(state)
    return encoder


@torch.no_grad()
def test_tokens_are_those_of_transformers(tmp_path, capsys):
    network = theirs()
    encoder = converted(network, tmp_path)
    printed = capsys.readouterr().out
    assert 'CLIP of 16 channels, 3 blocks' in printed
    assert "backbone: init_cfg=dict(type='Pretrained'" in printed
    images = torch.randn(2, 3, 224, 224)
    tokens = encoder.tokens(images)
    found = [tokens]
    for block in encoder.blocks:
        found.append(block(found[-1]))
    wanted = network(images, output_hidden_states=True)
    for one, other in zip(found, wanted.hidden_states):
        torch.testing.assert_close(one, other)
    pooled = encoder.proj(encoder.norm(found[-1][:, 0]))
    torch.testing.assert_close(pooled, wanted.image_embeds)


@torch.no_grad()
def test_other_sizes_interpolate_the_position_embedding(tmp_path):
    network = theirs()
    encoder = converted(network, tmp_path)
    images = torch.randn(1, 3, 160, 192)
    wanted = network.vision_model(images, output_hidden_states=True, interpolate_pos_encoding=True)
    torch.testing.assert_close(encoder.tokens(images), wanted.hidden_states[0])


@torch.no_grad()
def test_the_value_path_by_hand():
    """v = out_proj(W_v LN1(x)) + x, then v + MLP(LN2(v))."""
    encoder = random_encoder()
    images = torch.randn(2, 3, 32, 48)
    tokens, wanted = encoder.tokens(images), []
    for block in encoder.blocks:

        def norm(x, layer):
            return F.layer_norm(x, (16,), layer.weight, layer.bias, 1e-6)

        value = norm(tokens, block.norm1) @ block.attn.qkv.weight[32:].T + block.attn.qkv.bias[32:]
        value = value @ block.attn.proj.weight.T + block.attn.proj.bias + tokens
        inner = norm(value, block.norm2) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
        inner = inner * torch.sigmoid(1.702 * inner)
        wanted.append(value + inner @ block.mlp.fc2.weight.T + block.mlp.fc2.bias)
        tokens = block(tokens)
    last = norm(wanted[-1], encoder.norm) @ encoder.proj.weight.T
    wanted[-1] = last / last.norm(dim=-1, keepdim=True)
    found = encoder(images)
    assert [tuple(one.shape) for one in found] == [(2, 16, 2, 3), (2, 16, 2, 3), (2, 6, 2, 3)]
    assert encoder.channels == (16, 16, 6)
    for one, other in zip(found, wanted):
        torch.testing.assert_close(one, other[:, 1:].transpose(1, 2).reshape(2, -1, 2, 3))


@pytest.mark.parametrize('trained', ['attention', 'all', 'none'])
def test_what_is_trained(trained):
    encoder = random_encoder(trained=trained).train()
    found = {name for name, one in encoder.named_parameters() if one.requires_grad}
    everything = {name for name, _ in encoder.named_parameters()}
    attention = {name for name in everything if '.attn.' in name or name == 'pos_embed'}
    assert len(attention) == 3 * 4 + 1
    assert found == dict(attention=attention, all=everything, none=set())[trained]
    assert encoder.training == (trained != 'none') and encoder.frozen == (trained == 'none')
    if found:
        sum(one.square().sum() for one in encoder(torch.randn(1, 3, 32, 32))[:2]).backward()
        encoder(torch.randn(1, 3, 32, 32))[2].sum().backward()
        assert {n for n, one in encoder.named_parameters() if one.grad is not None} == found


DETAIL = dict(type='ResNetV1c', depth=50, num_stages=1, out_indices=(0,), strides=(1,))
DETAIL.update(dilations=(1,), base_channels=2, stem_channels=4, norm_eval=True)


def test_a_map_of_detail_comes_first_and_sees_images_as_imagenet_does():
    encoder = random_encoder(out_indices=(1,), detail=DETAIL)
    pixels = 255 * torch.rand(2, 3, 32, 48)

    def normalized(mean, std):
        return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    images = normalized((122.771, 116.746, 104.094), (68.501, 66.632, 70.323))
    found = encoder(images)
    (first,) = encoder.detail(normalized((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    torch.testing.assert_close(found[0], first, rtol=1e-4, atol=1e-5)
    assert found[0].shape == (2, 8, 8, 12) and encoder.channels == (8, 16, 6)
    alone = random_encoder(out_indices=(1,))
    alone.load_state_dict(encoder.state_dict(), strict=False)
    assert all(torch.equal(*both) for both in zip(found[1:], alone(images)))


@pytest.mark.parametrize('trained', ['attention', 'all', 'none'])
def test_the_map_of_detail_is_trained_with_the_encoder(trained):
    encoder = random_encoder(detail=DETAIL, trained=trained).train()
    found = {one.requires_grad for one in encoder.detail.parameters()}
    assert found == {trained != 'none'}
    assert not any(one.training for one in encoder.detail.modules() if hasattr(one, 'running_mean'))


def test_both_networks_have_their_own_weights(tmp_path):
    clip, other = random_encoder(), random_encoder(1, detail=DETAIL)
    for name, state in (('clip', clip.state_dict()), ('resnet', other.detail.state_dict())):
        torch.save(dict(state_dict=state), tmp_path / f'{name}.pth')
    init = {
        one: dict(type='Pretrained', checkpoint=str(tmp_path / f'{one}.pth'))
        for one in ('clip', 'resnet')
    }
    detail = dict(DETAIL, init_cfg=init['resnet'])
    for given in (init['clip'], None):
        encoder = random_encoder(2, detail=detail, init_cfg=given)
        encoder.init_weights()
        found, wanted = encoder.detail.state_dict(), other.detail.state_dict()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
        taken = torch.equal(encoder.blocks[0].mlp.fc1.weight, clip.blocks[0].mlp.fc1.weight)
        assert taken == (given is not None)


def test_checkpointed_gradients_are_the_same():
    images, found = torch.randn(1, 3, 32, 32), []
    for with_cp in (False, True):
        encoder = random_encoder(with_cp=with_cp).train()
        sum(one.sum() for one in encoder(images)).backward()
        found.append([one.grad for one in encoder.parameters()])
    for one, other in zip(*found):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)


def test_published_size():
    """86.19 million parameters, of the projection too (openai/clip-vit-base-patch16)."""
    with torch.device('meta'):
        encoder = CLIPVisionTransformer()
    assert sum(one.numel() for one in encoder.parameters()) == 86_192_640


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        (dict(out_indices=(3,)), r'out_indices must name blocks from 0 to 2, got \(3,\)'),
        (dict(heads=3), 'channels=16 must be a multiple of heads=3'),
        (dict(trained='attn'), 'trained must be one of'),
        (dict(detail=DETAIL, in_channels=4), 'detail is for images of 3 channels, got in_chan.*=4'),
    ],
)
def test_arguments_that_cannot_be(given, message):
    with pytest.raises(ValueError, match=message):
        CLIPVisionTransformer(**{**TINY, **given})


def test_other_sizes_than_multiples_of_the_patch_are_refused():
    with pytest.raises(ValueError, match='sides are multiples of 16, got 32 x 33: crop to such'):
        random_encoder()(torch.zeros(1, 3, 32, 33))


def test_other_weights_of_clip_are_refused(tmp_path):
    state = theirs().state_dict()
    state['vision_model.embeddings.patch_embedding.weight'] = torch.zeros(16, 3, 32, 32)
    torch.save(state, tmp_path / 'in.pth')
    files = [str(tmp_path / 'in.pth'), str(tmp_path / 'out.pth')]
    with pytest.raises(SystemExit, match='no CLIP ViT with patches of 16 .*: patch_embed.weight'):
        semi2mmseg.main(files)
    with pytest.raises(SystemExit, match='is CLIP alone: use --what backbone'):
        semi2mmseg.main([*files, '--what', 'model'])
