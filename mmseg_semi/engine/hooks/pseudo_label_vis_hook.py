"""Pictures of pseudo-labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Optional

import numpy as np
from mmengine.dist import is_main_process
from mmseg.registry import HOOKS
from torch import Tensor

from mmseg_semi.arguments import Whole, checked
from mmseg_semi.structures import PseudoLabel
from mmseg_semi.utils.drawing import NOT_SELECTED, Tile, as_rgb, colors, legend, sheet

from .pseudo_label_observer import PseudoLabelObserver


@HOOKS.register_module()
class PseudoLabelVisHook(PseudoLabelObserver):
    """Draw the weak images and their pseudo-labels, before the refiners and after each of them.

    One row an image: the image, the teacher's labels, the labels after each refiner with the
    pixels that are not selected in black, and the truth if audit masks are given, with titles and
    a legend.
    A refiner that finds reliable pixels darkens the others, one that gives weights darkens by them.
    The runner's visualizer stores it as ``pseudo_labels`` (a PNG beside the log, an image in
    TensorBoard).

    Args:
        interval: Iterations from one picture to the next.
        num_images: Rows.
        audit_root: As in ``PseudoLabelStatsHook``.
        audit_suffix: As in ``PseudoLabelStatsHook``.

    Raises:
        ValueError: ``num_images`` is no positive whole number.
    """

    @checked
    def __init__(
        self,
        interval: int = 500,
        num_images: Annotated[int, Whole(1)] = 4,
        audit_root: Optional[str] = None,
        audit_suffix: str = '.png',
    ) -> None:
        super().__init__(interval, audit_root, audit_suffix)
        self.num_images = num_images

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
        weak = data_batch['unlabeled']['weak'][: self.num_images]
        picture = draw_pseudo_labels(weak, seen, meta, truth)
        runner.visualizer.add_image('pseudo_labels', picture, step=runner.iter + 1)


def draw_pseudo_labels(
    weak: Sequence[Tensor],
    seen: Mapping[str, PseudoLabel],
    meta: Mapping[str, Any],
    truth: Optional[Tensor] = None,
    **size: int,
) -> np.ndarray:
    """Draw images and their pseudo-labels, RGB uint8 (H, W, 3); one row an image.

    Args:
        weak: Images (C, h, w) as they are loaded.
        seen: Pseudo-labels by the refiners' names, the unrefined one first.
        meta: ``classes``, and ``palette`` where there is one.
        truth: True classes (B, H, W).
        size: ``most`` of :func:`mmseg_semi.utils.drawing.sheet`.
    """
    height, width = seen['raw'].label.shape[-2:]
    table, shown, rows = colors(meta), [], []
    for i, image in enumerate(weak):
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[: image.shape[1], : image.shape[2]] = as_rgb(image.permute(1, 2, 0).numpy())
        tiles = [Tile('image', pixels)]
        before = seen['raw']
        for name, pseudo in seen.items():
            labels = pseudo.label[i].cpu().numpy()
            shown.append(labels[pseudo.used[i].cpu().numpy()])
            title = 'pseudo-labels' if name == 'raw' else f'after {name}'
            tiles.append(Tile(title, darkened(table[labels], light_of(pseudo, before, i))))
            before = pseudo
        if truth is not None:
            shown.append(truth[i].cpu().numpy())
            tiles.append(Tile('truth', table[shown[-1]]))
        rows.append(tiles)
    return sheet(rows, [*legend(meta, *shown), NOT_SELECTED], **size)


def darkened(picture: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Take brightness (H, W) in [0, 1] to a picture uint8 (H, W, 3)."""
    return (picture * light[..., None]).astype(np.uint8)


def light_of(pseudo: PseudoLabel, before: PseudoLabel, i: int) -> np.ndarray:
    """Brightness (H, W) in [0, 1] of an image's labels, by what the last refiner found out."""
    light = pseudo.used[i].float()
    if pseudo.reliable is not None and before.reliable is None:
        light = light * (0.3 + 0.7 * pseudo.reliable[i].float())
    if pseudo.weight is not None and before.weight is None:
        light = light * pseudo.weight[i] / pseudo.weight[i].max().clamp(min=1)
    return light.cpu().numpy()
