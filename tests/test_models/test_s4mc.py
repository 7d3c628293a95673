from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmseg_semi.functional import quantile_threshold, refine_neighborhood
from mmseg_semi.models.refiners import NeighborhoodRefiner, QuantileThreshold
from mmseg_semi.structures import PseudoLabel

CONTEXT = dict(type='NeighborhoodRefiner', window=3)
QUANTILE = dict(type='QuantileThreshold', score='margin', alpha=0.4)
S4MC = dict(context=CONTEXT, select=QUANTILE)
SELECTED = dict(
    strong=dict(type='PseudoLabelCrossEntropy', stream='strong', denominator='selected')
)
# UniMatch becomes FixMatch and CutMix-Seg without its perturbed stream.
FIXMATCH = dict(perturbation=None, losses=SELECTED, supervised_weight=1.0)
EMA = dict(teacher=dict(type='ema'))


def noise(*shape, seed=0, scale=2.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def pseudo_of(logits, valid=None):
    batch, _, height, width = logits.shape
    valid = torch.ones(batch, height, width, dtype=torch.bool) if valid is None else valid
    return PseudoLabel.from_logits(logits, valid)


def at(raw, iteration=0, max_iters=10):
    return SimpleNamespace(raw_pseudo=raw, iteration=iteration, max_iters=max_iters)


def margin(scores):
    first, second = scores.topk(2, dim=1).values.unbind(dim=1)
    return first - second


def hooked(model):
    """The model as MeanTeacherHook and SemiTrainLoop leave it at the third of ten iterations."""
    model.hook_attached('MeanTeacherHook')
    model.set_progress(2, 10)
    return model.train()


def shaken(model):
    """A teacher that is not the student."""
    torch.manual_seed(1)
    for value in model.teacher.parameters():
        value.add_(0.3 * torch.randn_like(value))
    return model


def seen_step(model, data):
    """Losses and finished step of a training iteration."""
    steps = []
    model.add_observer(steps.append)
    losses = model(**model.data_preprocessor(data, True), mode='loss')
    return losses, steps[0]


# -------------------------------------------------------------------------- NeighborhoodRefiner
@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(window=5, neighbors=2),
        dict(criterion='two_max', connectivity=4, beta=0.6),
        dict(criterion='min', joint=0.2),
    ],
)
def test_refiner_changes_scores_label_and_confidence_and_nothing_else(options):
    valid = torch.ones(2, 7, 9, dtype=torch.bool)
    valid[1, :, 6:] = False
    before = pseudo_of(noise(2, 4, 7, 9), valid)
    after = NeighborhoodRefiner(**options)(before, at(before))
    # Padding is outside the image, where every probability is zero.
    expected = refine_neighborhood(before.prob * valid[:, None], **options)
    assert torch.equal(after.prob, expected)
    unaware = refine_neighborhood(before.prob, **options)
    assert not torch.equal(expected[1, :, :, 5], unaware[1, :, :, 5])
    assert torch.equal(after.confidence, expected.amax(1))
    assert torch.equal(after.label, expected.argmax(1))
    assert not torch.equal(after.prob, before.prob)
    assert torch.equal(before.prob, before.logits.softmax(1)), 'the raw pseudo-label stays'
    for name in ('logits', 'valid', 'selected'):
        assert getattr(after, name) is getattr(before, name)
    if not options:
        assert not torch.equal(after.label, before.label)


@pytest.mark.parametrize('order', [('context', 'select'), ('select', 'context')])
def test_refiner_comes_before_the_selection_whatever_the_config_says(build, batch, order):
    model = hooked(build(refiners={name: S4MC[name] for name in order}))
    assert list(model.refiners) == ['context', 'select']
    _, step = seen_step(model, batch())
    refined = refine_neighborhood(step.raw_pseudo.prob)
    gamma = np.quantile(margin(step.raw_pseudo.prob).double().numpy(), 0.4 * 0.8)
    assert torch.equal(step.pseudo.prob, refined)
    assert torch.equal(step.pseudo.selected, margin(refined) > float(gamma))
    assert 0.01 < step.pseudo.selected.float().mean() < 0.99


def json_table(folder, **content):
    path = folder / 'agreement.json'
    path.write_text(json.dumps(content))
    return str(path)


def test_joint_is_a_number_a_list_or_a_file(tmp_path):
    pseudo = pseudo_of(noise(1, 3, 6, 6))
    table = [0.5, 0.125, 0.25]
    path = json_table(tmp_path, classes=['a', 'b', 'c'], per_class=table, overall=0.875)
    cases = [
        (dict(), None),
        (dict(joint=0.25), 0.25),
        (dict(joint=table), torch.tensor(table)),
        (dict(joint=tuple(table)), torch.tensor(table)),
        (dict(joint=path), torch.tensor(table)),
        (dict(joint=path, joint_key='overall'), 0.875),
    ]
    results = []
    for arguments, joint in cases:
        refiner = NeighborhoodRefiner(**arguments)
        results.append(refiner.refine(pseudo.prob))
        assert torch.equal(results[-1], refine_neighborhood(pseudo.prob, joint=joint))
        assert not refiner.state_dict(), 'the table comes from the config'
    distinct = [results[i] for i in (0, 1, 2, 5)]
    assert all(not torch.equal(a, b) for i, a in enumerate(distinct) for b in distinct[i + 1 :])


def test_table_moves_with_the_model(build):
    model = build(refiners=dict(context=dict(CONTEXT, joint=[0.1, 0.2, 0.3])))
    assert model.double().refiners['context'].joint_table.dtype == torch.float64
    assert not any('joint' in name for name in model.state_dict())


def test_a_table_of_other_classes_is_refused_when_the_model_is_built(build, tmp_path):
    path = json_table(tmp_path, per_class=[0.1, 0.2, 0.3, 0.4], overall=0.5)
    for joint in ([0.5, 0.5], path):
        entries = 4 if joint is path else 2
        message = rf'model\.refiners\.context: .*joint has {entries} entries.*3 classes'
        with pytest.raises(ValueError, match=message):
            build(refiners=dict(context=dict(CONTEXT, joint=joint)))
    build(refiners=dict(context=dict(CONTEXT, joint=path, joint_key='overall')))


@pytest.mark.parametrize(
    'text, key, message',
    [
        ('{"per_class": [0.5', 'per_class', r'agreement.json is no JSON file'),
        ('\x00\x01', 'per_class', r'agreement.json is no JSON file'),
        ('[0.5, 0.5, 0.5]', 'per_class', r"no entry 'per_class'.*neighbor_agreement\.py"),
        ('{"overall": 0.5}', 'per_class', r"no entry 'per_class'.*neighbor_agreement\.py"),
        ('{"per_class": [0.5]}', 'overall', r"no entry 'overall'.*neighbor_agreement\.py"),
        (
            '{"per_class": [0.5, 1.5, 0.5]}',
            'per_class',
            r'joint.* number in \[0, 1\].*1\.5',
        ),
        (
            '{"per_class": [0.5, NaN, 0.5]}',
            'per_class',
            r'joint.* number in \[0, 1\].*nan',
        ),
        ('{"per_class": null}', 'per_class', r'joint \(.*per_class\) must be a number .*None'),
        ('{"per_class": [[0.5]]}', 'per_class', r'joint .* must be a number .*\[0.5\]'),
        ('{"overall": true}', 'overall', r'joint .* must be a number .*True'),
        ('{"overall": -0.5}', 'overall', r'joint.* must be a number in \[0, 1\], got -0\.5'),
    ],
)
def test_wrong_files_are_refused_with_a_reason(build, tmp_path, text, key, message):
    path = tmp_path / 'agreement.json'
    path.write_text(text)
    with pytest.raises(ValueError, match=rf'model\.refiners\.context: .*{message}'):
        build(refiners=dict(context=dict(CONTEXT, joint=str(path), joint_key=key)))


def test_a_missing_file_is_refused_with_the_tool_that_writes_it(build, tmp_path):
    missing = str(tmp_path / 'no.json')
    with pytest.raises(FileNotFoundError, match=r'no\.json.*neighbor_agreement\.py'):
        build(refiners=dict(context=dict(CONTEXT, joint=missing)))
    with pytest.raises(FileNotFoundError):
        NeighborhoodRefiner(joint=str(tmp_path))


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(joint=1.5), r'joint must be a number in \[0, 1\]'),
        (dict(joint=[0.5, -0.1, 0.5]), r'joint must be a number in \[0, 1\]'),
        (dict(joint_key='classes'), 'joint_key must be one of'),
        (dict(window=4), 'window must be odd'),
        (dict(neighbors=9), r'neighbors must be in \[1, 8\]'),
        (dict(neighbors=5, connectivity=4), r'neighbors must be in \[1, 4\]'),
        (dict(criterion='mean'), 'criterion must be one of'),
        (dict(beta=1.5), 'beta, if not .* must be a number'),
        (dict(connectivity=6), r'connectivity must be one of \(4, 8\)'),
    ],
)
def test_wrong_refiner_arguments_are_refused_when_the_model_is_built(build, wrong, message):
    with pytest.raises(ValueError, match=rf'context: NeighborhoodRefiner[.:].*{message}'):
        build(refiners=dict(context={**CONTEXT, **wrong}))


# ---------------------------------------------------------------------------- QuantileThreshold
def two_classes(margins):
    """A row of pixels with the given margins, (1, 2, 1, W)."""
    first = (1 + torch.tensor(margins, dtype=torch.float64)) / 2
    return torch.stack([first, 1 - first])[None, :, None]


def test_threshold_is_of_the_raw_scores_and_selects_by_the_refined_ones():
    raw_margins = [0.1, 0.2, 0.3, 0.4, 0.5]
    new_margins = [0.9, 0.25, 0.05, 0.35, 0.6]
    raw = pseudo_of(two_classes(raw_margins).log())
    raw = raw.update(prob=two_classes(raw_margins))
    refined = raw.update(prob=two_classes(new_margins))
    result = QuantileThreshold(alpha=0.5, decay=False)(refined, at(raw))
    # The raw median is 0.3. By the raw scores the last two were kept; with the threshold of the
    # refined ones, 0.35, the first and the last; with a threshold of 0.3 the fourth too.
    assert result.selected.flatten().tolist() == [True, False, False, True, True]
    assert torch.equal(result.label, refined.label) and result.prob is refined.prob


def test_a_pixel_at_the_threshold_is_left_out_and_earlier_selections_count():
    raw = pseudo_of(two_classes([0.125, 0.25, 0.5, 0.75]).log())
    raw = raw.update(prob=two_classes([0.125, 0.25, 0.5, 0.75]))
    earlier = torch.tensor([[[True, True, True, False]]])
    part = QuantileThreshold(alpha=0.0, decay=False)
    assert part(raw, at(raw)).selected.flatten().tolist() == [False, True, True, True]
    kept = part(raw.update(selected=earlier), at(raw))
    assert kept.selected.flatten().tolist() == [False, True, True, False]
    assert float(part.log_values()['threshold']) == 0.125
    assert QuantileThreshold().log_values() == {}, 'none before the first step'


@pytest.mark.parametrize('score', ['margin', 'max', 'entropy'])
def test_score_kinds(score):
    smooth = F.interpolate(noise(2, 5, 4, 4, scale=6.0), (24, 22), mode='bilinear')
    raw = pseudo_of(smooth)
    refined = NeighborhoodRefiner()(raw, at(raw))

    def scored(prob):
        if score == 'margin':
            return margin(prob)
        return prob.amax(1) if score == 'max' else (prob * prob.log()).sum(1)

    part = QuantileThreshold(alpha=0.4, score=score, decay=False)
    result = part(refined, at(raw))
    gamma = float(np.quantile(scored(raw.prob).double().numpy(), 0.4))
    assert float(part.log_values()['threshold']) == pytest.approx(gamma, rel=1e-5)
    near = (scored(refined.prob) - gamma).abs() < 1e-5
    assert ((result.selected == (scored(refined.prob) > gamma)) | near).all()
    assert near.sum() < 3 and 0.05 < result.selected.float().mean() < 0.95


def test_invalid_pixels_are_no_part_of_the_quantile():
    valid = torch.ones(2, 8, 8, dtype=torch.bool)
    valid[0, 3:] = False
    valid[1, :, :2] = False
    logits = noise(2, 3, 8, 8)
    raw = pseudo_of(torch.where(valid[:, None], logits, 50 * logits), valid)
    part = QuantileThreshold(alpha=0.5, decay=False)
    selected = part(raw, at(raw)).selected
    score = margin(raw.prob)
    wanted = np.quantile(score[valid].double().numpy(), 0.5)
    assert float(part.log_values()['threshold']) == pytest.approx(wanted, rel=1e-6)
    assert abs(wanted - np.quantile(score.double().numpy(), 0.5)) > 0.1
    assert selected[valid].sum() == valid.sum() // 2 and not selected[~valid].any()
    nothing = pseudo_of(logits, torch.zeros_like(valid))
    assert not part(nothing, at(nothing)).selected.any()


def test_the_share_falls_linearly_to_zero_over_the_run(build, batch):
    part = QuantileThreshold(alpha=0.4)
    shares = [part.alpha_at(t, 8) for t in range(9)]
    assert shares == pytest.approx([0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05, 0.0])
    model = build(refiners=dict(select=dict(QUANTILE, alpha=0.8))).train()
    data = batch()
    thresholds = []
    for iteration in (0, 25, 75, 99):
        model.set_progress(iteration, 100)
        losses, step = seen_step(model, data)
        valid = margin(step.raw_pseudo.prob)[step.raw_pseudo.valid].double().numpy()
        wanted = np.quantile(valid, 0.8 * (1 - iteration / 100))
        thresholds.append(float(losses['select.threshold']))
        assert thresholds[-1] == pytest.approx(float(wanted), rel=1e-5, abs=1e-7)
        kept = step.pseudo.selected.float().mean()
        assert float(kept) == pytest.approx(0.2 + 0.8 * iteration / 100, abs=0.002)
        model._observers.clear()
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


def thresholds_of_a_rank(rank, inputs):
    results = []
    for logits, valid in inputs[rank]:
        raw = PseudoLabel.from_logits(logits, valid)
        refined = NeighborhoodRefiner()(raw, None)
        for score in ('margin', 'entropy'):
            part = QuantileThreshold(alpha=0.4, score=score)
            step = SimpleNamespace(raw_pseudo=raw, iteration=3, max_iters=8)
            selected = part(refined, step).selected
            results.append((part.log_values()['threshold'], selected))
    return results


def test_two_ranks_have_the_threshold_of_the_whole_batch(on_two_ranks):
    """Ranks with 105 and 240 pixels, of which some are invalid; and one with no valid pixel."""
    shapes = [(1, 4, 7, 15), (2, 4, 10, 12)]
    rounds = []
    for seed, shares in enumerate([(0.7, 0.9), (0.0, 0.5), (0.3, 0.0)]):
        ranks = []
        for rank, (shape, share) in enumerate(zip(shapes, shares)):
            logits = noise(*shape, seed=10 * seed + rank, scale=1.0 + 2 * rank)
            ranks.append((logits, noise(shape[0], *shape[2:], seed=99).sigmoid() < share))
        rounds.append(ranks)
    inputs = [[ranks[rank] for ranks in rounds] for rank in (0, 1)]
    results = list(zip(*on_two_ranks(thresholds_of_a_rank, inputs)))
    scores = [margin, lambda p: torch.special.entr(p).sum(1).neg()]
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


# ------------------------------------------------------------------------------------- methods
def s4mc_reference(model, step):
    """Label, selection and loss from the teacher's logits, at the third of ten iterations."""
    prob = step.teacher.logits.detach().softmax(1)
    refined = refine_neighborhood(prob)
    gamma = float(np.quantile(margin(prob).double().numpy(), 0.4 * 0.8))
    return refined.argmax(1), margin(refined) > gamma


@pytest.mark.parametrize('teacher', [None, EMA['teacher']], ids=['fixmatch', 'cutmix-seg'])
def test_s4mc_on_fixmatch_and_on_cutmix_seg(build, batch, teacher):
    """The loss is the cross entropy averaged over the selected pixels of the mixed view."""
    model = hooked(
        build(refiners=S4MC, **FIXMATCH, mixer=dict(type='CutMix', prob=1.0), teacher=teacher)
    )
    if teacher:
        shaken(model)
    losses, step = seen_step(model, batch(unlabeled=((32, 32),) * 3, views=1))
    if teacher:
        with torch.no_grad():
            raw = model.teacher.decode_head(model.teacher.extract_feat(step.weak_images))
        raw = F.interpolate(raw, (32, 32), mode='bilinear', align_corners=False)
        torch.testing.assert_close(step.teacher.logits, raw)
        assert step.weak is None, 'the student need not see the weak images'
    else:
        assert step.teacher is step.weak
    label, selected = s4mc_reference(model, step)
    assert torch.equal(step.pseudo.label, label) and torch.equal(step.pseudo.selected, selected)
    assert not torch.equal(label, step.raw_pseudo.label)
    (view,) = step.views
    loss = F.cross_entropy(view.outputs.logits, view.mix(label), reduction='none')
    expected = loss[view.mix(selected)].mean()
    torch.testing.assert_close(losses['strong.loss'], expected)
    total, _ = model.parse_losses(losses)
    torch.testing.assert_close(total, losses['decode.loss_ce'] + expected)
    total.backward()
    assert all(value.grad is not None for value in model.segmentor.parameters())


def test_s4mc_on_unimatch(build, batch):
    model = hooked(build(refiners=S4MC, mixer=dict(type='CutMix', prob=1.0)))
    losses, step = seen_step(model, batch())
    label, selected = s4mc_reference(model, step)
    streams = [(v.outputs.logits, v.mix(label), v.mix(selected)) for v in step.views]
    expected = [
        (F.cross_entropy(logits, target, reduction='none') * chosen).mean()
        for logits, target, chosen in [*streams, (step.perturbed.logits, label, selected)]
    ]
    torch.testing.assert_close(losses['strong.loss'], 0.25 * (expected[0] + expected[1]) / 2)
    torch.testing.assert_close(losses['perturbed.loss'], 0.25 * expected[2])


CORRMATCH = dict(heads=dict(correlation=dict(type='CorrelationHead', position='fusion')))


def test_s4mc_on_corrmatch(build, batch):
    regions = dict(type='RegionPropagation', num_shapes=8)
    with pytest.raises(ValueError, match=r'model\.refiners\.regions: .*no threshold.*0\.85'):
        build(refiners=dict(S4MC, regions=regions), **CORRMATCH)
    refiners = dict(regions=dict(regions, threshold=0.85), **S4MC)
    model = hooked(build(refiners=refiners, **CORRMATCH))
    assert list(model.refiners) == ['context', 'select', 'regions']
    losses, step = seen_step(model, batch())
    _, selected = s4mc_reference(model, step)
    assert torch.equal(step.pseudo.extras['selected_before_propagation'], selected)
    assert (step.pseudo.selected | ~selected).all()
    assert {'correlation.loss', 'select.threshold', 'regions.gained'} <= losses.keys()
    assert all(torch.isfinite(value).all() for value in losses.values())


# ---------------------------------------------------------------------------------- prediction
SIZES = ((45, 34), (20, 27))
REFINE = dict(context=dict(CONTEXT, window=7, neighbors=3), select=dict(QUANTILE))


def originals(batch):
    """Images whose originals are of other sizes."""
    data = batch()['labeled']
    for sample, size in zip(data['data_samples'], SIZES):
        sample.set_metainfo(dict(ori_shape=size))
    return data


@pytest.mark.parametrize('who', ['student', 'teacher', 'both'])
def test_refined_predictions_are_the_argmax_of_the_refined_softmax(build, batch, who):
    def predict(refine):
        test_cfg = dict(predict_with=who, refine=refine)
        model = shaken(build(refiners=REFINE, test_cfg=test_cfg, **EMA)).eval()
        with torch.no_grad():
            model.segmentor.decode_head.conv_seg.weight.mul_(3)
            model.teacher.decode_head.conv_seg.weight.mul_(3)
            return model, model.test_step(originals(batch))

    (plain_model, plain), (_, refined) = predict(False), predict(True)
    # What the teacher says is only in ``seg_logits`` when it predicts alone.
    plain_model.predict_with = 'teacher'
    with torch.no_grad():
        teachers = plain_model.test_step(originals(batch))
    changed = 0
    for one, other, size, taught in zip(plain, refined, SIZES, teachers):
        logits = other.seg_logits.data
        assert torch.equal(logits, one.seg_logits.data) and logits.shape == (3, *size)
        pairs = [(other.pred_sem_seg.data, one.pred_sem_seg.data, logits)]
        if who == 'both':
            maps = [result.teacher_pred_sem_seg.data for result in (other, one)]
            pairs.append((*maps, taught.seg_logits.data))
        for ours, before, scores in pairs:
            wanted = refine_neighborhood(scores[None].softmax(1), window=7, neighbors=3)
            assert ours.shape == (1, *size) and ours.dtype == before.dtype
            assert torch.equal(ours, wanted.argmax(1))
            assert torch.equal(before[0], scores.argmax(0))
            changed += int((ours != before).sum())
    assert changed > 10, changed


def test_refinement_at_test_time_needs_a_refiner_of_probabilities(build):
    with pytest.raises(ValueError, match=r'test_cfg\.refine=True.*NeighborhoodRefiner'):
        build(test_cfg=dict(refine=True))
    with pytest.raises(ValueError, match=r'test_cfg\.refine=True.*NeighborhoodRefiner'):
        build(refiners=dict(select=QUANTILE), test_cfg=dict(refine=True))
    assert not build(refiners=S4MC).refine_at_test


# -------------------------------------------------------------------------------- teacher modes
TRAIN = dict(teacher=dict(type='ema', mode='train'))


def pseudo_step(model, data, networks_mode=True):
    model.train(networks_mode)
    step = model.begin_step(**model.data_preprocessor(data, True))
    model.make_pseudo_label(step)
    return step


def test_teacher_in_train_mode_normalises_by_the_batch(build, batch):
    model = hooked(build(**TRAIN))
    data = batch(unlabeled=((32, 32),) * 3)
    step = pseudo_step(model, data)
    with torch.no_grad():
        student = model.segmentor.train()
        raw = student.decode_head(student.extract_feat(step.weak_images))
    torch.testing.assert_close(step.teacher.stages[0], raw)
    other = pseudo_step(hooked(build(**EMA)), data)
    assert not step.teacher.stages[0].allclose(other.teacher.stages[0], atol=0.01)


def test_teacher_in_train_mode_applies_dropout(build, batch):
    model = hooked(build(**TRAIN))
    data = batch()
    first, second = (pseudo_step(model, data).teacher.logits for _ in range(2))
    assert torch.equal(first, second), 'nothing of it is kept'
    model.teacher.backbone.register_forward_hook(
        lambda module, _, maps: [F.dropout(m, 0.5, module.training) for m in maps]
    )
    first, second = (pseudo_step(model, data).teacher.logits for _ in range(2))
    assert not torch.equal(first, second)


class Stop(Exception):
    pass


@pytest.mark.parametrize('mode', ['train', 'eval'])
@pytest.mark.parametrize('fails', [False, True])
def test_labelling_leaves_the_teacher_as_it_was(build, batch, mode, fails):
    model = hooked(build(teacher=dict(type='ema', mode=mode)))
    shaken(model)
    seen = []

    norm = next(m for m in model.teacher.modules() if isinstance(m, torch.nn.BatchNorm2d))

    def look(module, args, output):
        seen.append((module.training, int(norm.num_batches_tracked)))
        if fails:
            raise Stop

    model.teacher.decode_head.conv_seg.register_forward_hook(look)
    before = {name: value.clone() for name, value in model.teacher.state_dict().items()}
    data = model.data_preprocessor(batch(), True)
    if fails:
        with pytest.raises(Stop):
            model(**data, mode='loss')
    else:
        model(**data, mode='loss')
    # In train mode its norms did count this batch for a while.
    assert seen == [(mode == 'train', int(mode == 'train'))]
    assert not any(module.training for module in model.teacher.modules())
    after = model.teacher.state_dict()
    assert before.keys() == after.keys() and any('running_var' in name for name in after)
    for name, value in after.items():
        assert torch.equal(value, before[name]), name
    assert not any(value.requires_grad for value in model.teacher.parameters())


@pytest.mark.parametrize(
    'teacher',
    [
        dict(type='ema', mode='test'),
        dict(type='ema', mode=None),
        dict(type='ema', mode='train', momentum=0.9),
        dict(mode='train'),
        'ema',
    ],
)
def test_unknown_teachers_are_refused(build, teacher):
    with pytest.raises(ValueError, match=r"model\.teacher must be None or dict.*'eval' \| 'train'"):
        build(teacher=teacher)
