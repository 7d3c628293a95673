"""AEL's CutMix: boxes of a class from the batch and from loaded images, and its bank."""

from __future__ import annotations

from functools import reduce
from types import SimpleNamespace

import pytest
import torch

from mmseg_semi.models.heads import ClassConfidence
from mmseg_semi.models.mixers import ClassAwareCutMix, class_aware_cutmix
from mmseg_semi.structures import PseudoLabel

from ..helpers import integers, make_step, noise, spy


def blocks(*images, size=(16, 20), valid=None):
    """A pseudo-label of sure background with rectangles (class, top, bottom, left, right)."""
    label = torch.zeros(len(images), *size, dtype=torch.int64)
    for b, parts in enumerate(images):
        for k, top, bottom, left, right in parts:
            label[b, top:bottom, left:right] = k
    valid = torch.ones(label.shape, dtype=torch.bool) if valid is None else valid
    confidence = 0.5 + 0.5 * noise(*label.shape, seed=4).sigmoid()
    return PseudoLabel(None, None, label, confidence, valid, valid.clone())


def step_of(pseudo, views=1, places=None, model=None):
    """A step whose ``views`` strong views are random; ``model`` loads further images."""
    batch, size = len(pseudo.label), pseudo.label.shape[-2:]
    return make_step(
        pseudo,
        strong=[noise(batch, 3, *size, seed=20 + v) for v in range(views)],
        places=places,
        weak_images=torch.zeros(batch, 3, *size),
        load_partners=None if model is None else model.load_partners,
    )


def mixed_views(mixer, pseudo, step, loader=None):
    """Mix and observe as the model does; ``loader`` labels the images that are loaded."""
    step.partners = mixer.load(step)
    if step.partners is not None:
        labels = [loader.label(number) for number in step.partners.places.tolist()]
        step.partners.pseudo = reduce(PseudoLabel.join, labels)
    views = [mixer(images, pseudo, step) for images in step.strong_images]
    mixer.observe(step)
    return views


def assert_pasted(view, images, pseudo, b, origin, box):
    """Image b shows the box (top, bottom, left, right) of ``origin`` = (image, pseudo, place)."""
    inside = torch.zeros(images.shape[-2:], dtype=torch.bool)
    if box is not None:
        inside[box[0] : box[1], box[2] : box[3]] = True
    other, label, place = origin
    assert torch.equal(view.image[b], torch.where(inside, other[place], images[b]))
    for name in ('label', 'confidence', 'valid', 'selected'):
        ours, theirs = getattr(pseudo, name)[b], getattr(label, name)[place]
        assert torch.equal(getattr(view.pseudo, name)[b], torch.where(inside, theirs, ours)), name


SPREAD = (
    [(1, 2, 5, 3, 9)],  # class 1 alone
    [(2, 9, 14, 10, 18)],  # class 2 alone
    [(1, 11, 15, 0, 4), (2, 0, 3, 12, 20)],
)


def test_cutmix_boxes_the_class_of_a_partner_in_the_batch(build_ael, monkeypatch):
    drawn = spy(monkeypatch, class_aware_cutmix, 'draw_classes')
    mixer = build_ael(confidence=[0.9, 0.5, 0.1]).mixer
    pseudo = blocks(*SPREAD)
    partners_seen = set()
    for seed in range(30):
        torch.manual_seed(seed)
        step = step_of(pseudo, views=2)
        views = mixed_views(mixer, pseudo, step)
        (weights, *_), classes = drawn.pop()
        assert not drawn, 'one draw for all views'
        c = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
        torch.testing.assert_close(weights, (1 - c).softmax(0))
        classes = classes.view(2, 3)
        for v, (view, images) in enumerate(zip(views, step.strong_images)):
            assert view.mix.foreign is None
            torch.testing.assert_close(view.mix(images), view.image, rtol=0, atol=0)
            for b in range(3):
                k, partner = int(classes[v, b]), int(view.mix.partners[b])
                assert partner != b and (pseudo.label[partner] == k).sum() >= 5
                partners_seen.add((b, k, partner))
                y, x = (pseudo.label[partner] == k).nonzero(as_tuple=True)
                box = int(y.min()), int(y.max()) + 1, int(x.min()), int(x.max()) + 1
                assert_pasted(view, images, pseudo, b, (images, pseudo, partner), box)
    assert {(0, 2, 1), (0, 2, 2), (0, 1, 2), (1, 1, 0), (1, 2, 2), (2, 1, 0)} <= partners_seen


def test_predicted_pixels_contain_a_class(build_ael, monkeypatch):
    """Whether they are selected or not; padding and specks are no reason to choose a partner."""
    drawn = spy(monkeypatch, class_aware_cutmix, 'draw_classes')
    mixer = build_ael().mixer
    pseudo = blocks(
        [(1, 0, 4, 0, 4)],
        [(1, 0, 4, 8, 12)],
        [(1, 0, 3, 0, 1)],  # 3 of 320 pixels, less than a hundredth
        [(1, 6, 9, 6, 9), (1, 12, 15, 14, 18), (1, 0, 1, 0, 3)],
        [],
    )
    pseudo.selected[0, :4, :4] = False
    pseudo.valid[1, :, 8:] = False
    chosen, boxes = set(), set()
    for seed in range(40):
        torch.manual_seed(seed)
        step = step_of(pseudo)
        (view,) = mixed_views(mixer, pseudo, step)
        classes = drawn.pop()[1][:, 0]
        chosen |= {int(view.mix.partners[b]) for b in (1, 2, 4) if classes[b] == 1}
        if classes[4] == 1 and view.mix.partners[4] == 3:
            y, x = view.mix.mask[4].nonzero(as_tuple=True)
            boxes.add((int(y.min()), int(y.max()) + 1, int(x.min()), int(x.max()) + 1))
    assert chosen == {0, 3}
    assert boxes == {(6, 9, 6, 9), (12, 15, 14, 18)}, 'one component each time'


def test_without_the_class_half_of_another_image(build_ael, monkeypatch):
    drawn = spy(monkeypatch, class_aware_cutmix, 'draw_classes')
    mixer = build_ael(mixer=dict(type='ClassAwareCutMix', extra_loads=False)).mixer
    pseudo, windows = blocks([], [], []), set()
    for seed in range(30):
        torch.manual_seed(seed)
        step = step_of(pseudo)
        (view,) = mixed_views(mixer, pseudo, step)
        for b in (drawn.pop()[1][:, 0] != 0).nonzero()[:, 0].tolist():
            assert view.mix.partners[b] != b
            y, x = view.mix.mask[b].nonzero(as_tuple=True)
            assert 140 < len(y) < 180  # half of 16 x 20, rounded
            windows.add((int(y.min()), int(x.min())))
            box = int(y.min()), int(y.max()) + 1, int(x.min()), int(x.max()) + 1
            images = step.strong_images[0]
            partner = int(view.mix.partners[b])
            assert_pasted(view, images, pseudo, b, (images, pseudo, partner), box)
        assert float(step.figures['mixer.with_class']) <= 1
    assert len(windows) > 20


def test_images_are_mixed_with_the_given_probability(build_ael):
    pseudo = blocks(*[SPREAD[0]] * 200)
    for prob in (0.0, 0.3):
        mixer = build_ael(mixer=dict(type='ClassAwareCutMix', prob=prob, extra_loads=False)).mixer
        torch.manual_seed(0)
        (view,) = mixed_views(mixer, pseudo, step_of(pseudo))
        share = view.mix.mask.flatten(1).any(1).float().mean()
        assert 0.2 * bool(prob) <= share <= (0.4 if prob else 0)


def test_one_image_without_loads_stays_as_it_is(build_ael, monkeypatch):
    said = []
    monkeypatch.setattr(class_aware_cutmix, 'print_log', lambda text, **_: said.append(text))
    mixer = build_ael(mixer=dict(type='ClassAwareCutMix', extra_loads=False)).mixer
    pseudo = blocks(SPREAD[0])
    for _ in range(2):
        step = step_of(pseudo)
        (view,) = mixed_views(mixer, pseudo, step)
        assert_pasted(
            view, step.strong_images[0], pseudo, 0, (step.strong_images[0], pseudo, 0), None
        )
    assert len(said) == 1 and 'one unlabeled image in a batch' in said[0]


def test_a_class_that_the_bank_does_not_know_in_the_batch_is_loaded(loading, monkeypatch):
    """The bank says that image 0 of the batch contains class 1, and who else contains what."""
    drawn = spy(monkeypatch, class_aware_cutmix, 'draw_classes')
    model, loader = loading(views=2)
    mixer, pseudo, hits = model.mixer, blocks([], [], size=(32, 32)), set()
    bank = mixer.bank.clone()
    for seed in range(25):
        mixer.bank.copy_(bank)
        loader.asked, loader.seeds = [], {}
        torch.manual_seed(seed)
        step = step_of(pseudo, 2, [0, 3], model)
        views = mixed_views(mixer, pseudo, step, loader)
        classes = drawn.pop()[1].view(2, 2)
        from_bank = (classes == 2) | ((classes == 1) & torch.tensor([True, False]))
        assert len(loader.asked) == bool(from_bank.any()), 'one loading for all views'
        assert all(len(seeds) == 1 for seeds in loader.seeds.values()), 'each image once'
        for v, (view, images) in enumerate(zip(views, step.strong_images)):
            for b in range(2):
                k, changed = int(classes[v, b]), view.pseudo.label[b] != 0
                if not from_bank[v, b]:
                    assert view.mix.partners[b] == 1 - b and view.mix.mask[b].any()
                    assert view.mix.foreign is None or not view.mix.foreign[b].any()
                    continue
                assert view.mix.partners[b] == b and not view.mix.mask[b].any()
                y, x = view.mix.foreign[b].nonzero(as_tuple=True)
                box = int(y.min()), int(y.max()) + 1, int(x.min()), int(x.max()) + 1
                (number,) = [
                    n
                    for n in loader.asked[0]
                    if torch.equal(view.image[b][:, y, x], loader.normalized(n, 1 + v)[:, y, x])
                ]
                hits.add((k, number))
                source = torch.stack([loader.normalized(number, 1 + v)])
                assert_pasted(view, images, pseudo, b, (source, loader.label(number), 0), box)
                if number != 7:
                    assert box == loader.RECTANGLES[number][1:] and changed.any()
                    assert (changed == view.mix.foreign[b]).all()
                else:  # the new crop misses the class: half of the image
                    assert 0.45 * 1024 < len(y) < 0.55 * 1024
        mixer.update_state()
        loaded = loader.asked[0] if loader.asked else []
        wanted = bank.clone()
        for place in (0, 3, *loaded):
            wanted[place] = torch.tensor([1, 0, 0])
        for number in set(loaded) - {7}:
            wanted[number, loader.RECTANGLES[number][0]] = 1
        assert torch.equal(mixer.bank, wanted)
    assert hits == {(2, 5), (1, 7), (1, 9)}


def test_the_log_counts_loads(loading):
    model, loader = loading()
    pseudo = blocks([], [], size=(32, 32))
    for seed in range(5):
        torch.manual_seed(seed)
        loader.asked = []
        step = step_of(pseudo, places=[0, 3], model=model)
        mixed_views(model.mixer, pseudo, step, loader)
        assert float(step.figures['mixer.loads']) == sum(map(len, loader.asked))


def test_nothing_is_loaded_without_a_hook_or_where_the_batch_has_the_class(loading):
    model, loader = loading()
    full = blocks(SPREAD[2], SPREAD[2], size=(32, 32))
    model.heads['class_confidence'].values.zero_()
    model.mixer.bank[[0, 3]] = 1
    for seed in range(10):
        torch.manual_seed(seed)
        mixed_views(model.mixer, full, step_of(full, places=[0, 3], model=model))
    empty = blocks([], [], size=(32, 32))
    mixed_views(model.mixer, empty, step_of(empty, places=[0, 3]))
    assert loader.asked == [] and loader.seeds == {}


def test_one_image_takes_from_the_bank(loading, monkeypatch):
    """A class that no image is known to contain comes from any but itself."""
    drawn = spy(monkeypatch, class_aware_cutmix, 'draw_classes')
    model, loader = loading()
    model.mixer.bank[:, 2] = 0
    monkeypatch.setattr(loader, 'label', lambda number: blocks([], size=(32, 32)))
    monkeypatch.setattr(loader, 'SIZES', dict.fromkeys(range(12), (32, 32)))
    pseudo, seen = blocks([], size=(32, 32)), {0: set(), 1: set(), 2: set()}
    for seed in range(60):
        torch.manual_seed(seed)
        step = step_of(pseudo, places=[4], model=model)
        (view,) = mixed_views(model.mixer, pseudo, step, loader)
        assert view.mix.foreign.any() and not view.mix.mask.any()
        seen[int(drawn.pop()[1])] |= set(step.partners.places.tolist())
    assert seen[1] == {0, 7, 9}
    assert len(seen[2]) > 6 and 4 not in seen[2] | seen[0]


def test_the_bank_remembers_the_last_pseudo_label(build_ael):
    mixer = build_ael().mixer
    mixer.set_bank_size(5, keep=False)
    mixer.bank[1] = mixer.bank[4] = 1
    pseudo = blocks(*SPREAD, [(1, 0, 2, 0, 1)])
    # Images without a number (-1) and of other ranks are nobody's; twice the same is the union.
    mixed_views(mixer, pseudo, step_of(pseudo, places=[3, 3, 0, 1]))
    assert mixer.bank.sum() == 6, 'the hook moves it'
    mixer.update_state()
    mixer.update_state()
    wanted = [[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1], [1, 1, 1]]
    assert mixer.bank.tolist() == wanted
    mixed_views(mixer, pseudo, step_of(pseudo))
    mixer.update_state()
    assert mixer.bank.tolist() == wanted


def test_both_buffers_survive_a_checkpoint(build_ael):
    first, second = (build_ael() for _ in range(2))
    first.heads['class_confidence'].values.copy_(torch.rand(3, dtype=torch.float64))
    first.mixer.set_bank_size(9, keep=False)
    first.mixer.bank.copy_(integers(2, 9, 3))
    result = second.load_state_dict(first.state_dict())
    assert not result.missing_keys and not result.unexpected_keys
    second.mixer.set_bank_size(9, keep=True)
    state = second.state_dict()
    for key in ('heads.class_confidence.values', 'mixer.bank'):
        assert torch.equal(state[key], first.state_dict()[key]) and state[key].any()
    with pytest.raises(ValueError, match=r'bank of 9 unlabeled images.*unlabeled has 10'):
        second.mixer.set_bank_size(10, keep=True)
    second.mixer.set_bank_size(10, keep=False)
    assert second.mixer.bank.shape == (10, 3) and not second.mixer.bank.any()
    stored = first.state_dict()
    stored['mixer.bank'] = torch.zeros(9, 4, dtype=torch.uint8)
    with pytest.raises(
        ValueError, match=r'a bank \(images, classes\) of shape \(9, 4\), the config \(9, 3\)'
    ):
        second.load_state_dict(stored)


def banks():
    """A ClassConfidence and a mixer of four classes and eight images."""
    segmentor = SimpleNamespace(decode_head=SimpleNamespace(out_channels=4))
    head, mixer = ClassConfidence(), ClassAwareCutMix(min_share=0.07)  # 3 of 42 pixels
    model = SimpleNamespace(segmentor=segmentor, teacher=SimpleNamespace(mode='eval'))
    model.heads = dict(class_confidence=head)
    head.attach(model)
    mixer.attach(model)
    mixer.set_bank_size(8, keep=False)
    return head, mixer


def moved(steps, part):
    """Both states after steps of a part of their images."""
    head, mixer = banks()
    for logits, truth, places in steps:
        logits, truth = logits[part], truth[part]
        head.supervised(make_step(labeled=SimpleNamespace(logits=logits), truth=truth))
        pseudo = PseudoLabel.from_logits(logits, truth != 255)
        images = torch.zeros(len(truth), 3, *truth.shape[1:])
        mixer.observe(make_step(pseudo, strong=[images], places=places[part].tolist()))
        head.update_state()
        mixer.update_state()
    return head.values, mixer.bank


def moved_on_a_rank(rank, steps):
    return moved(steps, slice(2 * rank, 2 * rank + 2))


def test_two_ranks_move_both_states_as_one(on_two_ranks):
    steps = []
    for seed in range(4):
        truth = integers(3, 4, 6, 7, seed=seed)
        truth[:2][truth[:2] == 2] = 3  # classes 2 and 3 are each on one rank alone
        truth[noise(4, 6, 7, seed=50 + seed) > 0.8] = 255
        logits = 2 * noise(4, 4, 6, 7, seed=10 + seed) + 3 * noise(4, 4, 1, 1, seed=60 + seed)
        steps.append((logits, truth, torch.tensor([seed, 5, 6, 5])))
    whole = moved(steps, slice(None))
    for rank, both in enumerate(on_two_ranks(moved_on_a_rank, steps)):
        alone = moved_on_a_rank(rank, steps)
        torch.testing.assert_close(both[0], whole[0], rtol=1e-12, atol=0)
        assert torch.equal(both[1], whole[1]) and 0 < whole[1].sum() < whole[1].numel()
        assert not torch.allclose(alone[0], whole[0], rtol=1e-3)
        assert not torch.equal(alone[1], whole[1])
