"""The images of an export: which files they are, their new names, and how they are turned."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mmseg_semi.datasets.image_arrays import tiff_sizes
from mmseg_semi.datasets.image_files import SIDEWAYS, numpy_header, orientation_of
from mmseg_semi.errors import DataError, name_some, reading
from mmseg_semi.prepare.label_formats.photos import Photos
from mmseg_semi.prepare.label_formats.records import Export, Picture
from mmseg_semi.prepare.label_maps import opened

#: How EXIF orientations are undone.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Source(NamedTuple):
    """An image to bring.

    Attributes:
        name: Its path in the new folder of images.
        file: Where it is; None for one that the export holds.
        picture: What the export says of it; None for an image that it does not list.
    """

    name: str
    file: Path | None
    picture: Picture | None

    @property
    def image(self) -> str:
        """Path of the image in the new folder."""
        return f'images/{self.name}'

    @property
    def mask(self) -> str:
        """Path of the mask in the new folder."""
        return f'annotations/{PurePosixPath(self.name).with_suffix(".png")}'


def find_sources(export: Export, photos: Photos, root: Path | None) -> list[Source]:
    """The images to bring, with labels and without.

    Args:
        export: The export; images that are not there are noted in it.
        photos: Image files.
        root: The folder that names of images begin at; None for the one that holds all images of
            the export.

    Raises:
        DataError: None is there, or two would get the same name.
    """
    found = photos.match([one.names for one in export.pictures])
    folders = [PurePosixPath(file).parent.parts for file in found if file is not None]
    common = _common(folders) if root is None else ()
    begin = len(common)
    sources, missing = [], []
    for picture, file in zip(export.pictures, found):
        if file is not None:
            name = PurePosixPath(*PurePosixPath(file).parts[begin:]).as_posix()
            sources.append(Source(name, photos.folder / file, picture))
        elif picture.embedded is not None:
            inside = Path(picture.names[0])
            within = photos.folder.resolve() in inside.parents
            name = inside.relative_to(photos.folder.resolve()).as_posix() if within else inside.name
            sources.append(Source(name, None, picture))
        else:
            missing.append(picture.names[0])
            export.notes.append(f'{picture.label}: there is no such image')
    if not sources:
        some = f' (looked for {name_some(missing, 3)})' if missing else ''
        raise DataError(
            f'{photos.folder} has none of the images of the export{some}: name the folder of the '
            'images with --images.'
        )
    listed = {file for file in found if file is not None}
    for file in photos.files if folders else []:
        parts = PurePosixPath(file).parts
        if file not in listed and parts[:begin] == common:
            name = PurePosixPath(*parts[begin:]).as_posix()
            sources.append(Source(name, photos.folder / file, None))
    _refuse_alike(sources)
    return sources


def _common(folders: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    first, last = min(folders, default=()), max(folders, default=())
    equal = 0
    while equal < min(len(first), len(last)) and first[equal] == last[equal]:
        equal += 1
    return first[:equal]


def _refuse_alike(sources: Sequence[Source]) -> None:
    seen: dict[str, Source] = {}
    for one in sources:
        other = seen.setdefault(one.mask, one)
        if other is not one:
            where = one.picture.label if one.picture else one.file
            raise DataError(
                f'{where}: the images {other.name} and {one.name} would have the same mask '
                f'{one.mask}. Rename one, or remove the entry that is there twice.'
            )


def stored_sizes(file: Path) -> tuple[list[tuple[int, int]], int]:
    """Widths and heights that an image may have as it is stored, and its EXIF orientation.

    Raises:
        DataError: It is broken; names it.
    """
    if file.suffix.lower() in ('.tif', '.tiff'):
        sizes, orientation = tiff_sizes(str(file))
        if sizes:
            return sizes, orientation
    if file.suffix.lower() == '.npy':
        with reading(file), open(file, 'rb') as content:
            shape = numpy_header(content)[0]
            return [(shape[1], shape[0])], 1
    with opened(file) as image:
        return [image.size], orientation_of(image)


def placed(source: Source) -> tuple[tuple[int, int], tuple[int, int], Callable[..., Any]]:
    """Size that the labels are drawn in, size of the image, and how what was drawn is turned.

    Sizes are those of the image as its EXIF orientation turns it. Labels of the size of the stored
    pixels, where that is another, are turned with them.

    Raises:
        DataError: The labels belong to an image of another size.
    """
    picture = source.picture
    assert picture is not None
    if source.file is not None:
        sizes, orientation = stored_sizes(source.file)
        stored = sizes[0]
        for one in sizes:  # where nobody says it the labels may
            if picture.size in (one, one[::-1] if orientation >= SIDEWAYS else one):
                stored = one
                break
    else:
        assert picture.embedded is not None
        with Image.open(io.BytesIO(picture.embedded)) as image:
            stored, orientation = image.size, orientation_of(image)
    size = stored[::-1] if orientation >= SIDEWAYS else stored
    if picture.size is None or picture.size == size:
        return size, size, lambda array: array
    if picture.size == stored:
        method = TURNS[orientation]
        return stored, size, lambda array: np.array(Image.fromarray(array).transpose(method))
    raise DataError(
        f'{picture.label}: the labels belong to {picture.size[0]} x {picture.size[1]} pixels, the '
        f'image {source.file or source.name} has {size[0]} x {size[1]}: give the image that was '
        'labeled.'
    )
