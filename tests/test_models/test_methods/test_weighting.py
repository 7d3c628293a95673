"""Weighting Pseudo-Labels: the paper's constants, with a teacher, and other architectures."""

from __future__ import annotations

import math
from collections import deque
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict

from mmseg_semi.models.memories import FeatureMemoryBank
from mmseg_semi.models.refiners import DetectionAgreement, RankStatisticsWeight

from ..by_hand import hand_step, identity_model, method_of, plain
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
    assert (bank.size, bank.min_confidence, bank.shared) == (256, 0.95, True)
    method = Config.fromfile(str(METHOD)).method
    cfg = ConfigDict(
        segmentor=segmentor(channels=CHANNELS), **{k: v for k, v in method.items() if k != 'type'}
    )
    model = build(**cfg)
    assert list(model.refiners) == ['select', 'agreement', 'weight']
    assert bank_of(model).features.shape == (1, 3, 256, CHANNELS)
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


def test_a_step_of_the_paper_by_hand():
    """The features and the logits of a pixel are its three colors, of which k = 2 are compared.

    The bank knows (3, 2, 0) of class 0, whose top channels are 0 and 1, and (0, 3, 2) of class 1:
    1 and 2. Weak image 0 is (9, 1, 0) everywhere, class 0 surely, and shares both: w = 1. Image 1
    is (1, 9, 0), class 1, and shares channel 1 alone: w = 1/2. Both have the cross entropy
    d = ln(1 + e^-8 + e^-9) as they are; the strong views are (0, 0, 0): ln 3; the labeled too.

    L_s = ln 3. Each strong view: (16 ln 3 + 16 ln 3 / 2) / 32 = 3/4 ln 3, of which the mean counts
    0.4 (1/4 + 1/4) = 0.2; perturbed (nothing is dropped here): 3/4 d, times 0.4 / 2 = 0.2.

    A box of class 0 covers the left half of image 0, so 8 pixels are reliable. As many as there
    are images, 2, enter the one queue of class 0. No labeled pixel does: they have 1/3.
    """
    method = method_of('weighting')
    for stream in method['streams'].values():
        if stream.get('perturbation'):
            stream['perturbation']['prob'] = 0.0
    method['mixer']['prob'] = 0.0
    method['refiners']['weight']['k'] = 2  # 5 of 256 channels in the paper
    model = identity_model(method)
    bank = bank_of(model)
    bank.features[0, 0, 0] = torch.tensor([3.0, 2, 0])
    bank.features[0, 1, 0] = torch.tensor([0.0, 3, 2])
    bank.counts[0, :2] = bank.heads[0, :2] = 1
    boxes = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    boxes[0, 0, :, :2] = 1
    step, losses, total = hand_step(
        model,
        plain((0, 0, 0), (0, 0, 0)),
        torch.tensor([1, 2])[:, None, None].expand(2, 4, 4),
        plain((9, 1, 0), (1, 9, 0)),
        [plain((0, 0, 0), (0, 0, 0))] * 2,
        detections=boxes,
    )
    assert step.pseudo.weight.flatten(1).unique(dim=1).tolist() == [[1.0], [0.5]]
    three, small = math.log(3), math.log1p(math.exp(-8) + math.exp(-9))
    assert float(losses['decode.loss_ce']) == pytest.approx(three, rel=1e-6)
    assert float(losses['strong.loss']) == pytest.approx(0.15 * three, rel=1e-6)
    assert float(losses['perturbed.loss']) == pytest.approx(0.15 * small, rel=1e-3)
    assert float(total) == pytest.approx(1.15 * three + 0.15 * small, rel=1e-6)
    assert step.pseudo.reliable.sum() == 8
    bank.update_state()
    assert bank.counts.tolist() == [[3, 1, 0]]
    assert bank.features[0, 0, :4].tolist() == [[3, 2, 0], [9, 1, 0], [9, 1, 0], [0, 0, 0]]
    prototypes, known = bank.prototypes()
    assert known.tolist() == [True, True, False]
    torch.testing.assert_close(prototypes[0], torch.tensor([7.0, 4 / 3, 0]))
