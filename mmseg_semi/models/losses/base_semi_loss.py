"""What every loss on unlabeled images is."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated

import torch
from torch import Tensor

from mmseg_semi.arguments import Number
from mmseg_semi.models.component import Component
from mmseg_semi.structures import SemiStep, View


class BaseSemiLoss(Component):
    """Reads a stream of a finished training step and returns named losses.

    Args:
        stream: Name of a stream of ``model.streams``: ``'strong'``, the strong views, or another.
        loss_weight: Factor of the loss, >= 0.

    Raises:
        ValueError: The weight is negative; when the model is built, there is no such stream.
    """

    def __init__(
        self, stream: str = 'strong', loss_weight: Annotated[float, Number(0)] = 1.0
    ) -> None:
        super().__init__()
        self.stream = stream
        self.loss_weight = loss_weight

    def forward(self, step: SemiStep) -> dict[str, Tensor]:
        """Return named values; those whose name contains ``loss`` are summed and trained.

        By itself it is the mean of :meth:`loss_of` over the views of the stream.
        """
        losses = [self.loss_of(view) for view in step.streams[self.stream]]
        return dict(loss=self.loss_weight * torch.stack(losses).mean())

    @abstractmethod
    def loss_of(self, view: View) -> Tensor:
        """Return the 0-dim loss of one view, not yet weighted."""
