"""What every mixer is."""

from __future__ import annotations

from abc import abstractmethod
from typing import Callable, Optional

from torch import Tensor

from mmseg_semi.models.component import Component
from mmseg_semi.structures import Partners, PseudoLabel, SemiStep, View


class BaseMixer(Component):
    """Makes a strong view from strongly augmented images and the pseudo-label of their crops.

    Attributes:
        load: ``load(step)`` loads unlabeled images that are to be labeled with the batch, or gives
            None; None for a mixer that never does.
    """

    load: Optional[Callable[[SemiStep], Optional[Partners]]] = None

    @abstractmethod
    def forward(self, images: Tensor, pseudo: PseudoLabel, step: SemiStep) -> View:
        """Mix images and every field of the pseudo-label alike.

        Args:
            images: One strong view of all unlabeled images, (B, 3, H, W).
            pseudo: Their pseudo-label.
            step: The training step.
        """
