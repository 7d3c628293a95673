"""The files of a folder of predictions, and the list of those that are finished."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from mmseg_semi.datasets.file_digests import whole_digest
from mmseg_semi.datasets.image_arrays import load_image
from mmseg_semi.errors import DataError, name_some
from mmseg_semi.files import PART_SUFFIX, write_file

LISTED = 'predictions.jsonl'
_GEO_TAGS = (33550, 33922, 34264, 34735)  # scale, tie points, transformation, keys


@dataclass
class Entry:
    """A prediction: a line of the list.

    Attributes:
        image: Its image.
        digest: Of the image, see :func:`image_digest`.
        files: Digests of its files by their paths in the folder.
        scores: Numbers that images are ranked by, where they were asked for.
    """

    image: str
    digest: str
    files: dict[str, str] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)


def image_digest(path: str) -> str:
    """Of the whole image, which may be drawn into without another size."""
    return whole_digest(path).hex()[:32]


class Predictions:
    """A folder of predictions, which a later run goes on with.

    ``predictions.jsonl`` has the settings in its first line, then a line for each image. A line is
    written before the files get their names, so that those of a run that was killed are known.

    Args:
        folder: Made if it is not there.
        settings: All that the predictions depend on.

    Raises:
        DataError: The folder has those of other settings, or a list that cannot be read.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.list = folder, folder / LISTED
        self.settings = settings
        self.entries: dict[str, Entry] = {}
        self._known: dict[str, set[str]] = {}
        lines = self.list.read_bytes().split(b'\n') if self.list.exists() else []
        if len(lines) < 2:  # also one that was killed in its first line
            return
        try:
            found = json.loads(lines[0])
            for line in lines[1:-1]:  # what follows the last line end is empty, or cut short
                self._add(Entry(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise DataError(f'{self.list} is broken ({error}): name another --out') from error
        if lines[-1]:
            write_file(self.list, b'\n'.join(lines[:-1]) + b'\n')
        other = [key for key in settings if found.get(key) != settings[key]]
        if other:
            told = [f'{key} was {found.get(key)}, is {settings[key]}' for key in other]
            raise DataError(
                f'{folder} has predictions that were made otherwise ({"; ".join(told)}): name '
                'another --out'
            )

    def _add(self, entry: Entry) -> None:
        for name, digest in entry.files.items():
            self.entries[name] = entry
            self._known.setdefault(name, set()).add(digest)

    def claim(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Refuse to replace files of others, and predictions of other images; else begin the list.

        Args:
            wanted: Files that may be written, by image.

        Raises:
            DataError: Some are there already.
        """
        foreign, taken = [], []
        for image, names in wanted.items():
            for name in names:
                path = self.folder / name
                if not os.path.lexists(path):
                    continue
                entry = self.entries.get(name)
                if not path.is_file() or entry is None or not self.is_own(name):
                    foreign.append(name)
                elif not _same(entry.image, image):
                    taken.append(f'{name} of {entry.image}')
        if foreign:
            raise DataError(
                f'{self.folder} has files that were not written by this command, or were changed '
                f'since: {name_some(foreign)}. Move them away, or name another --out.'
            )
        if taken:
            raise DataError(
                f'{self.folder} has predictions of other images of the same names: '
                f'{name_some(taken)}. Name another --out.'
            )
        if not self.entries:
            write_file(self.list, json.dumps(self.settings) + '\n')

    def write_once(self, name: str, content: str | bytes) -> None:
        """Write a file of the whole folder, which another run would write alike.

        Raises:
            DataError: There is another one.
        """
        path = self.folder / name
        data = content.encode() if isinstance(content, str) else content
        if not path.exists():
            write_file(path, data)
        elif path.read_bytes() != data:
            raise DataError(
                f'{path} was not written by this command, or was changed since. Move it away, or '
                'name another --out.'
            )

    def others(self, images: Collection[str]) -> dict[str, str]:
        """Label maps of earlier runs: paths in the folder by their images.

        Args:
            images: Those that are left out.
        """
        entries = self.entries.items()
        known = {entry.image: name for name, entry in entries if name.startswith('labels/')}
        given = {os.path.realpath(image) for image in images}
        return {
            image: name
            for image, name in known.items()
            if os.path.realpath(image) not in given and (self.folder / name).is_file()
        }

    def is_own(self, name: str) -> bool:
        """Whether a file is as it was written."""
        path = self.folder / name
        known = self._known.get(name, set())
        return path.is_file() and whole_digest(str(path)).hex()[:32] in known

    def finished(self, image: str, names: Sequence[str], scored: bool) -> bool:
        """Whether an image needs no other look: its files are those of its last line."""
        entry = self.entries.get(names[0]) if names else None
        if entry is None or scored and not entry.scores or not os.path.isfile(image):
            return False
        there = all(
            (self.folder / name).is_file()
            and whole_digest(str(self.folder / name)).hex()[:32] == entry.files.get(name)
            for name in names
        )
        return there and entry.digest == image_digest(image)

    @contextmanager
    def writing(self, image: str, names: Sequence[str]) -> Iterator[tuple[list[Path], Entry]]:
        """Write the files of an image: gives the paths to write to, and the entry for its scores.

        The files get their names, and the entry its line, when the block has ended.
        """
        targets = [self.folder / name for name in names]
        parts = [Path(f'{path}{PART_SUFFIX}') for path in targets]
        entry = Entry(image, image_digest(image))
        try:
            for part in parts:
                part.parent.mkdir(parents=True, exist_ok=True)
            yield parts, entry
            for name, part in zip(names, parts):
                entry.files[name] = whole_digest(str(part)).hex()[:32]
            before = self.entries.get(names[0])
            if before is not None and before.digest == entry.digest:  # what earlier runs have made
                entry.files = {**before.files, **entry.files}
                entry.scores = entry.scores or before.scores
            with open(self.list, 'a', encoding='utf-8') as file:
                file.write(json.dumps(asdict(entry)) + '\n')
                file.flush()
                os.fsync(file.fileno())
            for part, path in zip(parts, targets):
                os.replace(part, path)
            self._add(entry)
        finally:
            for part in parts:
                part.unlink(missing_ok=True)


def _same(first: str, second: str) -> bool:
    """Whether two paths may be one image: one that is gone has been moved."""
    return os.path.realpath(first) == os.path.realpath(second) or not os.path.exists(first)


# ------------------------------------------------------------------------------------- label maps
def has_georeference(image: str) -> bool:
    """Whether an image is a TIFF file with a place on the Earth."""
    if not image.lower().endswith(('.tif', '.tiff')):
        return False
    try:
        with tifffile.TiffFile(image) as file:
            page: Any = file.pages[0]
            return any(tag in page.tags for tag in _GEO_TAGS)
    except Exception:  # broken in whatever way, as will be said when it is read
        return False


def write_labels(path: Path, labels: np.ndarray, table: np.ndarray) -> None:
    """Write class numbers (H, W) as a PNG.

    Args:
        path: The file, whatever its name ends in.
        labels: Up to 255 with a palette, in 8 bits, else in 16.
        table: uint8 RGB (256, 3), the palette.
    """
    if labels.dtype == np.uint8:
        image = Image.fromarray(labels).convert('P')
        image.putpalette(table.tobytes())
    else:
        image = Image.fromarray(labels)
    image.save(path, 'PNG')


def write_geotiff(path: Path, labels: np.ndarray, table: np.ndarray, image: str) -> None:
    """Write class numbers (H, W) as a GeoTIFF file, at the place that an image has."""
    import rasterio

    with rasterio.open(image) as source:
        profile = dict(crs=source.crs, transform=source.transform)
        points, points_crs = source.gcps
    height, width = labels.shape
    size = dict(height=height, width=width, count=1, dtype=labels.dtype.name)
    with rasterio.open(path, 'w', driver='GTiff', compress='deflate', **size, **profile) as file:
        if points:
            file.gcps = (points, points_crs)
        file.write(labels, 1)
        if labels.dtype == np.uint8:
            file.write_colormap(1, {number: tuple(map(int, c)) for number, c in enumerate(table)})


def read_labels(path: Path) -> np.ndarray:
    """Class numbers (H, W) of a file that was written here."""
    if path.suffix == '.tif':
        return load_image(str(path), 1)[..., 0].astype(np.int64)
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # of what others have made
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    finally:
        Image.MAX_IMAGE_PIXELS = limit
