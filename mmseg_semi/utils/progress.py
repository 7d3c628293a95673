"""Progress of tools that go through many files."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Optional, TypeVar

import click

T = TypeVar('T')
SAY_EVERY = 60.0  # seconds


def track(items: Iterable[T], what: str = 'images', total: Optional[int] = None) -> Iterator[T]:
    """Go through ``items`` and show how far it is, how fast and the time left.

    A terminal gets a bar, a log file a line a minute.

    Args:
        items: What to go through.
        what: Its name.
        total: How many there are; None where ``items`` has a length.
    """
    if total is None:
        total = len(items) if isinstance(items, Sized) else 0
    if sys.stdout.isatty():
        steps = max(1, total // 500)  # between two pictures of the bar
        with click.progressbar(
            items, total, label=what, show_pos=True, update_min_steps=steps
        ) as bar:
            begin = time.monotonic()
            for done, item in enumerate(bar, 1):
                yield item
                bar.label = f'{what}, {_rate(done, time.monotonic() - begin)}'
        return
    begin = said = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - said >= SAY_EVERY and done < total:
            said = now
            left = duration((now - begin) / done * (total - done))
            rate = _rate(done, now - begin)
            print(f'{done} of {total} {what}, {rate}, about {left} left', flush=True)


def _rate(done: int, seconds: float) -> str:
    return f'{done / max(seconds, 1e-6):.2g} a second'


def duration(seconds: float) -> str:
    """A time for people: seconds up to two minutes, minutes up to two hours, hours."""
    if seconds < 120:
        return f'{max(1, round(seconds))} s'
    minutes = round(seconds / 60)
    return f'{minutes} min' if minutes < 120 else f'{minutes / 60:.1f} h'
