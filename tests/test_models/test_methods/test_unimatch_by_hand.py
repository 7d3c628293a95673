"""Whole steps of the presets of FixMatch, UniMatch (V2), CorrMatch and RankMatch, by hand.

Logits are the images (see ``by_hand``), 4x4 pixels and three classes. Image 0 is sure of class 0 in
its upper half, where its probabilities are (.96, .02, .02), and (.5, .3, .2) in its lower half;
image 1 is (.02, .96, .02) everywhere. Their left halves are exchanged. Labeled pixels are
(.5, .25, .25) of class 0: L_x = log 2.

With the threshold of .95 the weak images have 8 and 16 selected pixels. After mixing, image 0 has
on the left image 1's 8 pixels of class 1, all selected, and on the right 4 of its own; image 1 has
on the left 4 of image 0's, and on the right 8 of its own. The strong views are the weak images, so
every selected pixel has -log .96: L_s = -24/32 log .96.
"""

from __future__ import annotations

import math

import pytest
import torch

from mmseg_semi.models.perturbations import FeatureDropout

from ..by_hand import image, preset, take_step

SURE, UNSURE, OTHER = [0.96, 0.02, 0.02], [0.5, 0.3, 0.2], [0.02, 0.96, 0.02]
STRONG = -24 / 32 * math.log(0.96)
LABELED = math.log(2)


def images():
    first = image(UNSURE, ((slice(None, 2),), SURE))
    return torch.stack([first, image(OTHER)]).log()


def labeled():
    return image([0.5, 0.25, 0.25]).log().repeat(2, 1, 1, 1), torch.zeros(2, 4, 4).long()


@pytest.fixture
def drop_first_channel(monkeypatch):
    """In place of random channels: the first one is dropped, the others are doubled."""

    def forward(self, maps, views):
        keep = torch.tensor([0.0, 2.0, 2.0], dtype=maps[0].dtype)[:, None, None]
        return [one * keep for one in maps]

    monkeypatch.setattr(FeatureDropout, 'forward', forward)


def perturbed_loss():
    """Sure pixels become softmax(0, 2 log .02, 2 log .02), image 1's softmax(0, 2 log .96, ..).

    Of 32 valid pixels 8 of class 0 and 16 of class 1 are selected.
    """
    small = 0.02**2
    own = -math.log(1 / (1 + 2 * small))
    other = -math.log(0.96**2 / (1 + 0.96**2 + small))
    return (8 * own + 16 * other) / 32


def check_mixed(step, views):
    assert step.pseudo.used.flatten(1).sum(1).tolist() == [8, 16]
    assert len(step.streams['strong']) == views
    for view in step.streams['strong']:
        assert view.pseudo.used.flatten(1).sum(1).tolist() == [12, 12]
        assert view.pseudo.label[0].tolist() == [[1, 1, 0, 0]] * 4
        assert view.pseudo.label[1].tolist() == [[0, 0, 1, 1]] * 4


def test_fixmatch():
    """L = 1/2 (L_x + L_s)."""
    step, losses, total = take_step(preset('fixmatch'), *labeled(), images())
    check_mixed(step, 1)
    assert float(losses['decode.loss_ce']) == pytest.approx(LABELED / 2, rel=1e-7)
    assert float(losses['strong.loss']) == pytest.approx(STRONG / 2, rel=1e-9)
    assert float(total) == pytest.approx((LABELED + STRONG) / 2, rel=1e-7)


def test_unimatch(drop_first_channel):
    """L = 1/2 (L_x + 1/4 L_s1 + 1/4 L_s2 + 1/2 L_fp); one pass decodes clean and dropped maps."""
    step, losses, total = take_step(preset('unimatch'), *labeled(), images(), views=2)
    check_mixed(step, 2)
    dropped = perturbed_loss()
    assert float(losses['strong.loss']) == pytest.approx(STRONG / 4, rel=1e-9)
    assert float(losses['perturbed.loss']) == pytest.approx(dropped / 4, rel=1e-9)
    expected = (LABELED + STRONG / 2 + dropped / 2) / 2
    assert float(total) == pytest.approx(expected, rel=1e-7)


def test_unimatch_v2(monkeypatch):
    """L = 1/2 (L_x + 1/2 (L_s1 + L_s2)); image 0 keeps two channels in the first view and the one
    that is left in the second, both doubled; image 1 stays as it is.
    """
    keep = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]], dtype=torch.float64)
    monkeypatch.setattr(FeatureDropout, 'draw', lambda self, one, count: keep[..., None, None])
    monkeypatch.setattr(FeatureDropout, 'draw_untouched', lambda self, images: torch.tensor([1]))
    model = preset('unimatch_v2')
    step, losses, total = take_step(model, *labeled(), images(), views=2)
    check_mixed(step, 2)
    # Mixed image 0: 8 pixels of class 1 on the left, 4 of class 0 on the right.
    first = -8 * math.log(0.96**2 / (1 + 0.96**2 + 0.02**2)) - 4 * math.log(1 / (1 + 2 * 0.02**2))
    second = -8 * math.log(1 / (2 + 0.02**2)) - 4 * math.log(0.96**2 / (0.96**2 + 2))
    whole = -12 * math.log(0.96)  # mixed image 1
    strong = ((first + whole) / 32 + (second + whole) / 32) / 2
    assert float(losses['strong.loss']) == pytest.approx(strong / 2, rel=1e-9)
    assert float(total) == pytest.approx((LABELED + strong) / 2, rel=1e-7)
    assert 'weak' not in model.streams, 'the student sees no weak image'
    assert [[one.name for one in several] for several in [*model.passes[0], *model.passes[1]]] == [
        ['labeled'],
        ['strong'],
    ]
    assert model.predictor is model.teacher.network
    # min(1 - 1 / (t + 1), 0.996), t from 0.
    momenta = [model.teacher.momentum_at(t) for t in (0, 1, 248, 249, 9999)]
    assert momenta == pytest.approx([0, 0.5, 1 - 1 / 249, 0.996, 0.996])
    assert model.teacher.buffer_mode == 'ema'


def test_rankmatch(drop_first_channel):
    """L = L_x + 1/4 L_s1 + 1/4 L_s2 + 1/2 L_fp + 0.1 L_rank, the sum over the orders.

    The features are the logits. Of two agents, the second is the pixel least like the first one;
    mixed image 0 has class-1 pixels on the left and its own on the right, which the strong view
    repeats: the weak and strong correlations are equal, and L_rank is 0. A strong view that is
    zero everywhere has equal correlations, so L_rank is the mean of log 2 - H(c) with c the weak
    softmax of the products with the two agents, summed over both orders.
    """
    changes = {'heads.rank.tap': 'encoder', 'heads.rank.num_agents': 2, 'heads.rank.top': 2}
    model = preset('rankmatch', **changes)
    head = model.heads['rank']
    head.draw_start = lambda weak: torch.zeros(len(weak), dtype=torch.int64)
    step, losses, total = take_step(model, *labeled(), images(), views=2)
    check_mixed(step, 2)
    assert float(losses['rank.loss']) == pytest.approx(0, abs=1e-12)
    expected = LABELED + STRONG / 2 + perturbed_loss() / 2
    assert float(total) == pytest.approx(expected, rel=1e-7)
    for view in step.streams['strong']:
        view.outputs.features['encoder'] = torch.zeros_like(view.outputs.features['encoder'])
    first = [math.log(p) for p in OTHER]  # pixel (0, 0) of mixed image 0
    candidates = {name: [math.log(p) for p in one] for name, one in (('s', SURE), ('u', UNSURE))}

    def product(a, b):
        return sum(x * y for x, y in zip(a, b))

    def cosine(a, b):
        return abs(product(a, b)) / math.sqrt(product(a, a) * product(b, b))

    def divergence(agents, pixels):
        """Sum of log 2 - H(c) over pixels."""
        found = 0.0
        for pixel in pixels:
            scores = [math.exp(product(pixel, agent)) for agent in agents]
            share = [one / sum(scores) for one in scores]
            found += math.log(2) + sum(p * math.log(p) for p in share if p)
        return found

    zero = [8 * [first], 4 * [candidates['s']], 4 * [candidates['u']]]
    second = min(candidates.values(), key=lambda one: cosine(first, one))
    parts = [divergence([first, second], sum(zero, []))]
    # Mixed image 1: the upper left is SURE, the lower left UNSURE, the right OTHER.
    begin = candidates['s']
    others = [candidates['u'], first]
    second = min(others, key=lambda one: cosine(begin, one))
    parts.append(divergence([begin, second], sum(zero, [])))
    assert float(head(step)['loss']) == pytest.approx(0.1 * sum(parts) / 32, rel=1e-6)


def test_corrmatch(drop_first_channel):
    """L = 1/4 (L_s^h + L_s^c) + 1/8 (L_s + L_fp + KL + L_u^c), of 1/2 each.

    The correlation layers are 0, so every position belongs to all alike: the propagated logits are
    the mean of an image's. A row of that map is constant, and its shape is empty. The threshold
    starts at .85: 8 and 16 pixels as above. KL is 0, since the strong views are the weak images.
    Labeled: the mean logits are the pixels', so L_s^c is log 2, too.

    Unlabeled, weak: image 0's mean logits m0 are (8 log .96 + 8 log .5) / 16 and so on, with 8
    pixels of class 0; image 1's are its own, 16 of class 1. Mixed: 8 pixels of image 1, 4 SURE and
    4 UNSURE in both, 4 of class 0 and 8 of class 1 selected in each.
    """
    changes = {'heads.correlation.dropout': 0.0, 'heads.correlation.hidden_channels': 3}
    model = preset_of_corrmatch(changes)
    step, losses, total = take_step(model, *labeled(), images())
    check_mixed(step, 1)

    def mean(*parts):
        return [sum(n * math.log(one[k]) for n, one in parts) / 16 for k in range(3)]

    def entropy(logits, k):
        return math.log(sum(math.exp(one) for one in logits)) - logits[k]

    weak = 8 * entropy(mean((8, SURE), (8, UNSURE)), 0) + 16 * entropy(mean((16, OTHER)), 1)
    both = mean((8, OTHER), (4, SURE), (4, UNSURE))
    strong = 2 * (4 * entropy(both, 0) + 8 * entropy(both, 1))
    correlation = (weak + strong) / 2 / 32
    dropped = perturbed_loss()
    assert float(losses['correlation.labeled.loss_ce']) == pytest.approx(LABELED / 4, rel=1e-7)
    assert float(losses['correlation.loss']) == pytest.approx(correlation / 8, rel=1e-6)
    assert float(losses['soft.loss']) == pytest.approx(0, abs=1e-12)
    expected = LABELED / 2 + (STRONG + dropped + correlation) / 8
    assert float(total) == pytest.approx(expected, rel=1e-6)
    # delta is the mean of the classes' highest confidences, .96 of classes 0 and 1.
    tau = model.refiners['select'].value
    assert float(tau) == pytest.approx(0.999 * 0.85 + 0.001 * 0.96, rel=1e-9)


def preset_of_corrmatch(changes):
    model = preset('corrmatch', **changes)
    head = model.heads['correlation']
    for layer in (head.w1, head.w2):
        layer.weight.data.zero_()
        layer.bias.data.zero_()
    return model
