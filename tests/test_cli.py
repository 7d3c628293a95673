"""The program ``mmseg-semi``."""

from __future__ import annotations

import subprocess
import sys

import click
import numpy as np
import pytest
from label_exports import mask, photo
from PIL import Image
from tool_runs import CONFIGS, REPO, SUPERVISED, environment

import mmseg_semi_cli
from mmseg_semi_cli import COMMANDS


def run(*words, module='mmseg_semi_cli'):
    return subprocess.run(
        [sys.executable, '-m', module, *map(str, words)],
        env=environment(),
        capture_output=True,
        text=True,
    )


def test_help_lists_all_commands_without_importing_torch():
    code = (
        'import sys, mmseg_semi_cli\n'
        'sys.argv = ["mmseg-semi", "--help"]\n'
        'try: mmseg_semi_cli.main()\n'
        'except SystemExit as end: print("ended", end.code, "torch" in sys.modules)\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], env=environment(), capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == 'ended 0 False'
    for name, one in COMMANDS.items():
        assert f'  {name} ' in done.stdout
        assert one.help in done.stdout and one.example in done.stdout


@pytest.mark.parametrize('name', list(COMMANDS))
def test_each_command_is_there_and_has_an_example_of_itself(name):
    command = mmseg_semi_cli.program.get_command(click.Context(mmseg_semi_cli.program), name)
    assert isinstance(command, click.Command)
    assert COMMANDS[name].example.startswith(f'mmseg-semi {name} ')


def test_an_unknown_command_is_named_without_a_traceback():
    done = run('tran')
    assert done.returncode == 2
    assert "No such command 'tran'" in done.stderr and 'Traceback' not in done.stderr


def test_train_has_the_options_of_the_tool_and_a_refusal_is_one_sentence(server):
    program = REPO / 'mmseg_semi_cli.py'
    said = server.run(program, 'train', '--help')
    assert 'usage: mmseg-semi train [-h] [--work-dir' in said.output
    assert said.output.rstrip().endswith(COMMANDS['train'].example)
    refused = run('train', 'nowhere.py', module='mmseg_semi')
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith('error: config file nowhere.py does not')
    assert 'Traceback' not in refused.stderr
    assert 'Traceback' in server.run(program, '--traceback', 'train', 'nowhere.py', code=1).output


def test_arguments_are_passed_on_as_they_are(monkeypatch):
    got = []
    monkeypatch.setattr('mmseg_semi.apis.train.main', got.append)
    monkeypatch.setattr(sys, 'argv', ['mmseg-semi'])
    words = [str(CONFIGS / SUPERVISED), '--resume', '--cfg-options', 'a.b=1', "c=['x', 'y']"]
    mmseg_semi_cli.run(['train', *words])
    assert got == [words] and sys.argv == ['mmseg-semi train', *words]


def test_import_labels_from_the_command_line(tmp_path, capsys):
    photo(tmp_path / 'photos/a.jpg', 8, 6)
    (tmp_path / 'masks').mkdir()
    Image.fromarray(np.full((6, 8), 128, np.uint8)).save(tmp_path / 'masks/a.png')
    words = ['import-labels', tmp_path / 'masks', '--images', tmp_path / 'photos']
    words += ['--classes', 'background,cat', '--out', tmp_path / 'out']
    assert not mmseg_semi_cli.run([str(word) for word in words])
    assert (mask(tmp_path / 'out', 'a.png') == 1).all()
    wrong = ['import-labels', str(tmp_path), '--format', 'voc', '--out', 'x']
    assert mmseg_semi_cli.run(wrong) == 2
    assert "'voc' is not one of 'auto', 'coco'" in capsys.readouterr().err
    assert not mmseg_semi_cli.run(['import-labels', '--help'])
    assert capsys.readouterr().out.rstrip().endswith(COMMANDS['import-labels'].example)
