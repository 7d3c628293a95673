"""Signals that ask a run to end: it saves a checkpoint first, and says how to go on."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.logging import print_log

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# A launcher passes on what the terminal has sent to all processes.
_SAME_SIGNAL = 2.0


class StopRequest:
    """Notes SIGTERM, SIGINT or SIGUSR1 while a run trains; a second one ends the process at once.

    What comes within two seconds of the first counts as the same. SIGUSR1 is what Slurm is told to
    send before the time limit.
    """

    def __init__(self) -> None:
        self._number, self._since = 0, 0.0
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        """Take the signals over; only the main thread of a process can."""
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        self._process = os.getpid()
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}

    def release(self) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def asked(self) -> int:
        """Number of the signal that this process has been sent, 0 without one."""
        return self._number

    def asked_of_any(self) -> int:
        """Number of the signal that any rank has been sent; all ranks ask, and agree."""
        if get_world_size() == 1 or not self._before:
            return self._number
        device = 'cuda' if dist.get_backend() == 'nccl' else 'cpu'
        number = torch.tensor(self._number, device=device)
        all_reduce(number, op='max')
        return int(number)

    def _note(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:  # a data worker that has just been forked
            return
        now = time.monotonic()
        if self._number == 0:
            self._number, self._since = number, now
            if is_main_process():  # the log may be in use
                name = signal.Signals(number).name
                text = f'{name}: the run ends after this iteration; a second one ends it at once\n'
                os.write(2, text.encode())
        elif now - self._since > _SAME_SIGNAL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def ignore_signals() -> None:
    """Let nothing interrupt the writing of the last checkpoint."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_run(runner: Any, number: int, iteration: int, saved: bool, together: bool) -> NoReturn:
    """Say how to go on, and end the process with the signal's status.

    Args:
        runner: The runner.
        number: The signal.
        iteration: How many iterations the run has had.
        saved: Whether there is a checkpoint of this iteration.
        together: Whether all ranks are here.

    Raises:
        SystemExit: With status 128 + ``number``. Of several ranks the processes end here.
    """
    found = 'a checkpoint is saved' if saved else 'the last checkpoint is kept'
    print_log(
        f'{signal.Signals(number).name}: stopped after iteration {iteration}, {found}. Go on with: '
        f'{resume_command(sys.argv)}',
        logger='current',
        level=logging.WARNING,
    )
    runner.visualizer.close()
    status = 128 + number
    if get_world_size() == 1:
        raise SystemExit(status)
    if together:
        dist.barrier()  # a launcher ends the others when the first is gone
    # Threads of the process group may abort a process that unwinds without the others.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def resume_command(argv: Sequence[str]) -> str:
    """The command line that goes on with a run.

    Args:
        argv: That of the run, beginning with the script, or with a program and its command.
    """
    if '--launcher' in argv:
        return 'the same command with --resume'
    rest = list(argv)
    if '--resume' in rest:
        at = rest.index('--resume')
        value = rest[at + 1 : at + 2]
        del rest[at : at + (2 if value and not value[0].startswith('-') else 1)]
    first = ['python', rest[0]] if rest[0].endswith('.py') else rest[0].split()
    return shlex.join([*first, *rest[1:], '--resume'])
