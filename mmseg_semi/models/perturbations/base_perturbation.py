"""What every feature perturbation is."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from mmseg_semi.models.component import Component


class BasePerturbation(Component):
    """Perturbs what the decoder takes of a stream, between encoder and decoder."""

    @abstractmethod
    def forward(self, maps: list[Tensor], views: int) -> list[Tensor]:
        """Return the perturbed maps, same shapes.

        Args:
            maps: Every feature map that a decode head takes, (V * B, C, h, w) each, with
                gradient: the B images of the stream's first view, then those of the second, ...
            views: V, the number of views.
        """
