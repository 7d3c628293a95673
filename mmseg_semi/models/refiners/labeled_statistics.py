"""DAW: a threshold and an alignment of classes from what the student says about labeled pixels."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Optional

import torch
from mmengine.dist import all_reduce
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import Number
from mmseg_semi.models.component import last_head
from mmseg_semi.structures import PseudoLabel, SegOutputs, SemiStep

from .base_refiner import BaseRefiner
from .ema_threshold import class_sums

if TYPE_CHECKING:
    from mmseg_semi.models.segmentors import SemiSegmentor

#: Pixels of a kind, over all ranks, below which an iteration says nothing about it.
FEWEST = 10
#: What stands for an average that nothing has shown yet; checkpoints take no NaN.
UNKNOWN = -1.0


def labeled_predictions(step: SemiStep) -> PseudoLabel:
    """What the student says about the labeled images; valid where the truth is known."""
    return PseudoLabel.from_logits(step.labeled.logits.detach(), step.labeled_truth != 255)


class LabeledStatistics(BaseRefiner):
    """A refiner whose state is an average over iterations, which ``LabeledStatisticsHook`` moves.

    Args:
        momentum: m of the average, in [0, 1].
    """

    hooks = (dict(type='LabeledStatisticsHook'),)

    def __init__(self, momentum: Annotated[float, Number(0, 1)] = 0.99) -> None:
        super().__init__()
        self.momentum = momentum
        self._pending: Optional[Tensor] = None

    @abstractmethod
    def statistics(self, step: SemiStep) -> Tensor:
        """Sums over this rank's batch; those of all ranks, and of several passes, add up."""

    @abstractmethod
    def move(self, found: Tensor) -> None:
        """Move the state by the sums of the global batch."""

    @torch.no_grad()
    def observe(self, step: SemiStep) -> None:
        """Note what the update needs of this batch."""
        found = self.statistics(step)
        self._pending = found if self._pending is None else self._pending + found

    @torch.no_grad()
    def update_state(self) -> None:
        """Move the state by what has been noted since the last call, over all ranks."""
        if self._pending is None:
            return
        found, self._pending = self._pending, None
        all_reduce(found, op='sum')
        self.move(found)

    def average(self, value: Tensor, found: Tensor, known: Tensor) -> Tensor:
        """A step of the average where ``known``; what is not known yet begins with it."""
        moved = self.momentum * value + (1 - self.momentum) * found
        return torch.where(known, torch.where(value < 0, found, moved), value)


@MODELS.register_module()
class GaussianThreshold(LabeledStatistics):
    r"""Keep the pixels whose confidence reaches where right and wrong labels are as likely.

    DAW (Sun et al., NeurIPS 2023): the confidences of the labeled pixels that the student gets
    right, and of those that it gets wrong, are taken for two Gaussians, whose means and variances
    are averages over iterations; tau is where their densities cross, between the two means, within
    [1 / K, 1]. Where they do not cross there, and before an iteration has had 10 pixels of each
    kind, tau stays.

    Args:
        initial: tau at the start, in [0, 1].
        momentum: m of the averages, in [0, 1].

    Raises:
        ValueError: An argument outside its values.
    """

    value: Tensor
    moments: Tensor
    stage = 'selection'

    def __init__(
        self,
        initial: Annotated[float, Number(0, 1)] = 0.95,
        momentum: Annotated[float, Number(0, 1)] = 0.99,
    ) -> None:
        super().__init__(momentum)
        self.initial, self.classes = initial, 0
        self.register_buffer('value', torch.tensor(float(initial), dtype=torch.float64))
        # Of wrong and of right pixels: mean and variance.
        self.register_buffer('moments', torch.full((2, 2), UNKNOWN, dtype=torch.float64))

    def attach(self, model: SemiSegmentor) -> None:
        """Learn the number of classes, which bounds tau."""
        self.classes = last_head(model.segmentor).out_channels

    @property
    def threshold(self) -> Tensor:  # type: ignore[override]
        """tau, float64 0-dim."""
        return self.value

    def forward(self, pseudo: PseudoLabel, outputs: SegOutputs, step: SemiStep) -> PseudoLabel:
        """Narrow ``selected``."""
        sure = pseudo.confidence >= self.value.to(pseudo.confidence.dtype)
        return pseudo.update(selected=pseudo.selected & sure)

    def statistics(self, step: SemiStep) -> Tensor:
        """Numbers, sums and sums of squares of the confidences: (2, 3), wrong pixels first."""
        labeled = labeled_predictions(step)
        right = labeled.label == step.labeled_truth
        confidence = labeled.confidence.double()
        kinds = torch.stack([labeled.valid & ~right, labeled.valid & right]).flatten(1).double()
        powers = torch.stack([torch.ones_like(confidence), confidence, confidence**2]).flatten(1)
        return kinds @ powers.T

    def move(self, found: Tensor) -> None:
        """Move the Gaussians, and put tau where they cross."""
        count = found[:, :1]
        mean = found[:, 1:2] / count
        variance = (found[:, 2:] / count - mean**2).clamp(min=0)
        known = (count >= FEWEST).expand(2, 2)
        self.moments.copy_(self.average(self.moments, torch.cat([mean, variance], 1), known))
        crossing = gaussian_crossing(*self.moments).clamp(1 / self.classes, 1)
        there = ~torch.isnan(crossing) & (self.moments >= 0).all()
        self.value.copy_(torch.where(there, crossing, self.value))

    def observe(self, step: SemiStep) -> None:
        """Note the labeled pixels; log tau."""
        step.log(f'{self.name}.threshold', self.value)
        super().observe(step)

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return f'initial={self.initial}, momentum={self.momentum}'


def gaussian_crossing(low: Tensor, high: Tensor) -> Tensor:
    """Where two densities cross between their means.

    Args:
        low: Mean and variance (2,) of a Gaussian, float64.
        high: Those of another one.

    Returns:
        The place, 0-dim; NaN where there is none between the means.
    """
    (mean, variance), (other, others) = low, high
    # Logarithm of the ratio of the densities: a x^2 + b x + c = 0.
    a = 1 / (2 * variance) - 1 / (2 * others)
    b = other / others - mean / variance
    c = mean**2 / (2 * variance) - other**2 / (2 * others) + 0.5 * (variance / others).log()
    root = (b * b - 4 * a * c).sqrt()
    # The form that does not cancel; with equal variances it is -c / b.
    q = -0.5 * (b + torch.where(b < 0, -root, root))
    places = torch.stack([q / a, c / q])
    between = (places >= torch.minimum(mean, other)) & (places <= torch.maximum(mean, other))
    return torch.where(between, places, math.inf).amin().masked_fill(~between.any(), math.nan)


@MODELS.register_module()
class DistributionAlignment(LabeledStatistics):
    r"""Let the classes be as confident on unlabeled images as on labeled ones.

    DAW (Sun et al., NeurIPS 2023): :math:`p \leftarrow Norm(p \cdot l / u)`, with l and u averages
    over iterations of the mean confidence of the pixels that are predicted as a class, on labeled
    images (the student) and on unlabeled ones (before any refiner). A class that was not predicted
    yet on both keeps its probability.

    Args:
        momentum: m of the averages, in [0, 1].

    Raises:
        ValueError: An argument outside its values.
    """

    means: Tensor
    stage = 'probability'

    def attach(self, model: SemiSegmentor) -> None:
        """Make room for the means of the classes: labeled, unlabeled."""
        classes = last_head(model.segmentor).out_channels
        unknown = torch.full((2, classes), UNKNOWN, dtype=torch.float64)
        self.register_buffer('means', unknown)

    def forward(self, pseudo: PseudoLabel, outputs: SegOutputs, step: SemiStep) -> PseudoLabel:
        """Change the probabilities, and with them labels and confidences."""
        known = (self.means >= 0).all(0)
        ratio = torch.where(known, self.means[0] / self.means[1], 1.0)
        prob = pseudo.prob * ratio.to(pseudo.prob.dtype)[:, None, None]
        prob = prob / prob.sum(dim=1, keepdim=True)
        confidence, label = prob.max(dim=1)
        return pseudo.update(prob=prob, confidence=confidence, label=label)

    def statistics(self, step: SemiStep) -> Tensor:
        """Sums of confidences and numbers of pixels by class: (2, 2, K), labeled images first."""
        classes = self.means.shape[1]
        both = labeled_predictions(step), step.raw_pseudo
        return torch.stack([class_sums(one, classes) for one in both])

    def move(self, found: Tensor) -> None:
        """Move the means."""
        sums, counts = found.unbind(1)
        self.means.copy_(self.average(self.means, sums / counts, counts > 0))

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return f'momentum={self.momentum}'
