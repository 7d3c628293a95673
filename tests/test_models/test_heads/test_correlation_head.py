from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmseg_semi.functional import propagate_pixels
from mmseg_semi.models.heads import CorrelationHead

from ..conftest import segmentor
from ..corrmatch import COARSE, HARD, PADDED, reference_correlation, truth_of
from ..helpers import run_step
from ..steps import whole_step
from ..test_segmentors.test_architectures import PREPROCESSOR, deeplabv3plus


@pytest.mark.parametrize(
    ('head', 'tap', 'corners'),
    [
        (dict(tap='encoder'), 'encoder', False),
        (dict(tap='penultimate'), 'penultimate', True),
        (dict(tap='classifier', channels=5), 'classifier', False),
        (COARSE, 'backbone.decoder.1', False),
        (COARSE, 'backbone.decoder.1', True),
        (dict(COARSE, scale='outside', channels=7), 'backbone.decoder.1', False),
        (dict(tap='encoder', scale='outside'), 'encoder', True),
    ],
)
def test_losses_are_the_formulas(corrmatch, batch, head, tap, corners):
    model = corrmatch(
        dict(head, labeled_weight=0.3, unlabeled_weight=0.7),
        segmentor=segmentor(align_corners=corners),
        mixer=dict(type='CutMix', prob=1.0),
    )
    assert model.segmentor.align_corners is corners
    step, losses = run_step(model, batch(**PADDED))
    assert 0.05 < float(losses['selected']) < 0.95
    z, unlabeled = reference_correlation(model, step, tap, corners, head.get('scale', 'inside'))
    labeled = F.cross_entropy(z, truth_of(step), ignore_index=255)
    assert (truth_of(step) == 255).any()
    torch.testing.assert_close(losses['correlation.labeled.loss_ce'], 0.3 * labeled)
    torch.testing.assert_close(losses['correlation.loss'], 0.7 * unlabeled)


def test_gradients_reach_features_and_layers_but_not_the_logits(corrmatch, batch):
    for key in ('correlation.labeled.loss_ce', 'correlation.loss'):
        model = corrmatch(dict(tap='encoder'))
        step, losses = run_step(model, batch())
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
    run_step(model, batch(labeled=((32, 32),) * 2, unlabeled=((32, 32),) * 3, views=2))
    assert sizes == [5, 6]
    assert project[0].norm.num_batches_tracked == 2


def test_dropout_of_whole_channels(corrmatch):
    head = corrmatch(dict(tap='encoder')).heads['correlation']
    assert isinstance(head.project[1], nn.Dropout2d) and head.project[1].p == 0.0
    with pytest.raises(ValueError, match=r'dropout must be a number in \[0, 1\)'):
        corrmatch(heads=dict(correlation=dict(type='CorrelationHead', dropout=1.0)))


def deeplab(**head):
    cfg = dict(deeplabv3plus(), data_preprocessor=PREPROCESSOR)
    cfg['decode_head'].update(dropout_ratio=0.0, **head)
    return cfg


def test_aspp_position(corrmatch, batch):
    with pytest.raises(ValueError, match='FCNHead has no ASPP module'):
        corrmatch(dict(tap='aspp'))
    model = corrmatch(dict(tap='aspp', labeled_weight=1.0), segmentor=deeplab())
    sizes = ((64, 64),) * 2
    step, losses = run_step(model, batch(labeled=sizes, unlabeled=sizes))
    aspp = step.labeled.features['aspp']
    assert aspp.shape == (2, 8, 8, 8), 'coarser than the logits and before the fusion'
    z, _ = reference_correlation(model, step, 'aspp')
    torch.testing.assert_close(
        losses['correlation.labeled.loss_ce'], F.cross_entropy(z, truth_of(step))
    )


def test_encoder_position_takes_the_last_map(corrmatch):
    head = corrmatch(dict(tap='encoder'), segmentor=deeplab()).heads['correlation']
    assert head.project[0].conv.in_channels == 64
    assert head.w1.out_channels == head.w2.out_channels == 3


def test_channels_of_the_feature(corrmatch, batch):
    with pytest.raises(ValueError, match=r'heads.correlation: .*backbone.decoder.1.*in_channels='):
        corrmatch(dict(tap='backbone.decoder.1'))
    model = corrmatch(dict(COARSE, in_channels=6))
    with pytest.raises(ValueError, match='have 8 channels, not 6: set in_channels=8'):
        run_step(model, batch())
    with pytest.raises(
        ValueError,
        match="model.heads.correlation: tap 'backbone.decodr'.*Did you mean 'backbone.decoder'",
    ):
        corrmatch(dict(tap='backbone.decodr', in_channels=6))


@pytest.mark.parametrize(
    ('argument', 'value'),
    [
        ('scale', 'middle'),
        ('labeled_loss', 'dice'),
        ('denominator', 'pixels'),
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
        step, losses = run_step(model, data)
        z, _ = reference_correlation(model, step, COARSE['tap'])
        truth = truth_of(step)
        if kind == 'decode_head':
            expected = ohem_reference(z, truth, 0.2, 300)
        else:
            expected = F.cross_entropy(z, truth, ignore_index=255)
        torch.testing.assert_close(losses['correlation.labeled.loss_ce'], 0.5 * expected)


def test_denominator_and_no_unlabeled_loss(corrmatch, batch):
    values = {}
    for denominator in ('valid', 'selected'):
        step, losses = run_step(corrmatch(dict(COARSE, denominator=denominator)), batch(**PADDED))
        values[denominator] = losses['correlation.loss']
    # Views are not mixed, so that all of them have the same pixels.
    ratio = step.pseudo.valid.sum() / step.pseudo.used.sum()
    torch.testing.assert_close(values['selected'], values['valid'] * ratio)
    _, losses = run_step(corrmatch(dict(unlabeled_weight=0.0)), batch())
    assert not any(name == 'correlation.loss' for name in losses)
    assert losses['correlation.labeled.loss_ce'] > 0


def test_with_a_teacher_the_student_sees_weak_images(corrmatch, batch):
    parts = dict(teacher=dict(type='EMATeacher'), streams=None, losses=dict(strong=HARD['strong']))
    assert 'weak' not in corrmatch(heads=None, **parts).streams
    model = corrmatch(COARSE, **parts)
    assert 'weak' in model.streams
    with torch.no_grad():
        for parameter in model.teacher.network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    step, losses = run_step(model, batch(**PADDED))
    _, unlabeled = reference_correlation(model, step, COARSE['tap'])
    torch.testing.assert_close(losses['correlation.loss'], unlabeled / 8)
    assert not torch.equal(step.pseudo.label, step.weak.logits.argmax(1)), 'the teacher labels'
    with pytest.raises(ValueError, match=r'streams.weak is None, but .*\(CorrelationHead\)'):
        corrmatch(COARSE, **{**parts, 'streams': dict(weak=None)})


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


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: CorrelationHead(channels=-4), 'CorrelationHead.channels .* >= 1, got -4'),
        (lambda: CorrelationHead(channels=2.5), 'CorrelationHead.channels .* >= 1, got 2.5'),
        (lambda: CorrelationHead(hidden_channels=0), 'hidden_channels .* >= 1, got 0'),
        (lambda: CorrelationHead(norm_cfg=dict(type='BNN')), r"norm_cfg .* dict\(type='BN'\).*BNN"),
        (lambda: CorrelationHead(norm_cfg='BN'), "norm_cfg .* got 'BN'"),
    ],
)
def test_wrong_types_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_logits_of_the_image_are_propagated_if_asked(corrmatch, batch):
    """Enlarged to the image and reduced to the grid again, which blurs them."""
    model = corrmatch(dict(COARSE, logits_from='image'), segmentor=segmentor(align_corners=True))
    step = whole_step(model, batch(**PADDED))
    head, outputs = model.heads['correlation'], step.weak
    maps = [one.detach() for one in head.maps_of(step.teacher, step)]
    found = head._propagated(outputs, maps)
    resize = dict(mode='bilinear', align_corners=True)
    logits = torch.nn.functional.interpolate(outputs.logits, maps[0].shape[-2:], **resize)
    torch.testing.assert_close(found, propagate_pixels(logits, *maps))
    head.logits_from = 'decoder'
    assert not torch.allclose(found, head._propagated(outputs, maps), atol=1e-4)


def test_the_projection_starts_as_torchs_layers_do(corrmatch):
    """Uniform within 1 / sqrt(fan-in), 72 here; mmcv's normal start is wider."""
    torch.manual_seed(0)
    head = CorrelationHead(tap='encoder', hidden_channels=64)
    head.attach(corrmatch())
    weight = head.project[0].conv.weight
    bound = weight[0].numel() ** -0.5
    assert weight.abs().max() <= bound
    assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.05)
