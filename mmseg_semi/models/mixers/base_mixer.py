"""What every mixer is."""

from __future__ import annotations

from abc import abstractmethod
from typing import Optional

from torch import Tensor

from mmseg_semi.models.component import Component
from mmseg_semi.structures import Partners, PseudoLabel, SemiStep, View


class BaseMixer(Component):
    """Makes a strong view from strongly augmented images and the pseudo-label of their crops."""

    def load(self, step: SemiStep) -> Optional[Partners]:
        """Load unlabeled images that are to be labeled with the batch; None for none of them."""
        return None

    @abstractmethod
    def forward(self, images: Tensor, pseudo: PseudoLabel, step: SemiStep) -> View:
        """Mix images and every field of the pseudo-label alike.

        Args:
            images: One strong view of all unlabeled images, (B, 3, H, W).
            pseudo: Their pseudo-label.
            step: The training step.
        """
