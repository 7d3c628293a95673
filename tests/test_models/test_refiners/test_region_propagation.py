from __future__ import annotations

import itertools

import pytest
import torch

from mmseg_semi.functional import propagate_regions, sample_shapes
from mmseg_semi.models.refiners import RegionPropagation
from mmseg_semi.models.refiners.region_propagation import BEFORE_PROPAGATION

from ..conftest import segmentor
from ..corrmatch import (
    COARSE,
    EMA,
    FIXED,
    HARD,
    PADDED,
    REGIONS,
    SOFT,
    head_cfg,
    reference_ce,
    reference_correlation,
    reference_maps,
)
from ..helpers import run_step
from ..steps import labeled_step


@pytest.mark.parametrize('strategy', ['random', 'uniform'])
@pytest.mark.parametrize('corners', [False, True])
def test_regions_equal_the_function_on_the_same_shapes(corrmatch, batch, strategy, corners):
    regions = dict(REGIONS, strategy=strategy)
    model = corrmatch(
        COARSE,
        refiners=dict(select=FIXED, regions=regions),
        segmentor=segmentor(align_corners=corners),
    )
    step = labeled_step(model, batch(**PADDED))
    before, refiner = step.refined['select'], model.refiners['regions']
    maps = model.heads['correlation'].maps_of(step.teacher, step)
    assert maps[0].shape == (3, 3, 8, 8) and not maps[0].requires_grad
    torch.manual_seed(5)
    after = refiner(before, step.teacher, step)
    torch.manual_seed(5)
    shapes = sample_shapes(*maps, 24, (32, 32), strategy, align_corners=corners)
    label, selected = propagate_regions(before.label, before.used, shapes, 0.4, 3)
    assert torch.equal(after.label, label) and not torch.equal(label, before.label)
    assert torch.equal(after.selected & after.valid, selected & before.valid)
    gained = (selected & before.valid).sum() - before.used.sum()
    assert gained > 0
    step.refined['regions'] = after
    refiner.observe(step)
    torch.testing.assert_close(step.figures['regions.gained'], gained / before.valid.sum())
    assert torch.equal(after.extras[BEFORE_PROPAGATION], before.selected)
    assert not torch.equal(after.extras[BEFORE_PROPAGATION], after.selected)
    assert torch.equal(after.confidence, before.confidence)


def test_shapes_come_from_the_weak_images_in_the_order_of_the_batch(corrmatch, batch):
    """Maps that labeled images come first in, and the strong views are no part of."""
    model = corrmatch(COARSE, refiners=dict(select=FIXED, regions=REGIONS))
    step = labeled_step(model, batch(**PADDED))
    features = [one.features[COARSE['tap']] for one in (step.labeled, step.weak)]
    expected = reference_maps(model.heads['correlation'], torch.cat(features))
    for ours, whole in zip(model.heads['correlation'].maps_of(step.teacher, step), expected):
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
        run_step(model, batch())
        if select is not FIXED:
            model.refiners['select'].value.fill_(0.45)
        run_step(model, batch())
        assert used == expected


def test_order_in_the_config_does_not_matter(corrmatch, batch):
    results = []
    for order in itertools.permutations(['select', 'regions']):
        parts = dict(select=FIXED, regions=REGIONS)
        model = corrmatch(COARSE, refiners={name: parts[name] for name in order})
        torch.manual_seed(3)
        results.append(run_step(model, batch(**PADDED))[1])
    assert results[0]['regions.gained'] > 0
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


def test_propagated_label_trains_every_stream(corrmatch, batch):
    """Both hard losses and the head's read the label and mask after propagation."""
    model = corrmatch(COARSE, refiners=dict(select=FIXED, regions=REGIONS))
    step, losses = run_step(model, batch(**PADDED))
    assert losses['regions.gained'] > 0
    _, unlabeled = reference_correlation(model, step, COARSE['tap'])
    torch.testing.assert_close(losses['correlation.loss'], unlabeled / 8)
    torch.testing.assert_close(
        losses['perturbed.loss'],
        reference_ce(step.streams['perturbed'][0].outputs.logits, step.pseudo) / 8,
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


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: RegionPropagation(num_shapes=True), 'num_shapes .* whole number >= 1, got True'),
        (lambda: RegionPropagation(threshold='x'), "RegionPropagation.threshold .* got 'x'"),
    ],
)
def test_wrong_types_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_after_mixing_only_the_views_own_pixels_are_propagated(corrmatch, batch):
    regions = dict(REGIONS, after_mixing=True)
    model = corrmatch(
        COARSE,
        refiners=dict(select=FIXED, regions=regions),
        mixer=dict(type='CutMix', prob=1.0),
        losses=dict(HARD, soft=SOFT),
    )
    torch.manual_seed(2)
    step, losses = run_step(model, batch(**PADDED))
    assert BEFORE_PROPAGATION not in step.pseudo.extras
    first = step.streams['strong'][0]
    seen = step.refined['regions']
    assert torch.equal(seen.label, first.pseudo.label), 'shown on the own pixels of the first view'
    assert torch.equal(seen.valid, first.pseudo.valid & ~first.mix.mask)
    shapes = step.shared[model.refiners['regions'], 'shapes']
    changed = 0
    for view in step.streams['strong']:
        mixed = step.pseudo.map(view.mix)
        own = mixed.valid & ~view.mix.mask
        label, selected = propagate_regions(mixed.label, mixed.used, shapes & own[:, None], 0.4, 3)
        assert torch.equal(view.pseudo.label, label)
        assert torch.equal(view.pseudo.used, selected & mixed.valid)
        assert torch.equal(view.pseudo.extras[BEFORE_PROPAGATION], mixed.selected)
        assert torch.equal(label[view.mix.mask], mixed.label[view.mix.mask]), 'pasted as they were'
        changed += int((view.pseudo.used != mixed.used).sum())
    assert changed > 0
    # Of the first view's own pixels.
    own, before = first.pseudo.valid & ~first.mix.mask, first.pseudo.extras[BEFORE_PROPAGATION]
    gained = int((first.pseudo.selected & ~before & own).sum())
    assert gained > 0
    assert float(losses['regions.gained']) == pytest.approx(gained / int(own.sum()))
    # The weak images keep their plain labels for all that reads them.
    assert step.streams['perturbed'][0].pseudo is step.pseudo


def test_all_images_share_the_positions_that_are_drawn_with_repetition(corrmatch, batch):
    model = corrmatch(
        COARSE, refiners=dict(select=FIXED, regions=dict(REGIONS, strategy='random_shared'))
    )
    step = labeled_step(model, batch(**PADDED))
    maps = model.heads['correlation'].maps_of(step.teacher, step)
    torch.manual_seed(7)
    shapes = sample_shapes(*maps, 200, (32, 32), 'random_shared')
    torch.manual_seed(7)
    index = torch.randint(64, (1, 200))
    assert len(index.unique()) < 200 > 64
    again = sample_shapes(*maps, 200, (32, 32), index=index.expand(3, -1))
    assert torch.equal(shapes, again)
