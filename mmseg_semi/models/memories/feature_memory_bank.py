"""Features of each class that the last iterations saw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Optional

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather
from torch import Tensor

from mmseg_semi.arguments import Number, Whole
from mmseg_semi.functional import at_least_float32, push_queues, sample_per_class, to_grid
from mmseg_semi.structures import PseudoLabel, SemiStep

from .base_memory import BaseMemory, check_stored

#: The two queues of each class.
SOURCES = ('labeled', 'reliable')


class FeatureMemoryBank(BaseMemory):
    """First-in-first-out queues of the features of each class.

    The memory bank of Weighting Pseudo-Labels (ECCV 2024). Each class has a queue of labeled and
    one of reliable unlabeled pixels. Labeled pixels enter when they are predicted right with a
    confidence above ``min_confidence``; unlabeled ones when ``PseudoLabel.reliable`` says so. In
    an iteration a random subset of a class's pixels is pushed, from every rank, so all ranks hold
    the same bank. ``MemoryBankHook`` decides when.

    The buffers ``features`` (2, K, size, C) float32, ``counts`` and ``heads`` int64 (2, K) are
    part of the checkpoint: how many entries of a queue are filled, and where its next one goes.

    Args:
        num_classes: K.
        channels: C.
        size: psi, the length of a queue.
        num_push: Most features that one rank pushes to a queue in an iteration.
        min_confidence: Confidence above which a labeled pixel enters, in [0, 1].

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
        num_push: Annotated[int, Whole(1)] = 32,
        min_confidence: Annotated[float, Number(0, 1)] = 0.95,
    ) -> None:
        super().__init__()
        self.num_classes, self.channels, self.size = num_classes, channels, size
        self.num_push, self.min_confidence = num_push, min_confidence
        self.register_buffer('features', torch.zeros(2, num_classes, size, channels))
        self.register_buffer('counts', torch.zeros(2, num_classes, dtype=torch.int64))
        self.register_buffer('heads', torch.zeros(2, num_classes, dtype=torch.int64))
        self._pending: Optional[list[tuple[Tensor, Tensor]]] = None

    @torch.no_grad()
    def prototypes(self) -> tuple[Tensor, Tensor]:
        """Average the features of each class, labeled and reliable ones together.

        Returns:
            Prototypes (K, C), 0 where there are none, and bool (K,), whether the class has any
            feature.
        """
        counts = self.counts.sum(0)
        total = self.features.sum(dim=(0, 2))  # entries that are not filled are 0
        return total / counts.clamp(min=1)[:, None], counts > 0

    @torch.no_grad()
    def note(self, step: SemiStep, pseudo: PseudoLabel, tap: str) -> None:
        """Remember what of this step may enter, until ``update_state`` or ``discard``.

        Args:
            step: The training step.
            pseudo: The pseudo-label; without ``reliable`` only labeled pixels enter.
            tap: Name of the features.
        """
        features = step.labeled.features[tap].detach()
        self._pending = [(features, self._right_class(step, tuple(features.shape[-2:])))]
        if pseudo.reliable is not None:
            weak = step.teacher.features[tap].detach()
            label = torch.where(pseudo.reliable, pseudo.label, self.num_classes)
            self._pending.append((weak, to_grid(label, tuple(weak.shape[-2:]))))

    def _right_class(self, step: SemiStep, grid: Sequence[int]) -> Tensor:
        """Class of the labeled pixels that are predicted right and surely, else K: (B, h, w)."""
        logits = at_least_float32(step.labeled.stages[-1].detach())
        if tuple(logits.shape[-2:]) != grid:
            logits = F.interpolate(
                logits, size=tuple(grid), mode='bilinear', align_corners=step.labeled.align_corners
            )
        confidence, predicted = logits.softmax(dim=1).max(dim=1)
        truth = to_grid(step.labeled_truth, grid)
        right = (predicted == truth) & (confidence > self.min_confidence)
        return torch.where(right, truth, self.num_classes)

    @torch.no_grad()
    def update_state(self) -> None:
        """Push what has been noted, from all ranks in their order."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        sampled = [self._sample(*one) for one in pending]
        items, present = (torch.stack(several) for several in zip(*sampled))
        items = torch.cat(all_gather(items), dim=2).flatten(0, 1)
        present = torch.cat(all_gather(present), dim=2).flatten(0, 1)
        filled = slice(0, len(pending))
        new = push_queues(
            self.features[filled].flatten(0, 1),
            self.counts[filled].flatten(),
            self.heads[filled].flatten(),
            items,
            present,
        )
        for buffer, value in zip((self.features, self.counts, self.heads), new):
            buffer[filled] = value.view_as(buffer[filled])

    def _sample(self, features: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Draw features (K, num_push, C) of each class, and which of them exist."""
        index, present = sample_per_class(label.flatten(), self.num_classes, self.num_push)
        pixels = features.shape[-2] * features.shape[-1]
        return features.flatten(2)[index // pixels, :, index % pixels], present

    def discard(self) -> None:
        """Forget what has been noted."""
        self._pending = None

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        check_stored(
            state_dict,
            f'{prefix}features',
            self.features,
            'a memory bank (2, classes, size, channels)',
            'give the size and the features that the checkpoint was trained with',
        )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return (
            f'num_classes={self.num_classes}, channels={self.channels}, size={self.size}, '
            f'num_push={self.num_push}, min_confidence={self.min_confidence}'
        )
