"""UniMatch's feature perturbation."""

from __future__ import annotations

import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor

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

    def __init__(self, prob: float = 0.5) -> None:
        super().__init__()
        if not 0 <= prob < 1:
            raise ValueError(f'FeatureDropout.prob must be in [0, 1), got {prob}')
        self.prob = prob

    def forward(self, feature: Tensor) -> Tensor:
        """Drop channels, each image for itself."""
        return F.dropout2d(feature, self.prob, training=True)

    def extra_repr(self) -> str:
        """Show the probability in the model's printout."""
        return f'prob={self.prob}'
