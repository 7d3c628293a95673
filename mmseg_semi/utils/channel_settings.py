"""Numbers of channels in a config: those of the images, of their mean and of the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from mmseg_semi.errors import name_some
from mmseg_semi.utils.config_keys import value_at

_PARTS = ('train_dataloader', 'val_dataloader', 'test_dataloader', 'tta_pipeline')
_RGB = 3  # the default of every in_channels


def check_channels(cfg: Config) -> None:
    """Refuse ``in_channels`` that differ, where ``LoadChannels`` says how many images have.

    Raises:
        ValueError: Names the keys and their numbers.
    """
    found = {
        f'{key}.in_channels': node.get('in_channels', _RGB)
        for part in _PARTS
        for key, node in _dicts(part, cfg.get(part))
        if _is(node, 'LoadChannels')
    }
    if not found:
        return
    inner = 'model.segmentor' if value_at(cfg, 'model.segmentor') else 'model'
    nodes = {f'{inner}.backbone': value_at(cfg, f'{inner}.backbone')}
    key, preprocessor = preprocessor_of(cfg)
    if preprocessor.get('statistics') is not None:
        nodes[key] = preprocessor
    elif preprocessor.get('mean') is not None:
        found[f'the length of {key}.mean'] = len(preprocessor['mean'])
    for key, node in nodes.items():
        if isinstance(node, Mapping):
            found[f'{key}.in_channels'] = node.get('in_channels', _RGB)
    if len(set(found.values())) > 1:
        texts = [f'{key} is {value}' for key, value in found.items()]
        raise ValueError(
            f'the numbers of channels differ: {name_some(texts, 8)}. Set all of them to that of '
            'the images.'
        )


def preprocessor_of(cfg: Config) -> tuple[str, Mapping[str, Any]]:
    """Key and config of the data preprocessor that normalizes the images, empty without one."""
    for key in ('model', 'model.segmentor'):
        found = value_at(cfg, f'{key}.data_preprocessor')
        if isinstance(found, Mapping):
            return f'{key}.data_preprocessor', found
    return 'model.data_preprocessor', {}


def _dicts(key: str, node: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(node, Mapping):
        yield key, node
        for name, value in node.items():
            yield from _dicts(f'{key}.{name}', value)
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _dicts(f'{key}[{i}]', value)


def _is(node: Mapping[str, Any], kind: str) -> bool:
    return str(node.get('type')).split('.')[-1] == kind
