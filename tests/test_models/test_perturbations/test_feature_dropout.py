from __future__ import annotations

import pytest
import torch

from mmseg_semi.models.perturbations import FeatureDropout


def test_whole_channels_of_each_image_and_map_are_dropped_and_the_others_scaled():
    torch.manual_seed(0)
    maps = [torch.rand(4, 300, 3, 5) + 0.5, torch.rand(4, 300, 2, 2) + 0.5]
    kept = []
    for before, after in zip(maps, FeatureDropout(0.25)(maps, 2)):
        factor = after / before
        torch.testing.assert_close(factor, factor[..., :1, :1].expand_as(factor))
        channels = factor[..., 0, 0]
        wanted = torch.where(channels > 0, 1 / 0.75, 0.0)
        torch.testing.assert_close(channels, wanted)
        kept.append(channels > 0)
        assert (kept[-1].float().mean(1) - 0.75).abs().max() < 0.1
    assert not torch.equal(kept[0], kept[1]), 'each map is drawn for itself'
    assert not torch.equal(kept[0][0], kept[0][1]), 'each image is drawn for itself'
    assert torch.equal(FeatureDropout(0.0)(maps, 1)[0], maps[0])


def test_it_drops_in_eval_mode_too():
    (after,) = FeatureDropout().eval()([torch.ones(1, 200, 2, 2)], 1)
    assert 0.3 < (after == 0).float().mean() < 0.7


@pytest.mark.parametrize('prob', [1, 1.0, -0.1, None, '0.5'])
def test_a_probability_outside_its_range_is_refused(prob):
    with pytest.raises(ValueError, match=r'FeatureDropout.prob must be a number in \[0, 1\), got'):
        FeatureDropout(prob)
