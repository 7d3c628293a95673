"""Moving averages of the mean feature of each class."""

from __future__ import annotations

import pytest
import torch

from mmseg_semi.models.memories import ClassPrototypes


@pytest.mark.parametrize('momentum', [0.0, 0.75, 1.0])
def test_prototypes_are_moving_averages(momentum):
    prototypes = ClassPrototypes(3, 2, momentum)
    means = torch.randn(4, 3, 2)
    present = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 1, 0]]).bool()
    expected = [None] * 3
    for new, there in zip(means, present):
        for c in range(3):
            if there[c]:
                old = expected[c]
                expected[c] = new[c] if old is None else momentum * old + (1 - momentum) * new[c]
        prototypes.note(new + 1, there)
        prototypes.discard()
        given = prototypes.note(new, there)
        prototypes.update_state()
        for c in range(3):
            wanted = torch.zeros(2) if expected[c] is None else expected[c]
            torch.testing.assert_close(prototypes.means[c], wanted)
            torch.testing.assert_close(given[c], wanted)
    assert prototypes.known.tolist() == [True, True, False]
