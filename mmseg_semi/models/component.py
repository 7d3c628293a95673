"""Building named components with errors that a user can act on."""

from __future__ import annotations

import difflib
import inspect
import math
import numbers
from typing import Any, Optional, TypeVar

from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from torch import Tensor, nn


class Component(nn.Module):
    """Anything that a config adds to a training step by name.

    Attributes:
        taps: Names of the student features that it reads from ``SegOutputs.features``.
        pseudo_fields: ``'prob'`` and ``'logits'`` are mixed only for components that name them.
        required_hooks: Class names of hooks without which its state would stay frozen; training
            is refused when one is missing.
        reads_detections: Whether it reads the boxes of ``LoadDetections``.
        needs_weak: Whether it reads the student's outputs on the weak images.
        config_key: Where the config has it, for messages.
    """

    taps: tuple[str, ...] = ()
    pseudo_fields: tuple[str, ...] = ()
    required_hooks: tuple[str, ...] = ()
    reads_detections: bool = False
    needs_weak: bool = False
    config_key: str = ''

    def attach(self, model: nn.Module) -> None:
        """Get to know the finished ``SemiSegmentor``; called once, when it is built.

        The place to look up other components, to build layers whose sizes depend on the
        segmentor, and to refuse a combination that cannot work.

        Raises:
            ValueError: The combination cannot work; says why.
        """

    def check_batch(self, step: Any) -> None:
        """Refuse a batch that lacks what this component reads; called in the warm-up too.

        Args:
            step: The ``SemiStep`` of the batch, before any forward pass.

        Raises:
            ValueError: Says what is missing and what to do.
        """

    def log_values(self) -> dict[str, Tensor]:
        """Return 0-dim figures of the present step for the log; no name may contain ``loss``."""
        return {}


def check_number(name: str, value: Any, low: float, high: float = math.inf) -> None:
    """Raise ValueError, naming the argument, unless ``value`` is a number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not low <= value <= high:
        allowed = f'>= {low}' if high == math.inf else f'in [{low}, {high}]'
        raise ValueError(f'{name} must be a number {allowed}, got {value!r}')


def check_whole(name: str, value: Any, low: int) -> None:
    """Raise ValueError, naming the argument, unless ``value`` is a whole number >= low."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < low:
        raise ValueError(f'{name} must be a whole number >= {low}, got {value!r}')


def check_feature(name: str, value: Any) -> None:
    """Raise ValueError, naming the argument, unless ``value`` can be a feature's name."""
    if not isinstance(value, str) or not value:
        raise ValueError(
            f"{name} must be the name of a feature, such as 'encoder', or the path of a module, "
            f'got {value!r}'
        )


def last_head(segmentor: nn.Module) -> nn.Module:
    """Return the decode head that predicts: the only one, or the last of a cascade."""
    head = segmentor.decode_head
    return head[-1] if isinstance(head, nn.ModuleList) else head


def feature_channels(head: nn.Module, name: str) -> Optional[int]:
    """Tell the number of channels of a feature that has a name; None for a module path.

    Args:
        head: The segmentor's (last) decode head.
        name: As in ``FeatureTaps``.
    """
    if name == 'classifier':
        return head.out_channels
    if name in ('fusion', 'penultimate'):
        return head.conv_seg.in_channels
    if name == 'aspp':
        return getattr(head, 'aspp_channels', head.channels)
    if name == 'encoder':
        widths = head.in_channels
        return int(widths[-1] if isinstance(widths, (list, tuple)) else widths)
    return None


def check_choice(name: str, value: Any, allowed: tuple) -> None:
    """Raise ValueError, naming the argument, unless ``value`` is one of ``allowed``."""
    if not any(value is one or (type(value) is type(one) and value == one) for one in allowed):
        suggestion = hint(str(value), [str(one) for one in allowed])
        raise ValueError(f'{name} must be one of {allowed}, got {value!r}.{suggestion}')


T = TypeVar('T', bound=Component)


def _known_types(base: type[Component]) -> list[str]:
    return sorted(
        name
        for name, entry in MODELS.module_dict.items()
        if inspect.isclass(entry) and issubclass(entry, base)
    )


def hint(wrong: str, known: list[str]) -> str:
    """Suggest the known name that is closest, or nothing."""
    close = difflib.get_close_matches(wrong, known, n=1)
    return f" Did you mean '{close[0]}'?" if close else ''


def check_arguments(
    owner: type, arguments: dict[str, Any], key: str, complete: bool = True
) -> None:
    """Refuse arguments that ``owner.__init__`` does not name, and missing ones.

    Args:
        owner: The class.
        arguments: What it is given.
        key: Config key, for messages.
        complete: Whether these are all arguments, so that a missing one is an error.

    Raises:
        TypeError: Names the config key, the wrong argument and the known ones.
    """
    parameters = [
        p
        for name, p in inspect.signature(owner.__init__).parameters.items()
        if name != 'self' and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    known = [p.name for p in parameters]
    for name in arguments:
        if name not in known:
            raise TypeError(
                f"{key}: {owner.__name__} has no argument '{name}'.{hint(name, known)} "
                f'Its arguments are: {", ".join(known) or "none"}.'
            )
    missing = [p.name for p in parameters if p.default is p.empty and p.name not in arguments]
    if complete and missing:
        raise TypeError(f'{key}: {owner.__name__} needs the argument(s) {", ".join(missing)}.')


def build_component(cfg: Any, base: type[T], key: str) -> T:
    """Build one component from its config.

    Args:
        cfg: ``dict(type=..., ...)``, or an object that is a ``base`` already.
        base: What it must be, for example ``BaseRefiner``.
        key: Config key, for messages, for example ``model.refiners.select``.

    Raises:
        TypeError: The config is no dict, lacks ``type``, or has an unknown argument.
        KeyError: ``type`` is no registered component of this kind; the known ones are listed.
    """
    if isinstance(cfg, base):
        return cfg
    known = _known_types(base)
    if not isinstance(cfg, (dict, ConfigDict)) or 'type' not in cfg:
        raise TypeError(
            f'{key} must be a dict with a `type` (one of {", ".join(known)}), got {cfg!r}'
        )
    kind = cfg['type']
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', repr(kind))
    entry = MODELS.get(kind) if isinstance(kind, str) else kind
    if not (inspect.isclass(entry) and issubclass(entry, base)):
        raise KeyError(
            f"{key}: '{name}' is not a known {base.__name__.replace('Base', '')}."
            f'{hint(name, known)} Known: {", ".join(known)}.'
        )
    arguments = {name: value for name, value in cfg.items() if name != 'type'}
    check_arguments(entry, arguments, f'{key} (type={name})')
    try:
        return entry(**arguments)
    except (TypeError, ValueError) as error:
        raise type(error)(f'{key}: {error}') from error


def build_components(cfgs: Optional[dict[str, Any]], base: type[T], key: str) -> nn.ModuleDict:
    """Build a dict of named components; an entry that is None is left out.

    Config inheritance merges dicts by key, so a child config replaces, adds or removes (None)
    one component without repeating the others.

    Raises:
        TypeError: ``cfgs`` is not a dict.
    """
    if cfgs is None:
        cfgs = {}
    if not isinstance(cfgs, (dict, ConfigDict)):
        raise TypeError(
            f'{key} must be a dict of named components, for example '
            f'dict(name=dict(type=...)), got {type(cfgs).__name__}'
        )
    return nn.ModuleDict(
        {
            name: build_component(cfg, base, f'{key}.{name}')
            for name, cfg in cfgs.items()
            if cfg is not None
        }
    )
