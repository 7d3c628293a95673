"""A hook that moves state stands once in a config."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmseg_semi.engine.hooks import ImageBankHook, MeanTeacherHook
from mmseg_semi.models import ClassAwareCutMix


def model_with(mixer: nn.Module | None = None) -> nn.Module:
    model = nn.Module()
    model.teacher, model.mixer = nn.Linear(1, 1), mixer
    return model


def mixer() -> ClassAwareCutMix:
    mixer = ClassAwareCutMix()
    mixer.register_buffer('bank', torch.zeros(0, 2, dtype=torch.uint8))
    return mixer


@pytest.mark.parametrize(
    'kind, model', [(MeanTeacherHook, model_with()), (ImageBankHook, model_with(mixer()))]
)
def test_a_second_hook_is_refused(kind, model):
    hooks = [kind(), kind()]
    runner = SimpleNamespace(model=model, hooks=hooks, iter=0)
    for hook in hooks:
        with pytest.raises(ValueError, match=f'custom_hooks has {kind.__name__} more than once'):
            hook.before_train(runner)
