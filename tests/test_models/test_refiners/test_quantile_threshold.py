"""S4MC's partition by a quantile of the raw scores, also over two ranks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmseg_semi.functional import quantile_threshold, refine_neighborhood
from mmseg_semi.models.refiners import NeighborhoodRefiner, QuantileThreshold

from ..helpers import hooked, make_step, noise, run_step
from ..s4mc import QUANTILE, at, margin, pseudo_of


def two_classes(margins):
    """A row of pixels with the given margins, (1, 2, 1, W)."""
    first = (1 + torch.tensor(margins, dtype=torch.float64)) / 2
    return torch.stack([first, 1 - first])[None, :, None]


def logged(part, step):
    """The threshold that a step logs."""
    part.observe(step)
    return float(step.figures[f'{part.name}.threshold'])


def test_threshold_is_of_the_raw_scores_and_selects_by_the_refined_ones():
    raw_margins = [0.1, 0.2, 0.3, 0.4, 0.5]
    new_margins = [0.9, 0.25, 0.05, 0.35, 0.6]
    raw = pseudo_of(two_classes(raw_margins).log())
    raw = raw.update(prob=two_classes(raw_margins))
    refined = raw.update(prob=two_classes(new_margins))
    result = QuantileThreshold(alpha=0.5, decay=False)(refined, None, at(raw))
    # The raw median is 0.3. By the raw scores the last two were kept; with the threshold of the
    # refined ones, 0.35, the first and the last; with a threshold of 0.3 the fourth too.
    assert result.selected.flatten().tolist() == [True, False, False, True, True]
    assert torch.equal(result.label, refined.label) and result.prob is refined.prob


def test_a_pixel_at_the_threshold_is_left_out_and_earlier_selections_count():
    raw = pseudo_of(two_classes([0.125, 0.25, 0.5, 0.75]).log())
    raw = raw.update(prob=two_classes([0.125, 0.25, 0.5, 0.75]))
    earlier = torch.tensor([[[True, True, True, False]]])
    part = QuantileThreshold(alpha=0.0, decay=False)
    assert part(raw, None, at(raw)).selected.flatten().tolist() == [False, True, True, True]
    kept = part(raw.update(selected=earlier), None, at(raw))
    assert kept.selected.flatten().tolist() == [False, True, True, False]
    assert logged(part, at(raw)) == 0.125


@pytest.mark.parametrize('score', ['margin', 'max', 'entropy'])
def test_score_kinds(score):
    smooth = F.interpolate(noise(2, 5, 4, 4, scale=6.0), (24, 22), mode='bilinear')
    raw = pseudo_of(smooth)
    refined = NeighborhoodRefiner()(raw, None, at(raw))

    def scored(prob):
        if score == 'margin':
            return margin(prob)
        if score == 'max':
            return prob.amax(1)
        prob = prob / prob.sum(1, keepdim=True)  # refined scores are no distribution
        return (prob * prob.log()).sum(1)

    part = QuantileThreshold(alpha=0.4, score=score, decay=False)
    result = part(refined, None, at(raw))
    gamma = float(np.quantile(scored(raw.prob).double().numpy(), 0.4))
    assert logged(part, at(raw)) == pytest.approx(gamma, rel=1e-5)
    near = (scored(refined.prob) - gamma).abs() < 1e-5
    assert ((result.selected == (scored(refined.prob) > gamma)) | near).all()
    assert near.sum() < 3 and 0.05 < result.selected.float().mean() < 0.95


def test_invalid_pixels_are_no_part_of_the_quantile():
    valid = torch.ones(2, 8, 8, dtype=torch.bool)
    valid[0, 3:] = False
    valid[1, :, :2] = False
    logits = noise(2, 3, 8, 8, scale=2.0)
    raw = pseudo_of(torch.where(valid[:, None], logits, 50 * logits), valid)
    part = QuantileThreshold(alpha=0.5, decay=False)
    selected = part(raw, None, at(raw)).selected
    score = margin(raw.prob)
    wanted = np.quantile(score[valid].double().numpy(), 0.5)
    assert logged(part, at(raw)) == pytest.approx(wanted, rel=1e-6)
    assert abs(wanted - np.quantile(score.double().numpy(), 0.5)) > 0.1
    assert selected[valid].sum() == valid.sum() // 2 and not selected[~valid].any()
    nothing = pseudo_of(logits, torch.zeros_like(valid))
    assert not part(nothing, None, at(nothing)).selected.any()


def test_the_share_falls_linearly_to_zero_over_the_run(build, batch):
    part = QuantileThreshold(alpha=0.4)
    shares = [part.alpha_at(make_step(iteration=t, max_iters=8)) for t in range(9)]
    assert shares == pytest.approx([0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05, 0.0])
    model = build(refiners=dict(select=dict(QUANTILE, alpha=0.8))).train()
    data = batch()
    thresholds = []
    for iteration in (0, 25, 75, 99):
        model.set_progress(iteration, 100)
        step, losses = run_step(model, data)
        valid = margin(step.raw_pseudo.prob)[step.raw_pseudo.valid].double().numpy()
        wanted = np.quantile(valid, 0.8 * (1 - iteration / 100))
        thresholds.append(float(losses['select.threshold']))
        assert thresholds[-1] == pytest.approx(float(wanted), rel=1e-5, abs=1e-7)
        kept = step.pseudo.selected.float().mean()
        assert float(kept) == pytest.approx(0.2 + 0.8 * iteration / 100, abs=0.002)
    assert thresholds == sorted(thresholds, reverse=True) and len(set(thresholds)) == 4


def test_a_falling_share_needs_the_length_of_the_run(build, batch):
    model = build(refiners=dict(select=QUANTILE))
    data = model.data_preprocessor(batch(), True)
    with pytest.raises(RuntimeError, match=r'SemiTrainLoop.*decay=False'):
        model(**data, mode='loss')
    model = build(refiners=dict(select=dict(QUANTILE, decay=False)))
    losses = model(**data, mode='loss')
    assert float(losses['selected']) == pytest.approx(0.6, abs=0.002)
    model.set_progress(90, 100)
    assert float(model(**data, mode='loss')['selected']) == pytest.approx(0.6, abs=0.002)


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(alpha=-0.1), r'alpha must be a number in \[0, 1\], got -0\.1'),
        (dict(alpha=1.1), r'alpha must be a number in \[0, 1\], got 1\.1'),
        (dict(score='kappa'), "score must be one of .*'margin'.*got 'kappa'"),
    ],
)
def test_wrong_threshold_arguments_are_refused(build, wrong, message):
    with pytest.raises(ValueError, match=rf'model\.refiners\.select: QuantileThreshold\.{message}'):
        build(refiners=dict(select={**QUANTILE, **wrong}))


def selected_on_a_rank(rank, rounds):
    """Threshold and selection of each round by each score."""
    results = []
    for logits, valid in rounds[rank]:
        raw = pseudo_of(logits, valid)
        refined = NeighborhoodRefiner()(raw, None, at(raw))
        for score in ('margin', 'entropy'):
            part, step = QuantileThreshold(alpha=0.4, score=score), at(raw, 3, 8)
            selected = part(refined, None, step).selected
            part.observe(step)
            results.append((step.figures['.threshold'], selected))
    return results


def test_two_ranks_have_the_threshold_of_the_whole_batch(on_two_ranks):
    """Ranks with 105 and 240 pixels, of which some are invalid; and one with no valid pixel."""
    shapes = [(1, 4, 7, 15), (2, 4, 10, 12)]
    rounds = []
    for seed, shares in enumerate([(0.7, 0.9), (0.0, 0.5), (0.3, 0.0)]):
        ranks = []
        for rank, (shape, share) in enumerate(zip(shapes, shares)):
            logits = noise(*shape, seed=10 * seed + rank, scale=1.0 + 2 * rank)
            likely = noise(shape[0], *shape[2:], seed=99, scale=2.0).sigmoid()
            ranks.append((logits, likely < share))
        rounds.append(ranks)
    given = [[ranks[rank] for ranks in rounds] for rank in (0, 1)]
    results = list(zip(*on_two_ranks(selected_on_a_rank, given)))

    def surety(scores):
        prob = scores / scores.sum(1, keepdim=True).clamp(min=1e-30)
        return torch.special.entr(prob).sum(1).neg()

    scores = [margin, surety]
    cases = [(ranks, score) for ranks in rounds for score in scores]
    assert len(results) == len(cases) == 6
    for (ranks, score), ((gamma, first), (other, second)) in zip(cases, results):
        raw = [score(logits.softmax(1)).flatten() for logits, _ in ranks]
        valid = [mask.flatten() for _, mask in ranks]
        whole = quantile_threshold(torch.cat(raw), torch.cat(valid), 0.4 * (1 - 3 / 8))
        assert torch.equal(gamma, other) and torch.equal(gamma, whole)
        reference = np.quantile(torch.cat(raw)[torch.cat(valid)].double().numpy(), 0.25)
        assert float(gamma) == pytest.approx(float(reference), rel=1e-6)
        for values, mask in zip(raw, valid):  # not a rank's own
            alone = float(quantile_threshold(values, mask, 0.25))
            assert math.isnan(alone) or mask.sum() == torch.cat(valid).sum() or alone != gamma
        for (logits, mask), selected in zip(ranks, (first, second)):
            refined = score(refine_neighborhood(logits.softmax(1) * mask[:, None]))
            assert torch.equal(selected, mask & (refined > gamma))


def test_other_images_are_measured_by_the_threshold_of_the_batch():
    """Those that a mixer loads besides; the batch's median is 0.3."""

    def pseudo(margins):
        return pseudo_of(two_classes(margins).log()).update(prob=two_classes(margins))

    raw, others = pseudo([0.1, 0.2, 0.3, 0.4, 0.5]), pseudo([0.25, 0.35, 0.9, 0.95])
    part, step = QuantileThreshold(alpha=0.5, decay=False), at(raw)
    for _ in range(2):
        selected = part(others, None, step).selected.flatten().tolist()
        assert selected == [False, True, True, True]
    assert step.figures == {} and logged(part, step) == pytest.approx(0.3)
    assert part(raw, None, step).selected.flatten().tolist() == [False] * 3 + [True] * 2


def test_the_share_can_end_elsewhere_and_fall_by_epochs():
    part = QuantileThreshold(alpha=0.25, final=0.15, decay_by='epoch')
    steps = [make_step(iteration=t, max_iters=10, iters_per_epoch=3) for t in (0, 2, 3, 5, 9)]
    # Epochs begin at 0, 3, 6, 9.
    wanted = [0.25, 0.25, 0.22, 0.22, 0.16]
    assert [part.alpha_at(step) for step in steps] == pytest.approx(wanted)
    with pytest.raises(RuntimeError, match=r"decay_by='epoch' needs to know how long an epoch is"):
        part.alpha_at(make_step(iteration=1, max_iters=10))


def test_a_pixel_at_the_threshold_can_be_kept_and_padding_can_count():
    raw = pseudo_of(two_classes([0.125, 0.25, 0.5, 0.75]).log())
    raw = raw.update(prob=two_classes([0.125, 0.25, 0.5, 0.75]))
    part = QuantileThreshold(alpha=0.0, decay=False, inclusive=True)
    assert part(raw, None, at(raw)).selected.all()
    valid = torch.tensor([[[False, False, True, True]]])
    padded = raw.update(valid=valid)
    for use_padding, gamma in ((False, 0.625), (True, 0.375)):
        part = QuantileThreshold(alpha=0.5, decay=False, use_padding=use_padding)
        part(padded, None, at(padded))
        assert logged(part, at(padded)) == pytest.approx(gamma)


SEEN = dict(images='strong', network='teacher', mode='train')
STRONG = dict(strong=dict(type='PseudoLabelCrossEntropy'))
MIXED = dict(type='CutMix', prob=1.0)


def test_another_pass_over_the_mixed_images_can_select(build, batch):
    """Each view by what the teacher says in training mode about the mixed images."""
    refiners = dict(
        context=dict(type='NeighborhoodRefiner', label='raw'),
        select=dict(QUANTILE, stream='seen', decay=False),
    )
    model = build(
        teacher=dict(type='EMATeacher'),
        refiners=refiners,
        streams=dict(seen=SEEN),
        losses=STRONG,
        mixer=MIXED,
    )
    step, losses = run_step(hooked(model).train(), batch())
    probs = [view.outputs.logits.softmax(1) for view in step.streams['seen']]
    gamma = np.quantile(torch.cat([margin(one) for one in probs]).double().numpy(), 0.4)
    assert float(losses['select.threshold']) == pytest.approx(gamma, rel=1e-5)
    scores = [margin(refine_neighborhood(one)) for one in probs]
    for view, score in zip(step.streams['strong'], scores):
        near = (score - gamma).abs() < 1e-6
        assert (near | (view.pseudo.selected == (score > gamma))).all() and near.sum() < 3
        assert torch.equal(view.pseudo.label, view.mix(step.raw_pseudo.label))
    kept = torch.stack([view.pseudo.selected for view in step.streams['strong']])
    assert not torch.equal(*kept) and step.pseudo.selected.all()
    assert float(losses['select.selected']) == pytest.approx(float(kept.float().mean()))


def test_the_first_mixed_view_can_give_the_threshold(build, batch):
    select = dict(QUANTILE, score='max', of='refined_mixed', inclusive=True, decay=False)
    refiners = dict(context=dict(type='NeighborhoodRefiner', on='confidence'), select=select)
    model = build(refiners=refiners, streams=None, losses=STRONG, mixer=MIXED).train()
    step, losses = run_step(model, batch())
    views = step.streams['strong']
    gamma = np.quantile(views[0].pseudo.confidence.double().numpy(), 0.4)
    assert float(losses['select.threshold']) == pytest.approx(gamma, rel=1e-5)
    for view in views:
        confidence = view.mix(step.refined['context'].confidence)
        assert torch.equal(view.pseudo.confidence, confidence)
        near = (confidence - gamma).abs() < 1e-6
        assert (near | (view.pseudo.selected == (confidence >= gamma))).all()
        assert 0.3 < view.pseudo.selected.float().mean() < 0.9
    refiners = dict(select=dict(select, score='margin'))
    model = build(refiners=refiners, streams=None, losses=STRONG, mixer=MIXED).train()
    view = run_step(model, batch())[0].streams['strong'][0]
    assert view.pseudo.selected.float().mean() == pytest.approx(0.6, abs=0.002)
    kept = margin(view.pseudo.prob)[view.pseudo.selected]
    assert kept.min() >= margin(view.pseudo.prob)[~view.pseudo.selected].max()


@pytest.mark.parametrize(
    'stream, message',
    [
        ('weak', "stream is 'weak', which shows weak images: name a stream of strong ones"),
        ('perturbed', "stream is 'perturbed', which shows .* with a perturbation"),
        ('none', "stream is 'none', which model.streams does not have"),
    ],
)
def test_a_stream_that_shows_no_strong_images_is_refused(build, stream, message):
    match = rf'model\.refiners\.select: QuantileThreshold\.{message}'
    with pytest.raises(ValueError, match=match):
        build(refiners=dict(select=dict(QUANTILE, stream=stream)))


@pytest.mark.parametrize(
    ('streams', 'losses', 'named'),
    [
        (None, dict(STRONG, feature=dict(type='PseudoLabelCrossEntropy', stream='perturbed')), 'f'),
        (
            dict(plain=dict(images='strong', mixed=False)),
            dict(STRONG, plain=dict(type='PseudoLabelCrossEntropy', stream='plain')),
            'plain',
        ),
    ],
)
def test_losses_of_other_views_than_the_scores_are_refused(build, streams, losses, named):
    select = dict(QUANTILE, score='max', of='refined_mixed')
    streams = streams or dict(
        perturbed=dict(features='weak', perturbation=dict(type='FeatureDropout'))
    )
    with pytest.raises(
        ValueError, match=rf"model\.losses\.{named}\w* trains '\w+', which shows ot"
    ):
        build(refiners=dict(select=select), streams=streams, losses=losses, mixer=MIXED)
