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
import os, shlex, subprocess, sys
words = sys.argv[1:]
if words[0] == '-c':  # whether there is a GPU
    sys.exit()
with open(__file__ + '.log', 'a') as log:
    print(shlex.join(words), file=log)
if words[0].endswith('join_tables.py'):
    sys.exit(subprocess.call([sys.executable, *words]))
if os.environ.get('STOP', 'nothing') in words[0]:
    sys.exit(130)  # as a tool that Ctrl-C ends
if 'frameworks' not in words[0]:
    open(words[words.index('--out') + 1], 'w').write({PAGE!r})
sys.exit('frameworks' in words[0] or 's4mc' in words[0])
"""
SCRIPT = REPO / 'tools/benchmarks/gpu.sh'
METHODS = ('corrmatch', 'rankmatch', 's4mc', 'weighting')
TOOLS = {
    '': {*METHODS, 'step', 'frameworks', 'training', 'data', 'growth'},
    '--toy': {*METHODS, 'step', 'frameworks', 'training', 'data', 'growth'},
    '--cpu': {'corrmatch', 'step', 'data', 'training'},
}


def commands(folder: Path, option: str, code: int) -> tuple[list[list[str]], str]:
    """What the script runs, and its output; pages go to ``folder / 'found'``."""
    fake = folder / 'python'
    fake.write_text(FAKE)
    fake.chmod(0o755)
    command = ['bash', SCRIPT, *([option] if option else []), folder / 'found']
    output = run_command(command, folder, code=code, PYTHON=str(fake)).output
    return [shlex.split(line) for line in Path(f'{fake}.log').read_text().splitlines()], output


def page_of(words: list[str]) -> Path:
    return Path(words[words.index('--out') + 1])


@pytest.mark.parametrize('option', TOOLS)
def test_every_tool_takes_its_options_and_the_pages_are_joined(option, tmp_path):
    """Those of tools that fail too, where they have written one."""
    (*tools, join), output = commands(tmp_path, option, code=0 if option == '--cpu' else 1)
    assert {Path(words[0]).stem for words in tools} == TOOLS[option]
    assert Path(join[0]).stem == 'join_tables'
    for script, *words in tools:
        tool = load_tool(Path(script).relative_to('tools'))
        if not hasattr(tool, 'parse_args'):
            tool = frameworks
        assert tool.parse_args(words).out == str(page_of(words))
    found = json.loads((tmp_path / 'found/benchmarks.json').read_text())
    pages = {page_of(words).stem for words in tools} - {'frameworks'}
    assert found.keys() == pages
    assert found['data'] == dict(
        machine='Measured on a machine.',
        rows=[
            dict(benchmark='one', measure='time', ratio='2.0x faster'),
            dict(benchmark='two', measure='memory', ratio='0.50'),
        ],
        notes=['`one`: a note.'],
    )
    text = (tmp_path / 'found/benchmarks.md').read_text()
    assert all(f'\n## {name}\n' in text for name in found) and text.count(PAGE) == len(pages)
    assert text.strip() in output
    if option != '--cpu':
        last = 'gpu.sh: tools/benchmarks/s4mc.py tools/benchmarks/frameworks.py failed, see above'
        assert output.splitlines()[-1] == last


def test_a_tool_that_is_stopped_ends_the_script_which_joins_what_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv('STOP', 'weighting')
    earlier = tmp_path / 'found/growth.md'
    earlier.parent.mkdir()
    earlier.write_text(PAGE)
    (*tools, _), output = commands(tmp_path, '--toy', code=130)
    assert [Path(words[0]).stem for words in tools] == list(METHODS)
    found = json.loads((tmp_path / 'found/benchmarks.json').read_text())
    assert found.keys() == {'corrmatch', 'rankmatch', 's4mc'}
    assert earlier.read_text() == PAGE, 'of a tool that has not begun'
    last = 'gpu.sh: stopped in tools/benchmarks/s4mc.py tools/benchmarks/weighting.py'
    assert output.splitlines()[-1] == last


@pytest.fixture(scope='module')
def toy(tmp_path_factory) -> dict[str, list[dict[str, str]]]:
    """Rows of all pages that the tools themselves write at toy sizes."""
    folder = tmp_path_factory.mktemp('toy')
    (*tools, _), _ = commands(folder, '--toy', code=1)
    threads = torch.get_num_threads()
    for script, *words in tools:
        load_tool(Path(script).relative_to('tools')).main(words)
    torch.set_num_threads(threads)
    pages = [*map(str, map(page_of, tools))]
    load_tool('benchmarks/join_tables.py').main([*pages, '--out', str(folder)])
    found = json.loads((folder / 'benchmarks.json').read_text())
    assert all(one['machine'].startswith('Measured on ') for one in found.values())
    return {name: one['rows'] for name, one in found.items()}


def test_all_tools_at_toy_sizes(toy):
    assert toy.keys() == TOOLS['--toy'] and all(toy.values())
    measures = {(name, row.get('measure')) for name, rows in toy.items() for row in rows}
    assert measures >= {
        ('step', 'own operations, by themselves, against the passes'),
        ('corrmatch', 'peak memory, forward and backward'),
        ('data', 'unlabeled images a second, OpenCV'),
        ('training', 'memory of a step, planned and counted'),
        ('training', "the teacher's update"),
    }


def test_what_every_method_shares(toy):
    measures = {row['measure']: row for row in toy['training']}
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


def test_exponents_of_growth(toy):
    tool = load_tool('benchmarks/growth.py')
    assert tool.exponent([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx(2)
    assert tool.exponent([10, 100], [5.0, 5.0]) == pytest.approx(0)
    rows = toy['growth']
    grown = {(row['benchmark'], row['measure'].split()[-1]) for row in rows}
    assert len(rows) == len(grown) == 19 and {what for _, what in grown} == {
        *('pixels', 'classes', 'agents', 'shapes', 'lines')
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
    for words in (['--toys'], ['found', '--toy'], ['--toy', 'found', 'more']):
        done = run_command(['bash', SCRIPT, *words], tmp_path, code=2)
        left = words[1:] if words[0] == '--toy' else words
        said = 'give --cpu or --toy, or neither, and then a FOLDER'
        assert done.output == f'gpu.sh: cannot read {" ".join(left)}; {said}\n'
    done = run_command(['bash', SCRIPT, tmp_path / 'found'], tmp_path, code=1, PYTHON='false')
    assert done.output == 'gpu.sh: torch sees no GPU; give --cpu or --toy, which need none\n'
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
