"""AEL through real training steps and runs."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest
import torch
from tool_runs import differing, forget_logs, load_checkpoint, train_scalars, with_hooks

from mmseg_semi.engine.hooks import ClassConfidenceHook, ImageBankHook
from mmseg_semi.models.refiners import BaseRefiner

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


@pytest.mark.parametrize(
    'teacher, message',
    [
        (None, 'EMA teacher'),
        (dict(type='EMATeacher', mode='train'), "without mode='train'"),
    ],
)
def test_what_cannot_label_loaded_images_is_refused(build_ael, teacher, message):
    with pytest.raises(ValueError, match=rf'model\.mixer: .*{message}.*extra_loads=False'):
        build_ael(teacher=teacher)
    build_ael(**TWO, teacher=teacher)


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
    answers = iter([loader.label_images, loader.ask_teacher])
    model.teacher.label = lambda images: next(answers)(images)
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
    hooks = [(ClassConfidenceHook(), build()), (ImageBankHook(), build())]
    for hook, model in [*hooks, (ImageBankHook(), build_ael(**TWO))]:
        hook.before_train(runner_of(model))
        hook.after_train_iter(runner_of(model), 0)
        hook.after_train(runner_of(model))
        assert hook.parts == [] and model.partner_source is None
    with pytest.raises(ValueError, match='train_dataloader.dataset is a list'):
        ImageBankHook().before_train(
            runner_of(build_ael(), train_dataloader=SimpleNamespace(dataset=[]))
        )


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
