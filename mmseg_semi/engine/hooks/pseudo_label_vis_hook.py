"""Pictures of pseudo-labels."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import cv2
import numpy as np
from mmengine.dist import is_main_process
from mmseg.registry import HOOKS
from torch import Tensor

from mmseg_semi.arguments import Whole, checked
from mmseg_semi.structures import PseudoLabel
from mmseg_semi.utils.drawing import as_rgb

from .pseudo_label_observer import PseudoLabelObserver

_GAP = 4
_UNKNOWN = (255, 255, 255)


@HOOKS.register_module()
class PseudoLabelVisHook(PseudoLabelObserver):
    """Draw the weak images and their pseudo-labels, before the refiners and after each of them.

    One row an image: the image, the teacher's labels, the labels after each refiner with the
    pixels that are not selected in black, and the truth if audit masks are given (white: unknown).
    A refiner that finds reliable pixels darkens the others, one that gives weights darkens by them.
    The runner's visualizer stores it as ``pseudo_labels`` (a PNG beside the log, an image in
    TensorBoard).

    Args:
        interval: Iterations from one picture to the next.
        num_images: Rows.
        scale: Factor by which everything is enlarged, a whole number.
        audit_root: As in ``PseudoLabelStatsHook``.
        audit_suffix: As in ``PseudoLabelStatsHook``.

    Raises:
        ValueError: ``num_images`` or ``scale`` is no positive whole number.
    """

    @checked
    def __init__(
        self,
        interval: int = 500,
        num_images: Annotated[int, Whole(1)] = 4,
        scale: Annotated[int, Whole(1)] = 1,
        audit_root: Optional[str] = None,
        audit_suffix: str = '.png',
    ) -> None:
        super().__init__(interval, audit_root, audit_suffix)
        self.num_images, self.scale = num_images, scale

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Draw and store."""
        if not self._seen:
            return
        seen, self._seen = self._seen, None
        size = tuple(seen['raw'].label.shape[-2:])
        if not is_main_process():
            return
        truth = self.truth(data_batch, size)
        meta = getattr(runner.train_dataloader.dataset, 'metainfo', {}) or {}
        picture = self.draw(data_batch['unlabeled']['weak'], seen, truth, meta.get('palette'))
        runner.visualizer.add_image('pseudo_labels', picture, step=runner.iter + 1)

    def draw(
        self,
        weak: list[Tensor],
        seen: dict[str, PseudoLabel],
        truth: Optional[Tensor],
        palette: Optional[list] = None,
    ) -> np.ndarray:
        """Return the picture, RGB uint8 (H, W, 3).

        Args:
            weak: Images (C, h, w) as they are loaded.
            seen: Pseudo-labels by name, the unrefined one first.
            truth: True classes (B, H, W), or None.
            palette: RGB of each class; made up when it is missing.
        """
        height, width = seen['raw'].label.shape[-2:]
        colors = _palette(palette)
        rows = []
        for i, image in enumerate(weak[: self.num_images]):
            tile = np.zeros((height, width, 3), np.uint8)
            tile[: image.shape[1], : image.shape[2]] = as_rgb(image.permute(1, 2, 0).numpy())
            tiles = [tile]
            before = seen['raw']
            for pseudo in seen.values():
                light = _light(pseudo, before, i)[..., None]
                tiles.append((colors[pseudo.label[i].cpu().numpy()] * light).astype(np.uint8))
                before = pseudo
            if truth is not None:
                tiles.append(colors[truth[i].cpu().numpy()])
            gap = np.full((height, _GAP, 3), 255, np.uint8)
            rows.append(np.hstack([part for tile in tiles for part in (tile, gap)][:-1]))
        gap = np.full((_GAP, rows[0].shape[1], 3), 255, np.uint8)
        picture = np.vstack([part for row in rows for part in (row, gap)][:-1])
        return cv2.resize(
            picture, None, fx=self.scale, fy=self.scale, interpolation=cv2.INTER_NEAREST
        )


def _light(pseudo: PseudoLabel, before: PseudoLabel, i: int) -> np.ndarray:
    """Brightness (H, W) in [0, 1] of an image's labels, by what the last refiner found out."""
    light = pseudo.used[i].float()
    if pseudo.reliable is not None and before.reliable is None:
        light = light * (0.3 + 0.7 * pseudo.reliable[i].float())
    if pseudo.weight is not None and before.weight is None:
        light = light * pseudo.weight[i] / pseudo.weight[i].max().clamp(min=1)
    return light.cpu().numpy()


def _palette(palette: Optional[list]) -> np.ndarray:
    """RGB of the labels 0 to 255; black would look like a pixel that is not selected."""
    hues = (np.arange(256) * 47 % 180).astype(np.uint8)
    hsv = np.stack([hues, np.full(256, 200, np.uint8), np.full(256, 230, np.uint8)], axis=-1)
    colors = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]
    if palette is not None:
        known = np.array(palette, np.uint8)[:255]
        colors[: len(known)] = known
    black = (colors == 0).all(axis=1)
    colors[black] = (96, 96, 96)
    colors[255] = _UNKNOWN
    return colors
