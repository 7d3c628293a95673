"""What files hold, looked at once: records are kept between runs by path, size and time."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from mmengine.logging import print_log
from PIL import Image

from mmseg_semi.files import write_file

from .image_arrays import tiff_size
from .image_files import (
    NUMPY_START,
    SIDEWAYS,
    bit_depth,
    orientation_of,
    stored_size,
    unreadable_reason,
)

_FORMAT = 2  # of the records; those of another one are not read
_CHUNK, _MOST_VALUES, _MOST_RECORDS = 256, 1000, 1_000_000
_SHARED = 1000  # records that were decoded last: many are equal
_SAY_AFTER = 20.0  # seconds between two lines of progress


class ImageRecord(NamedTuple):
    """What the header of an image says.

    Attributes:
        reason: Why it cannot be read, None for a sound one.
        width: In pixels as OpenCV loads it, turned by EXIF; 0 where the header was not understood.
        height: Likewise.
        orientation: Of EXIF, 1 to 8; 1 is upright.
        mode: Channels as Pillow names them, such as ``'RGB'``; '' where they are not known.
        bits: Of a channel.
    """

    reason: str | None
    width: int = 0
    height: int = 0
    orientation: int = 1
    mode: str = ''
    bits: int = 8


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
        lossy: Name of a format that changes values when it is written, '' for others.
        palette: Each value with its color, 0xRRGGBB; none without a palette.
    """

    reason: str | None
    width: int = 0
    height: int = 0
    channels: int = 1
    pages: int = 1
    values: Sequence[Any] = ()
    lossy: str = ''
    palette: Sequence[Any] = ()


class ChannelRecord(NamedTuple):
    """What the channels of an image hold.

    Attributes:
        reason: Why it cannot be read, None for a sound one.
        dtype: Type of its numbers in the file.
        pixels: How many it has.
        moments: Mean and variance of each channel, in the order of the file.
        limits: The smallest and the largest value of each channel, likewise.
    """

    reason: str | None
    dtype: str = ''
    pixels: int = 0
    moments: Sequence[Any] = ()
    limits: Sequence[Any] = ()


class LookRecord(NamedTuple):
    """How an image looks, see ``read_look``.

    Attributes:
        reason: Why it cannot be read, None for a sound one.
        hash: 64 bits in hexadecimal digits, '' for an image of nearly one color.
    """

    reason: str | None
    hash: str = ''


class ObjectRecord(NamedTuple):
    """Sizes of the objects of a mask, see ``read_objects``.

    Attributes:
        reason: Why it cannot be read, None for a sound one.
        objects: Value and size of objects, packed into a number, and how many there are.
    """

    reason: str | None
    objects: Sequence[Any] = ()


Record = TypeVar('Record', ImageRecord, MaskRecord, LookRecord, ChannelRecord, ObjectRecord)


_SOUND = ImageRecord(None)


def read_image(path: str) -> ImageRecord:
    """Look at the header and the end of an image."""
    reason = unreadable_reason(path)
    if reason:
        return ImageRecord(reason)
    if has_start(path, NUMPY_START):
        with open(path, 'rb') as file:
            return ImageRecord(None, *(stored_size(file) or (0, 0)))
    try:
        with Image.open(path) as image:
            orientation, size = orientation_of(image), image.size
            if image.format == 'TIFF' and getattr(image, 'n_frames', 1) > 1:
                return ImageRecord(None, *(tiff_size(path) or (0, 0)), orientation)
            if orientation >= SIDEWAYS and image.format != 'TIFF':  # PIL turns those itself
                size = size[::-1]
            bits = bit_depth(path) or (32 if image.mode in ('I', 'F') else 8)
            return ImageRecord(None, *size, orientation, image.mode, bits)
    except Exception:  # OpenCV and tifffile read files that PIL does not know
        return ImageRecord(None, *(tiff_size(path) or (0, 0)))


def has_start(path: str, start: bytes) -> bool:
    """Whether a file begins with these bytes."""
    with open(path, 'rb') as file:
        return file.read(len(start)) == start


def read_ending(path: str) -> ImageRecord:
    """Look whether an image is whole, which costs less than :func:`read_image`."""
    reason = unreadable_reason(path)
    return ImageRecord(reason) if reason else _SOUND


def read_mask(path: str) -> MaskRecord:
    """Decode a mask and count its values."""
    reason = unreadable_reason(path)
    if reason:
        return MaskRecord(reason)
    try:
        with Image.open(path) as image:
            pages, lossy = getattr(image, 'n_frames', 1), _lossy_format(image, path)
            if image.mode in ('L', 'P') and pages == 1:
                counts = enumerate(image.histogram())
                pairs = [[value, count] for value, count in counts if count]
                colors = _colors(image, [value for value, _ in pairs])
                return MaskRecord(None, *image.size, values=pairs, lossy=lossy, palette=colors)
            mask = np.asarray(image)
    except Exception as error:  # every decoder has errors of its own
        return MaskRecord(f'{type(error).__name__}: {error}')
    channels = 1 if mask.ndim == 2 else mask.shape[2]
    values: Sequence[Any] = _count_values(mask) if channels == 1 else ()
    return MaskRecord(None, mask.shape[1], mask.shape[0], channels, pages, values, lossy)


def _lossy_format(image: Image.Image, path: str) -> str:
    """The format of an image if it is a lossy one, by its content, else ''."""
    if image.format in ('JPEG', 'MPO', 'AVIF'):
        return image.format
    if image.format == 'TIFF' and 'jpeg' in str(image.info.get('compression')):
        return 'TIFF with JPEG compression'
    if image.format == 'WEBP':
        with open(path, 'rb') as file:
            return '' if b'VP8L' in file.read(64) else 'lossy WebP'
    return ''


def _colors(image: Image.Image, values: Sequence[int]) -> list[list[int]]:
    """The colors of values in the palette of an image, if it has one."""
    colors = (image.getpalette('RGB') or []) if image.mode == 'P' else []
    return [
        [value, int.from_bytes(bytes(colors[3 * value : 3 * value + 3]), 'big')]
        for value in values
        if 3 * value + 3 <= len(colors)
    ]


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
) -> Iterator[Record]:
    """Read the record of every file, those that are known already from the cache.

    The cache is a file of the user's cache folder (``XDG_CACHE_HOME`` or ``~/.cache``) for each
    folder of files. A cache that cannot be read or written costs time, and nothing else. Records
    with a ``reason`` are not kept. They come one by one, since those of very many files take much
    memory; the cache is written at the end.

    Args:
        paths: The files.
        read: Makes a record.
        kind: Its type, a named tuple.
        what: The files' name in lines of progress.
    """
    if not paths:
        return
    store = _store(paths, read)
    known = _Known.load(store)
    keys = np.fromiter(map(file_key, paths), np.uint64, len(paths))
    places = known.find(keys).tolist()
    decoded = functools.lru_cache(_SHARED)(functools.partial(_record, kind=kind))
    places = [p if p >= 0 and decoded(known.text_of(p)) else -1 for p in places]
    fresh = _read_all([path for path, place in zip(paths, places) if place < 0], read, what)
    once: dict[bytes, bytes] = {}  # equal texts, of which there are many, take no room
    new, texts = [], []
    try:
        for place, key in zip(places, keys.tolist()):
            if place >= 0:
                yield decoded(known.text_of(place))
                continue
            record = next(fresh)
            text = json.dumps(record[1:])
            if key and record.reason is None:
                data = text.encode()
                new.append(key)
                texts.append(once.setdefault(data, data))
            yield record
    finally:
        if new:
            known.add(np.array(new, np.uint64), texts).save(store)
        release_memory()


def release_memory() -> None:
    """Give what was freed back to the system, which glibc keeps else."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _read_all(paths: list[str], read: Callable[[str], Record], what: str) -> Iterator[Record]:
    chunks = [paths[i : i + _CHUNK] for i in range(0, len(paths), _CHUNK)]
    said = begun = time.monotonic()
    done = 0
    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
        for records in pool.map(lambda chunk: [read(path) for path in chunk], chunks):
            done += len(records)
            if time.monotonic() - said > _SAY_AFTER:
                said = time.monotonic()
                left = (said - begun) * (len(paths) / done - 1)
                text = f'Looking at files: {done} of {len(paths)} {what}, {left:.0f} s left'
                print_log(text, logger='current')
            yield from records


def file_key(path: str) -> int:
    """Name a file by path, size and time; 0 for one that is not there."""
    try:
        stat = os.stat(path)
    except OSError:
        return 0
    text = f'{os.path.abspath(path)}\0{stat.st_size}\0{stat.st_mtime_ns}'
    digest = hashlib.blake2b(os.fsencode(text), digest_size=8).digest()
    return int.from_bytes(digest, 'little') or 1


def _store(paths: Sequence[str], read: Callable[[str], Any]) -> Path:
    folder = os.path.commonpath({os.path.abspath(os.path.dirname(path)) for path in paths})
    name = hashlib.blake2b(os.fsencode(folder), digest_size=10).hexdigest()
    return cache_folder() / f'{read.__name__}-{name}.npz'


def cache_folder() -> Path:
    """Where the records are kept."""
    base = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    return Path(base) / 'mmseg_semi'


class _Known(NamedTuple):
    """Records by the keys of their files, in arrays: very many of them take little memory.

    Attributes:
        keys: uint64 (N,), ascending.
        ends: int64 (N,), where the text of each record ends.
        text: uint8, each record but for its ``reason`` in JSON.
    """

    keys: np.ndarray
    ends: np.ndarray
    text: np.ndarray

    @classmethod
    def load(cls, store: Path) -> _Known:
        """Read a file of records, none where it is not there or broken."""
        try:
            with np.load(store, allow_pickle=False) as content:
                found = cls(*(content[f'{name}_{_FORMAT}'] for name in cls._fields))
            kinds = [(one.dtype, one.ndim) for one in found]
            if kinds == [(np.uint64, 1), (np.int64, 1), (np.uint8, 1)] and found._agrees():
                return found
        except Exception:  # whatever zipfile and numpy say of broken files
            pass
        return cls(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.uint8))

    def _agrees(self) -> bool:
        ends = np.concatenate([[0], self.ends])
        ascending = bool((np.diff(ends) > 0).all() and (self.keys[1:] > self.keys[:-1]).all())
        return ascending and len(self.keys) == len(self.ends) and ends[-1] == len(self.text)

    def text_of(self, place: int) -> str:
        """A record as it was saved."""
        start = self.ends[place - 1] if place else 0
        return self.text[start : self.ends[place]].tobytes().decode('ascii')

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Where the records of files are, -1 for those that are not known."""
        if not len(self.keys):
            return np.full(len(keys), -1)
        places = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return np.where(self.keys[places] == keys, places, -1)

    def add(self, keys: np.ndarray, texts: list[bytes]) -> _Known:
        """These records and others, which come in place of those of the same keys."""
        if len(self.keys) < _MOST_RECORDS:
            fresh = set(keys.tolist())
            old = [i for i, key in enumerate(self.keys.tolist()) if key not in fresh]
            keys = np.concatenate([keys, self.keys[old]])
            texts = texts + [self.text_of(i).encode() for i in old]
        keys, first = np.unique(keys, return_index=True)
        data = [texts[i] for i in first]
        ends = np.cumsum([len(one) for one in data], dtype=np.int64)
        return _Known(keys, ends, np.frombuffer(b''.join(data), np.uint8))

    def save(self, store: Path) -> None:
        """Write the file, if the folder lets one."""
        content = io.BytesIO()
        arrays: Any = {f'{name}_{_FORMAT}': one for name, one in zip(self._fields, self)}
        np.savez(content, **arrays)
        try:
            store.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_file(store, content.getvalue())
        except OSError:  # a full or read-only home folder
            pass


def _record(text: str, kind: type[Any]) -> Any:
    """A record as it was saved, None for anything else."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    names = kind._fields[1:]
    if not isinstance(values, list) or len(values) != len(names):
        return None
    if not all(_alike(one, kind._field_defaults[name]) for one, name in zip(values, names)):
        return None
    return kind(None, *values)


def _alike(value: Any, default: Any) -> bool:
    if default == ():
        return isinstance(value, list) and all(isinstance(v, list) and len(v) == 2 for v in value)
    return type(value) is type(default)
