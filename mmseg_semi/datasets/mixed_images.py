"""Are the images of one kind? Channels, bits, sizes, orientation, suffixes."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from mmseg_semi.errors import name_some

from .file_records import ImageRecord
from .findings import Finding, Findings
from .part_checks import Part

#: The longest sides of a part differ widely when the largest is so many times the smallest.
WIDE = 4
_CHANNELS = {
    **dict.fromkeys(('1', 'L', 'I', 'F', 'I;16', 'I;16B', 'I;16L', 'I;16N'), 'gray'),
    **dict.fromkeys(('RGB', 'P', 'YCbCr', 'CMYK', 'LAB', 'HSV'), 'color'),
    **dict.fromkeys(('RGBA', 'LA', 'PA', 'La', 'RGBa'), 'with alpha'),
}


def check_mixed(parts: Sequence[Part]) -> Findings:
    """Say where images are of several kinds.

    Args:
        parts: All parts, after ``check_parts``.

    Returns:
        Warnings of channels, bits and widely different sizes, notes of orientations and suffixes;
        their files are those of the rarer kinds.
    """
    out = Findings()
    channels = _groups(parts, lambda one, path: _CHANNELS.get(one.mode))
    if len(channels) > 1:
        out.warnings.append(
            Finding(
                40,
                f'images have different channels: {_summary(channels)}.',
                'Save all of them alike: photographs lose alpha, and gray ones become RGB.',
                _rarer(channels),
            )
        )
    bits = _groups(parts, lambda one, path: one.bits if one.mode else None)
    if len(bits) > 1:
        out.warnings.append(
            Finding(
                41,
                f'images have different bits a channel: {_summary(bits)}.',
                'Convert all of them in one way: of photographs, the upper 8 of 16 bits are kept.',
                _rarer(bits),
            )
        )
    out.warnings += _widely_different(parts)
    turned = _groups(parts, _orientation)
    if len(turned) > 1:
        text = f'there are portrait and landscape images: {_summary(turned)}.'
        remedy = 'Nothing, if both are meant; a crop is of one shape for all.'
        out.notes.append(Finding(43, text, remedy, _rarer(turned)))
    suffixes = _groups(parts, lambda one, path: os.path.splitext(path)[1].lower())
    if len(suffixes) > 1:
        text = f'images have several suffixes: {_summary(suffixes)}.'
        remedy = 'Nothing, if they were made alike: traces of compression are easily learned.'
        out.notes.append(Finding(44, text, remedy, _rarer(suffixes)))
    return out


def _groups(
    parts: Sequence[Part], key: Callable[[ImageRecord, str], Hashable]
) -> dict[Any, list[str]]:
    """Images by a key, the most frequent one first; those whose key is None are left out."""
    found: dict[Any, list[str]] = defaultdict(list)
    for part in parts:
        for one, paths in part.images.items():
            for path in paths:
                found[key(one, path)].append(path)
    found.pop(None, None)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _orientation(one: ImageRecord, path: str) -> str | None:
    if one.width == one.height:
        return None
    return 'portrait' if one.height > one.width else 'landscape'


def _rarer(groups: dict[Any, list[str]]) -> list[str]:
    return [path for paths in list(groups.values())[1:] for path in paths]


def _summary(groups: dict[Any, list[str]]) -> str:
    (first, most), *others = groups.items()
    rest = (f'{len(paths)} {name} ({name_some(paths)})' for name, paths in others)
    return f'{len(most)} {first}, {", ".join(rest)}'


def _widely_different(parts: Sequence[Part]) -> list[Finding]:
    """Of each part, one in a hundred of the smallest and of the largest images left out."""
    texts, far = [], []
    for part in parts:
        sides = sorted(
            (max(one.width, one.height), path)
            for one, paths in part.images.items()
            for path in paths
        )
        cut = len(sides) // 100
        kept = sides[cut : len(sides) - cut]
        if kept and kept[-1][0] >= WIDE * kept[0][0]:
            middle = kept[len(kept) // 2][0]
            texts.append(
                f'{kept[0][0]} to {kept[-1][0]} in {part.key}, half of them up to {middle}'
            )
            far += [path for side, path in sides if not middle / 2 < side < middle * 2]
    if not far:
        return []
    return [
        Finding(
            42,
            f'the longer sides of the images are {"; ".join(texts)}: {name_some(far)} are far from '
            'that.',
            'Bring objects to similar sizes before, or resize to one scale '
            '(train_dataloader.dataset.geometry.resize.scale with keep_ratio=True).',
            far,
        )
    ]
