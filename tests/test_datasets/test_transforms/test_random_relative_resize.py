import numpy as np
import pytest
from mmseg.registry import TRANSFORMS

from mmseg_semi.datasets.transforms import RandomRelativeResize


def results(height=30, width=40):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    truth = np.arange(height * width, dtype=np.uint8).reshape(height, width) % 5
    # Every map of seg_fields is resized, whatever its name.
    return dict(img=image, gt_seg_map=truth, mine=truth, seg_fields=['gt_seg_map', 'mine'])


@pytest.mark.parametrize(('height', 'width'), [(30, 40), (41, 20)])
def test_the_long_side_is_uniform_between_the_multiples_and_the_aspect_is_kept(height, width):
    np.random.seed(0)
    resize = TRANSFORMS.build(dict(type='RandomRelativeResize', ratio_range=(0.5, 2.0)))
    sizes = [resize(results(height, width))['img'].shape[:2] for _ in range(2500)]
    long, short = max(height, width), min(height, width)
    sides = [max(size) for size in sizes]
    low, high = int(0.5 * long), 2 * long
    assert set(sides) == set(range(low, high + 1))
    counts = np.bincount(sides)[low:]
    expected = 2500 / len(counts)
    assert 0.4 * expected < counts.min() and counts.max() < 1.8 * expected
    for size in sizes:
        assert abs(min(size) - short * max(size) / long) <= 0.5
        assert (size[0] < size[1]) == (height < width)


def test_image_and_mask_are_resized_alike_and_masks_keep_their_values():
    np.random.seed(1)
    for _ in range(20):
        out = RandomRelativeResize((0.3, 3.0))(results())
        assert out['gt_seg_map'].shape == out['img'].shape[:2] == out['img_shape']
        assert set(np.unique(out['gt_seg_map'])) <= set(range(5))
        assert np.array_equal(out['gt_seg_map'], out['mine'])


def test_one_multiple_changes_nothing_but_the_size():
    out = RandomRelativeResize((1, 1))(results())
    assert np.array_equal(out['img'], results()['img'])
    assert RandomRelativeResize((0.5, 0.5))(results())['img'].shape == (15, 20, 3)


@pytest.mark.parametrize('ratio_range', [(0, 1), (2, 1), (1,), (-1, 1)])
def test_wrong_arguments(ratio_range):
    with pytest.raises(ValueError, match='RandomRelativeResize.ratio_range (is|must be)'):
        RandomRelativeResize(ratio_range)
