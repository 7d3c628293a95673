"""CutMix between unlabeled images of a batch."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from mmengine.logging import print_log
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.functional import cutmix_boxes, mix_partners
from mmseg_semi.structures import Mix, PseudoLabel, SemiStep, View

from .base_mixer import BaseMixer


@MODELS.register_module()
class CutMix(BaseMixer):
    """Paste a rectangle of another unlabeled image of the batch, pseudo-label and all.

    CutMix for semi-supervised segmentation (French et al., BMVC 2020) with UniMatch's constants
    (Yang et al., CVPR 2023). The partner comes from the same batch, as in UniMatch V2, and is
    never the image itself; a batch of one image is left unmixed, which the log says once.

    Args:
        prob: Probability that an image gets a box.
        area: Smallest and largest box area as a fraction of the image.
        aspect: Smallest and largest height / width of the box.

    Raises:
        ValueError: An argument outside its range.
    """

    def __init__(
        self,
        prob: float = 0.5,
        area: Sequence[float] = (0.02, 0.4),
        aspect: Sequence[float] = (0.3, 1 / 0.3),
    ) -> None:
        super().__init__()
        for name, value in (('area', area), ('aspect', aspect)):
            if not isinstance(value, (list, tuple)):
                raise TypeError(f'CutMix.{name} must be (smallest, largest), got {value!r}')
        self.prob, self.area, self.aspect = prob, tuple(area), tuple(aspect)
        self._warned = False
        # Draws one box now, so that a wrong argument is refused when the model is built.
        generator = torch.Generator().manual_seed(0)
        cutmix_boxes(1, (8, 8), self.prob, self.area, self.aspect, generator=generator)

    def forward(self, images: Tensor, pseudo: PseudoLabel, step: SemiStep) -> View:
        """Mix with a new partner and box for each image."""
        batch = images.shape[0]
        if batch < 2:
            self._warn_once()
            return View(images, pseudo)
        size = tuple(images.shape[-2:])
        mask = cutmix_boxes(batch, size, self.prob, self.area, self.aspect, device=images.device)
        plan = Mix(mask, mix_partners(batch).to(images.device))
        return View(plan(images), pseudo.map(plan), plan)

    def _warn_once(self) -> None:
        if not self._warned:
            self._warned = True
            print_log(
                'CutMix needs two unlabeled images in a batch and got one: nothing is mixed. '
                'Raise train_dataloader.batch_size or the unlabeled part of sampler.ratio.',
                logger='current',
                level=logging.WARNING,
            )

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return f'prob={self.prob}, area={self.area}, aspect={self.aspect}'
