"""A folder is one run's at a time."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from mmseg_semi.utils.config import load_config
from mmseg_semi.utils.work_dirs import LOCK_FILE, claimed, leaving_nothing

HOLD = """
import os, sys, time
from mmseg_semi.utils.config import load_config
from mmseg_semi.utils.work_dirs import claimed
with claimed(sys.argv[1]):
    if os.fork() == 0:  # as data workers do, which outlive a killed process for seconds
        time.sleep(60)
        os._exit(0)
    print('held', flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(server, tmp_path, tmp_path_factory):
    """Another process that holds a folder, with a child of its own."""
    script = tmp_path_factory.mktemp('holder') / 'script.py'
    script.write_text(HOLD)
    process = server.start(script, tmp_path)
    wait_for(lambda: process.log.exists() and process.log.read_text() == 'held\n')
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    server.finish(process, code=-signal.SIGKILL)


def wait_for(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, 'it took too long'
        time.sleep(0.02)


def test_a_second_run_is_told_who_holds_the_folder(holder, tmp_path):
    (tmp_path / 'iter_2.pth.part').touch()
    with pytest.raises(ValueError) as caught, claimed(str(tmp_path)):
        pass
    text = rf'--work-dir {tmp_path} is in use by process {holder.pid} on \S+ since \d{{4}}-.*: wait'
    assert re.match(text, str(caught.value)) and (tmp_path / 'iter_2.pth.part').exists()


def test_the_lock_of_a_killed_run_is_taken_over(holder, tmp_path, capsys):
    os.kill(holder.pid, signal.SIGKILL)
    # It has ended, and its server has not asked how.
    wait_for(lambda: ') Z ' in Path(f'/proc/{holder.pid}/stat').read_text())
    (tmp_path / 'iter_2.pth.part').touch()
    (tmp_path / 'iter_2.pth').touch()
    assert (tmp_path / LOCK_FILE).exists()
    with claimed(str(tmp_path)):
        assert f'process {os.getpid()} on' in (tmp_path / LOCK_FILE).read_text()
    assert os.listdir(tmp_path) == ['iter_2.pth']
    assert (
        'iter_2.pth.part was left half-written by a run that was killed' in capsys.readouterr().out
    )


def test_the_folder_is_free_afterwards(tmp_path):
    folder = tmp_path / 'a' / 'b'
    for _ in range(2):
        with claimed(str(folder)):
            assert os.listdir(folder) == [LOCK_FILE]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('begun', [False, True])
def test_a_refused_run_leaves_nothing_and_all_that_is_of_others(tmp_path, begun):
    old, new = tmp_path / 'old', tmp_path / 'a' / 'b'
    old.mkdir()
    (old / 'kept.txt').touch()
    own = [new / 'logs', old / 'config.py']
    folders = leaving_nothing(str(new), str(old), None, written=lambda: own)
    with pytest.raises(FileNotFoundError), claimed(str(new)), folders as begin:
        (new / 'logs').mkdir()
        # A training in the same folder saves while the run is refused.
        for path in (new / 'logs/a.log', old / 'config.py', old / 'iter_9.pth'):
            path.touch()
        if begun:
            begin()
        load_config(str(tmp_path / 'nowhere.py'))
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*.*'))
    ours = ['a/b/logs/a.log', 'old/config.py'] if begun else []
    assert left == [*ours, 'old/iter_9.pth', 'old/kept.txt']
    assert begun or os.listdir(tmp_path) == ['old']


def test_only_the_first_rank_claims(tmp_path, monkeypatch):
    monkeypatch.setenv('RANK', '1')
    with claimed(str(tmp_path), 'pytorch'):
        assert os.listdir(tmp_path) == []
    with claimed(str(tmp_path)):
        assert os.listdir(tmp_path) == [LOCK_FILE]
    monkeypatch.setenv('RANK', '0')
    with claimed(str(tmp_path), 'pytorch'):
        assert os.listdir(tmp_path) == [LOCK_FILE]


def test_without_locks_a_run_starts_all_the_same(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(37, 'No locks available')

    monkeypatch.setattr('mmseg_semi.utils.work_dirs.fcntl.lockf', refuse)
    with claimed(str(tmp_path)):
        pass
    assert 'can not be locked here (No locks available)' in capsys.readouterr().out


def test_training_in_a_folder_that_is_held_is_refused(holder, train, tmp_path: Path):
    refused = train(work_dir=tmp_path, code=1)
    assert f'in use by process {holder.pid}' in refused.output
    assert os.listdir(tmp_path) == [LOCK_FILE]
