"""Weighting Pseudo-Labels, slowly and from the paper: what its bank holds, what a pixel weighs."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from mmseg_semi.engine.hooks import MemoryBankHook
from mmseg_semi.models.memories import feature_memory_bank

from .helpers import run_step, runner_of

SIZE, PUSH, SURE, CHANNELS, K = 24, 10, 0.45, 6, 3


BANK = dict(size=SIZE, num_push=PUSH, min_confidence=SURE, shared=False)


SELECT = dict(type='ConfidenceThreshold', threshold=0.4)


AGREE = dict(type='DetectionAgreement', min_confidence=SURE)


WEIGHT = dict(type='RankStatisticsWeight', k=K, bank=BANK)


REFINERS = dict(select=SELECT, agreement=AGREE, weight=WEIGHT)


COARSE = dict(tap='backbone.decoder.1', in_channels=8)  # 8 x 8, the logits are 16 x 16


PADDED = dict(labeled=((32, 32), (32, 24)), unlabeled=((32, 32), (28, 32), (32, 16)))


def hook_of(model, **arguments):
    hook = MemoryBankHook(**arguments)
    hook.before_train(runner_of(model))
    return hook


def after(hook, model, iteration=0):
    hook.after_train_iter(runner_of(model, iteration), iteration)


def nearest(values, grid):
    """(B, H, W) at the pixels floor(i * H / h)."""
    height, width = values.shape[-2:]
    rows = [i * height // grid[0] for i in range(grid[0])]
    columns = [i * width // grid[1] for i in range(grid[1])]
    return values[:, rows][:, :, columns]


def agreed_of(step):
    """Bool (B, H, W): a box of the pseudo-label's class covers the pixel."""
    label, boxes = step.pseudo.label, step.maps['detections']
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
    for source in range(len(bank.counts)):
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
    """Mean of all features of each class, None where there are no labeled ones."""
    out = []
    for of_class in zip(*fifo):
        found = [feature for queue in of_class for feature in queue]
        out.append(torch.stack(found).double().mean(0) if of_class[0] else None)
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
        run_step(model, boxed(seed=10 + seed, **batches))
        after(hook, model)
    return model


def bank_of(model):
    return model.refiners['weight'].bank


def cross_entropy(logits, label):
    return -logits.log_softmax(1).gather(1, label[:, None])[:, 0]
