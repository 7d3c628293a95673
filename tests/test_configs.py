"""Every shipped config builds."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.utils import is_installed
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.registry import DATASETS, MODELS, TRANSFORMS
from tool_runs import CONFIGS

import mmseg_semi  # noqa: F401  (registers the components)
from mmseg_semi.models import SemiSegmentor
from mmseg_semi.utils.runner_setup import load_config

SHIPPED = sorted(path for path in CONFIGS.rglob('*.py') if '_base_' not in path.parts)
NAMES = [str(path.relative_to(CONFIGS)) for path in SHIPPED]
DETECTORS = [name for name in NAMES if Path(name).parts[0] == 'detection']
METHODS = {path.name for path in CONFIGS.iterdir() if path.name != '_base_'}


@pytest.fixture(autouse=True)
def mmseg_scope() -> Iterator[None]:
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


def without_weights(node: object) -> None:
    """Drop the pretrained weights that a config would download."""
    if isinstance(node, dict):
        if isinstance(node.get('init_cfg'), dict) and node['init_cfg'].get('type') == 'Pretrained':
            node['init_cfg'] = None
        node.pop('pretrained', None)
    children = node.values() if isinstance(node, dict) else node
    if isinstance(node, (dict, list, tuple)):
        for child in children:
            without_weights(child)


def pipelines(node: object) -> Iterator[list]:
    """All pipelines of the datasets of a dataloader."""
    if isinstance(node, dict):
        if isinstance(node.get('pipeline'), list):
            yield node['pipeline']
        for child in node.values():
            yield from pipelines(child)


def test_configs_are_found() -> None:
    assert len(NAMES) >= 3
    assert {Path(name).parts[0] for name in NAMES} == METHODS
    assert {'supervised', 'fixmatch', 'unimatch'} <= METHODS
    for name in NAMES:
        folder = Path(name).parts[0]
        prefix = 'faster-rcnn_' if folder == 'detection' else f'{folder}_'
        assert Path(name).name.startswith(prefix), name
    assert len(DETECTORS) >= 3


@pytest.mark.parametrize('name', [name for name in NAMES if name not in DETECTORS])
def test_config_builds(name: str) -> None:
    config = Config.fromfile(str(CONFIGS / name))
    model = copy.deepcopy(config.model)
    without_weights(model)
    model = MODELS.build(model)
    assert isinstance(model, BaseSegmentor)
    assert isinstance(model, SemiSegmentor) == (Path(name).parts[0] != 'supervised')
    assert 'mmseg_semi' in config.custom_imports['imports']
    found = 0
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        assert DATASETS.get(config[key].dataset.type) is not None
        for pipeline in pipelines(config[key]):
            found += 1
            for transform in pipeline:
                TRANSFORMS.build(copy.deepcopy(transform))
    assert found >= 3


@pytest.mark.skipif(not is_installed('mmdet'), reason='detectors need mmdet')
@pytest.mark.parametrize('name', DETECTORS)
def test_detection_config_builds(name: str) -> None:
    from mmdet.registry import DATASETS, MODELS, TRANSFORMS

    config = load_config(str(CONFIGS / name))
    assert config.default_scope == 'mmdet'
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = copy.deepcopy(config.model)
        without_weights(model)
        detector = MODELS.build(model)
        classes = config.metainfo.classes
        assert detector.roi_head.bbox_head.num_classes == len(set(classes)) == len(classes)
        for part in ('train', 'test'):
            dataset = config[f'{part}_dataloader'].dataset
            assert DATASETS.get(dataset.type)._load_metainfo(dataset.metainfo)['classes'] == classes
            for transform in dataset.pipeline:
                TRANSFORMS.build(copy.deepcopy(transform))
    # The boxes are written beside the list of the images that they are for.
    test = config.test_dataloader.dataset
    assert config.test_evaluator.ann_file == test.data_root + test.ann_file
    assert config.test_evaluator.outfile_prefix + '.json' == config.test_evaluator.ann_file


@pytest.mark.parametrize('name', DETECTORS)
def test_classes_of_detectors_are_in_the_order_of_the_masks(name: str) -> None:
    """The categories of masks_to_coco.py come in the order of the masks' class numbers."""
    file = f'{Path(name).stem.split("_fpn_")[1]}.py'
    masks = Config.fromfile(str(CONFIGS / '_base_' / 'datasets' / file))
    labeled = masks.train_dataloader.dataset.labeled
    meta = DATASETS.get(labeled.type)._load_metainfo(labeled.get('metainfo'))
    boxed = masks.get('detection_classes') or [c for c in meta['classes'] if c != 'background']
    detector = Config.fromfile(str(CONFIGS / name))
    classes = detector.train_dataloader.dataset.metainfo.classes
    assert list(classes) == [c for c in meta['classes'] if c in set(boxed)]
