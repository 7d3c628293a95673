"""What every feature perturbation is."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from mmseg_semi.models.component import Component


class BasePerturbation(Component):
    """Perturbs one feature map that the decoder takes; called for each of them."""

    @abstractmethod
    def forward(self, feature: Tensor) -> Tensor:
        """Return the perturbed map, same shape.

        Args:
            feature: (B, C, h, w), with gradient.
        """
