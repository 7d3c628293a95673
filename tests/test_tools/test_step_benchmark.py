"""What a method's own operations cost in a step: its passes are found, and run again bare."""

from __future__ import annotations

import copy
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from tool_runs import load_tool

from mmseg_semi.benchmarks.frameworks import watched

tool = load_tool('benchmarks/step.py')


def passes_of(method, crop=32):
    config = tool.load_config(method, 'unet', crop)
    config.model.segmentor.decode_head.dropout_ratio = 0  # draws from torch's generator in a pass
    step = tool.TimedStep(config, 'cpu')
    step.set_data(tool.make_data(step.model, 2, crop))
    found = tool.Passes(step, 'cpu')
    found.note()
    return found


def images_in(given):
    return len(given if torch.is_tensor(given) else given[-1])


@pytest.fixture(scope='module')
def passes():
    return passes_of('unimatch')


def test_the_passes_of_a_step_are_found(passes):
    images = {'encoder': [], 'decoder': []}
    for one in passes.noted:
        assert one.grad, 'the student labels in the pass that trains'
        images[one.part].append(images_in(one.given))
    # Labeled, weak and two strong views of 2 images each. The maps of the first two are decoded
    # with their channels dropped, too, as in the released program.
    assert sum(images['encoder']) == 8 and sum(images['decoder']) == 12
    assert tool.segmentor_passes.encode.__module__ == tool.segmentor_passes.__name__


def test_bare_passes_run_the_same_images_and_train_all_weights(passes, monkeypatch):
    seen = []
    with ExitStack() as stack:
        for part in ('backbone', 'decode_head'):

            def note(given, run, part=part):
                seen.append((part, images_in(given)))
                return run()

            stack.enter_context(watched(getattr(passes.step.student, part), note))
        passes.bare()
    names = dict(encoder='backbone', decoder='decode_head')
    assert seen == [(names[one.part], images_in(one.given)) for one in passes.noted]
    monkeypatch.setattr(passes.step.optimizer, 'update_params', lambda loss: loss.backward())
    for one in passes.step.student.parameters():
        one.grad = None
    passes.bare()
    gradients = [one.grad for one in passes.step.student.parameters()]
    assert all(one is not None and torch.isfinite(one).all() for one in gradients)


def test_parts_sum_to_the_step(passes):
    passes.note()
    parts = passes.seconds
    assert set(parts) == {'encoder', 'decoder', 'backward and optimizer', 'the rest'}
    assert all(seconds > 0 for seconds in parts.values())


@pytest.mark.parametrize('method', tool.METHODS)
def test_own_operations_are_those_of_the_step(method, monkeypatch):
    """The same losses and the same gradients of the method's own layers; none in the network."""
    passes = passes_of(method, 64)
    model, losses, trained = passes.step.model, [], []
    monkeypatch.setattr(
        passes.step.optimizer, 'update_params', lambda loss: losses.append(loss) or loss.backward()
    )
    state = copy.deepcopy(model.state_dict())
    for run in (passes.note, passes.own):
        model.load_state_dict(state)
        model.zero_grad()
        torch.manual_seed(1)
        np.random.seed(1)
        run()
        trained.append({name: one.grad for name, one in model.named_parameters()})
    torch.testing.assert_close(losses[1], losses[0])
    whole, own = trained
    for name, gradient in own.items():
        if name.startswith('segmentor.'):
            assert gradient is None and whole[name] is not None
        else:
            torch.testing.assert_close(gradient, whole[name])


@pytest.mark.parametrize(
    ('method', 'images'),
    [
        # Labeled, weak and strong images of two each.
        ('corrmatch', dict(project=6, w1=6, w2=6)),
        # Labeled and mixed ones, and the teacher's labeled and weak ones.
        ('u2pl', dict(project=4, teacher_project=4)),
        ('unimatch', {}),
    ],
)
def test_layers_of_a_method_are_run_by_themselves(method, images):
    passes = passes_of(method, 64)
    passes.note_layers()
    names = {one: name.split('.')[2:] for name, one in passes.step.model.named_modules()}
    seen = {}
    for layer, given, wanted, grad in passes.layers:
        assert names[layer] and layer is not passes.step.student and grad >= wanted
        seen[names[layer][0], layer] = seen.get((names[layer][0], layer), 0) + len(given)
    assert {(name, count) for (name, _), count in seen.items()} == set(images.items())
    passes.own_layers()
    assert all(one.grad is None for layer, *_ in passes.layers for one in layer.parameters())


def test_the_table(capsys, tmp_path):
    out = tmp_path / 'table.md'
    size = ['--network', 'unet', '--crop', '48', '--batch', '2', '--step-repeats', '1']
    tool.main(['--method', 'mean_teacher', *size, '--out', str(out)])
    text = out.read_text()
    assert '| `mean_teacher` | own operations, by themselves, against the passes |' in text
    assert '| `mean_teacher` | time of a step against its passes |' in text
    memory = next(line for line in text.splitlines() if 'memory of a step' in line)
    step, bare, ratio = (float(cell.split()[0]) for cell in memory.split('|')[3:6])
    assert step > 0 and bare > 0 and ratio == pytest.approx(step / bare, abs=0.02)
