"""CorrMatch's head, refiners and losses against computations written from the formulas."""

from __future__ import annotations

import itertools
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config, ConfigDict
from mmseg.registry import MODELS
from torch import nn

from mmseg_semi.engine.hooks import EMAThresholdHook
from mmseg_semi.functional import propagate_regions, sample_shapes, soft_consistency
from mmseg_semi.models.heads import CorrelationHead
from mmseg_semi.models.losses import SoftConsistencyLoss
from mmseg_semi.models.refiners import EMAThreshold, RegionPropagation
from mmseg_semi.models.refiners.region_propagation import BEFORE_PROPAGATION
from mmseg_semi.structures import PseudoLabel

from .conftest import SEGMENTOR
from .test_architectures import PREPROCESSOR, deeplabv3plus

METHOD = Path(__file__).parents[2] / 'configs/_base_/methods/corrmatch.py'
COARSE = dict(position='backbone.decoder.1', in_channels=8)  # 8 x 8, the logits are 16 x 16
PADDED = dict(labeled=((32, 32), (32, 24)), unlabeled=((32, 32), (28, 32), (32, 16)))
HARD = dict(
    strong=dict(type='PseudoLabelCrossEntropy', stream='strong', loss_weight=0.125),
    perturbed=dict(type='PseudoLabelCrossEntropy', stream='perturbed', loss_weight=0.125),
)
SOFT = dict(type='SoftConsistencyLoss', loss_weight=0.125)
FIXED = dict(type='ConfidenceThreshold', threshold=0.6)
EMA = dict(type='EMAThreshold', initial=0.6, momentum=0.9)
REGIONS = dict(type='RegionPropagation', num_shapes=24, threshold=0.4)
UPDATES = ('presence', 'per_pixel', 'max', 'mean', 'per_class')


def head_cfg(**changes):
    return dict(type='CorrelationHead', hidden_channels=8, dropout=0.0, **changes)


def segmentor(**head):
    cfg = deepcopy(SEGMENTOR)
    cfg['decode_head'].update(head)
    return cfg


def shake(model):
    """Weights with which predictions vary and are sometimes sure, and norms do something."""
    torch.manual_seed(1)
    with torch.no_grad():
        model.segmentor.decode_head.conv_seg.weight.mul_(3.0)
        for part in model.heads.values():
            for parameter in part.parameters():
                parameter.copy_(0.5 * torch.randn(parameter.shape))
            part.project[0].norm.weight.add_(1.5)
    return model


@pytest.fixture
def corrmatch(build):
    """Build a CorrMatch model: arguments of the head, and changes of the model."""

    def make(head=None, **changes):
        parts = dict(
            refiners=dict(select=FIXED),
            losses=HARD,
            heads=dict(correlation=head_cfg(**(head or {}))),
        )
        return hooked(shake(build(**{**parts, **changes})))

    return make


def hooked(model):
    for name in ('EMAThresholdHook', 'MeanTeacherHook'):
        model.hook_attached(name)
    return model


def run(model, data):
    """One training step: the finished step and what it returned."""
    steps = []
    model.add_observer(steps.append)
    losses = model(**model.data_preprocessor(deepcopy(data), True), mode='loss')
    return steps[-1], losses


# ------------------------------------------------------------------------------- correlation head
def reference_maps(head, features):
    """w1 and w2 of one batch that is normalised together."""
    conv, norm = head.project[0].conv, head.project[0].norm
    hidden = F.conv2d(features, conv.weight, padding=1)
    hidden = F.batch_norm(hidden, None, None, norm.weight, norm.bias, True, eps=norm.eps).relu()
    return [F.conv2d(hidden, layer.weight, layer.bias) for layer in (head.w1, head.w2)]


def reference_z(logits, w1, w2, size, corners, scale):
    """Propagate with the whole correlation map, then resize."""
    grid, depth = w1.shape[-2:], w1.shape[1]
    logits = logits.detach()
    if logits.shape[-2:] != grid:
        logits = F.interpolate(logits, grid, mode='bilinear', align_corners=corners)
    scores = torch.einsum('bdi,bdj->bij', w1.flatten(2), w2.flatten(2))
    if scale == 'inside':
        attention = (scores / depth**0.5).softmax(-1)
    else:
        attention = scores.softmax(-1) / depth**0.5
    z = torch.einsum('bki,bij->bkj', logits.flatten(2), attention).unflatten(2, grid)
    return F.interpolate(z, size, mode='bilinear', align_corners=corners)


def reference_ce(logits, pseudo):
    loss = F.cross_entropy(logits, pseudo.label, reduction='none')
    return (loss * (pseudo.selected & pseudo.valid)).sum() / pseudo.valid.sum()


def truth_of(step):
    return torch.cat([sample.gt_sem_seg.data for sample in step.labeled_samples])


def reference_correlation(model, step, tap, corners=False, scale='inside'):
    """Labeled logits z, and the unlabeled loss without its weight."""
    head = model.heads['correlation']
    features = [outputs.features[tap] for outputs in (step.labeled, step.weak)]
    first = [w.split([len(f) for f in features]) for w in reference_maps(head, torch.cat(features))]
    labeled, weak = zip(*first)

    def z(outputs, maps):
        return reference_z(outputs.stages[-1], *maps, outputs.size, corners, scale)

    strong_maps = reference_maps(
        head, torch.cat([view.outputs.features[tap] for view in step.views])
    )
    maps = zip(*[w.chunk(len(step.views)) for w in strong_maps])
    strong = [reference_ce(z(v.outputs, m), v.pseudo) for v, m in zip(step.views, maps)]
    unlabeled = (reference_ce(z(step.weak, weak), step.pseudo) + sum(strong) / len(strong)) / 2
    return z(step.labeled, labeled), unlabeled


@pytest.mark.parametrize(
    ('head', 'tap', 'corners'),
    [
        (dict(position='encoder'), 'encoder', False),
        (dict(position='fusion'), 'fusion', True),
        (dict(position='classifier', channels=5), 'classifier', False),
        (COARSE, 'backbone.decoder.1', False),
        (COARSE, 'backbone.decoder.1', True),
        (dict(COARSE, scale='outside', channels=7), 'backbone.decoder.1', False),
        (dict(position='encoder', scale='outside'), 'encoder', True),
    ],
)
def test_losses_are_the_formulas(corrmatch, batch, head, tap, corners):
    model = corrmatch(
        dict(head, labeled_weight=0.3, unlabeled_weight=0.7),
        segmentor=segmentor(align_corners=corners),
        mixer=dict(type='CutMix', prob=1.0),
    )
    assert model.segmentor.align_corners is corners
    step, losses = run(model, batch(**PADDED))
    assert 0.05 < float(losses['selected']) < 0.95
    z, unlabeled = reference_correlation(model, step, tap, corners, head.get('scale', 'inside'))
    labeled = F.cross_entropy(z, truth_of(step), ignore_index=255)
    assert (truth_of(step) == 255).any()
    torch.testing.assert_close(losses['correlation.labeled.loss_ce'], 0.3 * labeled)
    torch.testing.assert_close(losses['correlation.loss'], 0.7 * unlabeled)


def test_gradients_reach_features_and_layers_but_not_the_logits(corrmatch, batch):
    for key in ('correlation.labeled.loss_ce', 'correlation.loss'):
        model = corrmatch(dict(position='encoder'))
        step, losses = run(model, batch())
        losses[key].backward()
        for name, parameter in model.segmentor.decode_head.named_parameters():
            assert parameter.grad is None, f'{key} reaches {name} through the logits'
        reached = [p.grad for p in model.segmentor.backbone.parameters()]
        assert all(g is not None for g in reached) and sum(g.abs().sum() for g in reached) > 0
        # The gradient is that of the formula.
        z, unlabeled = reference_correlation(model, step, 'encoder')
        head = model.heads['correlation']
        loss = 0.25 * F.cross_entropy(z, truth_of(step)) if 'labeled' in key else unlabeled / 8
        expected = torch.autograd.grad(loss, list(head.parameters()))
        for (name, parameter), gradient in zip(head.named_parameters(), expected):
            torch.testing.assert_close(
                parameter.grad, gradient, msg=f'{key} {name}', rtol=1e-4, atol=1e-6
            )
            # A bias of w2 adds the same to a whole row of scores.
            assert name == 'w2.bias' or parameter.grad.abs().sum() > 0, name


def test_labeled_and_weak_images_share_one_pass(corrmatch, batch):
    model = corrmatch()
    sizes = []
    project = model.heads['correlation'].project
    project.register_forward_hook(lambda module, args, out: sizes.append(len(out)))
    run(model, batch(labeled=((32, 32),) * 2, unlabeled=((32, 32),) * 3, views=2))
    assert sizes == [5, 6]
    assert project[0].norm.num_batches_tracked == 2


def test_dropout_of_whole_channels(corrmatch):
    head = corrmatch(dict(position='encoder')).heads['correlation']
    assert isinstance(head.project[1], nn.Dropout2d) and head.project[1].p == 0.0
    with pytest.raises(ValueError, match=r'dropout must be in \[0, 1\)'):
        corrmatch(heads=dict(correlation=dict(type='CorrelationHead', dropout=1.0)))


def deeplab(**head):
    cfg = dict(deeplabv3plus(), data_preprocessor=PREPROCESSOR)
    cfg['decode_head'].update(dropout_ratio=0.0, **head)
    return cfg


def test_aspp_position(corrmatch, batch):
    with pytest.raises(ValueError, match='FCNHead has no ASPP module'):
        corrmatch(dict(position='aspp'))
    model = corrmatch(dict(position='aspp', labeled_weight=1.0), segmentor=deeplab())
    sizes = ((64, 64),) * 2
    step, losses = run(model, batch(labeled=sizes, unlabeled=sizes))
    aspp = step.labeled.features['aspp']
    assert aspp.shape == (2, 8, 8, 8), 'coarser than the logits and before the fusion'
    z, _ = reference_correlation(model, step, 'aspp')
    torch.testing.assert_close(
        losses['correlation.labeled.loss_ce'], F.cross_entropy(z, truth_of(step))
    )


def test_encoder_position_takes_the_last_map(corrmatch):
    head = corrmatch(dict(position='encoder'), segmentor=deeplab()).heads['correlation']
    assert head.project[0].conv.in_channels == 64
    assert head.w1.out_channels == head.w2.out_channels == 3


def test_channels_of_the_feature(corrmatch, batch):
    with pytest.raises(ValueError, match=r'heads.correlation: .*backbone.decoder.1.*in_channels='):
        corrmatch(dict(position='backbone.decoder.1'))
    model = corrmatch(dict(COARSE, in_channels=6))
    with pytest.raises(ValueError, match='has 8 channels, not 6: set in_channels=8'):
        run(model, batch())
    with pytest.raises(
        ValueError,
        match="model.heads.correlation: tap 'backbone.decodr'.*Did you mean 'backbone.decoder'",
    ):
        corrmatch(dict(position='backbone.decodr', in_channels=6))


@pytest.mark.parametrize(
    ('argument', 'value'),
    [
        ('scale', 'middle'),
        ('labeled_loss', 'dice'),
        ('denominator', 'all'),
        ('labeled_weight', -0.1),
        ('unlabeled_weight', float('nan')),
    ],
)
def test_wrong_arguments_of_the_head(corrmatch, argument, value):
    with pytest.raises(ValueError, match=f'model.heads.correlation: CorrelationHead.{argument}'):
        corrmatch({argument: value})


def ohem_reference(z, truth, thresh, kept):
    """OHEM: pixels whose true class has a small probability, at least ``kept`` an image."""
    real = truth != 255
    prob = z.detach().softmax(1).gather(1, torch.where(real, truth, 0)[:, None])[:, 0]
    limit = max(
        float(prob[real].sort().values[min(kept * len(truth), int(real.sum()) - 1)]), thresh
    )
    loss = F.cross_entropy(z, truth, ignore_index=255, reduction='none')
    assert 0 < (prob[real] < limit).float().mean() < 1
    return (loss * (real & (prob < limit))).sum() / real.sum()


def test_labeled_loss_is_the_decode_heads_or_the_plain_mean(corrmatch, batch):
    cfg = segmentor(sampler=dict(type='OHEMPixelSampler', thresh=0.2, min_kept=300))
    data = batch(**PADDED)
    for kind in ('decode_head', 'cross_entropy'):
        model = corrmatch(dict(COARSE, labeled_loss=kind, labeled_weight=0.5), segmentor=cfg)
        step, losses = run(model, data)
        z, _ = reference_correlation(model, step, COARSE['position'])
        truth = truth_of(step)
        if kind == 'decode_head':
            expected = ohem_reference(z, truth, 0.2, 300)
        else:
            expected = F.cross_entropy(z, truth, ignore_index=255)
        torch.testing.assert_close(losses['correlation.labeled.loss_ce'], 0.5 * expected)


def test_denominator_and_no_unlabeled_loss(corrmatch, batch):
    values = {}
    for denominator in ('valid', 'selected'):
        step, losses = run(corrmatch(dict(COARSE, denominator=denominator)), batch(**PADDED))
        values[denominator] = losses['correlation.loss']
    # Views are not mixed, so that all of them have the same pixels.
    ratio = step.pseudo.valid.sum() / step.pseudo.used.sum()
    torch.testing.assert_close(values['selected'], values['valid'] * ratio)
    _, losses = run(corrmatch(dict(unlabeled_weight=0.0)), batch())
    assert not any(name == 'correlation.loss' for name in losses)
    assert losses['correlation.labeled.loss_ce'] > 0


def test_with_a_teacher_the_student_sees_weak_images(corrmatch, batch):
    parts = dict(teacher=dict(type='ema'), perturbation=None, losses=dict(strong=HARD['strong']))
    assert not corrmatch(heads=None, **parts).student_sees_weak
    model = corrmatch(COARSE, **parts)
    assert model.student_sees_weak
    with torch.no_grad():
        for parameter in model.teacher.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    step, losses = run(model, batch(**PADDED))
    _, unlabeled = reference_correlation(model, step, COARSE['position'])
    torch.testing.assert_close(losses['correlation.loss'], unlabeled / 8)
    assert not torch.equal(step.pseudo.label, step.weak.logits.argmax(1)), 'the teacher labels'
    with pytest.raises(ValueError, match='student_sees_weak=False.*CorrelationHead'):
        corrmatch(COARSE, student_sees_weak=False, **parts)


def test_labels_alone_train_all_its_parameters_in_the_warm_up(corrmatch, batch):
    model = corrmatch(COARSE, warmup_iters=5, refiners=dict(select=EMA, regions=REGIONS))
    model.set_progress(4, 10)
    losses = model(**model.data_preprocessor(batch(**PADDED), True), mode='loss')
    assert {name for name in losses if 'loss' in name} == {
        *('decode.loss_ce', 'correlation.labeled.loss_ce')
    }
    model.parse_losses(losses)[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
    for name, parameter in model.heads.named_parameters():
        assert 'w2.bias' in name or parameter.grad.abs().sum() > 0, name
    model.refiners['select'].update_state()
    assert model.refiners['select'].value == 0.6, 'no pseudo-label, no update'
    model.set_progress(5, 10)
    assert 'correlation.loss' in run(model, batch(**PADDED))[1]


def test_nothing_of_it_is_in_the_segmentor_or_runs_in_predict(corrmatch, build, batch):
    model = corrmatch(COARSE, refiners=dict(select=EMA, regions=REGIONS), losses=dict(HARD, s=SOFT))
    plain = MODELS.build(ConfigDict(deepcopy(SEGMENTOR)))
    assert model.segmentor.state_dict().keys() == plain.state_dict().keys()
    outside = {k for k in model.state_dict() if not k.startswith('segmentor.')}
    assert {k.split('.')[0] for k in outside} == {'heads', 'refiners'}
    assert {k for k in outside if 'refiners' in k} == {'refiners.select.value'}
    assert {k.split('.')[2] for k in outside if 'heads' in k} == {'project', 'w1', 'w2'}
    inside = {id(p) for p in model.segmentor.parameters()}
    assert not inside & {id(p) for p in model.heads.parameters()}

    calls = []
    for part in (*model.heads.modules(), *model.refiners.modules(), *model.losses.modules()):
        part.register_forward_hook(lambda module, args, out: calls.append(module))
    plain.load_state_dict(model.segmentor.state_dict())
    images = batch()['labeled']
    results = []
    for network in (model, plain):
        network.eval()
        with torch.no_grad():
            found = network.test_step(deepcopy(images))
        results.append([one.seg_logits.data for one in found])
    assert not calls
    assert all(torch.equal(*pair) for pair in zip(*results))
    model.train()
    run(model, batch())
    assert calls


# ------------------------------------------------------------------------------ region propagation
def labeled_step(model, data):
    """A step up to the pseudo-label, and what the selection made of it."""
    step = model.begin_step(**model.data_preprocessor(deepcopy(data), True))
    model.forward_student(step)
    model.make_pseudo_label(step)
    return step, model.refiners['select'](step.raw_pseudo, step)


@pytest.mark.parametrize('strategy', ['random', 'uniform'])
@pytest.mark.parametrize('corners', [False, True])
def test_regions_equal_the_function_on_the_same_shapes(corrmatch, batch, strategy, corners):
    regions = dict(REGIONS, strategy=strategy)
    model = corrmatch(
        COARSE,
        refiners=dict(select=FIXED, regions=regions),
        segmentor=segmentor(align_corners=corners),
    )
    step, before = labeled_step(model, batch(**PADDED))
    maps = model.heads['correlation'].weak_maps(step)
    assert maps[0].shape == (3, 3, 8, 8) and not maps[0].requires_grad
    torch.manual_seed(5)
    after = model.refiners['regions'](before, step)
    torch.manual_seed(5)
    shapes = sample_shapes(*maps, 24, (32, 32), strategy, align_corners=corners)
    label, selected = propagate_regions(before.label, before.used, shapes, 0.4, 3)
    assert torch.equal(after.label, label) and not torch.equal(label, before.label)
    assert torch.equal(after.selected & after.valid, selected & before.valid)
    gained = (selected & before.valid).sum() - before.used.sum()
    assert gained > 0
    torch.testing.assert_close(
        model.refiners['regions'].log_values()['gained'], gained / before.valid.sum()
    )
    assert torch.equal(after.extras[BEFORE_PROPAGATION], before.selected)
    assert not torch.equal(after.extras[BEFORE_PROPAGATION], after.selected)
    assert torch.equal(after.confidence, before.confidence)


def test_shapes_come_from_the_weak_images_in_the_order_of_the_batch(corrmatch, batch):
    """Maps that labeled images come first in, and the strong views are no part of."""
    model = corrmatch(COARSE, refiners=dict(select=FIXED, regions=REGIONS))
    step, _ = labeled_step(model, batch(**PADDED))
    features = [one.features[COARSE['position']] for one in (step.labeled, step.weak)]
    expected = reference_maps(model.heads['correlation'], torch.cat(features))
    for ours, whole in zip(model.heads['correlation'].weak_maps(step), expected):
        torch.testing.assert_close(ours, whole[2:].detach())


def test_threshold_of_the_selection_or_its_own(corrmatch, batch, monkeypatch):
    from mmseg_semi.models.refiners import region_propagation

    used = []

    def record(*args):
        used.append(float(args[3]))
        return propagate_regions(*args)

    monkeypatch.setattr(region_propagation, 'propagate_regions', record)
    shared = dict(type='RegionPropagation', num_shapes=4)
    for select, regions, expected in (
        (EMA, shared, [0.6, 0.45]),
        (dict(EMA, update='per_class'), shared, [0.6, 0.45]),
        (EMA, dict(shared, threshold=0.3), [0.3, 0.3]),
        (FIXED, shared, [0.6, 0.6]),
        (FIXED, dict(shared, threshold=0.0), [0.0, 0.0]),
    ):
        used.clear()
        model = corrmatch(COARSE, refiners=dict(select=select, regions=regions))
        run(model, batch())
        if select is not FIXED:
            model.refiners['select'].value.fill_(0.45)
        run(model, batch())
        assert used == expected


def test_order_in_the_config_does_not_matter(corrmatch, batch):
    results = []
    for order in itertools.permutations(['select', 'regions']):
        parts = dict(select=FIXED, regions=REGIONS)
        model = corrmatch(COARSE, refiners={name: parts[name] for name in order})
        torch.manual_seed(3)
        results.append(run(model, batch(**PADDED))[1])
    assert results[0]['regions.gained'] > 0
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


def test_propagated_label_trains_every_stream(corrmatch, batch):
    """Both hard losses and the head's read the label and mask after propagation."""
    model = corrmatch(COARSE, refiners=dict(select=FIXED, regions=REGIONS))
    step, losses = run(model, batch(**PADDED))
    assert losses['regions.gained'] > 0
    _, unlabeled = reference_correlation(model, step, COARSE['position'])
    torch.testing.assert_close(losses['correlation.loss'], unlabeled / 8)
    torch.testing.assert_close(
        losses['perturbed.loss'], reference_ce(step.perturbed.logits, step.pseudo) / 8
    )
    assert torch.equal(step.refined['regions'].label, step.pseudo.label)


def test_regions_are_refused_without_head_or_threshold(build, corrmatch):
    refiners = dict(select=FIXED, regions=dict(type='RegionPropagation'))
    with pytest.raises(ValueError, match=r'model.refiners.regions: .*heads=dict\(correlation='):
        build(refiners=refiners)
    with pytest.raises(ValueError, match="none named 'other'"):
        corrmatch(refiners=dict(refiners, regions=dict(REGIONS, head='other')))
    with pytest.raises(ValueError, match='has no threshold.*RegionPropagation.threshold'):
        corrmatch(refiners=dict(regions=dict(type='RegionPropagation')))
    corrmatch(refiners=dict(regions=dict(type='RegionPropagation', threshold=0.5)))
    corrmatch(
        heads=dict(other=head_cfg()), refiners=dict(refiners, regions=dict(REGIONS, head='other'))
    )


@pytest.mark.parametrize(
    ('argument', 'value'),
    [
        *(('num_shapes', value) for value in (0, -1, 2.5, '8')),
        *(('strategy', value) for value in ('grid', None)),
        *(('threshold', value) for value in (-0.1, 1.1, float('nan'))),
    ],
)
def test_wrong_arguments_of_region_propagation(argument, value):
    with pytest.raises(ValueError, match=f'RegionPropagation.{argument}'):
        RegionPropagation(**{argument: value})


# -------------------------------------------------------------------------------------- threshold
CLASSES = 5


def threshold_of(update, momentum=0.9, initial=0.7):
    refiner = EMAThreshold(initial, momentum, update)
    head = SimpleNamespace(out_channels=CLASSES)
    refiner.attach(SimpleNamespace(segmentor=SimpleNamespace(decode_head=head)))
    return refiner


def predictions(seed, absent=(), valid=0.7, scale=2.0):
    """A pseudo-label in which some classes have no valid pixel."""
    source = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(3, CLASSES, 6, 7, generator=source)
    mask = torch.rand(3, 6, 7, generator=source) < valid
    mask &= ~torch.isin(logits.argmax(1), torch.tensor(absent, dtype=torch.int64))
    return PseudoLabel.from_logits(logits, mask)


def reference_delta(update, pseudo):
    """What the threshold moves towards, and the classes' means; NaN without a pixel."""
    confidence = pseudo.prob.numpy().max(1).astype(np.float64)
    label, valid = pseudo.prob.numpy().argmax(1), pseudo.valid.numpy()
    by_class = [confidence[valid & (label == k)] for k in range(CLASSES)]
    present = [values for values in by_class if len(values)]
    means = np.array([values.mean() if len(values) else np.nan for values in by_class])
    if not present:
        return np.nan, means
    delta = dict(
        presence=np.mean([values.max() for values in present]),
        max=confidence[valid].max(),
        mean=np.mean([values.mean() for values in present]),
        per_pixel=confidence[valid].mean(),
        per_class=confidence[valid].mean(),
    )
    return delta[update], means


def feed(refiner, pseudo):
    step = SimpleNamespace(raw_pseudo=pseudo, threshold=None)
    return refiner(pseudo, step), step


SEQUENCE = [
    dict(absent=()),
    dict(absent=(1, 3)),
    dict(absent=(0, 1, 2, 3)),
    dict(valid=0.0),
    dict(absent=(2,), scale=0.3),
    dict(absent=(4,), scale=5.0),
]


def test_thresholds_by_class_from_zero_select_everything():
    refiner = EMAThreshold(initial=0.0, update='per_class')
    refiner.register_buffer('class_values', torch.zeros(CLASSES, dtype=torch.float64))
    prob = torch.rand(2, CLASSES, 4, 4).softmax(1)
    pseudo = PseudoLabel.from_logits(prob.log(), torch.ones(2, 4, 4, dtype=torch.bool))
    assert feed(refiner, pseudo)[0].selected.all()


@pytest.mark.parametrize('update', UPDATES)
@pytest.mark.parametrize('momentum', [0.0, 0.9, 0.999])
def test_threshold_follows_the_formula(update, momentum):
    """Each batch is filtered by the value from before it."""
    refiner = threshold_of(update, momentum)
    tau, classes = 0.7, np.full(CLASSES, 0.7)
    for seed, kind in enumerate(SEQUENCE):
        pseudo = predictions(seed, **kind)
        out, step = feed(refiner, pseudo)
        limit = torch.full((CLASSES,), tau, dtype=torch.float64)
        if update == 'per_class':
            limit = torch.from_numpy(tau * classes / classes.max())
        expected = pseudo.confidence >= limit[pseudo.label].float()
        assert torch.equal(out.selected, pseudo.selected & expected)
        assert step.threshold.item() == pytest.approx(tau, abs=1e-9 + 1e-7 * (1 - momentum))
        before = refiner.value.item()
        assert refiner.log_values()['threshold'].item() == pytest.approx(tau, abs=1e-6)
        refiner.update_state()
        delta, means = reference_delta(update, pseudo)
        if np.isnan(delta):
            assert refiner.value.item() == before, 'no pixel leaves it to the bit'
        else:
            tau = momentum * tau + (1 - momentum) * delta
            moved = momentum * classes + (1 - momentum) * means
            classes = np.where(np.isnan(means), classes, moved)
        assert refiner.value.dtype == torch.float64
        assert refiner.value.item() == pytest.approx(tau, abs=1e-7)
        tau = refiner.value.item()  # so that a comparison on the edge is the same one
        if update == 'per_class':
            np.testing.assert_allclose(refiner.class_values.numpy(), classes, atol=1e-7)
            classes = refiner.class_values.numpy().copy()


def test_small_steps_are_not_lost():
    """Steps of about 1e-9: in float32 none of them would be seen."""
    refiner = threshold_of('per_pixel', momentum=1 - 1e-8)
    pseudo = predictions(0)
    delta, _ = reference_delta('per_pixel', pseudo)
    for _ in range(20):
        feed(refiner, pseudo)
        refiner.update_state()
    assert refiner.value.item() - 0.7 == pytest.approx(20e-8 * (delta - 0.7), rel=1e-3)


def test_absent_classes_do_not_count():
    """Class 0 is predicted with 0.6 and class 1 with 0.9; class 1 only on padding in the second."""
    pair = torch.tensor([[0.6, 0.9], [0.3, 0.05], [0.1, 0.05]])
    pair[:, 1] = pair[[1, 0, 2], 1]
    logits = pair.log().view(1, 3, 1, 2)
    for valid, delta in (([True, True], 0.75), ([True, False], 0.6)):
        refiner = EMAThreshold(0.0, 0.0)
        feed(refiner, PseudoLabel.from_logits(logits, torch.tensor(valid).view(1, 1, 2)))
        refiner.update_state()
        assert refiner.value.item() == pytest.approx(delta)


@pytest.mark.parametrize('update', UPDATES)
def test_several_forward_passes_before_an_update_count_as_one_batch(update):
    parts = [predictions(0, absent=(1, 3)), predictions(1, absent=(0, 4))]
    split, whole = threshold_of(update), threshold_of(update)
    for part in parts:
        feed(split, part)
    pairs = [torch.cat([getattr(p, name) for p in parts]) for name in ('logits', 'valid')]
    feed(whole, PseudoLabel.from_logits(*pairs))
    for refiner in (split, whole):
        refiner.update_state()
        refiner.update_state()  # nothing noted since
    for name, value in split.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[name], rtol=1e-12, atol=0)
    assert whole.value != 0.7


def test_threshold_follows_the_unrefined_prediction(corrmatch, batch):
    """Also with a refiner before it that changes everything, and only in the hook."""
    from mmseg_semi.models.refiners import BaseRefiner

    class Unsure(BaseRefiner):
        stage = 'probability'

        def forward(self, pseudo, step):
            half = 0.5 * pseudo.prob
            return pseudo.update(prob=half, confidence=half.amax(1))

    model = corrmatch(COARSE, refiners=dict(unsure=Unsure(), select=EMA))
    step, losses = run(model, batch(**PADDED))
    select = model.refiners['select']
    assert select.value == 0.6 and losses['select.threshold'] == torch.tensor(0.6)
    assert not step.pseudo.selected.any()
    hook = EMAThresholdHook()
    hook.before_train(SimpleNamespace(model=model))
    hook.after_train_iter(SimpleNamespace(model=model), 0)
    peaks = []
    for k in range(3):
        found = step.raw_pseudo.valid & (step.raw_pseudo.label == k)
        peaks += [float(step.raw_pseudo.confidence[found].max())] if found.any() else []
    assert select.value.item() == pytest.approx(0.9 * 0.6 + 0.1 * np.mean(peaks), abs=1e-7)


@pytest.mark.parametrize('update', UPDATES)
def test_threshold_is_saved_and_restored(corrmatch, batch, update):
    refiners = dict(select=dict(EMA, update=update))
    model = corrmatch(COARSE, refiners=refiners)
    run(model, batch())
    model.refiners['select'].update_state()
    state = model.state_dict()
    names = {'value'} | ({'class_values'} if update == 'per_class' else set())
    assert {k for k in state if k.startswith('refiners')} == {f'refiners.select.{n}' for n in names}
    assert state['refiners.select.value'] != 0.6
    other = corrmatch(COARSE, refiners=refiners)
    other.load_state_dict(state)
    for name, value in model.refiners['select'].state_dict().items():
        assert torch.equal(other.refiners['select'].state_dict()[name], value)


@pytest.mark.parametrize(
    ('argument', 'value'),
    [
        *(('initial', value) for value in (-0.01, 1.01, float('nan'))),
        *(('momentum', value) for value in (-0.01, 1.01, float('nan'))),
        ('update', 'median'),
    ],
)
def test_wrong_arguments_of_the_threshold(argument, value):
    with pytest.raises(ValueError, match=f'EMAThreshold.{argument} must be'):
        EMAThreshold(**{argument: value})


def test_threshold_and_hook_need_each_other(build, batch):
    model = build(refiners=dict(select=EMA))
    with pytest.raises(RuntimeError, match=r"only EMAThresholdHook.*dict\(type='EMAThresholdHook'"):
        model(**model.data_preprocessor(batch(), True), mode='loss')
    EMAThresholdHook().before_train(SimpleNamespace(model=model))
    model(**model.data_preprocessor(batch(), True), mode='loss')
    for other in (build(), model.segmentor):
        with pytest.raises(ValueError, match='EMAThresholdHook needs an EMAThreshold'):
            EMAThresholdHook().before_train(SimpleNamespace(model=other))


# --------------------------------------------------------------------------------------- soft loss
def reference_soft(logits, target, kind):
    """Each pixel's distance to the target distribution, in float64."""
    p, t = logits.double().softmax(1), target.detach().double().softmax(1)
    if kind == 'kl':
        return (t * (t.log() - p.log())).sum(1)
    if kind == 'cross_entropy':
        return -(t * p.log()).sum(1)
    return 1 - (p * t).sum(1) / (p.square().sum(1).sqrt() * t.square().sum(1).sqrt())


KINDS = ('kl', 'cross_entropy', 'cosine')


@pytest.mark.parametrize('kind', KINDS)
def test_soft_consistency_is_the_formula(kind):
    source = torch.Generator().manual_seed(0)
    logits, target = 3 * torch.randn(2, 2, 4, 5, 6, generator=source)
    logits.requires_grad_()
    target.requires_grad_()
    valid, selected = torch.rand(2, 2, 5, 6, generator=source) > 0.4
    weight = torch.rand(2, 5, 6, generator=source)
    each = reference_soft(logits, target, kind)
    keep = valid & selected
    for arguments, expected in (
        ((), (each * valid).sum() / valid.sum()),
        ((selected,), (each * keep).sum() / valid.sum()),
        ((selected, weight), (each * keep * weight).sum() / valid.sum()),
    ):
        value = soft_consistency(logits, target, valid, *arguments, kind=kind)
        torch.testing.assert_close(value.double(), expected)
    for denominator, number in (('selected', keep.sum()), ('weight', (keep * weight).sum())):
        value = soft_consistency(logits, target, valid, selected, weight, kind, denominator)
        expected = (each * keep * weight).sum() / number
        torch.testing.assert_close(value.double(), expected)
    value.backward()
    assert target.grad is None and logits.grad.abs().sum() > 0
    same = soft_consistency(logits, logits, valid, kind=kind)
    assert kind == 'cross_entropy' or same.abs() < 1e-6


def test_soft_consistency_of_sure_predictions_and_of_nothing():
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]]).view(1, 2, 1, 2).requires_grad_()
    valid = torch.ones(1, 1, 2, dtype=torch.bool)
    for kind in KINDS:
        assert torch.isfinite(soft_consistency(logits, -logits, valid, kind=kind))
        nothing = soft_consistency(logits, -logits, ~valid, kind=kind)
        assert nothing == 0 and nothing.requires_grad


def test_soft_consistency_refuses_wrong_arguments():
    logits, valid = torch.zeros(2, 3, 4, 5), torch.ones(2, 4, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match="kind must be one of .*'l2'"):
        soft_consistency(logits, logits, valid, kind='l2')
    with pytest.raises(ValueError, match="denominator must be one of .*'all'"):
        soft_consistency(logits, logits, valid, denominator='all')
    for first, second, third in (
        (logits, logits[:, :2], valid),
        (logits, logits[:1], valid),
        (logits, logits, valid[:, :3]),
        (logits[..., :4], logits, valid),
    ):
        with pytest.raises(ValueError, match='differ in batch, classes or size'):
            soft_consistency(first, second, third)


@pytest.mark.parametrize('kind', KINDS)
def test_soft_loss_is_mixed_as_the_view_and_reads_the_mask_before_propagation(
    corrmatch, batch, kind
):
    model = corrmatch(
        COARSE,
        refiners=dict(select=FIXED, regions=REGIONS),
        losses=dict(HARD, soft=dict(SOFT, kind=kind)),
        mixer=dict(type='CutMix', prob=1.0),
    )
    step, losses = run(model, batch(unlabeled=((32, 32), (28, 32))))
    assert losses['regions.gained'] > 0
    raw, before, expected = step.raw_pseudo, step.refined['select'], []
    for view in step.views:
        boxes = []
        for b in (0, 1):  # two images: each one's partner is the other
            changed = (view.image[b] != step.strong_images[len(expected)][b]).any(0)
            rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
            box = torch.zeros(32, 32, dtype=torch.bool)
            box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
            boxes.append(box)
        mixed = [
            torch.stack([torch.where(boxes[b], field[1 - b], field[b]) for b in (0, 1)])
            for field in (raw.logits, raw.valid, before.selected)
        ]
        each = reference_soft(view.outputs.logits, mixed[0], kind)
        expected.append((each * (mixed[1] & mixed[2])).sum() / mixed[1].sum())
    assert len(expected) == 2
    torch.testing.assert_close(losses['soft.loss'].double(), 0.125 * sum(expected) / 2)
    losses['soft.loss'].backward()
    assert all(p.grad is not None for p in model.segmentor.parameters())
    assert all(p.grad is None for p in model.heads.parameters())


def test_gradient_of_the_soft_loss_flows_through_the_view_alone(corrmatch, batch):
    model = corrmatch(losses=dict(HARD, soft=SOFT))
    step, losses = run(model, batch())
    outputs = [step.weak.stages[-1], *[view.outputs.stages[-1] for view in step.views]]
    weak, *strong = torch.autograd.grad(losses['soft.loss'], outputs, allow_unused=True)
    assert weak is None and all(gradient.abs().sum() > 0 for gradient in strong)
    assert not step.raw_pseudo.logits.requires_grad


def test_soft_loss_after_propagation_and_on_the_perturbed_stream(corrmatch, batch):
    refiners = dict(select=FIXED, regions=REGIONS)
    for before in (True, False):
        soft = dict(SOFT, stream='perturbed', before_propagation=before)
        model = corrmatch(COARSE, refiners=refiners, losses=dict(HARD, soft=soft))
        step, losses = run(model, batch(**PADDED))
        used = step.refined['select' if before else 'regions'].used
        each = reference_soft(step.perturbed.logits, step.raw_pseudo.logits, 'kl')
        expected = 0.125 * (each * used).sum() / step.pseudo.valid.sum()
        torch.testing.assert_close(losses['soft.loss'].double(), expected, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize(('argument', 'value'), [('kind', 'l2'), ('denominator', 'all')])
def test_wrong_arguments_of_the_soft_loss(corrmatch, argument, value):
    with pytest.raises(ValueError, match=f'SoftConsistencyLoss.{argument} must be one of'):
        corrmatch(losses=dict(soft={**SOFT, argument: value}))


# -------------------------------------------------------------------------------------- whole loss
def test_the_shipped_method_is_the_papers_sum(batch):
    r"""L = 1/2 (L_s + L_u), L_s = 1/2 (hard + corr), L_u = 1/2 hard + 1/4 soft + 1/4 corr."""
    method = Config.fromfile(METHOD).method.to_dict()
    torch.manual_seed(0)
    model = hooked(shake(MODELS.build(ConfigDict(method, segmentor=deepcopy(SEGMENTOR)))))
    assert model.refiners['select'].value == 0.85 and model.refiners['select'].momentum == 0.999
    assert model.refiners['regions'].num_shapes == 128
    assert model.heads['correlation'].project[1].p == 0.1
    model.heads['correlation'].project[1].p = 0.0
    with torch.no_grad():
        model.segmentor.decode_head.conv_seg.weight.mul_(3.0)
    step, losses = run(model, batch(**PADDED, views=1))
    assert 0.05 < float(losses['selected']) < 0.95 and len(step.views) == 1
    truth, (view,) = truth_of(step), step.views
    z, correlation = reference_correlation(model, step, 'encoder')

    hard_s = F.cross_entropy(step.labeled.logits, truth, ignore_index=255)
    loss_s = (hard_s + F.cross_entropy(z, truth, ignore_index=255)) / 2
    streams = ((view.outputs, view.pseudo), (step.perturbed, step.pseudo))
    hard_u = sum(reference_ce(outputs.logits, pseudo) for outputs, pseudo in streams) / 2
    each = reference_soft(view.outputs.logits, view.mix(step.raw_pseudo.logits), 'kl')
    before = view.mix(step.refined['select'].used)
    soft = (each * before).sum() / view.pseudo.valid.sum()
    loss_u = hard_u / 2 + soft / 4 + correlation / 4
    assert all(part > 1e-3 for part in (hard_s, hard_u, soft, correlation))
    total, _ = model.parse_losses(losses)
    torch.testing.assert_close(total, ((loss_s + loss_u) / 2).float())


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: EMAThreshold(initial='high'), r"EMAThreshold.initial .* in \[0, 1\], got 'high'"),
        (lambda: EMAThreshold(momentum=None), 'EMAThreshold.momentum .* got None'),
        (lambda: RegionPropagation(num_shapes=True), 'num_shapes .* whole number >= 1, got True'),
        (lambda: RegionPropagation(threshold='x'), "RegionPropagation.threshold .* got 'x'"),
        (lambda: CorrelationHead(channels=-4), 'CorrelationHead.channels .* >= 1, got -4'),
        (lambda: CorrelationHead(channels=2.5), 'CorrelationHead.channels .* >= 1, got 2.5'),
        (lambda: CorrelationHead(hidden_channels=0), 'hidden_channels .* >= 1, got 0'),
        (lambda: CorrelationHead(norm_cfg=dict(type='BNN')), r"norm_cfg .* dict\(type='BN'\).*BNN"),
        (lambda: CorrelationHead(norm_cfg='BN'), "norm_cfg .* got 'BN'"),
        (lambda: SoftConsistencyLoss(loss_weight='x'), "loss_weight .* number >= 0, got 'x'"),
        (lambda: SoftConsistencyLoss(kind='kll'), "kind .* got 'kll'. Did you mean 'kl'"),
        (lambda: SoftConsistencyLoss(before_propagation='maybe'), "before_propagation .* 'maybe'"),
    ],
)
def test_wrong_types_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_many_positions_are_warned_of_once(monkeypatch):
    lines = []
    name = 'mmseg_semi.models.heads.correlation_head.print_log'
    monkeypatch.setattr(name, lambda text, **_: lines.append(text))
    head = CorrelationHead()
    head._warn_of_size(101, 101)
    assert not lines
    head._warn_of_size(160, 160)
    head._warn_of_size(160, 160)
    assert len(lines) == 1 and '160x160 = 25600 positions' in lines[0]


def test_one_image_alone_in_a_pooled_branch_is_explained(build, batch):
    model = build(
        segmentor=dict(
            SEGMENTOR,
            decode_head=dict(
                type='ASPPHead',
                in_channels=4,
                in_index=2,
                channels=4,
                dilations=(1, 2),
                num_classes=3,
                norm_cfg=dict(type='BN'),
                loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
            ),
        )
    )
    data = model.data_preprocessor(batch(((32, 32),), ((32, 32),)), True)
    with pytest.raises(ValueError, match='one image alone.*at least 2 labeled and 2 unlabeled'):
        model.loss(**data)
