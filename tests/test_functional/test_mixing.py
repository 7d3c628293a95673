import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmseg_semi.functional import cutmix_boxes, mix, mix_features, mix_partners


def corners(mask):
    """Rectangle of one (H, W) mask as (top, bottom, left, right), ends exclusive."""
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize('size', [(321, 321), (64, 64), (200, 400)])
def test_boxes_are_filled_rectangles_of_the_right_area_and_aspect(size):
    masks = cutmix_boxes(400, size, prob=1.0, generator=generator())
    assert masks.shape == (400, *size) and masks.dtype == torch.bool
    height, width = size
    areas = []
    for mask in masks:
        top, bottom, left, right = corners(mask)
        h, w = bottom - top, right - left
        assert mask.sum() == h * w, 'a box has no holes'
        # Rounding moves each side by at most half a pixel.
        slack = 0.5 * (h + w) + 0.25
        assert 0.02 * height * width - slack <= h * w <= 0.4 * height * width + slack
        assert (h - 0.5) / (w + 0.5) <= 1 / 0.3 and (h + 0.5) / (w - 0.5) >= 0.3
        areas.append(h * w / (height * width))
    # Uniform in (0.02, 0.4): mean 0.21, standard error 0.11 / sqrt(400) = 0.0055.
    assert abs(sum(areas) / len(areas) - 0.21) < 0.025


def test_boxes_reach_every_border_and_are_as_often_left_as_right():
    masks = cutmix_boxes(3000, (32, 32), prob=1.0, generator=generator(1))
    cover = masks.float().mean(0)
    assert cover.min() > 0
    assert (cover - cover.flip(0)).abs().max() < 0.06
    assert (cover - cover.flip(1)).abs().max() < 0.06


def test_prob_is_the_share_of_images_with_a_box():
    masks = cutmix_boxes(2000, (16, 16), prob=0.5, generator=generator(2))
    share = masks.flatten(1).any(1).float().mean()
    assert abs(share - 0.5) < 0.05
    assert not cutmix_boxes(50, (16, 16), prob=0.0).any()
    assert cutmix_boxes(50, (16, 16), prob=1.0).flatten(1).any(1).all()


def test_boxes_follow_the_generator_and_differ_between_images():
    first = cutmix_boxes(4, (64, 64), prob=1.0, generator=generator(3))
    assert torch.equal(first, cutmix_boxes(4, (64, 64), prob=1.0, generator=generator(3)))
    assert not torch.equal(first, cutmix_boxes(4, (64, 64), prob=1.0, generator=generator(4)))
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize(
    'arguments, word',
    [
        (dict(prob=1.5), 'prob'),
        (dict(area=(0.5, 0.1)), 'area'),
        (dict(area=(0.1, 1.5)), 'area'),
        (dict(aspect=(0.0, 1.0)), 'aspect'),
        (dict(size=(0, 4)), 'size'),
    ],
)
def test_boxes_refuse_wrong_arguments(arguments, word):
    with pytest.raises(ValueError, match=word):
        cutmix_boxes(**{'batch': 2, 'size': (8, 8), **arguments})


@pytest.mark.parametrize('batch', [2, 3, 8])
def test_partners_are_a_permutation_without_fixed_points(batch):
    source = generator()
    for _ in range(50):
        partners = mix_partners(batch, generator=source)
        assert sorted(partners.tolist()) == list(range(batch))
        assert not (partners == torch.arange(batch)).any()


def test_partners_vary_and_one_image_has_none_but_itself():
    source = generator()
    assert len({tuple(mix_partners(4, generator=source).tolist()) for _ in range(100)}) == 6
    assert mix_partners(1).tolist() == [0]
    with pytest.raises(ValueError, match='batch'):
        mix_partners(0)


def test_mix_takes_the_partners_pixels_inside_the_mask():
    tensor = torch.tensor([[[1, 2]], [[3, 4]], [[5, 6]]])  # (3, 1, 2)
    mask = torch.tensor([[[True, False]], [[False, False]], [[True, True]]])
    partners = torch.tensor([1, 2, 0])
    assert mix(tensor, mask, partners).tolist() == [[[3, 2]], [[3, 4]], [[1, 2]]]
    channels = torch.stack([tensor, -tensor], dim=1)
    mixed = mix(channels, mask, partners)
    assert mixed[:, 0].tolist() == [[[3, 2]], [[3, 4]], [[1, 2]]]
    assert torch.equal(mixed[:, 1], -mixed[:, 0])


def test_mix_refuses_another_size():
    with pytest.raises(ValueError, match='spatial size'):
        mix(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 5, dtype=torch.bool), torch.tensor([1, 0]))


def naive_rejection(size, rounds, seed):
    """UniMatch's rule, box by box: heights, widths, tops and lefts."""
    source = np.random.default_rng(seed)
    boxes = []
    for _ in range(rounds):
        area = source.uniform(0.02, 0.4) * size**2
        while True:
            ratio = source.uniform(0.3, 1 / 0.3)
            w, h = int((area / ratio) ** 0.5), int((area * ratio) ** 0.5)
            x, y = source.integers(size), source.integers(size)
            if x + w <= size and y + h <= size:
                boxes.append((h, w, y, x))
                break
    return np.array(boxes)


def test_boxes_by_rejection_are_those_of_the_rule():
    masks = cutmix_boxes(3000, (97, 97), prob=1.0, generator=generator(3), draw='rejection')
    found = np.array([corners(mask) for mask in masks])
    found = np.stack(
        [
            found[:, 1] - found[:, 0],
            found[:, 3] - found[:, 2],
            found[:, 0],
            found[:, 2],
        ],
        axis=1,
    )
    expected = naive_rejection(97, 3000, 4)
    spread = expected.std(axis=0) / 3000**0.5
    assert (abs(found.mean(0) - expected.mean(0)) < 6 * spread).all()
    # Square boxes away from the far corner are favored; fitting ones are not.
    ratio = (found[:, 0] / found[:, 1]).mean()
    fitting = np.array(
        [corners(m) for m in cutmix_boxes(3000, (97, 97), 1.0, generator=generator())]
    )
    heights, widths = fitting[:, 1] - fitting[:, 0], fitting[:, 3] - fitting[:, 2]
    assert 1.5 < ratio < 1.7 < (heights / widths).mean() < 1.85


def test_boxes_by_rejection_that_never_fit_are_refused():
    with pytest.raises(ValueError, match="draw='rejection': no box of 256 pixels"):
        cutmix_boxes(1, (16, 16), 1.0, (1.0, 1.0), (2.0, 3.0), draw='rejection')
    assert cutmix_boxes(2, (16, 16), 1.0, (1.0, 1.0), (1.0, 1.0), draw='rejection').all()


@pytest.mark.parametrize('size', [(16, 16), (15, 21)])
def test_boxes_by_width_have_half_the_area_and_every_width(size):
    height, width = size
    masks = cutmix_boxes(600, size, prob=1.0, area=(0.5, 0.5), generator=generator(5), draw='width')
    sides = {(b - t, r - l) for t, b, l, r in map(corners, masks)}
    widths = range(width // 2 + 1, width)
    assert sides == {(round(height * width / 2 / w), w) for w in widths}


def test_one_coin_for_the_batch():
    drawn = [
        cutmix_boxes(3, (16, 16), 0.5, generator=generator(i), coin='batch').flatten(1).any(1)
        for i in range(60)
    ]
    assert all(one.all() or not one.any() for one in drawn)
    assert 15 < sum(bool(one[0]) for one in drawn) < 45
    with pytest.raises(ValueError, match="coin must be one of .*, got 'both'"):
        cutmix_boxes(1, (8, 8), coin='both')


def test_partners_pixels_can_come_from_elsewhere():
    one, other = (
        torch.zeros(2, 3, 4, 4),
        torch.arange(2.0).add(1)[:, None, None, None].expand(2, 3, 4, 4),
    )
    mask, partners = torch.zeros(2, 4, 4, dtype=torch.bool), torch.tensor([1, 0])
    mask[:, :2] = True
    mixed = mix(one, mask, partners, other)
    assert (
        mixed[0, :, :2].eq(2).all() and mixed[1, :, :2].eq(1).all() and mixed[:, :, 2:].eq(0).all()
    )
    assert torch.equal(mix_features(one, mask, partners, others=other), mixed)
    small = [F.interpolate(t, size=(2, 2)) for t in (one, other)]
    half = mix_features(small[0], mask, partners, others=small[1])
    full = mix(*(F.interpolate(small[0], (4, 4)), mask, partners, F.interpolate(small[1], (4, 4))))
    torch.testing.assert_close(
        half, F.interpolate(full, (2, 2), mode='bilinear', align_corners=False)
    )
