"""Backbones of transformers: tiny random networks of each kind, in segmentors and from folders."""

from __future__ import annotations

import sys

import pytest
import torch
from mmengine.config import ConfigDict
from mmseg.registry import MODELS

from mmseg_semi.models import HFBackbone

AutoModel = pytest.importorskip('transformers').AutoModel
save_file = pytest.importorskip('safetensors.torch').save_file
VIT = dict(hidden_size=32, num_hidden_layers=4, num_attention_heads=2)
CONV = dict(hidden_sizes=(8, 16, 24, 32), depths=(1, 1, 1, 1))
TINY = dict(
    dinov2=dict(VIT, model_type='dinov2', image_size=70, patch_size=14),
    registers=dict(VIT, model_type='dinov2_with_registers', image_size=70, patch_size=14),
    dinov3_vit=dict(VIT, model_type='dinov3_vit', intermediate_size=64, patch_size=16),
    dinov3_convnext=dict(CONV, model_type='dinov3_convnext'),
    swin=dict(
        model_type='swin', embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4), window_size=4
    ),
    convnextv2=dict(CONV, model_type='convnextv2'),
)
#: Multiple of the sides, and channels of the four maps.
WANTED = dict(
    dinov2=(14, (32,) * 4),
    registers=(14, (32,) * 4),
    dinov3_vit=(16, (32,) * 4),
    dinov3_convnext=(32, (8, 16, 24, 32)),
    swin=(32, (8, 16, 32, 64)),
    convnextv2=(32, (8, 16, 24, 32)),
)
pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')


def built(kind='dinov2', **given):
    torch.manual_seed(0)
    return HFBackbone(ConfigDict(TINY[kind]), **given)


@pytest.mark.parametrize('kind', TINY)
def test_four_maps_and_a_gradient_for_every_weight(kind):
    backbone = built(kind).train()
    patch, channels = WANTED[kind]
    assert (backbone.patch_size, backbone.channels) == (patch, channels)
    maps = backbone(torch.randn(2, 3, 2 * patch, 3 * patch))
    assert [one.shape[1] for one in maps] == list(channels)
    assert tuple(maps[-1].shape[2:]) == (2, 3)
    sum(one.sum() for one in maps).backward()
    left = [n for n, one in backbone.named_parameters() if one.requires_grad and one.grad is None]
    assert left == []


def test_a_side_that_is_no_multiple_is_refused_and_not_cut_off():
    for kind, size in (('dinov2', (28, 30)), ('convnextv2', (33, 32))):
        with pytest.raises(ValueError, match=rf'\({kind}\) takes images whose sides are multiples'):
            built(kind)(torch.zeros(1, 3, *size))


def test_frozen_and_computed_again():
    frozen = built(frozen=True).train()
    assert not frozen.network.training
    assert not any(one.requires_grad for one in frozen.parameters())
    assert not frozen(torch.randn(1, 3, 28, 28, requires_grad=True))[0].requires_grad
    images = torch.randn(1, 3, 28, 28)
    gradients = []
    for again in (False, True):
        backbone = built(with_cp=again).train()
        sum(one.square().sum() for one in backbone(images)).backward()
        gradients.append([one.grad for one in backbone.parameters() if one.requires_grad])
    for one, two in zip(*gradients):
        torch.testing.assert_close(one, two)


HEADS = dict(
    dpt=dict(type='UniMatchDPTHead', in_channels=(32,) * 4, widths=(4, 8, 16, 16), channels=8),
    segformer=dict(type='SegformerHead', in_channels=[32] * 4, in_index=[0, 1, 2, 3], channels=8),
    upernet=dict(
        type='UPerHead', in_channels=[32] * 4, in_index=[0, 1, 2, 3], channels=8, pool_scales=(1, 2)
    ),
)
NORM = dict(type='BN')


@pytest.mark.parametrize('head', HEADS)
def test_it_is_the_encoder_of_a_segmentor(head):
    """In training and, with images of another size, in prediction."""
    neck = dict(type='Feature2Pyramid', embed_dim=32, rescales=[4, 2, 1, 0.5], norm_cfg=NORM)
    norm = {} if head == 'dpt' else dict(norm_cfg=NORM)
    cfg = dict(
        type='PatchEncoderDecoder',
        backbone=dict(type='HFBackbone', model=TINY['dinov2']),
        decode_head=dict(HEADS[head], num_classes=3, **norm),
        test_cfg=dict(mode='whole'),
    )
    model = MODELS.build(ConfigDict(cfg, **(dict(neck=neck) if head == 'upernet' else {})))
    model.train()
    raw = model.decode_head(model.extract_feat(torch.randn(2, 3, 28, 42)))
    raw.sum().backward()
    assert model.decode_head.conv_seg.weight.grad.abs().sum() > 0
    metas = [dict(img_shape=(30, 40), ori_shape=(30, 40), pad_shape=(30, 40))]
    with torch.no_grad():
        assert model.eval().encode_decode(torch.randn(1, 3, 30, 40), metas).shape == (1, 3, 30, 40)


def test_a_head_for_other_channels_is_refused():
    segmentor = dict(
        type='EncoderDecoder',
        backbone=dict(type='HFBackbone', model=TINY['convnextv2']),
        decode_head=dict(type='FCNHead', in_channels=16, in_index=3, channels=4, num_classes=3),
        test_cfg=dict(mode='whole'),
    )
    message = r'in_channels is 16 with in_index=3, but the maps of HFBackbone have \(8, 16, 24, 32'
    with pytest.raises(ValueError, match=message):
        MODELS.build(ConfigDict(type='SemiSegmentor', segmentor=segmentor))


def test_weights_come_from_a_folder(tmp_path):
    given = built()
    given.network.save_pretrained(tmp_path)
    other = HFBackbone(str(tmp_path), out_indices=(2, 4))
    assert other.channels == (32, 32)
    other.init_weights()
    images = torch.randn(1, 3, 70, 70)
    with torch.no_grad():
        wanted = given.eval()(images)
        for ours, theirs in zip(other.eval()(images), (wanted[1], wanted[3])):
            torch.testing.assert_close(ours, theirs)
    scratch = HFBackbone(str(tmp_path), pretrained=False)
    before = {name: value.clone() for name, value in scratch.state_dict().items()}
    scratch.init_weights()
    assert all(torch.equal(value, before[name]) for name, value in scratch.state_dict().items())


def test_weights_that_do_not_belong_to_the_settings_are_refused(tmp_path):
    """Random numbers would take their place."""
    network = built().network
    network.save_pretrained(tmp_path)
    backbone = HFBackbone(str(tmp_path))
    weights = tmp_path / 'model.safetensors'
    for state in (dict(other=torch.zeros(1)), dict(network.state_dict())):
        name = next(one for one in network.state_dict() if one.endswith('fc1.bias'))
        state[name] = torch.zeros(3)
        save_file(state, weights, metadata=dict(format='pt'))
        with pytest.raises(
            ValueError, match=rf'than its config.json says, .*other sizes \({name}[,)]'
        ):
            backbone.init_weights()
    weights.write_bytes(b'none')
    with pytest.raises(ValueError, match=r'cannot read its weights \(.*\): give a local folder'):
        backbone.init_weights()
    for kind in ('swin', 'convnextv2'):  # a plain network has no normalizations of maps
        AutoModel.from_config(built(kind).network.config).save_pretrained(tmp_path / kind)
        HFBackbone(str(tmp_path / kind)).init_weights()


def test_a_checkpoint_of_another_version_of_transformers_fits():
    backbone = built()
    state = {name: torch.randn_like(value) for name, value in backbone.state_dict().items()}
    pairs = [('q_proj', 'attention.query'), ('k_proj', 'attention.key')]
    pairs += [('v_proj', 'attention.value'), ('o_proj', 'output.dense')]
    forward = 'attention.q_proj' in ' '.join(state)
    renamed = {}
    for name, value in state.items():
        for new, old in pairs:
            name = name.replace(*((new, old) if forward else (old, new)))
        renamed[name] = value
    assert renamed.keys() != state.keys()
    backbone.load_state_dict(renamed)
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, state[name])


def test_checkpoints_have_the_names_of_transformers_5():
    """Whichever version has written them, so that tools find nothing amiss."""
    backbone = built('swin')
    layer = backbone.network.swin.encoder.layers[0].blocks[0]
    del layer.attention.q_proj
    layer.attention.attention = torch.nn.ModuleDict(dict(query=torch.nn.Linear(2, 2)))
    state = backbone.state_dict()
    (name,) = (one for one in state if one.endswith('layers.0.blocks.0.attention.q_proj.weight'))
    assert not any('attention.attention' in one for one in state)
    state[name] = torch.ones(2, 2)
    backbone.load_state_dict(state)
    assert torch.equal(layer.attention.attention['query'].weight, torch.ones(2, 2))


@pytest.mark.parametrize(
    ('model', 'given', 'message'),
    [
        ('no-such/model', {}, r"model='no-such/model': transformers cannot read its settings \(.*"),
        (dict(model_type='dinov9'), {}, r"no model_type 'dinov9' with .* and so on\): give one"),
        (dict(model_type='bert'), {}, r"cannot make a backbone of \{'model_type': 'bert'\}"),
        (TINY['dinov2'], dict(out_indices=(5,)), r'must name stages from 0 to 4 of .* got \(5,\)'),
        (TINY['convnextv2'], dict(with_cp=True), r'with_cp=True: convnextv2 .* set with_cp=False'),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(model, given, message, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(ValueError, match=message) as error:
        HFBackbone(model, **given)
    assert '\n' not in str(error.value)


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'transformers', None)
    with pytest.raises(ModuleNotFoundError, match=r"install it with: pip install -e '\.\[hf\]'"):
        built()


def test_layers_that_nothing_reads_have_no_gradient():
    backbone = built(out_indices=(1,)).train()
    sum(one.sum() for one in backbone(torch.randn(2, 3, 28, 28))).backward()
    named = dict(backbone.named_parameters())
    assert [n for n, one in named.items() if one.requires_grad and one.grad is None] == []
    assert not all(one.requires_grad for one in named.values())
