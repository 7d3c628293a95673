"""What every pseudo-label refiner is."""

from __future__ import annotations

from abc import abstractmethod

from mmseg_semi.models.component import Component
from mmseg_semi.structures import PseudoLabel, SemiStep

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
    """

    stage: str = ''
    gives_threshold: bool = False

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
