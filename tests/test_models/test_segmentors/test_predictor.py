"""Predictions that refiners change."""

from __future__ import annotations

import pytest
import torch

from mmseg_semi.functional import refine_neighborhood

from ..helpers import shake
from ..s4mc import CONTEXT, QUANTILE, S4MC

SIZES = ((45, 34), (20, 27))


REFINE = dict(context=dict(CONTEXT, window=7, neighbors=3), select=dict(QUANTILE))


def originals(batch):
    """Images whose originals are of other sizes."""
    data = batch()['labeled']
    for sample, size in zip(data['data_samples'], SIZES):
        sample.set_metainfo(dict(ori_shape=size))
    return data


@pytest.mark.parametrize('who', ['student', 'teacher', 'both'])
def test_refined_predictions_are_the_argmax_of_the_refined_softmax(build, batch, who):
    def predict(refine):
        test_cfg = dict(predict_with=who, refine=refine)
        model = build(refiners=REFINE, test_cfg=test_cfg, teacher=dict(type='EMATeacher')).eval()
        shake(model.teacher.network)
        with torch.no_grad():
            model.segmentor.decode_head.conv_seg.weight.mul_(3)
            model.teacher.network.decode_head.conv_seg.weight.mul_(3)
            return model, model.test_step(originals(batch))

    (plain_model, plain), (_, refined) = predict(False), predict(True)
    # What the teacher says is only in ``seg_logits`` when it predicts alone.
    plain_model.predict_with = 'teacher'
    with torch.no_grad():
        teachers = plain_model.test_step(originals(batch))
    changed = 0
    for one, other, size, taught in zip(plain, refined, SIZES, teachers):
        logits = other.seg_logits.data
        assert torch.equal(logits, one.seg_logits.data) and logits.shape == (3, *size)
        pairs = [(other.pred_sem_seg.data, one.pred_sem_seg.data, logits)]
        if who == 'both':
            maps = [result.teacher_pred_sem_seg.data for result in (other, one)]
            pairs.append((*maps, taught.seg_logits.data))
        for ours, before, scores in pairs:
            wanted = refine_neighborhood(scores[None].softmax(1), window=7, neighbors=3)
            assert ours.shape == (1, *size) and ours.dtype == before.dtype
            assert torch.equal(ours, wanted.argmax(1))
            assert torch.equal(before[0], scores.argmax(0))
            changed += int((ours != before).sum())
    assert changed > 10, changed


def test_refinement_at_test_time_needs_a_refiner_of_probabilities(build):
    with pytest.raises(ValueError, match=r'test_cfg\.refine=True.*NeighborhoodRefiner'):
        build(test_cfg=dict(refine=True))
    with pytest.raises(ValueError, match=r'test_cfg\.refine=True.*NeighborhoodRefiner'):
        build(refiners=dict(select=QUANTILE), test_cfg=dict(refine=True))
    assert not build(refiners=S4MC).refine_at_test
