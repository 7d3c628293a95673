"""What every training-only head is."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from mmseg_semi.models.component import Component
from mmseg_semi.structures import SemiStep


class BaseSemiHead(Component):
    """Has parameters or state of its own and adds losses; nothing of it runs at inference."""

    def supervised(self, step: SemiStep) -> dict[str, Tensor]:
        """Return named values of the labeled images, as ``forward`` does; in the warm-up too."""
        return {}

    @abstractmethod
    def forward(self, step: SemiStep) -> dict[str, Tensor]:
        """Return named tensors of one number.

        Those whose name contains ``loss`` are summed and trained.
        """

    def balance(self, losses: dict[str, Tensor], step: SemiStep) -> dict[str, Tensor]:
        """Return all losses of the step, scaled against each other; called last."""
        return losses
