"""Fixtures for tests that run the tools: tiny digit scenes, fork servers, trained runs."""

from __future__ import annotations

import atexit
import gc
import importlib
import importlib.util
import inspect
import os
import shutil
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

gc.disable()  # until all is collected: nothing that is imported is garbage

TESTS = Path(__file__).resolve().parent
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))

# The tests leave the user's cache of file records alone, and so do the tools that they start.
os.environ['XDG_CACHE_HOME'] = tempfile.mkdtemp(prefix='mmseg_semi_tests_')
atexit.register(shutil.rmtree, os.environ['XDG_CACHE_HOME'], ignore_errors=True)

# Packages are imported where they are needed: the process that only hands the tests to those of
# pytest-xdist reads this file, too, and would keep them waiting for seconds.
if TYPE_CHECKING:
    from tool_runs import ForkServer

# torch._dynamo is imported by the first optimizer that is built, setuptools by the first run.
HEAVY = ['torch._dynamo', 'mmengine.runner', 'mmseg.apis', 'mmseg.engine', 'setuptools']
HEAVY += ['matplotlib.backends.backend_agg', 'torch.utils.serialization.config']
if importlib.util.find_spec('tensorboard') is not None:
    HEAVY.append('torch.utils.tensorboard')

#: Files that take more than about twenty seconds.
LONG = {
    'test_ablation_configs',
    'test_bad_inputs',
    'test_benchmark_configs',
    'test_benchmark_runs',
    'test_compatibility',
    'test_configs',
    'test_custom_networks',
    'test_distributed',
    'test_extract_segmentor',
    'test_faults',
    'test_image_kinds',
    'test_launchers',
    'test_method_runs',
    'test_own_images',
    'test_plan',
    'test_planted_faults',
    'test_predictions',
    'test_pseudo_labels',
    'test_scale_benchmark',
    'test_semi2mmseg',
    'test_setup_env',
    'test_strangers',
    'test_train_resume',
    'test_walk',
    'test_wheel',
}


def pytest_configure(config: pytest.Config) -> None:
    """Let what is slow, and no test looks at, be fast in the process that runs the tests."""
    if config.getoption('numprocesses', None) and not hasattr(config, 'workerinput'):
        return
    from config_cache import remember_configs
    from fork_server import be_fast

    remember_configs()
    be_fast()
    # A data set that is built searches all objects of all tests for garbage: here new ones alone.
    new_garbage = types.SimpleNamespace(collect=lambda: gc.collect(1))
    importlib.import_module('mmengine.dataset.base_dataset').gc = new_garbage
    importlib.import_module('mmseg_semi')


@pytest.fixture(autouse=True)
def convnext(request: pytest.FixtureRequest) -> None:
    """Tests with ConvNeXt in their name have mmpretrain, or are skipped."""
    if 'convnext' in request.node.name:
        from mmpretrain_package import bring_mmpretrain

        bring_mmpretrain()


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file on one worker, and all that start two ranks."""

    def ranks(item: pytest.Item) -> bool:
        return bool(item.get_closest_marker('two_ranks')) or 'on_two_ranks' in item.fixturenames

    # The longest groups come first, so that no worker is left with one at the end.
    items.sort(key=lambda item: (not ranks(item), item.path.stem not in LONG))
    for item in items:
        item.add_marker(pytest.mark.xdist_group('two_ranks' if ranks(item) else item.path.stem))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave what is imported and collected out of each later search for garbage.

    There are millions of such objects, and mmengine searches with each data set that it builds.
    """
    if hasattr(session.config, 'workerinput'):  # a worker of pytest-xdist, which gets all to do
        importlib.import_module('torch._dynamo')
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope='session')
def digit_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny digit scenes data set: 8 labeled, 13 unlabeled, 3 validation and 5 test images."""
    from mmseg_semi.prepare.digit_scenes import SceneParams, make_digit_scenes

    folder = tmp_path_factory.mktemp('scenes') / 'digit_scenes'
    params = SceneParams(labeled=8, subsets=(8,), unlabeled=13, val=3, test=5)
    make_digit_scenes(folder, params)
    return folder


@pytest.fixture(scope='session')
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """Runs scripts where everything is installed and imported already."""
    from tool_runs import ForkServer

    folder = tmp_path_factory.mktemp('server')
    tools = [f'mmseg_semi.apis.{name}' for name in ('check', 'predict', 'test', 'train')]
    server = ForkServer(folder, [*HEAVY, 'mmseg_semi', *tools])
    yield server
    server.close()


@pytest.fixture(scope='session')
def plain_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """Runs scripts where neither mmdet nor (unless unblocked) mmseg_semi can be imported."""
    from tool_runs import ForkServer

    folder = tmp_path_factory.mktemp('plain_server')
    server = ForkServer(folder, HEAVY, block=['mmdet', 'mmseg_semi'])
    yield server
    server.close()


@pytest.fixture
def on_two_ranks(server: ForkServer, tmp_path: Path) -> Callable[..., list[Any]]:
    """Function that calls ``function(rank, *inputs)`` on two ranks and returns both results.

    The function stands in a test file; inputs and results are what torch's safe loader takes.
    """
    import torch

    def on_two_ranks(function: Callable[..., Any], *inputs: Any) -> list[Any]:
        torch.save(inputs, tmp_path / 'inputs.pt')
        names = (function.__module__, inspect.getfile(function), function.__name__)
        server.run(TESTS / 'two_ranks.py', *names, cwd=tmp_path, timeout=120)
        return [torch.load(tmp_path / f'rank{rank}.pt') for rank in (0, 1)]

    return on_two_ranks


@dataclass
class Run:
    """A finished training run.

    Attributes:
        config: Its config file.
        work_dir: Its folder.
        output: What it printed.
    """

    config: Path
    work_dir: Path
    output: str

    @property
    def checkpoint(self) -> Path:
        """The checkpoint of the last iteration."""
        return self.work_dir / 'iter_8.pth'


@pytest.fixture(scope='session')
def train(server: ForkServer, digit_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Function that writes a small config and trains it with tools/train.py."""
    from tool_runs import TOOLS, UNIMATCH, write_config

    def train(
        base: str = UNIMATCH,
        *args: Any,
        work_dir: Path | None = None,
        code: int = 0,
        data_root: Path = digit_root,
        **changes: Any,
    ) -> Run:
        folder = tmp_path_factory.mktemp('run')
        config = write_config(folder / 'config.py', base, data_root, **changes)
        work_dir = work_dir or folder / 'work'
        done = server.run(TOOLS / 'train.py', config, '--work-dir', work_dir, *args, code=code)
        return Run(config, work_dir, done.output)

    return train


@pytest.fixture(scope='session')
def unimatch_run(train: Any) -> Run:
    """UniMatch, 8 iterations."""
    return train()


@pytest.fixture(scope='session')
def ema_run(train: Any) -> Run:
    """UniMatch with an EMA teacher, 8 iterations."""
    from tool_runs import EMA

    return train(**EMA)


@pytest.fixture(scope='session')
def supervised_run(train: Any) -> Run:
    """The plain segmentor on the labeled images alone, 8 iterations."""
    from tool_runs import SUPERVISED

    return train(SUPERVISED)
