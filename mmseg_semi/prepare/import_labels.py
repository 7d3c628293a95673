"""Make images and masks of the export of a labeling tool: ``mmseg-semi import-labels``."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import click
import numpy as np
from PIL import Image

from mmseg_semi.datasets.image_files import SIDEWAYS, orientation_of
from mmseg_semi.detection.coco import coco_annotations, coco_categories, coco_images
from mmseg_semi.errors import DataError, name_some
from mmseg_semi.files import check_there
from mmseg_semi.prepare.instances import IGNORED
from mmseg_semi.prepare.label_formats.finding import FORMATS, read_export, unpacked
from mmseg_semi.prepare.label_formats.photos import Photos
from mmseg_semi.prepare.label_formats.records import (
    BACKGROUND,
    Box,
    Color,
    Export,
    Numbers,
    Objects,
    Picture,
    color_of,
)
from mmseg_semi.prepare.label_maps import encode_png, opened
from mmseg_semi.prepare.own_files import OwnFiles
from mmseg_semi.utils.progress import track

LISTED = 'import-labels.json'
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


@dataclass
class Outcome:
    """What was brought."""

    labeled: dict[str, tuple[int, int]] = field(default_factory=dict)
    boxes: list[list[Box]] = field(default_factory=list)
    empty: int = 0
    changed: int = 0
    pixels: int = 0
    wrong: list[str] = field(default_factory=list)


# ---------------------------------------------------------------------------------------- classes
def split_classes(words: Sequence[str]) -> dict[str, Color | None]:
    """Names with their colors, of ``name`` and ``name=#rrggbb``, commas between them.

    Raises:
        DataError: A color is none, or a class is named twice.
    """
    found: dict[str, Color | None] = {}
    for word in (one.strip() for several in words for one in several.split(',')):
        name, equals, color = word.partition('=')
        if not name or name in found:
            raise DataError(f'--classes: {word!r} has no name or is there twice; give each once')
        if equals and not re.fullmatch('#[0-9a-fA-F]{6}', color):
            raise DataError(f'--classes {word}: a color must be like #ff8000, red, green and blue')
        found[name] = color_of(color) if equals else None
    return found


def number_classes(export: Export, wanted: Sequence[str]) -> tuple[list[str], Numbers]:
    """Names in the order of their numbers, and the numbers.

    Without a choice of the user, background is 0 and the others follow as the export has them.
    """
    names = list(wanted or export.classes)
    ground = next((name for name in names if name.lower() in BACKGROUND), None)
    if ground is None and export.background:
        ground = BACKGROUND[0]
        names.insert(0, ground)
    elif ground is not None and not wanted and export.background:
        names.sort(key=lambda name: name != ground)
    if len(names) > IGNORED:
        raise DataError(
            f'there are {len(names)} classes; a mask of 8 bits has room for {IGNORED}: '
            'choose some with --classes.'
        )
    numbers = {name: number for number, name in enumerate(names)}
    return names, Numbers(numbers, IGNORED if ground is None else numbers[ground])


def class_colors(names: Sequence[str], known: dict[str, Color]) -> list[list[int]]:
    """A color for each class: the known one, or one of VOC's color map."""
    colors = []
    for number, name in enumerate(names):
        bits = [[(number >> (3 * place + part)) & 1 for place in range(3)] for part in range(3)]
        made = [sum(bit << (7 - place) for place, bit in enumerate(one)) for one in bits]
        colors.append(list(known.get(name, made)))
    return colors


# ----------------------------------------------------------------------------------------- images
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
        with opened(source.file) as image:
            stored, orientation = image.size, orientation_of(image)
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


# ---------------------------------------------------------------------------------------- writing
def bring(source: Source, own: OwnFiles, numbers: Numbers, export: Export, done: Outcome) -> None:
    """Write an image, and its mask where it has labels."""
    picture = source.picture
    if picture is not None and picture.labels is not None:
        try:
            drawn_size, size, turn = placed(source)
            drawn = picture.labels.draw(picture.label, drawn_size, numbers, turn)
        except DataError as error:
            done.wrong.append(str(error))
            return
        export.notes += [f'{picture.label}, {note}' for note in drawn.notes]
        own.write(source.mask, encode_png(drawn.mask, 'import-labels'))
        done.labeled[source.name] = size
        done.boxes.append(drawn.boxes)
        done.empty += isinstance(picture.labels, Objects) and not picture.labels.several
        done.changed += drawn.changed
        done.pixels += drawn.mask.size
    if source.file is not None:
        own.copy(source.image, source.file)
    elif picture is not None and picture.embedded is not None:
        own.write(source.image, picture.embedded)


def boxes_file(done: Outcome, names: Sequence[str]) -> dict[str, Any]:
    """COCO's json of the boxes of all labeled images."""
    annotations = coco_annotations([[box[:5] for box in boxes] for boxes in done.boxes])
    crowds = [box.crowd for boxes in done.boxes for box in boxes]
    for entry, crowd in zip(annotations, crowds):
        entry['iscrowd'] = int(crowd)
    categories = coco_categories(
        {number: name for number, name in enumerate(names) if name.lower() not in BACKGROUND}
    )
    return dict(
        info={}, images=coco_images(done.labeled), annotations=annotations, categories=categories
    )


def import_labels(
    source: Path,
    kind: str,
    out: Path,
    images: Path | None = None,
    classes: Sequence[str] = (),
    empty: str = 'background',
) -> None:
    """Bring the images of an export, their masks, classes and boxes into one folder.

    Args:
        source: File or folder that a labeling tool has written.
        kind: Its format, or 'auto'.
        out: The new folder.
        images: Folder of the images, None where they are in ``source`` or beside it.
        classes: Names in the order of their numbers, perhaps with colors; empty for all classes
            of the export.
        empty: What images are that are listed without an object: 'background' or 'unlabeled'.

    Raises:
        FileNotFoundError: Source or images are not there.
        DataError: Labels that cannot be used, or files in ``out`` that would be replaced.
    """
    wanted = split_classes(classes)
    if not source.exists():
        check_there(source, 'Name what the labeling tool wrote.', 'SRC', 'file or folder')
    if images is not None:
        check_there(images, 'Name the folder of the images.', '--images', 'folder')
    with unpacked(source) as folder:
        export = read_export(folder, kind, images, wanted, out)
        if empty == 'unlabeled':
            export.pictures = [_without_empty(one) for one in export.pictures]
        names, numbers = number_classes(export, list(wanted))
        colors = {**export.colors, **{name: one for name, one in wanted.items() if one}}
        root = images or export.folder
        beside = folder if folder.is_dir() else folder.parent
        photos = Photos(root or beside, [out, *export.own_files])
        sources = find_sources(export, photos, root)
        made = ['classes.json', 'boxes.json', 'not_used.txt']
        targets: dict[str, Path | None] = {one.image: one.file for one in sources}
        targets.update({one.mask: None for one in sources if one.picture and one.picture.labels})
        targets.update(dict.fromkeys(made))
        own, done = OwnFiles(out, LISTED), Outcome()
        own.claim(targets)
        for one in track(sources):
            bring(one, own, numbers, export, done)
    notes = [*done.wrong, *export.notes]
    own.write('not_used.txt', ''.join(f'{note}\n' for note in notes))
    content = dict(classes=names, palette=class_colors(names, colors))
    own.write('classes.json', json.dumps(content, indent=1) + '\n')
    own.write('boxes.json', json.dumps(boxes_file(done, names)) + '\n')
    removed = own.close(targets)
    say(out, own, done, names, sources, notes, removed)


def _without_empty(picture: Picture) -> Picture:
    empty = isinstance(picture.labels, Objects) and not picture.labels.several
    return picture._replace(labels=None) if empty else picture


def say(
    out: Path,
    own: OwnFiles,
    done: Outcome,
    names: Sequence[str],
    sources: Sequence[Source],
    notes: Sequence[str],
    removed: Sequence[str],
) -> None:
    """Print what was done.

    Raises:
        DataError: Some labels could not be used at all.
    """
    print(f'{out}: {own.written} files written, {own.kept} kept')
    if removed:
        print(f'removed, because they are not in the export any more: {name_some(list(removed))}')
    print(f'{len(names)} classes: {name_some(list(names), 20)}')
    print(f'{len(done.labeled)} images with labels, {sum(map(len, done.boxes))} boxes')
    without = [one.name for one in sources if one.picture is None or one.picture.labels is None]
    if without:
        print(f'{len(without)} images without labels (unlabeled): {name_some(without)}')
    if done.empty:
        print(
            f'{done.empty} images are listed without any object, and are background everywhere; '
            'if they are not labeled yet, give --empty unlabeled'
        )
    if done.changed:
        share = 100 * done.changed / done.pixels
        print(f'{done.changed} pixels ({share:.2g} %) had no color of a class: the nearest is used')
    if notes:
        print(f'not used (all {len(notes)} in {out / "not_used.txt"}):')
        print('\n'.join(f'  {note}' for note in notes[:5]))
    if done.wrong:
        raise DataError(
            f'{done.wrong[0]} So {len(done.wrong)} of {len(sources)} images could not be brought '
            f'(all in {out / "not_used.txt"}), the others are complete: put this right and run the '
            'same again.'
        )


@click.command('import-labels')
@click.argument('source', metavar='SRC', type=click.Path(path_type=Path))
@click.option(
    '--format',
    'kind',
    type=click.Choice(['auto', *FORMATS]),
    default='auto',
    show_default=True,
    help='What wrote the labels.',
)
@click.option(
    '--out', required=True, type=click.Path(path_type=Path), help='New folder for all of it.'
)
@click.option(
    '--images',
    type=click.Path(path_type=Path),
    help='Folder of the images, where they are not in SRC; those that SRC does not list become '
    'unlabeled images.',
)
@click.option(
    '--classes',
    multiple=True,
    metavar='NAME[=#rrggbb],...',
    help='Classes in the order of their numbers; default: all of the export.',
)
@click.option(
    '--empty',
    type=click.Choice(['background', 'unlabeled']),
    default='background',
    show_default=True,
    help='What images are that SRC lists without any object.',
)
def command(**options: Any) -> None:
    """Make images and masks of the export of a labeling tool.

    SRC is a file, a zip or a folder. OUT gets images/, annotations/ (PNG masks of class numbers,
    255 for unknown), classes.json, boxes.json and not_used.txt.
    """
    import_labels(**options)
