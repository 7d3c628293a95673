from __future__ import annotations

import math

import pytest
import torch

from mmseg_semi.functional import class_peaks, presence_confidence


def reference_peaks(prob, valid):
    """Pixel by pixel; ties of the prediction go to the smaller class."""
    batch, classes, height, width = prob.shape
    peaks = [-math.inf] * classes
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                if not valid[b, y, x]:
                    continue
                values = prob[b, :, y, x].tolist()
                predicted = values.index(max(values))
                peaks[predicted] = max(peaks[predicted], max(values))
    return peaks


def reference_presence(prob, valid):
    present = [peak for peak in reference_peaks(prob, valid) if peak > -math.inf]
    return sum(present) / len(present) if present else math.nan


def softmax(batch=2, classes=5, size=(6, 7), seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(batch, classes, *size, generator=generator)
    return logits.softmax(1), torch.rand(batch, *size, generator=generator) > 0.3


def pixels(*columns):
    """Probabilities of an image of one row, one tuple per pixel: (1, K, 1, W)."""
    return torch.tensor(columns).t().reshape(1, len(columns[0]), 1, -1)


@pytest.mark.parametrize('classes', [1, 2, 5, 30])
@pytest.mark.parametrize('seed', [0, 1, 2])
def test_equals_the_loops(classes, seed):
    prob, valid = softmax(classes=classes, seed=seed)
    peaks = class_peaks(prob, valid)
    assert peaks.shape == (classes,)
    assert peaks.tolist() == reference_peaks(prob, valid)
    delta = presence_confidence(prob, valid)
    assert delta.shape == ()
    assert delta.item() == pytest.approx(reference_presence(prob, valid), rel=1e-6)


def test_by_hand():
    prob = pixels((0.7, 0.2, 0.1), (0.6, 0.3, 0.1), (0.1, 0.1, 0.8), (0.05, 0.05, 0.9))
    valid = torch.tensor([[[True, True, True, False]]])
    # Class 1 is predicted nowhere, the 0.9 of class 2 is invalid.
    assert class_peaks(prob, valid).tolist() == pytest.approx([0.7, -math.inf, 0.8])
    assert presence_confidence(prob, valid).item() == pytest.approx(0.75)
    # The high probability that a class has where another is predicted does not count.
    prob = pixels((0.45, 0.55), (0.4, 0.6))
    assert class_peaks(prob, valid[..., :2]).tolist() == pytest.approx([-math.inf, 0.6])
    assert presence_confidence(prob, valid[..., :2]).item() == pytest.approx(0.6)


def test_a_class_with_invalid_pixels_only_is_absent():
    prob = pixels((0.8, 0.2), (0.3, 0.7), (0.4, 0.6))
    valid = torch.tensor([[[True, False, False]]])
    assert class_peaks(prob, valid).tolist() == pytest.approx([0.8, -math.inf])
    assert presence_confidence(prob, valid).item() == pytest.approx(0.8)


def test_peaks_are_over_the_whole_batch():
    prob = torch.cat([pixels((0.8, 0.2)), pixels((0.9, 0.1)), pixels((0.3, 0.7))])
    valid = torch.ones(3, 1, 1, dtype=torch.bool)
    assert class_peaks(prob, valid).tolist() == pytest.approx([0.9, 0.7])
    # A mean over images, or over pixels, would be another number.
    assert presence_confidence(prob, valid).item() == pytest.approx(0.8)


def test_no_valid_pixel():
    prob, valid = softmax()
    nothing = torch.zeros_like(valid)
    assert class_peaks(prob, nothing).tolist() == [-math.inf] * 5
    delta = presence_confidence(prob, nothing)
    assert delta.shape == () and torch.isnan(delta)


def test_ties_go_to_the_smaller_class():
    valid = torch.ones(1, 1, 1, dtype=torch.bool)
    assert class_peaks(pixels((0.4, 0.2, 0.4)), valid).tolist() == pytest.approx(
        [0.4, -math.inf, -math.inf]
    )
    assert class_peaks(pixels((0.1, 0.3, 0.3, 0.3)), valid).tolist() == pytest.approx(
        [-math.inf, 0.3, -math.inf, -math.inf]
    )
    # A large map of ties, so that no vectorized path breaks them otherwise.
    prob = torch.full((2, 19, 33, 35), 1 / 19)
    valid = torch.ones(2, 33, 35, dtype=torch.bool)
    assert class_peaks(prob, valid).isfinite().tolist() == [True] + [False] * 18
    # Values of few kinds: many ties.
    generator = torch.Generator().manual_seed(3)
    prob = torch.randint(1, 4, (2, 6, 9, 10), generator=generator) / 4
    valid = torch.rand(2, 9, 10, generator=generator) > 0.9
    assert class_peaks(prob, valid).tolist() == reference_peaks(prob, valid)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    for seed in range(3):
        prob, valid = softmax(seed=seed)
        prob = prob.to(dtype)
        # A maximum is exact in every precision.
        assert class_peaks(prob, valid).tolist() == reference_peaks(prob, valid)
        expected = reference_presence(prob, valid)
        assert presence_confidence(prob, valid).item() == pytest.approx(expected, rel=1e-6)
        assert torch.isnan(presence_confidence(prob, torch.zeros_like(valid)))


def test_inputs_are_neither_modified_nor_need_to_be_contiguous():
    prob, valid = softmax()
    copies = prob.clone(), valid.clone()
    strided = prob.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert class_peaks(strided, valid).tolist() == reference_peaks(prob, valid)
    presence_confidence(prob, valid)
    assert torch.equal(prob, copies[0]) and torch.equal(valid, copies[1])
