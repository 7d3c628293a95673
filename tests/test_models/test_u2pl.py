from __future__ import annotations

import math
import shutil
from collections import deque
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tool_runs import (
    CONFIGS,
    TOOLS,
    differing,
    load_checkpoint,
    load_config,
    merged,
    small_settings,
    train_scalars,
)
from torch._subclasses.fake_tensor import FakeTensorMode

from mmseg_semi.engine.hooks import MeanTeacherHook, MemoryBankHook
from mmseg_semi.models.heads import ContrastHead, contrast_head
from mmseg_semi.models.heads.contrast_head import TeacherPixels, rank_bounds
from mmseg_semi.models.memories import ClassPrototypes, NegativeQueues
from mmseg_semi.structures import Mix

from .conftest import SEGMENTOR
from .test_rankmatch import mixed_by_hand

QUEUES = dict(size=400, first_size=500, num_push=400)
HEAD = dict(
    type='ContrastHead', hidden_channels=6, channels=8, num_queries=300, queues=QUEUES, alpha=0.2
)
SELECT = dict(type='QuantileThreshold', score='entropy', alpha=0.2)
MIXED = dict(type='CutMix', prob=1.0)
# By number of classes: factors that make the teacher sure of some pixels, but of none fully.
SURENESS = {2: 0.3, 3: 1.0, 6: 2.0, 21: 2.0}
PROGRESS = (25, 100)  # alpha_t = 0.2 * 0.75


@pytest.fixture
def build_u2pl(build):
    """Build U2PL with a teacher of its own; keywords of the head, ``model`` for the model."""

    def make(model=None, classes=3, hooks=True, **head):
        segmentor = deepcopy(SEGMENTOR)
        segmentor['decode_head']['num_classes'] = classes
        base = dict(
            segmentor=segmentor,
            teacher=dict(type='ema'),
            mixer=None,
            perturbation=None,
            refiners=dict(select=SELECT),
            losses=dict(strong=dict(type='PseudoLabelCrossEntropy', denominator='selected')),
            heads=dict(contrast={**HEAD, **head}),
        )
        built = build(**{**base, **(model or {})})
        if hooks:
            for name in ContrastHead.required_hooks:
                built.hook_attached(name)
        torch.manual_seed(1)
        for module in (built.teacher, built.heads['contrast'].teacher_project):
            for value in module.parameters():
                value.add_(0.1 * torch.randn_like(value))
        built.teacher.decode_head.conv_seg.weight.mul_(SURENESS[classes])
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
    step = model.begin_step(**model.data_preprocessor(deepcopy(data), True))
    labels_of(step, classes)
    model.forward_student(step)
    model.make_pseudo_label(step)
    model.refine(step)
    model.make_views(step)
    model.forward_views(step)
    return step


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


# ------------------------------------------------------------------------------ slow reference
def teacher_sees(model, images):
    """Features (B, 4, 16, 16) before the classifier, and logits at input size."""
    with torch.no_grad():
        head = model.teacher.decode_head
        features = head._forward_feature(model.teacher.extract_feat(images))
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
            for view in step.views:
                features, mixed = weak, logits
                if view.mix is not None:
                    features, mixed = mixed_by_hand(weak, view.mix, False), logits.clone()
                    for b, other in enumerate(view.mix.partners.tolist()):
                        mixed[b][:, view.mix.mask[b]] = logits[other][:, view.mix.mask[b]]
                parts.append((features, mixed, mixed.argmax(1), view.pseudo.valid))
            project_in = [step.labeled.features['penultimate']]
            project_in += [view.outputs.features['penultimate'] for view in step.views]
            student = head.project(torch.cat(project_in)).movedim(1, -1).flatten(0, -2)
        pixels = []
        for features, logits, label, valid in parts:
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
                                entropy=-sum(q * math.log(q) for q in p if q > 0),
                            )
                        )
        assert len(pixels) == len(student)
        entropies = [p['entropy'] for p in pixels if not p['labeled'] and p['valid']]
        low, high = np.quantile(entropies, [alpha, 1 - alpha])
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


def same_rows(first, second):
    """Two sets of vectors are one, up to rounding."""
    if not len(first) or not len(second):
        return len(first) == len(second)
    distance = torch.cdist(first.double(), second.double())
    return bool(distance.amin(0).max() < 1e-4 and distance.amin(1).max() < 1e-4)


def queue_of(queues, number):
    """Entries of one queue, the oldest first."""
    count, head = int(queues.counts[number]), int(queues.heads[number])
    length, start = int(queues.lengths[number]), int(queues.starts[number])
    places = [(head - count + i) % length for i in range(count)]
    return queues.features[start : start + length][places]


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
    head.queues.update_state()
    for c in range(classes):
        assert int(head.queues.counts[c]) == min(len(wanted.negatives[c]), 400)
        entries = queue_of(head.queues, c)
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
            assert same_rows(negatives[c].flatten(0, 1).unique(dim=0), queue_of(head.queues, c))
    terms = []
    for c in torch.nonzero(present)[:, 0].tolist():
        near = F.cosine_similarity(anchors[c].double(), positives[c].double()[None], dim=-1) / 0.5
        far = F.cosine_similarity(anchors[c].double()[:, None], negatives[c].double(), dim=-1) / 0.5
        terms.append(-(near.exp() / (near.exp() + far.exp().sum(1))).log().mean())
    assert float(loss) == pytest.approx(float(0.1 * sum(terms) / len(terms)), rel=1e-5)
    assert loss > 0.1


def test_the_unlabeled_pixels_of_all_views_count(build_u2pl, batch, capture):
    model = build_u2pl(model=dict(mixer=MIXED))
    step = run_step(model, batch(views=2))
    assert not step.views[0].mix.mask.equal(step.views[1].mix.mask)
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
    whole = head.unlabeled_pixels(step)
    assert whole.negative[:, :, :8].any() and (whole.label[:, :8] < 3).any()
    step.views[0].mix = Mix(torch.zeros_like(foreign), torch.arange(2), foreign)
    part = head.unlabeled_pixels(step)
    assert not part.negative[:, :, :8].any() and (part.label[:, :8] == 3).all()
    assert part.negative[:, :, 8:].any() and (part.label[:, 8:] < 3).any()


def test_a_refiner_changes_the_class_but_not_the_ranks(build_u2pl, batch):
    refine = dict(context=dict(type='NeighborhoodRefiner'), select=SELECT)
    plain, refined = build_u2pl(), build_u2pl(model=dict(refiners=refine))
    data = batch()
    one, other = (m.heads['contrast'].unlabeled_pixels(run_step(m, data)) for m in (plain, refined))
    assert one.prob.equal(other.prob) and one.negative.equal(other.negative)
    torch.testing.assert_close(other.prob.sum(1), torch.ones(4, 16, 16))


# ----------------------------------------------------------------------------------- gradients
def test_gradients_reach_the_student_and_its_projection_alone(build_u2pl, batch):
    model = build_u2pl(model=dict(mixer=MIXED))
    head = model.heads['contrast']
    head(run_step(model, batch()))
    head.queues.update_state()
    loss = head(run_step(model, batch()))['loss']
    assert loss > 0.1
    loss.backward()
    for module in (head.project, model.segmentor.backbone):
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        assert grads and all(g.isfinite().all() for g in grads)
        assert any(g.abs().max() > 1e-6 for g in grads)
    frozen = [*model.teacher.parameters(), *head.teacher_project.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in frozen)


def test_no_anchor_gives_zero_with_a_gradient(build_u2pl, batch):
    model = build_u2pl(min_prob=1.0)
    head = model.heads['contrast']
    head(run_step(model, batch()))
    head.queues.update_state()
    assert head.queues.counts.all()
    loss = head(run_step(model, batch()))['loss']
    loss.backward()
    assert loss == 0 and head.log_values()['classes'] == 0
    assert all(p.grad is not None and not p.grad.any() for p in head.project.parameters())


def test_a_class_that_nobody_has_does_not_count(build_u2pl, batch, capture):
    model = build_u2pl()
    head = model.heads['contrast']
    model.teacher.decode_head.conv_seg.bias[2] = -100.0
    for _ in range(2):
        step = run_step(model, batch())
        for sample in step.labeled_samples:
            sample.gt_sem_seg.data = sample.gt_sem_seg.data.clamp(max=1)
        loss = head(step)['loss']
        head.queues.update_state()
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
    assert head.project[0].bn.running_mean.any() and not head.queues.counts.any()
    model.set_progress(30, 100, iters_per_epoch=10)
    losses = model(**model.data_preprocessor(batch(), True), mode='loss')
    assert 'strong.loss' in losses and 'contrast.loss' in losses


# ------------------------------------------------------------------------- teacher and hooks
def test_the_hook_moves_the_teachers_projection_as_the_teacher(build_u2pl):
    model = build_u2pl()
    head = model.heads['contrast']
    assert head.teacher_pairs() == [(head.teacher_project, head.project)]
    runner = SimpleNamespace(model=model, iter=7)
    hook = MeanTeacherHook(momentum=0.75)
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


@pytest.mark.parametrize('missing', ContrastHead.required_hooks)
def test_missing_hooks_are_refused(build_u2pl, batch, missing):
    model = build_u2pl(hooks=False)
    for name in set(ContrastHead.required_hooks) - {missing}:
        model.hook_attached(name)
    with pytest.raises(RuntimeError, match=f'{missing}.*custom_hooks'):
        model(**model.data_preprocessor(batch(), True), mode='loss')


def test_two_iterations_train(build_u2pl, batch):
    """With its hooks and an optimizer, CutMix and the selection by entropy."""
    model = build_u2pl(model=dict(mixer=MIXED), hooks=False, prototype_momentum=0.9)
    head = model.heads['contrast']
    runner = SimpleNamespace(model=model, iter=0)
    hooks = [MeanTeacherHook(), MemoryBankHook()]
    for hook in hooks:
        hook.before_train(runner)
    assert hooks[1].parts == [head.queues, head.prototypes]
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
    runner = SimpleNamespace(model=model, iter=0)
    hook.before_train(runner)
    filled = []
    for runner.iter in range(5):
        head(run_step(model, batch()))
        before = int(head.queues.counts.sum()), head.queues.heads.clone()
        hook.after_train_iter(runner, runner.iter)
        filled.append(not before[1].equal(head.queues.heads))
        assert head.queues._pending is None
    assert filled == [False, False, True, False, True]


# --------------------------------------------------------------------------------- memories
def small_queues(size=7, first_size=10, num_push=5, classes=4, channels=3):
    return NegativeQueues(classes, channels, size, first_size, num_push)


def test_queues_are_deques():
    queues = small_queues()
    wanted = [deque(maxlen=length) for length in (10, 7, 7, 7)]
    source = torch.Generator().manual_seed(0)
    for round_ in range(30):
        numbers = torch.randint(0, 6, (4,), generator=source)
        if round_ < 10:
            numbers[3] = 0
        items = torch.randn(4, 5, 3, generator=source)
        present = torch.arange(5) < numbers[:, None]
        queues.push(items, present)
        for row, rows, number in zip(wanted, items, numbers.tolist()):
            row.extend(rows[:number])
        for c in range(4):
            entries = queue_of(queues, c)
            assert len(entries) == len(wanted[c])
            assert not wanted[c] or entries.equal(torch.stack(list(wanted[c])))
            drawn, filled = queues.draw(2, 3)
            assert bool(filled[c]) == bool(wanted[c]) and drawn.shape == (4, 2, 3, 3)
            if not wanted[c]:
                assert not drawn[c].any()
    assert queues.counts.tolist() == [10, 7, 7, 7]
    drawn, _ = queues.draw(20, 30)
    for c in range(4):
        assert same_rows(drawn[c].flatten(0, 1).unique(dim=0), torch.stack(list(wanted[c])))


def test_a_random_part_of_the_negatives_enters_once():
    queues = small_queues(size=50, num_push=20, first_size=50, classes=3)
    features = torch.randn(2, 3, 5, 6)
    negative = torch.zeros(2, 3, 5, 6, dtype=torch.bool)
    negative[:, 0] = True
    negative[1, 1, 2, :4] = True
    queues.note(features, negative)
    assert not queues.counts.any(), 'not before the hook'
    queues.update_state()
    assert queues.counts.tolist() == [20, 4, 0]
    rows = features.movedim(1, -1).flatten(0, 2)
    entries = queue_of(queues, 0)
    assert (
        len(entries.unique(dim=0)) == 20
        and torch.cdist(entries.double(), rows.double()).amin(1).max() < 1e-6
    )
    assert same_rows(queue_of(queues, 1), features[1, :, 2, :4].T)
    queues.note(features, negative)
    queues.discard()
    queues.update_state()
    assert queues.counts.tolist() == [20, 4, 0]
    # A map of fewer pixels than num_push.
    queues.note(features[:1, :, :1], negative[:1, :, :1])
    queues.update_state()
    assert queues.counts.tolist() == [26, 4, 0]


def test_queues_are_restored_to_the_bit(build_u2pl, batch):
    first, second = (build_u2pl(prototype_momentum=0.5) for _ in range(2))
    for _ in range(3):
        first.heads['contrast'](run_step(first, batch()))
        for memory in (first.heads['contrast'].queues, first.heads['contrast'].prototypes):
            memory.update_state()
    state = deepcopy(first.state_dict())
    wanted = {'features', 'counts', 'heads'}
    assert {k.split('.')[-1] for k in state if k.startswith('heads.contrast.queues.')} == wanted
    second.load_state_dict(state)
    results = []
    for model in (first, second):
        torch.manual_seed(3)
        loss = model.heads['contrast'](run_step(model, batch()))['loss'].detach()
        model.heads['contrast'].queues.update_state()
        results.append(dict(loss=loss, state=dict(model.state_dict())))
    assert results[0]['loss'] > 0 and differing(*results) == []


def test_moving_queues_does_not_wait_for_the_device():
    queues = small_queues()
    with FakeTensorMode() as mode:
        for name, value in queues.named_buffers():
            setattr(queues, name, mode.from_tensor(value))
        queues.note(torch.zeros(2, 3, 5, 6), torch.ones(2, 4, 5, 6, dtype=torch.bool))
        queues.push(*queues._pending)
        negatives, filled = queues.draw(6, 2)
        assert negatives.shape == (4, 6, 2, 3) and filled.shape == (4,)


def test_queues_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r'queues of \(31, 3\).*config has \(34, 3\)'):
        small_queues(first_size=13).load_state_dict(small_queues().state_dict())


def test_lengths_of_the_paper():
    queues = NegativeQueues(3, 2)
    assert queues.lengths.tolist() == [50000, 30000, 30000] and queues.num_push == 256
    assert NegativeQueues(2, 2, size=300).lengths.tolist() == [500, 300]


@pytest.mark.parametrize('momentum', [0.0, 0.75, 1.0])
def test_prototypes_are_moving_averages(momentum):
    prototypes = ClassPrototypes(3, 2, momentum)
    means = torch.randn(4, 3, 2)
    present = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 1, 0]]).bool()
    expected = [None] * 3
    for new, there in zip(means, present):
        for c in range(3):
            if there[c]:
                old = expected[c]
                expected[c] = new[c] if old is None else momentum * old + (1 - momentum) * new[c]
        prototypes.note(new + 1, there)
        prototypes.discard()
        given = prototypes.note(new, there)
        prototypes.update_state()
        for c in range(3):
            wanted = torch.zeros(2) if expected[c] is None else expected[c]
            torch.testing.assert_close(prototypes.means[c], wanted)
            torch.testing.assert_close(given[c], wanted)
    assert prototypes.known.tolist() == [True, True, False]


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


def memory_of_a_rank(rank, inputs):
    queues, own = NegativeQueues(4, 3, 7, 10, 5), []
    head = ContrastHead(norm_cfg=None)
    head.num_classes, head.prototypes = 4, None
    rest = []
    for features, negative, label, entropy, valid in inputs[rank]:
        torch.manual_seed(10 * len(own) + rank)
        queues.note(features, negative)
        own.append([one.clone() for one in queues._pending])
        queues.update_state()
        positives = head.positives(TeacherPixels(features, None, label, negative))
        rest.append((positives, *head.entropy_thresholds(entropy, valid, 0.2)))
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
    inputs = [[ranks[rank] for ranks in rounds] for rank in (0, 1)]
    first, second = on_two_ranks(memory_of_a_rank, inputs)
    assert differing(first[0], second[0]) == [] and differing(list(first[2]), list(second[2])) == []
    wanted = [deque(maxlen=length) for length in (10, 7, 7, 7)]
    for pushes in zip(first[1], second[1]):
        for items, present in pushes:
            for row, rows, there in zip(wanted, items, present):
                row.extend(rows[there])
    queues = small_queues()
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


# ---------------------------------------------------------------------------------- messages
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
    with pytest.raises(ValueError, match='ContrastHead.*StrongViews.num_views'):
        model(**model.data_preprocessor(batch(views=0), True), mode='loss')


def test_a_falling_alpha_needs_the_length_of_the_run(build_u2pl, batch):
    select = dict(refiners=dict(select=dict(SELECT, decay=False)))
    model = build_u2pl(model=select)
    data = model.data_preprocessor(batch(), True)
    model.progress = None
    with pytest.raises(RuntimeError, match=r'ContrastHead\.decay.*SemiTrainLoop.*decay=False'):
        model(**data, mode='loss')
    step = SimpleNamespace(iteration=25, max_iters=100)
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
        (dict(temperature=0), r'\.temperature must be above 0, got 0'),
        (dict(prototype_momentum=2), r'\.prototype_momentum must be a number in \[0, 1\], got 2'),
        (dict(loss_weight=-1), r'\.loss_weight must be a number >= 0, got -1'),
        (dict(queues=dict(channels=3)), r'\.queues: num_classes and channels follow'),
        (dict(queues=dict(size=0)), r'\.queues: size must be a whole number >= 1, got 0'),
        (dict(queues=dict(size=200)), r'\.queues: num_push=256 is more than .*size=200'),
    ],
)
def test_wrong_arguments_are_refused_with_the_config_key(build_u2pl, wrong, message):
    with pytest.raises(ValueError, match=rf'model\.heads\.contrast: ContrastHead{message}'):
        build_u2pl(**wrong)


def test_unknown_arguments_of_the_queues_are_refused(build_u2pl):
    with pytest.raises(TypeError, match="queues: NegativeQueues has no argument 'sizes'.*'size'"):
        build_u2pl(queues=dict(sizes=3))


def test_features_of_another_width_are_refused(build_u2pl, batch):
    model = build_u2pl(tap='backbone.decoder.1', in_channels=5)
    step = run_step(model, batch())
    with pytest.raises(ValueError, match=r'heads\.contrast.*8 channels, not 5: set in_channels=8'):
        model.heads['contrast'](step)


def test_defaults_are_the_papers():
    head = ContrastHead()
    assert (head.channels, head.min_prob, head.alpha, head.temperature) == (256, 0.3, 0.2, 0.5)
    assert (head.num_queries, head.num_negatives, head.loss_weight) == (256, 50, 0.1)
    assert head.prototype_momentum is None and head.pseudo_fields == ('logits',)


# -------------------------------------------------------------------------------------- runs
U2PL = 'u2pl/u2pl_unet_digit-scenes-60.py'


@pytest.fixture(scope='module')
def train_u2pl(server, digit_root, tmp_path_factory):
    def train(*args, work_dir=None):
        settings = small_settings(U2PL, digit_root)
        del settings['model']['refiners']
        settings = merged(settings, dict(model=dict(warmup_iters=2)))
        folder = tmp_path_factory.mktemp('u2pl')
        lines = [f'{key} = {value!r}' for key, value in settings.items()]
        config = folder / 'config.py'
        config.write_text('\n'.join([f'_base_ = {str(CONFIGS / U2PL)!r}', *lines]) + '\n')
        work_dir = work_dir or folder / 'work'
        server.run(TOOLS / 'train.py', config, '--work-dir', work_dir, *args)
        return work_dir

    return train


def test_digit_scenes_train_and_resume_exactly(train_u2pl, tmp_path):
    whole = train_u2pl()
    values = train_scalars(whole)
    assert list(values) == list(range(1, 9))
    assert all(math.isfinite(x) for step in values.values() for x in step.values())
    losses = [values[i]['contrast.loss'] for i in range(1, 9)]
    assert losses[:3] == [0, 0, 0] and any(x > 0 for x in losses[3:])
    assert 'strong.loss' not in values[2] and 'strong.loss' in values[3]
    (tmp_path / 'work').mkdir()
    shutil.copy(whole / 'iter_4.pth', tmp_path / 'work')
    resumed = train_u2pl('--resume', work_dir=tmp_path / 'work')
    assert train_scalars(resumed) == {step: values[step] for step in (5, 6, 7, 8)}
    ends = [load_checkpoint(folder / 'iter_8.pth')['state_dict'] for folder in (whole, resumed)]
    assert differing(*ends) == [] and ends[0]['heads.contrast.queues.counts'].any()
    project = [k for k in ends[0] if k.startswith('heads.contrast.project.') and 'weight' in k]
    for name in project:
        teacher = ends[0][name.replace('.project.', '.teacher_project.')]
        assert not teacher.equal(ends[0][name])


def test_the_method_is_cutmix_seg_with_entropies_and_contrast():
    config = load_config(CONFIGS / 'u2pl' / 'u2pl_deeplabv3plus_r101_voc12-92.py')
    model = config.model
    assert model.refiners.select == dict(SELECT)
    assert model.losses.strong.denominator == 'selected' and model.mixer.prob == 0.5
    assert model.heads.contrast.queues == dict(size=30000, first_size=50000)
    hooks = {hook.type: hook for hook in config.custom_hooks}
    assert hooks['MeanTeacherHook'].momentum == 0.99 and 'MemoryBankHook' in hooks
