"""The program ``mmseg-semi``."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from label_exports import mask, photo
from PIL import Image
from tool_runs import CONFIGS, REPO, SUPERVISED, environment

import mmseg_semi_cli
from mmseg_semi.prepare.label_formats.finding import FORMATS
from mmseg_semi.prepare.label_formats.volumes import PAGES
from mmseg_semi_cli import COMMANDS, own_images


def test_help_and_wrong_options_do_not_import_torch():
    words = [['--help'], [], ['tran'], *([name, '--help'] for name in COMMANDS)]
    words += [[name, '--bogus'] for name in COMMANDS] + [[name] for name in COMMANDS]
    words += [['train', 'x.py', '--cfg-options', 'lr'], ['train', '--cfg-options', 'lr=1']]
    code = (
        'import contextlib, io, json, sys, mmseg_semi_cli\n'
        f'for words in {words}:\n'
        '    sys.argv, said = ["mmseg-semi", *words], io.StringIO()\n'
        '    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):\n'
        '        try: mmseg_semi_cli.main()\n'
        '        except SystemExit as end: code = end.code\n'
        '    print(json.dumps([code, said.getvalue()]))\n'
        'print("torch" in sys.modules or "numpy" in sys.modules)\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], env=environment(), capture_output=True, text=True
    )
    *lines, imported = done.stdout.splitlines()
    assert imported == 'False', done.stderr
    ended = {' '.join(one): json.loads(line) for one, line in zip(words, lines)}
    assert len(ended) == len(words)
    for name, one in COMMANDS.items():
        for listed in ('--help', ''):
            assert f'  {name} ' in ended[listed][1]
            assert one.help in ended[listed][1] and one.example in ended[listed][1]
        assert ended[f'{name} --help'][0] == 0 and one.example in ended[f'{name} --help'][1]
        assert ended[f'{name} --bogus'][0] == ended[name][0] == 2
    assert ended['tran'][0] == 2 and "No such command 'tran'" in ended['tran'][1]
    code, said = ended['train x.py --cfg-options lr']
    assert code == 2 and 'argument --cfg-options: lr: write KEY=VALUE' in said


# What a process says that has imported the package as the program does.
BROUGHT = """
import gc, json, sys
from importlib.util import find_spec
import mmseg_semi_cli
mmseg_semi_cli._import_package()
searched = [gc.isenabled(), len(gc.get_objects()) < 10_000 < gc.get_freeze_count()]
from mmengine.model import BaseModule
from mmengine.registry import OPTIMIZERS
from mmseg import models
from mmseg.utils import tokenize, tokenizer
from mmseg_semi.utils.stack import complete_mmseg, complete_optimizers
said = dict(searched=searched, clip=['ftfy' in sys.modules or hasattr(tokenizer, '_tokenizer')])
tokens = tokenizer.tokenize(['a leaf', 'a spot of disease'])
import mmseg.utils.tokenizer as whole
said['clip'].append(bool((tokenize('a leaf') == tokens[0]).all()))
said['clip'].append(whole._tokenizer.decode([one for one in tokens[1].tolist() if one]).strip())
complete_optimizers("dict(type='SGD')")
said['transformers'] = ['transformers' in sys.modules or 'Adafactor' in OPTIMIZERS.module_dict]
complete_mmseg("dict(type='FCNHead')")
said['mmdet'] = ['mmdet' in sys.modules]
if find_spec('transformers') is not None:
    complete_optimizers("dict(type='Adafactor')")
    complete_optimizers("dict(type='Adafactor')")
    said['transformers'].append(OPTIMIZERS.get('Adafactor').__module__.split('.')[0])
if find_spec('mmdet') is not None:
    complete_mmseg("dict(type='Mask2FormerHead')")
    head = models.Mask2FormerHead
    said['mmdet'].append(head.__bases__[0].__module__.split('.')[0])
    said['mmdet'].append(models.builder.MODELS.get('Mask2FormerHead') is head)
    said['mmdet'].append(models.MaskFormerHead.__bases__ == (BaseModule,))
print(json.dumps(said))
"""


@pytest.fixture(scope='module')
def brought():
    """By package, whether it came with the import, and what came when it was asked for."""
    done = subprocess.run(
        [sys.executable, '-c', BROUGHT], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(find_spec('mmdet') is None, reason='mmdet is not installed')
def test_mmdet_is_imported_for_the_heads_of_a_config_alone(brought):
    assert brought['mmdet'] == [False, 'mmdet', True, True]


@pytest.mark.skipif(find_spec('transformers') is None, reason='transformers is not installed')
def test_transformers_is_imported_for_its_optimizer_alone(brought):
    assert brought['transformers'] == [False, 'transformers']


def test_the_vocabulary_of_clip_is_imported_for_the_first_text_alone(brought):
    assert brought['clip'] == [False, True, '<start_of_text>a spot of disease <end_of_text>']


def test_garbage_is_searched_for_but_not_among_what_is_imported(brought):
    assert brought['searched'] == [True, True]


def test_formats_are_those_that_are_read():
    assert ('auto', *FORMATS) == own_images.FORMATS and own_images.PAGES == PAGES


@pytest.mark.parametrize('name', list(COMMANDS))
def test_the_example_of_a_command_can_be_called(name):
    assert COMMANDS[name].example.startswith(f'mmseg-semi {name} ')
    mmseg_semi_cli.parse(shlex.split(COMMANDS[name].example)[1:])


def test_train_has_the_options_of_the_tool_and_a_refusal_is_one_sentence(
    server, plain_server, tmp_path
):
    program = REPO / 'mmseg_semi_cli/__main__.py'
    said = server.run(program, 'train', '--help')
    assert 'usage: mmseg-semi train [-h] [--work-dir' in said.output
    assert said.output.rstrip().endswith(COMMANDS['train'].example)
    module = tmp_path / 'module.py'  # python -m mmseg_semi
    module.write_text('import runpy\nrunpy.run_module("mmseg_semi", run_name="__main__")\n')
    args = ('train', 'nowhere.py')
    refused = plain_server.run(module, *args, code=1, unblock=['mmseg_semi']).output
    assert refused.splitlines()[-1].startswith('error: config file nowhere.py does not')
    assert 'Traceback' not in refused
    assert 'Traceback' in server.run(program, '--traceback', 'train', 'nowhere.py', code=1).output


def test_arguments_are_passed_on_as_they_are(monkeypatch):
    got = []
    monkeypatch.setattr('mmseg_semi.apis.train.main', got.append)
    monkeypatch.setattr(sys, 'argv', ['mmseg-semi'])
    words = [str(CONFIGS / SUPERVISED), '--resume', '--cfg-options', 'a.b=1', "c=['x', 'y']"]
    mmseg_semi_cli.parse(['train', *words])()
    assert got == [words] and sys.argv == ['mmseg-semi train', *words]


def test_import_labels_from_the_command_line(tmp_path, capsys):
    photo(tmp_path / 'photos/a.jpg', 8, 6)
    (tmp_path / 'masks').mkdir()
    Image.fromarray(np.full((6, 8), 128, np.uint8)).save(tmp_path / 'masks/a.png')
    words = ['import-labels', tmp_path / 'masks', '--images', tmp_path / 'photos']
    words += ['--classes', 'background,cat', '--out', tmp_path / 'out']
    mmseg_semi_cli.parse([str(word) for word in words])()
    assert (mask(tmp_path / 'out', 'a.png') == 1).all()
    wrong = ['import-labels', str(tmp_path), '--format', 'voc', '--out', 'x']
    with pytest.raises(SystemExit, match='2'):
        mmseg_semi_cli.parse(wrong)
    assert "'voc' is not one of 'auto', 'coco'" in capsys.readouterr().err
