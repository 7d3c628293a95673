"""Adaptive equalization learning: what badly learned classes get more of."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from mmseg_semi.arguments import check_shapes

from .components import masks_to_boxes
from .losses import at_least_float32


@torch.no_grad()
def class_confidence_sums(logits: Tensor, label: Tensor) -> Tensor:
    """Sum the probability of the true class over the pixels of each class.

    Args:
        logits: (B, K, H, W), before softmax.
        label: int (B, H, W), the true classes; 255 does not count.

    Returns:
        float64 (2, K): the sums, and the numbers of pixels. Those of two parts of a batch add up
        to those of the whole.

    Raises:
        ValueError: The sizes differ.
    """
    check_shapes(logits=(logits, 'B K H W'), label=(label, 'B H W'))
    classes, width = logits.shape[1], logits.shape[-1]
    known, logits = label != 255, at_least_float32(logits)
    target = torch.where(known, label, 0).long()
    prob = (logits.gather(1, target[:, None])[:, 0] - logits.logsumexp(dim=1)).exp().double()
    # One counter for each class and column, so that few pixels meet in the same one.
    place = target * width + torch.arange(width, device=label.device)
    sums = prob.new_zeros(2, classes * width)
    sums[0].scatter_add_(0, place.flatten(), torch.where(known, prob, 0).flatten())
    sums[1].scatter_add_(0, place.flatten(), known.double().flatten())
    return sums.view(2, classes, width).sum(dim=2)


@torch.no_grad()
def sampling_weights(confidence: Tensor, power: float = 1.0) -> Tensor:
    r"""Give the probability with which each class is drawn: :math:`softmax((1 - c)^{power})`.

    Args:
        confidence: c, (K,), 0 to 1.
        power: Exponent, >= 0; below 1 it brings the classes closer together.

    Returns:
        (K,), summing to 1, of the same dtype.
    """
    return (1 - confidence).clamp(0, 1).pow(power).softmax(dim=0)


@torch.no_grad()
def draw_classes(
    weights: Tensor, times: int, number: int = 1, generator: Optional[torch.Generator] = None
) -> Tensor:
    """Draw classes without replacement, several times.

    Args:
        weights: Positive (K,), probabilities of the first draw; they need not sum to 1.
        times: How often to draw afresh.
        number: Draws each time, at most K.
        generator: Source of randomness, on its own device. Defaults to torch's global one.

    Returns:
        int64 (times, number), in the order drawn.
    """
    source = generator.device if generator is not None else torch.device('cpu')
    waits = torch.empty(times, len(weights), dtype=torch.float64, device=source)
    waits.exponential_(generator=generator)
    # Who waits shortest for an event of rate w was drawn with probability w / sum(w), the next one
    # likewise among the others.
    return (weights / waits.to(weights.device)).topk(number, dim=1).indices


@torch.no_grad()
def draw_true(mask: Tensor, generator: Optional[torch.Generator] = None) -> tuple[Tensor, Tensor]:
    """Draw one of the True places of each row, all with the same probability.

    Args:
        mask: Bool (..., N).
        generator: Source of randomness, on its own device. Defaults to torch's global one.

    Returns:
        int64 (...), the place, and bool (...), whether there is one; where there is none, the
        place is 0.
    """
    source = generator.device if generator is not None else torch.device('cpu')
    draw = torch.rand(mask.shape[:-1], generator=generator, device=source, dtype=torch.float64)
    count = mask.sum(dim=-1)
    order = (draw.to(mask.device) * count).floor()[..., None]
    place = (mask.cumsum(dim=-1) <= order).sum(dim=-1)
    return torch.where(count > 0, place, 0), count > 0


@torch.no_grad()
def equalization_mask(
    label: Tensor,
    confidence: Tensor,
    generator: Optional[torch.Generator] = None,
    draw: Optional[Tensor] = None,
) -> Tensor:
    r"""Keep pixels of class k with probability :math:`(1 - c_k) / \max_j (1 - c_j)`.

    AEL's adaptive equalization sampling (Hu et al., NeurIPS 2021). When every class is perfectly
    known, all pixels are kept.

    Args:
        label: int (B, H, W), predicted classes; pixels of 255 are decided somehow.
        confidence: c, (K,), 0 to 1.
        generator: Source of randomness on the device of ``label``. Defaults to torch's global one
            there.
        draw: Numbers (K, H, W), uniform in [0, 1), of which all images of the batch take that of
            their class at a place. None draws one for each pixel.

    Returns:
        Bool (B, H, W).
    """
    gap = (1 - confidence).clamp(0, 1)
    rate = torch.where(gap.amax() > 0, gap / gap.amax().clamp(min=1e-12), 1.0).float()
    label = torch.where(label < len(rate), label, 0).long()
    if draw is None:
        draw = torch.rand(label.shape, generator=generator, device=label.device)
    else:
        draw = draw.gather(0, label)
    return draw >= 1 - rate[label]


@torch.no_grad()
def class_boxes(
    target: Tensor, min_share: float, generator: Optional[torch.Generator] = None
) -> tuple[Tensor, Tensor]:
    """Box a part of each image that is True, or half of the image where none is large enough.

    AEL's boxes (Hu et al., NeurIPS 2021, and its program): the bounding box of a random one of the
    8-connected components of more than ``min_share`` of the image's pixels, whatever its size.
    Without one, a random box of half the area, its height the image's times :math:`2^{-r}`, r
    uniform in [0, 1].

    Args:
        target: Bool (B, H, W).
        min_share: Share of the image's pixels, in [0, 1).
        generator: Source of randomness, on its own device. Defaults to torch's global one.

    Returns:
        Bool (B, H, W), True inside the box, and bool (B,), whether it is that of a component.
    """
    height, width = target.shape[-2:]
    source = generator.device if generator is not None else torch.device('cpu')
    draws = torch.rand(len(target), 4, generator=generator, device=source, dtype=torch.float64)
    boxes, found = torch.zeros_like(target), []
    least = int(min_share * height * width) + 1
    for box, mask, draw in zip(boxes, target.to(torch.uint8).cpu(), draws.tolist()):
        parts = masks_to_boxes(mask, [1], min_area=least)
        found.append(bool(parts))
        if parts:
            _, left, top, right, bottom = parts[int(draw[0] * len(parts))]
        else:
            rows = max(round(height * 0.5 ** draw[1]), 1)
            columns = max(round(width * 0.5 ** (1 - draw[1])), 1)
            top, left = int(draw[2] * (height - rows + 1)), int(draw[3] * (width - columns + 1))
            bottom, right = top + rows, left + columns
        box[top:bottom, left:right] = True
    return boxes, torch.tensor(found, device=target.device)
