"""Boxes that a detector found on the unlabeled images, read from a COCO results file."""

from __future__ import annotations

import logging
import math
import os
import posixpath
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.logging import print_log

from mmseg_semi.errors import DataError, hint, name_some
from mmseg_semi.files import read_json

# A detector may place an edge this many pixels outside the image, by rounding.
_TOLERANCE = 1.0
_RESULT_KEYS = ('image_id', 'category_id', 'bbox', 'score')


class CachedDetections:
    """The boxes of a results file whose score is high enough.

    Args:
        results: COCO results file: a list of ``dict(image_id, category_id, bbox=[x, y, w, h],
            score)`` in pixels of the original images.
        images: COCO annotation file with ``images`` (id, file_name, width, height) and
            ``categories`` (id, name): the one that the detector predicted on.
        score_thr: Lowest score of a box that is kept.

    Attributes:
        names: Names of the categories by id.

    Raises:
        FileNotFoundError: A file is missing.
        DataError: A file is no such file; results for images or categories that ``images`` does
            not have; boxes outside their image.
    """

    def __init__(self, results: str, images: str, score_thr: float) -> None:
        self.results_file, self.images_file, self.score_thr = results, images, score_thr
        maker = 'tools/dataset_converters/masks_to_coco.py writes it.'
        listed = read_json(images, maker, 'LoadDetections.images', error=DataError)
        maker = 'tools/test.py with a detection config writes it.'
        entries = read_json(results, maker, 'LoadDetections.results', error=DataError)
        if not isinstance(listed, dict) or not {'images', 'categories'} <= set(listed):
            raise DataError(
                f'LoadDetections.images: {images} is no COCO annotation file with `images` and '
                '`categories`: write it with tools/dataset_converters/masks_to_coco.py'
            )
        if not isinstance(entries, list):
            raise DataError(
                f'LoadDetections.results: {results} must hold a list of results, each '
                f'dict({", ".join(_RESULT_KEYS)}); it holds a {type(entries).__name__}. Did you '
                'give the annotation file?'
            )
        _check_listed(listed, images)
        self.names: dict[int, str] = {one['id']: one['name'] for one in listed['categories']}
        self._images = [_plain(one['file_name']) for one in listed['images']]
        self._sizes = np.array([[i['height'], i['width']] for i in listed['images']]).reshape(-1, 2)
        self._index = {name: i for i, name in enumerate(self._images)}
        rows = {one['id']: i for i, one in enumerate(listed['images'])}
        self._keep(entries, rows)

    def _keep(self, entries: list[dict[str, Any]], rows: dict[Any, int]) -> None:
        """Check every result and keep those of high score, sorted by image."""
        file = f'LoadDetections.results: {self.results_file}'
        wrong = [one for one in entries if not _is_result(one)]
        if wrong:
            raise DataError(
                f'{file}: {len(wrong)} of {len(entries)} results are no dict of '
                f'{", ".join(_RESULT_KEYS)} with bbox=[x, y, width, height] (width and height not '
                f'negative) and score in [0, 1]; the first is {wrong[0]}. Predict again.'
            )
        for key, known, what in (
            ('image_id', rows, 'images'),
            ('category_id', self.names, 'categories'),
        ):
            strange = sorted({str(one[key]) for one in entries if one[key] not in known})
            if strange:
                raise DataError(
                    f'{file} has results for {len(strange)} {what} that {self.images_file} does '
                    f'not have (id {name_some(strange)}): the files are of different data sets. '
                    'Predict again on the images of that file.'
                )
        boxes = np.array([one['bbox'] for one in entries], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        if len(boxes) and boxes.max() <= 1:
            raise DataError(
                f'{file}: no box reaches beyond the first pixel of its image, as if they were '
                f'shares of its sides; the first is {entries[0]["bbox"]}. Boxes are [x, y, width, '
                'height] in pixels of the original images: predict again.'
            )
        image = np.array([rows[one['image_id']] for one in entries], np.int64)
        height, width = self._sizes[image].T if len(image) else np.zeros((2, 0))
        inside = np.isfinite(boxes).all(1) & (boxes[:, :2] >= -_TOLERANCE).all(1)
        inside &= (boxes[:, 2] <= width + _TOLERANCE) & (boxes[:, 3] <= height + _TOLERANCE)
        if not inside.all():
            first = int(np.flatnonzero(~inside)[0])
            raise DataError(
                f'{file}: {int((~inside).sum())} of {len(boxes)} boxes are not inside their '
                f'image; the first is {entries[first]["bbox"]} (x, y, width, height) in '
                f'{self._images[image[first]]} of {int(width[first])} x {int(height[first])} '
                'pixels (width x height). Boxes must be in pixels of the original images: '
                'predict again on images of this size.'
            )
        score = np.array([one['score'] for one in entries], np.float64)
        category = np.array([one['category_id'] for one in entries], np.int64)
        self.without_result = len(self._images) - len(np.unique(image))
        kept = np.flatnonzero(score >= self.score_thr)
        kept = kept[np.argsort(image[kept], kind='stable')]
        self._boxes, self._category = boxes[kept], category[kept]
        self._starts = np.searchsorted(image[kept], np.arange(len(self._images) + 1))

    def __len__(self) -> int:
        """Number of boxes that are kept."""
        return len(self._boxes)

    def find(self, path: str) -> int | None:
        """Row of the image whose ``file_name`` is the longest end of ``path``, or None."""
        parts = _plain(path).split('/')
        for first in range(len(parts)):
            row = self._index.get('/'.join(parts[first:]))
            if row is not None:
                return row
        return None

    def size(self, row: int) -> tuple[int, int]:
        """Height and width that the file gives for an image."""
        return int(self._sizes[row, 0]), int(self._sizes[row, 1])

    def boxes(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Kept boxes (n, 4) as x1, y1, x2, y2 and their category ids (n,)."""
        part = slice(self._starts[row], self._starts[row + 1])
        return self._boxes[part], self._category[part]

    def class_numbers(self, classes: Sequence[str]) -> dict[int, int]:
        """Class number of each category id.

        Raises:
            DataError: A category is no class of the data set.
        """
        strange = [name for name in self.names.values() if name not in classes]
        if strange:
            raise DataError(
                f'LoadDetections.images: {self.images_file} has categories that are no class of '
                f'the labeled part: {name_some(strange)}.{hint(strange[0], list(classes))} The '
                f'classes are {name_some(list(classes), 30)}. The detector must be trained on '
                'boxes of this data set.'
            )
        return {key: list(classes).index(name) for key, name in self.names.items()}

    def check_images(self, paths: Sequence[str], allow_missing: bool) -> None:
        """Check that the detector has seen the images, and tell the log what it found.

        Raises:
            DataError: Images that the file does not list, and ``allow_missing`` is False.
        """
        rows = [self.find(path) for path in paths]
        missing = [path for path, row in zip(paths, rows) if row is None]
        if missing and (not allow_missing or len(missing) == len(paths)):
            raise DataError(
                f'LoadDetections.images: {self.images_file} lacks {len(missing)} of {len(paths)} '
                f'unlabeled images: {name_some(missing)}. Make the list again with '
                'tools/dataset_converters/masks_to_coco.py and predict again, or set '
                'allow_missing=True of LoadDetections to go on without boxes on these images '
                '(some image must have one).'
            )
        owner: dict[int, str] = {}
        for path, row in zip(paths, rows):
            if row is not None and owner.setdefault(row, path) != path:
                raise DataError(
                    f'LoadDetections.images: {self.images_file} lists {self._images[row]} once, '
                    f'but the unlabeled images {owner[row]} and {path} both end with that name. '
                    'List the images again with tools/dataset_converters/masks_to_coco.py, which '
                    'names them with their folders.'
                )
        counts = np.diff(self._starts)[[row for row in rows if row is not None]]
        empty = [name for key, name in self.names.items() if not (self._category == key).any()]
        text = (
            f'{self.results_file}: {int(counts.sum())} boxes of score >= {self.score_thr} on '
            f'{int((counts > 0).sum())} of {len(paths)} unlabeled images'
        )
        if missing:
            text += f'; {len(missing)} images are not listed there'
        if self.without_result:
            text += f'; {self.without_result} images have no result of any score'
        if not counts.sum():
            text += (
                '. No pixel of an unlabeled image will be reliable: prototypes come from labeled '
                'pixels alone. Lower LoadDetections.score_thr or train the detector longer.'
            )
        elif empty:
            text += f'. No box of: {name_some(empty)}; their unlabeled pixels are never reliable.'
        quiet = counts.sum() and not empty and not missing
        print_log(text, logger='current', level=logging.INFO if quiet else logging.WARNING)


def _plain(path: str) -> str:
    return posixpath.normpath(path.replace(os.sep, '/'))


def _is_number(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value)


def _is_result(one: Any) -> bool:
    if not isinstance(one, dict) or not set(_RESULT_KEYS) <= set(one):
        return False
    box = one['bbox']
    fits = isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))
    return fits and min(box[2:]) >= 0 and _is_number(one['score']) and 0 <= one['score'] <= 1


def _check_listed(listed: dict[str, Any], path: str) -> None:
    for part, keys in (
        ('images', ('id', 'file_name', 'width', 'height')),
        ('categories', ('id', 'name')),
    ):
        for one in listed[part]:
            if not isinstance(one, dict) or not set(keys) <= set(one):
                raise DataError(
                    f'LoadDetections.images: {path}: each of `{part}` must have '
                    f'{", ".join(keys)}; one is {one}'
                )
        for key in keys[:2]:
            counts = Counter(one[key] for one in listed[part])
            twice = [str(value) for value, count in counts.items() if count > 1]
            if twice:
                raise DataError(
                    f'LoadDetections.images: {path}: {part} have the same {key} more than once: '
                    f'{name_some(twice)}. Remove all but one.'
                )
