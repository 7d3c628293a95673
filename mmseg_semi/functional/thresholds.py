"""Statistics that dynamic confidence thresholds follow."""

from __future__ import annotations

import torch
from torch import Tensor


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
    if prob.dim() != 4 or valid.shape != prob.shape[:1] + prob.shape[2:]:
        raise ValueError(
            f'prob {tuple(prob.shape)} must be (B, K, H, W) and valid {tuple(valid.shape)} '
            '(B, H, W) of the same batch and size'
        )
    confidence, label = prob.max(dim=1)
    return peaks_by_class(confidence, label, valid, prob.shape[1])


def peaks_by_class(confidence: Tensor, label: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """Find the same from the confidence and the label (B, H, W) of each pixel."""
    confidence = torch.where(valid, confidence.float(), -torch.inf).flatten()
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
