import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from mmseg_semi.functional import neighborhood, refine_neighborhood


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_prob(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=generator(seed), dtype=dtype).mul(2).softmax(dim=1)


def offsets_of(window, connectivity):
    r = window // 2
    every = [(dy, dx) for dy in range(-r, r + 1) for dx in range(-r, r + 1) if (dy, dx) != (0, 0)]
    return [o for o in every if connectivity == 8 or abs(o[0]) + abs(o[1]) <= r]


def weight_of(offset, beta):
    return math.exp(-(abs(offset[0]) + abs(offset[1])) / 2) if beta == 'distance' else beta


def slow_refine(prob, window, neighbors, pick, joint, beta, connectivity, scale='one', rule='max'):
    """The formula pixel by pixel; ``pick`` is max or min. ``joint`` is a list, one a class."""
    batch, classes, height, width = prob.shape
    values, out = prob.tolist(), prob.clone()
    for b in range(batch):
        for c in range(classes):
            for y in range(height):
                for x in range(width):
                    union, left = values[b][c][y][x], offsets_of(window, connectivity)
                    for _ in range(neighbors):
                        gains = []
                        for dy, dx in left:
                            inside = 0 <= y + dy < height and 0 <= x + dx < width
                            p = values[b][c][y + dy][x + dx] if inside else 0.0
                            both = joint[c] * (union if scale == 'probability' else 1)
                            both = both if rule == 'alone' else max(union * p, both)
                            gains.append(weight_of((dy, dx), beta) * (p - both))
                        gain = pick(gains)
                        del left[gains.index(gain)]
                        union += gain
                    out[b, c, y, x] = union
    return out


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.data())
def test_equals_the_loop_over_pixels(data):
    window = data.draw(st.sampled_from([3, 5, 7]))
    connectivity = data.draw(st.sampled_from([8, 4]))
    neighbors = data.draw(st.integers(1, min(6, len(offsets_of(window, connectivity)))))
    criterion = data.draw(st.sampled_from(['max', 'min']))
    beta = data.draw(st.sampled_from(['distance', 0.0, 0.6, 1.0]))
    joint = data.draw(st.sampled_from([None, 0.0, 0.3, 'classes']))
    size = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    prob = random_prob(1, 3, *size, seed=data.draw(st.integers(0, 99)))
    if joint == 'classes':
        joint, floor = torch.tensor([0.05, 0.4, 0.9]), [0.05, 0.4, 0.9]
    else:
        floor = [joint or 0.0] * 3
    scale = data.draw(st.sampled_from(['one', 'probability']))
    rule = data.draw(st.sampled_from(['max', 'alone'])) if joint is not None else 'max'
    options = dict(beta=beta, connectivity=connectivity, joint_scale=scale, joint_rule=rule)
    result = refine_neighborhood(prob, window, neighbors, criterion, joint=joint, **options)
    pick = max if criterion == 'max' else min
    expected = slow_refine(prob, window, neighbors, pick, floor, beta, connectivity, scale, rule)
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('criterion', ['max', 'min'])
@pytest.mark.parametrize('joint', [None, 0.2])
def test_all_neighbors_can_be_used(criterion, joint):
    # With 8 neighbors both rings of 4 run dry, at another round in every pixel.
    prob = random_prob(2, 3, 4, 4, seed=1)
    result = refine_neighborhood(prob, 3, 8, criterion, joint=joint)
    pick = max if criterion == 'max' else min
    expected = slow_refine(prob, 3, 8, pick, [joint or 0.0] * 3, 'distance', 8)
    torch.testing.assert_close(result, expected)


def test_by_hand_in_the_middle_and_at_the_border():
    prob = torch.zeros(1, 2, 3, 3)
    prob[0, 0] = torch.tensor([[0.9, 0.0, 0.0], [0.0, 0.5, 0.6], [0.0, 0.0, 0.0]])
    result = refine_neighborhood(prob)[0]
    side, corner = math.exp(-0.5), math.exp(-1)
    # 0.9 in the corner weighs 0.331, 0.6 beside it 0.364: the nearer neighbor wins.
    assert result[0, 1, 1].item() == pytest.approx(0.5 + side * 0.6 * 0.5)
    assert result[0, 0, 0].item() == pytest.approx(0.9 + corner * 0.5 * 0.1)
    assert result[0, 2, 0].item() == pytest.approx(corner * 0.5)
    assert not result[1].any()
    constant = refine_neighborhood(prob, beta=0.5)[0]
    assert constant[0, 1, 1].item() == pytest.approx(0.5 + 0.5 * 0.9 * 0.5)
    cross = refine_neighborhood(prob, beta=0.5, connectivity=4)[0]
    assert cross[0, 1, 1].item() == pytest.approx(0.5 + 0.5 * 0.6 * 0.5)
    # E above p(x) p(n) = 0.3: side * (0.6 - 0.4) = 0.121, corner * (0.9 - 0.45) = 0.166.
    empirical = refine_neighborhood(prob, joint=0.4)[0]
    assert empirical[0, 1, 1].item() == pytest.approx(0.5 + corner * (0.9 - 0.45))
    # Where nothing supports the class, E is all loss; the farther neighbor loses less.
    assert empirical[1, 1, 1].item() == pytest.approx(-corner * 0.4)
    assert refine_neighborhood(prob, criterion='min')[0, 0, 0, 0].item() == pytest.approx(0.9)


def test_single_pixel_has_no_support():
    prob = torch.tensor([0.3, 0.7]).view(1, 2, 1, 1)
    assert torch.equal(refine_neighborhood(prob), prob)


def test_two_max_is_the_union_of_the_two_best():
    prob = random_prob(2, 4, 6, 5, seed=2)
    expected = slow_refine(prob, 3, 2, max, [0.0] * 4, 'distance', 8)
    for neighbors in (1, 2):
        result = refine_neighborhood(prob, neighbors=neighbors, criterion='two_max')
        torch.testing.assert_close(result, expected)
    assert (result > refine_neighborhood(prob)).all()


def test_joint_may_differ_between_classes():
    prob = random_prob(1, 3, 4, 4, seed=3)
    result = refine_neighborhood(prob, joint=torch.tensor([0.0, 0.3, 0.8]))
    for c, value in enumerate([0.0, 0.3, 0.8]):
        alone = refine_neighborhood(prob, joint=value)
        torch.testing.assert_close(result[:, c], alone[:, c], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(result[:, 0], refine_neighborhood(prob)[:, 0])


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(0, 999), st.sampled_from([3, 5]), st.integers(1, 4), st.sampled_from([8, 4]))
def test_independent_unions_rise_and_stay_probabilities(seed, window, neighbors, connectivity):
    prob = random_prob(1, 4, 5, 6, seed=seed, dtype=torch.float32)
    previous = prob
    for count in range(1, neighbors + 1):
        union = refine_neighborhood(prob, window, count, connectivity=connectivity)
        assert (union >= previous).all() and union.max() <= 1 + 1e-6
        previous = union


def one_offset_union(prob, offset, weight):
    moved = torch.zeros_like(prob)
    height, width = prob.shape[-2:]
    for y in range(height):
        for x in range(width):
            inside = 0 <= y + offset[0] < height and 0 <= x + offset[1] < width
            if inside:
                moved[..., y, x] = prob[..., y + offset[0], x + offset[1]]
    return prob + weight * moved * (1 - prob)


@pytest.mark.parametrize('window, connectivity', [(3, 8), (3, 4), (5, 8), (5, 4)])
def test_random_takes_one_neighbor_for_all_classes_uniformly(window, connectivity):
    prob = random_prob(1, 3, 7, 8, seed=4).expand(100, -1, -1, -1)
    result = refine_neighborhood(
        prob, window, criterion='random', connectivity=connectivity, generator=generator(5)
    )
    counts = []
    explained = torch.zeros(100, 7, 8, dtype=torch.bool)
    for offset in offsets_of(window, connectivity):
        union = one_offset_union(prob[0], offset, weight_of(offset, 'distance'))
        same = ((result - union).abs() < 1e-12).all(dim=1)
        explained |= same
        counts.append(same[:, 2:5, 2:6].float().mean().item())  # away from the border: unambiguous
    assert explained.all()
    share = 1 / len(counts)
    # 1200 draws: five standard errors.
    assert max(abs(c - share) for c in counts) < 5 * math.sqrt(share / 1200)
    assert sum(counts) == pytest.approx(1)


def test_random_draws_without_replacement_and_follows_the_generator():
    prob = random_prob(2, 3, 5, 5, seed=6)
    # All 8 in any order are the same union of independent events.
    everyone = refine_neighborhood(prob, neighbors=8, criterion='random')
    torch.testing.assert_close(everyone, refine_neighborhood(prob, neighbors=8))
    first = refine_neighborhood(prob, criterion='random', generator=generator(7))
    assert torch.equal(first, refine_neighborhood(prob, criterion='random', generator=generator(7)))
    assert not torch.equal(
        first, refine_neighborhood(prob, criterion='random', generator=generator(8))
    )
    constant = refine_neighborhood(prob, criterion='random', beta=0.0, joint=0.5)
    assert torch.equal(constant, prob)


def test_no_gradient_no_change_of_the_input_and_the_dtype_is_kept():
    prob = random_prob(1, 3, 4, 4, dtype=torch.float32).requires_grad_()
    before = prob.detach().clone()
    for criterion in ('max', 'min', 'random', 'two_max'):
        result = refine_neighborhood(prob, criterion=criterion)
        assert not result.requires_grad and result.dtype == torch.float32
        assert torch.equal(prob, before)
    half = refine_neighborhood(before.half(), joint=torch.tensor([0.1, 0.2, 0.3]))
    assert half.dtype == torch.float16


class Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.largest, self.names = 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.names.add(func.name())
        if isinstance(out, torch.Tensor):
            self.largest = max(self.largest, out.numel())
        return out


@pytest.mark.parametrize('criterion', ['max', 'min', 'two_max', 'random'])
def test_no_window_is_unfolded_and_nothing_read_back(criterion):
    prob = random_prob(1, 12, 40, 40)
    with Recorder() as record:
        refine_neighborhood(prob, window=7, criterion=criterion, joint=0.2)
    # The padded maps are the largest; 'random' draws one number for each of the 48 neighbors.
    assert record.largest <= (48 * 40 * 40 if criterion == 'random' else 12 * 46 * 46)
    assert not record.names & {'aten::_local_scalar_dense', 'aten::nonzero'}


@pytest.mark.parametrize(
    'arguments, word',
    [
        (dict(window=4), 'window.*got 4'),
        (dict(window=1), 'window.*got 1'),
        (dict(neighbors=0), 'neighbors'),
        (dict(neighbors=9), r'\[1, 8\]'),
        (dict(neighbors=5, connectivity=4), r'\[1, 4\]'),
        (dict(neighbors=3, criterion='two_max'), 'two_max'),
        (dict(criterion='median'), 'median'),
        (dict(beta='gauss'), 'gauss'),
        (dict(beta=1.5), '1.5'),
        (dict(connectivity=6), '6'),
        (dict(joint=1.2), '1.2'),
        (dict(joint=torch.zeros(3)), '2 classes'),
        (dict(generator=generator()), 'random'),
        (dict(prob=torch.zeros(2, 4, 4)), 'B, K, H, W'),
    ],
)
def test_wrong_arguments_are_refused(arguments, word):
    with pytest.raises(ValueError, match=word):
        refine_neighborhood(**{'prob': torch.zeros(1, 2, 4, 4), **arguments})


def test_joint_probability_by_hand():
    """A pixel of .5 whose largest neighbor has .6; E is .9 of the pixel's own, or alone."""
    prob = torch.zeros(1, 1, 3, 3)
    prob[0, 0] = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.5, 0.6], [0.0, 0.0, 0.0]])
    options = dict(joint=0.9, beta=0.5, connectivity=4)
    # J = max(.5 .6, .5 .9) = .45; J = .9 .5 = .45 alone too; J = .9 alone.
    for more, joint in (
        (dict(joint_scale='probability'), 0.45),
        (dict(joint_scale='probability', joint_rule='alone'), 0.45),
        (dict(joint_rule='alone'), 0.9),
    ):
        found = refine_neighborhood(prob, **options, **more)[0, 0, 1, 1]
        assert found.item() == pytest.approx(0.5 + 0.5 * max(0.6 - joint, -joint))
    # With E = .2 the independent .3 is larger, unless E stands alone.
    options['joint'] = 0.2
    found = refine_neighborhood(prob, joint_scale='probability', **options)[0, 0, 1, 1]
    assert found.item() == pytest.approx(0.5 + 0.5 * (0.6 - 0.3))
    found = refine_neighborhood(prob, joint_rule='alone', **options)[0, 0, 1, 1]
    assert found.item() == pytest.approx(0.5 + 0.5 * (0.6 - 0.2))
    for wrong in (dict(joint_scale='both'), dict(joint_rule='min')):
        with pytest.raises(ValueError, match=f'{next(iter(wrong))} must be one of'):
            refine_neighborhood(prob, **options, **wrong)


@pytest.mark.parametrize('joint', [None, 0.3, torch.linspace(0, 0.5, 5)])
@pytest.mark.parametrize(('criterion', 'window'), [('max', 3), ('min', 5), ('two_max', 7)])
def test_blocks_are_the_whole(monkeypatch, criterion, window, joint):
    prob = torch.rand(2, 5, 9, 8, generator=torch.Generator().manual_seed(0)).softmax(1)
    found = {}
    for block, count in ((1, 90), (16, 50), (72, 10), (150, 6), (10**9, 2)):
        monkeypatch.setattr(neighborhood, '_BLOCK', block)
        found[block] = refine_neighborhood(
            prob, window, criterion=criterion, joint=joint, joint_scale='probability'
        )
        assert len(neighborhood._blocks(prob)) == count
    assert all(torch.equal(one, found[10**9]) for one in found.values())
    assert not torch.equal(found[1], prob)
