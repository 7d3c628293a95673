"""CorrMatch's region propagation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Optional

from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import Number, OneOf, Whole
from mmseg_semi.functional import propagate_regions, sample_shapes
from mmseg_semi.functional.correlation import SAMPLING_STRATEGIES
from mmseg_semi.structures import PseudoLabel, SegOutputs, SemiStep, View

from .base_refiner import BaseRefiner

if TYPE_CHECKING:
    from mmseg_semi.models.segmentors import SemiSegmentor

#: Name in ``PseudoLabel.extras`` of ``selected`` as it was before any propagation.
BEFORE_PROPAGATION = 'selected_before_propagation'


@MODELS.register_module()
class RegionPropagation(BaseRefiner):
    """Give shapes found by correlation the class that prevails among their selected pixels.

    CorrMatch (Sun et al., CVPR 2024, Algorithm 1); see ``functional.propagate_regions``. Shapes
    are rows of the weak view's correlation map, so ``model.heads`` needs a ``CorrelationHead``.
    The mask before propagation stays in ``extras['selected_before_propagation']``.

    The weak images' pseudo-label, of which Algorithm 1 speaks, is not mixed. With ``after_mixing``
    (the authors' program) the labels of each mixed strong view are propagated instead, in the part
    of each shape that is neither pasted nor padding, with the mask as mixed: pasted pixels carry
    the partner's plain labels, and all that reads the weak images' pseudo-label (other streams,
    the weak view's correlation loss) trains with it as it was.

    Args:
        num_shapes: Shapes sampled in each image.
        strategy: ``'random'``, ``'random_shared'`` (one draw for all images, with repetition) or
            ``'uniform'`` for a regular grid.
        threshold: Threshold of both ratios, in [0, 1]. None takes the confidence threshold of
            the selection refiner.
        after_mixing: Whether to propagate in the mixed strong views, and nowhere else.
        head: Name of the ``CorrelationHead`` in ``model.heads``.

    Raises:
        ValueError: An argument outside its values; when the model is built, no such head, or no
            refiner with a confidence threshold.
    """

    stage = 'propagation'
    needs_weak = True

    def __init__(
        self,
        num_shapes: Annotated[int, Whole(1)] = 128,
        strategy: Annotated[str, OneOf(*SAMPLING_STRATEGIES)] = 'random',
        threshold: Annotated[Optional[float], Number(0, 1)] = None,
        after_mixing: bool = False,
        head: str = 'correlation',
    ) -> None:
        super().__init__()
        self.num_shapes, self.strategy = num_shapes, strategy
        self.threshold, self.head, self.after_mixing = threshold, head, after_mixing
        self._found: tuple[Any, ...] = ()
        self._selecting: tuple[Any, ...] = ()

    def attach(self, model: SemiSegmentor) -> None:
        """Find the head and somebody who gives a threshold."""
        head: Any = dict(model.heads.items()).get(self.head)
        if not hasattr(head, 'maps_of'):
            raise ValueError(
                'RegionPropagation samples its shapes from a CorrelationHead, and model.heads has '
                f"none named '{self.head}' (it has: {', '.join(model.heads) or 'nothing'}): add "
                f"heads=dict({self.head}=dict(type='CorrelationHead')), set "
                'RegionPropagation.head, or take the refiner out by setting it to None'
            )
        self._found = (head,)  # in a tuple, so that it is not a submodule twice
        selecting = [one for one in model.refiners.values() if one.stage == 'selection']
        selecting = [one for one in selecting if one.threshold is not None]
        if self.threshold is None and not selecting:
            raise ValueError(
                'RegionPropagation has no threshold: no refiner of model.refiners has a '
                'confidence threshold (ConfidenceThreshold, EMAThreshold). Add one, or set '
                'RegionPropagation.threshold, for example 0.85'
            )
        self._selecting = tuple(selecting[-1:])

    def draw_positions(self, w1: Tensor) -> Optional[Tensor]:
        """Choose the rows of maps (B, D, h, w): int64 (B, num_shapes), or None for ``strategy``."""
        return None

    def shapes(self, outputs: SegOutputs, step: SemiStep) -> Tensor:
        """Sample the shapes (B, num_shapes, H, W) of the images of ``outputs``."""
        w1, w2 = self._found[0].maps_of(outputs, step)
        return sample_shapes(
            w1,
            w2,
            self.num_shapes,
            outputs.size,
            self.strategy,
            align_corners=outputs.align_corners,
            index=self.draw_positions(w1),
        )

    def _propagate(self, pseudo: PseudoLabel, shapes: Tensor, step: SemiStep) -> PseudoLabel:
        threshold, classes = self.threshold, step.teacher.stages[-1].shape[1]
        if threshold is None:
            threshold = self._selecting[0].threshold_at(step)
        label, selected = propagate_regions(pseudo.label, pseudo.used, shapes, threshold, classes)
        extras = {BEFORE_PROPAGATION: pseudo.selected, **pseudo.extras}
        return pseudo.update(label=label, selected=pseudo.selected | selected, extras=extras)

    def forward(self, pseudo: PseudoLabel, outputs: SegOutputs, step: SemiStep) -> PseudoLabel:
        """Change ``label`` and widen ``selected``."""
        return self._propagate(pseudo, self.shapes(outputs, step), step)

    def refine_view(self, view: View, step: SemiStep) -> PseudoLabel:
        """Change ``label`` and widen ``selected`` of a mixed view, outside of what was pasted."""
        shapes = step.once((self, 'shapes'), lambda: self.shapes(step.teacher, step))
        own = view.own_valid if view.mix is None else view.own_valid & ~view.mix.mask
        return self._propagate(view.pseudo, shapes & own[:, None], step)

    def observe(self, step: SemiStep) -> None:
        """Log the share of the valid pixels that propagation added to the selected ones.

        With ``after_mixing`` of the first view's own pixels, where nothing was pasted.
        """
        pseudo = step.refined[self.name]
        gained = pseudo.used & ~pseudo.extras[BEFORE_PROPAGATION]
        step.log(f'{self.name}.gained', gained.sum() / pseudo.valid.sum().clamp(min=1))

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return (
            f'num_shapes={self.num_shapes}, strategy={self.strategy!r}, '
            f'threshold={self.threshold}, after_mixing={self.after_mixing}, head={self.head!r}'
        )
