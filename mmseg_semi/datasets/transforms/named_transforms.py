"""Lists of transforms whose entries have names, so that configs can inherit and change one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Callable, Optional, Union

from mmseg_semi.errors import hint

#: A config of a transform, or the transform itself.
Transform = Union[dict[str, Any], Callable]
#: Transforms by name, None for one that is left out, and ``order``; or a plain list.
Named = Optional[Union[Mapping[str, Any], Iterable[Transform]]]


def list_transforms(named: Named, key: str) -> list[Transform]:
    """Make a list of named transforms.

    The names stand in ``order``, because a dict does not keep its order when mmengine writes the
    config that a run was started with: it sorts the keys.

    Args:
        named: The transforms, ``dict(order=('a', 'b'), a=dict(type=...), b=dict(type=...))``.
        key: Config key, for messages.

    Returns:
        The transforms in order, without those that are None.

    Raises:
        ValueError: An entry that says no ``type``, as a misspelled name in a child config makes it;
            several entries without ``order``; an entry that ``order`` does not name, or twice.
    """
    if not isinstance(named, Mapping):
        return list(named or ())
    entries = {name: one for name, one in named.items() if one is not None and name != 'order'}
    for name, one in entries.items():
        if isinstance(one, Mapping) and 'type' not in one:
            known = [other for other in entries if other != name]
            raise ValueError(
                f"{key}.{name} is {dict(one)}, which has no 'type'.{hint(name, known)} Entries are "
                f'named transforms; there are {", ".join(known) or "none"}.'
            )
    order = named.get('order') or list(entries)[:1]
    twice = [name for i, name in enumerate(order) if name in order[:i]]
    if twice:
        raise ValueError(
            f"{key}.order names '{twice[0]}' more than once, so that it would run again: it is "
            f'{order}; to run a transform twice, give it a second name'
        )
    for name in entries:
        if name not in order:
            raise ValueError(
                f'{key}.{name} does not stand in {key}.order, which is {named.get("order")}: name '
                f'there every one of {", ".join(entries)} in the order that they run in'
            )
    return [entries[name] for name in order if name in entries]
