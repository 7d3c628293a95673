"""Looking through a config for misspelt types and arguments before anything is built.

mmengine names neither the config key nor what would be allowed. Types are checked wherever a
registry is known; arguments where the class names all of its own (no ``**kwargs``).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.registry import FUNCTIONS, DefaultScope, Registry
from mmseg.registry import (
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    LOOPS,
    METRICS,
    MODELS,
    OPTIM_WRAPPERS,
    TRANSFORMS,
)

from mmseg_semi.datasets.labeled_checks import check_paths
from mmseg_semi.models.component import check_arguments, hint

Found = Iterator[tuple[str, Mapping[str, Any], Registry, bool]]
# Keys that mmengine takes out of a component's config before it builds it.
_TAKEN_OUT = ('type', 'priority', '_scope_', '_delete_')
_NETWORK_PARTS = ('backbone', 'neck', 'decode_head', 'auxiliary_head')


def check_config(cfg: Config) -> None:
    """Refuse unknown types and arguments, naming the config key and what is known.

    Raises:
        KeyError: A ``type`` that is registered nowhere.
        TypeError: An argument that a class does not have.
    """
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmseg')):
        for key, node, registry, arguments in _components(cfg):
            kind = node['type']
            entry = registry.get(kind) if isinstance(kind, str) else kind
            if entry is None:
                known = sorted(_names(registry))
                raise KeyError(
                    f"{key}.type: '{kind}' is not registered.{hint(kind, known)} Check the "
                    f'spelling and custom_imports. Known: {", ".join(known)}.'
                )
            if arguments and inspect.isclass(entry) and not _takes_anything(entry):
                given = {name: v for name, v in node.items() if name not in _TAKEN_OUT}
                check_arguments(entry, given, key, complete=False)


def check_data_paths(cfg: Config, parts: tuple[str, ...]) -> None:
    """Refuse missing folders and split files of validation and test data.

    Args:
        cfg: The config.
        parts: ``'val'`` and ``'test'``, whichever is going to be read.

    Raises:
        FileNotFoundError, ValueError: See ``check_paths``.
    """
    for part in parts:
        dataset = (cfg.get(f'{part}_dataloader') or {}).get('dataset')
        if isinstance(dataset, Mapping):
            check_paths(dataset, f'{part}_dataloader.dataset')


def _names(registry: Registry | None) -> set[str]:
    names: set[str] = set()
    while registry is not None:
        names |= set(registry.module_dict)
        registry = registry.parent
    return names


def _takes_anything(entry: type) -> bool:
    if entry.__init__ is object.__init__:
        return False
    kinds = [p.kind for p in inspect.signature(entry.__init__).parameters.values()]
    return inspect.Parameter.VAR_KEYWORD in kinds


def _components(cfg: Config) -> Found:
    yield from _typed('model', cfg.get('model'), MODELS, False)
    model = cfg.get('model') or {}
    inner = model.get('segmentor')
    for prefix, owner in (('model', model), ('model.segmentor', inner)):
        if isinstance(owner, Mapping):
            yield from _typed(prefix, owner, MODELS, False)
            for name in _NETWORK_PARTS:
                yield from _typed(f'{prefix}.{name}', owner.get(name), MODELS, False)
    for part in ('train', 'val', 'test'):
        loader = cfg.get(f'{part}_dataloader') or {}
        key = f'{part}_dataloader'
        yield from _typed(f'{key}.sampler', loader.get('sampler'), DATA_SAMPLERS)
        yield from _typed(f'{key}.batch_sampler', loader.get('batch_sampler'), DATA_SAMPLERS)
        yield from _typed(f'{key}.collate_fn', loader.get('collate_fn'), FUNCTIONS, False)
        yield from _datasets(f'{key}.dataset', loader.get('dataset'))
        yield from _typed(f'{part}_cfg', cfg.get(f'{part}_cfg'), LOOPS)
        yield from _typed(f'{part}_evaluator', cfg.get(f'{part}_evaluator'), METRICS)
    for name, hook in (cfg.get('default_hooks') or {}).items():
        yield from _typed(f'default_hooks.{name}', hook, HOOKS)
    yield from _typed('custom_hooks', cfg.get('custom_hooks'), HOOKS)
    yield from _typed('optim_wrapper', cfg.get('optim_wrapper'), OPTIM_WRAPPERS, False)


def _typed(key: str, node: Any, registry: Registry, arguments: bool = True) -> Found:
    if isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _typed(f'{key}[{i}]', value, registry, arguments)
    elif isinstance(node, Mapping) and 'type' in node:
        yield key, node, registry, arguments


def _datasets(key: str, node: Any) -> Found:
    if isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _datasets(f'{key}[{i}]', value)
    elif isinstance(node, Mapping):
        yield from _typed(key, node, DATASETS)
        yield from _transforms(f'{key}.pipeline', node.get('pipeline'))
        for name in ('dataset', 'datasets', 'labeled', 'unlabeled'):
            yield from _datasets(f'{key}.{name}', node.get(name))


def _transforms(key: str, node: Any) -> Found:
    if isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _transforms(f'{key}[{i}]', value)
    elif isinstance(node, Mapping):
        yield from _typed(key, node, TRANSFORMS)
        yield from _transforms(f'{key}.transforms', node.get('transforms'))
