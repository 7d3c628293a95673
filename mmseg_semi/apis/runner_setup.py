"""What the command line tools do to a config before they build a runner."""

from __future__ import annotations

import gc
import importlib.util
import os
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size, is_main_process
from mmengine.hooks import LoggerHook
from mmengine.logging import print_log
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from mmseg_semi.detection.runs import check_detection_data
from mmseg_semi.engine.hooks import DataCheckHook, RunRecordHook
from mmseg_semi.errors import refusal
from mmseg_semi.files import check_paths
from mmseg_semi.utils.config import is_detector

_LOST = re.compile(r'gloo|NCCL|[Cc]onnection (closed|reset|was)|Broken pipe|Timed out')


def setup_distributed(cfg: Config, launcher: str) -> None:
    """Make distributed training work on machines without a GPU.

    mmengine's launcher expects CUDA. Without it, the gloo process group and a wrapper without
    device ids are set up here; mmengine keeps a group that exists. SyncBN, which torch has on
    accelerators only, becomes BN.
    """
    if launcher == 'pytorch' and 'RANK' not in os.environ:
        raise ValueError(
            '--launcher pytorch is for processes that torchrun starts: use tools/dist_train.sh or '
            'tools/dist_test.sh, or leave --launcher out'
        )
    if launcher == 'none' or torch.cuda.is_available():
        return
    if launcher != 'pytorch':
        raise ValueError(
            f"--launcher {launcher} needs GPUs; on a CPU use 'none' or 'pytorch' (dist_train.sh)"
        )
    if not dist.is_initialized():
        dist.init_process_group('gloo')
    if cfg.get('model_wrapper_cfg') is None:
        cfg.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
    cfg.env_cfg.dist_cfg = dict(backend='gloo')
    replaced = sum(_replace_sync_bn(part) for part in (cfg.model,))
    if replaced:
        print_log(f'SyncBN needs GPUs: {replaced} norm_cfg of the model use BN', logger='current')


def finish_distributed() -> None:
    """Leave the process group together; does nothing in a single process.

    A process that exits with gloo's threads running is aborted now and then, after all work is
    done. They end when the last owner of the group is gone, and the model's wrapper, which is one,
    lives in a reference cycle. Not for a run that failed: the other ranks would wait.
    """
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        gc.collect()
        dist.destroy_process_group()


@contextmanager
def explaining_lost_ranks() -> Iterator[None]:
    """Say in one sentence that another rank is gone, which says itself why.

    Raises:
        RuntimeError: In place of that of the process group.
    """
    try:
        yield
    except RuntimeError as error:
        if get_world_size() == 1 or not _LOST.search(str(error)):
            raise
        raise RuntimeError(
            f'rank {get_rank()} has lost another rank, which has ended: its own message says why; '
            'without one it was killed, for its memory perhaps; go on with --resume'
        ) from error


@contextmanager
def explaining_built(cfg: Config) -> Iterator[None]:
    """Name the config key of what a registry could not build.

    Raises:
        ValueError: In place of any error that a class raises when it is made of the config, but for
            those that name the key themselves.
    """
    try:
        yield
    except Exception as error:
        built = None if refusal(error) else _built_from(error)
        if built is None:
            raise
        keys = (key for key, node in _keyed_dicts(cfg) if _is_part(node, built))
        place = next((f'config key {key}: ' for key in keys), '')
        line = traceback.extract_tb(error.__traceback__)[-1].line  # an assertion may say nothing
        reason = ' '.join(str(error).split()) or f'{type(error).__name__}: {line}'
        raise ValueError(
            f'{place}{built["type"]} cannot be built: {reason}. Correct it; --traceback shows '
            'where it was refused.'
        ) from error


def _built_from(error: BaseException) -> Mapping[str, Any] | None:
    """The innermost config that was being built where an error was raised."""
    found, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_name == 'build_from_cfg':
            config = trace.tb_frame.f_locals.get('cfg')
            found = config if isinstance(config, Mapping) and 'type' in config else found
        trace = trace.tb_next
    return found


def _is_part(node: Mapping[str, Any], built: Mapping[str, Any]) -> bool:
    """Whether a config is the one that is being built, which others may have added to."""
    return 'type' in node and all(k in built and built[k] == v for k, v in node.items())


def _keyed_dicts(node: Any, key: str = '') -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(node, (Mapping, Config)):
        if key:
            yield key, node
        for name, value in node.items():
            yield from _keyed_dicts(value, f'{key}.{name}' if key else name)
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _keyed_dicts(value, f'{key}[{i}]')


def write_metrics_once(runner: Runner) -> None:
    """Let only the main process write the metrics of a test.

    mmengine's hook writes them on every rank, into one file: two ranks at a time can leave the end
    of a longer text behind a shorter one.
    """
    for hook in runner.hooks:
        if isinstance(hook, LoggerHook) and not is_main_process():
            hook.after_test_epoch = lambda *args, **kwargs: None


def _dicts(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _dicts(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _dicts(value)


def _replace_sync_bn(node: Any) -> int:
    found = [entry for entry in _dicts(node) if entry.get('type') == 'SyncBN']
    for entry in found:
        entry['type'] = 'BN'
    return len(found)


def enable_amp(cfg: Config) -> None:
    """Turn on mixed precision: float16 with loss scaling on a GPU, bfloat16 on a CPU.

    Raises:
        ValueError: The config uses an optimizer wrapper that cannot be replaced; a detector on a
            CPU.
    """
    wrapper = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if wrapper.split('.')[-1] in ('AmpOptimWrapper', 'CPUAmpOptimWrapper'):
        return
    if wrapper != 'OptimWrapper':
        raise ValueError(
            f"--amp replaces optim_wrapper.type='OptimWrapper', but the config has {wrapper!r}: "
            'remove optim_wrapper.type, or leave --amp out'
        )
    if torch.cuda.is_available():
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    elif is_detector(cfg):
        raise ValueError(
            "--amp of a detector needs a GPU: on a CPU mmcv's NMS and RoIAlign do not take "
            'bfloat16. Leave --amp out.'
        )
    else:
        cfg.optim_wrapper.type = 'CPUAmpOptimWrapper'


def enable_auto_scale_lr(cfg: Config) -> None:
    """Turn on the scaling of the learning rate with the batch size.

    With accumulated gradients the batch is that of all iterations of an update, while mmengine
    counts the images of one.

    Raises:
        ValueError: The config does not say for which batch size its learning rate is.
    """
    auto = cfg.get('auto_scale_lr')
    if not auto or 'base_batch_size' not in auto:
        raise ValueError(
            '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=N) in the config: the '
            'number of images per iteration, over all GPUs, that the learning rate is for'
        )
    cfg.auto_scale_lr.enable = True
    steps = cfg.optim_wrapper.get('accumulative_counts', 1)
    if steps > 1:
        base = cfg.auto_scale_lr.base_batch_size
        print_log(
            f'--auto-scale-lr: the learning rate is for {base} images an update, which are '
            f'{base / steps:g} an iteration with accumulative_counts={steps}'
        )
        cfg.auto_scale_lr.base_batch_size = base / steps


def enable_tensorboard(cfg: Config) -> None:
    """Log to TensorBoard as well when it is installed and the config does not already."""
    if importlib.util.find_spec('tensorboard') is None or 'visualizer' not in cfg:
        return
    backends = list(cfg.visualizer.get('vis_backends') or [])
    if not any(backend['type'] == 'TensorboardVisBackend' for backend in backends):
        cfg.visualizer.vis_backends = [*backends, dict(type='TensorboardVisBackend')]


def checkpoint_folder(cfg: Config) -> str:
    """Where ``CheckpointHook`` writes: the folder of the run, or one of its name in ``out_dir``."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if hook.get('out_dir') in (None, cfg.work_dir):
        return str(cfg.work_dir)
    return os.path.join(hook['out_dir'], os.path.basename(cfg.work_dir.rstrip(os.sep)))


def set_work_dir(cfg: Config, work_dir: str | None, config_file: str) -> None:
    """Choose the folder of the run: argument, config, or ``work_dirs/<config name>``."""
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        name = os.path.splitext(os.path.basename(config_file))[0]
        cfg.work_dir = os.path.join('work_dirs', name)


def add_checks(cfg: Config) -> None:
    """Add ``DataCheckHook`` and ``RunRecordHook`` to a segmentor's config that lists none.

    A child config that sets ``custom_hooks`` replaces the list of its base, and mmseg's own configs
    have neither.
    """
    if is_detector(cfg):
        return
    listed = list(cfg.get('custom_hooks') or [])
    hooks = [hook for hook in [*listed, *(cfg.get('default_hooks') or {}).values()] if hook]
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmseg')):
        kinds = [HOOKS.get(kind) if isinstance(kind, str) else kind for kind in map(_type, hooks)]
    missing = [
        dict(type=f'mmseg.{check.__name__}')
        for check in (DataCheckHook, RunRecordHook)
        if not any(isinstance(kind, type) and issubclass(kind, check) for kind in kinds)
    ]
    if missing:
        cfg.custom_hooks = [*missing, *listed]


def _type(hook: Any) -> Any:
    return hook.get('type') if isinstance(hook, Mapping) else type(hook)


def check_data_paths(cfg: Config, parts: tuple[str, ...]) -> None:
    """Refuse missing folders, split files and annotation files.

    Args:
        cfg: The config.
        parts: ``'val'`` and ``'test'``, whichever is going to be read; ``'train'`` for a detector,
            since a segmentor's training data are checked when they are built.

    Raises:
        FileNotFoundError, ValueError: See ``check_paths``, and ``check_detection_data`` for a
            detector.
    """
    if is_detector(cfg):
        check_detection_data(cfg, parts)
        return
    for part in parts:
        dataset = (cfg.get(f'{part}_dataloader') or {}).get('dataset')
        if isinstance(dataset, Mapping):
            check_paths(dataset, f'{part}_dataloader.dataset')
