"""Memory bank, weights and reliability of Weighting Pseudo-Labels, through real training steps."""

from __future__ import annotations

import math
from collections import deque
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config, ConfigDict
from mmengine.optim import OptimWrapper
from mmengine.structures import PixelData
from mmseg.registry import MODELS

from mmseg_semi.engine.hooks import MemoryBankHook
from mmseg_semi.models.memories import FeatureMemoryBank, feature_memory_bank
from mmseg_semi.models.refiners import BaseRefiner, DetectionAgreement, RankStatisticsWeight
from mmseg_semi.models.segmentors import semi_segmentor

from .conftest import SEGMENTOR, UNIMATCH
from .test_architectures import PREPROCESSOR, ocrnet, segformer

METHOD = Path(__file__).parents[2] / 'configs/_base_/methods/weighting.py'
SIZE, PUSH, SURE, CHANNELS, K = 24, 10, 0.45, 6, 3
BANK = dict(size=SIZE, num_push=PUSH, min_confidence=SURE)
SELECT = dict(type='ConfidenceThreshold', threshold=0.4)
AGREE = dict(type='DetectionAgreement', min_confidence=SURE)
WEIGHT = dict(type='RankStatisticsWeight', k=K, bank=BANK)
REFINERS = dict(select=SELECT, agreement=AGREE, weight=WEIGHT)
COARSE = dict(tap='backbone.decoder.1', in_channels=8)  # 8 x 8, the logits are 16 x 16
PADDED = dict(labeled=((32, 32), (32, 24)), unlabeled=((32, 32), (28, 32), (32, 16)))


def segmentor(**head):
    cfg = deepcopy(SEGMENTOR)
    cfg['decode_head'].update(channels=CHANNELS, **head)
    return cfg


def shaken(model):
    """Weights with which predictions vary and are sometimes sure."""
    torch.manual_seed(1)
    with torch.no_grad():
        for network in filter(None, (model.segmentor, model.teacher)):
            head = network.decode_head
            head = head[-1] if isinstance(head, torch.nn.ModuleList) else head
            head.conv_seg.weight.copy_(torch.randn(head.conv_seg.weight.shape))
    for name in ('MemoryBankHook', 'MeanTeacherHook'):
        model.hook_attached(name)
    return model.train()


@pytest.fixture
def weighting(build):
    """Build a weighting model: changes of its weight refiner, and of the model."""

    def make(weight=None, **changes):
        refiners = dict(REFINERS, weight=dict(WEIGHT, **(weight or {})))
        return shaken(build(**{**dict(segmentor=segmentor(), refiners=refiners), **changes}))

    return make


@pytest.fixture
def boxed(batch):
    """Make a batch whose unlabeled images have random boxes of the three classes."""

    def make(seed=0, absent=(), **sizes):
        data = batch(seed=seed, **sizes)
        rng = np.random.default_rng(seed)
        for sample in data['unlabeled']['data_samples']:
            size = sample.valid.shape
            packed = np.zeros((1, *size), np.uint8)
            for number in (n for n in range(3) if n not in absent):
                for y, x in rng.integers(0, 28, (2, 2)):
                    packed[0, y : y + 20, x : x + 20] |= 1 << number
            sample.detections = PixelData(data=torch.from_numpy(packed))
        for sample in data['labeled']['data_samples']:
            for number in absent:
                truth = sample.gt_sem_seg.data
                truth[truth == number] = (number + 1) % 3
        return data

    return make


def run(model, data):
    """One training step without update: the finished step and what it returned."""
    steps = []
    model._observers.clear()
    model.add_observer(steps.append)
    losses = model(**model.data_preprocessor(deepcopy(data), True), mode='loss')
    return steps[-1], losses


def hook_of(model, **arguments):
    hook = MemoryBankHook(**arguments)
    hook.before_train(SimpleNamespace(model=model))
    return hook


def after(hook, model, iteration=0):
    hook.after_train_iter(SimpleNamespace(model=model, iter=iteration), iteration)


# ------------------------------------------------------------------------------- slow references
def nearest(values, grid):
    """(B, H, W) at the pixels floor(i * H / h)."""
    height, width = values.shape[-2:]
    rows = [i * height // grid[0] for i in range(grid[0])]
    columns = [i * width // grid[1] for i in range(grid[1])]
    return values[:, rows][:, :, columns]


def agreed_of(step):
    """Bool (B, H, W): a box of the pseudo-label's class covers the pixel."""
    label, boxes = step.pseudo.label, step.detections
    found = torch.zeros_like(step.pseudo.valid)
    for number in range(3):
        found |= (label == number) & ((boxes[:, 0].int() // 2**number) % 2 == 1)
    return found & step.pseudo.valid


def candidates(step, tap):
    """For both sources the features (B, C, h, w), and class or -1 of each pixel (B, h, w)."""
    features = step.labeled.features[tap].detach()
    grid = tuple(features.shape[-2:])
    logits = step.labeled.stages[-1].detach()
    if tuple(logits.shape[-2:]) != grid:  # twice as fine: bilinear is the mean of 2 x 2
        assert logits.shape[-1] == 2 * grid[1]
        logits = F.avg_pool2d(logits, 2)
    confidence, predicted = logits.softmax(1).max(1)
    truth = torch.stack([s.gt_sem_seg.data[0] for s in step.labeled_samples])
    truth = nearest(truth, grid)
    right = (predicted == truth) & (confidence > SURE)
    weak = step.teacher.features[tap].detach()
    pseudo = step.raw_pseudo  # no refiner here changes label or confidence
    reliable = agreed_of(step) & (pseudo.confidence > SURE)
    label = torch.where(reliable, pseudo.label, -1)
    return [
        (features, torch.where(right, truth, -1)),
        (weak, nearest(label, tuple(weak.shape[-2:]))),
    ]


class Record:
    """What ``sample_per_class`` was asked and answered."""

    def __init__(self, monkeypatch):
        self.calls, self.sample = [], feature_memory_bank.sample_per_class
        monkeypatch.setattr(feature_memory_bank, 'sample_per_class', self)

    def __call__(self, label, num_classes, num):
        index, present = self.sample(label, num_classes, num)
        self.calls.append((index.tolist(), present.tolist(), num))
        return index, present

    def take(self):
        calls, self.calls = self.calls, []
        return calls


def pushed(step, tap, calls, classes=3):
    """Check the draws of a step and return the features of each source and class."""
    sources = candidates(step, tap)
    assert len(calls) == len(sources) == 2
    items = []
    for (features, label), (index, present, num) in zip(sources, calls):
        assert num == PUSH
        flat, columns = label.flatten(), features.permute(0, 2, 3, 1).flatten(0, 2)
        items.append([])
        for number in range(classes):
            drawn = [i for i, there in zip(index[number], present[number]) if there]
            allowed = torch.nonzero(flat == number)[:, 0].tolist()
            assert len(drawn) == min(PUSH, len(allowed)) == len(set(drawn))
            assert set(drawn) <= set(allowed)
            items[-1].append([columns[i] for i in drawn])
    return items


def queues_of(bank):
    """Content of each queue, the oldest entry first."""
    out = []
    for source in range(2):
        out.append([])
        for number in range(bank.num_classes):
            count, head = int(bank.counts[source, number]), int(bank.heads[source, number])
            slots = [(head - count + i) % bank.size for i in range(count)]
            content = bank.features[source, number]
            out[-1].append([content[i] for i in slots])
            empty = [i for i in range(bank.size) if i not in slots]
            assert not content[empty].any()
    return out


def check_equal(bank, fifo):
    for ours, theirs in zip(queues_of(bank), fifo):
        for one, other in zip(ours, theirs):
            assert len(one) == len(other) and all(map(torch.equal, one, other))


def prototypes_of(fifo):
    """Mean of all features of each class, None where there are none."""
    out = []
    for of_class in zip(*fifo):
        found = [feature for queue in of_class for feature in queue]
        out.append(torch.stack(found).double().mean(0) if found else None)
    return out


def top(values, k):
    """Channels of the k largest values, the lower channel first where they are equal."""
    return set(sorted(range(len(values)), key=lambda i: (-values[i], i))[:k])


def rank_weight(features, label, prototypes, k):
    """s / k pixel by pixel, 1 without prototype."""
    weight = np.ones(label.shape, np.float32)
    height, width = label.shape[1:]
    h, w = features.shape[-2:]
    tops = [None if p is None else top(p.float().tolist(), k) for p in prototypes]
    cells = [
        [[top(features[b, :, y, x].tolist(), k) for x in range(w)] for y in range(h)]
        for b in range(len(label))
    ]
    for b, row, column in np.ndindex(*label.shape):
        wanted = tops[label[b, row, column]]
        if wanted is not None:
            cell = cells[b][row * h // height][column * w // width]
            weight[b, row, column] = len(cell & wanted) / k
    return torch.from_numpy(weight)


def cosine_weight(features, label, prototypes):
    weight = torch.ones(label.shape)
    height, width = label.shape[1:]
    h, w = features.shape[-2:]
    for b, row, column in np.ndindex(*label.shape):
        prototype = prototypes[label[b, row, column]]
        if prototype is not None:
            own = features[b, :, row * h // height, column * w // width].double()
            cosine = own @ prototype / (own.norm() * prototype.norm()).clamp(min=1e-12)
            weight[b, row, column] = max(cosine.item(), 0.0)
    return weight


def filled(model, boxed, steps=2, **batches):
    """A model whose bank has seen some batches."""
    hook = hook_of(model)
    for seed in range(steps):
        run(model, boxed(seed=10 + seed, **batches))
        after(hook, model)
    return model


def bank_of(model):
    return model.refiners['weight'].bank


# ---------------------------------------------------------------------------------------- the bank
@pytest.mark.parametrize('tap', ['penultimate', 'backbone.decoder.1'])
def test_content_of_real_steps_is_that_of_a_plain_fifo(weighting, boxed, monkeypatch, tap):
    """Prototypes and weights too, which are those that the steps before left."""
    weight = dict(tap=tap, **(dict(in_channels=8) if '.' in tap else {}))
    model = weighting(weight)
    record = Record(monkeypatch)
    hook, bank = hook_of(model), bank_of(model)
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.05))
    fifo = [[deque(maxlen=SIZE) for _ in range(3)] for _ in range(2)]
    steps, shares = [], []
    model.add_observer(steps.append)
    for iteration in range(6):
        model.train_step(boxed(seed=iteration, **PADDED), optimizer)
        step = steps.pop()
        prototypes = prototypes_of(fifo)
        expected = rank_weight(step.teacher.features[tap], step.pseudo.label, prototypes, K)
        torch.testing.assert_close(step.pseudo.weight, expected)
        assert iteration or (step.pseudo.weight == 1).all(), 'there are no prototypes yet'
        shares.append(expected.mean().item())
        after(hook, model, iteration)
        items = pushed(step, tap, record.take())
        for queues, new in zip(fifo, items):
            for queue, features in zip(queues, new):
                queue.extend(features)
        check_equal(bank, fifo)
        ours, known = bank.prototypes()
        for mine, has, wanted in zip(ours, known, prototypes_of(fifo)):
            assert has == (wanted is not None)
            torch.testing.assert_close(mine, wanted.float() if has else torch.zeros_like(mine))
    lengths = [[len(queue) for queue in queues] for queues in fifo]
    assert max(map(max, lengths)) == SIZE, 'no queue was ever full'
    assert all(sum(one) for one in lengths)
    assert len(set(shares)) > 3 and all(0 < share < 1 for share in shares[1:])


def test_before_the_push_nothing_of_the_step_counts(weighting, boxed):
    model = weighting()
    bank = bank_of(model)
    run(model, boxed())
    assert not bank.counts.any() and not bank.features.any()
    run(model, boxed(seed=1))
    hook_of(model)
    bank.update_state()
    once = bank.counts.clone()
    assert once.any() and (once <= PUSH).all(), 'only the last noted step'
    bank.update_state()
    assert torch.equal(bank.counts, once), 'nothing twice'


def test_without_a_second_source_labeled_pixels_alone_enter(weighting, batch, monkeypatch):
    record = Record(monkeypatch)
    model = weighting(refiners=dict(select=SELECT, weight=WEIGHT))
    hook, bank = hook_of(model), bank_of(model)
    assert run(model, batch())[0].pseudo.reliable is None
    after(hook, model)
    assert len(record.take()) == 1
    assert bank.counts[0].any() and not bank.counts[1].any() and not bank.features[1].any()


def test_padding_and_unsure_pixels_stay_out(weighting, boxed):
    """With features that say what their pixel is."""
    model = weighting(dict(bank=dict(BANK, size=2048, num_push=2048)))
    hook, bank = hook_of(model), bank_of(model)
    step, _ = run(model, boxed(**PADDED))
    after(hook, model)
    for source, (features, label) in enumerate(candidates(step, 'penultimate')):
        columns = features.permute(0, 2, 3, 1)
        for number in range(3):
            wanted = columns[label == number]
            got = bank.features[source, number, : len(wanted)]
            assert bank.counts[source, number] == len(wanted)
            assert torch.equal(*(one[np.lexsort(one.T.numpy())] for one in (got, wanted)))
    truth = torch.stack([s.gt_sem_seg.data[0] for s in step.labeled_samples])
    assert (truth == 255).any() and (~step.valid).any()
    assert 0 < bank.counts[0].sum() < truth.numel() / 4
    assert 0 < bank.counts[1].sum() < step.valid.numel() / 4


def test_the_warm_up_notes_nothing(weighting, boxed):
    model = weighting(warmup_iters=3)
    hook = hook_of(model)
    for iteration in range(3):
        model.set_progress(iteration, 10)
        model(**model.data_preprocessor(boxed(), True), mode='loss')
        after(hook, model, iteration)
        assert not bank_of(model).counts.any()
    model.set_progress(3, 10)
    run(model, boxed())
    after(hook, model, 3)
    assert bank_of(model).counts.any()


@pytest.mark.parametrize('start, interval', [(0, 1), (3, 1), (0, 3), (2, 4)])
def test_start_and_interval(weighting, boxed, start, interval):
    model = weighting(dict(bank=dict(BANK, size=10_000)))
    hook, bank = hook_of(model, start=start, interval=interval), bank_of(model)
    changed = []
    for iteration in range(9):
        run(model, boxed(seed=iteration))
        before = bank.counts.clone()
        after(hook, model, iteration)
        if not torch.equal(before, bank.counts):
            changed.append(iteration)
        bank.update_state()
        assert iteration in changed or torch.equal(before, bank.counts), 'nothing is left over'
    assert changed == list(range(start, 9, interval))


@pytest.mark.parametrize(
    'argument, value',
    [('start', -1), ('start', 1.0), ('interval', 0), ('interval', True), ('interval', '2')],
)
def test_wrong_arguments_of_the_hook(argument, value):
    with pytest.raises(ValueError, match=rf'MemoryBankHook\.{argument} must be a whole number >='):
        MemoryBankHook(**{argument: value})


def test_hook_and_bank_need_each_other(build, boxed):
    refiners = dict(select=SELECT, agreement=AGREE)
    with pytest.raises(ValueError, match='MemoryBankHook needs a component with a memory bank'):
        hook_of(build(refiners=refiners))
    model = build(refiners=REFINERS).train()
    with pytest.raises(RuntimeError, match=r"MemoryBankHook.*add dict\(type='MemoryBankHook'\)"):
        run(model, boxed())
    hook_of(model)
    run(model, boxed())


def test_state_dict_round_trip_goes_on_where_it_was(weighting, boxed, monkeypatch):
    model = filled(weighting(), boxed, 4)
    names = {f'refiners.weight.bank.{name}' for name in ('features', 'counts', 'heads')}
    state = {key: value.clone() for key, value in model.state_dict().items()}
    assert {key for key in state if key.startswith('refiners')} == names
    assert (state['refiners.weight.bank.counts'] == SIZE).any()
    other = weighting()
    assert not bank_of(other).counts.any()
    other.load_state_dict(state)
    check_equal(bank_of(other), queues_of(bank_of(model)))
    for one in (model, other):
        torch.manual_seed(4)
        run(one, boxed(seed=3))
        after(hook_of(one), one)
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key
    assert not torch.equal(bank_of(model).features, state['refiners.weight.bank.features'])


@pytest.mark.parametrize('change', [dict(bank=dict(BANK, size=SIZE + 1)), COARSE])
def test_a_bank_of_another_size_is_refused(weighting, change):
    state = weighting().state_dict()
    message = (
        r'refiners\.weight\.bank\.features: the checkpoint has a memory bank of shape '
        r'\(2, 3, 24, 6\) \(2, classes, size, channels\), the config one of \(2, 3, 2'
    )
    with pytest.raises(ValueError, match=message):
        weighting(change).load_state_dict(state)


# ------------------------------------------------------------------------------------ the weights
def test_a_class_without_prototype_weighs_one(weighting, boxed):
    model = filled(weighting(), boxed, absent=(2,))
    bank = bank_of(model)
    assert bank.counts.any(0).tolist() == [True, True, False]
    for base in (0.0, 0.5):
        model.refiners['weight'].base_weight = base
        step, losses = run(model, boxed(seed=5))
        label, weight = step.pseudo.label, step.pseudo.weight
        prototypes = prototypes_of(queues_of(bank))
        expected = rank_weight(step.teacher.features['penultimate'], label, prototypes, K)
        assert (label == 2).any() and (weight[label == 2] == 1).all()
        torch.testing.assert_close(weight, expected + base * (label != 2))
        assert len(weight[label != 2].unique()) > 1
        assert float(losses['weight.prototypes']) == 2
        mean = weight[step.pseudo.used].mean()
        torch.testing.assert_close(losses['weight.mean'], mean)


@pytest.mark.parametrize('k', [1, 2, CHANNELS])
def test_weights_of_other_k(weighting, boxed, k):
    model = filled(weighting(dict(k=k)), boxed)
    step, _ = run(model, boxed(seed=5, **PADDED))
    features = step.teacher.features['penultimate']
    prototypes = prototypes_of(queues_of(bank_of(model)))
    expected = rank_weight(features, step.pseudo.label, prototypes, k)
    torch.testing.assert_close(step.pseudo.weight, expected)
    assert (expected.std() > 0) == (k < CHANNELS)


def test_cosine_is_never_negative(weighting, boxed):
    model = filled(weighting(dict(similarity='cosine', tap='classifier')), boxed)
    step, _ = run(model, boxed(seed=5))
    features = step.teacher.features['classifier']
    prototypes = prototypes_of(queues_of(bank_of(model)))
    expected = cosine_weight(features, step.pseudo.label, prototypes)
    torch.testing.assert_close(step.pseudo.weight, expected, rtol=1e-4, atol=1e-5)
    assert (expected == 0).any() and expected.max() > 0.9


def cross_entropy(logits, label):
    return -logits.log_softmax(1).gather(1, label[:, None])[:, 0]


def test_base_weight_with_the_denominator_weight(weighting, boxed):
    """The authors' program: sum of (1 + s/k) CE over the selected, by the sum of 1 + s/k."""
    losses = deepcopy(UNIMATCH['losses'])
    for loss in losses.values():
        loss['denominator'] = 'weight'
    model = filled(weighting(dict(base_weight=1), losses=losses), boxed)
    step, values = run(model, boxed(seed=5, **PADDED))
    prototypes = prototypes_of(queues_of(bank_of(model)))
    features = step.teacher.features['penultimate']
    weight = 1 + rank_weight(features, step.pseudo.label, prototypes, K)
    assert all(one is not None for one in prototypes)
    used = (step.raw_pseudo.confidence > 0.4) & step.valid
    assert 0 < used.sum() < step.valid.sum()
    parts = [step.perturbed.logits] + [view.outputs.logits for view in step.views]
    means = [
        (cross_entropy(logits, step.pseudo.label) * weight)[used].sum() / weight[used].sum()
        for logits in parts
    ]
    torch.testing.assert_close(values['perturbed.loss'], means[0] / 4)
    torch.testing.assert_close(values['strong.loss'], (means[1] + means[2]) / 8)


def test_every_stream_has_the_weight_mixed_as_its_images_are(weighting, boxed):
    model = filled(weighting(mixer=dict(type='CutMix', prob=1.0)), boxed, **PADDED)
    step, values = run(model, boxed(seed=5, **PADDED))
    pseudo = step.pseudo
    plain = (cross_entropy(step.perturbed.logits, pseudo.label) * pseudo.weight)[pseudo.used]
    torch.testing.assert_close(values['perturbed.loss'], plain.sum() / pseudo.valid.sum() / 4)
    means = []
    for view, images in zip(step.views, step.strong_images):

        def mixed(tensor, view=view):
            parts = []
            for i, partner in enumerate(view.mix.partners):
                parts.append(torch.where(view.mix.mask[i], tensor[partner], tensor[i]))
            return torch.stack(parts)

        assert view.mix.mask.any() and torch.equal(view.image, mixed(images))
        assert torch.equal(view.pseudo.weight, mixed(pseudo.weight))
        assert not torch.equal(view.pseudo.weight, pseudo.weight)
        assert torch.equal(view.pseudo.reliable, mixed(pseudo.reliable))
        assert torch.equal(view.pseudo.extras['detections'], mixed(step.detections))
        used, valid = mixed(pseudo.used), mixed(pseudo.valid)
        loss = cross_entropy(view.outputs.logits, mixed(pseudo.label)) * mixed(pseudo.weight)
        means.append(loss[used].sum() / valid.sum())
    assert len(means) == 2 and means[0] != means[1]
    torch.testing.assert_close(values['strong.loss'], sum(means) / 8)


@MODELS.register_module()
class WeightByPlaceForTest(BaseRefiner):
    """Sets a weight before the weighting."""

    stage = 'selection'

    def forward(self, pseudo, step):
        return pseudo.update(weight=torch.arange(32.0).expand(pseudo.label.shape) / 8)


def test_a_weight_that_is_there_is_multiplied(weighting, boxed):
    model = filled(weighting(), boxed)
    alone = run(model, boxed(seed=5))[0].pseudo.weight
    both = weighting(refiners=dict(REFINERS, place=dict(type='WeightByPlaceForTest')))
    bank_of(both).load_state_dict(bank_of(model).state_dict())
    assert list(both.refiners) == ['select', 'place', 'agreement', 'weight']
    weight = run(both, boxed(seed=5))[0].pseudo.weight
    torch.testing.assert_close(weight, alone * torch.arange(32.0) / 8)


def test_nothing_of_it_has_a_gradient(weighting, boxed):
    """Weights are constants, and the bank has no parameter."""
    model = filled(weighting(), boxed)
    step, losses = run(model, boxed(seed=5))
    assert not step.pseudo.weight.requires_grad
    assert not list(model.refiners.parameters())
    total = model.parse_losses(losses)[0]
    first = next(model.segmentor.parameters())
    (gradient,) = torch.autograd.grad(total, first, retain_graph=True)
    weight = step.pseudo.weight.clone()
    used, count = step.pseudo.used, step.valid.sum()
    parts = [view.outputs.logits for view in step.views] + [step.perturbed.logits] * 2
    terms = [(cross_entropy(x, step.pseudo.label) * weight)[used].sum() / count for x in parts]
    by_hand = losses['decode.loss_ce'] + sum(terms) / 8
    (expected,) = torch.autograd.grad(by_hand, first)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    after(hook_of(model), model)
    bank = bank_of(model)
    assert not any(buffer.requires_grad for buffer in bank.buffers())
    assert all(buffer.grad_fn is None for buffer in bank.buffers())


# ------------------------------------------------------------------------------- reliability
@pytest.mark.parametrize(
    'options, exempt', [(dict(), None), (dict(restrict=True), ()), (dict(exempt=[0, 2]), (0, 2))]
)
def test_reliable_restrict_and_exempt(weighting, boxed, options, exempt):
    if exempt:
        options = dict(options, restrict=True)
    model = weighting(refiners=dict(REFINERS, agreement=dict(AGREE, **options)))
    data = boxed(**PADDED)
    data['unlabeled']['data_samples'][0].valid.data[:, :12] = False  # boxes reach into it
    step, losses = run(model, data)
    agreed, confidence = agreed_of(step), step.raw_pseudo.confidence
    assert torch.equal(step.pseudo.reliable, agreed & (confidence > SURE))
    assert 0 < step.pseudo.reliable.sum() < agreed.sum() < step.valid.sum()
    share = step.pseudo.reliable.sum() / step.valid.sum()
    torch.testing.assert_close(losses['agreement.reliable'], share)
    selected = step.valid & (confidence > 0.4)
    if exempt is not None:
        spared = torch.zeros_like(agreed)
        for number in exempt:
            spared |= step.pseudo.label == number
        assert (selected & ~(agreed | spared)).any()
        selected = selected & (agreed | spared)
    assert torch.equal(step.pseudo.used, selected)


def test_a_batch_without_detections_is_refused(weighting, batch, boxed):
    model = weighting()
    message = r'model\.refiners\.agreement \(DetectionAgreement\): .*no detections.*LoadDetections'
    with pytest.raises(ValueError, match=message):
        run(model, batch())
    late = weighting(warmup_iters=3)  # not after the warm-up, but at the start
    hook_of(late)
    late.set_progress(0, 10)
    with pytest.raises(ValueError, match=message):
        run(late, batch())
    mixed = boxed()
    del mixed['unlabeled']['data_samples'][1].detections
    with pytest.raises(ValueError, match='some unlabeled images have detections and some do not'):
        run(model, mixed)


def test_boxes_that_nobody_reads_are_said_once(build, boxed, monkeypatch):
    texts = []
    monkeypatch.setattr(semi_segmentor, 'print_log', lambda text, **_: texts.append(text))
    model = build(refiners=dict(select=SELECT)).train()
    for _ in range(2):
        run(model, boxed())
    assert len(texts) == 1 and 'no component reads them' in texts[0]


def test_a_hook_twice_is_refused(weighting):
    hooks = [MemoryBankHook(), MemoryBankHook(interval=2)]
    with pytest.raises(ValueError, match='custom_hooks has MemoryBankHook more than once'):
        hooks[0].before_train(SimpleNamespace(model=weighting(), hooks=hooks))


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(min_confidence=1.5), r'min_confidence must be a number in \[0, 1\], got 1\.5'),
        (dict(restrict=1), r'restrict must be one of \(True, False\), got 1'),
        (dict(restrict=True, exempt=0), r'exempt must be a list of class numbers, got 0'),
        (dict(restrict=True, exempt='0'), r"exempt must be a list of class numbers, got '0'"),
        (dict(restrict=True, exempt=[-1]), r'exempt must be a whole number >= 0, got -1'),
        (dict(restrict=True, exempt=[0, 3]), r'exempt=\(0, 3\) has a class .*0 to 2'),
        (dict(exempt=[0]), r'exempt=\(0,\) has no effect without restrict=True'),
    ],
)
def test_wrong_arguments_of_the_agreement(build, wrong, message):
    refiners = dict(REFINERS, agreement={**AGREE, **wrong})
    with pytest.raises(ValueError, match=rf'model\.refiners\.agreement: DetectionAgr.*\.{message}'):
        build(refiners=refiners)


@pytest.mark.parametrize(
    'wrong, error, message',
    [
        (dict(k=0), ValueError, r'RankStatisticsWeight\.k must be a whole number >= 1, got 0'),
        (dict(k=7), ValueError, r"k=7 is more than the 6 channels of the features 'penultimate'"),
        (dict(COARSE, k=9), ValueError, r"k=9 is more than the 8 .* 'backbone\.decoder\.1'"),
        (dict(base_weight=-1), ValueError, r'base_weight must be a number >= 0, got -1'),
        (dict(similarity='dot'), ValueError, r"similarity must be one of .*got 'dot'"),
        (dict(tap=''), ValueError, r'tap must be the name of a feature'),
        (dict(tap='backbone.decoder.1'), ValueError, r"'backbone\.decoder\.1': give its number"),
        (dict(COARSE, tap='backbone.decodr'), ValueError, r"Did you mean 'backbone\.decoder'"),
        (dict(in_channels=0), ValueError, r'in_channels must be a whole number >= 1, got 0'),
        (dict(bank=dict(size=0)), ValueError, r'bank: size must be a whole number >= 1, got 0'),
        (dict(bank=dict(num_push=1.5)), ValueError, r'bank: num_push must be a whole number >= 1'),
        (dict(bank=dict(min_confidence=2)), ValueError, r'bank: min_confidence must be .*got 2'),
        (dict(bank=dict(sise=2)), TypeError, r"no argument 'sise'\. Did you mean 'size'"),
        (dict(bank=dict(channels=4)), ValueError, r'num_classes and channels follow from the seg'),
    ],
)
def test_wrong_arguments_of_the_weight(weighting, wrong, error, message):
    with pytest.raises(error, match=rf'model\.refiners\.weight: .*{message}'):
        weighting(wrong)


def test_features_of_another_width_are_refused(weighting, boxed):
    model = weighting(dict(COARSE, in_channels=5))
    message = r'model\.refiners\.weight .*have 8 channels, not 5: set in_channels=8'
    with pytest.raises(ValueError, match=message):
        run(model, boxed())


def test_defaults_are_those_of_the_paper(build):
    weight, agreement = RankStatisticsWeight(), DetectionAgreement()
    assert (weight.k, weight.base_weight, weight.similarity, weight.tap) == (
        *(5, 0.0, 'rank', 'penultimate'),
    )
    assert agreement.min_confidence == 0.95 and not agreement.restrict
    bank = FeatureMemoryBank(3, 4)
    assert (bank.size, bank.min_confidence) == (256, 0.95)
    method = Config.fromfile(str(METHOD)).method
    cfg = ConfigDict(segmentor=segmentor(), **{k: v for k, v in method.items() if k != 'type'})
    model = build(**cfg)
    assert list(model.refiners) == ['select', 'agreement', 'weight']
    assert bank_of(model).features.shape == (2, 3, 256, CHANNELS)
    weights = {name: loss.loss_weight for name, loss in model.losses.items()}
    assert weights == dict(strong=0.2, perturbed=0.2) and model.supervised_weight == 1


# ------------------------------------------------------------------------ teachers, architectures
def test_with_an_ema_teacher_weights_and_reliable_features_are_the_teachers(
    weighting, boxed, monkeypatch
):
    record = Record(monkeypatch)
    model = weighting(teacher=dict(type='ema'))
    with torch.no_grad():
        for parameter in model.teacher.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    hook, bank = hook_of(model), bank_of(model)
    fifo = [[deque(maxlen=SIZE) for _ in range(3)] for _ in range(2)]
    for iteration in range(3):
        step, _ = run(model, boxed(seed=iteration, **PADDED))
        features = step.teacher.features['penultimate']
        assert not torch.equal(features, step.weak.features['penultimate'])
        expected = rank_weight(features, step.pseudo.label, prototypes_of(fifo), K)
        torch.testing.assert_close(step.pseudo.weight, expected)
        after(hook, model, iteration)
        for queues, new in zip(fifo, pushed(step, 'penultimate', record.take())):
            for queue, one in zip(queues, new):
                queue.extend(one)
        check_equal(bank, fifo)
    assert bank.counts[0].any() and bank.counts[1].any()


@pytest.mark.parametrize('architecture, grid', [(segformer, 16), (ocrnet, 8)])
def test_transformers_and_cascades(weighting, boxed, monkeypatch, architecture, grid):
    record = Record(monkeypatch)
    cfg = dict(architecture(), data_preprocessor=PREPROCESSOR, test_cfg=dict(mode='whole'))
    model = weighting(segmentor=cfg, teacher=dict(type='ema'))
    hook, bank = hook_of(model), bank_of(model)
    fifo = [[deque(maxlen=SIZE) for _ in range(3)] for _ in range(2)]
    sizes = dict(labeled=((64, 64),) * 2, unlabeled=((64, 64),) * 2)
    for iteration in range(2):
        step, losses = run(model, boxed(seed=iteration, **sizes))
        features = step.teacher.features['penultimate']
        assert features.shape == (2, 8, grid, grid) and bank.channels == 8
        expected = rank_weight(features, step.pseudo.label, prototypes_of(fifo), K)
        torch.testing.assert_close(step.pseudo.weight, expected)
        after(hook, model, iteration)
        for queues, new in zip(fifo, pushed(step, 'penultimate', record.take())):
            for queue, one in zip(queues, new):
                queue.extend(one)
        check_equal(bank, fifo)
        total = model.parse_losses(losses)[0]
        assert math.isfinite(float(total))
    assert bank.counts.any() and 0 < expected.mean() < 1


# --------------------------------------------------------------------------------------- two ranks
def bank_of_a_rank(rank, inputs):
    draw, drawn, Space = feature_memory_bank.sample_per_class, [], SimpleNamespace

    def sample_per_class(label, *args):
        drawn.append(draw(label, *args))
        return drawn[-1]

    feature_memory_bank.sample_per_class = sample_per_class
    torch.manual_seed(rank)
    bank = FeatureMemoryBank(4, 3, size=7, num_push=4, min_confidence=0.5)
    hook = MemoryBankHook(start=1)
    hook.parts = [bank]
    states = []
    for iteration, one in enumerate(inputs[rank]):
        truth = [Space(gt_sem_seg=Space(data=t[None])) for t in one['truth']]
        labeled = Space(features=dict(f=one['features']), stages=[one['logits']])
        step = Space(labeled=labeled, labeled_samples=truth)
        step.teacher = Space(features=dict(f=one['weak']))
        pseudo = Space(reliable=one['reliable'], label=one['label'])
        bank.note(step, pseudo, 'f')
        hook.after_train_iter(Space(iter=iteration), iteration)
        states.append({k: v.clone() for k, v in bank.state_dict().items()})
    return dict(states=states, drawn=drawn)


def rank_inputs(rank, iterations=6):
    """Labels of classes that the ranks see unequally often; class 3 only rank 1 has."""
    source = torch.Generator().manual_seed(rank)
    inputs = []
    for _ in range(iterations):
        truth = torch.randint(0, 4 if rank else 3, (2, 4, 4), generator=source)
        label = torch.randint(0, 4 if rank else 2, (3, 4, 4), generator=source)
        inputs.append(
            dict(
                truth=truth,
                label=label,
                features=torch.randn(2, 3, 4, 4, generator=source),
                weak=torch.randn(3, 3, 4, 4, generator=source),
                logits=6 * F.one_hot(truth, 4).permute(0, 3, 1, 2).float(),
                reliable=torch.rand(3, 4, 4, generator=source) < (0.5 if rank else 0.1),
            )
        )
    return inputs


def test_two_ranks_hold_one_bank(on_two_ranks):
    """That of a plain queue which gets the items of rank 0 and then those of rank 1."""
    inputs = [rank_inputs(rank) for rank in (0, 1)]
    ranks = on_two_ranks(bank_of_a_rank, inputs)
    fifo = [[deque(maxlen=7) for _ in range(4)] for _ in range(2)]
    bank = FeatureMemoryBank(4, 3, size=7)
    for iteration in range(6):
        for rank in range(2 if iteration else 0):
            one = inputs[rank][iteration]
            reliable = torch.where(one['reliable'], one['label'], -1)
            for source, (features, label) in enumerate(
                ((one['features'], one['truth']), (one['weak'], reliable))
            ):
                index, present = ranks[rank]['drawn'][2 * (iteration - 1) + source]
                columns = features.permute(0, 2, 3, 1).flatten(0, 2)
                for number in range(4):
                    found = index[number][present[number]].tolist()
                    assert all(label.flatten()[i] == number for i in found)
                    assert len(set(found)) == min(4, int((label == number).sum()))
                    fifo[source][number].extend(columns[i] for i in found)
        for rank in (0, 1):
            bank.load_state_dict(ranks[rank]['states'][iteration])
            check_equal(bank, fifo)
    lengths = [len(queue) for queues in fifo for queue in queues]
    assert min(lengths) > 0 and max(lengths) == 7
