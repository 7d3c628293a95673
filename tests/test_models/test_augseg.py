"""AugSeg: what its CutMix takes from where, and the step around it."""

from __future__ import annotations

import math
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmseg_semi.engine.hooks import MeanTeacherHook
from mmseg_semi.models.mixers import AdaptiveCutMix, BaseLabeledMixer
from mmseg_semi.structures import DETECTIONS, PseudoLabel, SemiStep

from .test_rankmatch import HEAD, TAP, head_loss

CONFIGS = Path(__file__).parents[2] / 'configs'
METHOD = Config.fromfile(CONFIGS / '_base_/methods/augseg.py').method
LABELED = 100  # colour of the first labeled image; unlabeled ones count from 0
PADDED = dict(labeled=((32, 32), (28, 20)), unlabeled=((32, 32), (32, 24), (20, 32)))


# ------------------------------------------------------------------------------ coloured images
def coloured(count, first, size):
    """Images (count, 3, H, W) whose every pixel tells its image, row and column."""
    height, width = size
    number = torch.arange(first, first + count)[:, None, None].expand(count, height, width)
    rows = torch.arange(height)[None, :, None].expand_as(number)
    columns = torch.arange(width)[None, None].expand_as(number)
    return torch.stack([number, rows, columns], dim=1).float()


def origin_of(image):
    """Image that each pixel (B, H, W) comes from; no pixel may have moved."""
    number, rows, columns = image.long().unbind(1)
    height, width = rows.shape[-2:]
    assert torch.equal(rows, torch.arange(height)[:, None].expand_as(rows))
    assert torch.equal(columns, torch.arange(width).expand_as(columns))
    return number


def full_pseudo(prob, valid, seed=0):
    """A pseudo-label in which no two pixels hold the same values, with every field and extra."""
    source = torch.Generator().manual_seed(seed)

    def coin():
        return torch.rand(valid.shape, generator=source) < 0.5

    extras = {
        DETECTIONS: torch.randint(0, 256, (len(valid), 2, *valid.shape[1:]), generator=source),
        'mask': coin(),
        'score': torch.rand(valid.shape, generator=source) + 1,
    }
    extras[DETECTIONS] = extras[DETECTIONS].to(torch.uint8)
    return PseudoLabel.from_logits(prob.log(), valid).update(
        selected=coin(),
        weight=torch.rand(valid.shape, generator=source) + 1.5,
        reliable=coin(),
        extras=extras,
    )


def make_step(prob, labeled=2, size=(24, 20), seed=0):
    """A step of coloured images: prob (Bu, K) is what the teacher says everywhere."""
    source = torch.Generator().manual_seed(seed)
    prob = torch.as_tensor(prob, dtype=torch.float32)
    count = len(prob)
    prob = prob[:, :, None, None].expand(*prob.shape, *size)
    valid = torch.ones(count, *size, dtype=torch.bool)
    valid[-1, :, -3:] = False
    truth = torch.randint(0, prob.shape[1], (labeled, *size), generator=source)
    truth[torch.rand(labeled, *size, generator=source) < 0.3] = 255
    samples = []
    for one in truth:
        sample = SegDataSample()
        sample.gt_sem_seg = PixelData(data=one[None])
        samples.append(sample)
    images = coloured(count, 0, size)
    step = SemiStep(
        labeled_images=coloured(labeled, LABELED, size),
        labeled_samples=samples,
        weak_images=images,
        strong_images=[images],
        valid=valid,
        unlabeled_samples=[],
    )
    step.raw_pseudo = PseudoLabel.from_logits(prob.clamp(min=1e-30).log(), valid)
    step.pseudo = full_pseudo(prob.clamp(min=1e-30), valid, seed)
    return step


def mixed(step, seed=0, **arguments):
    torch.manual_seed(seed)
    mixer = AdaptiveCutMix(**arguments)
    return mixer(step.strong_images[0], step.pseudo, step)


UNSURE, SURE = [1 / 3] * 3, [1.0, 0.0, 0.0]


def expected_field(name, step, origin):
    """A field (B, ..., H, W) of a view, pixel by pixel from the pixel's origin."""
    extra = name in step.pseudo.extras
    source = step.pseudo.extras[name] if extra else getattr(step.pseudo, name)
    out = torch.empty_like(source)
    classes = step.raw_pseudo.prob.shape[1]
    for b, image in enumerate(origin.tolist()):
        for y, row in enumerate(image):
            for x, number in enumerate(row):
                if number < LABELED:
                    out[b, ..., y, x] = source[number, ..., y, x]
                    continue
                truth = int(step.labeled_samples[number - LABELED].gt_sem_seg.data[0, y, x])
                known = truth != 255
                truth = truth if known else 0
                one_hot = torch.eye(classes)[truth]
                values = dict(
                    prob=one_hot,
                    label=truth,
                    confidence=1,
                    valid=known,
                    selected=True,
                    weight=1,
                    reliable=True,
                    mask=True,
                    score=0,
                )
                out[b, ..., y, x] = torch.as_tensor(values.get(name, 0)).to(out.dtype)
    return out


FIELDS = ('prob', 'label', 'confidence', 'valid', 'selected', 'weight', 'reliable')
EXTRAS = (DETECTIONS, 'mask', 'score')


@pytest.mark.parametrize('unlabeled, labeled', [(4, 3), (4, 1), (1, 2), (1, 1)])
def test_every_field_of_a_pixel_comes_from_where_its_colour_does(unlabeled, labeled):
    step = make_step([UNSURE] * unlabeled, labeled)
    view = mixed(step, seed=2)
    origin = origin_of(view.image)
    present = set(origin.unique().tolist())
    assert any(number >= LABELED for number in present), 'labeled pixels must be seen'
    for name in FIELDS:
        ours = getattr(view.pseudo, name)
        assert torch.equal(ours, expected_field(name, step, origin)), name
    for name in EXTRAS:
        ours = view.pseudo.extras[name]
        assert torch.equal(ours, expected_field(name, step, origin)), name
    labeled_pixels = origin >= LABELED
    torch.testing.assert_close(
        view.pseudo.logits.softmax(1).amax(1)[labeled_pixels],
        torch.ones(int(labeled_pixels.sum())),
    )
    assert torch.equal(view.mix.foreign, labeled_pixels)


def test_the_pixels_that_are_not_labeled_are_the_images_own_or_its_partners():
    step = make_step([UNSURE] * 5)
    view = mixed(step)
    origin = origin_of(view.image)
    for b, partner in enumerate(view.mix.partners.tolist()):
        assert partner != b
        for y in range(origin.shape[1]):
            for x in range(origin.shape[2]):
                number = int(origin[b, y, x])
                if number < LABELED:
                    assert number == (partner if view.mix.mask[b, y, x] else b)


@pytest.mark.parametrize('seed', range(5))
def test_pasted_boxes_travel_with_their_image_into_the_second_mixing(seed):
    """What two views show of the same image is one box of one labeled image."""
    step = make_step([UNSURE] * 4, labeled=3)
    view = mixed(step, seed=seed)
    origin, partners = origin_of(view.image), view.mix.partners.tolist()
    travelled = 0
    for b in range(4):
        taker = partners.index(b)
        own, taken = ~view.mix.mask[b], view.mix.mask[taker]
        seen = own | taken
        pasted = (own & (origin[b] >= LABELED)) | (taken & (origin[taker] >= LABELED))
        numbers = {int(n) for n in origin[b][own & (origin[b] >= LABELED)]}
        numbers |= {int(n) for n in origin[taker][taken & (origin[taker] >= LABELED)]}
        assert len(numbers) == (1 if pasted.any() else 0)
        travelled += int((taken & pasted).sum())
        if pasted.any():
            rows, columns = pasted.nonzero().unbind(1)
            box = torch.zeros_like(pasted)
            box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
            assert torch.equal(box & seen, pasted)
    assert travelled > 0


def test_nothing_that_was_given_is_changed():
    step = make_step([UNSURE] * 3)
    before = deepcopy(step)
    mixed(step)
    assert torch.equal(step.labeled_images, before.labeled_images)
    assert torch.equal(step.strong_images[0], before.strong_images[0])
    for name in (*FIELDS, 'logits'):
        assert torch.equal(getattr(step.pseudo, name), getattr(before.pseudo, name)), name
    for ours, theirs in zip(step.labeled_samples, before.labeled_samples):
        assert torch.equal(ours.gt_sem_seg.data, theirs.gt_sem_seg.data)


def test_fields_that_are_none_stay_none():
    step = make_step([UNSURE] * 2)
    bare = dict(logits=None, prob=None, weight=None, reliable=None, extras={})
    step.pseudo = step.pseudo.update(**bare)
    pseudo = mixed(step).pseudo
    assert [getattr(pseudo, name) for name in bare] == list(bare.values())
    assert pseudo.label is not None


# -------------------------------------------------------------------------------- probabilities
def rho_of(prob):
    entropy = -sum(p * math.log(p) for p in prob if p > 0)
    return max(prob) * (1 - entropy / math.log(len(prob)))


def pasted_share(step, draws, **arguments):
    """Share of the draws in which each image took a labeled box, without the second mixing."""
    torch.manual_seed(0)
    mixer = AdaptiveCutMix(prob=0.0, **arguments)
    took = torch.zeros(len(step.weak_images))
    for _ in range(draws):
        view = mixer(step.strong_images[0], step.pseudo, step)
        took += (origin_of(view.image) >= LABELED).flatten(1).any(1)
    return took / draws


def test_a_labeled_box_comes_with_probability_one_minus_rho_of_each_image():
    half = [0.9, 0.08, 0.02]
    step = make_step([SURE, half, UNSURE] * 4, size=(8, 8))
    # Only what the teacher said before the refiners counts.
    step.pseudo = full_pseudo(torch.full((12, 3, 8, 8), 1 / 3), step.valid)
    # Boxes are almost the whole image, so none rounds to nothing.
    share = pasted_share(step, 250, labeled_beta=(1.0, 1000.0)).view(4, 3).mean(0)
    assert 0.4 < rho_of(half) < 0.7
    assert share[0] == 0 and share[2] == 1
    spread = math.sqrt(0.25 / 1000)
    assert abs(float(share[1]) - (1 - rho_of(half))) < 3 * spread
    # Each image has a draw of its own.
    view = mixed(make_step([half] * 400, size=(8, 8)), labeled_beta=(1.0, 1000.0), prob=0.0)
    share = float(view.mix.foreign.flatten(1).any(1).float().mean())
    assert abs(share - (1 - rho_of(half))) < 3 * math.sqrt(0.25 / 400)


def test_every_labeled_image_is_as_likely():
    step = make_step([UNSURE] * 8, labeled=3, size=(8, 8))
    torch.manual_seed(0)
    mixer, counts = AdaptiveCutMix(prob=0.0, labeled_beta=(1.0, 1000.0)), torch.zeros(3)
    for _ in range(150):
        origin = origin_of(mixer(step.strong_images[0], step.pseudo, step).image)
        for number in range(3):
            counts[number] += (origin == LABELED + number).flatten(1).any(1).sum()
    assert counts.sum() == 1200
    assert (counts - 400).abs().max() < 4 * math.sqrt(1200 * 2 / 9)


def test_areas_of_the_boxes_have_the_papers_distributions():
    """The area is 1 - lambda: means 0.2 and 0.5, variances 0.0145 and 0.0278."""
    step = make_step([UNSURE] * 600, size=(40, 40))
    view = mixed(step, prob=0.0)
    assert not view.mix.mask.any()
    labeled = view.mix.foreign.float().mean(dim=(1, 2))
    unlabeled = mixed(make_step([SURE] * 600, size=(40, 40))).mix
    assert not unlabeled.foreign.any()
    for area, a, b in ((labeled, 8, 2), (unlabeled.mask.float().mean(dim=(1, 2)), 4, 4)):
        variance = a * b / ((a + b) ** 2 * (a + b + 1))
        assert abs(float(area.mean()) - b / (a + b)) < 4 * math.sqrt(variance / 600)
        assert abs(float(area.var()) / variance - 1) < 0.25


def test_prob_is_that_of_an_unlabeled_box():
    view = mixed(make_step([SURE] * 800, size=(8, 8)), prob=0.3, unlabeled_beta=(1.0, 1000.0))
    share = float(view.mix.mask.flatten(1).any(1).float().mean())
    assert abs(share - 0.3) < 4 * math.sqrt(0.21 / 800)


def test_one_unlabeled_image_is_pasted_into_and_not_mixed():
    step = make_step([UNSURE])
    view = mixed(step)
    assert not view.mix.mask.any() and view.mix.foreign.any()
    assert torch.equal(origin_of(view.image)[~view.mix.foreign].unique(), torch.tensor([0]))
    assert torch.equal(origin_of(mixed(make_step([SURE])).image).unique(), torch.tensor([0]))


def test_an_image_without_a_valid_pixel_takes_a_labeled_box():
    step = make_step([SURE] * 2)
    step.raw_pseudo.valid[:] = False
    assert pasted_share(step, 20, labeled_beta=(1.0, 1000.0)).tolist() == [1, 1]


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(prob=-0.1), r'prob must be a number in \[0, 1\], got -0.1'),
        (dict(prob=1.5), r'prob must be a number in \[0, 1\], got 1.5'),
        (dict(prob='often'), r"prob must be a number in \[0, 1\], got 'often'"),
        (dict(labeled_beta=(8.0,)), r'labeled_beta must be two numbers > 0, got \(8.0,\)'),
        (dict(labeled_beta=8.0), 'labeled_beta must be two numbers > 0, got 8.0'),
        (dict(unlabeled_beta=(4.0, 0)), 'unlabeled_beta must be a number >.*got 0'),
        (dict(unlabeled_beta=(-4.0, 4.0)), 'unlabeled_beta must be a number >.*got -4.0'),
        (dict(labeled_beta=(float('nan'), 2.0)), 'labeled_beta must be a number >.*got nan'),
    ],
)
def test_wrong_arguments_are_refused_with_the_config_key(build, wrong, message):
    with pytest.raises(ValueError, match=rf'model\.mixer: AdaptiveCutMix\.{message}'):
        build(mixer=dict(type='AdaptiveCutMix', **wrong))


def test_defaults_are_the_papers():
    mixer = AdaptiveCutMix()
    assert (mixer.prob, mixer.labeled_beta, mixer.unlabeled_beta) == (1.0, (8.0, 2.0), (4.0, 4.0))
    assert 'labeled_beta=(8.0, 2.0)' in repr(mixer)
    assert mixer.log_values() == {}


# ----------------------------------------------------------------------------- the whole method
@pytest.fixture
def augseg(build):
    """Build AugSeg's method, its teacher another network than the student.

    ``surety`` scales the teacher's logits: with 0 every image takes a labeled box.
    """

    def make(surety=0.6, **changes):
        method = {key: value for key, value in METHOD.items() if key != 'type'}
        model = build(**{**method, 'perturbation': None, **changes})
        model.hook_attached('MeanTeacherHook')
        torch.manual_seed(1)
        with torch.no_grad():
            for network, scale in ((model.segmentor, 1.0), (model.teacher, surety)):
                weight = network.decode_head.conv_seg.weight
                weight.copy_(scale * torch.randn(weight.shape))
        return model.train()

    return make


def prepared(model, data, seed=3):
    """A preprocessed batch of random images; padding has colours too, and so an origin."""
    data = model.data_preprocessor(deepcopy(data), True)
    source, inputs = torch.Generator().manual_seed(seed), data['inputs']
    for name in ('labeled', 'weak'):
        inputs[name] = torch.randn(inputs[name].shape, generator=source)
    inputs['strong'] = [torch.randn(one.shape, generator=source) for one in inputs['strong']]
    return data


def run(model, data):
    """One training step without update: the finished step and what it returned."""
    steps = []
    model._observers.clear()
    model.add_observer(steps.append)
    losses = model(**data, mode='loss')
    return steps[-1], losses


def logits_of(segmentor, images):
    raw = segmentor.decode_head(segmentor.extract_feat(images))
    return F.interpolate(raw, images.shape[-2:], mode='bilinear', align_corners=False)


def find_origins(view, labeled, strong):
    """Image of each pixel (B, H, W) as in ``origin_of``, by comparing colours."""
    origin = torch.full((len(view), *view.shape[-2:]), -1)
    for first, images in ((LABELED, labeled), (0, strong)):
        for number, image in enumerate(images):
            origin[(view == image).all(dim=1)] = first + number
    assert (origin >= 0).all()
    return origin


def truth_of(data):
    return torch.cat([sample.gt_sem_seg.data for sample in data['data_samples']['labeled']])


def view_loss(logits, origin, label, confidence, valid, truth):
    """Cross entropy of the sure and the labeled pixels over the number of valid ones."""
    total, count = 0.0, 0
    for b, image in enumerate(origin.tolist()):
        for y, row in enumerate(image):
            for x, number in enumerate(row):
                if number >= LABELED:
                    target = int(truth[number - LABELED, y, x])
                    inside, sure = target != 255, True
                else:
                    target, inside = int(label[number, y, x]), bool(valid[number, y, x])
                    sure = confidence[number, y, x] >= 0.95
                count += inside
                if inside and sure:
                    total = total - logits[b, :, y, x].log_softmax(0)[target]
    return total / count


@pytest.mark.parametrize('views', [1, 2])
def test_loss_is_a_hand_computation_from_where_the_pixels_come_from(augseg, batch, views):
    model = augseg()
    student, teacher = deepcopy(model.segmentor), deepcopy(model.teacher)
    data = prepared(model, batch(**PADDED, views=views))
    inputs, truth = data['inputs'], truth_of(data)
    torch.manual_seed(5)
    step, losses = run(model, data)

    both = logits_of(student, torch.cat([inputs['labeled'], inputs['weak']]))
    supervised = F.cross_entropy(both[:2], truth, ignore_index=255)
    with torch.no_grad():
        confidence, label = logits_of(teacher, inputs['weak']).softmax(1).max(1)
    share = (confidence >= 0.95)[inputs['valid']].float().mean()
    assert 0.1 < share < 0.9, 'the threshold must select some pixels'
    outputs = logits_of(student, torch.cat([view.image for view in step.views])).chunk(views)
    parts = []
    for view, logits, strong in zip(step.views, outputs, inputs['strong']):
        origin = find_origins(view.image, inputs['labeled'], strong)
        assert torch.equal(view.mix.foreign, origin >= LABELED) and view.mix.foreign.any()
        parts.append(view_loss(logits, origin, label, confidence, inputs['valid'], truth))
    unsupervised = sum(parts) / views
    torch.testing.assert_close(losses['decode.loss_ce'], supervised)
    torch.testing.assert_close(losses['strong.loss'], unsupervised, rtol=1e-4, atol=1e-5)
    total, _ = model.parse_losses(losses)
    torch.testing.assert_close(total, supervised + unsupervised, rtol=1e-4, atol=1e-5)
    if views == 2:
        assert not torch.equal(step.views[0].mix.mask, step.views[1].mix.mask)
        assert not torch.equal(step.views[0].mix.foreign, step.views[1].mix.foreign)


def test_padding_of_a_pasted_labeled_image_is_invalid(augseg, batch):
    model = augseg(surety=0.0)
    data = prepared(model, batch(labeled=((12, 32),), unlabeled=((32, 32),) * 3, views=1))
    step, _ = run(model, data)
    (view,) = step.views
    origin = find_origins(view.image, data['inputs']['labeled'], data['inputs']['strong'][0])
    padding = torch.arange(32)[:, None].expand(32, 32) >= 12
    expected = ~((origin == LABELED) & padding)
    assert not expected.all() and torch.equal(view.pseudo.valid, expected)


def test_the_share_of_pasted_images_is_logged(augseg, batch):
    model = augseg()
    with torch.no_grad():
        for value, pasted in ((0.0, 1), (1e6, 0)):
            model.teacher.decode_head.conv_seg.weight.zero_()
            model.teacher.decode_head.conv_seg.bias.copy_(torch.tensor([value, 0, 0]))
            step, losses = run(model, prepared(model, batch(views=1)))
            assert losses['mixer.pasted'] == pasted
            assert step.views[0].mix.foreign.any() == bool(pasted)
    _, logged = model.parse_losses(losses)
    assert logged['mixer.pasted'] == 0


def test_student_and_teacher_see_what_the_method_says(augseg, batch):
    """One step by hand: statistics of {labeled, weak}, then of the views; the EMA of all of it."""
    model = augseg()
    hook = MeanTeacherHook(momentum=0.999, buffers='ema')
    hook.before_train(SimpleNamespace(model=model, iter=0))
    student, old = deepcopy(model.segmentor), deepcopy(model.teacher.state_dict())
    for name, value in model.segmentor.state_dict().items():
        assert torch.equal(value, old[name]), 'the teacher starts as a copy'
    seen, steps, modes = [], [], []
    model.segmentor.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.teacher.backbone.register_forward_pre_hook(lambda m, _: modes.append(m.training))
    model.add_observer(steps.append)
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
    data = batch(unlabeled=((32, 32),) * 3, views=1)
    model.train_step(deepcopy(data), optimizer)

    inputs = model.data_preprocessor(deepcopy(data), True)['inputs']
    assert len(seen) == 2 and modes == [False]
    assert torch.equal(seen[0], torch.cat([inputs['labeled'], inputs['weak']]))
    assert torch.equal(seen[1], steps[0].views[0].image)
    for images in seen:
        logits_of(student, images)
    for name, value in student.named_buffers():
        torch.testing.assert_close(dict(model.segmentor.named_buffers())[name], value)
    for name, value in model.teacher.state_dict().items():
        assert torch.equal(value, old[name]), f'{name} moved in a forward pass'

    hook.after_train_iter(SimpleNamespace(model=model, iter=5000), 0)
    new, moved = model.segmentor.state_dict(), 0
    for name, value in model.teacher.state_dict().items():
        if value.is_floating_point():
            expected = 0.999 * old[name].double() + 0.001 * new[name].double()
            torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
            moved += 'running' in name and not torch.equal(value, old[name])
        else:
            assert torch.equal(value, new[name])
    assert moved > 0


def test_the_model_trains(augseg, batch):
    model = augseg()
    hook = MeanTeacherHook(momentum=0.999, buffers='ema')
    hook.before_train(SimpleNamespace(model=model, iter=0))
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
    before, old = deepcopy(model.segmentor.state_dict()), deepcopy(model.teacher.state_dict())
    for iteration in range(2):
        logged = model.train_step(batch(**PADDED, views=1, seed=iteration), optimizer)
        assert logged['loss'].isfinite() and logged['strong.loss'] > 0
        hook.after_train_iter(SimpleNamespace(model=model, iter=iteration), iteration)
    for name, value in model.segmentor.named_parameters():
        assert torch.isfinite(value).all() and not torch.equal(value, before[name]), name
    assert not torch.equal(
        model.teacher.decode_head.conv_seg.weight, old['decode_head.conv_seg.weight']
    )


@pytest.mark.parametrize('name', sorted(CONFIGS.glob('augseg/*.py')), ids=lambda path: path.stem)
def test_configs_set_the_hook_and_the_one_strong_view(name):
    config = Config.fromfile(name)
    (hook,) = (one for one in config.custom_hooks if one.type == 'MeanTeacherHook')
    momentum = 0.99 if 'digit' in name.stem else 0.999
    assert (hook.momentum, hook.buffers) == (momentum, 'ema')
    pipeline = config.train_dataloader.dataset.unlabeled.pipeline
    (strong,) = (one for one in pipeline if one.type == 'StrongViews')
    assert strong.num_views == 1
    assert [one.type for one in strong.transforms] == ['RandomIntensityAugment']
    model = config.model
    assert model.teacher == dict(type='ema') and model.student_sees_weak
    assert model.refiners.select == dict(type='ConfidenceThreshold', threshold=0.95)
    assert model.mixer == dict(type='AdaptiveCutMix')
    assert model.supervised_weight == model.losses.strong.loss_weight == 1


# ---------------------------------------------------------------------------- other components
def test_soft_consistency_reads_the_truth_of_pasted_pixels(augseg, batch):
    """KL from a one-hot target is the cross entropy; here every pixel is pasted and known."""
    wide = dict(type='AdaptiveCutMix', prob=0.0, labeled_beta=(1e-3, 1000.0))
    losses = dict(soft=dict(type='SoftConsistencyLoss'))
    model = augseg(surety=0.0, mixer=wide, losses=losses, refiners=None)
    step, values = run(model, prepared(model, batch(views=1)))
    (view,) = step.views
    assert view.mix.foreign.all() and values['soft.loss'].isfinite()
    expected = F.cross_entropy(view.outputs.logits, view.pseudo.label)
    torch.testing.assert_close(values['soft.loss'], expected, rtol=1e-4, atol=1e-5)
    truth = {tuple(s.gt_sem_seg.data.flatten().tolist()) for s in step.labeled_samples}
    assert {tuple(one.flatten().tolist()) for one in view.pseudo.label} <= truth


def test_soft_consistency_is_finite_where_padding_is_pasted(augseg, batch):
    model = augseg(surety=0.0, losses=dict(soft=dict(type='SoftConsistencyLoss')))
    _, values = run(model, prepared(model, batch(**PADDED, views=2)))
    model.parse_losses(values)[0].backward()
    assert values['soft.loss'].isfinite() and values['soft.loss'] > 0
    assert all(p.grad.isfinite().all() for p in model.segmentor.parameters())


@pytest.fixture
def ranked(augseg, batch):
    """A step with an ``AgentRankHead`` on features of 8 x 8, and the pixels' origins."""
    model = augseg(surety=0.0, heads=dict(rank=dict(HEAD, num_agents=6)))
    data = prepared(model, batch(**PADDED, views=1))
    torch.manual_seed(4)
    step, _ = run(model, data)
    inputs = data['inputs']
    origin = find_origins(step.views[0].image, inputs['labeled'], inputs['strong'][0])
    # A feature pixel is 4 x 4 pixels; the first of them speaks for it.
    own = (origin < LABELED)[:, ::4, ::4]
    assert not own.all() and own.flatten(1).sum(1).min() > 6
    return model, step, origin


def test_rank_head_leaves_out_labeled_pixels(ranked):
    model, step, origin = ranked
    (view,) = step.views
    valid = torch.zeros_like(view.pseudo.valid)
    for b, y, x in (origin < LABELED).nonzero().tolist():
        valid[b, y, x] = step.valid[origin[b, y, x], y, x]
    ours = head_loss(model, step)
    view.mix.foreign = None
    with_them = head_loss(model, step)
    view.pseudo = view.pseudo.update(valid=valid)
    torch.testing.assert_close(ours, head_loss(model, step), rtol=0, atol=0)
    assert abs(with_them - ours) > 1e-3 * ours


def test_rank_head_gives_labeled_pixels_no_gradient(ranked):
    model, step, origin = ranked
    strong = step.views[0].outputs.features[TAP]
    (grad,) = torch.autograd.grad(head_loss(model, step), strong)
    own = (origin < LABELED)[:, ::4, ::4] & step.views[0].pseudo.valid[:, ::4, ::4]
    reached = grad.abs().amax(1) > 0
    assert not (reached & ~own).any() and (reached & own).any()


# ------------------------------------------------------------------------------- labeled mixer
class Swap(BaseLabeledMixer):
    """Gives every labeled image and its truth the left half of the next one."""

    def forward(self, images, truth, step):
        self.got = (images.clone(), truth.clone(), step.labeled, step.pseudo)
        images, truth = images.clone(), truth.clone()
        images[..., :16] = images.roll(1, 0)[..., :16]
        truth[..., :16] = truth.roll(1, 0)[..., :16]
        return images, truth


def swapped(tensor):
    parts = [
        torch.cat([b[..., :16], a[..., 16:]], -1) for a, b in zip(tensor, [tensor[-1], *tensor])
    ]
    return torch.stack(parts)


@pytest.mark.parametrize('warm', [False, True], ids=['step', 'warm-up'])
def test_the_student_is_trained_on_mixed_labeled_images(augseg, batch, warm):
    model = augseg(labeled_mixer=dict(type=Swap), warmup_iters=5)
    model.set_progress(0 if warm else 5, 10)
    student = deepcopy(model.segmentor)
    data = prepared(model, batch(labeled=((32, 32), (28, 20), (32, 32)), views=1))
    inputs, truth = deepcopy(data['inputs']), truth_of(data).clone()
    losses = model(**data, mode='loss')

    images, labels, outputs, pseudo = model.labeled_mixer.got
    assert torch.equal(images, inputs['labeled']) and torch.equal(labels, truth)
    assert labels.shape == (3, 32, 32) and labels.dtype == torch.int64
    assert outputs is pseudo is None
    images = swapped(inputs['labeled'])
    if not warm:
        images = torch.cat([images, inputs['weak']])
    logits = logits_of(student, images)[:3]
    expected = F.cross_entropy(logits, swapped(truth), ignore_index=255)
    torch.testing.assert_close(losses['decode.loss_ce'], expected)
    other = F.cross_entropy(logits, truth, ignore_index=255)
    assert abs(other - expected) > 1e-2 * expected
    assert ('strong.loss' in losses) != warm


def test_the_batch_keeps_its_data_samples(augseg, batch):
    model = augseg(labeled_mixer=dict(type=Swap))
    data = prepared(model, batch(labeled=((32, 32), (28, 20)), views=1))
    samples = data['data_samples']['labeled']
    kept, before = list(samples), deepcopy(samples)
    images = data['inputs']['labeled'].clone()
    step, _ = run(model, data)
    assert data['data_samples']['labeled'] is samples
    assert all(one is other for one, other in zip(samples, kept))
    assert torch.equal(data['inputs']['labeled'], images)
    for sample, old, new in zip(samples, before, step.labeled_samples):
        assert torch.equal(sample.gt_sem_seg.data, old.gt_sem_seg.data)
        assert new is not sample and new.metainfo == old.metainfo == sample.metainfo
        assert new.gt_sem_seg.data.shape == (1, 32, 32)


def test_what_is_pasted_is_the_mixed_labeled_image(augseg, batch):
    model = augseg(surety=0.0, labeled_mixer=dict(type=Swap))
    data = prepared(model, batch(unlabeled=((32, 32),) * 3, views=1))
    labeled, truth = swapped(data['inputs']['labeled']), swapped(truth_of(data))
    step, _ = run(model, data)
    (view,) = step.views
    origin = find_origins(view.image, labeled, data['inputs']['strong'][0])
    assert (origin >= LABELED).any()
    for b, y, x in (origin >= LABELED).nonzero().tolist():
        assert view.pseudo.label[b, y, x] == truth[origin[b, y, x] - LABELED, y, x]


def test_without_a_labeled_mixer_the_batch_itself_is_used(augseg, batch):
    model = augseg()
    data = prepared(model, batch(views=1))
    step, _ = run(model, data)
    assert model.labeled_mixer is None and step.labeled_images is data['inputs']['labeled']
    assert step.labeled_samples is data['data_samples']['labeled']


def test_mixers_of_the_other_kind_are_refused(augseg):
    with pytest.raises(KeyError, match="model.labeled_mixer: 'CutMix' is not a known LabeledMixer"):
        augseg(labeled_mixer=dict(type='CutMix'))
    with pytest.raises(KeyError, match="model.mixer: 'Swap' is not a known Mixer"):
        augseg(mixer=dict(type=Swap))
    with pytest.raises(TypeError, match="model.labeled_mixer.*has no argument 'prob'"):
        augseg(labeled_mixer=dict(type=Swap, prob=1))
