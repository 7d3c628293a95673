"""What the options of the tools do to a config."""

import pytest
from mmengine.config import Config
from tool_runs import SUPERVISED, load_checkpoint, train_scalars

from mmseg_semi.apis.test import choose_predictor


def test_both_adds_a_teacher_metric_beside_each_iou_metric():
    metric = dict(type='IoUMetric', iou_metrics=['mIoU', 'mDice'])
    cfg = Config(dict(model=dict(type='SemiSegmentor'), test_evaluator=metric))
    for _ in range(2):  # a config that lists it already gets no second one
        choose_predictor(cfg, 'both')
        assert cfg.model.test_cfg == dict(predict_with='both')
        own, teacher = cfg.test_evaluator
        assert own == metric
        assert teacher == dict(metric, type='TeacherIoUMetric', prefix='teacher')


def test_a_plain_segmentor_keeps_its_test_cfg_and_has_no_teacher():
    cfg = Config(dict(model=dict(type='EncoderDecoder', test_cfg=dict(mode='whole'))))
    choose_predictor(cfg, 'student')
    assert cfg.model.test_cfg == dict(mode='whole')
    with pytest.raises(ValueError, match='--predict-with teacher: .*EncoderDecoder.*no teacher'):
        choose_predictor(cfg, 'teacher')


def test_a_resumed_run_takes_over_the_seed(train):
    """mmengine reads the seed after the sampler of a plain run was made with another one."""
    drawn = dict(randomness=dict(seed=None))
    whole = train(SUPERVISED, '--seed', 3, **drawn)
    assert load_checkpoint(whole.checkpoint)['meta']['seed'] == 3
    wanted = train_scalars(whole.work_dir)
    again = train(SUPERVISED, '--resume', whole.work_dir / 'iter_4.pth', **drawn)
    got = train_scalars(again.work_dir)
    assert list(got) == [5, 6, 7, 8]
    assert all(got[step] == wanted[step] for step in got)
