"""A frozen encoder is held once and asked once, with the results of the plain path."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper

from ..conftest import segmentor
from ..helpers import hooked, run_step

FROZEN = dict(type='DINOv2', arch='small', depth=1, out_indices=(0,), frozen=True)
STRONG = dict(perturbation=dict(type='FeatureDropout', complementary=True, untouched=0.5))


def frozen(build, **backbone):
    """The student sees the weak images that its teacher labels."""
    cfg = segmentor(in_channels=384, in_index=0)
    cfg.update(backbone={**FROZEN, **backbone})
    cfg['data_preprocessor']['size'] = (28, 28)
    streams = dict(strong=STRONG, weak=dict(images='weak'))
    model = build(
        segmentor=cfg,
        teacher=dict(type='EMATeacher', momentum=0.9),
        streams=streams,
        mixer=dict(type='CutMix', prob=1.0, partner='reversed'),
        losses=dict(
            strong=dict(type='PseudoLabelCrossEntropy', stream='strong'),
            weak=dict(type='PseudoLabelCrossEntropy', stream='weak'),
        ),
        refiners=dict(select=dict(type='ConfidenceThreshold', threshold=0.0)),
    )
    torch.manual_seed(1)
    for value in model.segmentor.backbone.parameters():
        torch.nn.init.normal_(value, std=0.1)
    model.teacher.reset()
    return hooked(model).train()


@pytest.fixture
def data(batch):
    return batch(labeled=((28, 28),) * 2, unlabeled=((28, 28),) * 2)


def seen_by(model, monkeypatch):
    """Numbers of images of each call of an encoder."""
    counts = []
    for network in {id(one): one for one in (model.segmentor, model.teacher.network)}.values():
        forward = network.backbone._encode
        if not hasattr(forward, 'counted'):

            def encode(x, forward=forward):
                counts.append(len(x))
                return forward(x)

            encode.counted = True
            monkeypatch.setattr(network.backbone, '_encode', encode)
    return counts


def test_a_view_that_student_and_teacher_see_is_encoded_once(build, data, monkeypatch):
    """2 labeled and 2 weak images in one pass, then 2 x 2 mixed ones; not the weak ones again."""
    model = frozen(build)
    assert model.teacher.network.backbone is model.segmentor.backbone
    counts = seen_by(model, monkeypatch)
    torch.manual_seed(0)
    step, losses = run_step(model, data)
    total, _ = model.parse_losses(losses)
    total.backward()
    assert counts == [4, 4]
    plain = frozen(build)
    plain.frozen_encoder = False
    plain.teacher.set_network(deepcopy(plain.segmentor))
    plain.load_state_dict(model.state_dict())
    counts = seen_by(plain, monkeypatch)
    torch.manual_seed(0)
    other, others = run_step(plain, data)
    plain.parse_losses(others)[0].backward()
    assert counts == [4, 2, 4], 'labeled and weak, weak of the teacher, strong'
    assert {name: float(value) for name, value in losses.items()} == pytest.approx(
        {name: float(value) for name, value in others.items()}, rel=1e-5
    )
    assert torch.equal(step.pseudo.label, other.pseudo.label)
    for ours, theirs in zip(model.segmentor.parameters(), plain.segmentor.parameters()):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_nothing_of_it_is_trained_moved_or_kept_by_the_optimizer(build, data):
    model = frozen(build)
    assert not model.segmentor.backbone.training and model.segmentor.decode_head.training
    before = deepcopy(model.state_dict())
    wrapper = build_optim_wrapper(
        model, ConfigDict(optimizer=dict(type='AdamW', lr=0.1, weight_decay=0.1))
    )
    model.train_step(deepcopy(data), wrapper)
    model.teacher.move(5)
    trained = {id(one) for one in model.segmentor.decode_head.parameters()}
    assert {id(one) for one in wrapper.optimizer.state} <= trained
    for name, value in model.state_dict().items():
        if '.backbone.' in f'.{name}':
            assert torch.equal(value, before[name]), name
    assert not torch.equal(
        model.state_dict()['teacher.decode_head.conv_seg.weight'],
        before['teacher.decode_head.conv_seg.weight'],
    )


def test_an_encoder_that_is_trained_is_the_teachers_own(build, data, monkeypatch):
    model = frozen(build, frozen=False)
    assert model.teacher.network.backbone is not model.segmentor.backbone
    counts = seen_by(model, monkeypatch)
    run_step(model, data)
    assert counts == [4, 2, 4]


def test_images_of_another_step_are_encoded_anew(build, data, monkeypatch):
    model = frozen(build)
    counts = seen_by(model, monkeypatch)
    prepared = model.data_preprocessor(deepcopy(data), True)
    for _ in range(2):
        model(**prepared, mode='loss')
        assert not model.encoded._seen
    assert counts == [4, 4] * 2
