"""What a method's own operations cost in a step: its passes are found, and run again bare."""

from __future__ import annotations

import pytest
import torch
from tool_runs import load_tool

tool = load_tool('benchmarks/step.py')


@pytest.fixture(scope='module')
def passes():
    step = tool.TimedStep(tool.load_config('unimatch', 'unet', 32), 'cpu')
    step.set_data(tool.make_data(step.model, 2, 32))
    found = tool.Passes(step)
    found.note()
    return found


def test_the_passes_of_a_step_are_found(passes):
    images = {'backbone': [], 'decode_head': []}
    for _, part, inputs, grad in passes.noted:
        assert grad, 'the student labels in the pass that trains'
        images[part].append(len(inputs) if part == 'backbone' else len(inputs[-1]))
    # Labeled, weak and two strong views of 2 images each. The maps of the first two are decoded
    # with their channels dropped, too, as in the released program.
    assert sum(images['backbone']) == 8 and sum(images['decode_head']) == 12
    assert 'forward' not in passes.step.student.backbone.__dict__, 'nothing stays behind'


def test_bare_passes_run_the_same_images_and_train_all_weights(passes, monkeypatch):
    seen = []
    with passes.watched(
        lambda network, part, inputs, run: seen.append((part, len(inputs))) or run()
    ):
        passes.bare()
    assert [part for part, _ in seen] == [part for _, part, _, _ in passes.noted]
    monkeypatch.setattr(passes.step.optimizer, 'update_params', lambda loss: loss.backward())
    for one in passes.step.student.parameters():
        one.grad = None
    passes.bare()
    gradients = [one.grad for one in passes.step.student.parameters()]
    assert all(one is not None and torch.isfinite(one).all() for one in gradients)


def test_parts_sum_to_the_step(passes):
    parts = passes.split('cpu')
    assert set(parts) == {'encoder', 'decoder', 'backward and optimizer', 'the rest'}
    assert all(seconds > 0 for seconds in parts.values())


def test_the_table(capsys, tmp_path):
    out = tmp_path / 'table.md'
    size = ['--network', 'unet', '--crop', '48', '--batch', '2', '--step-repeats', '1']
    tool.main(['--method', 'mean_teacher', *size, '--out', str(out)])
    text = out.read_text()
    assert '| `mean_teacher` | time of a step against its bare passes |' in text
    memory = next(line for line in text.splitlines() if 'memory of a step' in line)
    step, bare, ratio = (float(cell.split()[0]) for cell in memory.split('|')[3:6])
    assert step > 0 and bare > 0 and ratio == pytest.approx(step / bare, abs=0.02)
