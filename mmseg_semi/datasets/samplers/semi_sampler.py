"""Batches with a fixed number of labeled and unlabeled images, or of labeled ones alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from mmseg.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

from mmseg_semi.arguments import Each, Whole, check_whole, checked

from ..semi_dataset import SOURCES, SampleKey, SemiDataset

# First numbers of the seed sequences; permutations and augmentations must not share one.
ORDER = {'labeled': 0, 'unlabeled': 1}
AUGMENTATION = {'labeled': 2, 'unlabeled': 3}


def check_batch_size(batch_size: int, ratio: Sequence[int]) -> None:
    """Refuse images of a batch that are no multiple of ``sum(ratio)``, with ValueError."""
    unit = sum(ratio)
    if batch_size <= 0 or batch_size % unit:
        below, above = batch_size // unit * unit, (batch_size // unit + 1) * unit
        fitting = ' or '.join(str(size) for size in (below, above) if size > 0)
        raise ValueError(
            f'train_dataloader.batch_size is {batch_size}, but a batch (labeled and unlabeled '
            f'together, on each rank) must be a multiple of {unit}, the sum of sampler.ratio='
            f'{tuple(ratio)}. Set batch_size to {fitting}, or change the ratio.'
        )


@DATA_SAMPLERS.register_module()
class SemiSampler(Sampler):
    """Endless stream of labeled and unlabeled samples in a fixed ratio.

    Every batch of a rank is ``[labeled] * Bl + [unlabeled] * Bu`` with Bl : Bu = ``ratio``. An
    epoch is one pass over the unlabeled images, ceil(number / (Bu * ranks)) iterations; its last
    batch is filled up from the beginning of the same permutation. The labeled images are a
    contiguous stream of permutations, shuffled anew for each pass.

    Where the dataset has no unlabeled part, all images of a batch are labeled, and an epoch is one
    pass over them. With as many a step and the same seed they are those that a run with unlabeled
    images sees, augmentation included, so the two are told apart by the unlabeled images alone.

    What iteration t holds is a function of (seed, t, rank, number of ranks) and nothing else. The
    batches of the ranks are slices of one global batch, so two ranks with batch b see what one
    rank with batch 2b sees, augmentation included, and any position can be taken up again without
    replay.

    Args:
        dataset: The dataset that the keys are for.
        ratio: Labeled and unlabeled images of the smallest batch; not read without an unlabeled
            part.
        batch_size: Images of a batch, labeled and unlabeled together, on each rank; a multiple of
            sum(ratio). None waits for ``set_batch_size``.
        seed: Seed of order and augmentation; None draws one and shares it between the ranks.
        start_iter: Iteration to begin with.

    Raises:
        ValueError: A ratio, batch size or iteration outside its range.
        TypeError: ``dataset`` is no ``SemiDataset``.
    """

    @checked
    def __init__(
        self,
        dataset: SemiDataset,
        ratio: Annotated[Sequence[int], Each(Whole(1), 2)] = (1, 1),
        batch_size: int | None = None,
        seed: int | None = None,
        start_iter: int = 0,
    ) -> None:
        if not isinstance(dataset, SemiDataset):
            raise TypeError(
                f'SemiSampler needs a SemiDataset, got {type(dataset).__name__} (train_dataloader: '
                "set dataset.type='SemiDataset' and leave num_batch_per_epoch out)"
            )
        self._sizes = dict(labeled=len(dataset.labeled))
        if dataset.unlabeled is not None:
            self._sizes['unlabeled'] = len(dataset.unlabeled)
        self.ratio = tuple(ratio) if 'unlabeled' in self._sizes else (1, 0)
        self.rank, self.world_size = get_dist_info()
        self.batch_size: int | None = None
        if batch_size is not None:
            self.set_batch_size(batch_size)
        self.set_position(start_iter, sync_random_seed() if seed is None else seed)
        self._orders: dict[str, tuple[int, int, np.ndarray]] = {}

    def set_batch_size(self, batch_size: int) -> None:
        """Set the images of a batch on each rank, labeled and unlabeled together.

        Raises:
            ValueError: Not a multiple of sum(ratio).
        """
        check_batch_size(batch_size, self.ratio)
        self.batch_size = int(batch_size)

    def set_position(self, iteration: int, seed: int | None = None) -> None:
        """Make the next ``iter()`` begin with an iteration.

        Args:
            iteration: Iterations done so far, over all epochs.
            seed: The seed of the run that is continued; None keeps the present one.

        Raises:
            ValueError: A negative number.
        """
        check_whole('iteration', iteration, 0)
        if seed is not None:
            check_whole('seed', seed, 0)
        self.start_iter = int(iteration)
        if seed is not None:
            self.seed = int(seed)

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the position is an iteration, see ``set_position``."""

    @property
    def samples_per_batch(self) -> dict[str, int]:
        """Labeled and unlabeled images of a batch on each rank."""
        if self.batch_size is None:
            raise RuntimeError(
                'SemiSampler does not know the batch size. Train with '
                "train_cfg=dict(type='SemiTrainLoop', ...), which passes train_dataloader."
                'batch_size on, or set sampler.batch_size to the same number.'
            )
        units = self.batch_size // sum(self.ratio)
        return dict(zip(SOURCES, (units * n for n in self.ratio)))

    @property
    def iters_per_epoch(self) -> int:
        """Iterations of one pass over the unlabeled images, or over labeled ones alone."""
        source, size = list(self._sizes.items())[-1]
        return -(-size // (self.samples_per_batch[source] * self.world_size))

    def batch_keys(self, iteration: int) -> list[SampleKey]:
        """What this rank loads in an iteration, labeled samples first."""
        keys = []
        for source, count in self.samples_per_batch.items():
            total = count * self.world_size
            for i in range(count):
                offset = self.rank * count + i
                index = self._index(source, iteration, offset, total)
                keys.append(
                    SampleKey(source, index, self._sample_seed(source, iteration * total + offset))
                )
        return keys

    def _index(self, source: str, iteration: int, offset: int, total: int) -> int:
        size = self._sizes[source]
        if source == 'labeled':
            turn, place = divmod(iteration * total + offset, size)
        else:
            turn, within = divmod(iteration, self.iters_per_epoch)
            place = (within * total + offset) % size
        return int(self._order(source, turn)[place])

    def _order(self, source: str, turn: int) -> np.ndarray:
        """Permutation of a part for one pass."""
        known = self._orders.get(source)
        if known is None or known[:2] != (self.seed, turn):
            entropy = np.random.SeedSequence([self.seed, ORDER[source], turn])
            order = np.random.default_rng(entropy).permutation(self._sizes[source])
            self._orders[source] = known = (self.seed, turn, order)
        return known[2]

    def _sample_seed(self, source: str, position: int) -> int:
        entropy = np.random.SeedSequence([self.seed, AUGMENTATION[source], position])
        return int(entropy.generate_state(1, np.uint64)[0])

    def __iter__(self) -> Iterator[SampleKey]:
        self.samples_per_batch  # noqa: B018  (refuses an unknown batch size before any worker starts)
        batches = map(self.batch_keys, itertools.count(self.start_iter))
        return itertools.chain.from_iterable(batches)

    def __len__(self) -> int:
        return self.iters_per_epoch * sum(self.samples_per_batch.values())
