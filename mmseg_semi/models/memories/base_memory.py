"""What every memory is."""

from __future__ import annotations

from abc import abstractmethod

from torch import nn


class BaseMemory(nn.Module):
    """Notes something in each iteration; ``MemoryBankHook`` decides when its state moves."""

    @abstractmethod
    def update_state(self) -> None:
        """Take in what has been noted, from all ranks; do nothing when nothing has been."""

    @abstractmethod
    def discard(self) -> None:
        """Forget what has been noted."""
