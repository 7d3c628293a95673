"""What a training says on the console before its first step, in a few lines.

mmengine logs its environment, the whole config, the order of the hooks and every parameter group,
700 lines and more. All of it goes to the log file as before; the console has what this package and
the user's own code log, warnings, and a summary.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional, Union

import cv2
import torch
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import MMLogger, print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from torch import nn

from mmseg_semi.datasets.dataset_tree import crop_size, leaf_datasets
from mmseg_semi.files import LABELS_ALONE
from mmseg_semi.models.backbones.first_layer import average_rgb_filters
from mmseg_semi.utils.config import data_places
from mmseg_semi.utils.progress import duration

#: Warnings of the libraries about themselves, which no user can do anything about.
_NOISE = (
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
    'The prefix is not set',
)
_LIBRARIES = ('mmengine', 'mmcv', 'mmseg', 'mmdet', 'logging')
_MOST_CLASSES = 12
#: A step's time is said when so much time and so many steps have passed after the first, and looked
#: at again after so many times as long; it was wrong if it differs by this share.
_SECONDS, _STEPS, _LATER, _WRONG = 10.0, 3, 6, 0.2
#: Of the crops of a step, from which on a CPU has too much to do.
_MANY_PIXELS = 1_000_000
#: Names of ``default_hooks`` that mmengine has by itself, and leaves out where they are None.
_MMENGINE_HOOKS = (
    'runtime_info',
    'timer',
    'sampler_seed',
    'logger',
    'param_scheduler',
    'checkpoint',
)
#: Visualizers whose logs are open, and what runs have made before they began.
_OPEN: list[Visualizer] = []
_WRITTEN: list[Path] = []
_PARTS = ('refiners', 'losses', 'heads')


def ignore_library_warnings() -> None:
    """Leave out what configs of mmseg and this package always warn of, and OpenCV's own lines."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    for text in (
        '``build_loss`` would be deprecated',
        'The draw is False',
        'For binary segmentation, we suggest',  # a sigmoid output, which SemiSegmentor refuses
    ):
        warnings.filterwarnings('ignore', message=text, category=UserWarning)


class QuietStart(logging.Filter):
    """Keeps what the OpenMMLab libraries log as information from the console, while it is on."""

    on = True

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the console has it."""
        if record.levelno >= logging.WARNING:
            return not any(text in record.getMessage() for text in _NOISE)
        return not self.on or not _of_a_library()


def _of_a_library() -> bool:
    """Whether the code that logs right now is a library's."""
    frame = sys._getframe(2)
    while frame is not None:
        name = str(frame.f_globals.get('__name__', ''))
        if name != 'logging' and not name.startswith('mmengine.logging'):
            return name.partition('.')[0] in _LIBRARIES
        frame = frame.f_back  # type: ignore[assignment]
    return False


class StartRunner(Runner):
    """mmengine's runner with a quiet start.

    Attributes:
        quiet: What it keeps from the console.
        begin: Called before the first step, or the first image of a test.
    """

    quiet: QuietStart
    begin: Callable[[], None] = staticmethod(lambda: None)

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Build the logger, whose console has a filter, before all that has something to say."""
        ignore_library_warnings()
        _WRITTEN.append(Path(self._log_dir))
        logger, self.quiet = super().build_logger(*args, **kwargs), QuietStart()
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(self.quiet)
        return logger

    def build_visualizer(self, *args: Any, **kwargs: Any) -> Visualizer:
        """Build the visualizer, and keep it for :func:`end_logs`."""
        built = super().build_visualizer(*args, **kwargs)
        _OPEN.append(built)
        return built

    def register_default_hooks(self, hooks: Optional[dict[str, Any]] = None) -> None:
        """Register ``default_hooks``, of which mmengine refuses None for names of others."""
        kept = {k: v for k, v in (hooks or {}).items() if v is not None or k in _MMENGINE_HOOKS}
        super().register_default_hooks(kept)

    def dump_config(self) -> None:
        """Leave it to :meth:`train`: the config beside a checkpoint is that of its training."""

    def build_model(self, model: Union[nn.Module, dict[str, Any]]) -> nn.Module:
        """Build the model, whose first layer may take weights of RGB images."""
        built = super().build_model(model)
        if hasattr(built, 'backbone'):  # a SemiSegmentor sees to it itself
            average_rgb_filters(built.backbone)
        return built

    def train(self) -> nn.Module:
        """Train, with a summary before the first step, when the config is written, too."""
        self.register_hook(StartHook(self.quiet, self._begin_training), priority='LOWEST')
        return super().train()

    def _begin_training(self) -> None:
        super().dump_config()
        self.begin()

    def test(self) -> dict[str, float]:
        """Test; the console has all that is logged from then on."""
        self.register_hook(StartHook(self.quiet, self.begin), priority='LOWEST')
        return super().test()


def end_logs() -> list[Path]:
    """End the writers of the runs of this process, such as TensorBoard's thread.

    Returns:
        The folders of logs and the configs that they have made.
    """
    while _OPEN:
        _OPEN.pop().close()
    return _WRITTEN


def best_of(runner: Any) -> tuple[Optional[str], float]:
    """The checkpoint of the best validation of a run and its score; None where it keeps none."""
    best = runner.message_hub.get_info('best_ckpt')
    return (str(best), runner.message_hub.get_info('best_score')) if best else (None, -math.inf)


def start_of(runner: Any) -> int:
    """The steps of a run that train on labels alone before its method begins."""
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return getattr(model, 'warmup_length', 0)


def start_is_best(runner: Any) -> bool:
    """Whether the best validation of a run with unlabeled images is one of its start."""
    found = re.search(r'_iter_(\d+)\.pth$', best_of(runner)[0] or '')
    return found is not None and int(found[1]) <= start_of(runner) < runner.max_iters


class StartHook(Hook):
    """Says what is trained, where it goes, and after some steps how long it will take.

    Args:
        quiet: Ends when training or testing begins.
        begin: Called then.
    """

    def __init__(self, quiet: QuietStart, begin: Callable[[], None] = lambda: None) -> None:
        self.quiet, self.begin = quiet, begin
        self._since: Optional[tuple[float, int]] = None
        self._wait, self._said = _SECONDS, 0.0
        self._stopped = 0.0

    def before_train(self, runner: Any) -> None:
        """Log the summary, and let everything on the console from now on."""
        for line in summary(runner):
            print_log(line, logger='current')
        alone = os.path.basename(os.path.normpath(runner.work_dir)) == LABELS_ALONE
        if start_of(runner) >= runner.max_iters and not alone:
            print_log(
                f'All {runner.max_iters} steps train on labels alone, because model.warmup_iters '
                f'is {start_of(runner)}: the method never begins. Train longer (iterations, or '
                'train_cfg.max_iters), or set a smaller model.warmup_iters',
                logger='current',
                level=logging.WARNING,
            )
        self.quiet.on = False
        self.begin()

    def before_val(self, runner: Any) -> None:
        """Note when the steps pause."""
        self._stopped = time.monotonic()

    def after_val(self, runner: Any) -> None:
        """Leave the pause out of the time of the steps."""
        if self._since is not None:
            self._since = self._since[0] + time.monotonic() - self._stopped, self._since[1]

    def after_train(self, runner: Any) -> None:
        """Log the best checkpoint, and whether it is that of a start on labels alone."""
        best, score = best_of(runner)
        if best is None:
            return
        print_log(f'Best on the validation images: {score:.2f}, {best}', logger='current')
        if start_is_best(runner):
            print_log(
                f'That is from the first {start_of(runner)} steps, which trained on labels alone: '
                'the unlabeled images have not helped so far. Look at '
                '"selected" in the log and at the pictures of mmseg-semi check; a smaller '
                'model.losses.*.loss_weight or Weighting (weighting_unimatch_*_custom.py) may help',
                logger='current',
                level=logging.WARNING,
            )

    def before_test(self, runner: Any) -> None:
        """Say what is tested, and let everything on the console."""
        self.quiet.on = False
        self.begin()
        print_log(f'Checkpoint: {runner._load_from}', logger='current')

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Log the time of a step, and again where it was wrong; the first step is slower."""
        now, done = time.monotonic(), runner.iter + 1
        if self._since is None:
            self._since = now, done
            return
        seconds, steps = now - self._since[0], done - self._since[1]
        left = runner.max_iters - done
        if seconds < self._wait or steps < _STEPS or left < 1:
            return
        step, self._wait = seconds / steps, _LATER * seconds
        if abs(step - self._said) > _WRONG * self._said:
            print_log(_time_line(step, left), logger='current')
            self._said = step


def _time_line(step: float, left: int) -> str:
    seconds = step * left
    ends = time.strftime('%Y-%m-%d %H:%M', time.localtime(time.time() + seconds))
    return (
        f'Time: {step:.2f} s a step, {duration(seconds)} for the {left} that are left, without '
        f'validation, until {ends}. Memory so far: {memory_text()}'
    )


def memory_text() -> str:
    """The most that the process has taken."""
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    text = f'{kib / 2**20:.1f} GiB'
    if not torch.cuda.is_available():
        return text
    return f'{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB of the GPU, {text} outside it'


def summary(runner: Any) -> Iterator[str]:
    """Lines about the model, the data, the schedule and the folder of a run.

    Args:
        runner: About to train.
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    yield from _model_lines(model)
    dataset = runner.train_dataloader.dataset
    labeled = getattr(dataset, 'labeled', dataset)
    classes = [str(name) for name in (getattr(labeled, 'metainfo', {}).get('classes') or ())]
    if classes:
        more = '' if len(classes) <= _MOST_CLASSES else ', ...'
        yield f'Classes: {len(classes)}: {", ".join(classes[:_MOST_CLASSES])}{more}'
    sizes = {size for leaf in leaf_datasets(labeled) if (size := crop_size(leaf))}
    if sizes:
        yield 'Crop: ' + ', '.join(f'{height} x {width}' for height, width in sorted(sizes))
        loader = runner.train_dataloader
        batch = loader.batch_size or getattr(loader.batch_sampler, 'batch_size', 1)
        if next(model.parameters()).device.type == 'cpu':
            yield from _much_for_a_cpu(batch * max(height * width for height, width in sizes))
    begin = f', from {runner.iter} on' if runner.iter else ''
    interval = getattr(runner.train_loop, 'val_interval', None)
    checks = f', validation every {interval}' if runner._val_loop and interval else ''
    yield f'Steps: {runner.max_iters}{begin}{checks}'
    yield _estimate(runner)
    yield f'Log: {os.path.join(runner.log_dir, f"{runner.timestamp}.log")}'
    yield f'Checkpoints: {_folder_of_checkpoints(runner)}'


def _much_for_a_cpu(pixels: int) -> Iterator[str]:
    if pixels > _MANY_PIXELS:
        yield (
            f'Warning: there is no GPU, and a step has {pixels / 1e6:.1f} million pixels, which '
            'takes seconds with a small network and minutes with a ResNet. Build on '
            'custom/laptop.py, or make crop_size and batch_size smaller (docs/choosing.md)'
        )


def _estimate(runner: Any) -> str:
    """What ``mmseg-semi check`` has measured for as many steps, or when it is going to be known."""
    name = os.path.splitext(os.path.basename(getattr(runner.cfg, 'filename', None) or ''))[0]
    folders = [runner.work_dir, os.path.join('work_dirs', name)]  # the latter is that of a check
    files = [Path(folder, 'check.json') for folder in folders]
    try:
        content = json.loads(next(file for file in files if file.is_file()).read_text())
        found = content['training']
        same = content['data'] == data_places(runner.cfg)
        step, memory = float(found['step_seconds']), str(found['memory'])
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        same = False
    if not same:
        return f'Time and memory: said {_SECONDS:.0f} s after the first step, when they are known'
    left = runner.max_iters - runner.iter
    return (
        f'Time and memory: about {duration(step * left)}, {memory}, as the last mmseg-semi check '
        f'has measured; again {_SECONDS:.0f} s after the first step'
    )


def _model_lines(model: nn.Module) -> Iterator[str]:
    network = getattr(model, 'segmentor', model)
    named = (getattr(network, name, None) for name in ('backbone', 'decode_head'))
    parts = [_kind(one) for one in named if one is not None]
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    of = f' of {" and ".join(parts)}' if parts else ''
    yield f'Network: {type(network).__name__}{of}, {trained / 1e6:.2f} M parameters are trained'
    if network is model:
        return
    words = [f'{_kind(model.teacher) if model.teacher is not None else "the student"} labels']
    for part in _PARTS:
        kinds = [f'{name} ({_kind(one)})' for name, one in getattr(model, part).items()]
        words += [f'{part} {", ".join(kinds)}'] if kinds else []
    words += [f'mixer {_kind(model.mixer)}'] if model.mixer is not None else []
    yield f'Method: {"; ".join(words)}'


def _kind(one: Any) -> str:
    return type(one).__name__


def _folder_of_checkpoints(runner: Any) -> str:
    folders = [hook.out_dir for hook in runner.hooks if isinstance(hook, CheckpointHook)]
    return str(folders[0]) if folders else 'none are saved'
