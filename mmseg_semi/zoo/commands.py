"""Commands as subprocesses that end when this process is told to."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Optional

from mmseg_semi.files import shipped_root

ROOT = shipped_root()
TOOLS = ROOT / 'tools'
INSTALLED = ROOT.name == '.mim'  # from a wheel: there is no repository
_RUNNING: set[subprocess.Popen[bytes]] = set()
_ENDING = threading.Event()


def call(command: Sequence[str], log: str, threads: Optional[int], what: str) -> None:
    """Run a command, appending what it prints to a log file.

    Args:
        command: Program and arguments.
        log: Log file.
        threads: CPU threads; None leaves it to the environment.
        what: What it is for, named by the error.

    Raises:
        RuntimeError: It failed; names the log file.
    """
    env = dict(os.environ, PYTHON=sys.executable, PORT=str(_free_port()))
    env['PYTHONPATH'] = os.pathsep.join(p for p in (str(ROOT), env.get('PYTHONPATH')) if p)
    if threads is not None:
        for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
            env[name] = str(threads)
    os.makedirs(os.path.dirname(log), exist_ok=True)
    with open(log, 'ab') as output:
        code = _wait_for(list(command), stdout=output, stderr=subprocess.STDOUT, env=env)
    if code:
        tail = Path(log).read_text(errors='replace').splitlines()[-15:]
        raise RuntimeError(f'{Path(command[1]).name} {what} failed, see {log}:\n' + '\n'.join(tail))


def _wait_for(command: list[str], **options: Any) -> int:
    if _ENDING.is_set():
        text = f'SIGTERM came before {shown(command)}: give the command again to go on'
        raise RuntimeError(text)
    process = subprocess.Popen(command, **options)
    _RUNNING.add(process)
    try:
        with process:  # it is waited for, whatever is raised
            return process.wait()
    finally:
        _RUNNING.discard(process)


@contextmanager
def ending_commands() -> Iterator[None]:
    """Pass SIGTERM on to the commands that run, begin no other, and end with them.

    A training saves a checkpoint.
    """

    def end(number: int, frame: Any) -> NoReturn:
        _ENDING.set()
        for process in [*_RUNNING]:
            process.send_signal(number)
        os.write(2, b'SIGTERM: a training saves a checkpoint; give the command again to go on\n')
        status = 128 + number
        raise SystemExit(status)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _ENDING.clear()


def _free_port() -> int:
    """A port that no other run of this machine uses for its processes."""
    with socket.socket() as one:
        one.bind(('127.0.0.1', 0))
        return one.getsockname()[1]


def shown(command: Sequence[str]) -> str:
    """A command as a user types it: in the repository, paths are relative to it."""
    words = ['python' if word == sys.executable else word for word in command]
    if not INSTALLED:
        words = [word.replace(f'{ROOT}{os.sep}', '') for word in words]
    return shlex.join(words)
