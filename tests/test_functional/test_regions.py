from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from mmseg_semi.functional import propagate_regions
from mmseg_semi.functional.correlation import _propagate_dense, _propagate_packed


def packed(label, selected, shapes, threshold, num_classes):
    return _propagate_packed(label, selected, shapes, threshold)


def dense(label, selected, shapes, threshold, num_classes):
    return _propagate_dense(label, selected, shapes, threshold, num_classes)


def public(label, selected, shapes, threshold, num_classes):
    return propagate_regions(label, selected, shapes, threshold, num_classes)


def public_without_classes(label, selected, shapes, threshold, num_classes):
    return propagate_regions(label, selected, shapes, threshold)


IMPLEMENTATIONS = [packed, dense, public, public_without_classes]
every_implementation = pytest.mark.parametrize('propagate', IMPLEMENTATIONS)


def share(part, whole, threshold):
    """The ratio and the threshold, both in the precision of the threshold."""
    number = {torch.float32: np.float32, torch.float64: np.float64}[
        threshold.dtype if isinstance(threshold, torch.Tensor) else torch.float64
    ]
    limit = number(threshold.item() if isinstance(threshold, torch.Tensor) else threshold)
    return number(part) / number(whole), limit


def reference(label, selected, shapes, threshold):
    """The sequential rule, pixel by pixel; also counts the shapes that took part."""
    out_label, out_selected = label.tolist(), selected.tolist()
    given_mask, accepted = selected.tolist(), 0
    for b, image_shapes in enumerate(shapes.tolist()):
        for shape in image_shapes:
            pixels = [(y, x) for y, row in enumerate(shape) for x, on in enumerate(row) if on]
            overlap = [(y, x) for y, x in pixels if given_mask[b][y][x]]
            if not overlap:
                continue
            ratio, limit = share(len(overlap), len(pixels), threshold)
            if ratio < limit:
                continue
            counts = {}
            for y, x in overlap:
                counts[out_label[b][y][x]] = counts.get(out_label[b][y][x], 0) + 1
            winner = min(counts, key=lambda k: (-counts[k], k))
            ratio, limit = share(counts[winner], len(overlap), threshold)
            if not ratio > limit:
                continue
            accepted += 1
            for y, x in pixels:
                out_label[b][y][x] = winner
                out_selected[b][y][x] = True
    out_label = torch.tensor(out_label, dtype=torch.int64).reshape(label.shape)
    return out_label, torch.tensor(out_selected, dtype=torch.bool).reshape(label.shape), accepted


def same(result, expected):
    label, selected = result
    return (
        label.dtype == torch.int64
        and selected.dtype == torch.bool
        and label.shape == expected[0].shape
        and selected.shape == expected[1].shape
        and torch.equal(label.cpu(), expected[0])
        and torch.equal(selected.cpu(), expected[1])
    )


def agree(label, selected, shapes, threshold, num_classes=8):
    """Asserts that every implementation equals the reference, which it returns."""
    expected = reference(label, selected, shapes, threshold)
    for propagate in IMPLEMENTATIONS:
        result = propagate(label, selected, shapes, threshold, num_classes)
        assert same(result, expected), propagate.__name__
    return expected


def row(*values):
    """An image of one row: (1, 1, W) int64."""
    return torch.tensor(values, dtype=torch.int64).reshape(1, 1, -1)


def mask(text):
    """An image of one row from 'x' and '.': (1, 1, W) bool."""
    return torch.tensor([c == 'x' for c in text]).reshape(1, 1, -1)


def masks(*texts):
    """Shapes of one image of one row: (1, N, 1, W)."""
    return torch.stack([mask(text)[0] for text in texts], 1).reshape(1, len(texts), 1, -1)


def scene(rng, batch, size, num, classes, shape_density=0.3, selected_density=0.8, kind='noise'):
    """A random label, mask and shapes. Labels are blocky, so that shapes can agree."""
    height, width = size
    coarse = rng.integers(0, classes, (batch, (height + 3) // 4, (width + 5) // 6))
    label = coarse.repeat(4, 1).repeat(6, 2)[:, :height, :width]
    noise = rng.random(label.shape) < 0.1
    label = np.where(noise, rng.integers(0, classes, label.shape), label)
    selected = rng.random(label.shape) < selected_density
    shapes = np.zeros((batch, num, height, width), dtype=bool)
    if kind == 'noise':
        shapes = rng.random(shapes.shape) < shape_density
    else:
        for b in range(batch):
            for n in range(num):
                top, bottom = np.sort(rng.integers(0, height + 1, 2))
                left, right = np.sort(rng.integers(0, width + 1, 2))
                shapes[b, n, top:bottom, left:right] = True
    return torch.from_numpy(label.astype(np.int64)), *map(torch.from_numpy, (selected, shapes))


FRACTIONS = [(a, b) for b in range(1, 8) for a in range(b + 1)]


@st.composite
def thresholds(draw):
    value = draw(
        st.one_of(
            st.sampled_from([a / b for a, b in FRACTIONS]),
            st.sampled_from([0.0, 0.3, 0.5, 0.85, 0.95, 1.0]),
            st.floats(0, 1),
        )
    )
    kind = draw(st.sampled_from(['python', torch.float32, torch.float64]))
    return value if kind == 'python' else torch.tensor(value, dtype=kind)


@settings(deadline=None, derandomize=True, max_examples=400)
@given(
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 2),
    height=st.sampled_from([1, 2, 3, 5, 9]),
    width=st.sampled_from([1, 2, 3, 7, 8, 9, 15, 17, 33]),
    num=st.integers(1, 8),
    classes=st.integers(1, 6),
    densities=st.tuples(*[st.sampled_from([0.0, 0.1, 0.4, 0.7, 0.95, 1.0])] * 2),
    kind=st.sampled_from(['noise', 'boxes']),
    threshold=thresholds(),
)
def test_random_scenes(seed, batch, height, width, num, classes, densities, kind, threshold):
    rng = np.random.default_rng(seed)
    label, selected, shapes = scene(
        rng, batch, (height, width), num, classes, *densities, kind=kind
    )
    agree(label, selected, shapes, threshold, classes)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    label=st.lists(st.integers(0, 2), min_size=7, max_size=7),
    selected=st.lists(st.booleans(), min_size=7, max_size=7),
    shapes=st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=5),
    fraction=st.sampled_from(FRACTIONS),
    kind=st.sampled_from(['python', torch.float32, torch.float64]),
)
def test_small_rows_whose_ratios_often_equal_the_threshold(label, selected, shapes, fraction, kind):
    value = fraction[0] / fraction[1]
    threshold = value if kind == 'python' else torch.tensor(value, dtype=kind)
    shapes = torch.tensor(shapes).reshape(1, -1, 1, 7)
    agree(row(*label), torch.tensor(selected).reshape(1, 1, 7), shapes, threshold, 3)


def test_a_scene_in_which_much_happens():
    """The random scenes say something only if shapes are taken and refused."""
    rng = np.random.default_rng(0)
    label, selected, shapes = scene(rng, 2, (30, 41), 40, 5, kind='boxes')
    for threshold in (0.3, 0.6, torch.tensor(0.6)):
        accepted = agree(label, selected, shapes, threshold, 5)[2]
        assert 5 < accepted < 75


@pytest.mark.parametrize('width', [1, 7, 8, 9, 31, 63, 64, 65, 127, 128, 130])
@pytest.mark.parametrize('height', [1, 3])
def test_widths_around_the_size_of_a_word(width, height):
    rng = np.random.default_rng(width)
    for kind, threshold in (('noise', 0.2), ('boxes', 0.5)):
        scene_ = scene(rng, 2, (height, width), 6, 3, 0.4, 0.9, kind)
        agree(*scene_, threshold, 3)
    # The last pixels of an image alone.
    label, selected = torch.ones(1, height, width, dtype=torch.int64), None
    selected = torch.zeros(1, height, width, dtype=torch.bool)
    selected[0, -1, -1] = True
    label[0, -1, -1] = 2
    shapes = torch.zeros(1, 2, height, width, dtype=torch.bool)
    shapes[0, 0, -1, -2:] = True
    shapes[0, 1, 0, 0] = True
    assert agree(label, selected, shapes, 0.3, 3)[2] >= 1


@every_implementation
def test_by_hand(propagate):
    label, selected = row(1, 1, 2, 0, 0, 0), mask('xxx..x')
    # r1 = 3/4, r2 = 2/3 with class 1: taken at 0.6; the unselected fourth pixel gets the label.
    result = propagate(label, selected, masks('xxxx..'), 0.6, 3)
    assert same(result, (row(1, 1, 1, 1, 0, 0), mask('xxxx.x')))
    # r2 is too small at 0.7 and r1 at 0.76.
    for threshold in (0.7, 0.76):
        result = propagate(label, selected, masks('xxxx..'), threshold, 3)
        assert same(result, (label, selected))


@every_implementation
def test_r1_equal_to_the_threshold_passes_and_r2_does_not(propagate):
    for number in (float, torch.tensor, lambda x: torch.tensor(x, dtype=torch.float64)):
        threshold = number(2 / 3)
        # r1 = 2/3, r2 = 1.
        result = propagate(row(1, 1, 0), mask('xx.'), masks('xxx'), threshold, 2)
        assert same(result, (row(1, 1, 1), mask('xxx')))
        # r1 = 1, r2 = 2/3.
        result = propagate(row(1, 1, 0), mask('xxx'), masks('xxx'), threshold, 2)
        assert same(result, (row(1, 1, 0), mask('xxx')))


@pytest.mark.parametrize('whole', [3, 7, 10, 41, 49])
@pytest.mark.parametrize('kind', ['python', torch.float32, torch.float64])
def test_every_fraction_as_the_threshold(whole, kind):
    """Products instead of quotients, or another precision, decide some of these otherwise."""
    for part in range(1, whole):
        threshold = part / whole
        if kind != 'python':
            threshold = torch.tensor(threshold, dtype=kind)
        shapes = torch.ones(2, 1, 1, whole, dtype=torch.bool)
        first = torch.arange(whole) < part
        # Image 0: r1 is the fraction, r2 = 1. Image 1: r1 = 1, r2 is the fraction (or the rest).
        label = torch.stack([torch.ones(whole, dtype=torch.int64), first.long()]).unsqueeze(1)
        selected = torch.stack([first, torch.ones(whole, dtype=torch.bool)]).unsqueeze(1)
        for propagate in (packed, dense):
            result = propagate(label, selected, shapes, threshold, 2)
            assert result[1][0].all(), (propagate.__name__, part)
            if 2 * part >= whole:
                assert torch.equal(result[0][1], label[1]), (propagate.__name__, part)
        agree(label, selected, shapes, threshold, 2)


def test_precision_is_that_of_the_threshold():
    """float32(2/3) is above 2/3: the ratio 2/3 is below it unless it is rounded alike."""
    rounded = torch.tensor(2 / 3)
    assert float(rounded) > 2 / 3
    scene_ = row(1, 1, 0), mask('xx.'), masks('xxx')
    assert agree(*scene_, float(rounded))[2] == 0
    assert agree(*scene_, rounded.double())[2] == 0
    assert agree(*scene_, rounded)[2] == 1
    # float32(0.7) is below 7/10: in float64 r2 = 7/10 is above it, in float32 equal.
    rounded = torch.tensor(0.7)
    assert float(rounded) < 7 / 10
    scene_ = row(1, 1, 1, 1, 1, 1, 1, 0, 0, 0), mask('x' * 10), masks('x' * 10)
    assert agree(*scene_, float(rounded))[2] == 1
    assert agree(*scene_, rounded)[2] == 0


@every_implementation
def test_ties_go_to_the_smaller_class(propagate):
    selected, shapes = mask('xxxxx'), masks('xxxx.')
    result = propagate(row(3, 3, 1, 1, 2), selected, shapes, 0.4, 4)
    assert same(result, (row(1, 1, 1, 1, 2), selected))
    result = propagate(row(3, 2, 1, 0, 2), selected, shapes, 0.2, 4)
    assert same(result, (row(0, 0, 0, 0, 2), selected))
    # The smaller class only wins a tie.
    result = propagate(row(3, 3, 3, 0, 2), selected, shapes, 0.4, 4)
    assert same(result, (row(3, 3, 3, 3, 2), selected))


@every_implementation
@pytest.mark.parametrize('threshold', [0.0, 0.5, 1.0])
def test_empty_shapes_and_empty_masks_change_nothing(propagate, threshold):
    label = row(1, 0, 2, 2)
    result = propagate(label, mask('xx.x'), masks('....', '....'), threshold, 3)
    assert same(result, (label, mask('xx.x')))
    result = propagate(label, mask('....'), masks('xxxx', 'x...'), threshold, 3)
    assert same(result, (label, mask('....')))
    result = propagate(label, mask('x...'), masks('.xxx'), threshold, 3)
    assert same(result, (label, mask('x...')))


@every_implementation
def test_no_shape_at_all(propagate):
    label, selected = row(1, 0, 2), mask('x.x')
    shapes = torch.zeros(1, 0, 1, 3, dtype=torch.bool)
    assert same(propagate(label, selected, shapes, 0.5, 3), (label, selected))


@every_implementation
def test_threshold_zero_and_one(propagate):
    label, selected = row(2, 1, 0, 0), mask('xx..')
    # Zero takes every shape that meets the mask.
    result = propagate(label, selected, masks('x.xx'), 0.0, 3)
    assert same(result, (row(2, 1, 2, 2), mask('xxxx')))
    # One takes none: r2 cannot be above it, not even with one class and all selected.
    for threshold in (1.0, torch.tensor(1.0)):
        result = propagate(row(1, 1, 1, 0), mask('xxx.'), masks('xxx.', 'x...'), threshold, 2)
        assert same(result, (row(1, 1, 1, 0), mask('xxx.')))


@every_implementation
def test_shape_of_one_pixel_and_of_the_whole_image(propagate):
    label, selected = row(2, 1, 1, 0), mask('.xxx')
    # One pixel: nothing changes, selected or not.
    result = propagate(label, selected, masks('x...', '.x..'), 0.5, 3)
    assert same(result, (label, selected))
    result = propagate(label, selected, masks('xxxx'), 0.6, 3)
    assert same(result, (row(1, 1, 1, 1), mask('xxxx')))


@every_implementation
def test_later_shapes_see_the_labels_of_earlier_ones(propagate):
    label, selected = row(1, 1, 1, 2, 2, 2), mask('xxxxxx')
    # The first shape turns pixel 3 to 1, so that the second is 1, 1, 2, 2 -> tie -> 1.
    result = propagate(label, selected, masks('xxxx..', '..xxxx'), 0.4, 3)
    assert same(result, (row(1, 1, 1, 1, 1, 1), selected))
    # Alone, the second shape would be class 2.
    result = propagate(label, selected, masks('..xxxx'), 0.4, 3)
    assert same(result, (row(1, 1, 2, 2, 2, 2), selected))


@every_implementation
def test_overlap_uses_the_given_mask_not_the_growing_one(propagate):
    label, selected = row(1, 1, 0, 0, 0, 0), mask('xx....')
    # Pixels 2 and 3 join the output mask, but the second shape has only one given pixel in four.
    result = propagate(label, selected, masks('xxxx..', '.xxxx.'), 0.5, 2)
    assert same(result, (row(1, 1, 1, 1, 0, 0), mask('xxxx..')))
    # And no given pixel at all.
    result = propagate(label, selected, masks('xxxx..', '..xxxx'), 0.0, 2)
    assert same(result, (row(1, 1, 1, 1, 0, 0), mask('xxxx..')))


def test_class_that_only_arose_by_propagation_can_win():
    label, selected = row(3, 3, 3, 0, 0, 1), mask('xxxxxx')
    result = agree(label, selected, masks('xxxxx.', '...xxx'), 0.5, 4)
    assert result[0].tolist() == row(3, 3, 3, 3, 3, 3).tolist()


def test_order_matters():
    rng = np.random.default_rng(5)
    label, selected, shapes = scene(rng, 1, (12, 13), 12, 4, kind='boxes')
    results = {
        str(agree(label, selected, shapes[:, torch.from_numpy(rng.permutation(12))], 0.4)[0])
        for _ in range(5)
    }
    assert len(results) > 1
    forward = agree(row(1, 1, 1, 2, 2, 2), mask('xxxxxx'), masks('xxxx..', '..xxxx'), 0.4)
    backward = agree(row(1, 1, 1, 2, 2, 2), mask('xxxxxx'), masks('..xxxx', 'xxxx..'), 0.4)
    assert not torch.equal(forward[0], backward[0])


@pytest.mark.parametrize('threshold', [0.0, 0.2, torch.tensor(0.3)])
def test_all_selected_none_selected_one_class_and_many_classes(threshold):
    rng = np.random.default_rng(7)
    for classes in (1, 2, 200):
        label, selected, shapes = scene(rng, 2, (11, 19), 10, classes, kind='boxes')
        accepted = agree(label, torch.ones_like(selected), shapes, threshold, classes)[2]
        assert accepted > 0
        result = agree(label, torch.zeros_like(selected), shapes, threshold, classes)
        assert torch.equal(result[0], label) and not result[1].any()
        agree(label, selected, shapes, threshold, classes)
        # Labels at random, so that the most frequent of many classes is hardly ahead.
        label = torch.from_numpy(rng.integers(0, classes, label.shape))
        agree(label, selected, shapes, torch.tensor(0.01), classes)


@pytest.mark.parametrize('classes', [254, 255, 256, 257, 300])
def test_as_many_classes_as_bytes_count(classes):
    rng = np.random.default_rng(classes)
    # Every class is there, the last one most often, and each shape meets few of them.
    label = torch.cat([torch.arange(classes), torch.full((20,), classes - 1)])
    label = label.reshape(1, 1, -1)
    selected = torch.from_numpy(rng.random(label.shape) < 0.97)
    selected[..., -30:] = True
    shapes = torch.zeros(1, 8, *label.shape[1:], dtype=torch.bool)
    for n, start in enumerate((classes + 11, classes - 4, classes, 0, 5, 100, 250, 200)):
        shapes[0, n, 0, start : start + 9 + n] = True
    shapes[0, 0, 0, 3] = True
    assert agree(label, selected, shapes, 0.05, classes)[2] > 5


def test_without_the_population_count_of_numpy_2(monkeypatch):
    rng = np.random.default_rng(12)
    label, selected, shapes = scene(rng, 2, (9, 14), 8, 4, kind='boxes')
    expected = reference(label, selected, shapes, 0.4)
    assert expected[2] > 2
    monkeypatch.delattr(np, 'bitwise_count', raising=False)
    assert same(propagate_regions(label, selected, shapes, 0.4), expected)
    assert same(propagate_regions(label, selected, shapes, 0.4, 4), expected)


def test_more_classes_than_labels_and_large_labels():
    rng = np.random.default_rng(8)
    label, selected, shapes = scene(rng, 1, (9, 10), 8, 3, kind='boxes')
    agree(label, selected, shapes, 0.3, 150)
    # A tie, and the smallest of its classes is not the first.
    large = row(100_000, 7000, 100_000, 7000, 0)
    result = propagate_regions(large, mask('xxxx.'), masks('xxxxx'), 0.4)
    assert same(result, (row(*[7000] * 5), mask('xxxxx')))
    large = torch.tensor([0, 255, 100_000])[label]
    expected = reference(large, selected, shapes, 0.3)
    assert expected[2] > 0
    assert same(propagate_regions(large, selected, shapes, 0.3), expected)


@every_implementation
def test_inputs_are_neither_modified_nor_need_to_be_contiguous(propagate):
    rng = np.random.default_rng(9)
    label, selected, shapes = scene(rng, 2, (10, 13), 9, 3, kind='boxes')
    expected = reference(label, selected, shapes, 0.4)
    assert expected[2] > 2
    strided = [
        label.transpose(1, 2).contiguous().transpose(1, 2),
        torch.stack([selected, ~selected], -1)[..., 0],
        shapes.permute(2, 1, 3, 0).contiguous().permute(3, 1, 0, 2),
    ]
    if propagate is packed:  # The public function makes the label contiguous for it.
        strided[0] = label
    for inputs in ((label, selected, shapes), strided):
        copies = [x.clone() for x in inputs]
        assert same(propagate(*inputs, 0.4, 3), expected)
        assert all(torch.equal(x, y) for x, y in zip(inputs, copies))
    # The same shapes for every image, as an expanded view.
    shared = shapes[:1].expand(2, -1, -1, -1)
    expected = reference(label, selected, shared, 0.4)
    assert same(propagate(label, selected, shared, 0.4, 3), expected)
    threshold = torch.tensor(0.4)
    propagate(label, selected, shapes, threshold, 3)
    assert threshold == torch.tensor(0.4)


@every_implementation
def test_images_do_not_meet(propagate):
    rng = np.random.default_rng(10)
    label, selected, shapes = scene(rng, 3, (9, 11), 7, 4, kind='boxes')
    together = propagate(label, selected, shapes, 0.3, 4)
    for b in range(3):
        one = slice(b, b + 1)
        alone = propagate(label[one], selected[one], shapes[one], 0.3, 4)
        assert same(alone, (together[0][one], together[1][one]))
        assert same(alone, reference(label[one], selected[one], shapes[one], 0.3))


def test_errors():
    label, selected = torch.zeros(2, 4, 5, dtype=torch.int64), torch.ones(2, 4, 5).bool()
    shapes = torch.ones(2, 3, 4, 5, dtype=torch.bool)
    propagate_regions(label, selected, shapes, 0.5)
    for arguments in (
        (label[:1], selected, shapes),
        (label, selected[:, :3], shapes),
        (label, selected, shapes[..., :4]),
        (label, selected, shapes[..., :3, :]),
        (label, selected, shapes[:1]),
        (label, selected, shapes[:, 0]),
        (label[0], selected[0], shapes[0]),
    ):
        with pytest.raises(ValueError):
            propagate_regions(*arguments, 0.5)


def test_dense_never_asks_for_a_value():
    """Fake tensors have no values: whatever would wait for the device raises here."""
    with FakeTensorMode():
        label = torch.zeros(2, 9, 11, dtype=torch.int64)
        selected = torch.ones(2, 9, 11, dtype=torch.bool)
        shapes = torch.ones(2, 6, 9, 11, dtype=torch.bool)
        for threshold in (0.5, torch.tensor(0.5)):
            result = _propagate_dense(label, selected, shapes, threshold, 4)
            assert result[0].shape == result[1].shape == (2, 9, 11)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_cuda_gives_the_same_bits_without_waiting():
    rng = np.random.default_rng(11)
    cases = []
    for index in range(60):
        size = (int(rng.integers(1, 20)), int(rng.integers(1, 70)))
        kind = ('noise', 'boxes')[index % 2]
        scene_ = scene(rng, 2, size, 6, 5, 0.3, 0.9, kind)
        part, whole = FRACTIONS[index % len(FRACTIONS)]
        value = (part / whole, 0.4)[index % 3 == 0]
        threshold = (value, torch.tensor(value), torch.tensor(value).double())[index % 3]
        moved = threshold.cuda() if isinstance(threshold, torch.Tensor) else threshold
        cases.append((scene_, threshold, [x.cuda() for x in scene_], moved))
    propagate_regions(*cases[0][2], cases[0][3], 5)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode('error')
    try:
        results = [propagate_regions(*moved, value, 5) for _, _, moved, value in cases]
    finally:
        torch.cuda.set_sync_debug_mode('default')
    for (scene_, threshold, _, _), result in zip(cases, results):
        assert result[0].is_cuda and result[1].is_cuda
        assert same(result, reference(*scene_, threshold))
