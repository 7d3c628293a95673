"""Ask the true masks of unlabeled images what the detector's agreement is worth.

Prints for each class how many of the kept boxes are right, and how accurate the pseudo-labels are
that confidence selects: all of them, those inside a box of their class, and those outside
(Weighting Pseudo-Labels, ECCV 2024, supplementary Table 1, with --iou 0.8). Training never reads
these masks.
The picture: images with the kept boxes, truth, pseudo-label, its pixels inside a box of their
class, and, with a config of configs/weighting, the weight (bright: low).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, Optional

import cv2
import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, TRANSFORMS

from mmseg_semi.analysis.draw_method import heat, load_model, resized
from mmseg_semi.datasets.audit_masks import AuditMasks
from mmseg_semi.datasets.dataset_tree import image_paths
from mmseg_semi.detection.cached_detections import CachedDetections
from mmseg_semi.files import write_file
from mmseg_semi.functional import box_agreement, masks_to_boxes, pack_boxes
from mmseg_semi.models.refiners import RankStatisticsWeight
from mmseg_semi.utils.config import load_config
from mmseg_semi.utils.drawing import Tile, colors, legend, png_of, sheet
from mmseg_semi.utils.progress import track


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='training config with a SemiDataset')
    parser.add_argument('checkpoint')
    parser.add_argument('audit_root', help='folder of the true masks of the unlabeled images')
    parser.add_argument('--audit-suffix', default='.png')
    parser.add_argument('--results', help='COCO results file, if the config has no detections')
    parser.add_argument('--images', help='COCO annotation file that it was predicted on')
    parser.add_argument('--score-thr', type=float, help="lowest score; default: the config's")
    parser.add_argument('--min-confidence', type=float, default=0.95)
    parser.add_argument('--iou', type=float, default=0.5, help='from which on a box is right')
    parser.add_argument('--min-area', type=int, help='of true boxes in pixels; default 90')
    parser.add_argument('--out', help='file for the tables (Markdown)')
    parser.add_argument('--picture', help='picture of boxes, agreement and weights, .png')
    parser.add_argument('--num', type=int, default=6, help='images in the picture')
    args = parser.parse_args(argv)
    if not 0 < args.iou <= 1:
        parser.error(f'--iou must be above 0 and at most 1, got {args.iou}')
    if args.picture and not args.picture.endswith('.png'):
        parser.error(f'--picture must end in .png, got {args.picture}')
    return args


def find_detections(cfg: Any, args: argparse.Namespace) -> CachedDetections:
    """Read the boxes that the config or the command line names."""
    found: Any = cfg.train_dataloader.dataset.unlabeled.get('detections') or {}
    names = {key: getattr(args, key) or found.get(key) for key in ('results', 'images')}
    if None in names.values():
        raise SystemExit(
            f'{args.config} has no train_dataloader.dataset.unlabeled.detections: give --results '
            'and --images'
        )
    score = found.get('score_thr', 0.85) if args.score_thr is None else args.score_thr
    return CachedDetections(**names, score_thr=score)


def overlap(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of a box (4,) with others (n, 4), as x1, y1, x2, y2."""
    sides = np.minimum(one[2:], others[:, 2:]) - np.maximum(one[:2], others[:, :2])
    shared = sides.clip(min=0).prod(axis=1)
    areas = [np.prod(box[..., 2:] - box[..., :2], axis=-1) for box in (one, others)]
    return shared / (areas[0] + areas[1] - shared)


def find_right(
    boxes: np.ndarray, classes: np.ndarray, true: np.ndarray, iou: float = 0.5
) -> np.ndarray:
    """Find the boxes, bool (n,), that fit a true box of their class; each true box is used once.

    Args:
        boxes: (n, 4), each x1, y1, x2, y2.
        classes: (n,).
        true: (m, 5), each class, x1, y1, x2, y2.
        iou: Smallest intersection over union.
    """
    free, right = np.ones(len(true), bool), np.zeros(len(boxes), bool)
    for number, (box, one) in enumerate(zip(boxes, classes)):
        fits = free & (true[:, 0] == one)
        values = np.where(fits, overlap(box, true[:, 1:]), -1.0)
        if len(values) and values.max() >= iou:
            free[values.argmax()] = False
            right[number] = True
    return right


class Audit:
    """Counts of boxes and pixels, image by image.

    Args:
        classes: Class names.
        with_boxes: Numbers of the classes that the detector knows.
        min_confidence: Confidence above which a pixel is selected.
        iou: Intersection over union from which on a box is right.
    """

    def __init__(
        self, classes: list[str], with_boxes: set[int], min_confidence: float, iou: float = 0.5
    ) -> None:
        self.classes, self.with_boxes = classes, with_boxes
        self.min_confidence, self.iou = min_confidence, iou
        self.boxes = np.zeros((3, len(classes)), np.int64)  # kept, right, true
        # Pixels by [outside, inside], [wrong, right] and class.
        self.pixels = np.zeros((2, 2, len(classes)), np.int64)

    def add_boxes(self, boxes: np.ndarray, classes: np.ndarray, true: list[Any]) -> None:
        """Count the boxes of an image."""
        rows = np.array(true, np.float64).reshape(-1, 5)
        right = classes[find_right(boxes, classes, rows, self.iou)]
        for counts, found in zip(self.boxes, (classes, right, rows[:, 0].astype(np.int64))):
            counts += np.bincount(found, minlength=len(counts))

    def add_pixels(
        self, label: np.ndarray, confidence: np.ndarray, inside: np.ndarray, truth: np.ndarray
    ) -> None:
        """Count the selected pixels of known class of an image; all (H, W)."""
        known = (truth < len(self.classes)) & (confidence > self.min_confidence)
        place = (inside * 2 + (label == truth)) * len(self.classes) + label
        found = np.bincount(place[known], minlength=self.pixels.size)
        self.pixels += found.reshape(self.pixels.shape)

    def report(self) -> str:
        """Return the tables."""
        kept, right, true = self.boxes.sum(axis=1).tolist()
        lines = [
            f'{kept} kept boxes, {percent(right, kept)} right (class, IoU >= {self.iou:g}); '
            f'{percent(right, true)} of {true} true boxes found',
            '',
            f'| pseudo-labels of confidence > {self.min_confidence:g} | boxes | right | pixels | '
            'right | inside: pixels | right | outside: pixels | right |',
            '| --- ' * 9 + '|',
        ]
        numbers = range(len(self.classes))
        lines += [self._row(self.classes[i], [i]) for i in numbers]
        lines.append(self._row('all classes with boxes', sorted(self.with_boxes)))
        return '\n'.join(lines) + '\n'

    def _row(self, name: str, numbers: list[int]) -> str:
        outside, inside = self.pixels[:, :, numbers].sum(axis=-1)
        kept, right = self.boxes[:2, numbers].sum(axis=1).tolist()
        cells = [str(kept), percent(right, kept)]
        for wrong, right in (outside + inside, inside, outside):
            cells += [str(wrong + right), percent(right, wrong + right)]
        return f'| {" | ".join([name, *cells])} |'


def percent(part: int, whole: int) -> str:
    """Format a share; a dash when there is nothing to share."""
    return f'{100 * part / whole:.1f} %' if whole else '-'


def find_weights(model: Any) -> Optional[RankStatisticsWeight]:
    """Return the refiner that weighs by rank statistics, if there is one."""
    refiners = model.refiners.values()
    return next((one for one in refiners if isinstance(one, RankStatisticsWeight)), None)


def draw_row(
    model: Any,
    batch: dict[str, Any],
    label: torch.Tensor,
    inside: np.ndarray,
    boxes: tuple[np.ndarray, np.ndarray],
    truth: np.ndarray,
    table: np.ndarray,
) -> list[Tile]:
    """Draw image with boxes, truth, pseudo-label, its agreeing pixels, weights (bright: low)."""
    image = np.ascontiguousarray(batch['inputs'][0].permute(1, 2, 0).numpy()[..., ::-1])
    seen, size = image.shape[:2], truth.shape[::-1]  # the test pipeline may resize images
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    for box, one in zip(boxes[0].round().astype(int).tolist(), boxes[1]):
        corners = (box[0], box[1]), (box[2] - 1, box[3] - 1)
        cv2.rectangle(image, *corners, table[one].tolist(), 1)
    pseudo = table[label.numpy()]
    tiles = [
        Tile('boxes', image),
        Tile('truth', table[truth]),
        Tile('pseudo-labels', pseudo),
        Tile('in a box of the class', pseudo * inside[..., None].astype(np.uint8)),
    ]
    refiner = find_weights(model)
    if refiner is not None:
        inputs = model.data_preprocessor(batch, False)['inputs']
        features = model.run(inputs).features[refiner.tap]
        padded = torch.zeros((1, *inputs.shape[-2:]), dtype=torch.int64)
        own = resized(label.numpy().astype(np.uint8), seen)
        padded[0, : seen[0], : seen[1]] = torch.from_numpy(own)
        weight = refiner.weigh(features, padded)[0, : seen[0], : seen[1]]
        drawn = heat(weight / (1 + refiner.base_weight))
        drawn = cv2.resize(drawn, size, interpolation=cv2.INTER_NEAREST_EXACT)
        tiles.append(Tile('weight (bright: low)', drawn))
    return tiles


def main(argv: Sequence[str] | None = None) -> None:
    """Count, print and draw."""
    args = parse_args(argv)
    cfg = load_config(args.config)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    detections = find_detections(cfg, args)
    model = load_model(cfg, args.checkpoint)
    cfg.train_dataloader.dataset.unlabeled.detections = None
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    masks = AuditMasks(dataset, args.audit_root, args.audit_suffix)
    if doubt := masks.doubt():
        print(doubt, file=sys.stderr)
    classes = list(dataset.metainfo['classes'])
    numbers = detections.class_numbers(classes)
    min_area = cfg.get('detection_min_area', 90) if args.min_area is None else args.min_area
    steps = [t for t in cfg.test_dataloader.dataset.pipeline if t['type'] != 'LoadAnnotations']
    pipeline = Compose([TRANSFORMS.build(step) for step in steps])
    audit = Audit(classes, set(numbers.values()), args.min_confidence, args.iou)
    rows, shown = list[list[Tile]](), list[np.ndarray]()
    for path in track(image_paths(dataset.unlabeled)):
        truth, row = masks.read(path), detections.find(path)
        boxes = np.zeros((0, 4)), np.zeros(0, np.int64)
        if row is not None:
            found, categories = detections.boxes(row)
            boxes = found, np.array([numbers[int(one)] for one in categories], np.int64)
        audit.add_boxes(*boxes, masks_to_boxes(truth, sorted(numbers.values()), min_area))
        item = pipeline(dict(img_path=path, reduce_zero_label=False, seg_fields=[]))
        batch = dict(inputs=[item['inputs']], data_samples=[item['data_samples']])
        with torch.no_grad():
            predicted = model.test_step(batch)[0]
            confidence, label = predicted.seg_logits.data.float().softmax(dim=0).max(dim=0)
            label, confidence = label.cpu(), confidence.cpu()
            bits = pack_boxes(
                torch.from_numpy(boxes[0]), torch.from_numpy(boxes[1]), len(classes), truth.shape
            )
            inside = box_agreement(label[None], bits[None])[0].numpy()
            audit.add_pixels(label.numpy(), confidence.numpy(), inside, truth)
            if args.picture and len(rows) < args.num and len(boxes[0]):
                table = colors(dataset.metainfo)
                rows.append(draw_row(model, batch, label, inside, boxes, truth, table))
                shown += [truth, label.numpy()]
    report = audit.report()
    print(f'\n{report}')
    if args.out:
        write_file(args.out, report)
    if rows:
        entries = [*legend(dataset.metainfo, *shown), ('outside', (0, 0, 0))]
        write_file(args.picture, png_of(sheet(rows, entries)))
