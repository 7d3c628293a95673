"""A hook that moves state stands once in a config; the teacher moves once an update."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper
from tool_runs import EMA, load_checkpoint, merged
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


class Student(nn.Module):
    """A student of one weight, and its teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.segmentor, self.teacher = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        self.heads, self.seen = nn.ModuleDict(), []
        for one in (self.segmentor, self.teacher):
            one.weight.data.fill_(8.0)

    def hook_attached(self, name: str) -> None:
        self.seen.append(name)

    def reset_teacher(self) -> None:
        self.teacher.load_state_dict(self.segmentor.state_dict())


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
    model = Student()
    optimizer = torch.optim.SGD(model.segmentor.parameters(), lr=1.0)
    wrapper = OptimWrapper(optimizer, accumulative_counts=counts)
    wrapper.initialize_count_status(model, 0, 8)
    runner = SimpleNamespace(model=model, iter=0, hooks=[], optim_wrapper=wrapper)
    hook = MeanTeacherHook(momentum=0.5, warm_up=warm_up)
    hook.before_train(runner)
    found = []
    for runner.iter in range(8):
        wrapper.update_params(model.segmentor(torch.ones(1, 1)).sum())
        hook.after_train_iter(runner, runner.iter)
        found.append(model.teacher.weight.item())
    assert found == teachers


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
