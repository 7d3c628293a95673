"""Two ranks and one on the same global batch: what they compute, and the benchmark of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tool_runs import load_tool

from mmseg_semi.benchmarks.frameworks import Step, load_config, make_data

tool = load_tool('benchmarks/ranks.py')
#: How near two ranks come; of S4MC a pixel on the quantile itself may fall on either side.
NEAR = dict(fixmatch=1e-6, mean_teacher=1e-6, unimatch=1e-6, corrmatch=1e-6, augseg=1e-6, s4mc=1e-4)
TOY = ['--crop', '32', '--batch', '4', '--step-repeats', '1', '--threads', '1']


@pytest.fixture
def one_rank(tmp_path):
    store = dist.FileStore(str(tmp_path / 'meet'), 1)
    dist.init_process_group('gloo', store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_collectives_are_counted(one_rank):
    with tool.counted() as found:
        dist.all_reduce(torch.zeros(3))
        dist.all_gather([torch.zeros(5)], torch.ones(5))
    assert found['calls'] == 2 and found['bytes'] == 4 * (3 + 5) and found['seconds'] > 0
    dist.all_reduce(torch.zeros(3))
    assert found['calls'] == 2


def test_a_process_says_what_it_has_found(capsys):
    tool.main([*TOY, '--method', 'fixmatch', '--rank', '0/1:nowhere'])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found['step'] > 0 and found['without'] == found['step'] and found['calls'] == 0
    assert found['gradients'] > 1e6


def test_the_table(monkeypatch, tmp_path):
    one = dict(step=2.0, without=2.0, calls=0, bytes=0, seconds=0.0, gradients=2**20)
    two = dict(step=1.0, without=0.75, calls=3, bytes=2048, seconds=0.1, gradients=2**20)
    monkeypatch.setattr(tool, 'run_ranks', lambda args, method, ranks: (one, two)[ranks - 1])
    out = tmp_path / 'ranks.md'
    tool.main([*TOY, '--method', 'unimatch', 's4mc', '--out', str(out)])
    rows = load_tool('benchmarks/join_tables.py').content(out.read_text())['rows']
    assert [row['ratio'] for row in rows] == ['0.50', '25.0 %', '10.0 %'] * 2
    assert '(1.0 MiB)' in rows[1]['measure'] and '3 calls, 2.0 KiB a rank' in rows[2]['measure']


@pytest.mark.parametrize('option', [['--batch', '5'], ['--batch', '2'], ['--step-repeats', '0']])
def test_wrong_options(option, capsys):
    with pytest.raises(SystemExit) as error:
        tool.parse_args(option)
    assert error.value.code == 2 and '--batch even and at least 4' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('crop', 'said'), [('-8', 'at least 32, got -8'), ('40', 'a multiple of 16 for unet, got 40')]
)
def test_wrong_crops(crop, said, capsys):
    with pytest.raises(SystemExit) as error:
        tool.parse_args(['--crop', crop])
    assert error.value.code == 2 and f'--crop must be {said}' in capsys.readouterr().err


def losses_of(name: str, rank: int | None) -> dict[str, float]:
    """Losses of a method, of the whole batch or of a rank's half of it.

    Without what differs from one batch to two by its nature: partners within the batch, random
    draws, and BatchNorm over the images of a rank, which has its running statistics here.
    """
    torch.manual_seed(0)
    config = load_config(name, 'unet', 64)
    config.model.mixer = None
    if 'perturbed' in (config.model.get('streams') or {}):
        config.model.streams.perturbed.perturbation = None
    step = Step(config, 'cpu')
    step.set_data(make_data(step.model, 4, 64))
    for module in step.model.modules():
        if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.Dropout2d)):
            module.eval()
    data = step.data if rank is None else half_of(step.data, rank)
    _, values = step.model.parse_losses(step.model.loss(**data))
    return {key: value.item() for key, value in values.items() if 'loss' in key}


def half_of(one: Any, rank: int) -> Any:
    """A rank's half of all that has a batch of four in it."""
    if isinstance(one, dict):
        return {key: half_of(value, rank) for key, value in one.items()}
    if isinstance(one, list) and isinstance(one[0], torch.Tensor):  # views
        return [half_of(value, rank) for value in one]
    return one[rank * 2 : rank * 2 + 2]


def losses_of_a_rank(rank: int) -> list[dict[str, float]]:
    return [losses_of(name, rank) for name in NEAR]


def test_two_ranks_compute_the_losses_of_one(on_two_ranks):
    for (name, near), *halves in zip(NEAR.items(), *on_two_ranks(losses_of_a_rank)):
        whole = losses_of(name, None)
        assert whole['strong.loss'] > 0 and halves[0] != halves[1]
        for key, value in whole.items():
            assert sum(half[key] for half in halves) / 2 == pytest.approx(value, rel=near, abs=1e-7)
