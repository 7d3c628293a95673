"""Top channels and prototypes: against lists and sets, one pixel at a time."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from mmseg_semi.functional import prototype_similarity, rank_statistics_overlap, top_channels


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def slow_top(values, k):
    """The k largest of a list: of equals the lower place first."""
    return sorted(range(len(values)), key=lambda channel: (-values[channel], channel))[:k]


def slow_cosine(a, b):
    """The cosine of two lists."""
    norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b)) / norms if norms else 0.0


def at_every_pixel(features, label, prototypes, has, compare, default):
    """Compare each pixel's features, brought to the labels' size, with those of its class."""
    fine = F.interpolate(features.double(), size=label.shape[-2:], mode='nearest')
    fine = fine.permute(0, 2, 3, 1).tolist()
    prototypes, has = prototypes.double().tolist(), has.tolist()

    def one(features_here, name):
        known = 0 <= name < len(prototypes) and has[name]
        return compare(features_here, prototypes[name]) if known else default

    return [
        [[one(f, name) for f, name in zip(*rows)] for rows in zip(*images)]
        for images in zip(fine, label.tolist())
    ]


def slow_overlap(features, label, prototypes, has, k):
    def compare(a, b):
        return len(set(slow_top(a, k)) & set(slow_top(b, k)))

    return torch.tensor(at_every_pixel(features, label, prototypes, has, compare, k))


def slow_similarity(features, label, prototypes, has):
    return torch.tensor(at_every_pixel(features, label, prototypes, has, slow_cosine, 1.0))


def numbers(shape, kind, source):
    """Features: of a normal distribution, or with many equals."""
    values = torch.randn(shape, generator=source)
    if kind == 'integers':
        return (values * 2).round()
    if kind == 'relu':
        return values.relu()
    return values * 0 if kind == 'zeros' else values


def scene(grid, size, channels=7, classes=5, batch=2, kind='normal', seed=0):
    """Features, labels from -2 to K + 1 and 255, prototypes of 3 in 4 classes."""
    source = generator(seed)
    features = numbers((batch, channels, *grid), kind, source)
    prototypes = numbers((classes, channels), kind, source)
    label = torch.randint(-2, classes + 2, (batch, *size), generator=source)
    label[torch.rand(label.shape, generator=source) < 0.1] = 255
    has = torch.rand(classes, generator=source) < 0.75
    return features, label, prototypes, has


KINDS = ['normal', 'integers', 'relu', 'zeros']
# Grids of the features and sizes of the labels.
SIZES = [
    ((5, 6), (13, 17)),
    ((4, 4), (4, 4)),
    ((1, 1), (3, 5)),
    ((3, 7), (3, 20)),
    ((6, 5), (7, 9)),
]


# -------------------------------------------------------------------------------- top channels


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    values=st.lists(st.integers(-2, 2), min_size=1, max_size=9),
    k=st.integers(1, 9),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
)
def test_top_channels_sort_equals_by_their_place(values, k, dtype):
    k = min(k, len(values))
    found = top_channels(torch.tensor([values], dtype=dtype), k)
    assert found.dtype == torch.int64
    assert found.tolist() == [slow_top(values, k)]


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('k', [1, 3, 8])
@pytest.mark.parametrize('shape', [(4, 8), (3, 8, 5), (2, 8, 3, 5)])
def test_top_channels_of_any_shape(kind, k, shape):
    values = numbers(shape, kind, generator(1))
    found = top_channels(values, k)
    assert found.shape == (shape[0], k, *shape[2:])
    rows = values.flatten(2) if len(shape) > 2 else values[..., None]
    wanted = [[slow_top(one, k) for one in image] for image in rows.transpose(1, 2).tolist()]
    assert found.reshape(shape[0], k, -1).transpose(1, 2).tolist() == wanted


def test_top_channels_compare_zeros_of_both_signs_as_equals():
    assert top_channels(torch.tensor([[-1.0, -0.0, 0.0, -0.0]]), 3).tolist() == [[1, 2, 3]]


def test_top_channels_of_double_precision():
    values = torch.tensor([[1, 1 + 1e-12, 1 - 1e-12], [0, 1e300, 2e300]], dtype=torch.float64)
    assert top_channels(values, 3).tolist() == [[1, 0, 2], [2, 1, 0]]


def test_top_channels_leave_their_input_alone():
    values = torch.randn(2, 6, 3, generator=generator(2), requires_grad=True)
    before = values.detach().clone()
    assert not top_channels(values, 4).requires_grad
    assert torch.equal(values, before)


@pytest.mark.parametrize('k', [0, -1, 8])
def test_k_must_fit_the_channels(k):
    features, label, prototypes, has = scene((2, 2), (3, 3))
    for call in (
        lambda: top_channels(features, k),
        lambda: rank_statistics_overlap(features, label, prototypes, has, k),
    ):
        with pytest.raises(ValueError, match=f'k must be 1 to 7.*got {k}'):
            call()


# ------------------------------------------------------------------------------------- overlap


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('k', [1, 3, 7])
@pytest.mark.parametrize(('grid', 'size'), SIZES)
def test_the_overlap_is_that_of_sets(grid, size, k, kind):
    inputs = scene(grid, size, kind=kind, seed=k)
    found = rank_statistics_overlap(*inputs, k)
    assert found.dtype == torch.int64
    assert torch.equal(found, slow_overlap(*inputs, k))


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    more=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    channels=st.integers(1, 12),
    classes=st.integers(1, 9),
    k=st.integers(1, 12),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**31 - 1),
)
def test_the_overlap_of_any_sizes(grid, more, channels, classes, k, kind, seed):
    k = min(k, channels)
    size = (grid[0] + more[0], grid[1] + more[1])
    inputs = scene(grid, size, channels, classes, kind=kind, seed=seed)
    assert torch.equal(rank_statistics_overlap(*inputs, k), slow_overlap(*inputs, k))


def test_the_overlap_by_hand():
    features = torch.tensor([[[[5.0, 0.0]], [[4.0, 0.0]], [[0.0, 1.0]], [[0.0, 0.0]]]])
    prototypes = torch.tensor([[1.0, 2, 0, 0], [0, 0, 2, 1], [9, 9, 9, 9]])
    label = torch.tensor([[[0, 1, 0, 1], [2, 2, 1, 255]]])
    has = torch.tensor([True, True, True])
    # Left cells have the channels {0, 1}, right ones {2, 0}; prototypes {1, 0}, {2, 3}, {0, 1}.
    wanted = [[[2, 0, 1, 1], [2, 2, 1, 2]]]
    assert rank_statistics_overlap(features, label, prototypes, has, 2).tolist() == wanted


def test_features_of_a_quarter_of_the_labels_size():
    features, label, prototypes, has = scene((81, 81), (321, 321), 6, 4, batch=1, seed=3)
    has[0] = True
    fine = F.interpolate(features, size=(321, 321), mode='nearest')
    found = rank_statistics_overlap(features, label, prototypes, has, 3)
    assert torch.equal(found, rank_statistics_overlap(fine, label, prototypes, has, 3))
    rows, columns = slice(150, 163), slice(300, 321)
    part = slow_overlap(fine[..., rows, columns], label[:, rows, columns], prototypes, has, 3)
    assert torch.equal(found[:, rows, columns], part)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_by_its_own_values(dtype):
    features, label, prototypes, has = scene((5, 6), (13, 17), 128, seed=4)
    features = features.to(dtype)
    assert any(len(set(one)) < 128 for one in features.flatten(2)[0].t().tolist())
    wanted = slow_overlap(features, label, prototypes, has, 5)
    assert torch.equal(rank_statistics_overlap(features, label, prototypes, has, 5), wanted)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(rank_statistics_overlap(features, label, prototypes, has, 5), wanted)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_the_similarity_of_half_precision_is_single_precision(dtype):
    features, label, prototypes, has = scene((5, 6), (13, 17), 32, seed=4)
    features = features.to(dtype)
    for table in (prototypes, prototypes.to(dtype)):
        expected = slow_similarity(features, label, table, has)
        found = [prototype_similarity(features, label, table, has)]
        with torch.autocast('cpu', dtype=torch.bfloat16):
            found.append(prototype_similarity(features, label, table, has))
            found.append(prototype_similarity(features.float(), label, table, has))
        for one in found:
            assert one.dtype == torch.float32
            torch.testing.assert_close(one, expected, atol=1e-6, rtol=0)


def test_the_memory_layout_does_not_matter():
    features, label, prototypes, has = scene((5, 6), (13, 17), seed=5)
    layouts = [
        features.contiguous(memory_format=torch.channels_last),
        features.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        torch.cat([features, features], dim=1)[:, :7],
        features.repeat_interleave(2, dim=3)[..., ::2],
    ]
    sides = [label, label.transpose(1, 2).contiguous().transpose(1, 2)]
    wide = prototypes.t().contiguous().t()
    for function, more in ((rank_statistics_overlap, (3,)), (prototype_similarity, ())):
        wanted = function(features, label, prototypes, has, *more)
        for layout in layouts:
            assert torch.equal(layout, features)
            for side in sides:
                found = function(layout, side, wide, has, *more)
                torch.testing.assert_close(found, wanted)


def test_without_any_prototype_everything_is_at_the_top():
    features, label, prototypes, has = scene((3, 4), (8, 9), seed=6)
    none = torch.zeros_like(has)
    assert (rank_statistics_overlap(features, label, prototypes, none, 4) == 4).all()
    assert (prototype_similarity(features, label, prototypes, none) == 1).all()
    ignored = torch.full_like(label, 255)
    every = torch.ones_like(has)
    assert (rank_statistics_overlap(features, ignored, prototypes, every, 4) == 4).all()
    assert (prototype_similarity(features, ignored, prototypes, every) == 1).all()


def test_labels_and_flags_are_left_alone():
    features, label, prototypes, has = scene((3, 4), (8, 9), seed=7)
    before = [one.clone() for one in (features, label, prototypes, has)]
    rank_statistics_overlap(features, label, prototypes, has, 4)
    prototype_similarity(features, label, prototypes, has)
    assert all(torch.equal(a, b) for a, b in zip(before, (features, label, prototypes, has)))


def test_no_gradient():
    features, label, prototypes, has = scene((3, 4), (8, 9), seed=8)
    features.requires_grad_(), prototypes.requires_grad_()
    assert not rank_statistics_overlap(features, label, prototypes, has, 4).requires_grad
    assert not prototype_similarity(features, label, prototypes, has).requires_grad


# ---------------------------------------------------------------------------------- similarity


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(('grid', 'size'), SIZES)
def test_the_similarity_is_the_cosine(grid, size, kind):
    inputs = scene(grid, size, kind=kind, seed=9)
    found = prototype_similarity(*inputs)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, slow_similarity(*inputs), atol=1e-6, rtol=0)


# ------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(features=torch.zeros(7, 2, 3)), r'features \(B, C, h, w\), .*\(7, 2, 3\)'),
        (dict(features=torch.zeros(1, 7, 2, 3)), r'\(1, 7, 2, 3\), \(2, 4, 6\)'),
        (dict(label=torch.zeros(2, 1, 4, 6).long()), r'\(2, 1, 4, 6\)'),
        (
            dict(features=torch.zeros(2, 7, 5, 3)),
            r'\(2, 7, 5, 3\) must not be finer than .*\(2, 4, 6\)',
        ),
        (dict(features=torch.zeros(2, 7, 2, 7)), 'finer'),
        (dict(features=torch.zeros(2, 8, 2, 3)), r'\(2, 8, 2, 3\), .*, \(5, 7\)$'),
        (dict(prototypes=torch.zeros(7)), r'prototypes \(K, C\), .* \(7,\)$'),
        (dict(has_prototype=torch.ones(4).bool()), r'bool \(5,\), got torch.bool \(4,\)'),
        (dict(has_prototype=torch.ones(5)), r'bool \(5,\), got torch.float32 \(5,\)'),
        (dict(has_prototype=torch.ones(5, 1).bool()), r'\(5, 1\)'),
    ],
)
@pytest.mark.parametrize('function', [rank_statistics_overlap, prototype_similarity])
def test_shapes_that_do_not_fit_are_refused(function, change, message):
    names = ('features', 'label', 'prototypes', 'has_prototype')
    given_ = dict(zip(names, scene((2, 3), (4, 6))))
    function(**given_)
    with pytest.raises(ValueError, match=message):
        function(**{**given_, **change})


def test_nothing_is_read_back_from_the_device():
    """Fake tensors have no values: whatever would wait for the device raises here."""
    with FakeTensorMode():
        features = torch.randn(2, 7, 5, 6)
        label = torch.zeros(2, 13, 17, dtype=torch.int64)
        prototypes, has = torch.randn(4, 7), torch.ones(4, dtype=torch.bool)
        overlap = rank_statistics_overlap(features, label, prototypes, has, 3)
        assert overlap.shape == (2, 13, 17) and overlap.dtype == torch.int64
        assert prototype_similarity(features, label, prototypes, has).shape == (2, 13, 17)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_cuda_gives_the_same_without_waiting():
    for kind in KINDS:
        inputs = scene((5, 6), (13, 17), 32, kind=kind, seed=10)
        moved = [one.cuda() for one in inputs]
        rank_statistics_overlap(*moved, 5), prototype_similarity(*moved)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode('error')
        try:
            overlap, similar = rank_statistics_overlap(*moved, 5), prototype_similarity(*moved)
        finally:
            torch.cuda.set_sync_debug_mode('default')
        assert torch.equal(overlap.cpu(), slow_overlap(*inputs, 5))
        wanted = slow_similarity(*inputs)
        torch.testing.assert_close(similar.cpu(), wanted, atol=2e-3, rtol=0)  # TF32
