"""How sure a prediction is, pixel by pixel, and the statistics that thresholds follow."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmseg_semi.arguments import check_shapes

from .losses import at_least_float32

CONFIDENCE_KINDS = ('max', 'margin', 'entropy')
_SMALL = 1e-8


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


def class_peaks(prob: Tensor, valid: Tensor) -> Tensor:
    """Find the highest confidence among the pixels predicted as each class.

    Args:
        prob: Probabilities (B, K, H, W).
        valid: Bool (B, H, W), False on padding.

    Returns:
        float32 (K,); ``-inf`` for a class that no valid pixel is predicted as. The elementwise
        maximum over parts of a batch is the value of the whole.

    Raises:
        ValueError: The sizes differ.
    """
    check_shapes(prob=(prob, 'B K H W'), valid=(valid, 'B H W'))
    confidence, label = prob.max(dim=1)
    return peaks_by_class(confidence, label, valid, prob.shape[1])


def peaks_by_class(confidence: Tensor, label: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """Find the same from the confidence and the label (B, H, W) of each pixel."""
    confidence = torch.where(valid, at_least_float32(confidence), -torch.inf).flatten()
    width = label.shape[-1]
    # One counter for each class and column, so that few pixels meet in the same one.
    column = torch.arange(width, device=label.device)
    peaks = confidence.new_full((num_classes * width,), -torch.inf)
    peaks.scatter_reduce_(0, (label * width + column).flatten(), confidence, 'amax')
    return peaks.view(num_classes, width).amax(dim=1)


def presence_confidence(prob: Tensor, valid: Tensor) -> Tensor:
    r"""Average the classes' highest confidences over the classes that are present.

    CorrMatch's :math:`\delta` (Sun et al., CVPR 2024), the value that its threshold follows.

    Args:
        prob: Probabilities of the weak views (B, K, H, W).
        valid: Bool (B, H, W), False on padding.

    Returns:
        0-dim float32 in (0, 1]; NaN when no pixel is valid.

    Raises:
        ValueError: The sizes differ.
    """
    return mean_of_present(class_peaks(prob, valid))


def mean_of_present(values: Tensor) -> Tensor:
    """Average the finite entries of (K,); NaN when there is none."""
    present = torch.isfinite(values)
    return torch.where(present, values, 0.0).sum() / present.sum()


def scaled_residual_variance(prob: Tensor) -> Tensor:
    r"""How unequal the classes are that a pixel is not of; 0 where they are equal.

    CoVar (Liu et al., arXiv 2601.11670): the variance of the K - 1 probabilities besides the
    largest, :math:`p`, times :math:`(K - 1)^2 / (2 (1 - p))`, the second-order term of the cross
    entropy.

    Args:
        prob: Probabilities (B, K, H, W), summing to 1 over dim 1.

    Returns:
        (B, H, W), >= 0.

    Raises:
        ValueError: There is a single class.
    """
    others = prob.shape[1] - 1
    if others < 1:
        raise ValueError(f'it needs at least 2 classes, got prob {tuple(prob.shape)}')
    largest, label = prob.max(dim=1, keepdim=True)
    rest = 1 - largest[:, 0]
    # The sum of squares of the others, without the largest, which would cancel it in float32.
    squares = torch.square(prob).scatter(1, label, 0).sum(dim=1)
    variance = (squares / others - torch.square(rest / others)).clamp(min=0)
    return variance * others**2 / (2 * rest.clamp(min=_SMALL))


def separation_weight(
    prob: Tensor, valid: Tensor, variance_weight: float = 0.25, alpha: float = 8.0
) -> Tensor:
    r"""Weigh pixels by how they lie to the reliable ones of their image.

    CSL (Liu and Liu, ICCV 2025) and CoVar: each valid pixel is a point x of its confidence and its
    residual variance. The points of an image fall into two groups by the two right singular
    vectors of their matrix: a pixel is of the one in which its entry is larger. The group with the
    larger mean confidence less ``variance_weight`` times its mean residual variance is the
    reliable one; with its means and standard deviations, :math:`z_c` says how far a pixel's
    confidence is above them, and :math:`z_r` how far its residual variance is below. A pixel weighs
    1 where one of them is positive, else :math:`\exp(-(z_c^2 + z_r^2) / \alpha)`.

    Args:
        prob: Probabilities (B, K, H, W); refined ones, whose sum may be another than 1, are
            divided by it.
        valid: Bool (B, H, W), False on padding.
        variance_weight: See above; the authors' program has 0.25.
        alpha: How slowly the weight falls, > 0; CoVar's program has 8, CSL's 2.

    Returns:
        Weights (B, H, W) in [0, 1], 0 on padding, of the dtype of ``prob``.
    """
    prob = prob.clamp(min=0)
    prob = prob / prob.sum(dim=1, keepdim=True).clamp(min=torch.finfo(prob.dtype).tiny)
    points = torch.stack([prob.amax(dim=1), scaled_residual_variance(prob)], dim=-1)
    points, known = points.flatten(1, 2).double(), valid.flatten(1)
    points = points * known[..., None]
    # X^T X is 2 x 2: half the angle gives its vectors u, and X u / |X u| are the singular ones.
    gram = points.mT @ points
    angle = torch.atan2(2 * gram[:, 0, 1], gram[:, 0, 0] - gram[:, 1, 1]) / 2
    sine, cosine = angle.sin(), angle.cos()
    vectors = torch.stack([cosine, -sine, sine, cosine], dim=1).view(-1, 2, 2)  # columns
    entries = points @ vectors
    entries = entries.abs() / entries.norm(dim=1, keepdim=True).clamp(min=_SMALL)
    leading = known & (entries[..., 0] >= entries[..., 1])
    groups = torch.stack([leading, known & ~leading], dim=1)
    counts = groups.sum(-1, keepdim=True)
    members = groups.double()
    means = (members @ points) / counts.clamp(min=1)
    squares = members @ torch.square(points) - counts * torch.square(means)
    deviations = (squares.clamp(min=0) / (counts - 1).clamp(min=1) + _SMALL).sqrt()
    score = means[..., 0] - variance_weight * means[..., 1]
    best = score.masked_fill(counts[..., 0] == 0, -math.inf).argmax(dim=1)[:, None, None]
    mean, deviation = (one.gather(1, best.expand(-1, 1, 2)) for one in (means, deviations))
    z = (points - mean) / deviation
    good = (z[..., 0] > 0) | (z[..., 1] < 0)
    weight = torch.where(good, 1.0, torch.exp(-torch.square(z).sum(-1) / alpha))
    return (weight * known).view_as(valid).to(prob.dtype)


def image_confidence(confidence: Tensor, valid: Tensor) -> Tensor:
    """Mean confidence of the valid pixels of each image, at each pixel (B, H, W).

    Args:
        confidence: Of pixels (B, H, W).
        valid: Bool (B, H, W); the mean of an image without any is 0.
    """
    pixels = valid.sum((1, 2), keepdim=True).clamp(min=1)
    return ((confidence * valid).sum((1, 2), keepdim=True) / pixels).expand_as(confidence)
