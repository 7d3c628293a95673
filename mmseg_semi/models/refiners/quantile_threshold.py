"""S4MC's dynamic partition: a share of the pixels is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Optional

import torch
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import Number, OneOf
from mmseg_semi.functional import confidence_score, selected_ratio
from mmseg_semi.functional.confidence import CONFIDENCE_KINDS
from mmseg_semi.models.ranks import GlobalQuantiles
from mmseg_semi.structures import STEPS, PseudoLabel, SegOutputs, SemiStep, View

from .base_refiner import STAGES, BaseRefiner

if TYPE_CHECKING:
    from mmseg_semi.models.segmentors import SemiSegmentor
    from mmseg_semi.models.segmentors.streams import Stream

SOURCES = ('raw', 'refined_mixed')


@MODELS.register_module()
class QuantileThreshold(BaseRefiner):
    r"""Keep the pixels whose score lies above a quantile of the batch.

    S4MC's dynamic partition adjustment (Kimhi et al., TMLR 2024): :math:`\gamma_t` is the
    :math:`\alpha_t`-quantile of the *unrefined* scores of the valid pixels of the global batch
    (all ranks), :math:`\alpha_t = \alpha_0 (1 - t / T)` with t the iteration and T the length of
    the run; a pixel is kept when its *refined* score is above :math:`\gamma_t`. With
    ``score='entropy'`` it is U2PL's selection.

    The scores are those of the weak images' pseudo-label, before it is mixed. The authors' programs
    select after mixing: on what another pass says about the mixed images (``stream``), or on the
    mixed confidences (``of``).

    Args:
        alpha: Share of the pixels under the threshold at the start, in [0, 1].
        score: ``'margin'`` (largest minus second largest probability), ``'max'`` or
            ``'entropy'`` (the negative one). Refined scores of a pixel sum to more than 1; for its
            entropy they are divided by their sum. Without that, which is how the formula and the
            program read, an unsure pixel's refined entropy is above its own unrefined one, and
            next to nothing is selected early in a run.
        decay: Whether the share changes linearly to ``final`` over the run; needs
            ``SemiTrainLoop``.
        decay_by: ``'iteration'``, or ``'epoch'`` for a share that stays within an epoch.
        final: Share at the end of the run, in [0, 1].
        of: Whose quantile it is. ``'raw'``: of the unrefined scores. ``'refined_mixed'``: of the
            refined and mixed scores of the first view of ``stream``; it is compared with all of
            its views (the program of S4MC on FixMatch).
        stream: Name of a stream of strong images whose outputs are scored in place of the weak
            images', such as ``teacher_strong=dict(images='strong', network='teacher',
            mode='train')``; the refiners of probabilities refine those too. For
            ``of='refined_mixed'`` the stream whose pseudo-label is scored, ``'strong'`` by default.
        inclusive: Whether a pixel whose score is the threshold is kept.
        use_padding: Whether padding enters the quantile, as in the programs.

    Raises:
        ValueError: An argument outside its values; when the model is built, a stream that shows no
            strong images.
        RuntimeError: While training: the length of the run, or of an epoch, is not known.
    """

    stage = 'selection'

    def __init__(
        self,
        alpha: Annotated[float, Number(0, 1)] = 0.4,
        score: Annotated[str, OneOf(*CONFIDENCE_KINDS)] = 'margin',
        decay: bool = True,
        decay_by: Annotated[str, OneOf(*STEPS)] = 'iteration',
        final: Annotated[float, Number(0, 1)] = 0.0,
        of: Annotated[str, OneOf(*SOURCES)] = 'raw',
        stream: Optional[str] = None,
        inclusive: bool = False,
        use_padding: bool = False,
    ) -> None:
        super().__init__()
        self.alpha, self.score, self.final = alpha, score, final
        self.decay, self.decay_by = decay, decay_by
        self.of, self.inclusive, self.use_padding = of, inclusive, use_padding
        self.stream = stream or ('strong' if of == 'refined_mixed' else '')
        self.after_mixing = bool(self.stream)
        if of == 'refined_mixed' and score != 'max':
            self.pseudo_fields = ('prob',)
        self._before: tuple[BaseRefiner, ...] = ()
        self._quantiles = GlobalQuantiles()

    def attach(self, model: SemiSegmentor) -> None:
        """Find the refiners that come before, and check the stream."""
        place = STAGES.index(self.stage)
        earlier = [one for one in model.refiners.values() if STAGES.index(one.stage) < place]
        self._before = tuple(one for one in earlier if not one.after_mixing)
        stream = model.streams.get(self.stream)
        if stream is not None and (stream.images != 'strong' or stream.perturbation is not None):
            raise ValueError(
                f"QuantileThreshold.stream is '{self.stream}', which shows {stream.source} images"
                f'{" with a perturbation" if stream.perturbation else ""}: name a stream of strong '
                "ones, such as teacher_strong=dict(images='strong', network='teacher', "
                "mode='train'), or None to select on the weak images"
            )
        if stream is not None:
            self._refuse_other_views(model, stream)

    def _refuse_other_views(self, model: SemiSegmentor, own: Stream) -> None:
        """Refuse losses of views that the scores of ``stream`` are not of."""
        for name, loss in model.losses.items():
            read = model.streams.get(loss.stream)
            if read is not None and (read.source, read.mixed) != (own.source, own.mixed):
                kind = 'mixed ' if own.mixed else ''
                raise ValueError(
                    f"QuantileThreshold.stream is '{self.stream}', whose scores are of {kind}strong"
                    f" images, and model.losses.{name} trains '{loss.stream}', which shows others: "
                    "remove that loss, or set stream=None and of='raw' to select on the weak images"
                )

    def alpha_at(self, step: SemiStep) -> float:
        """Return the share under the threshold in a step."""
        if not self.decay:
            return self.alpha
        remaining = step.remaining('QuantileThreshold.decay', self.decay_by)
        return self.final + (self.alpha - self.final) * remaining

    def _score(self, pseudo: PseudoLabel, refined: bool = True) -> Tensor:
        """Scores (B, H, W) of a pseudo-label, whose ``prob`` may be refined."""
        if self.score == 'max':
            return pseudo.confidence
        prob = pseudo.prob
        if refined and self.score == 'entropy':
            prob = prob.clamp(min=0)
            prob = prob / prob.sum(dim=1, keepdim=True).clamp(min=torch.finfo(prob.dtype).tiny)
        return confidence_score(prob, self.score)

    def _quantile(self, score: Tensor, valid: Tensor, step: SemiStep) -> Tensor:
        counted = torch.ones_like(valid) if self.use_padding else valid
        return self._quantiles(score, counted, [self.alpha_at(step)])[0]

    def _raw(self, step: SemiStep) -> tuple[Tensor, Tensor]:
        """Unrefined scores (B, H, W) of the weak images, and the 0-dim threshold of all ranks."""

        def compute() -> tuple[Tensor, Tensor]:
            score = self._score(step.raw_pseudo, refined=False)
            return score, self._quantile(score, step.raw_pseudo.valid, step)

        return step.once(self, compute)

    def _mixed(self, step: SemiStep) -> tuple[dict[int, Tensor], Tensor]:
        """Scores (B, H, W) of the views of ``stream`` by their numbers, and the threshold."""
        return step.once(self, lambda: self._score_views(step.streams[self.stream], step))

    def _score_views(self, views: list[View], step: SemiStep) -> tuple[dict[int, Tensor], Tensor]:
        if self.of == 'refined_mixed':
            scores = {view.number: self._score(view.pseudo) for view in views}
            first = views[0]
            return scores, self._quantile(scores[first.number], first.pseudo.valid, step)
        scores, raw = {}, []
        for view in views:
            pseudo = plain = PseudoLabel.from_logits(view.outputs.logits, view.pseudo.valid)
            for refiner in self._before:
                pseudo = refiner(pseudo, view.outputs, step)
            raw.append(self._score(plain, refined=False))
            scores[view.number] = self._score(pseudo) if pseudo is not plain else raw[-1]
        valid = torch.cat([view.pseudo.valid for view in views])
        return scores, self._quantile(torch.cat(raw), valid, step)

    def _narrow(self, pseudo: PseudoLabel, score: Tensor, threshold: Tensor) -> PseudoLabel:
        kept = score >= threshold if self.inclusive else score > threshold
        return pseudo.update(selected=pseudo.selected & kept)

    def forward(self, pseudo: PseudoLabel, outputs: SegOutputs, step: SemiStep) -> PseudoLabel:
        """Narrow ``selected``."""
        score, threshold = self._raw(step)
        raw = step.raw_pseudo
        if pseudo.prob is not raw.prob or pseudo.confidence is not raw.confidence:
            score = self._score(pseudo)
        return self._narrow(pseudo, score, threshold)

    def refine_view(self, view: View, step: SemiStep) -> PseudoLabel:
        """Narrow ``selected`` of a mixed view by the scores of the view of that number."""
        scores, threshold = self._mixed(step)
        if view.number not in scores:
            raise ValueError(
                f"{self.config_key}.stream is '{self.stream}', which has no strong view "
                f'{view.number}: set its view=None for all views'
            )
        return self._narrow(view.pseudo, scores[view.number], threshold)

    def observe(self, step: SemiStep) -> None:
        """Log the threshold of the score, and the share of the mixed pixels that it keeps."""
        found: Any = self._mixed(step) if self.after_mixing else self._raw(step)
        step.log(f'{self.name}.threshold', found[1])
        if self.after_mixing:
            mixed = [view.pseudo for view in step.streams[self.stream]]
            selected = torch.stack([one.selected for one in mixed])
            valid = torch.stack([one.valid for one in mixed])
            step.log(f'{self.name}.selected', selected_ratio(selected, valid))

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        names = ('alpha', 'final', 'score', 'decay', 'decay_by', 'of', 'inclusive', 'use_padding')
        own = ', '.join(f'{name}={getattr(self, name)!r}' for name in names)
        return f'{own}, stream={self.stream or None!r}'
