"""Every shipped config builds."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.registry import DATASETS, MODELS, TRANSFORMS
from tool_runs import CONFIGS

import mmseg_semi  # noqa: F401  (registers the components)
from mmseg_semi.models import SemiSegmentor

SHIPPED = sorted(path for path in CONFIGS.rglob('*.py') if '_base_' not in path.parts)
NAMES = [str(path.relative_to(CONFIGS)) for path in SHIPPED]
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
    assert all(Path(name).name.startswith(f'{Path(name).parts[0]}_') for name in NAMES)


@pytest.mark.parametrize('name', NAMES)
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
