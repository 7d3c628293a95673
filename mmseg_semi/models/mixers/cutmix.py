"""CutMix between unlabeled images of a batch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Optional

import torch
from mmengine.logging import print_log
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import Each, Number, OneOf
from mmseg_semi.errors import hint
from mmseg_semi.functional import cutmix_boxes, mix_partners
from mmseg_semi.functional.mixing import BOX_DRAWS, COINS, PARTNERS
from mmseg_semi.structures import Mix, PseudoLabel, SemiStep, View

from .base_mixer import BaseMixer

if TYPE_CHECKING:
    from mmseg_semi.models.segmentors import SemiSegmentor


@MODELS.register_module()
class CutMix(BaseMixer):
    """Paste a rectangle of another unlabeled image of the batch, pseudo-label and all.

    CutMix for semi-supervised segmentation (French et al., BMVC 2020) with UniMatch's constants
    (Yang et al., CVPR 2023). The partner comes from the same batch, as in UniMatch V2, and is
    never the image itself (but for ``partner='reversed'``); a batch of one image is left unmixed,
    which the log says once.

    Args:
        prob: Probability that an image gets a box.
        area: Smallest and largest box area as a fraction of the image.
        aspect: Smallest and largest height / width of the box.
        draw: How a box is drawn, see ``functional.cutmix_boxes``: ``'fitting'``, ``'rejection'``
            (UniMatch's program) or ``'width'`` (U2PL's).
        coin: Whether ``prob`` decides for each ``'image'``, or once for the ``'batch'``.
        partner: ``'random'``: one random cycle through the batch; ``'next'``: the next image of
            the batch; ``'reversed'``: image i of B takes B - 1 - i, so that the middle one of an
            odd batch stays as it is (UniMatch V2's program).
        same_partner: Whether all strong views of an image have the same partner, with boxes of
            their own; else each view draws one.
        partner_stream: Name of a stream of weak images whose outputs label the partners' pixels,
            refined as the batch's own, such as ``partners=dict(images='weak', mode='eval')``: the
            programs of UniMatch's family label them in evaluation mode, before the step. None
            takes the labels of the images' own pass.
        refine_partners: Whether the labels of ``partner_stream`` are refined; the program of S4MC
            on FixMatch does not refine them.

    Raises:
        ValueError: An argument outside its range; no such stream, or one of other images.
    """

    def __init__(
        self,
        prob: Annotated[float, Number(0, 1)] = 0.5,
        area: Annotated[Sequence[float], Each(Number(0), 2)] = (0.02, 0.4),
        aspect: Annotated[Sequence[float], Each(Number(0), 2)] = (0.3, 1 / 0.3),
        draw: Annotated[str, OneOf(*BOX_DRAWS)] = 'fitting',
        coin: Annotated[str, OneOf(*COINS)] = 'image',
        partner: Annotated[str, OneOf(*PARTNERS)] = 'random',
        same_partner: bool = False,
        partner_stream: Optional[str] = None,
        refine_partners: bool = True,
    ) -> None:
        super().__init__()
        self.boxes: dict[str, Any] = dict(
            prob=prob, area=tuple(area), aspect=tuple(aspect), draw=draw, coin=coin
        )
        self.partner, self.same_partner = partner, same_partner
        self.stream, self.refine_partners = partner_stream or '', refine_partners
        if not partner_stream and not refine_partners:
            raise ValueError(
                'CutMix.refine_partners=False is for partners that a stream of their own labels, '
                'and partner_stream is None: name that stream, or remove the key'
            )
        self._model: tuple[Any, ...] = ()
        self._warned = False
        # Draws one box now, so that a wrong argument is refused when the model is built.
        cutmix_boxes(1, (8, 8), generator=torch.Generator().manual_seed(0), **self.boxes)

    def attach(self, model: SemiSegmentor) -> None:
        """Check the stream that labels the partners."""
        self._model = (model,)  # in a tuple, so that it is not a submodule
        stream = model.streams.get(self.stream)
        if self.stream and stream is None:
            known = [name for name, one in model.streams.items() if one.source == 'weak']
            raise ValueError(
                f"CutMix.partner_stream is '{self.stream}', which model.streams does not have."
                f'{hint(self.stream, known)} Streams of weak images: {", ".join(known)}; add one, '
                "such as partners=dict(images='weak', mode='eval')"
            )
        if stream is not None and (stream.source != 'weak' or stream.perturbation is not None):
            raise ValueError(
                f"CutMix.partner_stream is '{self.stream}', which shows {stream.source} images"
                f'{" with a perturbation" if stream.perturbation else ""}: name a stream of weak '
                "ones, such as partners=dict(images='weak', mode='eval')"
            )

    def forward(self, images: Tensor, pseudo: PseudoLabel, step: SemiStep) -> View:
        """Mix with a new partner and box for each image."""
        if len(images) < 2:
            self._warn_once()
            return View(images, pseudo)
        plan = self.plan(images, step)
        if not self.stream:
            return View(plan(images), pseudo.map(plan), plan)
        plan.outputs = step.streams[self.stream][0].outputs
        others = step.once((self, 'partners'), lambda: self._label_partners(step))
        return View(plan(images), pseudo.combine(others, plan), plan)

    def plan(self, images: Tensor, step: SemiStep) -> Mix:
        """Draw boxes and partners for one strong view (B, 3, H, W)."""
        batch, size = len(images), tuple(images.shape[-2:])
        mask = cutmix_boxes(batch, size, device=images.device, **self.boxes)
        partners = self._partners(batch)
        if self.same_partner:
            partners = step.once((self, 'partner'), lambda: partners)
        return Mix(mask, partners.to(images.device))

    def _partners(self, batch: int) -> Tensor:
        if self.partner == 'random':
            return mix_partners(batch)
        places = torch.arange(batch)
        return places.flip(0) if self.partner == 'reversed' else places.roll(-1)

    def _label_partners(self, step: SemiStep) -> PseudoLabel:
        outputs = step.streams[self.stream][0].outputs
        pseudo = PseudoLabel.from_logits(outputs.logits, step.valid, step.maps)
        return self._model[0].refine(pseudo, outputs, step) if self.refine_partners else pseudo

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
        boxes = ', '.join(f'{name}={value!r}' for name, value in self.boxes.items())
        return f'{boxes}, partner={self.partner!r}, partner_stream={self.stream or None!r}'
