"""AEL's adaptive copy-paste between labeled images."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Any

import torch
from mmengine.logging import print_log
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import Number, Whole
from mmseg_semi.functional import mix_partners
from mmseg_semi.functional.equalization import draw_classes, sampling_weights
from mmseg_semi.models.heads.class_confidence import find_class_confidence
from mmseg_semi.structures import SemiStep

from .base_labeled_mixer import BaseLabeledMixer

if TYPE_CHECKING:
    from mmseg_semi.models.segmentors import SemiSegmentor


@MODELS.register_module()
class CopyPaste(BaseLabeledMixer):
    r"""Paste badly learned classes of another labeled image of the batch, ground truth and all.

    AEL (Hu et al., NeurIPS 2021): for each image, classes are drawn from
    :math:`softmax(\sqrt{1 - c})` with c of a ``ClassConfidence``, and all pixels of these classes
    in another labeled image are pasted; pixels of unknown class (255) never. A class that is not
    in the other image gives nothing, and a batch of one image is left unmixed, which the log says
    once. The paper fixes neither the number of classes nor ``prob``.

    Args:
        num_classes: Classes drawn for an image, without replacement; with more than the segmentor
            has, every class of the other image is pasted.
        prob: Probability that an image is pasted into at all.
        power: Exponent of 1 - c.
        head: Name of the ``ClassConfidence`` in ``model.heads``.

    Raises:
        ValueError: An argument outside its range; there is no such head.
    """

    def __init__(
        self,
        num_classes: Annotated[int, Whole(1)] = 3,
        prob: Annotated[float, Number(0, 1)] = 0.5,
        power: Annotated[float, Number(0)] = 0.5,
        head: str = 'class_confidence',
    ) -> None:
        super().__init__()
        self.num_classes, self.prob, self.power, self.head = num_classes, prob, power, head
        self._found: tuple[Any, ...] = ()
        self._warned = False

    def attach(self, model: SemiSegmentor) -> None:
        """Find the class confidences."""
        self._found = find_class_confidence(model, self.head, type(self).__name__, 'head')

    def forward(self, images: Tensor, truth: Tensor, step: SemiStep) -> tuple[Tensor, Tensor]:
        """Paste with new classes and a new partner for each image."""
        batch, device = len(images), images.device
        if batch < 2:
            self._warn_once()
            return images, truth
        weights = sampling_weights(self._found[0].values, self.power)
        drawn = draw_classes(weights, batch, min(self.num_classes, len(weights))).to(device)
        partners = mix_partners(batch).to(device)
        mixed = (torch.rand(batch) < self.prob).to(device)
        # A column more than there are classes, never chosen, for pixels of unknown class.
        chosen = torch.zeros(batch, len(weights) + 1, dtype=torch.bool, device=device)
        chosen.scatter_(1, drawn, True)
        chosen &= mixed[:, None]
        other = truth[partners]
        index = other.long().clamp(max=len(weights)).flatten(1)
        mask = chosen.gather(1, index).view(other.shape)
        return torch.where(mask[:, None], images[partners], images), torch.where(mask, other, truth)

    def _warn_once(self) -> None:
        if not self._warned:
            self._warned = True
            print_log(
                'CopyPaste needs two labeled images in a batch and got one: nothing is pasted. '
                'Raise train_dataloader.batch_size or the labeled part of sampler.ratio.',
                logger='current',
                level=logging.WARNING,
            )

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return f'num_classes={self.num_classes}, prob={self.prob}, power={self.power}'
