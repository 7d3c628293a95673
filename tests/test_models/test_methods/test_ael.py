"""AEL through real training steps and runs."""

from __future__ import annotations

import math
import signal
from types import SimpleNamespace

import pytest
import torch
from tool_runs import differing, forget_logs, load_checkpoint, train_scalars, with_hooks

from mmseg_semi.engine.hooks import ClassConfidenceHook, ImageBankHook, LabeledSourceHook
from mmseg_semi.models.losses import PseudoLabelCrossEntropy
from mmseg_semi.models.mixers import ClassAwareCutMix, CopyPaste
from mmseg_semi.models.refiners import BaseRefiner

from ..by_hand import hand_step, identity_model, method_of, plain
from ..conftest import AEL, AEL_LOSS
from ..conftest import AEL_HEADS as HEADS
from ..helpers import run_step, runner_of

HOOKS = ('MeanTeacherHook', 'ClassConfidenceHook', 'ImageBankHook')
TWO = dict(mixer=dict(AEL['mixer'], extra_loads=False))


DIGITS = 'ael/ael_unet_digit-scenes-60.py'


def numbered(data):
    for place, sample in enumerate(data['unlabeled']['data_samples']):
        sample.set_metainfo(dict(sample_index=place, sample_seed=place))
    return data


@pytest.mark.parametrize('small', [False, True], ids=['plain', 'padding'])
def test_ael_trains(loading, batch, small):
    sizes = ((20, 12), (32, 24)) if small else ((32, 32),) * 2
    model, loader = loading(labeled_mixer=AEL['labeled_mixer'])
    model.teacher.label = loader.label_images
    # A teacher that finds class 0 everywhere, so the others have to be loaded.
    model.teacher.network.decode_head.conv_seg.bias[0] += 5
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
    model.teacher.label = loader.label_images
    seen, steps = [], []
    choose = model.heads['rank'].choose
    model.heads['rank'].choose = lambda weak, valid: seen.append(valid) or choose(weak, valid)
    model.add_observer(steps.append)
    torch.manual_seed(0)
    data = numbered(batch(unlabeled=((32, 32), (32, 20)), views=1))
    model(**model.data_preprocessor(data, True), mode='loss')
    (view,) = steps[0].streams['strong']
    foreign = view.mix.foreign
    assert foreign.any() and (foreign & view.pseudo.valid)[:, ::4, ::4].any()
    assert torch.equal(seen[0], (view.pseudo.valid & ~foreign)[:, ::4, ::4])


@pytest.mark.parametrize('missing', HOOKS)
def test_a_missing_hook_is_named(build_ael, batch, missing):
    """In a loop of one's own; SemiTrainLoop registers it."""
    model = build_ael(without=[missing])
    data = model.data_preprocessor(batch(views=1), True)
    with pytest.raises(
        RuntimeError, match=f"SemiTrainLoop.*add {{'type': '{missing}'}} to custom_"
    ):
        model(**data, mode='loss')


def test_without_loads_no_image_bank_is_needed(build_ael, batch):
    model = build_ael(without=['ImageBankHook'], **TWO)
    assert 'mixer.bank' not in model.state_dict()
    model(**model.data_preprocessor(batch(views=1), True), mode='loss')
    assert model.mixer.hooks == () and build_ael().mixer.hooks


@pytest.mark.parametrize('kind', ['labeled_mixer', 'mixer', 'losses.strong'])
def test_a_missing_head_is_named(build_ael, kind):
    free = dict(type='PseudoLabelCrossEntropy')
    changes = dict(mixer=None, labeled_mixer=None, losses=dict(strong=free))
    used = dict(AEL, **{'losses.strong': AEL_LOSS})[kind]
    changes.update({'losses': dict(strong=used)} if kind == 'losses.strong' else {kind: used})
    pattern = rf"model\.{kind}: .*none named 'class_confidence' \(it has: other\)"
    with pytest.raises(ValueError, match=pattern):
        build_ael(heads=dict(other=dict(type='ClassConfidence')), **changes)
    build_ael(**changes)


@pytest.mark.parametrize(
    'key, wrong, message',
    [
        ('mixer', dict(prob=1.5), r'prob must be a number in \[0, 1\], got 1\.5'),
        ('mixer', dict(min_component=1), r'min_component must be a number in \[0, 1\), got 1'),
        ('mixer', dict(min_share=2), r'min_share must be a number in \[0, 1\], got 2'),
        ('mixer', dict(extra_loads=1), 'extra_loads must be one of'),
        ('labeled_mixer', dict(prob=-1), r'prob must be a number in \[0, 1\], got -1'),
        ('labeled_mixer', dict(num_classes=0), 'num_classes must be a whole number >= 1'),
        ('labeled_mixer', dict(power=-1), 'power must be a number >= 0, got -1'),
        ('labeled_mixer', dict(draw='all'), "draw must be one of .*'image', 'batch'.*got 'all'"),
        ('labeled_mixer', dict(source='bank'), "source must be one of .*got 'bank'"),
        ('labeled_mixer', dict(scale=(0.1, 2.0)), r"scale=\(0.1, 2.0\) .*set source='dataset'"),
        (
            'labeled_mixer',
            dict(source='dataset', scale=(2.0, 0.1)),
            r'scale is \(2.0, 0.1\): write the smaller multiple first',
        ),
        (
            'labeled_mixer',
            dict(ignore_classes=(3,)),
            r'ignore_classes=\(3,\) .* the classes 0 to 2',
        ),
        ('labeled_mixer', dict(ignore_classes=(0, 1, 2)), 'ignore_classes=.* not all of them'),
        ('heads.class_confidence', dict(when='now'), "when must be one of .*got 'now'"),
        ('losses.strong', dict(equalize_by='truth'), "equalize_by must be one of .*got 'truth'"),
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


def test_what_cannot_label_loaded_images_is_refused(build_ael):
    with pytest.raises(ValueError, match=r'model\.mixer: .*EMATeacher.*extra_loads=False'):
        build_ael(teacher=None)
    build_ael(**TWO, teacher=None)


def test_loaded_images_are_labeled_in_one_pass_with_the_batch(loading, batch):
    """So a teacher in mode 'train' normalizes both by their common statistics."""
    model, loader = loading(teacher=dict(type='EMATeacher', mode='train'))
    seen = []
    model.teacher.label = lambda images: seen.append(images) or loader.label_images(images)
    torch.manual_seed(0)
    step, _ = run_step(model, numbered(batch(views=1)))
    (numbers,) = loader.asked
    (images,) = seen
    assert len(images) == 2 + len(numbers) and step.partners.places.tolist() == numbers
    logits = loader.label_images(images).logits
    torch.testing.assert_close(step.teacher.logits, logits[:2])
    confidence, label = logits[2:].softmax(1).max(1)
    assert torch.equal(step.partners.pseudo.label, label)
    torch.testing.assert_close(step.partners.pseudo.confidence, confidence)


def test_the_teacher_labels_labeled_images_for_a_loss(build_ael, batch):
    """Cross entropy of the student's labeled logits with the teacher's sure labels, by hand."""
    loss = dict(type='PseudoLabelCrossEntropy')
    model = build_ael(**TWO, losses=dict(labeled=dict(loss, stream='labeled'), strong=loss))
    torch.manual_seed(1)
    torch.nn.init.normal_(model.teacher.network.decode_head.conv_seg.weight)
    step, losses = run_step(model, batch(labeled=((32, 32), (32, 20)), views=1))
    with torch.no_grad():
        prob = model.teacher.label(step.labeled_images).logits.softmax(1)
    confidence, label = prob.max(1)
    valid = torch.ones_like(label, dtype=torch.bool)
    valid[1, :, 20:] = False  # padding of the second image
    assert torch.equal(step.labeled_pseudo.valid, valid)
    used = valid & (confidence >= 0.4)
    assert 0 < used.sum() < valid.sum()
    each = torch.nn.functional.cross_entropy(step.labeled.logits, label, reduction='none')
    torch.testing.assert_close(losses['labeled.loss'], each[used].sum() / valid.sum())
    assert not torch.equal(label[used], step.labeled_truth[used]), 'not the truth'


def test_a_loss_on_labeled_images_needs_a_teacher(build_ael):
    losses = dict(labeled=dict(type='PseudoLabelCrossEntropy', stream='labeled'))
    with pytest.raises(ValueError, match=r"labeled\.stream: .*'labeled' .*set model\.teacher"):
        build_ael(**TWO, teacher=None, losses=losses)


class Fainter(BaseRefiner):
    """A user's own refiner: halves the confidence, and counts the steps that it observed."""

    stage = 'probability'

    def __init__(self):
        super().__init__()
        self.calls, self.seen = [], []

    def forward(self, pseudo, outputs, step):
        self.calls.append(len(pseudo.label))
        return pseudo.update(confidence=pseudo.confidence / 2)

    def observe(self, step):
        self.seen.append(len(step.refined[self.name].label))


def test_a_refiner_of_ones_own_refines_loaded_images_too(loading, batch):
    model, loader = loading(refiners=dict(own=Fainter(), select=AEL['refiners']['select']))
    refiner, loaded = model.refiners['own'], []
    load = model.load_partners
    model.load_partners = lambda *args: loaded.append(load(*args)) or loaded[-1]
    # Labels of the batch are sure of class 0, so the other classes are to be loaded.
    bias = model.teacher.network.decode_head.conv_seg.bias
    bias[0] += 5
    torch.manual_seed(0)
    run_step(model, numbered(batch(views=1)))
    (partners,) = loaded
    (numbers,) = loader.asked
    assert refiner.calls == [2, len(numbers)] and refiner.seen == [2]
    wanted = torch.cat([loader.label(number).confidence for number in sorted(numbers)])
    torch.testing.assert_close(partners.pseudo.confidence, wanted / 2)
    assert torch.equal(
        partners.pseudo.selected, partners.pseudo.valid & (partners.pseudo.confidence >= 0.4)
    )


def test_hooks_without_use_are_left_out_and_other_data_refused(build, build_ael):
    hooks = [(one(), build()) for one in (ClassConfidenceHook, ImageBankHook, LabeledSourceHook)]
    for hook, model in [*hooks, (ImageBankHook(), build_ael(**TWO))]:
        hook.before_train(runner_of(model))
        hook.after_train_iter(runner_of(model), 0)
        hook.after_train(runner_of(model))
        assert hook.parts == [] and model.partner_source is None
    loading = build_ael(labeled_mixer=dict(type='CopyPaste', source='dataset'))
    for hook in (ImageBankHook, LabeledSourceHook):
        with pytest.raises(ValueError, match='train_dataloader.dataset is a list'):
            hook().before_train(runner_of(loading, train_dataloader=SimpleNamespace(dataset=[])))


SMALL = dict(model=dict(mixer=dict(min_share=0.0005)))


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
    killer = with_hooks(SMALL, dict(type='KillHook', iteration=5))
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


class FixedCopyPaste(CopyPaste):
    """Class 2 is drawn, which is in the first row of the other image of labeled image 1."""

    def drawn(self, batch):
        return torch.full((batch, 1), 2)

    def sources(self, images, truth):
        other = torch.zeros_like(truth)
        other[1, 0] = 2
        return plain((5, 5, 5), (0, 0, math.log(8))), other


class FixedClassAwareCutMix(ClassAwareCutMix):
    """Image 0 takes the upper half of image 1, which takes nothing."""

    def boxes(self, target):
        box = torch.zeros(2, 4, 4, dtype=torch.bool)
        box[0, :2] = True
        return box, torch.ones(2, dtype=torch.bool)


class FixedEqualization(PseudoLabelCrossEntropy):
    """Draws of 0.4 in the left half and 0.6 in the right one, for every class."""

    def draw(self, classes, size, device):
        return torch.tensor([0.4, 0.4, 0.6, 0.6]).expand(classes, *size)


def test_a_step_of_the_paper_by_hand():
    """The logits of a pixel are its colors; ln 8 among zeros is 0.8, ln 18 is 0.9, ln 2 is 1/2.

    Class confidences (0.5, 0, 0), so pixels that the student predicts as class 0 are kept at a rate
    of 1/2 (right half: a draw of at least 1 - 1/2), all others always.

    Labeled images: 0 is (ln 8, 0, 0), all of class 0. 1 is (0, ln 2, 0) of class 1, but for its
    first row, which copy-paste has made (0, 0, ln 8) of class 2. L_s = (20 ln 1.25 + 12 ln 2) / 32.
    The teacher labels them, too: image 0 as class 0 with 0.8, which trains, by weights of 0.64 in
    the right half; the first row of image 1 as class 2 with 0.8; its other 12 pixels have 0.5,
    under 0.7: they do not train, but their weights of 0.25 count in the divisor. So
    L_labeled = (8 + 4) 0.64 ln 1.25 / (12 * 0.64 + 12 * 0.25).

    Weak images: 0 is class 0 with 0.8, 1 is class 1 with 0.9. Strong: 0 is (0, 0, 0), predicted as
    class 0 (the first of equals), 1 is (0, ln 2, 0), predicted as class 1. View 0 has the upper
    half of image 1: 8 pixels of weight 0.81 and ln 2; below, 4 of 8 pixels are kept, of weight 0.64
    and ln 3. View 1: 16 pixels of weight 0.81 and ln 2. So
    L_u = (24 * 0.81 ln 2 + 4 * 0.64 ln 3) / (24 * 0.81 + 4 * 0.64).
    """
    method = method_of('ael')
    paste = {k: v for k, v in method['labeled_mixer'].items() if k not in ('type', 'prob')}
    method['labeled_mixer'] = FixedCopyPaste(prob=1.0, **paste)
    mixer = {key: value for key, value in method['mixer'].items() if key != 'type'}
    method['mixer'] = FixedClassAwareCutMix(**mixer)
    for name, loss in method['losses'].items():
        loss.pop('type')
        method['losses'][name] = FixedEqualization(**loss)
    model = identity_model(method)
    head = model.heads['class_confidence']
    head.values[0] = 0.5
    eight, two = math.log(8), math.log(2)
    step, losses, total = hand_step(
        model,
        plain((eight, 0, 0), (0, two, 0)),
        torch.tensor([0, 1])[:, None, None].expand(2, 4, 4),
        plain((eight, 0, 0), (0, math.log(18), 0)),
        [plain((0, 0, 0), (0, two, 0))],
    )
    quarter = math.log(1.25)
    supervised = (20 * quarter + 12 * two) / 32
    labeled = 12 * 0.64 * quarter / (12 * 0.64 + 12 * 0.25)
    strong = (24 * 0.81 * two + 4 * 0.64 * math.log(3)) / (24 * 0.81 + 4 * 0.64)
    assert float(losses['decode.loss_ce']) == pytest.approx(supervised, rel=1e-5)
    assert float(losses['labeled.loss']) == pytest.approx(labeled, rel=1e-5)
    assert float(losses['strong.loss']) == pytest.approx(strong, rel=1e-5)
    assert float(total) == pytest.approx(supervised + labeled + strong, rel=1e-5)
    assert step.streams['strong'][0].mix.partners.tolist() == [1, 0]
    # The student's mean probabilities of the true class: 0.8, 0.5 and 0.8.
    head.update_state()
    wanted = [0.999 * 0.5 + 0.001 * 0.8, 0.001 * 0.5, 0.001 * 0.8]
    assert head.values.tolist() == pytest.approx(wanted, rel=1e-5)
