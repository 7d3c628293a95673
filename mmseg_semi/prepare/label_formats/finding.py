"""Which format an export has, and reading it."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmseg_semi.errors import DataError, reading
from mmseg_semi.prepare.label_formats import coco
from mmseg_semi.prepare.label_formats.records import Color, Export, load_json

FORMATS = ('coco',)


@contextmanager
def unpacked(source: Path) -> Iterator[Path]:
    """The source, or the folder that its zip file was unpacked to, for as long as it is used."""
    if not (source.is_file() and source.suffix.lower() == '.zip'):
        yield source
        return
    with tempfile.TemporaryDirectory() as folder:
        with reading(source), zipfile.ZipFile(source) as archive:
            archive.extractall(folder)
        yield Path(folder)


def read_export(
    source: Path, kind: str, images: Path | None, wanted: Mapping[str, Color | None], out: Path
) -> Export:
    """Read an export.

    Args:
        source: File or folder.
        kind: One of ``FORMATS``, or 'auto'.
        images: Folder of the images, None where they are in the source.
        wanted: Names of the classes that the user gave, with their colors.
        out: Folder that is not looked into.

    Raises:
        DataError: It has none of the formats or several, or an entry that cannot be used.
    """
    jsons = {kind: files for kind, files in _json_files(source, out).items() if files}
    found: dict[str, Any] = dict(jsons)
    if kind == 'auto':
        if len(found) > 1:
            raise DataError(
                f'{source} has labels in several formats: {", ".join(found)}. Choose one with '
                '--format.'
            )
        kind = next(iter(found), '')
    if kind == 'coco' and 'coco' in found:
        return coco.read(found['coco'])
    what = f'labels in the format {kind}' if kind else 'labels in a known format'
    raise DataError(
        f'{source} has no {what}: name the file or folder that the labeling tool wrote '
        f'(known formats: {", ".join(FORMATS)}).'
    )


def _json_files(source: Path, out: Path) -> dict[str, dict[Path, Any]]:
    """Contents of json files by format and path."""
    found: dict[str, dict[Path, Any]] = {one: {} for one in FORMATS}
    single = source.is_file() and source.suffix.lower() == '.json'
    for path in [source] if single else sorted(source.rglob('*.json')):
        if out in path.parents:
            continue
        content = load_json(path)
        if coco.is_coco(content):
            found['coco'][path] = content
    return found
