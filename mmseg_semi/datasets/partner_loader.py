"""Loading of images besides the batch."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy, deepcopy
from typing import Any, Optional

import torch

from .collate import semi_collate
from .dataset_tree import leaf_datasets, pipeline_transforms
from .semi_dataset import SampleKey, SemiDataset
from .transforms.random_relative_resize import RandomRelativeResize


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


class LabeledLoader:
    """Loads random labeled images of a ``SemiDataset`` in the main process.

    Args:
        dataset: The data set.
        scale: ``ratio_range`` of ``RandomRelativeResize`` for these images, in place of the resize
            of the labeled part; None leaves that.

    Raises:
        ValueError: There is a scale, and the labeled part has no ``RandomRelativeResize``.
    """

    def __init__(self, dataset: SemiDataset, scale: Optional[Sequence[float]] = None) -> None:
        labeled = dataset.labeled
        if scale is not None:
            labeled = deepcopy(labeled)
            for leaf in leaf_datasets(labeled):
                transforms = pipeline_transforms(leaf)
                places = [
                    i for i, one in enumerate(transforms) if isinstance(one, RandomRelativeResize)
                ]
                if not places:
                    raise ValueError(
                        f'CopyPaste.scale={tuple(scale)} replaces the range of RandomRelativeResize'
                        ', and train_dataloader.dataset.geometry has none: set scale=None'
                    )
                for i in places:
                    leaf.pipeline.transforms[i] = resize = copy(transforms[i])
                    resize.ratio_range = tuple(scale)
        self.dataset = SemiDataset(labeled, None, on_error=dataset.on_error)

    def __call__(self, number: int) -> dict[str, Any]:
        """Load images, drawn with torch's global generator.

        Args:
            number: How many.

        Returns:
            The ``labeled`` part of a batch as ``semi_collate`` makes it.
        """
        places = torch.randint(len(self.dataset.labeled), (number,)).tolist()
        seeds = torch.randint(2**63 - 1, (number,)).tolist()
        keys = [SampleKey('labeled', *one) for one in zip(places, seeds)]
        return semi_collate([self.dataset[key] for key in keys])['labeled']
