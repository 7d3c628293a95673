"""Random numbers of data loading that depend on a seed alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed ``random``, ``numpy.random`` and torch's CPU generator inside the ``with`` block.

    The three get different seeds, since numpy and torch make the same stream from the same one.
    Their states from before are put back at the end. CUDA is never touched.

    Args:
        seed: Any non-negative integer.
    """
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    ours, numpys, torchs = np.random.SeedSequence(seed).generate_state(3, np.uint32)
    random.seed(int(ours))
    np.random.seed(int(numpys))
    torch.default_generator.manual_seed(int(torchs))
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])
