import pytest
import torch

from mmseg_semi.models.segmentors.feature_taps import FeatureTaps
from mmseg_semi.models.segmentors.student import decode_perturbed, forward_segmentor


def test_named_features_are_recorded_and_hooks_removed(build):
    segmentor = build().segmentor
    names = ['encoder', 'penultimate', 'decode_head.convs', 'encoder', 'fusion', 'classifier']
    taps = FeatureTaps(names)
    assert taps.names == sorted(set(names))
    outputs = forward_segmentor(segmentor, torch.randn(2, 3, 32, 32), taps)
    assert outputs.features['encoder'] is outputs.maps[-1]
    assert outputs.features['penultimate'] is outputs.features['decode_head.convs']
    torch.testing.assert_close(
        segmentor.decode_head.conv_seg(outputs.features['penultimate']), outputs.stages[-1]
    )
    assert outputs.features['fusion'] is outputs.features['penultimate']
    assert outputs.features['classifier'] is outputs.stages[-1]
    for module in segmentor.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_unknown_taps_are_refused_with_the_known_ones(build):
    segmentor = build().segmentor
    with pytest.raises(ValueError, match="'encodr'.*penultimate.*decode_head.conv_seg"):
        FeatureTaps(['encodr']).check(segmentor)
    with pytest.raises(ValueError, match='FCNHead has no ASPP'):
        FeatureTaps(['aspp']).check(segmentor)


def test_perturbation_touches_every_map_that_the_decoder_takes_and_no_other(build):
    segmentor = build().segmentor
    outputs = forward_segmentor(segmentor, torch.randn(2, 3, 32, 32))
    touched = []

    def perturb(feature):
        touched.append(feature)
        return torch.zeros_like(feature)

    perturbed = decode_perturbed(segmentor, outputs, perturb)
    assert len(touched) == 1 and touched[0] is outputs.maps[2]
    assert not torch.equal(perturbed.stages[-1], outputs.stages[-1])


def test_a_module_that_does_not_run_is_no_feature(build):
    segmentor = build().segmentor
    with pytest.raises(ValueError, match="'decode_head.loss_decode'.*does not run this module"):
        forward_segmentor(
            segmentor, torch.randn(2, 3, 32, 32), FeatureTaps(['decode_head.loss_decode'])
        )
