"""A few real training steps of a config: their time, their memory, and what the network gets.

Nothing is left behind: the folder of the run is a temporary one, no checkpoint is written, and
weights that would be downloaded are left out.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from mmseg_semi.apis.guard import check_guard, is_guarded
from mmseg_semi.apis.start import memory_text
from mmseg_semi.models.segmentors.network import decode_heads
from mmseg_semi.structures import SemiStep, View
from mmseg_semi.utils.drawing import Tile, as_rgb, overlay
from mmseg_semi.utils.progress import duration
from mmseg_semi.utils.weight_checks import without_downloads

#: Steps that are made, and seconds after which no further one begins.
STEPS, SECONDS = 3, 20.0
_SHOWN = 2  # images of each kind
_LEFT_OUT = ('checkpoint', 'logger', 'timer')


@dataclass
class FirstSteps:
    """What some steps have shown.

    Attributes:
        seconds: Of a step.
        iterations: Of the whole training.
        start: Of these, on labels alone, which take less; the steps that were made are others.
        guarded: Whether the labels alone are trained as well, see the guard.
        memory: The most that was taken, in words.
        rows: Images of the first batch, as the network gets them.
    """

    seconds: float = 0.0
    iterations: int = 0
    start: int = 0
    guarded: bool = False
    memory: str = ''
    rows: list[list[Tile]] = field(default_factory=list)

    def text(self) -> str:
        """A line about the whole training."""
        faster = f' ({self.start} of them on labels alone take less)' if self.start else ''
        if 0 < self.iterations <= self.start:
            faster = f', all on labels alone (model.warmup_iters is {self.start})'
        guard = ' and without the labels alone, which the guard trains too' if self.guarded else ''
        return (
            f'training: {"at most" if self.start else "about"} '
            f'{duration(self.seconds * self.iterations)} for {self.iterations} steps of '
            f'{self.seconds:.2f} s{faster}, without validation{guard}; {self.memory} of memory'
        )

    def as_json(self) -> dict[str, Any]:
        """The numbers for a file."""
        return dict(
            step_seconds=round(self.seconds, 4),
            steps=self.iterations,
            hours=round(self.seconds * self.iterations / 3600, 3),
            memory=self.memory,
        )


class _EnoughSteps(Exception):
    """Ends a training."""


class _Clock(Hook):
    """Measures the first steps, keeps their first batch, and ends the training.

    Args:
        workers: Data workers of the training, which load while the network computes.
        table: Colors of the labels, uint8 (256, 3).
    """

    def __init__(self, workers: int, table: np.ndarray) -> None:
        self.workers, self.table = workers, table
        self.found, self._steps = FirstSteps(), list[float]()
        self._start = self._done = self._loaded = time.monotonic()

    def before_train(self, runner: Any) -> None:
        """Look at the steps of a semi-supervised model."""
        self._start = self._done = time.monotonic()
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if hasattr(model, 'add_observer'):
            model.add_observer(lambda step: self._observe(model, step), self._is_first)

    def _is_first(self) -> bool:
        return not self.found.rows

    def _observe(self, model: Any, step: SemiStep) -> None:
        self.found.rows = semi_rows(step, model.data_preprocessor, self.table)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Note when the batch was there."""
        self._loaded = time.monotonic()
        if self._is_first() and not hasattr(runner.model, 'add_observer'):
            self.found.rows = plain_rows(data_batch, self.table)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Note the time of a step; the first one takes longer and counts only when it is alone."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.monotonic()
        load, step = self._loaded - self._done, now - self._loaded
        self._steps.append(max(step, load / self.workers) if self.workers else step + load)
        self._done = now
        self.found.seconds = statistics.median(self._steps[1:] or self._steps)
        self.found.iterations, self.found.memory = runner.max_iters, memory_text()
        if len(self._steps) >= STEPS or now - self._start > SECONDS:
            raise _EnoughSteps


def first_steps(cfg: Config, table: np.ndarray) -> FirstSteps:
    """Make some training steps.

    Args:
        cfg: The config; it is left as it is.
        table: Colors of the labels, uint8 (256, 3).

    Raises:
        Exception: Whatever a training raises.
    """
    cfg, loader = copy.deepcopy(cfg), cfg.train_dataloader
    clock = _Clock(int(loader.get('num_workers') or 0), table)
    cfg.model = without_downloads(cfg.model)
    clock.found.start = cfg.model.get('warmup_iters') or 0
    check_guard(cfg)
    clock.found.guarded = is_guarded(cfg)
    if clock.found.start or cfg.model.get('warmup_epochs'):
        cfg.model.update(warmup_iters=0, warmup_epochs=0)
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    for name in ('prefetch_factor', 'timeout'):
        cfg.train_dataloader.pop(name, None)
    for part in ('val', 'test'):
        for what in ('dataloader', 'evaluator', 'cfg'):
            cfg[f'{part}_{what}'] = None
    cfg.update(load_from=None, resume=False, log_level='ERROR', launcher='none', custom_hooks=[])
    cfg.default_hooks = dict.fromkeys(_LEFT_OUT)
    cfg.experiment_name = name = f'first_steps_{time.monotonic_ns()}'
    cfg.visualizer = dict(type='SegLocalVisualizer', vis_backends=[], name=name)
    seed = (cfg.get('randomness') or {}).get('seed')
    cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': 0 if seed is None else seed}
    with tempfile.TemporaryDirectory(prefix='first_steps_') as folder:
        cfg.work_dir = folder
        runner = Runner.from_cfg(cfg)
        runner.register_hook(clock, priority='LOWEST')
        try:
            runner.train()
        except _EnoughSteps:
            pass
        finally:
            for handler in list(runner.logger.handlers):  # mmengine goes on writing to this logger
                runner.logger.removeHandler(handler)
                handler.close()
    return clock.found


def output_stride(model: Any, side: int = 128) -> float | None:
    """Pixels of an image to one of the logits that a segmentor gives; None where it cannot tell.

    Args:
        model: The segmentor, or a ``SemiSegmentor`` around one.
        side: Height and width of the image that is tried.
    """
    network = getattr(model, 'segmentor', model)
    training, logits = network.training, None
    try:
        layers = (one for one in network.backbone.modules() if isinstance(one, nn.Conv2d))
        channels = next(layers).in_channels
        with torch.no_grad():
            network.eval()
            maps = network.extract_feat(torch.zeros(1, channels, side, side))
            for head in decode_heads(network):
                logits = head.forward(maps) if logits is None else head.forward(maps, logits)
    except Exception:  # a network with wishes of its own: nothing is said of objects then
        return None
    finally:
        network.train(training)
    return side / logits.shape[-1] if isinstance(logits, Tensor) else None


def semi_rows(step: SemiStep, preprocessor: Any, table: np.ndarray) -> list[list[Tile]]:
    """Pictures of a finished step: labeled images, views of unlabeled ones, and mixed pairs.

    Args:
        step: The step.
        preprocessor: Normalized its images.
        table: Colors of the labels, uint8 (256, 3).
    """

    def show(images: Tensor, i: int) -> np.ndarray:
        return _restored(images[i], preprocessor)

    rows = []
    truth = step.labeled_truth.cpu().numpy().astype(np.uint8)
    for i in range(min(_SHOWN, len(truth))):
        image = show(step.labeled_images, i)
        label = Tile('its label', overlay(image, truth[i], table))
        rows.append([Tile('labeled image', image), label])
    for i in range(min(_SHOWN, len(step.weak_images))):
        views = [
            Tile(f'strong view {n}', show(view, i)) for n, view in enumerate(step.strong_images, 1)
        ]
        rows.append([Tile('unlabeled image, weak', show(step.weak_images, i)), *views])
    for view in step.streams.get('strong', []):
        for i in range(min(_SHOWN, len(step.weak_images))):
            rows += _mixed_row(step, view, i, show, table)
    return rows


def _mixed_row(
    step: SemiStep, view: View, i: int, show: Any, table: np.ndarray
) -> list[list[Tile]]:
    if view.image is None or view.mix is None:
        return []
    strong = step.strong_images[min(view.number, len(step.strong_images) - 1)]
    mixed = show(view.image, i)
    title = 'the two mixed' if view.mix.mask[i].any() else 'not mixed this time'
    if view.mix.foreign is not None and view.mix.foreign[i].any():
        title = 'mixed, with labeled or further images'
    label = view.pseudo.label[i].cpu().numpy().astype(np.uint8)
    label[~view.pseudo.valid[i].cpu().numpy()] = 255
    return [
        [
            Tile(f'strong view {view.number + 1}', show(strong, i)),
            Tile('its partner', show(strong, int(view.mix.partners[i]))),
            Tile(title, mixed),
            Tile('its pseudo-label, before anything was learned', overlay(mixed, label, table)),
        ]
    ]


def _restored(image: Tensor, preprocessor: Any) -> np.ndarray:
    """The pixels (H, W, 3) of a normalized image (C, H, W)."""
    image = image.detach().float().cpu()
    if getattr(preprocessor, '_enable_normalize', False):
        image = image * preprocessor.std.cpu() + preprocessor.mean.cpu()
    swap = getattr(preprocessor, 'channel_conversion', None)
    swapped = getattr(preprocessor, '_channel_conversion', False) if swap is None else swap
    pixels = image.permute(1, 2, 0).numpy()
    if getattr(preprocessor, 'dtype', '') in ('', 'uint8'):
        pixels = pixels.round().clip(0, 255).astype(np.uint8)
    return as_rgb(pixels, bgr=not swapped)


def plain_rows(batch: Any, table: np.ndarray) -> list[list[Tile]]:
    """Pictures of a batch of labeled images alone.

    Args:
        batch: ``inputs`` and ``data_samples``.
        table: Colors of the labels, uint8 (256, 3).
    """
    rows = []
    pairs = zip(batch.get('inputs', ()), batch.get('data_samples', ()))
    for image, sample in list(pairs)[: 2 * _SHOWN]:
        pixels = as_rgb(image.permute(1, 2, 0).numpy())
        truth = sample.gt_sem_seg.data[0].numpy().astype(np.uint8)
        label = Tile('its label', overlay(pixels, truth, table))
        rows.append([Tile('labeled image', pixels), label])
    return rows
