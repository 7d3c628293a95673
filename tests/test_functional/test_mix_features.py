from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmseg_semi.functional import mix, mix_features, mixing

MASK = torch.zeros(3, 12, 20, dtype=torch.bool)
MASK[0, 2:9, 3:11] = True
MASK[1, :5, 13:] = True
PARTNERS = torch.tensor([2, 0, 1])


def features(*grid, channels=7, seed=0):
    source = torch.Generator().manual_seed(seed)
    return torch.randn(3, channels, *grid, generator=source)


def by_hand(maps, align_corners):
    """Image by image and channel by channel: enlarge, cut, paste, reduce."""
    result = torch.empty_like(maps)
    grid, size = maps.shape[-2:], MASK.shape[-2:]

    def resized(plane, to):
        scaled = F.interpolate(plane[None, None], to, mode='bilinear', align_corners=align_corners)
        return scaled[0, 0]

    for b, partner in enumerate(PARTNERS.tolist()):
        for c in range(maps.shape[1]):
            full, other = resized(maps[b, c], size), resized(maps[partner, c], size)
            full[MASK[b]] = other[MASK[b]]
            result[b, c] = resized(full, grid) if MASK[b].any() else maps[b, c]
    return result


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('grid', [(3, 5), (5, 6), (12, 10)])
def test_each_channel_is_enlarged_cut_pasted_and_reduced(grid, align_corners):
    maps = features(*grid)
    mixed = mix_features(maps, MASK, PARTNERS, align_corners)
    torch.testing.assert_close(mixed, by_hand(maps, align_corners))
    wrong = by_hand(maps, not align_corners)
    assert (mixed - wrong).abs().max() > 0.01, 'the corners must matter here'
    assert not mixed[0].allclose(maps[0]), 'an image with a box changes'


def test_the_default_does_not_align_corners():
    maps = features(3, 5)
    assert torch.equal(
        mix_features(maps, MASK, PARTNERS), mix_features(maps, MASK, PARTNERS, False)
    )


def test_features_of_the_images_size_are_mixed_as_they_are():
    maps = features(12, 20)
    assert torch.equal(mix_features(maps, MASK, PARTNERS), mix(maps, MASK, PARTNERS))


def test_a_box_of_everything_gives_the_partners_features_and_none_gives_ones_own():
    """Features that vary linearly survive being enlarged and reduced."""
    ramp = torch.linspace(-1, 1, 5).expand(3, 2, 4, 5) * torch.arange(1.0, 4)[:, None, None, None]
    full = torch.ones_like(MASK)
    torch.testing.assert_close(mix_features(ramp, full, PARTNERS, True), ramp[PARTNERS])
    torch.testing.assert_close(mix_features(ramp, ~full, PARTNERS, True), ramp)


@pytest.mark.parametrize('others', [None, features(3, 5, seed=1)], ids=['own', 'others'])
@pytest.mark.parametrize('held', [1, 2, 3, 100])
def test_channels_taken_some_at_a_time_change_nothing(held, others, monkeypatch):
    maps = features(3, 5)
    whole = mix_features(maps, MASK, PARTNERS, others=others)
    widths = []
    original = mixing._Resampling.lifted

    def watched(self, part):
        widths.append(part.shape[1])
        return original(self, part)

    monkeypatch.setattr(mixing._Resampling, 'lifted', watched)
    # Too little for one channel still takes one.
    once = 4 * maps[:, 0].numel()
    monkeypatch.setitem(mixing._MAX_ELEMENTS, 'cpu', held * once - (held == 1))
    assert torch.equal(mix_features(maps, MASK, PARTNERS, others=others), whole)
    assert max(widths) == min(held, 7) and sum(widths) == (7 if others is None else 14)


@pytest.mark.parametrize('stride', [1, 2, 4, 8, 3])
def test_a_grid_on_pixels_is_mixed_with_the_mask_there(stride):
    maps = features(6, 9)
    mask = torch.zeros(3, 5 * stride + 1, 8 * stride + 1, dtype=torch.bool)
    mask[0, stride : 3 * stride + 1, : 6 * stride] = True
    mask[2, 1 : 4 * stride, 2:] = True

    def resized(one, size):
        return F.interpolate(one, size=size, mode='bilinear', align_corners=True)

    full = resized(maps, mask.shape[-2:])
    wanted = resized(mix(full, mask, PARTNERS), maps.shape[-2:])
    found = mix_features(maps, mask, PARTNERS, True)
    if stride == 3:  # a third is no number of a computer's
        torch.testing.assert_close(found, wanted)
    else:
        assert torch.equal(found, wanted), 'bit by bit'


def test_no_gradient_and_the_same_type():
    maps = features(3, 5).requires_grad_()
    mixed = mix_features(maps, MASK, PARTNERS)
    assert not mixed.requires_grad
    half = mix_features(maps.detach().bfloat16(), MASK, PARTNERS)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), mixed, rtol=0, atol=0.05)


@pytest.mark.parametrize('shape', [(3, 5), (3, 3, 5), (2, 7, 3, 5), (1, 7, 3, 5), (4, 7, 12, 20)])
def test_other_shapes_and_batches_are_refused(shape):
    with pytest.raises(ValueError, match=r'\(B, C, h, w\) of the batch of mask \(3, 12, 20\)'):
        mix_features(torch.zeros(shape), MASK, PARTNERS)
