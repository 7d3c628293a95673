"""Cross entropy against pseudo-labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Optional

import torch
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import Number, OneOf
from mmseg_semi.functional import image_confidence, weighted_cross_entropy
from mmseg_semi.functional.equalization import equalization_mask
from mmseg_semi.functional.losses import DENOMINATORS
from mmseg_semi.models.heads.class_confidence import find_class_confidence
from mmseg_semi.structures import View

from .base_semi_loss import BaseSemiLoss

if TYPE_CHECKING:
    from mmseg_semi.models.segmentors import SemiSegmentor

SCALES = ('one', 'inverse_share', 'mean_confidence')
EQUALIZE_BY = ('label', 'prediction')


@MODELS.register_module()
class PseudoLabelCrossEntropy(BaseSemiLoss):
    """Train a stream of unlabeled images with the selected pixels of its pseudo-label.

    FixMatch's unsupervised loss (Sohn et al., NeurIPS 2020, Eq. 4) per pixel. With several strong
    views it is the mean over them, so UniMatch's 1/4 + 1/4 of two views is one ``loss_weight``.

    ``equalize`` and ``gamma`` are AEL's adaptive equalization sampling and dynamic re-weighting
    (Hu et al., NeurIPS 2021; gamma = 2 there).

    Args:
        stream: Name of the stream; one of labeled images has the teacher's labels (AEL's program).
        loss_weight: Factor of the loss.
        denominator: ``'valid'`` divides by the number of valid pixels (FixMatch, UniMatch),
            ``'selected'`` by that of the selected ones, ``'weight'`` by the sum of their weights,
            ``'valid_weight'`` by that of all valid pixels, ``'all'`` by the number of all pixels.
        scale: ``'one'``, or ``'inverse_share'``: the loss is multiplied by the number of valid
            pixels over that of the selected ones (U2PL's weight of :math:`L_u`, also in S4MC's
            program on CutMix-Seg; there with ``denominator='selected'``); or
            ``'mean_confidence'``: each image's by the mean confidence of its valid pixels (SemiVL
            on Cityscapes).
        equalize: Name of the ``ClassConfidence`` in ``model.heads`` by which pixels of well learned
            classes are left out at random (``functional.equalization_mask``), as if they were not
            selected and had no weight. None leaves none out.
        equalize_by: Of which class a pixel is: of its ``'label'``, with a draw of its own; or of
            the student's ``'prediction'``, with one map of draws a class for all images of the
            batch (the authors' program).
        gamma: Each pixel's weight is multiplied by its confidence to the power of gamma, >= 0;
            needs ``denominator='weight'`` or ``'valid_weight'``. None for no such factor.

    Raises:
        ValueError: An argument outside its allowed values; there is no such head.
    """

    def __init__(
        self,
        stream: str = 'strong',
        loss_weight: float = 1.0,
        denominator: Annotated[str, OneOf(*DENOMINATORS)] = 'valid',
        scale: Annotated[str, OneOf(*SCALES)] = 'one',
        equalize: Optional[str] = None,
        equalize_by: Annotated[str, OneOf(*EQUALIZE_BY)] = 'label',
        gamma: Annotated[Optional[float], Number(0)] = None,
    ) -> None:
        super().__init__(stream, loss_weight)
        if gamma is not None and denominator not in ('weight', 'valid_weight'):
            raise ValueError(
                'PseudoLabelCrossEntropy.gamma weighs each pixel against the others, so the '
                "loss is divided by the sum of the weights: set denominator='weight' or "
                f"'valid_weight' (got '{denominator}', with which the whole loss would follow the "
                'confidence) or gamma=None'
            )
        self.denominator, self.scale, self.gamma = denominator, scale, gamma
        self.equalize, self.equalize_by = equalize, equalize_by
        self._found: tuple[Any, ...] = ()

    def attach(self, model: SemiSegmentor) -> None:
        """Find the class confidences."""
        if self.equalize is not None:
            self._found = find_class_confidence(
                model, self.equalize, type(self).__name__, 'equalize'
            )

    def draw(self, classes: int, size: tuple[int, ...], device: torch.device) -> Tensor:
        """Draw the maps (K, H, W) of ``equalize_by='prediction'``, uniform in [0, 1)."""
        return torch.rand(classes, *size, device=device)

    def sample(self, view: View) -> Tensor:
        """Return which pixels of a view equalization keeps, bool (B, H, W)."""
        confidence, label = self._found[0].current, view.pseudo.label
        if self.equalize_by == 'label':
            return equalization_mask(label, confidence)
        maps = self.draw(len(confidence), tuple(label.shape[-2:]), label.device)
        return equalization_mask(view.outputs.logits.argmax(1), confidence, draw=maps)

    def pixels(self, view: View) -> tuple[Tensor, Optional[Tensor]]:
        """Return the selected pixels that equalization keeps, and their weights with ``gamma``."""
        pseudo = view.pseudo
        selected, weight = pseudo.selected, pseudo.weight
        if self.gamma is not None:
            factor = pseudo.confidence**self.gamma
            weight = factor if weight is None else weight * factor
        if self.scale == 'mean_confidence':
            factor = image_confidence(pseudo.confidence, pseudo.valid)
            weight = factor if weight is None else weight * factor
        if self._found:
            sampled = self.sample(view)
            selected = selected & sampled
            weight = sampled if weight is None else weight * sampled
        return selected, weight

    def forward(self, view: View) -> Tensor:
        """Return the 0-dim loss of one view."""
        pseudo = view.pseudo
        selected, weight = self.pixels(view)
        loss = weighted_cross_entropy(
            view.outputs.logits,
            pseudo.label,
            pseudo.valid,
            selected,
            weight,
            self.denominator,
        )
        if self.scale == 'inverse_share':
            used = (selected & pseudo.valid).sum()
            loss = loss * pseudo.valid.sum() / used.clamp(min=1)
        return loss
