"""What every pseudo-label refiner is."""

from __future__ import annotations

from abc import abstractmethod

from mmseg_semi.models.component import Component
from mmseg_semi.structures import PseudoLabel, SegOutputs, SemiStep

STAGES: tuple[str, ...] = (
    'probability',
    'selection',
    'propagation',
    'reliability',
    'weighting',
)


class BaseRefiner(Component):
    """Changes the pseudo-label; runs in its ``stage``, wherever the config lists it.

    Refiners of the same stage run in the order of the config.

    Attributes:
        stage: One of ``STAGES``.
        gives_threshold: Whether it sets ``step.threshold``, a threshold of the confidence.
        handles_more: Whether it has a ``refine_more``.
    """

    stage: str = ''
    gives_threshold: bool = False
    handles_more: bool = False

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if cls.stage and cls.stage not in STAGES:
            raise TypeError(f'{cls.__name__}.stage must be one of {STAGES}, got {cls.stage!r}')

    @abstractmethod
    def forward(self, pseudo: PseudoLabel, step: SemiStep) -> PseudoLabel:
        """Return the changed pseudo-label.

        Args:
            pseudo: What the earlier refiners left.
            step: The training step; ``step.raw_pseudo`` is the pseudo-label before any refiner.
        """

    def refine_more(self, pseudo: PseudoLabel, outputs: SegOutputs) -> PseudoLabel:
        """Refine further images that a mixer loaded, after ``forward`` and without a trace.

        Args:
            pseudo: Their pseudo-label as the earlier refiners left it.
            outputs: What the network that labels says about them.
        """
        raise NotImplementedError(f'{type(self).__name__} refines the images of the batch alone')
