import pytest
import torch

from mmseg_semi.functional import cutmix_boxes, mix, mix_partners


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
