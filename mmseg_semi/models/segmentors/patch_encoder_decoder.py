"""Prediction of images of any size by networks that take multiples of a patch."""

from __future__ import annotations

from typing import Any

from mmseg.models.utils import resize
from mmseg.registry import MODELS
from torch import Tensor

from .sliding_encoder_decoder import SlidingEncoderDecoder


@MODELS.register_module()
class PatchEncoderDecoder(SlidingEncoderDecoder):
    """``SlidingEncoderDecoder`` whose backbone has a ``patch_size``, for images of any size.

    An image, or a window, is resized to the nearest multiple of the patch on both sides, and the
    logits are resized back, both bilinear with ``align_corners=True``, as in UniMatch V2's program
    (TPAMI 2025). Sizes that fit stay as they are. In training nothing is resized: ``crop_size``
    must be a multiple.

    Args:
        *args: As for ``SlidingEncoderDecoder``.
        **kwargs: As for ``SlidingEncoderDecoder``.

    Raises:
        ValueError: The backbone has no ``patch_size``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not hasattr(self.backbone, 'patch_size'):
            raise ValueError(
                f'PatchEncoderDecoder needs a backbone with a patch_size, as DINOv2, and '
                f"{type(self.backbone).__name__} has none: set type='EncoderDecoder'"
            )

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict[str, Any]]) -> Tensor:
        """Logits (B, K, H, W) of images (B, C, H, W)."""
        size = tuple(inputs.shape[2:])
        fitting = tuple(nearest_multiple(side, self.backbone.patch_size) for side in size)
        if fitting == size:
            return super().encode_decode(inputs, batch_img_metas)
        metas = [dict(meta, img_shape=fitting, pad_shape=fitting) for meta in batch_img_metas]
        fitted = resize(inputs, fitting, mode='bilinear', align_corners=True, warning=False)
        logits = super().encode_decode(fitted, metas)
        return resize(logits, size, mode='bilinear', align_corners=True, warning=False)


def nearest_multiple(side: int, patch: int) -> int:
    """The multiple of a patch that is nearest to a side, in pixels; one patch at least."""
    return max(int(side / patch + 0.5), 1) * patch
