"""Features of each class that the last iterations saw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_semi.arguments import Number, OneOf, Whole
from mmseg_semi.functional import (
    at_least_float32,
    bilinear_at,
    push_queues,
    sample_per_class,
    to_grid,
)
from mmseg_semi.models.ranks import gather_items
from mmseg_semi.structures import SegOutputs, SemiStep, View

from .base_memory import BaseMemory, check_stored

#: Where the features of a queue come from.
SOURCES = ('labeled', 'reliable')
RELIABLE_FROM = ('weak', 'strong')
PUSHES = ('after', 'before')

State = tuple[Tensor, Tensor, Tensor]


class FeatureMemoryBank(BaseMemory):
    """First-in-first-out queues of the features of each class.

    The memory bank of Weighting Pseudo-Labels (ECCV 2024). Labeled pixels enter when they are
    predicted right with a confidence above ``min_confidence``; unlabeled ones when
    ``PseudoLabel.reliable`` says so. In an iteration a random subset of a class's pixels is pushed,
    from every rank, so all ranks hold the same bank. ``MemoryBankHook`` decides when.

    The buffers ``features`` (Q, K, size, C) float32, ``counts`` and ``heads`` int64 (Q, K) are
    part of the checkpoint, Q the queues of a class: how many entries of a queue are filled, and
    where its next one goes.

    Args:
        num_classes: K.
        channels: C.
        size: psi, the length of a queue.
        num_push: Most features of a class that one rank pushes in an iteration from its labeled
            images, and from each batch of unlabeled ones; None for as many as it has images there.
        min_confidence: Confidence above which a labeled pixel enters, in [0, 1].
        shared: Whether a class has one queue for both (the paper), or one of labeled and one of
            reliable pixels (the authors' program); then only a class with labeled features has a
            prototype.
        reliable_from: Which features of reliable pixels enter: those of the ``'weak'`` images that
            the pseudo-label is made from (the paper), or of the mixed ``'strong'`` views (the
            program).
        push: ``'after'``: prototypes are those that the iterations before left; ``'before'``: with
            what this iteration pushes (the program).

    Raises:
        ValueError: An argument outside its values.
    """

    features: Tensor
    counts: Tensor
    heads: Tensor

    def __init__(
        self,
        num_classes: int,
        channels: int,
        size: Annotated[int, Whole(1)] = 256,
        num_push: Annotated[Optional[int], Whole(1)] = None,
        min_confidence: Annotated[float, Number(0, 1)] = 0.95,
        shared: bool = True,
        reliable_from: Annotated[str, OneOf(*RELIABLE_FROM)] = 'weak',
        push: Annotated[str, OneOf(*PUSHES)] = 'after',
    ) -> None:
        super().__init__()
        self.num_classes, self.channels, self.size = num_classes, channels, size
        self.num_push, self.min_confidence, self.shared = num_push, min_confidence, shared
        self.reliable_from, self.push = reliable_from, push
        queues = 1 if shared else len(SOURCES)
        self.register_buffer('features', torch.zeros(queues, num_classes, size, channels))
        self.register_buffer('counts', torch.zeros(queues, num_classes, dtype=torch.int64))
        self.register_buffer('heads', torch.zeros(queues, num_classes, dtype=torch.int64))
        self._pending: list[tuple[int, Tensor, Tensor]] = []

    @torch.no_grad()
    def prototypes(self, step: Optional[SemiStep] = None) -> tuple[Tensor, Tensor]:
        """Average the features of each class, labeled and reliable ones together.

        Args:
            step: With ``push='before'``, the step whose features have been noted; None for those
                of the iterations before.

        Returns:
            Prototypes (K, C), 0 where there are none, and bool (K,), whether the class has one.
        """
        features, counts = self.features, self.counts
        if step is not None and self.push == 'before':
            features, counts, _ = step.once((self, 'moved'), self._moved)
        total = features.sum(dim=(0, 2))  # entries that are not filled are 0
        return total / counts.sum(0).clamp(min=1)[:, None], counts[0] > 0

    @torch.no_grad()
    def note(self, step: SemiStep, tap: str, views: Sequence[View], upsample: bool = False) -> None:
        """Remember what of this step will enter, until ``update_state`` or ``discard``.

        Args:
            step: The training step; without ``PseudoLabel.reliable`` only labeled pixels enter.
            tap: Name of the features.
            views: The mixed strong views, after their passes.
            upsample: Whether features are enlarged to the images, and drawn among their pixels.
        """
        sources: list[tuple[int, SegOutputs, Tensor]] = []
        sources.append((0, step.labeled, self._right_class(step, tap, upsample)))
        weak = self.reliable_from == 'weak'
        others = [View(pseudo=step.pseudo, outputs=step.teacher)] if weak else views
        for view in others:
            pseudo = view.pseudo
            if pseudo.reliable is not None:
                label = torch.where(pseudo.reliable, pseudo.label, self.num_classes)
                if not upsample:
                    label = to_grid(label, tuple(view.outputs.features[tap].shape[-2:]))
                sources.append((1, view.outputs, label))
        self._pending = [
            (source, *self._sample(outputs, tap, label)) for source, outputs, label in sources
        ]

    def _right_class(self, step: SemiStep, tap: str, upsample: bool) -> Tensor:
        """Class of the labeled pixels that are predicted right and surely, else K: (B, h, w)."""
        outputs, truth = step.labeled, step.labeled_truth
        if upsample:
            logits = outputs.logits
        else:
            grid = tuple(outputs.features[tap].shape[-2:])
            logits = at_least_float32(outputs.stages[-1].detach())
            if tuple(logits.shape[-2:]) != grid:
                logits = F.interpolate(
                    logits, size=grid, mode='bilinear', align_corners=outputs.align_corners
                )
            truth = to_grid(truth, grid)
        confidence, predicted = logits.detach().softmax(dim=1).max(dim=1)
        right = (predicted == truth) & (confidence > self.min_confidence)
        return torch.where(right, truth, self.num_classes)

    def _sample(self, outputs: SegOutputs, tap: str, label: Tensor) -> tuple[Tensor, Tensor]:
        """Draw features (K, M, C) of each class, and which of them exist."""
        features = outputs.features[tap].detach()
        index, present = self.draw(label, self.num_push or len(label))
        if label.shape[-2:] != features.shape[-2:]:
            size = tuple(label.shape[-2:])
            read = bilinear_at(features, index.flatten(), size, outputs.align_corners)
            return read.view(*index.shape, -1), present
        pixels = features.shape[-2] * features.shape[-1]
        return features.flatten(2)[index // pixels, :, index % pixels], present

    def draw(self, label: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Draw up to ``number`` places of each class in labels (B, h, w); see sample_per_class."""
        return sample_per_class(label.flatten(), self.num_classes, number)

    def _moved(self) -> State:
        """The buffers after what has been noted is pushed, from all ranks in their order."""
        state = (self.features.clone(), self.counts.clone(), self.heads.clone())
        sources, items, present = zip(*self._pending)
        widths = [one.shape[1] for one in items]
        gathered = zip(*gather_items(torch.cat(items, dim=1), torch.cat(present, dim=1)))
        # By source: what each rank pushes.
        parts = [zip(*(rank.split(widths, dim=1) for rank in several)) for several in gathered]
        for source, theirs, exist in zip(sources, *parts):
            features, counts, heads = (one[0 if self.shared else source] for one in state)
            arrived = torch.cat(theirs, dim=1), torch.cat(exist, dim=1)
            new = push_queues(features, counts, heads, *arrived)
            for buffer, value in zip((features, counts, heads), new):
                buffer.copy_(value)
        return state

    @torch.no_grad()
    def update_state(self) -> None:
        """Push what has been noted, from all ranks in their order."""
        if not self._pending:
            return
        for buffer, value in zip((self.features, self.counts, self.heads), self._moved()):
            buffer.copy_(value)
        self._pending = []

    def discard(self) -> None:
        """Forget what has been noted."""
        self._pending = []

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        check_stored(
            state_dict,
            f'{prefix}features',
            self.features,
            'a memory bank (queues, classes, size, channels)',
            'give the size, the sharing and the features that the checkpoint was trained with',
        )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return (
            f'num_classes={self.num_classes}, channels={self.channels}, size={self.size}, '
            f'num_push={self.num_push}, min_confidence={self.min_confidence}, '
            f'shared={self.shared}, reliable_from={self.reliable_from!r}, push={self.push!r}'
        )
