"""A hook that moves state stands once in a config; the teacher moves once an update."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmseg.registry import MODELS
from tool_runs import EMA, load_checkpoint, merged
from torch import nn

from mmseg_semi.engine.hooks import ImageBankHook, MeanTeacherHook
from mmseg_semi.models import ClassAwareCutMix
from mmseg_semi.models.teachers import EMATeacher


class Net(nn.Module):
    """What hooks see of a ``SemiSegmentor`` whose student is one weight."""

    frozen_encoder = False

    def __init__(self, mixer: nn.Module | None = None, **teacher: Any) -> None:
        super().__init__()
        self.segmentor_cfg = dict(type='OneWeightForTest')
        self.segmentor = MODELS.build(self.segmentor_cfg)
        self.mixer, self.seen = mixer, []
        self.teacher = EMATeacher(**teacher)
        self.teacher.attach(self)

    def hook_attached(self, hook: Hook) -> None:
        self.seen.append(hook)


@MODELS.register_module()
class OneWeightForTest(nn.Linear):
    """A network of one weight, 8 at the start."""

    def __init__(self) -> None:
        super().__init__(1, 1, bias=False)
        self.weight.data.fill_(8.0)


def mixer() -> ClassAwareCutMix:
    mixer = ClassAwareCutMix()
    mixer.register_buffer('bank', torch.zeros(0, 2, dtype=torch.uint8))
    return mixer


class OwnTeacherHook(MeanTeacherHook):
    """A subclass, as a user would write it."""


class OwnBankHook(ImageBankHook):
    """A subclass, as a user would write it."""


@pytest.mark.parametrize(
    'kind, other',
    [
        (MeanTeacherHook, MeanTeacherHook),
        (ImageBankHook, ImageBankHook),
        (MeanTeacherHook, OwnTeacherHook),
        (ImageBankHook, OwnBankHook),
    ],
)
def test_a_second_hook_is_refused(kind, other):
    hooks = [kind(), other()]
    runner = SimpleNamespace(model=Net(mixer()), hooks=hooks, iter=0)
    for hook in hooks[: 2 if kind is other else 1]:
        with pytest.raises(ValueError, match=f'custom_hooks has {kind.__name__} more than once'):
            hook.before_train(runner)


@pytest.mark.parametrize(
    'counts, warm_up, teachers',
    [
        # The student is 7, 6, 5, ... after the updates. Momenta 0, 0.5, 0.5: 7, 6.5, 5.75.
        (3, True, [8, 8, 7, 7, 7, 6.5, 6.5, 5.75]),
        # Four updates: 7.5, 6.75, 5.875, 4.9375.
        (2, False, [8, 7.5, 7.5, 6.75, 6.75, 5.875, 5.875, 4.9375]),
        (1, True, [7, 6.5, 5.75, 4.875, 3.9375, 2.96875, 1.984375, 0.9921875]),
    ],
)
def test_the_teacher_moves_once_an_update(counts, warm_up, teachers):
    """Eight iterations; with three an update the last one has the two that are left."""
    model = Net(momentum=0.5, warm_up=warm_up)
    optimizer = torch.optim.SGD(model.segmentor.parameters(), lr=1.0)
    wrapper = OptimWrapper(optimizer, accumulative_counts=counts)
    wrapper.initialize_count_status(model, 0, 8)
    runner = SimpleNamespace(model=model, iter=0, hooks=[], optim_wrapper=wrapper)
    hook = MeanTeacherHook()
    hook.before_train(runner)
    found = []
    for runner.iter in range(8):
        wrapper.update_params(model.segmentor(torch.ones(1, 1)).sum())
        hook.after_train_iter(runner, runner.iter)
        found.append(model.teacher.network.weight.item())
    assert found == teachers and model.seen == [hook]


def test_a_run_that_accumulates_gradients(train):
    """Checkpoints of iterations 2, 4, 6, 8 are those of updates 1, 2, 3, 4."""
    run = train(**merged(EMA, dict(optim_wrapper=dict(accumulative_counts=2))))
    states = [load_checkpoint(run.work_dir / f'iter_{i}.pth')['state_dict'] for i in (2, 4, 6, 8)]
    names = [key[len('teacher.') :] for key in states[0] if key.startswith('teacher.')]
    names = [name for name in names if states[0][f'teacher.{name}'].is_floating_point()]
    assert len(names) > 10 and any('running_var' in name for name in names)
    for name in names:
        assert torch.equal(states[0][f'teacher.{name}'], states[0][f'segmentor.{name}']), name
    for before, after, momentum in zip(states, states[1:], (0.5, 0.6, 0.6)):
        for name in names:
            old, new = before[f'teacher.{name}'], after[f'segmentor.{name}']
            wanted = momentum * old + (1 - momentum) * new
            torch.testing.assert_close(after[f'teacher.{name}'], wanted, rtol=1e-5, atol=1e-6)
        assert any(
            not torch.equal(before[f'segmentor.{n}'], after[f'segmentor.{n}']) for n in names
        )
