"""Reading each file of ``configs/`` once, of all the times that a process needs it.

mmengine reads a config and all its bases anew each time, every one of them by way of three
temporary files. What a test writes is read as ever; only its shipped bases are remembered, as long
as neither they nor the environment variables that they name change.
"""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path
from typing import Any

from mmengine.config import Config

CONFIGS = Path(__file__).resolve().parent.parent / 'configs'
VARIABLE = re.compile(r'\$(\w+)\s*:')


class ConfigCache:
    """Remembers what ``Config._file2dict`` gave for files of ``configs/``."""

    def __init__(self) -> None:
        self.read = Config._file2dict
        #: What was given, pickled, and the state then, by file and flags.
        self.known: dict[Any, tuple[bytes, Any]] = {}
        #: The files that each reading in progress has come to.
        self.reading: list[list[str]] = []

    def file2dict(self, filename: str, *flags: Any, **named: Any) -> tuple[Any, str, Any]:
        """See ``Config._file2dict``."""
        path = os.path.abspath(filename)
        key = path, flags, tuple(sorted(named.items()))
        if key in self.known and self.known[key][1] == self.state(*self.known[key][1]):
            found, (files, *_) = self.known[key]
            given = pickle.loads(found)
        else:
            self.reading.append([path])
            try:
                given = self.read(filename, *flags, **named)
            finally:
                files = self.reading.pop()
            if CONFIGS in Path(path).parents:
                names = sorted(set(VARIABLE.findall(given[1])))
                self.known[key] = pickle.dumps(given), self.state(files, names)
        if self.reading:
            self.reading[-1] += files
        return given

    @staticmethod
    def state(files: list[str], names: list[str], *_: Any) -> Any:
        """What must be the same: times of the files and values of the variables."""
        times = [os.stat(file).st_mtime_ns if os.path.isfile(file) else None for file in files]
        return files, names, times, [os.environ.get(name) for name in names]


def remember_configs() -> None:
    """Let every reading in this process, and in its forks, use what was read before."""
    Config._file2dict = staticmethod(ConfigCache().file2dict)
