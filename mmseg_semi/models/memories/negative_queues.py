"""What U2PL's contrastive loss remembers between iterations."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import torch
from torch import Tensor

from mmseg_semi.arguments import Number, OneOf, Whole, check_whole
from mmseg_semi.functional.contrast import draw_below, gather_pixels
from mmseg_semi.models.ranks import gather_items

from .base_memory import BaseMemory, check_stored

MOMENTS = ('after', 'before')


class NegativeQueues(BaseMemory):
    """First-in-first-out queues of the negatives of each class (U2PL, CVPR 2022).

    In an iteration a random subset of a class's negatives is pushed, from every rank in their
    order, so all ranks hold the same queues; the authors' program pushes all of them, and before
    it draws.

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
            length of the shortest queue. None pushes all, in the order of the pixels; of more than
            a queue holds the last ones stay.
        push: ``'after'``: an iteration draws from what the iterations before it left;
            ``'before'``: from the queues with its own negatives.

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
        num_push: Optional[int] = 256,
        push: Annotated[str, OneOf(*MOMENTS)] = 'after',
    ) -> None:
        super().__init__()
        first_size = size * 5 // 3 if first_size is None else first_size
        if num_push is not None:
            check_whole('NegativeQueues.num_push', num_push, 1)
        if num_push is not None and num_push > min(size, first_size):
            raise ValueError(
                f'num_push={num_push} is more than the shortest queue holds '
                f'(size={size}, first_size={first_size}): lower num_push or make the queues longer'
            )
        self.num_classes, self.channels, self.num_push = num_classes, channels, num_push
        self.size, self.first_size, self.push_moment = size, first_size, push
        lengths = torch.tensor([first_size] + [size] * (num_classes - 1))
        self.register_buffer('lengths', lengths, persistent=False)
        self.register_buffer('starts', lengths.cumsum(0) - lengths, persistent=False)
        self.register_buffer(
            'features', torch.zeros(first_size + size * (num_classes - 1), channels)
        )
        self.register_buffer('counts', torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer('heads', torch.zeros(num_classes, dtype=torch.int64))
        self._pending: Optional[tuple[Tensor, Tensor]] = None

    @property
    def counts_now(self) -> Tensor:
        """int64 (K,), entries of the queues that this iteration draws from."""
        if self.push_moment == 'after' or self._pending is None:
            return self.counts
        return (self.counts + self._pending[1].sum(1)).minimum(self.lengths)

    @torch.no_grad()
    def draw(
        self, num_queries: int, num_negatives: int, places: Optional[Tensor] = None
    ) -> tuple[Tensor, Tensor]:
        """Draw negatives of each class for each query at random, with replacement.

        Args:
            num_queries: Q.
            num_negatives: N.
            places: int64 (K, Q, N), which entries are taken in place of random ones, the oldest of
                a queue being 0.

        Returns:
            (K, Q, N, C), zeros for an empty queue, and bool (K,), whether the queue holds any.
        """
        counts = self.counts_now
        if places is None:
            places = draw_below(counts, num_queries * num_negatives)
        place, lengths = places.flatten(1), self.lengths[:, None]
        new = counts.new_zeros(self.num_classes)
        if self.push_moment == 'before' and self._pending is not None:
            items, present = self._pending
            new = present.sum(1)
        # The oldest entry is as far behind the newest one as the queue is filled.
        slot = (self.heads + new - counts)[:, None] + place
        drawn = self.features[slot % lengths + self.starts[:, None]]
        if self.push_moment == 'before' and self._pending is not None and items.shape[1]:
            item = place - (counts - new)[:, None]  # which of the new ones, if any
            rows = torch.arange(self.num_classes, device=item.device)[:, None]
            taken = (item >= 0) & (new > 0)[:, None]
            drawn = torch.where(taken[..., None], items[rows, item.clamp(min=0)], drawn)
        return drawn.view(self.num_classes, num_queries, num_negatives, -1), counts > 0

    @torch.no_grad()
    def note(self, features: Tensor, negative: Tensor) -> None:
        """Choose what of this step will be pushed, without replacement.

        Args:
            features: Teacher representations (B, C, h, w).
            negative: Bool (B, K, h, w), which classes each pixel is a negative of.
        """
        negative = negative.transpose(0, 1).flatten(1)
        pixels = negative.shape[1]
        if self.num_push is None:
            # The last ones that there is room for, in their order.
            place = torch.arange(pixels, device=negative.device).expand_as(negative)
            last = (
                place.masked_fill(~negative, -1)
                .topk(min(max(self.size, self.first_size), pixels))
                .values
            )
            index = last.masked_fill(last < 0, pixels).sort().values
            present = index < pixels
            index = torch.where(present, index, 0)
        else:
            key = torch.rand(negative.shape, device=negative.device).masked_fill(~negative, -1)
            key, index = key.topk(min(self.num_push, pixels), dim=1)
            present = key >= 0  # topk puts the negatives first; push() relies on that
        self._pending = gather_pixels(features, index), present
        if self.push_moment == 'before':
            self._pending = self._gathered()

    def _gathered(self) -> tuple[Tensor, Tensor]:
        """What all ranks have noted, in their order, the existing items of a row first."""
        assert self._pending is not None
        gathered = gather_items(*self._pending)
        if len(gathered) == 1:
            return gathered[0]
        items, present = (torch.cat(one, 1) for one in zip(*gathered))
        order = (~present).to(torch.uint8).argsort(dim=1, stable=True)
        rows = torch.arange(len(order), device=order.device)[:, None]
        return items[rows, order], present.gather(1, order)

    @torch.no_grad()
    def update_state(self) -> None:
        """Push what has been noted, from all ranks in their order."""
        if self._pending is None:
            return
        noted = self._gathered() if self.push_moment == 'after' else self._pending
        self._pending = None
        self.push(*noted)

    @torch.no_grad()
    def push(self, items: Tensor, present: Tensor) -> None:
        """Append items to the queues; the oldest make room.

        Args:
            items: (K, M, C).
            present: Bool (K, M), which of them exist; in each row these come first.
        """
        arrived = present.sum(1)
        place = torch.arange(items.shape[1], device=items.device).expand_as(present)
        # What stays is written to its slot; all else repeats the write of the last item, which is
        # that of the old value where nothing arrived.
        stays = present & (place >= (arrived - self.lengths)[:, None])
        place = torch.where(stays, place, (arrived[:, None] - 1).clamp(min=0))
        rows = torch.arange(len(items), device=items.device)[:, None]
        slot = (self.heads[:, None] + place) % self.lengths[:, None] + self.starts[:, None]
        kept = torch.where(present[rows, place][..., None], items[rows, place], self.features[slot])
        self.features.index_copy_(0, slot.flatten(), kept.flatten(0, 1).to(self.features.dtype))
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
            f'first_size={self.first_size}, num_push={self.num_push}, push={self.push_moment!r}'
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
