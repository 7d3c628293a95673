"""Class confidences by hand, in the warm-up, on two ranks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mmseg_semi.models.heads import ClassConfidence

from ..helpers import integers, make_step, noise


def labeled_step(logits, truth):
    return make_step(labeled=SimpleNamespace(logits=logits), truth=truth)


def attached(classes=3, **changes):
    head = ClassConfidence(**changes)
    decode = SimpleNamespace(out_channels=classes)
    head.attach(SimpleNamespace(segmentor=SimpleNamespace(decode_head=decode)))
    return head


def mean_by_hand(logits, truth, k):
    """Mean probability of class k where it is true; None where it is not there."""
    prob = logits.double().softmax(1)[:, k][truth == k]
    return float(prob.mean()) if len(prob) else None


@pytest.mark.parametrize('absent', ['skip', 'zero'])
def test_confidence_follows_the_labeled_pixels(absent):
    head = attached(absent=absent, momentum=0.9)
    assert head.values.dtype == torch.float64 and not head.values.any()
    expected = [0.0] * 3
    for seed in range(4):
        logits, truth = 2 * noise(2, 3, 6, 7, seed=seed), integers(3, 2, 6, 7, seed=seed)
        truth[integers(4, 2, 6, 7, seed=9) == 0] = 255
        if seed == 2:
            truth[truth == 1] = 0
        before = head.values.clone()
        assert head.supervised(labeled_step(logits, truth)) == {}
        assert torch.equal(head.values, before), 'the hook moves it, not the step'
        head.update_state()
        head.update_state()  # nothing noted since
        for k in range(3):
            mean = mean_by_hand(logits, truth, k)
            if mean is not None or absent == 'zero':
                expected[k] = 0.9 * expected[k] + 0.1 * (mean or 0.0)
        torch.testing.assert_close(
            head.values, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-9
        )
    head.name = 'confidence'
    step = make_step()
    head.observe(step)
    assert float(step.figures['confidence.min']) == pytest.approx(min(expected))
    assert float(step.figures['confidence.mean']) == pytest.approx(sum(expected) / 3)


def test_losses_read_moved_values_when_they_are_to():
    """c = 0.9 c + 0.1 m within the step; the state moves once, to the same."""
    logits, truth = 2 * noise(2, 3, 6, 7), integers(2, 2, 6, 7)
    for when in ('after', 'before'):
        head = attached(absent='zero', momentum=0.9, when=when)
        head.values.copy_(torch.tensor([0.5, 0.2, 0.8]))
        head.supervised(labeled_step(logits, truth))
        means = [mean_by_hand(logits, truth, k) or 0.0 for k in range(3)]
        moved = [0.9 * c + 0.1 * m for c, m in zip((0.5, 0.2, 0.8), means)]
        read = moved if when == 'before' else [0.5, 0.2, 0.8]
        assert head.current.tolist() == pytest.approx(read, rel=1e-6)
        assert head.values.tolist() == pytest.approx([0.5, 0.2, 0.8]), 'mixers read this'
        head.update_state()
        assert head.values.tolist() == pytest.approx(moved, rel=1e-6)
        assert head.current.tolist() == head.values.tolist()


def test_passes_before_an_update_count_together():
    logits, truth = noise(3, 3, 6, 7), integers(3, 3, 6, 7)
    whole, parts = attached(), attached()
    whole.supervised(labeled_step(logits, truth))
    for part in (slice(0, 1), slice(1, 3)):
        parts.supervised(labeled_step(logits[part], truth[part]))
    whole.update_state()
    parts.update_state()
    torch.testing.assert_close(parts.values, whole.values)


def test_the_warm_up_counts_and_sees_what_the_student_saw(build_ael, batch):
    """The labeled images after copy-paste, whether or not the step goes on."""
    model = build_ael(warmup_iters=1, labeled_mixer=dict(type='CopyPaste', prob=1.0))
    head = model.heads['class_confidence']
    for iteration in (0, 1):
        model.set_progress(iteration, 10)
        seen = []
        notes = head.supervised
        head.supervised = lambda step, notes=notes, seen=seen: seen.append(step) or notes(step)
        losses = model(**model.data_preprocessor(batch(), True), mode='loss')
        del head.supervised
        assert ('strong.loss' in losses) == (iteration == 1)
        assert not any('class_confidence' in key and 'loss' in key for key in losses)
        truth = torch.stack([s.gt_sem_seg.data[0] for s in seen[0].labeled_samples])
        assert not torch.equal(truth, model_truth(batch())), 'copy-paste changed it'
        before = head.values.clone()
        head.update_state()
        for k in range(3):
            mean = mean_by_hand(seen[0].labeled.logits.detach(), truth, k)
            assert float(head.values[k]) == pytest.approx(0.999 * before[k] + 0.001 * mean)


def model_truth(data):
    return torch.stack([s.gt_sem_seg.data[0] for s in data['labeled']['data_samples']])
