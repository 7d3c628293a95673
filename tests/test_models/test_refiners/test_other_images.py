"""Refiners on images besides the batch: the same rule, and nothing is changed or remembered."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from tool_runs import differing

from mmseg_semi.functional import propagate_regions, refine_neighborhood, sample_shapes
from mmseg_semi.structures import PseudoLabel

from ..conftest import UNIMATCH
from ..helpers import run_step
from ..weighting_parts import (
    AGREE,
    SURE,
    WEIGHT,
    K,
    after,
    bank_of,
    hook_of,
    prototypes_of,
    queues_of,
    rank_weight,
)

TAU = 0.42
REGIONS = dict(type='RegionPropagation', num_shapes=9, strategy='uniform', threshold=0.4)
PARTS = dict(
    teacher=dict(type='EMATeacher'),
    heads=dict(correlation=dict(type='CorrelationHead', hidden_channels=4, dropout=0.5)),
    losses=UNIMATCH['losses'],
    refiners=dict(
        context=dict(type='NeighborhoodRefiner', beta=0.2),
        select=dict(type='EMAThreshold', initial=TAU, momentum=0.5, update='mean'),
        regions=REGIONS,
        agreement=AGREE,
        weight=WEIGHT,
    ),
)
SIZES = dict(unlabeled=((32, 32), (20, 32), (32, 24)))


@pytest.fixture
def model_after_steps(weighting, boxed):
    """A model that has made some steps, and the last of them, before its hooks have moved it."""

    def make():
        model = weighting(**PARTS)
        hook = hook_of(model)
        torch.manual_seed(2)
        for seed in range(2):
            run_step(model, boxed(seed=seed))
            after(hook, model)
        step, _ = run_step(model, boxed(seed=5))
        return model, step

    return make


def others_of(model, boxed):
    """Three further images as ``load_partners`` labels them: their outputs and raw pseudo-label."""
    inputs = model.data_preprocessor(boxed(seed=9, **SIZES), True)['inputs']
    with torch.no_grad():
        outputs = model.teacher.label(inputs['weak'])
    pseudo = PseudoLabel.from_logits(outputs.logits, inputs['valid'])
    pseudo.extras.update(inputs['maps'])
    return outputs, pseudo


def snapshot(model, step):
    """Everything that a refiner could change."""
    fields = [step.raw_pseudo, step.pseudo, *step.refined.values()]
    return deepcopy(
        dict(
            state=dict(model.state_dict()),
            pending=[model.refiners['select']._pending, *map(list, bank_of(model)._pending)],
            figures=step.figures,
            refined=list(step.refined),
            pseudo=[{k: v for k, v in vars(one).items() if v is not None} for one in fields],
            shared=len(step.shared),
        )
    )


def test_nothing_is_changed_or_remembered(model_after_steps, boxed):
    model, step = model_after_steps()
    outputs, raw = others_of(model, boxed)
    given = deepcopy(vars(raw))
    before, random = snapshot(model, step), torch.get_rng_state()
    with torch.no_grad():
        refined = model.refine(raw, outputs, step)
    assert refined.weight is not None and 'selected_before_propagation' in refined.extras
    assert differing(before, snapshot(model, step)) == []
    assert torch.equal(random, torch.get_rng_state())
    assert differing(vars(raw), given) == [], 'what was given stays'
    assert model.heads['correlation'].training and model.heads['correlation'].project.training
    # What the hooks then move is what they move without the further images.
    twin, _ = model_after_steps()
    for one in (model, twin):
        torch.manual_seed(3)
        after(hook_of(one), one)
        one.refiners['select'].update_state()
    assert differing(dict(model.state_dict()), dict(twin.state_dict())) == []
    assert float(model.refiners['select'].value) != TAU and bank_of(model).counts.any()


def test_the_rule_is_that_of_the_batch(model_after_steps, boxed):
    model, step = model_after_steps()
    outputs, raw = others_of(model, boxed)
    with torch.no_grad():
        refined = model.refine(raw, outputs, step)
        head = deepcopy(model.heads['correlation']).eval()
        hidden = head.project(outputs.features['encoder'])
        w1, w2 = head.w1(hidden), head.w2(hidden)
    prob = refine_neighborhood(raw.prob * raw.valid[:, None], beta=0.2)
    confidence, label = prob.max(1)
    selected = raw.valid & (confidence >= TAU)
    shapes = sample_shapes(w1, w2, 9, (32, 32), 'uniform')
    spread, gained = propagate_regions(label, selected, shapes, 0.4, 3)
    assert (gained & ~selected & raw.valid).any() and not torch.equal(spread, label)
    assert torch.equal(refined.label, spread)
    assert torch.equal(refined.selected, selected | gained)
    assert torch.equal(refined.extras['selected_before_propagation'], selected)
    boxes = raw.extras['detections'][:, 0].int()
    agreed = ((boxes >> spread) & 1 == 1) & raw.valid
    assert torch.equal(refined.reliable, agreed & (confidence > SURE)) and refined.reliable.any()
    prototypes = prototypes_of(queues_of(bank_of(model)))
    weight = rank_weight(outputs.features['penultimate'], spread, prototypes, K)
    torch.testing.assert_close(refined.weight, weight)
    assert 0 < weight.mean() < 1
