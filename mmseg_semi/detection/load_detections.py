"""Boxes of a detector on an unlabeled image, as a map that goes through the pipeline with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Optional

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from mmseg_semi.arguments import Number, checked
from mmseg_semi.errors import DataError

from .cached_detections import CachedDetections

#: Name of the map, also in ``PseudoLabel.extras``.
DETECTIONS = 'detections'


@TRANSFORMS.register_module()
class LoadDetections(BaseTransform):
    """Mark each pixel of an unlabeled image with the classes whose boxes cover it.

    The map ``detections`` has a bit for each class, packed as ``functional.box_agreement`` reads
    it, and is listed in ``seg_fields``, so that geometric transforms carry it to the pixel. A box
    covers the pixels whose centers lie inside it.

    Required Keys: ``img`` as it was loaded, ``img_path``. Added Keys: ``detections`` uint8 (H, W,
    ceil(K/8)). Modified Keys: ``seg_fields``.

    Args:
        results: COCO results file of the unlabeled images, from ``tools/test.py`` with a
            detection config or from elsewhere.
        images: COCO annotation file that the boxes were predicted on (``unlabeled.json`` of
            ``masks_to_coco.py``): names, sizes and categories.
        score_thr: Lowest score of a box that is kept, in [0, 1]; the paper takes 0.85 on VOC and
            0.95 on Cityscapes (Weighting Pseudo-Labels, ECCV 2024).
        allow_missing: Whether images that ``images`` does not list go without boxes; otherwise
            they are an error.
        classes: Class names in the order of the masks. None takes those of the labeled part,
            which ``SemiDataset`` fills in.

    Raises:
        ValueError: An argument outside its values.
        FileNotFoundError, DataError: See ``CachedDetections``.
    """

    @checked
    def __init__(
        self,
        results: str,
        images: str,
        score_thr: Annotated[float, Number(0, 1)] = 0.85,
        allow_missing: bool = False,
        classes: Optional[Sequence[str]] = None,
    ) -> None:
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
            DataError: Geometric transforms came before, an image that is not listed, or of another
                size than listed.
        """
        detections, path = self._load(), str(results.get('img_path'))
        size = results['img'].shape[:2]
        if _is_moved(results) or DETECTIONS in results:
            raise DataError(
                f'{path}: LoadDetections must stand before the geometric transforms, once: boxes '
                'are in pixels of the image as it is loaded'
            )
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
        results[DETECTIONS] = draw_boxes(boxes, numbers, len(self.classes or ()), size)
        results['seg_fields'] = [*results.get('seg_fields', []), DETECTIONS]
        return results

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(results={self.results!r}, images={self.images!r}, '
            f'score_thr={self.score_thr}, allow_missing={self.allow_missing})'
        )


def _is_moved(results: dict[str, Any]) -> bool:
    """Whether a geometric transform of mmcv or mmseg has left its traces."""
    moved = 'flip' in results or 'scale_factor' in results
    return moved or bool(np.any(results.get('valid_map', 0)))


def draw_boxes(
    boxes: np.ndarray, classes: Sequence[int], num_classes: int, size: tuple[int, int]
) -> np.ndarray:
    """Set the bits of the classes whose boxes cover a pixel.

    Args:
        boxes: (N, 4), each x1, y1, x2, y2 in pixels; parts outside the image are cut off.
        classes: N class numbers.
        num_classes: K.
        size: Height and width.

    Returns:
        uint8 (H, W, ceil(K/8)); bit ``k % 8`` of byte ``k // 8`` is class k.
    """
    bits = np.zeros((*size, -(-num_classes // 8)), np.uint8)
    limits = np.array([size[1], size[0], size[1], size[0]])
    edges = np.clip(np.ceil(np.asarray(boxes, np.float64) - 0.5), 0, limits).astype(np.int64)
    for (x1, y1, x2, y2), one in zip(edges.tolist(), classes):
        bits[y1:y2, x1:x2, one // 8] |= 1 << one % 8
    return bits
