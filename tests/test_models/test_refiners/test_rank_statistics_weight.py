"""Weights of Weighting Pseudo-Labels, pixel by pixel, and what they do to the losses."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS

from mmseg_semi.models.refiners import BaseRefiner

from ..conftest import UNIMATCH
from ..helpers import run_step
from ..weighting_parts import (
    BANK,
    CHANNELS,
    COARSE,
    PADDED,
    REFINERS,
    K,
    after,
    bank_of,
    cosine_weight,
    cross_entropy,
    filled,
    hook_of,
    prototypes_of,
    queues_of,
    rank_weight,
)


def test_a_class_without_prototype_weighs_one(weighting, boxed):
    model = filled(weighting(), boxed, absent=(2,))
    bank = bank_of(model)
    assert bank.counts.any(0).tolist() == [True, True, False]
    for base in (0.0, 0.5):
        model.refiners['weight'].base_weight = base
        step, losses = run_step(model, boxed(seed=5))
        label, weight = step.pseudo.label, step.pseudo.weight
        prototypes = prototypes_of(queues_of(bank))
        expected = rank_weight(step.teacher.features['penultimate'], label, prototypes, K)
        assert (label == 2).any() and (weight[label == 2] == 1).all()
        torch.testing.assert_close(weight, expected + base * (label != 2))
        assert len(weight[label != 2].unique()) > 1
        assert float(losses['weight.prototypes']) == 2
        mean = weight[step.pseudo.used].mean()
        torch.testing.assert_close(losses['weight.mean'], mean)


@pytest.mark.parametrize('k', [1, 2, CHANNELS])
def test_weights_of_other_k(weighting, boxed, k):
    model = filled(weighting(dict(k=k)), boxed)
    step, _ = run_step(model, boxed(seed=5, **PADDED))
    features = step.teacher.features['penultimate']
    prototypes = prototypes_of(queues_of(bank_of(model)))
    expected = rank_weight(features, step.pseudo.label, prototypes, k)
    torch.testing.assert_close(step.pseudo.weight, expected)
    assert (expected.std() > 0) == (k < CHANNELS)


def test_cosine_is_never_negative(weighting, boxed):
    model = filled(weighting(dict(similarity='cosine', tap='classifier')), boxed)
    step, _ = run_step(model, boxed(seed=5))
    features = step.teacher.features['classifier']
    prototypes = prototypes_of(queues_of(bank_of(model)))
    expected = cosine_weight(features, step.pseudo.label, prototypes)
    torch.testing.assert_close(step.pseudo.weight, expected, rtol=1e-4, atol=1e-5)
    assert (expected == 0).any() and expected.max() > 0.9


def streams_of(step):
    """The perturbed view, then the strong ones."""
    return [*step.streams['perturbed'], *step.streams['strong']]


def test_base_weight_with_the_denominator_weight(weighting, boxed):
    """The authors' program: sum of (1 + s/k) CE over the selected, by the sum of 1 + s/k."""
    losses = deepcopy(UNIMATCH['losses'])
    for loss in losses.values():
        loss['denominator'] = 'weight'
    model = filled(weighting(dict(base_weight=1), losses=losses), boxed)
    step, values = run_step(model, boxed(seed=5, **PADDED))
    prototypes = prototypes_of(queues_of(bank_of(model)))
    features = step.teacher.features['penultimate']
    weight = 1 + rank_weight(features, step.pseudo.label, prototypes, K)
    assert all(one is not None for one in prototypes)
    used = (step.raw_pseudo.confidence > 0.4) & step.valid
    assert 0 < used.sum() < step.valid.sum()
    parts = [view.outputs.logits for view in streams_of(step)]
    means = [
        (cross_entropy(logits, step.pseudo.label) * weight)[used].sum() / weight[used].sum()
        for logits in parts
    ]
    torch.testing.assert_close(values['perturbed.loss'], means[0] / 4)
    torch.testing.assert_close(values['strong.loss'], (means[1] + means[2]) / 8)


def test_every_stream_has_the_weight_mixed_as_its_images_are(weighting, boxed):
    model = filled(weighting(mixer=dict(type='CutMix', prob=1.0)), boxed, **PADDED)
    step, values = run_step(model, boxed(seed=5, **PADDED))
    pseudo = step.pseudo
    perturbed = streams_of(step)[0].outputs.logits
    plain = (cross_entropy(perturbed, pseudo.label) * pseudo.weight)[pseudo.used]
    torch.testing.assert_close(values['perturbed.loss'], plain.sum() / pseudo.valid.sum() / 4)
    means = []
    for view, images in zip(step.streams['strong'], step.strong_images):

        def mixed(tensor, view=view):
            parts = []
            for i, partner in enumerate(view.mix.partners):
                parts.append(torch.where(view.mix.mask[i], tensor[partner], tensor[i]))
            return torch.stack(parts)

        assert view.mix.mask.any() and torch.equal(view.image, mixed(images))
        assert torch.equal(view.pseudo.weight, mixed(pseudo.weight))
        assert not torch.equal(view.pseudo.weight, pseudo.weight)
        assert torch.equal(view.pseudo.reliable, mixed(pseudo.reliable))
        assert torch.equal(view.pseudo.extras['detections'], mixed(step.maps['detections']))
        used, valid = mixed(pseudo.used), mixed(pseudo.valid)
        loss = cross_entropy(view.outputs.logits, mixed(pseudo.label)) * mixed(pseudo.weight)
        means.append(loss[used].sum() / valid.sum())
    assert len(means) == 2 and means[0] != means[1]
    torch.testing.assert_close(values['strong.loss'], sum(means) / 8)


def test_features_are_enlarged_before_the_top_channels_are_found(weighting, boxed):
    model = filled(weighting(dict(upsample=True)), boxed)
    refiner = model.refiners['weight']
    step, _ = run_step(model, boxed(seed=5))
    features, label = step.teacher.features['penultimate'], step.pseudo.label
    full = F.interpolate(features, size=label.shape[1:], mode='bilinear', align_corners=False)
    assert full.shape != features.shape
    prototypes = prototypes_of(queues_of(bank_of(model)))
    expected = rank_weight(full, label, prototypes, K)
    torch.testing.assert_close(step.pseudo.weight, expected)
    assert not torch.equal(expected, rank_weight(features, label, prototypes, K))
    shared = weighting(dict(upsample=True, k=1)).refiners['weight'].extra_repr()
    assert 'upsample=True' in shared and refiner.upsample


PARTNERS = dict(
    streams=dict(UNIMATCH['streams'], partners=dict(images='weak', mode='eval')),
    mixer=dict(type='CutMix', prob=1.0, partner_stream='partners'),
)


def test_weights_after_mixing_are_of_the_features_that_labeled_the_pixel(weighting, boxed):
    """The image's own outside the box; those of the partner's evaluation pass inside."""
    model = filled(weighting(dict(after_mixing=True, base_weight=1), **PARTNERS), boxed)
    step, _ = run_step(model, boxed(seed=5))
    prototypes = prototypes_of(queues_of(bank_of(model)))
    assert step.pseudo.weight is None, 'the weak images are not weighed'
    own = step.teacher.features['penultimate']
    others = step.streams['partners'][0].outputs.features['penultimate']
    assert not torch.equal(own, others)
    (perturbed,) = step.streams['perturbed']
    expected = 1 + rank_weight(own, step.pseudo.label, prototypes, K)
    torch.testing.assert_close(perturbed.pseudo.weight, expected)
    for view in step.streams['strong']:
        mix, label = view.mix, view.pseudo.label
        outside = 1 + rank_weight(own, label, prototypes, K)
        inside = 1 + rank_weight(others[mix.partners], label, prototypes, K)
        expected = torch.where(mix.mask, inside, outside)
        torch.testing.assert_close(view.pseudo.weight, expected)
        assert not torch.equal(expected, outside)


def test_prototypes_with_what_this_step_pushes(weighting, boxed):
    """The state is left; the hook moves it to what the step has read."""
    bank = dict(BANK, push='before', reliable_from='strong', num_push=None)
    model = filled(weighting(dict(after_mixing=True, bank=bank), **PARTNERS), boxed)
    memory = bank_of(model)
    before = memory.counts.clone()
    step, losses = run_step(model, boxed(seed=5))
    assert torch.equal(memory.counts, before)
    read, _ = memory.prototypes(step)
    after(hook_of(model), model)
    prototypes, _ = memory.prototypes()
    assert torch.equal(read, prototypes) and not torch.equal(memory.counts, before)
    expected = rank_weight(
        step.teacher.features['penultimate'],
        *(step.pseudo.label, prototypes_of(queues_of(memory)), K),
    )
    torch.testing.assert_close(step.streams['perturbed'][0].pseudo.weight, expected)
    assert losses['weight.mean'] > 0


def test_a_push_before_needs_the_outputs_of_the_step(weighting):
    message = r"push='before' needs .* set after_mixing=True"
    with pytest.raises(ValueError, match=rf'model\.refiners\.weight: .*{message}'):
        weighting(dict(bank=dict(BANK, push='before')))


@MODELS.register_module()
class WeightByPlaceForTest(BaseRefiner):
    """Sets a weight before the weighting."""

    stage = 'selection'

    def forward(self, pseudo, outputs, step):
        return pseudo.update(weight=torch.arange(32.0).expand(pseudo.label.shape) / 8)


def test_a_weight_that_is_there_is_multiplied(weighting, boxed):
    model = filled(weighting(), boxed)
    alone = run_step(model, boxed(seed=5))[0].pseudo.weight
    both = weighting(refiners=dict(REFINERS, place=dict(type='WeightByPlaceForTest')))
    bank_of(both).load_state_dict(bank_of(model).state_dict())
    assert list(both.refiners) == ['place', 'select', 'agreement', 'weight'], 'by name in a stage'
    weight = run_step(both, boxed(seed=5))[0].pseudo.weight
    torch.testing.assert_close(weight, alone * torch.arange(32.0) / 8)


def test_nothing_of_it_has_a_gradient(weighting, boxed):
    """Weights are constants, and the bank has no parameter."""
    model = filled(weighting(), boxed)
    step, losses = run_step(model, boxed(seed=5))
    assert not step.pseudo.weight.requires_grad
    assert not list(model.refiners.parameters())
    total = model.parse_losses(losses)[0]
    first = next(model.segmentor.parameters())
    (gradient,) = torch.autograd.grad(total, first, retain_graph=True)
    weight = step.pseudo.weight.clone()
    used, count = step.pseudo.used, step.valid.sum()
    perturbed, *strong = (view.outputs.logits for view in streams_of(step))
    parts = [*strong, perturbed, perturbed]
    terms = [(cross_entropy(x, step.pseudo.label) * weight)[used].sum() / count for x in parts]
    by_hand = losses['decode.loss_ce'] + sum(terms) / 8
    (expected,) = torch.autograd.grad(by_hand, first)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    after(hook_of(model), model)
    bank = bank_of(model)
    assert not any(buffer.requires_grad for buffer in bank.buffers())
    assert all(buffer.grad_fn is None for buffer in bank.buffers())


@pytest.mark.parametrize(
    'wrong, error, message',
    [
        (dict(k=0), ValueError, r'RankStatisticsWeight\.k must be a whole number >= 1, got 0'),
        (dict(k=7), ValueError, r"k=7 is more than the 6 channels of the features 'penultimate'"),
        (dict(COARSE, k=9), ValueError, r"k=9 is more than the 8 .* 'backbone\.decoder\.1'"),
        (dict(base_weight=-1), ValueError, r'base_weight must be a number >= 0, got -1'),
        (dict(similarity='dot'), ValueError, r"similarity must be one of .*got 'dot'"),
        (dict(tap=''), ValueError, r'tap must be the name of a feature'),
        (dict(tap='backbone.decoder.1'), ValueError, r"'backbone\.decoder\.1': give its number"),
        (dict(COARSE, tap='backbone.decodr'), ValueError, r"Did you mean 'backbone\.decoder'"),
        (dict(in_channels=0), ValueError, r'in_channels must be a whole number >= 1, got 0'),
        (dict(bank=dict(size=0)), ValueError, r'bank: .*\.size must be a whole number >= 1, got 0'),
        (
            dict(bank=dict(num_push=1.5)),
            ValueError,
            r'bank: .*num_push must be a whole number',
        ),
        (dict(bank=dict(min_confidence=2)), ValueError, r'bank: .*min_confidence must be .*got 2'),
        (dict(bank=dict(sise=2)), TypeError, r"no argument 'sise'\. Did you mean 'size'"),
        (dict(bank=dict(channels=4)), ValueError, r'num_classes and channels follow from the seg'),
    ],
)
def test_wrong_arguments_of_the_weight(weighting, wrong, error, message):
    with pytest.raises(error, match=rf'model\.refiners\.weight: .*{message}'):
        weighting(wrong)


def test_features_of_another_width_are_refused(weighting, boxed):
    model = weighting(dict(COARSE, in_channels=5))
    message = r'model\.refiners\.weight .*have 8 channels, not 5: set in_channels=8'
    with pytest.raises(ValueError, match=message):
        run_step(model, boxed())
