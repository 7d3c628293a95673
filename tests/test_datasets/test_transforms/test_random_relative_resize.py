import numpy as np
import pytest
from mmseg.registry import TRANSFORMS
from PIL import Image

from mmseg_semi.datasets.transforms import (
    RandomPaddedCrop,
    RandomRelativeResize,
    random_relative_resize,
)
from mmseg_semi.datasets.transforms.random_relative_resize import crop_while_resizing


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


def test_halves_shrink_as_often_as_they_enlarge():
    """Uniform in [0.5, 1] or in [1, 2], a coin says in which: the median is 1."""
    np.random.seed(0)
    resize = TRANSFORMS.build(dict(type='RandomRelativeResize', law='halves'))
    sides = np.array([max(resize(results())['img'].shape[:2]) for _ in range(4000)])
    assert sides.min() == 20 and 78 <= sides.max() <= 80
    assert abs((sides < 40).mean() - 0.5) < 0.03
    # Each quarter of both halves is as likely: four of 5 pixels, four of 10.
    for edges in (np.arange(20, 41, 5), np.arange(40, 81, 10)):
        counts = np.histogram(sides, edges)[0]
        assert np.abs(counts / 4000 - 1 / 8).max() < 0.02


def test_the_long_side_may_be_given_in_pixels():
    """AugSeg on VOC: 250 to 1000 pixels, whatever the image has."""
    np.random.seed(0)
    resize = RandomRelativeResize(long_side=500)
    sides = [max(resize(results(*size))['img'].shape[:2]) for size in [(30, 40), (9, 6)] * 300]
    assert 250 <= min(sides) < 256 and 994 < max(sides) <= 1000
    assert abs(np.mean(sides) - 625) < 30


def test_the_short_side_may_be_given_in_pixels():
    """SemiVL on VOC: 512, times 0.5 to 2."""
    for ratio, wanted in ((1.0, [(512, 683), (768, 512)]), (0.5, [(256, 341), (384, 256)])):
        resize = RandomRelativeResize((ratio, ratio), short_side=512)
        found = [resize(results(*size))['img'].shape[:2] for size in [(30, 40), (9, 6)]]
        assert found == wanted


@pytest.mark.parametrize(('ratio', 'size'), [(0.6, (18, 24)), (0.5, (15, 20)), (1.7, (51, 68))])
def test_pillow_resizes_as_pillow_does(ratio, size):
    given = results()
    rgb = Image.fromarray(given['img'][..., ::-1])
    mask = Image.fromarray(given['gt_seg_map'])
    out = RandomRelativeResize((ratio, ratio), backend='pillow')(given)
    height, width = size
    wanted = np.asarray(rgb.resize((width, height), Image.Resampling.BILINEAR))[..., ::-1]
    assert np.array_equal(out['img'], wanted) and out['img_shape'] == size
    wanted = np.asarray(mask.resize((width, height), Image.Resampling.NEAREST))
    assert np.array_equal(out['gt_seg_map'], wanted) and np.array_equal(out['mine'], wanted)
    assert out['seg_fields'] == ['gt_seg_map', 'mine']


def test_pillow_is_antialiased_and_cv2_is_not():
    """Every other column is white: a filter as wide as the step sees their mean everywhere."""
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, ::4] = 240  # every fourth one; cv2 at a quarter meets none of them
    for backend, values in (('pillow', (50, 70)), ('cv2', (0, 0))):
        resize = RandomRelativeResize((0.25, 0.25), backend=backend)
        out = resize(dict(img=image.copy(), seg_fields=[]))['img'][2:-2, 2:-2]
        assert (out.min() >= values[0]) and (out.max() <= values[1])


def test_pillow_takes_maps_of_any_type():
    """The nearest pixel is that at the center: of 4 pixels to 2 the second and the fourth."""
    rows = np.arange(4.0)[:, None] * np.ones((1, 4))
    deep = np.dstack([rows, rows + 300]).astype(np.int64)
    given = dict(img=np.zeros((4, 4, 3), np.uint8), deep=deep, flag=rows > 0)
    given['seg_fields'] = ['deep', 'flag']
    out = RandomRelativeResize((0.5, 0.5), backend='pillow')(given)
    assert out['deep'].tolist() == [[[1, 301]] * 2, [[3, 303]] * 2]
    assert out['flag'].tolist() == [[True] * 2] * 2


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(law='half'), "law must be one of .* got 'half'. Did you mean 'halves'"),
        (dict(law='halves', ratio_range=(1.5, 2)), "law='halves' needs 1 between"),
        (dict(backend='pil'), "backend must be one of .'cv2', 'pillow'., got 'pil'"),
        (dict(long_side=500, short_side=512), 'long_side=500 and short_side=512: leave one'),
        (dict(long_side=0), 'long_side must be a whole number >= 1, got 0'),
    ],
)
def test_other_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandomRelativeResize(**arguments)


@pytest.mark.parametrize('cat_max_ratio', [1.0, 0.3])
@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_a_crop_is_resized_and_not_the_whole_image(backend, cat_max_ratio, monkeypatch):
    """The same keys, maps, random numbers and, but for rounding, pixels; cv2's may lie beside."""
    made = []

    def spied(image, size, part, nearest):
        made.append(resized(image, size, part, nearest))
        return made[-1]

    resized = getattr(random_relative_resize, f'_with_{backend}')
    monkeypatch.setattr(random_relative_resize, f'_with_{backend}', spied)
    cropped = 0
    for seed in range(60):
        height, width = np.random.default_rng(seed).integers(20, 90, 2)
        kind = np.float32 if seed % 4 == 0 else np.uint8
        outs = []
        for linked in (False, True):
            resize = RandomRelativeResize((0.5, 2.0), backend=backend)
            crop = RandomPaddedCrop((40, 30), (1, 1, 1), cat_max_ratio=cat_max_ratio)
            if linked:
                crop_while_resizing([resize, crop])
            np.random.seed(seed)
            down, across = np.mgrid[:height, :width].astype(np.uint8)
            fields = dict(gt_seg_map=down, mine=across, seg_fields=['gt_seg_map', 'mine'])
            image = np.dstack([down, across, down]).astype(kind)  # values are places
            outs.append(crop(resize(dict(fields, img=image))) | dict(next=np.random.rand()))
            outs[-1]['made'] = made[-1].shape[:2]
        whole, part = outs
        sizes = whole.pop('made'), part.pop('made')
        if sizes[0][0] < 40 or sizes[0][1] < 30:
            assert sizes[0] == sizes[1]
        else:
            cropped += 1
            assert sizes[1] == (40, 30)
        assert whole.keys() == part.keys()
        for name, one in whole.items():
            if isinstance(one, np.ndarray) and one.size > 1:
                apart = dict(cv2=2, pillow=1 if name == 'img' else 0)[backend]
                assert np.abs(part[name].astype(float) - one).max() <= apart, name
            else:
                assert np.array_equal(part[name], one), name
    assert 20 < cropped < 55


@pytest.mark.parametrize('ratio', [0.55, 0.83, 1.0, 1.37, 1.9])
@pytest.mark.parametrize('old', [41, 100])
def test_cv2_moves_a_part_by_less_than_a_pixel_and_image_and_map_alike(ratio, old):
    new = round(old * ratio)
    step = old / new
    places = np.arange(old, dtype=np.uint8) * np.ones((old, 1), np.uint8)
    for side in {20, new - 1}:
        for start in range(new - side + 1):
            part = (slice(start, start + side),) * 2
            found, values = (
                random_relative_resize._with_cv2(one, (new, new), part, nearest)
                for one, nearest in ((places, True), (places.astype(np.float32), False))
            )
            assert found.shape == values.shape == (side, side)
            centers = (start + np.arange(side) + 0.5) * step - 0.5
            assert np.abs(values - centers.clip(0, old - 1)).max() < 1
            # cv2's nearest pixel is that at the corner of the new one.
            corners = values - (step - 1) / 2
            inner = slice(1, -1)
            assert (found - corners)[:, inner].min() > -1 and (found - corners).max() < 0.51
