import sys
from importlib import metadata

import pytest
import torch

from mmseg_semi.utils import collect_env
from mmseg_semi.version import __version__


@pytest.mark.parametrize(
    ('installed', 'stack'),
    [
        ({'mmcv', 'mmengine', 'mmsegmentation'}, 'official'),
        ({'onedl-mmcv', 'onedl-mmsegmentation'}, 'onedl'),
        ({'mmengine', 'onedl-mmcv'}, 'mixed'),
        ({'torch', 'mmcv-lite'}, 'none'),
    ],
)
def test_stack_is_told_by_distribution_names(installed, stack):
    def version_of(name):
        return '1.0' if name in installed else None

    assert collect_env.detect_stack(version_of) == stack


def test_report_of_this_environment():
    rows = collect_env.collect_env()
    assert rows['mmseg_semi'] == __version__
    assert rows['torch'].startswith(f'{torch.__version__} (built for ')
    assert rows['Python'].endswith(f'({sys.executable})')
    assert rows['Stack'] in ('official', 'onedl')
    for name in collect_env.STACKS[rows['Stack']][:3]:  # mmdet is optional
        assert rows[name] == metadata.version(name)
    assert rows['mmcv operators'].startswith('compiled for')


def test_report_is_aligned():
    text = collect_env.format_env({'a': '1', 'long name': 'x y'})
    assert text == 'a          1\nlong name  x y'


def test_operators_that_do_not_load_are_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmcv.ops', None)
    assert collect_env.describe_ops().startswith('do not load (')


@pytest.mark.parametrize(
    ('cuda', 'said'), [('not available', 'CPU only'), ('12.4', 'CPU and CUDA 12.4')]
)
def test_target_of_the_operators(monkeypatch, cuda, said):
    ops = type(sys)('mmcv.ops')
    ops.get_compiler_version = lambda: 'GCC 12.2'
    ops.get_compiling_cuda_version = lambda: cuda
    monkeypatch.setitem(sys.modules, 'mmcv.ops', ops)
    assert collect_env.describe_ops() == f'compiled for {said} with GCC 12.2'


def test_a_missing_optional_package_is_said_and_not_imported(monkeypatch):
    absent = ('mmdet', 'onedl-mmdetection', 'tensorboard')
    real = collect_env.distribution_version
    monkeypatch.setattr(
        collect_env, 'distribution_version', lambda name: None if name in absent else real(name)
    )
    rows = collect_env.collect_env()
    assert rows['tensorboard'] == 'not installed'
    assert 'not installed' in (rows.get('mmdet'), rows.get('onedl-mmdetection'))


def test_runs_as_a_module_without_mmdet(plain_server, tmp_path):
    script = tmp_path / 'script.py'
    script.write_text(
        'import runpy, sys\n'
        "sys.modules['mmdet'] = None\n"  # an import of it would fail
        "runpy.run_module('mmseg_semi.utils.collect_env', run_name='__main__')"
    )
    # The fork prints lines of its own when it is imported.
    output = plain_server.run(script, unblock=['mmseg_semi']).output
    rows = [line.split() for line in output.splitlines()]
    assert rows.count(['mmseg_semi', __version__]) == 1
