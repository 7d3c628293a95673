"""UniMatch's feature perturbation, and UniMatch V2's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import Number, OneOf
from mmseg_semi.models.component import last_head

from .base_perturbation import BasePerturbation

if TYPE_CHECKING:
    from mmseg_semi.models.segmentors import SemiSegmentor


@MODELS.register_module()
class FeatureDropout(BasePerturbation):
    """Drop whole channels of every feature map that the decoder, or its classifier, takes.

    UniMatch (Yang et al., CVPR 2023, Sec. 3.2): ``Dropout2d(0.5)``. UniMatch V2 (TPAMI 2025):
    the second of two strong views keeps just the channels that the first one drops, half of the
    images stay as they are, and the maps of DINOv2 share one draw.

    Args:
        prob: Probability of a channel to be dropped, in [0, 1); with ``complementary`` that of the
            first view, not 0.
        complementary: Whether the second view drops the channels that the first one keeps; needs
            two views.
        shared: Whether all maps drop the same channels; they must have as many.
        untouched: Share of the images, rounded down and drawn at random, all of whose views stay
            as they are.
        place: ``'encoder'``, or ``'classifier'`` to drop channels of the map that the decoder's
            last layer takes.

    Raises:
        ValueError: An argument outside its values; when the model is built, a decoder without a
            classifier at that place; in a step: ``complementary`` without two views,
            or ``shared`` with maps of different channels.
    """

    def __init__(
        self,
        prob: Annotated[float, Number(0, 1, below=True)] = 0.5,
        complementary: bool = False,
        shared: bool = False,
        untouched: Annotated[float, Number(0, 1)] = 0.0,
        place: Annotated[str, OneOf('encoder', 'classifier')] = 'encoder',
    ) -> None:
        super().__init__()
        if complementary and not prob:
            raise ValueError(
                f'FeatureDropout.prob must be a number in (0, 1) with complementary=True, got '
                f'{prob!r}: the second view would drop every channel'
            )
        self.prob, self.complementary = prob, complementary
        self.shared, self.untouched, self.place = shared, untouched, place

    def attach(self, model: SemiSegmentor) -> None:
        """Refuse a decoder that has no classifier to drop channels before."""
        if self.place == 'classifier' and last_head(model.segmentor).conv_seg is None:
            raise ValueError(
                f"{self._key}.place is 'classifier', but "
                f'{type(last_head(model.segmentor)).__name__} decodes each class alone and has no '
                "such layer: set it to 'encoder'"
            )

    def forward(self, maps: list[Tensor], views: int) -> list[Tensor]:
        """Drop channels, each image for itself, and each map unless they share a draw."""
        if self.complementary and views != 2:
            raise ValueError(
                f'{self._key}.complementary=True needs two strong views in one stream, got '
                f'{views}: set train_dataloader.dataset.unlabeled.strong.num_views=2'
            )
        channels = [one.shape[1] for one in maps]
        if self.shared and len(set(channels)) > 1:
            raise ValueError(
                f'{self._key}.shared=True needs maps of as many channels each, got {channels}: '
                'set shared=False'
            )
        kept = self.draw_untouched(len(maps[0]) // views)
        factors = self._factors(maps[0], views, kept)
        changed = [maps[0] * factors]
        for one in maps[1:]:
            factors = factors if self.shared else self._factors(one, views, kept)
            changed.append(one * factors)
        return changed

    @property
    def _key(self) -> str:
        return self.config_key or type(self).__name__

    def draw_untouched(self, images: int) -> Tensor:
        """Draw the numbers of the images that stay as they are."""
        count = int(images * self.untouched)
        return torch.randperm(images)[:count] if count else torch.empty(0, dtype=torch.int64)

    def draw(self, one: Tensor, count: int) -> Tensor:
        """Draw which channels of a map are kept, 1 or 0 (count, C, 1, 1), as F.dropout2d does."""
        return one.new_empty(count, one.shape[1], 1, 1).bernoulli_(1 - self.prob)

    def _factors(self, one: Tensor, views: int, kept: Tensor) -> Tensor:
        """Factors (V * B, C, 1, 1) of a map's channels: 0, or what keeps their mean."""
        images = len(one) // views
        keep = self.draw(one, images if self.complementary else len(one))
        factors = keep / (1 - self.prob)
        if self.complementary:
            factors = torch.cat([factors, (1 - keep) / self.prob])
        factors.view(views, images, -1)[:, kept.to(one.device)] = 1
        return factors

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return (
            f'prob={self.prob}, complementary={self.complementary}, shared={self.shared}, '
            f'untouched={self.untouched}, place={self.place!r}'
        )
