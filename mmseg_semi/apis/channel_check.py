"""The file of channel statistics that a config reads, written by ``mmseg-semi check``."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.config import Config

from mmseg_semi.datasets.channel_statistics import (
    channel_records,
    compute_statistics,
    digest_of,
)
from mmseg_semi.datasets.checks import local_paths
from mmseg_semi.datasets.findings import Finding, Findings
from mmseg_semi.datasets.image_arrays import stored_image
from mmseg_semi.datasets.image_files import bit_depth
from mmseg_semi.datasets.part_checks import Part
from mmseg_semi.errors import DataError, name_some
from mmseg_semi.structures import read_statistics, write_statistics
from mmseg_semi.utils.channel_settings import preprocessor_of

_LOOKED_AT = 64
_KIND = 18  # of the findings


def bring_statistics(cfg: Config, parts: Sequence[Part], heldout: Sequence[Part]) -> Findings:
    """Write ``statistics`` of the data preprocessor, unless it is there or not needed.

    Images of validation and test must be of the same kind.

    They are those of the labeled images, which are the same for a semi-supervised config and that
    of the labels alone. 8-bit RGB images need none: ``mean`` and ``std`` of the config hold. A file
    that is there stays as it is, since networks have been trained with it.

    Args:
        cfg: The config.
        parts: The labeled and the unlabeled part.
        heldout: Those of validation and test.
    """
    out = Findings()
    key, preprocessor = preprocessor_of(cfg)
    path, channels = preprocessor.get('statistics'), preprocessor.get('in_channels', 3)
    images = local_paths([part.dataset for part in parts[:1]], 'img_path')
    if not path or not images:
        return out
    every = local_paths([part.dataset for part in parts], 'img_path')
    try:
        found = read_statistics(path, channels, f'{key}.statistics')
        if found is None and channels == 3 and _are_photographs(every):
            return out
        if found is None:
            found = compute_statistics(images, channels, path, parts[0].skip)
            write_statistics(path, found)
            print(
                f'{path}: mean and standard deviation of {channels} channels ({found.dtype}) of '
                f'{found.images} labeled images'
            )
        elif found.files != digest_of(images, path):
            fact = f'{key}.statistics: {path} was computed of other labeled images.'
            remedy = (
                'Networks that were trained with it need it as it is; before a first training, '
                'remove it and run this again.'
            )
            out.warnings.append(Finding(_KIND, fact, remedy, [path]))
    except DataError as error:
        out.errors.append(Finding(_KIND, str(error)))
        return out
    for part in [*parts, *heldout]:
        _check_kinds(part, channels, found.dtype, path, out)
    return out


def _check_kinds(part: Part, channels: int, dtype: str, path: str, out: Findings) -> None:
    records = channel_records(local_paths([part.dataset], 'img_path'), channels)
    broken = {name: one.reason for name, one in records.items() if one.reason}
    if broken and not part.skip:
        first = next(iter(broken.values()))
        fact = f'{part.key}: {len(broken)} of {len(records)} images cannot be used: {first}'
        out.errors.append(Finding(_KIND, fact, files=broken))
    other = {name: one.dtype for name, one in records.items() if one.dtype not in ('', dtype)}
    if other:
        names = name_some([f'{name} ({kind})' for name, kind in other.items()])
        fact = (
            f'{part.key}: {len(other)} of {len(records)} images have another type of numbers than '
            f'the {dtype} of {path}: {names}.'
        )
        remedy = 'Save all images as one type, or remove the file and run this again.'
        out.errors.append(Finding(_KIND, fact, remedy, other))


def _are_photographs(images: Sequence[str]) -> bool:
    """Whether images seem to have 8 bits: the first one as it is decoded, some by their header."""
    some = images[:: max(1, len(images) // _LOOKED_AT)]
    if any((bit_depth(path) or 8) > 8 for path in some):
        return False
    return stored_image(images[0], 3).dtype == 'uint8'
