"""Pseudo-labels of the same images through the training."""

from __future__ import annotations

import copy
import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Optional

import numpy as np
import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmseg.registry import HOOKS

from mmseg_semi.arguments import Whole, checked
from mmseg_semi.datasets.collate import semi_collate
from mmseg_semi.datasets.seeding import seeded
from mmseg_semi.datasets.semi_dataset import SampleKey, SemiDataset
from mmseg_semi.files import write_file
from mmseg_semi.structures import PseudoLabel, SemiStep
from mmseg_semi.utils.drawing import as_rgb, colors

from .pseudo_label_vis_hook import draw_pseudo_labels, light_of

#: Folder in the log folder of a run; ``images.npz`` and a file for each step.
FOLDER = 'pseudo_labels'
_SIDE = 320  # pixels of a tile: there are as many pictures as validations


@HOOKS.register_module()
class PseudoLabelProgressHook(Hook):
    """Keep what is said of a few unlabeled images at each validation, for ``mmseg-semi report``.

    The images are spread over the list of the unlabeled ones, always in the same weak view. The
    teacher, or the student in evaluation mode, labels them, and the refiners that work before
    mixing refine that; nothing of the training is touched. All ranks do it, since refiners may
    ask all ranks; the first one writes ``pseudo_labels/step_<n>.npz`` into the log folder of the
    run, and draws ``fixed_images`` for the visualizer. Supervised training has none.

    Args:
        num_images: How many images.
    """

    @checked
    def __init__(self, num_images: Annotated[int, Whole(1)] = 4) -> None:
        self.num_images = num_images
        self._on = False
        self._batch: Any = None

    def before_train(self, runner: Any) -> None:
        """Find out whether there are unlabeled images."""
        dataset = runner.train_dataloader.dataset
        semi = isinstance(dataset, SemiDataset) and dataset.unlabeled is not None
        self._on = semi and hasattr(_model(runner), 'add_observer')

    def after_val_epoch(self, runner: Any, metrics: Optional[Mapping[str, Any]] = None) -> None:
        """Label, write and draw."""
        if not self._on:
            return
        failed = torch.zeros(())
        try:
            self._look(runner)
        except Exception as error:  # pictures are not worth a training
            failed += 1
            print_log(
                f'default_hooks.pseudo_labels draws nothing more, since the images that it labels '
                f'have failed with {type(error).__name__}: {error}. Set it to None to go without.',
                logger='current',
                level=logging.WARNING,
            )
        all_reduce(failed)  # the refiners of the next time ask all ranks, or none
        self._on = not failed.item()

    def _look(self, runner: Any) -> None:
        dataset = runner.train_dataloader.dataset
        first = self._batch is None
        if first:
            self._batch = self._load(dataset)
        seen = label_batch(
            _model(runner),
            self._batch,
            iteration=runner.iter,
            max_iters=runner.max_iters,
            iters_per_epoch=getattr(runner.train_loop, 'iters_per_epoch', 0),
        )
        if not is_main_process():
            return
        folder, weak = Path(runner.log_dir, FOLDER), self._batch['unlabeled']['weak']
        if first:
            paths = [one.img_path for one in self._batch['unlabeled']['data_samples']]
            write_arrays(
                folder / 'images.npz',
                **{f'image{i}': as_rgb(one.permute(1, 2, 0).numpy()) for i, one in enumerate(weak)},
                paths=np.array(paths),
                classes=np.array(dataset.metainfo.get('classes') or (), str),
                colors=colors(dataset.metainfo),
            )
        write_arrays(folder / f'step_{runner.iter}.npz', **arrays_of(seen))
        picture = draw_pseudo_labels(weak, seen, dataset.metainfo, most=_SIDE)
        runner.visualizer.add_image('fixed_images', picture, step=runner.iter)

    def _load(self, dataset: SemiDataset) -> dict[str, Any]:
        number = len(dataset.unlabeled)
        places = range(0, number, max(1, number // self.num_images))[: self.num_images]
        keys = [SampleKey('labeled', 0, 0), *(SampleKey('unlabeled', i, 0) for i in places)]
        return semi_collate([dataset[key] for key in keys])


def _model(runner: Any) -> Any:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


@torch.no_grad()
def label_batch(model: Any, batch: dict[str, Any], **progress: int) -> dict[str, PseudoLabel]:
    """Label unlabeled images as a step would, leaving the model and all generators as they are.

    Args:
        model: A ``SemiSegmentor``.
        batch: As ``semi_collate`` makes it.
        progress: ``iteration``, ``max_iters`` and ``iters_per_epoch`` of the step.

    Returns:
        The unrefined pseudo-label as ``'raw'``, and those after each refiner before mixing.
    """
    modes = {module: module.training for module in model.modules()}
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        model.eval()
        with torch.random.fork_rng(devices), seeded(0):
            torch.manual_seed(0)
            data = model.data_preprocessor(copy.deepcopy(batch), True)
            step = SemiStep.of_batch(data['inputs'], data['data_samples'], **progress)
            network = model.teacher.label if model.teacher is not None else model.run
            step.teacher = network(step.weak_images)
            step.raw_pseudo = PseudoLabel.from_logits(step.teacher.logits, step.valid, step.maps)
            model.refine(step.raw_pseudo, step.teacher, step, step.refined)
    finally:
        for module, training in modes.items():
            module.training = training
    return dict(raw=step.raw_pseudo, **step.refined)


def arrays_of(seen: Mapping[str, PseudoLabel]) -> dict[str, np.ndarray]:
    """What the report draws.

    Returns:
        ``label`` (N, H, W) with 255 on padding. Where something refines it, ``refined`` likewise,
        and ``light`` uint8 (N, H, W): 0 where a pixel is not selected, its weight at most 255.
    """
    raw, last = seen['raw'], list(seen.values())[-1]
    found = dict(label=_labels(raw))
    if last is not raw:
        plain = raw.update(reliable=None, weight=None)
        light = [light_of(last, plain, i) for i in range(len(last.label))]
        found.update(refined=_labels(last), light=np.round(255 * np.stack(light)).astype(np.uint8))
    return found


def _labels(pseudo: PseudoLabel) -> np.ndarray:
    labels = pseudo.label.masked_fill(~pseudo.valid, 255).cpu().numpy()
    return labels.astype(np.uint8 if labels.max() < 256 else np.uint16)


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write a compressed ``.npz`` file, whole or not at all."""
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)  # type: ignore[arg-type]
    write_file(path, data.getvalue())
