"""First-in-first-out memories of one queue a class, filled without a loop over classes."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor


@torch.no_grad()
def sample_per_class(
    label: Tensor, num_classes: int, num: int, generator: Optional[torch.Generator] = None
) -> tuple[Tensor, Tensor]:
    """Draw up to ``num`` positions of each class at random, without replacement.

    Args:
        label: int64 (P,); values outside 0..num_classes-1 belong to no class.
        num_classes: K.
        num: Most positions of a class, 1 or more.
        generator: Source of random numbers on the label's device; the default one if None.

    Returns:
        ``(index, present)``: int64 (K, num) positions in random order and bool (K, num), False
        where a class has fewer; its entries come first. The index of an absent entry is 0.
    """
    pixels = label.numel()
    label = torch.where((label >= 0) & (label < num_classes), label, num_classes)
    shuffled = torch.randperm(pixels, device=label.device, generator=generator)
    order = shuffled[label[shuffled].argsort(stable=True)]  # by class, at random within it
    counts = torch.zeros(num_classes + 1, dtype=torch.int64, device=label.device)
    counts = counts.scatter_add_(0, label, torch.ones_like(label))[:num_classes]
    starts = counts.cumsum(0) - counts
    place = torch.arange(num, device=label.device)
    present = place < counts[:, None]
    index = torch.where(present, starts[:, None] + place, 0)
    if not pixels:
        return index, present
    return torch.where(present, order[index], 0), present


@torch.no_grad()
def push_queues(
    queues: Tensor, counts: Tensor, heads: Tensor, items: Tensor, present: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Append items to ring buffers; the oldest make room.

    Args:
        queues: (Q, S, C), the ring buffers.
        counts: int64 (Q,), entries that are filled.
        heads: int64 (Q,), where the next item of each goes, 0..S-1.
        items: (Q, M, C), in the order in which they arrive.
        present: Bool (Q, M), which of them exist.

    Returns:
        The new ``(queues, counts, heads)``.
    """
    if not items.shape[1]:
        return queues, counts, heads
    size = queues.shape[1]
    arrived = present.sum(1, keepdim=True)
    rank = present.cumsum(1) - 1
    stays = present & (rank >= arrived - size)  # of more than S items only the last S stay
    slot = torch.where(stays, (heads[:, None] + rank) % size, size)
    # For each slot the item that lands there; one more slot takes those that land nowhere.
    source = torch.full((queues.shape[0], size + 1), -1, device=queues.device)
    numbers = torch.arange(items.shape[1], device=queues.device).expand_as(slot)
    source = source.scatter_(1, slot, numbers)[:, :size]
    rows = torch.arange(len(queues), device=queues.device)[:, None] * items.shape[1]
    rows = (rows + source.clamp(min=0)).flatten()
    taken = items.flatten(0, 1).index_select(0, rows).view_as(queues)
    queues = torch.where((source >= 0)[..., None], taken.to(queues.dtype), queues)
    counts = (counts + arrived[:, 0]).clamp(max=size)
    return queues, counts, (heads + arrived[:, 0]) % size
