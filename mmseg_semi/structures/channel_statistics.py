"""What the channels of a data set's images hold, in a file that config and check share."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import NamedTuple

from mmseg_semi.errors import DataError
from mmseg_semi.files import read_json, write_file

REMEDY = 'run: mmseg-semi check CONFIG, which writes it'


class ChannelStatistics(NamedTuple):
    """What the channels of images hold, in the order of the files (RGB of photographs).

    Attributes:
        in_channels: C.
        dtype: Type of the numbers in the files, such as ``'uint16'``.
        mean: Of each channel, over all pixels of all images.
        std: Likewise, at least a small part of the range.
        min: The smallest value of each channel.
        max: The largest value of each channel.
        images: How many images were read.
        files: Digest of the paths of all labeled images.
    """

    in_channels: int
    dtype: str
    mean: list[float]
    std: list[float]
    min: list[float]
    max: list[float]
    images: int
    files: str


def write_statistics(path: str, found: ChannelStatistics) -> None:
    """Write the file that the config reads."""
    write_file(Path(path), json.dumps(found._asdict(), indent=1) + '\n')


def read_statistics(path: str, channels: int, key: str = 'statistics') -> ChannelStatistics | None:
    """Read the file; None where there is none.

    Args:
        path: The file.
        channels: ``in_channels`` of the config.
        key: Config key, for messages.

    Raises:
        DataError: It is no such file, or of another number of channels.
    """
    if not os.path.exists(path):
        return None
    remedy = 'Remove it and run: mmseg-semi check CONFIG'
    content = read_json(Path(path), remedy, error=DataError)
    try:
        found = ChannelStatistics(**content)
        columns = [found.mean, found.std, found.min, found.max]
        right = all(
            len(one) == found.in_channels and all(map(math.isfinite, one)) for one in columns
        )
        right = right and min(found.std) > 0
    except (TypeError, ValueError):
        right = False
    if not right:
        raise DataError(f'{key}: {path} is no file of channel statistics. {remedy}')
    if found.in_channels != channels:
        raise DataError(
            f'{key}: {path} is of images of {found.in_channels} channels, but in_channels is '
            f'{channels}: correct in_channels, or remove the file and {REMEDY}'
        )
    return found
