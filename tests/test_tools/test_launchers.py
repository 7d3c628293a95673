"""What the shell scripts do with signals, and with a number of processes that is none."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
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


# A rank that ends as tools/train.py does, and only says what it is asked for.
RANK = """#!/usr/bin/env bash
echo "rank $RANK of $WORLD_SIZE: $*"
trap 'echo "rank $RANK: saved"; exit 138' USR1
trap 'echo "rank $RANK: saved"; exit 143' TERM
touch "$READY$RANK"
while [ -z "$END" ]; do sleep 0.05; done
exit "$END"
"""


@pytest.fixture
def launch(tmp_path):
    """Function that starts a script with ranks that only speak, and a function for its output."""
    rank, log = tmp_path / 'rank', tmp_path / 'log.txt'
    rank.write_text(RANK)
    rank.chmod(0o755)

    def launch(script: str, *args: object, **env: str) -> tuple[subprocess.Popen, Callable]:
        ready = tmp_path / 'ready'
        names = dict(PYTHON=sys.executable, PORT=free_port(), PYTHON_EXEC=str(rank))
        with log.open('a') as file:  # ranks that write at once do not overwrite each other
            process = subprocess.Popen(
                ['bash', str(TOOLS / script), *map(str, args)],
                env=environment(**names, READY=str(ready), **env),
                stdout=file,
                stderr=file,
            )
        wait_for(lambda: all((tmp_path / f'ready{number}').exists() for number in (0, 1)))
        return process, log.read_text

    return launch


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGUSR1])
def test_the_launcher_passes_a_signal_to_both_ranks(number, launch):
    process, output = launch('dist_train.sh', 'c.py', 2, '--work-dir', 'w')
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    lines = output().splitlines()
    called = f'-u {TOOLS}/train.py c.py --launcher pytorch --work-dir w'
    for rank in (0, 1):
        assert f'rank {rank} of 2: {called}' in lines and f'rank {rank}: saved' in lines, output()
    assert 'Traceback' not in output()


def test_the_launcher_of_a_test_ends_with_the_status_of_its_ranks(launch):
    process, output = launch('dist_test.sh', 'c.py', 'c.pth', 2, '--out', 'o', END='3')
    assert process.wait(60) == 3
    called = f'-u {TOOLS}/test.py c.py c.pth --launcher pytorch --out o'
    assert all(f'rank {rank} of 2: {called}' in output().splitlines() for rank in (0, 1))


def long_run(folder: Path, data_root: Path) -> tuple[Path, Path]:
    """Config and work folder of a run that nobody waits for."""
    changes = dict(
        train_cfg=dict(max_iters=5000, val_interval=5000),
        train_dataloader=dict(num_workers=1),
        default_hooks=dict(checkpoint=dict(interval=5000)),
    )
    return write_config(folder / 'config.py', UNIMATCH, data_root, **changes), folder / 'work'


def is_training(log: Path) -> bool:
    return log.exists() and bool(re.search(r'Iter.train. \[ +3/', log.read_text()))


def check_end(text: str, work_dir: Path) -> None:
    """Both ranks have ended after the same iteration, and a checkpoint is there."""
    assert 'Traceback' not in text
    (step,) = re.findall(r'stopped after iteration (\d+), a checkpoint is saved', text)
    assert [path.name for path in work_dir.glob('*.pth*')] == [f'iter_{step}.pth']


@pytest.mark.two_ranks
def test_ctrl_c_stops_two_ranks_together(digit_root, tmp_path):
    """It reaches the launcher, both ranks and their workers."""
    config, work_dir = long_run(tmp_path, digit_root)
    log = tmp_path / 'log.txt'
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
        wait_for(lambda: is_training(log) or process.poll())
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 128 + signal.SIGINT
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    check_end(log.read_text(), work_dir)


@pytest.mark.two_ranks
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGUSR1], ids=['terminate', 'limit'])
def test_two_ranks_stop_together(number, server, digit_root, tmp_path):
    """Each gets the signal from the launcher."""
    config, work_dir = long_run(tmp_path, digit_root)
    ranks = server.start_ranks(TOOLS / 'train.py', config, '--work-dir', work_dir, cwd=tmp_path)
    try:
        wait_for(lambda: is_training(ranks[0].log))
    finally:
        for rank in ranks:
            os.kill(rank.pid, number)
    text = ''.join(server.finish(rank, 128 + number, timeout=60).output for rank in ranks)
    check_end(text, work_dir)


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


@pytest.mark.parametrize(
    ('variable', 'value', 'allowed'),
    [
        ('NNODES', 'x', '>= 1'),
        ('NNODES', '0', '>= 1'),
        ('NODE_RANK', '2', 'from 0 to 1'),
        ('NODE_RANK', '-1', 'from 0 to 1'),
        ('PORT', 'abc', 'from 1 to 65535'),
        ('PORT', '99999', 'from 1 to 65535'),
    ],
)
def test_variables_that_are_no_numbers_of_theirs(variable, value, allowed):
    done = subprocess.run(
        ['bash', TOOLS / 'dist_train.sh', 'none.py', '1'],
        env=environment(PYTHON=sys.executable, **{'NNODES': '2', variable: value}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == f"error: {variable} must be a whole number {allowed}, got '{value}'\n"


@pytest.mark.parametrize(
    ('variables', 'status', 'said'),
    [
        (dict(GPUS='x'), 2, "error: GPUS must be a whole number >= 1, got 'x'"),
        (dict(GPUS_PER_NODE='0'), 2, "error: GPUS_PER_NODE must be a whole number >= 1, got '0'"),
        (
            dict(),
            1,
            'error: there is no srun here: run this where Slurm is, or take tools/dist_tra',
        ),
    ],
)
def test_what_slurm_cannot_start(variables, status, said):
    done = subprocess.run(
        ['bash', TOOLS / 'slurm_train.sh', 'gpu', 'name', 'c.py', 'work'],
        env=environment(PATH='/usr/bin:/bin', **variables),
        capture_output=True,
        text=True,
    )
    assert done.returncode == status and done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == 1
