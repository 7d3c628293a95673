"""Hooks for test runs, by ``custom_imports``: kill the process, write half a file, look inside."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import FUNCTIONS
from mmengine.structures import BaseDataElement, PixelData
from mmseg.registry import HOOKS, MODELS
from torch import nn

from mmseg_semi.errors import DataError
from mmseg_semi.models.refiners import BaseRefiner

HALF_WRITTEN = 77


def record_writes(folder: str) -> None:
    """Note every file below a folder that this process opens to write, in a list of its rank."""
    note = f'{folder}.rank{os.environ.get("RANK", 0)}'

    def see(event: str, args: tuple[Any, ...]) -> None:
        if event != 'open' or not isinstance(args[0], (str, bytes)):
            return
        path = os.path.abspath(os.fsdecode(args[0]))
        if path.startswith(f'{folder}/') and args[2] & (os.O_WRONLY | os.O_RDWR):
            with open(note, 'a') as file:
                file.write(f'{path}\n')

    sys.addaudithook(see)


if 'RECORD_WRITES' in os.environ:
    record_writes(os.environ['RECORD_WRITES'])


@HOOKS.register_module()
class KillHook(Hook):
    """SIGKILL right after everything else of an iteration is done."""

    priority = 'LOWEST'

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        if runner.iter + 1 == self.iteration:
            os.kill(os.getpid(), signal.SIGKILL)


@HOOKS.register_module()
class HalfCheckpointHook(Hook):
    """Write only half of the checkpoint of an iteration, then die or raise as a full disk does."""

    def __init__(self, iteration: int, die: bool) -> None:
        self.iteration, self.die = iteration, die

    def before_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        if runner.iter + 1 == self.iteration:
            LocalBackend.put = self.put

    def put(self, data: bytes, filepath: Any) -> None:
        with open(filepath, 'wb') as file:
            file.write(data[: len(data) // 2])
        if self.die:
            os._exit(HALF_WRITTEN)
        raise OSError(28, 'No space left on device')


def digest(tensors: Iterable[torch.Tensor]) -> str:
    """A checksum of the exact bits of tensors."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


@HOOKS.register_module()
class ReportHook(Hook):
    """Write a json file for each rank: what ran, and checksums of the final weights."""

    priority = 'LOWEST'

    def __init__(self, folder: str) -> None:
        self.path = Path(folder) / f'rank{get_rank()}.json'
        self.seen: dict[str, Any] = dict(conv_dtypes=[], images=[], log_dtypes=[])

    def before_train(self, runner: Any) -> None:
        model = runner.model
        if is_model_wrapper(model):
            model = model.module
        self.model = model
        conv = next(m for m in model.segmentor.modules() if isinstance(m, nn.Conv2d))
        conv.register_forward_hook(self.see_conv)

    def see_conv(self, module: nn.Module, args: Any, output: torch.Tensor) -> None:
        name = str(output.dtype)
        if name not in self.seen['conv_dtypes']:
            self.seen['conv_dtypes'].append(name)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        for part in ('labeled', 'unlabeled'):
            samples = data_batch[part]['data_samples']
            self.seen['images'] += [os.path.basename(s.img_path) for s in samples]
        self.seen['log_dtypes'] = sorted({str(value.dtype) for value in outputs.values()})

    def after_train(self, runner: Any) -> None:
        teacher = getattr(self.model.teacher, 'network', None)
        networks = dict(student=self.model.segmentor, teacher=teacher)
        for name, network in networks.items():
            if network is not None:
                self.seen[f'{name}_parameters'] = digest(network.parameters())
                self.seen[f'{name}_buffers'] = digest(network.buffers())
        self.seen['norms'] = sorted(
            {type(m).__name__ for m in self.model.modules() if 'BatchNorm' in type(m).__name__}
        )
        self.seen['world_size'] = get_world_size()
        self.seen['backend'] = (
            torch.distributed.get_backend() if torch.distributed.is_initialized() else None
        )
        self.seen['wrapper'] = type(runner.model).__name__
        self.path.write_text(json.dumps(self.seen))


@HOOKS.register_module()
class SignalHook(Hook):
    """Send this process a signal in an iteration, or in the validation after it."""

    def __init__(self, iteration: int, number: int, validation: bool = False) -> None:
        self.iteration, self.number, self.validation = iteration, number, validation

    def before_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        if not self.validation and runner.iter + 1 == self.iteration:
            os.kill(os.getpid(), self.number)

    def before_val_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        if self.validation and runner.iter == self.iteration:
            os.kill(os.getpid(), self.number)


@HOOKS.register_module()
class RankFaultHook(Hook):
    """Do something to the second of two ranks before an iteration."""

    def __init__(self, how: str, iteration: int) -> None:
        self.how, self.iteration = how, iteration

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if get_rank() != 1 or runner.iter + 1 != self.iteration:
            return
        print(f'fault at {time.time():.1f}', flush=True)
        if self.how == 'killed':
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.how == 'raises':
            raise DataError('made up: rank 1 can not go on')
        elif self.how == 'slow':
            time.sleep(10)
        else:
            for sample in data_batch['labeled']['data_samples']:
                sample.gt_sem_seg.data.fill_(255)


@HOOKS.register_module()
class ChangingSizesHook(Hook):
    """Crop all images of an iteration to one size of many, and note the process's memory."""

    def __init__(self, note: str, seed: int) -> None:
        self.note, self.random = note, random.Random(seed)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        height, width = (16 * self.random.randint(2, 4) for _ in range(2))

        def crop(node: Any) -> Any:
            if isinstance(node, torch.Tensor) and node.dim() >= 2:
                return node[..., :height, :width]
            if isinstance(node, PixelData):
                return PixelData(**{key: crop(value) for key, value in node.items()})
            if isinstance(node, BaseDataElement):
                for key, value in node.items():
                    node.set_field(crop(value), key)
                node.set_metainfo(dict(img_shape=(height, width)))
                return node
            if isinstance(node, dict):
                for key in list(node):
                    node[key] = crop(node[key])
                return node
            return [crop(one) for one in node] if isinstance(node, (list, tuple)) else node

        crop(data_batch)
        resident = int(Path('/proc/self/statm').read_text().split()[1])
        with open(self.note, 'a') as file:
            file.write(f'{resident}\n')


@FUNCTIONS.register_module()
def slow_worker(worker_id: int) -> None:
    """A data worker that waits before its first image, as on a stalled drive."""
    time.sleep(30)


@MODELS.register_module()
class TrainingRefiner(BaseRefiner):
    """Fails where the network is not in training mode."""

    stage = 'selection'

    def forward(self, pseudo: Any, outputs: Any, step: Any) -> Any:
        if not self.training:
            raise RuntimeError('this refiner works in training alone')
        return pseudo
