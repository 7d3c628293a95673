"""The decoder of UniMatch V2, by its description."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from mmseg_semi.models import DINOv2, UniMatchDPTHead


def small(**given):
    torch.manual_seed(0)
    options = dict(in_channels=(12,) * 4, channels=8, widths=(4, 6, 8, 10), num_classes=5)
    head = UniMatchDPTHead(**{**options, **given})
    head.init_weights()
    return head.eval()


@torch.no_grad()
def test_the_formula():
    head = small()
    maps = [torch.randn(2, 12, 5, 7) for _ in range(4)]
    p, r, d, f = head.projects, head.resizes, head.reduces, head.fusions

    def conv(x, layer, stride=1):
        return F.conv2d(x, layer.weight, layer.bias, stride, padding=layer.weight.shape[-1] // 2)

    def unit(x, one):
        return x + conv(F.relu(conv(F.relu(x), one.conv1)), one.conv2)

    def wide(x, size):
        return F.interpolate(x, size, mode='bilinear', align_corners=True)

    first = F.conv_transpose2d(conv(maps[0], p[0]), r[0].weight, r[0].bias, 4)
    second = F.conv_transpose2d(conv(maps[1], p[1]), r[1].weight, r[1].bias, 2)
    fourth = conv(conv(maps[3], p[3]), r[3], stride=2)
    x = [conv(one, d[i]) for i, one in enumerate((first, second, conv(maps[2], p[2]), fourth))]
    assert [tuple(one.shape[2:]) for one in x] == [(20, 28), (10, 14), (5, 7), (3, 4)]
    y = conv(wide(unit(x[3], f[3].unit2), (5, 7)), f[3].out_conv)
    y = conv(wide(unit(y + unit(x[2], f[2].unit1), f[2].unit2), (10, 14)), f[2].out_conv)
    y = conv(wide(unit(y + unit(x[1], f[1].unit1), f[1].unit2), (20, 28)), f[1].out_conv)
    y = conv(wide(unit(y + unit(x[0], f[0].unit1), f[0].unit2), (40, 56)), f[0].out_conv)
    wanted = conv(F.relu(conv(y, head.output_conv)), head.conv_seg)
    found = head(maps)
    assert found.shape == (2, 5, 40, 56)
    torch.testing.assert_close(found, wanted)


def test_published_sizes():
    """Head 10.9 and whole model 97.5 million parameters with the unit that is never used."""
    with torch.device('meta'):
        head, encoder = UniMatchDPTHead(num_classes=21), DINOv2('base')
    unused = 2 * (128 * 128 * 9 + 128)
    count = sum(one.numel() for one in head.parameters()) + unused
    assert count / 1e6 == pytest.approx(10.9, abs=0.05)
    whole = count + sum(one.numel() for one in encoder.parameters())
    assert whole / 1e6 == pytest.approx(97.5, abs=0.05)


def test_every_weight_is_trained_and_none_is_normalized():
    head = small().train()
    head([torch.randn(1, 12, 3, 3) for _ in range(4)]).sum().backward()
    assert all(one.grad is not None for one in head.parameters())
    kinds = {type(one).__name__ for one in head.modules()}
    assert not any('Norm' in kind for kind in kinds)
    assert head.dropout is None


def test_convolutions_start_as_torchs_do():
    head = small(channels=64)
    bound = 1 / math.sqrt(64)
    assert 0.9 * bound < head.conv_seg.weight.abs().max() <= bound
    assert head.conv_seg.bias.abs().max() > 0


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        (dict(in_channels=(12,) * 4, widths=None), 'has no widths: set decode_head.widths'),
        (dict(in_channels=(12, 12)), 'in_channels .* must have four numbers, got'),
        (dict(widths=(4, 6)), 'widths .* must have four numbers, got'),
        (dict(channels=0), 'channels .* must be a whole number >= 1'),
    ],
)
def test_arguments_that_cannot_be(given, message):
    with pytest.raises(ValueError, match=message):
        small(**given)
