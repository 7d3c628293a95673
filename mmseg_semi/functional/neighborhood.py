"""Refining probabilities by their neighborhood, as S4MC does.

Shape legend: ``B`` images, ``K`` classes, ``H W`` pixels.
"""

from __future__ import annotations

from math import exp
from typing import Any, Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_semi.arguments import check_choice, check_number, check_shapes

NEIGHBOR_CRITERIA = ('max', 'min', 'random', 'two_max')
JOINT_SCALES = ('one', 'probability')
JOINT_RULES = ('max', 'alone')
_BLOCK = 2**18  # numbers of a block, whose copies stay in a CPU's cache


@torch.no_grad()
def refine_neighborhood(
    prob: Tensor,
    window: int = 3,
    neighbors: int = 1,
    criterion: str = 'max',
    joint: Union[None, float, Tensor] = None,
    beta: Union[str, float] = 'distance',
    connectivity: int = 8,
    joint_scale: str = 'one',
    joint_rule: str = 'max',
    generator: Optional[torch.Generator] = None,
) -> Tensor:
    r"""Raise a pixel's class score by the neighbor that supports it (S4MC).

    The probability that the pixel *or* a neighbor belongs to the class (Kimhi et al., Semi-
    Supervised Semantic Segmentation via Marginal Contextual Information, TMLR 2024):
    :math:`\tilde p_c(x) = p_c(x) + \beta_n [p_c(n) - J]`, class by class, with the neighbor n
    in the window (center excluded) that the criterion names. J is the joint probability,
    :math:`p_c(x) p_c(n)` when pixels are taken as independent, or the larger of that and an
    empirical E. Outside the image every probability is zero, and such neighbors count like
    others. The formula is followed to the letter: where E exceeds every :math:`p_c(n)` the gain
    is negative.

    More than one neighbor: repeated, with :math:`\tilde p_c(x)` in the place of
    :math:`p_c(x)`, on the neighbors not yet used.

    Args:
        prob: Probabilities (B, K, H, W).
        window: Odd side of the window in pixels, at least 3 (the paper tries 3, 5, 7).
        neighbors: How many neighbors are united with the pixel, at least 1.
        criterion: ``'max'`` the largest gain (ties to the nearer neighbor), ``'min'`` the
            smallest, ``'random'`` one drawn uniformly for each pixel, the same for all classes,
            without replacement; ``'two_max'`` is ``'max'`` with 2 neighbors.
        joint: E in [0, 1], the probability that neighboring pixels share the class: None for
            independence, one number, or a tensor (K,).
        beta: Weight of a neighbor: ``'distance'`` for exp(-(|dy| + |dx|) / 2), or a constant
            in [0, 1].
        connectivity: 8 for the whole window; 4 for the pixels that (window - 1) / 2 steps along
            rows and columns reach (a diamond; the authors' program, with window 3).
        joint_scale: What E is. ``'one'``: the probability that both pixels are of the class
            (the paper's Appendix C). ``'probability'``: that a neighbor of a pixel of the class is
            of it too, so that E is multiplied by :math:`p_c(x)`, as the authors' program has it.
        joint_rule: ``'max'``: J is the larger of E and the independent :math:`p_c(x) p_c(n)`;
            ``'alone'``: J is E (with which the paper's training diverged).
        generator: Source of randomness for ``'random'``, on its own device. Defaults to torch's
            global one of the device of ``prob``.

    Returns:
        Scores (B, K, H, W) of the input's dtype, which need not sum to 1 over the classes; in
        [0, 1] when ``joint`` is None. Without gradient: a teacher's probabilities have none.

    Raises:
        ValueError: An argument is outside what is listed above.
    """
    check_choice('criterion', criterion, NEIGHBOR_CRITERIA)
    if generator is not None and criterion != 'random':
        raise ValueError(f"generator is used by criterion='random' only, got {criterion!r}")
    if criterion == 'two_max':
        if neighbors not in (1, 2):
            raise ValueError(
                f"criterion='two_max' must have 2 neighbors, got neighbors={neighbors}"
            )
        criterion, neighbors = 'max', 2
    rings = _rings(window, connectivity, beta)
    available = sum(len(offsets) for _, offsets in rings)
    if not 1 <= neighbors <= available:
        raise ValueError(f'neighbors must be in [1, {available}] for this window, got {neighbors}')
    check_shapes(prob=(prob, 'B K H W'))
    empirical, reach = _empirical(joint, prob), window // 2
    if criterion == 'random':
        together = _Joint(empirical, joint_scale, joint_rule)
        padded = F.pad(prob, [reach] * 4)
        return _unite_random(prob, padded, rings, neighbors, together, generator)
    out = torch.empty_like(prob)
    for image, classes, rows in _blocks(prob):
        own = None if empirical is None else empirical[:, classes]
        together, block = _Joint(own, joint_scale, joint_rule), (image, classes, rows)
        around = slice(max(rows.start - reach, 0), rows.stop + reach)
        missing = around.start - rows.start + reach, max(around.stop - prob.shape[2], 0)
        padded = F.pad(prob[image, classes, around], [reach, reach, *missing])
        largest = criterion == 'max'
        out[block] = _unite_extreme(prob[block], padded, rings, neighbors, together, largest)
    return out


def _blocks(prob: Tensor) -> list[tuple[slice, slice, slice]]:
    """Images, classes and rows that are refined at once: on a CPU as many as its cache holds."""
    batch, classes, height, width = prob.shape
    if prob.device.type != 'cpu':
        return [(slice(batch), slice(classes), slice(0, height))]
    rows = max(_BLOCK // max(width, 1), 1)
    planes = max(rows // max(height, 1), 1)
    return [
        (slice(image, image + 1), slice(first, first + planes), slice(row, min(row + rows, height)))
        for image in range(batch)
        for first in range(0, classes, planes)
        for row in range(0, height, rows)
    ]


_Rings = list[tuple[float, list[tuple[int, int]]]]


def _rings(window: int, connectivity: int, beta: Union[str, float]) -> _Rings:
    """Group the offsets (dy, dx) by their weight, the nearest first."""
    if window < 3 or window % 2 == 0:
        raise ValueError(f'window must be odd and at least 3, got {window}')
    check_choice('connectivity', connectivity, (4, 8))
    if beta != 'distance' and (isinstance(beta, str) or not 0 <= beta <= 1):
        raise ValueError(f"beta must be 'distance' or a number in [0, 1], got {beta!r}")
    reach = window // 2
    rings: dict[int, list[tuple[int, int]]] = {}
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            steps = abs(dy) + abs(dx)
            if steps and (connectivity == 8 or steps <= reach):
                rings.setdefault(steps, []).append((dy, dx))
    if beta == 'distance':
        return [(exp(-steps / 2), rings[steps]) for steps in sorted(rings)]
    return [(float(beta), [offset for steps in sorted(rings) for offset in rings[steps]])]


def _empirical(joint: Union[None, float, Tensor], prob: Tensor) -> Union[None, Tensor]:
    """E as a tensor that broadcasts over ``prob``."""
    if joint is None:
        return None
    if not isinstance(joint, Tensor):
        check_number('joint', joint, 0, 1)
        return prob.new_full((1, prob.shape[1], 1, 1), joint)
    if joint.shape not in ((), prob.shape[1:2]):
        raise ValueError(
            f'joint must be a number or one for each of the {prob.shape[1]} classes, '
            f'got shape {tuple(joint.shape)}'
        )
    return joint.to(prob).reshape(1, -1, 1, 1).expand(1, prob.shape[1], 1, 1)


class _Joint:
    """The joint probability of a pixel and a neighbor.

    Raises:
        ValueError: A scale or rule that does not exist.
    """

    def __init__(self, empirical: Optional[Tensor], scale: str, rule: str) -> None:
        check_choice('joint_scale', scale, JOINT_SCALES)
        check_choice('joint_rule', rule, JOINT_RULES)
        self.empirical, self.scale, self.rule = empirical, scale, rule

    def __call__(self, union: Tensor, value: Tensor) -> Tensor:
        """Return J (B, K, H, W), a new tensor, of the pixels' and the neighbors' values."""
        joint = union * value
        if self.empirical is None:
            return joint
        empirical = self.empirical
        if self.scale == 'probability':
            empirical = union * empirical
        if self.rule == 'alone':
            return joint.copy_(empirical)
        return torch.maximum(joint, empirical, out=joint)


def _gain(union: Tensor, value: Tensor, weight: Union[float, Tensor], joint: _Joint) -> Tensor:
    both = joint(union, value)
    return torch.sub(value, both, out=both).mul_(weight)


def _shift(padded: Tensor, offset: tuple[int, int], size: torch.Size) -> Tensor:
    """View of the neighbors at one offset."""
    height, width = size
    top = (padded.shape[-2] - height) // 2 + offset[0]
    left = (padded.shape[-1] - width) // 2 + offset[1]
    return padded[..., top : top + height, left : left + width]


def _unite_extreme(
    prob: Tensor,
    padded: Tensor,
    rings: _Rings,
    neighbors: int,
    joint: _Joint,
    largest: bool,
) -> Tensor:
    """Unite with the neighbors of the largest (or smallest) gain, one after the other.

    At one weight the gain grows with the neighbor's probability, so that a ring is fully
    described by its ``neighbors`` most extreme values, whichever pixels they come from.
    """
    better = torch.maximum if largest else torch.minimum
    used_up = float('-inf') if largest else float('inf')
    queues = [_extremes(padded, offsets, prob, neighbors, largest) for _, offsets in rings]
    union = prob
    for step in range(neighbors):
        best: Any = None
        winner: Any = None
        for ring, (weight, _) in enumerate(rings):
            gain = _gain(union, queues[ring][0], weight, joint)
            if step > 0:
                gain.masked_fill_(queues[ring][0].isinf(), used_up)
            if best is None:
                best, winner = gain, torch.zeros_like(gain, dtype=torch.uint8)
                continue
            if step + 1 < neighbors:
                winner.masked_fill_(gain > best if largest else gain < best, ring)
            better(best, gain, out=best)
        union = best.add_(union)
        if step + 1 < neighbors:
            for ring, queue in enumerate(queues):
                _advance(queue, winner == ring, used_up)
    return union


def _extremes(
    padded: Tensor, offsets: list[tuple[int, int]], prob: Tensor, count: int, largest: bool
) -> list[Tensor]:
    """The ``count`` largest (or smallest) neighbors among the offsets, in order."""
    better, worse = torch.maximum, torch.minimum
    if not largest:
        better, worse = worse, better
    queue: list[Tensor] = []
    for offset in offsets:
        value: Any = _shift(padded, offset, prob.shape[-2:])
        for place, held in enumerate(queue):
            loser = worse(held, value) if place + 1 < count else None
            better(held, value, out=held)
            value = loser
        if len(queue) < count:
            queue.append(value.clone())
    return queue


def _advance(queue: list[Tensor], used: Tensor, used_up: float) -> None:
    """Drop the head of the queue where it was used."""
    for place, held in enumerate(queue[:-1]):
        queue[place] = torch.where(used, queue[place + 1], held)
    queue[-1] = queue[-1].masked_fill(used, used_up)


def _unite_random(
    prob: Tensor,
    padded: Tensor,
    rings: _Rings,
    neighbors: int,
    joint: _Joint,
    generator: Optional[torch.Generator],
) -> Tensor:
    """Unite with neighbors drawn without replacement, pixel by pixel."""
    batch, classes, height, width = prob.shape
    table = [(weight, *offset) for weight, offsets in rings for offset in offsets]
    device, row = prob.device, padded.shape[-1]
    weights = prob.new_tensor([weight for weight, _, _ in table])
    steps = torch.tensor([dy * row + dx for _, dy, dx in table], device=device)
    source = device if generator is None else generator.device
    draw = torch.rand(batch, len(table), height, width, generator=generator, device=source)
    order = draw.topk(neighbors, dim=1).indices.to(device)
    reach = (row - width) // 2
    center = torch.arange(reach, reach + height, device=device)[:, None] * row
    center = center + torch.arange(reach, reach + width, device=device)
    union = prob
    for pick in order.unbind(dim=1):
        index = (center + steps[pick]).flatten(1)[:, None].expand(-1, classes, -1)
        value = padded.flatten(2).gather(2, index).view_as(prob)
        union = _gain(union, value, weights[pick][:, None], joint).add_(union)
    return union
