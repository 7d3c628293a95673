"""Errors that a user can act on, what their messages are made of, and how a tool ends with one."""

from __future__ import annotations

import difflib
import dis
import errno
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Callable

from mmseg_semi.files import PACKAGE

# What the operating system says of the machine, not of the program.
_OF_THE_MACHINE = {
    errno.ENOSPC: 'the disk is full: free some space',
    errno.EDQUOT: 'the quota is used up: free some space',
    errno.EFBIG: 'the file would be larger than allowed here: raise the limit (ulimit -f)',
    errno.EROFS: 'the file system is read-only: name another folder',
    errno.EACCES: 'no permission: change it, or name another file or folder',
    errno.EPERM: 'not permitted: name another file or folder',
    errno.EMFILE: 'too many open files: raise the limit (ulimit -n)',
    errno.ENAMETOOLONG: 'the name is too long: use a shorter one',
    errno.EEXIST: 'there is a file of this name: name another folder',
    errno.ENOTDIR: 'a part of the path is a file, not a folder: name another folder',
    errno.EISDIR: 'it is a folder, not a file: name a file',
    errno.EIO: 'the disk reports an error: try again, or copy the data to another disk',
}


class DataError(RuntimeError):
    """Something is wrong with an image, a mask or a set of them.

    The message names the file or the config key, what was found, what is allowed and what to do.
    It takes that message as its only argument, because a DataLoader worker's error is made again
    in the main process from its text.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)


class UnreadableImage(DataError):
    """An image file that cannot be read, which ``on_error='skip'`` leaves out."""


@contextmanager
def reading(what: object, error: type[BaseException] = DataError) -> Iterator[None]:
    """Name the file that cannot be read, whatever its decoder raises.

    Args:
        what: The file.
        error: What is raised, with one text; one of this kind passes.
    """
    try:
        yield
    except error:
        raise
    except Exception as found:  # every decoder has errors of its own
        raise error(
            f'{what} cannot be read: {type(found).__name__}: {found}. Copy or download it anew.'
        ) from found


@contextmanager
def exiting(*errors: type[Exception]) -> Iterator[None]:
    """End a tool with the message of one of ``errors``, without a traceback."""
    try:
        yield
    except errors as error:
        raise SystemExit(str(error)) from error


def check_one_size(
    mask: object,
    mask_shape: tuple[int, ...],
    image: object,
    image_shape: tuple[int, ...],
    error: type[BaseException] = DataError,
) -> None:
    """Refuse a mask of another size than its image.

    Args:
        mask: What the mask is called.
        mask_shape: Its height and width.
        image: The image's file.
        image_shape: Its height and width.
        error: What is raised.
    """
    if mask_shape[:2] != image_shape[:2]:
        raise error(
            f'{mask} has {mask_shape[1]} x {mask_shape[0]} pixels, its image '
            f'{image} {image_shape[1]} x {image_shape[0]}; they must have one size'
        )


def name_some(names: list[str], limit: int = 5) -> str:
    """Join the first ``limit`` names and say how many more there are."""
    rest = len(names) - limit
    return ', '.join(names[:limit]) + (f' and {rest} more' if rest > 0 else '')


def hint(wrong: str, known: list[str]) -> str:
    """Suggest the known name that is closest, upper and lower case alike, or nothing."""
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(wrong.lower(), list(names), n=1)
    return f" Did you mean '{names[close[0]]}'?" if close else ''


def refusal(error: BaseException) -> str | None:
    """What a user is told in place of a traceback, None for a fault of the program.

    A refusal was raised by a ``raise`` of this package, here or in a data worker, or comes from the
    machine: a full disk, no memory. Wrappers around it are looked through.
    """
    if isinstance(error, SystemExit) and not isinstance(error.code, str):
        return None  # whoever ended it has said why
    seen: BaseException | None = error
    while seen is not None:
        text = _own_text(seen) or _machine_text(seen)
        if text:
            return text
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return None


def _own_text(error: BaseException) -> str | None:
    text = str(error.args[0]) if len(error.args) == 1 else str(error)
    if isinstance(error, SystemExit):
        return text if isinstance(error.code, str) else None
    worker = re.match(r'Caught (\w+) in DataLoader worker process \d+\.\n', text)
    if worker:
        frames = re.findall(r'^  File "(.+)", line \d+, in .*\n +(.*)', text, re.MULTILINE)
        own = frames and _is_own(frames[-1][0]) and frames[-1][1].startswith('raise ')
        return text.rpartition(f'{worker.group(1)}: ')[2].strip() if own else None
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not _is_own(trace.tb_frame.f_code.co_filename):
        return None
    raised = dis.opname[trace.tb_frame.f_code.co_code[trace.tb_lasti]] == 'RAISE_VARARGS'
    return text if raised else None


def _is_own(file: str) -> bool:
    return file.startswith(str(PACKAGE))


def _machine_text(error: BaseException) -> str | None:
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        where = error.filename or 'a file that was being written or read'
        return f'{where}: {_OF_THE_MACHINE[error.errno]}, and run the command again.'
    if isinstance(error, RuntimeError) and 'inline_container' in str(error):  # torch's writer
        for number, remedy in _OF_THE_MACHINE.items():
            if os.strerror(number) in str(error):
                return f'a checkpoint could not be written: {remedy}, and run the command again.'
    if type(error).__module__.startswith(('torch._dynamo.', 'torch._inductor.')):
        return (
            f'model.compiled: torch could not compile the encoder ({str(error).splitlines()[0]}). '
            'Install a C++ compiler (a GPU needs triton, too), or set model.compiled=None.'
        )
    if isinstance(error, AssertionError) and 'divisible by the whole downsample rate' in str(error):
        return (
            f'{" ".join(str(error).split())}: choose a crop of such a size, in a config '
            'train_dataloader.dataset.geometry.crop.crop_size.'
        )
    memory = isinstance(error, MemoryError) or type(error).__name__ == 'OutOfMemoryError'
    if memory or "can't allocate memory" in str(error):
        return (
            f'there is not enough memory ({str(error).splitlines()[0] if str(error) else "RAM"}): '
            'halve train_dataloader.batch_size and set optim_wrapper.accumulative_counts=2, make '
            'the crop or the test images smaller, or set with_cp=True of an encoder that has it, '
            "or test_cfg=dict(mode='slide', crop_size=..., stride=...) of the segmentor; "
            'mmseg-semi plan CONFIG says which batch and crop fit.'
        )
    return None


def run_tool(main: Callable[[Sequence[str]], Any]) -> None:
    """Run a command line tool; a refusal is one sentence and exit status 1, without a traceback.

    ``--traceback`` among the arguments shows where it comes from.

    Args:
        main: Takes the arguments; what it returns is the exit status.
    """
    arguments = [one for one in sys.argv[1:] if one != '--traceback']
    traced = len(arguments) < len(sys.argv) - 1
    # Files are data: torch unpickles tensors alone in a tool, whoever asks.
    os.environ.pop('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', None)
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):  # names of files may be no text
            stream.reconfigure(errors='backslashreplace')
    try:
        sys.exit(main(arguments))
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        sys.exit(130)
    except (Exception, SystemExit) as error:
        text = refusal(error)
        if text is None or traced:
            raise
        sys.exit(text if text.startswith('error: ') else f'error: {text}')
