#!/usr/bin/env python
"""Compute the memory that a training step of a config takes, and what fits on which card.

On a CPU every tensor of a real step is counted while it lives, at two small crops; the peak grows
with the pixels of the batch, so a line through both gives it for the config's own crop and any
batch. Weights, gradients, momenta, teachers and banks are in it; the context of the driver, the
work space of convolutions and what a GPU's own code paths take more are not, for which --reserve is
taken off a card. With --device cuda the step is run as it is and torch's own peak is printed.
"""

from __future__ import annotations

import argparse
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmseg_semi.apis.runner_setup import enable_amp
from mmseg_semi.benchmarks.frameworks import Step, make_data
from mmseg_semi.files import write_file

GIB = 2**30
CARDS = (24, 40, 80)


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('configs', nargs='+', help='configs of semi-supervised methods')
    parser.add_argument('--device', default='cpu', choices=('cpu', 'cuda'))
    parser.add_argument('--amp', action='store_true', help='in mixed precision')
    parser.add_argument(
        '--crops',
        type=int,
        nargs=2,
        default=(193, 257),
        metavar='SIDE',
        help='the two small crops (default 193 257)',
    )
    parser.add_argument('--threads', type=int, help='CPU threads')
    parser.add_argument(
        '--reserve',
        type=float,
        default=2.0,
        metavar='GIB',
        help='memory of a card that tensors can not have (default 2)',
    )
    parser.add_argument('--out', help='Markdown file to write (default: only print)')
    args = parser.parse_args(argv)
    if not 64 < args.crops[0] < args.crops[1]:
        parser.error(f'--crops must be two sizes above 64, the smaller first, got {args.crops}')
    missing = [path for path in args.configs if not Path(path).is_file()]
    if missing:
        parser.error(f'config file {missing[0]} does not exist')
    return args


# ------------------------------------------------------------------------------------- counting
class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that operations made while it is active and that live.

    Attributes:
        live: Bytes at this moment.
        peak: The most that they have been.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        made = function(*args, **(kwargs or {}))
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
        self.peak = max(self.peak, self.live)
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


# ---------------------------------------------------------------------------------------- steps
def small_config(path: str, crop: int, amp: bool) -> Config:
    """A config whose network takes crops of a size and starts without downloaded weights."""
    cfg = Config.fromfile(path)
    if 'segmentor' not in cfg.model:
        raise SystemExit(f'{path}: the config trains a plain segmentor; give a semi-supervised one')
    segmentor = cfg.model.segmentor
    segmentor.data_preprocessor.size = (crop, crop)
    segmentor.pop('pretrained', None)
    segmentor.backbone.init_cfg = None
    _plain_norms(segmentor)
    cfg.model.warmup_epochs = cfg.model.warmup_iters = 0
    if amp:
        enable_amp(cfg)
    return cfg


def _plain_norms(node: Any) -> None:
    if isinstance(node, dict):
        if node.get('type') == 'SyncBN':
            node['type'] = 'BN'
        for value in node.values():
            _plain_norms(value)


def peak_of_step(path: str, batch: int, crop: int, amp: bool, device: str) -> tuple[int, int]:
    """Bytes of the state that outlives a step, and the peak of a step with it.

    Args:
        path: Config file.
        batch: Labeled images, and as many unlabeled ones.
        crop: Their side in pixels.
        amp: Whether in mixed precision.
        device: ``'cpu'`` or ``'cuda'``.
    """
    torch.manual_seed(0)
    step = Step(small_config(path, crop, amp), device)
    step.set_data(make_data(step.model, batch, crop))
    optimizer = step.optimizer.optimizer
    for group in optimizer.param_groups:
        for parameter in group['params']:
            if 'momentum' in group:
                optimizer.state[parameter]['momentum_buffer'] = torch.zeros_like(parameter)
    state = [*step.model.state_dict().values()]
    state += [value for one in optimizer.state.values() for value in one.values()]
    state += [*step.model.buffers()]
    static = size_of(value for value in state if isinstance(value, torch.Tensor))
    if device == 'cuda':
        step()
        torch.cuda.reset_peak_memory_stats()
        step()
        return static, torch.cuda.max_memory_allocated()
    counter = LiveBytes()
    counter.ignore(value for value in state if isinstance(value, torch.Tensor))
    with counter:
        step()
    return static, static + counter.peak


@dataclass
class Line:
    """The peak as a line over the pixels of the batch.

    Attributes:
        name: Of the config.
        static: Bytes of weights, momenta, teachers and banks.
        base: Bytes at no pixel.
        slope: Bytes a pixel of all labeled and unlabeled images.
        images: Images of a rank's batch in the config.
        crop: Side of the config's crop.
        gpus: GPUs that the batch is for.
    """

    name: str
    static: int
    base: float
    slope: float
    images: int
    crop: int
    gpus: int

    def peak(self, images: int) -> float:
        """Bytes with so many images of the config's crop."""
        return self.base + self.slope * images * self.crop**2

    def most_images(self, card: float, reserve: float) -> int:
        """The largest even number of images, half of them labeled, that fits; at least 4 count."""
        room = (card - reserve) * GIB - self.base
        images = int(room // (self.slope * self.crop**2)) // 2 * 2
        return images if images >= 4 else 0


def measure(path: str, crops: Sequence[int], amp: bool) -> Line:
    """Measure a config at two small crops, with 2 labeled and 2 unlabeled images."""
    images = 4
    (static, low), (_, high) = (peak_of_step(path, images // 2, c, amp, 'cpu') for c in crops)
    pixels = [images * crop**2 for crop in crops]
    slope = (high - low) / (pixels[1] - pixels[0])
    cfg = Config.fromfile(path)
    batch = cfg.train_dataloader.batch_size
    return Line(
        Path(path).stem,
        static,
        low - slope * pixels[0],
        slope,
        batch,
        cfg.train_dataloader.dataset.geometry.crop.crop_size[0],
        max(cfg.auto_scale_lr.base_batch_size // batch, 1),
    )


# ---------------------------------------------------------------------------------------- tables
def recipe(line: Line, card: int, reserve: float) -> str:
    """How the whole batch goes onto one card: images an iteration and iterations an update."""
    total = line.images * line.gpus
    most = line.most_images(card, reserve)
    fitting = [n for n in range(4, total + 1, 2) if n <= most and total % n == 0]
    if not fitting:
        return 'does not fit' if most < 4 else f'{most} images fit'
    return f'{fitting[-1]} x {total // fitting[-1]}'


def table(lines: Sequence[Line], reserve: float) -> str:
    """The table of all configs."""
    cards = ' | '.join(f'one {card} GB card' for card in CARDS)
    rows = [
        f'| config | crop | batch a GPU | state | peak a GPU | {cards} |',
        '| --- | --- | --- | --- | --- |' + ' --- |' * len(CARDS),
    ]
    for line in lines:
        cells = [
            f'`{line.name}`',
            str(line.crop),
            f'{line.images // 2} + {line.images // 2} on {line.gpus}',
            f'{line.static / GIB:.1f} GiB',
            f'{line.peak(line.images) / GIB:.1f} GiB',
            *(recipe(line, card, reserve) for card in CARDS),
        ]
        rows.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(rows) + '\n'


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Measure the configs and print the table."""
    args = parse_args(argv)
    MMLogger.get_instance('mmengine', log_level='WARNING')  # optimizers report every parameter
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.device == 'cuda':
        for path in args.configs:
            cfg = Config.fromfile(path)
            crop = cfg.train_dataloader.dataset.geometry.crop.crop_size[0]
            batch = cfg.train_dataloader.batch_size // 2
            _, peak = peak_of_step(path, batch, crop, args.amp, 'cuda')
            print(
                f'{Path(path).stem}: {peak / GIB:.1f} GiB with {batch} + {batch} images of {crop}'
            )
        return
    lines = []
    for path in args.configs:
        lines.append(measure(path, args.crops, args.amp))
        print(f'{lines[-1].name}: {lines[-1].peak(lines[-1].images) / GIB:.1f} GiB', flush=True)
        text = table(lines, args.reserve)
        if args.out:
            write_file(args.out, text)
    print(text)


if __name__ == '__main__':
    main()
