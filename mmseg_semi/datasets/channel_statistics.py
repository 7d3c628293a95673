"""Mean, standard deviation and range of each channel of the labeled images, computed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from mmseg_semi.errors import DataError, name_some
from mmseg_semi.structures import ChannelStatistics

from .file_records import ChannelRecord, look_at
from .image_arrays import stored_image

MOST_IMAGES = 10_000  # that are read, evenly over the list


def compute_statistics(
    paths: Sequence[str], channels: int, file: str = '', skip: bool = False
) -> ChannelStatistics:
    """Read images and compute what their channels hold.

    Of more than ``MOST_IMAGES`` as many are read, evenly over the list. What was read once is
    remembered by path, size and time.

    Args:
        paths: Images, one at least, each once.
        channels: C, the number that each must have.
        file: Where they are going to be written: the digest's paths are relative to its folder.
        skip: Whether images that cannot be read are left out.

    Raises:
        DataError: An image cannot be read, or they have several types of numbers.
    """
    records = channel_records(paths, channels)
    broken = [record.reason for record in records.values() if record.reason]
    sound = {path: record for path, record in records.items() if not record.reason}
    if broken and not (skip and sound):
        reason = f'{len(broken)} of {len(records)} labeled images cannot be used: {broken[0]}'
        raise DataError(reason)
    kinds: dict[str, list[str]] = {}
    for path, record in sound.items():
        kinds.setdefault(record.dtype, []).append(path)
    if len(kinds) > 1:
        several = [f'{len(some)} of {kind} ({some[0]})' for kind, some in kinds.items()]
        raise DataError(
            f'the labeled images have several types of numbers: {name_some(several)}. One mean '
            'does not fit them all: save them as one type.'
        )
    return _joined(list(sound.values()), channels, digest_of(paths, file))


def channel_records(paths: Sequence[str], channels: int) -> dict[str, ChannelRecord]:
    """What the channels of images hold, by path; ``MOST_IMAGES`` at most, evenly over the list.

    Args:
        paths: Images, each once.
        channels: The number that each must have; one of another number has a ``reason``.
    """
    chosen = list(paths[:: -(-len(paths) // MOST_IMAGES)]) if paths else []
    found = [*look_at(chosen, _reader(channels), ChannelRecord, 'images, for their channels')]
    return dict(zip(chosen, found))


def _joined(records: Sequence[ChannelRecord], channels: int, files: str) -> ChannelStatistics:
    weights = np.array([record.pixels for record in records], np.float64)
    weights /= weights.sum()
    moments = np.array([record.moments for record in records], np.float64)  # (N, C, 2)
    limits = np.array([record.limits for record in records], np.float64)
    mean = weights @ moments[..., 0]
    variance = weights @ (moments[..., 1] + (moments[..., 0] - mean) ** 2)
    low, high = limits[..., 0].min(axis=0), limits[..., 1].max(axis=0)
    # A channel that is the same everywhere must not be divided by nothing.
    std = np.where(variance > 0, np.sqrt(variance), 1.0)
    return ChannelStatistics(
        in_channels=channels,
        dtype=records[0].dtype,
        mean=mean.tolist(),
        std=std.tolist(),
        min=low.tolist(),
        max=high.tolist(),
        images=len(records),
        files=files,
    )


@lru_cache(maxsize=8)
def _reader(channels: int) -> Any:
    """A function that reads images of so many channels; its name is that of its cache."""

    def read(path: str) -> ChannelRecord:
        try:
            image = stored_image(path, channels)
        except DataError as error:
            return ChannelRecord(str(error))
        image = image[..., ::-1] if channels == 3 else image
        values = image.reshape(-1, channels)
        numbers = values.astype(np.float64)
        if not np.isfinite(numbers).all():
            return ChannelRecord(f'{path} has values that are NaN or infinite: replace them')
        moments = np.stack([numbers.mean(axis=0), numbers.var(axis=0)], axis=-1)
        limits = np.stack([numbers.min(axis=0), numbers.max(axis=0)], axis=-1)
        return ChannelRecord(None, str(image.dtype), len(values), moments.tolist(), limits.tolist())

    read.__name__ = f'read_{channels}_channels'
    return read


def digest_of(paths: Sequence[str], file: str = '') -> str:
    """Digest of a list of paths, in any order, relative to the folder of a file."""
    folder = os.path.dirname(file) or '.'
    names = sorted(os.path.relpath(path, folder) for path in paths)
    return hashlib.blake2b('\n'.join(names).encode('utf-8', 'surrogateescape')).hexdigest()[:32]
