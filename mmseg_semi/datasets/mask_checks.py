"""What the values of all masks of a part say before the first iteration."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmseg_semi.errors import name_some

from .file_records import MaskRecord
from .findings import Finding, Findings


@dataclass
class Coding:
    """What the values of masks mean.

    Attributes:
        classes: Names of the classes.
        ignore_index: Value of pixels without a class.
        reduce_zero_label: Whether 0 becomes unknown and the other values are one less.
        label_map: New numbers of classes by their old ones.
    """

    classes: Sequence[str]
    ignore_index: int = 255
    reduce_zero_label: bool = False
    label_map: Mapping[int, int] = field(default_factory=dict)

    def loaded(self, value: float) -> int | None:
        """The class number that a stored value becomes, K for an unknown one, None for neither."""
        if not 0 <= value <= 255 or value != int(value):
            return None
        number = int(value)
        if self.reduce_zero_label:
            number = 255 if number in (0, 255) else number - 1
        number = self.label_map.get(number, number)
        if number == self.ignore_index:
            return len(self.classes)
        return number if number < len(self.classes) else None


@dataclass
class MaskSum:
    """Sums over the masks of a part.

    Attributes:
        stored: Pixels by stored value.
        pixels: Pixels of each class.
        unknown: Pixels without a class.
        masks_with: The masks that have a class, by its number.
        wrong: What is wrong with the values of a mask, by its path.
        blank: Masks without a pixel of any class.
        single: Masks whose pixels are all of one class.
        paths: Masks that can be read.
    """

    stored: Counter[float] = field(default_factory=Counter)
    pixels: Counter[int] = field(default_factory=Counter)
    unknown: int = 0
    masks_with: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    wrong: dict[str, str] = field(default_factory=dict)
    blank: list[str] = field(default_factory=list)
    single: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    @property
    def masks(self) -> int:
        """Number of masks that can be read."""
        return len(self.paths)

    def add(self, path: str, record: MaskRecord, coding: Coding) -> None:
        """Add a mask of one channel."""
        self.paths.append(path)
        known: Counter[int] = Counter()
        wrong = []
        for value, count in record.values:
            number = coding.loaded(value)
            self.stored[value] += int(count)
            if number is None:
                wrong.append(f'{value:g} ({int(count)} pixels)')
            elif number < len(coding.classes):
                known[number] += int(count)
            else:
                self.unknown += int(count)
        self.pixels += known
        for number in known:
            self.masks_with[number].append(path)
        if wrong:
            self.wrong[path] = name_some(wrong, 3)
        elif not known:
            self.blank.append(path)
        elif len(record.values) == 1:
            self.single.append(path)


def check_values(key: str, found: MaskSum, coding: Coding, role: str) -> Findings:
    """Say which values are no class, and which classes have no pixel.

    Args:
        key: Config key of the part, for messages.
        found: Sums over its masks.
        coding: What values mean.
        role: ``'train'``, ``'val'`` or ``'test'``. What makes training or its validation pointless
            is an error; a test goes on, since its predictions may be all that is wanted.
    """
    out = Findings()
    if found.wrong:
        out.errors.append(_wrong_values(key, found, coding))
    elif found.masks and not found.pixels:
        purpose = 'learn from' if role == 'train' else 'compare with: every score will be nan'
        (out.warnings if role == 'test' else out.errors).append(
            Finding(
                21,
                f'{key}: none of the {found.masks} masks has a pixel of any class, so there is '
                f'nothing to {purpose}: they hold {_summary(found)}{_meaning(coding)}.',
                f'Write the numbers of the classes, 0 to {len(coding.classes) - 1}'
                f'{_zero_advice(coding)}.',
                found.paths,
            )
        )
    elif found.masks:
        out.warnings += [*_blank_masks(key, found, role), *_many_zeros(key, found, coding)]
        _check_missing(key, found, coding, role == 'train', out)
    return out


def _blank_masks(key: str, found: MaskSum, role: str) -> list[Finding]:
    effect = 'nothing is learned from them' if role == 'train' else 'they count in no score'
    text = (
        f'{key}: {len(found.blank)} of {found.masks} masks have no pixel of any class, so {effect}:'
        f' {name_some(found.blank)}.'
    )
    remedy = 'Draw them, or take them out of the part.'
    return [Finding(23, text, remedy, found.blank)] if found.blank else []


def _many_zeros(key: str, found: MaskSum, coding: Coding) -> list[Finding]:
    zeros, pixels = found.stored[0], sum(found.stored.values())
    text = (
        f'{key}: reduce_zero_label=True makes value 0 unknown, which {zeros} of {pixels} pixels of '
        'the masks have.'
    )
    many = coding.reduce_zero_label and 2 * zeros > pixels
    return [Finding(24, text, 'Set it to False if 0 is a class.', found.paths)] if many else []


def _check_missing(key: str, found: MaskSum, coding: Coding, training: bool, out: Findings) -> None:
    total = len(coding.classes)
    missing = [i for i in range(total) if not found.pixels[i]]
    if not missing:
        return
    shifted = (
        coding.reduce_zero_label
        and missing == [total - 1]
        and {*range(total)} <= {*found.stored}
        and not coding.label_map
    )
    marked = found.stored[255] > 0 and coding.ignore_index == 255
    alone = len(missing) == total - 1
    text = (
        f'{key}: {len(missing)} of {total} classes have no pixel in any of the {found.masks} masks:'
        f' {name_some([repr(str(coding.classes[i])) for i in missing])}. The masks hold '
        f'{_summary(found)}{_meaning(coding)}.'
    )
    remedy = ''
    if shifted:
        remedy = (
            f'The values 0 to {total - 1} are {total} classes as they are: set '
            'reduce_zero_label=False, unless 0 means that nobody knows.'
        )
    elif marked and len(missing) == 1:
        number = missing[0] + coding.reduce_zero_label
        remedy = (
            f'If 255 is meant to be {str(coding.classes[missing[0]])!r}, write {number} instead.'
        )
    elif marked and alone:
        remedy = 'If 255 is meant to be one of these classes, write its number instead.'
    # One class alone, and every other pixel unknown: nothing can be told apart.
    pointless = shifted or (marked and alone)
    (out.errors if training and pointless else out.warnings).append(
        Finding(22, text, remedy, found.paths)
    )


def _wrong_values(key: str, found: MaskSum, coding: Coding) -> Finding:
    last = len(coding.classes) - 1 + coding.reduce_zero_label
    names = [f'{path} has {values}' for path, values in found.wrong.items()]
    unknown = '255' if coding.reduce_zero_label else str(coding.ignore_index)
    return Finding(
        20,
        f'{key}: {len(names)} of {found.masks} masks have values that are no class: '
        f'{name_some(names)}. Allowed are whole numbers from 0 to {last} and {unknown} for pixels '
        'to ignore.',
        'Correct the masks, or metainfo.classes if classes are missing there; '
        'reduce_zero_label=True is for masks that count classes from 1.',
        found.wrong,
    )


def _summary(found: MaskSum) -> str:
    return name_some([f'{v:g}: {count} pixels' for v, count in sorted(found.stored.items())])


def _meaning(coding: Coding) -> str:
    if coding.reduce_zero_label:
        return ', and reduce_zero_label=True makes 0 and 255 unknown'
    return f', and {coding.ignore_index} is unknown'


def _zero_advice(coding: Coding) -> str:
    return ', and set reduce_zero_label=False' if coding.reduce_zero_label else ''


def check_palettes(key: str, records: Mapping[str, MaskRecord]) -> list[Finding]:
    """Say where one value has several colors: one of the masks counts classes in another way.

    Values that a mask does not hold and masks without a palette are not compared.

    Args:
        key: Config key of the part, for messages.
        records: The masks of an unwrapped dataset by path.
    """
    first: dict[int, tuple[int, str]] = {}
    found: dict[str, str] = {}
    for path, record in records.items():
        for value, color in record.palette:
            known, other = first.setdefault(value, (color, path))
            if known != color and path not in found:
                found[path] = f'{value} is #{known:06x} in {other} and #{color:06x} in {path}'
    text = (
        f'{key}: the palettes of {len(found)} of {len(records)} masks disagree with those before: '
        f'{name_some(list(found.values()), 3)}. The number of a color is its class.'
    )
    remedy = 'Give all masks one palette, and each color its number in it.'
    return [Finding(17, text, remedy, found)] if found else []


def coding_of(leaf: Any, ignore_index: int | None) -> Coding | None:
    """What the values of an unwrapped dataset's masks mean; None where no classes are known.

    Args:
        leaf: The dataset.
        ignore_index: That of ``CheckAnnotations``, None for the dataset's own.
    """
    classes = getattr(leaf, 'metainfo', {}).get('classes')
    if not classes:
        return None
    own = getattr(leaf, 'ignore_index', 255)
    return Coding(
        tuple(classes),
        own if ignore_index is None else ignore_index,
        bool(getattr(leaf, 'reduce_zero_label', False)),
        getattr(leaf, 'label_map', None) or {},
    )
