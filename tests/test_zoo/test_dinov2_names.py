"""DINOv2 of Hugging Face, and UniMatch V2's network with the names of its program."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from test_models.test_dinov2 import random_encoder, theirs
from torch import nn

from mmseg_semi.models import DINOv2
from mmseg_semi.zoo import semi2mmseg as tool

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')
WIDTHS, FUSED, CLASSES = (4, 6, 8, 10), 5, 3


class Unit(nn.Module):
    """Two convolutions beside the input."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(FUSED, FUSED, 3, padding=1) for _ in range(2))

    def forward(self, x):
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Refine(nn.Module):
    """A fusion; the first unit of the deepest one is there and not used."""

    def __init__(self):
        super().__init__()
        self.out_conv = nn.Conv2d(FUSED, FUSED, 1)
        self.resConfUnit1, self.resConfUnit2 = Unit(), Unit()

    def forward(self, x, skip, size):
        x = x if skip is None else x + self.resConfUnit1(skip)
        x = F.interpolate(self.resConfUnit2(x), size, mode='bilinear', align_corners=True)
        return self.out_conv(x)


class Network(nn.Module):
    """DINOv2 and the decoder by its description, with the program's names."""

    def __init__(self):
        super().__init__()
        self.backbone = random_encoder(depth=4, out_indices=(0, 1, 2, 3))
        self.head = head = nn.Module()
        head.projects = nn.ModuleList(nn.Conv2d(384, one, 1) for one in WIDTHS)
        head.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(4, 4, 4, 4),
                nn.ConvTranspose2d(6, 6, 2, 2),
                nn.Identity(),
                nn.Conv2d(10, 10, 3, 2, 1),
            ]
        )
        head.scratch = nn.Module()
        for i, width in enumerate(WIDTHS, 1):
            setattr(head.scratch, f'layer{i}_rn', nn.Conv2d(width, FUSED, 3, 1, 1, bias=False))
            setattr(head.scratch, f'refinenet{i}', Refine())
        last = nn.Conv2d(FUSED, CLASSES, 1)
        head.scratch.output_conv = nn.Sequential(nn.Conv2d(FUSED, FUSED, 3, 1, 1), nn.ReLU(), last)

    def forward(self, x):
        scratch, maps = self.head.scratch, []
        for i, one in enumerate(self.backbone(x)):
            one = self.head.resize_layers[i](self.head.projects[i](one))
            maps.append(getattr(scratch, f'layer{i + 1}_rn')(one))
        y = scratch.refinenet4(maps[3], None, maps[2].shape[2:])
        for i in (3, 2):
            y = getattr(scratch, f'refinenet{i}')(y, maps[i - 1], maps[i - 2].shape[2:])
        y = scratch.refinenet1(y, maps[0], [2 * side for side in maps[0].shape[2:]])
        return scratch.output_conv(y)


@pytest.fixture
def convert(tmp_path, capsys):
    """Save a content, convert it, and give the loaded result and what was printed."""

    def run(content, *args):
        torch.save(content, tmp_path / 'in.pth')
        tool.main([str(tmp_path / 'in.pth'), str(tmp_path / 'out.pth'), *args])
        return torch.load(tmp_path / 'out.pth', weights_only=True), capsys.readouterr().out

    return run


@torch.no_grad()
@pytest.mark.parametrize('which', ['student', 'teacher'])
def test_the_network_of_unimatch_v2_predicts_the_same(convert, which):
    init_default_scope('mmseg')
    network = Network()
    wrapped = {f'module.{name}': value for name, value in network.state_dict().items()}
    content = wrapped if which == 'student' else dict(model_ema=wrapped)
    loaded, printed = convert(content, '--which', which)
    head = dict(type='UniMatchDPTHead', in_channels=(384,) * 4, widths=WIDTHS, channels=FUSED)
    backbone = dict(type='DINOv2', arch='small', depth=4, out_indices=(0, 1, 2, 3))
    cfg = dict(
        type='PatchEncoderDecoder',
        backbone=backbone,
        decode_head=dict(head, num_classes=CLASSES),
        test_cfg=dict(mode='whole'),
    )
    model = MODELS.build(ConfigDict(cfg)).eval()
    model.load_state_dict(loaded['state_dict'])
    images = torch.randn(2, 3, 42, 70)
    logits = model.decode_head(model.backbone(images))
    assert logits.std() > 0.01
    torch.testing.assert_close(logits, network(images))
    assert "type='DINOv2', arch='small', registers=0" in printed and 'num_classes=3' in printed
    alone, printed = convert(content, '--which', which, '--what', 'backbone')
    model.backbone.load_state_dict(alone['state_dict'])
    assert "init_cfg=dict(type='Pretrained'" in printed


@pytest.mark.parametrize('registers', [0, 4])
@pytest.mark.parametrize('version', [4, 5])
def test_dinov2_of_hugging_face(convert, registers, version):
    pytest.importorskip('transformers')
    encoder = random_encoder(registers=registers)
    state = theirs(encoder).state_dict()
    new = (
        ('attention.q_proj', 'query'),
        ('attention.k_proj', 'key'),
        ('attention.v_proj', 'value'),
    )
    for name in list(state):
        other = name
        for five, four in (*new, ('attention.o_proj', 'output.dense')):
            inner = (
                'attention.output.dense'
                if four == 'output.dense'
                else f'attention.attention.{four}'
            )
            other = other.replace(*((five, inner) if version == 4 else (inner, five)))
        state[f'dinov2.{other}'] = state.pop(name)
    loaded, printed = convert({**state, 'classifier.weight': torch.zeros(2, 384)})
    wanted = encoder.state_dict()
    assert loaded['state_dict'].keys() == wanted.keys()
    assert all(torch.equal(loaded['state_dict'][name], value) for name, value in wanted.items())
    assert f'registers={registers}' in printed and '384 channels, 3 blocks' in printed
    other = DINOv2('small', depth=3, out_indices=(0,), registers=registers)
    other.load_state_dict(loaded['state_dict'])


def test_what_is_neither_is_refused(convert):
    state = Network().state_dict()
    with pytest.raises(
        SystemExit, match="the key 'head.more' is none of UniMatch V2; --drop PREFIX"
    ):
        convert({**state, 'head.more': torch.zeros(1)})
    loaded, _ = convert({**state, 'head.more': torch.zeros(1)}, '--drop', 'head.more')
    assert loaded['meta']['num_classes'] == CLASSES
