"""S4MC's dynamic partition: a share of the pixels is left out."""

from __future__ import annotations

from typing import Optional

import torch
from mmengine.dist import all_gather, all_reduce, get_world_size
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import check_choice, check_number
from mmseg_semi.functional import confidence_score, pack_scores, quantile_threshold
from mmseg_semi.functional.confidence import CONFIDENCE_KINDS
from mmseg_semi.structures import PseudoLabel, SegOutputs, SemiStep

from .base_refiner import BaseRefiner


@MODELS.register_module()
class QuantileThreshold(BaseRefiner):
    r"""Keep the pixels whose score lies above a quantile of the batch.

    S4MC's dynamic partition adjustment (Kimhi et al., TMLR 2024): :math:`\gamma_t` is the
    :math:`\alpha_t`-quantile of the *unrefined* scores of the valid pixels of the global batch
    (all ranks), :math:`\alpha_t = \alpha_0 (1 - t / T)` with t the iteration and T the length of
    the run; a pixel is kept when its *refined* score is above :math:`\gamma_t`. With
    ``score='entropy'`` it is U2PL's selection.

    Args:
        alpha: Share of the pixels under the threshold at the start, in [0, 1].
        score: ``'margin'`` (largest minus second largest probability), ``'max'`` or
            ``'entropy'`` (the negative one; refined scores do not sum to 1, so beside a
            ``NeighborhoodRefiner`` it compares unlike things, as the formula says).
        decay: Whether the share falls linearly to 0 over the run; needs ``SemiTrainLoop``.

    Raises:
        ValueError: An argument outside its values.
        RuntimeError: While training: the length of the run is not known.
    """

    stage = 'selection'
    handles_more = True

    def __init__(self, alpha: float = 0.4, score: str = 'margin', decay: bool = True) -> None:
        super().__init__()
        check_number('QuantileThreshold.alpha', alpha, 0, 1)
        check_choice('QuantileThreshold.score', score, CONFIDENCE_KINDS)
        check_choice('QuantileThreshold.decay', decay, (True, False))
        self.alpha, self.score, self.decay = alpha, score, decay
        self._threshold: Optional[Tensor] = None

    def alpha_at(self, iteration: int, max_iters: int) -> float:
        """Return the share under the threshold at ``iteration`` (from 0)."""
        if not self.decay:
            return self.alpha
        if max_iters < 1:
            raise RuntimeError(
                'QuantileThreshold.decay needs to know the length of the run: train with '
                "train_cfg=dict(type='SemiTrainLoop', ...), or set decay=False"
            )
        return self.alpha * max(0.0, 1 - iteration / max_iters)

    def forward(self, pseudo: PseudoLabel, step: SemiStep) -> PseudoLabel:
        """Narrow ``selected``."""
        alpha = self.alpha_at(step.iteration, step.max_iters)
        raw = step.raw_pseudo
        before = confidence_score(raw.prob, self.score)
        self._threshold = _global_quantile(before, raw.valid, alpha)
        after = before if pseudo.prob is raw.prob else confidence_score(pseudo.prob, self.score)
        return pseudo.update(selected=pseudo.selected & (after > self._threshold))

    def log_values(self) -> dict[str, Tensor]:
        """Give the threshold of this step."""
        return {} if self._threshold is None else dict(threshold=self._threshold)

    def refine_more(self, pseudo: PseudoLabel, outputs: SegOutputs) -> PseudoLabel:
        """Narrow ``selected`` by the threshold of the batch."""
        score = confidence_score(pseudo.prob, self.score)
        return pseudo.update(selected=pseudo.selected & (score > self._threshold))

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return f'alpha={self.alpha}, score={self.score!r}, decay={self.decay}'


def _global_quantile(score: Tensor, valid: Tensor, quantile: float) -> Tensor:
    """Quantile over the valid pixels of all ranks."""
    if get_world_size() > 1:
        size = torch.tensor(score.numel(), device=score.device)
        all_reduce(size, op='max')
        score = torch.cat(all_gather(pack_scores(score, valid, int(size))))
        valid = ~score.isnan()
    return quantile_threshold(score, valid, quantile)
