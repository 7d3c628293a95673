"""What every loss on unlabeled images is."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from mmseg_semi.arguments import check_choice, check_number
from mmseg_semi.models.component import Component
from mmseg_semi.structures import SemiStep

STREAMS: tuple[str, ...] = ('strong', 'perturbed')


class BaseSemiLoss(Component):
    """Reads a finished training step and returns named losses.

    Args:
        stream: ``'strong'`` for the strong views (the mean over them) or ``'perturbed'`` for the
            weak images decoded from perturbed features.
        loss_weight: Factor of the loss, >= 0.

    Raises:
        ValueError: The stream is unknown or the weight negative.
    """

    streams: ClassVar[tuple[str, ...]] = STREAMS

    def __init__(self, stream: str = 'strong', loss_weight: float = 1.0) -> None:
        super().__init__()
        check_choice(f'{type(self).__name__}.stream', stream, self.streams)
        check_number(f'{type(self).__name__}.loss_weight', loss_weight, 0)
        self.stream = stream
        self.loss_weight = loss_weight

    @abstractmethod
    def forward(self, step: SemiStep) -> dict[str, Tensor]:
        """Return named values; those whose name contains ``loss`` are summed and trained."""
