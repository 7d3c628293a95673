"""Streams as data: where they begin, what they share, which are refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmseg_semi.models.perturbations import BasePerturbation

from ..helpers import hooked, run_step
from ..steps import mixed_step, whole_step

SIZES = dict(labeled=((32, 32),) * 2, unlabeled=((32, 32),) * 3)
TEACHER = dict(type='EMATeacher')
CE = dict(type='PseudoLabelCrossEntropy', loss_weight=1.0)
STRONG = dict(strong=dict(CE, stream='strong'))
PASTE = dict(type='CutMix', prob=1.0)


class Halve(BasePerturbation):
    def forward(self, maps, views):
        self.seen, self.views = maps, views
        return [0.5 * one for one in maps]


def dropped(**more):
    return dict(perturbation=dict(type='FeatureDropout'), **more)


def first_norm(network):
    return next(one for one in network.modules() if isinstance(one, nn.BatchNorm2d))


def passes_of(model):
    """Images of each pass through the encoder and through the decoder, filled as they run."""
    seen = dict(encoder=[], decoder=[])
    parts = dict(encoder=model.segmentor.backbone, decoder=model.segmentor.decode_head.convs)
    for name, part in parts.items():
        part.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(args[0]))
    return seen


# ---------------------------------------------------------------------------------------- passes
GROUPINGS = {
    'as it is': (dict(perturbed=dropped(features='weak')), [5, 6], [5, 6, 3]),
    # UniMatch's released program: clean and dropped features of both in one decoder pass.
    'dropped with clean': (
        dict(
            perturbed=dropped(features='weak', group='clean'),
            labeled_dropped=dropped(features='labeled', group='clean'),
        ),
        *([5, 6], [10, 6]),
    ),
    'each alone': (
        dict(
            labeled=dict(group='labeled'),
            weak=dict(group='weak'),
            perturbed=dropped(features='weak'),
        ),
        *([2, 3, 6], [2, 3, 6, 3]),
    ),
    'each with its own dropped': (
        dict(
            labeled=dict(group='labeled'),
            weak=dict(group='weak'),
            labeled_dropped=dropped(features='labeled', group='labeled'),
            perturbed=dropped(features='weak', group='weak'),
        ),
        *([2, 3, 6], [4, 6, 6]),
    ),
    'labeled with strong': (
        dict(labeled=dict(group='strong'), perturbed=dropped(features='weak', group='clean')),
        *([3, 8], [6, 8]),
    ),
}


@pytest.mark.parametrize('name', GROUPINGS)
def test_streams_of_a_group_share_a_pass(build, batch, name):
    streams, encoded, decoded = GROUPINGS[name]
    model = build(streams=streams)
    seen = passes_of(model)
    step, losses = run_step(model, batch(**SIZES))
    assert [len(images) for images in seen['encoder']] == encoded
    assert [len(features) for features in seen['decoder']] == decoded
    norms = [one for one in model.segmentor.modules() if isinstance(one, nn.BatchNorm2d)]
    assert norms[0].num_batches_tracked == len(encoded)
    assert norms[-1].num_batches_tracked == len(decoded)
    assert {'decode.loss_ce', 'strong.loss', 'perturbed.loss'} < losses.keys()
    assert {name: len(views) for name, views in step.streams.items()} == {
        **dict.fromkeys(model.streams, 1),
        'strong': 2,
    }


def test_labeled_and_strong_images_share_one_pass_under_a_teacher(build, batch):
    """U2PL's passes: the student does not see the weak images at all."""
    streams = dict(labeled=dict(group='strong'))
    model = hooked(build(teacher=TEACHER, losses=STRONG, streams=streams))
    assert list(model.streams) == ['labeled', 'strong']
    seen = passes_of(model)
    step, losses = run_step(model, batch(**SIZES))
    assert [len(images) for images in seen['encoder']] == [8]
    assert torch.equal(seen['encoder'][0][:2], step.labeled_images) and step.weak is None
    norm = model.segmentor.decode_head.convs[0].bn
    assert norm.num_batches_tracked == 1
    logits = step.labeled.logits
    truth = step.labeled_truth
    torch.testing.assert_close(
        losses['decode.loss_ce'], 0.5 * F.cross_entropy(logits, truth, ignore_index=255)
    )


def test_three_kinds_of_images_in_one_pass_under_a_teacher(build, batch):
    streams = {name: dict(group='all') for name in ('labeled', 'weak', 'strong')}
    model = build(teacher=TEACHER, losses=STRONG, streams=streams)
    seen = passes_of(model)
    step = whole_step(model, batch(**SIZES))
    assert [len(images) for images in seen['encoder']] == [11]
    expected = [step.labeled_images, step.weak_images, *step.strong_images]
    assert torch.equal(seen['encoder'][0], torch.cat(expected))


def test_normalizations_see_all_streams_of_a_pass(build, batch):
    """Clean and dropped features in one decoder pass: statistics and outputs are of all four."""
    streams = dict(
        labeled_dropped=dict(features='labeled', perturbation=Halve(), group='clean'),
        perturbed=dict(features='weak', perturbation=Halve(), group='clean'),
    )
    model = build(streams=streams)
    head = model.segmentor.decode_head
    before = head.convs[0].bn.running_mean.clone()
    inputs = []
    head.convs[0].bn.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
    step = mixed_step(model, batch(**SIZES))  # the strong pass has not been
    means = inputs[0].mean((0, 2, 3))
    torch.testing.assert_close(head.convs[0].bn.running_mean, 0.9 * before + 0.1 * means)
    maps = [torch.cat(pair) for pair in zip(step.labeled.maps, step.weak.maps)]
    together = head([torch.cat([one, 0.5 * one]) for one in maps])
    order = ('labeled', 'weak', 'labeled_dropped', 'perturbed')
    ours = torch.cat([step.streams[name][0].outputs.stages[-1] for name in order])
    torch.testing.assert_close(ours, together)
    assert not torch.allclose(ours[5:], head([0.5 * one for one in maps]), atol=1e-2)


# --------------------------------------------------------------------------------------- sources
def test_a_stream_need_not_be_mixed(build, batch):
    streams = dict(plain=dict(images='strong', mixed=False))
    losses = dict(STRONG, plain=dict(CE, stream='plain'))
    step = whole_step(build(mixer=PASTE, streams=streams, losses=losses), batch(**SIZES))
    for mixed, plain, images in zip(
        step.streams['strong'], step.streams['plain'], step.strong_images
    ):
        assert mixed.mix is not None and not torch.equal(mixed.image, images)
        assert plain.mix is None and torch.equal(plain.image, images)
        assert torch.equal(plain.pseudo.label, step.pseudo.label)
        assert not torch.equal(mixed.pseudo.label, step.pseudo.label)
        assert not torch.equal(mixed.outputs.logits, plain.outputs.logits)


def test_a_stream_of_one_strong_view(build, batch):
    streams = dict(second=dict(images='strong', view=1))
    model = build(mixer=PASTE, streams=streams, losses=dict(s=dict(CE, stream='second')))
    step, losses = run_step(model, batch(**SIZES))
    (view,) = step.streams['second']
    assert torch.equal(view.image, step.streams['strong'][1].image), 'mixed with the same box'
    first = step.streams['strong'][1].outputs
    assert len(first) == 3 and first is not view.outputs, 'each stream has passes of its own'
    loss = F.cross_entropy(view.outputs.logits, view.pseudo.label, reduction='none')
    expected = (loss * view.pseudo.used).sum() / view.pseudo.valid.sum()
    torch.testing.assert_close(losses['s.loss'], expected)
    model = build(streams=streams, losses=dict(s=dict(CE, stream='second')))
    message = r"losses.s .*stream 'second', but the batch has 1 strong views: .* to at least 2"
    with pytest.raises(ValueError, match=message):
        run_step(model, batch(**SIZES, views=1))


def test_a_view_that_no_batch_has_is_refused_without_a_reader_too(build, batch):
    model = build(losses=STRONG, streams=dict(second=dict(images='strong', view=2, group='strong')))
    message = "model.streams has 'second', but the batch has 2 strong views: .* to at least 3"
    with pytest.raises(ValueError, match=message):
        run_step(model, batch(**SIZES))


def test_a_stream_of_the_features_of_strong_views(build, batch):
    halve = Halve()
    streams = dict(dropped=dict(features='strong', perturbation=halve))
    losses = dict(dropped=dict(CE, stream='dropped'))
    model = build(mixer=PASTE, streams=streams, losses=losses)
    seen = passes_of(model)
    step, values = run_step(model, batch(**SIZES))
    assert [len(images) for images in seen['encoder']] == [5, 6], 'the features are not made anew'
    assert halve.views == 2 and len(halve.seen[0]) == 6
    strong, views = step.streams['strong'], step.streams['dropped']
    maps = [torch.cat(pair) for pair in zip(*(view.outputs.maps for view in strong))]
    halved = model.segmentor.decode_head([0.5 * one for one in maps])
    torch.testing.assert_close(torch.cat([v.outputs.stages[-1] for v in views]), halved)
    expected = []
    for one, view in zip(strong, views):
        assert torch.equal(one.pseudo.label, view.pseudo.label) and view.mix is one.mix
        loss = F.cross_entropy(view.outputs.logits, view.pseudo.label, reduction='none')
        expected.append((loss * view.pseudo.used).sum() / view.pseudo.valid.sum())
    torch.testing.assert_close(values['dropped.loss'], sum(expected) / 2)


def test_a_listed_stream_is_seen_for_its_statistics_alone(build, batch):
    """AugSeg: a teacher labels, but the student's BatchNorm sees the weak images too."""
    for streams, expected in ((None, [2, 6]), (dict(weak=dict(images='weak')), [5, 6])):
        model = hooked(build(teacher=TEACHER, losses=STRONG, streams=streams))
        seen = passes_of(model)
        run_step(model, batch(**SIZES))
        assert [len(images) for images in seen['encoder']] == expected


# --------------------------------------------------------------------------------------- refused
EXTRA = dict(losses=dict(STRONG, extra=dict(CE, stream='extra')))


@pytest.mark.parametrize(
    'streams, message',
    [
        (dict(extra=dict(features='weka')), "'weka' of images.*Did you mean 'weak'.*labeled, weak"),
        (dict(extra=dict(images='stong')), "streams.extra.images must be one of .*'stong'.*strong"),
        (dict(extra=dict()), 'must begin with one of images=.* and features=.*features=None'),
        (dict(extra=dict(images='weak', features='weak')), 'must begin with one of'),
        (dict(extra=dict(images='weak', mixed=True)), "mixed=True is for .*images='strong' alone"),
        (dict(extra=dict(images='strong', mixed='no')), "extra.mixed must be one of .*got 'no'"),
        (dict(extra=dict(images='weak', view=0)), "view=0 is for .*images='strong' alone"),
        (dict(extra=dict(images='strong', view=-1)), 'extra.view must be a whole number >= 0'),
        (dict(extra=dict(features='strong', group='clean')), 'begins with the features of .strong'),
        (dict(other=dict(images='weak')), "'extra', which model.streams does not have.*other"),
        (dict(extra=dict(images='weak'), labeled=None), 'model.streams.labeled must be there'),
        (
            dict(extra=dict(images='weak'), labeled=dict(images='weak')),
            'model.streams.labeled must be there',
        ),
        (dict(extra=dict(images='weak'), weak=None), 'weak is None, but the student must see'),
        (
            dict(extra=dict(images='strong'), idle=dict(features='weak')),
            "model.streams.idle trains nothing: .* Add a loss with stream='idle'",
        ),
        (
            dict(extra=dict(images='strong'), weak=dict(group='strong')),
            'weak shares a pass with strong images.*the student as its own teacher',
        ),
    ],
)
def test_streams_that_cannot_work_are_refused(build, streams, message):
    with pytest.raises(ValueError, match=message):
        build(**EXTRA, streams=streams)


# ------------------------------------------------------------------------------ network and mode
def test_the_teacher_sees_mixed_and_labeled_images_by_their_own_statistics(build, batch):
    """U2PL's second pass of the teacher: train mode, no gradient, labeled and mixed together."""
    through = dict(network='teacher', mode='train', group='teacher')
    streams = dict(
        teacher_mixed=dict(images='strong', **through),
        teacher_labeled=dict(images='labeled', **through),
    )
    model = hooked(build(teacher=TEACHER, losses=STRONG, streams=streams))
    network = model.teacher.network
    before = {name: value.clone() for name, value in network.named_buffers()}
    step, _ = run_step(model, batch(**SIZES))
    assert first_norm(model.segmentor).num_batches_tracked == 2  # {labeled}, {strong}
    for name, value in network.named_buffers():
        assert torch.equal(value, before[name]), name
    assert not network.training
    mixed, labeled = step.streams['teacher_mixed'], step.streams['teacher_labeled']
    images = [one.image for one in (*mixed, *labeled)]
    assert [len(one) for one in images] == [3, 3, 2]
    assert torch.equal(images[0], step.streams['strong'][0].image)
    with torch.no_grad():
        running = network.encode_decode(torch.cat(images), [dict(img_shape=(32, 32))])
        network.train()
        own = network.encode_decode(torch.cat(images), [dict(img_shape=(32, 32))])
    found = torch.cat([one.outputs.logits for one in (*mixed, *labeled)])
    torch.testing.assert_close(found, own)
    assert not torch.allclose(found, running) and not found.requires_grad


def test_the_student_sees_images_without_moving(build, batch):
    """UniMatch's pass over the partners' weak images: eval mode, no gradient."""
    streams = dict(partners=dict(images='weak', mode='eval'), perturbed=dropped(features='weak'))
    model = build(streams=streams)
    network = model.segmentor
    step, _ = run_step(model, batch(**SIZES))
    assert first_norm(network).num_batches_tracked == 2
    (view,) = step.streams['partners']
    assert network.training and not view.outputs.logits.requires_grad
    fresh = build(streams=streams)
    fresh.segmentor.eval()
    with torch.no_grad():
        fresh.train()
        data = fresh.data_preprocessor(batch(**SIZES), True)
        begun = fresh.begin_step(**data)
        fresh.run_pass(begun, [fresh.streams['partners']])
        fresh.segmentor.eval()
        wanted = fresh.run(begun.weak_images).logits
    torch.testing.assert_close(begun.streams['partners'][0].outputs.logits, wanted)


@pytest.mark.parametrize('views', [1, 3])
def test_a_method_of_two_views_is_refused_another_number(build, batch, views):
    model = build(losses=STRONG, streams=dict(strong=dict(views=2)))
    message = (
        rf'streams\.strong\.views is 2.*batch has {views} strong views: set train_dataloader.*'
        rf'num_views=2, or model\.streams\.strong\.views={views}'
    )
    with pytest.raises(ValueError, match=message):
        run_step(model, batch(views=views))
    model.streams['strong'].views = views
    run_step(model, batch(views=views))


@pytest.mark.parametrize(
    'streams, teacher, message',
    [
        (
            dict(strong=dict(network='teacher')),
            None,
            r"streams\.strong\.network is 'teacher', but the model has no teacher",
        ),
        (
            dict(weak=dict(mode='eval')),
            TEACHER,
            "labeled, weak share the pass 'clean', but not the network and its mode",
        ),
        (
            dict(strong=dict(mode='eval')),
            None,
            r"losses\.strong\.stream: stream 'strong' has no gradient .*mode='eval'",
        ),
        (
            dict(strong=dict(features='labeled', images=None)),
            None,
            r"losses\.strong\.stream: stream 'strong' shows labeled images.*set model\.teacher",
        ),
        (
            dict(
                partners=dict(images='weak', mode='eval'),
                strong=dict(images=None, features='partners'),
            ),
            None,
            r"streams\.strong begins with the features of 'partners', which have no gradient",
        ),
        (
            dict(labeled=dict(mode='eval', group='x')),
            None,
            r"labeled must be there, with images='labeled', of the student in mode 'train'",
        ),
        (dict(strong=dict(network='ema')), TEACHER, 'strong.network must be one of'),
        (dict(strong=dict(mode='test')), TEACHER, 'strong.mode must be one of'),
        (dict(weak=dict(views=1)), TEACHER, r"streams\.weak: views=1 is for .*images='strong'"),
    ],
)
def test_networks_and_modes_that_cannot_be_are_refused(build, streams, teacher, message):
    with pytest.raises(ValueError, match=message):
        build(teacher=teacher, losses=STRONG, streams=streams)


@pytest.mark.parametrize(
    'streams, message',
    [
        (['strong'], 'model.streams must be a dict of named streams.*got list'),
        (dict(extra='weak'), "model.streams.extra must be a dict or None, got 'weak'"),
        (dict(extra=dict(image='weak')), "model.streams.extra.*'image'.*Did you mean 'images'"),
    ],
)
def test_streams_of_a_wrong_form_are_refused(build, streams, message):
    with pytest.raises(TypeError, match=message):
        build(**EXTRA, streams=streams)


@pytest.mark.parametrize(
    ('stream', 'message'),
    [
        (dict(images='strong', network='teacher'), "'read' has no gradient .network='teacher'"),
        (dict(images='labeled', group='own'), "'read' shows labeled images, and AgentRankHead"),
    ],
)
def test_heads_read_unlabeled_images_that_train(build, stream, message):
    heads = dict(rank=dict(type='AgentRankHead', tap='encoder', stream='read'))
    with pytest.raises(ValueError, match=rf'^model\.heads\.rank\.stream: stream {message}'):
        build(losses=STRONG, teacher=TEACHER, heads=heads, streams=dict(read=stream))


@pytest.mark.parametrize('name', ['weak', 'strong'])
def test_a_loss_trains_whoever_was_the_first_to_read_its_logits(build, batch, name):
    """The student's own label, and a threshold of the strong views, read them without gradient."""
    select = dict(type='QuantileThreshold', stream='strong', alpha=0.2)
    changes = dict(refiners=dict(select=select)) if name == 'strong' else dict(refiners=None)
    losses = {name: dict(type='PseudoLabelCrossEntropy', stream=name)}
    model = build(streams=None, losses=losses, **changes)
    model.set_progress(0, 10)
    _, found = run_step(model, batch())
    (grad,) = torch.autograd.grad(
        found[f'{name}.loss'], model.segmentor.decode_head.conv_seg.weight
    )
    assert grad.abs().sum() > 0


def test_half_precision_copies_of_a_pass_without_gradient_are_forgotten(build, batch, monkeypatch):
    """In older torch the passes with gradient took them, and lost their gradients."""
    streams = dict(partners=dict(images='weak', mode='eval'))
    mixer = dict(type='CutMix', partner_stream='partners')
    model = build(losses=STRONG, mixer=mixer, streams=streams)
    order = []
    monkeypatch.setattr(torch, 'clear_autocast_cache', lambda: order.append('clear'))
    plain = model.encode
    monkeypatch.setattr(
        model, 'encode', lambda *args: order.append(torch.is_grad_enabled()) or plain(*args)
    )
    run_step(model, batch())
    assert order[:3] == [False, 'clear', True]


def test_a_perturbation_is_named_by_its_stream(build):
    streams = dict(perturbed=dropped(features='weak'))
    streams['perturbed']['perturbation']['prob'] = 1
    with pytest.raises(ValueError, match=r'streams.perturbed.perturbation: .*\[0, 1\), got 1'):
        build(streams=streams)


def test_a_refiner_that_reads_the_weak_outputs_needs_them_before_the_strong_pass(corrmatch):
    refiners = dict(select=dict(type='ConfidenceThreshold'), regions=dict(type='RegionPropagation'))
    streams = {name: dict(group='all') for name in ('labeled', 'weak', 'strong')}
    parts = dict(teacher=TEACHER, streams=streams, losses=STRONG)
    corrmatch(**parts)
    with pytest.raises(ValueError, match=r'weak shares a pass .*\(RegionPropagation\)'):
        corrmatch(refiners=refiners, **parts)
