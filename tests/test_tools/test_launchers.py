"""What the shell scripts do with signals, and with a number of processes that is none."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from tool_runs import TOOLS, UNIMATCH, environment, free_port, write_config

# A step that ends as tools/train.py does, and a scheduler that only says what it is asked for.
SRUN = """#!/usr/bin/env bash
echo "srun $*"
trap 'echo saved; exit 138' USR1
trap 'echo saved; exit 143' TERM
echo ready >"$READY"
while :; do sleep 0.05; done
"""


@pytest.fixture
def slurm(tmp_path):
    """Function that starts slurm_train.sh, sends a signal, and returns its status and output."""
    ready = tmp_path / 'ready'
    for name, text in (('srun', SRUN), ('scontrol', '#!/bin/sh\necho "scontrol $*"\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def slurm(number: int, *args: str, **env: str) -> tuple[int, str]:
        ready.unlink(missing_ok=True)
        path = f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'
        clean = {k: v for k, v in environment().items() if not k.startswith('SLURM')}
        process = subprocess.Popen(
            ['bash', str(TOOLS / 'slurm_train.sh'), 'gpu', 'name', 'c.py', 'work', *args],
            env={**clean, 'PATH': path, 'READY': str(ready), **env},
            stdout=subprocess.PIPE,
            text=True,
        )
        wait_for(ready.exists)
        process.send_signal(number)
        output, _ = process.communicate(timeout=30)
        return process.returncode, output

    return slurm


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'it took too long'
        time.sleep(0.05)


def test_a_batch_job_is_requeued_before_its_limit(slurm):
    status, output = slurm(signal.SIGUSR1, SLURM_JOB_ID='77')
    assert status == 138 and output.splitlines()[1:] == ['saved', 'scontrol requeue 77']
    assert '--resume' not in output and '--signal' not in output


def test_a_requeued_job_resumes(slurm):
    _, output = slurm(signal.SIGTERM, '--amp', SLURM_JOB_ID='77', SLURM_RESTART_COUNT='1')
    assert output.splitlines()[0].endswith('--work-dir=work --launcher slurm --amp --resume')
    _, output = slurm(signal.SIGTERM, '--resume', SLURM_JOB_ID='77', SLURM_RESTART_COUNT='2')
    assert output.count('--resume') == 1


def test_sigterm_ends_a_job_for_good(slurm):
    status, output = slurm(signal.SIGTERM, SLURM_JOB_ID='77')
    assert status == 143 and output.splitlines()[1:] == ['saved']


def test_from_a_login_node_the_ranks_get_the_signal(slurm):
    status, output = slurm(signal.SIGUSR1)
    assert status == 138 and '--signal=USR1@120' in output and 'scontrol' not in output


@pytest.mark.two_ranks
@pytest.mark.parametrize(
    ('number', 'group'),
    [(signal.SIGTERM, False), (signal.SIGINT, True), (signal.SIGUSR1, False)],
    ids=['terminate', 'ctrl-c', 'limit'],
)
def test_two_ranks_stop_together(number, group, digit_root, tmp_path):
    """Ctrl-C reaches the launcher, both ranks and their workers."""
    changes = dict(
        train_cfg=dict(max_iters=5000, val_interval=5000),
        train_dataloader=dict(num_workers=1),
        default_hooks=dict(checkpoint=dict(interval=5000)),
    )
    config = write_config(tmp_path / 'config.py', UNIMATCH, digit_root, **changes)
    work_dir, log = tmp_path / 'work', tmp_path / 'log.txt'
    command = ['bash', TOOLS / 'dist_train.sh', config, 2, '--work-dir', work_dir]
    with log.open('w') as file:
        process = subprocess.Popen(
            list(map(str, command)),
            env=environment(PYTHON=sys.executable, PORT=free_port()),
            cwd=tmp_path,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        wait_for(lambda: re.search(r'Iter.train. \[ +3/', log.read_text()) or process.poll())
        (os.killpg if group else os.kill)(process.pid, number)
        assert process.wait(60) == 128 + number
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    text = log.read_text()
    assert 'Traceback' not in text
    (step,) = re.findall(r'stopped after iteration (\d+), a checkpoint is saved', text)
    assert [path.name for path in Path(work_dir).glob('*.pth*')] == [f'iter_{step}.pth']


@pytest.mark.parametrize(('tool', 'number'), [('train', '0'), ('test', 'two')])
def test_a_number_of_processes_that_is_none(tool, number, tmp_path):
    files = ['none.py'] if tool == 'train' else ['none.py', 'none.pth']
    done = subprocess.run(
        ['bash', TOOLS / f'dist_{tool}.sh', *files, number],
        env=environment(PYTHON=sys.executable),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"error: PROCESSES must be a whole number >= 1, got '{number}'"
    )
