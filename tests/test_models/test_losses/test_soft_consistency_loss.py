from __future__ import annotations

import pytest
import torch

from mmseg_semi.functional import soft_consistency
from mmseg_semi.models.losses import SoftConsistencyLoss

from ..corrmatch import COARSE, FIXED, HARD, PADDED, REGIONS, SOFT, reference_soft
from ..helpers import run_step

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
    with pytest.raises(ValueError, match="denominator must be one of .*'pixels'"):
        soft_consistency(logits, logits, valid, denominator='pixels')
    for first, second, third in (
        (logits, logits[:, :2], valid),
        (logits, logits[:1], valid),
        (logits, logits, valid[:, :3]),
        (logits[..., :4], logits, valid),
    ):
        with pytest.raises(ValueError, match='must agree in batch, classes and size'):
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
    step, losses = run_step(model, batch(unlabeled=((32, 32), (28, 32))))
    assert losses['regions.gained'] > 0
    raw, before, expected = step.raw_pseudo, step.refined['select'], []
    for view in step.streams['strong']:
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
    step, losses = run_step(model, batch())
    outputs = [step.weak.stages[-1], *[view.outputs.stages[-1] for view in step.streams['strong']]]
    weak, *strong = torch.autograd.grad(losses['soft.loss'], outputs, allow_unused=True)
    assert weak is None and all(gradient.abs().sum() > 0 for gradient in strong)
    assert not step.raw_pseudo.logits.requires_grad


def test_soft_loss_after_propagation_and_on_the_perturbed_stream(corrmatch, batch):
    refiners = dict(select=FIXED, regions=REGIONS)
    for before in (True, False):
        soft = dict(SOFT, stream='perturbed', before_propagation=before)
        model = corrmatch(COARSE, refiners=refiners, losses=dict(HARD, soft=soft))
        step, losses = run_step(model, batch(**PADDED))
        used = step.refined['select' if before else 'regions'].used
        each = reference_soft(
            step.streams['perturbed'][0].outputs.logits, step.raw_pseudo.logits, 'kl'
        )
        expected = 0.125 * (each * used).sum() / step.pseudo.valid.sum()
        torch.testing.assert_close(losses['soft.loss'].double(), expected, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize(('argument', 'value'), [('kind', 'l2'), ('denominator', 'pixels')])
def test_wrong_arguments_of_the_soft_loss(corrmatch, argument, value):
    with pytest.raises(ValueError, match=f'SoftConsistencyLoss.{argument} must be one of'):
        corrmatch(losses=dict(soft={**SOFT, argument: value}))


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: SoftConsistencyLoss(loss_weight='x'), "loss_weight .* number >= 0, got 'x'"),
        (lambda: SoftConsistencyLoss(kind='kll'), "kind .* got 'kll'. Did you mean 'kl'"),
        (lambda: SoftConsistencyLoss(before_propagation='maybe'), "before_propagation .* 'maybe'"),
    ],
)
def test_wrong_types_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
