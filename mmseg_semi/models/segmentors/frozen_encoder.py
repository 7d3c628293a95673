"""Encoders that are not trained: held once, and asked once for the same images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from mmseg_semi.structures import Features


def has_frozen_encoder(segmentor: Any) -> bool:
    """Whether a segmentor's features are those of a backbone with ``frozen=True``, and no neck."""
    backbone: Any = getattr(segmentor, 'backbone', None)
    if getattr(backbone, 'frozen', False) is not True or segmentor.with_neck:
        return False
    return not any(value.requires_grad for value in backbone.parameters())


class EncodedImages:
    """Features of the images that a frozen encoder has seen in a step."""

    def __init__(self) -> None:
        self._seen: list[tuple[Tensor, Features]] = []

    def clear(self) -> None:
        """Forget all; the next step has other images."""
        self._seen.clear()

    def encode(self, parts: Sequence[Tensor], encode: Callable[[list[Tensor]], Features]) -> Any:
        """Encode batches of images together, those that were not seen before.

        Args:
            parts: The batches; one that was seen is the same tensor.
            encode: Encodes several batches.

        Returns:
            The ``Features`` of all of them, in their order.
        """
        new = [one for one in parts if self._find(one) is None]
        if new:
            found = encode(new).split([len(one) for one in new])
            self._seen += zip(new, found)
        return Features.join([features for one in parts if (features := self._find(one))])

    def _find(self, images: Tensor) -> Any:
        return next((features for one, features in self._seen if one is images), None)
