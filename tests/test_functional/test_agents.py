import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from mmseg_semi.functional import agent_correlation, gather_agents, select_agents


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def slow_orthogonal(features, num, start):
    """The rule for one image (C, h, w), pixel by pixel and with every agent compared again."""
    pixels = features.flatten(1).t().double().tolist()
    length = [math.sqrt(math.fsum(v * v for v in pixel)) for pixel in pixels]
    chosen = [start]
    while len(chosen) < num:
        best, winner = math.inf, None
        for i, pixel in enumerate(pixels):
            if i in chosen:
                continue
            largest = 0.0
            for j in chosen:
                product = math.fsum(a * b for a, b in zip(pixel, pixels[j]))
                scale = length[i] * length[j]
                largest = max(largest, abs(product) / scale if scale else 0.0)
            if largest < best:
                best, winner = largest, i
        chosen.append(winner)
    return chosen


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('channels, size, num', [(3, (5, 7), 12), (16, (8, 9), 40), (1, (2, 3), 6)])
def test_orthogonal_agents_follow_the_rule(channels, size, num, dtype):
    features = torch.randn(3, channels, *size, generator=generator(channels)).to(dtype)
    if channels == 1:  # every |cosine| is 1: only an exact dtype can tell the order
        features = features.sign()
    start = torch.tensor([0, 5, 3])
    agents = select_agents(features, num, start)
    assert agents.shape == (3, num) and agents.dtype == torch.int64
    for image in range(3):
        assert agents[image].tolist() == slow_orthogonal(features[image], num, int(start[image]))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.data())
def test_ties_go_to_the_lower_index_and_chosen_pixels_are_left_out(data):
    # Axes scaled by powers of two: all cosines are exactly 0 or 1, so most choices are ties.
    channels = data.draw(st.integers(1, 4))
    height, width = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    pixel = st.tuples(st.integers(0, channels - 1), st.sampled_from([-2.0, 1.0, 0.25, 0.0]))
    drawn = data.draw(st.lists(pixel, min_size=height * width, max_size=height * width))
    features = torch.zeros(channels, height * width)
    for i, (axis, value) in enumerate(drawn):
        features[axis, i] = value
    features = features.view(channels, height, width)
    num = data.draw(st.integers(1, height * width))
    start = data.draw(st.integers(0, height * width - 1))
    agents = select_agents(features[None], num, torch.tensor([start]))[0].tolist()
    assert agents == slow_orthogonal(features, num, start)
    assert len(set(agents)) == num


@pytest.mark.parametrize('channels, side', [(8, 51), (16, 5), (16, 11), (256, 17)])
def test_identical_features_tie_exactly(channels, side):
    # Odd widths are where vectorized products round the last columns differently.
    features = torch.randn(3, channels, 1, 1, generator=generator()).expand(-1, -1, side, side)
    agents = select_agents(features, 10, torch.tensor([4, 0, side * side - 1]))
    assert agents[0].tolist() == [4, 0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert agents[1].tolist() == list(range(10))
    assert agents[2].tolist() == [side * side - 1, *range(9)]
    top = select_agents(features, 10, strategy='top')
    assert top.tolist() == [list(range(10))] * 3


def test_only_directions_matter():
    features = torch.randn(1, 4, 6, 6, generator=generator(3), dtype=torch.float64)
    scale = torch.rand(1, 1, 6, 6, generator=generator(4), dtype=torch.float64) + 0.1
    start = torch.tensor([7])
    assert torch.equal(
        select_agents(features, 20, start), select_agents(features * scale, 20, start)
    )


def test_the_start_is_drawn_for_each_image_from_the_generator():
    features = torch.randn(64, 2, 3, 3, generator=generator(5))
    agents = select_agents(features, 1, generator=generator(6))
    assert agents.shape == (64, 1)
    assert set(agents.flatten().tolist()) == set(range(9))
    assert torch.equal(agents, select_agents(features, 1, generator=generator(6)))
    assert not torch.equal(agents, select_agents(features, 1, generator=generator(7)))


def test_random_agents_are_a_uniform_draw_without_replacement():
    features = torch.zeros(3000, 1, 2, 3)
    agents = select_agents(features, 4, strategy='random', generator=generator(8))
    assert agents.shape == (3000, 4)
    assert all(len(set(row)) == 4 for row in agents.tolist())
    for column in agents.unbind(1):
        share = column.bincount(minlength=6) / 3000
        assert (share - 1 / 6).abs().max() < 0.03
    again = select_agents(features, 4, strategy='random', generator=generator(8))
    assert torch.equal(agents, again)


def test_top_agents_have_the_largest_summed_cosine():
    features = torch.randn(2, 5, 4, 6, generator=generator(9), dtype=torch.float64)
    agents = select_agents(features, 7, strategy='top')
    unit = features.flatten(2) / features.flatten(2).norm(dim=1, keepdim=True)
    total = (unit.transpose(1, 2) @ unit).sum(dim=2)
    for image in range(2):
        order = sorted(range(24), key=lambda i: -float(total[image, i]))
        assert agents[image].tolist() == order[:7]


def test_all_takes_every_pixel_in_order():
    agents = select_agents(torch.randn(2, 3, 2, 4), 5, strategy='all')
    assert agents.tolist() == [list(range(8))] * 2


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_low_precision_does_not_decide(dtype):
    features = torch.randn(1, 32, 9, 9, generator=generator(10)).to(dtype)
    start = torch.tensor([40])
    expected = slow_orthogonal(features[0], 40, 40)
    assert select_agents(features, 40, start)[0].tolist() == expected
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert select_agents(features.float(), 40, start)[0].tolist() == expected


class Recorder(TorchDispatchMode):
    """Size of the largest tensor that is made, and the names of the operations."""

    def __init__(self):
        super().__init__()
        self.largest, self.names = 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.names.add(func.name())
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize('strategy', ['orthogonal', 'random', 'top', 'all'])
def test_agents_need_one_copy_of_the_features_and_no_host(strategy):
    features = torch.randn(2, 4, 16, 16, generator=generator(11))
    with Recorder() as record:
        agents = select_agents(features, 200, strategy=strategy)
    assert agents.shape == (2, 256 if strategy == 'all' else 200)
    assert record.largest <= 2 * 4 * 256 * 4
    # What would wait for the device: reading a number back, and shapes that depend on values.
    assert not record.names & {'aten::_local_scalar_dense', 'aten::nonzero', 'aten::unique'}


@pytest.mark.parametrize(
    'arguments, word',
    [
        (dict(num=13), r'\[1, 12\].*got 13'),
        (dict(num=0), 'got 0'),
        (dict(strategy='furthest'), 'furthest'),
        (dict(start=torch.tensor([0])), 'shape'),
        (dict(start=torch.tensor([0.0, 1.0])), 'int64'),
        (dict(start=torch.tensor([0, 12])), r'\[0, 12\)'),
        (dict(start=torch.tensor([-1, 0])), r'\[0, 12\)'),
        (dict(start=torch.tensor([0, 1]), strategy='top'), 'orthogonal'),
        (dict(features=torch.zeros(2, 3, 12)), 'B, C, h, w'),
    ],
)
def test_agents_refuse_what_cannot_be(arguments, word):
    with pytest.raises(ValueError, match=word):
        select_agents(**{'features': torch.zeros(2, 3, 3, 4), 'num': 4, **arguments})


def test_gathered_agents_are_the_features_at_the_pixels():
    features = torch.randn(2, 3, 4, 5, generator=generator(12)).requires_grad_()
    indices = torch.tensor([[0, 7], [19, 19]])
    agents = gather_agents(features, indices)
    assert agents.shape == (2, 2, 3)
    for image, row in enumerate(indices.tolist()):
        for n, pixel in enumerate(row):
            assert torch.equal(agents[image, n], features[image, :, pixel // 5, pixel % 5])
    agents.sum().backward()
    assert features.grad[0, 0].flatten().nonzero().flatten().tolist() == [0, 7]
    assert features.grad[1, 2, 3, 4] == 2
    with pytest.raises(ValueError, match='B, N'):
        gather_agents(features, indices[:1])


def test_correlation_is_the_softmax_of_plain_products():
    features = torch.randn(2, 6, 3, 4, generator=generator(13), dtype=torch.float64) * 3
    agents = torch.randn(2, 5, 6, generator=generator(14), dtype=torch.float64)
    log_corr = agent_correlation(features, agents)
    assert log_corr.shape == (2, 5, 3, 4)
    for b in range(2):
        for y in range(3):
            for x in range(4):
                product = [float(a @ features[b, :, y, x]) for a in agents[b]]
                weight = [math.exp(v) for v in product]
                expected = [w / sum(weight) for w in weight]
                assert log_corr[b, :, y, x].exp().tolist() == pytest.approx(expected, abs=1e-12)


def test_correlation_reaches_both_sides_and_survives_low_precision():
    features = (torch.randn(1, 256, 2, 2, generator=generator(15)) * 30).half()
    agents = features.flatten(2).transpose(1, 2)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        log_corr = agent_correlation(features, agents)
        full = agent_correlation(features.float(), agents.float())
    # The products, up to 256 * 30^2 = 230400, exceed half precision's 65504.
    assert log_corr.dtype == torch.float32 and log_corr.isfinite().all()
    expected = agents.double() @ features.double().flatten(2)
    expected = expected.log_softmax(1).view(1, 4, 2, 2)
    torch.testing.assert_close(log_corr.double(), expected, rtol=1e-5, atol=1e-3)
    assert torch.equal(log_corr, full)
    features, agents = torch.randn(1, 2, 2, 2), torch.randn(1, 3, 2)
    features.requires_grad_()
    agents.requires_grad_()
    agent_correlation(features, agents)[:, 0].sum().backward()
    assert features.grad.abs().sum() > 0 and agents.grad.abs().sum() > 0


@pytest.mark.parametrize('shape', [(2, 5, 4), (1, 5, 3), (5, 3)])
def test_correlation_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match='B, N, C'):
        agent_correlation(torch.zeros(2, 3, 4, 4), torch.zeros(shape))


@pytest.mark.parametrize('strategy', ['orthogonal', 'random', 'top'])
def test_padding_gives_agents_only_when_nothing_else_is_left(strategy):
    source = torch.Generator().manual_seed(0)
    features = torch.randn(3, 5, 6, 7, generator=source)
    features[..., 4:] *= 10
    valid = torch.zeros(3, 6, 7, dtype=torch.bool)
    valid[0, :4, :5], valid[1, 2, 3], valid[2] = True, True, True
    for seed in range(20):
        torch.manual_seed(seed)
        index = select_agents(features, 12, strategy=strategy, valid=valid)
        assert all(len(set(row)) == 12 for row in index.tolist())
        taken = valid.flatten(1).gather(1, index)
        assert taken[0].all() and taken[2].all()
        assert taken[1].tolist() == [True] + [False] * 11


def test_a_valid_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r'shapes must be .*valid \(B, h, w\)'):
        select_agents(torch.rand(1, 2, 4, 4), 2, valid=torch.ones(1, 4, 5, dtype=torch.bool))
