"""The benchmark of CorrMatch, on tiny sizes."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch
from tool_runs import TOOLS

from mmseg_semi.functional import correlation_map, propagate_pixels, propagate_regions


@pytest.fixture(scope='module')
def tool():
    name = 'corrmatch_benchmark'
    spec = importlib.util.spec_from_file_location(name, TOOLS / 'benchmarks' / 'corrmatch.py')
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look it up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[name]


@pytest.fixture(autouse=True)
def global_settings():
    benchmark = torch.backends.cudnn.benchmark
    yield
    torch.backends.cudnn.benchmark = benchmark


def test_the_table_has_all_benchmarks(tool, tmp_path, capsys):
    out = tmp_path / 'table.md'
    sizes = ['--size', 40, '--shapes', 6, '--grid', 24, '--crop', 33]
    counts = ['--repeats', 1, '--step-repeats', 1]
    tool.main([str(one) for one in (*sizes, *counts, '--out', out)])
    text = out.read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    assert f'torch {torch.__version__}' in text
    table = [line.strip('| ').split(' | ') for line in text.splitlines() if line.startswith('| ')]
    names = [cells[0].strip('`') for cells in table[2:]]
    assert names == ['regions', 'pixels', 'pixels', 'step', 'step', 'step']
    targets = [cells[5:] for cells in table[2:] if cells[5] != '-']
    assert [target for target, _ in targets] == ['>= 5x', '<= 1.5', '<= 0.25', '<= 15 %']
    assert {result for _, result in targets} <= {'PASS', 'above target', 'below target'}


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--only', 'region'], "invalid choice: 'region'"),
        (['--batch', '1'], '--batch must be at least 2, got 1'),
        (['--step-repeats', '0'], '--step-repeats must be at least 1, got 0'),
    ],
)
def test_wrong_options_are_refused(tool, capsys, options, message):
    with pytest.raises(SystemExit) as error:
        tool.main(options)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_results_follow_from_the_numbers(tool):
    assert [tool.at_least(value, 5) for value in (4.9, 5, 6)] == ['below target', 'PASS', 'PASS']
    assert [tool.at_most(value, 5) for value in (4, 5, 5.1)] == ['PASS', 'PASS', 'above target']
    assert tool.at_most(float('nan'), 5) != 'PASS'
    assert tool.median_ratio([2.0, 9.0, 8.0], [1.0, 3.0, 1.0]) == 3.0


@pytest.mark.parametrize('threshold', [0.0, 0.5, 0.85])
@pytest.mark.parametrize('seed', range(4))
def test_the_reference_of_regions_is_the_library_bit_by_bit(tool, seed, threshold):
    label, selected, shapes = tool.region_inputs(24, 12, batch=2, seed=seed)
    found = propagate_regions(label, selected, shapes, threshold, tool.CLASSES)
    wanted = tool.reference_regions(label, selected, shapes, threshold)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted))


def test_about_half_of_the_shapes_of_regions_pass(tool):
    label, selected, shapes = tool.region_inputs(128, 32)
    assert label.shape == selected.shape == (4, 128, 128)
    assert shapes.shape == (4, 32, 128, 128)
    assert tool.passing(selected, shapes, tool.REGION_THRESHOLD) == pytest.approx(0.5, abs=0.05)
    wanted = tool.reference_regions(label, selected, shapes, tool.REGION_THRESHOLD)
    assert not torch.equal(wanted[0], label) and wanted[1].sum() > selected.sum()


def test_the_reference_of_pixels_is_the_library(tool):
    inputs = tool.pixel_inputs(7, 'cpu')
    assert tool.check_pixels(inputs) <= 1e-5
    logits, w1, w2, _ = inputs
    wanted = logits.flatten(2) @ correlation_map(w1, w2)
    torch.testing.assert_close(tool.reference_pixels(logits, w1, w2), wanted.view_as(logits))
    torch.testing.assert_close(tool.own_pixels()(logits, w1, w2), propagate_pixels(logits, w1, w2))


def test_a_difference_stops_the_tool(tool, monkeypatch):
    monkeypatch.setattr(tool, 'reference_pixels', lambda logits, w1, w2: logits + 0 * (w1 + w2))
    with pytest.raises(AssertionError, match='propagate_pixels and the reference differ'):
        tool.main(['--only', 'pixels', '--grid', '5'])
    monkeypatch.setattr(tool, 'reference_regions', lambda label, *_: (label, label > 0))
    with pytest.raises(AssertionError, match='propagate_regions and the reference differ'):
        tool.main(['--only', 'regions', '--size', '24', '--shapes', '4'])
