from __future__ import annotations

import pytest
import torch

from mmseg_semi.models.refiners import ConfidenceThreshold

from ..steps import labeled_step


def test_threshold_selects_pixels_at_least_as_confident(build, batch):
    model = build()
    step = labeled_step(model, batch())
    expected = step.raw_pseudo.prob.amax(1) >= 0.6
    assert torch.equal(step.pseudo.selected, expected) and 0 < expected.float().mean() < 1
    assert step.raw_pseudo.selected.all(), 'refiners leave the raw pseudo-label alone'


@pytest.mark.parametrize('value', [-0.1, 1.1, float('nan'), None, 'high'])
def test_a_threshold_outside_its_range_is_refused(value):
    with pytest.raises(ValueError, match=r'ConfidenceThreshold.threshold .* in \[0, 1\], got'):
        ConfidenceThreshold(value)
