"""Building named components with errors that a user can act on."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Optional, TypeVar

from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from torch import nn

from mmseg_semi.arguments import Rule, check_arguments, checked
from mmseg_semi.errors import hint
from mmseg_semi.structures import SemiStep

if TYPE_CHECKING:
    from mmseg_semi.models.segmentors import SemiSegmentor


class Component(nn.Module):
    """Anything that a config adds to a training step by name.

    Its life: it is built from its config, which checks the arguments that declare a rule (see
    ``mmseg_semi.arguments``); ``attach`` shows it the finished model; in every step after the
    warm-up it is called, and at the end ``observe`` lets it remember what it saw; hooks that it
    names in ``hooks`` move its state, buffers that every checkpoint holds.

    Attributes:
        taps: Names of the features that it reads from ``SegOutputs.features``.
        tap_channels: Channels that these must have, where it has layers for them, by name.
        stream: Name of the stream in ``model.streams`` that it reads; '' for none.
        pseudo_fields: ``'prob'`` and ``'logits'`` are mixed only for components that name them.
        hooks: Configs of the hooks that move its state; ``SemiTrainLoop`` registers those that
            the config does not list itself.
        reads_maps: Names of the further maps of the unlabeled images that it reads.
        needs_weak: Whether it reads the student's outputs on the weak images.
        config_key: Where the config has it, for messages.
        name: Its name in the log, such as ``'select'``.
    """

    taps: tuple[str, ...] = ()
    tap_channels: Mapping[str, int] = MappingProxyType({})
    stream: str = ''
    pseudo_fields: tuple[str, ...] = ()
    hooks: tuple[dict[str, Any], ...] = ()
    reads_maps: tuple[str, ...] = ()
    needs_weak: bool = False
    config_key: str = ''
    name: str = ''

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if '__init__' in vars(cls):
            cls.__init__ = checked(cls.__init__)  # type: ignore[method-assign]

    def attach(self, model: SemiSegmentor) -> None:
        """Get to know the finished model; called once, when it is built.

        The place to look up other components, to build layers whose sizes depend on the
        segmentor, and to refuse a combination that cannot work.

        Raises:
            ValueError: The combination cannot work; says why.
        """

    def check_batch(self, step: SemiStep) -> None:
        """Refuse a batch that lacks what this component reads; called in the warm-up too.

        Raises:
            ValueError: Says what is missing and what to do.
        """
        for name in self.reads_maps:
            if name not in step.maps:
                raise ValueError(
                    f'{self.config_key} ({type(self).__name__}): the unlabeled images have no map '
                    f"'{name}'. Set train_dataloader.dataset.unlabeled.{name}, or take the "
                    'component out by setting it to None'
                )

    def observe(self, step: SemiStep) -> None:
        """Count or remember what this step showed, and log figures; called once, at its end."""

    def tapped_channels(self, head: Any, tap: str, in_channels: Optional[int]) -> int:
        """Return the channels of the features ``tap``, given or found; every pass checks them.

        Args:
            head: The segmentor's (last) decode head.
            tap: As in ``FeatureTaps``.
            in_channels: What the config says.

        Raises:
            ValueError: The tap is a module path, whose channels the config must give.
        """
        channels = in_channels or feature_channels(head, tap)
        if channels is None:
            raise ValueError(
                f"{type(self).__name__}.tap is the module path '{tap}': give its number of "
                'channels too (in_channels=...)'
            )
        self.tap_channels = {tap: channels}
        return channels


class NormCfg(Rule):
    """Config of a normalization."""

    def check(self, name: str, value: Any) -> None:
        """See ``Rule``."""
        if not isinstance(value, dict) or MODELS.get(str(value.get('type'))) is None:
            raise ValueError(
                f'{name} must be None or the config of a normalization, such as '
                f"dict(type='BN') or dict(type='SyncBN'), got {value!r}"
            )


def last_head(segmentor: Any) -> Any:
    """Return the decode head that predicts: the only one, or the last of a cascade."""
    head = segmentor.decode_head
    return head[-1] if isinstance(head, nn.ModuleList) else head


def fusion_layers(head: Any) -> nn.Module:
    """Return the convolutions of a DeepLabV3+ decoder after it has joined both maps.

    Raises:
        ValueError: It is another decoder.
    """
    layers = getattr(head, 'fuse', getattr(head, 'sep_bottleneck', None))
    if layers is None:
        raise ValueError(
            f"tap 'fusion': {type(head).__name__} is no DeepLabV3+ decoder. Use 'encoder', "
            "'penultimate' or a module path such as 'decode_head.convs'."
        )
    return layers


def classifier_of(head: Any) -> nn.Module:
    """Return the layer of a decode head that gives the logits of all classes.

    Raises:
        ValueError: It has no such layer.
    """
    if getattr(head, 'conv_seg', None) is None:
        alone = 'decodes each class alone and ' if hasattr(head, 'conv_seg') else ''
        raise ValueError(
            f"tap 'penultimate' or 'classifier': {type(head).__name__} {alone}has no classifier "
            "(conv_seg). Use 'encoder' or a module path such as 'backbone'"
        )
    return head.conv_seg


def feature_channels(head: Any, name: str) -> Optional[int]:
    """Tell the number of channels of a feature that has a name; None for a module path.

    Args:
        head: The segmentor's (last) decode head.
        name: As in ``FeatureTaps``.
    """
    if name == 'classifier':
        return head.out_channels
    if name == 'penultimate':
        return int(classifier_of(head).in_channels)  # type: ignore[arg-type]
    if name == 'fusion':
        first = next(m for m in fusion_layers(head).modules() if isinstance(m, nn.Conv2d))
        return first.in_channels
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
