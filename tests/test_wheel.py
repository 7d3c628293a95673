"""The wheel has all that a user needs, and needs no checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from mmengine.config import Config
from tool_runs import CONFIGS, ONE_THREAD, REPO, UNIMATCH, merged, small_settings

import mmseg_semi  # noqa: F401  (says where its configs are)

SHIPPED = ('configs', 'tools', 'model-index.yml')


def run(*command, cwd: Path) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=dict(PATH='/usr/bin:/bin', **ONE_THREAD),  # no PYTHONPATH, no active environment
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def build(kind: str, sources: Path, out: Path) -> Path:
    """Build a distribution as pip does, without network."""
    code = f'from setuptools import build_meta; print(build_meta.build_{kind}({str(out)!r}))'
    return out / run(sys.executable, '-c', code, cwd=sources).splitlines()[-1]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> Path:
    """The wheel of a copy of the sources, by way of their source distribution."""
    folder = tmp_path_factory.mktemp('wheel')
    copy = folder / 'copy'
    copy.mkdir()
    junk = shutil.ignore_patterns('__pycache__', '.mim')
    for name in (
        'pyproject.toml',
        'setup.py',
        'README.md',
        'LICENSE',
        'model-index.yml',
    ):
        shutil.copy(REPO / name, copy)
    for name in ('configs', 'tools', 'mmseg_semi', 'mmseg_semi_cli'):
        shutil.copytree(REPO / name, copy / name, ignore=junk)
    shutil.copytree(REPO / 'mmseg_semi/.mim', copy / 'mmseg_semi/.mim', symlinks=True)
    (copy / 'tools/__pycache__').mkdir()
    (copy / 'tools/__pycache__/train.pyc').touch()
    archive = build('sdist', copy, folder)
    shutil.unpack_archive(archive, folder)
    return build('wheel', folder / archive.name[: -len('.tar.gz')], folder)


def test_the_wheel_has_configs_tools_and_index(wheel):
    shipped = {path.name: path for path in (REPO / 'mmseg_semi/.mim').iterdir()}
    assert sorted(shipped) == sorted(SHIPPED)
    files = [REPO / 'model-index.yml']
    for name in SHIPPED[:2]:
        files += [path for path in (REPO / name).rglob('*') if path.is_file()]
    wanted = {str(p.relative_to(REPO)) for p in files if '__pycache__' not in p.parts}
    names = zipfile.ZipFile(wheel).namelist()
    prefix = 'mmseg_semi/.mim/'
    assert {name[len(prefix) :] for name in names if name.startswith(prefix)} == wanted
    scripts = next(name for name in names if name.endswith('entry_points.txt'))
    assert b'mmseg-semi = mmseg_semi_cli:main' in zipfile.ZipFile(wheel).read(scripts)
    assert {'mmseg_semi/py.typed', 'mmseg_semi/apis/check.html.j2'} <= {*names} and len(
        wanted
    ) > 500
    assert {name.split('/')[0].split('-')[0] for name in names} == {
        'mmseg_semi',
        'mmseg_semi_cli',
    }


def test_the_configs_of_a_checkout_have_the_same_names():
    """Configs of mmseg keep their scope; ours are in mmseg's."""
    names = dict(mmseg_semi=UNIMATCH, mmseg='_base_/default_runtime.py')
    found = {name: Config._get_cfg_path(f'{name}::{names[name]}', '') for name in names}
    path, scope = found['mmseg_semi']
    assert Path(path).resolve() == CONFIGS / UNIMATCH and scope is None
    assert found['mmseg'][1] == 'mmseg'


@pytest.mark.slow
def test_an_installed_wheel_trains_a_config_from_elsewhere(
    wheel, digit_root, plain_server, tmp_path
):
    """Two steps and a test, in an environment that has the other packages but not this checkout."""
    run(sys.executable, '-m', 'venv', '--without-pip', 'env', cwd=tmp_path)
    python = tmp_path / 'env/bin/python'
    pip = (sys.executable, '-m', 'pip', '--python', python, 'install', '--no-deps', '--no-index')
    run(*pip, wheel, cwd=tmp_path)
    (site,) = (tmp_path / 'env/lib').glob('python*/site-packages')
    packages = sysconfig.get_paths()['purelib']  # its own .pth files, of checkouts, are not read
    (site / 'packages.pth').write_text(f'{packages}\n')
    code = 'from importlib.util import find_spec; print(find_spec("mmseg_semi").origin)'
    installed = Path(run(python, '-c', code, cwd=tmp_path).splitlines()[-1]).parent
    assert installed == site / 'mmseg_semi'

    changes = dict(train_cfg=dict(max_iters=2, val_interval=2))
    settings = merged(small_settings(UNIMATCH, digit_root), changes)
    # What a config takes from its base carries the base's scope.
    lines = [f"_base_ = 'mmseg_semi::{UNIMATCH}'", 'optim_wrapper = _base_.optim_wrapper']
    lines += [f'{key} = {value!r}' for key, value in settings.items()]
    (tmp_path / 'config.py').write_text('\n'.join(lines) + '\n')
    tools = installed / '.mim/tools'
    output = run(python, tools / 'train.py', 'config.py', '--work-dir', 'work', cwd=tmp_path)
    assert 'Iter(train) [2/2]' in output
    assert not [name for name in (*SHIPPED, 'mmseg_semi') if str(REPO / name) in output]
    where = dict(cwd=tmp_path, unblock=['mmseg_semi'], paths=[site])  # found before the checkout
    output = plain_server.run(tools / 'test.py', 'config.py', 'work/iter_2.pth', **where).output
    assert 'mIoU' in output and str(REPO / 'mmseg_semi') not in output
