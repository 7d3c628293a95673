"""What is found in data: a sentence with the number of its kind, its files and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

#: What each number stands for, whatever the severity: E07 and W07 are of one kind.
KINDS = {
    1: 'a part of the config cannot be built',
    2: 'a folder or list is not there',
    3: 'classes differ between the parts, or from those of the model',
    4: 'the sampler cannot make such a batch',
    5: 'a part has no image',
    6: 'names of a list have no image',
    7: 'images have no mask',
    8: 'images are left out for their suffix',
    9: 'masks have no image',
    10: 'images cannot be read',
    11: 'masks cannot be read',
    12: 'masks are in a lossy format',
    13: 'masks have several channels',
    14: 'masks are files of several images',
    15: 'masks have another size than their image',
    16: 'images are turned by EXIF, their masks are not',
    17: 'palettes of masks disagree',
    18: 'channels cannot be measured, or were of other images',
    19: 'a list names images twice',
    20: 'values of masks are no class',
    21: 'no mask has a pixel of any class',
    22: 'classes have no pixel',
    23: 'some masks have no pixel of any class',
    24: 'reduce_zero_label makes most pixels unknown',
    25: 'most pixels are unknown (255)',
    26: 'a class is rare',
    27: 'one class has nearly all pixels',
    28: 'two classes look exchanged',
    29: 'masks are of a single class each',
    30: 'a class is in validation or test, not in the labeled part',
    31: 'labeled images or masks are validation or test ones',
    32: 'unlabeled images are validation or test ones',
    33: 'labeled images look like validation or test ones',
    34: 'unlabeled images look like validation or test ones',
    35: 'unlabeled images are labeled ones',
    36: 'unlabeled images look like labeled ones',
    37: 'test images are validation ones, or look like them',
    38: 'labeled images look like each other',
    39: 'the crop shows little of an image',
    40: 'images of different channels',
    41: 'images of different bits a channel',
    42: 'sizes of images differ widely',
    43: 'portrait and landscape images',
    44: 'images of several suffixes',
    45: 'images are smaller than the crop',
    46: 'a batch has more labeled images than there are',
    47: 'objects are smaller than a pixel of the network',
    48: 'most objects are specks',
    49: 'there are masks of unlabeled images',
    50: 'a training step cannot be made',
    51: 'images are of a kind that needs in_channels',
    52: 'classes of the config are not those of classes.json',
    53: 'weights that the encoder starts from cannot be had, or do not fit',
}
SEVERITIES = ('error', 'warning', 'note')


class Finding(str):
    """A sentence or two that say what was found and what to do.

    Attributes:
        kind: Its number in ``KINDS``.
        fact: The sentence without what to do.
        remedy: What to do.
        files: The files that it is about, all of them; the text names the first.
    """

    kind: int
    fact: str
    remedy: str
    files: tuple[str, ...]

    def __new__(cls, kind: int, fact: str, remedy: str = '', files: Iterable[str] = ()) -> Finding:
        """Join the sentences."""
        one = super().__new__(cls, f'{fact} {remedy}'.rstrip())
        one.kind, one.fact, one.remedy, one.files = kind, fact, remedy, tuple(files)
        return one


@dataclass
class Findings:
    """What was found in one or several parts.

    Attributes:
        errors: The run must not begin.
        warnings: It may not become what was meant.
        notes: Good to know.
        unseen: Config keys of parts that could not be looked at.
    """

    errors: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)

    def join(self, more: Findings) -> None:
        """Add those of others."""
        self.errors += more.errors
        self.warnings += more.warnings
        self.notes += more.notes

    def as_warnings(self) -> Findings:
        """The same without errors, which become warnings."""
        return Findings(warnings=self.errors + self.warnings, notes=self.notes)

    def numbered(self) -> Iterator[tuple[str, str, Finding]]:
        """Severity, number (E20, W26, N43) and finding, the worst first, each text once."""
        for severity, found in zip(SEVERITIES, (self.errors, self.warnings, self.notes)):
            for one in sorted(dict.fromkeys(found), key=lambda one: one.kind):
                yield severity, f'{severity[0].upper()}{one.kind:02}', one

    def as_json(self) -> list[Mapping[str, Any]]:
        """All findings for a file."""
        return [
            dict(
                number=number,
                severity=severity,
                kind=KINDS[one.kind],
                text=one.fact,
                what_to_do=one.remedy,
                files=one.files,
            )
            for severity, number, one in self.numbered()
        ]


def finding_of(error: BaseException | None) -> Finding | None:
    """The finding that an exception, or one that it was raised in place of, was made of."""
    while error is not None:
        if error.args and isinstance(error.args[0], Finding):
            return error.args[0]
        error = error.__cause__ or error.__context__
    return None
