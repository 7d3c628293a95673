"""One run at a time in a folder, and nothing left of one that was refused."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Optional

from mmengine.dist import is_main_process
from mmengine.logging import print_log

from mmseg_semi.errors import refusal
from mmseg_semi.files import PART_SUFFIX

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = '.lock'
_RANKS = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')


@contextmanager
def leaving_nothing(
    *folders: str | None, written: Callable[[], Iterable[Path]] = tuple
) -> Iterator[Callable[[], None]]:
    """Remove what a run has written where it is refused, or interrupted, before it has begun.

    What others write into the same folders meanwhile, such as a training that is being tested,
    stays.

    Args:
        folders: Where it writes; those that it makes are removed if nothing else is in them.
        written: Ends the run's logs, and gives the files and folders that it has made.

    Yields:
        To be called when it begins: from then on all stays.
    """
    above = [one for name in folders if name for one in (Path(name), *Path(name).parents)]
    made = {one for one in above if not one.exists()}
    begun: list[bool] = []
    try:
        yield lambda: begun.append(True)
    except BaseException as error:
        refused = isinstance(error, KeyboardInterrupt) or refusal(error) is not None
        if refused and not begun:
            own = list(written())
            if is_main_process():
                for path in own:
                    _remove(path)
                for path in sorted(made, reverse=True):  # those within others first
                    with suppress(OSError):  # somebody else has written there
                        path.rmdir()
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def claimed(folder: str, launcher: str = 'none', option: str = '--work-dir') -> Iterator[None]:
    """Hold a run's folder, and remove what a killed run has left half-written there.

    The lock ends with the process, however it ends. It is of the kind that network file systems
    know and that forked data workers do not hold. Where there are no locks nothing is checked.

    Args:
        folder: Made if it is not there, and removed if nothing was written there.
        launcher: As in mmengine; unless ``'none'``, only the first rank claims the folder.
        option: What names the folder, for the message.

    Raises:
        ValueError: Another process holds it; says which, where and since when.
    """
    ranks = [os.environ[name] for name in _RANKS if name in os.environ and launcher != 'none']
    if fcntl is None or ranks[:1] not in ([], ['0']):
        yield
        return
    made = [one for one in (Path(folder), *Path(folder).parents) if not one.exists()]
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, LOCK_FILE)
    descriptor = _lock(path, option)
    try:
        if descriptor is not None:
            for part in Path(folder).glob(f'*{PART_SUFFIX}'):
                print_log(f'{part} was left half-written by a run that was killed: removed')
                part.unlink()
        yield
    finally:
        if descriptor is not None:
            with suppress(OSError):
                os.unlink(path)
            os.close(descriptor)
        for one in made:
            with suppress(OSError):  # it is not empty
                one.rmdir()


def _lock(path: str, option: str) -> Optional[int]:
    """The open and locked file, None where the file system has no locks."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            holder = os.read(descriptor, 1000).decode(errors='replace') or 'another process'
            os.close(descriptor)
            raise ValueError(
                f'{option} {os.path.dirname(path)} is in use by {holder}: wait for that run or '
                f'end it, or give another {option}'
            ) from error
        except OSError as error:
            os.close(descriptor)
            print_log(f'{path} can not be locked here ({error.strerror}): start no run twice')
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                break
        os.close(descriptor)  # the run before has just removed it
    now = time.strftime('%Y-%m-%d %H:%M:%S')
    os.truncate(descriptor, 0)
    os.write(descriptor, f'process {os.getpid()} on {socket.gethostname()} since {now}'.encode())
    return descriptor
