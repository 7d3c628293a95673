"""What differs between a run and the config that it is resumed with.

mmengine goes on whatever differs: of a model it loads what has the same name and shape, and the
optimizer and the schedule are those of the checkpoint, whatever the config says.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from torch import nn

from mmseg_semi.errors import name_some
from mmseg_semi.utils.safe_checkpoints import CheckpointError
from mmseg_semi.utils.weight_checks import state_of, wrong_shapes

SETTINGS_KEY = 'mmseg_semi_settings'
STATISTICS = '.statistics'  # end of the keys of a file of channel statistics
_PARTS = ('model', 'train_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg')
# Where the data lie and how fast they are read; batches and splits are compared by their numbers.
_WITHOUT_EFFECT = {
    *('num_workers', 'persistent_workers', 'prefetch_factor', 'pin_memory', 'timeout', 'cache'),
    'compiled',
    *('data_root', 'ann_file', 'img_path', 'seg_map_path', 'pretrained', 'checkpoint'),
    *('batch_size', 'accumulative_counts', 'val_interval', 'val_begin', 'dynamic_intervals'),
}
# Loaded from the checkpoint over what the config says.
_OF_THE_CHECKPOINT = ('optim_wrapper.optimizer.', 'optim_wrapper.paramwise_cfg', 'param_scheduler')


def settings_of(cfg: Mapping[str, Any]) -> dict[str, str]:
    """The values of a config that training depends on, as texts by key.

    A file of channel statistics is told by its digest, wherever it lies.
    """
    pairs = (pair for part in _PARTS for pair in _flat(cfg.get(part), part))
    return {key: value for key, value in pairs if not _without_effect(key)}


def _without_effect(key: str) -> bool:
    *nodes, last = key.split('.')
    return last in _WITHOUT_EFFECT or 'init_cfg' in (*nodes, last)  # the checkpoint has all weights


def _flat(node: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _flat(value, f'{key}.{name}')
    elif isinstance(node, (list, tuple)) and any(isinstance(one, Mapping) for one in node):
        for i, value in enumerate(node):
            yield from _flat(value, f'{key}[{i}]')
    elif key.endswith(STATISTICS) and isinstance(node, str):
        yield key, _digest(node)
    else:
        yield key, repr(list(node) if isinstance(node, tuple) else node)


def _digest(path: str) -> str:
    if not os.path.isfile(path):
        return 'None'
    return f'file {hashlib.blake2b(Path(path).read_bytes()).hexdigest()[:12]}'


def refuse_other_statistics(cfg: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> None:
    """Refuse to test a network with other means of the channels than it was trained with.

    Raises:
        CheckpointError: The file of the statistics is another one than in the training.
    """
    meta = checkpoint.get('meta')
    old = meta.get(SETTINGS_KEY) if isinstance(meta, Mapping) else None
    if not isinstance(old, Mapping):
        return
    end = f'data_preprocessor{STATISTICS}'
    trained, now = (
        next((value for key, value in settings.items() if key.endswith(end)), None)
        for settings in (old, settings_of(cfg))  # a model for augmented tests holds the other
    )
    if None not in (trained, now) and trained != now:
        raise CheckpointError(
            f'model.{end}: the checkpoint was trained with other means and deviations of the '
            f'channels ({trained}, now {now}): put the file of the training back'
        )


def check_resumed(runner: Any, checkpoint: Mapping[str, Any]) -> None:
    """Compare a checkpoint that a run is resumed from with the config.

    Another schedule, other values of the optimizer and other settings are warnings that say what
    differs and which value counts.

    Raises:
        CheckpointError: The checkpoint is of another model, or of another kind of optimizer or
            schedule, so that the run can not go on.
    """
    model = getattr(runner.model, 'module', runner.model)
    _refuse_other_model(model, checkpoint)
    changed = changed_settings(checkpoint, runner.cfg)
    _refuse_other_kinds(changed)
    fixed = [text for key, text in changed.items() if key.startswith(_OF_THE_CHECKPOINT)]
    if fixed:
        _warn(
            f'the run to be resumed had {name_some(fixed)}; it goes on with what it had, since '
            'optimizer and schedule are those of the checkpoint. Start a new run with load_from '
            'to train with other values.'
        )
    rest = [text for key, text in changed.items() if not key.startswith(_OF_THE_CHECKPOINT)]
    if rest:
        _warn(
            f'the run to be resumed had {name_some(rest)}; it goes on with what the config says '
            'now, and its results will be those of neither.'
        )
    _warn_of_schedule(runner, checkpoint)


def changed_settings(checkpoint: Mapping[str, Any], cfg: Mapping[str, Any]) -> dict[str, str]:
    """What a checkpoint was trained with and a config has otherwise, in words by key."""
    old = checkpoint.get('meta', {}).get(SETTINGS_KEY)
    return _changes(old, settings_of(cfg)) if isinstance(old, Mapping) else {}


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    keys = [*old, *(key for key in new if key not in old)]
    return {
        key: f'{key}={old.get(key, "nothing")} (now {new.get(key, "nothing")})'
        for key in keys
        if old.get(key, 'None') != new.get(key, 'None')
    }


def _refuse_other_model(model: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    state, own = state_of(checkpoint), model.state_dict()
    # Banks and tables of components grow with the data.
    sized = dict(model.named_parameters())
    sized.update({name: value for name, value in own.items() if name.startswith('teacher.')})
    problems = [f'{name} is in the model alone' for name in own if name not in state]
    problems += [f'{name} is in the checkpoint alone' for name in state if name not in own]
    problems += wrong_shapes(state, sized)
    if problems:
        raise CheckpointError(
            f'--resume: the checkpoint is of another model than the config builds, {len(problems)} '
            f'tensors differ: {name_some(problems, 3)}. Put model back as it was, or start a new '
            'run from its weights with load_from.'
        )


def _refuse_other_kinds(changed: Mapping[str, str]) -> None:
    """Their states do not fit each other, and nothing of torch or mmengine says so."""
    kinds = [
        text
        for key, text in changed.items()
        if key == 'optim_wrapper.optimizer.type'
        or (key.startswith('param_scheduler') and key.endswith('.type'))
    ]
    if kinds:
        raise CheckpointError(
            f'--resume: the run to be resumed had {name_some(kinds)}, whose state does not fit. '
            'Put it back, or start a new run from its weights with load_from.'
        )


def _warn_of_schedule(runner: Any, checkpoint: Mapping[str, Any]) -> None:
    """A schedule that the config would stretch ends where the checkpoint's does."""
    last, iteration = runner.max_iters, checkpoint['meta']['iter']
    if iteration >= last:
        _warn(
            f'the run to be resumed has had {iteration} iterations and the config wants {last}: '
            'there is nothing to train'
        )
        return
    saved, configured = checkpoint.get('param_schedulers'), runner.cfg.get('param_scheduler')
    if not isinstance(configured, (list, tuple)) or not isinstance(saved, (list, tuple)):
        return
    if not saved or not configured or 'end' in configured[-1]:  # the config says where it ends
        return
    end = saved[-1].get('end', math.inf)  # the warm-up before may be longer than the run
    if end < last:
        rate = saved[-1].get('eta_min')
        stays = 'what it is there' if rate is None else f'{rate:g}'
        _warn(
            f'the schedule of the checkpoint ends at iteration {end} and training now at {last}: '
            f'from iteration {end} on the learning rate stays {stays}. Set train_cfg as it was, '
            'or start a new run from its weights with load_from.'
        )


def _warn(text: str) -> None:
    print_log(text, logger='current', level=logging.WARNING)
