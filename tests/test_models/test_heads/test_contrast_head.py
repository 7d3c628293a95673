"""U2PL's head against the paper's sets, pixel by pixel, and what it remembers."""

from __future__ import annotations

from collections import deque
from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tool_runs import differing

from mmseg_semi.benchmarks.measuring import advance
from mmseg_semi.engine.hooks import MeanTeacherHook, MemoryBankHook
from mmseg_semi.models.heads import ContrastHead, contrast_head
from mmseg_semi.models.heads.contrast_head import TeacherPixels, rank_bounds
from mmseg_semi.models.memories import NegativeQueues
from mmseg_semi.models.ranks import GlobalQuantiles
from mmseg_semi.structures import Mix

from ..conftest import SEGMENTOR
from ..helpers import (
    begin_step,
    hooked,
    make_step,
    mixed_by_hand,
    queue_of,
    runner_of,
    same_rows,
)

BANK = dict(size=400, first_size=500, num_push=400)


HEAD = dict(
    type='ContrastHead', hidden_channels=6, channels=8, num_queries=300, bank=BANK, alpha=0.2
)


SELECT = dict(type='QuantileThreshold', score='entropy', alpha=0.2)


MIXED = dict(type='CutMix', prob=1.0)


SURENESS = {2: 0.3, 3: 1.0, 6: 2.0, 21: 2.0}


PROGRESS = (25, 100)  # alpha_t = 0.2 * 0.75


@pytest.fixture
def build_u2pl(build):
    """Build U2PL with a teacher of its own; keywords of the head, ``model`` for the model."""

    def make(model=None, classes=3, without=(), **head):
        segmentor = deepcopy(SEGMENTOR)
        segmentor['decode_head']['num_classes'] = classes
        base = dict(
            segmentor=segmentor,
            teacher=dict(type='EMATeacher'),
            mixer=None,
            streams=None,
            refiners=dict(select=SELECT),
            losses=dict(strong=dict(type='PseudoLabelCrossEntropy', denominator='selected')),
            heads=dict(contrast={**HEAD, **head}),
        )
        built = hooked(build(**{**base, **(model or {})}), without)
        torch.manual_seed(1)
        for module in (built.teacher.network, built.heads['contrast'].teacher_project):
            for value in module.parameters():
                value.add_(0.1 * torch.randn_like(value))
        built.teacher.network.decode_head.conv_seg.weight.mul_(SURENESS[classes])
        built.set_progress(*PROGRESS)
        return built.train()

    return make


def labels_of(step, classes, ignored=True):
    """Give the labeled images other classes, and ignored pixels."""
    source = torch.Generator().manual_seed(5)
    for sample in step.labeled_samples:
        truth = torch.randint(0, classes, (1, 32, 32), generator=source)
        if ignored:
            truth[:, :12] = 255
        sample.gt_sem_seg.data = truth


def run_step(model, data, classes=3):
    """A step up to the losses."""
    step = begin_step(model, data)
    labels_of(step, classes)
    return advance(model, step)


class Capture:
    """Keeps what the head gives to the loss."""

    def __init__(self, monkeypatch):
        self.calls = []
        monkeypatch.setattr(contrast_head, 'contrast_loss', self)
        from mmseg_semi.functional.contrast import contrast_loss

        self.function = contrast_loss

    def __call__(self, *args):
        self.calls.append(args[:4])
        return self.function(*args)

    @property
    def last(self):
        return self.calls[-1]


@pytest.fixture
def capture(monkeypatch):
    return Capture(monkeypatch)


def teacher_sees(model, images):
    """Features (B, 4, 16, 16) before the classifier, and logits at input size."""
    with torch.no_grad():
        teacher = model.teacher.network
        head = teacher.decode_head
        features = head._forward_feature(teacher.extract_feat(images))
        logits = head.conv_seg(features)
        return features, F.interpolate(logits, images.shape[-2:], mode='bilinear')


class Reference:
    """The paper's sets, pixel by pixel: anchors, positives and negatives of each class.

    A pixel of the features is 2 x 2 pixels of the image; the first of them speaks for it.
    """

    def __init__(self, model, step, low_rank, high_rank, alpha, min_prob=0.3):
        head = model.heads['contrast']
        self.classes = classes = model.segmentor.decode_head.num_classes
        project = head.teacher_project
        with torch.no_grad():
            seen, logits = teacher_sees(model, step.labeled_images)
            parts = [(project(seen), logits, self.truth(step), None)]
            seen, logits = teacher_sees(model, step.weak_images)
            weak = project(seen)
            for view in step.streams['strong']:
                features, mixed = weak, logits
                if view.mix is not None:
                    features, mixed = mixed_by_hand(weak, view.mix, False), logits.clone()
                    for b, other in enumerate(view.mix.partners.tolist()):
                        mixed[b][:, view.mix.mask[b]] = logits[other][:, view.mix.mask[b]]
                parts.append((features, mixed, mixed.argmax(1), view.pseudo.valid))
            project_in = [step.labeled.features['penultimate']]
            project_in += [view.outputs.features['penultimate'] for view in step.streams['strong']]
            student = head.project(torch.cat(project_in)).movedim(1, -1).flatten(0, -2)
        pixels = []
        full = []
        for features, logits, label, valid in parts:
            entropy = torch.special.entr(logits.double().softmax(1)).sum(1)
            full += [] if valid is None else [entropy[valid]]  # of all pixels of the images
            for b in range(len(features)):
                for y in range(16):
                    for x in range(16):
                        p = logits[b, :, 2 * y, 2 * x].double().softmax(0).tolist()
                        pixels.append(
                            dict(
                                teacher=features[b, :, y, x],
                                p=p,
                                label=int(label[b, 2 * y, 2 * x]),
                                labeled=valid is None,
                                valid=valid is None or bool(valid[b, 2 * y, 2 * x]),
                                entropy=float(entropy[b, 2 * y, 2 * x]),
                            )
                        )
        assert len(pixels) == len(student)
        low, high = np.quantile(torch.cat(full).numpy(), [alpha, 1 - alpha])
        self.anchors = [[] for _ in range(classes)]
        self.members = [[] for _ in range(classes)]
        self.negatives = [[] for _ in range(classes)]
        for pixel, own in zip(pixels, student):
            p, label = pixel['p'], pixel['label']
            order = sorted(range(classes), key=lambda c: (-p[c], c))  # noqa: B023
            sure = pixel['labeled'] or (pixel['valid'] and pixel['entropy'] <= low)
            if label < classes and sure:
                self.members[label].append(pixel['teacher'])
                if p[label] > min_prob:
                    self.anchors[label].append(own)
            for c in range(classes):
                rank = order.index(c)
                if pixel['labeled']:
                    negative = label < classes and label != c and rank < low_rank
                else:
                    unsure = pixel['valid'] and pixel['entropy'] >= high
                    negative = unsure and low_rank <= rank < high_rank
                if negative:
                    self.negatives[c].append(pixel['teacher'])

    @staticmethod
    def truth(step):
        return torch.stack([sample.gt_sem_seg.data[0] for sample in step.labeled_samples])


@pytest.mark.parametrize('mixer', [None, MIXED], ids=['unmixed', 'mixed'])
@pytest.mark.parametrize(
    'classes, ranks', [(2, (1, 2)), (3, (1, 3)), (6, (1, 6)), (6, (2, 4)), (21, (3, 20))]
)
def test_anchors_positives_and_negatives_are_the_papers(
    build_u2pl, batch, capture, classes, ranks, mixer
):
    given = dict(low_rank=2, high_rank=4) if ranks == (2, 4) else {}
    likely = 0.05 if classes == 21 else 0.25
    model = build_u2pl(classes=classes, model=dict(mixer=mixer), min_prob=likely, **given)
    head = model.heads['contrast']
    assert (head.low_rank, head.high_rank) == ranks
    # The first view alone; one image is padded.
    step = run_step(model, batch(unlabeled=((32, 32), (20, 12), (32, 32)), views=1), classes)
    wanted = Reference(model, step, *ranks, alpha=0.2 * 0.75, min_prob=likely)
    model.heads['contrast'](step)
    anchors, positives, _, present = capture.last
    assert not present.any(), 'the queues are empty'
    found = 0
    for c in range(classes):
        if wanted.anchors[c]:
            found += 1
            reference = torch.stack(wanted.anchors[c])
            assert torch.cdist(anchors[c].double(), reference.double()).amin(1).max() < 1e-4
            if len(reference) < 40:  # each is one of the 300 drawn
                assert same_rows(anchors[c], reference)
        mean = torch.stack(wanted.members[c]).mean(0) if wanted.members[c] else torch.zeros(8)
        torch.testing.assert_close(positives[c], mean, rtol=1e-4, atol=1e-5)
    assert found >= 2 and any(wanted.negatives)
    head.bank.update_state()
    for c in range(classes):
        assert int(head.bank.counts[c]) == min(len(wanted.negatives[c]), 400)
        entries = queue_of(head.bank, c)
        if len(wanted.negatives[c]) <= 400:
            assert same_rows(entries, wanted.negatives[c] and torch.stack(wanted.negatives[c]))
    # Now they are not empty: the classes with anchors and negatives count.
    loss = head(step)['loss']
    anchors, positives, negatives, present = capture.last
    assert [bool(x) for x in present] == [
        bool(wanted.anchors[c] and wanted.negatives[c]) for c in range(classes)
    ]
    assert negatives.shape == (classes, 300, 50, 8)
    for c in range(classes):
        if wanted.negatives[c]:
            assert same_rows(negatives[c].flatten(0, 1).unique(dim=0), queue_of(head.bank, c))
    terms = []
    for c in torch.nonzero(present)[:, 0].tolist():
        near = F.cosine_similarity(anchors[c].double(), positives[c].double()[None], dim=-1) / 0.5
        far = F.cosine_similarity(anchors[c].double()[:, None], negatives[c].double(), dim=-1) / 0.5
        terms.append(-(near.exp() / (near.exp() + far.exp().sum(1))).log().mean())
    assert float(loss.detach()) == pytest.approx(float(0.1 * sum(terms) / len(terms)), rel=1e-5)
    assert loss > 0.1


def test_the_unlabeled_pixels_of_all_views_count(build_u2pl, batch, capture):
    model = build_u2pl(model=dict(mixer=MIXED))
    step = run_step(model, batch(views=2))
    assert not step.streams['strong'][0].mix.mask.equal(step.streams['strong'][1].mix.mask)
    wanted = Reference(model, step, 1, 3, alpha=0.15)
    model.heads['contrast'](step)
    for c in range(3):
        mean = torch.stack(wanted.members[c]).mean(0)
        torch.testing.assert_close(capture.last[1][c], mean, rtol=1e-4, atol=1e-5)


def test_pixels_from_outside_of_the_batch_do_not_count(build_u2pl, batch):
    model = build_u2pl()
    head = model.heads['contrast']
    step = run_step(model, batch(views=1))
    foreign = torch.zeros(2, 32, 32, dtype=torch.bool)
    foreign[:, :16] = True
    whole = head.teacher_pixels(step)[1]
    assert whole.negative[:, :, :8].any() and (whole.label[:, :8] < 3).any()
    step.streams['strong'][0].mix = Mix(torch.zeros_like(foreign), torch.arange(2), foreign)
    part = head.teacher_pixels(step)[1]
    assert not part.negative[:, :, :8].any() and (part.label[:, :8] == 3).all()
    assert part.negative[:, :, 8:].any() and (part.label[:, 8:] < 3).any()


def test_a_refiner_changes_the_class_but_not_the_ranks(build_u2pl, batch):
    refine = dict(context=dict(type='NeighborhoodRefiner'), select=SELECT)
    plain, refined = build_u2pl(), build_u2pl(model=dict(refiners=refine))
    data = batch()
    one, other = (
        m.heads['contrast'].teacher_pixels(run_step(m, data))[1] for m in (plain, refined)
    )
    assert one.prob.equal(other.prob) and one.negative.equal(other.negative)
    torch.testing.assert_close(other.prob.sum(1), torch.ones(4, 16, 16))


def test_gradients_reach_the_student_and_its_projection_alone(build_u2pl, batch):
    model = build_u2pl(model=dict(mixer=MIXED))
    head = model.heads['contrast']
    head(run_step(model, batch()))
    head.bank.update_state()
    loss = head(run_step(model, batch()))['loss']
    assert loss > 0.1
    loss.backward()
    for module in (head.project, model.segmentor.backbone):
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        assert grads and all(g.isfinite().all() for g in grads)
        assert any(g.abs().max() > 1e-6 for g in grads)
    frozen = [*model.teacher.network.parameters(), *head.teacher_project.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in frozen)


def test_no_anchor_gives_zero_with_a_gradient(build_u2pl, batch):
    model = build_u2pl(min_prob=1.0)
    head = model.heads['contrast']
    head(run_step(model, batch()))
    head.bank.update_state()
    assert head.bank.counts.all()
    step = run_step(model, batch())
    loss = head(step)['loss']
    loss.backward()
    assert loss == 0 and step.figures['contrast.classes'] == 0
    assert all(p.grad is not None and not p.grad.any() for p in head.project.parameters())


def test_a_class_that_nobody_has_does_not_count(build_u2pl, batch, capture):
    model = build_u2pl()
    head = model.heads['contrast']
    model.teacher.network.decode_head.conv_seg.bias[2] = -100.0
    for _ in range(2):
        step = run_step(model, batch())
        for sample in step.labeled_samples:
            sample.gt_sem_seg.data = sample.gt_sem_seg.data.clamp(max=1)
        loss = head(step)['loss']
        head.bank.update_state()
    assert capture.last[3].tolist() == [True, True, False]
    assert loss.isfinite() and loss > 0


@pytest.mark.parametrize('warm_up', [dict(warmup_iters=30), dict(warmup_epochs=3)])
def test_the_warm_up_trains_nothing_but_moves_the_statistics(build_u2pl, batch, warm_up):
    model = build_u2pl(model=warm_up)
    model.iters_per_epoch = 10
    head = model.heads['contrast']
    losses = model(**model.data_preprocessor(batch(), True), mode='loss')
    assert losses['contrast.loss'] == 0 and 'strong.loss' not in losses
    total, _ = model.parse_losses(losses)
    total.backward()
    assert all(p.grad is not None and not p.grad.any() for p in head.project.parameters())
    assert head.project[0].bn.running_mean.any() and not head.bank.counts.any()
    model.set_progress(30, 100, iters_per_epoch=10)
    losses = model(**model.data_preprocessor(batch(), True), mode='loss')
    assert 'strong.loss' in losses and 'contrast.loss' in losses


def test_the_hook_moves_the_teachers_projection_as_the_teacher(build_u2pl):
    model = build_u2pl(model=dict(teacher=dict(type='EMATeacher', momentum=0.75)))
    head = model.heads['contrast']
    runner = runner_of(model, 7)
    hook = MeanTeacherHook()
    before = deepcopy(head.teacher_project.state_dict())
    hook.before_train(runner)
    assert differing(before, head.teacher_project.state_dict()) == [], 'a resumed run'
    head.project[0].bn.running_mean.fill_(3.0)
    hook.after_train_iter(runner, 7)
    student = head.project.state_dict()
    for name, value in head.teacher_project.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * student[name])
    runner.iter = 0
    hook.before_train(runner)
    assert differing(dict(student), dict(head.teacher_project.state_dict())) == []


def test_the_teachers_projection_is_always_in_eval_mode(build_u2pl, batch):
    model = build_u2pl()
    head = model.heads['contrast']
    for mode in (True, False, True):
        model.train(mode)
        assert head.project.training == mode
        assert not any(part.training for part in head.teacher_project.modules())
    before = deepcopy(head.teacher_project.state_dict())
    head(run_step(model, batch()))
    assert differing(dict(before), dict(head.teacher_project.state_dict())) == []


@pytest.mark.parametrize('missing', [hook['type'] for hook in ContrastHead.hooks])
def test_missing_hooks_are_refused(build_u2pl, batch, missing):
    """In a loop of one's own; SemiTrainLoop registers them."""
    model = build_u2pl(without=[missing])
    with pytest.raises(RuntimeError, match=f'{missing}.*custom_hooks'):
        model(**model.data_preprocessor(batch(), True), mode='loss')


def test_two_iterations_train(build_u2pl, batch):
    """With its hooks and an optimizer, CutMix and the selection by entropy."""
    model = build_u2pl(
        model=dict(mixer=MIXED),
        without=('MeanTeacherHook', 'MemoryBankHook'),
        prototype_momentum=0.9,
    )
    head = model.heads['contrast']
    runner = runner_of(model, 0)
    hooks = [MeanTeacherHook(), MemoryBankHook()]
    for hook in hooks:
        hook.before_train(runner)
    assert hooks[1].parts == [head.bank, head.prototypes]
    weights = [p for p in model.parameters() if p.requires_grad]
    assert not {id(p) for p in head.teacher_project.parameters()} & {id(p) for p in weights}
    optimizer = torch.optim.SGD(weights, lr=0.1)
    first = deepcopy(head.project.state_dict())
    values = []
    for runner.iter in range(3):
        model.set_progress(runner.iter, 3)
        losses = model(**model.data_preprocessor(batch(), True), mode='loss')
        total, logged = model.parse_losses(losses)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        for hook in hooks:
            hook.after_train_iter(runner, runner.iter)
        values.append(logged)
    assert [bool(v['contrast.loss'] > 0) for v in values] == [False, True, True]
    assert 0 < values[2]['contrast.queued'] <= 1 and values[2]['contrast.classes'] >= 1
    assert head.prototypes.known.any()
    assert differing(dict(first), dict(head.project.state_dict()))


def test_the_memory_hook_decides_when_queues_move(build_u2pl, batch):
    model = build_u2pl()
    head = model.heads['contrast']
    hook = MemoryBankHook(start=2, interval=2)
    runner = runner_of(model, 0)
    hook.before_train(runner)
    filled = []
    for runner.iter in range(5):
        head(run_step(model, batch()))
        before = int(head.bank.counts.sum()), head.bank.heads.clone()
        hook.after_train_iter(runner, runner.iter)
        filled.append(not before[1].equal(head.bank.heads))
        assert head.bank._pending is None
    assert filled == [False, False, True, False, True]


def test_queues_are_restored_to_the_bit(build_u2pl, batch):
    first, second = (build_u2pl(prototype_momentum=0.5) for _ in range(2))
    for _ in range(3):
        first.heads['contrast'](run_step(first, batch()))
        for memory in (first.heads['contrast'].bank, first.heads['contrast'].prototypes):
            memory.update_state()
    state = deepcopy(first.state_dict())
    wanted = {'features', 'counts', 'heads'}
    assert {k.split('.')[-1] for k in state if k.startswith('heads.contrast.bank.')} == wanted
    second.load_state_dict(state)
    results = []
    for model in (first, second):
        torch.manual_seed(3)
        loss = model.heads['contrast'](run_step(model, batch()))['loss'].detach()
        model.heads['contrast'].bank.update_state()
        results.append(dict(loss=loss, state=dict(model.state_dict())))
    assert results[0]['loss'] > 0 and differing(*results) == []


def test_positives_follow_the_prototypes(build_u2pl, batch, capture):
    model = build_u2pl(prototype_momentum=0.75)
    head = model.heads['contrast']
    head(run_step(model, batch(seed=0)))
    first = capture.last[1].clone()
    head.prototypes.update_state()
    step = run_step(model, batch(seed=1))
    head(step)
    means = torch.stack(
        [torch.stack(r).mean(0) for r in Reference(model, step, 1, 3, 0.15).members]
    )
    torch.testing.assert_close(capture.last[1], 0.75 * first + 0.25 * means, rtol=1e-4, atol=1e-5)
    assert not first.allclose(means, atol=1e-3)


def memory_of_a_rank(rank, rounds):
    """State of the queues, what each round noted, and positives and quantiles of each round."""
    queues, own = NegativeQueues(4, 3, 7, 10, 5), []
    head = ContrastHead(norm_cfg=None)
    head.num_classes, head.prototypes = 4, None
    rest, quantiles = [], GlobalQuantiles()
    for features, negative, label, entropy, valid in rounds[rank]:
        torch.manual_seed(10 * len(own) + rank)
        queues.note(features, negative)
        own.append([one.clone() for one in queues._pending])
        queues.update_state()
        positives = head.positives(TeacherPixels(features, None, label, negative))
        rest.append((positives, *quantiles(entropy, valid, [0.2, 0.8])))
    return dict(queues.state_dict()), own, rest


def test_two_ranks_hold_one_memory(on_two_ranks):
    """What each rank pushes, in the order of the ranks; positives and quantiles of all pixels."""
    source = torch.Generator().manual_seed(0)
    rounds = [
        [
            (
                torch.randn(2, 3, *size, generator=source),
                torch.rand(2, 4, *size, generator=source) < 0.1,
                torch.randint(0, 6, (2, *size), generator=source),
                torch.rand(2, *size, generator=source),
                torch.rand(2, *size, generator=source) < 0.7,
            )
            for size in ((4, 5), (3, 4))
        ]
        for _ in range(5)
    ]
    given = [[ranks[rank] for ranks in rounds] for rank in (0, 1)]
    first, second = on_two_ranks(memory_of_a_rank, given)
    assert differing(first[0], second[0]) == [] and differing(list(first[2]), list(second[2])) == []
    wanted = [deque(maxlen=length) for length in (10, 7, 7, 7)]
    for pushes in zip(first[1], second[1]):
        for items, present in pushes:
            for row, rows, there in zip(wanted, items, present):
                row.extend(rows[there])
    queues = NegativeQueues(4, 3, 7, 10, 5)
    queues.load_state_dict(first[0])
    for c in range(4):
        assert queue_of(queues, c).equal(torch.stack(list(wanted[c])))
    for ranks, (positives, low, high) in zip(rounds, first[2]):
        rows = torch.cat([one[0].movedim(1, -1).flatten(0, 2) for one in ranks])
        label = torch.cat([one[2].flatten() for one in ranks])
        for c in range(4):
            torch.testing.assert_close(positives[c], rows[label == c].mean(0))
        entropy = torch.cat([one[3][one[4]] for one in ranks]).double().numpy()
        assert float(low) == pytest.approx(np.quantile(entropy, 0.2), rel=1e-6)
        assert float(high) == pytest.approx(np.quantile(entropy, 0.8), rel=1e-6)


@pytest.mark.parametrize(
    'classes, bounds',
    [
        (2, (1, 2)),
        (3, (1, 3)),
        (4, (1, 4)),
        (6, (1, 6)),
        (14, (2, 14)),
        (19, (3, 19)),
        (21, (3, 20)),
    ],
)
def test_default_ranks_leave_negatives(classes, bounds):
    assert rank_bounds(classes, None, None) == bounds


def test_the_papers_ranks_are_allowed_where_they_leave_negatives():
    assert rank_bounds(19, 3, 20) == (3, 20)
    assert rank_bounds(4, 3, 20) == (3, 20)


def test_ranks_without_negatives_are_refused(build_u2pl):
    with pytest.raises(ValueError, match=r'heads\.contrast: .*low_rank=3 leaves no neg.*3 classes'):
        build_u2pl(low_rank=3)
    with pytest.raises(ValueError, match=r'high_rank=1 leaves no negatives.*above low_rank=1'):
        build_u2pl(high_rank=1)


def test_a_model_without_teacher_is_refused(build_u2pl):
    with pytest.raises(ValueError, match=r'heads\.contrast: .*EMA teacher.*model\.teacher=dict'):
        build_u2pl(model=dict(teacher=None))


def test_a_batch_without_strong_views_is_refused(build_u2pl, batch):
    model = build_u2pl(model=dict(losses=None))
    with pytest.raises(ValueError, match='ContrastHead.*num_views'):
        model(**model.data_preprocessor(batch(views=0), True), mode='loss')


def test_a_falling_alpha_needs_the_length_of_the_run(build_u2pl, batch):
    select = dict(refiners=dict(select=dict(SELECT, decay=False)))
    model = build_u2pl(model=select)
    data = model.data_preprocessor(batch(), True)
    model.progress = None
    with pytest.raises(RuntimeError, match=r'ContrastHead\.decay.*SemiTrainLoop.*decay=False'):
        model(**data, mode='loss')
    step = make_step(iteration=25, max_iters=100)
    head = model.heads['contrast']
    assert head.alpha_at(step) == pytest.approx(0.15)
    head.decay = False
    assert head.alpha_at(step) == 0.2


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(tap=''), r"\.tap must be the name of a feature.*got ''"),
        (dict(tap='backbone.decoder.1'), r"\.tap is the module path 'backbone.*in_channels="),
        (dict(hidden_channels=0), r'\.hidden_channels must be a whole number >= 1, got 0'),
        (dict(num_convs=-1), r'\.num_convs must be a whole number >= 0, got -1'),
        (dict(norm_cfg='BN'), r"\.norm_cfg must be None or the config .*got 'BN'"),
        (dict(min_prob=1.1), r'\.min_prob must be a number in \[0, 1\], got 1\.1'),
        (dict(alpha=0.6), r'\.alpha must be a number in \[0, 0\.5\], got 0\.6'),
        (dict(decay=1), r'\.decay must be one of \(True, False\), got 1'),
        (dict(low_rank=0), r'\.low_rank must be a whole number >= 1, got 0'),
        (dict(num_queries=None), r'\.num_queries must be a whole number >= 1, got None'),
        (dict(num_negatives=2.0), r'\.num_negatives must be a whole number >= 1, got 2\.0'),
        (dict(temperature=0), r'\.temperature must be a number > 0, got 0'),
        (dict(prototype_momentum=2), r'\.prototype_momentum must be a number in \[0, 1\], got 2'),
        (dict(loss_weight=-1), r'\.loss_weight must be a number >= 0, got -1'),
        (dict(bank=dict(channels=3)), r'\.bank: num_classes and channels follow'),
        (
            dict(bank=dict(size=0)),
            r'\.bank: .*\.size must be a whole number >= 1, got 0',
        ),
        (dict(bank=dict(size=200)), r'\.bank: num_push=256 is more than .*size=200'),
    ],
)
def test_wrong_arguments_are_refused_with_the_config_key(build_u2pl, wrong, message):
    with pytest.raises(ValueError, match=rf'model\.heads\.contrast: ContrastHead{message}'):
        build_u2pl(**wrong)


def test_unknown_arguments_of_the_queues_are_refused(build_u2pl):
    with pytest.raises(TypeError, match="bank: NegativeQueues has no argument 'sizes'.*'size'"):
        build_u2pl(bank=dict(sizes=3))


def test_features_of_another_width_are_refused(build_u2pl, batch):
    model = build_u2pl(tap='backbone.decoder.1', in_channels=5)
    with pytest.raises(ValueError, match=r'heads\.contrast.*8 channels, not 5: set in_channels=8'):
        run_step(model, batch())


def test_defaults_are_the_papers():
    head = ContrastHead()
    assert (head.channels, head.min_prob, head.alpha, head.temperature) == (256, 0.3, 0.2, 0.5)
    assert (head.num_queries, head.num_negatives, head.loss_weight) == (256, 50, 0.1)
    assert head.prototype_momentum is None and head.pseudo_fields == ('logits',)


def test_divisor_counts_classes_that_have_pixels(build_u2pl, batch, capture):
    """Two classes are trained of three that are labeled: queues of one class are empty."""
    found = []
    for divisor in ('trained', 'present'):
        model = build_u2pl(divisor=divisor)
        head = model.heads['contrast']
        head(run_step(model, batch()))
        head.bank.update_state()
        head.bank.counts[1] = 0
        torch.manual_seed(0)
        found.append(head(run_step(model, batch()))['loss'].detach())
    assert capture.last[3].tolist() == [True, False, True]
    torch.testing.assert_close(found[0] * 2 / 3, found[1])


@pytest.mark.parametrize(
    'streams, message',
    [
        ({}, "teacher_stream is 'seen', and model.streams has no such stream of strong images"),
        (dict(seen=dict(images='strong')), 'no such stream of strong images'),
        (
            dict(seen=dict(images='strong', network='teacher', mode='train')),
            "the pass 'seen' of stream 'seen' has no labeled images",
        ),
    ],
)
def test_a_teacher_stream_that_cannot_be_read_is_refused(build_u2pl, streams, message):
    with pytest.raises(ValueError, match=rf'model\.heads\.contrast: .*{message}'):
        build_u2pl(model=dict(streams=streams), teacher_stream='seen')


def test_the_teachers_own_pass_over_mixed_images_can_be_read(build_u2pl, batch):
    """Representations, probabilities and statistics are those of one pass in training mode."""
    pass_ = dict(network='teacher', mode='train', group='teacher')
    streams = dict(known=dict(images='labeled', **pass_), seen=dict(images='strong', **pass_))
    teacher = dict(type='EMATeacher', buffers='own')
    model = build_u2pl(
        model=dict(streams=streams, teacher=teacher, mixer=MIXED), teacher_stream='seen'
    )
    head, network = model.heads['contrast'], model.teacher.network
    step = run_step(model, batch(views=1))
    own, project = deepcopy(network).train(), deepcopy(head.teacher_project).train()
    before = deepcopy(head.teacher_project.state_dict())
    labeled, unlabeled = head.teacher_pixels(step)
    assert differing(head.teacher_project.state_dict(), before) == []
    images = torch.cat([step.labeled_images, step.streams['strong'][0].image])
    with torch.no_grad():
        features = own.decode_head._forward_feature(own.extract_feat(images))
        represented = project(features)
        prob = own.decode_head.conv_seg(features).softmax(1)
    torch.testing.assert_close(torch.cat([labeled.features, unlabeled.features]), represented)
    torch.testing.assert_close(torch.cat([labeled.prob, unlabeled.prob]), prob)
    model.teacher.update_state()
    after = head.teacher_project.state_dict()
    assert any(not torch.equal(after[name], before[name]) for name in after)
    for name, value in project.state_dict().items():
        torch.testing.assert_close(after[name], value, msg=name)
