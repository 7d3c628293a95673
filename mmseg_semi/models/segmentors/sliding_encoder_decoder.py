"""Sliding windows as the semi-supervised papers evaluate with them."""

from __future__ import annotations

from typing import Any

import torch
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import check_choice
from mmseg_semi.functional import at_least_float32

WINDOW_KEYS = ('window_average', 'window_border')
AVERAGES = ('logit', 'prob')
BORDERS = ('shift', 'cut')


def window_spans(size: int, window: int, stride: int, border: str) -> list[tuple[int, int]]:
    """Tell where windows start and end along one side of an image.

    Args:
        size: Length of the side.
        window: Length of a window.
        stride: Distance of the starts.
        border: ``'cut'``: one start at every multiple of ``stride`` inside the image, windows end
            at the image's edge. ``'shift'``: no more windows than cover the image, and the last one
            is moved inside.
    """
    if border == 'cut':
        return [(start, min(start + window, size)) for start in range(0, size, stride)]
    count = -(-max(size - window, 0) // stride) + 1
    ends = [min(i * stride + window, size) for i in range(count)]
    return [(max(end - window, 0), end) for end in ends]


@MODELS.register_module()
class SlidingEncoderDecoder(EncoderDecoder):
    """mmseg's ``EncoderDecoder`` with a choice of how windows overlap and are averaged.

    Two more keys of ``test_cfg``, for ``mode='slide'``; without them it is ``EncoderDecoder``:

    - ``window_average``: ``'logit'``, as mmseg does, or ``'prob'``, the mean of the softmax. Then
      the logits that it gives are the logarithm of the mean probability: their softmax is that
      mean and their argmax that of the sum, so resizing, test-time augmentation and metrics work as
      with any logits. Probabilities below the smallest normal number of their type count as that.
    - ``window_border``: ``'shift'``, as mmseg does, moves the windows at the right and lower border
      inside; ``'cut'`` lets them end at the image's edge, where they are smaller.

    UniMatch and the methods on it test Cityscapes with windows of the crop's size, a stride of two
    thirds of it, ``'prob'`` and ``'cut'``.

    Args:
        *args: As for ``EncoderDecoder``.
        **kwargs: As for ``EncoderDecoder``.

    Raises:
        ValueError: A value of ``test_cfg`` outside the allowed ones, or one of the two keys with
            another mode.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        cfg = self.test_cfg or {}
        self.window_average = cfg.get('window_average', 'logit')
        self.window_border = cfg.get('window_border', 'shift')
        check_choice('test_cfg.window_average', self.window_average, AVERAGES)
        check_choice('test_cfg.window_border', self.window_border, BORDERS)
        given = [key for key in WINDOW_KEYS if key in cfg]
        if cfg.get('mode', 'whole') == 'slide':
            _check_windows(cfg)
        elif given:
            raise ValueError(
                f'test_cfg.mode={cfg.get("mode", "whole")!r} has no windows, but {given[0]}='
                f"{cfg[given[0]]!r} is set: use mode='slide' with crop_size and stride, or remove "
                f'{", ".join(given)}'
            )
        if self.window_average == 'prob' and self.out_channels < 2:
            raise ValueError(
                "test_cfg.window_average='prob' averages the softmax over classes, but decode_head."
                "out_channels=1 (sigmoid): remove out_channels, or use window_average='logit'"
            )

    def slide_inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Predict in windows.

        Args:
            inputs: Images (B, 3, H, W). A side shorter than the window is one window.
            batch_img_metas: Their meta data.

        Returns:
            Logits (B, K, H, W); with ``window_average='prob'`` log-probabilities.
        """
        (height, width), metas = inputs.shape[2:], [dict(meta) for meta in batch_img_metas]
        windows, strides = self.test_cfg['crop_size'], self.test_cfg['stride']
        rows, columns = (
            window_spans(size, window, stride, self.window_border)
            for size, window, stride in zip((height, width), windows, strides)
        )
        total: Any = None
        count: Any = None
        for top, bottom in rows:
            for left, right in columns:
                part = inputs[:, :, top:bottom, left:right]
                metas[0]['img_shape'] = part.shape[2:]  # heads resize to it
                logits = self.encode_decode(part, metas)
                if self.window_average == 'prob':
                    logits = at_least_float32(logits).softmax(dim=1)
                if total is None:
                    total = logits.new_zeros(*logits.shape[:2], height, width)
                    count = logits.new_zeros(height, width)
                total[:, :, top:bottom, left:right] += logits
                count[top:bottom, left:right] += 1
        mean = total / count
        if self.window_average == 'prob':
            return mean.clamp(min=torch.finfo(mean.dtype).tiny).log()
        return mean


def _check_windows(cfg: dict[str, Any]) -> None:
    sizes = {}
    for key in ('crop_size', 'stride'):
        value: Any = cfg.get(key)
        pair = isinstance(value, (list, tuple)) and len(value) == 2
        if not pair or not all(type(one) is int and one > 0 for one in value):
            raise ValueError(
                f"test_cfg.{key} must be (height, width) in pixels with mode='slide', got {value!r}"
            )
        sizes[key] = tuple(value)
    if any(step > size for step, size in zip(sizes['stride'], sizes['crop_size'])):
        raise ValueError(
            f'test_cfg.stride={sizes["stride"]} is larger than crop_size={sizes["crop_size"]}: '
            'pixels between the windows would have no prediction; make it smaller'
        )
