"""The command lines of ``import-labels`` and ``split``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

FORMATS = ('auto', 'coco', 'cvat', 'labelme', 'label-studio', 'masks')
PAGES = ('auto', 'slices', 'channels')


@click.command('import-labels')
@click.argument('source', metavar='SRC', type=click.Path(path_type=Path))
@click.option(
    '--format',
    'kind',
    type=click.Choice(FORMATS),
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
@click.option(
    '--pages',
    type=click.Choice(PAGES),
    default='auto',
    show_default=True,
    help='What the pages of a TIFF file are that does not say it: slices of a volume, or channels.',
)
@click.option(
    '--numbers',
    type=click.Choice(['classes', 'objects']),
    default='classes',
    show_default=True,
    help='What the numbers in masks are; objects are of one class, the one of --classes.',
)
def import_labels(**options: Any) -> None:
    """Make images and masks of the export of a labeling tool.

    SRC is a file, a zip or a folder. OUT gets images/, annotations/ (PNG masks of class numbers,
    255 for unknown), classes.json, boxes.json and not_used.txt.
    """
    from mmseg_semi.prepare.import_labels import import_labels

    import_labels(**options)


@click.command('split')
@click.argument('folder', metavar='DIR', type=click.Path(path_type=Path))
@click.option('--labeled', type=int, required=True, help='Number of labeled images.')
@click.option(
    '--val',
    type=float,
    default=0.2,
    show_default=True,
    help='Share that validates, of those with masks.',
)
@click.option('--test', type=float, default=0.2, show_default=True, help='Share that tests.')
@click.option('--seed', type=int, default=0, show_default=True, help='Other lists with another.')
@click.option(
    '--group-by',
    metavar='REGEX',
    help='What the images of a patient, a plant or a sequence have in common in their names: they '
    'stay in one part. Without it the slices of a volume do.',
)
@click.option('--overwrite', is_flag=True, help='Replace other lists of the same name.')
def split(folder: Path, overwrite: bool, **wanted: Any) -> None:
    """Divide DIR/images into labeled, unlabeled, validation and test images.

    Images without a mask in DIR/annotations become unlabeled; the others are divided so that each
    class has its share in each part. The lists are DIR/splits/LABELED-seedSEED/*.txt.
    """
    from mmseg_semi.errors import DataError, exiting
    from mmseg_semi.prepare.dividing import Request
    from mmseg_semi.prepare.split_folder import split_folder

    with exiting(DataError, ValueError, OSError):
        click.echo(split_folder(folder, Request(**wanted), overwrite))
