"""Make images and masks of the export of a labeling tool: ``mmseg-semi import-labels``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmseg_semi.detection.coco import coco_annotations, coco_categories, coco_images
from mmseg_semi.errors import DataError, hint, name_some
from mmseg_semi.files import check_there
from mmseg_semi.prepare.label_formats.classes import class_colors, number_classes, split_classes
from mmseg_semi.prepare.label_formats.finding import read_export, unpacked
from mmseg_semi.prepare.label_formats.mask_values import NEAR
from mmseg_semi.prepare.label_formats.photos import Photos
from mmseg_semi.prepare.label_formats.records import (
    BACKGROUND,
    Box,
    Export,
    Numbers,
    Objects,
    Picture,
)
from mmseg_semi.prepare.label_formats.sources import Source, find_sources, placed
from mmseg_semi.prepare.label_formats.volumes import Sliced, sliced, with_real_names
from mmseg_semi.prepare.label_maps import encode_png
from mmseg_semi.prepare.own_files import OwnFiles
from mmseg_semi.utils.progress import track

LISTED = 'import-labels.json'
#: More classes without names are perhaps objects.
MANY = 20


@dataclass
class Outcome:
    """What was brought."""

    labeled: dict[str, tuple[int, int]] = field(default_factory=dict)
    boxes: list[list[Box]] = field(default_factory=list)
    empty: int = 0
    changed: int = 0
    far: int = 0
    pixels: int = 0
    wrong: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def bring(source: Source, own: OwnFiles, numbers: Numbers, export: Export, done: Outcome) -> None:
    """Write an image, and its mask where it has labels."""
    picture = source.picture
    if picture is not None and picture.labels is not None:
        try:
            drawn_size, size, turn = placed(source)
            drawn = picture.labels.draw(picture.label, drawn_size, numbers, turn)
        except DataError as error:
            done.wrong.append(str(error))
            done.missing += [source.mask, source.image]
            return
        export.notes += [f'{picture.label}, {note}' for note in drawn.notes]
        own.write(source.mask, encode_png(drawn.mask, 'import-labels'))
        done.labeled[source.name] = size
        done.boxes.append(drawn.boxes)
        done.empty += isinstance(picture.labels, Objects) and not picture.labels.several
        done.changed += drawn.changed
        done.far += drawn.far
        done.pixels += drawn.mask.size
    if source.file is not None:
        own.copy(source.image, source.file)
    elif picture is not None and picture.embedded is not None:
        own.write(source.image, picture.embedded)


def refuse_results(source: Path, images: Path | None, out: Path) -> None:
    """Refuse to bring what an import has written, as if it were an export or photographs.

    Raises:
        DataError: ``out`` is a folder that is read, or one with another result is in them.
    """
    for name, folder in (('SRC', source), ('--images', images)):
        if folder is None or not folder.is_dir():
            continue
        if folder.resolve() == out.resolve():
            raise DataError(
                f'--out {out} is {name}, too, so that its copies would be read the next time: name '
                'a new folder'
            )
        for listed in sorted(folder.rglob(LISTED)):
            if listed.parent.resolve() != out.resolve():
                raise DataError(
                    f'{name} {folder} holds {listed.parent}, which an import has written and which '
                    'would be read as labels: move it elsewhere, or name what is beside it'
                )


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
    pages: str = 'auto',
    numbers: str = 'classes',
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
        pages: What the pages of a TIFF file are that does not say it: 'slices' of a volume,
            'channels', or 'auto'.
        numbers: What the numbers in masks are: of 'classes' or 'objects'.

    Raises:
        FileNotFoundError: Source or images are not there.
        DataError: Labels that cannot be used, or files in ``out`` that would be replaced.
    """
    wanted = split_classes(classes)
    if not source.exists():
        check_there(source, 'Name what the labeling tool wrote.', 'SRC', 'file or folder')
    if images is not None:
        check_there(images, 'Name the folder of the images.', '--images', 'folder')
    refuse_results(source, images, out)
    with unpacked(source) as folder, _slices(folder, kind, images, out, pages) as given:
        export = read_export(given.source, kind, given.images, wanted, out, numbers == 'objects')
        if empty == 'unlabeled':
            export.pictures = [_without_empty(one) for one in export.pictures]
        names, numbered = number_classes(export, list(wanted))
        strange = [
            one
            for one in wanted
            if export.background and one not in export.classes and one.lower() not in BACKGROUND
        ]
        colors = {**export.colors, **{name: one for name, one in wanted.items() if one}}
        root = given.images or export.folder
        beside = given.source if given.source.is_dir() else given.source.parent
        photos = Photos(root or beside, [out, *export.own_files])
        sources = find_sources(export, photos, root)
        made = ['classes.json', 'boxes.json', 'not_used.txt']
        targets: dict[str, Path | None] = {one.image: one.file for one in sources}
        targets.update({one.mask: None for one in sources if one.picture and one.picture.labels})
        targets.update(dict.fromkeys(made))
        own, done = OwnFiles(out, LISTED), Outcome()
        own.claim(targets)
        for one in track(sources):
            bring(one, own, numbered, export, done)
    done.wrong = [with_real_names(note, given.real) for note in done.wrong]
    notes = [with_real_names(note, given.real) for note in export.notes]
    notes = [note.replace(str(folder), str(source)) for note in (*done.wrong, *notes)]
    own.write('not_used.txt', ''.join(f'{note}\n' for note in notes))
    content: dict[str, Any] = dict(classes=names, palette=class_colors(names, colors))
    if given.volumes:
        content['volumes'] = list(given.volumes)
    before = named_before(out)
    own.write('classes.json', json.dumps(content, indent=1) + '\n')
    own.write('boxes.json', json.dumps(boxes_file(done, names)) + '\n')
    # A mask of before, of what could not be drawn now, may have other numbers of classes.
    removed = own.close({name: one for name, one in targets.items() if name not in done.missing})
    say(out, own, done, names, sources, notes, removed)
    if strange:
        print(
            f'--classes: {name_some(strange)} is no class of the export, which has '
            f'{name_some(export.classes, 20)}.{hint(strange[0], export.classes)}'
        )
    if before not in (None, list(names)):
        print(
            f'the classes were {name_some(before, 20)}: predictions and checkpoints of before are '
            'of those'
        )


def named_before(out: Path) -> list[str] | None:
    """The classes that an earlier import has left, None where there is none that can be read."""
    try:
        return list(json.loads((out / 'classes.json').read_text(encoding='utf-8'))['classes'])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _slices(
    source: Path, kind: str, images: Path | None, out: Path, pages: str
) -> AbstractContextManager[Sliced]:
    if kind in ('auto', 'masks'):
        return sliced(source, images, out, pages)
    return nullcontext(Sliced(source, images))


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
        reason = 'they are not in the export any more, or could not be brought'
        print(f'removed, because {reason}: {name_some(list(removed))}')
    print(f'{len(names)} classes: {name_some(list(names), 20)}')
    levels = any(name.startswith('level_') for name in names)
    if levels or len(names) > MANY and names[-1] == f'class_{len(names) - 1}':
        print('if the numbers in the masks count objects, give --numbers objects')
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
        print(
            f'{done.changed} pixels ({share:.2g} %) have not exactly the color of a class: the '
            f'nearest is used. {done.changed - done.far} are close to it, as noise of compression '
            'is, which does no harm'
        )
    if done.far:
        share = 100 * done.far / done.pixels
        print(
            f'{done.far} of them ({share:.2g} % of all pixels) are far from every class, by more '
            f'than {NEAR} levels: borders of objects in a JPEG are, in whole objects a class lacks'
        )
    if notes:
        print(f'not used (all {len(notes)} in {out / "not_used.txt"}):')
        print('\n'.join(f'  {note}' for note in notes[:5]))
    if done.wrong:
        raise DataError(
            f'{notes[0]} So {len(done.wrong)} of {len(sources)} images could not be brought '
            f'(all in {out / "not_used.txt"}), the others are complete: put this right and run the '
            'same again.'
        )
