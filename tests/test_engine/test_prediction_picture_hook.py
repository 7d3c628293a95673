"""Pictures of predictions: image, truth and prediction, in the colors of the data set."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmseg_semi.engine.hooks import PredictionPictureHook
from mmseg_semi.engine.hooks.prediction_picture_hook import draw_prediction
from mmseg_semi.utils.drawing import colors

META = dict(classes=('ground', 'leaf', 'stem', 'flower'))


def sample_of(path: str, **labels: torch.Tensor) -> SegDataSample:
    sample = SegDataSample(metainfo=dict(img_path=path))
    sample.set_data({key: PixelData(data=one[None]) for key, one in labels.items()})
    return sample


@pytest.fixture
def sample(tmp_path) -> SegDataSample:
    image = np.arange(96 * 100 * 3, dtype=np.uint32).reshape(96, 100, 3).astype(np.uint8)
    cv2.imwrite(str(tmp_path / 'x.png'), image)
    truth = torch.full((96, 100), 255)
    truth[:48] = 1
    prediction = torch.full((96, 100), 2)
    named = dict(gt_sem_seg=truth, pred_sem_seg=prediction, teacher_pred_sem_seg=prediction * 0)
    return sample_of(str(tmp_path / 'x.png'), **named)


def test_image_truth_and_predictions_are_side_by_side(sample):
    picture = draw_prediction(sample, SimpleNamespace(metainfo=META))
    tiles = [picture[30 : 30 + 192, 8 + 208 * i : 208 + 208 * i] for i in range(4)]
    assert np.array_equal(tiles[0][::2, ::2], cv2.imread(sample.img_path)[..., ::-1])
    table = colors(META)
    assert (tiles[1][:96] == table[1]).all() and (tiles[1][96:] == 255).all()
    assert (tiles[2] == table[2]).all() and (tiles[3] == table[0]).all()
    bottom = {tuple(color) for color in picture[30 + 192 :].reshape(-1, 3).tolist()}
    assert {tuple(one) for one in table[:3].tolist()} <= bottom
    assert tuple(table[3].tolist()) not in bottom, 'a flower is nowhere'


def test_without_truth_there_are_image_and_prediction(sample):
    del sample.gt_sem_seg, sample.teacher_pred_sem_seg
    assert draw_prediction(sample, SimpleNamespace(metainfo=META)).shape[1] == 8 + 2 * 208


@pytest.mark.parametrize(('draw', 'interval', 'wanted'), [(True, 2, [2, 4]), (False, 1, [])])
def test_some_batches_are_drawn(sample, draw, interval, wanted):
    found = []
    loader = SimpleNamespace(dataset=SimpleNamespace(metainfo=META))
    add = SimpleNamespace(add_image=lambda name, image, step: found.append((name, step)))
    runner = SimpleNamespace(visualizer=add, val_dataloader=loader, test_dataloader=loader)
    hook = PredictionPictureHook(draw, interval)
    for runner.iter in range(1, 5):
        hook.after_val_iter(runner, runner.iter - 1, outputs=[sample])
    assert found == [('val_x.png', step) for step in wanted]
    hook.after_test_iter(runner, 1, outputs=[sample])
    assert len(found) == len(wanted) + draw and (not draw or found[-1][0] == 'test_x.png')
