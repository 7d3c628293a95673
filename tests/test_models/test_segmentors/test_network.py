import pytest
import torch

from mmseg_semi.models.component import Component
from mmseg_semi.models.perturbations import BasePerturbation
from mmseg_semi.models.segmentors.network import decode, encode

from ..conftest import SEGMENTOR
from ..helpers import run_step
from ..steps import taps_of, whole_step


def run(segmentor, taps):
    return decode(segmentor, encode(segmentor, torch.randn(2, 3, 32, 32), taps), taps)


def test_named_features_are_recorded_and_hooks_removed(build):
    segmentor = build().segmentor
    names = ['encoder', 'penultimate', 'decode_head.convs', 'encoder', 'classifier']
    taps = taps_of(*names)
    assert taps.names == sorted(set(names))
    outputs = run(segmentor, taps)
    assert outputs.features['encoder'] is outputs.maps[-1]
    assert outputs.features['penultimate'] is outputs.features['decode_head.convs']
    torch.testing.assert_close(
        segmentor.decode_head.conv_seg(outputs.features['penultimate']), outputs.stages[-1]
    )
    assert outputs.features['classifier'] is outputs.stages[-1]
    for module in segmentor.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_unknown_taps_are_refused_with_the_known_ones(build):
    segmentor = build().segmentor
    with pytest.raises(ValueError, match="'encodr'.*penultimate.*decode_head.conv_seg"):
        taps_of('encodr').check(segmentor)
    with pytest.raises(ValueError, match="'logits'.*encoder, aspp, fusion, penultimate, cl"):
        taps_of('logits').check(segmentor)
    with pytest.raises(ValueError, match='FCNHead has no ASPP'):
        taps_of('aspp').check(segmentor)


def test_a_module_that_does_not_run_is_no_feature(build):
    segmentor = build().segmentor
    with pytest.raises(ValueError, match="'decode_head.loss_decode'.*does not run this module"):
        run(segmentor, taps_of('decode_head.loss_decode'))


def test_features_with_other_channels_than_a_reader_has_layers_for_are_refused(build):
    class Reader(Component):
        taps, tap_channels = ('encoder',), dict(encoder=5)
        config_key = 'model.heads.mine'

    taps = taps_of('encoder')
    taps.readers.append(Reader())
    with pytest.raises(
        ValueError,
        match=r"model.heads.mine \(Reader\): the features 'encoder' have 4 channels, not 5: "
        'set in_channels=4',
    ):
        run(build().segmentor, taps)


class Zero(BasePerturbation):
    def forward(self, maps, views):
        self.seen = maps
        return [torch.zeros_like(one) for one in maps]


def test_perturbation_touches_every_map_that_the_decoder_takes_and_no_other(build, batch):
    zero = Zero()
    model = build(streams=dict(perturbed=dict(features='weak', perturbation=zero)))
    step = whole_step(model, batch())
    perturbed = step.streams['perturbed'][0].outputs
    assert len(zero.seen) == 1 and torch.equal(zero.seen[0], step.weak.maps[2])
    assert not perturbed.maps[2].any() and step.weak.maps[2].any()
    assert all(torch.equal(*pair) for pair in zip(perturbed.maps[:2], step.weak.maps[:2]))
    assert not torch.equal(perturbed.stages[-1], step.weak.stages[-1])


def test_encode_and_decode_are_the_two_halves_of_mmsegs_pass(build):
    """Public on the model: of the student, or of another network."""
    model, other = build().eval(), build(channels_last=True).eval()
    images = torch.randn(2, 3, 32, 32)
    for network in (None, other.segmentor):
        segmentor = network or model.segmentor
        segmentor.decode_head.conv_seg.bias.data += 1 if network else 0
        features = model.encode(images, network)
        assert features.size == (32, 32) and len(features) == 2
        for ours, theirs in zip(features.maps, segmentor.extract_feat(images)):
            torch.testing.assert_close(ours, theirs)
        outputs = model.decode(features, network)
        expected = segmentor.encode_decode(images, [dict(img_shape=(32, 32))] * 2)
        torch.testing.assert_close(outputs.logits, expected)
        torch.testing.assert_close(model.run(images, network).logits, expected)
        assert outputs.maps is features.maps
    features = other.encode(images)
    assert not torch.equal(other.decode(features).logits, model.run(images).logits)
    # What is decoded may be other features, of fewer images.
    half = features.split([1, 1])[1]
    half.maps = [2 * one for one in half.maps]
    raw = other.segmentor.decode_head(half.maps)
    torch.testing.assert_close(other.decode(half).stages[-1], raw)


def test_one_image_alone_in_a_pooled_branch_is_explained(build, batch):
    model = build(
        segmentor=dict(
            SEGMENTOR,
            decode_head=dict(
                type='ASPPHead',
                in_channels=4,
                in_index=2,
                channels=4,
                dilations=(1, 2),
                num_classes=3,
                norm_cfg=dict(type='BN'),
                loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
            ),
        )
    )
    with pytest.raises(ValueError, match='one image alone.*at least 2 labeled and 2 unlabeled'):
        run_step(model, batch(((32, 32),), ((32, 32),)))
