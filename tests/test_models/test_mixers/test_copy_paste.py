"""AEL's copy-paste between labeled images."""

from __future__ import annotations

import pytest
import torch

from mmseg_semi.models.mixers import copy_paste

from ..helpers import integers, noise, spy


@pytest.fixture
def paste(build_ael, monkeypatch):
    """Run CopyPaste on random images; return inputs, outputs and what was drawn."""

    def run(truth, confidence=(0.1, 0.5, 0.9), **options):
        options = dict(type='CopyPaste', **{'prob': 1.0, **options})
        model = build_ael(labeled_mixer=options, confidence=list(confidence))
        drawn = spy(monkeypatch, copy_paste, 'draw_classes')
        partners = spy(monkeypatch, copy_paste, 'mix_partners')
        images = noise(len(truth), 3, *truth.shape[1:])
        return images, model.labeled_mixer(images, truth, None), drawn, partners

    return run


@pytest.mark.parametrize('number', [1, 2, 3, 8])
def test_copy_paste_is_the_loop_over_pixels(paste, number):
    truth = integers(4, 4, 6, 7)
    truth[truth == 3] = 255
    images, (mixed, label), drawn, partners = paste(truth, num_classes=number)
    ((weights, *_), classes), ((_, partner),) = drawn[0], partners
    confidence = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    torch.testing.assert_close(weights, (1 - confidence).sqrt().softmax(0))
    assert classes.shape == (4, min(number, 3))
    pasted = 0
    for b in range(4):
        for y in range(6):
            for x in range(7):
                there = int(truth[partner[b], y, x])
                taken = there in classes[b].tolist()
                pasted += taken
                origin = int(partner[b]) if taken else b
                assert torch.equal(mixed[b, :, y, x], images[origin, :, y, x])
                assert label[b, y, x] == truth[origin, y, x]
    assert pasted > 10
    if number >= 3:  # everything known is pasted, so only what nobody knows stays
        assert torch.equal(label, torch.where(truth[partner] == 255, truth, truth[partner]))


def test_copy_paste_leaves_most_images_at_a_low_probability(paste):
    truth = integers(3, 400, 3, 3)
    images, (mixed, _), _, _ = paste(truth, prob=0.2, num_classes=3)
    changed = (mixed != images).flatten(1).any(1).float().mean()
    assert 0.12 < changed < 0.28
    images, (mixed, label), _, _ = paste(truth, prob=0.0)
    assert torch.equal(mixed, images) and torch.equal(label, truth)


def test_copy_paste_of_one_image_says_so_once(build_ael, monkeypatch):
    said = []
    monkeypatch.setattr(copy_paste, 'print_log', lambda text, **_: said.append(text))
    mixer = build_ael(labeled_mixer=dict(type='CopyPaste')).labeled_mixer
    images, truth = noise(1, 3, 4, 4), integers(3, 1, 4, 4)
    for _ in range(2):
        got = mixer(images, truth, None)
        assert torch.equal(got[0], images) and torch.equal(got[1], truth)
    assert len(said) == 1 and 'needs two labeled images' in said[0]
