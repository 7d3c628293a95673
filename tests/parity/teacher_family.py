"""S4MC on CutMix-Seg and on FixMatch, and U2PL."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, Callable, Optional

import torch
from mmengine.config import Config, ConfigDict
from mmseg.registry import HOOKS, MODELS
from torch import Tensor, nn

from mmseg_semi.functional import confidence_score
from mmseg_semi.models import BaseMixer, BasePerturbation, SemiSegmentor
from mmseg_semi.models.heads import ContrastHead
from mmseg_semi.models.mixers import CutMix
from mmseg_semi.models.segmentors.building import needed_hooks
from mmseg_semi.models.teachers.base_teacher import forward_mode
from mmseg_semi.structures import Features, Mix, PseudoLabel, SemiStep, View
from tests.parity.comparison import Comparison, Outcome, Recording
from tests.parity.steps import batch_of, exact_segmentor, released

# ---------------------------------------------------------------------- what stands in for chance


class Recorded:
    """A component that reads what was drawn from the recording."""

    recording: Recording


class RecordedCutMix(Recorded, CutMix):
    """``rand.inside``: every image takes these pixels from the next one."""

    def plan(self, images: Tensor, step: SemiStep) -> Mix:
        return Mix(self.recording['rand.inside'].bool(), torch.arange(len(images)).roll(-1))


class RecordedPartners(Recorded, BaseMixer):
    """``in.box`` and ``in.partner_*``: partners from outside of the batch, labeled before."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: Any = None

    def forward(self, images: Tensor, pseudo: PseudoLabel, step: SemiStep) -> View:
        number = next(i for i, one in enumerate(step.strong_images) if one is images)
        mask = self.recording['in.box'][number].bool()
        mix = Mix(mask, torch.arange(len(images)), outputs=self.outputs)
        valid = self.recording['in.partner_valid'].bool()
        others = PseudoLabel.from_logits(self.outputs.logits, valid)
        partner = self.recording[f'in.partner_s{number + 1}']
        return View(mix(images, partner), pseudo.combine(others, mix), mix)


class RecordedDropout(Recorded, BasePerturbation):
    """``rand.drop.N``, from N = ``first`` on: the channels that are kept in each map."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = first

    def forward(self, maps: list[Tensor], views: int) -> list[Tensor]:
        kept = [self.recording[f'rand.drop.{self.first + i}'] for i in range(len(maps))]
        return [one * keep[..., None, None] / 0.5 for one, keep in zip(maps, kept)]


class RecordedContrastHead(Recorded, ContrastHead):
    """``rand.anchor`` and ``rand.negative``."""

    def anchor_label(self, teacher: Any) -> Tensor:
        self.teacher_found = teacher
        return super().anchor_label(teacher)

    def draw_anchors(self, label: Tensor) -> tuple[Tensor, Tensor]:
        index, present = super().draw_anchors(label)
        self.anchors_found = torch.stack([(label == k).sum() for k in range(self.num_classes)])
        classes = self.recording['rand.contrast_classes'].tolist()
        for k, drawn in zip(classes, self.recording['rand.anchor']):
            index[k] = (label == k).nonzero()[:, 0][drawn]
        return index, present

    def draw_negatives(self, counts: Tensor) -> Optional[Tensor]:
        drawn = self.recording['rand.negative']
        places = drawn.new_zeros(self.num_classes, *drawn.shape[1:])
        places[self.recording['rand.contrast_classes']] = drawn
        return places


class S4MCFixMatchProgram(Recorded, SemiSegmentor):
    """Two passes that the preset has not: on loaded partners, and one that is thrown away.

    The first labels the partners, which the program draws from a second loader, in evaluation mode.
    The second, over {labeled, weak}, is an error: it moves the BatchNorm statistics and gives
    nothing else.
    """

    @torch.no_grad()
    def begin_step(self, inputs: Any, data_samples: Any) -> SemiStep:
        step = super().begin_step(inputs, data_samples)
        with forward_mode(self.segmentor, 'eval'):
            self.mixer.outputs = self.run(self.recording['in.partner_weak'])
        features = self.encode(torch.cat([step.labeled_images, step.weak_images]))
        maps, head = list(features.maps), self.segmentor.decode_head
        for i, level in enumerate(head.in_index):
            kept = self.recording[f'rand.drop.{i}'][..., None, None]
            maps[level] = maps[level] * kept / 0.5
        self.decode(Features.join([features, Features(maps, features.size, features.taps)]))
        return step


# ---------------------------------------------------------------------- the step


@dataclass
class Replayed:
    """A step that was run.

    Attributes:
        model: After the step.
        step: The step.
        losses: What ``loss`` returned.
        total: The trained sum.
        gradients: By the names of the recording.
        changes: Of parameters, by ``student.NAME`` and ``teacher.NAME``.
    """

    model: Any
    step: SemiStep
    losses: dict[str, Tensor]
    total: Tensor
    gradients: dict[str, Tensor]
    changes: dict[str, Tensor]


def model_config(recording: Recording) -> ConfigDict:
    """The released preset on the recording's network, with what differs by size or chance."""
    meta = recording.meta
    recorded = copy.deepcopy(meta['config'])
    model = released(meta['method'], {})
    model.segmentor = exact_segmentor(recorded['segmentor'])
    if meta['method'] == 's4mc_fixmatch':
        model.type, model.mixer = S4MCFixMatchProgram, dict(type=RecordedPartners)
        model.streams.partners = None
        for stream, first in (('labeled_perturbed', 2), ('weak_perturbed', 4)):
            model.streams[stream].perturbation = dict(type=RecordedDropout, first=first)
        model.refiners.select.update(alpha=1 - meta['share'], decay=False)
        return ConfigDict(model)
    model.mixer.type = RecordedCutMix
    model.teacher.update(momentum=meta['teacher_momentum'], warm_up=False, copy_epochs=0)
    model.warmup_epochs = 0
    model.refiners.select.alpha = meta['alpha0']
    if meta['method'] == 's4mc':
        model.refiners.context.joint = recording['in.joint'].tolist()
        return ConfigDict(model)
    sizes, head = meta['contrast'], model.heads.contrast
    network = recorded['heads']['contrast']
    head.update({name: network[name] for name in ('tap', 'hidden_channels', 'channels')})
    head.update(
        type=RecordedContrastHead,
        dropout2d=0,
        alpha=meta['alpha0'],
        low_rank=sizes['low_rank'],
        high_rank=sizes['high_rank'],
        min_prob=sizes['min_prob'],
        num_queries=sizes['queries'],
        num_negatives=sizes['negatives'],
        temperature=sizes['temperature'],
        loss_weight=sizes['weight'],
    )
    head.bank.update(size=sizes['queue'], first_size=sizes['first_queue'])
    return ConfigDict(model)


def build(recording: Recording, changes: Mapping[str, Any]) -> Any:
    """Build the model in float64, with the recorded weights and memories.

    Args:
        recording: The file.
        changes: Entries of ``model`` that differ from the preset, by their path.
    """
    config = Config(dict(model=model_config(recording)))
    config.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    model = MODELS.build(config.model).double().train()
    for part in model.modules():
        if isinstance(part, Recorded):
            part.recording = recording
    model.segmentor.load_state_dict(recording.group('student.'))
    if model.teacher is not None:
        model.teacher.network.load_state_dict(recording.group('teacher.'))
    if 'contrast' in model.heads:
        head = model.heads['contrast']
        head.project.load_state_dict(recording.group('student_project.'))
        head.teacher_project.load_state_dict(recording.group('teacher_project.'))
        fill_queues(head.bank, recording['mem.before.features'], recording['mem.before.counts'])
    return model


def fill_queues(bank: Any, features: Tensor, counts: Tensor) -> None:
    """Put entries (K, S, C), the oldest first, into ``NegativeQueues``."""
    for k, count in enumerate(counts.tolist()):
        start = int(bank.starts[k])
        bank.features[start : start + count] = features[k, :count]
    bank.counts.copy_(counts)
    bank.heads.copy_(counts % bank.lengths)


def oldest_first(bank: Any, size: int) -> Tensor:
    """Entries (K, size, C) of ``NegativeQueues``, the oldest first, then zeros."""
    found = bank.features.new_zeros(bank.num_classes, size, bank.channels)
    for k, count in enumerate(bank.counts.tolist()):
        places = (int(bank.heads[k]) - count + torch.arange(count)) % int(bank.lengths[k])
        found[k, :count] = bank.features[int(bank.starts[k]) + places]
    return found


def recorded_batch(recording: Recording) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and samples of ``SemiSegmentor.loss``."""
    weak = recording['in.weak' if 'in.weak' in recording else 'in.unlabeled']
    strong = [recording[name] for name in ('in.s1', 'in.s2') if name in recording] or [weak]
    valid = torch.ones(len(weak), *weak.shape[-2:])
    if 'in.valid' in recording:
        valid = recording['in.valid']
    return batch_of(recording['in.labeled'], recording['in.truth'], weak, strong, valid)


def parameters_of(model: Any, names: Any) -> dict[str, nn.Parameter]:
    """Parameters by the names of the recording: ``seg.*``, ``project.*``, or the segmentor's."""
    found = dict(model.segmentor.named_parameters())
    if 'contrast' in model.heads:
        found = {f'seg.{name}': value for name, value in found.items()}
        for name, value in model.heads['contrast'].project.named_parameters():
            found[f'project.{name}'] = value
    return {name: found[name] for name in names}


def tensors_of(model: Any, teacher: bool) -> dict[str, Tensor]:
    """Parameters and buffers of student or teacher by the names of the recording."""
    network = model.teacher.network if teacher else model.segmentor
    if 'contrast' not in model.heads:
        return network.state_dict()
    head = model.heads['contrast']
    project = head.teacher_project if teacher else head.project
    found = {f'seg.{name}': value for name, value in network.state_dict().items()}
    return {**found, **{f'project.{name}': value for name, value in project.state_dict().items()}}


def run(recording: Recording, changes: Optional[Mapping[str, Any]] = None) -> Replayed:
    """Run the step: losses, gradients, update of the student, and what the hooks move."""
    torch.manual_seed(0)
    meta = recording.meta
    model = build(recording, changes or {})
    iteration = meta.get('iteration', 0)
    model.set_progress(iteration, meta.get('max_iters', 1), iters_per_epoch=1)
    runner = SimpleNamespace(model=model, iter=max(iteration, 1), hooks=[])
    hooks = [HOOKS.build(dict(cfg)) for cfg in needed_hooks(model)]
    for hook in hooks:
        hook.before_train(runner)
    steps: list[SemiStep] = []
    model.add_observer(steps.append)
    losses = model.loss(*recorded_batch(recording))
    total, _ = model.parse_losses(losses)
    total.backward()
    parameters = parameters_of(model, meta['parameters'])
    gradients = {
        name: torch.zeros_like(one) if one.grad is None else one.grad.clone()
        for name, one in parameters.items()
    }
    before = snapshot(model)
    low, high = meta.get('lr', (meta['optimizer']['lr'], meta['optimizer']['head_lr']))
    backbone = [one for name, one in parameters.items() if 'backbone.' in name]
    heads = [one for name, one in parameters.items() if 'backbone.' not in name]
    optimizer = torch.optim.SGD(
        [dict(params=backbone, lr=low), dict(params=heads, lr=high)],
        lr=low,
        momentum=meta['optimizer']['momentum'],
        weight_decay=meta['optimizer']['weight_decay'],
    )
    optimizer.step()
    for hook in hooks:
        hook.after_train_iter(runner, iteration)
    after = snapshot(model)
    changed = {name: value - before[name] for name, value in after.items()}
    return Replayed(model, steps[-1], losses, total.detach(), gradients, changed)


def snapshot(model: Any) -> dict[str, Tensor]:
    """Copies of all tensors of student and teacher, by ``student.NAME`` and ``teacher.NAME``."""
    kinds = ['student'] if model.teacher is None else ['student', 'teacher']
    return {
        f'{kind}.{name}': value.clone()
        for kind in kinds
        for name, value in tensors_of(model, kind == 'teacher').items()
    }


# ---------------------------------------------------------------------- comparing


def compare_step(recording: Recording, done: Replayed) -> Comparison:
    """Compare what all recordings of this form have: total, gradients, updates, statistics."""
    result = Comparison()
    result.add('loss', 'total', done.total, recording['out.total'])
    names = recording.meta['parameters']
    norms = dict(zip(names, recording['out.grad_norm']))
    result.add_gradients({name: one.norm() for name, one in done.gradients.items()}, norms)
    for name, value in recording.group('out.grad.').items():
        result.add('gradient', name, done.gradients[name], value)
    for kind in ('student', 'teacher'):
        if f'out.{kind}_change_norm' in recording:
            norm = torch.stack([done.changes[f'{kind}.{name}'].norm() for name in names])
            result.add('state', f'{kind} change', norm, recording[f'out.{kind}_change_norm'])
        for name, value in recording.group(f'out.{kind}_change.').items():
            full = name if f'{kind}.{name}' in done.changes else f'seg.{name}'
            result.add('state', f'{kind} change {name}', done.changes[f'{kind}.{full}'], value)
        for name, value in recording.group(f'out.{kind}_stat.').items():
            found = tensors_of(done.model, kind == 'teacher')[name]
            result.add('state', f'{kind} {name}', found, value)
    return result


def compare_mixed_selection(recording: Recording, done: Replayed, result: Comparison) -> None:
    """Compare what S4MC and U2PL share: labels of the weak pass, selection on the mixed images."""
    (view,) = done.step.streams['strong']
    result.add_equal('weak label', done.step.pseudo.label, recording['out.weak_label'].long())
    result.add_equal('mixed label', view.pseudo.label, recording['out.mixed_label'].long())
    result.add_equal('selected', view.pseudo.selected, recording['out.selected'].bool())
    result.add('state', 'selected', view.pseudo.used.sum(), recording['out.num_selected'])
    result.add('loss', 'supervised', done.losses['decode.loss_ce'], recording['out.loss_sup'])
    result.add('loss', 'unsupervised', done.losses['strong.loss'], recording['out.loss_unsup'])


def threshold_of(done: Replayed) -> Tensor:
    """The threshold that the step selected with, in float64."""
    return done.model.refiners['select']._mixed(done.step)[1]


def compare_s4mc(recording: Recording, done: Replayed) -> Comparison:
    """S4MC on CutMix-Seg."""
    result = compare_step(recording, done)
    compare_mixed_selection(recording, done, result)
    (view,) = done.step.streams['teacher_strong']
    margin = confidence_score(view.outputs.logits.softmax(1), 'margin')
    result.add('state', 'margin', margin, recording['out.raw_margin'])
    result.add('state', 'threshold', threshold_of(done), recording['out.threshold'])
    return result


def compare_s4mc_fixmatch(recording: Recording, done: Replayed) -> Comparison:
    """S4MC on FixMatch."""
    result = compare_step(recording, done)
    model = done.model
    labeled = done.losses['decode.loss_ce'] / model.supervised_weight
    result.add('loss', 'labeled', labeled, recording['out.loss_x'])
    result.add('state', 'threshold', threshold_of(done), recording['out.threshold'])
    for i, view in enumerate(done.step.streams['strong'], 1):
        loss = model.losses['strong'](view)
        result.add('loss', f'view {i}', loss, recording[f'out.loss_u_s{i}'])
        pseudo = view.pseudo
        result.add_equal(f'label {i}', pseudo.label, recording[f'out.s{i}.label'].long())
        confidence = recording[f'out.s{i}.confidence']
        result.add('state', f'confidence {i}', pseudo.confidence, confidence)
        selected = recording[f'out.s{i}.selected'].bool()
        same = (pseudo.selected == selected) | ~pseudo.valid
        result.add_equal(f'selected {i}', same, torch.ones_like(same))
    return result


def compare_u2pl(recording: Recording, done: Replayed) -> Comparison:
    """U2PL."""
    result = compare_step(recording, done)
    compare_mixed_selection(recording, done, result)
    head = done.model.heads['contrast']
    contrast = done.losses['contrast.loss'] / head.loss_weight
    result.add('loss', 'contrast', contrast, recording['out.loss_contrast'])
    # The program's entropies have 1e-10 in the logarithm.
    scale = math.log(head.num_classes)
    result.add('state', 'threshold', -threshold_of(done), recording['out.threshold'], scale)
    label = head.teacher_found.label[:, None]
    member = label == torch.arange(head.num_classes)[:, None, None]
    result.add_equal('members', member, recording['out.member'].bool())
    result.add_equal('anchors', head.anchors_found, recording['out.anchors'])
    keys = head.teacher_found.negative.sum((0, 2, 3))
    result.add_equal('new keys', keys, recording['out.new_keys'])
    result.add_equal('counts', head.bank.counts, recording['mem.after.counts'])
    features = recording['mem.after.features']
    result.add('state', 'queues', oldest_first(head.bank, features.shape[1]), features)
    return result


def replay(
    compare: Callable[[Recording, Replayed], Comparison],
    recording: Recording,
    changes: Mapping[str, Any],
) -> Outcome:
    """Run the step and compare everything that was recorded; nothing with entries changed."""
    done = run(recording, changes)
    comparison = Comparison() if changes else compare(recording, done)
    return Outcome(comparison, done.total, done.gradients)


REPLAYS: dict[str, Callable[..., Outcome]] = {
    name: partial(replay, compare)
    for name, compare in (
        ('s4mc', compare_s4mc),
        ('s4mc_fixmatch', compare_s4mc_fixmatch),
        ('u2pl', compare_u2pl),
    )
}
