"""Masks as image files: numbers, gray levels or colors, or one file for each class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from mmseg_semi.errors import DataError
from mmseg_semi.prepare.instances import Instance
from mmseg_semi.prepare.label_formats.mask_values import (
    Table,
    color_table,
    guess_table,
    mask_size,
    read_pixels,
)
from mmseg_semi.prepare.label_formats.photos import Photos, without_suffix
from mmseg_semi.prepare.label_formats.records import (
    BACKGROUND,
    Color,
    Drawn,
    Export,
    LabelMap,
    Numbers,
    Picture,
    in_order,
)
from mmseg_semi.utils.progress import track

IMAGE_FOLDERS = ('images', 'image', 'imgs', 'img', 'photos', 'jpegimages')
MASK_FOLDERS = (
    *('masks', 'mask', 'labels', 'label', 'annotations', 'annotation', 'gt', 'segmentation'),
    *('segmentations', 'segmentationclass', 'lbl', 'truth', 'ground_truth'),
)
#: Ends of names that say that a file is a mask, and not of which class.
ENDS = (
    *('mask', 'masks', 'label', 'labels', 'seg', 'segmentation', 'gt', 'annotation', 'lbl'),
    *('labelids', 'labeltrainids', 'l', 'm', 'groundtruth', 'truth', 'manual', 'ann'),
)


class Part(NamedTuple):
    """A mask file of an image; ``name`` is its class, None where it has all classes."""

    name: str | None
    file: Path


def find_folders(source: Path, images: Path | None) -> tuple[Path, Path] | None:
    """Folders of the images and of the masks, None where there are none."""
    if not source.is_dir():
        return None
    below = {one.name.lower(): one for one in sorted(source.iterdir()) if one.is_dir()}
    masks = next((below[name] for name in MASK_FOLDERS if name in below), None)
    if images is not None:
        inside = masks is not None and images.resolve() in {one.resolve() for one in below.values()}
        return images, masks if inside and masks is not None else source
    photos = next((below[name] for name in IMAGE_FOLDERS if name in below), None)
    if photos is not None and masks is not None:
        return photos, masks
    return (source, source) if _split(Photos(source))[1] else None


def open_folders(images: Path, folder: Path, out: Path) -> tuple[Photos, Photos]:
    """Images and masks of two folders, or of one where the names of masks tell them apart."""
    if images.resolve() == folder.resolve():
        photos, masks = Photos(images, [out]), Photos(folder, [out])
        photos.files, masks.files = _split(photos)
        return photos, masks
    return Photos(images, [out, folder]), Photos(folder, [out, images])


def _split(photos: Photos) -> tuple[list[str], list[str]]:
    """Files that are images, and those whose names are an image's with one of ``ENDS``."""
    stems = {without_suffix(file) for file in photos.files}
    masks = []
    for file in photos.files:
        stem = without_suffix(file)
        places = [place for place, one in enumerate(stem) if one in '_-. ']
        if any(stem[:one] in stems and stem[one + 1 :].lower() in ENDS for one in places):
            masks.append(file)
    return [file for file in photos.files if file not in set(masks)], masks


def read(
    photos: Photos, masks: Photos, wanted: Mapping[str, Color | None], known: Mapping[str, Color]
) -> Export:
    """Read masks.

    Args:
        photos: The images.
        masks: The mask files.
        wanted: Classes that the user gave, with their colors.
        known: Colors of classes that a file beside the masks gives.

    Raises:
        DataError: Masks do not belong to the images, or may mean several things.
    """
    export = Export([], [], background=False)
    parts = _match(photos, masks, export)
    if not parts:
        raise DataError(
            f'{masks.folder} has no masks of the images of {photos.folder}: a mask must have the '
            'name of its image; name the folder of the images with --images.'
        )
    single = [one.file for several in parts.values() for one in several if one.name is None]
    named = {one.name for several in parts.values() for one in several if one.name is not None}
    table = None
    if named:
        export.classes, export.background = in_order(named), True
        if single:
            raise DataError(
                f'{single[0]} has the name of an image, other masks the names of classes, such as '
                f'{sorted(named)[0]}: choose one of both kinds'
            )
    else:
        table = _table(single, wanted, known, export)
    for image, several in parts.items():
        draw = partial(_by_value, several[0].file, table) if table else partial(_by_class, several)
        size = mask_size(several[0].file)
        export.pictures.append(Picture(str(several[0].file), (image,), size, LabelMap(draw)))
    export.folder = photos.folder
    export.own_files = {one.file for several in parts.values() for one in several}
    return export


def _table(
    paths: Sequence[Path],
    wanted: Mapping[str, Color | None],
    known: Mapping[str, Color],
    export: Export,
) -> Table:
    given = {name: color for name, color in wanted.items() if color is not None}
    colors = {**known, **given}
    if colors and all(name in colors for name in wanted):
        export.classes, export.colors = list(wanted or known), colors
        return color_table(colors)
    table, export.classes, export.colors = guess_table(paths, list(wanted), track(paths, 'masks'))
    export.background = export.classes[0].lower() in BACKGROUND
    return table


# --------------------------------------------------------------------------------------- matching
def _match(photos: Photos, masks: Photos, export: Export) -> dict[str, list[Part]]:
    """Mask files by image."""
    stems = {without_suffix(file): file for file in photos.files}
    by_name = defaultdict(list)
    for stem, file in stems.items():
        by_name[PurePosixPath(stem).name].append(file)
    found: dict[str, list[Part]] = defaultdict(list)
    for file in masks.files:
        part = _owner(PurePosixPath(without_suffix(file)), stems, by_name)
        path = masks.folder / file
        if part is None:
            export.notes.append(f'{path}: there is no image of this name')
            continue
        image, name = part
        if any(name is None or one.name in (None, name) for one in found[image]):
            other = found[image][0].file
            export.notes.append(f'{path}: {photos.folder / image} has the mask {other} already')
            continue
        found[image].append(Part(name, path))
    return {image: several for image, several in found.items() if several}


def _owner(
    stem: PurePosixPath, stems: Mapping[str, str], by_name: Mapping[str, list[str]]
) -> tuple[str, str | None] | None:
    """The image of a mask, and the class that its path names."""
    if stem.as_posix() in stems:
        return stems[stem.as_posix()], None
    folders = stem.parts[:-1]
    for place, folder in enumerate(folders):  # a folder for each class
        without = PurePosixPath(*folders[:place], *folders[place + 1 :], stem.name).as_posix()
        if without in stems:
            return stems[without], None if folder.lower() in MASK_FOLDERS else folder
    for end in range(len(stem.name) - 1, 0, -1):  # an end for each class, or for all masks
        start = stem.with_name(stem.name[:end]).as_posix()
        if start in stems and stem.name[end] in '_-. ':
            name = stem.name[end + 1 :]
            return stems[start], None if name.lower() in ENDS else name
    alike = by_name.get(stem.name, [])
    return (alike[0], None) if len(alike) == 1 else None


# ---------------------------------------------------------------------------------------- drawing
def _by_value(path: Path, table: Table, numbers: Numbers) -> Drawn:
    mask, changed, notes = table.decode(path, numbers)
    return Drawn(mask, [], notes, changed)


def _by_class(parts: Sequence[Part], numbers: Numbers) -> Drawn:
    """Draw masks of one class each, smaller ones on top."""
    layers: list[tuple[Instance, np.ndarray]] = []
    changed, notes = 0, []
    for part in parts:
        assert part.name is not None
        inside, several = foreground(part.file)
        if layers and inside.shape != layers[0][1].shape:
            raise DataError(
                f'{part.file} has another size than {parts[0].file}; they must have one size'
            )
        if part.name not in numbers.of_name:
            notes.append(f'{part.file}: {part.name} is none of the classes')
        changed += several
        number = numbers.get(part.name)
        layers.append((Instance(number, float(inside.sum()), False, None), inside))
    mask = np.full(layers[0][1].shape, numbers.other, np.uint8)
    for one, inside in sorted(layers, key=lambda pair: -pair[0].area):
        mask[inside] = one.number
    return Drawn(mask, [], notes, changed)


def foreground(path: Path) -> tuple[np.ndarray, int]:
    """Pixels (H, W) bool of a binary mask of any two levels, and how many were between them."""
    pixels = read_pixels(path)
    if pixels.colored:
        raise DataError(f'{path} has colors; the mask of one class must be black and white')
    values, most = pixels.values, int(pixels.values.max())
    if not pixels.lossy and len(np.unique(values)) <= 2 and values.min() == 0:
        return values > 0, 0
    high = most if most < 64 or not pixels.lossy else (255 if most > 191 else 128)
    inside = 2 * values > high
    return inside, int(((values != 0) & (values != high)).sum())
