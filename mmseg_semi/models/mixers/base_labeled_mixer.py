"""What every mixer of labeled images is."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from mmseg_semi.models.component import Component
from mmseg_semi.structures import SemiStep


class BaseLabeledMixer(Component):
    """Mixes labeled images with each other, ground truth and all, before the student sees them."""

    @abstractmethod
    def forward(self, images: Tensor, truth: Tensor, step: SemiStep) -> tuple[Tensor, Tensor]:
        """Return mixed images and their ground truth.

        Args:
            images: Normalized images (B, 3, H, W).
            truth: int64 (B, H, W), 255 where nobody knows.
            step: The training step, which has no outputs yet.
        """
