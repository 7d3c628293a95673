"""Xception-65: its size and strides by hand, its blocks against their formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmseg_semi.models import DeepLabV3PlusHead, Xception65
from mmseg_semi.models.backbones.xception65 import XceptionBlock

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')
BN = dict(type='BN', requires_grad=True)

# Figure 4 of DeepLabV3+: channels in, channels out of the separable convolutions, times, shortcut.
TABLE = (
    ('entry 1', (64, 128, 128, 128), 1, True),
    ('entry 2', (128, 256, 256, 256), 1, True),
    ('entry 3', (256, 728, 728, 728), 1, True),
    ('middle', (728, 728, 728, 728), 16, False),
    ('exit', (728, 728, 1024, 1024), 1, True),
    ('last', (1024, 1536, 1536, 2048), 1, False),
)


def test_the_number_of_parameters_is_that_of_the_figure():
    """A norm of two parameters a channel after every convolution, no bias."""
    total = 3 * 9 * 32 + 2 * 32 + 32 * 9 * 64 + 2 * 64
    for _, widths, times, shortcut in TABLE:
        for before, after in zip(widths, widths[1:]):
            total += times * (9 * before + 2 * before + before * after + 2 * after)
        if shortcut:
            total += widths[0] * widths[-1] + 2 * widths[-1]
    assert total == 37_867_312
    backbone = Xception65()
    assert sum(p.numel() for p in backbone.parameters()) == total
    convs = [m for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    # 21 blocks of three separable convolutions, the last three included, four shortcuts, the stem.
    assert len(convs) == 21 * 3 * 2 + 4 + 2


@pytest.mark.parametrize('stride', [8, 16, 32])
def test_channels_strides_and_the_low_level_map(stride):
    backbone, seen = Xception65(output_stride=stride).eval(), {}
    convs = backbone.entry2.convs
    handles = [
        convs[1].register_forward_hook(lambda *args: seen.update(second=args[2])),
        convs[2].register_forward_pre_hook(lambda _, args: seen.update(third=args[0])),
    ]
    with torch.no_grad():
        low, high = backbone(torch.randn(1, 3, 65, 97))
    for handle in handles:
        handle.remove()
    assert low.shape == (1, 256, 17, 25)
    assert high.shape == (1, 2048, 64 // stride + 1, 96 // stride + 1)
    assert torch.equal(low, seen['second'].relu()) and torch.equal(seen['second'], seen['third'])
    assert (high >= 0).all()


@pytest.mark.parametrize(
    'stride, dilations',
    [(32, dict(entry3=1, middle=1, exit=1, last=1)), (16, dict(middle=1, exit=1, last=2))]
    + [(8, dict(entry3=1, middle=2, exit=2, last=4))],
)
def test_what_is_not_strided_is_dilated(stride, dilations):
    backbone = Xception65(output_stride=stride)
    for name, dilation in dilations.items():
        convs = [m for m in getattr(backbone, name).modules() if isinstance(m, nn.Conv2d)]
        depthwise = [m for m in convs if m.groups > 1]
        assert len(depthwise) == (48 if name == 'middle' else 3)
        for conv in depthwise:
            assert conv.dilation == conv.padding == (dilation, dilation)
            assert conv.groups == conv.in_channels == conv.out_channels


def separable(conv, x):
    """ReLU, depthwise, norm, ReLU, pointwise, norm; norms in eval mode by their formula."""
    for part, groups in ((conv.depthwise_conv, x.shape[1]), (conv.pointwise_conv, 1)):
        kernel, bn = part.conv.weight, part.bn
        padding, dilation = part.conv.padding, part.conv.dilation
        stride = part.conv.stride
        x = F.conv2d(x.relu(), kernel, None, stride, padding, dilation, groups)
        scale = bn.weight / (bn.running_var + bn.eps).sqrt()
        x = (x - bn.running_mean[:, None, None]) * scale[:, None, None] + bn.bias[:, None, None]
    return x


@pytest.mark.parametrize('widths, stride', [((4, 6, 6, 6), 2), ((4, 4, 4, 4), 1)])
@torch.no_grad()
def test_a_block_is_its_formula(widths, stride):
    torch.manual_seed(0)
    block = XceptionBlock(widths[0], widths[1:], BN, stride, dilation=2).eval()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
    x = torch.randn(2, widths[0], 11, 8)
    second = separable(block.convs[1], separable(block.convs[0], x))
    wanted = separable(block.convs[2], second)
    if stride == 2:
        wanted = wanted + block.shortcut(x)
        assert block.shortcut.conv.kernel_size == (1, 1) and not block.shortcut.with_activation
        assert wanted.shape == (2, 6, 6, 4)
    else:
        wanted = wanted + x
    found = block(x)
    torch.testing.assert_close(found[0], wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], second, rtol=1e-4, atol=1e-5)
    assert (found[0] < 0).any(), 'the sum is linear'


@pytest.mark.parametrize('stride', [8, 16])
def test_gradients_reach_every_parameter_through_the_papers_decoder(stride):
    torch.manual_seed(0)
    backbone = Xception65(output_stride=stride)
    head = DeepLabV3PlusHead(num_classes=3, in_index=(0, 1))
    images = torch.randn(2, 3, 33, 33, requires_grad=True)
    logits = head(backbone(images))
    assert logits.shape == (2, 3, 9, 9)
    F.cross_entropy(logits, torch.randint(0, 3, (2, 9, 9))).backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    assert images.grad.any()


def test_norms_as_mmsegs_backbones_have_them():
    frozen = Xception65(norm_eval=True, norm_cfg=dict(type='SyncBN', requires_grad=False)).train()
    norms = [m for m in frozen.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 132 and all(isinstance(m, nn.SyncBatchNorm) for m in norms)
    assert not any(m.training for m in norms) and frozen.entry1.training
    assert not any(p.requires_grad for m in norms for p in m.parameters())
    norms = [m for m in Xception65().train().modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 132 and all(m.training for m in norms)


def test_weights_come_from_init_cfg(tmp_path):
    from mmengine.model import initialize

    torch.manual_seed(1)
    source = Xception65()
    torch.save(source.state_dict(), tmp_path / 'weights.pth')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'weights.pth'))
    other = Xception65(init_cfg=init)
    initialize(other, other.init_cfg)
    for key, value in source.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key
    initialize(source, source.init_cfg)
    for conv in (source.last[2].depthwise_conv.conv, source.last[2].pointwise_conv.conv):
        fan_in = conv.weight[0].numel()
        assert float(conv.weight.std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)


def test_other_strides_are_refused():
    with pytest.raises(ValueError, match=r'backbone.output_stride .*\(8, 16, 32\), got 4'):
        Xception65(output_stride=4)
