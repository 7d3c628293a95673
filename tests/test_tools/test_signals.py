"""Signals end a run after a checkpoint, and the run that goes on is the uninterrupted one."""

from __future__ import annotations

import re
import shlex
import signal
from pathlib import Path

import pytest
from tool_runs import EMA, TOOLS, UNIMATCH, differing, load_checkpoint, train_scalars, with_hooks

from mmseg_semi.engine.stopping import resume_command

TWO_WORKERS = dict(train_dataloader=dict(num_workers=2), val_dataloader=dict(num_workers=1))
RARE = dict(default_hooks=dict(checkpoint=dict(interval=100)))


def stop(train, work_dir: Path, number: int, iteration: int, validation: bool, **changes) -> str:
    """Train until the signal; return the command that is said to go on."""
    hook = dict(type='SignalHook', iteration=iteration, number=int(number), validation=validation)
    run = train(
        UNIMATCH, work_dir=work_dir, code=128 + number, **with_hooks({**changes, **RARE}, hook)
    )
    assert 'Traceback' not in run.output
    name = signal.Signals(number).name
    assert f'{name}: the run ends after this iteration' in run.output
    (command,) = re.findall(
        rf'{name}: stopped after iteration {iteration}, a checkpoint is saved. Go on with: (.*)',
        run.output,
    )
    assert [path.name for path in work_dir.glob('*.pth*')] == [f'iter_{iteration}.pth']
    return command


@pytest.mark.parametrize(
    ('number', 'iteration', 'validation', 'changes'),
    [
        (signal.SIGTERM, 5, False, TWO_WORKERS),
        (signal.SIGINT, 3, False, {}),
        (signal.SIGUSR1, 8, False, {}),
        (signal.SIGTERM, 6, True, {}),
        (signal.SIGINT, 6, True, TWO_WORKERS),
    ],
)
def test_a_signal_saves_and_the_resumed_run_is_exact(
    number, iteration, validation, changes, train, ema_run, tmp_path
):
    changes = {**EMA, **changes}
    work_dir = tmp_path / 'work'
    command = stop(train, work_dir, number, iteration, validation, **changes)
    assert command.startswith(f'python {TOOLS / "train.py"} ') and command.endswith(' --resume')
    resumed = train(UNIMATCH, '--resume', work_dir=work_dir, **changes)
    assert f'iter_{iteration}.pth' in resumed.output
    ends = [load_checkpoint(run / 'iter_8.pth') for run in (ema_run.work_dir, work_dir)]
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert differing(ends[0][part], ends[1][part], part) == []
    assert train_scalars(work_dir) == train_scalars(ema_run.work_dir)
    # The validation that was interrupted is made up for.
    wanted, got = (scores(run) for run in (ema_run.output, resumed.output))
    assert len(wanted) == 2 and got == wanted[-len(got) :] and len(got) == 2 - (iteration > 6)


def scores(output: str) -> list[str]:
    return re.findall(r'Iter\(val\).*mIoU: ([\d.]+)', output)


def test_the_command_that_goes_on(server, train, unimatch_run, tmp_path):
    """It is the whole command, once with --resume, and it runs as it stands."""
    line = ['tools/train.py', 'a b.py', '--resume', 'x.pth', '--amp']
    assert resume_command(line) == "python tools/train.py 'a b.py' --amp --resume"
    line = ['tools/train.py', 'c.py', '--resume', '--cfg-options', 'a=1', 'b=2']
    assert resume_command(line) == 'python tools/train.py c.py --cfg-options a=1 b=2 --resume'
    line = ['mmseg-semi train', 'c.py', '--work-dir', 'a b']
    assert resume_command(line) == "mmseg-semi train c.py --work-dir 'a b' --resume"
    assert resume_command([*line, '--launcher', 'slurm']) == 'the same command with --resume'
    command = stop(train, tmp_path / 'work', signal.SIGTERM, 2, False)
    script, *args = shlex.split(command)[1:]
    server.run(script, *args, '--cfg-options', 'train_cfg.max_iters=3', code=0)
    assert (tmp_path / 'work' / 'iter_3.pth').is_file()
