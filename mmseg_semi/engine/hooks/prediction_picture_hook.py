"""Pictures of predictions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Any

import mmcv
import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmseg.registry import HOOKS

from mmseg_semi.arguments import Whole, checked
from mmseg_semi.datasets.dataset_tree import image_loaders
from mmseg_semi.datasets.transforms import LoadChannels
from mmseg_semi.utils.drawing import Tile, as_rgb, colors, legend, paint, sheet

_TITLES = dict(
    gt_sem_seg='truth', pred_sem_seg='prediction', teacher_pred_sem_seg="teacher's prediction"
)


@HOOKS.register_module()
class PredictionPictureHook(Hook):
    """Draw predictions of validations and tests for the runner's visualizer.

    That is a PNG beside the log, and an image in TensorBoard where it is a backend. In place of
    mmseg's ``SegVisualizationHook``: titles, a legend, images of any number of channels.

    Args:
        draw: Whether to draw at all.
        interval: Batches of a rank from one to the next that is drawn.
    """

    @checked
    def __init__(
        self,
        draw: bool = False,
        interval: Annotated[int, Whole(1)] = 50,
    ) -> None:
        self.draw, self.interval = draw, interval

    def _after_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[Any] | None = None,
        mode: str = 'train',
    ) -> None:
        """Draw a batch of a validation or a test; mmengine calls this after every iteration."""
        skipped = mode == 'train' or (batch_idx + 1) % self.interval
        if not self.draw or skipped or not is_main_process():
            return
        dataset = getattr(runner, f'{mode}_dataloader').dataset
        for sample in outputs or ():
            name = f'{mode}_{os.path.basename(sample.img_path)}'
            picture = draw_prediction(sample, dataset)
            runner.visualizer.add_image(name, picture, step=runner.iter)


def draw_prediction(sample: Any, dataset: Any) -> np.ndarray:
    """Draw an image, its truth where there is one and its prediction, RGB uint8 (H, W, 3).

    Args:
        sample: ``SegDataSample`` of a prediction.
        dataset: It is from there.
    """
    meta = getattr(dataset, 'metainfo', {})
    tiles, shown, table = [Tile('image', _picture_of(sample.img_path, dataset))], [], colors(meta)
    for key, title in _TITLES.items():
        if key in sample:
            labels = sample.get(key).data.squeeze(0).cpu().numpy()
            shown.append(labels)
            tiles.append(Tile(title, paint(labels, table)))
    return sheet([tiles], legend(meta, *shown))


def _picture_of(path: str, dataset: Any) -> np.ndarray:
    """RGB of an image of a dataset, uint8 (H, W, 3)."""
    loader = next(iter(image_loaders(dataset)), None)
    if isinstance(loader, LoadChannels):
        return as_rgb(loader.transform(dict(img_path=path))['img'])
    return mmcv.imread(path, channel_order='rgb')
