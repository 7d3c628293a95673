"""AugSeg's CutMix, which pastes labeled images onto unlabeled ones that are not yet understood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import Each, Number, OneOf
from mmseg_semi.functional import instance_confidence, mix_partners, ratio_boxes
from mmseg_semi.functional.mixing import PLACINGS
from mmseg_semi.structures import Mix, PseudoLabel, SemiStep, View

from .base_mixer import BaseMixer

PASTES = ('partner', 'image')


@dataclass
class LabeledBoxes:
    """Boxes of labeled images in unlabeled ones.

    Attributes:
        mask: Bool (B, H, W), True where the labeled image's pixel is taken.
        index: int64 (B,), which labeled image.
    """

    mask: Tensor
    index: Tensor


@MODELS.register_module()
class AdaptiveCutMix(BaseMixer):
    r"""Mix labeled boxes into unsure images, then unlabeled images with each other.

    AugSeg (Zhao et al., CVPR 2023). With probability :math:`1 - \rho`, where :math:`\rho` is the
    teacher's confidence in the image (``functional.instance_confidence``, before any refiner), a
    box of a random labeled image of the batch is pasted, ground truth and all, with confidence 1.
    Then every image takes a box from another unlabeled image of the batch. Sides of the boxes are
    :math:`\sqrt{1 - \lambda}` of the image's, with :math:`\lambda` from the Beta distributions.

    Args:
        prob: Probability that an image takes a box from an unlabeled one.
        labeled_beta: Parameters of the Beta distribution of the labeled boxes.
        unlabeled_beta: Parameters of that of the unlabeled boxes.
        paste: Where a labeled box is seen. ``'partner'``: only as far as another image takes it
            over inside its own box (the authors' program; the paper does not say); ``'image'``: in
            the image that it was pasted into, too.
        boxes: ``'inside'``: a lambda for each image, and boxes that lie inside; ``'clipped'``: one
            lambda of each kind for the batch, and boxes that are cut off at the border (the
            authors' program), see ``functional.ratio_boxes``.

    Raises:
        ValueError: An argument outside its range.
    """

    def __init__(
        self,
        prob: Annotated[float, Number(0, 1)] = 1.0,
        labeled_beta: Annotated[Sequence[float], Each(Number(1e-6), 2)] = (8.0, 2.0),
        unlabeled_beta: Annotated[Sequence[float], Each(Number(1e-6), 2)] = (4.0, 4.0),
        paste: Annotated[str, OneOf(*PASTES)] = 'partner',
        boxes: Annotated[str, OneOf(*PLACINGS)] = 'inside',
    ) -> None:
        super().__init__()
        self.prob, self.paste, self.boxes = prob, paste, boxes
        self.labeled_beta, self.unlabeled_beta = tuple(labeled_beta), tuple(unlabeled_beta)

    def forward(self, images: Tensor, pseudo: PseudoLabel, step: SemiStep) -> View:
        """Paste and mix with new boxes and partners for each image."""
        confidence = instance_confidence(step.raw_pseudo.prob, step.raw_pseudo.valid)
        labeled = self.labeled_boxes(confidence, step)
        plan = self.plan(images)
        box, index = labeled.mask, labeled.index
        pasted = torch.where(box[:, None], step.labeled_images[index], images)
        known = pseudo.paste(box, step.labeled_truth[index].long())
        if self.paste == 'image':
            images, pseudo, seen = pasted, known, box
        else:
            seen = torch.zeros_like(box)
        plan.foreign = plan(seen, box)
        step.log(f'{self.name}.pasted', box.flatten(1).any(1).float().mean())
        return View(plan(images, pasted), pseudo.combine(known, plan), plan)

    def labeled_boxes(self, confidence: Tensor, step: SemiStep) -> LabeledBoxes:
        """Draw the boxes of labeled images.

        Args:
            confidence: rho, (B,), how sure the teacher is of each image.
            step: The training step.
        """
        batch, device = len(confidence), confidence.device
        pasted = torch.rand(batch).to(device) >= confidence
        sides = self._sides(batch, self.labeled_beta).to(device) * pasted
        box = ratio_boxes(sides, tuple(step.labeled_images.shape[-2:]), placing=self.boxes)
        return LabeledBoxes(box, torch.randint(len(step.labeled_images), (batch,)).to(device))

    def plan(self, images: Tensor) -> Mix:
        """Draw boxes of unlabeled images and partners for one strong view (B, 3, H, W)."""
        batch, size, device = len(images), tuple(images.shape[-2:]), images.device
        sides = self._sides(batch, self.unlabeled_beta).to(device)
        sides = sides * (torch.rand(batch) < self.prob).to(device) * (batch > 1)
        mask = ratio_boxes(sides, size, placing=self.boxes)
        return Mix(mask, mix_partners(batch).to(device))

    def _sides(self, batch: int, beta: Sequence[float]) -> Tensor:
        number = batch if self.boxes == 'inside' else 1
        drawn = torch.distributions.Beta(beta[0], beta[1]).sample((number,))
        return (1 - drawn).sqrt().expand(batch)

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return (
            f'prob={self.prob}, labeled_beta={self.labeled_beta}, '
            f'unlabeled_beta={self.unlabeled_beta}, paste={self.paste!r}, boxes={self.boxes!r}'
        )
