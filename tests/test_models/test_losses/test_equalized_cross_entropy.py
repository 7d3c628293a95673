"""AEL's dynamic re-weighting and equalization in ``PseudoLabelCrossEntropy``."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mmseg_semi.functional import weighted_cross_entropy
from mmseg_semi.models.losses import pseudo_label_cross_entropy as loss_module
from mmseg_semi.structures import PseudoLabel, View

from ..conftest import AEL_LOSS as LOSS
from ..helpers import noise, spy


def view_of(logits, pseudo):
    return View(pseudo=pseudo, outputs=SimpleNamespace(logits=logits))


@pytest.fixture
def noisy():
    pseudo = PseudoLabel.from_logits(2 * noise(2, 3, 9, 8), noise(2, 9, 8, seed=1) > -1)
    return pseudo.update(selected=pseudo.confidence > 0.5, weight=noise(2, 9, 8, seed=2).sigmoid())


@pytest.mark.parametrize('denominator', ['valid', 'selected', 'weight'])
def test_the_loss_is_bit_for_bit_the_old_one_by_default(build, noisy, denominator):
    loss = dict(type='PseudoLabelCrossEntropy', denominator=denominator)
    model = build(losses=dict(strong=loss), streams=None)
    for pseudo in (noisy, noisy.update(weight=None)):
        logits = noise(2, 3, 9, 8, seed=7)
        state = torch.get_rng_state()
        got = model.losses['strong'](view_of(logits, pseudo))
        assert torch.equal(state, torch.get_rng_state()), 'no random number is drawn'
        wanted = weighted_cross_entropy(
            logits, pseudo.label, pseudo.valid, pseudo.selected, pseudo.weight, denominator
        )
        assert torch.equal(got, wanted)


@pytest.mark.parametrize('weighted', [True, False])
@pytest.mark.parametrize('gamma', [0.0, 2.0, 0.5])
def test_pixels_are_weighed_by_their_confidence(build_ael, noisy, gamma, weighted):
    loss = dict(LOSS, gamma=gamma, equalize=None)
    pseudo = noisy if weighted else noisy.update(weight=None)
    logits = noise(2, 3, 9, 8, seed=7)
    got = build_ael(losses=dict(strong=loss)).losses['strong'](view_of(logits, pseudo))
    log_prob, total, norm = logits.double().log_softmax(1), 0.0, 0.0
    for b, y, x in pseudo.used.nonzero().tolist():
        factor = float(pseudo.confidence[b, y, x]) ** gamma
        factor *= float(pseudo.weight[b, y, x]) if weighted else 1
        total -= factor * float(log_prob[b, int(pseudo.label[b, y, x]), y, x])
        norm += factor
    assert float(got) == pytest.approx(total / norm, rel=1e-5)


def test_equalized_pixels_are_left_out(build_ael, noisy, monkeypatch):
    kept = spy(monkeypatch, loss_module, 'equalization_mask')
    model = build_ael(confidence=[0.2, 0.6, 1.0], losses=dict(strong=dict(LOSS, gamma=None)))
    logits = noise(2, 3, 9, 8, seed=7)
    got = model.losses['strong'](view_of(logits, noisy))
    ((label, confidence), mask) = kept[0]
    assert torch.equal(label, noisy.label) and confidence.tolist() == [0.2, 0.6, 1.0]
    wanted = weighted_cross_entropy(
        logits, noisy.label, noisy.valid, noisy.selected & mask, noisy.weight, 'weight'
    )
    assert torch.equal(got, wanted) and not mask[noisy.label == 2].any()
    assert mask[noisy.label == 0].all() and mask.float().mean() < 0.9


def test_the_loss_can_be_scaled_by_the_inverse_share(build, noisy):
    """U2PL: all valid pixels over the selected ones, times their mean."""
    loss = dict(type='PseudoLabelCrossEntropy', denominator='selected', scale='inverse_share')
    model = build(losses=dict(strong=loss), streams=None)
    logits = noise(2, 3, 9, 8, seed=7)
    pseudo = noisy.update(weight=None)
    used = pseudo.selected & pseudo.valid
    values = torch.nn.functional.cross_entropy(logits, pseudo.label, reduction='none')[used]
    wanted = pseudo.valid.sum() / used.sum() * values.mean()
    assert 0 < used.sum() < pseudo.valid.sum() < used.numel()
    torch.testing.assert_close(model.losses['strong'](view_of(logits, pseudo)), wanted)
    nothing = pseudo.update(selected=torch.zeros_like(used))
    logits.requires_grad_()
    value = model.losses['strong'](view_of(logits, nothing))
    value.backward()
    assert value == 0 and not logits.grad.any()


def test_the_loss_of_each_image_can_be_scaled_by_its_mean_confidence(build, noisy):
    loss = dict(type='PseudoLabelCrossEntropy', scale='mean_confidence')
    model = build(losses=dict(strong=loss), streams=None)
    logits = noise(2, 3, 9, 8, seed=7)
    value = torch.nn.functional.cross_entropy(logits, noisy.label, reduction='none') * noisy.weight
    total = 0
    for i, valid in enumerate(noisy.valid):
        mean = noisy.confidence[i][valid].mean()
        total = total + mean * value[i][valid & noisy.selected[i]].sum()
    wanted = total / noisy.valid.sum()
    torch.testing.assert_close(model.losses['strong'](view_of(logits, noisy)), wanted)


def test_equalization_by_the_students_prediction(build_ael, noisy):
    """Rates 1, 1/2 and 0 by the student's class; what is left out has no weight either."""
    loss = dict(LOSS, equalize_by='prediction', denominator='valid_weight')
    model = build_ael(confidence=[0.2, 0.6, 1.0], losses=dict(strong=loss))
    logits = noise(2, 3, 9, 8, seed=7)
    torch.manual_seed(3)
    draw = torch.rand(3, 9, 8)
    torch.manual_seed(3)
    got = model.losses['strong'](view_of(logits, noisy))
    total, norm, kept = 0.0, 0.0, 0
    predicted = logits.argmax(1)
    assert not torch.equal(predicted, noisy.label)
    for b, y, x in noisy.valid.nonzero().tolist():
        k = int(predicted[b, y, x])
        if draw[k, y, x] < 1 - (1.0, 0.5, 0.0)[k]:
            continue
        weight = float(noisy.confidence[b, y, x]) ** 2 * float(noisy.weight[b, y, x])
        norm += weight
        if noisy.selected[b, y, x]:
            total -= weight * float(logits[b, :, y, x].log_softmax(0)[noisy.label[b, y, x]])
            kept += 1
    assert 0 < kept < int(noisy.used.sum())
    assert float(got) == pytest.approx(total / norm, rel=1e-5)
