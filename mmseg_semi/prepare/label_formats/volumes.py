"""Volumes as slices: multi-page TIFF and NIfTI files among images and masks."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import tifffile
from PIL import Image

from mmseg_semi.datasets.image_arrays import tiff_layout
from mmseg_semi.errors import DataError, name_some, reading
from mmseg_semi.files import folders_below
from mmseg_semi.prepare.label_formats.masks import find_folders
from mmseg_semi.utils.progress import track

NIFTI = ('.nii', '.nii.gz')
TIFF = ('.tif', '.tiff')
SEPARATORS = '_-. '
PAGES = ('auto', 'slices', 'channels')


@dataclass
class Volume:
    """A file that has several slices, or may have.

    Attributes:
        file: The file.
        stem: Its path in its folder, without suffix.
        slices: How many slices it would have.
        sure: Whether they are known to be slices, and no channels.
        mask: Whether it is a mask.
        owner: Stem of the image of a mask.
    """

    file: Path
    stem: str
    slices: int
    sure: bool
    mask: bool = False
    owner: str = ''


class Sliced(NamedTuple):
    """Where to import from.

    Attributes:
        source: Of masks, and perhaps of images.
        images: Folder of the images, None where they are in the source.
        volumes: Names of the volumes of images.
        real: The user's folder of each one that was made.
    """

    source: Path
    images: Path | None
    volumes: Sequence[str] = ()
    real: Mapping[str, str] = {}


@contextmanager
def sliced(source: Path, images: Path | None, out: Path, pages: str) -> Iterator[Sliced]:
    """Folders that have slices in the place of volumes, for as long as they are used.

    Args:
        source: Folder of masks, and perhaps of images.
        images: Folder of the images, None where they are in the source.
        out: Folder that is not looked into.
        pages: What the pages of a TIFF file are that does not say it: 'slices', 'channels', or
            'auto': slices where the mask has as many, channels where the mask has one.

    Raises:
        DataError: Volumes that cannot be read, do not fit their masks, or may be several things.
    """
    folders = find_folders(source, images) or (images or source, source)
    volumes = _volumes(*folders, out, pages) if source.is_dir() else []
    if not volumes:
        yield Sliced(source, images)
        return
    with tempfile.TemporaryDirectory() as made:
        places = {source: Path(os.path.realpath(made), 'source')}
        inside = images is not None and _is_inside(images, source)
        if images is not None and not inside:
            places[images] = Path(os.path.realpath(made), 'images')
        mine = {one.file.resolve(): one for one in volumes}
        for root, place in places.items():
            masks = [source] if root != source else []  # which may lie below the images
            for file in track(sorted(_files(root, [out, *masks])), 'files'):
                bring_file(file, place / file.relative_to(root), mine.get(file.resolve()))
        new_images = places.get(images) if images is not None else None
        if images is not None and inside:
            new_images = places[source] / images.resolve().relative_to(source.resolve())
        names = sorted(one.stem for one in volumes if not one.mask)
        real = {str(place): str(root) for root, place in places.items()}
        try:
            yield Sliced(places[source], new_images, names, real)
        except DataError as error:
            raise DataError(with_real_names(str(error), real)) from error


def with_real_names(text: str, real: Mapping[str, str]) -> str:
    """A text with the user's folders in place of those that were made."""
    for made, folder in real.items():
        text = text.replace(made, folder)
    return text


def _is_inside(file: Path, folder: Path) -> bool:
    return folder.resolve() in file.resolve().parents


def _files(root: Path, without: Iterable[Path]) -> Iterator[Path]:
    for folder, names in folders_below(root, without):
        yield from (Path(folder, name) for name in names)


def stem_of(name: str) -> str:
    """A name without the suffix of an image or a volume."""
    for suffix in ('.nii.gz', '.nii', '.ome.tif', '.ome.tiff', *TIFF):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


# -------------------------------------------------------------------------------------- looking
def _volumes(images: Path, masks: Path, out: Path, pages: str) -> list[Volume]:
    """The volumes of a folder of images and one of masks, which may be one.

    Raises:
        DataError: Nobody can tell what they are, or image and mask do not fit.
    """
    same = images.resolve() == masks.resolve()
    found = list(_look_at(images, [out] if same else [out, masks]))
    stems = {one.stem for one in found}
    if same:
        for one in found:
            one.owner = _owner(one.stem, stems - {one.stem}) or ''
            one.mask = bool(one.owner)
    else:
        for one in _look_at(masks, [out, images]):
            one.mask, one.owner = True, one.stem
            if one.stem not in stems:
                one.owner = _owner(one.stem, stems) or one.stem
            found.append(one)
    _fit(found)
    if pages != 'auto':
        return [one for one in found if one.sure or pages == 'slices']
    volumes = {one.file for one in found}
    others = (one for one in _files(masks, [out]) if one not in volumes)
    return _told_apart(found, {one.relative_to(masks).with_suffix('').as_posix() for one in others})


def _look_at(root: Path, without: Iterable[Path]) -> Iterator[Volume]:
    for file in sorted(_files(root, without)):
        found = volume_of(file, stem_of(file.relative_to(root).as_posix()))
        if found is not None:
            yield found


def volume_of(file: Path, stem: str) -> Volume | None:
    """A file as a volume, None where it is none.

    Raises:
        DataError: It cannot be read.
    """
    name = file.name.lower()
    if name.endswith(NIFTI):
        shape = _nifti(file).shape
        if len(shape) not in (3, 4):
            raise DataError(f'{file} has the shape {shape}; it must have 3 or 4 dimensions')
        return Volume(file, stem, shape[2], True)
    if not name.endswith(TIFF):
        return None
    with reading(file), tifffile.TiffFile(file) as tiff:
        layout = tiff_layout(tiff) if len(tiff.pages) > 1 else None
    if layout is None or layout.axes in ('YX', 'YXS', 'SYX', 'CYX', 'YXC'):
        return None
    sure = layout.axes[0] in 'ZT' or layout.axes[1:] == 'YXS'
    return Volume(file, stem, layout.shape[0], sure)


def _told_apart(found: list[Volume], plain: set[str]) -> list[Volume]:
    """Those whose pages are slices.

    Args:
        found: Files of several pages.
        plain: Stems of the masks that have one.

    Raises:
        DataError: Pages may be slices or channels.
    """
    owners = {one.owner for one in found if one.mask}
    images = {one.stem for one in found if not one.mask}
    for one in found:
        one.sure = one.sure or (one.owner in images if one.mask else one.stem in owners)
    open_ones = [one for one in found if not one.sure]
    channels = [one for one in open_ones if not one.mask and _has_plain(one.stem, plain)]
    doubtful = [one for one in open_ones if one not in channels]
    slices = any(one.sure for one in found)
    if doubtful and slices == bool(channels):
        names = name_some([str(one.file) for one in doubtful])
        raise DataError(
            f'{len(doubtful)} TIFF files have several pages, which may be slices of a volume or '
            f'channels of an image: {names}. Say which with --pages slices or --pages channels.'
        )
    return [one for one in found if one.sure or (slices and one in doubtful)]


def _owner(stem: str, stems: set[str]) -> str | None:
    """The longest of some stems that this one begins with, before a separator."""
    ends = [place for place, one in enumerate(stem) if one in SEPARATORS]
    return next((stem[:end] for end in reversed(ends) if stem[:end] in stems), None)


def _has_plain(stem: str, plain: set[str]) -> bool:
    return stem in plain or any(
        one.startswith(stem) and one[len(stem)] in SEPARATORS for one in plain
    )


def _fit(found: list[Volume]) -> None:
    """Refuse masks of other volumes."""
    images = {one.stem: one for one in found if not one.mask}
    for one in found:
        image = images.get(one.owner) if one.mask else None
        if image is None:
            continue
        if image.slices != one.slices:
            raise DataError(
                f'{one.file} has {one.slices} slices, {image.file} {image.slices}: give the mask '
                'of this volume'
            )
        if all(two.file.name.lower().endswith(NIFTI) for two in (image, one)) and not np.allclose(
            _nifti(image.file).affine, _nifti(one.file).affine, atol=1e-3
        ):
            raise DataError(
                f'{one.file} and {image.file} lie differently in space (their affine matrices '
                'differ): save the mask in the space of the image'
            )


def _nifti(file: Path) -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise DataError(
            f'{file}: NIfTI files need nibabel, which is not installed: pip install '
            "'mmseg_semi[volumes]'"
        ) from error
    with reading(file):
        return nibabel.load(file)


# -------------------------------------------------------------------------------------- slicing
def bring_file(file: Path, target: Path, volume: Volume | None) -> None:
    """Make the slices of a file beside where it would be, or a link to it there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if volume is None:
        target.symlink_to(file.resolve())
        return
    name = PurePosixPath(volume.stem).name
    rest = volume.stem[len(volume.owner) :] if volume.mask else ''
    digits = max(4, len(str(volume.slices - 1)))
    write = write_mask if volume.mask else write_slice
    for number, one in enumerate(slices_of(file)):
        slice_name = f'{name[: len(name) - len(rest)]}_z{number:0{digits}}{rest}'
        write(target.with_name(slice_name), one, file)


def slices_of(file: Path) -> Iterator[np.ndarray]:
    """Slices (H, W) or (H, W, C) of a volume.

    Those of a NIfTI file (X, Y, Z) or (X, Y, Z, C) lie along Z, with Y as rows and X as columns.
    """
    if file.name.lower().endswith(NIFTI):
        volume = _nifti(file)
        with reading(file):
            data = np.asanyarray(volume.dataobj)
        for z in range(data.shape[2]):
            yield data[:, :, z].swapaxes(0, 1)
        return
    with reading(file), tifffile.TiffFile(file) as tiff:
        layout = tiff_layout(tiff)
        data = layout.numbers()
    for one in data:
        if layout.axes[1:] in ('YX', 'YXS', 'YXC'):
            yield one
        elif layout.axes[1:] in ('CYX', 'SYX'):
            yield np.moveaxis(one, 0, -1)
        else:
            raise DataError(
                f'{file} has the axes {layout.axes} ({layout.shape}); a volume must have slices '
                'and rows, columns and perhaps channels'
            )


def write_slice(path: Path, image: np.ndarray, file: Path) -> None:
    """Write a slice of an image, as PNG where it is gray or RGB of 8 bits, else as TIFF."""
    if image.dtype == np.float64:
        image = image.astype(np.float32)
    if image.dtype == np.uint8 and (image.ndim == 2 or image.shape[2] == 3):
        Image.fromarray(np.ascontiguousarray(image)).save(f'{path}.png')
        return
    tifffile.imwrite(
        f'{path}.tif',
        np.ascontiguousarray(image),
        photometric='minisblack',
        planarconfig=None if image.ndim == 2 else 'contig',
        compression='zlib',
        metadata=None,
    )


def write_mask(path: Path, mask: np.ndarray, file: Path) -> None:
    """Write a slice of a mask as PNG.

    Raises:
        DataError: It has no whole numbers from 0 to 65535, nor colors.
    """
    if mask.ndim == 3 and not (mask.shape[2] == 3 and mask.dtype == np.uint8):
        raise DataError(f'{file} has {mask.shape[2]} channels; a mask must have one, or colors')
    whole = mask.astype(np.uint16)
    if (whole != mask).any():
        raise DataError(f'{file} has values that are no class; use whole numbers from 0 on')
    small = whole.astype(np.uint8) if int(whole.max(initial=0)) < 256 else whole
    Image.fromarray(np.ascontiguousarray(small)).save(f'{path}.png')
