"""S4MC on FixMatch, CutMix-Seg, UniMatch and CorrMatch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmseg_semi.functional import refine_neighborhood

from ..helpers import logits_of, run_step, shake
from ..s4mc import S4MC, margin, third_of_ten

SELECTED = dict(
    strong=dict(type='PseudoLabelCrossEntropy', stream='strong', denominator='selected')
)


FIXMATCH = dict(streams=None, losses=SELECTED, supervised_weight=1.0)


def s4mc_reference(model, step):
    """Label, selection and loss from the teacher's logits, at the third of ten iterations."""
    prob = step.teacher.logits.detach().softmax(1)
    refined = refine_neighborhood(prob)
    gamma = float(np.quantile(margin(prob).double().numpy(), 0.4 * 0.8))
    return refined.argmax(1), margin(refined) > gamma


@pytest.mark.parametrize('teacher', [None, dict(type='EMATeacher')], ids=['fixmatch', 'cutmix-seg'])
def test_s4mc_on_fixmatch_and_on_cutmix_seg(build, batch, teacher):
    """The loss is the cross entropy averaged over the selected pixels of the mixed view."""
    model = third_of_ten(
        build(refiners=S4MC, **FIXMATCH, mixer=dict(type='CutMix', prob=1.0), teacher=teacher)
    )
    if teacher:
        shake(model.teacher.network)
    step, losses = run_step(model, batch(unlabeled=((32, 32),) * 3, views=1))
    if teacher:
        with torch.no_grad():
            raw = logits_of(model.teacher.network, step.weak_images)
        torch.testing.assert_close(step.teacher.logits, raw)
        assert step.weak is None, 'the student need not see the weak images'
    else:
        assert step.teacher is step.weak
    label, selected = s4mc_reference(model, step)
    assert torch.equal(step.pseudo.label, label) and torch.equal(step.pseudo.selected, selected)
    assert not torch.equal(label, step.raw_pseudo.label)
    (view,) = step.streams['strong']
    loss = F.cross_entropy(view.outputs.logits, view.mix(label), reduction='none')
    expected = loss[view.mix(selected)].mean()
    torch.testing.assert_close(losses['strong.loss'], expected)
    total, _ = model.parse_losses(losses)
    torch.testing.assert_close(total, losses['decode.loss_ce'] + expected)
    total.backward()
    assert all(value.grad is not None for value in model.segmentor.parameters())


def test_s4mc_on_unimatch(build, batch):
    model = third_of_ten(build(refiners=S4MC, mixer=dict(type='CutMix', prob=1.0)))
    step, losses = run_step(model, batch())
    label, selected = s4mc_reference(model, step)
    (perturbed,) = step.streams['perturbed']
    streams = [(v.outputs.logits, v.mix(label), v.mix(selected)) for v in step.streams['strong']]
    expected = [
        (F.cross_entropy(logits, target, reduction='none') * chosen).mean()
        for logits, target, chosen in [*streams, (perturbed.outputs.logits, label, selected)]
    ]
    torch.testing.assert_close(losses['strong.loss'], 0.25 * (expected[0] + expected[1]) / 2)
    torch.testing.assert_close(losses['perturbed.loss'], 0.25 * expected[2])


CORRMATCH = dict(heads=dict(correlation=dict(type='CorrelationHead', tap='penultimate')))


def test_s4mc_on_corrmatch(build, batch):
    regions = dict(type='RegionPropagation', num_shapes=8)
    with pytest.raises(ValueError, match=r'model\.refiners\.regions: .*no threshold.*0\.85'):
        build(refiners=dict(S4MC, regions=regions), **CORRMATCH)
    refiners = dict(regions=dict(regions, threshold=0.85), **S4MC)
    model = third_of_ten(build(refiners=refiners, **CORRMATCH))
    assert list(model.refiners) == ['context', 'select', 'regions']
    step, losses = run_step(model, batch())
    _, selected = s4mc_reference(model, step)
    assert torch.equal(step.pseudo.extras['selected_before_propagation'], selected)
    assert (step.pseudo.selected | ~selected).all()
    assert {'correlation.loss', 'select.threshold', 'regions.gained'} <= losses.keys()
    assert all(torch.isfinite(value).all() for value in losses.values())
