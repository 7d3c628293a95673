"""Bring published lists of labeled and unlabeled images into the form that the configs read.

SOURCE is a folder with labeled.txt and unlabeled.txt, or one with such folders somewhere below.
Lists with an image and its mask in each line (UniMatch, CorrMatch, ST++) and lists of images only
(U2PL) are understood. Each split is checked before anything is written: numbers of images, names
given twice, validation images, missing files. A line for each split says its name, its labeled and
unlabeled images, and the hash that training logs too.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mmseg_semi.datasets.benchmark_layouts import BENCHMARK_LAYOUTS, PARTITIONS, BenchmarkLayout
from mmseg_semi.datasets.split_checks import find_data, verify_split
from mmseg_semi.datasets.splits import (
    PARTS,
    NameList,
    Split,
    read_lines,
    read_names,
    summary_lines,
    write_splits,
)
from mmseg_semi.errors import DataError, exiting
from mmseg_semi.files import check_there

STYLES = ('unimatch', 'u2pl')
OWN = 'own'  # one column of names, as these tools write them


def parse_args(args: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('dataset', choices=list(BENCHMARK_LAYOUTS))
    parser.add_argument('source', help='folder of one split, or of several')
    roots = ', '.join(layout.data_root for layout in BENCHMARK_LAYOUTS.values())
    parser.add_argument('--data-root', help=f'folder of the data set; default: {roots}')
    parser.add_argument(
        '--style',
        choices=['auto', *STYLES],
        default='auto',
        help='unimatch: lines "image mask"; u2pl: lines "image"; auto: found from the lines',
    )
    parser.add_argument(
        '--only', nargs='+', metavar='NAME', help='folders (or names here) to import; default: all'
    )
    parser.add_argument(
        '--partition',
        choices=PARTITIONS,
        help="whose partition it is where the folder's name does not say: cps is the one that "
        "UniMatch distributes, u2pl that of U2PL's repository",
    )
    parser.add_argument(
        '--skip-files',
        action='store_true',
        help='do not look for the images and masks; validation images are then taken from a '
        'val.txt beside the splits, if there is one',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace other splits')
    return parser.parse_args(args)


# --------------------------------------------------------------------------------------- what it is
class Source(NamedTuple):
    """A folder with the lists of one split.

    Attributes:
        path: The folder.
        folder: What its lists are called: the name of the folder, or of the one above ``split_0``.
        own_name: The name of a split that is not published.
    """

    path: Path
    folder: str
    own_name: str


def find_sources(source: Path) -> list[Source]:
    """Folders with labeled.txt and unlabeled.txt, in the order of their paths."""
    remedy = 'Give the folder of the published lists.'
    check_there(source, remedy, what='folder', error=DataError)
    found = []
    for path, folders, _ in os.walk(source, followlinks=True):
        folders.sort()
        there = [part for part in PARTS if Path(path, f'{part}.txt').is_file()]
        if len(there) == 1:
            other = next(part for part in PARTS if part not in there)
            raise DataError(f'{path} has {there[0]}.txt but no {other}.txt; both must be there')
        if there:
            found.append(describe(source, Path(path)))
    if not found:
        raise DataError(
            f'{source} has no folder with labeled.txt and unlabeled.txt; give the folder of a '
            "published split, or one above, such as .../splits/pascal of UniMatch's repository"
        )
    return found


def describe(source: Path, path: Path) -> Source:
    """Find what a folder of lists is called."""
    parts = list(path.relative_to(source).parts) or [path.name]
    if len(parts) == 1 and re.fullmatch(r'split_\d+', parts[0]):
        parts.insert(0, path.parent.name)
    folder = parts[-2] if parts[-1] == 'split_0' and len(parts) > 1 else parts[-1]
    return Source(path, folder, re.sub(r'[^\w.+-]', '_', '_'.join(parts)))


def list_style(path: Path, layout: BenchmarkLayout) -> str:
    """Whether a list is in one of STYLES or our own."""
    columns = {len(line.split()): number for number, line in reversed(read_lines(path))}
    if columns.keys() == {2}:
        return 'unimatch'
    if columns.keys() == {1}:
        has_folder = any(line.startswith(f'{layout.img_dir}/') for _, line in read_lines(path))
        # VOC's names have no folder in U2PL's lists either.
        return 'u2pl' if has_folder or '/' not in layout.example else OWN
    lines = ', '.join(f'{count} in line {number}' for count, number in sorted(columns.items()))
    raise DataError(
        f'{path}: every line must have one column (image) or every line two (image and mask); '
        f'found {lines}'
    )


# ------------------------------------------------------------------------------------------ reading
def check_masks(path: Path, images: NameList, layout: BenchmarkLayout) -> None:
    """Refuse lines whose second column is no mask of the image."""
    known = ('.png', layout.seg_map_suffix)
    for (number, line), name in zip(read_lines(path), images.names):
        mask, stem = os.path.basename(line.split()[1]), os.path.basename(name)
        if mask not in [stem + suffix for suffix in known]:
            raise DataError(
                f'{path}, line {number}: {line.split()[1]!r} is no mask of the image {name}; '
                f'expected {stem}{layout.seg_map_suffix}. Fetch the list again.'
            )


def read_source(
    source: Source, layout: BenchmarkLayout, style: str, partition: str | None
) -> tuple[Split, int | None]:
    """Read a split; also the number of labeled images that it must have, if that is known."""
    paths = {part: source.path / f'{part}.txt' for part in PARTS}
    styles = {part: list_style(path, layout) for part, path in paths.items()}
    if style != 'auto':
        for part, found in styles.items():
            if (found == 'unimatch') != (style == 'unimatch'):
                columns = 2 if found == 'unimatch' else 1
                raise DataError(
                    f'--style {style}: {paths[part]} has {columns} columns. Leave --style out, or '
                    'give other lists.'
                )
        styles = dict.fromkeys(PARTS, style)
    elif len(set(styles.values())) > 1:
        raise DataError(
            f'{source.path}: labeled.txt and unlabeled.txt must be of one style, fetch both again'
        )
    lists = {}
    for part, path in paths.items():
        lists[part] = read_names(path, layout, layout.img_dir)
        if styles[part] == 'unimatch':
            check_masks(path, lists[part], layout)
    try:
        published = layout.find_published(source.folder, styles['labeled'], partition)
    except DataError as error:
        raise DataError(f'{source.path}: {error}') from None
    if partition and published is None:
        raise DataError(
            f'--partition {partition}: {source.path} is none of the published splits of '
            f'{layout.name}. Leave --partition out, or choose with --only.'
        )
    name = published.name if published else source.own_name
    return Split(name, **lists), published.labeled if published else None


def chosen(
    sources: Sequence[Source],
    layout: BenchmarkLayout,
    only: Sequence[str] | None,
) -> list[Source]:
    """Those sources that ``--only`` may mean."""
    if only is None:
        return list(sources)
    names = {
        source: [source.own_name, source.folder]
        + [split.name for split in layout.published if split.may_be(source.folder)]
        for source in sources
    }
    for name in only:
        if not any(name in known for known in names.values()):
            folders = ', '.join(source.own_name for source in sources)
            raise DataError(f'--only {name}: there is no such split; found are {folders}')
    return [source for source in sources if set(only) & set(names[source])]


def read_splits(
    sources: Sequence[Source], layout: BenchmarkLayout, args: argparse.Namespace
) -> dict[str, tuple[Split, int | None, Source]]:
    """Splits by name; the same split in two folders is taken once."""
    splits: dict[str, tuple[Split, int | None, Source]] = {}
    for source in chosen(sources, layout, args.only):
        split, labeled = read_source(source, layout, args.style, args.partition)
        if args.only and not {split.name, source.folder, source.own_name} & set(args.only):
            continue  # a folder whose other partition is wanted
        _, _, other = splits.setdefault(split.name, (split, labeled, source))
        if other is not source and splits[split.name][0].hash != split.hash:
            raise DataError(
                f'{other.path} and {source.path} are both the split {split.name}, but they hold '
                'different images. Import one of the folders alone.'
            )
    if not splits:
        raise DataError(
            f'--only {" ".join(args.only)}: no folder holds such a split, name another one'
        )
    return splits


# ----------------------------------------------------------------------------------------- the tool
def listed_validation(source: Source, top: Path, layout: BenchmarkLayout) -> list[str]:
    """Validation images that a val.txt beside a split names, none without one."""
    if not layout.names_are_unique:
        return []
    last = top.parent if source.path == top else top
    for folder in source.path.parents:
        path = folder / 'val.txt'
        if path.is_file():
            return list(read_names(path, layout, layout.val_img_dir).names)
        if folder == last:
            break
    return []


def import_splits(
    layout: BenchmarkLayout, args: argparse.Namespace
) -> tuple[list[Split], Mapping[str, str]]:
    """Read, verify and write."""
    root, top = Path(args.data_root or layout.default_root()), Path(os.path.abspath(args.source))
    splits = read_splits(find_sources(top), layout, args)
    files = None if args.skip_files else find_data(layout, root)
    unknown = []
    for split, labeled, source in splits.values():
        held = listed_validation(source, top, layout) if args.skip_files else []
        verify_split(split, layout, labeled, files, held)
        if args.skip_files and not held and layout.names_are_unique:
            unknown.append(split.name)
    if unknown:
        print(f'no val.txt beside {", ".join(unknown)}: validation images were not looked for')
    ordered = [split for split, _, _ in splits.values()]
    ordered.sort(key=lambda split: (len(split.labeled.names), split.name))
    return ordered, write_splits(ordered, root / layout.split_dir, args.overwrite)


def main(args: Sequence[str] | None = None) -> None:
    """Import."""
    parsed = parse_args(args)
    with exiting(DataError, OSError):
        splits, states = import_splits(BENCHMARK_LAYOUTS[parsed.dataset], parsed)
    print('\n'.join(summary_lines(splits, states)))
