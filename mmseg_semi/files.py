"""Files: written whole or not at all, looked for before they are needed."""

from __future__ import annotations

import argparse
import codecs
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent
#: Folder of a run in which the guard of own images trains the labels alone.
LABELS_ALONE = 'labels_alone'
#: What the best checkpoint with unlabeled images is called there where the labels alone are better.
UNLABELED_BEST = 'with_unlabeled_'
PART_SUFFIX = '.part'


def shipped_root(package: Path = PACKAGE) -> Path:
    """Return the folder of ``configs``, ``tools`` and ``model-index.yml``.

    That is the repository when the package lies in one, else ``.mim`` in the package, where a
    wheel has them.

    Args:
        package: Folder of the package.

    Raises:
        FileNotFoundError: Neither is there.
    """
    for root in (package.parent, package / '.mim'):
        if (root / 'model-index.yml').is_file():
            return root
    raise FileNotFoundError(
        f'neither {package.parent} nor {package / ".mim"} has model-index.yml, configs and tools. '
        'Install mmseg_semi anew, from its wheel or with pip install -e in its repository.'
    )


def folders_below(
    folder: str | Path, without: Iterable[Path] = ()
) -> Iterator[tuple[str, list[str]]]:
    """A folder and those below it, each with the names of its files, all in order.

    Links to folders are followed, but not to one that was seen. What is hidden is left out, and so
    is ``__MACOSX``, which a Mac adds to archives.

    Args:
        folder: Where to begin.
        without: Files and folders that are left out.
    """
    leave, visited = {os.path.realpath(one) for one in without}, set()
    for root, folders, names in os.walk(folder, followlinks=True):
        visited.add(os.path.realpath(root))

        def is_wanted(name: str, root: str = root) -> bool:
            hidden = name.startswith('.') or name == '__MACOSX'
            return not hidden and os.path.realpath(os.path.join(root, name)) not in leave

        folders[:] = [
            name
            for name in sorted(folders)
            if is_wanted(name) and os.path.realpath(os.path.join(root, name)) not in visited
        ]
        yield root, sorted(filter(is_wanted, names))


def files_below(folder: Path, suffix: str, without: Iterable[Path] = ()) -> list[Path]:
    """Files below a folder whose names end with a suffix of any case, see ``folders_below``."""
    return sorted(
        Path(root, name)
        for root, names in folders_below(folder, without)
        for name in names
        if name.lower().endswith(suffix)
    )


def write_files(files: Mapping[Path, str | bytes]) -> None:
    """Write files that belong together, none of them before all are complete.

    Args:
        files: Content by path; texts are written in UTF-8. Folders are made as needed.
    """
    parts = {path: Path(f'{path}{PART_SUFFIX}') for path in files}
    try:
        for (path, part), content in zip(parts.items(), files.values()):
            path.parent.mkdir(parents=True, exist_ok=True)
            data = content.encode('utf-8') if isinstance(content, str) else content
            part.write_bytes(data)
        for path, part in parts.items():
            os.replace(part, path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def write_file(path: str | Path, content: str | bytes) -> None:
    """Write one file, see :func:`write_files`."""
    write_files({Path(path): content})


def check_writable(folder: str | Path, what: str, remedy: str) -> None:
    """Try to write a file in a folder before the work of which it is to hold the result.

    Args:
        folder: It is made where it is not there.
        what: What is to be written, as in 'no checkpoint'.
        remedy: What to do, after a colon.

    Raises:
        ValueError: It cannot be written.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f'{folder}: no {what} can be written there ({error.strerror}): {remedy}'
        ) from error


def check_out(parser: argparse.ArgumentParser, option: str, file: str | None, example: str) -> None:
    """Refuse a file that could not be written, before the work.

    Args:
        parser: Of the tool, which ends.
        option: Names the file.
        file: None for none.
        example: A name that would do.
    """
    if not file:
        return
    if Path(file).is_dir():
        parser.error(f'{option} {file} is a folder: name a file in it, such as {example}')
    try:
        check_writable(Path(file).parent, 'file', f'name another one with {option}')
    except ValueError as error:
        parser.error(str(error))


def check_there(
    path: str | Path,
    remedy: str,
    key: str = '',
    what: str = 'file',
    error: type[BaseException] = FileNotFoundError,
) -> None:
    """Refuse a file or folder that is not there.

    Args:
        path: Where it should be.
        remedy: A sentence that says what to do.
        key: Config key, for the message.
        what: What it is called; a folder's ends in 'folder'.
        error: What is raised.
    """
    if not (os.path.isdir if what.endswith('folder') else os.path.isfile)(path):
        raise error(
            f'{key}{": " if key else ""}there is no {what} {path} (looked for from {os.getcwd()}). '
            f'{remedy}'
        )


def read_json(
    path: str | Path,
    remedy: str,
    key: str = '',
    what: str = 'file',
    error: type[BaseException] = ValueError,
) -> Any:
    """Read a JSON file; ``error`` is raised where it is none, the rest as in :func:`check_there`.

    Raises:
        FileNotFoundError: It is not there.
    """
    check_there(path, remedy, key, what)
    try:
        return json.loads(Path(path).read_bytes())
    except ValueError as found:
        raise error(
            f'{key}{": " if key else ""}{path} is no JSON file: {found}. {remedy}'
        ) from found


def check_paths(config: Mapping[str, Any], key: str = 'labeled') -> None:
    """Refuse missing folders and missing or empty split files of a dataset config.

    Datasets of mmseg take *every* image of the folder when ``ann_file`` is a folder (some
    versions also when it does not exist), which would turn the unlabeled images into labeled ones.
    """
    for name in ('dataset', 'datasets'):
        inner = config.get(name) or []
        for i, one in enumerate([inner] if isinstance(inner, Mapping) else inner):
            if isinstance(one, Mapping):
                check_paths(one, f'{key}.{name}' + (f'[{i}]' if name == 'datasets' else ''))
    if not is_local(config.get('backend_args')):
        return
    root = config.get('data_root') or ''
    for name, folder in (config.get('data_prefix') or {}).items():
        if folder:
            remedy = f'Correct data_root or data_prefix.{name}.'
            where = f'{key}.data_prefix.{name}'
            check_there(os.path.join(root, folder), remedy, where, 'folder')
    if config.get('ann_file'):
        check_split_file(os.path.join(root, config['ann_file']), key)


def check_split_file(path: str, key: str) -> None:
    """Refuse a split file that is missing, is no text or names nothing."""
    if not os.path.isfile(path):
        what = 'a folder' if os.path.isdir(path) else 'missing'
        raise FileNotFoundError(
            f'{key}.ann_file: the split file {path} is {what} (looked for from {os.getcwd()}). It '
            'must be a text file with one image name a line, without suffix. Correct data_root or '
            "ann_file, or set ann_file='' to take every image of data_prefix.img_path as labeled."
        )
    next(read_list(path, key, 'split file'))


def read_list(
    path: str | Path,
    key: str = '',
    what: str = 'list file',
    error: type[BaseException] = ValueError,
) -> Iterator[tuple[int, str]]:
    """Read a list of names: the one reader of all lists.

    Text in UTF-8, or UTF-16 with a byte order mark, with any line ends. Blank lines and those that
    begin with ``#`` are left out.

    Args:
        path: The file, which is there.
        key: Config key of the dataset that has it as ``ann_file``, for messages.
        what: What it is called.
        error: What is raised where it is no such text, or names nothing.

    Returns:
        Line numbers and lines without blanks around them, one at least.
    """
    data = Path(path).read_bytes()
    name = f'{key}.ann_file: the {what} {path}' if key else f'{what} {path}'
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode('utf-16' if wide else 'utf-8-sig')
        if '\0' in text:
            raise UnicodeError('it has NUL characters, as UTF-16 and UTF-32 have')
    except UnicodeError as found:
        raise error(f'{name} is no text in UTF-8: {found}. Save it as UTF-8.') from None
    lines = re.split('\r\n|\r|\n', text)
    if all(not line.strip() or line.strip().startswith('#') for line in lines):
        hint = ", or set ann_file='' to take every image of data_prefix.img_path" if key else ''
        raise error(f'{name} names no image. Write one image name a line{hint}.')
    numbered = ((number, line.strip()) for number, line in enumerate(lines, 1))
    return ((number, line) for number, line in numbered if line and not line.startswith('#'))


def list_text(names: Iterable[str], error: type[BaseException] = ValueError) -> str:
    """Text of a list that ``read_list`` reads, one name a line.

    Raises:
        error: A name would be read as a comment, or otherwise than it is.
    """
    names = list(names)
    for name in names:
        if name.startswith('#') or name.splitlines() != [name.strip()]:
            raise error(
                f'the name {name!r} cannot stand in a list, where # begins a comment and blanks '
                'around a name do not count: rename that image, and its mask'
            )
    return ''.join(f'{name}\n' for name in names)


def is_local(backend_args: dict[str, Any] | None) -> bool:
    """Whether files are read from a file system, where they can be looked at cheaply."""
    return not backend_args or backend_args.get('backend') == 'local'
