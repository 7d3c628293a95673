"""Reading a config, and looking through it for misspelled types and arguments before it is built.

mmengine names neither the config key nor what would be allowed. Types are checked wherever a
registry is known; arguments where the class names all of its own (no ``**kwargs``).
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.registry import FUNCTIONS, DefaultScope, Registry
from torch import nn

from mmseg_semi.arguments import check_arguments, passes_on_to_bases
from mmseg_semi.errors import hint, name_some
from mmseg_semi.utils import user_variables
from mmseg_semi.utils.config_keys import (
    check_method,
    check_sections,
    check_unread_keys,
    known_keys,
)
from mmseg_semi.utils.config_settings import check_checkpoint_names, check_settings
from mmseg_semi.utils.stack import complete_mmseg, complete_optimizers, is_there, registered

Found = Iterator[tuple[str, Mapping[str, Any], Registry, bool]]
# Keys that mmengine takes out of a component's config before it builds it.
_TAKEN_OUT = ('type', 'priority', '_scope_', '_delete_')
# Their inner transforms are those of albumentations, which no registry knows.
_OF_ALBUMENTATIONS = ('Albu', 'mmseg.Albu', 'mmdet.Albu')
_NETWORK_PARTS = (
    *('backbone', 'neck', 'decode_head', 'auxiliary_head'),
    *('rpn_head', 'roi_head', 'bbox_head', 'mask_head'),
)


#: Of files that mmengine reads as configs.
_SUFFIXES = ('.py', '.json', '.yaml', '.yml')
#: Keys of a data set that say where it lies.
_PLACES = ('data_root', 'ann_file', 'img_path', 'seg_map_path')


def data_places(cfg: Config) -> dict[str, str]:
    """Where the data of a config lie: values by key."""
    parts = ((key, node) for key, node in cfg.items() if key.endswith('_dataloader'))
    return {place: text for key, node in parts for place, text in _places(key, node)}


def _places(key: str, node: Any) -> Iterator[tuple[str, str]]:
    for name, value in node.items() if isinstance(node, Mapping) else ():
        if isinstance(value, Mapping):
            yield from _places(f'{key}.{name}', value)
        elif name in _PLACES:
            yield f'{key}.{name}', str(value)


def is_detector(cfg: Config) -> bool:
    """Whether a config is one of mmdet's."""
    return cfg.get('default_scope') == 'mmdet'


def gpus_of(cfg: Config) -> int:
    """As many processes as a config's batch size and learning rate are for."""
    update = cfg.train_dataloader.batch_size * cfg.optim_wrapper.get('accumulative_counts', 1)
    whole = (cfg.get('auto_scale_lr') or {}).get('base_batch_size') or update
    return max(whole // update, 1)


def require_mmdet(what: str) -> None:
    """Refuse to go on without mmdet.

    Args:
        what: What needs it, for the message.

    Raises:
        ModuleNotFoundError: Says how to install it.
    """
    if not is_there('mmdet'):
        raise ModuleNotFoundError(
            f'{what} needs mmdet, which is not installed. Install '
            "'mmdet>=3.3.0,<4.0.0' (with the onedl stack 'onedl-mmdetection>=3.5.1,<4.0.0')."
        )


class CfgOptions(DictAction):
    """``--cfg-options KEY=VALUE ...``; what is none ends the command line with a sentence."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Put the options into a dict, see mmengine's ``DictAction``."""
        for value in values:
            if not re.fullmatch(r'[^=\s]+=.*', value, re.DOTALL):
                parser.error(
                    f'{option_string} {value}: write KEY=VALUE, for example '
                    'train_cfg.max_iters=100, without spaces around ='
                )
        try:
            super().__call__(parser, namespace, values, option_string)
        except Exception as error:  # lists and tuples whose brackets do not fit
            parser.error(f'{option_string} {" ".join(values)}: {error}; correct the brackets')


def parse_tool(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> argparse.Namespace:
    """Read a command line whose ``--cfg-options`` are texts still.

    Args:
        parser: Of the tool.
        arguments: The words; None for those of the process.

    Returns:
        The arguments, ``cfg_options`` a dict or None.
    """
    args = parser.parse_args(arguments)
    words, args.cfg_options = args.cfg_options, None
    if words:
        CfgOptions(['--cfg-options'], 'cfg_options')(parser, args, words, '--cfg-options')
    return args


def load_config(path: str, options: dict[str, Any] | None = None, unread: bool = False) -> Config:
    """Read a config file, apply ``--cfg-options`` and check types and arguments.

    ``num_workers`` of a loader are as many as the machine has cores for this rank, at most.

    Args:
        path: The file.
        options: Values by key.
        unread: Whether names that nothing reads are let pass: what plain mmseg leaves in the folder
            of a run has some. It is for what does not train.

    Raises:
        FileNotFoundError: There is no such file.
        ModuleNotFoundError: A detector's config, and mmdet is not installed.
        KeyError, TypeError: See ``check_config``.
        ValueError: The file cannot be run as a config; see also ``check_method``,
            ``check_unread_keys``, ``check_sections``, ``check_checkpoint_names`` and
            ``check_settings``.
    """
    if not os.path.isfile(path):
        what = 'is a folder' if os.path.isdir(path) else 'does not exist'
        raise FileNotFoundError(f'config file {path} {what}: name a file of configs/')
    if Path(path).suffix not in _SUFFIXES:
        raise ValueError(
            f'config file {path}: the name of a config ends with {", ".join(_SUFFIXES)}; name a '
            'file of configs/'
        )
    cfg = _read_config(path)
    check_method(path, options)
    variables = tuple(cfg.get(user_variables.KEY) or ())
    check_unread_keys(path, options or (), variables, options_alone=unread)
    _merge(cfg, {key: value for key, value in (options or {}).items() if key in variables})
    user_variables.follow(cfg, path, options or ())
    _merge(cfg, {key: value for key, value in (options or {}).items() if key not in variables})
    for name in set(cfg) - known_keys():  # used where the file was run; a dump would be refused
        try:
            cfg.pop(name)
        except ImportError as error:  # mmengine imports what a config imports when it is read
            raise ValueError(
                f'config file {path} cannot be read: {error}. Install it, or remove the import.'
            ) from error
    content = str(cfg.to_dict())
    complete_mmseg(content)
    complete_optimizers(content)
    check_config(cfg)
    check_sections(cfg)
    check_checkpoint_names(cfg)
    if not is_detector(cfg):
        check_settings(cfg)
    ranks = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    most = max(1, len(os.sched_getaffinity(0)) // ranks)
    for part in ('train', 'val', 'test'):
        loader = cfg.get(f'{part}_dataloader') or {}
        if isinstance(loader.get('num_workers'), int) and loader['num_workers'] > most:
            loader['num_workers'] = most  # more would wait for each other, and torch warns of it
        if loader.get('num_workers') == 0:  # with which torch refuses persistent workers
            loader['persistent_workers'] = False
    return cfg


def _read_config(path: str) -> Config:
    try:
        return Config.fromfile(path)
    except Exception as error:  # a config is a program; mmengine's errors depend on its version
        if 'mmdet' in str(error):
            require_mmdet(f'config file {path}')
        line = _line_in_config(error)
        if 'Duplicate key is not allowed' in str(error):
            keys = str(error).partition('Duplicate keys: ')[2].strip('{}"')
            raise ValueError(
                f'config file {path}: two of its bases, or of theirs, set the same keys ({keys}), '
                'and none comes first: name one method and one preset in _base_, and set the rest '
                'in the file itself'
            ) from error
        if isinstance(error, FileNotFoundError) and str(error.filename).endswith('.py'):
            base = Path(os.path.normpath(error.filename))
            near = [one.name for one in sorted(base.parent.glob('*.py'))]
            raise ValueError(
                f'config file {path} cannot be read: there is no base {base}.'
                f'{hint(base.name, near)} Correct _base_.'
            ) from error
        raise ValueError(
            f'config file {path} cannot be read: {type(error).__name__}: '
            f'{" ".join(str(error).split())}{line}. Correct it, or the base that it names.'
        ) from error


def _line_in_config(error: BaseException) -> str:
    """Where in a config program an error was raised, as far as that can be told."""
    if isinstance(error, SyntaxError):
        return ''  # its text says so
    line, reading, trace = '', False, error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_name
        if name == '<module>' and reading:
            line = f' (line {trace.tb_lineno})'
        reading, trace = reading or name == '_file2dict', trace.tb_next
    return line


def _merge(cfg: Config, options: Mapping[str, Any]) -> None:
    for key, value in options.items():
        try:
            cfg.merge_from_dict({key: value})
        except (KeyError, TypeError, IndexError, AttributeError, AssertionError) as error:
            raise ValueError(
                f'--cfg-options {key}={value!r} cannot be set: {error}. Look the key up in the '
                "config; 'key.0' is the first entry of a list."
            ) from error


def check_config(cfg: Config) -> None:
    """Refuse unknown types and arguments, naming the config key and what is known.

    Types of a detector's config are looked up in mmdet's registries.

    Raises:
        ModuleNotFoundError: A detector's config, and mmdet is not installed.
        KeyError: A ``type`` that is registered nowhere.
        TypeError: An argument that a class does not have.
    """
    if is_detector(cfg):
        require_mmdet("a config with default_scope='mmdet'")
    registries = importlib.import_module(f'{"mmdet" if is_detector(cfg) else "mmseg"}.registry')
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmseg')):
        for key, node, registry, arguments in _components(cfg, registries):
            kind = node['type']
            entry = registered(f'{key}.type', kind, registry) if isinstance(kind, str) else kind
            if entry is None:
                known = sorted(_names(registry))
                raise KeyError(
                    f"{key}.type: '{kind}' is not registered.{hint(kind, known)} Check the "
                    f'spelling and custom_imports. Known: {name_some(known, 12)}.'
                )
            plain = inspect.isclass(entry) and (arguments or issubclass(entry, nn.Module))
            if plain and (passes_on_to_bases(entry) or arguments and not _takes_anything(entry)):
                given = {name: v for name, v in node.items() if name not in _TAKEN_OUT}
                check_arguments(entry, given, key, complete=False)


def _names(registry: Registry | None) -> set[str]:
    names: set[str] = set()
    while registry is not None:
        names |= set(registry.module_dict)
        registry = registry.parent
    return names


def _takes_anything(entry: type[Any]) -> bool:
    if entry.__init__ is object.__init__:
        return False
    kinds = [p.kind for p in inspect.signature(entry.__init__).parameters.values()]
    return inspect.Parameter.VAR_KEYWORD in kinds


def _components(cfg: Config, known: ModuleType) -> Found:
    yield from _typed('model', cfg.get('model'), known.MODELS, False)
    model = cfg.get('model') or {}
    inner = model.get('segmentor')
    for prefix, owner in (('model', model), ('model.segmentor', inner)):
        if isinstance(owner, Mapping):
            yield from _typed(prefix, owner, known.MODELS, False)
            for name in _NETWORK_PARTS:
                yield from _network(f'{prefix}.{name}', owner.get(name), known.MODELS)
    for part in ('train', 'val', 'test'):
        loader = cfg.get(f'{part}_dataloader') or {}
        key = f'{part}_dataloader'
        yield from _typed(f'{key}.sampler', loader.get('sampler'), known.DATA_SAMPLERS)
        yield from _typed(f'{key}.batch_sampler', loader.get('batch_sampler'), known.DATA_SAMPLERS)
        yield from _typed(f'{key}.collate_fn', loader.get('collate_fn'), FUNCTIONS, False)
        yield from _datasets(f'{key}.dataset', loader.get('dataset'), known)
        yield from _typed(f'{part}_cfg', cfg.get(f'{part}_cfg'), known.LOOPS)
        yield from _typed(f'{part}_evaluator', cfg.get(f'{part}_evaluator'), known.METRICS)
    for name, hook in (cfg.get('default_hooks') or {}).items():
        yield from _typed(f'default_hooks.{name}', hook, known.HOOKS)
    yield from _typed('custom_hooks', cfg.get('custom_hooks'), known.HOOKS)
    wrapper = cfg.get('optim_wrapper') or {}
    yield from _typed('optim_wrapper', wrapper, known.OPTIM_WRAPPERS, False)
    if wrapper.get('constructor') is None:
        yield from _typed('optim_wrapper.optimizer', wrapper.get('optimizer'), known.OPTIMIZERS)
    yield from _typed('param_scheduler', cfg.get('param_scheduler'), known.PARAM_SCHEDULERS)
    yield from _typed('visualizer', cfg.get('visualizer'), known.VISUALIZERS)


def _typed(key: str, node: Any, registry: Registry, arguments: bool = True) -> Found:
    if isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _typed(f'{key}[{i}]', value, registry, arguments)
    elif isinstance(node, Mapping) and 'type' in node:
        yield key, node, registry, arguments


def _network(key: str, node: Any, registry: Registry) -> Found:
    several = node if isinstance(node, (list, tuple)) else [node]
    for i, part in enumerate(several):
        name = key if part is node else f'{key}[{i}]'
        yield from _typed(name, part, registry, False)
        losses = part.get('loss_decode') if isinstance(part, Mapping) else None
        yield from _typed(f'{name}.loss_decode', losses, registry)


def _datasets(key: str, node: Any, known: ModuleType) -> Found:
    if isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _datasets(f'{key}[{i}]', value, known)
    elif isinstance(node, Mapping):
        yield from _typed(key, node, known.DATASETS)
        for name in ('pipeline', 'geometry', 'detections', 'maps'):
            yield from _transforms(f'{key}.{name}', node.get(name), known)
        views = node.get('strong')
        if isinstance(views, Mapping):
            yield f'{key}.strong', dict(views, type='StrongViews'), known.TRANSFORMS, True
            yield from _transforms(f'{key}.strong.transforms', views.get('transforms'), known)
        for name in ('dataset', 'datasets', 'labeled', 'unlabeled'):
            inner = node.get(name)
            if name == 'labeled' and isinstance(inner, Mapping) and 'geometry' in inner:
                # SemiDataset takes it out: any dataset of mmseg may stand there.
                yield from _transforms(f'{key}.{name}.geometry', inner['geometry'], known)
                inner = {k: value for k, value in inner.items() if k != 'geometry'}
            yield from _datasets(f'{key}.{name}', inner, known)


def _transforms(key: str, node: Any, known: ModuleType) -> Found:
    if isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _transforms(f'{key}[{i}]', value, known)
    elif isinstance(node, Mapping) and 'type' in node:
        yield from _typed(key, node, known.TRANSFORMS)
        if node['type'] not in _OF_ALBUMENTATIONS:
            yield from _transforms(f'{key}.transforms', node.get('transforms'), known)
    elif isinstance(node, Mapping):
        for name, value in node.items():
            yield from _transforms(f'{key}.{name}', value, known)
