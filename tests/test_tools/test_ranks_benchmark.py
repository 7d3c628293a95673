"""The benchmark of ranks; that two ranks compute the same is tested in test_distributed.py."""

from __future__ import annotations

import json

import pytest
import torch
import torch.distributed as dist
from tool_runs import load_tool

tool = load_tool('benchmarks/ranks.py')
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
