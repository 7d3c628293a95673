"""Keys of a config file that nothing reads: misspelled ones, and variables that came too late.

A config file is a program. A variable of a base, ``crop_size`` say, has been used where the base
was run; a child that sets it again changes nothing, and mmengine says nothing.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmseg_semi.errors import hint

# What Runner.from_cfg and the tools look up by name and the runner's signature does not have.
_READ_BY_NAME = (
    *('custom_imports', 'find_unused_parameters', 'model_wrapper_cfg', 'sync_bn', 'compile'),
    *('efficient_conv_bn_eval', 'runner_type', 'tta_model', 'tta_pipeline', 'method'),
    'guarded',  # of mmseg_semi/apis/train.py
    *('detection_classes', 'detection_min_area'),  # of tools/dataset_converters/masks_to_coco.py
)
# Where mmseg.apis.inference_model looks. A child that sets it again changes no data set.
_READ_WITHOUT_BASES = ('test_pipeline',)
_TEMPLATE = re.compile(r'\{\{\s*_base_\.(\w+)')
_TAKEN_BY_RUNNER = ('dataset', 'sampler', 'num_batch_per_epoch')
_OPTIM_WRAPPER = (
    *('type', 'optimizer', 'constructor', 'paramwise_cfg', 'accumulative_counts', 'clip_grad'),
    *('loss_scale', 'dtype', 'use_fsdp', 'cache_enabled'),
)
# Hooks that mmengine knows by their name; others need a type.
_DEFAULT_HOOKS = (
    *('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint'),
)
# Segmentors of others may read more: here only what looks like one of these is refused.
_INFERENCE = ('mode', 'stride', 'crop_size', 'window_average', 'window_border')
_PARAMWISE = (
    *('norm_decay_mult', 'bias_lr_mult', 'bias_decay_mult', 'flat_decay_mult', 'custom_keys'),
    *('dwconv_decay_mult', 'dcn_offset_lr_mult', 'bypass_duplicate'),
)
_CHECKPOINT = (  # what CheckpointHook hands on to Runner.save_checkpoint
    *('save_optimizer', 'save_param_scheduler', 'meta', 'file_client_args', 'backend_args'),
)
_SECTIONS: dict[str, tuple[str, ...]] = {
    'randomness': ('seed', 'diff_rank_seed', 'deterministic'),
    'env_cfg': ('cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'),
    'env_cfg.mp_cfg': ('mp_start_method', 'opencv_num_threads'),
    'env_cfg.dist_cfg': ('backend', 'init_backend', 'timeout', 'port', 'world_size', 'rank'),
    'optim_wrapper.clip_grad': (
        *('type', 'max_norm', 'norm_type', 'error_if_nonfinite', 'foreach', 'clip_value'),
    ),
    'auto_scale_lr': ('enable', 'base_batch_size'),
}


@dataclass(frozen=True)
class _File:
    """What a config file sets and reads.

    Attributes:
        path: The file.
        sets: Line of each top-level name that it sets.
        reads: First line where each name is read.
        of_base: First line where each name of its bases is read, by ``_base_.name``.
        bases: Its base files.
    """

    path: str
    sets: Mapping[str, int]
    reads: Mapping[str, int]
    of_base: Mapping[str, int]
    bases: tuple[str, ...]


@cache
def known_keys() -> frozenset[str]:
    """Top-level keys that the runner or the tools read."""
    return frozenset({*inspect.signature(Runner.__init__).parameters, *_READ_BY_NAME} - {'self'})


#: Folder of configs that set variables and nothing else.
PRESETS = 'custom'


def check_unread_keys(
    path: str,
    options: Iterable[str] = (),
    variables: Sequence[str] = (),
    options_alone: bool = False,
) -> None:
    """Refuse what a config file or ``--cfg-options`` sets and nothing reads.

    Names that begin with an underscore are helpers and may be unread, as may be what a base offers
    its children and no base of its own has set. Files in a folder ``_base_``, files of installed
    packages and mmengine's pure Python configs (``read_base``) are not looked at.

    Args:
        path: A config file; its bases are looked at too.
        options: Keys of ``--cfg-options``.
        variables: Names that are followed when the config is read, see ``user_variables``.
        options_alone: Whether the files are not looked at.

    Raises:
        ValueError: Names the file or option, the key, and the nearest known key or the place that
            has used an earlier value.
    """
    files, known = list(_chain(path)), {*known_keys(), *variables}
    presets = [one for one in files if _is_preset(one)]
    if presets and not variables:
        raise ValueError(
            f'{path}: {presets[0].path} is a preset for configs of own images, and no base is one: '
            "name one beside it, as _base_ = ['unimatch/unimatch_efficientnet-lite0_custom.py', "
            f"'{PRESETS}/{Path(presets[0].path).name}'], or leave the preset out"
        )
    for key in options:
        name = key.split('.')[0]
        if name not in known or (name in variables and name != key):
            raise ValueError(f'--cfg-options {key}: {_why(name, files, known)}')
    for i, file in enumerate(files):
        if options_alone or '_base_' in Path(file.path).parts:
            continue
        below = {name for one in files[:i] if _above(one, file, files) for name in one.of_base}
        bases = [one for one in files[i + 1 :] if _above(file, one, files)]
        for name, line in file.sets.items():
            read = name in known or name in file.reads or name in below or name[0] == '_'
            read = read or (name in _READ_WITHOUT_BASES and not file.bases)
            offered = i > 0 and not any(name in base.sets for base in bases)
            if not read and not offered:
                raise ValueError(f'{file.path}, line {line}: {_why(name, bases, known)}')


def _is_preset(file: Any) -> bool:
    """Whether a config file sets variables and nothing else."""
    alone = not file.bases and not set(file.sets) & known_keys()
    return alone and Path(file.path).parent.name == PRESETS


def check_sections(cfg: Config) -> None:
    """Refuse unknown keys of the sections that are no components with arguments of their own.

    Raises:
        ValueError: Names the key and the nearest known one.
    """
    loader = {*inspect.signature(DataLoader.__init__).parameters, *_TAKEN_BY_RUNNER} - {'self'}
    sections = {f'{part}_dataloader': tuple(loader) for part in ('train', 'val', 'test')}
    for section, known in {**sections, **_SECTIONS}.items():
        _check_known(section, value_at(cfg, section), known)
    for section in ('model.test_cfg', 'model.segmentor.test_cfg'):
        for name in value_at(cfg, section) or ():
            if name not in _INFERENCE and hint(name, list(_INFERENCE)):
                _check_known(section, {name: None}, _INFERENCE)
    for name, hook in (cfg.get('default_hooks') or {}).items():
        if isinstance(hook, Mapping) and 'type' not in hook:
            _check_known('default_hooks', {name: hook}, _DEFAULT_HOOKS)
    wrapper = cfg.get('optim_wrapper') or {}
    plain = wrapper.get('type', 'OptimWrapper') in ('OptimWrapper', 'AmpOptimWrapper')
    if plain and wrapper.get('constructor') is None:
        _check_known('optim_wrapper', wrapper, _OPTIM_WRAPPER)
        _check_known('optim_wrapper.paramwise_cfg', wrapper.get('paramwise_cfg'), _PARAMWISE)
    hook = value_at(cfg, 'default_hooks.checkpoint') or {}
    if hook.get('type') in (None, 'CheckpointHook', 'AtomicCheckpointHook'):
        own = inspect.signature(CheckpointHook.__init__).parameters
        _check_known('default_hooks.checkpoint', hook, ('type', 'priority', *own, *_CHECKPOINT))


def value_at(cfg: Any, key: str) -> Any:
    """What a config has at a dotted key, None where it has nothing."""
    for name in key.split('.'):
        cfg = cfg.get(name) if isinstance(cfg, (Mapping, Config)) else None
    return cfg


def _check_known(section: str, found: Any, known: Iterable[str]) -> None:
    for name in found if isinstance(found, Mapping) else ():
        if name not in known and name not in ('_scope_', '_delete_'):
            advice = hint(name, list(known)) or f' Keys of {section}: {", ".join(sorted(known))}.'
            raise ValueError(f'nothing reads {section}.{name}.{advice}')


def _why(name: str, others: Iterable[_File], known: Iterable[str]) -> str:
    for file in others:
        line = file.reads.get(name, file.of_base.get(name))
        if line is not None:
            return (
                f"nothing reads '{name}' here, because {file.path} has used its own value before "
                f'(line {line}): set the key that is made of it there instead.'
            )
    known = sorted(known)
    advice = hint(name, known) or f' Known keys: {", ".join(known)}.'
    return f"nothing reads '{name}'.{advice} The name of a helper variable begins with '_'."


def _chain(path: str) -> Iterator[_File]:
    """A config file and all its bases, children first, without those of installed packages."""
    waiting, seen = [path], set()
    while waiting:
        name = waiting.pop(0)
        if name in seen or {'site-packages', 'dist-packages'} & set(Path(name).parts):
            continue
        seen.add(name)
        if Path(name).suffix == '.py':
            file = _read(name)
            if 'read_base' not in file.reads:
                yield file
                waiting += file.bases


def _above(child: _File, base: _File, files: list[_File]) -> bool:
    """Whether ``base`` is a base of ``child``, or of one of its bases."""
    by_path = {file.path: file for file in files}
    return base.path in child.bases or any(
        _above(by_path[path], base, files) for path in child.bases if path in by_path
    )


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """All statements that are run with a file: not those of its functions and classes."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        if isinstance(child, ast.stmt):
            yield child
        yield from _statements(child)


def _read(path: str) -> _File:
    """Parse a file once, for all checks, as long as it does not change."""
    return _parse(path, os.stat(path).st_mtime_ns)


@cache
def _parse(path: str, _: int) -> _File:
    text = Path(path).read_text(encoding='utf-8')
    tree = ast.parse(text)
    sets: dict[str, int] = {}
    for statement in _statements(tree):
        targets: list[ast.expr] = []
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        for one in (part for target in targets for part in ast.walk(target)):
            if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store):
                sets[one.id] = statement.lineno
    reads: dict[str, int] = {}
    of_base = {
        found.group(1): text.count('\n', 0, found.start()) + 1 for found in _TEMPLATE.finditer(text)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            reads.setdefault(node.id, node.lineno)
        elif isinstance(node, ast.Attribute) and getattr(node.value, 'id', None) == '_base_':
            of_base.setdefault(node.attr, node.lineno)
    sets.pop('_base_', None)
    bases = tuple(Config._get_cfg_path(name, path)[0] for name in Config._get_base_files(path))
    return _File(path, sets, reads, of_base, bases)


def check_method(path: str, options: Mapping[str, Any] | None = None) -> None:
    """Refuse a ``method`` that the model is not built of, because a base has built it before.

    ``method`` is what files of ``_base_/methods`` describe, and ``model`` is built of it where a
    config joins it with a segmentor. From there on only ``model`` counts.

    Args:
        path: A config file; its bases are looked at too.
        options: ``--cfg-options``.

    Raises:
        ValueError: Names the key of ``method``, both values, and the key to set.
    """
    for key in options or {}:
        if key.split('.')[0] == 'method':
            raise ValueError(
                f'--cfg-options {key} has no effect, because the config has built its model: set '
                f'{key.replace("method", "model", 1)}'
            )
    files = {file.path: file for file in _chain(path)}
    for file in files.values():
        if 'method' not in file.sets and 'method' not in file.of_base:
            continue
        if _may_set('model', file.path, files):
            config = Config.fromfile(file.path)
            for base in file.bases:
                if _may_set('method', base, files):
                    _check_built(file.path, config, Config.fromfile(base).get('method'))


def _may_set(name: str, path: str, files: Mapping[str, _File]) -> bool:
    """Whether a file or one of its bases sets a variable; those that were not read may."""
    file = files.get(path)
    return file is None or name in file.sets or any(_may_set(name, b, files) for b in file.bases)


def _check_built(path: str, config: Config, before: Any) -> None:
    """Refuse what a file changes in ``method``, given that of its base, and not in ``model``."""
    model, method = config.get('model'), config.get('method')
    if not all(isinstance(one, Mapping) for one in (model, method, before)):
        return
    for key, value in _changes(method, before):
        built: Any = model
        for part in key:
            built = built.get(part) if isinstance(built, Mapping) else None
        if built != value:
            name = '.'.join(key)
            raise ValueError(
                f'{path}: method.{name}={value!r} has no effect, because the model has been built '
                f'with {built!r}: set model.{name} instead'
            )


def _changes(
    new: Mapping[str, Any], old: Mapping[str, Any], key: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Path and value of what is in ``new`` and not the same in ``old``."""
    for name, value in new.items():
        before = old.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            yield from _changes(value, before, (*key, name))
        elif value != before:
            yield (*key, name), value
