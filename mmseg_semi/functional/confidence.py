"""How sure a prediction is, pixel by pixel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

CONFIDENCE_KINDS = ('max', 'margin', 'entropy')


def confidence_score(prob: Tensor, kind: str = 'margin') -> Tensor:
    """Score each pixel's class distribution; larger means surer.

    Args:
        prob: Probabilities (B, K, H, W), summing to 1 over dim 1.
        kind: ``'max'`` the largest probability, in [1/K, 1]; ``'margin'`` the largest minus the
            second largest, in [0, 1] (S4MC's kappa); ``'entropy'`` the negative Shannon entropy
            in nats, in [-log K, 0].

    Returns:
        Score (B, H, W) of the input's dtype.

    Raises:
        ValueError: ``kind`` is unknown, or a margin is asked of a single class.
    """
    if kind == 'max':
        return prob.amax(dim=1)
    if kind == 'margin':
        if prob.shape[1] < 2:
            raise ValueError(f'a margin needs at least 2 classes, got prob {tuple(prob.shape)}')
        # A running pair of maxima: topk would sort the classes of every pixel.
        first, second = torch.maximum(prob[:, 0], prob[:, 1]), torch.minimum(prob[:, 0], prob[:, 1])
        for value in prob.unbind(dim=1)[2:]:
            second = torch.maximum(second, torch.minimum(first, value))
            first = torch.maximum(first, value)
        return first - second
    if kind == 'entropy':
        return torch.special.entr(prob).sum(dim=1).neg()
    raise ValueError(f'kind must be one of {CONFIDENCE_KINDS}, got {kind!r}')


def selected_ratio(selected: Tensor, valid: Tensor) -> Tensor:
    """Share of the valid pixels that are selected.

    Args:
        selected: Bool (B, H, W).
        valid: Bool (B, H, W), False on padding.

    Returns:
        0-dim float in [0, 1]; 0 when no pixel is valid.
    """
    return (selected & valid).sum().float() / valid.sum().clamp(min=1)


@torch.no_grad()
def instance_confidence(prob: Tensor, valid: Tensor) -> Tensor:
    r"""Tell how sure the prediction of each image is.

    :math:`\rho = \frac{1}{N} \sum_x \max_k p_k(x) (1 - H(p(x)) / \log K)` over the valid pixels
    (AugSeg, Zhao et al., CVPR 2023).

    Args:
        prob: Probabilities (B, K, H, W) of K >= 2 classes, summing to 1 over dim 1.
        valid: Bool (B, H, W), False on padding.

    Returns:
        (B,), 0 to 1; 0 for an image without a valid pixel.
    """
    if prob.shape[1] < 2:
        raise ValueError(f'the confidence of an image needs 2 classes, got {tuple(prob.shape)}')
    surety = 1 + confidence_score(prob, 'entropy') / math.log(prob.shape[1])
    values = torch.where(valid, prob.amax(dim=1) * surety, 0)
    counts = valid.flatten(1).sum(1).clamp(min=1)
    return (values.flatten(1).sum(1) / counts).clamp(0, 1)
