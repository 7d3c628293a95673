"""Ranges of arguments, declared where the argument stands and checked when an object is built.

``threshold: Annotated[float, Number(0, 1)] = 0.95`` in the ``__init__`` of a class whose
``__init__`` is :func:`checked` (every ``Component`` is) refuses other values with a message that
names the class, the argument, the value and what is allowed; so does ``flag: bool`` for all but
True and False. None passes where it is the default.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable, get_args

from torch import nn

from mmseg_semi.errors import hint


class Rule:
    """What an argument may be."""

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError, naming the argument, unless ``value`` is allowed."""
        raise NotImplementedError


@dataclass(frozen=True)
class Number(Rule):
    """A number in [low, high].

    Attributes:
        low: Smallest value.
        high: Largest value.
        above: Whether ``low`` itself is left out.
        below: Whether ``high`` itself is left out.
    """

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def check(self, name: str, value: Any) -> None:
        """See :class:`Rule`."""
        inside = isinstance(value, numbers.Real) and not isinstance(value, bool)
        inside = inside and self.low <= value <= self.high
        inside = inside and not (self.above and value == self.low)
        if inside and not (self.below and value == self.high):
            return
        if self.high == math.inf:
            allowed = f'{">" if self.above else ">="} {self.low}'
        else:
            left, right = '(' if self.above else '[', ')' if self.below else ']'
            allowed = f'in {left}{self.low}, {self.high}{right}'
        raise ValueError(f'{name} must be a number {allowed}, got {value!r}')


@dataclass(frozen=True)
class Whole(Rule):
    """A whole number in [low, high]; ``high`` is None for no limit."""

    low: int
    high: int | None = None

    def check(self, name: str, value: Any) -> None:
        """See :class:`Rule`."""
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if whole and self.low <= value and (self.high is None or value <= self.high):
            return
        allowed = f'>= {self.low}' if self.high is None else f'from {self.low} to {self.high}'
        written = (
            f' (write {int(value)})' if isinstance(value, float) and value.is_integer() else ''
        )
        raise ValueError(f'{name} must be a whole number {allowed}, got {value!r}{written}')


class OneOf(Rule):
    """One of the values that are listed."""

    def __init__(self, *allowed: Any) -> None:
        self.allowed = allowed

    def check(self, name: str, value: Any) -> None:
        """See :class:`Rule`."""
        if any(value is one or (type(value) is type(one) and value == one) for one in self.allowed):
            return
        suggestion = hint(str(value), [str(one) for one in self.allowed])
        raise ValueError(f'{name} must be one of {self.allowed}, got {value!r}.{suggestion}')


@dataclass(frozen=True)
class Each(Rule):
    """A list or tuple of values that each follow a rule; ``length`` is None for any number."""

    rule: Rule
    length: int | None = None

    def check(self, name: str, value: Any) -> None:
        """See :class:`Rule`."""
        right = isinstance(value, Sequence) and not isinstance(value, str)
        if not right or (self.length is not None and len(value) != self.length):
            count = '' if self.length is None else f'{self.length} '
            raise ValueError(f'{name} must be a list of {count}values, got {value!r}')
        for one in value:
            self.rule.check(name, one)


class Feature(Rule):
    """Name of a feature, see ``FeatureTaps``."""

    def check(self, name: str, value: Any) -> None:
        """See :class:`Rule`."""
        if not isinstance(value, str) or not value:
            raise ValueError(
                f"{name} must be the name of a feature, such as 'encoder', or the path of a "
                f'module, got {value!r}'
            )


def checked(init: Callable[..., None]) -> Callable[..., None]:
    """Let an ``__init__`` check its arguments against the rules in their annotations."""
    if hasattr(init, '__rules__'):
        return init
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            given = signature.bind(self, *args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f'{type(self).__name__}: {error}') from None
        for name, value in given.items():
            parameter = signature.parameters[name]
            for rule in (
                () if value is None and parameter.default is None else rules().get(name, ())
            ):
                rule.check(f'{type(self).__name__}.{name}', value)
        init(self, *args, **kwargs)

    @functools.cache
    def rules() -> dict[str, list[Rule]]:
        found = {name: _rules_of(p.annotation, init) for name, p in signature.parameters.items()}
        return {name: several for name, several in found.items() if several}

    wrapper.__rules__ = rules  # type: ignore[attr-defined]
    return wrapper


def _rules_of(annotation: Any, init: Callable[..., None]) -> list[Rule]:
    if annotation in (bool, 'bool'):  # 'no' of a command line is a text, which would count as True
        return [OneOf(True, False)]
    if isinstance(annotation, str):
        if 'Annotated' not in annotation:
            return []
        annotation = eval(annotation, init.__globals__)
    return [one for one in get_args(annotation) if isinstance(one, Rule)]


def check_number(name: str, value: Any, low: float, high: float = math.inf) -> None:
    """Raise ValueError, naming the argument, unless ``value`` is a number in [low, high]."""
    Number(low, high).check(name, value)


def check_whole(name: str, value: Any, low: int) -> None:
    """Raise ValueError, naming the argument, unless ``value`` is a whole number >= low."""
    Whole(low).check(name, value)


def check_choice(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Raise ValueError, naming the argument, unless ``value`` is one of ``allowed``."""
    OneOf(*allowed).check(name, value)


def check_shapes(**tensors: tuple[Any, str]) -> None:
    """Raise ValueError, naming the tensors, unless they have the dimensions that are given.

    ``check_shapes(prob=(prob, 'B K H W'), valid=(valid, 'B H W'))``: a letter is one size.
    """
    sizes: dict[str, int] = {}
    for tensor, letters in tensors.values():
        names, shape = letters.split(), tuple(tensor.shape)
        fits = len(names) == len(shape)
        if not fits or any(sizes.setdefault(n, size) != size for n, size in zip(names, shape)):
            wanted = [f'{name} ({", ".join(one.split())})' for name, (_, one) in tensors.items()]
            found = [str(tuple(one.shape)) for one, _ in tensors.values()]
            raise ValueError(
                f'the shapes must be {", ".join(wanted)}, each letter one size, got '
                f'{", ".join(found)}'
            )


def check_arguments(
    owner: type[Any], arguments: dict[str, Any], key: str, complete: bool = True
) -> None:
    """Refuse arguments that ``owner.__init__`` does not name, and missing ones.

    An ``__init__`` with ``**kwargs`` passes on what its base classes name. Names of before stand in
    the class's ``moved``, with what they are now.

    Args:
        owner: The class.
        arguments: What it is given.
        key: Config key, for messages.
        complete: Whether these are all arguments, so that a missing one is an error.

    Raises:
        TypeError: Names the config key, the wrong argument and the known ones.
    """
    own, *others = _parameters(owner)  # type: ignore[arg-type]  # a class has a hash
    known = list(dict.fromkeys(p.name for p in itertools.chain(own, *others)))
    for name in arguments:
        if name not in known:
            place = getattr(owner, 'moved', {}).get(name)
            if place is not None:
                raise TypeError(f'{key}: {name} is now {place}')
            raise TypeError(
                f"{key}: {owner.__name__} has no argument '{name}'.{hint(name, known)} "
                f'Its arguments are: {", ".join(known) or "none"}.'
            )
    missing = [p.name for p in own if p.default is p.empty and p.name not in arguments]
    if complete and missing:
        raise TypeError(f'{key}: {owner.__name__} needs the argument(s) {", ".join(missing)}.')


@functools.cache
def _parameters(owner: type) -> list[list[inspect.Parameter]]:
    """Named parameters of ``owner.__init__``, and of its bases' as far as it passes them on."""
    found = []
    for kind in owner.__mro__:
        if '__init__' not in vars(kind):
            continue
        several = list(inspect.signature(vars(kind)['__init__']).parameters.values())[1:]
        found.append([p for p in several if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)])
        if not any(p.kind is p.VAR_KEYWORD for p in several):
            break
    return found


@functools.cache
def passes_on_to_bases(kind: type[Any]) -> bool:
    """Whether all ``**kwargs`` of an ``__init__`` are those of its base classes.

    Read from the source: a class may as well hand them to something else.
    """
    for one in kind.__mro__:
        init = vars(one).get('__init__')
        if init is None or not inspect.isfunction(inspect.unwrap(init)):
            continue
        parameters = inspect.signature(init).parameters.values()
        named = [p.name for p in parameters if p.kind is p.VAR_KEYWORD]
        if not named:
            return True
        try:
            source = inspect.getsource(inspect.unwrap(init)).replace(' ', '').replace('\n', '')
        except (OSError, TypeError):
            return False
        rest = f'**{named[0]}'
        if source.count(named[0]) == 1:  # taken and thrown away; configs of heads rely on that
            return not issubclass(kind, nn.Module)
        calls = source.split('super(')[1:]
        if not any('.__init__(' in call and rest in call.split(').', 1)[-1] for call in calls):
            return False
        if source.count(rest) > 2:  # the signature and one call
            return False
    return False
