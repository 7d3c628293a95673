"""The accuracy that heads log: mmseg's number, without its sorting."""

from __future__ import annotations

import pytest
import torch
from mmseg.models.decode_heads import decode_head
from mmseg.models.losses import accuracy

from mmseg_semi.functional import pixel_accuracy


@pytest.mark.parametrize('ignored', [None, 255])
@pytest.mark.parametrize('known', [0.0, 0.6, 1.0])
def test_it_is_the_same_number(known, ignored):
    source = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 13, 17, generator=source)
    label = torch.randint(5, (2, 13, 17), generator=source)
    label[torch.rand(label.shape, generator=source) >= known] = 255
    found, wanted = (f(logits, label, ignore_index=ignored) for f in (pixel_accuracy, accuracy))
    assert found.shape == wanted.shape == (1,)
    torch.testing.assert_close(found, wanted)


def test_heads_log_it():
    assert decode_head.accuracy is pixel_accuracy
