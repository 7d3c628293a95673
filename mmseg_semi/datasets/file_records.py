"""What files hold, looked at once: records are kept between runs by path, size and time."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from mmengine.logging import print_log
from PIL import Image

from mmseg_semi.files import write_file

from .image_files import SIDEWAYS, orientation_of, unreadable_reason

_FORMAT = 1  # of the records; a file of another format is not read
_CHUNK, _MOST_VALUES, _MOST_RECORDS = 256, 1000, 1_000_000
_SAY_AFTER = 20.0  # seconds between two lines of progress


class ImageRecord(NamedTuple):
    """What the header of an image says.

    Attributes:
        reason: Why it cannot be read, None for a sound one.
        width: In pixels as OpenCV loads it, turned by EXIF; 0 where the header was not understood.
        height: Likewise.
        orientation: Of EXIF, 1 to 8; 1 is upright.
    """

    reason: str | None
    width: int = 0
    height: int = 0
    orientation: int = 1


class MaskRecord(NamedTuple):
    """What a mask holds, decoded whole and as it is stored.

    Attributes:
        reason: Why it cannot be read, None for a sound one.
        width: In pixels.
        height: In pixels.
        channels: 1 for class numbers.
        pages: Images in the file.
        values: Each value with its number of pixels, the smallest values of very many; none for
            several channels.
    """

    reason: str | None
    width: int = 0
    height: int = 0
    channels: int = 1
    pages: int = 1
    values: Sequence[Any] = ()


class ThumbnailRecord(NamedTuple):
    """A small picture of an image.

    Attributes:
        reason: Why it cannot be read, None for a sound one.
        pixels: 12 x 12 gray pixels of 8 bits, in hexadecimal digits.
    """

    reason: str | None
    pixels: str = ''


Record = TypeVar('Record', ImageRecord, MaskRecord, ThumbnailRecord)


def read_image(path: str) -> ImageRecord:
    """Look at the header and the end of an image."""
    reason = unreadable_reason(path)
    if reason:
        return ImageRecord(reason)
    try:
        with Image.open(path) as image:
            orientation, size = orientation_of(image), image.size
            if orientation >= SIDEWAYS and image.format != 'TIFF':  # PIL turns those itself
                size = size[::-1]
            return ImageRecord(None, *size, orientation)
    except Exception:  # OpenCV reads files that PIL does not know
        return ImageRecord(None)


def read_ending(path: str) -> ImageRecord:
    """Look whether an image is whole, which costs less than :func:`read_image`."""
    return ImageRecord(unreadable_reason(path))


def read_mask(path: str) -> MaskRecord:
    """Decode a mask and count its values."""
    reason = unreadable_reason(path)
    if reason:
        return MaskRecord(reason)
    try:
        with Image.open(path) as image:
            pages = getattr(image, 'n_frames', 1)
            if image.mode in ('L', 'P') and pages == 1:
                counts = enumerate(image.histogram())
                pairs = [[value, count] for value, count in counts if count]
                return MaskRecord(None, *image.size, values=pairs)
            mask = np.asarray(image)
    except Exception as error:  # every decoder has errors of its own
        return MaskRecord(f'{type(error).__name__}: {error}')
    channels = 1 if mask.ndim == 2 else mask.shape[2]
    values: Sequence[Any] = _count_values(mask) if channels == 1 else ()
    return MaskRecord(None, mask.shape[1], mask.shape[0], channels, pages, values)


def _count_values(mask: np.ndarray) -> list[Any]:
    if mask.dtype in (np.bool_, np.uint8, np.uint16):
        counts = np.bincount(mask.ravel())
        values: Any = np.flatnonzero(counts)
        counts = counts[values]
    else:
        values, counts = np.unique(mask, return_counts=True)
    pairs = zip(values[:_MOST_VALUES].tolist(), counts.tolist())
    return [[value, count] for value, count in pairs]


def look_at(
    paths: Sequence[str], read: Callable[[str], Record], kind: type[Record], what: str
) -> list[Record]:
    """Read the record of every file, those that are known already from the cache.

    The cache is a file of the user's cache folder (``XDG_CACHE_HOME`` or ``~/.cache``) for each
    folder of files. A cache that cannot be read or written costs time, and nothing else. Records
    with a ``reason`` are not kept.

    Args:
        paths: The files.
        read: Makes a record.
        kind: Its type, a named tuple.
        what: The files' name in lines of progress.
    """
    if not paths:
        return []
    store = _store(paths, read)
    known = _load(store)
    keys = [_key(path) for path in paths]
    records: list[Any] = [_known(known.get(key), kind) for key in keys]
    missing = [i for i, record in enumerate(records) if record is None]
    for i, record in zip(missing, _read_all([paths[i] for i in missing], read, what)):
        records[i] = record
    new = {keys[i]: records[i] for i in missing if keys[i] and records[i].reason is None}
    if new:
        _save(store, {**known, **new} if len(known) < _MOST_RECORDS else new)
    return records


def _read_all(paths: list[str], read: Callable[[str], Record], what: str) -> list[Record]:
    chunks = [paths[i : i + _CHUNK] for i in range(0, len(paths), _CHUNK)]
    said, found = time.monotonic(), []
    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
        for records in pool.map(lambda chunk: [read(path) for path in chunk], chunks):
            found += records
            if time.monotonic() - said > _SAY_AFTER:
                said = time.monotonic()
                print_log(
                    f'Looking at files: {len(found)} of {len(paths)} {what}', logger='current'
                )
    return found


def _key(path: str) -> str:
    """Name a file by path, size and time; '' for one that is not there."""
    try:
        stat = os.stat(path)
    except OSError:
        return ''
    text = f'{os.path.abspath(path)}\0{stat.st_size}\0{stat.st_mtime_ns}'
    return hashlib.blake2b(os.fsencode(text), digest_size=10).hexdigest()


def _store(paths: Sequence[str], read: Callable[[str], Any]) -> Path:
    folder = os.path.abspath(os.path.commonpath([os.path.dirname(path) for path in paths]))
    name = hashlib.blake2b(os.fsencode(folder), digest_size=10).hexdigest()
    return cache_folder() / f'{read.__name__}-{name}.json'


def cache_folder() -> Path:
    """Where the records are kept."""
    base = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    return Path(base) / 'mmseg_semi'


def _load(store: Path) -> dict[str, Any]:
    try:
        content = json.loads(store.read_bytes())
        if content['format'] == _FORMAT and isinstance(content['records'], dict):
            return content['records']
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return {}


def _known(value: Any, kind: type[Any]) -> Any:
    """A record as it was saved, None for anything else."""
    fields = kind._fields
    if not isinstance(value, list) or len(value) != len(fields) or value[0] is not None:
        return None
    defaults = (kind._field_defaults.get(name) for name in fields[1:])
    if any(not _alike(one, default) for one, default in zip(value[1:], defaults)):
        return None
    return kind(*value)


def _alike(value: Any, default: Any) -> bool:
    if default == ():
        return isinstance(value, list) and all(isinstance(v, list) and len(v) == 2 for v in value)
    return type(value) is type(default)


def _save(store: Path, records: dict[str, Any]) -> None:
    try:
        store.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(store, json.dumps(dict(format=_FORMAT, records=records)))
    except OSError:  # a full or read-only home folder
        pass
