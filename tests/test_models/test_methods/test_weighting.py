"""Weighting Pseudo-Labels: the paper's constants, with a teacher, and other architectures."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict

from mmseg_semi.models.memories import FeatureMemoryBank
from mmseg_semi.models.refiners import DetectionAgreement, RankStatisticsWeight

from ..conftest import segmentor
from ..helpers import run_step, shake
from ..test_segmentors.test_architectures import PREPROCESSOR, ocrnet, segformer
from ..weighting_parts import (
    CHANNELS,
    PADDED,
    SIZE,
    K,
    Record,
    after,
    bank_of,
    check_equal,
    hook_of,
    prototypes_of,
    pushed,
    rank_weight,
)

METHOD = Path(__file__).parents[3] / 'configs/_base_/methods/weighting.py'


def test_defaults_are_those_of_the_paper(build):
    weight, agreement = RankStatisticsWeight(), DetectionAgreement()
    assert (weight.k, weight.base_weight, weight.similarity, weight.tap) == (
        *(5, 0.0, 'rank', 'penultimate'),
    )
    assert agreement.min_confidence == 0.95 and not agreement.restrict
    bank = FeatureMemoryBank(3, 4)
    assert (bank.size, bank.min_confidence) == (256, 0.95)
    method = Config.fromfile(str(METHOD)).method
    cfg = ConfigDict(
        segmentor=segmentor(channels=CHANNELS), **{k: v for k, v in method.items() if k != 'type'}
    )
    model = build(**cfg)
    assert list(model.refiners) == ['select', 'agreement', 'weight']
    assert bank_of(model).features.shape == (2, 3, 256, CHANNELS)
    weights = {name: loss.loss_weight for name, loss in model.losses.items()}
    assert weights == dict(strong=0.2, perturbed=0.2) and model.supervised_weight == 1


def test_with_an_ema_teacher_weights_and_reliable_features_are_the_teachers(
    weighting, boxed, monkeypatch
):
    record = Record(monkeypatch)
    model = weighting(teacher=dict(type='EMATeacher'))
    shake(model.teacher.network)
    hook, bank = hook_of(model), bank_of(model)
    fifo = [[deque(maxlen=SIZE) for _ in range(3)] for _ in range(2)]
    for iteration in range(3):
        step, _ = run_step(model, boxed(seed=iteration, **PADDED))
        features = step.teacher.features['penultimate']
        assert not torch.equal(features, step.weak.features['penultimate'])
        expected = rank_weight(features, step.pseudo.label, prototypes_of(fifo), K)
        torch.testing.assert_close(step.pseudo.weight, expected)
        after(hook, model, iteration)
        for queues, new in zip(fifo, pushed(step, 'penultimate', record.take())):
            for queue, one in zip(queues, new):
                queue.extend(one)
        check_equal(bank, fifo)
    assert bank.counts[0].any() and bank.counts[1].any()


@pytest.mark.parametrize('architecture, grid', [(segformer, 16), (ocrnet, 8)])
def test_transformers_and_cascades(weighting, boxed, monkeypatch, architecture, grid):
    record = Record(monkeypatch)
    cfg = dict(architecture(), data_preprocessor=PREPROCESSOR, test_cfg=dict(mode='whole'))
    model = weighting(segmentor=cfg, teacher=dict(type='EMATeacher'))
    hook, bank = hook_of(model), bank_of(model)
    fifo = [[deque(maxlen=SIZE) for _ in range(3)] for _ in range(2)]
    sizes = dict(labeled=((64, 64),) * 2, unlabeled=((64, 64),) * 2)
    for iteration in range(2):
        step, losses = run_step(model, boxed(seed=iteration, **sizes))
        features = step.teacher.features['penultimate']
        assert features.shape == (2, 8, grid, grid) and bank.channels == 8
        expected = rank_weight(features, step.pseudo.label, prototypes_of(fifo), K)
        torch.testing.assert_close(step.pseudo.weight, expected)
        after(hook, model, iteration)
        for queues, new in zip(fifo, pushed(step, 'penultimate', record.take())):
            for queue, one in zip(queues, new):
                queue.extend(one)
        check_equal(bank, fifo)
        total = model.parse_losses(losses)[0]
        assert total.isfinite()
    assert bank.counts.any() and 0 < expected.mean() < 1
