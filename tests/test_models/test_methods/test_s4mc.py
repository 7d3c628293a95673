"""S4MC on FixMatch, CutMix-Seg, UniMatch and CorrMatch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmseg_semi.functional import refine_neighborhood

from ..by_hand import image, preset, take_step
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


@pytest.mark.parametrize('name', ['s4mc', 's4mc_fixmatch'])
def test_the_papers_step_by_hand(name):
    """Two unlabeled images of 4x4 pixels and three classes; logits are the logarithms of these.

    Image 0 is (.6, .3, .1) with a margin of .3, but its corner (.4, .5, .1) with .1; image 1 is
    (.1, .1, .8) with .7. At iteration 2 of 8, alpha = .4 * 6/8 = .3 and gamma lies at place
    .3 * 31 = 9.3 of the 32 margins .1, 15 x .3, 16 x .7: it is .3.

    Refined, with b = exp(-1/2) beside a pixel and b^2 diagonally:
    - inside image 0: .6 + b .6 .4 = .7456, .3 + b .3 .7 = .4274: margin .318, selected;
    - the corner: .4 + b .6 .6 = .6184, .5 + b .3 .5 = .5910: class 0 now, margin .027, not;
    - beside the corner: .7456, .3 + b .5 .7 = .5123: margin .233, not selected;
    - diagonally to it: .7456, .3 + b^2 .5 .7 = .4288 (more than with b .3 .7): .317, selected;
    - in image 1: .8 + b .8 .2 = .8970, .1 + b .1 .9 = .1546: .742, selected.

    Left halves are exchanged: 13 pixels of image 0 with -log .6 and 16 of image 1 with -log .8.
    """
    model = preset(name)
    uncertain = image([0.6, 0.3, 0.1], ((0, 0), [0.4, 0.5, 0.1]))
    unlabeled = torch.stack([uncertain, image([0.1, 0.1, 0.8])]).log()
    labeled = image([0.5, 0.25, 0.25]).log().repeat(2, 1, 1, 1)
    truth = torch.zeros(2, 4, 4, dtype=torch.int64)
    truth[1, 2:] = 255
    step, losses, total = take_step(model, labeled, truth, unlabeled, progress=(2, 8, 4))
    selected = torch.ones(2, 4, 4, dtype=torch.bool)
    selected[0, [0, 0, 1], [0, 1, 0]] = False
    assert torch.equal(step.pseudo.selected, selected)
    assert step.raw_pseudo.label[0, 0, 0] == 1 and not step.pseudo.label[0].any()
    assert float(losses['select.threshold']) == pytest.approx(0.3, abs=1e-6)  # the log is float32
    (view,) = step.streams['strong']
    assert view.pseudo.label[0].tolist() == [[2, 2, 0, 0]] * 4
    assert view.pseudo.selected[0].all() and view.pseudo.selected[1].sum() == 13
    mean = -(13 * math.log(0.6) + 16 * math.log(0.8)) / 29
    assert float(losses['strong.loss']) == pytest.approx(mean, rel=1e-9)
    # mmseg adds float32's epsilon to the number of labeled pixels, 24.
    assert float(total) == pytest.approx(math.log(2) + mean, rel=1e-8)
    # By the bias: softmax less the target, the mean of each loss's pixels.
    mixed = [13 * (0.6 - 1) + 16 * 0.1, 13 * 0.3 + 16 * 0.1, 13 * 0.1 + 16 * (0.8 - 1)]
    wanted = [-0.5 + mixed[0] / 29, 0.25 + mixed[1] / 29, 0.25 + mixed[2] / 29]
    assert model.segmentor.decode_head.conv_seg.bias.grad.tolist() == pytest.approx(
        wanted, rel=1e-7
    )


def test_the_student_sees_labeled_and_mixed_images_together():
    model = preset('s4mc')
    before, after = model.passes
    assert before == [] and [[one.name for one in s] for s in after] == [['labeled', 'strong']]
