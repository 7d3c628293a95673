from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapper
from mmseg.registry import MODELS

from mmseg_semi.engine.hooks import MeanTeacherHook
from mmseg_semi.models.refiners import BaseRefiner
from mmseg_semi.models.segmentors.ema_teacher import update_teacher
from mmseg_semi.structures import SemiStep


def logits_of(segmentor, images):
    raw = segmentor.decode_head(segmentor.extract_feat(images))
    return F.interpolate(raw, images.shape[-2:], mode='bilinear', align_corners=False)


def unimatch_reference(segmentor, inputs, samples, threshold):
    """UniMatch's loss written from its formula, for unmixed views and dropout 0."""
    count = len(inputs['labeled'])
    truth = torch.cat([sample.gt_sem_seg.data for sample in samples['labeled']])
    logits = logits_of(segmentor, torch.cat([inputs['labeled'], inputs['weak']]))
    supervised = F.cross_entropy(logits[:count], truth, ignore_index=255)
    confidence, label = logits[count:].detach().softmax(1).max(1)
    chosen = (confidence >= threshold) & inputs['valid']

    def unsupervised(stream):
        loss = F.cross_entropy(stream, label, reduction='none')
        return (loss * chosen).sum() / inputs['valid'].sum()

    first, second = logits_of(segmentor, torch.cat(inputs['strong'])).chunk(2)
    # With dropout 0 the perturbed stream repeats the decoding of the weak features.
    maps = segmentor.extract_feat(torch.cat([inputs['labeled'], inputs['weak']]))
    perturbed = segmentor.decode_head([m[count:] for m in maps])
    perturbed = F.interpolate(perturbed, (32, 32), mode='bilinear', align_corners=False)
    return 0.5 * (
        supervised
        + 0.25 * unsupervised(first)
        + 0.25 * unsupervised(second)
        + 0.5 * unsupervised(perturbed)
    )


def test_unimatch_is_the_papers_formula_in_loss_and_weights_after_one_step(build, batch):
    model = build()
    other = deepcopy(model.segmentor)
    data = batch(labeled=((32, 32), (32, 24)), unlabeled=((32, 32), (28, 32), (32, 16)))
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    logged = model.train_step(deepcopy(data), optimizer)

    prepared = model.data_preprocessor(deepcopy(data), True)
    loss = unimatch_reference(other, prepared['inputs'], prepared['data_samples'], 0.6)
    assert 0.05 < float(logged['selected']) < 0.95, 'the threshold must select some pixels'
    torch.testing.assert_close(logged['loss'], loss)
    reference = torch.optim.SGD(other.parameters(), lr=0.1)
    loss.backward()
    reference.step()
    for (name, ours), theirs in zip(model.segmentor.named_parameters(), other.parameters()):
        torch.testing.assert_close(ours, theirs, msg=name, rtol=1e-4, atol=1e-6)


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
    from ..conftest import SEGMENTOR

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


def test_cutmix_mixes_each_view_with_its_own_box_and_its_pseudo_label(build, batch):
    model = build(mixer=dict(type='CutMix', prob=1.0))
    data = model.data_preprocessor(batch(unlabeled=((32, 32),) * 4), True)
    step = model.begin_step(**data)
    model.forward_student(step)
    model.make_pseudo_label(step)
    model.refine(step)
    model.make_views(step)
    assert len(step.views) == 2
    for view, images in zip(step.views, step.strong_images):
        assert view.mix.mask.flatten(1).any(1).all()
        for b, partner in enumerate(view.mix.partners.tolist()):
            assert partner != b
            mask = view.mix.mask[b]
            assert torch.equal(view.image[b][:, mask], images[partner][:, mask])
            assert torch.equal(view.image[b][:, ~mask], images[b][:, ~mask])
            assert torch.equal(view.pseudo.label[b][mask], step.pseudo.label[partner][mask])
            assert torch.equal(view.pseudo.label[b][~mask], step.pseudo.label[b][~mask])
            assert torch.equal(view.pseudo.selected[b][mask], step.pseudo.selected[partner][mask])
    assert not torch.equal(step.views[0].mix.mask, step.views[1].mix.mask)
    assert step.views[0].pseudo.prob is None, 'nothing reads it, so it is not mixed'


def test_a_batch_of_one_unlabeled_image_is_not_mixed_and_says_so_once(build, batch, caplog):
    model = build(mixer=dict(type='CutMix', prob=1.0))
    warnings = []
    from mmseg_semi.models.mixers import cutmix

    original = cutmix.print_log
    cutmix.print_log = lambda message, **_: warnings.append(message)
    try:
        for _ in range(2):
            model(**model.data_preprocessor(batch(unlabeled=((32, 32),)), True), mode='loss')
    finally:
        cutmix.print_log = original
    assert len(warnings) == 1 and 'nothing is mixed' in warnings[0]


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

            def forward(self, pseudo, step: SemiStep):
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


def test_threshold_selects_pixels_at_least_as_confident(build, batch):
    model = build()
    step = model.begin_step(**model.data_preprocessor(batch(), True))
    model.forward_student(step)
    model.make_pseudo_label(step)
    model.refine(step)
    expected = step.raw_pseudo.prob.amax(1) >= 0.6
    assert torch.equal(step.pseudo.selected, expected) and 0 < expected.float().mean() < 1
    assert step.raw_pseudo.selected.all(), 'refiners leave the raw pseudo-label alone'


def with_teacher(build, **changes):
    model = build(teacher=dict(type='ema'), **changes)
    model.hook_attached('MeanTeacherHook')
    return model


def test_pseudo_labels_come_from_the_teacher_in_eval_mode(build, batch):
    model = with_teacher(build)
    torch.manual_seed(1)
    for parameter in model.teacher.parameters():
        parameter.add_(torch.randn_like(parameter))
    model.train()
    assert not model.teacher.training and not model.teacher.decode_head.training
    data = model.data_preprocessor(batch(), True)
    step = model.begin_step(**data)
    model.forward_student(step)
    before = {name: value.clone() for name, value in model.teacher.state_dict().items()}
    model.make_pseudo_label(step)
    expected = logits_of(model.teacher, data['inputs']['weak']).argmax(1)
    assert torch.equal(step.pseudo.label if step.pseudo else step.raw_pseudo.label, expected)
    for name, value in model.teacher.state_dict().items():
        assert torch.equal(value, before[name]), f'{name} moved in a forward pass'


def test_gradients_reach_the_student_alone_and_the_teacher_is_in_no_optimizer(build, batch):
    model = with_teacher(build)
    total, _ = model.parse_losses(model(**model.data_preprocessor(batch(), True), mode='loss'))
    total.backward()
    assert all(p.grad is not None for p in model.segmentor.parameters())
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())
    ours = {id(p) for p in model.parameters()}
    assert ours == {id(p) for p in model.segmentor.parameters()}


def test_teacher_is_saved_and_restored_and_moves_with_the_model(build):
    model = with_teacher(build)
    model.teacher.decode_head.conv_seg.weight.fill_(3.0)
    state = deepcopy(model.state_dict())
    other = with_teacher(build)
    assert not other.load_state_dict(state).missing_keys
    assert (other.teacher.decode_head.conv_seg.weight == 3.0).all()
    assert other.double().teacher.decode_head.conv_seg.weight.dtype == torch.float64
    for key in [key for key in state if key.startswith('teacher.')]:
        del state[key]
    with pytest.raises(RuntimeError, match='teacher'):
        with_teacher(build).load_state_dict(state)


def test_update_teacher_is_the_formula_for_parameters_and_buffers(build):
    student, teacher = build().segmentor, build().segmentor
    torch.manual_seed(1)
    with torch.no_grad():
        for value in (*student.parameters(), *student.buffers()):
            value.copy_(torch.randn(value.shape).mul(10))
    old = deepcopy(teacher.state_dict())
    new = student.state_dict()
    for mode in ('ema', 'copy'):
        teacher.load_state_dict(old)
        update_teacher(teacher, student, 0.9, mode)
        for name, value in teacher.state_dict().items():
            copied = not value.is_floating_point() or (mode == 'copy' and 'running' in name)
            expected = new[name] if copied else 0.9 * old[name] + 0.1 * new[name]
            torch.testing.assert_close(value, expected, msg=name)
    with pytest.raises(ValueError, match="'mean'"):
        update_teacher(teacher, student, 0.9, 'mean')


def test_momentum_warms_up():
    hook = MeanTeacherHook(momentum=0.99)
    assert [hook.momentum_at(t) for t in (0, 1, 3, 98, 99, 1000)] == pytest.approx(
        [0.0, 0.5, 0.75, 98 / 99, 0.99, 0.99]
    )
    assert MeanTeacherHook(momentum=0.5, warm_up=False).momentum_at(0) == 0.5
    for wrong in (dict(momentum=1.0), dict(buffers='none')):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            MeanTeacherHook(**wrong)


def test_a_teacher_without_its_hook_is_refused(build, batch):
    model = build(teacher=dict(type='ema'))
    with pytest.raises(RuntimeError, match='MeanTeacherHook.*custom_hooks'):
        model(**model.data_preprocessor(batch(), True), mode='loss')


def test_a_plain_checkpoint_starts_student_and_teacher(build):
    plain = build().segmentor
    plain.decode_head.conv_seg.bias.data.fill_(5.0)
    model = with_teacher(build)
    result = model.load_state_dict(plain.state_dict())
    assert not result.missing_keys and not result.unexpected_keys
    assert (model.segmentor.decode_head.conv_seg.bias == 5.0).all()
    assert (model.teacher.decode_head.conv_seg.bias == 5.0).all()


def test_predicts_with_student_teacher_or_both(build, batch):
    model = with_teacher(build)
    model.teacher.decode_head.conv_seg.bias.data[2] += 100.0
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
    expected = 0.5 * F.cross_entropy(
        logits_of(model.segmentor, data['inputs']['labeled']),
        torch.cat([sample.gt_sem_seg.data for sample in data['data_samples']['labeled']]),
    )
    torch.testing.assert_close(losses['decode.loss_ce'], expected)
    model.set_progress(3, 10)
    assert 'strong.loss' in model(**data, mode='loss')


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
        (dict(perturbation=None), ValueError, 'model.perturbation is None'),
        (dict(teacher=dict(type='mean')), ValueError, "dict\\(type='ema', mode="),
        (dict(test_cfg=dict(predict_with='teacher')), ValueError, 'needs a teacher'),
        (dict(test_cfg=dict(mode='slide')), ValueError, 'model.segmentor.test_cfg'),
        (dict(supervised_weight=-1), ValueError, 'supervised_weight'),
        (dict(warmup_iters=0.5), ValueError, 'warmup_iters'),
        (dict(student_sees_weak=False), ValueError, 'student_sees_weak'),
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
