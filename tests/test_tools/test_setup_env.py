"""The set-up scripts' decisions, with a fake python3, df and compiler in an otherwise empty PATH.

The fake interpreter answers what the scripts ask of a real one, keeps what "pip" installed in a
file below its prefix, and writes every pip command with the environment that matters to a log.
"""

import fcntl
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = [
    *('awk', 'basename', 'bash', 'cat', 'cut', 'dirname', 'env', 'flock', 'grep', 'head', 'ls'),
    *('mkdir', 'nproc', 'rm', 'sed', 'sh', 'sleep', 'tail', 'tr'),
]

FAKE_PYTHON = r"""
import json, os, sys, time
prefix = os.path.dirname(os.path.dirname(os.path.abspath(sys.argv[0])))
path = os.path.join(prefix, 'fake.json')
state, args = json.load(open(path)), sys.argv[1:]
def save():
    json.dump(state, open(path, 'w'))
def probe(stack):
    have = set(state['packages'])
    mmcv = 'mmcv' if stack == 'official' else 'onedl-mmcv'
    yield 'python', state['version']
    yield 'external', state.get('external', 0)
    yield 'conflict', state.get('conflict', '')
    yield 'pip', 1
    yield 'tools', '' if 'ninja' in have else 'setuptools<81 wheel ninja psutil packaging'
    prefix = '' if stack == 'official' else 'onedl-'
    missing = [name for name in ('mmengine', 'mmsegmentation') if prefix + name not in have]
    yield 'requires', ' '.join(f'{prefix}{name}>=0.1,<9' for name in missing)
    yield 'broken', state.get('broken', '')
    yield 'project', 'ok' if 'project' in have else 'missing'
    yield 'keep', 'numpy==1.26.4' + (' torch==' + state['torch'] if state['torch'] else '')
    yield 'torch', state['torch']
    yield 'torch_cuda', state.get('cuda', 0)
    yield 'mmcv', '2.1.0' if mmcv in have else ''
    yield 'mmcv_ops', 'ok' if state.get('ops') else 'ImportError'
    yield 'done', 1
def pip(command, rest):
    names = ('FORCE_CUDA', 'CUDA_VISIBLE_DEVICES', 'MAX_JOBS')
    env = {name: os.environ.get(name) for name in names}
    limits = open(rest[rest.index('-c') + 1]).read().split()
    entry = {'args': [command] + rest, 'env': env, 'constraints': limits}
    with open(os.environ['FAKE_LOG'], 'a') as log:
        log.write(json.dumps(entry) + '\n')
    if command == 'download':
        if os.environ.get('FAKE_WHEEL'):
            open(os.path.join(rest[rest.index('-d') + 1], 'mmcv-2.1.0-py3.whl'), 'w').close()
            return 0
        print('ERROR: No matching distribution found for', rest[-1])
        return 1
    failing, _, text = os.environ.get('FAKE_FAILURE', '').partition(':')
    if failing and any(arg.startswith(failing) for arg in rest):
        print(text)
        return 1
    slow = os.environ.get('FAKE_SLOW')
    if slow and any(arg.startswith(slow) for arg in rest):
        open(os.environ['FAKE_LOG'] + '.slow', 'w').write(str(os.getpid()))
        time.sleep(60)
    for arg in rest:
        if arg.startswith('torch=='):
            state['torch'] = '2.13.0+cpu'
        if arg.endswith('.whl'):
            state['packages'].append('mmcv')
            state['ops'] = os.environ['FAKE_WHEEL'] == 'good'
        elif '==' in arg:
            state['packages'].append(arg.split('==')[0])
            state['ops'] = state.get('ops') or 'mmcv' in arg.split('==')[0]
        elif arg == 'ninja':
            state['packages'].append(arg)
    if '-e' in rest:
        state['packages'].append('project')
    if '--ignore-installed' in rest:
        names = {arg.split('==')[0] for arg in rest}
        pins = state.get('broken', '').split()
        state['broken'] = ' '.join(pin for pin in pins if pin.split('==')[0] not in names)
    save()
    return 0
if args[0] == '-W':
    for key, value in probe(args[3]):
        print(f'{key}={value}')
elif args[0] == '-c':
    code = args[1]
    if 'print("%d.%d.%d"' in code:
        print(state['version'])
    elif 'find_spec' in code:
        name = code.split("'")[1]
        sys.exit(not (name == 'pip' or name == 'ensurepip' or name == 'torch' and state['torch']))
    elif 'mmcv._ext' in code:
        sys.exit(not state.get('ops'))
    elif 'Python.h' in code:
        sys.exit(not state.get('headers', 1))
elif args[:2] == ['-m', 'venv']:
    os.makedirs(os.path.join(args[-1], 'bin'), exist_ok=True)
    target = os.path.join(args[-1], 'bin', 'python')
    open(target, 'w').write(open(sys.argv[0]).read())
    os.chmod(target, 0o755)
    open(os.path.join(args[-1], 'pyvenv.cfg'), 'w').write(' '.join(args))
    fresh = {'version': state['version'], 'torch': '', 'packages': []}
    if '--system-site-packages' in args:
        fresh['torch'] = state['torch']
    json.dump(fresh, open(os.path.join(args[-1], 'fake.json'), 'w'))
elif args[:2] == ['-m', 'pip']:
    rest = [arg for arg in args[3:] if arg != '--no-input']
    sys.exit(pip(args[2], rest))
elif args[:2] == ['-m', 'pytest']:
    print('PYTEST', *args[2:])
    sys.exit(int(os.environ.get('FAKE_PYTEST', '0')))
"""


class Sandbox:
    """A repository copy, a PATH of its own and a fake python3 in `system/bin`."""

    def __init__(self, root: Path) -> None:
        self.root, self.repo, self.bin = root, root / 'repo', root / 'system' / 'bin'
        self.venv, self.log = self.repo / '.venv', root / 'pip.log'
        for name in ('tools', 'tests', 'mmseg_semi'):
            (self.repo / name).mkdir(parents=True)
        for name in ('setup_env.sh', 'setup_probe.py', 'run_tests.sh'):
            shutil.copy(ROOT / 'tools' / name, self.repo / 'tools' / name)
        self.bin.mkdir(parents=True)
        for name in PROGRAMS:
            found = shutil.which(name)
            if found is not None:  # flock is not everywhere
                (self.bin / name).symlink_to(found)
        self.program('python3', f'#!{sys.executable} -ISE\n{FAKE_PYTHON}')
        self.program('c++', '#!/bin/sh\necho a compiler\n')
        self.disk(100)
        self.system(version='3.11.7', torch='')

    def program(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def disk(self, gigabytes: int) -> None:
        line = f'/dev/x 1 1 {gigabytes * 1024 * 1024} 1% /'
        self.program('df', f'#!/bin/sh\necho Filesystem\necho "{line}"\n')

    def system(self, **state) -> None:
        state.setdefault('packages', [])
        (self.root / 'system' / 'fake.json').write_text(json.dumps(state))

    def state(self, prefix: Path) -> dict:
        return json.loads((prefix / 'fake.json').read_text())

    def start(self, *args, script='setup_env.sh', **env) -> subprocess.Popen:
        env = {'PATH': str(self.bin), 'HOME': str(self.root), 'FAKE_LOG': str(self.log), **env}
        command = [str(self.bin / 'bash'), str(self.repo / 'tools' / script), *args]
        return subprocess.Popen(
            command,
            env=env,
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Tests that run in the background of a shell inherit that SIGINT is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *args, **options) -> tuple:
        process = self.start(*args, **options)
        out, _ = process.communicate(timeout=60)
        return process.returncode, out

    def pip_calls(self, command: str = 'install') -> list:
        if not self.log.exists():
            return []
        entries = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [entry for entry in entries if entry['args'][0] == command]

    def call_with(self, prefix: str) -> dict:
        matching = [
            call for call in self.pip_calls() if any(a.startswith(prefix) for a in call['args'])
        ]
        assert len(matching) == 1, matching
        return matching[0]


@pytest.fixture
def box(tmp_path):
    return Sandbox(tmp_path)


def test_fresh_machine_then_nothing_to_do(box):
    code, out = box.run()
    assert code == 0, out
    wanted = [call['args'][-1] for call in box.pip_calls()]
    assert wanted == [
        'torch==2.13.0',
        'mmsegmentation==1.2.2',  # the last of the list of packages
        'mmcv==2.1.0',
        str(box.repo),
    ]
    assert {'setuptools<81', 'wheel', 'mmengine==0.10.7'} <= set(box.pip_calls()[1]['args'])
    assert '[4/5] building mmcv' in out and ' minutes with ' in out
    assert not (box.venv / 'setup_logs' / 'tmp').exists()

    box.log.unlink()
    code, out = box.run()
    assert (code, len(out.splitlines())) == (0, 1), out
    assert not box.log.exists()


@pytest.mark.parametrize(
    ('version', 'expected', 'word'),
    [('2.7.18', 10, 'old'), ('3.8.18', 10, 'old'), ('3.9.1', 10, 'old'), ('3.13.0', 11, 'new')],
)
def test_python_of_a_wrong_version_is_refused(box, version, expected, word):
    box.system(version=version, torch='')
    code, out = box.run()
    assert code == expected, out
    assert f'Python {version}' in out and f'too {word}' in out
    assert not box.venv.exists() and not box.log.exists()


def test_python_39_is_enough_with_its_own_torch_but_not_for_onedl(box):
    box.system(version='3.9.1', torch='2.1.0')
    assert box.run('--stack', 'onedl')[0] == 10
    code, out = box.run()
    assert code == 0, out


def test_torch_of_the_active_environment_is_kept(box):
    box.system(version='3.11.7', torch='2.4.0+cu124')
    code, out = box.run()
    assert code == 0, out
    assert not box.venv.exists()
    for call in box.pip_calls():
        assert not any(arg.startswith('torch') for arg in call['args'])
        # Nothing that is installed may move torch, or the numpy it was built with.
        assert {'torch==2.4.0+cu124', 'numpy==1.26.4'} <= set(call['constraints'])


def test_active_virtual_environment_comes_before_the_path(box):
    box.run()
    other = box.root / 'other'
    shutil.copytree(box.venv, other)
    code, out = box.run(VIRTUAL_ENV=str(other))
    assert code == 0 and str(other) in out


def test_own_venv_is_used_when_asked_for(box):
    box.system(version='3.11.7', torch='2.4.0')
    code, out = box.run('--own-venv')
    assert code == 0, out
    assert box.state(box.venv)['torch'] == '2.13.0+cpu'


def test_externally_managed_torch_is_kept_below_an_own_environment(box):
    box.system(version='3.11.7', torch='2.4.0', external=1)
    code, out = box.run()
    assert code == 0, out
    assert '--system-site-packages' in (box.venv / 'pyvenv.cfg').read_text()
    assert not any(arg.startswith('torch') for call in box.pip_calls() for arg in call['args'])


def test_torch_spec_chooses_the_torch(box):
    code, out = box.run(TORCH_SPEC='torch==2.8.0 torchvision')
    assert code == 0, out
    assert box.pip_calls()[0]['args'][-2:] == ['torch==2.8.0', 'torchvision']


def test_no_compiler_is_said_before_anything_is_downloaded(box):
    (box.bin / 'c++').unlink()
    code, out = box.run()
    assert code == 13, out
    assert 'no C++ compiler' in out and 'build-essential' in out
    assert box.pip_calls() == []


def test_python_headers_are_needed_for_the_build(box):
    assert box.run(FAKE_FAILURE='torch==:stopped here')[0] == 15
    state = {**box.state(box.venv), 'headers': 0}
    (box.venv / 'fake.json').write_text(json.dumps(state))
    code, out = box.run()
    assert code == 13 and 'Python.h' in out


def test_no_compiler_is_needed_with_a_wheel(box):
    (box.bin / 'c++').unlink()
    code, out = box.run(FAKE_WHEEL='good')
    assert code == 0, out
    installed = [Path(call['args'][-1]).name for call in box.pip_calls()]
    assert 'mmcv-2.1.0-py3.whl' in installed and 'mmcv==2.1.0' not in installed


def test_wheel_that_does_not_load_is_replaced_by_a_build(box):
    code, out = box.run(FAKE_WHEEL='bad')
    assert code == 0, out
    assert 'does not load with torch 2.13.0+cpu' in out
    assert '--no-binary' in box.call_with('mmcv==2.1.0')['args']


@pytest.mark.parametrize(
    ('cuda', 'nvcc', 'env', 'expected'),
    [
        (0, True, {}, ('0', None)),
        (1, True, {}, (None, None)),
        (1, False, {}, ('0', '')),
        (1, False, {'FORCE_CUDA': '1'}, ('1', None)),
        (1, True, {'FORCE_CUDA': '0'}, ('0', '')),
    ],
)
def test_operators_are_built_for_the_devices_of_torch(box, cuda, nvcc, env, expected):
    box.system(version='3.11.7', torch='2.4.0', cuda=cuda)
    toolkit = box.root / 'cuda'
    if nvcc:
        (toolkit / 'bin').mkdir(parents=True)
        (toolkit / 'bin' / 'nvcc').touch(mode=0o755)
    code, out = box.run(MAX_JOBS='3', CUDA_HOME=str(toolkit), **env)
    assert code == 0, out
    call = box.call_with('mmcv==2.1.0')
    assert (call['env']['FORCE_CUDA'], call['env']['CUDA_VISIBLE_DEVICES']) == expected
    assert call['env']['MAX_JOBS'] == '3'
    assert {'--no-cache-dir', '--no-build-isolation', '--no-deps'} <= set(call['args'])


def test_full_disk_is_said_before_anything_is_made(box):
    box.disk(2)
    code, out = box.run()
    assert code == 14, out
    assert '2048 MB free' in out and '6 GB' in out
    assert not box.venv.exists()


@pytest.mark.parametrize(
    ('failure', 'expected', 'said'),
    [
        ('torch==:OSError: [Errno 28] No space left on device', 14, 'disk is full'),
        ('torch==:NewConnectionError: Failed to establish a new connection', 15, 'no network'),
        ('torch==:ResolutionImpossible', 15, 'pip failed'),
        ("mmcv==:error: command '/usr/bin/g++' failed", 17, 'MAX_JOBS=1'),
    ],
)
def test_failures_of_pip_have_their_own_codes_and_can_be_continued(box, failure, expected, said):
    code, out = box.run(FAKE_FAILURE=failure)
    assert code == expected, out
    assert said in out and failure.split(':', 1)[1] in out
    code, out = box.run()
    assert code == 0, out


@pytest.mark.parametrize(('stack', 'other'), [('onedl', 'mmcv mmdet'), ('official', 'onedl-mmcv')])
def test_stacks_are_not_mixed(box, stack, other):
    box.system(version='3.11.7', torch='2.4.0', conflict=other)
    code, out = box.run('--stack', stack)
    assert code == 16, out
    assert other in out and '--own-venv' in out
    assert not box.log.exists()


def test_onedl_has_an_environment_of_its_own(box):
    code, out = box.run('--stack=onedl')
    assert code == 0, out
    assert not box.venv.exists()
    packages = box.state(box.repo / '.venv-onedl')['packages']
    assert {'onedl-mmcv', 'onedl-mmengine', 'onedl-mmsegmentation'} <= set(packages)
    box.call_with('onedl-mmengine==0.10.12')


def test_half_installed_packages_are_repaired(box):
    box.run()
    state = {**box.state(box.venv), 'broken': 'sympy==1.14.0'}
    (box.venv / 'fake.json').write_text(json.dumps(state))
    box.log.unlink()
    code, out = box.run()
    assert code == 0, out
    args = box.call_with('sympy==')['args']
    assert '--ignore-installed' in args and '--no-deps' in args
    assert len(box.pip_calls()) == 1


@pytest.mark.parametrize(
    ('pin', 'last'), [('torch==2.13.0+cpu', 'torch==2.13.0'), ('mmcv==2.1.0', 'mmcv==2.1.0')]
)
def test_half_installed_torch_or_mmcv_is_installed_again(box, pin, last):
    box.run()
    (box.venv / 'fake.json').write_text(json.dumps({**box.state(box.venv), 'broken': pin}))
    box.log.unlink()
    code, out = box.run()
    assert code == 0, out
    assert [call['args'][-1] for call in box.pip_calls()] == [last]
    assert '--ignore-installed' in box.pip_calls()[0]['args']


def test_half_installed_torch_of_the_active_environment_is_left_alone(box):
    box.system(version='3.11.7', torch='2.4.0', broken='torch==2.4.0 sympy==1.0')
    code, out = box.run()
    assert code == 0, out
    box.call_with('sympy==')
    assert not any(arg.startswith('torch') for call in box.pip_calls() for arg in call['args'])


def test_operators_of_another_torch_are_replaced(box):
    box.run()
    (box.venv / 'fake.json').write_text(json.dumps({**box.state(box.venv), 'ops': False}))
    box.log.unlink()
    code, out = box.run(FAKE_WHEEL='good')
    assert code == 0, out
    assert [Path(call['args'][-1]).name for call in box.pip_calls()] == ['mmcv-2.1.0-py3.whl']
    assert '--force-reinstall' in box.pip_calls()[0]['args']


def test_environment_whose_python_does_not_run_is_made_anew(box):
    box.run()
    (box.venv / 'bin' / 'python').write_text('#!/gone/python\n')
    code, out = box.run()
    assert code == 0, out
    assert 'damaged' in out


def test_folder_that_is_no_environment_is_left_alone(box):
    box.venv.mkdir()
    (box.venv / 'thesis.txt').write_text('mine')
    code, out = box.run()
    assert code == 18, out
    assert (box.venv / 'thesis.txt').read_text() == 'mine'


def test_interruption_stops_pip_and_the_next_run_goes_on(box):
    process = box.start(FAKE_SLOW='mmsegmentation', SETUP_HEARTBEAT='1')
    marker = Path(f'{box.log}.slow')
    deadline = time.time() + 30
    while not (marker.exists() and marker.read_text()) and time.time() < deadline:
        time.sleep(0.05)
    pid = int(marker.read_text())
    time.sleep(1.2)  # long enough for a sign of life
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 130, out
    assert 'interrupted: run the same command again' in out and '    1 s ...' in out
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)

    box.log.unlink()
    code, out = box.run()
    assert code == 0, out
    assert not any(arg.startswith('torch') for call in box.pip_calls() for arg in call['args'])


@pytest.mark.skipif(shutil.which('flock') is None, reason='the lock is another one without flock')
def test_second_run_waits_for_the_first(box):
    with open(box.repo / '.venv.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = box.start()
        assert 'is running: waiting' in process.stdout.readline()
        time.sleep(0.5)
        assert process.poll() is None and not box.venv.exists()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out


def test_works_without_flock(box):
    (box.bin / 'flock').unlink(missing_ok=True)
    stale = box.repo / '.venv.lock.d'
    stale.mkdir()
    gone = subprocess.Popen(['true'])
    gone.wait()
    (stale / 'pid').write_text(str(gone.pid))
    code, out = box.run()
    assert code == 0, out
    assert not stale.exists()


@pytest.mark.parametrize('option', ['--stack=pip', '--stcak'])
def test_wrong_options_are_refused(box, option):
    code, out = box.run(option)
    assert code == 64 and option.split('=')[-1] in out


def test_python_of_another_version_than_the_environment(box):
    box.run()
    box.system(version='3.12.1', torch='')
    code, out = box.run('--python', 'python3')
    assert code == 18, out
    assert '3.11.7' in out and '3.12.1' in out
    assert box.run()[0] == 0  # without the option the environment is enough


def test_run_tests_passes_arguments_and_exit_code_on(box):
    code, out = box.run('-k', 'a b', '--own-venv', script='run_tests.sh', FAKE_PYTEST='5')
    assert (code, out.splitlines()[-1]) == (5, 'PYTEST tests -q -k a b')
    (box.repo / 'tests' / 'test_x.py').touch()
    _, out = box.run('tests/test_x.py::test_y', '-x', script='run_tests.sh')
    assert out.splitlines()[-1] == 'PYTEST -q tests/test_x.py::test_y -x'


# ---------------------------------------------------------------- setup_probe.py


@pytest.fixture(scope='module')
def probe():
    spec = importlib.util.spec_from_file_location('setup_probe', ROOT / 'tools' / 'setup_probe.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_distribution(site: Path, name: str, version: str, requires=(), record=True) -> Path:
    info = site / f'{name}-{version}.dist-info'
    info.mkdir(parents=True)
    lines = [f'Name: {name}', f'Version: {version}', *(f'Requires-Dist: {r}' for r in requires)]
    (info / 'METADATA').write_text('\n'.join(['Metadata-Version: 2.1', *lines]) + '\n\n')
    (info / 'INSTALLER').write_text('pip\n')
    (site / f'{name}.py').touch()
    if record:
        (info / 'RECORD').write_text(
            f'{name}.py,,\n{name}.pyc,,\n{name}-{version}.dist-info/RECORD,,\n'
        )
    return info


def test_probe_finds_what_is_missing_through_all_levels(probe, tmp_path):
    make_distribution(tmp_path, 'a', '1.0', ['b>=1', "never; python_version < '3'"])
    make_distribution(tmp_path, 'b', '1.0', ['c>=2', 'a'])
    dists = probe.installed_distributions([str(tmp_path)])
    assert probe.reachable(['A'], dists) == ({'a', 'b'}, ['c>=2'])
    assert probe.satisfied('a>=1,<2', dists) and not probe.satisfied('a>=1.1', dists)
    assert not probe.satisfied('c', dists)


def test_probe_tells_a_half_installed_package(probe, tmp_path):
    make_distribution(tmp_path, 'whole', '1.0')
    make_distribution(tmp_path, 'stopped', '1.0', record=False)
    make_distribution(tmp_path, 'holed', '1.0')
    (tmp_path / 'holed.py').unlink()
    conda = make_distribution(tmp_path, 'conda', '1.0', record=False)
    (conda / 'INSTALLER').write_text('conda')
    dists = probe.installed_distributions([str(tmp_path)])
    assert {name for name, dist in dists.items() if probe.is_broken(dist)} == {'stopped', 'holed'}


def test_requirement_files_pins_and_probe_agree(probe):
    script = (ROOT / 'tools' / 'setup_env.sh').read_text()
    declared = {}
    for name in ('mminstall', 'optional'):
        for line in probe.read_requirements(ROOT / 'requirements' / f'{name}.txt'):
            declared[Requirement(line).name] = Requirement(line).specifier
    for stack in probe.STACKS.values():
        for line in [stack['mmcv'], *stack['others']]:
            requirement = Requirement(line)
            pin = script.split(f'{requirement.name}==')[1].split()[0].strip("'")
            assert requirement.specifier.contains(pin), line
            if not requirement.name.startswith('onedl-'):
                assert declared[requirement.name] == requirement.specifier


def test_onedl_does_not_ask_for_the_official_packages(probe):
    names = {Requirement(line).name for line in probe.wanted('onedl', ROOT)}
    assert 'scikit-learn' in names and 'onedl-mmdetection' in names
    assert not names & {'mmcv', 'mmdet', 'mmengine', 'mmsegmentation', 'setuptools'}


def test_probe_of_this_environment(probe):
    stack = 'official' if 'mmcv' in probe.installed_distributions() else 'onedl'
    command = [sys.executable, str(ROOT / 'tools' / 'setup_probe.py'), stack, str(ROOT)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    facts = dict(line.split('=', 1) for line in run.stdout.splitlines())
    assert facts['done'] == '1' and facts['mmcv_ops'] == 'ok' and facts['conflict'] == ''
    assert (
        facts['torch']
        and facts['mmcv']
        == probe.installed_distributions()[
            probe.canonical(Requirement(probe.STACKS[stack]['mmcv']).name)
        ].version
    )
