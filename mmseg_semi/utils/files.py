"""Files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

PART_SUFFIX = '.part'


def write_files(files: Mapping[str | Path, str | bytes]) -> None:
    """Write files that belong together, none of them before all are complete.

    Args:
        files: Content by path; texts are written in UTF-8. Folders are made as needed.
    """
    parts = {Path(path): Path(f'{path}{PART_SUFFIX}') for path in files}
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
    write_files({path: content})
