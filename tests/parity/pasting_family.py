"""Weighting Pseudo-Labels, AEL and AugSeg."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable, Optional

import torch
from torch import Tensor

from mmseg_semi.functional import instance_confidence
from mmseg_semi.models.losses import PseudoLabelCrossEntropy
from mmseg_semi.models.memories import FeatureMemoryBank
from mmseg_semi.models.memories.feature_memory_bank import SOURCES
from mmseg_semi.models.mixers import AdaptiveCutMix, ClassAwareCutMix, CopyPaste, CutMix
from mmseg_semi.models.mixers.adaptive_cutmix import LabeledBoxes
from mmseg_semi.models.mixers.class_aware_cutmix import ClassPlan
from mmseg_semi.models.perturbations import BasePerturbation
from mmseg_semi.models.refiners import RankStatisticsWeight
from mmseg_semi.models.segmentors import SemiSegmentor
from mmseg_semi.models.segmentors.streams import Stream
from mmseg_semi.models.teachers import EMATeacher
from mmseg_semi.structures import Mix, Partners, PseudoLabel, SegOutputs, SemiStep, View
from tests.parity.comparison import Comparison, Outcome, Recording
from tests.parity.steps import (
    StepResult,
    batch_of,
    exact_segmentor,
    released,
    run_step,
    without_type,
)

Changes = Mapping[str, Any]


# ------------------------------------------------------------------------------ any recording
def take_weights(model: SemiSegmentor, recording: Recording) -> dict[str, Tensor]:
    """Load the recorded weights and statistics; return a copy of the whole state."""
    model.double()
    model.segmentor.load_state_dict(recording.group('student.'))
    if model.teacher is not None:
        model.teacher.network.load_state_dict(recording.group('teacher.'))
    return {name: value.clone() for name, value in model.state_dict().items()}


def take_step(
    model: SemiSegmentor, recording: Recording, weak: Tensor, strong: list[Tensor], **more: Any
) -> StepResult:
    """Run a step, with the update of the student and of all that follows it.

    Args:
        model: With the recorded weights.
        recording: What was recorded; gives the labeled images and the optimizer.
        weak: Weak images (B, 3, H, W).
        strong: Their strong views.
        **more: ``valid`` bool (B, H, W), ``maps``, and ``places`` of the unlabeled images.
    """
    meta = recording.meta
    valid = more.get('valid', torch.ones_like(weak[:, 0], dtype=torch.bool))
    labeled, truth = recording['in.labeled'], recording['in.truth']
    inputs, samples = batch_of(labeled, truth, weak, strong, valid)
    inputs['maps'] = more.get('maps', {})
    for sample, place in zip(samples['unlabeled'], more.get('places', ())):
        sample.set_metainfo(dict(sample_index=place))
    given = meta['optimizer']
    rates = meta.get('lr', [given['lr'], given['head_lr']])
    result = run_step(
        *(model, inputs, samples),
        lr=lambda name: rates[0] if '.backbone.' in name else rates[1],
        weight_decay=given['weight_decay'],
        iteration=meta.get('iteration', 0),
        max_iters=meta.get('max_iters', 1),
    )
    if model.teacher is not None:
        model.teacher.update_state()
        model.teacher.momentum, model.teacher.warm_up = meta['teacher_momentum'], False
        model.teacher.move(0)
    return result


def outcome(
    comparison: Comparison,
    recording: Recording,
    model: SemiSegmentor,
    before: Mapping[str, Tensor],
    result: StepResult,
) -> Outcome:
    """Compare the total, the gradients and both networks after the update."""
    names, after = recording.meta['parameters'], model.state_dict()
    comparison.add('loss', 'total', result.total, recording['out.total'])
    zero = torch.zeros(())
    grads = {name: result.gradients.get(f'segmentor.{name}', zero) for name in names}
    norms = dict(zip(names, recording['out.grad_norm']))
    comparison.add_gradients({name: grads[name].norm() for name in names}, norms)
    for name, value in recording.group('out.grad.').items():
        comparison.add('gradient', name, grads[name], value)
    for who, prefix in (('student', 'segmentor.'), ('teacher', 'teacher.')):
        for name, value in recording.group(f'out.{who}_stat.').items():
            comparison.add('state', f'{who} {name}', after[prefix + name], value)
        if f'out.{who}_change_norm' not in recording:
            continue
        changes = {name: after[prefix + name] - before[prefix + name] for name in names}
        wanted = recording[f'out.{who}_change_norm']
        for name, value in zip(names, wanted):
            comparison.add('state', f'{who} {name}', changes[name].norm(), value, wanted.max())
        for name, value in recording.group(f'out.{who}_change.').items():
            comparison.add('state', f'{who} {name}', changes[name], value)
    return Outcome(comparison, result.total, result.gradients)


# ------------------------------------------------------------------------------------- AugSeg
class RecordedAdaptiveCutMix(AdaptiveCutMix):
    """AdaptiveCutMix whose boxes, coins and permutation are recorded."""

    def __init__(self, recording: Recording, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.recording = recording

    def labeled_boxes(self, confidence: Tensor, step: SemiStep) -> LabeledBoxes:
        """Give the boxes of the images whose coin is above the confidence."""
        size = tuple(step.weak_images.shape[-2:])
        box = boxes_of(self.recording['rand.labeled_box'], size)
        pasted = self.recording['rand.coin'] > confidence
        return LabeledBoxes(box & pasted[:, None, None], self.recording['rand.permutation'])

    def plan(self, images: Tensor) -> Mix:
        """Give the second boxes and the permutation."""
        box = boxes_of(self.recording['rand.unlabeled_box'], tuple(images.shape[-2:]))
        return Mix(box, self.recording['rand.permutation'])


def boxes_of(edges: Tensor, size: tuple[int, int]) -> Tensor:
    """Bool (B, H, W) of (first row, first column, last row, last column), each (B,)."""
    top, left, bottom, right = edges[..., None]
    rows, columns = torch.arange(size[0]), torch.arange(size[1])
    inside = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return inside[0][:, :, None] & inside[1][:, None]


def replay_augseg(recording: Recording, changes: Changes) -> Outcome:
    """Run AugSeg's step and compare."""
    own = {'refiners.select.threshold': max(recording.meta['threshold'], 0)}
    method = without_type(released('augseg', {**own, **changes}))
    method['mixer'] = RecordedAdaptiveCutMix(recording, **without_type(method['mixer']))
    model = SemiSegmentor(exact_segmentor(recording.meta['config']['segmentor']), **method)
    before = take_weights(model, recording)
    result = take_step(model, recording, recording['in.weak'], [recording['in.strong']])
    losses, comparison = result.losses, Comparison()
    comparison.add('loss', 'supervised', losses['decode.loss_ce'], recording['out.loss_sup'])
    comparison.add('loss', 'strong', losses['strong.loss'], recording['out.loss_unsup'])
    raw, (view,) = result.step.raw_pseudo, result.step.streams['strong']
    rho = instance_confidence(raw.prob, raw.valid)
    comparison.add('state', 'rho', rho, recording['out.rho'])
    comparison.add_equal('weak label', raw.label, recording['out.weak_label'].long())
    comparison.add('state', 'mixed', view.image.sum(), recording['out.mixed_image_sum'])
    pasted = view.pseudo
    known = pasted.valid  # unknown pixels that are pasted are padding here, and 255 there
    comparison.add_equal(
        'mixed label',
        torch.where(known, pasted.label, 255),
        torch.where(known, recording['out.mixed_label'].long(), 255),
    )
    comparison.add_equal('selected', pasted.used, recording['out.selected'] & known)
    return outcome(comparison, recording, model, before, result)


# ---------------------------------------------------------------------------------- Weighting
class RecordedSegmentor(SemiSegmentor):
    """SemiSegmentor whose stream ``partners`` shows other images than the batch."""

    partner_images: Tensor

    def open_views(self, step: SemiStep, stream: Stream) -> list[View]:
        """Open that stream with the recorded images."""
        if stream.name == 'partners' and stream.name not in step.streams:
            step.streams[stream.name] = [View(self.partner_images)]
        return super().open_views(step, stream)


class RecordedPartnerCutMix(CutMix):
    """CutMix with recorded boxes, whose partners are other images than the batch."""

    def __init__(self, recording: Recording, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.recording = recording

    def forward(self, images: Tensor, pseudo: PseudoLabel, step: SemiStep) -> View:
        """Mix with partner i in image i."""
        number = next(i for i, one in enumerate(step.strong_images) if one is images)
        outputs = step.streams[self.stream][0].outputs
        others = PseudoLabel.from_logits(outputs.logits, self.recording['in.partner_valid'])
        others.extras['detections'] = packed(self.recording['in.partner_detections'])
        others = self._model[0].refine(others, outputs, step)
        box = self.recording['in.box'][number].bool()
        plan = Mix(box, torch.arange(len(images)), outputs=outputs)
        partners = self.recording[f'in.partner_s{number + 1}']
        return View(plan(images, partners), pseudo.combine(others, plan), plan)


class RecordedFeatureDropout(BasePerturbation):
    """Keeps the channels that were kept, of some of the images."""

    def __init__(self, recording: Recording, images: slice) -> None:
        super().__init__()
        self.recording, self.images = recording, images

    def forward(self, maps: list[Tensor], views: int) -> list[Tensor]:
        """Double the kept channels and drop the others."""
        kept = [self.recording[f'rand.drop.{i}'][self.images] for i in range(len(maps))]
        return [one * mask[..., None, None] * 2 for one, mask in zip(maps, kept)]


class RecordedBank(FeatureMemoryBank):
    """FeatureMemoryBank that draws what was recorded."""

    def take(self, recording: Recording) -> None:
        """Take over memories and draws."""
        most = recording.meta['push_per_class_and_source']
        self.numbers = iter([most['labeled'], *2 * [most['each_strong_view']]])
        counts = recording['rand.sample_counts'].tolist()
        self.draws = iter(recording['rand.sample'].split(counts))
        for queue, name in enumerate(SOURCES[: len(self.counts)]):
            features = recording[f'mem.before.{name}.features']
            self.counts[queue] = recording[f'mem.before.{name}.counts']
            self.heads[queue] = self.counts[queue] % self.size
            for k, count in enumerate(self.counts[queue].tolist()):
                self.features[queue, k, :count] = features[k, :count].flip(0)  # the oldest first

    def draw(self, label: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Give the recorded places of classes that have more, all places of the others."""
        number = next(self.numbers)
        index = torch.zeros(self.num_classes, number, dtype=torch.int64)
        present = torch.zeros(self.num_classes, number, dtype=torch.bool)
        for k in range(self.num_classes):
            places = (label.flatten() == k).nonzero()[:, 0]
            if len(places) > number:
                drawn = next(self.draws, places[:number] * 0)
                # With an entry changed there may be fewer places than when these were drawn.
                places = places[drawn[:number] % len(places)]
            index[k, : len(places)] = places.flip(0)  # the program puts them in front
            present[k, : len(places)] = True
        return index, present

    def content(self, queue: int) -> Tensor:
        """Features (K, size, C) of a queue, the newest first, 0 where there are none."""
        back = torch.arange(1, self.size + 1)
        slots = (self.heads[queue][:, None] - back) % self.size
        found = self.features[queue][torch.arange(self.num_classes)[:, None], slots]
        return torch.where((back <= self.counts[queue][:, None])[..., None], found, 0)


class RecordedRankStatisticsWeight(RankStatisticsWeight):
    """RankStatisticsWeight with a recorded bank."""

    bank_type = RecordedBank


def packed(boxes: Tensor) -> Tensor:
    """Sets of classes as bits, uint8 (B, ceil(K/8), H, W), of 0 and 1 (B, K, H, W)."""
    sets = torch.zeros(len(boxes), -(-boxes.shape[1] // 8), *boxes.shape[2:], dtype=torch.uint8)
    for k in range(boxes.shape[1]):
        sets[:, k // 8] |= boxes[:, k].to(torch.uint8) << (k % 8)
    return sets


def replay_weighting(recording: Recording, changes: Changes) -> Outcome:
    """Run the step of Weighting Pseudo-Labels and compare."""
    meta = recording.meta
    own = {
        'refiners.select.threshold': meta['conf_thresh'],
        'refiners.agreement.min_confidence': meta['conf_thresh'],
        'refiners.weight.k': meta['k'],
        'refiners.weight.bank.size': meta['memory'],
        'refiners.weight.bank.min_confidence': meta['conf_thresh'],
    }
    method = without_type(released('weighting', {**own, **changes}))
    method['mixer'] = RecordedPartnerCutMix(recording, **without_type(method['mixer']))
    refiner = RecordedRankStatisticsWeight(**without_type(method['refiners']['weight']))
    method['refiners']['weight'] = refiner
    number = meta['labeled']
    for name, images in (
        ('labeled_perturbed', slice(None, number)),
        ('perturbed', slice(number, None)),
    ):
        if method['streams'].get(name):
            method['streams'][name]['perturbation'] = RecordedFeatureDropout(recording, images)
    model = RecordedSegmentor(exact_segmentor(recording.meta['config']['segmentor']), **method)
    before = take_weights(model, recording)
    model.partner_images = recording['in.partner_weak']
    refiner.bank.take(recording)
    result = take_step(
        *(model, recording, recording['in.weak'], [recording['in.s1'], recording['in.s2']]),
        valid=recording['in.valid'],
        maps=dict(detections=packed(recording['in.detections'])),
    )
    refiner.bank.update_state()
    comparison = Comparison()
    compare_weighting(comparison, recording, model, result)
    return outcome(comparison, recording, model, before, result)


def compare_weighting(
    comparison: Comparison, recording: Recording, model: SemiSegmentor, result: StepResult
) -> None:
    """Compare losses, labels, weights and memories."""
    step, bank = result.step, model.refiners['weight'].bank
    factors = {name: loss.loss_weight for name, loss in model.losses.items()}
    strong = (recording['out.loss_u_s1'] + recording['out.loss_u_s2']) / 2
    for name, factor, wanted in (
        ('decode.loss_ce', model.supervised_weight, recording['out.loss_x']),
        ('strong.loss', factors['strong'], strong),
        ('perturbed.loss', factors['perturbed'], recording['out.loss_u_w_fp']),
    ):
        comparison.add('loss', name, result.losses[name] / factor, wanted)
    views = dict(zip(('s1', 's2', 'weak'), [*step.streams['strong'], *step.streams['perturbed']]))
    for name, view in views.items():
        pseudo, prefix = view.pseudo, f'out.{name}.'
        comparison.add_equal(f'{name} label', pseudo.label, recording[f'{prefix}label'].long())
        selected = recording[f'{prefix}selected'].bool()
        comparison.add_equal(f'{name} selected', pseudo.used, selected & pseudo.valid)
        total = torch.where(pseudo.valid, pseudo.weight, 0).sum()
        comparison.add('state', f'{name} weights', total, recording[f'{prefix}sum_weights_valid'])
        if name != 'weak':
            reliable = recording[f'out.reliable_{name}'].bool()
            comparison.add_equal(f'{name} reliable', pseudo.reliable, reliable)
    for queue, name in enumerate(SOURCES[: len(bank.counts)]):
        counts = recording[f'mem.after.{name}.counts']
        comparison.add_equal(f'{name} counts', bank.counts[queue], counts)
        features = recording[f'mem.after.{name}.features']
        comparison.add('state', f'{name} features', bank.content(queue), features)


# ---------------------------------------------------------------------------------------- AEL
class RecordedCopyPaste(CopyPaste):
    """CopyPaste with recorded classes and images."""

    def __init__(self, recording: Recording, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.recording = recording

    def drawn(self, batch: int) -> Tensor:
        """Give the same classes to all images."""
        return self.recording['rand.paste_classes_drawn'].expand(batch, -1)

    def sources(self, images: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Give the recorded images."""
        return self.recording['in.paste_source'], self.recording['in.paste_truth']


class RecordedClassAwareCutMix(ClassAwareCutMix):
    """ClassAwareCutMix with a recorded class, partner and box."""

    def __init__(self, recording: Recording, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.recording = recording

    def load(self, step: SemiStep) -> Optional[Partners]:
        """Give the recorded image of the pool to the one image of the batch."""
        pool, place = self.recording['in.pool'], self.recording['rand.bank_image']
        one = pool[place - (len(self.bank) - len(pool))][None]
        yes = torch.ones(1, 1, dtype=torch.bool)
        source = torch.ones(1, 1, dtype=torch.int64)
        drawn = self.recording['rand.bank_class'].view(1, 1)
        step.once(self, lambda: ClassPlan(classes=drawn, mixed=yes, sources=source, found=~yes))
        return Partners(one, [one], torch.ones_like(one[:, 0], dtype=torch.bool), place.view(1))

    def boxes(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Give the recorded box."""
        return self.recording['rand.inside'].bool()[None], torch.ones(1, dtype=torch.bool)


class RecordedEqualizedCrossEntropy(PseudoLabelCrossEntropy):
    """PseudoLabelCrossEntropy with recorded draws of its equalization."""

    def __init__(self, maps: Tensor, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.maps = maps

    def draw(self, classes: int, size: tuple[int, ...], device: torch.device) -> Tensor:
        """Give the recorded maps."""
        return self.maps


@torch.no_grad()
def run_auxiliary(network: Any, outputs: SegOutputs) -> None:
    """Show the auxiliary head what was encoded; in the program it sees all, and in vain."""
    if network.with_auxiliary_head:
        network.auxiliary_head(outputs.maps)


class WholeTeacher(EMATeacher):
    """EMATeacher whose auxiliary head sees the images, too."""

    def label(self, images: Tensor) -> SegOutputs:
        """Label, and move the statistics of the auxiliary head."""
        with self.in_mode(self.mode) as network:
            outputs = self._model[0].run(images, network)
            run_auxiliary(network, outputs)
        return outputs


def replay_ael(recording: Recording, changes: Changes) -> Outcome:
    """Run AEL's step and compare."""
    meta = recording.meta
    own: dict[str, Any] = {'refiners.select.threshold': max(meta['threshold'] or 0, 0)}
    own.update({f'losses.{name}.gamma': float(meta['gamma']) for name in ('labeled', 'strong')})
    own.update({f'mixer.{name}': meta['area_thresh'] for name in ('min_component', 'min_share')})
    method = without_type(released('ael', {**own, **changes}))
    paste = dict(without_type(method['labeled_mixer']), prob=1.0)
    method['labeled_mixer'] = RecordedCopyPaste(recording, **paste)
    method['mixer'] = RecordedClassAwareCutMix(recording, **without_type(method['mixer']))
    draws = dict(zip(('labeled', 'strong'), recording['rand.equalize'].chunk(2)))
    losses = {name: cfg for name, cfg in method['losses'].items() if cfg is not None}
    method['losses'] = {
        name: RecordedEqualizedCrossEntropy(draws[name], **without_type(cfg))
        for name, cfg in losses.items()
    }
    method['teacher'] = WholeTeacher(**without_type(method['teacher']))
    model = SemiSegmentor(exact_segmentor(recording.meta['config']['segmentor']), **method)
    before = take_weights(model, recording)
    head, mixer = model.heads['class_confidence'], model.mixer
    head.values = recording['mem.before.class_confidence'][0].float()  # as in the program
    mixer.bank = recording['mem.before.bank'].T.to(torch.uint8)
    model.add_observer(
        lambda step: run_auxiliary(model.segmentor, step.streams['strong'][0].outputs)
    )
    place = 0 if recording['rand.coin'] > 0.5 else 1
    weak = recording['in.unlabeled'][place][None]
    result = take_step(model, recording, weak, [weak], places=[place])
    head.update_state()
    mixer.update_state()
    comparison = Comparison()
    compare_ael(comparison, recording, model, result)
    return outcome(comparison, recording, model, before, result)


def compare_ael(
    comparison: Comparison, recording: Recording, model: SemiSegmentor, result: StepResult
) -> None:
    """Compare losses, labels, the class confidences and the bank."""
    losses, step = result.losses, result.step
    main = losses['decode.loss_ce']
    comparison.add('loss', 'supervised', main, recording['out.loss_sup_main'])
    both = main + losses.get('aux.loss_ce', 0)
    comparison.add('loss', 'with auxiliary head', both, recording['out.loss_sup'])
    for name, loss in (('labeled', 'labeled'), ('mixed', 'strong')):
        if loss not in model.losses:
            continue
        wanted = recording[f'out.loss_consistency_{name}']
        comparison.add('loss', name, losses[f'{loss}.loss'], wanted)
        (view,) = step.streams[loss]
        pseudo, prefix = view.pseudo, f'out.{name}.'
        confidence = recording[f'{prefix}teacher_confidence']
        comparison.add('state', f'{name} confidence', pseudo.confidence, confidence)
        label = torch.where(pseudo.selected, pseudo.label, 255)
        comparison.add_equal(f'{name} label', label, recording[f'{prefix}label'].long())
        predicted = view.outputs.logits.argmax(1)
        wanted = recording[f'{prefix}student_class'].long()
        comparison.add_equal(f'{name} class', predicted, wanted)
    truth = recording['out.pasted_truth'].long()
    comparison.add_equal('pasted truth', step.labeled_truth, truth)
    images = step.labeled_images.sum()
    comparison.add('state', 'pasted', images, recording['out.pasted_image_sum'])
    values = model.heads['class_confidence'].values
    after = recording['mem.after.class_confidence'][0]
    comparison.add('state', 'class confidence', values, after)
    comparison.add_equal('bank', model.mixer.bank.T.double(), recording['mem.after.bank'])


REPLAYS: dict[str, Callable[[Recording, Changes], Outcome]] = dict(
    weighting=replay_weighting, ael=replay_ael, augseg=replay_augseg
)
