"""Errors that a user can act on, and what their messages are made of."""

from __future__ import annotations

import difflib


class DataError(RuntimeError):
    """Something is wrong with an image, a mask or a set of them.

    The message names the file or the config key, what was found, what is allowed and what to do.
    It takes that message as its only argument, because a DataLoader worker's error is made again
    in the main process from its text.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)


def name_some(names: list[str], limit: int = 5) -> str:
    """Join the first ``limit`` names and say how many more there are."""
    rest = len(names) - limit
    return ', '.join(names[:limit]) + (f' and {rest} more' if rest > 0 else '')


def hint(wrong: str, known: list[str]) -> str:
    """Suggest the known name that is closest, or nothing."""
    close = difflib.get_close_matches(wrong, known, n=1)
    return f" Did you mean '{close[0]}'?" if close else ''
