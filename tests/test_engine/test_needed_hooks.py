"""Components bring the hooks that they need; the config may list others, or some in vain."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from mmseg.registry import HOOKS, MODELS
from tool_runs import CONFIGS, load_checkpoint, load_config, text_log, train_scalars
from torch import nn

from mmseg_semi.engine.hooks import (
    ClassConfidenceHook,
    EMAThresholdHook,
    MeanTeacherHook,
    MemoryBankHook,
    state_hook,
)
from mmseg_semi.engine.semi_train_loop import register_needed_hooks
from mmseg_semi.models.refiners import BaseRefiner, EMAThreshold
from mmseg_semi.models.segmentors.building import needed_hooks
from tests.test_models.conftest import AEL

THRESHOLD = dict(select=dict(type='EMAThreshold', initial=0.3))
WEIGHT = dict(type='RankStatisticsWeight', k=2)
CONTRAST = dict(type='ContrastHead', hidden_channels=4, channels=4)
STATE_HOOKS = (
    'MeanTeacherHook',
    'EMAThresholdHook',
    'MemoryBankHook',
    'ClassConfidenceHook',
    'ImageBankHook',
)


@pytest.fixture(autouse=True)
def mmseg_scope():
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


class Runner:
    """What the loop and the hooks see of a runner."""

    def __init__(self, model: nn.Module, *hooks: Hook) -> None:
        self.model, self.hooks, self.iter = model, list(hooks), 0

    def register_hook(self, cfg: dict[str, Any]) -> None:
        self.hooks.append(HOOKS.build(cfg))

    @property
    def names(self) -> list[str]:
        return [type(hook).__name__ for hook in self.hooks]


def registered(model: nn.Module, *hooks: Hook) -> Runner:
    """A runner in whose config these hooks are listed, after the loop registered the others."""
    runner = Runner(model, *hooks)
    register_needed_hooks(runner)
    return runner


def begun(runner: Runner) -> Runner:
    for hook in runner.hooks:
        hook.before_train(runner)
    return runner


@pytest.mark.parametrize(
    'changes, names',
    [
        (dict(), []),
        (dict(teacher=dict(type='EMATeacher')), ['MeanTeacherHook']),
        (dict(refiners=THRESHOLD), ['EMAThresholdHook']),
        (dict(refiners=dict(weight=WEIGHT)), ['MemoryBankHook']),
        (dict(refiners=dict(first=WEIGHT, second=WEIGHT)), ['MemoryBankHook']),
        (
            dict(teacher=dict(type='EMATeacher'), heads=dict(contrast=CONTRAST)),
            ['MeanTeacherHook', 'MemoryBankHook'],
        ),
        (AEL, ['ClassConfidenceHook', 'ImageBankHook', 'MeanTeacherHook']),
    ],
)
def test_the_loop_registers_what_components_need_once(build, changes, names):
    runner = registered(build(**changes))
    assert sorted(runner.names) == names
    register_needed_hooks(runner)
    assert sorted(runner.names) == names


def test_the_wrapper_of_several_ranks_is_looked_into(build):
    model = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(model)
    model.module = build(refiners=THRESHOLD)
    assert registered(model).names == ['EMAThresholdHook']


def test_a_plain_segmentor_needs_none(build):
    assert registered(build().segmentor).names == []


def test_a_listed_hook_wins(build):
    listed = MemoryBankHook(start=5, interval=2)
    runner = begun(registered(build(refiners=dict(weight=WEIGHT)), listed))
    assert runner.hooks == [listed] and len(listed.parts) == 1


@HOOKS.register_module()
class OwnThresholdHookForTest(EMAThresholdHook):
    """A subclass, as a user would write it: moves in every second iteration."""

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        if runner.iter % 2:
            super().after_train_iter(runner, *args, **kwargs)


def test_a_subclass_of_a_hook_is_accepted(build):
    model = build(refiners=THRESHOLD)
    own = OwnThresholdHookForTest()
    runner = begun(registered(model, own))
    assert runner.hooks == [own] and own.parts == [model.refiners['select']]
    values = []
    for runner.iter in range(2):
        model.refiners['select']._pending = torch.full((3,), 0.9)
        own.after_train_iter(runner, runner.iter)
        values.append(float(model.refiners['select'].value))
    assert values[0] == 0.3 and values[1] == pytest.approx(0.999 * 0.3 + 0.001 * 0.9)


def test_a_listed_subclass_is_known_to_the_model_too(build, batch):
    model = build(refiners=THRESHOLD).train()
    data = model.data_preprocessor(batch(), True)
    with pytest.raises(RuntimeError, match='only EMAThresholdHook moves.*SemiTrainLoop'):
        model(**data, mode='loss')
    begun(Runner(model, OwnThresholdHookForTest()))
    assert model(**data, mode='loss')['strong.loss'].isfinite()


@pytest.mark.parametrize('hook', [EMAThresholdHook, MemoryBankHook, MeanTeacherHook])
@pytest.mark.parametrize('plain', [False, True], ids=['semi', 'plain'])
def test_a_listed_hook_without_component_is_left_out_with_one_line(build, monkeypatch, hook, plain):
    said = []
    monkeypatch.setattr(state_hook, 'print_log', lambda text, **_: said.append(text))
    model = build()
    model = model.segmentor if plain else model
    before = deepcopy(model.state_dict())
    runner = begun(registered(model, hook()))
    for runner.iter in range(3):
        runner.hooks[0].after_train_iter(runner, runner.iter)
    assert len(said) == 1 and said[0].startswith(f'{hook.__name__} is left out')
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Paced(BaseRefiner):
    """Needs the hook of memory banks with arguments of its own."""

    stage = 'weighting'

    def __init__(self, interval: int) -> None:
        super().__init__()
        self.hooks = (dict(type='MemoryBankHook', interval=interval),)

    def forward(self, pseudo: Any, outputs: Any, step: Any) -> Any:
        return pseudo


def test_arguments_of_a_components_hook_reach_it(build):
    (hook,) = registered(build(refiners=dict(one=Paced(3)))).hooks
    assert type(hook) is MemoryBankHook and hook.interval == 3


def test_components_that_need_one_hook_with_other_arguments_are_refused(build):
    model = build(refiners=dict(one=Paced(3), two=Paced(3), three=Paced(4)))
    message = r"model\.refiners\.three needs .*'interval': 4.*'interval': 3.*list .* custom_hooks"
    with pytest.raises(ValueError, match=message):
        registered(model)
    listed = MemoryBankHook(interval=5)
    assert registered(model, listed).hooks == [listed], 'as the message says'


def test_a_hook_that_does_not_exist_is_named(build):
    part = Paced(1)
    part.hooks = (dict(type='NoSuchHook'),)
    with pytest.raises(
        KeyError,
        match=r"one \(Paced\) needs the hook 'NoSuchHook', which is not",
    ):
        registered(build(refiners=dict(one=part)), ClassConfidenceHook())


def test_no_method_lists_a_hook_of_a_component():
    paths = [
        path
        for path in CONFIGS.rglob('*.py')
        if any(name in path.read_text() for name in STATE_HOOKS)
    ]
    assert paths == [] and len(list(CONFIGS.rglob('*.py'))) > 250


# ----------------------------------------------------------------------------------------- in runs
CORRMATCH = 'corrmatch/corrmatch_unet_digit-scenes-60.py'


def test_a_child_config_brings_another_refiner_and_takes_out_its_own(train):
    """CorrMatch's EMA threshold is replaced; a hook that the config lists in vain is no error."""
    fixed = dict(select=dict(_delete_=True, type='ConfidenceThreshold', threshold=0.6))
    hooks = [dict(type='DataCheckHook'), dict(type='EMAThresholdHook')]
    heads = dict(correlation=dict(in_channels=8))
    run = train(CORRMATCH, model=dict(refiners=fixed, heads=heads), custom_hooks=hooks)
    log = text_log(run.work_dir)
    assert log.count('EMAThresholdHook is left out: the model has no component') == 1
    assert 'refiners.select.value' not in load_checkpoint(run.checkpoint)['state_dict']


def test_a_run_moves_the_state_of_what_a_child_config_adds(train):
    """UniMatch with a second selection that has state; nothing is listed."""
    added = dict(moving=dict(type='EMAThreshold', initial=0.5, momentum=0.5))
    run = train(model=dict(refiners=added))
    values = [step['moving.threshold'] for step in train_scalars(run.work_dir).values()]
    assert values[0] == 0.5 and len(set(values)) == 8
    state = load_checkpoint(run.checkpoint)['state_dict']
    assert float(state['refiners.moving.value']) not in values
    listed = str(load_config(run.config).custom_hooks)
    assert not any(name in listed for name in STATE_HOOKS)


@HOOKS.register_module()
class NarrowHookForTest(EMAThresholdHook):
    """Moves the thresholds of one kind alone."""


@MODELS.register_module()
class NarrowThresholdForTest(EMAThreshold):
    hooks = (dict(type='NarrowHookForTest'),)


NarrowHookForTest.kind = NarrowThresholdForTest


@pytest.mark.parametrize('listed', [False, True])
def test_a_hook_of_a_narrower_kind_moves_that_alone(build, listed):
    both = dict(own=dict(type='NarrowThresholdForTest'), usual=dict(type='EMAThreshold'))
    model = build(refiners=both)
    runner = begun(registered(model, *[NarrowHookForTest()] * listed))
    assert sorted(runner.names) == ['EMAThresholdHook', 'NarrowHookForTest']
    moved = {type(hook).__name__: [one.name for one in hook.parts] for hook in runner.hooks}
    assert moved == dict(EMAThresholdHook=['usual'], NarrowHookForTest=['own'])


@HOOKS.register_module()
class PlainHookForTest(Hook):
    """No StateHook."""


@MODELS.register_module()
class WithPlainHookForTest(BaseRefiner):
    stage = 'selection'
    hooks = (dict(type='PlainHookForTest'),)

    def forward(self, pseudo, outputs, step):
        return pseudo


def test_any_hook_can_be_declared(build):
    model = build(refiners=dict(own=dict(type='WithPlainHookForTest')))
    runner = begun(registered(model))
    assert runner.names == ['PlainHookForTest'] and not needed_hooks(model, model._hooks_seen)


@pytest.mark.parametrize(
    'attribute, value, message',
    [
        ('hooks', dict(type='PlainHookForTest'), r'own \(.*hooks must be a tuple of configs'),
        ('stage', '', r"model\.refiners\.own \(.*its stage must be one of .*got ''"),
    ],
)
def test_a_component_declared_wrongly_is_named(build, monkeypatch, attribute, value, message):
    monkeypatch.setattr(WithPlainHookForTest, attribute, value)
    with pytest.raises(TypeError, match=message):
        registered(build(refiners=dict(own=dict(type='WithPlainHookForTest'))))
