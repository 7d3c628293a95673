"""CSL's weight in a training step."""

from __future__ import annotations

import pytest
import torch

from mmseg_semi.functional import separation_weight
from mmseg_semi.models.refiners import SeparationWeight

from ..helpers import run_step

SEPARATE = dict(type='SeparationWeight')


def test_it_takes_the_place_of_a_threshold(build, batch):
    model = build(refiners=dict(separate=SEPARATE))
    step, losses = run_step(model, batch())
    weight = separation_weight(step.raw_pseudo.prob, step.valid)
    assert torch.equal(step.pseudo.weight, weight) and 0 < weight[step.valid].min() < 1
    assert torch.equal(step.pseudo.selected, step.valid)
    mean = (weight * step.valid).sum() / step.valid.sum()
    assert float(losses['separate.mean']) == pytest.approx(float(mean))


def test_weights_multiply(build, batch):
    both = dict(a=SEPARATE, b=dict(SEPARATE, alpha=2.0))
    step, _ = run_step(build(refiners=both), batch())
    first, second = (separation_weight(step.raw_pseudo.prob, step.valid, alpha=a) for a in (8, 2))
    assert torch.equal(step.pseudo.weight, first * second)


def test_refined_probabilities_count_by_their_shares():
    prob = torch.rand(2, 4, 5, 6, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    valid = torch.ones(2, 5, 6, dtype=torch.bool)
    more = prob * (1 + torch.rand(2, 1, 5, 6, generator=torch.Generator().manual_seed(1)))
    weight = separation_weight(more, valid)
    torch.testing.assert_close(weight, separation_weight(prob, valid), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(weight, torch.ones_like(weight), atol=0.1)


@pytest.mark.parametrize(('name', 'value'), [('alpha', 0), ('variance_weight', -1)])
def test_arguments_outside_their_values(name, value):
    with pytest.raises(ValueError, match=f'SeparationWeight.{name} must be a number'):
        SeparationWeight(**{name: value})
