"""Figures that say how good pseudo-labels are."""

from __future__ import annotations

from typing import Any, Optional

import torch
from mmengine.dist import all_reduce
from mmseg.registry import HOOKS
from torch import Tensor

from mmseg_semi.structures import PseudoLabel

from .pseudo_label_observer import PseudoLabelObserver


@HOOKS.register_module()
class PseudoLabelStatsHook(PseudoLabelObserver):
    """Log how much the refiners select and, with audit masks, how right it is.

    For the pseudo-label as the teacher gave it (``raw``) and after each refiner, in the order they
    run, as ``pseudo/<refiner>/<figure>`` in the log and in TensorBoard. What CorrMatch (Sun et
    al., CVPR 2024) shows in its Figures 5 and 7:

    - ``filter_ratio``: share of the valid pixels that are *not* selected;
    - with ``audit_root``, over the valid pixels of known truth: ``accuracy``, the share of the
      selected pixels whose label is right; ``effective_ratio``, the share of all pixels that are
      selected and right; ``mining_ratio``, the share of the pixels with a right label that are
      selected.

    Figures are of the global batch of one iteration; between two measurements the log repeats the
    last one. A share of nothing is NaN. ``raw`` selects every valid pixel.

    Args:
        interval: Iterations from one measurement to the next.
        audit_root: Folder of true masks of the unlabeled images: one single-channel PNG of class
            numbers an image (255: unknown), of the image's relative name. Only this hook reads
            them; training never does.
        audit_suffix: Suffix of these masks.
    """

    priority = 'NORMAL'  # before the logger

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Measure and log."""
        if not self._seen:
            return
        seen, self._seen = self._seen, None
        size = tuple(seen['raw'].label.shape[-2:])
        truth = self.truth(data_batch, size)
        counts = torch.stack([_count(pseudo, truth) for pseudo in seen.values()])
        all_reduce(counts, op='sum')
        for name, row in zip(seen, counts.tolist()):
            for figure, value in _figures(row, truth is not None).items():
                runner.message_hub.update_scalar(f'train/pseudo/{name}/{figure}', value)


def _count(pseudo: PseudoLabel, truth: Optional[Tensor]) -> Tensor:
    """Count pixels, float64 (2,) or (6,).

    Valid ones, and the selected of them; then of known truth: all, right ones, selected ones,
    selected right ones.
    """
    valid, used = pseudo.valid, pseudo.used
    counts = [valid.sum(), used.sum()]
    if truth is not None:
        truth = truth.to(valid.device)
        known = valid & (truth != 255)
        right = known & (pseudo.label == truth)
        counts += [known.sum(), right.sum(), (known & used).sum(), (right & used).sum()]
    return torch.stack(counts).double()


def _figures(counts: list[float], audited: bool) -> dict[str, float]:
    valid, used = counts[:2]
    values = dict(filter_ratio=1 - _share(used, valid))
    if audited:
        known, right, known_used, right_used = counts[2:]
        values['accuracy'] = _share(right_used, known_used)
        values['effective_ratio'] = _share(right_used, known)
        values['mining_ratio'] = _share(right_used, right)
    return values


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float('nan')
