"""What a network predicts on images with masks, counted."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from PIL import Image

from mmseg_semi.apis.saved_model import SavedModel
from mmseg_semi.datasets.labeled_checks import fill_num_classes
from mmseg_semi.utils.progress import track

BINS = 15


@dataclass
class Evaluation:
    """Counts over the images of a part.

    Attributes:
        confusion: int64 (K, K), pixels by true and predicted class.
        bins: float64 (BINS, 3): pixels, sum of their confidences, right ones, by confidence in
            equal steps from 0 to 1.
        paths: Of the images.
        scores: Mean IoU in percent over the classes of an image's mask, NaN where it has none.
        kept: Truth and predicted labels of each image as PNG files; empty where they were not kept.
        load_image: Gives an image by its path, (H, W, C), as the network's pipeline loads it.
    """

    confusion: np.ndarray
    bins: np.ndarray
    paths: list[str]
    scores: list[float]
    kept: list[tuple[bytes, bytes]]
    load_image: Callable[[str], np.ndarray]

    def truth(self, index: int) -> np.ndarray:
        """The mask of an image, uint8 (H, W)."""
        return _decoded(self.kept[index][0])

    def label(self, index: int) -> np.ndarray:
        """The predicted labels of an image, uint8 (H, W)."""
        return _decoded(self.kept[index][1])

    @property
    def iou(self) -> np.ndarray:
        """IoU of each class in percent, NaN of one that is neither there nor predicted."""
        return class_iou(self.confusion)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error in percent points (Guo et al., ICML 2017, equation 3)."""
        count, confidence, right = self.bins.T
        return float(100 * np.abs(confidence - right).sum() / max(count.sum(), 1))


def same_images(one: Evaluation, other: Evaluation) -> bool:
    """Whether images have the same names, wherever they lie, and masks with as many pixels."""
    names = [[Path(path).name for path in each.paths] for each in (one, other)]
    truth = [each.confusion.sum(axis=1) for each in (one, other)]
    return names[0] == names[1] and np.array_equal(*truth)


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """IoU of each class (K,) in percent of a confusion matrix (K, K)."""
    hits = np.diag(confusion).astype(float)
    union = confusion.sum(0) + confusion.sum(1) - hits
    return 100 * np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)


def count_confusion(truth: np.ndarray, label: np.ndarray, number: int) -> np.ndarray:
    """Pixels by true and predicted class, int64 (K, K); those of no class are left out."""
    known = truth < number
    pairs = number * truth[known].astype(np.int64) + label[known]
    return np.bincount(pairs, minlength=number**2).reshape(number, number)


def count_bins(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Pixels, confidences and right ones by confidence, float64 (BINS, 3), of pixels (N,)."""
    index = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    columns = (None, confidence, right)
    return np.stack([np.bincount(index, one, BINS).astype(float) for one in columns], axis=1)


def validation_batches(saved: SavedModel) -> Iterator[Any]:
    """Batches of the validation part, or of the test where there is none.

    Raises:
        FileNotFoundError: Its folders are not there.
    """
    cfg = saved.cfg
    loader = cfg.get('val_dataloader') or cfg.test_dataloader
    loader = {**loader, 'num_workers': 0, 'persistent_workers': False}
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmseg')):
        built = Runner.build_dataloader(loader, seed=0)
        fill_num_classes(built.dataset, 'val_dataloader.dataset')
    return track(built, 'images are predicted', len(built))


def evaluate(saved: SavedModel, batches: Any, keep: bool = False) -> Evaluation:
    """Predict images with masks and count.

    Args:
        saved: The network.
        batches: See :func:`validation_batches`.
        keep: Whether the predicted labels are kept.
    """
    number = len(saved.classes)
    loading = saved.pipeline.transforms[0]
    found = Evaluation(
        np.zeros((number, number), np.int64),
        np.zeros((BINS, 3)),
        [],
        [],
        [],
        lambda path: loading(dict(img_path=path))['img'],
    )
    for batch in batches:
        with torch.no_grad():
            samples = saved.model.test_step(batch)
        for sample in samples:
            truth = sample.gt_sem_seg.data[0].cpu().numpy()
            label = sample.pred_sem_seg.data[0].cpu().numpy()
            one = count_confusion(truth, label, number)
            found.confusion += one
            known = truth < number
            confidence = _confidence(sample.seg_logits.data)[known]
            found.bins += count_bins(confidence, (label == truth)[known])
            found.paths.append(sample.img_path)
            there = one.sum(1) > 0
            found.scores.append(float(class_iou(one)[there].mean()) if there.any() else np.nan)
            if keep:
                found.kept.append((_encoded(truth), _encoded(label)))
    return found


def _confidence(logits: torch.Tensor) -> np.ndarray:
    """Probability of the predicted class (H, W), of logits (K, H, W); one channel is a sigmoid."""
    if logits.shape[0] == 1:
        chance = logits.float().sigmoid()[0]
        return torch.maximum(chance, 1 - chance).cpu().numpy()
    return logits.float().softmax(dim=0).amax(dim=0).cpu().numpy()


def _encoded(labels: np.ndarray) -> bytes:
    return cv2.imencode('.png', labels.astype(np.uint8))[1].tobytes()


def _decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))
