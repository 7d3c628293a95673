"""What the converters of ``tools/dataset_converters`` share.

They write label maps as PNG files, each of them aside and renamed when it is complete. Later runs
keep a complete file, unless its note says that it was made of something else or with other options.
"""

from __future__ import annotations

import argparse
import importlib
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from mmseg_semi.errors import DataError, check_one_size, name_some, reading
from mmseg_semi.files import check_there, read_list, write_file
from mmseg_semi.prepare.label_maps import encode_png, note_of_complete, opened
from mmseg_semi.utils.progress import track

MOST_TOGETHER = 32  # tasks that are handed to a worker process at once


class Task(NamedTuple):
    """One file to write.

    Attributes:
        output: The PNG file.
        label: What it is made from, for messages.
        image: The image that it must have the size of; None when there is none to compare with.
        source: What the converting function gets; can be pickled.
    """

    output: Path
    label: str
    image: Path | None
    source: Any


class Counts(NamedTuple):
    """What a run did.

    Attributes:
        written: Files that it has written.
        kept: Files that were complete.
        foreign: Those of the kept ones that have no note, so that some other program made them.
    """

    written: int = 0
    kept: int = 0
    foreign: int = 0

    def plus(self, other: Counts) -> Counts:
        """Return the counts of both."""
        return Counts(*(one + two for one, two in zip(self, other)))


# ------------------------------------------------------------------------------------- command line
def conversion_parser(description: str | None, slow: bool = True) -> argparse.ArgumentParser:
    """Return a parser with the options that all converters have.

    Args:
        description: The tool's docstring.
        slow: Whether it has ``--workers``.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--partial',
        action='store_true',
        help='convert what is there, though the data set is not complete',
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='make files anew that are complete already'
    )
    if slow:
        parser.add_argument(
            '--workers',
            type=_number_of_workers,
            default=1,
            metavar='N',
            help='processes that convert (default: 1); the files are the same with any number',
        )
    return parser


def _number_of_workers(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is no number of processes; give 1 or more')
    return int(text)


def import_optional(module: str, task: str) -> ModuleType:
    """Import a module that comes with mmdet.

    Args:
        module: Its name.
        task: What it is needed for, for the message.

    Raises:
        SystemExit: It cannot be imported; says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SystemExit(
            f'{task} needs {module.split(".")[0]}, but: {error}. It comes with mmdet: '
            "pip install 'mmdet>=3.3.0,<4.0.0'"
        ) from error


# ------------------------------------------------------------------------------------ what there is
def find_folder(root: str | Path, below: Sequence[str], parts: Sequence[str], layout: str) -> Path:
    """Return the folder of a data set.

    Args:
        root: What the user gave.
        below: Folders relative to it in which the data set may be; the first is in the message
            when none has anything.
        parts: Folders (ending with ``/``) and files that it must have; ``a|b`` for one of two.
        layout: What is expected, for the message.

    Raises:
        SystemExit: Names what is missing, where it was looked for, and the layout.
    """
    check_there(root, f'Expected: {layout}.', what='folder', error=SystemExit)
    folders = [Path(root) / folder for folder in below]
    lacking = [[part for part in parts if not _is_there(folder, part)] for folder in folders]
    missing, folder = min(zip(lacking, folders), key=lambda pair: len(pair[0]))
    if not missing:
        return folder
    others = ', '.join(str(other) for other in folders if other != folder)
    raise SystemExit(
        f'{folder} lacks {", ".join(missing).replace("|", " or ")} (looked for from '
        f'{os.getcwd()}{", and in " + others if others else ""}). Expected: {layout}.'
    )


def _is_there(folder: Path, part: str) -> bool:
    choices = [folder / one for one in part.split('|')]
    return any(one.is_dir() if part.endswith('/') else one.is_file() for one in choices)


def check_count(where: object, what: str, found: int, complete: int, partly: bool) -> None:
    """Refuse a data set that is not complete, unless the user wants what is there.

    Args:
        where: File or folder in which they were counted.
        what: What was counted, in the plural.
        found: How many there are.
        complete: How many the complete data set has.
        partly: Whether ``--partial`` was given.

    Raises:
        SystemExit: Says what was found and what to do.
    """
    if not found:
        raise SystemExit(f'{where}: no {what} found; the complete data set has {complete}')
    if found != complete and not partly:
        raise SystemExit(
            f'{where}: {found} {what} found, the complete data set has {complete}. Complete it, '
            'or give --partial to go on with what is there.'
        )


def leave_out_missing(where: object, what: str, missing: Sequence[str], partly: bool) -> None:
    """Refuse missing files, or with ``--partial`` say that their images are left out.

    Args:
        where: What names them.
        what: What is missing, in the plural.
        missing: Their paths.
        partly: Whether ``--partial`` was given.

    Raises:
        SystemExit: Names the first few.
    """
    if not missing:
        return
    text = f'{where}: {len(missing)} {what} are missing: {name_some(sorted(missing))}.'
    if not partly:
        raise SystemExit(
            f'{text} Complete the data set, or give --partial to go on with what is there.'
        )
    print(f'WARNING: {text} These images are left out.')


def read_names(path: Path) -> list[str]:
    """Read a list of one name a line.

    Raises:
        SystemExit: It cannot be read, or names files outside of the data set.
    """
    with reading(f'the list {path}', SystemExit):
        names = [name for _, line in read_list(path, error=SystemExit) for name in line.split()]
    refuse_outside(path, names)
    return names


def refuse_outside(where: object, names: Iterable[str]) -> None:
    """Refuse names of images with which files would be written outside of the data set's folder.

    Raises:
        SystemExit: Names the first few.
    """
    wrong = [name for name in names if os.path.isabs(name) or '..' in PurePath(name).parts]
    if wrong:
        raise SystemExit(
            f'{where}: {len(wrong)} names lead out of the folder of the data set, the first '
            f'{name_some(wrong, 3)}. Remove them, or fetch the file anew.'
        )


# --------------------------------------------------------------------------------------- converting
def convert(
    tasks: Sequence[Task],
    make: Callable[[Any], np.ndarray],
    note: str,
    *,
    workers: int = 1,
    overwrite: bool = False,
    what: str = 'masks',
    colors: bool = False,
) -> Counts:
    """Write the files that are not there yet.

    What is wrong with one input does not keep the others from being converted.

    Args:
        tasks: What to write.
        make: Gets the ``source`` of a task and returns its uint8 array (H, W); raises
            ``DataError``. A function of a module, because worker processes look it up by name.
        note: Name and options of the tool, as far as the files depend on them. A file's own has a
            checksum of its ``source`` behind it.
        workers: Processes; 1 converts in this one.
        overwrite: Whether complete files are made anew.
        what: What the files are called in messages.
        colors: Whether ``make`` returns RGB (H, W, 3) instead.

    Raises:
        SystemExit: Some inputs are broken (names them), or a file cannot be written.
    """
    work = partial(_write_one, make=make, note=note, overwrite=overwrite, colors=colors)
    counts, wrong = Counts(), []
    try:
        for _, done in zip(track(range(len(tasks)), what), _results(work, tasks, workers)):
            if isinstance(done, str):
                wrong.append(done)
            else:
                counts = counts.plus(done)
    except OSError as error:
        raise SystemExit(
            f'a file cannot be written: {error}. Put this right and run it again.'
        ) from error
    except KeyboardInterrupt:
        raise SystemExit(
            f'stopped; {counts.written} {what} were written and {counts.kept} kept so far. Run the '
            'same again to go on.'
        ) from None
    except BrokenProcessPool as error:
        raise SystemExit(
            'a worker process was killed, perhaps for memory. What is finished is kept: run the '
            'same again, with fewer --workers.'
        ) from error
    if wrong:
        some = '\n'.join(wrong[:5]) + (f'\nand {len(wrong) - 5} more' if len(wrong) > 5 else '')
        raise SystemExit(
            f'{some}\n{len(wrong)} of {len(tasks)} {what} could not be made, the others are '
            'complete. Put this right and run the same again.'
        )
    return counts


def _results(
    work: Callable[[Task], Counts | str], tasks: Sequence[Task], workers: int
) -> Iterator[Counts | str]:
    if workers == 1:
        yield from map(work, tasks)
        return
    with ProcessPoolExecutor(workers) as pool:
        together = max(min(len(tasks) // (4 * workers), MOST_TOGETHER), 1)
        yield from pool.map(work, tasks, chunksize=together)


def _write_one(
    task: Task, make: Callable[[Any], np.ndarray], note: str, overwrite: bool, colors: bool
) -> Counts | str:
    """Return what was done, or what is wrong with the input."""
    try:
        size = None
        if task.image is not None:
            with opened(task.image) as image:
                size = image.size
        note = f'{note} {_checksum(task.source):08x}'
        earlier = None if overwrite else note_of_complete(task.output, size, colors)
        if earlier in ('', note):
            return Counts(kept=1, foreign=int(earlier == ''))
        array = make(task.source)
        if size is not None:
            check_one_size(task.label, array.shape, task.image, size[::-1])
    except DataError as error:
        return str(error)
    write_file(task.output, encode_png(array, note))
    return Counts(written=1)


def _checksum(source: Any, before: int = 0) -> int:
    """CRC of what a file is made of: bytes of files and arrays; texts are names for messages."""
    if isinstance(source, str):
        return before
    if isinstance(source, tuple):
        for one in source:
            before = _checksum(one, before)
        return before
    if isinstance(source, Path):
        with reading(source):
            return zlib.crc32(source.read_bytes(), before)
    data = source.tobytes() if isinstance(source, np.ndarray) else repr(source).encode()
    return zlib.crc32(data, before)


def report(where: object, counts: Counts, what: str = 'masks') -> None:
    """Print the last line of a tool."""
    others = ''
    if counts.foreign:
        others = f' ({counts.foreign} of them made by another program; --overwrite replaces them)'
    print(f'{where}: {counts.written} {what} written, {counts.kept} kept{others}')
