"""What every pseudo-label refiner is."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from typing import Any

from mmseg_semi.models.component import Component
from mmseg_semi.structures import PseudoLabel, SegOutputs, SemiStep, View

STAGES: tuple[str, ...] = (
    'probability',
    'selection',
    'propagation',
    'reliability',
    'weighting',
)


class BaseRefiner(Component):
    """Changes the pseudo-label; runs in its ``stage``, wherever the config lists it.

    Refiners of the same stage run in the order of their names.

    Attributes:
        stage: One of ``STAGES``.
        threshold: The confidence threshold that it selects with in this step, a number or a 0-dim
            tensor; None when it has none.
        after_mixing: Whether it refines the mixed views, after all passes, and not the weak
            images' pseudo-label; then ``refine_view`` is called and ``forward`` is not.
        sources: Which images (``Stream.source``) the views show that it refines then; of weak
            images, the views that some component reads.
    """

    stage: str = ''
    threshold: Any = None
    after_mixing: bool = False
    sources: tuple[str, ...] = ('strong',)

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if cls.stage and cls.stage not in STAGES:
            raise TypeError(f'{cls.__name__}.stage must be one of {STAGES}, got {cls.stage!r}')
        if len(inspect.signature(cls.forward).parameters) == 3:
            raise TypeError(
                f'{cls.__name__}.forward(pseudo, step) is now forward(pseudo, outputs, step)'
            )

    @abstractmethod
    def forward(self, pseudo: PseudoLabel, outputs: SegOutputs, step: SemiStep) -> PseudoLabel:
        """Return the changed pseudo-label; change nothing else.

        It is called for the weak images of the batch, and may be called for others (those that a
        mixer loads besides). What is counted or remembered goes to ``observe``.

        Args:
            pseudo: What the earlier refiners left.
            outputs: What the network that labels says about these images.
            step: The training step; ``step.raw_pseudo`` is the pseudo-label of the weak images
                before any refiner.
        """

    def refine_view(self, view: View, step: SemiStep) -> PseudoLabel:
        """Return the changed pseudo-label of a mixed view, and change nothing else.

        Args:
            view: A view of unlabeled images after its pass; ``view.mix`` says how it was mixed.
            step: The training step; the outputs of all passes are there.
        """
        raise TypeError(f'{type(self).__name__} has no refine_view: remove after_mixing=True')

    def threshold_at(self, step: SemiStep) -> Any:
        """Return the confidence threshold that it selects with in a step."""
        return self.threshold
