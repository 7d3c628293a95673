from __future__ import annotations

from copy import deepcopy
from itertools import permutations

import pytest
import torch

from mmseg_semi.functional import select_agents
from mmseg_semi.models.heads import AgentRankHead

from ..conftest import SEGMENTOR
from ..helpers import mixed_by_hand
from ..steps import whole_step

TAP = 'backbone.decoder.1'  # (B, 8, 8, 8) of images of 32 x 32 pixels
HEAD = dict(type='AgentRankHead', tap=TAP, num_agents=10, loss_weight=0.1)
MIXED = dict(type='CutMix', prob=1.0)


@pytest.fixture
def build_rank(build):
    """Build RankMatch without CutMix; keywords of the head, ``model`` for the model."""

    def make(model=None, **head):
        return build(**{**dict(mixer=None, heads=dict(rank={**HEAD, **head})), **(model or {})})

    return make


def head_loss(model, step, seed=3):
    torch.manual_seed(seed)
    return model.heads['rank'](step)['loss']


def agents_of(weak, num=10, seed=3, valid=None, **options):
    torch.manual_seed(seed)
    maps = torch.cat(weak)
    valid = torch.ones_like(maps[:, 0]).bool() if valid is None else torch.cat(valid)
    return select_agents(maps, num, valid=valid, **options).chunk(len(weak))


def strong_of(step):
    return [view.outputs.features[TAP] for view in step.streams['strong']]


def correlations(features, agents):
    """log softmax_n(f . a_n) of one image: features (C, P) and agents (C, N) give (N, P)."""
    return (agents.T @ features).log_softmax(dim=0)


def rank_kl(weak, strong):
    """KL of the rankings of the weak view's 4 top agents, over their 24 orders; (P,)."""
    top = weak.topk(4, dim=0).indices
    weak, strong = weak.gather(0, top), strong.gather(0, top)

    def log_prob(logs, order):
        return sum(logs[order[i]] - logs[list(order[i:])].logsumexp(dim=0) for i in range(4))

    total = 0
    for order in permutations(range(4)):
        p, q = log_prob(weak, order), log_prob(strong, order)
        total = total + p.exp() * (p - q)
    return total


COMPARE = dict(
    rank=rank_kl,
    kl=lambda c, s: (c.exp() * (c - s)).sum(0),
    l2=lambda c, s: ((c.exp() - s.exp()) ** 2).sum(0),
    ce=lambda c, s: -(c.exp() * s).sum(0),
)


def view_loss(weak, strong, index, valid=None, compare=rank_kl, own_agents=True):
    """One view's loss: the mean over its (valid) pixels, from the formulas and in float64."""
    terms = []
    for image, (f, g, chosen) in enumerate(zip(weak, strong, index)):
        f, g = f.flatten(1).double().detach(), g.flatten(1).double()
        agents = f[:, chosen]
        pixels = compare(
            correlations(f, agents), correlations(g, g[:, chosen] if own_agents else agents)
        )
        terms.append(pixels if valid is None else pixels[valid[image].flatten()])
    return torch.cat(terms).mean()


def assert_loss(ours, expected, weight=0.1):
    assert expected > 1e-3, 'a difference must show'
    torch.testing.assert_close(ours.double(), weight * expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize('agents_from', ['view', 'weak'])
@pytest.mark.parametrize('kind', COMPARE)
def test_loss_is_the_papers_formula_and_the_mean_of_the_views(build_rank, batch, kind, agents_from):
    model = build_rank(consistency=kind, agents_from=agents_from)
    step = whole_step(model, batch(unlabeled=((32, 32),) * 3))
    weak = [step.teacher.features[TAP]] * 2
    strong = strong_of(step)
    assert weak[0].shape == (3, 8, 8, 8) and len(strong) == 2
    losses = [
        view_loss(f, g, index, compare=COMPARE[kind], own_agents=agents_from == 'view')
        for f, g, index in zip(weak, strong, agents_of(weak))
    ]
    assert abs(losses[0] - losses[1]) > 1e-2 * losses[0]
    assert_loss(head_loss(model, step), sum(losses) / 2)
    other = view_loss(
        weak[0],
        strong[0],
        agents_of(weak)[0],
        compare=COMPARE[kind],
        own_agents=agents_from != 'view',
    )
    assert abs(other - losses[0]) > 1e-2 * losses[0], 'whose agents are read must matter'


def test_gradient_is_that_of_the_formula(build_rank, batch):
    for agents_from in ('view', 'weak'):
        model = build_rank(agents_from=agents_from)
        step = whole_step(model, batch())
        weak, strong = [step.teacher.features[TAP]] * 2, strong_of(step)
        pairs = zip(weak, strong, agents_of(weak))
        expected = sum(
            view_loss(f, g, index, own_agents=agents_from == 'view') for f, g, index in pairs
        )
        wanted = torch.autograd.grad(0.05 * expected, strong, retain_graph=True)
        got = torch.autograd.grad(head_loss(model, step), strong)
        for ours, theirs in zip(got, wanted):
            assert theirs.abs().max() > 1e-5
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.max()))


def test_the_loss_counts_under_its_name_and_reaches_the_network(build_rank, batch):
    model = build_rank()
    data = model.data_preprocessor(batch(), True)
    losses = model(**data, mode='loss')
    total, logged = model.parse_losses(losses)
    rank = losses.pop('rank.loss')
    assert rank > 0 and logged['rank.loss'] == rank
    torch.testing.assert_close(total - model.parse_losses(losses)[0], rank)
    assert not list(model.heads['rank'].parameters())


# ------------------------------------------------------------------------------------- mixing
@pytest.mark.parametrize('align_corners', [False, True])
def test_weak_features_are_mixed_with_each_views_own_box(build_rank, batch, align_corners):
    segmentor = deepcopy(SEGMENTOR)
    segmentor['decode_head']['align_corners'] = align_corners
    model = build_rank(model=dict(mixer=MIXED, segmentor=segmentor))
    step = whole_step(model, batch(unlabeled=((32, 32),) * 3))
    raw = step.teacher.features[TAP].detach()
    assert not torch.equal(step.streams['strong'][0].mix.mask, step.streams['strong'][1].mix.mask)

    def expected(weak):
        pairs = zip(weak, strong_of(step), agents_of(weak))
        return sum(view_loss(f, g, index) for f, g, index in pairs) / 2

    weak = [mixed_by_hand(raw, view.mix, align_corners) for view in step.streams['strong']]
    for view, ours in zip(step.streams['strong'], weak):
        torch.testing.assert_close(model.heads['rank'].weak_features(step, view), ours)
    loss = head_loss(model, step)
    assert_loss(loss, expected(weak))
    # What it is not: unmixed, mixed with the other view's box, corners treated otherwise.
    for wrong in (
        [raw, raw],
        weak[::-1],
        [mixed_by_hand(raw, view.mix, not align_corners) for view in step.streams['strong']],
    ):
        assert abs(0.1 * expected(wrong) - loss) > 1e-3 * loss


def test_an_unmixed_view_has_the_weak_features_themselves(build_rank, batch):
    model = build_rank()
    step = whole_step(model, batch())
    for view in step.streams['strong']:
        weak = model.heads['rank'].weak_features(step, view)
        assert torch.equal(weak, step.teacher.features[TAP]) and not weak.requires_grad


# ---------------------------------------------------------------------------------- gradients
@pytest.mark.parametrize('mixer', [None, MIXED], ids=['unmixed', 'mixed'])
@pytest.mark.parametrize('agents_from', ['view', 'weak'])
def test_no_gradient_into_the_weak_features(build_rank, batch, agents_from, mixer):
    model = build_rank(agents_from=agents_from, model=dict(mixer=mixer))
    step = whole_step(model, batch())
    weak = step.teacher.features[TAP]
    assert weak.requires_grad, 'the student labels its own images'
    grads = torch.autograd.grad(head_loss(model, step), [weak, *strong_of(step)], allow_unused=True)
    assert grads[0] is None
    assert all(g is not None and g.abs().max() > 0 and g.isfinite().all() for g in grads[1:])


def test_the_ema_teachers_features_are_the_weak_ones(build_rank, batch):
    model = build_rank(model=dict(teacher=dict(type='EMATeacher')))
    torch.manual_seed(1)
    teacher = model.teacher.network
    for value in teacher.parameters():
        value.add_(0.1 * torch.randn_like(value))
    step = whole_step(model, batch())
    with torch.no_grad():
        maps = []
        handle = teacher.backbone.decoder[1].register_forward_hook(
            lambda _, __, output: maps.append(output)
        )
        teacher.extract_feat(step.weak_images)
        handle.remove()
    assert torch.equal(step.teacher.features[TAP], maps[0])
    assert not maps[0].allclose(step.weak.features[TAP])
    weak = [maps[0]] * 2
    loss = head_loss(model, step)
    pairs = zip(weak, strong_of(step), agents_of(weak))
    assert_loss(loss, sum(view_loss(f, g, index) for f, g, index in pairs) / 2)
    loss.backward()
    assert all(value.grad is None for value in teacher.parameters())
    first = next(model.segmentor.backbone.parameters())
    assert first.grad.abs().max() > 0


# ------------------------------------------------------------------------------------ choices
def test_mean_over_the_permutations_is_24_times_smaller(build_rank, batch):
    data = batch()
    total, mean = (
        head_loss(model, whole_step(model, data))
        for model in (build_rank(), build_rank(reduction='mean'))
    )
    torch.testing.assert_close(mean * 24, total)
    weighty = build_rank(loss_weight=0.7)
    torch.testing.assert_close(head_loss(weighty, whole_step(weighty, data)), 7 * total)


def test_padding_does_not_count(build_rank, batch):
    """The mean is over the valid pixels of both images; a mixed view has a mixed mask."""
    for mixer in (None, MIXED):
        model = build_rank(model=dict(mixer=mixer))
        step = whole_step(model, batch(unlabeled=((32, 32), (20, 12))))
        weak = [model.heads['rank'].weak_features(step, view) for view in step.streams['strong']]
        expected, all_pixels = [], []
        # A feature pixel is 4 x 4 pixels; the first of them speaks for it.
        masks = [view.pseudo.valid[:, ::4, ::4] for view in step.streams['strong']]
        chosen = agents_of(weak, valid=masks)
        for valid, f, g, index in zip(masks, weak, strong_of(step), chosen):
            assert not valid.all() and valid.flatten(1).gather(1, index).all()
            expected.append(view_loss(f, g, index, valid))
            all_pixels.append(view_loss(f, g, index))
        loss = head_loss(model, step)
        assert_loss(loss, sum(expected) / 2)
        assert abs(0.05 * sum(all_pixels) - loss) > 1e-3 * loss


def test_nothing_valid_gives_zero_with_a_gradient(build_rank, batch):
    model = build_rank()
    step = whole_step(model, batch())
    for view in step.streams['strong']:
        view.pseudo.valid = torch.zeros_like(view.pseudo.valid)
    loss = head_loss(model, step)
    grads = torch.autograd.grad(loss, strong_of(step))
    assert loss == 0 and all((g == 0).all() for g in grads)


@pytest.mark.parametrize('strategy', ['random', 'top', 'all'])
def test_other_strategies_choose_their_agents(build_rank, batch, strategy):
    model = build_rank(strategy=strategy)
    step = whole_step(model, batch())
    weak = [step.teacher.features[TAP]] * 2
    index = agents_of(weak, strategy=strategy)
    pairs = zip(weak, strong_of(step), index)
    assert_loss(head_loss(model, step), sum(view_loss(*pair) for pair in pairs) / 2)
    assert index[0].shape[1] == (64 if strategy == 'all' else 10)


# ----------------------------------------------------------------------------------- messages
def test_more_agents_than_pixels_are_refused(build_rank, batch):
    model = build_rank(num_agents=65)
    step = whole_step(model, batch())
    with pytest.raises(ValueError, match=f"'{TAP}' have 8 x 8 = 64 pixels.*num_agents=65"):
        model.heads['rank'](step)
    head_loss(build_rank(num_agents=64), step)
    model = build_rank(num_agents=65, strategy='all')
    head_loss(model, step)


def test_a_batch_without_strong_views_is_refused(build, batch):
    model = build(losses=None, streams=None, heads=dict(rank=HEAD))
    data = model.data_preprocessor(batch(views=0), True)
    with pytest.raises(ValueError, match='AgentRankHead.*batch has 0 strong views: .*num_views'):
        model(**data, mode='loss')


def test_the_papers_tap_is_refused_where_there_is_no_aspp(build):
    with pytest.raises(ValueError, match="'aspp': FCNHead has no ASPP module.*Use"):
        build(heads=dict(rank=dict(type='AgentRankHead')))


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(strategy='farthest'), "strategy must be one of .*'orthogonal'.*'farthest'"),
        (dict(consistency='js'), "consistency must be one of .*'rank'.*'js'"),
        (dict(agents_from='strong'), "agents_from must be one of .*'view'.*'strong'"),
        (dict(reduction='none'), "reduction must be one of .*'sum'.*'none'"),
        (dict(top=0), 'top must be a whole number from 2 to 8, got 0'),
        (dict(top=9), 'top must be a whole number from 2 to 8, got 9'),
        (dict(top=2.0), 'top must be a whole number from 2 to 8, got 2.0'),
        (dict(top=1), 'top must be a whole number from 2 to 8, got 1'),
        (dict(tap=''), "tap must be the name of a feature.*got ''"),
        (dict(num_agents=3), 'num_agents must be a whole number >= top=4, got 3'),
        (dict(num_agents=12.0), 'num_agents must be a whole number >= 1, got 12.0'),
        (dict(loss_weight=-0.1), 'loss_weight must be a number >= 0, got -0.1'),
        (dict(loss_weight=float('nan')), 'loss_weight must be a number >= 0, got nan'),
    ],
)
def test_wrong_arguments_are_refused_with_the_config_key(build_rank, wrong, message):
    with pytest.raises(ValueError, match=rf'model\.heads\.rank: AgentRankHead\.{message}'):
        build_rank(**wrong)


def test_defaults_are_the_papers():
    head = AgentRankHead()
    assert (head.tap, head.taps, head.num_agents, head.top) == ('aspp', ('aspp',), 128, 4)
    assert (head.strategy, head.consistency, head.reduction) == ('orthogonal', 'rank', 'sum')
    assert (head.agents_from, head.loss_weight) == ('view', 0.1)


def test_padding_takes_part_if_asked(build_rank, batch):
    model = build_rank(use_padding=True)
    step = whole_step(model, batch(unlabeled=((32, 32), (16, 32))))
    seen = []
    choose = model.heads['rank'].choose
    model.heads['rank'].choose = lambda weak, valid: seen.append(valid) or choose(weak, valid)
    with_padding = head_loss(model, step)
    assert seen[0].all() and seen[0].shape == (4, 8, 8)
    model.heads['rank'].use_padding = False
    assert not torch.equal(with_padding, head_loss(model, step)) and not seen[1].all()


def test_partners_features_come_from_the_pass_that_labels_them(build_rank, batch):
    partners = dict(images='weak', mode='eval')
    model = build_rank(
        dict(
            mixer=dict(type='CutMix', prob=1.0, partner_stream='partners'),
            streams=dict(
                partners=partners,
                perturbed=dict(features='weak', perturbation=dict(type='FeatureDropout')),
            ),
        )
    )
    step = whole_step(model, batch(unlabeled=((32, 32), (32, 32))))
    own, other = step.teacher.features[TAP], step.streams['partners'][0].outputs.features[TAP]
    assert not torch.allclose(own, other, atol=1e-3)
    view = step.streams['strong'][0]
    resize = dict(mode='bilinear', align_corners=False)
    full = [torch.nn.functional.interpolate(one, (32, 32), **resize) for one in (own, other)]
    mixed = torch.where(view.mix.mask[:, None], full[1][view.mix.partners], full[0])
    expected = torch.nn.functional.interpolate(mixed, (8, 8), **resize)
    torch.testing.assert_close(model.heads['rank'].weak_features(step, view), expected)
