"""AEL's copy-paste between labeled images."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from mmseg_semi.models.mixers import copy_paste

from ..helpers import integers, noise, run_step, spy


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


def test_classes_are_drawn_once_for_the_batch_and_with_replacement(build_ael):
    weights = torch.tensor([1 - 0.1, 1 - 0.5, 1 - 0.9]).sqrt().softmax(0)
    options = dict(type='CopyPaste', num_classes=5, draw='batch')
    mixer = build_ael(labeled_mixer=options, confidence=[0.1, 0.5, 0.9]).labeled_mixer
    torch.manual_seed(0)
    drawn = torch.stack([mixer.drawn(4) for _ in range(1000)])
    assert drawn.shape == (1000, 4, 5)
    assert torch.equal(drawn, drawn[:, :1].expand_as(drawn)), 'the same for all images'
    share = drawn[:, 0].flatten().bincount() / 5000
    assert (share - weights).abs().max() < 4 * (0.25 / 5000) ** 0.5


@pytest.mark.parametrize('draw', ['image', 'batch'])
def test_ignored_classes_are_never_pasted(build_ael, draw):
    options = dict(type='CopyPaste', num_classes=3, draw=draw, ignore_classes=(0, 2))
    mixer = build_ael(labeled_mixer=options).labeled_mixer
    assert {int(k) for _ in range(50) for k in mixer.drawn(3).flatten()} == {1}


def test_without_a_loader_of_images_the_hook_is_named(build_ael, batch):
    model = build_ael(
        without=['LabeledSourceHook'], labeled_mixer=dict(type='CopyPaste', source='dataset')
    )
    with pytest.raises(RuntimeError, match="only LabeledSourceHook.*'type': 'LabeledSourceHook'"):
        run_step(model, batch(views=1))


def test_classes_come_from_loaded_images(build_ael, batch):
    """Normalized and padded as the batch is; padding (255) is not pasted."""
    options = dict(type='CopyPaste', num_classes=3, prob=1.0, source='dataset')
    model = build_ael(labeled_mixer=options)
    loaded = batch(labeled=((32, 32), (20, 24)), seed=9)['labeled']
    asked = []
    model.labeled_mixer.loader = lambda number: asked.append(number) or deepcopy(loaded)
    step, _ = run_step(model, batch(views=1))
    assert asked == [2]
    wanted = (loaded['inputs'][1].flip(0).float() - 100) / 50
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[:20, :24] = True
    assert torch.equal(step.labeled_images[1][:, :20, :24], wanted)
    truth = step.labeled_truth[1]
    assert torch.equal(truth[:20, :24], loaded['data_samples'][1].gt_sem_seg.data[0])
    own = run_step(build_ael(), batch(views=1))[0]
    assert torch.equal(step.labeled_images[1][:, ~inside], own.labeled_images[1][:, ~inside])
    assert torch.equal(truth[~inside], own.labeled_truth[1][~inside])
