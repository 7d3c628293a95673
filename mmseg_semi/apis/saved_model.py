"""A checkpoint and its config, ready to predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import DefaultScope
from mmengine.runner.checkpoint import load_state_dict
from mmseg.registry import DATASETS, MODELS

from mmseg_semi.apis.runner_setup import explaining_built
from mmseg_semi.errors import DataError, name_some
from mmseg_semi.files import check_there
from mmseg_semi.models.segmentors import is_semi
from mmseg_semi.utils.config import is_detector, load_config
from mmseg_semi.utils.safe_checkpoints import (
    CheckpointError,
    read_checkpoint,
    refuse_other_files,
)
from mmseg_semi.utils.weight_checks import (
    check_checkpoint,
    state_of,
    trained_classes,
    without_downloads,
)


def find_config(checkpoint: str) -> str:
    """The config that lies beside a checkpoint: that of its name, or the only one of no other.

    Raises:
        FileNotFoundError: There is no such checkpoint, or no config beside it.
        ValueError: There are several configs.
        CheckpointError: The file is no checkpoint, so that what lies beside it is not read.
    """
    check_there(checkpoint, 'Name a checkpoint of a run, such as work_dirs/leaves/iter_20000.pth.')
    refuse_other_files(checkpoint)
    path = Path(checkpoint)
    if path.with_suffix('.py').is_file():
        return str(path.with_suffix('.py'))
    configs = sorted(path.parent.glob('*.py'))
    found = [str(one) for one in configs if not one.with_suffix('.pth').exists()]  # of an extracted
    if not found:
        raise FileNotFoundError(
            f'there is no config (*.py) beside {checkpoint}: name it with --config'
        )
    if len(found) > 1:
        raise ValueError(
            f'there are {len(found)} configs beside {checkpoint}: {name_some(found)}. Name the one '
            'that it was trained with, with --config.'
        )
    return found[0]


@dataclass
class SavedModel:
    """A network that predicts, and what goes with it.

    Attributes:
        model: In evaluation mode, on its device.
        cfg: Its config.
        classes: Names in the order of their numbers.
        meta: ``classes``, and ``palette`` where it is known.
        reduced: Whether the numbers in masks are one more (``reduce_zero_label``).
    """

    model: Any
    cfg: Config
    classes: list[str]
    meta: dict[str, Any]
    reduced: bool

    @cached_property
    def pipeline(self) -> Compose:
        """The transforms of an image that is predicted."""
        with DefaultScope.overwrite_default_scope(self.cfg.get('default_scope', 'mmseg')):
            return Compose(without_masks(tested_dataset(self.cfg).pipeline))

    def numbers(self, labels: np.ndarray) -> np.ndarray:
        """Labels (H, W) with the numbers of masks, uint8 or, of more classes, uint16."""
        top = max(len(self.classes), 2) - 1 + self.reduced
        return (labels + int(self.reduced)).astype(np.uint8 if top < 256 else np.uint16)


def load_saved(
    checkpoint: str,
    config: str | None = None,
    options: dict[str, Any] | None = None,
    predictor: str | None = None,
    device: str | None = None,
) -> SavedModel:
    """Build the model of a checkpoint and load it.

    Args:
        checkpoint: Of this package or of plain mmseg.
        config: Its config, None for the one beside it.
        options: ``--cfg-options``.
        predictor: ``'student'`` or ``'teacher'``, None for what the config says.
        device: As torch names it, None for a GPU where there is one.

    Raises:
        FileNotFoundError, ValueError: Config or checkpoint cannot be used, or do not fit.
    """
    cfg = load_config(config or find_config(checkpoint), options, unread=True)
    if is_detector(cfg):
        raise ValueError(f'{checkpoint} is a detector, which has no labels of pixels: name another')
    if predictor:
        set_predictor(cfg, predictor)
    content = read_checkpoint(checkpoint)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmseg')):
        with explaining_built(cfg):
            model = MODELS.build(without_downloads(cfg.model))
        known = tested_meta(cfg)
    _fill(model, content, checkpoint)
    classes = trained_classes(content) or known.get('classes')
    meta = content.get('meta', {}).get('dataset_meta') or known
    palette = meta.get('palette') or known.get('palette')
    if not classes:
        classes = [f'class_{number}' for number in range(model.num_classes)]
    meta = dict(classes=list(classes), **(dict(palette=palette) if palette else {}))
    return SavedModel(
        model.to(_device(device)).eval(),
        cfg,
        list(classes),
        meta,
        bool(known.get('reduce_zero_label')),
    )


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or get_device())
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f'--device {name}: {str(error).splitlines()[0]}; give cpu, or cuda where there is a GPU'
        ) from error
    return device


def _fill(model: Any, content: Mapping[str, Any], checkpoint: str) -> None:
    """Load the weights, but for those of components that do not predict and have another size."""
    try:
        check_checkpoint(model, content, training=False)
    except ValueError as error:
        raise CheckpointError(f'{checkpoint}: {error}') from error
    state, own = state_of(content), model.state_dict()
    missing = [name for name in own if name.startswith('teacher.') and name not in state]
    if not any(name.startswith('segmentor.') for name in state):
        missing = []  # a plain checkpoint is loaded into both
    if missing and model.predict_with != 'student':
        raise CheckpointError(
            f'{checkpoint} has no weights of a teacher ({name_some(missing, 2)}): use '
            '--predict-with student'
        )
    fitting = {
        name: value
        for name, value in state.items()
        if name not in own or getattr(value, 'shape', None) == own[name].shape
    }
    load_state_dict(model, fitting, strict=False, logger='silent')
    if missing:
        model.teacher.reset()


# ------------------------------------------------------------------------------------ config
def set_predictor(cfg: Config, predictor: str) -> None:
    """Let the student, the teacher or both predict.

    Raises:
        ValueError: The config has no teacher.
    """
    if is_semi(cfg.model):
        cfg.model.test_cfg = {**(cfg.model.get('test_cfg') or {}), 'predict_with': predictor}
    elif predictor != 'student':
        raise ValueError(
            f'--predict-with {predictor}: the config trains a plain {cfg.model.type}, which has no '
            'teacher'
        )


def tested_dataset(cfg: Config) -> Any:
    """The config of the data set of the test, the first one of several.

    Raises:
        DataError: There is none with a pipeline.
    """
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'pipeline' not in dataset and ('dataset' in dataset or 'datasets' in dataset):
        dataset = dataset.get('dataset') or dataset['datasets'][0]
    if 'pipeline' not in dataset:
        raise DataError(
            'the config has no test_dataloader.dataset.pipeline, which says how images are loaded '
            'and resized: add it'
        )
    return dataset


def tested_meta(cfg: Config) -> dict[str, Any]:
    """``classes``, ``palette`` and ``reduce_zero_label`` of the data set of the test."""
    dataset = tested_dataset(cfg)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmseg')):
        meta = DATASETS.build({**dataset, 'lazy_init': True, 'pipeline': []}).metainfo
    return {key: meta[key] for key in ('classes', 'palette', 'reduce_zero_label') if key in meta}


def without_masks(transforms: Sequence[Any]) -> list[Any]:
    """A test pipeline that loads no masks."""
    kept: list[Any] = []
    for one in transforms:
        if isinstance(one, (list, tuple)):  # the choices of TestTimeAug
            kept.append(without_masks(one))
        elif one['type'] not in ('LoadAnnotations', 'CheckAnnotations'):
            inner = {'transforms': without_masks(one['transforms'])} if 'transforms' in one else {}
            kept.append({**one, **inner})
    return [one for one in kept if one != []]
