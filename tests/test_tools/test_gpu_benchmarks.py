"""All benchmarks in one command, and what every method shares measured at toy sizes."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
import torch
from tool_runs import REPO, load_tool, run_command

from mmseg_semi.benchmarks import frameworks

PAGE = """\
Measured on a machine.

| benchmark | measure | ratio |
| --- | --- | --- |
| `one` | time | 2.0x faster |
| `two` | memory | 0.50 |

- `one`: a note.
"""
#: Stands for the interpreter: notes what it is to run, and writes a page where a tool would.
FAKE = f"""\
#!{sys.executable}
import shlex, subprocess, sys
words = sys.argv[1:]
with open(__file__ + '.log', 'a') as log:
    print(shlex.join(words), file=log)
if words[0].endswith('join_tables.py'):
    sys.exit(subprocess.call([sys.executable, *words]))
open(words[words.index('--out') + 1], 'w').write({PAGE!r})
"""


@pytest.fixture(params=['--toy', ''])
def commands(request, tmp_path: Path) -> list[list[str]]:
    """What the script runs, at toy sizes and for a GPU; its folder is ``tmp_path / 'found'``."""
    fake = tmp_path / 'python'
    fake.write_text(FAKE)
    fake.chmod(0o755)
    options = [request.param] if request.param else []
    script = REPO / 'tools/benchmarks/gpu.sh'
    command = ['bash', script, *options, tmp_path / 'found']
    run_command(command, tmp_path, PYTHON=str(fake))
    return [shlex.split(line) for line in Path(f'{fake}.log').read_text().splitlines()]


def test_every_tool_takes_its_options_and_the_pages_are_joined(commands, tmp_path):
    *tools, join = commands
    names = {Path(words[0]).stem for words in tools}
    benchmarks = {'corrmatch', 'rankmatch', 's4mc', 'weighting'}
    benchmarks |= {'step', 'frameworks', 'training', 'data', 'growth'}
    assert names == benchmarks and Path(join[0]).stem == 'join_tables'
    for script, *words in tools:
        tool = load_tool(Path(script).relative_to('tools'))
        if not hasattr(tool, 'parse_args'):
            tool = frameworks
        assert tool.parse_args(words).out == words[words.index('--out') + 1]
    found = json.loads((tmp_path / 'found/benchmarks.json').read_text())
    assert found.keys() == {Path(words[words.index('--out') + 1]).stem for words in tools}
    assert found['s4mc'] == dict(
        machine='Measured on a machine.',
        rows=[
            dict(benchmark='one', measure='time', ratio='2.0x faster'),
            dict(benchmark='two', measure='memory', ratio='0.50'),
        ],
        notes=['`one`: a note.'],
    )
    text = (tmp_path / 'found/benchmarks.md').read_text()
    assert all(f'\n## {name}\n' in text for name in found) and text.count(PAGE) == len(tools)


TOY = ['--network', 'unet', '--crop', '64', '--step-repeats', '1', '--repeats', '1']


def test_what_every_method_shares(tmp_path):
    tool = load_tool('benchmarks/training.py')
    out = tmp_path / 'training.md'
    tool.main([*TOY, '--out', str(out)])
    rows = load_tool('benchmarks/join_tables.py').content(out.read_text())['rows']
    measures = {row['measure']: row for row in rows}
    modes = [name for name in measures if name.startswith('a step with ')]
    assert modes == [f'a step with {n}' for n in ('channels_last', 'amp', 'amp and channels_last')]
    assert all(float(measures[name]['ratio'].split('x')[0]) > 0 for name in modes)
    planned = measures['memory of a step, planned and counted']
    assert planned['result'] == 'PASS' and abs(float(planned['ratio'].split()[0])) <= 10


def test_the_plain_update_of_a_teacher_is_the_same():
    tool = load_tool('benchmarks/training.py')
    networks = [
        torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2)) for _ in '12'
    ]
    with torch.no_grad():
        for value in [*networks[1].parameters(), networks[1][1].running_mean]:
            value.fill_(2.0)
        networks[0][0].weight.fill_(1.0)
    tool.loop(*networks, 0.75)
    assert networks[0][0].weight.flatten().tolist() == [1.25, 1.25]
    assert networks[0][1].running_mean.tolist() == [0.5, 0.5]


def test_exponents_of_growth(tmp_path):
    tool = load_tool('benchmarks/growth.py')
    assert tool.exponent([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx(2)
    assert tool.exponent([10, 100], [5.0, 5.0]) == pytest.approx(0)
    out = tmp_path / 'growth.md'
    tool.main(['--threads', '1', '--scale', '0.3', '--repeats', '1', '--out', str(out)])
    rows = load_tool('benchmarks/join_tables.py').content(out.read_text())['rows']
    grown = {(row['benchmark'], row['measure'].split()[-1]) for row in rows}
    assert len(rows) == len(grown) == 16 and {what for _, what in grown} == {
        *('pixels', 'classes', 'agents', 'shapes')
    }
    assert {row['target'] for row in rows} == {'<= 1 + 0.25', '<= 2 + 0.25'}


@pytest.mark.parametrize(
    'name',
    ['corrmatch', 'rankmatch', 's4mc', 'weighting', 'step', 'training', 'data', 'growth'],
)
def test_a_folder_that_is_not_there_is_refused_before_anything_is_measured(name, capsys):
    tool = load_tool(f'benchmarks/{name}.py')
    method = ['--method', 'unimatch'] if name == 'step' else []
    with pytest.raises(SystemExit) as error:
        tool.parse_args([*method, '--out', 'no/such/folder/table.md'])
    said = '--out no/such/folder/table.md: its folder does not exist, make it first'
    assert error.value.code == 2 and said in capsys.readouterr().err


def test_what_cannot_be_run_or_joined_is_said(tmp_path):
    script = REPO / 'tools/benchmarks/gpu.sh'
    done = run_command(['bash', script, '--toys'], tmp_path, code=2)
    assert done.output == 'gpu.sh: unknown option --toys; there are --toy and then a FOLDER\n'
    done = run_command(['bash', script, tmp_path / 'found'], tmp_path, code=1, PYTHON='false')
    assert done.output.endswith('has failed, see above; --toy needs no GPU\n')
    join = load_tool('benchmarks/join_tables.py')
    page = tmp_path / 'page.md'
    for content, reason in (('text', 'no page of a benchmark'), (None, 'No such file')):
        page.unlink(missing_ok=True)
        if content:
            page.write_text(content)
        with pytest.raises(SystemExit, match=f'page.md: cannot be joined .*{reason}.*; give pages'):
            join.main([str(page), '--out', str(tmp_path)])
    with pytest.raises(SystemExit, match='none: is no folder, make it first'):
        join.main([str(page), '--out', str(tmp_path / 'none')])
    assert not list(tmp_path.glob('benchmarks.*'))
