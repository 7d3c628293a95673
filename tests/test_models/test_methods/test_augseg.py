"""AugSeg through real training steps, and other components beside its mixer."""

from __future__ import annotations

import math
import re
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.optim import OptimWrapper

from mmseg_semi.engine.hooks import MeanTeacherHook
from mmseg_semi.models.mixers import AdaptiveCutMix, BaseLabeledMixer
from mmseg_semi.models.mixers.adaptive_cutmix import LabeledBoxes
from mmseg_semi.structures import Mix

from ..by_hand import hand_step, identity_model, method_of, plain
from ..helpers import finish_step, hooked, logits_of, runner_of

CONFIGS = Path(__file__).parents[3] / 'configs'
METHOD = Config.fromfile(CONFIGS / '_base_/methods/augseg.py').method
LABELED = 100  # number of the first labeled image; unlabeled ones count from 0
PADDED = dict(labeled=((32, 32), (28, 20)), unlabeled=((32, 32), (32, 24), (20, 32)))
TAP = 'backbone.decoder.1'  # (B, 8, 8, 8) of images of 32 x 32 pixels
RANK = dict(type='AgentRankHead', tap=TAP, num_agents=6)


@pytest.fixture
def augseg(build):
    """Build AugSeg's method, its teacher another network than the student.

    ``surety`` scales the teacher's logits: with 0 every image takes a labeled box.
    """

    def make(surety=0.6, **changes):
        method = {key: value for key, value in METHOD.items() if key != 'type'}
        model = hooked(build(**{**method, **changes}))
        torch.manual_seed(1)
        with torch.no_grad():
            for network, scale in ((model.segmentor, 1.0), (model.teacher.network, surety)):
                weight = network.decode_head.conv_seg.weight
                weight.copy_(scale * torch.randn(weight.shape))
        return model.train()

    return make


def prepared(model, data, seed=3):
    """A preprocessed batch of random images; padding has colors too, and so an origin."""
    data = model.data_preprocessor(deepcopy(data), True)
    source, inputs = torch.Generator().manual_seed(seed), data['inputs']
    for name in ('labeled', 'weak'):
        inputs[name] = torch.randn(inputs[name].shape, generator=source)
    inputs['strong'] = [torch.randn(one.shape, generator=source) for one in inputs['strong']]
    return data


def find_origins(view, labeled, strong):
    """Image of each pixel (B, H, W) as in ``origin_of``, by comparing colors."""
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
    student, teacher = deepcopy(model.segmentor), deepcopy(model.teacher.network)
    data = prepared(model, batch(**PADDED, views=views))
    inputs, truth = data['inputs'], truth_of(data)
    torch.manual_seed(5)
    step, losses = finish_step(model, data)

    mixed = step.streams['strong']
    # Labeled and mixed images go through the student together.
    images = torch.cat([inputs['labeled'], *(view.image for view in mixed)])
    labeled, *outputs = logits_of(student, images).split([2, *[3] * views])
    supervised = F.cross_entropy(labeled, truth, ignore_index=255)
    with torch.no_grad():
        confidence, label = logits_of(teacher, inputs['weak']).softmax(1).max(1)
    share = (confidence >= 0.95)[inputs['valid']].float().mean()
    assert 0.1 < share < 0.9, 'the threshold must select some pixels'
    parts = []
    for view, logits, strong in zip(mixed, outputs, inputs['strong']):
        origin = find_origins(view.image, inputs['labeled'], strong)
        assert torch.equal(view.mix.foreign, origin >= LABELED) and view.mix.foreign.any()
        parts.append(view_loss(logits, origin, label, confidence, inputs['valid'], truth))
    unsupervised = sum(parts) / views
    torch.testing.assert_close(losses['decode.loss_ce'], supervised)
    torch.testing.assert_close(losses['strong.loss'], unsupervised, rtol=1e-4, atol=1e-5)
    total, _ = model.parse_losses(losses)
    torch.testing.assert_close(total, supervised + unsupervised, rtol=1e-4, atol=1e-5)
    if views == 2:
        assert not torch.equal(mixed[0].mix.mask, mixed[1].mix.mask)
        assert not torch.equal(mixed[0].mix.foreign, mixed[1].mix.foreign)


def test_padding_of_a_pasted_labeled_image_is_invalid(augseg, batch):
    model = augseg(surety=0.0)
    data = prepared(model, batch(labeled=((12, 32),), unlabeled=((32, 32),) * 3, views=1))
    step, _ = finish_step(model, data)
    (view,) = step.streams['strong']
    origin = find_origins(view.image, data['inputs']['labeled'], data['inputs']['strong'][0])
    padding = torch.arange(32)[:, None].expand(32, 32) >= 12
    expected = ~((origin == LABELED) & padding)
    assert not expected.all() and torch.equal(view.pseudo.valid, expected)


def test_the_share_of_pasted_images_is_logged(augseg, batch):
    model = augseg()
    with torch.no_grad():
        for value, pasted in ((0.0, 1), (1e6, 0)):
            model.teacher.network.decode_head.conv_seg.weight.zero_()
            model.teacher.network.decode_head.conv_seg.bias.copy_(torch.tensor([value, 0, 0]))
            step, losses = finish_step(model, prepared(model, batch(views=1)))
            assert losses['mixer.pasted'] == pasted
            assert step.streams['strong'][0].mix.foreign.any() == bool(pasted)
    _, logged = model.parse_losses(losses)
    assert logged['mixer.pasted'] == 0


def test_student_and_teacher_see_what_the_method_says(augseg, batch):
    """One step by hand: statistics of {labeled, strong} together; the EMA of all of it."""
    model = augseg()
    hook = MeanTeacherHook()
    hook.before_train(runner_of(model, 0))
    student, old = deepcopy(model.segmentor), deepcopy(model.teacher.state_dict())
    for name, value in model.segmentor.state_dict().items():
        assert torch.equal(value, old[name]), 'the teacher starts as a copy'
    seen, steps, modes = [], [], []
    model.segmentor.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.teacher.network.backbone.register_forward_pre_hook(lambda m, _: modes.append(m.training))
    model.add_observer(steps.append)
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
    data = batch(unlabeled=((32, 32),) * 3, views=1)
    model.train_step(deepcopy(data), optimizer)

    inputs = model.data_preprocessor(deepcopy(data), True)['inputs']
    assert len(seen) == 1 and modes == [False]
    mixed = steps[0].streams['strong'][0].image
    assert torch.equal(seen[0], torch.cat([inputs['labeled'], mixed]))
    for images in seen:
        logits_of(student, images)
    for name, value in student.named_buffers():
        torch.testing.assert_close(dict(model.segmentor.named_buffers())[name], value)
    for name, value in model.teacher.state_dict().items():
        assert torch.equal(value, old[name]), f'{name} moved in a forward pass'

    hook.after_train_iter(runner_of(model, 5000), 0)
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
    hook = MeanTeacherHook()
    hook.before_train(runner_of(model, 0))
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
    before, old = deepcopy(model.segmentor.state_dict()), deepcopy(model.teacher.state_dict())
    for iteration in range(2):
        logged = model.train_step(batch(**PADDED, views=1, seed=iteration), optimizer)
        assert logged['loss'].isfinite() and logged['strong.loss'] > 0
        hook.after_train_iter(runner_of(model, iteration), iteration)
    for name, value in model.segmentor.named_parameters():
        assert torch.isfinite(value).all() and not torch.equal(value, before[name]), name
    assert not torch.equal(
        model.teacher.network.decode_head.conv_seg.weight, old['decode_head.conv_seg.weight']
    )


@pytest.mark.parametrize('name', sorted(CONFIGS.glob('augseg/*.py')), ids=lambda path: path.stem)
def test_configs_set_the_teacher_and_the_one_strong_view(name):
    config = Config.fromfile(name)
    strong = config.train_dataloader.dataset.unlabeled.strong
    assert strong.num_views == 1
    assert strong.transforms == dict(intensity=dict(type='RandomIntensityAugment'))
    model = config.model
    short = 'digit' in name.stem or 'lite0' in name.stem  # runs of some thousand steps
    momentum = 0.99 if short else 0.999
    momentum = 0.996 if re.search('cityscapes|custom', name.stem) else momentum
    threshold = 0.0 if 'cityscapes' in name.stem else 0.95
    own = dict(from_start=True) if 'custom' in name.stem else {}
    assert model.teacher == dict(type='EMATeacher', momentum=momentum, **own)
    joint = dict(group='joint')
    assert model.streams == dict(labeled=joint, strong=joint)
    assert 'MeanTeacherHook' not in str(config.get('custom_hooks'))
    assert model.refiners.select == dict(type='ConfidenceThreshold', threshold=threshold)
    assert model.mixer == dict(type='AdaptiveCutMix')
    assert model.supervised_weight == model.losses.strong.loss_weight == 1


def test_soft_consistency_reads_the_truth_of_pasted_pixels(augseg, batch):
    """KL from a one-hot target is the cross entropy; here every pixel is pasted and known."""
    wide = dict(type='AdaptiveCutMix', prob=0, labeled_beta=(1e-3, 1000), paste='image')
    losses = dict(soft=dict(type='SoftConsistencyLoss'))
    model = augseg(surety=0.0, mixer=wide, losses=losses, refiners=None)
    step, values = finish_step(model, prepared(model, batch(views=1)))
    (view,) = step.streams['strong']
    assert view.mix.foreign.all() and values['soft.loss'].isfinite()
    expected = F.cross_entropy(view.outputs.logits, view.pseudo.label)
    torch.testing.assert_close(values['soft.loss'], expected, rtol=1e-4, atol=1e-5)
    truth = {tuple(s.gt_sem_seg.data.flatten().tolist()) for s in step.labeled_samples}
    assert {tuple(one.flatten().tolist()) for one in view.pseudo.label} <= truth


def test_soft_consistency_is_finite_where_padding_is_pasted(augseg, batch):
    model = augseg(surety=0.0, losses=dict(soft=dict(type='SoftConsistencyLoss')))
    _, values = finish_step(model, prepared(model, batch(**PADDED, views=2)))
    model.parse_losses(values)[0].backward()
    assert values['soft.loss'].isfinite() and values['soft.loss'] > 0
    assert all(p.grad.isfinite().all() for p in model.segmentor.parameters())


def rank_loss(model, step, seed=3):
    torch.manual_seed(seed)
    return model.heads['rank'](step)['loss']


@pytest.fixture
def ranked(augseg, batch):
    """A step with an ``AgentRankHead`` on features of 8 x 8, and the pixels' origins."""
    model = augseg(surety=0.0, heads=dict(rank=RANK))
    data = prepared(model, batch(**PADDED, views=1))
    torch.manual_seed(4)
    step, _ = finish_step(model, data)
    inputs = data['inputs']
    origin = find_origins(step.streams['strong'][0].image, inputs['labeled'], inputs['strong'][0])
    # A feature pixel is 4 x 4 pixels; the first of them speaks for it.
    own = (origin < LABELED)[:, ::4, ::4]
    assert not own.all() and own.flatten(1).sum(1).min() > 6
    return model, step, origin


def test_rank_head_leaves_out_labeled_pixels(ranked):
    model, step, origin = ranked
    (view,) = step.streams['strong']
    valid = torch.zeros_like(view.pseudo.valid)
    for b, y, x in (origin < LABELED).nonzero().tolist():
        valid[b, y, x] = step.valid[origin[b, y, x], y, x]
    ours = rank_loss(model, step)
    view.mix.foreign = None
    with_them = rank_loss(model, step)
    view.pseudo = view.pseudo.update(valid=valid)
    torch.testing.assert_close(ours, rank_loss(model, step), rtol=0, atol=0)
    assert abs(with_them - ours) > 1e-3 * ours


def test_rank_head_gives_labeled_pixels_no_gradient(ranked):
    model, step, origin = ranked
    strong = step.streams['strong'][0].outputs.features[TAP]
    (grad,) = torch.autograd.grad(rank_loss(model, step), strong)
    own = (origin < LABELED)[:, ::4, ::4] & step.streams['strong'][0].pseudo.valid[:, ::4, ::4]
    reached = grad.abs().amax(1) > 0
    assert not (reached & ~own).any() and (reached & own).any()


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
    steps = []
    model.add_observer(steps.append)
    losses = model(**data, mode='loss')

    images, labels, outputs, pseudo = model.labeled_mixer.got
    assert torch.equal(images, inputs['labeled']) and torch.equal(labels, truth)
    assert labels.shape == (3, 32, 32) and labels.dtype == torch.int64
    assert outputs is pseudo is None
    images = swapped(inputs['labeled'])
    if not warm:
        images = torch.cat([images, steps[0].streams['strong'][0].image])
    logits = logits_of(student, images)[:3]
    expected = F.cross_entropy(logits, swapped(truth), ignore_index=255)
    torch.testing.assert_close(losses['decode.loss_ce'], expected)
    other = F.cross_entropy(logits, truth, ignore_index=255)
    assert abs(other - expected) > 5e-3 * expected
    assert ('strong.loss' in losses) != warm


def test_the_batch_keeps_its_data_samples(augseg, batch):
    model = augseg(labeled_mixer=dict(type=Swap))
    data = prepared(model, batch(labeled=((32, 32), (28, 20)), views=1))
    samples = data['data_samples']['labeled']
    kept, before = list(samples), deepcopy(samples)
    images = data['inputs']['labeled'].clone()
    step, _ = finish_step(model, data)
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
    step, _ = finish_step(model, data)
    (view,) = step.streams['strong']
    origin = find_origins(view.image, labeled, data['inputs']['strong'][0])
    assert (origin >= LABELED).any()
    for b, y, x in (origin >= LABELED).nonzero().tolist():
        assert view.pseudo.label[b, y, x] == truth[origin[b, y, x] - LABELED, y, x]


def test_without_a_labeled_mixer_the_batch_itself_is_used(augseg, batch):
    model = augseg()
    data = prepared(model, batch(views=1))
    step, _ = finish_step(model, data)
    assert model.labeled_mixer is None and step.labeled_images is data['inputs']['labeled']
    assert step.labeled_samples is data['data_samples']['labeled']


def test_mixers_of_the_other_kind_are_refused(augseg):
    with pytest.raises(KeyError, match="model.labeled_mixer: 'CutMix' is not a known LabeledMixer"):
        augseg(labeled_mixer=dict(type='CutMix'))
    with pytest.raises(KeyError, match="model.mixer: 'Swap' is not a known Mixer"):
        augseg(mixer=dict(type=Swap))
    with pytest.raises(TypeError, match="model.labeled_mixer.*has no argument 'prob'"):
        augseg(labeled_mixer=dict(type=Swap, prob=1))


class FixedAdaptiveCutMix(AdaptiveCutMix):
    """Image 1 gets the upper half of labeled image 0; both take the left half of the other."""

    def labeled_boxes(self, confidence, step):
        self.confidence = confidence
        box = torch.zeros(2, 4, 4, dtype=torch.bool)
        box[1, :2] = True
        return LabeledBoxes(box, torch.tensor([0, 0]))

    def plan(self, images):
        mask = torch.zeros(2, 4, 4, dtype=torch.bool)
        mask[:, :, :2] = True
        return Mix(mask, torch.tensor([1, 0]))


def test_a_step_of_the_paper_by_hand():
    """The logits of a pixel are its colors; ln 2 among zeros is a probability of 1/2.

    Labeled images: colors (0, ln 2, 0) of class 1, and (0, 0, 0) of class 2. So
    L_s = (ln 2 + ln 3) / 2, and the gradient of the classifier's bias, p - one-hot, is half of
    (1/4, -1/2, 1/4) + (1/3, 1/3, -2/3).

    Weak images: (ln 198, 0, 0) is class 0 with 0.99, which trains; (0, ln 2, 0) is class 1 with
    0.5, under 0.95. Strong images: A (ln 2, 0, 0) and B (0, 0, 0).
    View 0: the left half is B's, whose upper half shows labeled image 0: 4 pixels of class 1 with
    probability 1/2, and 4 that train nothing; 8 of A of class 0, with 1/2.
    View 1: the left half is A's, 8 pixels of class 0 with 1/2. The right half is B's own, which
    trains nothing: the labeled box is not seen there.
    So L_u = 20 ln 2 / 32, and its gradient (4 (1/4, -1/2, 1/4) + 16 (-1/2, 1/4, 1/4)) / 32.
    """
    method = method_of('augseg')
    assert method['mixer'] == dict(type='AdaptiveCutMix') and AdaptiveCutMix().paste == 'partner'
    model = identity_model({**method, 'mixer': FixedAdaptiveCutMix()})
    passes = []
    for network in (model.segmentor, model.teacher.network):
        network.backbone.register_forward_pre_hook(lambda _, args: passes.append(len(args[0])))
    two = math.log(2)
    step, losses, total = hand_step(
        model,
        plain((0, two, 0), (0, 0, 0)),
        torch.tensor([1, 2])[:, None, None].expand(2, 4, 4),
        plain((math.log(198), 0, 0), (0, two, 0)),
        [plain((two, 0, 0), (0, 0, 0))],
    )
    assert passes == [2, 4], 'the teacher, then the student with labeled and mixed images'
    # rho = confidence (1 - entropy / ln 3)
    sure = 0.99 * (1 + (0.99 * math.log(0.99) + 0.01 * math.log(0.005)) / math.log(3))
    half = 0.5 * (1 - 1.5 * two / math.log(3))
    assert model.mixer.confidence.tolist() == pytest.approx([sure, half], rel=1e-5)
    supervised, unsupervised = (two + math.log(3)) / 2, 20 * two / 32
    assert float(losses['decode.loss_ce']) == pytest.approx(supervised, rel=1e-6)
    assert float(losses['strong.loss']) == pytest.approx(unsupervised, rel=1e-6)
    assert float(total) == pytest.approx(supervised + unsupervised, rel=1e-6)
    total.backward()
    first, second = [0.25, -0.5, 0.25], [1 / 3, 1 / 3, -2 / 3]
    strong = [-0.5, 0.25, 0.25]
    wanted = [a / 2 + b / 2 + (4 * a + 16 * c) / 32 for a, b, c in zip(first, second, strong)]
    bias = model.segmentor.decode_head.conv_seg.bias
    assert bias.grad.tolist() == pytest.approx(wanted, rel=1e-5)
    foreign = torch.zeros(2, 4, 4, dtype=torch.bool)
    foreign[0, :2, :2] = True
    assert torch.equal(step.streams['strong'][0].mix.foreign, foreign)
    model.teacher.move(5000)
    for old, new in zip(model.teacher.network.parameters(), model.segmentor.parameters()):
        assert torch.equal(old, new), 'no update yet'
    assert model.teacher.momentum_at(5000) == 0.999
