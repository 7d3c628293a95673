"""UniMatch's feature perturbation."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import Number

from .base_perturbation import BasePerturbation


@MODELS.register_module()
class FeatureDropout(BasePerturbation):
    """Drop whole channels of every feature map that the decoder takes.

    UniMatch (Yang et al., CVPR 2023, Sec. 3.2): ``Dropout2d(0.5)``.

    Args:
        prob: Probability of a channel to be dropped, in [0, 1).

    Raises:
        ValueError: The probability is outside [0, 1).
    """

    def __init__(self, prob: Annotated[float, Number(0, 1, below=True)] = 0.5) -> None:
        super().__init__()
        self.prob = prob

    def forward(self, maps: list[Tensor], views: int) -> list[Tensor]:
        """Drop channels, each image and map for itself."""
        return [F.dropout2d(one, self.prob, training=True) for one in maps]

    def extra_repr(self) -> str:
        """Show the probability in the model's printout."""
        return f'prob={self.prob}'
