"""CSL's and CoVar's weights against numpy's singular vectors, pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mmseg_semi.functional import scaled_residual_variance, separation_weight


def probabilities(seed, classes=5, size=12, images=3):
    source = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(images, classes, size, size, generator=source).double()
    valid = torch.rand(images, size, size, generator=source) < 0.8
    return logits.softmax(1), valid


def test_the_variance_by_hand():
    """0.3 and 0.1 besides 0.6: variance 0.01, times 2^2 / (2 * 0.4)."""
    prob = torch.tensor([0.3, 0.6, 0.1]).view(1, 3, 1, 1)
    assert scaled_residual_variance(prob).item() == pytest.approx(0.05, rel=1e-5)
    even = torch.tensor([0.2, 0.6, 0.2]).view(1, 3, 1, 1)
    assert scaled_residual_variance(even).item() == pytest.approx(0, abs=1e-7)
    sure = torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1)
    assert scaled_residual_variance(sure).item() == 0
    # Two classes: there is one other.
    prob = torch.tensor([0.3, 0.7]).view(1, 2, 1, 1)
    assert scaled_residual_variance(prob).item() == pytest.approx(0, abs=1e-7)
    with pytest.raises(ValueError, match='at least 2 classes'):
        scaled_residual_variance(torch.ones(1, 1, 2, 2))


def reference(prob, valid, variance_weight, alpha):
    """One image: (K, H, W) and (H, W), float64."""
    sorted_ = np.sort(prob, axis=0)
    confidence, others = sorted_[-1], sorted_[:-1]
    factor = len(others) ** 2 / (2 * (1 - confidence))
    points = np.stack([confidence, others.var(axis=0) * factor], -1)[valid]
    right = np.linalg.svd(points.T, full_matrices=False)[2].T
    group = np.abs(right).argmax(1)
    best = max(
        (points[group == number] for number in set(group)),
        key=lambda one: one[:, 0].mean() - variance_weight * one[:, 1].mean(),
    )
    z = (points - best.mean(0)) / np.sqrt(best.var(0, ddof=1) + 1e-8)
    above = z[:, 0], -z[:, 1]
    sure = (above[0] > 0) | (above[1] > 0)
    weight = np.zeros(valid.shape)
    weight[valid] = np.where(sure, 1, np.exp(-(z**2).sum(1) / alpha))
    return weight


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize(('variance_weight', 'alpha'), [(0.25, 8.0), (2.0, 2.0)])
def test_weights_are_those_of_each_image_alone(seed, variance_weight, alpha):
    prob, valid = probabilities(seed)
    found = separation_weight(prob, valid, variance_weight, alpha)
    for number in range(len(prob)):
        one = prob[number].numpy(), valid[number].numpy()
        wanted = reference(*one, variance_weight, alpha)
        assert found[number].numpy() == pytest.approx(wanted, abs=1e-9)
        assert (wanted[one[1]] < 1).any() and (wanted == 1).any()


def test_single_precision_gives_the_same_weights():
    prob, valid = probabilities(7)
    exact, found = separation_weight(prob, valid), separation_weight(prob.float(), valid)
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < 1e-3


def test_sure_pixels_weigh_more():
    """Two kinds of pixels: .9 with even others, .4 against .35."""
    sure = torch.tensor([0.9, 0.05, 0.05]).view(3, 1)
    torn = torch.tensor([0.4, 0.35, 0.25]).view(3, 1)
    noise = 0.01 * torch.randn(3, 64, generator=torch.Generator().manual_seed(0)).abs()
    prob = torch.cat([sure.expand(3, 32), torn.expand(3, 32)], 1) + noise
    prob = (prob / prob.sum(0)).view(1, 3, 8, 8)
    weight = separation_weight(prob, torch.ones(1, 8, 8, dtype=torch.bool))[0].flatten()
    assert weight[:32].mean() > 0.8 and weight[32:].max() < 1e-6


@pytest.mark.parametrize('classes', [2, 3])
def test_images_of_one_kind_of_pixels_and_of_padding(classes):
    prob = torch.full((2, classes, 4, 4), 0.5 / (classes - 1))
    prob[:, 0] = 0.5 + 1e-3
    prob /= prob.sum(1, keepdim=True)
    valid = torch.zeros(2, 4, 4, dtype=torch.bool)
    valid[0] = True
    weight = separation_weight(prob, valid)
    assert (weight[1] == 0).all() and torch.isfinite(weight).all()
    assert weight[0] == pytest.approx(np.ones((4, 4)), abs=1e-2)
    assert math.isclose(float(weight[0, 0, 0]), float(weight[0, 3, 3]))
