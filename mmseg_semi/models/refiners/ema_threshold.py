"""CorrMatch's dynamic confidence threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Optional

import torch
from mmengine.dist import all_reduce
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import Number, OneOf
from mmseg_semi.functional import mean_of_present, peaks_by_class
from mmseg_semi.models.component import last_head
from mmseg_semi.structures import PseudoLabel, SegOutputs, SemiStep

from .base_refiner import BaseRefiner

if TYPE_CHECKING:
    from mmseg_semi.models.segmentors import SemiSegmentor

UPDATES = ('presence', 'per_pixel', 'max', 'mean', 'per_class', 'per_class_max', 'per_position')
BY_CLASS = ('per_class', 'per_class_max')
MOMENTS = ('after', 'before')


@MODELS.register_module()
class EMAThreshold(BaseRefiner):
    r"""Keep the pixels whose confidence reaches a threshold that follows the model.

    CorrMatch (Sun et al., CVPR 2024): :math:`\tau \leftarrow m \tau + (1 - m) \delta` in every
    iteration, with :math:`\delta` from the weak prediction (before any refiner) of the global
    batch, all ranks together; a batch without a valid pixel leaves it. ``EMAThresholdHook`` does
    the update.

    Args:
        initial: tau at the start, in [0, 1].
        momentum: m, in [0, 1].
        update: What delta is. ``'presence'``: the mean, over the classes that are predicted
            somewhere, of the class's highest confidence (CorrMatch). The others are ablations:
            ``'max'``: the highest confidence of all pixels; ``'mean'``: the mean over the present
            classes of the class's mean confidence; ``'per_pixel'``: the mean confidence of all
            pixels; ``'per_class'``: as ``'per_pixel'``, and besides, the threshold of each class
            is tau times an EMA of the class's mean confidence, divided by the largest of these
            (as in FreeMatch, Wang et al., ICLR 2023, Eq. 5 to 8; a class that is absent keeps its
            value); ``'per_class_max'``: as ``'presence'``, and besides, each class has a threshold
            of its own, which follows its highest confidence (Eq. 14, Table 13);
            ``'per_position'``: as ``'per_pixel'``, and each place of the crop has a threshold,
            which follows the mean confidence of the images there (Table 12).
        when: ``'after'``: an iteration is filtered by what the iterations before it left;
            ``'before'``: by the value that its own batch has moved (the authors' program; the
            paper gives no order).
        warm_up: Whether to limit the momentum of the t-th update, t counted from 0, by
            ``1 - 1 / (t + 1)``, so that the threshold is the mean of what was found until that is
            m, and ``initial`` holds for no longer than the first iteration. Of a class, updates
            count that find it; until one does it keeps ``initial``. Without, a run of some hundred
            iterations hardly leaves ``initial``.

    Raises:
        ValueError: An argument outside its values.
    """

    value: Tensor
    updates: Tensor
    class_values: Tensor
    position_values: Tensor
    stage = 'selection'
    hooks = (dict(type='EMAThresholdHook'),)

    def __init__(
        self,
        initial: Annotated[float, Number(0, 1)] = 0.85,
        momentum: Annotated[float, Number(0, 1)] = 0.999,
        update: Annotated[str, OneOf(*UPDATES)] = 'presence',
        when: Annotated[str, OneOf(*MOMENTS)] = 'after',
        warm_up: bool = False,
    ) -> None:
        super().__init__()
        self.initial, self.momentum, self.update, self.when = initial, momentum, update, when
        self.warm_up = warm_up
        # float64: with m = 0.999 the steps soon fall below float32's resolution.
        self.register_buffer('value', torch.tensor(float(initial), dtype=torch.float64))
        if warm_up:  # of tau, then of the classes
            self.register_buffer('updates', torch.zeros(1, dtype=torch.float64))
        self._pending: Optional[Tensor] = None

    @property
    def threshold(self) -> Tensor:  # type: ignore[override]
        """tau, float64 0-dim."""
        return self.value

    def attach(self, model: SemiSegmentor) -> None:
        """Make room for values of classes, or of positions, whose number is the data's."""
        if self.update in BY_CLASS:
            head = last_head(model.segmentor)
            start = torch.full((head.out_channels,), float(self.initial), dtype=torch.float64)
            self.register_buffer('class_values', start)
            if self.warm_up:
                self.updates = self.updates.new_zeros(1 + head.out_channels)
        elif self.update == 'per_position':
            empty = torch.full((1, 1), float(self.initial), dtype=torch.float64)
            self.register_buffer('position_values', empty)

    @property
    def _values(self) -> Tensor:
        """What pixels are compared with: tau, or the values of classes or of positions."""
        if self.update in BY_CLASS:
            return self.class_values
        return self.position_values if self.update == 'per_position' else self.value

    def _state_at(self, step: SemiStep) -> tuple[Tensor, Tensor]:
        """Tau and ``_values`` that a step selects with."""
        if self.when == 'after':
            return self.value, self._values
        return step.once((self, 'moved'), lambda: self._moved(self.statistics(step.raw_pseudo))[:2])

    def threshold_at(self, step: SemiStep) -> Tensor:
        """Return tau as a step selects with it."""
        return self._state_at(step)[0]

    def forward(self, pseudo: PseudoLabel, outputs: SegOutputs, step: SemiStep) -> PseudoLabel:
        """Narrow ``selected``."""
        threshold, values = self._state_at(step)
        if self.update == 'per_class':
            seen = self.updates[1:] > 0 if self.warm_up else torch.ones_like(values).bool()
            largest = torch.where(seen, values, 0).max().clamp(min=1e-12)
            # A class that was never found has no value of its own, and is as the surest one.
            threshold = torch.where(seen, threshold * values / largest, threshold)[pseudo.label]
        elif self.update == 'per_class_max':
            threshold = values[pseudo.label]
        elif self.update == 'per_position':
            if len(values) > 1 and values.shape != pseudo.confidence.shape[1:]:
                raise ValueError(
                    f"{self.config_key}.update='per_position' has thresholds of "
                    f'{tuple(values.shape)} places and got images of '
                    f'{tuple(pseudo.confidence.shape[1:])}: train with the crop that the run '
                    'began with'
                )
            threshold = values
        sure = pseudo.confidence >= threshold.to(pseudo.confidence.dtype)
        return pseudo.update(selected=pseudo.selected & sure)

    def observe(self, step: SemiStep) -> None:
        """Note what the update needs of this batch."""
        step.log(f'{self.name}.threshold', self.threshold_at(step))
        found = self.statistics(step.raw_pseudo)
        if self._pending is not None:  # several forward passes before one update
            both = torch.stack([self._pending, found])
            found = both.amax(0) if self._reduction == 'max' else both.sum(0)
        self._pending = found

    @property
    def _reduction(self) -> str:
        return 'max' if self.update in ('presence', 'max', 'per_class_max') else 'sum'

    @torch.no_grad()
    def statistics(self, pseudo: PseudoLabel) -> Tensor:
        """What the update needs of this rank's weak prediction."""
        classes = pseudo.prob.shape[1]
        if self._reduction == 'max':
            return peaks_by_class(pseudo.confidence, pseudo.label, pseudo.valid, classes)
        if self.update == 'per_position':
            valid = pseudo.valid.double()
            return torch.stack([(pseudo.confidence * valid).sum(0), valid.sum(0)])
        return class_sums(pseudo, classes)

    @torch.no_grad()
    def update_state(self) -> None:
        """Move the threshold by what has been noted since the last call, over all ranks."""
        if self._pending is None:
            return
        found, self._pending = self._pending, None
        value, values, found_any = self._moved(found)
        self.value.copy_(value)
        if self.update in BY_CLASS:
            self.class_values.copy_(values)
        elif self.update == 'per_position':
            self.position_values = values
        if self.warm_up:
            self.updates += found_any

    @torch.no_grad()
    def _moved(self, found: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tau and ``_values`` after an update by what all ranks found, and which it moves.

        The last one says whether it moves tau, and each class.
        """
        found = found.clone()
        all_reduce(found, op=self._reduction)
        if self.update in ('presence', 'per_class_max'):
            delta = mean_of_present(found)
        elif self.update == 'max':
            delta = torch.where(torch.isfinite(found.amax()), found.amax(), torch.nan)
        elif self.update == 'mean':
            delta = mean_of_present(found[0] / found[1])
        else:
            delta = found[0].sum() / found[1].sum()
        goals = delta.reshape(1)
        if self.update == 'per_class_max':
            goals = torch.cat([goals, torch.where(torch.isfinite(found), found, torch.nan)])
        elif self.update == 'per_class':
            goals = torch.cat([goals, found[0] / found[1]])
        momentum = self._momentum.expand_as(goals)
        value = _step_of_average(self.value, delta, momentum[0])
        values = value
        if self.update in BY_CLASS:
            values = _step_of_average(self.class_values, goals[1:], momentum[1:])
        elif self.update == 'per_position':
            values = _step_of_average(self.position_values, found[0] / found[1], momentum[0])
        return value, values, ~goals.isnan()

    @property
    def _momentum(self) -> Tensor:
        """Momentum of the next update: of tau, and of each class; or one for all."""
        if not self.warm_up:
            return self.value.new_full((1,), self.momentum)
        return (1 - 1 / (self.updates + 1)).clamp(max=self.momentum)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        stored = state_dict.get(f'{prefix}position_values')
        if stored is not None and self.update == 'per_position':
            self.position_values = self.position_values.new_zeros(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return (
            f'initial={self.initial}, momentum={self.momentum}, update={self.update!r}, '
            f'when={self.when!r}, warm_up={self.warm_up}'
        )


def _step_of_average(value: Tensor, towards: Tensor, momentum: Tensor) -> Tensor:
    """Step of the moving average; entries of ``towards`` that are NaN leave the value."""
    return torch.where(torch.isnan(towards), value, momentum * value + (1 - momentum) * towards)


def class_sums(pseudo: PseudoLabel, classes: int) -> Tensor:
    """Sum of confidences and number of the valid pixels of each predicted class: (2, K)."""
    label = torch.where(pseudo.valid, pseudo.label, classes).flatten()
    sums = torch.zeros(2, classes + 1, dtype=torch.float64, device=label.device)
    sums[0].scatter_add_(0, label, pseudo.confidence.double().flatten())
    sums[1].scatter_add_(0, label, torch.ones_like(label, dtype=torch.float64))
    return sums[:, :classes].contiguous()
