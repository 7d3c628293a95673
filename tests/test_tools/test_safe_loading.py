"""Checkpoints are data: a pickle that holds anything else is refused, and nothing of it runs."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any, Callable

import mmengine.runner
import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from tool_runs import TOOLS, load_checkpoint

import mmseg_semi  # noqa: F401  (allows what mmengine's checkpoints hold)

pytestmark = pytest.mark.skipif(
    not hasattr(torch.serialization, 'add_safe_globals'), reason='torch has no safe loader'
)


class Call:
    """Unpickled, it is what ``function(*args)`` returns."""

    def __init__(self, function: Callable, *args: Any) -> None:
        self.call: tuple[Callable, tuple] = function, args

    def __reduce__(self) -> tuple[Callable, tuple]:
        return self.call


def dangerous(kind: str, marker: Path) -> Any:
    """Something that leaves ``marker`` behind, or reaches for what it must not, when loaded."""
    return dict(
        system=Call(os.system, f'touch {marker}'),
        getattr_of_array=Call(getattr, np.ndarray, 'tofile'),
        getattr_of_tensor=Call(getattr, torch.Tensor, 'numpy'),
        getattr_of_history=Call(getattr, HistoryBuffer, '__init__'),
        evaluated=Call(eval, f'open({str(marker)!r}, "w").close()'),
    )[kind]


KINDS = ['system', 'getattr_of_array', 'getattr_of_tensor', 'getattr_of_history', 'evaluated']


@pytest.fixture
def poisoned(unimatch_run, tmp_path) -> Callable[[str], Path]:
    """Function that hides something in the meta information of a real checkpoint."""

    def poison(kind: str) -> Path:
        checkpoint = load_checkpoint(unimatch_run.checkpoint)
        checkpoint['meta']['hidden'] = dangerous(kind, tmp_path / 'marker')
        path = tmp_path / 'iter_8.pth'
        torch.save(checkpoint, path)
        return path

    return poison


def test_the_hidden_call_would_run(poisoned, tmp_path):
    """So that the tests below test something."""
    torch.load(poisoned('system'), weights_only=False)
    assert (tmp_path / 'marker').is_file()


@pytest.mark.parametrize('kind', KINDS)
def test_loading_is_refused(kind, poisoned, tmp_path):
    path = poisoned(kind)
    # The first is what mmengine's runner calls, without saying how to unpickle.
    for load in (torch.load, mmengine.runner.CheckpointLoader.load_checkpoint):
        with pytest.raises(
            (pickle.UnpicklingError, RuntimeError, ValueError), match='refused|Weights only'
        ):
            load(str(path), map_location='cpu')
    assert not (tmp_path / 'marker').exists()


def test_test_and_resume_refuse_it(poisoned, server, unimatch_run, tmp_path):
    path = poisoned('system')
    commands = (
        [TOOLS / 'test.py', unimatch_run.config, path, '--work-dir', tmp_path / 'work'],
        [
            TOOLS / 'train.py',
            unimatch_run.config,
            '--resume',
            path,
            '--work-dir',
            tmp_path / 'work',
        ],
        [TOOLS / 'train.py', unimatch_run.config, '--resume', '--work-dir', tmp_path],
        [
            TOOLS / 'model_converters' / 'extract_segmentor.py',
            *(path, '--config', unimatch_run.config, '--out', tmp_path / 'out.pth'),
        ],
    )
    for command in commands:
        done = server.run(*command, code=1)
        assert 'system, which is neither tensor, number nor text' in done.output, command
        assert 'weights_only' not in done.output, command
    assert not (tmp_path / 'marker').exists()


def test_test_refuses_another_attribute(poisoned, server, unimatch_run, tmp_path):
    args = (unimatch_run.config, poisoned('getattr_of_array'), '--work-dir', tmp_path / 'work')
    done = server.run(TOOLS / 'test.py', *args, code=1)
    assert "holds attribute 'tofile', which is neither" in done.output


def test_real_checkpoints_load(ema_run):
    """With their history of logged values, which is what the exceptions are for."""
    checkpoint = torch.load(ema_run.checkpoint, weights_only=True)
    history = checkpoint['message_hub']['log_scalars']['train/loss']
    assert isinstance(history, HistoryBuffer) and history.current() > 0
    assert history.mean(2) == pytest.approx(sum(history.data[0][-2:]) / 2)
