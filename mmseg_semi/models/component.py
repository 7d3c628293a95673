"""Building named components with errors that a user can act on."""

from __future__ import annotations

import inspect
from typing import Any, Optional, TypeVar

from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_semi.arguments import check_arguments
from mmseg_semi.errors import hint


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


T = TypeVar('T', bound=Component)


def _known_types(base: type[Component]) -> list[str]:
    return sorted(
        name
        for name, entry in MODELS.module_dict.items()
        if inspect.isclass(entry) and issubclass(entry, base)
    )


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
