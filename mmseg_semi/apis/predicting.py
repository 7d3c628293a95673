"""Predicting images: whole ones in batches as a test does, large ones in tiles."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Optional

import torch
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_semi.apis.saved_model import SavedModel
from mmseg_semi.errors import DataError
from mmseg_semi.functional import at_least_float32, blended_bands, resized_bands

#: Images of more pixels are predicted in tiles unless ``--tile`` says otherwise.
MOST_WHOLE = 2**22
TILE = 1024
Sample = dict[str, Any]  # what a test pipeline gives: ``inputs`` (C, h, w) and ``data_samples``


class Band(NamedTuple):
    """The next n rows of a prediction.

    Attributes:
        labels: int64 (n, W).
        scores: Logits (K, n, W); of a single sigmoid output its probability (1, n, W).
        other_labels: Those of the other network, student or teacher, where images are ranked.
        features: Mean (C,) of the encoder's last map, where images are ranked.
    """

    labels: Tensor
    scores: Tensor
    other_labels: Optional[Tensor] = None
    features: Optional[Tensor] = None

    def probabilities(self) -> Tensor:
        """Float32 (K, n, W)."""
        scores = at_least_float32(self.scores)
        return scores.softmax(dim=0) if len(scores) > 1 else scores


class Predictor:
    """Predicts with the network of a checkpoint.

    Args:
        saved: Model and config.
        tile: Side of tiles in pixels of the resized image, 0 for ``TILE`` where an image has more
            than ``MOST_WHOLE`` pixels.
        overlap: Pixels that tiles share at least, None for a quarter of the side.
        amp: Mixed precision: float16 on a GPU, bfloat16 on a CPU.
        compare: Whether the other network, where the model has a student and a teacher, predicts
            too, and features of the encoder are kept.
    """

    def __init__(
        self,
        saved: SavedModel,
        tile: int = 0,
        overlap: Optional[int] = None,
        amp: bool = False,
        compare: bool = False,
    ) -> None:
        self.model, self.tile, self.amp = saved.model, tile, amp
        self.overlap = (tile or TILE) // 4 if overlap is None else overlap
        self.device = next(self.model.parameters()).device
        self._features: list[Tensor] = []
        self.other = ''
        if compare:
            has_teacher = getattr(getattr(self.model, 'teacher', None), 'network', None) is not None
            if has_teacher:
                self.other = 'student' if self.model.predict_with == 'teacher' else 'teacher'
            self.network.backbone.register_forward_hook(self._keep_features)

    @property
    def network(self) -> Any:
        """The segmentor that predicts."""
        return getattr(self.model, 'predictor', self.model)

    def _keep_features(self, _: Any, __: Any, maps: Any) -> None:
        last = maps[-1] if isinstance(maps, (list, tuple)) else maps
        self._features.append(last.float().mean(dim=(2, 3)).cpu())

    def _kept_features(self) -> Optional[Tensor]:
        """Mean features (B, C) of the passes since the last call."""
        kept, self._features = self._features, []
        return torch.stack(kept).mean(dim=0) if kept else None

    def tile_of(self, sample: Sample) -> int:
        """Side of the tiles for an image, 0 for none."""
        height, width = sample['inputs'].shape[-2:]
        rows, columns = sample['data_samples'].ori_shape[:2]
        if max(height * width, rows * columns) > MOST_WHOLE:
            return self.tile or TILE
        return self.tile if max(height, width) > self.tile else 0

    @torch.no_grad()
    def whole(self, samples: Sequence[Sample]) -> list[Band]:
        """Predict images of one size, as a test does."""
        results = self._step(samples)
        features = self._kept_features()
        others: Sequence[Any] = []
        if self.other:
            with self._as_other():
                others = self._step(samples)
        bands = []
        for number, one in enumerate(results):
            labels = one.pred_sem_seg.data[0].long()
            other = others[number].pred_sem_seg.data[0].long() if others else None
            own_features = None if features is None else features[number]
            bands.append(Band(labels, one.seg_logits.data, other, own_features))
        return bands

    def _step(self, samples: Sequence[Sample]) -> Sequence[Any]:
        inputs = [one['inputs'] for one in samples]
        meta = [copy.deepcopy(one['data_samples']) for one in samples]  # inference writes into them
        with self._precision():
            results: Sequence[Any] = self.model.test_step(dict(inputs=inputs, data_samples=meta))
        return results

    def _precision(self) -> Any:
        dtype = torch.bfloat16 if self.device.type == 'cpu' else torch.float16
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.amp)

    @contextmanager
    def _as_other(self) -> Iterator[None]:
        kept, self.model.predict_with = self.model.predict_with, self.other
        try:
            yield
        finally:
            self.model.predict_with = kept

    @torch.no_grad()
    def tiled(self, sample: Sample, tile: int) -> Iterator[Band]:
        """Predict an image in tiles, whose logits are blended.

        Raises:
            DataError: The config refines probabilities, which needs whole images.
        """
        if getattr(self.model, 'refine_at_test', False):
            raise DataError(
                'model.test_cfg.refine=True needs whole images, and this one is predicted in '
                'tiles: set it to False, or give a larger --tile'
            )
        main = self._logits(sample, tile)
        others: Iterator[Optional[Tensor]] = self._other_logits(sample, tile)
        for logits, other in zip(main, others):
            labels = self._labels(logits)
            other_labels = None if other is None else self._labels(other)
            scores, features = (
                logits if len(logits) > 1 else logits.sigmoid(),
                self._kept_features(),
            )
            yield Band(labels, scores, other_labels, None if features is None else features[0])

    def _labels(self, logits: Tensor) -> Tensor:
        if len(logits) > 1:
            return logits.argmax(dim=0)
        head: Any = self.model.decode_head
        head = head[-1] if isinstance(head, torch.nn.ModuleList) else head
        above: Tensor = logits[0].sigmoid() > head.threshold
        return above.long()

    def _other_logits(self, sample: Sample, tile: int) -> Iterator[Optional[Tensor]]:
        if not self.other:
            while True:
                yield None
        bands = self._logits(sample, tile)
        while True:
            with self._as_other():
                band = next(bands, None)
            if band is None:
                return
            yield band

    def _logits(self, sample: Sample, tile: int) -> Iterator[Tensor]:
        image, size = sample['inputs'], sample['data_samples'].ori_shape[:2]
        overlap = min(self.overlap, tile // 2)

        def predict(rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
            return self.logits(image[:, slice(*rows), slice(*columns)].contiguous())

        shape = int(image.shape[1]), int(image.shape[2])
        bands = blended_bands(predict, shape, tile, overlap)
        return resized_bands(bands, shape, tuple(size), self.model.align_corners)

    @torch.no_grad()
    def logits(self, part: Tensor) -> Tensor:
        """Logits (K, h, w) float32 of an image or a tile (C, h, w), as it was loaded."""
        height, width = part.shape[1:]
        shape = dict(ori_shape=(height, width), img_shape=(height, width))
        batch = dict(inputs=[part], data_samples=[SegDataSample(metainfo=shape)])
        with self._precision():
            data = self.model.data_preprocessor(batch, False)
            metas = [one.metainfo for one in data['data_samples']]
            logits: Tensor = self.network.inference(data['inputs'], metas)[0, :, :height, :width]
        return logits.float()
