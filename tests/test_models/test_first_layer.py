"""Weights of RGB images begin a network of another number of channels."""

from __future__ import annotations

import copy

import pytest
import torch
from equal_blocks import small_networks
from mmengine.config import Config
from mmengine.runner import load_checkpoint
from mmseg.registry import MODELS
from torch import nn

from mmseg_semi.models.backbones import first_layer
from mmseg_semi.models.backbones.first_layer import average_rgb_filters, averaged_filters
from mmseg_semi.utils.weight_checks import check_checkpoint, check_pretrained

BACKBONES = {
    'stem.0.weight': dict(type='ResNetV1c', depth=18, stem_channels=16, base_channels=16),
    'conv1.weight': dict(type='ResNet', depth=18, base_channels=8),
    'layers.0.0.projection.weight': dict(
        type='MixVisionTransformer', embed_dims=8, num_layers=[1] * 4, num_heads=[1, 2, 4, 8]
    ),
    'patch_embed.projection.weight': dict(
        type='SwinTransformer', embed_dims=8, depths=(1,) * 4, num_heads=(1, 2, 4, 8), window_size=2
    ),
    'encoder.0.0.convs.0.conv.weight': dict(type='UNet', base_channels=4),
    '_conv_stem.weight': dict(type='EfficientNetLite'),
    'stem.0.conv.weight': dict(type='Xception65'),
}


@pytest.mark.parametrize('channels', [1, 4, 7])
@pytest.mark.parametrize('name', BACKBONES)
def test_every_backbone_takes_them(tmp_path, monkeypatch, name, channels):
    small_networks(monkeypatch)
    said = []
    monkeypatch.setattr(first_layer, 'print_log', lambda text, logger: said.append(text))
    cfg = BACKBONES[name]
    torch.manual_seed(0)
    rgb = MODELS.build(cfg)
    state = rgb.state_dict()
    torch.save(dict(state_dict=state), tmp_path / 'rgb.pth')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'rgb.pth'))
    wanted = dict(cfg, in_channels=channels, init_cfg=init)
    check_pretrained(Config(dict(model=dict(type='EncoderDecoder', backbone=wanted))))
    network = MODELS.build(wanted)
    average_rgb_filters(network)
    copied = copy.deepcopy(network)
    network.init_weights()
    load_checkpoint(copied, str(tmp_path / 'rgb.pth'), map_location='cpu', strict=True)
    for one in (network, copied):
        found = one.state_dict()
        assert found.keys() == state.keys()
        for key, value in found.items():
            if key != name:
                assert torch.equal(value, state[key])
        first = found[name]
        assert first.shape[1] == channels
        assert torch.allclose(first, state[name].mean(1, keepdim=True) * 3 / channels)
    assert len(said) == 2  # one line for each network
    assert all(
        one.startswith(f'{name}: pretrained for RGB; each of the {channels} channels')
        for one in said
    )


def test_an_image_of_equal_channels_gives_what_gray_gave():
    rgb = nn.Conv2d(3, 5, 3)
    gray = torch.rand(1, 1, 9, 9)
    for channels in (1, 2, 6):
        weight = averaged_filters(rgb.weight, channels)
        found = nn.functional.conv2d(gray.expand(-1, channels, -1, -1), weight, rgb.bias)
        assert torch.allclose(found, rgb(gray.expand(-1, 3, -1, -1)), atol=1e-6)


def test_rgb_networks_and_other_shapes_are_left_alone():
    for network in (nn.Conv2d(3, 5, 3), nn.Conv2d(4, 4, 3, groups=4)):
        average_rgb_filters(network)
        assert not network._load_state_dict_pre_hooks
    network = nn.Conv2d(4, 5, 3)
    average_rgb_filters(network)
    with pytest.raises(RuntimeError, match='size mismatch'):
        network.load_state_dict(dict(weight=torch.zeros(6, 3, 3, 3), bias=torch.zeros(5)))


class Plain(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.backbone = nn.Conv2d(channels, 5, 3)
        self.decode_head = nn.Conv2d(5, 2, 1)


def test_a_training_may_begin_with_them_and_a_test_may_not():
    state = dict(state_dict=Plain(3).state_dict())
    check_checkpoint(Plain(4), state, training=True)
    with pytest.raises(ValueError, match=r'backbone.weight is \(5, 3, 3, 3\), the network has'):
        check_checkpoint(Plain(4), state, training=False)


def test_student_and_teacher_begin_with_them(tmp_path):
    head = dict(type='FCNHead', in_channels=4, in_index=4, channels=4, num_classes=2, num_convs=1)
    unet = dict(type='UNet', base_channels=4)

    def build(channels):
        segmentor = dict(
            type='EncoderDecoder', backbone=dict(unet, in_channels=channels), decode_head=head
        )
        model = dict(type='SemiSegmentor', segmentor=segmentor, teacher=dict(type='EMATeacher'))
        model['losses'] = dict(strong=dict(type='PseudoLabelCrossEntropy'))
        return MODELS.build(model)

    rgb, model, name = build(3), build(6), 'backbone.encoder.0.0.convs.0.conv.weight'
    state = rgb.state_dict()
    torch.save(dict(state_dict=state), tmp_path / 'rgb.pth')
    load_checkpoint(model, str(tmp_path / 'rgb.pth'), map_location='cpu')
    found = model.state_dict()
    for key in [key for key in found if key.endswith(name)]:
        assert torch.allclose(found[key], averaged_filters(state[key], 6)), key
    assert sum(key.endswith(name) for key in found) == 2
