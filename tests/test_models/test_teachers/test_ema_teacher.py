from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from tool_runs import differing
from torch import nn

from mmseg_semi.engine.hooks import MeanTeacherHook
from mmseg_semi.models.teachers import EMATeacher
from mmseg_semi.models.teachers.ema_teacher import update_teacher

from ..helpers import hooked, logits_of, run_step, runner_of
from ..steps import clean_step


def with_teacher(build, **changes):
    return hooked(build(teacher=dict(type='EMATeacher'), **changes))


def test_pseudo_labels_come_from_the_teacher_in_eval_mode(build, batch):
    model = with_teacher(build)
    torch.manual_seed(1)
    for parameter in model.teacher.network.parameters():
        parameter.add_(torch.randn_like(parameter))
    model.train()
    assert not model.teacher.network.training and not model.teacher.network.decode_head.training
    step = clean_step(model, batch())
    before = {name: value.clone() for name, value in model.teacher.network.state_dict().items()}
    model.make_pseudo_label(step)
    expected = logits_of(model.teacher.network, step.weak_images).argmax(1)
    assert torch.equal(step.pseudo.label, expected)
    for name, value in model.teacher.network.state_dict().items():
        assert torch.equal(value, before[name]), f'{name} moved in a forward pass'


def test_gradients_reach_the_student_alone_and_the_teacher_is_in_no_optimizer(build, batch):
    model = with_teacher(build)
    total, _ = model.parse_losses(model(**model.data_preprocessor(batch(), True), mode='loss'))
    total.backward()
    assert all(p.grad is not None for p in model.segmentor.parameters())
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.network.parameters())
    ours = {id(p) for p in model.parameters()}
    assert ours == {id(p) for p in model.segmentor.parameters()}


def test_teacher_is_saved_and_restored_and_moves_with_the_model(build):
    model = with_teacher(build)
    model.teacher.network.decode_head.conv_seg.weight.fill_(3.0)
    state = deepcopy(model.state_dict())
    other = with_teacher(build)
    assert not other.load_state_dict(state).missing_keys
    assert (other.teacher.network.decode_head.conv_seg.weight == 3.0).all()
    assert other.double().teacher.network.decode_head.conv_seg.weight.dtype == torch.float64
    for key in [key for key in state if key.startswith('teacher.')]:
        del state[key]
    with pytest.raises(RuntimeError, match='teacher'):
        with_teacher(build).load_state_dict(state)


def test_update_teacher_is_the_formula_for_parameters_and_buffers(build):
    student, teacher = build().segmentor, build().segmentor
    torch.manual_seed(1)
    with torch.no_grad():
        for value in (*student.parameters(), *student.buffers()):
            value.copy_(torch.randn(value.shape).mul(10))
    old = deepcopy(teacher.state_dict())
    new = student.state_dict()
    for mode in ('ema', 'copy'):
        teacher.load_state_dict(old)
        update_teacher(teacher, student, 0.9, mode)
        for name, value in teacher.state_dict().items():
            copied = not value.is_floating_point() or (mode == 'copy' and 'running' in name)
            expected = new[name] if copied else 0.9 * old[name] + 0.1 * new[name]
            torch.testing.assert_close(value, expected, msg=name)
    with pytest.raises(ValueError, match="'mean'"):
        update_teacher(teacher, student, 0.9, 'mean')


def test_momentum_warms_up():
    teacher = EMATeacher(momentum=0.99)
    assert [teacher.momentum_at(t) for t in (0, 1, 3, 98, 99, 1000)] == pytest.approx(
        [0.0, 0.5, 0.75, 98 / 99, 0.99, 0.99]
    )
    assert teacher.momentum_at(-3) == 0.0, 'in the warm-up'
    assert EMATeacher(momentum=0.5, warm_up=False).momentum_at(0) == 0.5
    for wrong in (dict(momentum=1.0), dict(buffers='none'), dict(mode='test'), dict(warm_up=1)):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            EMATeacher(**wrong)


def test_a_teacher_without_its_hook_is_refused(build, batch):
    model = build(teacher=dict(type='EMATeacher'))
    with pytest.raises(RuntimeError, match='MeanTeacherHook.*custom_hooks'):
        model(**model.data_preprocessor(batch(), True), mode='loss')


def test_a_plain_checkpoint_starts_student_and_teacher(build):
    plain = build().segmentor
    plain.decode_head.conv_seg.bias.data.fill_(5.0)
    model = with_teacher(build)
    result = model.load_state_dict(plain.state_dict())
    assert not result.missing_keys and not result.unexpected_keys
    assert (model.segmentor.decode_head.conv_seg.bias == 5.0).all()
    assert (model.teacher.network.decode_head.conv_seg.bias == 5.0).all()


OWN = dict(
    teacher=dict(type='EMATeacher', buffers='own'),
    streams=dict(
        teacher_labeled=dict(images='labeled', network='teacher', mode='train', group='teacher'),
        teacher_strong=dict(images='strong', network='teacher', mode='train', group='teacher'),
    ),
    losses=dict(strong=dict(type='PseudoLabelCrossEntropy')),
)


def test_own_buffers_are_the_statistics_of_the_teachers_passes(build, batch):
    """They move at the end of the iteration, and never towards the student's."""
    model = hooked(build(**OWN)).train()
    hook = MeanTeacherHook()
    hook.before_train(runner_of(model, hooks=[]))
    network = model.teacher.network
    before = deepcopy(network.state_dict())
    copied = deepcopy(network).train()
    step, _ = run_step(model, batch())
    assert differing(network.state_dict(), before) == [], 'not in a forward pass'
    images = torch.cat([step.labeled_images, *(one.image for one in step.streams['strong'])])
    with torch.no_grad():
        copied.decode_head(copied.extract_feat(images))
    hook.after_train_iter(runner_of(model, 5), 5)
    after, wanted = network.state_dict(), copied.state_dict()
    means = [name for name in after if 'running' in name]
    assert means and any(not torch.equal(after[name], before[name]) for name in means)
    for name in means:
        torch.testing.assert_close(after[name], wanted[name], msg=name)
    student = model.segmentor.state_dict()
    assert any(not torch.allclose(after[name], student[name], atol=1e-4) for name in means)
    update_teacher(network, model.segmentor, 0.5, 'own')
    assert all(torch.equal(network.state_dict()[name], after[name]) for name in means)


def test_own_buffers_need_a_pass_in_training_mode(build, batch):
    model = hooked(build(**{**OWN, 'streams': None}))
    with pytest.raises(ValueError, match="buffers is 'own', but the teacher has no pass in mode"):
        run_step(model, batch())


def test_own_buffers_are_those_of_the_passes_that_label(build, batch):
    """In training, and not where images are labeled at a validation."""
    model = hooked(build(teacher=dict(type='EMATeacher', buffers='own', mode='train'))).train()
    network, images = model.teacher.network, model.data_preprocessor(batch(), True)['inputs']
    copied = deepcopy(network).train()
    with torch.no_grad():
        model.teacher.label(images['weak'])
        copied.decode_head(copied.extract_feat(images['weak']))
        model.eval()
        model.teacher.label(images['labeled'])
    before = deepcopy(network.state_dict())
    model.teacher.update_state()
    after, wanted = network.state_dict(), copied.state_dict()
    means = [name for name in after if 'running_mean' in name]
    assert means and all(not torch.equal(after[name], before[name]) for name in means)
    for name in means:
        torch.testing.assert_close(after[name], wanted[name], msg=name)


def test_the_teacher_is_the_student_in_the_warm_up_and_where_it_is_told(build, batch):
    """3 warm-up iterations and an epoch of 2 are copied; the average counts from the warm-up."""
    model = hooked(build(teacher=dict(type='EMATeacher', copy_epochs=1), warmup_iters=3))
    hook = MeanTeacherHook()
    hook.before_train(runner_of(model, hooks=[]))
    weight = model.segmentor.decode_head.conv_seg.weight
    found = []
    for iteration in range(7):
        model.set_progress(iteration, 10, iters_per_epoch=2)
        with torch.no_grad():
            weight.fill_(iteration)
        hook.after_train_iter(runner_of(model, iteration), iteration)
        found.append(float(model.teacher.network.decode_head.conv_seg.weight[0, 0]))
    # t = 2 and 3 after the warm-up: momenta 2/3 and 3/4.
    fifth = 4 + (5 - 4) / 3
    assert found == pytest.approx([0, 1, 2, 3, 4, fifth, fifth + (6 - fifth) / 4])
    model.set_progress(4, 10)
    with pytest.raises(RuntimeError, match='copy_epochs=1 needs to know how long an epoch is'):
        run_step(model, batch())


@pytest.mark.parametrize('accumulated', [1, 2])
def test_from_start_averages_in_the_warm_up_too(build, accumulated):
    """Momenta 1/10, 2/11, 3/12, ..., of updates that are counted from the run's first."""
    teacher = dict(type='EMATeacher', momentum=0.35, from_start=True)
    model = hooked(build(teacher=teacher, warmup_iters=4))
    hook = MeanTeacherHook()
    runner = runner_of(model, hooks=[])
    hook.before_train(runner)
    wrapper = SimpleNamespace(_accumulative_counts=accumulated)
    weight = model.segmentor.decode_head.conv_seg.weight
    average = float(model.teacher.network.decode_head.conv_seg.weight[0, 0])
    for update in range(8):
        for part in range(accumulated):
            runner = runner_of(model, update * accumulated + part)
            wrapper.should_update = lambda part=part: part == accumulated - 1
            runner.optim_wrapper = wrapper
            with torch.no_grad():
                weight.fill_(update)
            hook.after_train_iter(runner, runner.iter)
        m = min((1 + update) / (10 + update), 0.35)
        average = m * average + (1 - m) * update
        found = float(model.teacher.network.decode_head.conv_seg.weight[0, 0])
        assert found == pytest.approx(average, rel=1e-5)
    assert m == 0.35, 'the limit has been reached'


def statistics_of_a_rank(rank, values):
    """Of a network that is one normalization, after a pass over pixels of one value."""
    teacher = EMATeacher(buffers='own')
    teacher.set_network(nn.BatchNorm2d(1))
    with torch.no_grad(), teacher.in_mode('train') as network:
        network(torch.full((2, 1, 2, 2), values[rank]))
    teacher.update_state()
    return [teacher.network.running_mean.item(), teacher.network.num_batches_tracked.item()]


def test_two_ranks_have_one_mean_of_their_own_statistics(on_two_ranks):
    """A tenth of 1 and of 5, on the mean."""
    first, second = on_two_ranks(statistics_of_a_rank, [1.0, 5.0])
    assert first == second == pytest.approx([0.3, 1])
