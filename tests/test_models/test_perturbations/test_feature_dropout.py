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


def kept_of(maps, views=2, **given):
    """Factors of the channels, by map (views, B, C)."""
    changed = FeatureDropout(**given)(maps, views)
    ratios = [after / before for before, after in zip(maps, changed)]
    for one in ratios:
        torch.testing.assert_close(one, one[..., :1, :1].expand_as(one))
    return [one[..., 0, 0].unflatten(0, (views, -1)) for one in ratios]


def maps_of(images, *channels):
    return [torch.rand(images, one, 2, 3) + 0.5 for one in channels]


@pytest.mark.parametrize('prob', [0.5, 0.25])
def test_the_second_view_keeps_just_what_the_first_one_drops(prob):
    torch.manual_seed(0)
    for first, second in kept_of(maps_of(6, 300, 200), prob=prob, complementary=True):
        kept = first > 0
        torch.testing.assert_close(first, torch.where(kept, 1 / (1 - prob), 0.0))
        torch.testing.assert_close(second, torch.where(kept, 0.0, 1 / prob))
        assert (kept.float().mean(1) - 1 + prob).abs().max() < 0.12
        assert not torch.equal(kept[0], kept[1]), 'each image is drawn for itself'


def test_maps_share_a_draw_or_have_their_own():
    torch.manual_seed(0)
    for complementary in (True, False):
        own = kept_of(maps_of(4, 50, 50), complementary=complementary)
        assert not torch.equal(*own)
        shared = kept_of(maps_of(4, 50, 50), complementary=complementary, shared=True)
        torch.testing.assert_close(*shared)
    with pytest.raises(ValueError, match=r'shared=True needs maps of as many .* \[4, 5\]: set sh'):
        kept_of(maps_of(4, 4, 5), shared=True)


@pytest.mark.parametrize(('images', 'whole'), [(1, 0), (2, 1), (5, 2), (8, 4)])
def test_half_of_the_images_rounded_down_stay_as_they_are_in_all_views_and_maps(images, whole):
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        factors = kept_of(maps_of(2 * images, 40, 30), complementary=True, untouched=0.5)
        still = [(one == 1).all(-1) for one in factors]
        assert all(torch.equal(one[view], still[0][0]) for one in still for view in (0, 1))
        assert int(still[0][0].sum()) == whole
        seen.update(still[0][0].nonzero().flatten().tolist())
    assert len(seen) == (images if whole else 0), 'another half each time'


def test_a_gradient_reaches_the_encoder():
    torch.manual_seed(0)
    maps = [one.requires_grad_() for one in maps_of(4, 20)]
    (changed,) = FeatureDropout(complementary=True, untouched=0.5)(maps, 2)
    changed.sum().backward()
    torch.testing.assert_close(maps[0].grad, (changed / maps[0]).detach())


def test_complementary_dropout_needs_two_views_and_a_probability():
    with pytest.raises(
        ValueError, match=r'complementary=True needs two strong views .* got 1: set'
    ):
        FeatureDropout(complementary=True)(maps_of(2, 4), 1)
    with pytest.raises(ValueError, match=r'prob must be a number in \(0, 1\) with complementary'):
        FeatureDropout(0.0, complementary=True)
