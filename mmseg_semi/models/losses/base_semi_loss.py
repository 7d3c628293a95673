"""What every loss on unlabeled images is."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Optional

from torch import Tensor

from mmseg_semi.arguments import Number
from mmseg_semi.models.component import Component
from mmseg_semi.structures import View


class BaseSemiLoss(Component):
    """Loss of a view of a stream; the step takes the mean over the views, times ``loss_weight``.

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

    def pixels(self, view: View) -> tuple[Tensor, Optional[Tensor]]:
        """Return which pixels of a view train, bool (B, H, W), and their weights (B, H, W).

        Weights are None where all are 1. Padding is told by ``view.pseudo.valid``.
        """
        return view.pseudo.selected, view.pseudo.weight

    @abstractmethod
    def forward(self, view: View) -> Tensor:
        """Return the 0-dim loss of one view: of its outputs, by its pseudo-label."""
