"""Teachers that a user writes and registers: a frozen network, and one made of two moving ones."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.runner.checkpoint import load_state_dict
from mmseg.registry import MODELS
from tool_runs import differing
from torch import nn

from mmseg_semi.engine.hooks import MeanTeacherHook
from mmseg_semi.models.segmentors.building import needed_hooks
from mmseg_semi.models.teachers import BaseTeacher, EMATeacher
from mmseg_semi.zoo import extract_segmentor

from ..conftest import UNIMATCH
from ..helpers import hooked, logits_of, run_step, runner_of, shake


@MODELS.register_module()
class FrozenTeacherForTest(BaseTeacher):
    """A wider network of other weights, which stays as it is."""

    def __init__(self, channels=8):
        super().__init__()
        self.channels = channels

    def attach(self, model):
        self._model = (model,)
        segmentor = deepcopy(model.segmentor_cfg)
        segmentor['decode_head']['channels'] = self.channels
        self.set_network(MODELS.build(segmentor))

    def label(self, images):
        return self._model[0].run(images, self.network)


@MODELS.register_module()
class TwoTeachersForTest(BaseTeacher):
    """The mean of the logits of a fast and a slow one."""

    hooks = EMATeacher.hooks

    def __init__(self, fast=0.5, slow=0.9):
        super().__init__()
        self.fast = EMATeacher(fast, warm_up=False)
        self.slow = EMATeacher(slow, warm_up=False)

    def attach(self, model):
        for part in self.children():
            part.attach(model)

    def label(self, images):
        first, second = (part.label(images) for part in self.children())
        stages = [(a + b) / 2 for a, b in zip(first.stages, second.stages)]
        return replace(first, stages=stages)

    def reset(self):
        for part in self.children():
            part.reset()

    def move(self, update):
        for part in self.children():
            part.move(update)


FROZEN = dict(type='FrozenTeacherForTest')
TWO = dict(type='TwoTeachersForTest')


def train(model, batch, hook, iterations):
    """Some updates, the teacher moved by a hook after each; the student after each of them."""
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.05))
    students = []
    for iteration in iterations:
        model.train_step(batch(seed=iteration), optimizer)
        hook.after_train_iter(runner_of(model, iteration), iteration)
        students.append(deepcopy(model.segmentor.state_dict()))
    return students


# ------------------------------------------------------------------------------------------ frozen
def test_a_frozen_teacher_labels_and_stays_as_it_is(build, batch):
    model = build(teacher=FROZEN).train()
    assert needed_hooks(model) == [], 'nothing moves it'
    network = model.teacher.network
    shake(network)
    before = deepcopy(network.state_dict())
    step, losses = run_step(model, batch())
    torch.testing.assert_close(step.teacher.logits, logits_of(network, step.weak_images))
    assert torch.equal(step.pseudo.label, step.teacher.logits.argmax(1))
    assert not torch.equal(step.pseudo.label, step.weak.logits.argmax(1))
    model.parse_losses(losses)[0].backward()
    assert not any(value.requires_grad for value in network.parameters())
    assert not {id(p) for p in network.parameters()} & {id(p) for p in model.parameters()}
    # A hook that the config lists finds nothing to do.
    hook = MeanTeacherHook()
    hook.before_train(runner_of(model))
    train(model, batch, hook, range(2))
    assert differing(dict(before), dict(network.state_dict())) == []
    assert not network.training


def test_a_frozen_teacher_is_saved_restored_and_moved(build):
    model, other = build(teacher=FROZEN), build(teacher=FROZEN)
    shake(model.teacher.network)
    state = deepcopy(model.state_dict())
    assert sum(key.startswith('teacher.') for key in state) == len(
        model.teacher.network.state_dict()
    )
    result = other.load_state_dict(state)
    assert not result.missing_keys and not result.unexpected_keys
    assert differing(dict(state), dict(other.state_dict())) == []
    assert other.double().teacher.network.decode_head.conv_seg.weight.dtype == torch.float64
    for wrong, message in (
        (build(teacher=dict(FROZEN, channels=6)), 'teacher: .*size mismatch'),
        (build(), 'teacher.backbone'),
    ):
        with pytest.raises(RuntimeError, match=f'(?s){message}'):
            wrong.load_state_dict(state)
    del state['teacher.decode_head.conv_seg.bias']
    with pytest.raises(RuntimeError, match=r'Missing key.*"teacher\.decode_head\.conv_seg\.bias"'):
        build(teacher=FROZEN).load_state_dict(state)


def test_a_plain_checkpoint_starts_the_student_and_not_a_frozen_teacher(build):
    plain = build().segmentor
    shake(plain)
    model = build(teacher=FROZEN)
    before = deepcopy(model.teacher.network.state_dict())
    load_state_dict(model, plain.state_dict(), strict=False)
    assert differing(dict(plain.state_dict()), dict(model.segmentor.state_dict())) == []
    assert differing(dict(before), dict(model.teacher.network.state_dict())) == []


def test_a_frozen_teacher_predicts(build, batch):
    def predict(who):
        model = build(teacher=FROZEN, test_cfg=dict(predict_with=who)).eval()
        model.teacher.network.decode_head.conv_seg.bias.data[2] += 100.0
        model.segmentor.decode_head.conv_seg.bias.data[1] += 100.0
        return model.test_step(batch()['labeled'])

    assert all((result.pred_sem_seg.data == 1).all() for result in predict('student'))
    assert all((result.pred_sem_seg.data == 2).all() for result in predict('teacher'))
    for result in predict('both'):
        assert (result.pred_sem_seg.data == 1).all()
        assert (result.teacher_pred_sem_seg.data == 2).all()


def test_a_teacher_that_does_not_move_refuses_to_move_others(build):
    heads = dict(contrast=dict(type='ContrastHead', hidden_channels=4, channels=4))
    message = r'model\.heads\.contrast: FrozenTeacherForTest moves no modules.*EMATeacher'
    with pytest.raises(ValueError, match=message):
        build(teacher=FROZEN, heads=heads)


# --------------------------------------------------------------------------------------------- two
def moved(old, student, momentum):
    """The state of a teacher after an update, by hand."""
    return {
        name: momentum * value + (1 - momentum) * student[name]
        if value.is_floating_point()
        else student[name]
        for name, value in old.items()
    }


def states_of(model):
    return [deepcopy(dict(part.network.state_dict())) for part in model.teacher.children()]


def begun(build, **changes):
    """A model with two teachers, and its hook at the start of a run."""
    model = build(teacher=TWO, **changes).train()
    (needed,) = needed_hooks(model)
    assert needed == dict(type='MeanTeacherHook'), 'once, although both need it'
    hook = MeanTeacherHook()
    hook.before_train(runner_of(model))
    return model, hook


def test_two_teachers_label_together_and_move_each_for_itself(build, batch):
    model, hook = begun(build)
    start = dict(model.segmentor.state_dict())
    expected = [deepcopy(start), deepcopy(start)]
    assert all(differing(start, state) == [] for state in states_of(model))
    for student in train(model, batch, hook, range(3)):
        expected = [moved(old, student, m) for old, m in zip(expected, (0.5, 0.9))]
    for state, wanted in zip(states_of(model), expected):
        assert state.keys() == wanted.keys()
        for name, value in state.items():
            torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=1e-6, msg=name)
    first, second = (part.network for part in model.teacher.children())
    assert not torch.equal(first.decode_head.conv_seg.weight, second.decode_head.conv_seg.weight)
    step, losses = run_step(model, batch(seed=7))
    both = (logits_of(one, step.weak_images) for one in (first, second))
    torch.testing.assert_close(step.teacher.logits, sum(both) / 2)
    model.parse_losses(losses)[0].backward()
    ours = {id(p) for p in model.parameters()}
    assert ours == {id(p) for p in model.segmentor.parameters()}


def test_two_teachers_go_on_where_they_were(build, batch):
    whole, hook = begun(build)
    train(whole, batch, hook, range(4))
    first, hook = begun(build)
    train(first, batch, hook, range(2))
    state = deepcopy(first.state_dict())
    count = len(first.segmentor.state_dict())
    for name in ('fast', 'slow'):
        assert sum(key.startswith(f'teacher.{name}.') for key in state) == count
    second = build(teacher=TWO).train()
    result = second.load_state_dict(state)
    assert not result.missing_keys and not result.unexpected_keys
    hook = MeanTeacherHook()
    hook.before_train(runner_of(second, 2))
    train(second, batch, hook, range(2, 4))
    assert differing(dict(whole.state_dict()), dict(second.state_dict())) == []


def test_a_plain_checkpoint_starts_both(build):
    plain = build().segmentor
    shake(plain)
    model = build(teacher=TWO)
    result = model.load_state_dict(plain.state_dict())
    assert not result.missing_keys and not result.unexpected_keys
    for state in (dict(model.segmentor.state_dict()), *states_of(model)):
        assert differing(dict(plain.state_dict()), state) == []


@pytest.mark.parametrize('who', ['teacher', 'both'])
def test_two_teachers_without_a_network_do_not_predict(build, who):
    with pytest.raises(ValueError, match=f"predict_with='{who}' needs a teacher with a network"):
        build(teacher=TWO, test_cfg=dict(predict_with=who))


def test_two_teachers_without_a_network_are_not_extracted(build, tmp_path):
    model = {**deepcopy(UNIMATCH), 'teacher': TWO}
    Config(dict(model=model, default_scope='mmseg')).dump(str(tmp_path / 'run.py'))
    torch.save(dict(state_dict=build(teacher=TWO).state_dict()), tmp_path / 'run.pth')
    files = [str(tmp_path / 'run.pth'), '--out', str(tmp_path / 'out.pth')]
    message = r'--which teacher: .* made of others \(fast, slow\) .* use --which student$'
    with pytest.raises(SystemExit, match=message):
        extract_segmentor.main([*files, '--which', 'teacher'])
    assert not (tmp_path / 'out.pth').exists()
    extract_segmentor.main(files)
    assert (tmp_path / 'out.pth').is_file()


def test_two_teachers_need_their_hook(build, batch):
    model = build(teacher=TWO)
    with pytest.raises(RuntimeError, match='MeanTeacherHook.*custom_hooks'):
        run_step(model, batch())
    run_step(hooked(model), batch())


def test_a_teacher_may_be_an_object(build):
    teacher = EMATeacher(momentum=0.5)
    model = build(teacher=teacher)
    assert model.teacher is teacher and isinstance(teacher.network, nn.Module)
    assert not any(name.startswith('teacher') for name, _ in model.named_parameters())


@MODELS.register_module()
class CountingTeacherForTest(EMATeacher):
    """Has a buffer and a layer of its own beside the network, and looks at every step."""

    def __init__(self):
        super().__init__(warm_up=False)
        self.register_buffer('count', torch.zeros(()))
        self.layer = nn.Linear(2, 2)

    def observe(self, step):
        self.count += 1
        step.log(f'{self.name}.count', self.count)


def test_what_a_teacher_holds_beside_its_network_is_saved_and_loaded(build, batch):
    teacher = dict(type='CountingTeacherForTest')
    model = hooked(build(teacher=teacher))
    _, losses = run_step(model, batch())
    assert losses['teacher.count'] == 1
    shake(model.teacher.network)
    other = build(teacher=teacher)
    result = other.load_state_dict(model.state_dict())
    assert not result.missing_keys and not result.unexpected_keys
    assert other.teacher.count == 1
    assert differing(other.state_dict(), model.state_dict(), '') == []


@pytest.mark.parametrize(
    ('out', 'what'), [('run/iter_2.pth', 'checkpoint'), ('my_config.pth', 'config')]
)
def test_the_sources_are_never_overwritten(out, what, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        extract_segmentor.parse_args(['run/iter_2.pth', '--out', out, '--config', 'my_config.py'])
    assert f'would be written in the place of the {what}' in capsys.readouterr().err
