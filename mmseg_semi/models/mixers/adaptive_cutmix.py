"""AugSeg's CutMix, which pastes labeled images onto unlabeled ones that are not yet understood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import Each, Number
from mmseg_semi.functional import instance_confidence, mix_partners, ratio_boxes
from mmseg_semi.structures import Mix, PseudoLabel, SemiStep, View

from .base_mixer import BaseMixer


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

    Raises:
        ValueError: An argument outside its range.
    """

    def __init__(
        self,
        prob: Annotated[float, Number(0, 1)] = 1.0,
        labeled_beta: Annotated[Sequence[float], Each(Number(1e-6), 2)] = (8.0, 2.0),
        unlabeled_beta: Annotated[Sequence[float], Each(Number(1e-6), 2)] = (4.0, 4.0),
    ) -> None:
        super().__init__()
        self.prob = prob
        self.labeled_beta, self.unlabeled_beta = tuple(labeled_beta), tuple(unlabeled_beta)

    def forward(self, images: Tensor, pseudo: PseudoLabel, step: SemiStep) -> View:
        """Paste and mix with new boxes and partners for each image."""
        batch, size, device = len(images), tuple(images.shape[-2:]), images.device
        confidence = instance_confidence(step.raw_pseudo.prob, step.raw_pseudo.valid)
        pasted = torch.rand(batch).to(device) >= confidence
        box = ratio_boxes(self._sides(batch, self.labeled_beta).to(device) * pasted, size)
        index = torch.randint(len(step.labeled_images), (batch,)).to(device)
        images = torch.where(box[:, None], step.labeled_images[index], images)
        pseudo = pseudo.paste(box, step.labeled_truth[index].long())
        sides = self._sides(batch, self.unlabeled_beta).to(device)
        sides = sides * (torch.rand(batch) < self.prob).to(device) * (batch > 1)
        plan = Mix(ratio_boxes(sides, size), mix_partners(batch).to(device))
        plan.foreign = plan(box)
        step.log(f'{self.name}.pasted', pasted.float().mean())
        return View(plan(images), pseudo.map(plan), plan)

    def _sides(self, batch: int, beta: Sequence[float]) -> Tensor:
        return (1 - torch.distributions.Beta(beta[0], beta[1]).sample((batch,))).sqrt()

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return (
            f'prob={self.prob}, labeled_beta={self.labeled_beta}, '
            f'unlabeled_beta={self.unlabeled_beta}'
        )
