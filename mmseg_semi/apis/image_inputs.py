"""The images that a command line names: files, folders, patterns, lists and standard input."""

from __future__ import annotations

import glob
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mmseg_semi.datasets.image_files import IMG_SUFFIXES
from mmseg_semi.datasets.unlabeled_dataset import ImageFolder
from mmseg_semi.engine.hooks.prediction_writer_hook import output_names
from mmseg_semi.errors import DataError
from mmseg_semi.files import read_list
from mmseg_semi.prepare.label_formats.volumes import NIFTI, bring_file, stem_of, volume_of
from mmseg_semi.prepare.own_files import OwnFiles

SUFFIXES = (*IMG_SUFFIXES, *NIFTI)


def find_images(given: Sequence[str], without: str) -> dict[str, str]:
    """List images, and name what is made of each.

    Args:
        given: Images; folders, with those below; patterns (``'photos/**/*.jpg'``); text files with
            an image a line; ``-`` for such lines on standard input. Paths in a list begin in the
            working folder, or else in that of the list.
        without: A folder that is not looked into.

    Returns:
        ``{path: name}``: names are relative to the deepest folder that holds everything, with
        subfolders and without suffix, but for images that differ in it alone.

    Raises:
        DataError: Something is not there, or has no image.
    """
    paths: list[str] = []
    roots: list[str] = []
    for one in given:
        found, root = _found(one)
        paths += found
        roots += root
    outside = os.path.join(os.path.realpath(without), '')
    paths = [one for one in paths if not os.path.realpath(one).startswith(outside)]
    if not paths:
        raise DataError(
            f'{" ".join(given)}: there is no image outside of {without}: name others, or another '
            '--out'
        )
    return {
        path: name[: -len('.png')]
        for path, name in output_names(dict.fromkeys(paths), roots).items()
    }


def with_slices(names: Mapping[str, str], out: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Put slices in the place of volumes: NIfTI files, and TIFF files that say that they are some.

    Args:
        names: See :func:`find_images`.
        out: Folder: gets the slices, below ``slices``.

    Returns:
        The same with slices, and why volumes cannot be read.

    Raises:
        DataError: Files would be replaced that this function has not written.
    """
    kept, failed = dict(names), {}
    slices: dict[str, Path] = {}
    with tempfile.TemporaryDirectory() as folder:
        for path, name in names.items():
            try:
                stem = stem_of(name) if stem_of(name) not in names.values() else name
                volume = volume_of(Path(path), stem) if os.path.isfile(path) else None
                if volume is None or not volume.sure:
                    continue
                bring_file(Path(path), Path(folder, name), volume)
            except DataError as error:
                failed[path] = str(error)
            kept.pop(path)
        made = sorted(one for one in Path(folder).rglob('*') if one.is_file())
        slices = {f'slices/{one.relative_to(folder).as_posix()}': one for one in made}
        if slices:
            own = OwnFiles(out, 'slices-files.json')
            own.claim(slices)
            for name, file in slices.items():
                own.copy(name, file)
            now = {volume_of_slice(name) for name in slices}
            others = [name for name in own.earlier if volume_of_slice(name) not in now]
            own.close({**dict.fromkeys(others), **slices})
    kept.update(
        {str(out / name): name[len('slices/') : -len(Path(name).suffix)] for name in slices}
    )
    return kept, failed


def volume_of_slice(name: str) -> str:
    """The volume's part of the name of a slice."""
    return re.sub(r'_z\d+(?=\D*$)', '', name)


def _found(one: str) -> tuple[list[str], list[str]]:
    """Images, and the folders that they are in."""
    if one == '-':
        lines = (os.fsdecode(line).strip() for line in sys.stdin.buffer)
        return _files(
            [line for line in lines if line and not line.startswith('#')], 'the list on -'
        )
    if os.path.isdir(one):
        try:
            dataset = ImageFolder(
                data_prefix=dict(img_path=one),
                img_suffix=SUFFIXES,
                pipeline=[],
                serialize_data=False,
            )
        except ValueError as error:
            raise DataError(
                f'the folder {one} holds no image: name another (suffixes looked for: '
                f'{", ".join(SUFFIXES)})'
            ) from error
        return list(dataset.data_list), [one]
    if os.path.lexists(one) and not one.lower().endswith(SUFFIXES):
        listed, beside = [line for _, line in read_list(one, error=DataError)], os.path.dirname(one)
        return _files(
            [path if os.path.lexists(path) else os.path.join(beside, path) for path in listed], one
        )
    if os.path.lexists(one):
        return _files([one], one)
    matching = sorted(glob.glob(one, recursive=True))
    return _files([path for path in matching if path.lower().endswith(SUFFIXES)], one)


def _files(paths: list[str], what: str) -> tuple[list[str], list[str]]:
    if not paths:
        raise DataError(
            f'{what}: there is no such file or folder, and as a pattern it fits no image (suffixes '
            f'looked for: {", ".join(SUFFIXES)}): correct it'
        )
    return paths, _folders(paths)


def _folders(paths: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(os.path.dirname(os.path.abspath(path)) for path in paths))
