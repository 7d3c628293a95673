from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS

from mmseg_semi.engine.hooks import training_monitor_hook
from mmseg_semi.models.refiners import BaseRefiner, ConfidenceThreshold
from mmseg_semi.models.segmentors import SemiSegmentor, is_semi

from ..conftest import SEGMENTOR
from ..helpers import hooked, logits_of, run_step


def test_padding_changes_no_loss_of_unlabeled_images(build, batch):
    model = build(segmentor=_narrow_segmentor()).train()
    data = model.data_preprocessor(batch(unlabeled=((32, 4), (32, 4))), True)
    losses = model(**data, mode='loss')
    for images in (data['inputs']['weak'], *data['inputs']['strong']):
        images[..., 31:] += 100.0  # 27 pixels away, more than the network sees
    changed = model(**data, mode='loss')
    for name in ('strong.loss', 'perturbed.loss', 'selected', 'confidence'):
        torch.testing.assert_close(changed[name], losses[name], msg=name)


def _narrow_segmentor():
    """Sees 25 pixels to each side; its BatchNorm keeps its statistics."""
    cfg = deepcopy(SEGMENTOR)
    cfg['backbone'] = dict(
        type='ResNet',
        depth=18,
        in_channels=3,
        stem_channels=4,
        base_channels=4,
        num_stages=1,
        strides=(1,),
        dilations=(1,),
        out_indices=(0,),
        norm_cfg=dict(type='BN'),
        norm_eval=True,
    )
    cfg['decode_head'].update(in_channels=4, in_index=0, kernel_size=1, norm_cfg=None)
    return cfg


def test_nothing_selected_and_nothing_valid_give_zero_and_gradients(build, batch):
    for threshold, size in ((1.0, (32, 32)), (0.0, (32, 32))):
        model = build(refiners=dict(select=dict(type='ConfidenceThreshold', threshold=threshold)))
        data = model.data_preprocessor(batch(unlabeled=(size, size)), True)
        if threshold == 0.0:
            data['inputs']['valid'][:] = False
        losses = model(**data, mode='loss')
        assert losses['strong.loss'] == 0 and losses['perturbed.loss'] == 0
        total, _ = model.parse_losses(losses)
        total.backward()
        gradients = [p.grad for p in model.segmentor.parameters()]
        assert all(g is not None and torch.isfinite(g).all() for g in gradients)


def test_refiners_run_by_stage_whatever_their_order_in_the_config(build, batch):
    calls = []

    def refiner(name, stage_name):
        class Recorder(BaseRefiner):
            stage = stage_name

            def forward(self, pseudo, outputs, step):
                calls.append(name)
                return pseudo

        return Recorder()

    model = build(
        refiners=dict(
            w=refiner('w', 'weighting'),
            s1=refiner('s1', 'selection'),
            p=refiner('p', 'probability'),
            s2=refiner('s2', 'selection'),
            removed=None,
            r=refiner('r', 'reliability'),
            g=refiner('g', 'propagation'),
        )
    )
    model(**model.data_preprocessor(batch(), True), mode='loss')
    assert calls == ['p', 's1', 's2', 'g', 'r', 'w']
    with pytest.raises(TypeError, match='probability'):
        refiner('x', 'refinement')
    with pytest.raises(TypeError, match=r'forward\(pseudo, step\) is now forward\(pseudo, out'):

        class Old(BaseRefiner):
            def forward(self, pseudo, step):
                return pseudo


def test_predicts_with_student_teacher_or_both(build, batch):
    model = hooked(build(teacher=dict(type='EMATeacher')))
    model.teacher.network.decode_head.conv_seg.bias.data[2] += 100.0
    model.segmentor.decode_head.conv_seg.bias.data[1] += 100.0
    model.eval()

    def predict(predictor):
        model.predict_with = predictor
        return model.test_step(batch()['labeled'])

    assert all((r.pred_sem_seg.data == 1).all() for r in predict('student'))
    assert all((r.pred_sem_seg.data == 2).all() for r in predict('teacher'))
    for result in predict('both'):
        assert (result.pred_sem_seg.data == 1).all()
        assert (result.teacher_pred_sem_seg.data == 2).all()


def test_what_a_method_adds_does_not_change_the_students_first_weights(build):
    plain = build().segmentor.state_dict()
    drawn = torch.rand(8)
    head = dict(type='CorrelationHead', tap='penultimate')
    model = build(teacher=dict(type='EMATeacher'), heads=dict(correlation=head))
    assert torch.equal(torch.rand(8), drawn)  # nor what init_weights draws after
    torch.testing.assert_close(model.segmentor.state_dict(), plain, rtol=0, atol=0)
    added = list(model.heads['correlation'].parameters())
    again = list(build(heads=dict(correlation=head)).heads['correlation'].parameters())
    assert added and all(map(torch.equal, added, again))


def test_a_batch_without_unlabeled_images_says_what_to_set(build, batch):
    only = dict(labeled=batch()['labeled'])
    with pytest.raises(
        ValueError, match=r'no unlabeled image.*Set train_dataloader\.dataset\.unla'
    ):
        build().data_preprocessor(only, True)


def test_warm_up_trains_on_labeled_images_alone(build, batch):
    model = build(warmup_iters=3)
    data = model.data_preprocessor(batch(), True)
    with pytest.raises(RuntimeError, match='SemiTrainLoop'):
        model(**data, mode='loss')
    passes = []
    model.segmentor.backbone.register_forward_pre_hook(lambda _, args: passes.append(len(args[0])))
    model.set_progress(2, 10)
    losses = model(**data, mode='loss')
    assert sorted(losses) == ['decode.acc_seg', 'decode.loss_ce'] and passes == [2]
    truth = torch.cat([sample.gt_sem_seg.data for sample in data['data_samples']['labeled']])
    labeled, weak = data['inputs']['labeled'], data['inputs']['weak']
    plain = 0.5 * F.cross_entropy(logits_of(model.segmentor, labeled), truth)
    torch.testing.assert_close(losses['decode.loss_ce'], plain)
    model.set_progress(3, 10)
    losses = model(**data, mode='loss')
    assert 'strong.loss' in losses
    logits = logits_of(model.segmentor, torch.cat([labeled, weak]))[: len(labeled)]
    torch.testing.assert_close(losses['decode.loss_ce'], 0.5 * F.cross_entropy(logits, truth))


def test_warm_up_in_epochs_is_that_many_passes_over_the_unlabeled_images(build, batch):
    model = build(warmup_epochs=2)
    data = model.data_preprocessor(batch(), True)
    with pytest.raises(RuntimeError, match='model.warmup_epochs=2 .*SemiTrainLoop'):
        model(**data, mode='loss')
    model.set_progress(0, 10)
    with pytest.raises(RuntimeError, match='how long an epoch is'):
        model(**data, mode='loss')
    for iteration, warm in ((5, True), (6, False)):
        model.set_progress(iteration, 10, iters_per_epoch=3)
        assert ('strong.loss' in model(**data, mode='loss')) != warm


def test_the_warm_up_is_given_once(build):
    with pytest.raises(ValueError, match='warmup_iters=3 and model.warmup_epochs=1 are both'):
        build(warmup_iters=3, warmup_epochs=1)
    with pytest.raises(ValueError, match=r'model.warmup_epochs must be .* got -1'):
        build(warmup_epochs=-1)


def test_channels_last_changes_speed_only(build, batch):
    losses = []
    for channels_last in (False, True):
        model = build(channels_last=channels_last)
        seen = []
        model.segmentor.backbone.register_forward_pre_hook(
            lambda _, args, seen=seen: seen.append(
                args[0].is_contiguous(memory_format=torch.channels_last)
            )
        )
        losses.append(model(**model.data_preprocessor(batch(), True), mode='loss'))
        assert set(seen) == {channels_last}
    for name in losses[0]:
        torch.testing.assert_close(losses[0][name], losses[1][name], msg=name, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('teacher', [None, dict(type='EMATeacher')])
def test_compiled_encoders_change_speed_only(build, batch, teacher):
    found, calls = [], []
    for compiled in (None, 'eager'):
        torch.manual_seed(0)
        model = build(compiled=compiled, teacher=teacher)
        for network in [model.segmentor, *([model.teacher.network] if teacher else [])]:
            call = network.backbone._compiled_call_impl
            calls.append(call is not None)
        hooked(model)
        losses = model(**model.data_preprocessor(batch(), True), mode='loss')
        sum(value for name, value in losses.items() if 'loss' in name).backward()
        found.append([losses, model.state_dict(), [one.grad for one in model.parameters()]])
    assert calls == [False] * (len(calls) // 2) + [True] * (len(calls) // 2)
    assert list(found[0][1]) == list(found[1][1])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    'arguments',
    [dict(compiled='fast'), dict(compiled='tvm'), dict(channels_last='no'), dict(channels_last=1)],
)
def test_what_a_switch_cannot_be_is_refused(build, arguments):
    ((name, value),) = arguments.items()
    listed = "'inductor'" if name == 'compiled' else 'True, False'
    with pytest.raises(
        ValueError, match=rf'model\.{name} must be one of .*{listed}.* got {value!r}'
    ):
        build(**arguments)


def test_not_finite_losses_stop_with_names(build, batch):
    model = build()
    data = model.data_preprocessor(batch(), True)
    data['inputs']['labeled'][0, 0, 0, 0] = float('nan')
    losses = model(**data, mode='loss')
    with pytest.raises(FloatingPointError, match=r'decode\.loss_ce=nan.*\(32, 32\)\.png'):
        model.parse_losses(losses)


@pytest.mark.parametrize(
    'changes, error, message',
    [
        (dict(refinerz={}), TypeError, "no argument 'refinerz'.*Did you mean 'refiners'"),
        (dict(mixer=dict(type='CutMx')), KeyError, "CutMx.*Did you mean 'CutMix'"),
        (
            dict(refiners=dict(a=dict(type='ConfidenceThreshold', treshold=0.5))),
            TypeError,
            "model.refiners.a.*'treshold'.*'threshold'",
        ),
        (dict(refiners=[dict(type='ConfidenceThreshold')]), TypeError, 'dict of named'),
        (dict(refiners=dict(a=dict(threshold=0.5))), TypeError, 'model.refiners.a.*`type`'),
        (dict(mixer=dict(type='CutMix', prob=2)), ValueError, 'prob'),
        (dict(losses=None), ValueError, 'model.losses is empty'),
        (dict(streams=None), ValueError, "stream is 'perturbed', which model.streams does not"),
        (
            dict(perturbation=dict(type='FeatureDropout')),
            TypeError,
            r"model.perturbation is now model.streams=dict\(perturbed=dict\(features='weak'",
        ),
        (dict(teacher=dict(type='mean')), KeyError, 'not a known Teacher. Known: .*EMATeacher'),
        (
            dict(teacher=dict(type='ema')),
            ValueError,
            "type='ema' is now type='EMATeacher', and momentum and buffers are arguments of it",
        ),
        (dict(test_cfg=dict(predict_with='teacher')), ValueError, 'needs a teacher'),
        (dict(test_cfg=dict(mode='slide')), ValueError, 'model.segmentor.test_cfg'),
        (dict(supervised_weight=-1), ValueError, 'supervised_weight'),
        (dict(warmup_iters=0.5), ValueError, 'warmup_iters'),
        (
            dict(student_sees_weak=True),
            TypeError,
            r"model.student_sees_weak is now model.streams=dict\(weak=dict\(images='weak'",
        ),
    ],
)
def test_wrong_configs_are_refused_with_key_and_remedy(build, changes, error, message):
    with pytest.raises(error, match=message):
        build(**changes)


def test_plain_batches_and_plain_segmentors_of_another_kind_are_refused(build, batch):
    model = build()
    with pytest.raises(TypeError, match='semi_collate'):
        model(**model.data_preprocessor(batch()['labeled'], True), mode='loss')
    with pytest.raises(TypeError, match="'SegTTAModel'|not an mmseg EncoderDecoder"):
        MODELS.build(
            dict(
                type='SemiSegmentor',
                segmentor=dict(type='FCNHead', in_channels=4, channels=4, num_classes=2),
                losses=dict(strong=dict(type='PseudoLabelCrossEntropy')),
            )
        )


# -------------------------------------------------------------------------------------- subclass
@MODELS.register_module()
class OwnSegmentorForTest(SemiSegmentor):
    """A framework with an argument of its own, which changes one step."""

    def __init__(self, *args, label_shift=0, **kwargs):
        super().__init__(*args, **kwargs)
        self.label_shift = label_shift

    def refine(self, pseudo, outputs, step, kept=None):
        pseudo = super().refine(pseudo, outputs, step, kept)
        return pseudo.update(label=(pseudo.label + self.label_shift) % 3)


def test_a_subclass_is_a_framework_with_arguments_of_its_own(build, batch):
    plain, own = build(), build(type='OwnSegmentorForTest', label_shift=1)
    assert isinstance(own, OwnSegmentorForTest)
    steps = [run_step(model, batch())[0] for model in (plain, own)]
    assert torch.equal(steps[1].pseudo.label, (steps[0].pseudo.label + 1) % 3)


def test_a_wrong_argument_of_a_subclass_is_refused_in_its_name(build):
    with pytest.raises(
        TypeError, match="model: OwnSegmentorForTest has no argument 'refinerz'.*Did"
    ):
        build(type='OwnSegmentorForTest', refinerz={})
    with pytest.raises(TypeError, match="no argument 'label_shft'.*Did you mean 'label_shift'"):
        build(type='OwnSegmentorForTest', label_shft=2)
    with pytest.raises(TypeError, match='model.perturbation is now model.streams'):
        build(type='OwnSegmentorForTest', perturbation=None)


def test_a_wrong_argument_of_a_subclass_of_a_component_is_refused_in_its_name(build):
    @MODELS.register_module(force=True)
    class OwnThresholdForTest(ConfidenceThreshold):
        def __init__(self, offset=0.0, **kwargs):
            super().__init__(**kwargs)
            self.offset = offset

    def with_select(**arguments):
        return build(refiners=dict(select=dict(type='OwnThresholdForTest', **arguments)))

    select = with_select(offset=0.1, threshold=0.7).refiners['select']
    assert (select.offset, select.threshold) == (0.1, 0.7)
    with pytest.raises(
        TypeError, match="OwnThresholdForTest has no argument 'treshold'.*threshold"
    ):
        with_select(treshold=0.7)
    with pytest.raises(ValueError, match='OwnThresholdForTest.threshold must be a number'):
        with_select(threshold=7)


def test_configs_of_a_semi_supervised_model_are_told_from_others(build):
    known = ['SemiSegmentor', 'mmseg.SemiSegmentor', 'OwnSegmentorForTest', OwnSegmentorForTest]
    assert all(is_semi(dict(type=kind)) for kind in known)
    others = ['EncoderDecoder', 'mmseg.EncoderDecoder', 'NobodyKnows', BaseRefiner]
    assert not any(is_semi(dict(type=kind)) for kind in others)


def test_what_is_selected_after_mixing_is_what_the_log_says(build, batch):
    select = dict(type='QuantileThreshold', stream='strong', alpha=0.4)
    model = build(
        mixer=None,
        streams=None,
        refiners=dict(select=select),
        losses=dict(strong=dict(type='PseudoLabelCrossEntropy', stream='strong')),
    )
    model.set_progress(0, 10)
    step, losses = run_step(model, batch())
    own = step.streams['strong'][0].own_pseudo
    share = own.used.sum() / own.valid.sum()
    assert float(losses['selected']) == pytest.approx(float(share)) and 0.3 < share < 0.9
    counts = training_monitor_hook._count(step)
    assert counts[0].tolist()[0] == own.valid.sum() and counts[0, 1:].sum() == own.used.sum()
