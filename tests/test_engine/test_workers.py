"""Data workers: signals leave them alone, and what ends or stops them is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from mmengine.dataset import worker_init_fn
from tool_runs import UNIMATCH, write_config
from torch.utils.data import DataLoader, Dataset

from mmseg_semi.engine.workers import TIMEOUT, explaining, prepare_workers
from mmseg_semi.errors import DataError


class Slow(Dataset):
    """Six tensors; the fourth takes ``seconds``, or ends its worker."""

    def __init__(self, seconds: float = 0, ends: bool = False) -> None:
        self.seconds, self.ends = seconds, ends

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 3:
            time.sleep(self.seconds)
            if self.ends:
                os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor(index)


def load(**arguments) -> DataLoader:
    dataset = Slow(**{k: arguments.pop(k) for k in ('seconds', 'ends') if k in arguments})
    loader = DataLoader(dataset, **{'num_workers': 1, **arguments})
    prepare_workers(loader)
    return loader


def values(loader: DataLoader) -> list[int]:
    with explaining('train_dataloader'):
        return [int(value) for value in loader]


def test_a_loader_with_workers_gets_a_time_out():
    assert load().timeout == TIMEOUT == 600 and load(timeout=7).timeout == 7
    alone = load(num_workers=0)
    assert alone.timeout == 0 and values(alone) == list(range(6))
    loader = load()
    begin = loader.worker_init_fn
    prepare_workers(loader)
    assert loader.worker_init_fn is begin, 'once is enough'


def test_a_stalled_file_is_a_time_out_that_names_the_setting():
    begun = time.monotonic()
    with pytest.raises(DataError) as caught:
        values(load(seconds=30, timeout=1))
    assert str(caught.value).startswith('train_dataloader: no batch came within 1 s')
    assert 'train_dataloader.timeout' in str(caught.value) and time.monotonic() - begun < 20


def test_a_worker_that_dies_is_named_with_what_to_do():
    with pytest.raises(DataError, match='^train_dataloader: .*data worker .*num_workers'):
        values(load(ends=True))


def test_other_errors_are_left_alone():
    with pytest.raises(RuntimeError, match='of another kind'), explaining('train_dataloader'):
        raise RuntimeError('of another kind')


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_of_the_run_leave_workers_alone(number):
    loader = load(seconds=0.5, worker_init_fn=None)
    batches = iter(loader)
    found = [int(next(batches))]
    for worker in batches._workers:
        os.kill(worker.pid, number)
    assert found + [int(batch) for batch in batches] == list(range(6))
    del batches


def test_seeds_of_workers_stay_those_of_mmengine():
    from functools import partial

    inner = partial(worker_init_fn, num_workers=1, rank=0, seed=3)
    loader = DataLoader(Random(), num_workers=1, worker_init_fn=inner)
    plain = [value.tolist() for value in loader]
    prepare_workers(loader)
    assert [value.tolist() for value in loader] == plain


class Random(Dataset):
    """Draws from torch's generator."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.rand(2)


def may_mount() -> bool:
    small = 'mount -t tmpfs -o size=128k none /dev/shm'
    done = subprocess.run(['unshare', '-m', 'bash', '-c', small], capture_output=True)
    return done.returncode == 0


# tools/train.py in a name space of its own, with that shared memory.
TRAIN = """
import ctypes, subprocess
assert ctypes.CDLL(None).unshare(0x20000) == 0
for words in ('--make-rprivate /', '-t tmpfs -o size=128k none /dev/shm'):
    subprocess.run(['mount', *words.split()], check=True)
from mmseg_semi_cli import run_tool
run_tool('mmseg_semi.apis.train')
"""


@pytest.mark.skipif(sys.platform != 'linux' or not may_mount(), reason='may not mount')
def test_a_small_shared_memory_is_named(server, digit_root, tmp_path):
    config = write_config(
        tmp_path / 'c.py', UNIMATCH, digit_root, train_dataloader=dict(num_workers=2)
    )
    script = tmp_path / 'script.py'
    script.write_text(TRAIN)
    output = server.run(script, config, '--work-dir', tmp_path / 'work', code=1, timeout=120).output
    assert 'Traceback' not in output
    assert 'train_dataloader: the shared memory /dev/shm is too small' in output
    assert 'train_dataloader.num_workers=0' in output
