"""The memory that a training step of a config takes.

On a CPU every tensor of a real step is counted while it lives, at three small crops; the peak grows
with the images and with the pixels of each, in attention with their square, so a curve through all
three gives it for any crop and batch. Weights, gradients, the optimizer's state, teachers and banks
are in it; the context of the driver, the work space of convolutions and what a GPU's own code paths
take more are not.
"""

from __future__ import annotations

import copy
import math
import sys
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.config import Config
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmseg_semi.apis.runner_setup import enable_amp
from mmseg_semi.benchmarks.frameworks import Step, make_data
from mmseg_semi.errors import refusal
from mmseg_semi.models.held_network import HeldNetwork
from mmseg_semi.models.memories import Snapshots
from mmseg_semi.utils.config import gpus_of
from mmseg_semi.utils.weight_checks import build_shapes

GIB = 2**30
#: Sides of the small crops, before an encoder's patches are looked at.
_SMALL = (192, 256)


_CONVOLUTION_BACKWARD = torch.ops.aten.convolution_backward.default


def _zero_gradients(grad: Any, image: Any, weight: Any, *rest: Any) -> tuple[Any, ...]:
    """What a convolution's backward pass makes, without computing it.

    Memory does not depend on the values, and on a CPU those of dilated depthwise convolutions take
    minutes.
    """
    sizes, mask = rest[0], rest[-1]
    bias = grad.new_zeros(sizes) if mask[2] else None
    return (*(torch.zeros_like(x) if m else None for x, m in zip((image, weight), mask)), bias)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that operations made while it is active and that live.

    Gradients of convolutions are zeros.

    Attributes:
        live: Bytes at this moment.
        peak: The most that they have been.
        calls: Operations so far.
        moment: Operations at the peak.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.calls = self.moment = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        if function is _CONVOLUTION_BACKWARD:
            made = _zero_gradients(*args)
        else:
            made = function(*args, **(kwargs or {}))
        self.calls += 1
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self._note(leaf.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known[key] = storage.nbytes()
        self.live += storage.nbytes()
        if self.live > self.peak:
            self.peak, self.moment = self.live, self.calls
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.live -= self._known.pop(key)

    def ignore(self, tensors: Iterable[torch.Tensor]) -> None:
        """Leave tensors out that were there before, and are counted as such."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._known:
                self._known[storage._cdata] = 0
                weakref.finalize(storage, self._forget, storage._cdata)


def size_of(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of tensors, each storage once."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def small_config(cfg: Config, crop: int, amp: bool) -> Config:
    """A copy of a config that takes crops of a size and starts without weights of a file."""
    cfg = copy.deepcopy(cfg)
    segmentor = segmentor_of(cfg)
    preprocessor = segmentor.data_preprocessor
    preprocessor.size = (crop, crop)
    if preprocessor.pop('statistics', None):  # of images, which are not read
        channels = preprocessor.get('in_channels', 3)
        preprocessor.update(mean=[127.0] * channels, std=[64.0] * channels)
    segmentor.pop('pretrained', None)
    segmentor.backbone.pop('init_cfg', None)
    heads = segmentor.decode_head
    for head in heads if isinstance(heads, (list, tuple)) else [heads]:
        head.pop('text', None)
    _plain_norms(segmentor)
    cfg.custom_hooks = []  # those that the model needs are added; no others, which may read data
    if segmentor is not cfg.model:
        cfg.model.warmup_epochs = cfg.model.warmup_iters = 0
        cfg.model.compiled = None  # there is nothing to compute
    if cfg.optim_wrapper.get('type') == 'AmpOptimWrapper' and not torch.cuda.is_available():
        for name in ('type', 'dtype', 'loss_scale', 'use_fsdp'):  # of float16, which a GPU has
            cfg.optim_wrapper.pop(name, None)
        amp = True
    if amp:
        enable_amp(cfg)
    return cfg


def segmentor_of(cfg: Config) -> Any:
    """The part of a config that is the network, of semi-supervised or of plain training."""
    return cfg.model.get('segmentor', cfg.model)


def _plain_norms(node: Any) -> None:
    if isinstance(node, dict):
        if node.get('type') == 'SyncBN':
            node['type'] = 'BN'
        for value in node.values():
            _plain_norms(value)


@dataclass
class Peak:
    """What a step takes, in bytes.

    Attributes:
        weights: Of the network that is trained, its buffers too.
        optimizer: State of the optimizer.
        others: Teachers, banks and other state of the method.
        step: Gradients, activations and all else that a step makes.
        moment: When that is, from 0 to 1, where it was counted.
    """

    weights: int
    optimizer: int
    others: int
    step: float
    moment: float = field(default=0.0, compare=False)

    @property
    def state(self) -> int:
        """What outlives a step."""
        return self.weights + self.optimizer + self.others

    @property
    def total(self) -> float:
        """All of it."""
        return self.state + self.step


def peak_of_step(cfg: Config, labeled: int, crop: int, amp: bool, device: str) -> Peak:
    """Run a step on random images and count.

    Args:
        cfg: The config.
        labeled: Labeled images; semi-supervised training takes as many unlabeled ones.
        crop: Their side in pixels.
        amp: Whether in mixed precision.
        device: ``'cpu'``, where tensors are counted, or ``'cuda'``, where torch counts.
    """
    torch.manual_seed(0)
    step = Step(small_config(cfg, crop, amp), device)
    step.set_data(make_data(step.model, labeled, crop, step.views))
    optimizer = step.optimizer.optimizer
    _fill_state(optimizer)
    weights = [*step.student.parameters(), *step.student.buffers()]
    state = [*weights, *step.model.state_dict().values(), *step.model.buffers()]
    for part in step.model.modules():
        if isinstance(part, HeldNetwork) and not part.saved:
            state += [*part.network.parameters(), *part.network.buffers()]
    kept = [part for part in step.model.modules() if isinstance(part, Snapshots) and part.on_cpu]
    away = {row.data_ptr() for part in kept for row in part.rows}  # takes no memory of a GPU
    state = [s for s in state if isinstance(s, torch.Tensor) and s.data_ptr() not in away]
    moments = [
        value
        for one in optimizer.state.values()
        for value in one.values()
        if isinstance(value, torch.Tensor)
    ]
    sizes = size_of(weights), size_of(moments), size_of(state) - size_of(weights)
    if device == 'cuda':
        step()
        torch.cuda.reset_peak_memory_stats()
        step()
        return Peak(*sizes, torch.cuda.max_memory_allocated() - sum(sizes))
    counter = LiveBytes()
    counter.ignore([*state, *moments])
    with counter:
        step()
    return Peak(*sizes, counter.peak, counter.moment / counter.calls)


def _fill_state(optimizer: torch.optim.Optimizer) -> None:
    """Make the state that an optimizer makes in its first step; the learning rate is 0."""
    for group in optimizer.param_groups:
        for one in group['params']:
            if one.requires_grad:
                one.grad = torch.zeros_like(one)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@dataclass
class Line:
    """The peak as a line over the images, and a curve over the pixels of each.

    Attributes:
        name: Of the config.
        peak: Of its own batch and crop.
        base: Bytes at no pixel.
        slope: Bytes a pixel of all labeled and unlabeled images.
        curve: Bytes a pair of pixels of an image, as attention has them.
        images: Images of a rank's batch in the config.
        parts: 2 where half of these are unlabeled, else 1.
        crop: Height and width of the config's crop.
        gpus: GPUs that the batch is for.
        updates: Iterations of an update.
        multiple: What the sides of larger and smaller crops are multiples of.
    """

    name: str
    peak: Peak
    base: float
    slope: float
    images: int
    parts: int
    crop: tuple[int, int]
    gpus: int = 1
    updates: int = 1
    curve: float = 0.0
    multiple: int = 32

    @property
    def least(self) -> int:
        """Images below which no batch is planned, but for a config that has fewer itself.

        BatchNorm over images pooled to one pixel needs two of a part.
        """
        return min(2 * self.parts, self.images)

    @property
    def update(self) -> int:
        """Images of an update on all GPUs."""
        return self.images * self.updates * self.gpus

    def at(self, images: int, crop: Sequence[int]) -> float:
        """Bytes with so many images of a crop."""
        return self.base + images * self._of_image(crop[0] * crop[1])

    def _of_image(self, pixels: int) -> float:
        return self.slope * pixels + self.curve * pixels**2

    def most_images(self, room: float) -> int:
        """The most images of the config's crop that fit into bytes; 0 where the least do not."""
        images = int((room - self.base) // self._of_image(self.crop[0] * self.crop[1]))
        images -= images % self.parts
        return images if images >= self.least else 0

    def largest_crop(self, room: float) -> int:
        """The largest side of square crops with which the config's batch fits."""
        share = max(room - self.base, 0) / self.images
        root = math.sqrt(self.slope**2 + 4 * self.curve * share)
        return int(math.sqrt(2 * share / (self.slope + root)) // self.multiple) * self.multiple

    def recipe(self, room: float) -> tuple[int, int] | None:
        """Images an iteration and iterations an update that make the whole batch on one card."""
        total, most = self.update, self.most_images(room)
        fitting = [n for n in range(self.least, total + 1, self.parts) if n <= most]
        fitting = [n for n in fitting if total % n == 0]
        return (fitting[-1], total // fitting[-1]) if fitting else None


def measure(name: str, cfg: Config, crops: Sequence[int] | None, amp: bool) -> Line:
    """Measure a config at three small crops, with 2 images of each part.

    Args:
        name: What the line is called.
        cfg: The config.
        crops: Sides of two of them, the smaller first; the third is as far beyond. None takes what
            the encoder can take.
        amp: Whether in mixed precision.
    """
    patch = patch_of(cfg)
    low, high = crops or small_crops(patch)
    parts = 1 if segmentor_of(cfg) is cfg.model else 2
    sides, peaks = (low, high, 2 * high - low), []
    for side in sides:
        print(f'counting a step of {name} at {side} x {side}', file=sys.stderr)
        with _naming_crop(side):
            peaks.append(peak_of_step(cfg, 2, side, amp, 'cpu'))
    first, *_, last = pixels = [side**2 for side in sides]
    rises = [
        (peaks[j].total - peaks[i].total) / (2 * parts * (pixels[j] - pixels[i]))
        for i, j in ((0, 1), (1, 2), (0, 2))
    ]
    when = [peak.moment for peak in peaks]
    if max(when) - min(when) < 0.1:
        curve = max((rises[1] - rises[0]) / (last - first), 0.0)
        slope = rises[2] - curve * (first + last)
    else:  # the smallest is that of the optimizer, which no pixel changes
        slope, curve = rises[1], 0.0
    batch = cfg.train_dataloader.batch_size
    crop = tuple(cfg.train_dataloader.dataset.geometry.crop.crop_size)
    line = Line(name, peaks[0], 0.0, slope, batch, parts, crop, curve=curve)
    line.base = peaks[2].total - line.at(2 * parts, (sides[2], sides[2]))
    line.gpus, line.updates = gpus_of(cfg), cfg.optim_wrapper.get('accumulative_counts', 1)
    line.multiple = patch if patch > 1 else 32
    line.peak.step = line.at(batch, crop) - line.peak.state
    return line


@contextmanager
def _naming_crop(side: int) -> Iterator[None]:
    """Say that a network does not take a crop, where its own error would be a traceback."""
    try:
        yield
    except (RuntimeError, ValueError, AssertionError) as error:
        if refusal(error) and not isinstance(error, AssertionError):  # mmseg asserts divisibility
            raise
        reason = ' '.join(str(error).split())
        raise SystemExit(
            f'--crops: a step at {side} x {side} failed ({reason}). Give sides that the network '
            'takes, such as multiples of 32, or of the patch of its encoder.'
        ) from error


def patch_of(cfg: Config) -> int:
    """What an encoder says that the sides of images must be multiples of; 1 where it says nothing.

    It is built for that, without memory: some learn it from the weights that they are for.
    """
    backbone = copy.deepcopy(segmentor_of(small_config(cfg, _SMALL[0], False)).backbone)
    patch = getattr(build_shapes(backbone), 'patch_size', 1)
    return patch if isinstance(patch, int) else 1


def small_crops(patch: int) -> tuple[int, ...]:
    """Two small sides of crops that an encoder divides into its patches."""
    return tuple(math.ceil(side / patch) * patch for side in _SMALL)
