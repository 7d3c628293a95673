"""Faults of mmsegmentation that a user of this package would meet, and what is slow there."""

from __future__ import annotations

import functools
from typing import Any

import torch
from mmengine.config import config
from mmseg.models.decode_heads import decode_head
from mmseg.models.losses import accuracy
from mmseg.models.losses.cross_entropy_loss import CrossEntropyLoss, cross_entropy

from mmseg_semi.functional.losses import pixel_accuracy


def weighted_cross_entropy(
    pred: torch.Tensor,
    label: torch.Tensor,
    weight: Any = None,
    class_weight: torch.Tensor | None = None,
    reduction: str = 'mean',
    avg_factor: Any = None,
    ignore_index: int = -100,
    avg_non_ignore: bool = False,
) -> torch.Tensor:
    """Mmseg's ``cross_entropy`` with class weights, for labels with unknown pixels too.

    mmseg 1.2.2 looks the weight of every pixel up by its class, also of those without one, and ends
    with an IndexError (on a GPU with a device-side assertion). Here unknown pixels weigh nothing:
    the mean is that over known pixels, weighted by the weights of their classes.

    Args:
        pred: Logits (B, K, H, W).
        label: Class numbers (B, H, W), int64; ``ignore_index`` is unknown.
        weight: Weights of pixels (B, H, W).
        class_weight: Weights of classes (K,).
        reduction: 'mean', 'sum' or 'none'.
        avg_factor: What the sum is divided by, None for the sum of the weights.
        ignore_index: The number of unknown pixels.
        avg_non_ignore: Passed on.
    """
    if class_weight is not None and avg_factor is None and reduction == 'mean':
        known = label != ignore_index
        avg_factor = (class_weight[torch.where(known, label, 0)] * known).sum()
    return cross_entropy(
        pred,
        label,
        weight=weight,
        class_weight=class_weight,
        reduction=reduction,
        avg_factor=avg_factor,
        ignore_index=ignore_index,
        avg_non_ignore=avg_non_ignore,
    )


def let_class_weights_meet_unknown_pixels() -> None:
    """Let mmseg's ``CrossEntropyLoss`` with class weights use :func:`weighted_cross_entropy`."""
    init = CrossEntropyLoss.__init__
    if hasattr(init, '__wrapped__'):
        return

    @functools.wraps(init)
    def with_unknown_pixels(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if self.class_weight is not None and self.cls_criterion is cross_entropy:
            self.cls_criterion = weighted_cross_entropy

    CrossEntropyLoss.__init__ = with_unknown_pixels


def count_right_pixels_fast() -> None:
    """Let mmseg's heads log ``acc_seg`` by :func:`pixel_accuracy`."""
    if decode_head.accuracy is accuracy:
        decode_head.accuracy = pixel_accuracy


def format_configs_once() -> None:
    """Let mmengine remember the config that it has formatted last.

    It takes a second, and mmengine formats the same config for the log, for the copy in the work
    folder, for each backend of the visualizer and for each checkpoint.
    """
    format_code = config.FormatCode
    if hasattr(format_code, '__wrapped__'):
        return
    last: dict[str, Any] = {}

    @functools.wraps(format_code)
    def format_once(text: str, **options: Any) -> Any:
        if text not in last:
            formatted = format_code(text, **options)
            last.clear()
            last[text] = formatted
        return last[text]

    config.FormatCode = format_once
