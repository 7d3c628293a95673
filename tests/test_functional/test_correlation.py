from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmseg_semi.functional import correlation_map, propagate_pixels, sample_shapes


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation gives."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.numel = max(self.numel, leaf.numel())
        return result


def reference_map(w1, w2):
    """softmax_j(w1[:, i] . w2[:, j] / sqrt(D)), entry by entry in float64."""
    w1, w2 = (x.detach().double().flatten(2).numpy() for x in (w1, w2))
    batch, depth, pixels = w1.shape
    result = np.zeros((batch, pixels, pixels))
    for b in range(batch):
        for i in range(pixels):
            scores = []
            for j in range(pixels):
                dot = sum(float(w1[b, d, i]) * float(w2[b, d, j]) for d in range(depth))
                scores.append(dot / math.sqrt(depth))
            highest = max(scores)
            powers = [math.exp(score - highest) for score in scores]
            for j in range(pixels):
                result[b, i, j] = powers[j] / sum(powers)
    return result


def reference_pixels(logits, w1, w2):
    """z[k, j] = sum_i logits[k, i] C[i, j]."""
    correlation = reference_map(w1, w2)
    flat = logits.detach().double().flatten(2).numpy()
    batch, classes, pixels = flat.shape
    result = np.zeros(flat.shape)
    for b in range(batch):
        for k in range(classes):
            for j in range(pixels):
                for i in range(pixels):
                    result[b, k, j] += flat[b, k, i] * correlation[b, i, j]
    return result.reshape(logits.shape)


def whole_map(logits, w1, w2):
    """The same by autograd through the whole map, in float64."""
    logits, w1, w2 = logits.double(), w1.double(), w2.double()
    scores = torch.einsum('bdi,bdj->bij', w1.flatten(2), w2.flatten(2)) / w1.shape[1] ** 0.5
    return (logits.flatten(2) @ scores.softmax(-1)).reshape(logits.shape)


def inputs(batch=2, classes=3, depth=4, size=(4, 5), scale=1.0, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 10 * torch.randn(batch, classes, *size, generator=generator)
    w1 = scale * torch.randn(batch, depth, *size, generator=generator)
    w2 = scale * torch.randn(batch, depth, *size, generator=generator)
    return [x.to(dtype) for x in (logits, w1, w2)]


def error(result, expected):
    """Largest difference, relative to the largest entry."""
    expected = torch.as_tensor(expected).double()
    return float((result.detach().double() - expected).abs().max() / expected.abs().max())


def gradients(function, tensors, weight):
    tensors = [x.detach().clone().requires_grad_() for x in tensors]
    result = function(*tensors)
    (result * weight.to(result.dtype)).sum().backward()
    return [x.grad for x in tensors]


def weight_like(x, seed=1):
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


# correlation_map


@pytest.mark.parametrize('size, depth', [((4, 5), 4), ((1, 7), 1), ((3, 2), 21)])
def test_map_equals_the_loops(size, depth):
    _, w1, w2 = inputs(depth=depth, size=size)
    result = correlation_map(w1, w2)
    pixels = size[0] * size[1]
    assert result.shape == (2, pixels, pixels) and result.dtype == torch.float32
    assert np.abs(result.numpy() - reference_map(w1, w2)).max() < 1e-6
    assert torch.allclose(result.sum(-1), torch.ones(2, pixels), atol=1e-6)


def test_map_is_scaled_inside_the_softmax():
    # D = 4, scores w1 * w2 * 4 / 2: row 0 is (2, 0), row 1 is (0, 0).
    w1 = torch.tensor([1.0, 0.0]).expand(1, 4, 2).reshape(1, 4, 1, 2)
    first = math.exp(2) / (math.exp(2) + 1)
    expected = torch.tensor([[[first, 1 - first], [0.5, 0.5]]])
    assert torch.allclose(correlation_map(w1, w1), expected, atol=1e-6)


def test_map_gradients():
    _, w1, w2 = inputs(batch=1, size=(2, 3), dtype=torch.float64)
    assert torch.autograd.gradcheck(
        correlation_map, (w1.requires_grad_(), w2.requires_grad_()), atol=1e-7
    )


def test_large_scores_do_not_overflow_in_the_map():
    _, w1, w2 = large_inputs()
    result = correlation_map(w1, w2)
    assert result.isfinite().all()
    assert np.abs(result.numpy() - reference_map(w1, w2)).max() < 1e-6


# propagate_pixels


def chunks(batch, pixels):
    """Sizes of the map: less than a row, a row, several rows (with a rest), whole, default."""
    row = batch * pixels
    return [1, row, 3 * row, 3 * row + 1, (pixels - 1) * row, pixels * row, 10**9, None]


@pytest.mark.parametrize('size, depth, classes', [((4, 5), 4, 3), ((1, 7), 1, 1), ((3, 4), 21, 21)])
def test_pixels_equal_the_loops(size, depth, classes):
    tensors = inputs(depth=depth, size=size, classes=classes)
    expected = reference_pixels(*tensors)
    for max_elements in chunks(2, size[0] * size[1]):
        result = propagate_pixels(*tensors, max_elements=max_elements)
        assert result.shape == tensors[0].shape and result.dtype == torch.float32
        assert error(result, expected) < 1e-5
    assert error(propagate_pixels(*tensors), expected) < 1e-5
    assert error(whole_map(*tensors), expected) < 1e-12, 'the other reference'


def test_pixels_are_summed_over_rows():
    """By hand: every column takes from the rows, so that a constant is not kept."""
    # Both rows look at pixel 0 alone.
    w1, w2 = torch.full((1, 1, 1, 2), 100.0), torch.tensor([100.0, 0.0]).reshape(1, 1, 1, 2)
    logits = torch.tensor([[1.0, 2.0], [5.0, -3.0]]).reshape(1, 2, 1, 2)
    result = propagate_pixels(logits, w1, w2)
    assert torch.equal(result, torch.tensor([[3.0, 0.0], [2.0, 0.0]]).reshape(1, 2, 1, 2))


@pytest.mark.parametrize('scale', [0.3, 1.0, 2.0])
def test_gradients_equal_those_through_the_whole_map(scale):
    tensors = inputs(size=(5, 6), scale=scale)
    weight = weight_like(tensors[0])
    expected = gradients(whole_map, tensors, weight)
    for max_elements in chunks(2, 30):
        result = gradients(
            lambda *x, m=max_elements: propagate_pixels(*x, max_elements=m), tensors, weight
        )
        for got, want in zip(result, expected):
            assert got.dtype == torch.float32 and error(got, want) < 1e-4


@pytest.mark.parametrize('max_elements', [1, 6, 12, 24, 48, 72, 10**6, None])
def test_gradcheck(max_elements):
    tensors = [x.requires_grad_() for x in inputs(size=(2, 3), dtype=torch.float64)]
    result = propagate_pixels(*tensors, max_elements=max_elements)
    assert result.dtype == torch.float64
    assert torch.autograd.gradcheck(
        lambda *x: propagate_pixels(*x, max_elements=max_elements), tensors
    )


@pytest.mark.parametrize('needed', [(0, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0)])
def test_gradients_of_some_inputs_only(needed):
    tensors = inputs()
    weight = weight_like(tensors[0])
    expected = gradients(whole_map, tensors, weight)
    tensors = [x.requires_grad_(bool(n)) for x, n in zip(tensors, needed)]
    (propagate_pixels(*tensors, max_elements=120) * weight).sum().backward()
    for x, want, n in zip(tensors, expected, needed):
        assert (x.grad is not None) == bool(n)
        assert not n or error(x.grad, want) < 1e-4


def test_no_gradient_asked():
    tensors = inputs()
    assert not propagate_pixels(*tensors).requires_grad
    with torch.no_grad():
        result = propagate_pixels(*[x.requires_grad_() for x in tensors])
    assert not result.requires_grad


def test_strided_inputs_are_taken_and_not_modified():
    tensors = inputs()
    copies = [x.clone() for x in tensors]
    strided = [x.contiguous(memory_format=torch.channels_last) for x in tensors]
    weight = weight_like(tensors[0])
    expected = gradients(whole_map, tensors, weight)
    assert error(propagate_pixels(*strided, max_elements=80), whole_map(*tensors)) < 1e-5
    strided = [x.requires_grad_() for x in strided]
    # The gradient that arrives may be an expanded scalar or strided as well.
    weight = weight.contiguous(memory_format=torch.channels_last)
    (propagate_pixels(*strided, max_elements=80) * weight).sum().backward()
    for x, want in zip(strided, expected):
        assert error(x.grad, want) < 1e-4
    leaves = [x.clone().requires_grad_() for x in copies]
    column = weight[0, 0]
    (propagate_pixels(*leaves, max_elements=80).sum((0, 1)) * column).sum().backward()
    for x, want in zip(leaves, gradients(whole_map, copies, column.expand(2, 3, 4, 5))):
        assert error(x.grad, want) < 1e-4
    assert all(torch.equal(x, y) for x, y in zip(tensors, copies))


def large_inputs():
    """Integer features whose scores are exact and reach 10 ** 4 and - 10 ** 4."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(1, 3, 3, 4, generator=generator)
    w1 = torch.randint(-70, 71, (1, 4, 3, 4), generator=generator).float()
    w2 = torch.randint(-70, 71, (1, 4, 3, 4), generator=generator).float()
    w1[..., 0, 0], w2[..., 0, 0], w2[..., 0, 1] = 71, 71, -71
    return logits, w1, w2


def test_large_scores_do_not_overflow():
    tensors = large_inputs()
    scores = torch.einsum('bdi,bdj->bij', *[x.flatten(2) for x in tensors[1:]]) / 2
    assert scores.max() > 1e4 and scores.min() < -1e4
    weight = weight_like(tensors[0])
    expected = gradients(whole_map, tensors, weight)
    for max_elements in (12, 60, None):
        result = propagate_pixels(*tensors, max_elements=max_elements)
        assert result.isfinite().all()
        assert error(result, reference_pixels(*tensors)) < 1e-5
        found = gradients(
            lambda *x, m=max_elements: propagate_pixels(*x, max_elements=m), tensors, weight
        )
        assert all(x.isfinite().all() for x in found)
        assert error(found[0], expected[0]) < 1e-4
    # Beyond the range of float16, whose largest number is 65504.
    tensors = [tensors[0].half(), 10 * tensors[1].half(), tensors[2].half()]
    result = propagate_pixels(*tensors)
    assert result.isfinite().all()
    assert error(result, reference_pixels(*tensors)) < 1e-5


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('only_features', [False, True])
def test_half_precision_is_computed_in_single(dtype, only_features):
    tensors = inputs(dtype=dtype, size=(6, 7))
    if only_features:
        tensors[0] = tensors[0].float()
    expected = whole_map(*tensors)
    weight = weight_like(expected)
    expected_gradients = gradients(whole_map, tensors, weight)
    for max_elements in (1, 1000, None):
        result = propagate_pixels(*tensors, max_elements=max_elements)
        assert result.dtype == torch.float32
        assert error(result, expected) < 1e-5
        found = gradients(
            lambda *x, m=max_elements: propagate_pixels(*x, max_elements=m), tensors, weight
        )
        # Only the gradient that leaves is rounded, to the precision of its input.
        for x, got, want in zip(tensors, found, expected_gradients):
            assert got.dtype == x.dtype
            assert error(got, want) < max(1e-4, torch.finfo(x.dtype).eps)
    result = correlation_map(*tensors[1:])
    assert result.dtype == torch.float32
    assert np.abs(result.numpy() - reference_map(*tensors[1:])).max() < 1e-6


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('backward_inside', [False, True])
def test_autocast_does_not_lower_the_precision(dtype, backward_inside):
    tensors = inputs(dtype=dtype, size=(6, 7))
    expected = whole_map(*tensors)
    weight = weight_like(expected)
    expected_gradients = gradients(whole_map, tensors, weight)
    for max_elements in (1, 1000, None):
        leaves = [x.clone().requires_grad_() for x in tensors]
        with torch.autocast('cpu', dtype=torch.bfloat16):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
            result = propagate_pixels(*leaves, max_elements=max_elements)
            correlation = correlation_map(*tensors[1:])
            if backward_inside:
                (result * weight).sum().backward()
        if not backward_inside:
            (result * weight).sum().backward()
        assert result.dtype == torch.float32
        assert error(result, expected) < 1e-5
        for x, want in zip(leaves, expected_gradients):
            assert x.grad.dtype == dtype
            assert error(x.grad, want) < max(1e-4, torch.finfo(dtype).eps)
        assert correlation.dtype == torch.float32
        assert np.abs(correlation.numpy() - reference_map(*tensors[1:])).max() < 1e-6


def test_the_recorder_sees_forward_and_backward():
    """Without this the tests of the memory would pass whatever is done."""
    tensors = inputs(size=(20, 20), dtype=torch.float64)
    leaves = [x.requires_grad_() for x in tensors]
    with LargestTensor() as forward:
        loss = whole_map(*leaves).sum()
    with LargestTensor() as backward:
        loss.backward()
    assert forward.numel == backward.numel == 2 * 400 * 400


@pytest.mark.parametrize('batch, size, rows', [(1, (80, 80), 100), (2, (30, 20), 7)])
def test_no_tensor_is_as_large_as_the_map(batch, size, rows):
    pixels = size[0] * size[1]
    leaves = [x.requires_grad_() for x in inputs(batch=batch, size=size)]
    limit = rows * batch * pixels
    with LargestTensor() as forward:
        result = propagate_pixels(*leaves, max_elements=limit)
    assert pixels < forward.numel <= limit
    with LargestTensor() as backward:
        result.sum().backward()
    assert pixels < backward.numel <= limit
    assert limit < pixels * pixels / 10


def test_nothing_but_inputs_and_vectors_is_kept_for_the_backward():
    saved = []
    leaves = [x.requires_grad_() for x in inputs(size=(30, 20))]
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, id):
        propagate_pixels(*leaves, max_elements=20 * 600)
    # Inputs, the result, and a few numbers per pixel; the map has 2 * 600 * 600.
    assert 0 < sum(saved) <= 2 * sum(x.numel() for x in leaves)


def test_a_large_map_is_never_whole_by_default():
    pixels = 80 * 80
    leaves = [x.requires_grad_() for x in inputs(batch=1, size=(80, 80))]
    with LargestTensor() as largest:
        propagate_pixels(*leaves).sum().backward()
    assert pixels < largest.numel < pixels * pixels / 10


# sample_shapes


def reference_shapes(w1, w2, size, align_corners=False):
    """Shape of every row (B, hw, H, W) and where rounding cannot turn it."""
    batch, _, height, width = w1.shape
    rows = torch.from_numpy(reference_map(w1, w2)).reshape(batch, -1, height, width)
    if tuple(size) != (height, width):
        rows = F.interpolate(rows, size, mode='bilinear', align_corners=align_corners)
    shapes, sure = torch.zeros(rows.shape).bool(), torch.ones(rows.shape).bool()
    for b in range(batch):
        for i, row in enumerate(rows[b]):
            low, high = min(row.flatten().tolist()), max(row.flatten().tolist())
            for y, values in enumerate(row.tolist()):
                for x, value in enumerate(values):
                    level = (value - low) / (high - low)
                    shapes[b, i, y, x] = level > 0.5
                    sure[b, i, y, x] = abs(level - 0.5) > 1e-4
    return shapes, sure


def find_rows(shapes, expected):
    """Which row each shape is, image by image; asserts that each is exactly one."""
    found = []
    for image, rows, sure in zip(shapes, *expected):
        matches = [[bool(((s == r) | ~t).all()) for r, t in zip(rows, sure)] for s in image]
        assert all(sum(match) == 1 for match in matches)
        found.append([match.index(True) for match in matches])
    return found


def features(batch=2, size=(4, 5), seed=0):
    """Features whose rows have shapes of several pixels, all different."""
    pixels = size[0] * size[1]
    identity = 2 * torch.eye(pixels).reshape(1, pixels, *size)
    noise = torch.randn(2, batch, pixels, *size, generator=torch.Generator().manual_seed(seed))
    return identity + 0.6 * noise[0], identity + 0.6 * noise[1]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize('strategy', ['random', 'uniform'])
@pytest.mark.parametrize(
    'size, align_corners',
    [((4, 5), False), ((4, 5), True), ((13, 11), False), ((13, 11), True), ((8, 10), False)],
)
def test_shapes_equal_those_of_rows(strategy, size, align_corners):
    w1, w2 = features()
    for num in (1, 6, 20):
        shapes = sample_shapes(w1, w2, num, size, strategy, generator(), align_corners)
        assert shapes.shape == (2, num, *size) and shapes.dtype == torch.bool
        rows = find_rows(shapes, reference_shapes(w1, w2, size, align_corners))
        assert all(len(set(image)) == num for image in rows), 'without replacement'
    assert all(sorted(image) == list(range(20)) for image in rows), 'all rows'


@pytest.mark.parametrize('rounded', [False, True])
@pytest.mark.parametrize('sharpness', [0.3, 3.0, 30.0])
@pytest.mark.parametrize('strides', [(1, 1), (2, 4), (4, 4), (8, 2), (16, 16), (3, 4)])
def test_shapes_around_peaks_are_those_of_whole_maps(strides, sharpness, rounded):
    """On a grid that lies on pixels, where only cells at a map's peaks are enlarged."""
    w1, w2 = features(size=(17, 30))
    w2 *= sharpness
    if rounded:  # so that many pixels are exactly at the middle
        w1, w2 = w1.round(), w2.round()
    size = (16 * strides[0] + 1, 29 * strides[1] + 1)
    index = (torch.arange(108) * 509 // 107).expand(2, -1)
    shapes = sample_shapes(w1, w2, 108, size, align_corners=True, index=index)
    maps = correlation_map(w1, w2)[:, index[0]].unflatten(2, (17, 30))
    whole = F.interpolate(maps, size=size, mode='bilinear', align_corners=True)
    low, high = whole.amin((2, 3), keepdim=True), whole.amax((2, 3), keepdim=True)
    assert torch.equal(shapes, whole - low > 0.5 * (high - low)), 'bit by bit'
    edges = [shapes[..., 0, :], shapes[..., -1, :], shapes[..., 0], shapes[..., -1]]
    assert all(edge.any() for edge in edges), 'some lie at every edge'


def test_default_is_random_without_aligned_corners():
    w1, w2 = features()
    shapes = sample_shapes(w1, w2, 5, (9, 12), generator=generator(3))
    again = sample_shapes(w1, w2, 5, (9, 12), 'random', generator(3), False)
    assert torch.equal(shapes, again)
    aligned = sample_shapes(w1, w2, 5, (9, 12), 'random', generator(3), True)
    assert not torch.equal(shapes, aligned)


def test_random_rows_follow_the_generator():
    w1, w2 = features(size=(6, 6))
    draw = [sample_shapes(w1, w2, 5, (6, 6), generator=generator(s)) for s in (0, 0, 1)]
    assert torch.equal(draw[0], draw[1]) and not torch.equal(draw[0], draw[2])
    torch.manual_seed(0)
    first, second = (sample_shapes(w1, w2, 5, (6, 6)) for _ in range(2))
    torch.manual_seed(0)
    assert torch.equal(first, sample_shapes(w1, w2, 5, (6, 6)))
    assert not torch.equal(first, second)
    # One generator goes on from call to call.
    state = generator()
    first, second = (sample_shapes(w1, w2, 5, (6, 6), generator=state) for _ in range(2))
    assert not torch.equal(first, second)


def peaked(batch, size):
    """Features whose row i is a single pixel at i, so that a shape shows its row."""
    pixels = size[0] * size[1]
    w = 8 * torch.eye(pixels).reshape(1, pixels, *size)
    return w.expand(batch, -1, -1, -1)


def test_every_row_is_as_likely_at_every_position_and_in_every_image():
    w = peaked(2400, (3, 4))
    shapes = sample_shapes(w, w, 4, (3, 4), generator=generator()).flatten(2)
    assert (shapes.sum(-1) == 1).all()
    rows = shapes.int().argmax(-1)
    assert all(len(set(image)) == 4 for image in rows.tolist())
    for position in range(4):
        # Expected 200 each, standard deviation 13.5.
        counts = torch.bincount(rows[:, position], minlength=12)
        assert (counts - 200).abs().max() < 5 * 13.5
    assert len(set(map(tuple, rows.tolist()))) > 1000, 'images draw on their own'


@pytest.mark.parametrize('strategy', ['random', 'uniform'])
def test_more_shapes_than_rows(strategy):
    w1, w2 = features(size=(3, 3))
    shapes = sample_shapes(w1, w2, 25, (3, 3), strategy, generator())
    assert shapes.shape == (2, 25, 3, 3)
    for image in find_rows(shapes, reference_shapes(w1, w2, (3, 3))):
        assert len(set(image)) > 4


def test_uniform_is_a_regular_grid():
    w = peaked(3, (8, 8))
    for num, side in ((1, 1), (4, 2), (16, 4), (64, 8)):
        shapes = sample_shapes(w, w, num, (8, 8), 'uniform', generator(0))
        assert torch.equal(shapes, sample_shapes(w, w, num, (8, 8), 'uniform', generator(1)))
        rows = shapes.flatten(2).int().argmax(-1)
        assert (rows == rows[:1]).all(), 'the same rows in every image'
        ys, xs = (sorted(set(x.tolist())) for x in (rows[0] // 8, rows[0] % 8))
        assert len(set(rows[0].tolist())) == num
        for values in (ys, xs):
            assert len(values) == side and len(set(np.diff(values))) <= 1
            # The grid covers the image: no border is further than a step.
            assert values[0] < 8 / side and 8 - values[-1] <= 8 / side + (side == 1) * 4
    for num in (2, 3, 5, 7, 11, 50):
        rows = sample_shapes(w, w, num, (8, 8), 'uniform').flatten(2).int().argmax(-1)
        assert len(set(rows[0].tolist())) == num


def test_shapes_of_constant_rows_are_empty():
    w1, w2 = features(size=(5, 7))
    for first, second in (
        (torch.zeros_like(w1), w2),
        (w1, torch.zeros_like(w2)),
        (torch.ones_like(w1), torch.ones_like(w2)),
    ):
        # Interpolation of a constant rounds: its noise must not become a shape.
        for size in ((5, 7), (33, 47), (16, 23)):
            for align_corners in (False, True):
                shapes = sample_shapes(
                    first, second, 10, size, generator=generator(), align_corners=align_corners
                )
                assert not shapes.any()


def test_the_middle_of_the_range_is_outside():
    # Row 0 is exactly (1, 0), which aligned corners resize to (1, 0.5, 0).
    w1, w2 = (torch.tensor([1000.0, x]).reshape(1, 1, 1, 2) for x in (-1000.0, 0.0))
    shapes = sample_shapes(w1, w2, 2, (1, 3), 'uniform', align_corners=True)
    assert shapes.tolist() == [[[[True, False, False]], [[False, False, True]]]]


def test_one_constant_row_among_others():
    w1, w2 = features(size=(5, 7))
    first = w1.clone()
    first[:, :, 2, 3] = 0
    shapes = sample_shapes(first, w2, 35, (33, 47), generator=generator())
    assert (shapes.flatten(2).any(-1).sum(1) == 34).all()


def test_shapes_do_not_depend_on_the_size_of_the_scores():
    _, w1, w2 = large_inputs()
    shapes = sample_shapes(w1, w2, 12, (3, 4), generator=generator())
    expected, _ = reference_shapes(w1, w2, (3, 4))
    # Several rows may be alike here: compare them as multisets.
    assert sorted(shapes[0].int().tolist()) == sorted(expected[0].int().tolist())
    half = sample_shapes(10 * w1.half(), w2.half(), 12, (3, 4), generator=generator())
    expected, _ = reference_shapes(10 * w1, w2, (3, 4))
    assert sorted(half[0].int().tolist()) == sorted(expected[0].int().tolist())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
def test_shapes_in_half_precision_and_under_autocast(dtype):
    w1, w2 = (x.to(dtype) for x in features())
    expected = reference_shapes(w1, w2, (9, 12))
    for enabled in (False, True):
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=enabled):
            shapes = sample_shapes(w1, w2, 20, (9, 12), generator=generator())
        rows = find_rows(shapes, expected)
        assert all(sorted(image) == list(range(20)) for image in rows)


@pytest.mark.parametrize('strategy', ['random', 'uniform'])
def test_sampled_shapes_need_their_rows_only(strategy):
    _, w1, w2 = inputs(size=(80, 80))
    w1.requires_grad_()
    with LargestTensor() as largest:
        shapes = sample_shapes(w1, w2, 8, (160, 160), strategy, generator())
    assert not shapes.requires_grad
    assert shapes.numel() <= largest.numel <= 2 * shapes.numel() < 6400 * 6400 / 10


def test_errors():
    w1, w2 = features()
    with pytest.raises(ValueError, match='grid'):
        sample_shapes(w1, w2, 3, (8, 8), 'grid')
    for num in (0, -1):
        with pytest.raises(ValueError):
            sample_shapes(w1, w2, num, (8, 8))
        with pytest.raises(ValueError):
            sample_shapes(w1, w2, num, (8, 8), 'uniform')
    for other in (w2[:1], w2[:, :5], w2[:, :, :3], w2[..., :4], w2.transpose(2, 3)):
        with pytest.raises(ValueError):
            sample_shapes(w1, other, 3, (8, 8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_cuda_equals_the_whole_map():
    tensors = inputs(size=(13, 11))
    weight = weight_like(tensors[0])
    expected = gradients(whole_map, tensors, weight)
    moved = [x.cuda() for x in tensors]
    for max_elements in (1, 5000, None):
        result = propagate_pixels(*moved, max_elements=max_elements)
        assert error(result.cpu(), whole_map(*tensors)) < 1e-4
        found = gradients(
            lambda *x, m=max_elements: propagate_pixels(*x, max_elements=m), moved, weight.cuda()
        )
        assert all(error(x.cpu(), y) < 1e-3 for x, y in zip(found, expected))
    w1, w2 = features()
    shapes = sample_shapes(w1.cuda(), w2.cuda(), 20, (9, 12))
    rows = find_rows(shapes.cpu(), reference_shapes(w1, w2, (9, 12)))
    assert all(sorted(image) == list(range(20)) for image in rows)
