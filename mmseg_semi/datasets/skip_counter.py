"""A count that the workers of a DataLoader share."""

from __future__ import annotations

import multiprocessing


class SkipCounter:
    """Counts over all processes that were started with a copy of it.

    Args:
        start: Value to begin with.
    """

    def __init__(self, start: int = 0) -> None:
        self._value = multiprocessing.Value('q', start)

    @property
    def value(self) -> int:
        """The count so far."""
        return int(self._value.value)

    def add_one(self) -> int:
        """Raise the count by one and return it."""
        with self._value.get_lock():
            self._value.value += 1
            return int(self._value.value)

    def __deepcopy__(self, memo: dict) -> SkipCounter:
        # Shared memory can not be copied; a copied dataset counts on its own.
        return SkipCounter(self.value)
