"""Errors that a user can act on, and what their messages are made of."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager


class DataError(RuntimeError):
    """Something is wrong with an image, a mask or a set of them.

    The message names the file or the config key, what was found, what is allowed and what to do.
    It takes that message as its only argument, because a DataLoader worker's error is made again
    in the main process from its text.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)


@contextmanager
def reading(what: object, error: type[BaseException] = DataError) -> Iterator[None]:
    """Name the file that cannot be read, whatever its decoder raises.

    Args:
        what: The file.
        error: What is raised, with one text; one of this kind passes.
    """
    try:
        yield
    except error:
        raise
    except Exception as found:  # every decoder has errors of its own
        raise error(
            f'{what} cannot be read: {type(found).__name__}: {found}. Copy or download it anew.'
        ) from found


@contextmanager
def exiting(*errors: type[Exception]) -> Iterator[None]:
    """End a tool with the message of one of ``errors``, without a traceback."""
    try:
        yield
    except errors as error:
        raise SystemExit(str(error)) from error


def check_one_size(
    mask: object,
    mask_shape: tuple[int, ...],
    image: object,
    image_shape: tuple[int, ...],
    error: type[BaseException] = DataError,
) -> None:
    """Refuse a mask of another size than its image.

    Args:
        mask: What the mask is called.
        mask_shape: Its height and width.
        image: The image's file.
        image_shape: Its height and width.
        error: What is raised.
    """
    if mask_shape[:2] != image_shape[:2]:
        raise error(
            f'{mask} has {mask_shape[1]} x {mask_shape[0]} pixels, its image '
            f'{image} {image_shape[1]} x {image_shape[0]}; they must have one size'
        )


def name_some(names: list[str], limit: int = 5) -> str:
    """Join the first ``limit`` names and say how many more there are."""
    rest = len(names) - limit
    return ', '.join(names[:limit]) + (f' and {rest} more' if rest > 0 else '')


def hint(wrong: str, known: list[str]) -> str:
    """Suggest the known name that is closest, or nothing."""
    close = difflib.get_close_matches(wrong, known, n=1)
    return f" Did you mean '{close[0]}'?" if close else ''
