"""Masks as image files: numbers, gray levels or colors, or one file for each class or object."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
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
    Box,
    Color,
    Drawn,
    Export,
    LabelMap,
    Numbers,
    Picture,
    box_around,
    in_order,
)
from mmseg_semi.utils.progress import track

IMAGE_FOLDERS = ('images', 'image', 'imgs', 'img', 'photos', 'jpegimages', 'leftimg8bit')
MASK_FOLDERS = (
    *('masks', 'mask', 'labels', 'label', 'annotations', 'annotation', 'gt', 'segmentation'),
    *('segmentations', 'segmentationclass', 'lbl', 'truth', 'ground_truth', 'gtfine', 'gtcoarse'),
)
#: Ends of names of images, which their masks do not have.
IMAGE_ENDS = ('leftimg8bit', 'image', 'img', 'rgb', 'sat', 'photo', 'original')
#: Ends of names that say that a file is a mask, and not of which class.
ENDS = (
    *('mask', 'masks', 'label', 'labels', 'seg', 'segmentation', 'gt', 'annotation', 'lbl'),
    *('labelids', 'labeltrainids', 'l', 'm', 'groundtruth', 'truth', 'manual', 'ann'),
    *('gtfine_labelids', 'gtfine_labeltrainids', 'gtcoarse_labelids', 'gtcoarse_labeltrainids'),
)
#: Ends of names of files of Cityscapes that have no numbers of classes.
OTHER_ENDS = tuple(
    f'gt{kind}_{end}' for kind in ('fine', 'coarse') for end in ('color', 'instanceids')
)
#: Class of objects that have no other.
OBJECT = 'object'


class Part(NamedTuple):
    """A mask file of an image.

    Attributes:
        name: Its class, None where it has all classes.
        file: The file.
        alone: Whether it has one object.
    """

    name: str | None
    file: Path
    alone: bool = False


def find_folders(source: Path, images: Path | None) -> tuple[Path, Path] | None:
    """Folders of the images and of the masks, None where there are none."""
    if not source.is_dir():
        return None
    below = {one.name.lower(): one for one in sorted(source.iterdir()) if one.is_dir()}
    named = [below[name] for name in MASK_FOLDERS if name in below]
    # VOC has xml files in Annotations, and masks beside it.
    masks = next((one for one in named if Photos(one).files), named[0] if named else None)
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
    """Files that are images, and masks: by their folders, or by names that end in ``ENDS``."""
    masks = [file for file in photos.files if _image_folder(file, photos.folder)]
    if masks:
        return [file for file in photos.files if file not in set(masks)], masks
    stems = {stem for file in photos.files for stem in _stems(file)}
    for file in photos.files:
        stem = without_suffix(file)
        places = [place for place, one in enumerate(stem) if one in '_-. ']
        if any(stem[:one] in stems and stem[one + 1 :].lower() in ENDS for one in places):
            masks.append(file)
    return [file for file in photos.files if file not in set(masks)], masks


def _image_folder(file: str, root: Path) -> PurePosixPath | None:
    """The folder of images beside the folder of masks that a file is in, None where it is not."""
    path = PurePosixPath(file)
    for folder in path.parents:
        if folder.name.lower() in MASK_FOLDERS:
            beside = (folder.with_name(name) for name in IMAGE_FOLDERS)
            return next((one for one in beside if (root / one).is_dir()), None)
    return None


def _stems(file: str) -> Iterator[str]:
    """Names of an image without its suffix: the whole, and without one of ``IMAGE_ENDS``."""
    stem = without_suffix(file)
    yield stem
    start, mark, end = stem.rpartition('_')
    if mark and end.lower() in IMAGE_ENDS and PurePosixPath(start).name:
        yield start


def read(
    photos: Photos,
    masks: Photos,
    wanted: Mapping[str, Color | None],
    known: Mapping[str, Color],
    objects: bool = False,
) -> Export:
    """Read masks.

    Args:
        photos: The images.
        masks: The mask files.
        wanted: Classes that the user gave, with their colors.
        known: Colors of classes that a file beside the masks gives.
        objects: Whether the numbers in masks are those of objects, all of one class.

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
    every = [one for several in parts.values() for one in several]
    whole = [one.file for one in every if not one.alone and one.name is None]
    single, alone = whole[0] if whole else None, any(one.alone for one in every)
    if single and len(whole) < len(every):
        other = next(one.file for one in every if one.file not in set(whole))
        raise DataError(
            f'{single} has the name of an image, other masks the names of classes or objects, such '
            f'as {other}: choose one of both kinds'
        )
    table = None
    if objects or alone:
        name = _class_of_objects(wanted)
        export.classes, export.background = [name], True
        parts = {
            image: [one._replace(name=name if objects else one.name or name) for one in several]
            for image, several in parts.items()
        }
    elif single is None:
        export.classes, export.background = in_order(one.name for one in every if one.name), True
    else:
        table = _table([one.file for one in every], wanted, known, export)
    for image, several in parts.items():
        if table:
            draw = partial(_by_value, several[0].file, table)
        elif objects:
            draw = partial(_by_number, several)
        else:
            draw = partial(_by_class, several)
        try:
            size = mask_size(several[0].file)
        except DataError:  # its image is left out, when it is drawn
            size = None
        export.pictures.append(Picture(str(several[0].file), (image,), size, LabelMap(draw)))
    export.folder = photos.folder
    export.own_files = {one.file for several in parts.values() for one in several}
    return export


def _class_of_objects(wanted: Mapping[str, Color | None]) -> str:
    """The one class of all objects."""
    names = [name for name in wanted if name.lower() not in BACKGROUND]
    if len(names) > 1:
        raise DataError(
            f'--classes {",".join(wanted)}: the masks are of objects, which have one class: name '
            'that one alone'
        )
    return names[0] if names else OBJECT


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
    stems = {stem: file for file in photos.files for stem in _stems(file)}
    stems |= {without_suffix(file): file for file in photos.files}  # a whole name comes first
    by_name, by_folder = defaultdict(list), defaultdict(list)
    for file in photos.files:
        by_name[PurePosixPath(without_suffix(file)).name].append(file)
        by_folder[PurePosixPath(file).parent].append(file)
    found: dict[str, list[Part]] = defaultdict(list)
    for file in masks.files:
        path = masks.folder / file
        if without_suffix(file).lower().endswith(OTHER_ENDS):
            export.notes.append(f'{path}: it has no numbers of classes')
            continue
        folder = _image_folder(file, masks.folder)
        beside = [] if folder is None else by_folder[folder]
        image = _image_of_object(PurePosixPath(without_suffix(file)), stems, beside)
        if image is not None:
            found[image].append(Part(None, path, True))
            continue
        part = _owner(PurePosixPath(without_suffix(file)), stems, by_name)
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


def _image_of_object(
    stem: PurePosixPath, stems: Mapping[str, str], beside: Sequence[str]
) -> str | None:
    """The image of the mask of one object.

    The mask is in a folder that has the name of the image, or in a folder beside that of this one
    image, and has another name.
    """
    if len(beside) == 1 and PurePosixPath(without_suffix(beside[0])).name != stem.name:
        return beside[0]
    return stems.get(stem.parent.as_posix())


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
    return Drawn(mask, [], notes, *changed)


def _by_number(parts: Sequence[Part], numbers: Numbers) -> Drawn:
    """Draw masks of the numbers of objects, 0 is none."""
    mask, boxes = None, []
    for part in parts:
        assert part.name is not None
        pixels = read_pixels(part.file)
        if pixels.colored or pixels.lossy:
            raise DataError(
                f'{part.file} has colors or was compressed: save numbers of objects as gray PNG'
            )
        number = numbers.get(part.name)
        if mask is None:
            mask = np.full(pixels.values.shape, numbers.other, np.uint8)
        _check_size(part, pixels.values.shape, parts[0], mask.shape)
        mask[pixels.values > 0] = number
        boxes += boxes_of_numbers(pixels.values, number)
    assert mask is not None
    return Drawn(mask, boxes, [])


def _check_size(
    part: Part, shape: tuple[int, ...], first: Part, first_shape: tuple[int, ...]
) -> None:
    if shape != first_shape:
        raise DataError(f'{part.file} has another size than {first.file}; they must have one size')


def boxes_of_numbers(values: np.ndarray, number: int) -> list[Box]:
    """Box of each positive number in (H, W)."""
    rows, columns = np.nonzero(values)
    several, which = np.unique(values[rows, columns], return_inverse=True)
    ends = []
    for places in (columns, rows):
        first = np.full(len(several), max(values.shape))
        last = np.zeros(len(several), first.dtype)
        np.minimum.at(first, which, places)
        np.maximum.at(last, which, places + 1)
        ends += [first, last]
    each = zip(*(one.tolist() for one in ends))
    return [Box(number, x1, y1, x2, y2, False) for x1, x2, y1, y2 in each]


def _by_class(parts: Sequence[Part], numbers: Numbers) -> Drawn:
    """Draw masks of one class or object each, smaller ones on top."""
    layers: list[tuple[Instance, np.ndarray]] = []
    boxes, changed, notes = [], 0, []
    for part in parts:
        assert part.name is not None
        inside, several = foreground(part.file)
        if layers:
            _check_size(part, inside.shape, parts[0], layers[0][1].shape)
        if part.name not in numbers.of_name:
            notes.append(f'{part.file}: {part.name} is none of the classes')
        changed += several
        number = numbers.get(part.name)
        if part.alone and inside.any():
            boxes.append(box_around(inside, number))
        layers.append((Instance(number, float(inside.sum()), False, None), inside))
    mask = np.full(layers[0][1].shape, numbers.other, np.uint8)
    for one, inside in sorted(layers, key=lambda pair: -pair[0].area):
        mask[inside] = one.number
    return Drawn(mask, boxes, notes, changed)


def foreground(path: Path) -> tuple[np.ndarray, int]:
    """Pixels (H, W) bool of the mask of one class, and how many were between its two levels.

    Without losses, numbers (of objects, say) are the class wherever they are not 0; a mask of two
    levels may have others between them at borders, of which the brighter half is inside.

    Raises:
        DataError: It has colors, or most of its levels are between.
    """
    pixels = read_pixels(path)
    if pixels.colored:
        raise DataError(f'{path} has colors; the mask of one class must be black and white')
    values, most = pixels.values, int(pixels.values.max())
    small = most < 64 or len(np.unique(values)) <= 2
    if not pixels.lossy and small and values.min() == 0:
        return values > 0, 0
    high = most if most < 64 or not pixels.lossy else (255 if most > 191 else 128)
    between = int(((values != 0) & (values != high)).sum())
    if not pixels.lossy and values.min() == 0 and 2 * between > np.count_nonzero(values):
        raise DataError(
            f'{path} is named as the mask of one class, and most of its pixels that are not black '
            f'are between 0 and {high}: if its numbers are those of objects, give --numbers '
            'objects, else save it in black and white'
        )
    return 2 * values > high, between
