"""Files of a folder that a tool may write again because it has written them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from mmseg_semi.datasets.file_digests import whole_digest
from mmseg_semi.errors import DataError, name_some
from mmseg_semi.files import PART_SUFFIX, read_json, write_file


class OwnFiles:
    """The files of a folder that one tool writes, by their hashes.

    A list in the folder says which they are. It names a file before the file is written, so that
    one of a run that was stopped is known, too.

    Args:
        folder: Where they are.
        listed: Name of the list.
    """

    def __init__(self, folder: Path, listed: str) -> None:
        self.folder = folder
        self.list = folder / listed
        self.written, self.kept = 0, 0
        content = read_json(self.list, 'Remove it.', error=DataError) if self.list.exists() else {}
        self.earlier: dict[str, str] = content.get('files', {})
        self.pending: set[str] = set(content.get('pending', ()))
        self.files: dict[str, str] = {}

    def claim(self, wanted: Mapping[str, Path | None]) -> None:
        """Refuse to replace files of others.

        Args:
            wanted: Paths in the folder that are going to be written, with the file that is copied
                there, None for one that is made.

        Raises:
            DataError: Some are there already, and this tool has not written them.
        """
        foreign = [name for name, source in wanted.items() if self._is_foreign(name, source)]
        if foreign:
            raise DataError(
                f'{self.folder} has files that were not written by this command, or were changed '
                f'since: {name_some(foreign)}. Move them away, or name another folder.'
            )
        there = {name for name in wanted if os.path.lexists(self.folder / name)}
        self.pending |= wanted.keys() - self.earlier.keys() - there
        if wanted.keys() - there:
            self._write_list(self.earlier, self.pending)

    def _is_foreign(self, name: str, source: Path | None) -> bool:
        path = self.folder / name
        if not os.path.lexists(path) or name in self.pending:
            return False
        if not path.is_file():
            return True
        found = hash_of(path)
        return found != self.earlier.get(name) and (source is None or found != hash_of(source))

    def write(self, name: str, data: str | bytes) -> None:
        """Write a file, unless it is there."""
        data = data.encode('utf-8', 'backslashreplace') if isinstance(data, str) else data
        path = self.folder / name
        self._note(name, hashlib.blake2b(data).hexdigest(), lambda: write_file(path, data))

    def copy(self, name: str, source: Path) -> None:
        """Copy a file byte for byte, unless it is there."""

        def copy() -> None:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            part = Path(f'{path}{PART_SUFFIX}')
            try:
                shutil.copyfile(source, part)
                os.replace(part, path)
            finally:
                part.unlink(missing_ok=True)

        self._note(name, hash_of(source), copy)

    def _note(self, name: str, wanted: str, make: Callable[[], None]) -> None:
        path = self.folder / name
        if path.is_file() and hash_of(path) == wanted:
            self.kept += 1
            if name not in self.earlier and name not in self.pending:
                return  # somebody else's, of the same content
        else:
            make()
            self.written += 1
        self.files[name] = wanted

    def close(self, wanted: Mapping[str, Path | None]) -> list[str]:
        """Write the list, and remove own files of earlier runs that are not wanted any more.

        Returns:
            The files that were removed.
        """
        kept = {name: one for name, one in self.earlier.items() if name in wanted}
        removed = []
        for name in self.earlier.keys() - wanted.keys():
            path = self.folder / name
            if path.is_file() and hash_of(path) == self.earlier[name]:
                path.unlink()
                removed.append(name)
        self._write_list({**kept, **self.files}, set())
        return sorted(removed)

    def _write_list(self, files: Mapping[str, str], pending: set[str]) -> None:
        content = dict(files=dict(sorted(files.items())), pending=sorted(pending))
        text = json.dumps(content, indent=1) + '\n'
        if not self.list.is_file() or self.list.read_text(encoding='utf-8') != text:
            write_file(self.list, text)


def hash_of(path: Path) -> str:
    """Digest of a file, as hexadecimal digits."""
    return whole_digest(str(path)).hex()
