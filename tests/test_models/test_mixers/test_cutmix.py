from __future__ import annotations

import re
from copy import deepcopy

import pytest
import torch

from mmseg_semi.functional import refine_neighborhood
from mmseg_semi.models.mixers import cutmix

from ..helpers import logits_of, run_step
from ..steps import mixed_step

PERTURBED = dict(features='weak', perturbation=dict(type='FeatureDropout'))


def test_cutmix_mixes_each_view_with_its_own_box_and_its_pseudo_label(build, batch):
    model = build(mixer=dict(type='CutMix', prob=1.0))
    step = mixed_step(model, batch(unlabeled=((32, 32),) * 4))
    views = step.streams['strong']
    assert len(views) == 2
    for view, images in zip(views, step.strong_images):
        assert view.mix.mask.flatten(1).any(1).all()
        for b, partner in enumerate(view.mix.partners.tolist()):
            assert partner != b
            mask = view.mix.mask[b]
            assert torch.equal(view.image[b][:, mask], images[partner][:, mask])
            assert torch.equal(view.image[b][:, ~mask], images[b][:, ~mask])
            assert torch.equal(view.pseudo.label[b][mask], step.pseudo.label[partner][mask])
            assert torch.equal(view.pseudo.label[b][~mask], step.pseudo.label[b][~mask])
            assert torch.equal(view.pseudo.selected[b][mask], step.pseudo.selected[partner][mask])
    assert not torch.equal(views[0].mix.mask, views[1].mix.mask)
    assert views[0].pseudo.prob is None, 'nothing reads it, so it is not mixed'


def test_a_batch_of_one_unlabeled_image_is_not_mixed_and_says_so_once(build, batch, monkeypatch):
    model = build(mixer=dict(type='CutMix', prob=1.0))
    warnings = []
    monkeypatch.setattr(cutmix, 'print_log', lambda message, **_: warnings.append(message))
    for _ in range(2):
        run_step(model, batch(unlabeled=((32, 32),)))
    assert len(warnings) == 1 and 'nothing is mixed' in warnings[0]


def test_the_next_image_the_reversed_batch_and_one_partner_for_all_views(build, batch):
    model = build(mixer=dict(type='CutMix', prob=1.0, partner='next'))
    for view in mixed_step(model, batch(unlabeled=((32, 32),) * 4)).streams['strong']:
        assert view.mix.partners.tolist() == [1, 2, 3, 0]
    for count, wanted in ((4, [3, 2, 1, 0]), (3, [2, 1, 0])):
        model = build(mixer=dict(type='CutMix', prob=1.0, partner='reversed'))
        data = batch(unlabeled=((32, 32),) * count)
        for view in mixed_step(model, data).streams['strong']:
            assert view.mix.partners.tolist() == wanted
    differ = set()
    for same in (True, False):
        model = build(mixer=dict(type='CutMix', prob=1.0, same_partner=same))
        for seed in range(4):
            torch.manual_seed(seed)
            first, second = mixed_step(model, batch(unlabeled=((32, 32),) * 4)).streams['strong']
            assert not torch.equal(first.mix.mask, second.mix.mask)
            differ.add((same, torch.equal(first.mix.partners, second.mix.partners)))
    assert (True, False) not in differ and (False, False) in differ


def test_partners_are_labeled_by_the_stream_that_is_named(build, batch):
    """In evaluation mode, before the training pass moves the statistics, and refined."""
    streams = dict(partners=dict(images='weak', mode='eval'), perturbed=PERTURBED)
    mixer = dict(type='CutMix', prob=1.0, partner_stream='partners')
    model = build(mixer=mixer, streams=streams)
    model.train()
    data = batch(unlabeled=((32, 32),) * 3)
    still = deepcopy(model.segmentor).eval()
    step = mixed_step(model, data)
    outputs = step.streams['partners'][0].outputs
    with torch.no_grad():
        torch.testing.assert_close(outputs.logits, logits_of(still, step.weak_images))
    assert not torch.allclose(outputs.logits, step.weak.logits, atol=1e-3)
    confidence, label = outputs.logits.softmax(1).max(1)
    view = step.streams['strong'][0]
    assert view.mix.outputs is outputs
    for b, partner in enumerate(view.mix.partners.tolist()):
        mask = view.mix.mask[b]
        assert torch.equal(view.pseudo.label[b][mask], label[partner][mask])
        assert torch.equal(view.pseudo.selected[b][mask], (confidence >= 0.6)[partner][mask])
        assert torch.equal(view.pseudo.label[b][~mask], step.pseudo.label[b][~mask])
    losses = run_step(model, data)[1]
    assert losses['strong.loss'].isfinite()


@pytest.mark.parametrize(
    'stream, message',
    [
        ('patners', "CutMix.partner_stream is 'patners', which model.streams does not have."),
        ('labeled', "CutMix.partner_stream is 'labeled', which shows labeled images: name a"),
        ('perturbed', 'which shows weak images with a perturbation: name a stream of weak'),
    ],
)
def test_a_stream_that_cannot_label_partners_is_refused(build, stream, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build(mixer=dict(type='CutMix', partner_stream=stream))


def test_partners_of_another_pass_can_stay_unrefined(build, batch):
    """Inside the box are the confidences of the pass in evaluation mode, refined or not."""
    select = dict(type='ConfidenceThreshold', threshold=0.0)
    found = {}
    for refine in (True, False):
        model = build(
            refiners=dict(context=dict(type='NeighborhoodRefiner'), select=select),
            streams=dict(perturbed=None, partners=dict(images='weak', mode='eval')),
            losses=dict(strong=dict(type='PseudoLabelCrossEntropy')),
            mixer=dict(type='CutMix', prob=1.0, partner_stream='partners', refine_partners=refine),
        ).train()
        torch.manual_seed(0)
        step, _ = run_step(model, batch())
        prob = step.streams['partners'][0].outputs.logits.softmax(1)
        wanted = refine_neighborhood(prob) if refine else prob
        for view in step.streams['strong']:
            inside = view.mix.mask
            others = wanted.amax(1)[view.mix.partners]
            assert inside.any() and torch.equal(view.pseudo.confidence[inside], others[inside])
            own = step.pseudo.confidence
            assert torch.equal(view.pseudo.confidence[~inside], own[~inside])
        found[refine] = view.pseudo.confidence
    assert not torch.equal(found[True], found[False])
    with pytest.raises(ValueError, match='refine_partners=False is for partners that a stream'):
        build(mixer=dict(type='CutMix', refine_partners=False))
