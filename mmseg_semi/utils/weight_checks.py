"""Do weights from a file fit the network? Of those that do not, mmengine only warns.

A network that is random in part gives wrong results without an error: a backbone whose stem has
another width, a checkpoint of another config.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModule
from mmengine.registry import DefaultScope
from mmengine.runner import CheckpointLoader
from mmseg.models.backbones import MixVisionTransformer, SwinTransformer
from mmseg.registry import MODELS
from torch import nn
from torch.overrides import TorchFunctionMode

from mmseg_semi.errors import name_some
from mmseg_semi.files import check_there
from mmseg_semi.models.backbones import CLIPVisionTransformer, DINOv2
from mmseg_semi.models.backbones.first_layer import fits_averaged
from mmseg_semi.models.backbones.package_files import SCHEME, package_file
from mmseg_semi.utils.safe_checkpoints import read_checkpoint

COUNTER = 'num_batches_tracked'
_FILLING = (torch.Tensor.normal_, torch.Tensor.uniform_)
# Before the names of a backbone in the weights of a whole network.
_WHOLE = 'backbone.'
# They have an ``init_weights`` of their own, which makes positions fit and nothing else.
_KNOWN_INIT = (MixVisionTransformer, SwinTransformer)
# They load what a file has, under its names, and start as their papers say without one.
_EXACT = (CLIPVisionTransformer, DINOv2)
# What a file may lack: no map depends on it, or it has weights of its own.
_MAY_LACK = ('mask_token', 'detail.')
STEM_HINT = (
    ' Weights of the UniMatch family have a wider stem: set model.segmentor.backbone.stem_channels='
    '128 (model.backbone.stem_channels for a plain segmentor).'
)
NO_NAME = 'none of the weights has a name of the backbone'
CONVERT_HINT = ' Files of Hugging Face are converted by tools/model_converters/semi2mmseg.py.'


def wrong_shapes(
    state: Mapping[str, Any], wanted: Mapping[str, Any], averaged: bool = False
) -> list[str]:
    """Tensors of a file that have another shape than the network's, described.

    Args:
        state: Tensors of the file.
        wanted: Tensors of the network.
        averaged: Whether filters of RGB images fit any number of channels, as they do where a
            training begins (``average_rgb_filters``).
    """
    return [
        f'{name} is {tuple(state[name].shape)}, the network has {tuple(value.shape)}'
        for name, value in wanted.items()
        if isinstance(state.get(name), torch.Tensor)
        and state[name].shape != value.shape
        and not (averaged and fits_averaged(state[name], value))
    ]


def state_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a checkpoint, without ``module.`` before their names."""
    state = checkpoint.get('state_dict', checkpoint)
    return {name.removeprefix('module.'): value for name, value in state.items()}


def check_checkpoint(model: nn.Module, checkpoint: Mapping[str, Any], training: bool) -> None:
    """Refuse a checkpoint that a network would be loaded from in part.

    In training, where another number of classes is a usual thing to begin with, only the backbone
    must be there and fit. In a test everything that predicts must be there and fit.

    Args:
        model: A ``SemiSegmentor`` or a plain segmentor.
        checkpoint: What was read from the file; for a ``SemiSegmentor`` that of the plain
            segmentor too.
        training: Whether it is going to be trained.

    Raises:
        ValueError: Names some of the tensors.
    """
    state, own = state_of(checkpoint), model.state_dict()
    inner = 'segmentor.' if hasattr(model, 'segmentor') else ''
    if inner and not any(name.startswith(inner) for name in state):
        state = {inner + name: value for name, value in state.items()}
    wrong = wrong_shapes(state, own, averaged=training)
    needed = [name for name in own if name.startswith(inner) and not name.endswith(COUNTER)]
    if training:
        wrong = [text for text in wrong if text.startswith(f'{inner}backbone.')]
        needed = [name for name in needed if name.startswith(f'{inner}backbone.')]
    else:
        # What does not predict need not fit: AEL's bank has the number of images of its run.
        networks = (inner, 'teacher.') if inner else ('',)
        wrong = [text for text in wrong if text.startswith(networks)]
        own_parts = ('auxiliary_head.', 'data_preprocessor.')
        needed = [name for name in needed if not name[len(inner) :].startswith(own_parts)]
    wrong += [f'{name} is missing' for name in needed if name not in state]
    if wrong:
        hint = STEM_HINT if any('backbone.stem.' in text for text in wrong) else ''
        raise ValueError(
            f'the checkpoint does not fit the network that the config builds, {len(wrong)} tensors '
            f'of {len(own)}: {name_some(wrong, 3)}. Give the config that it was trained with, or '
            f'another checkpoint.{hint}'
        )


def trained_classes(checkpoint: Mapping[str, Any]) -> list[str] | None:
    """Names of the classes that a checkpoint was trained for, in order; None if it has none."""
    meta = checkpoint.get('meta')
    if not isinstance(meta, Mapping):
        return None
    meta = meta.get('dataset_meta') or meta
    names = meta.get('classes', meta.get('CLASSES'))
    return None if names is None else [str(name) for name in names]


def other_class(first: Sequence[str], second: Sequence[str]) -> str | None:
    """The first difference of two lists of classes, as text; None where they are the same.

    Upper and lower case are not told apart.
    """
    for number, names in enumerate(itertools.zip_longest(first, second)):
        if None in names or str(names[0]).casefold() != str(names[1]).casefold():
            old, new = ('missing' if name is None else repr(name) for name in names)
            return f'class {number} is {old} in the first and {new} in the second'
    return None


def check_pretrained(cfg: Config) -> None:
    """Refuse a backbone's weights that cannot be had or do not fit.

    Weights of a whole network are those of its backbone: ``init_cfg`` gets the prefix.

    Args:
        cfg: The config; ``pretrained`` and ``backbone.init_cfg`` are looked at, and what they
            address is downloaded.

    Raises:
        FileNotFoundError, ValueError: Name the config key and the file.
    """
    for key, path, init, backbone in _pretrained_files(cfg.model):
        said = getattr(path, 'said', f'{key}={path!r}')
        key = getattr(path, 'said', key)
        file = str(package_file(path, key)) if path.startswith(SCHEME) else os.path.expanduser(path)
        if '://' in file:
            remedy = 'set the key to a local file, or to None to start from scratch'
            state = state_of(fetch(said, file, remedy))
        else:
            remedy = 'Correct it, or set it to None to start from scratch.'
            check_there(file, f'{remedy}{getattr(path, "hint", "")}', key)
            state = state_of(read_checkpoint(file, f'{key}:'))
        network = build_shapes(backbone, cfg.get('default_scope', 'mmseg'))
        wrong = _misfits(network, state, init)
        if wrong:
            hint = _hint(wrong, network)
            raise ValueError(
                f'{key}: {file} does not fit the backbone {backbone["type"]}: '
                f'{name_some(wrong, 3)}. Correct the backbone or give other weights.{hint}'
            )


def _hint(wrong: Sequence[str], network: nn.Module) -> str:
    if any(text.startswith('stem.') for text in wrong):
        return STEM_HINT
    if any(text.startswith('register_tokens ') for text in wrong):
        return ' Weights with registers have 4 of them: set backbone.registers to 4, others to 0.'
    if wrong == [NO_NAME] and isinstance(network, _EXACT):
        return CONVERT_HINT
    return ''


def _misfits(
    network: nn.Module, state: Mapping[str, Any], init: MutableMapping[str, Any]
) -> list[str]:
    """What of the weights does not fit a backbone; ``init`` gets the prefix of a whole network."""
    exact = isinstance(network, _EXACT)
    plain = exact or getattr(type(network), 'init_weights', None) is BaseModule.init_weights
    if not plain and not isinstance(network, _KNOWN_INIT):
        return []  # it has ways of its own to make weights fit
    wanted, start = network.state_dict(), init.get('prefix') or ''
    whole = any(name.startswith(_WHOLE) and name[len(_WHOLE) :] in wanted for name in state)
    if init and not start and whole:
        start = init['prefix'] = _WHOLE
    start = f'{start}.' if start and not start.endswith('.') else start
    state = {name[len(start) :]: value for name, value in state.items() if name.startswith(start)}
    if not set(state) & set(wanted):
        return [NO_NAME]
    wrong = wrong_shapes(state, wanted, averaged=True)
    if exact:
        needed = (name for name in wanted if not name.startswith(_MAY_LACK))
        wrong += [f'{name} is missing' for name in needed if name not in state]
        alone = (name for name in state if name not in wanted and '.' not in name)
        wrong += [f'{name} is in the file alone' for name in alone]
    return [text for text in wrong if plain or 'pos' not in text.split()[0]]


def fetch(said: str, address: str, remedy: str) -> dict[str, Any]:
    """Read weights from an address, or the copy of it from before.

    Args:
        said: Config key and value, for the message.
        address: Of any kind that mmengine knows.
        remedy: What else can be done.

    Raises:
        FileNotFoundError: They cannot be had.
    """
    try:
        return dict(CheckpointLoader.load_checkpoint(address, map_location='cpu'))
    except Exception as error:  # of the network, of the address, of a package that it needs
        reason = f'no model has the name {error}' if isinstance(error, KeyError) else error
        raise FileNotFoundError(f'{said}: {str(reason).rstrip(".")}; or {remedy}.') from error


def without_downloads(node: Any) -> Any:
    """A copy of a model's config without the weights that it would download."""
    if isinstance(node, Mapping):
        kept = {key: without_downloads(value) for key, value in node.items() if key != 'pretrained'}
        init = kept.get('init_cfg')
        if isinstance(init, Mapping) and init.get('type') == 'Pretrained':
            kept['init_cfg'] = None
        return ConfigDict(kept)
    if isinstance(node, (list, tuple)):
        return type(node)(without_downloads(one) for one in node)
    return node


def _pretrained_files(
    model: Mapping[str, Any],
) -> Iterator[tuple[str, str, MutableMapping[str, Any], dict[str, Any]]]:
    """Key, address, ``init_cfg`` and the backbone without it, of all that is named."""
    prefix, inner = 'model', model
    if 'segmentor' in model:
        prefix, inner = 'model.segmentor', model['segmentor']
    backbone = inner.get('backbone')
    if not isinstance(backbone, Mapping):
        return
    if isinstance(inner.get('pretrained'), str):
        yield f'{prefix}.pretrained', inner['pretrained'], {}, _without_init(backbone)
    named = {f'{prefix}.backbone': backbone}
    for name, part in backbone.items():  # a backbone inside of it
        if name != 'init_cfg' and isinstance(part, Mapping) and 'type' in part:
            named[f'{prefix}.backbone.{name}'] = part
    for key, one in named.items():
        init = one.get('init_cfg')
        if not isinstance(init, MutableMapping) or init.get('type') != 'Pretrained':
            continue
        if isinstance(init.get('checkpoint'), str):
            yield f'{key}.init_cfg.checkpoint', init['checkpoint'], init, _without_init(one)


def _without_init(backbone: Mapping[str, Any]) -> dict[str, Any]:
    return {**copy.deepcopy(dict(backbone)), 'init_cfg': None}


class _NoNumbers(TorchFunctionMode):
    """Leaves out what fills tensors, which takes most of the time of building without numbers."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FILLING or getattr(func, '__module__', '') == 'torch.nn.init':
            return args[0] if args else kwargs['tensor']
        return func(*args, **kwargs)


@contextlib.contextmanager
def shapes_alone() -> Iterator[None]:
    """Let tensors that are made in this context have a shape and neither numbers nor memory."""
    with torch.device('meta'), _NoNumbers():
        yield


def build_shapes(cfg: Mapping[str, Any], scope: str = 'mmseg') -> nn.Module:
    """Build a part of a model for its shapes, without memory where that can be."""
    with DefaultScope.overwrite_default_scope(scope):
        try:
            with shapes_alone():
                return MODELS.build(copy.deepcopy(cfg))
        except RuntimeError as error:
            if 'meta tensors' not in str(error):
                raise
        with _NoNumbers():
            return MODELS.build(copy.deepcopy(cfg))
