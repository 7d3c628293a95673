"""S4MC's dynamic partition: a share of the pixels is left out."""

from __future__ import annotations

from typing import Annotated

from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import Number, OneOf
from mmseg_semi.functional import confidence_score
from mmseg_semi.functional.confidence import CONFIDENCE_KINDS
from mmseg_semi.models.quantiles import global_quantiles
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

    def __init__(
        self,
        alpha: Annotated[float, Number(0, 1)] = 0.4,
        score: Annotated[str, OneOf(*CONFIDENCE_KINDS)] = 'margin',
        decay: Annotated[bool, OneOf(True, False)] = True,
    ) -> None:
        super().__init__()
        self.alpha, self.score, self.decay = alpha, score, decay

    def alpha_at(self, step: SemiStep) -> float:
        """Return the share under the threshold in a step."""
        return self.alpha * (step.remaining('QuantileThreshold.decay') if self.decay else 1)

    def _raw(self, step: SemiStep) -> tuple[Tensor, Tensor]:
        """Unrefined scores (B, H, W) of the batch, and the 0-dim threshold of all ranks."""

        def compute() -> tuple[Tensor, Tensor]:
            score = confidence_score(step.raw_pseudo.prob, self.score)
            return score, global_quantiles(score, step.raw_pseudo.valid, [self.alpha_at(step)])[0]

        return step.once(self, compute)

    def forward(self, pseudo: PseudoLabel, outputs: SegOutputs, step: SemiStep) -> PseudoLabel:
        """Narrow ``selected``."""
        score, threshold = self._raw(step)
        if pseudo.prob is not step.raw_pseudo.prob:
            score = confidence_score(pseudo.prob, self.score)
        return pseudo.update(selected=pseudo.selected & (score > threshold))

    def observe(self, step: SemiStep) -> None:
        """Log the threshold of the score."""
        step.log(f'{self.name}.threshold', self._raw(step)[1])

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return f'alpha={self.alpha}, score={self.score!r}, decay={self.decay}'
