"""Data workers that do not die of signals meant for the run, and whose failures are explained."""

from __future__ import annotations

import errno
import os
import re
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.queues import Queue
from typing import Any, Callable, Optional

from mmseg_semi.errors import DataError

TIMEOUT = 600.0  # seconds without a batch
_GRACE = 3600  # seconds that a worker outlives its first SIGTERM: a step of the run, and more
_SIGNAL = 0.5  # seconds until the signal of a worker's end is there


def prepare_workers(loader: Any) -> None:
    """Give a dataloader with workers a time-out, unless it has one, and workers that stay.

    Args:
        loader: A dataloader whose workers have not been started.
    """
    if not getattr(loader, 'num_workers', 0):
        return
    if not loader.timeout:
        loader.timeout = TIMEOUT
    begun = getattr(loader.worker_init_fn, 'func', None) is begin_worker
    if not begun:
        loader.worker_init_fn = partial(begin_worker, inner=loader.worker_init_fn)


def end_workers(loader: Any) -> None:
    """End persistent workers, which otherwise wait out their grace when the program ends.

    Args:
        loader: A dataloader, or None.
    """
    iterator = getattr(loader, '_iterator', None)
    if iterator is not None and hasattr(iterator, '_shutdown_workers'):
        iterator._shutdown_workers()
        loader._iterator = None


def begin_worker(worker_id: int, inner: Optional[Callable[[int], None]] = None) -> None:
    """Leave it to the main process to end the run; it needs no batch more when it does.

    Ctrl-C and Slurm reach all processes. A worker that ended first would be an error there.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)
    # A batch that can not be handed over is lost without a word, and the main process would wait.
    Queue._on_queue_feeder_error = staticmethod(_end_now)  # type: ignore[attr-defined]
    if inner is not None:
        inner(worker_id)


def _end_later(number: int, frame: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.alarm(_GRACE)


def _end_now(error: Exception, batch: Any) -> None:
    shared = 'shared memory' in str(error) or 'No space left' in str(error)
    if not shared:
        traceback.print_exception(type(error), error, error.__traceback__)
    os._exit(errno.ENOSPC if shared else 1)


@contextmanager
def explaining(key: str) -> Iterator[None]:
    """Say what to do about workers that have died or hang.

    Args:
        key: Config key of the dataloader.

    Raises:
        DataError: In place of torch's RuntimeError.
    """
    try:
        yield
    except (ConnectionError, EOFError) as error:  # between two batches
        with suppress(RuntimeError):  # torch's signal handler says so too, once and a little later
            time.sleep(_SIGNAL)
        raise DataError(
            f'{key}: a data worker has been ended; if the memory was used up, set '
            f'{key}.num_workers or batch_size lower'
        ) from error
    except RuntimeError as error:
        # Torch's second message no longer has the exit code.
        text = _explanation(f'{error} {error.__cause__ or error.__context__}', key)
        if text is None:
            raise
        raise DataError(text) from error


def _explanation(text: str, key: str) -> Optional[str]:
    timed_out = re.match(r'DataLoader timed out after ([\d.]+) seconds', text)
    if timed_out:
        return (
            f'{key}: no batch came within {float(timed_out.group(1)):g} s, so a data worker waits '
            'for a file (a stalled drive, a pipe) or has no processor; look after the drive of '
            f'data_root, or allow more seconds with {key}.timeout'
        )
    if re.search(rf'exit code:? {errno.ENOSPC}\b|Bus error', text):
        return (
            f'{key}: the shared memory /dev/shm is too small for what data workers hand over; '
            f'give the container more (docker run --shm-size=8g), or set {key}.num_workers=0'
        )
    died = re.match(r'DataLoader worker \(pid\(?s?\)? ([\d, ]+)\) (.*)', text)
    if died:
        return (
            f'{key}: data worker {died.group(1)} {died.group(2).split(". ")[0].rstrip(".")}; if '
            f'the memory was used up, set {key}.num_workers or batch_size lower'
        )
    return None
