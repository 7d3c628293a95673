from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from tool_runs import (
    CONFIGS,
    differing,
    forget_logs,
    load_checkpoint,
    load_config,
    train_scalars,
    with_hooks,
)

from mmseg_semi.engine.hooks import ClassConfidenceHook, ImageBankHook
from mmseg_semi.functional import weighted_cross_entropy
from mmseg_semi.models.heads import ClassConfidence
from mmseg_semi.models.losses import pseudo_label_cross_entropy as loss_module
from mmseg_semi.models.mixers import class_aware_cutmix, copy_paste
from mmseg_semi.models.refiners import BaseRefiner
from mmseg_semi.structures import PseudoLabel, SemiStep

HEADS = dict(class_confidence=dict(type='ClassConfidence'))
LOSS = dict(
    type='PseudoLabelCrossEntropy',
    equalize='class_confidence',
    gamma=2.0,
    denominator='weight',
)
AEL = dict(
    teacher=dict(type='ema'),
    perturbation=None,
    heads=HEADS,
    labeled_mixer=dict(type='CopyPaste', prob=1.0),
    mixer=dict(type='ClassAwareCutMix', prob=1.0, min_pixels=5),
    refiners=dict(select=dict(type='ConfidenceThreshold', threshold=0.4)),
    losses=dict(strong=LOSS),
)
HOOKS = ('MeanTeacherHook', 'ClassConfidenceHook', 'ImageBankHook')
DIGITS = 'ael/ael_unet_digit-scenes-60.py'


@pytest.fixture
def build_ael(build):
    """Build AEL with its hooks, without labeled mixer; keywords of the model."""

    def make(hooks=HOOKS, confidence=None, **changes):
        model = build(**{**AEL, 'labeled_mixer': None, **changes})
        for hook in hooks:
            model.hook_attached(hook)
        if confidence is not None:
            model.heads['class_confidence'].values.copy_(
                torch.tensor(confidence, dtype=torch.float64)
            )
        return model

    return make


def spy(monkeypatch, module, name):
    """Record what a function of a module is given and returns."""
    calls, original = [], getattr(module, name)

    def recorded(*args, **kwargs):
        calls.append((args, original(*args, **kwargs)))
        return calls[-1][1]

    monkeypatch.setattr(module, name, recorded)
    return calls


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def integers(high, *shape, seed=0):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------- class confidence
def labeled_step(logits, truth):
    samples = [SegDataSample(gt_sem_seg=PixelData(data=one[None])) for one in truth]
    return SimpleNamespace(labeled_samples=samples, labeled=SimpleNamespace(logits=logits))


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
    logged = head.log_values()
    assert float(logged['min']) == pytest.approx(min(expected))
    assert float(logged['mean']) == pytest.approx(sum(expected) / 3)


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
    model = build_ael(warmup_iters=1, labeled_mixer=AEL['labeled_mixer'])
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


# ---------------------------------------------------------------------------------- copy-paste
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


# -------------------------------------------------------------------------------------- CutMix
def blocks(*images, size=(16, 20), valid=None):
    """A pseudo-label of sure background with rectangles (class, top, bottom, left, right)."""
    label = torch.zeros(len(images), *size, dtype=torch.int64)
    for b, parts in enumerate(images):
        for k, top, bottom, left, right in parts:
            label[b, top:bottom, left:right] = k
    valid = torch.ones(label.shape, dtype=torch.bool) if valid is None else valid
    confidence = 0.5 + 0.5 * noise(*label.shape, seed=4).sigmoid()
    return PseudoLabel(None, None, label, confidence, valid, valid.clone())


def step_of(pseudo, views=1, places=None):
    samples = []
    for b in range(len(pseudo.label)):
        meta = {} if places is None else dict(sample_index=places[b])
        samples.append(SegDataSample(metainfo=meta))
    size = pseudo.label.shape[-2:]
    strong = [noise(len(samples), 3, *size, seed=20 + v) for v in range(views)]
    return SemiStep(None, [], None, strong, pseudo.valid, samples, pseudo=pseudo, threshold=0.4)


def mixed_views(mixer, pseudo, step):
    for images in step.strong_images:
        step.views.append(mixer(images, pseudo, step))
    return step.views


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
        assert step.threshold == 0.4
        for v, (view, images) in enumerate(zip(views, step.strong_images)):
            assert view.mix.foreign is None
            torch.testing.assert_close(view.mix(images), view.image, rtol=0, atol=0)
            for b in range(3):
                k, partner = int(classes[v, b]), int(view.mix.partners[b])
                assert partner != b and (pseudo.label[partner] == k).sum() >= 5
                partners_seen.add((b, k, partner))
                if k == 0:  # its bounding box is the image, of which half is the most
                    assert 0.35 * 320 < view.mix.mask[b].sum() <= 160
                    continue
                y, x = (pseudo.label[partner] == k).nonzero(as_tuple=True)
                box = int(y.min()), int(y.max()) + 1, int(x.min()), int(x.max()) + 1
                assert_pasted(view, images, pseudo, b, (images, pseudo, partner), box)
    assert {(0, 2, 1), (0, 2, 2), (0, 1, 2), (1, 1, 0), (1, 2, 2), (2, 1, 0)} <= partners_seen


def test_only_used_pixels_contain_a_class(build_ael, monkeypatch):
    """Unselected pixels, padding and specks are no reason to choose a partner."""
    drawn = spy(monkeypatch, class_aware_cutmix, 'draw_classes')
    mixer = build_ael().mixer
    pseudo = blocks(
        [(1, 0, 4, 0, 4)],
        [(1, 0, 4, 8, 12)],
        [(1, 0, 4, 0, 1)],
        [(1, 6, 9, 6, 9), (1, 12, 15, 14, 18)],
        [],
    )
    pseudo.selected[0, :4, :4] = False
    pseudo.selected[3, 12:, 14:] = False  # nor part of the box
    pseudo.valid[1, :, 8:] = False
    chosen = set()
    for seed in range(40):
        torch.manual_seed(seed)
        step = step_of(pseudo)
        (view,) = mixed_views(mixer, pseudo, step)
        classes = drawn.pop()[1][:, 0]
        chosen |= {int(view.mix.partners[b]) for b in (0, 1, 2, 4) if classes[b] == 1}
        if classes[4] == 1:
            images = step.strong_images[0]
            assert_pasted(view, images, pseudo, 4, (images, pseudo, 3), (6, 9, 6, 9))
    assert chosen == {3}


def test_without_the_class_a_random_window_of_another_image(build_ael, monkeypatch):
    drawn = spy(monkeypatch, class_aware_cutmix, 'draw_classes')
    mixer = build_ael(
        mixer=dict(type='ClassAwareCutMix', prob=1.0, max_area=0.25, extra_loads=False)
    ).mixer
    pseudo, windows = blocks([], [], []), set()
    for seed in range(30):
        torch.manual_seed(seed)
        step = step_of(pseudo)
        (view,) = mixed_views(mixer, pseudo, step)
        for b in (drawn.pop()[1][:, 0] != 0).nonzero()[:, 0].tolist():
            assert view.mix.partners[b] != b
            y, x = view.mix.mask[b].nonzero(as_tuple=True)
            assert len(y) == 80  # 8 x 10, a quarter of 16 x 20
            windows.add((int(y.min()), int(x.min())))
            box = int(y.min()), int(y.max()) + 1, int(x.min()), int(x.max()) + 1
            images = step.strong_images[0]
            partner = int(view.mix.partners[b])
            assert_pasted(view, images, pseudo, b, (images, pseudo, partner), box)
        assert float(mixer.log_values()['with_class']) <= 1
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
    mixer = build_ael(mixer=dict(type='ClassAwareCutMix', prob=1.0, extra_loads=False)).mixer
    pseudo = blocks(SPREAD[0])
    for _ in range(2):
        step = step_of(pseudo)
        (view,) = mixed_views(mixer, pseudo, step)
        assert_pasted(
            view, step.strong_images[0], pseudo, 0, (step.strong_images[0], pseudo, 0), None
        )
    assert len(said) == 1 and 'one unlabeled image in a batch' in said[0]


# ----------------------------------------------------------------------------- loading, the bank
class Loader:
    """Images to be loaded, and a teacher that finds a rectangle of a class in each of them."""

    RECTANGLES = {5: (2, 3, 12, 4, 15), 7: (0, 0, 0, 0, 0), 9: (1, 6, 14, 8, 20)}
    SIZES = {5: (32, 32), 7: (32, 32), 9: (20, 24)}

    def __init__(self, model, views=1):
        self.model, self.views, self.seeds, self.asked = model, views, {}, []
        model.ask_teacher = self.ask_teacher
        model.mixer.fetch = self.fetch

    def image(self, number, view):
        """The weak image (view 0) or a strong view (from 1), whose first pixel tells the number."""
        image = integers(256, 3, *self.SIZES[number], seed=100 * number + view).to(torch.uint8)
        image[:, 0, 0] = number
        return image

    def normalised(self, number, view, size=(32, 32)):
        image = self.image(number, view)
        out = torch.zeros(3, *size)  # the preprocessor pads with 0
        out[:, : image.shape[1], : image.shape[2]] = (image.flip(0).float() - 100) / 50
        return out

    def fetch(self, number, seed):
        self.seeds.setdefault(number, []).append(seed)
        valid = torch.ones(1, *self.SIZES[number], dtype=torch.bool)
        sample = SegDataSample(metainfo=dict(sample_index=number, sample_seed=seed))
        sample.valid = PixelData(data=valid)
        strong = [self.image(number, 1 + v) for v in range(self.views)]
        return dict(weak=self.image(number, 0), strong=strong, data_samples=sample)

    def logits(self, number, size=(32, 32)):
        k, top, bottom, left, right = self.RECTANGLES[number]
        logits = torch.zeros(3, *size)
        logits[0] = 3.0
        logits[:, top:bottom, left:right] = 0
        logits[k, top:bottom, left:right] = 2.0
        logits[:, 31] = 0.1 * logits[:, 31]  # not sure enough there
        return logits

    def ask_teacher(self, images):
        numbers = [round(float(one[0, 0, 0]) * 50 + 100) for one in images]
        for number, one in zip(numbers, images):
            torch.testing.assert_close(one, self.normalised(number, 0))
        self.asked.append(numbers)
        return SimpleNamespace(logits=torch.stack([self.logits(n) for n in numbers]))

    def label(self, number):
        """The pseudo-label of a loaded image, by hand."""
        prob = self.logits(number).softmax(0)
        valid = torch.zeros(32, 32, dtype=torch.bool)
        valid[: self.SIZES[number][0], : self.SIZES[number][1]] = True
        confidence, label = prob.max(0)
        selected = valid & (confidence >= 0.6)
        fields = [one[None] for one in (label, confidence, valid, selected)]
        return PseudoLabel(None, None, *fields)


@pytest.fixture
def loading(build_ael):
    """A model whose bank knows some images, and its loader."""

    def make(views=1, **changes):
        model = build_ael(confidence=[1.0, 0.0, 0.0], **changes)
        mixer = model.mixer
        mixer.set_bank_size(12, keep=False)
        mixer.bank[5, 2] = mixer.bank[7, 1] = mixer.bank[9, 1] = 1
        mixer.bank[0, 1] = 1  # an image of the batch, that contained class 1 once
        return model, Loader(model, views)

    return make


def test_a_class_that_is_not_in_the_batch_is_loaded(loading, monkeypatch):
    drawn = spy(monkeypatch, class_aware_cutmix, 'draw_classes')
    model, loader = loading(views=2)
    model.refiners['select'].threshold = 0.6
    mixer, pseudo, hits = model.mixer, blocks([], [], size=(32, 32)), set()
    bank = mixer.bank.clone()
    for seed in range(25):
        mixer.bank.copy_(bank)
        loader.asked, loader.seeds = [], {}
        torch.manual_seed(seed)
        step = step_of(pseudo, views=2, places=[0, 3])
        views = mixed_views(mixer, pseudo, step)
        classes = drawn.pop()[1].view(2, 2)
        assert len(loader.asked) == bool((classes > 0).any()), 'one pass for all views'
        assert all(len(seeds) == 1 for seeds in loader.seeds.values()), 'each image once'
        for v, (view, images) in enumerate(zip(views, step.strong_images)):
            for b in range(2):
                k, changed = int(classes[v, b]), view.pseudo.label[b] != 0
                if k == 0:
                    assert view.mix.partners[b] == 1 - b and view.mix.mask[b].any()
                    assert view.mix.foreign is None or not view.mix.foreign[b].any()
                    continue
                assert view.mix.partners[b] == b and not view.mix.mask[b].any()
                y, x = view.mix.foreign[b].nonzero(as_tuple=True)
                box = int(y.min()), int(y.max()) + 1, int(x.min()), int(x.max()) + 1
                (number,) = [
                    n
                    for n in loader.asked[0]
                    if torch.equal(view.image[b][:, y, x], loader.normalised(n, 1 + v)[:, y, x])
                ]
                hits.add((k, number))
                source = torch.stack([loader.normalised(number, 1 + v)])
                assert_pasted(view, images, pseudo, b, (source, loader.label(number), 0), box)
                if number != 7:
                    assert box == loader.RECTANGLES[number][1:] and changed.any()
                    assert (changed == view.mix.foreign[b]).all()
                else:  # the new crop misses the class: a window of half the image
                    assert 0.45 * 1024 < len(y) <= 512
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
        mixed_views(model.mixer, pseudo, step_of(pseudo, places=[0, 3]))
        assert float(model.mixer.log_values()['loads']) == sum(map(len, loader.asked))


def test_nothing_is_loaded_without_a_hook_or_where_the_batch_has_the_class(loading):
    model, loader = loading()
    full = blocks(SPREAD[2], SPREAD[2], size=(32, 32))
    model.heads['class_confidence'].values.zero_()
    for seed in range(10):
        torch.manual_seed(seed)
        mixed_views(model.mixer, full, step_of(full, places=[0, 3]))
    model.mixer.fetch = None
    empty = blocks([], [], size=(32, 32))
    mixed_views(model.mixer, empty, step_of(empty, places=[0, 3]))
    assert loader.asked == [] and loader.seeds == {}


def test_one_image_takes_from_the_bank(loading):
    model, loader = loading()
    pseudo = blocks([], size=(32, 32))
    (view,) = mixed_views(model.mixer, pseudo, step_of(pseudo, places=[4]))
    while not loader.asked:
        (view,) = mixed_views(model.mixer, pseudo, step_of(pseudo, places=[4]))
    assert view.mix.foreign.any()


def test_the_bank_remembers_the_last_pseudo_label(build_ael):
    mixer = build_ael().mixer
    mixer.set_bank_size(5, keep=False)
    mixer.bank[1] = mixer.bank[4] = 1
    pseudo = blocks(*SPREAD, [(1, 0, 2, 0, 2)])
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
    with pytest.raises(ValueError, match=r'bank of shape \(9, 4\).*3 classes'):
        second.load_state_dict(stored)


def components():
    segmentor = SimpleNamespace(decode_head=SimpleNamespace(out_channels=4))
    head, mixer = ClassConfidence(), class_aware_cutmix.ClassAwareCutMix(min_pixels=3)
    model = SimpleNamespace(segmentor=segmentor, teacher=1, teacher_mode='eval', refiners={})
    model.heads = dict(class_confidence=head)
    head.attach(model)
    mixer.attach(model)
    mixer.set_bank_size(8, keep=False)
    return head, mixer


def move(head, mixer, logits, truth, places):
    samples = [SegDataSample(gt_sem_seg=PixelData(data=one[None])) for one in truth]
    labeled = SimpleNamespace(logits=logits)
    head.supervised(SimpleNamespace(labeled_samples=samples, labeled=labeled))
    pseudo = PseudoLabel.from_logits(logits, truth != 255)
    samples = [SegDataSample(metainfo=dict(sample_index=p)) for p in places.tolist()]
    images = torch.zeros(len(truth), 3, *truth.shape[1:])
    step = SemiStep(None, [], None, [images], truth != 255, samples)
    mixer(images, pseudo, step)
    head.update_state()
    mixer.update_state()


def states_after(steps, part):
    parts = components()
    for logits, truth, places in steps:
        move(*parts, logits[part], truth[part], places[part])
    return parts[0].values, parts[1].bank


def states_of_a_rank(rank, steps):
    return states_after(steps, slice(2 * rank, 2 * rank + 2))


def test_two_ranks_move_both_states_as_one(on_two_ranks):
    steps = []
    for seed in range(4):
        truth = integers(3, 4, 6, 7, seed=seed)
        truth[:2][truth[:2] == 2] = 3  # classes 2 and 3 are each on one rank alone
        truth[noise(4, 6, 7, seed=50 + seed) > 0.8] = 255
        logits = 2 * noise(4, 4, 6, 7, seed=10 + seed) + 3 * noise(4, 4, 1, 1, seed=60 + seed)
        steps.append((logits, truth, torch.tensor([seed, 5, 6, 5])))
    whole = states_after(steps, slice(None))
    for rank, both in enumerate(on_two_ranks(states_of_a_rank, steps)):
        alone = states_of_a_rank(rank, steps)
        torch.testing.assert_close(both[0], whole[0], rtol=1e-12, atol=0)
        assert torch.equal(both[1], whole[1]) and 0 < whole[1].sum() < whole[1].numel()
        assert not torch.allclose(alone[0], whole[0], rtol=1e-3)
        assert not torch.equal(alone[1], whole[1])


# ---------------------------------------------------------------------------------------- loss
def view_of(logits, pseudo):
    return SimpleNamespace(
        views=[SimpleNamespace(outputs=SimpleNamespace(logits=logits), pseudo=pseudo)]
    )


@pytest.fixture
def noisy():
    pseudo = PseudoLabel.from_logits(2 * noise(2, 3, 9, 8), noise(2, 9, 8, seed=1) > -1)
    return pseudo.update(selected=pseudo.confidence > 0.5, weight=noise(2, 9, 8, seed=2).sigmoid())


@pytest.mark.parametrize('denominator', ['valid', 'selected', 'weight'])
def test_the_loss_is_bit_for_bit_the_old_one_by_default(build, noisy, denominator):
    loss = dict(type='PseudoLabelCrossEntropy', denominator=denominator)
    model = build(losses=dict(strong=loss), perturbation=None)
    for pseudo in (noisy, noisy.update(weight=None)):
        logits = noise(2, 3, 9, 8, seed=7)
        state = torch.get_rng_state()
        got = model.losses['strong'](view_of(logits, pseudo))['loss']
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
    got = build_ael(losses=dict(strong=loss)).losses['strong'](view_of(logits, pseudo))['loss']
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
    got = model.losses['strong'](view_of(logits, noisy))['loss']
    ((label, confidence), mask) = kept[0]
    assert torch.equal(label, noisy.label) and confidence.tolist() == [0.2, 0.6, 1.0]
    wanted = weighted_cross_entropy(
        logits, noisy.label, noisy.valid, noisy.selected & mask, noisy.weight, 'weight'
    )
    assert torch.equal(got, wanted) and not mask[noisy.label == 2].any()
    assert mask[noisy.label == 0].all() and mask.float().mean() < 0.9


# ------------------------------------------------------------------------------- the whole model
def numbered(data):
    for place, sample in enumerate(data['unlabeled']['data_samples']):
        sample.set_metainfo(dict(sample_index=place, sample_seed=place))
    return data


@pytest.mark.parametrize('small', [False, True], ids=['plain', 'padding'])
def test_ael_trains(loading, batch, small):
    sizes = ((20, 12), (32, 24)) if small else ((32, 32),) * 2
    model, loader = loading(labeled_mixer=AEL['labeled_mixer'])
    del model.ask_teacher, loader
    # A teacher that finds class 0 everywhere, so the others have to be loaded.
    model.teacher.decode_head.conv_seg.bias[0] += 5
    model.heads['class_confidence'].values[0] = 0.5
    data = numbered(batch(labeled=sizes, unlabeled=sizes, views=1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {name: value.clone() for name, value in model.segmentor.named_parameters()}
    loads = 0
    for seed in range(2):
        torch.manual_seed(seed)
        losses = model(**model.data_preprocessor(dict(data), True), mode='loss')
        total, logged = model.parse_losses(losses)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        model.heads['class_confidence'].update_state()
        model.mixer.update_state()
        assert losses['strong.loss'] > 0 and losses['decode.loss_ce'] > 0
        loads += logged['mixer.loads']
        assert {'class_confidence.min', 'class_confidence.mean', 'mixer.with_class'} <= set(logged)
    assert loads > 0 and model.heads['class_confidence'].values.gt(0).all()
    assert model.mixer.bank[:2].any()
    changed = [not torch.equal(v, before[n]) for n, v in model.segmentor.named_parameters()]
    assert all(changed)


def test_agents_are_not_compared_on_loaded_pixels(loading, batch):
    rank = dict(type='AgentRankHead', tap='backbone.decoder.1', num_agents=10)
    model, loader = loading(heads=dict(HEADS, rank=rank))
    del model.ask_teacher, loader
    seen, steps = [], []
    choose = model.heads['rank'].choose
    model.heads['rank'].choose = lambda weak, valid: seen.append(valid) or choose(weak, valid)
    model.add_observer(steps.append)
    torch.manual_seed(0)
    data = numbered(batch(unlabeled=((32, 32), (32, 20)), views=1))
    model(**model.data_preprocessor(data, True), mode='loss')
    (view,) = steps[0].views
    foreign = view.mix.foreign
    assert foreign.any() and (foreign & view.pseudo.valid)[:, ::4, ::4].any()
    assert torch.equal(seen[0], (view.pseudo.valid & ~foreign)[:, ::4, ::4])


# ----------------------------------------------------------------------------------- messages
@pytest.mark.parametrize('missing', HOOKS)
def test_a_missing_hook_is_named(build_ael, batch, missing):
    model = build_ael(hooks=[hook for hook in HOOKS if hook != missing])
    data = model.data_preprocessor(batch(views=1), True)
    with pytest.raises(RuntimeError, match=f"add dict\\(type='{missing}'\\)"):
        model(**data, mode='loss')


def test_without_loads_no_image_bank_is_needed(build_ael, batch):
    mixer = dict(AEL['mixer'], extra_loads=False)
    model = build_ael(hooks=HOOKS[:2], mixer=mixer)
    assert 'mixer.bank' not in model.state_dict()
    model(**model.data_preprocessor(batch(views=1), True), mode='loss')


@pytest.mark.parametrize('kind', ['labeled_mixer', 'mixer', 'losses.strong'])
def test_a_missing_head_is_named(build_ael, kind):
    free = dict(type='PseudoLabelCrossEntropy')
    changes = dict(mixer=None, labeled_mixer=None, losses=dict(strong=free))
    used = dict(AEL, **{'losses.strong': LOSS})[kind]
    changes.update({'losses': dict(strong=used)} if kind == 'losses.strong' else {kind: used})
    pattern = rf"model\.{kind}: .*none named 'class_confidence' \(it has: other\)"
    with pytest.raises(ValueError, match=pattern):
        build_ael(heads=dict(other=dict(type='ClassConfidence')), **changes)
    build_ael(**changes)


@pytest.mark.parametrize(
    'key, wrong, message',
    [
        ('mixer', dict(prob=1.5), r'prob must be a number in \[0, 1\], got 1\.5'),
        ('mixer', dict(max_area=0), r'max_area must be a number in \[1e-06, 1\], got 0'),
        ('mixer', dict(min_pixels=0), 'min_pixels must be a whole number >= 1, got 0'),
        ('mixer', dict(extra_loads=1), 'extra_loads must be one of'),
        ('labeled_mixer', dict(prob=-1), r'prob must be a number in \[0, 1\], got -1'),
        ('labeled_mixer', dict(num_classes=0), 'num_classes must be a whole number >= 1'),
        ('labeled_mixer', dict(power=-1), 'power must be a number >= 0, got -1'),
        ('heads.class_confidence', dict(momentum=2), r'momentum must be a number in \[0, 1\]'),
        ('heads.class_confidence', dict(absent='keep'), "absent must be one of .*'skip'"),
        ('losses.strong', dict(gamma=-1), 'gamma must be a number >= 0, got -1'),
        ('losses.strong', dict(denominator='valid'), "gamma .*set denominator='weight'.*'valid'"),
    ],
)
def test_wrong_arguments_are_refused_with_the_config_key(build_ael, key, wrong, message):
    group, _, name = key.partition('.')
    changes = {
        group: {name: dict(AEL[group][name], **wrong)} if name else dict(AEL[group], **wrong)
    }
    with pytest.raises(ValueError, match=rf'model\.{key}: \w+\.{message}'):
        build_ael(**changes)


class Unknown(BaseRefiner):
    stage = 'probability'

    def forward(self, pseudo, step):
        return pseudo


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(teacher=None), 'EMA teacher'),
        (dict(teacher=dict(type='ema', mode='train')), "without mode='train'"),
        (
            dict(refiners=dict(own=Unknown(), select=AEL['refiners'])),
            r'model\.refiners\.own',
        ),
    ],
)
def test_what_cannot_label_loaded_images_is_refused(build_ael, changes, message):
    if 'refiners' in changes:
        changes['refiners']['select'] = AEL['refiners']['select']
    with pytest.raises(ValueError, match=rf'model\.mixer: .*{message}.*extra_loads=False'):
        build_ael(**changes)
    build_ael(mixer=dict(AEL['mixer'], extra_loads=False), **changes)


def test_hooks_refuse_models_and_data_without_use_for_them(build, build_ael):
    with pytest.raises(ValueError, match='ClassConfidenceHook needs a ClassConfidence'):
        ClassConfidenceHook().before_train(SimpleNamespace(model=build()))
    for model in (build(), build_ael(mixer=dict(AEL['mixer'], extra_loads=False))):
        with pytest.raises(ValueError, match='ImageBankHook needs a ClassAwareCutMix'):
            ImageBankHook().before_train(SimpleNamespace(model=model))
    loader = SimpleNamespace(dataset=[])
    with pytest.raises(ValueError, match='train_dataloader.dataset is a list'):
        ImageBankHook().before_train(
            SimpleNamespace(model=build_ael(), train_dataloader=loader, iter=0)
        )


# -------------------------------------------------------------------------------- digit scenes
SMALL = dict(model=dict(mixer=dict(prob=1.0, min_pixels=2)))


@pytest.fixture(scope='module')
def digit_run(train):
    return train(DIGITS, **SMALL)


def test_the_digit_config_trains_and_loads_images(digit_run):
    values = train_scalars(digit_run.work_dir)
    assert list(values) == list(range(1, 9))
    assert all(step['decode.loss_ce'] > 0 for step in values.values())
    assert any(step['strong.loss'] > 0 for step in values.values())
    loads = [step['mixer.loads'] for step in values.values()]
    assert loads[0] == 0 and max(loads) >= 1, loads
    state = load_checkpoint(digit_run.checkpoint)['state_dict']
    assert state['mixer.bank'].shape == (13, 6) and state['mixer.bank'].any()
    assert (state['heads.class_confidence.values'] > 0).any()


def test_killed_and_resumed_ael_equals_uninterrupted(train, digit_run, tmp_path):
    """Killed after iteration 5, resumed from 4: both banks go on where they were."""
    hooks = [dict(hook) for hook in load_config(CONFIGS / DIGITS).custom_hooks]
    killer = with_hooks(dict(SMALL, custom_hooks=hooks), dict(type='KillHook', iteration=5))
    work_dir = tmp_path / 'work'
    train(DIGITS, work_dir=work_dir, code=-signal.SIGKILL, **killer)
    forget_logs(work_dir)
    train(DIGITS, '--resume', work_dir=work_dir, **SMALL)
    wanted, got = train_scalars(digit_run.work_dir), train_scalars(work_dir)
    assert got == {step: wanted[step] for step in (5, 6, 7, 8)}
    assert any(step['mixer.loads'] for step in got.values()), 'something is loaded after it'
    ends = [load_checkpoint(path) for path in (digit_run.checkpoint, work_dir / 'iter_8.pth')]
    for part in ('state_dict', 'optimizer'):
        assert ends[0][part] and differing(ends[0][part], ends[1][part], part) == []
