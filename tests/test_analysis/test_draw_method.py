"""Pictures of agents and of refinement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from tool_runs import CONFIGS, TOOLS

from mmseg_semi.analysis.draw_method import resized

TOOL = TOOLS / 'analysis_tools' / 'draw_method.py'
RANK = 'rankmatch/rankmatch_unet_digit-scenes-60.py'
S4MC = 's4mc/s4mc_fixmatch_unet_digit-scenes-60.py'


@pytest.fixture
def draw(server: Any, digit_root: Path, tmp_path: Path) -> Any:
    """Run the tool on the tiny scenes, with random weights of the config."""

    def draw(
        what: str,
        base: str,
        *args: Any,
        out: str = 'new/picture.png',
        weights: Any = None,
        root: Path = digit_root,
        code: int = 0,
        more: str = '',
    ) -> tuple[str, Path]:
        config = tmp_path / 'config.py'
        data = f'test_dataloader = dict(dataset=dict(data_root={str(root)!r}))\n'
        config.write_text(f'_base_ = {str(CONFIGS / base)!r}\n{data}{more}\n')
        checkpoint = tmp_path / 'weights.pth'
        if weights is None:
            with DefaultScope.overwrite_default_scope('mmseg'):
                model = MODELS.build(Config.fromfile(str(config)).model)
            weights = dict(state_dict=model.state_dict())
        torch.save(weights, checkpoint)
        picture = tmp_path / out
        done = server.run(TOOL, what, config, checkpoint, picture, *args, code=code)
        return done.output, picture

    return draw


@pytest.mark.parametrize(
    ('what', 'base', 'tiles'), [('agents', RANK, 4), ('refinement', S4MC, 5)], ids=['rank', 's4mc']
)
def test_pictures_have_a_row_for_each_image(draw, what, base, tiles):
    output, picture = draw(what, base, '--num', 3)
    height, width, _ = cv2.imread(str(picture)).shape  # a tile is 3 x 64; then there is a legend
    assert width == 2 * 8 + tiles * 192 + (tiles - 1) * 8
    assert 30 + 3 * 200 + 22 <= height <= 30 + 3 * 200 + 2 * 22 + 8
    summary = dict(agents='have a chosen agent', refinement='labels changed')[what]
    assert f'{picture}: ' in output and summary in output


def test_what_the_config_does_not_have_is_refused(draw):
    output, picture = draw('agents', S4MC, code=1)
    assert 'model.heads has no AgentRankHead' in output and not picture.exists()
    output, picture = draw('refinement', RANK, code=1)
    assert 'no refiner of model.refiners changes probabilities' in output
    assert not picture.exists()


def test_weights_of_something_else_are_refused(draw):
    output, picture = draw('agents', RANK, weights=dict(state_dict={'a.b': torch.ones(1)}), code=1)
    assert 'is no checkpoint of this config' in output and not picture.exists()


def test_wrong_arguments_are_refused(draw, tmp_path):
    assert 'out must end in .png' in draw('agents', RANK, out='o.xyz', code=2)[0]
    assert '--num must be at least 1, got 0' in draw('agents', RANK, '--num', 0, code=2)[0]
    output, _ = draw('agents', RANK, root=tmp_path / 'no', code=1)
    assert 'test_dataloader' in output and 'no' in output


def test_truth_has_the_size_of_the_image_that_is_seen(draw, digit_root, monkeypatch):
    resize = "dict(type='Resize', scale=(128, 96), keep_ratio=False)"
    more = f'_base_.test_dataloader.dataset.pipeline.insert(1, {resize})'
    for what, base in (('agents', RANK), ('refinement', S4MC)):
        output, picture = draw(what, base, '--num', 1, more=more)
        width = cv2.imread(str(picture)).shape[1]
        tiles = dict(agents=4, refinement=5)[what]
        assert (width - 8) % tiles == 0 and f'{picture}: ' in output


def test_labels_are_resized_by_the_nearest_pixel():
    labels = np.array([[1, 2], [3, 255]], np.uint8)
    assert (resized(labels, (4, 6, 3)) == labels.repeat(2, 0).repeat(3, 1)).all()
    assert (resized(labels.repeat(2, 0).repeat(2, 1), (2, 2)) == labels).all()
