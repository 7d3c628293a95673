"""Which format an export has, and reading it."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Callable

from mmseg_semi.errors import DataError, reading
from mmseg_semi.files import files_below
from mmseg_semi.prepare.label_formats import (
    coco,
    cvat_masks,
    cvat_xml,
    label_studio,
    labelme,
    masks,
)
from mmseg_semi.prepare.label_formats.records import Color, Export, load_json

FORMATS = ('coco', 'cvat', 'labelme', 'label-studio', 'masks')
JSON_FORMATS: dict[str, tuple[Callable[[Any], bool], Callable[[dict[Path, Any]], Export]]] = {
    'coco': (coco.is_coco, coco.read),
    'labelme': (labelme.is_labelme, labelme.read),
    'label-studio': (label_studio.is_label_studio, label_studio.read),
}


@contextmanager
def unpacked(source: Path) -> Iterator[Path]:
    """The source, or the folder that its zip file was unpacked to, for as long as it is used."""
    if not (source.is_file() and source.suffix.lower() == '.zip'):
        yield source
        return
    with tempfile.TemporaryDirectory() as folder:
        with reading(source), zipfile.ZipFile(source) as archive:
            archive.extractall(folder)
        inside = [one for one in Path(folder).iterdir() if one.name != '__MACOSX']
        try:
            yield inside[0] if len(inside) == 1 and inside[0].is_dir() else Path(folder)
        except DataError as error:  # name the zip, not a folder that is gone
            raise DataError(str(error).replace(folder, str(source))) from error


def read_export(
    source: Path,
    kind: str,
    images: Path | None,
    wanted: Mapping[str, Color | None],
    out: Path,
    objects: bool = False,
) -> Export:
    """Read an export.

    Args:
        source: File or folder.
        kind: One of ``FORMATS``, or 'auto'.
        images: Folder of the images, None where they are in the source.
        wanted: Names of the classes that the user gave, with their colors.
        out: Folder that is not looked into.
        objects: Whether the numbers in masks are those of objects.

    Raises:
        DataError: It has none of the formats or several, or an entry that cannot be used.
    """
    found = {} if kind == 'masks' else _tools(source, out, kind)
    brushes = next(label_studio.brush_files_alone(source), None)
    if not found and brushes is not None and kind != 'masks':
        raise DataError(
            f'{brushes} is of a task that only the json export names: put that file beside the PNG '
            'files, or import it alone'
        )
    if not found and kind in ('auto', 'masks'):
        folders = masks.find_folders(source, images)
        if folders is not None:
            return _read_masks(source, *folders, wanted, out, objects)
        if kind == 'masks':
            raise DataError(
                f'{source} has no folder of images beside one of masks: name the folder of the '
                'images with --images.'
            )
    if len(found) > 1:
        raise DataError(
            f'{source} has labels in several formats: {", ".join(found)}. Choose one with --format.'
        )
    for read in found.values():
        return read()
    for path in _json_files(source, out) if kind in ('auto', 'coco') else ():
        key = coco.missing_key(load_json(path))
        if key is not None:
            raise DataError(
                f'{path} is a COCO json without the list {key!r}: export it anew with '
                f'{", ".join(coco.PARTS)}, or add it ({coco.EXAMPLES[key]}).'
            )
    what = 'labels in a known format' if kind == 'auto' else f'labels in the format {kind}'
    raise DataError(
        f'{source} has no {what}: name the file or folder that the labeling tool wrote, for masks '
        f'also the folder of the images with --images (known formats: {", ".join(FORMATS)}).'
    )


def _tools(source: Path, out: Path, kind: str) -> dict[str, Callable[[], Export]]:
    """Readers of all formats of labeling tools that are there, or of the one that is asked for."""
    found: dict[str, Callable[[], Export]] = {}
    contents: dict[str, dict[Path, Any]] = {}
    for path in _json_files(source, out):
        content = load_json(path)
        for name, (fits, _) in JSON_FORMATS.items():
            if fits(content):
                contents.setdefault(name, {})[path] = content
    for name, several in contents.items():
        found[name] = partial(JSON_FORMATS[name][1], several)
    if kind in ('auto', 'cvat'):
        folder, files = cvat_masks.find(source), cvat_xml.find(source)
        if folder is not None:
            found['cvat'] = partial(cvat_masks.read, folder)
        elif files:
            found['cvat'] = partial(cvat_xml.read, files)
    return {name: read for name, read in found.items() if kind in ('auto', name)}


def _json_files(source: Path, out: Path) -> list[Path]:
    """The json files of an export, without those that were made of it."""
    single = source.is_file() and source.suffix.lower() == '.json'
    return [source] if single else files_below(source, '.json', [out])


def _read_masks(
    source: Path,
    images: Path,
    folder: Path,
    wanted: Mapping[str, Color | None],
    out: Path,
    objects: bool,
) -> Export:
    photos, files = masks.open_folders(images, folder, out)
    known: dict[str, Color] = {}
    for place in (source, folder):
        if (place / cvat_masks.LABEL_MAP).is_file():
            known = cvat_masks.read_label_map(place / cvat_masks.LABEL_MAP)
    return masks.read(photos, files, wanted, known, objects)
