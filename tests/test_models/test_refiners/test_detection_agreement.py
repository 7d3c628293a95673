"""Pixels that a detected box confirms."""

from __future__ import annotations

import pytest
import torch

from mmseg_semi.models.segmentors import run_state

from ..helpers import run_step
from ..weighting_parts import (
    AGREE,
    PADDED,
    REFINERS,
    SELECT,
    SURE,
    agreed_of,
    hook_of,
)


@pytest.mark.parametrize(
    'options, exempt', [(dict(), None), (dict(restrict=True), ()), (dict(exempt=[0, 2]), (0, 2))]
)
def test_reliable_restrict_and_exempt(weighting, boxed, options, exempt):
    if exempt:
        options = dict(options, restrict=True)
    model = weighting(refiners=dict(REFINERS, agreement=dict(AGREE, **options)))
    data = boxed(**PADDED)
    data['unlabeled']['data_samples'][0].valid.data[:, :12] = False  # boxes reach into it
    step, losses = run_step(model, data)
    agreed, confidence = agreed_of(step), step.raw_pseudo.confidence
    assert torch.equal(step.pseudo.reliable, agreed & (confidence > SURE))
    assert 0 < step.pseudo.reliable.sum() < agreed.sum() < step.valid.sum()
    share = step.pseudo.reliable.sum() / step.valid.sum()
    torch.testing.assert_close(losses['agreement.reliable'], share)
    selected = step.valid & (confidence > 0.4)
    if exempt is not None:
        spared = torch.zeros_like(agreed)
        for number in exempt:
            spared |= step.pseudo.label == number
        assert (selected & ~(agreed | spared)).any()
        selected = selected & (agreed | spared)
    assert torch.equal(step.pseudo.used, selected)


def test_a_batch_without_detections_is_refused(weighting, batch, boxed):
    model = weighting()
    message = (
        r'model\.refiners\.agreement \(DetectionAgreement\): .*no map .detections.*unlabeled\.det'
    )
    with pytest.raises(ValueError, match=message):
        run_step(model, batch())
    late = weighting(warmup_iters=3)  # not after the warm-up, but at the start
    hook_of(late)
    late.set_progress(0, 10)
    with pytest.raises(ValueError, match=message):
        run_step(late, batch())
    mixed = boxed()
    del mixed['unlabeled']['data_samples'][1].detections
    with pytest.raises(ValueError, match="have the map 'detections' and some do not"):
        run_step(model, mixed)


@pytest.fixture
def said(monkeypatch):
    texts = []
    monkeypatch.setattr(run_state, 'print_log', lambda text, **_: texts.append(text))
    return texts


def test_boxes_that_nobody_reads_are_said_once(build, boxed, said):
    model = build(refiners=dict(select=SELECT)).train()
    for _ in range(2):
        run_step(model, boxed())
    assert len(said) == 1 and "the map 'detections', but no component reads it" in said[0]


def test_boxes_that_are_read_are_not_spoken_of(build, boxed, said):
    model = build(refiners=dict(select=SELECT, agreement=AGREE)).train()
    run_step(model, boxed())
    assert said == []


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(min_confidence=1.5), r'min_confidence must be a number in \[0, 1\], got 1\.5'),
        (dict(restrict=1), r'restrict must be one of \(True, False\), got 1'),
        (dict(restrict=True, exempt=0), r'exempt must be a list of values, got 0'),
        (dict(restrict=True, exempt='0'), r"exempt must be a list of values, got '0'"),
        (dict(restrict=True, exempt=[-1]), r'exempt must be a whole number >= 0, got -1'),
        (dict(restrict=True, exempt=[0, 3]), r'exempt=\(0, 3\) has a class .*0 to 2'),
        (dict(exempt=[0]), r'exempt=\(0,\) has no effect: set restrict=True'),
    ],
)
def test_wrong_arguments_of_the_agreement(build, wrong, message):
    refiners = dict(REFINERS, agreement={**AGREE, **wrong})
    with pytest.raises(ValueError, match=rf'model\.refiners\.agreement: DetectionAgr.*\.{message}'):
        build(refiners=refiners)
