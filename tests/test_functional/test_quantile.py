import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from mmseg_semi.functional import pack_scores, quantile_threshold


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.floats(-10, 10, width=32), st.booleans()), min_size=1, max_size=40),
    st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 1.0])),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_equals_numpy_over_the_valid_pixels(pixels, quantile, dtype):
    score = torch.tensor([value for value, _ in pixels], dtype=dtype)
    valid = torch.tensor([flag for _, flag in pixels])
    result = quantile_threshold(score, valid, quantile)
    assert result.dim() == 0 and result.dtype == dtype
    if valid.any():
        expected = np.quantile(score[valid].double().numpy(), quantile)
        assert result.item() == pytest.approx(expected, rel=1e-6, abs=1e-6)
    else:
        assert result.isnan()


def test_by_hand():
    score = torch.tensor([[[4.0, 1.0], [3.0, -7.0]], [[2.0, 9.0], [5.0, 9.0]]])
    valid = torch.tensor([[[True, True], [True, False]], [[True, False], [True, False]]])
    # 1 2 3 4 5: position 0.4 * 4 = 1.6 lies between 2 and 3.
    for quantile, value in ((0.4, 2.6), (0.0, 1.0), (0.5, 3.0), (1.0, 5.0)):
        assert quantile_threshold(score, valid, quantile).item() == pytest.approx(value)


def test_order_statistics_are_exact():
    score = torch.rand(1001, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(1001, dtype=torch.bool)
    ordered = score.sort().values
    for k in (0, 1, 500, 999, 1000):
        assert quantile_threshold(score, valid, k / 1000) == ordered[k]


def test_nothing_valid_and_no_pixel_give_nan():
    assert quantile_threshold(torch.rand(3, 4), torch.zeros(3, 4, dtype=torch.bool), 0.5).isnan()
    assert quantile_threshold(torch.rand(0), torch.zeros(0, dtype=torch.bool), 0.5).isnan()


def test_nan_counts_where_it_is_valid_only():
    score = torch.tensor([1.0, float('nan'), 2.0, 3.0])
    invalid = torch.tensor([True, False, True, True])
    assert quantile_threshold(score, invalid, 0.5).item() == 2
    for quantile in (0.0, 0.5, 1.0):
        assert quantile_threshold(score, torch.ones_like(invalid), quantile).isnan()


def test_infinite_scores_are_scores():
    score = torch.tensor([float('inf'), 1.0, float('inf'), 5.0])
    valid = torch.tensor([True, True, True, False])
    assert quantile_threshold(score, valid, 0.0).item() == 1
    assert quantile_threshold(score, valid, 1.0).item() == float('inf')
    assert quantile_threshold(score, valid, 0.75).item() == float('inf')


def test_more_elements_than_torch_quantile_takes():
    size = 2**24 + 9
    score = torch.zeros(size)
    score[: size // 2] = 1
    # The last three positions that hold something else; 2^24 + k needs more than float32 ranks.
    score[5], score[6], score[7] = 2, 3, 5
    valid = torch.ones(size, dtype=torch.bool)
    with pytest.raises(RuntimeError):
        torch.quantile(score, 0.5)
    assert quantile_threshold(score, valid, (size - 2) / (size - 1)).item() == 3
    assert quantile_threshold(score, valid, (size - 3) / (size - 1)).item() == 2
    assert quantile_threshold(score, valid, (size - 1.5) / (size - 1)).item() == pytest.approx(4)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_scores_are_interpolated_in_single(dtype):
    score = torch.tensor([0.25, 0.5], dtype=dtype)
    result = quantile_threshold(score, torch.ones(2, dtype=torch.bool), 0.123)
    assert result.dtype == torch.float32
    assert result.item() == pytest.approx(0.25 + 0.123 * 0.25, rel=1e-6)


class Names(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(func.name())
        return func(*args, **(kwargs or {}))


def test_nothing_is_read_back_and_no_gradient_flows():
    score = torch.rand(2, 5, 5).requires_grad_()
    valid = torch.rand(2, 5, 5) > 0.5
    with Names() as names:
        result = quantile_threshold(score, valid, 0.4)
        pack_scores(score, valid, 60)
    # Reading a number back, and selecting by a mask, wait for the device.
    waits = {'aten::_local_scalar_dense', 'aten::nonzero', 'aten::masked_select', 'aten::index'}
    assert names.seen and not {name.split('.')[0] for name in names.seen} & waits
    assert not result.requires_grad


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(0, 99)), min_size=1, max_size=4),
    st.floats(0, 1),
)
def test_packs_of_several_ranks_give_the_quantile_of_all(ranks, quantile):
    packs, scores, masks = [], [], []
    for size, seed in ranks:
        source = torch.Generator().manual_seed(seed)
        scores.append(torch.rand(size, generator=source))
        masks.append(torch.rand(size, generator=source) > 0.4)
        packs.append(pack_scores(scores[-1], masks[-1], size=32))
    gathered = torch.cat(packs)
    assert gathered.shape == (32 * len(ranks),)
    result = quantile_threshold(gathered, ~gathered.isnan(), quantile)
    expected = quantile_threshold(torch.cat(scores), torch.cat(masks), quantile)
    assert torch.equal(result.nan_to_num(-1), expected.nan_to_num(-1))


def test_pack_keeps_order_and_refuses_too_little_room():
    score, valid = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[True, False]] * 2)
    assert pack_scores(score, valid).nan_to_num(-1).tolist() == [1, -1, 3, -1]
    assert pack_scores(score, valid, 5).nan_to_num(-1).tolist() == [1, -1, 3, -1, -1]
    with pytest.raises(ValueError, match='at least the 4'):
        pack_scores(score, valid, 3)


def test_wrong_arguments_are_refused():
    score, valid = torch.rand(2, 3), torch.ones(2, 3, dtype=torch.bool)
    for quantile in (-0.1, 1.1, float('nan')):
        with pytest.raises(ValueError, match='quantile'):
            quantile_threshold(score, valid, quantile)
    with pytest.raises(ValueError, match='one shape'):
        quantile_threshold(score, valid[:1], 0.5)
    with pytest.raises(ValueError, match='one shape'):
        pack_scores(score, valid[:1])


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
def test_order_statistics_are_those_of_a_sort(dtype):
    source = torch.Generator().manual_seed(0)
    special = torch.tensor([0.0, -0.0, float('inf'), float('-inf')], dtype=dtype)
    for power in range(1, 7):
        score = torch.randn(2**power + 10, generator=source).mul(3).to(dtype)
        score[::3] = score[::3].round()  # some are equal
        score[::5] = special[power % 4]
        valid = torch.arange(len(score)) < 2**power + 1  # their positions are exact
        score[~valid] = float('nan')
        ordered = score[valid].sort().values
        for number, value in enumerate(ordered.tolist()):
            assert quantile_threshold(score, valid, number / 2**power).item() == value
