"""The papers' decoder, against its layers written out."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmseg_semi.models import DeepLabV3PlusHead
from mmseg_semi.models.component import feature_channels
from mmseg_semi.models.perturbations import BasePerturbation
from mmseg_semi.models.segmentors.network import decode, encode

from ..conftest import SEGMENTOR
from ..steps import taps_of, whole_step

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')
BN = dict(type='BN', requires_grad=True)
SMALL = dict(in_channels=(4, 16), channels=6, low_channels=3, num_classes=5)
RESNET = dict(
    type='ResNetV1c',
    depth=50,
    stem_channels=8,
    base_channels=4,
    strides=(1, 2, 2, 1),
    dilations=(1, 1, 1, 2),
    contract_dilation=True,
    norm_cfg=BN,
)


def maps(channels=(4, 16), sizes=((17, 13), (5, 4)), seed=0):
    source = torch.Generator().manual_seed(seed)
    pairs = zip(channels, sizes)
    return [torch.randn(2, count, *size, generator=source) for count, size in pairs]


def small_head(**changes):
    torch.manual_seed(0)
    head = DeepLabV3PlusHead(**{**SMALL, 'in_index': (0, 1), **changes})
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    nn.init.normal_(head.conv_seg.weight)
    return head.eval()


def conv_bn_relu(state, name, x, dilation=1):
    """A convolution without bias, BatchNorm by its formula, and ReLU."""
    weight = state[f'{name}.conv.weight']
    assert f'{name}.conv.bias' not in state
    x = F.conv2d(x, weight, padding=dilation * (weight.shape[-1] // 2), dilation=dilation)
    mean, var = state[f'{name}.bn.running_mean'], state[f'{name}.bn.running_var']
    scale = state[f'{name}.bn.weight'] / (var + 1e-5).sqrt()
    return (
        (x - mean[:, None, None]) * scale[:, None, None] + state[f'{name}.bn.bias'][:, None, None]
    ).relu()


@pytest.mark.parametrize('dilations, corners', [((1, 2, 3), True), ((2, 4), False)])
def test_the_layers_are_those_of_the_papers(dilations, corners):
    head, (low, high) = small_head(dilations=dilations, align_corners=corners), maps()
    state = head.state_dict()
    branches = [conv_bn_relu(state, 'aspp_modules.0', high)]
    for i, dilation in enumerate(dilations, start=1):
        assert state[f'aspp_modules.{i}.conv.weight'].shape == (2, 16, 3, 3)
        branches.append(conv_bn_relu(state, f'aspp_modules.{i}', high, dilation))
    pooled = conv_bn_relu(state, 'image_pool.1', high.mean((2, 3), keepdim=True))
    branches.append(pooled.repeat(1, 1, *high.shape[2:]))
    aspp = conv_bn_relu(state, 'bottleneck', torch.cat(branches, 1))
    up = F.interpolate(aspp, low.shape[2:], mode='bilinear', align_corners=corners)
    fused = torch.cat([conv_bn_relu(state, 'low_level', low), up], 1)
    fused = conv_bn_relu(state, 'fuse.1', conv_bn_relu(state, 'fuse.0', fused))
    assert fused.shape == (2, 6, 17, 13)
    weight, bias = state['conv_seg.weight'], state['conv_seg.bias']
    wanted = F.conv2d(fused, weight, bias)
    assert wanted.std() > 0.1
    torch.testing.assert_close(head([low, high]), wanted, rtol=1e-4, atol=1e-4)


def test_the_defaults_are_the_papers_sizes():
    """Weights counted by hand; norms have two parameters a channel, the classifier a bias."""
    head = DeepLabV3PlusHead(num_classes=21)
    aspp = 2048 * 256 + 3 * 9 * 2048 * 256 + 2048 * 256 + 5 * 256 * 256
    decoder = 256 * 48 + 9 * (48 + 256) * 256 + 9 * 256 * 256
    norms = 2 * (6 * 256 + 48 + 2 * 256)
    assert sum(p.numel() for p in head.parameters()) == aspp + decoder + norms + 256 * 21 + 21
    assert [m.conv.dilation for m in head.aspp_modules] == [(1, 1), (6, 6), (12, 12), (18, 18)]
    assert (head.in_index, head.in_channels, head.channels) == ((0, 3), (256, 2048), 256)
    assert head.align_corners and head.dropout is None and head.input_transform is not None
    assert feature_channels(head, 'aspp') == feature_channels(head, 'penultimate') == 256


def test_norm_dropout_and_widths_can_be_chosen():
    head = small_head(norm_cfg=dict(type='SyncBN'), dropout_ratio=0.1, aspp_channels=7)
    norms = [m for m in head.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    # Four convolutions and pooling, projection, low level, two of the decoder.
    assert len(norms) == 9 and all(isinstance(m, nn.SyncBatchNorm) for m in norms)
    assert isinstance(head.dropout, nn.Dropout2d) and head.dropout.p == 0.1
    assert head.bottleneck.conv.weight.shape == (7, 35, 1, 1)
    assert head.fuse[0].conv.weight.shape == (6, 10, 3, 3)
    assert feature_channels(head, 'aspp') == 7 and feature_channels(head, 'penultimate') == 6


def test_gradients_reach_every_layer():
    head = small_head().train()
    inputs = [one.requires_grad_() for one in maps()]
    head(inputs).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())
    assert all(one.grad.any() for one in inputs)


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(in_channels=256), r'in_channels \(DeepLabV3PlusHead\) must be two whole numbers'),
        (dict(in_channels=(0, 16)), r'got \(0, 16\)'),
        (dict(in_index=(0, 1, 2)), r'in_index .* must be two whole numbers.*got \(0, 1, 2\)'),
        (dict(in_index=3), r'in_index .* got 3'),
        (dict(dilations=()), r'dilations .* such as \(6, 12, 18\), got \(\)'),
        (dict(dilations=(0, 6)), r'dilations .* got \(0, 6\)'),
        (dict(dilations=6), 'dilations .* got 6'),
        (dict(low_channels=0), 'low_channels .* got 0'),
        (dict(channels=2.5), 'channels .* got 2.5'),
        (dict(aspp_channels='256'), "aspp_channels .* got '256'"),
        (dict(input_transform='resize_concat'), "must be 'multiple_select'.*remove the key"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=f'decode_head.*{message}'):
        DeepLabV3PlusHead(**{**SMALL, **wrong})


def test_maps_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r'in_index=\(0, 3\).*the backbone gives 2 map'):
        small_head(in_index=(0, 3))(maps())
    with pytest.raises(ValueError, match=r'in_channels=\(4, 16\).*have \(4, 8\).*\(4, 8\)'):
        small_head()(maps(channels=(4, 8)))


# ------------------------------------------------------------------ in the semi-supervised step
def segmentor_config(**head):
    return dict(
        type='EncoderDecoder',
        data_preprocessor=SEGMENTOR['data_preprocessor'],
        backbone=deepcopy(RESNET),
        decode_head=dict(norm_cfg=BN, num_classes=3, channels=8, **head),
        test_cfg=dict(mode='whole'),
    )


OURS = dict(type='DeepLabV3PlusHead', in_channels=(16, 128), low_channels=4)
THEIRS = dict(
    type='DepthwiseSeparableASPPHead',
    in_channels=128,
    in_index=3,
    dilations=(1, 2),
    c1_in_channels=16,
    c1_channels=4,
)


def test_taps(build):
    segmentor = build(segmentor=segmentor_config(**OURS)).segmentor.eval()
    taps = taps_of('aspp', 'penultimate', 'encoder')
    outputs = decode(segmentor, encode(segmentor, torch.randn(2, 3, 32, 32), taps), taps)
    head, features = segmentor.decode_head, outputs.features
    high = outputs.maps[3]
    assert features['encoder'] is high and features['aspp'].shape == (2, 16, 2, 2)
    branches = [branch(high) for branch in head.aspp_modules]
    pooled = head.image_pool(high).expand(-1, -1, *high.shape[2:])
    torch.testing.assert_close(features['aspp'], head.bottleneck(torch.cat([*branches, pooled], 1)))
    assert features['penultimate'].shape == (2, 8, 8, 8)
    torch.testing.assert_close(head.conv_seg(features['penultimate']), outputs.stages[-1])


@pytest.mark.parametrize(
    'head, read',
    [(OURS, [0, 3]), (THEIRS, [0, 3]), (dict(THEIRS, c1_in_channels=0, c1_channels=0), [3])],
    ids=['DeepLabV3PlusHead', 'DepthwiseSeparableASPPHead', 'without a low level'],
)
class Shift(BasePerturbation):
    """Add 1 to the first map that it gets, 2 to the second, ..."""

    def forward(self, maps, views):
        self.seen = maps
        return [one + shift for shift, one in enumerate(maps, start=1)]


class ZeroFirst(BasePerturbation):
    def forward(self, maps, views):
        return [torch.zeros_like(maps[0]), *maps[1:]]


def perturbed_outputs(build, batch, head, perturbation):
    """The model, and its outputs on the weak images before and after the perturbation."""
    streams = dict(perturbed=dict(features='weak', perturbation=perturbation))
    model = build(segmentor=segmentor_config(**head), streams=streams).eval()
    step = whole_step(model, batch())
    return model, step.weak, step.streams['perturbed'][0].outputs


@pytest.mark.parametrize(
    'head, read',
    [(OURS, [0, 3]), (THEIRS, [0, 3]), (dict(THEIRS, c1_in_channels=0, c1_channels=0), [3])],
    ids=['DeepLabV3PlusHead', 'DepthwiseSeparableASPPHead', 'without a low level'],
)
def test_every_map_that_the_decoder_reads_is_perturbed_and_no_other(build, batch, head, read):
    """mmseg's DeepLabV3+ head reads map 0, which its in_index does not name."""
    shift = Shift()
    model, outputs, perturbed = perturbed_outputs(build, batch, head, shift)
    seen = [[i for i, m in enumerate(outputs.maps) if m.equal(one)] for one in shift.seen]
    assert seen == [[i] for i in read]
    changed = list(outputs.maps)
    for shift, i in enumerate(read, start=1):
        changed[i] = changed[i] + shift
    torch.testing.assert_close(perturbed.stages[-1], model.segmentor.decode_head(changed))
    assert not torch.allclose(perturbed.stages[-1], outputs.stages[-1], atol=1e-3)


def test_the_low_level_map_alone_changes_what_mmsegs_head_gives(build, batch):
    _, outputs, perturbed = perturbed_outputs(build, batch, THEIRS, ZeroFirst())
    assert not torch.allclose(perturbed.stages[-1], outputs.stages[-1], atol=1e-4)


def test_a_step_trains_it(build, batch):
    rank = dict(type='AgentRankHead', num_agents=4)
    model = build(
        segmentor=segmentor_config(**OURS),
        heads=dict(rank=rank),
        streams=dict(perturbed=dict(features='weak', perturbation=dict(type='FeatureDropout'))),
    )
    losses = model(**model.data_preprocessor(batch(), True), mode='loss')
    total, log = model.parse_losses(losses)
    total.backward()
    assert log['rank.loss'] > 0 and log['perturbed.loss'] > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def convolutions(head):
    return {name: part for name, part in head.named_modules() if isinstance(part, nn.Conv2d)}


def test_convolutions_start_as_torchs_do():
    torch.manual_seed(0)
    head = DeepLabV3PlusHead(in_channels=(64, 256), channels=64, in_index=(0, 1), num_classes=21)
    head.init_weights()
    for name, conv in convolutions(head).items():
        bound = conv.weight[0].numel() ** -0.5  # 1 / sqrt(fan-in)
        assert conv.weight.abs().max() <= bound, name
        assert float(conv.weight.std()) == pytest.approx(bound / 3**0.5, rel=0.05), name
    assert 0 < head.conv_seg.bias.abs().max() <= 64**-0.5
    before = head.conv_seg.weight.clone()
    head.init_weights()  # a second call changes nothing
    assert torch.equal(head.conv_seg.weight, before)


def test_mmcvs_start_is_an_option_and_other_names_are_refused():
    torch.manual_seed(0)
    head = DeepLabV3PlusHead(
        in_channels=(64, 256),
        channels=64,
        in_index=(0, 1),
        num_classes=21,
        initialization='mmcv',
    )
    head.init_weights()
    found = convolutions(head)
    assert float(found['conv_seg'].weight.std()) == pytest.approx(0.01, rel=0.1)
    assert not found['conv_seg'].bias.any()
    branch = found['aspp_modules.1.conv'].weight
    assert float(branch.std()) == pytest.approx((2 / (branch.shape[0] * 9)) ** 0.5, rel=0.05)
    with pytest.raises(ValueError, match=r"initialization .*\('torch', 'mmcv'\), got 'xavier'"):
        small_head(initialization='xavier')


def test_a_checkpoint_of_the_head_stays_loaded(tmp_path):
    first = small_head()
    torch.save(first.state_dict(), tmp_path / 'head.pth')
    head = small_head(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'head.pth')))
    with torch.no_grad():
        head.conv_seg.weight.zero_()
    head.init_weights()
    for name, value in first.state_dict().items():
        assert torch.equal(head.state_dict()[name], value), name


def test_the_decoder_of_u2pls_program():
    """A 3x3 projection, biases after ASPP, and channels that are dropped in three places."""
    options = dict(low_bias=True, project_kernel=3, fuse_bias=True, dropout2d=0.5)
    head = small_head(**options)
    shapes = {name: tuple(value.shape) for name, value in head.named_parameters()}
    assert shapes['bottleneck.conv.weight'][2:] == (3, 3)
    biased = [name for name in shapes if name.endswith('conv.bias')]
    assert biased == ['low_level.conv.bias', 'fuse.0.conv.bias', 'fuse.2.conv.bias']
    seen = {}
    for name in ('drop_channels', 'fuse.1', 'fuse.3'):

        def note(_, given, out, name=name):
            seen[name] = given[0], out

        head.get_submodule(name).register_forward_hook(note)
    head(maps())
    assert all(given.equal(out) for given, out in seen.values())
    head.train()(maps())
    for given, out in seen.values():
        dropped = ~out.flatten(2).any(-1) & given.flatten(2).any(-1)
        assert dropped.any() and not dropped.all()
        torch.testing.assert_close(out[~dropped], 2 * given[~dropped])
    for name, value in dict(project_kernel=2, low_bias=1, fuse_bias=None, dropout2d=1).items():
        with pytest.raises(ValueError, match=f'decode_head.{name} .DeepLabV3PlusHead. must be'):
            small_head(**{name: value})


def test_the_fused_maps_are_a_tap(build):
    segmentor = build(segmentor=segmentor_config(**OURS)).segmentor.eval()
    taps = taps_of('fusion')
    outputs = decode(segmentor, encode(segmentor, torch.randn(2, 3, 32, 32), taps), taps)
    head, fused = segmentor.decode_head, outputs.features['fusion']
    assert fused.shape[1] == feature_channels(head, 'fusion') == head.low_channels + 16
    torch.testing.assert_close(head.conv_seg(head.fuse(fused)), outputs.stages[-1])
    theirs = build(segmentor=segmentor_config(**THEIRS)).segmentor
    taps.check(theirs)
    with pytest.raises(ValueError, match="tap 'fusion': FCNHead is no DeepLabV3. decoder"):
        taps.check(build().segmentor)
