"""U2PL's contrastive loss: class ranks, negatives, and draws by class without a loop over classes.

Shape legend: ``B`` images, ``K`` classes, ``h w`` feature grid, ``P`` pixels (all of the batch, in
raster order), ``C`` channels, ``Q`` queries (drawn anchors) a class, ``N`` negatives a query. Class
numbers outside 0..K-1 stand for no class.
"""

from __future__ import annotations

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

# Random integers are taken modulo a count: with this range that is uniform to 1 in 2^30 and better.
_DRAWS = 2**62


@torch.no_grad()
def class_ranks(prob: Tensor) -> Tensor:
    """Tell which place each class takes when a pixel's classes are sorted.

    Args:
        prob: Probabilities or logits (B, K, h, w).

    Returns:
        int64 (B, K, h, w); 0 for the likeliest class. Ties go to the lower class number.
    """
    order = prob.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(prob.shape[1], device=prob.device)[None, :, None, None]
    return torch.empty_like(order).scatter_(1, order, places.expand_as(order))


@torch.no_grad()
def labeled_negatives(ranks: Tensor, label: Tensor, low_rank: int) -> Tensor:
    """Tell which classes a labeled pixel is a negative of: likely ones that are not its own.

    Args:
        ranks: int64 (B, K, h, w), see :func:`class_ranks`.
        label: int64 (B, h, w), the true class; pixels of no class are no negatives.
        low_rank: Classes of rank 0..low_rank-1 count.

    Returns:
        Bool (B, K, h, w).
    """
    number = torch.arange(ranks.shape[1], device=ranks.device)[None, :, None, None]
    label = label[:, None]
    known = (label >= 0) & (label < ranks.shape[1])
    return (ranks < low_rank) & (number != label) & known


@torch.no_grad()
def unlabeled_negatives(ranks: Tensor, unsure: Tensor, low_rank: int, high_rank: int) -> Tensor:
    """Tell which classes an unlabeled pixel is a negative of: those that it is hardly of.

    Args:
        ranks: int64 (B, K, h, w), see :func:`class_ranks`.
        unsure: Bool (B, h, w), the pixels that count (high entropy).
        low_rank: Classes of rank low_rank..high_rank-1 count.
        high_rank: As said.

    Returns:
        Bool (B, K, h, w).
    """
    return (ranks >= low_rank) & (ranks < high_rank) & unsure[:, None]


@torch.no_grad()
def class_sums(features: Tensor, label: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Sum the features of the pixels of each class.

    Args:
        features: (B, C, h, w).
        label: int64 (B, h, w).
        num_classes: K.

    Returns:
        Sums (K, C) in float32 at least, also under autocast, and the numbers of pixels (K,) of
        the same dtype.
    """
    number = torch.arange(num_classes, device=label.device)[:, None]
    kind = torch.promote_types(features.dtype, torch.float32)
    member = (label.flatten() == number).to(kind)
    with torch.autocast(features.device.type, enabled=False):
        pixels = features.to(kind).movedim(1, -1).flatten(0, -2)
        return member @ pixels, member.sum(1)


@torch.no_grad()
def draw_below(counts: Tensor, num: int, generator: Optional[torch.Generator] = None) -> Tensor:
    """Draw whole numbers under each of some counts at random, with replacement.

    Args:
        counts: int64 (K,).
        num: Numbers for each count.
        generator: Source of random numbers on the counts' device; the default one if None.

    Returns:
        int64 (K, num), each in 0..count-1; 0 where the count is 0.
    """
    shape = (len(counts), num)
    draw = torch.randint(
        _DRAWS, shape, device=counts.device, dtype=torch.int64, generator=generator
    )
    return draw % counts.clamp(min=1)[:, None]


@torch.no_grad()
def draw_per_class(
    label: Tensor, num_classes: int, num: int, generator: Optional[torch.Generator] = None
) -> tuple[Tensor, Tensor]:
    """Draw positions of each class at random, with replacement.

    Args:
        label: int64 (P,), P of 1 or more.
        num_classes: K.
        num: Positions of a class.
        generator: Source of random numbers on the label's device; the default one if None.

    Returns:
        ``(index, present)``: int64 (K, num), and bool (K,), whether the class has any position.
        The index of an absent class is 0.
    """
    label = torch.where((label >= 0) & (label < num_classes), label, num_classes)
    counts = torch.zeros(num_classes + 1, dtype=torch.int64, device=label.device)
    counts = counts.scatter_add_(0, label, torch.ones_like(label))[:num_classes]
    starts = counts.cumsum(0) - counts
    place = starts[:, None] + draw_below(counts, num, generator)
    present = counts > 0
    order = label.argsort(stable=True)
    index = order[torch.where(present[:, None], place, 0)]
    return torch.where(present[:, None], index, 0), present


def gather_pixels(features: Tensor, index: Tensor) -> Tensor:
    """Read the features of pixels.

    Args:
        features: (B, C, h, w).
        index: int64, any shape: positions in the flattened (B, h, w).

    Returns:
        The index's shape and C.
    """
    pixels = features.shape[-2] * features.shape[-1]
    return features.flatten(2)[index // pixels, :, index % pixels]


def contrast_loss(
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor,
    present: Tensor,
    temperature: float = 0.5,
    divisor: Optional[Tensor] = None,
) -> Tensor:
    r"""Pull anchors to the positive of their class and push them from its negatives.

    U2PL (Wang et al., CVPR 2022), Eq. 7, with the cosine similarity :math:`\langle , \rangle`:
    :math:`-\log \frac{e^{\langle a, a^+\rangle / \tau}}{e^{\langle a, a^+\rangle / \tau} + \sum_n
    e^{\langle a, a^-_n\rangle / \tau}}`, the mean over the queries of a class and then over the
    classes that are present.

    Args:
        anchors: (K, Q, C); the only ones with gradient.
        positives: (K, C).
        negatives: (K, Q, N, C); a vector of zeros has a cosine of 0.
        present: Bool (K,); the others' entries must be finite, and do not count.
        temperature: tau.
        divisor: Number of classes that the sum over the classes is divided by; that of the present
            ones by default.

    Returns:
        0-dim, in float32 at least, also under autocast; 0 with a gradient of 0 when no class is
        present.
    """
    kind = torch.promote_types(anchors.dtype, torch.float32)
    negatives, positives = negatives.detach().to(kind), positives.detach().to(kind)
    with torch.autocast(anchors.device.type, enabled=False):
        anchors = F.normalize(anchors.to(kind), dim=-1)
        near = (anchors * F.normalize(positives, dim=-1)[:, None]).sum(-1, keepdim=True)
        length = torch.linalg.vector_norm(negatives, dim=-1).clamp(min=1e-12)
        # A row times a matrix: several times as fast on CPUs as the matrix times a column.
        far = (anchors[..., None, :] @ negatives.transpose(-1, -2))[..., 0, :] / length
        logits = torch.cat([near, far], dim=-1) / temperature
        values = (logits.logsumexp(-1) - logits[..., 0]).mean(dim=1)
    count = present.sum() if divisor is None else divisor
    return torch.where(present, values, 0.0).sum() / count.clamp(min=1)
