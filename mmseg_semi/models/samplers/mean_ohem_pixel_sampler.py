"""Online hard example mining as the papers' programs have it."""

from __future__ import annotations

from typing import Any

import torch
from mmseg.models.losses import CrossEntropyLoss
from mmseg.registry import TASK_UTILS
from mmseg.structures.sampler import BasePixelSampler
from torch import Tensor, nn

from mmseg_semi.arguments import check_number, check_whole
from mmseg_semi.functional import at_least_float32


@TASK_UTILS.register_module()
class MeanOHEMPixelSampler(BasePixelSampler):
    """Keep the hard pixels of a batch; the loss is the mean over them.

    Of the valid pixels of the rank's batch, those are kept whose probability of the true class is
    at most max(``thresh``, the ``min_kept``-th smallest such probability); all of them when no more
    than ``min_kept`` are valid. mmseg's ``OHEMPixelSampler`` keeps ``min_kept`` times the number of
    images, and its loss is divided by all valid pixels, not by the kept ones.

    The weights are scaled so that mmseg's ``CrossEntropyLoss``, which divides by the valid pixels
    (``avg_non_ignore=True``) or by all pixels, gives the mean over the kept ones; 0 when no pixel
    is valid.

    Args:
        context: The decode head; ``mmseg`` passes it.
        thresh: Probability in [0, 1] up to which a pixel is always kept.
        min_kept: Number of pixels of the rank's batch that are kept at least.

    Raises:
        ValueError: An argument outside its values, or a ``loss_decode`` whose denominator is
            another one.
    """

    def __init__(self, context: Any, thresh: float = 0.7, min_kept: int = 200000) -> None:
        super().__init__()
        check_number('decode_head.sampler.thresh (MeanOHEMPixelSampler)', thresh, 0, 1)
        check_whole('decode_head.sampler.min_kept (MeanOHEMPixelSampler)', min_kept, 1)
        self.context, self.thresh, self.min_kept = context, thresh, min_kept
        self.over_valid = _divides_by_valid(context.loss_decode)

    @torch.no_grad()
    def sample(self, seg_logit: Tensor, seg_label: Tensor) -> Tensor:
        """Weigh the pixels.

        Args:
            seg_logit: Class logits (B, K, H, W).
            seg_label: Labels (B, 1, H, W).

        Returns:
            Weights (B, H, W): one value > 0 at all kept pixels, 0 elsewhere.
        """
        label = seg_label.squeeze(1).long()
        valid = label.ne(self.context.ignore_index)
        index = torch.where(valid, label, 0)[:, None]
        prob = at_least_float32(seg_logit).softmax(dim=1).gather(1, index)[:, 0]
        prob = prob.masked_fill(~valid, torch.inf)
        kept = valid
        if self.min_kept < prob.numel():
            # Infinite, so that all valid pixels are kept, when fewer are valid.
            smallest = _kth_smallest(prob.flatten(), self.min_kept)
            kept = valid & (prob <= smallest.clamp(min=self.thresh))
        divisor = valid.sum() if self.over_valid else valid.numel()
        return kept * (divisor / kept.sum().clamp(min=1).to(prob.dtype))


def _kth_smallest(values: Tensor, k: int) -> Tensor:
    if values.device.type == 'cpu':
        return values.kthvalue(k).values
    # kthvalue leaves most of a GPU idle, and is not deterministic there.
    return values.sort().values[k - 1]


def _divides_by_valid(losses: Any) -> bool:
    """Whether the losses divide by the valid pixels, or else by all; refuse others."""
    found = set()
    for loss in losses if isinstance(losses, nn.ModuleList) else [losses]:
        plain = (
            isinstance(loss, CrossEntropyLoss)
            and not (loss.use_sigmoid or loss.use_mask)
            and loss.class_weight is None
            and loss.reduction == 'mean'
        )
        if not plain:
            raise ValueError(
                'decode_head.sampler: MeanOHEMPixelSampler takes the mean of a CrossEntropyLoss '
                "over classes (no use_sigmoid, use_mask or class_weight, reduction='mean'), but "
                f"decode_head.loss_decode has {loss}: change it, or use type='OHEMPixelSampler'"
            )
        found.add(bool(loss.avg_non_ignore))
    if len(found) != 1:
        raise ValueError(
            'decode_head.sampler: the losses of decode_head.loss_decode differ in avg_non_ignore, '
            'and MeanOHEMPixelSampler can give the mean of one kind only: set it to True in all'
        )
    return found.pop()
