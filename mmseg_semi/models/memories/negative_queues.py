"""What U2PL's contrastive loss remembers between iterations."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import torch
from mmengine.dist import all_gather
from torch import Tensor

from mmseg_semi.arguments import Number, Whole
from mmseg_semi.functional.contrast import draw_below, gather_pixels

from .base_memory import BaseMemory, check_stored


class NegativeQueues(BaseMemory):
    """First-in-first-out queues of the negatives of each class (U2PL, CVPR 2022).

    In an iteration a random subset of a class's negatives is pushed, from every rank in their
    order, so all ranks hold the same queues; the authors' program pushes all of them.

    The buffers ``features`` (the sum of the lengths, C) float32, queue after queue, and ``counts``
    and ``heads`` int64 (K,) are part of the checkpoint: how many entries of a queue are filled,
    and where its next one goes. With the paper's lengths and 256 channels 21 classes take 666 MB.

    Args:
        num_classes: K.
        channels: C.
        size: Length of a queue.
        first_size: Length of the first class's, the background of most data sets. Defaults to
            5/3 of ``size``, as in the paper.
        num_push: Most negatives that one rank pushes to a queue in an iteration, at most the
            length of the shortest queue.

    Raises:
        ValueError: An argument outside its values.
    """

    lengths: Tensor
    starts: Tensor
    features: Tensor
    counts: Tensor
    heads: Tensor

    def __init__(
        self,
        num_classes: int,
        channels: int,
        size: Annotated[int, Whole(1)] = 30000,
        first_size: Annotated[Optional[int], Whole(1)] = None,
        num_push: Annotated[int, Whole(1)] = 256,
    ) -> None:
        super().__init__()
        first_size = size * 5 // 3 if first_size is None else first_size
        if num_push > min(size, first_size):
            raise ValueError(
                f'num_push={num_push} is more than the shortest queue holds '
                f'(size={size}, first_size={first_size}): lower num_push or make the queues longer'
            )
        self.num_classes, self.channels, self.num_push = num_classes, channels, num_push
        self.size, self.first_size = size, first_size
        lengths = torch.tensor([first_size] + [size] * (num_classes - 1))
        self.register_buffer('lengths', lengths, persistent=False)
        self.register_buffer('starts', lengths.cumsum(0) - lengths, persistent=False)
        self.register_buffer(
            'features', torch.zeros(first_size + size * (num_classes - 1), channels)
        )
        self.register_buffer('counts', torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer('heads', torch.zeros(num_classes, dtype=torch.int64))
        self._pending: Optional[tuple[Tensor, Tensor]] = None

    @torch.no_grad()
    def draw(self, num_queries: int, num_negatives: int) -> tuple[Tensor, Tensor]:
        """Draw negatives of each class for each query at random, with replacement.

        Returns:
            (K, Q, N, C), zeros for an empty queue, and bool (K,), whether the queue holds any.
        """
        place = self.starts[:, None] + draw_below(self.counts, num_queries * num_negatives)
        drawn = self.features.index_select(0, place.flatten())
        return drawn.view(self.num_classes, num_queries, num_negatives, -1), self.counts > 0

    @torch.no_grad()
    def note(self, features: Tensor, negative: Tensor) -> None:
        """Draw what of this step will be pushed, without replacement.

        Args:
            features: Teacher representations (B, C, h, w).
            negative: Bool (B, K, h, w), which classes each pixel is a negative of.
        """
        negative = negative.transpose(0, 1).flatten(1)
        key = torch.rand(negative.shape, device=negative.device).masked_fill(~negative, -1)
        key, index = key.topk(min(self.num_push, key.shape[1]), dim=1)
        # topk puts the negatives first; push() relies on that.
        self._pending = gather_pixels(features, index), key >= 0

    @torch.no_grad()
    def update_state(self) -> None:
        """Push what has been noted, from all ranks in their order."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        for items, present in zip(*(all_gather(one.contiguous()) for one in pending)):
            self.push(items, present)

    @torch.no_grad()
    def push(self, items: Tensor, present: Tensor) -> None:
        """Append items to the queues; the oldest make room.

        Args:
            items: (K, M, C), M at most the length of the shortest queue.
            present: Bool (K, M), which of them exist; in each row these come first.
        """
        place = torch.arange(items.shape[1], device=items.device)
        slot = (self.heads[:, None] + place) % self.lengths[:, None] + self.starts[:, None]
        kept = torch.where(present[..., None], items, self.features[slot])
        self.features.index_copy_(0, slot.flatten(), kept.flatten(0, 1))
        arrived = present.sum(1)
        self.counts.copy_((self.counts + arrived).minimum(self.lengths))
        self.heads.copy_((self.heads + arrived) % self.lengths)

    def discard(self) -> None:
        """Forget what has been noted."""
        self._pending = None

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        check_stored(
            state_dict,
            f'{prefix}features',
            self.features,
            'queues (all lengths, channels)',
            'give the classes, lengths and channels that the checkpoint was trained with',
        )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return (
            f'num_classes={self.num_classes}, channels={self.channels}, size={self.size}, '
            f'first_size={self.first_size}, num_push={self.num_push}'
        )


class ClassPrototypes(BaseMemory):
    """Exponential moving average of a mean feature of each class.

    The buffers ``means`` (K, C) float32 and ``known`` bool (K,) are part of the checkpoint.

    Args:
        num_classes: K.
        channels: C.
        momentum: In [0, 1]; the first mean of a class is taken as it is.

    Raises:
        ValueError: ``momentum`` is outside its values.
    """

    means: Tensor
    known: Tensor

    def __init__(
        self, num_classes: int, channels: int, momentum: Annotated[float, Number(0, 1)]
    ) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer('means', torch.zeros(num_classes, channels))
        self.register_buffer('known', torch.zeros(num_classes, dtype=torch.bool))
        self._pending: Optional[tuple[Tensor, Tensor]] = None

    @torch.no_grad()
    def note(self, means: Tensor, present: Tensor) -> Tensor:
        """Return the averages (K, C) with these means, and remember them.

        Args:
            means: (K, C), the same on all ranks.
            present: Bool (K,); the others stay as they are.
        """
        moved = torch.where(self.known[:, None], self.means.lerp(means, 1 - self.momentum), means)
        moved = torch.where(present[:, None], moved, self.means)
        self._pending = moved, self.known | present
        return moved

    def update_state(self) -> None:
        """Take the averages over."""
        if self._pending is not None:
            self.means.copy_(self._pending[0])
            self.known.copy_(self._pending[1])
            self._pending = None

    def discard(self) -> None:
        """Forget what has been noted."""
        self._pending = None

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return f'momentum={self.momentum}'
