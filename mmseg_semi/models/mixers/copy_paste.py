"""AEL's adaptive copy-paste between labeled images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Callable, Optional

import torch
from mmengine.logging import print_log
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import Each, Number, OneOf, Whole
from mmseg_semi.functional import mix_partners
from mmseg_semi.functional.equalization import draw_classes, sampling_weights
from mmseg_semi.models.component import last_head
from mmseg_semi.models.heads.class_confidence import find_class_confidence
from mmseg_semi.structures import SemiStep

from .base_labeled_mixer import BaseLabeledMixer

if TYPE_CHECKING:
    from mmseg_semi.models.segmentors import SemiSegmentor


SOURCES = ('batch', 'dataset')
DRAWS = ('image', 'batch')


@MODELS.register_module()
class CopyPaste(BaseLabeledMixer):
    r"""Paste badly learned classes of another labeled image, ground truth and all.

    AEL (Hu et al., NeurIPS 2021): for each image, classes are drawn from
    :math:`softmax(\sqrt{1 - c})` with c of a ``ClassConfidence``, and all pixels of these classes
    in another labeled image are pasted; pixels of unknown class (255) never. A class that is not
    in the other image gives nothing. The paper fixes neither the number of classes nor ``prob``.

    Args:
        num_classes: Classes drawn for an image, at most as many as there are to draw from.
        prob: Probability that an image is pasted into at all.
        power: Exponent of 1 - c.
        ignore_classes: Class numbers that are never pasted; the authors' program leaves out (0, 1,
            2, 8, 10) on Cityscapes: road, sidewalk, building, vegetation and sky.
        draw: Whether classes are drawn for each ``'image'``, without replacement, or once for the
            ``'batch'``, with replacement (the program).
        source: Where the other images come from: the ``'batch'`` (a batch of one image is left
            unmixed, which the log says once), or random ones of the labeled ``'dataset'``, which
            ``LabeledSourceHook`` loads with an augmentation of their own (the program).
        scale: With ``source='dataset'``, the ``ratio_range`` of ``RandomRelativeResize`` for these
            images; None leaves the data set's own.
        head: Name of the ``ClassConfidence`` in ``model.heads``.

    Raises:
        ValueError: An argument outside its range; there is no such head or class.
    """

    hooks: tuple[dict[str, Any], ...] = ()

    def __init__(
        self,
        num_classes: Annotated[int, Whole(1)] = 3,
        prob: Annotated[float, Number(0, 1)] = 0.5,
        power: Annotated[float, Number(0)] = 0.5,
        ignore_classes: Annotated[Sequence[int], Each(Whole(0))] = (),
        draw: Annotated[str, OneOf(*DRAWS)] = 'image',
        source: Annotated[str, OneOf(*SOURCES)] = 'batch',
        scale: Annotated[Optional[Sequence[float]], Each(Number(0, above=True), 2)] = None,
        head: str = 'class_confidence',
    ) -> None:
        super().__init__()
        if scale is not None and source == 'batch':
            raise ValueError(
                f"CopyPaste.scale={tuple(scale)} is for loaded images: set source='dataset', or "
                'leave scale out'
            )
        if scale is not None and scale[0] > scale[1]:
            raise ValueError(f'CopyPaste.scale is {tuple(scale)}: write the smaller multiple first')
        self.num_classes, self.prob, self.power, self.head = num_classes, prob, power, head
        self.ignore_classes, self.draw = tuple(ignore_classes), draw
        self.source, self.scale = source, None if scale is None else tuple(scale)
        if source == 'dataset':
            self.hooks = (dict(type='LabeledSourceHook'),)
        self.loader: Optional[Callable[[int], dict[str, Any]]] = None
        self._found: tuple[Any, ...] = ()
        self._model: tuple[Any, ...] = ()
        self._warned = False

    def attach(self, model: SemiSegmentor) -> None:
        """Find the class confidences."""
        self._model = (model,)  # in a tuple, so that it is not a submodule
        self._found = find_class_confidence(model, self.head, type(self).__name__, 'head')
        classes = last_head(model.segmentor).out_channels
        left = set(range(classes)) - set(self.ignore_classes)
        if len(left) != classes - len(set(self.ignore_classes)) or not left:
            raise ValueError(
                f'CopyPaste.ignore_classes={self.ignore_classes} must be some of the classes 0 to '
                f'{classes - 1} of the segmentor, and not all of them'
            )

    def forward(self, images: Tensor, truth: Tensor, step: SemiStep) -> tuple[Tensor, Tensor]:
        """Paste classes of other images."""
        batch, device = len(images), images.device
        if self.source == 'batch' and batch < 2:
            self._warn_once()
            return images, truth
        drawn = self.drawn(batch).to(device)
        others, other = self.sources(images, truth)
        mixed = (torch.rand(batch) < self.prob).to(device)
        # A column more than there are classes, never chosen, for pixels of unknown class.
        classes = len(self._found[0].values)
        chosen = torch.zeros(batch, classes + 1, dtype=torch.bool, device=device)
        chosen.scatter_(1, drawn, True)
        chosen &= mixed[:, None]
        index = other.long().clamp(max=classes).flatten(1)
        mask = chosen.gather(1, index).view(other.shape)
        return torch.where(mask[:, None], others, images), torch.where(mask, other, truth)

    def drawn(self, batch: int) -> Tensor:
        """Draw the classes that are pasted: int64 (B, number of draws)."""
        weights = sampling_weights(self._found[0].values, self.power)
        weights[list(self.ignore_classes)] = 0
        if self.draw == 'batch':
            drawn = torch.multinomial(weights.cpu(), self.num_classes, replacement=True)
            return drawn.expand(batch, -1)
        number = min(self.num_classes, int((weights > 0).sum()))
        return draw_classes(weights, batch, number)

    def sources(self, images: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images (B, 3, H, W) that classes are taken from, and their truth (B, H, W)."""
        batch = len(images)
        if self.source == 'batch':
            partners = mix_partners(batch).to(images.device)
            return images[partners], truth[partners]
        assert self.loader is not None  # the model refuses to train without the hook
        preprocessor = self._model[0].data_preprocessor
        part = preprocessor.cast_data(self.loader(batch))
        others = preprocessor.prepare_labeled(part, tuple(images.shape[-2:]))
        maps = [sample.gt_sem_seg.data[0] for sample in part['data_samples']]
        return others, torch.stack(maps).to(truth)

    def _warn_once(self) -> None:
        if not self._warned:
            self._warned = True
            print_log(
                'CopyPaste needs two labeled images in a batch and got one: nothing is pasted. '
                'Raise train_dataloader.batch_size or the labeled part of sampler.ratio, or set '
                "source='dataset'.",
                logger='current',
                level=logging.WARNING,
            )

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return (
            f'num_classes={self.num_classes}, prob={self.prob}, power={self.power}, '
            f'ignore_classes={self.ignore_classes}, draw={self.draw!r}, source={self.source!r}, '
            f'scale={self.scale}'
        )
