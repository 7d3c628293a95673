"""Boxes of a detector on an unlabeled image, carried through the pipeline pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from mmseg_semi.detection.cached_detections import CachedDetections
from mmseg_semi.errors import DataError

#: Value that geometric transforms give to pixels that are not of the image.
OUTSIDE = 255
WRONG_PLACE = (
    'LoadDetections must stand directly after InitValidMask, before any geometric transform, once'
)
_MOST_SETS = 2**16


@TRANSFORMS.register_module()
class LoadDetections(BaseTransform):
    """Mark each pixel of an unlabeled image with the set of classes whose boxes cover it.

    Stands directly after ``InitValidMask``. Each set of classes gets a number, and the valid map
    ``gt_seg_map`` becomes the map of these numbers (0: no box), so every geometric transform that
    carries the valid map carries the boxes, to the pixel. ``PackSemiInputs`` turns it into
    ``valid`` and the packed map ``detections`` of ``ceil(K/8)`` bytes a pixel. A box covers the
    pixels whose centres lie inside it.

    Required Keys: ``img``, ``img_path``, ``gt_seg_map`` of ``InitValidMask``. Modified Keys:
    ``gt_seg_map`` (H, W) uint8, or uint16 with more than 254 sets. Added Keys:
    ``detection_sets`` uint8 (M, ceil(K/8)), the bits of each set.

    Args:
        results: COCO results file of the unlabeled images, from ``tools/test.py`` with a
            detection config or from elsewhere.
        images: COCO annotation file that the boxes were predicted on (``unlabeled.json`` of
            ``masks_to_coco.py``): names, sizes and categories.
        score_thr: Lowest score of a box that is kept; the paper takes 0.85 on VOC and 0.95 on
            Cityscapes (Weighting Pseudo-Labels, ECCV 2024).
        allow_missing: Whether images that ``images`` does not list go without boxes; otherwise
            they are an error.
        classes: Class names in the order of the masks. None takes those of the labeled part,
            which ``SemiDataset`` fills in.

    Raises:
        ValueError: ``score_thr`` is not in [0, 1].
        FileNotFoundError, DataError: See ``CachedDetections``.
    """

    def __init__(
        self,
        results: str,
        images: str,
        score_thr: float = 0.85,
        allow_missing: bool = False,
        classes: Sequence[str] | None = None,
    ) -> None:
        if isinstance(score_thr, bool) or not 0 <= score_thr <= 1:
            raise ValueError(f'LoadDetections.score_thr is {score_thr!r}; it must be in [0, 1]')
        self.results, self.images = results, images
        self.score_thr, self.allow_missing = score_thr, allow_missing
        self.classes = None if classes is None else tuple(classes)
        self._detections: CachedDetections | None = None
        self._numbers: dict[int, int] = {}
        if self.classes is not None:
            self._load()

    def _load(self) -> CachedDetections:
        if self.classes is None:
            raise DataError(
                'LoadDetections does not know the classes: use it in the unlabeled part of a '
                'SemiDataset whose labeled part has metainfo.classes, or set classes'
            )
        if self._detections is None:
            self._detections = CachedDetections(self.results, self.images, self.score_thr)
            self._numbers = self._detections.class_numbers(self.classes)
        return self._detections

    def prepare(self, classes: Sequence[str] | None, paths: Sequence[str]) -> None:
        """Read the files and check them against a data set.

        Args:
            classes: Classes of the labeled part.
            paths: Images of the unlabeled part.

        Raises:
            DataError: See ``CachedDetections``; ``classes`` differs from the argument.
        """
        if self.classes is None:
            self.classes = None if classes is None else tuple(classes)
        elif classes is not None and tuple(classes) != self.classes:
            raise DataError(
                f'LoadDetections.classes is {self.classes}, but the labeled part has the classes '
                f'{tuple(classes)}: leave LoadDetections.classes out'
            )
        self._load().check_images(paths, self.allow_missing)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Draw the boxes.

        Raises:
            DataError: No valid map, a changed one, an image that is not listed, or of another
                size than listed.
        """
        detections, path = self._load(), str(results.get('img_path'))
        valid, size = results.get('gt_seg_map'), results['img'].shape[:2]
        if valid is None or valid.shape != size or valid.any() or 'detection_sets' in results:
            raise DataError(f'{path}: {WRONG_PLACE}')
        row = detections.find(path)
        if row is None and not self.allow_missing:
            raise DataError(
                f'{path} is not listed in {self.images}: list the images again and predict again, '
                'or set allow_missing=True of LoadDetections'
            )
        boxes, categories = np.zeros((0, 4)), np.zeros(0, np.int64)
        if row is not None:
            if detections.size(row) != size:
                raise DataError(
                    f'{path} is {size[0]} x {size[1]} pixels (height x width), but {self.images} '
                    f'lists it with {" x ".join(map(str, detections.size(row)))}: the detections '
                    'are of another version of the images. List and predict again.'
                )
            boxes, categories = detections.boxes(row)
        numbers = [self._numbers[int(one)] for one in categories]
        try:
            ids, sets = draw_sets(boxes, numbers, len(self.classes or ()), size)
        except OverflowError as error:
            raise DataError(
                f'{path}: its {len(boxes)} boxes overlap in more than {_MOST_SETS} ways; raise '
                'LoadDetections.score_thr to keep fewer of them'
            ) from error
        results['gt_seg_map'], results['detection_sets'] = ids, sets
        return results

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(results={self.results!r}, images={self.images!r}, '
            f'score_thr={self.score_thr}, allow_missing={self.allow_missing})'
        )


def draw_sets(
    boxes: np.ndarray, classes: Sequence[int], num_classes: int, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Number the sets of classes whose boxes cover a pixel.

    Args:
        boxes: (N, 4), each x1, y1, x2, y2 in pixels; parts outside the image are cut off.
        classes: N class numbers.
        num_classes: K.
        size: Height and width.

    Returns:
        ``(ids, sets)``: the number of each pixel's set (H, W), never 255 and 0 where no box is,
        and the bits of each set, uint8 (M, ceil(K/8)).

    Raises:
        OverflowError: More than 65535 sets.
    """
    ids = np.zeros(size, np.uint16)
    sets, number = [0], {0: 0}
    limits = np.array([size[1], size[0], size[1], size[0]])
    edges = np.clip(np.ceil(np.asarray(boxes, np.float64) - 0.5), 0, limits).astype(np.int64)
    for (x1, y1, x2, y2), one in zip(edges.tolist(), classes):
        region = ids[y1:y2, x1:x2]
        table = np.arange(len(sets), dtype=np.uint16)
        for old in np.flatnonzero(np.bincount(region.ravel(), minlength=1)):
            wanted = sets[old] | 1 << one
            if wanted not in number:
                sets.extend([0] * (len(sets) == OUTSIDE))  # 255 is no set
                if len(sets) == _MOST_SETS:
                    raise OverflowError(f'more than {_MOST_SETS} sets of classes')
                number[wanted] = len(sets)
                sets.append(wanted)
            table[old] = number[wanted]
        region[...] = table[region]
    width = -(-num_classes // 8)
    bits = [one.to_bytes(width, 'little') for one in sets]
    packed = np.frombuffer(b''.join(bits), np.uint8).reshape(len(sets), width)
    return (ids if len(sets) > OUTSIDE else ids.astype(np.uint8)), packed
