"""Progress of tools that go through many files."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

from mmengine.utils import track_iter_progress

T = TypeVar('T')


def track(items: Sequence[T], what: str = 'images') -> Iterator[T]:
    """Go through ``items`` and show how far it is: a bar, or in a log file a line each tenth.

    Args:
        items: What to go through.
        what: Its name in the lines.
    """
    if sys.stdout.isatty():
        yield from track_iter_progress(items)
        return
    for done, item in enumerate(items, 1):
        yield item
        if done * 10 // len(items) > (done - 1) * 10 // len(items):
            print(f'{done} of {len(items)} {what}', flush=True)
