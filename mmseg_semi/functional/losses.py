"""Masked and weighted per-pixel losses."""

from __future__ import annotations

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

DENOMINATORS = ('valid', 'selected', 'weight', 'valid_weight', 'all')
CONSISTENCY_KINDS = ('kl', 'cross_entropy', 'cosine')


def at_least_float32(tensor: Tensor) -> Tensor:
    """Take half precision to float32 and leave float64 as it is.

    Scores of half precision overflow, and so do sums over positions; a whole step in float64 can
    be compared with another program to the last digits.
    """
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def weighted_cross_entropy(
    logits: Tensor,
    label: Tensor,
    valid: Tensor,
    selected: Optional[Tensor] = None,
    weight: Optional[Tensor] = None,
    denominator: str = 'valid',
) -> Tensor:
    r"""Cross entropy of selected pixels, each with its weight.

    :math:`\sum_x s(x) w(x) CE(x) / N`, where ``denominator`` names N: ``'valid'`` counts the
    valid pixels (FixMatch, UniMatch), ``'selected'`` the valid selected ones (S4MC), ``'weight'``
    sums the weights of the valid selected ones, ``'valid_weight'`` those of all valid ones (the
    programs of Weighting Pseudo-Labels and AEL), and ``'all'`` counts every pixel, padding and
    unknown ones too (AugSeg's program).

    Args:
        logits: (B, K, H, W), before softmax; computed in float32 at least.
        label: int64 (B, H, W); 255 is ignored as an invalid pixel is.
        valid: Bool (B, H, W), False on padding.
        selected: Bool (B, H, W). Defaults to all valid pixels.
        weight: Non-negative (B, H, W), without gradient. Defaults to 1.
        denominator: One of ``DENOMINATORS``.

    Returns:
        0-dim loss. With an empty denominator it is 0 and still connected to the graph.

    Raises:
        ValueError: ``denominator`` is unknown or the sizes differ.
    """
    if logits.shape[0] != label.shape[0] or logits.shape[-2:] != label.shape[-2:]:
        raise ValueError(
            f'logits {tuple(logits.shape)} and label {tuple(label.shape)} must agree in batch and '
            'size'
        )
    valid = valid & (label != 255)
    keep = valid if selected is None else valid & selected
    # Labels of dropped pixels are replaced: their loss must be finite for 0 * loss to be 0.
    target = torch.where(keep, label, torch.full_like(label, -100))
    loss = F.cross_entropy(at_least_float32(logits), target, reduction='none', ignore_index=-100)
    return _masked_mean(loss, valid, keep, weight, denominator)


def _masked_mean(
    loss: Tensor, valid: Tensor, keep: Tensor, weight: Optional[Tensor], denominator: str
) -> Tensor:
    """Sum the weighted loss (B, H, W) over ``keep`` and divide as ``denominator`` says."""
    if denominator not in DENOMINATORS:
        raise ValueError(f'denominator must be one of {DENOMINATORS}, got {denominator!r}')

    def weigh(mask: Tensor) -> Tensor:
        return (mask if weight is None else torch.where(mask, weight, 0)).to(loss.dtype)

    factor = weigh(keep)
    if denominator == 'all':
        return (loss * factor).sum() / max(loss.numel(), 1)
    if denominator == 'valid':
        count = valid.sum().clamp(min=1)
    elif denominator == 'selected':
        count = keep.sum().clamp(min=1)
    else:
        total = factor.sum() if denominator == 'weight' else weigh(valid).sum()
        count = torch.where(total > 0, total, torch.ones_like(total))
    return (loss * factor).sum() / count


def soft_consistency(
    logits: Tensor,
    target_logits: Tensor,
    valid: Tensor,
    selected: Optional[Tensor] = None,
    weight: Optional[Tensor] = None,
    kind: str = 'kl',
    denominator: str = 'valid',
) -> Tensor:
    r"""Distance of each selected pixel's class distribution to a target distribution.

    CorrMatch's soft loss (Sun et al., CVPR 2024): :math:`KL(p_t || p)` with p the softmax of
    ``logits`` and p_t that of ``target_logits``.

    Args:
        logits: (B, K, H, W), before softmax; computed in float32 at least.
        target_logits: (B, K, H, W); no gradient flows into them.
        valid: Bool (B, H, W), False on padding.
        selected: Bool (B, H, W). Defaults to all valid pixels.
        weight: Non-negative (B, H, W), without gradient. Defaults to 1.
        kind: ``'kl'``; ``'cross_entropy'`` :math:`-\sum_k p_{t,k} \log p_k`; ``'cosine'``
            :math:`1 - \cos(p_t, p)`.
        denominator: As in :func:`weighted_cross_entropy`.

    Returns:
        0-dim loss. With an empty denominator it is 0 and still connected to the graph.

    Raises:
        ValueError: ``kind`` or ``denominator`` is unknown or the sizes differ.
    """
    if kind not in CONSISTENCY_KINDS:
        raise ValueError(f'kind must be one of {CONSISTENCY_KINDS}, got {kind!r}')
    if logits.shape != target_logits.shape or logits[:, 0].shape != valid.shape:
        raise ValueError(
            f'logits {tuple(logits.shape)}, target_logits {tuple(target_logits.shape)} and valid '
            f'{tuple(valid.shape)} must agree in batch, classes and size'
        )
    logits, target = at_least_float32(logits), at_least_float32(target_logits.detach())
    if kind == 'cosine':
        loss = 1 - F.cosine_similarity(logits.softmax(dim=1), target.softmax(dim=1), dim=1)
    else:
        loss = _SoftTarget.apply(logits, target, kind == 'kl')
    keep = valid if selected is None else valid & selected
    return _masked_mean(loss, valid, keep, weight, denominator)


class _SoftTarget(torch.autograd.Function):
    """KL divergence or cross-entropy of each pixel, whose gradient is p - p_t with both.

    Kept for the backward pass is that difference alone, and few tensors of the logits' size are
    made: with 150 classes they are what takes the time.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target_logits: Tensor, divergence: bool) -> Tensor:
        own, target = logits.log_softmax(dim=1), target_logits.log_softmax(dim=1)
        prob = target.exp()
        distance = target.sub_(own) if divergence else -own
        loss = distance.mul_(prob).sum(dim=1)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(own.exp_().sub_(prob))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (difference,) = ctx.saved_tensors
        return difference * grad[:, None], None, None


@torch.no_grad()
def pixel_accuracy(pred: Tensor, target: Tensor, ignore_index: Optional[int] = None) -> Tensor:
    """Percent of the known pixels that are right: mmseg's ``accuracy``, without its sorting.

    Nothing waits for a GPU.

    Args:
        pred: Logits (B, K, H, W).
        target: Class numbers (B, H, W).
        ignore_index: The number of unknown pixels.

    Returns:
        A tensor (1,).
    """
    known = torch.ones_like(target, dtype=torch.bool)
    if ignore_index is not None:
        known = target != ignore_index
    right = (pred.max(dim=1).indices == target) & known
    little = torch.finfo(torch.float32).eps  # all pixels may be unknown
    return (100.0 * (right.sum() + little) / (known.sum() + little)).reshape(1)
