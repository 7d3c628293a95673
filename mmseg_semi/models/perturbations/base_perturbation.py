"""What every feature perturbation is."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from mmseg_semi.models.component import Component


class BasePerturbation(Component):
    """Perturbs features of a stream on their way to the logits.

    Attributes:
        place: ``'encoder'``: between encoder and decoder; ``'classifier'``: what the last layer of
            the decoder takes.
    """

    place = 'encoder'

    @abstractmethod
    def forward(self, maps: list[Tensor], views: int) -> list[Tensor]:
        """Return the perturbed maps, same shapes.

        Args:
            maps: Every feature map that a decode head takes, or the one that the classifier does,
                (V * B, C, h, w) each, with gradient: the B images of the stream's first view, then
                those of the second, ...
            views: V, the number of views.
        """
