"""Loading of unlabeled images besides the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .collate import semi_collate
from .semi_dataset import SampleKey, SemiDataset


class PartnerLoader:
    """Loads unlabeled images of a ``SemiDataset`` in the main process, augmented anew.

    Args:
        dataset: The data set.
    """

    def __init__(self, dataset: SemiDataset) -> None:
        self.dataset = dataset

    def __call__(self, places: Sequence[int], seeds: Sequence[int]) -> dict[str, Any]:
        """Load images.

        Args:
            places: Their places in the unlabeled part.
            seeds: Seeds of their augmentations.

        Returns:
            The ``unlabeled`` part of a batch as ``semi_collate`` makes it.
        """
        keys = [SampleKey('unlabeled', *one) for one in zip(places, seeds)]
        return semi_collate([self.dataset[key] for key in keys])['unlabeled']
