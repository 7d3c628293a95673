"""FixMatch, UniMatch, CorrMatch and RankMatch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Callable, Optional

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.nn import functional as F

from mmseg_semi.functional import correlation_map, mix, soft_consistency
from mmseg_semi.models.heads import AgentRankHead, BaseSemiHead, CorrelationHead
from mmseg_semi.models.mixers import CutMix
from mmseg_semi.models.perturbations import BasePerturbation
from mmseg_semi.models.refiners import EMAThreshold, RegionPropagation
from mmseg_semi.models.refiners.region_propagation import BEFORE_PROPAGATION
from mmseg_semi.models.segmentors import SemiSegmentor
from mmseg_semi.structures import Mix, PseudoLabel, SemiStep
from tests.parity.comparison import Comparison, Outcome, Recording
from tests.parity.steps import batch_of, exact_segmentor, released, run_step, without_type


class RecordedCutMix(CutMix):
    """Takes the boxes and partners that were recorded."""

    def __init__(self, recording: Recording, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.recording = recording

    def plan(self, images: Tensor, step: SemiStep) -> Mix:
        """Give the plan of the view that these images are."""
        view = next(i for i, one in enumerate(step.strong_images) if one is images)
        return Mix(self.recording[f'in/box{view + 1}'], self.recording['in/partner'])


class RecordedDropout(BasePerturbation):
    """Keeps the channels that were kept, of some of the images."""

    def __init__(self, recording: Recording, images: slice) -> None:
        super().__init__()
        self.kept = [recording[f'drop/{name}'][images] for name in ('low', 'high')]

    def forward(self, maps: list[Tensor], views: int) -> list[Tensor]:
        """Double the kept channels and drop the others."""
        return [one * kept[..., None, None] * 2 for one, kept in zip(maps, self.kept)]


class RecordedChannels(nn.Module):
    """The dropout of CorrMatch's projection: labeled and weak images, then strong ones."""

    def __init__(self, recording: Recording, keep: float) -> None:
        super().__init__()
        self.kept = [recording[f'drop/project_{name}'] for name in ('first', 'strong')]
        self.keep = keep

    def forward(self, features: Tensor) -> Tensor:
        """Keep the channels of the next call; in eval mode all."""
        if not self.training:
            return features
        return features * self.kept.pop(0)[..., None, None] / self.keep


class RecordedCorrelationHead(CorrelationHead):
    """Drops the channels that were dropped."""

    def __init__(self, recording: Recording, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.recording = recording

    def attach(self, model: SemiSegmentor) -> None:
        """Replace the dropout."""
        super().attach(model)
        self.project[1] = RecordedChannels(self.recording, 1 - self.dropout)
        self.parts: dict[str, Tensor] = {}

    def forward(self, step: SemiStep) -> dict[str, Tensor]:
        """Keep the loss of each view besides."""
        found = super().forward(step)
        with torch.no_grad():
            weak = self._loss(step.weak, self._first_pass(step, 'weak'), step.pseudo)
        total = found['loss'].detach() / self.unlabeled_weight * 2
        self.parts = {'loss_u_corr_w': weak, 'loss_u_corr_s': total - weak}
        return found


class ThresholdOfMixedMap(EMAThreshold):
    """Follows the program's fault: the pixels that count are the valid ones of the mixed view."""

    def __init__(self, recording: Recording, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        box, partner = recording['in/box1'], recording['in/partner']
        self.mixed_valid = mix(recording['in/valid'], box, partner)

    def statistics(self, pseudo: PseudoLabel) -> Tensor:
        """See ``EMAThreshold``."""
        return super().statistics(pseudo.update(valid=self.mixed_valid))


class RecordedPropagation(RegionPropagation):
    """Samples the positions that were sampled."""

    def __init__(self, recording: Recording, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rows = recording['index/rows']

    def draw_positions(self, w1: Tensor) -> Tensor:
        """Give the same positions to all images."""
        return self.rows.expand(len(w1), -1)


class UnmixedTarget(BaseSemiHead):
    """CorrMatch's soft loss with the fault of its program: the target is not mixed."""

    def __init__(self, loss_weight: float) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, step: SemiStep) -> dict[str, Tensor]:
        """Compare each strong view with the weak images at the same places."""
        losses = [
            soft_consistency(
                view.outputs.logits,
                step.teacher.logits,
                view.pseudo.valid,
                view.pseudo.extras[BEFORE_PROPAGATION],
            )
            for view in step.streams['strong']
        ]
        return dict(loss=self.loss_weight * torch.stack(losses).mean())


class RecordedAgentRankHead(AgentRankHead):
    """Begins with the agents that were drawn first."""

    def __init__(self, recording: Recording, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        views = (1, 2)
        self.start = torch.cat([recording[f'index/start_view{view}'] for view in views])

    def draw_start(self, weak: Tensor) -> Tensor:
        """Give the first agents of all views."""
        return self.start

    def choose(self, weak: Tensor, valid: Optional[Tensor] = None) -> Tensor:
        """Keep the agents (views * B, N)."""
        self.agents = super().choose(weak, valid)
        return self.agents


def build(recording: Recording, preset: str, changes: Mapping[str, Any]) -> SemiSegmentor:
    """Build the model of the released preset on the recorded network and randomness."""
    cfg = Config.fromstring(recording.meta['product_config'], '.py').model
    method = released(preset, changes)
    labeled = recording.meta['batch'][0]
    for name, part in (
        ('labeled_perturbed', slice(None, labeled)),
        ('perturbed', slice(labeled, None)),
    ):
        if method.get('streams', {}).get(name):
            method.streams[name].perturbation = RecordedDropout(recording, part)
    select = method.refiners.select
    if not isinstance(recording.meta['threshold'], str):
        threshold = recording.meta['threshold']
        method.refiners.select = dict(type='ConfidenceThreshold', threshold=threshold)
    else:
        select.initial = float(recording['threshold/before'])
        method.refiners.select = ThresholdOfMixedMap(recording, **without_type(select))
    if 'regions' in method.refiners:
        regions = without_type(method.refiners.regions)
        regions.update(num_shapes=len(recording['index/rows']))
        method.refiners.regions = RecordedPropagation(recording, **regions)
        correlation = without_type(method.heads.correlation)
        correlation['hidden_channels'] = cfg.heads.correlation.hidden_channels
        method.heads.correlation = RecordedCorrelationHead(recording, **correlation)
        method.heads.soft = UnmixedTarget(method.losses.soft.loss_weight)
        method.losses.soft = None
    if 'rank' in method.get('heads', {}):
        rank = without_type(method.heads.rank)
        rank.setdefault('num_agents', recording['index/agents_view1'].shape[1])
        method.heads.rank = RecordedAgentRankHead(recording, **rank)
    method.mixer = RecordedCutMix(recording, **without_type(method.mixer))
    size = tuple(recording.meta['size'])
    preprocessor = dict(type='SemiDataPreprocessor', size=size)
    method.pop('type')
    network = exact_segmentor(cfg.segmentor)
    model = SemiSegmentor(network, data_preprocessor=preprocessor, **method).double()
    names = recording.meta['names']
    state = {names[k]: v for k, v in recording.group('init/').items() if names.get(k)}
    own = model.state_dict()
    missing = [name for name in own if name not in state and name.startswith('segmentor.')]
    missing = [name for name in missing if not name.endswith('num_batches_tracked')]
    if missing:
        raise ValueError(f'{recording.path.name} gives no value of {missing[:3]}')
    model.load_state_dict(state, strict=False)
    return model


def replay(recording: Recording, changes: Mapping[str, Any], preset: str) -> Outcome:
    """Run the step and compare everything that was recorded."""
    model = build(recording, preset, changes)
    strong = [recording[f'in/strong{i}'] for i in (1, 2) if f'in/strong{i}' in recording]
    inputs, samples = batch_of(
        recording['in/labeled'],
        recording['in/labeled_mask'],
        recording['in/weak'],
        strong,
        recording['in/valid'],
    )
    backbone_lr, rest_lr = recording['lr'].tolist()
    result = run_step(
        model,
        inputs,
        samples,
        lr=lambda name: backbone_lr if '.backbone.' in name else rest_lr,
        weight_decay=1e-4,
        max_iters=80000,
    )
    comparison = Comparison()
    compare_losses(comparison, recording, result.losses, model, result.step)
    comparison.add('loss', 'total', result.total, recording['loss/total'])
    names = {k: v for k, v in recording.meta['names'].items() if v}
    norms = dict(zip(recording.meta['param_names'], recording['grad_norm']))
    gradients = {k: result.gradients[v] for k, v in names.items() if v in result.gradients}
    comparison.add_gradients(
        {k: gradients[k].norm() for k in norms if k in names},
        {k: v for k, v in norms.items() if k in names},
    )
    scale = float(recording['grad_norm'].max())
    for name, value in recording.group('grad/').items():
        comparison.add('gradient', name, gradients[name], value, float(value.abs().max()) or scale)
    state = model.state_dict()
    for name, value in {**recording.group('param_after/'), **recording.group('after/')}.items():
        comparison.add('state', name, state[names[name]], value)
    compare_labels(comparison, recording, result.step)
    if 'regions' in model.refiners and model.refiners['regions'].after_mixing:
        compare_regions(comparison, recording, model, result.step)
    if isinstance(model.refiners['select'], EMAThreshold):
        threshold = model.refiners['select'].threshold_at(result.step)
        comparison.add('state', 'threshold', threshold, recording['threshold/after'])
    return Outcome(comparison, result.total, result.gradients)


def compare_losses(
    comparison: Comparison,
    recording: Recording,
    losses: Mapping[str, Tensor],
    model: Any,
    step: SemiStep,
) -> None:
    """Compare each loss, without its factor, with the mean of the recorded ones that it is of."""
    heads = dict(model.heads.items())
    factors = {
        'decode.loss_ce': (model.supervised_weight, ('loss_x',)),
        'strong.loss': (model.losses['strong'].loss_weight, ('loss_u_s', 'loss_u_s1', 'loss_u_s2')),
    }
    if 'perturbed' in model.losses:
        factors['perturbed.loss'] = (model.losses['perturbed'].loss_weight, ('loss_u_w_fp',))
    if 'correlation' in heads:
        head = heads['correlation']
        factors['correlation.labeled.loss_ce'] = (head.labeled_weight, ('loss_x_corr',))
        factors['correlation.loss'] = (head.unlabeled_weight, ('loss_u_corr',))
        factors['soft.loss'] = (heads['soft'].loss_weight, ('loss_u_kl',))
    if 'rank' in heads:
        factors['rank.loss'] = (heads['rank'].loss_weight, ('loss_c_s1', 'loss_c_s2'))
    recorded = recording.group('loss/')
    for name, (factor, theirs) in factors.items():
        values = [recorded[one] for one in theirs if one in recorded]
        comparison.add('loss', name, losses[name] / factor, sum(values) / len(values))
    with torch.no_grad():
        loss, views = model.losses['strong'], step.streams['strong']
        for view, theirs in zip(views, ('loss_u_s1', 'loss_u_s2')):
            if theirs in recorded:
                comparison.add('loss', theirs, loss(view), recorded[theirs])
    if 'correlation' in heads:
        for name, value in heads['correlation'].parts.items():
            comparison.add('loss', name, value, recorded[name])
    if 'rank' in heads:
        for i, agents in enumerate(heads['rank'].agents.chunk(2), 1):
            comparison.add_equal(
                f'agents_view{i}', agents.sort(1).values, recording[f'index/agents_view{i}']
            )


def compare_regions(
    comparison: Comparison, recording: Recording, model: Any, step: SemiStep
) -> None:
    """Compare CorrMatch's shapes, and the mixed labels and masks before regions are propagated."""
    (view,) = step.streams['strong']
    mix, pseudo = view.mix, step.pseudo
    partners = step.shared[model.mixer, 'partners'] if 'partners' in step.streams else pseudo
    plain = pseudo.update(prob=None, logits=None).combine(partners, mix)
    comparison.add_equal(
        'label before regions', plain.label, recording['out/label_mixed1_before_regions'].long()
    )
    comparison.add_equal(
        'selected before regions', plain.used, recording['out/selected_mixed1_before_regions']
    )
    shapes = step.shared[model.refiners['regions'], 'shapes']
    recorded = np.unpackbits(recording['out/shapes'].numpy(), axis=-1)[..., : shapes.shape[-1]]
    # Pixels in the very middle of a map's range fall to either side by the last bit.
    maps = model.heads['correlation'].maps_of(step.teacher, step)
    rows = correlation_map(*maps)[:, recording['index/rows']].unflatten(2, maps[0].shape[-2:])
    rows = F.interpolate(rows, shapes.shape[-2:], mode='bilinear', align_corners=True)
    low, high = rows.amin((2, 3), keepdim=True), rows.amax((2, 3), keepdim=True)
    in_the_middle = ((rows - low) / (high - low) - 0.5).abs() < 1e-12
    comparison.add_equal(
        'shapes', shapes | in_the_middle, torch.from_numpy(recorded).bool() | in_the_middle
    )


def compare_labels(comparison: Comparison, recording: Recording, step: SemiStep) -> None:
    """Compare labels, confidences, masks and the threshold."""
    comparison.add_equal('label_weak', step.raw_pseudo.label, recording['out/label_weak'].long())
    comparison.add(
        'state', 'confidence_weak', step.raw_pseudo.confidence, recording['out/confidence_weak']
    )
    if 'partners' in step.streams:
        prob = step.streams['partners'][0].outputs.logits.softmax(1)[recording['in/partner']]
        confidence, label = prob.max(1)
        comparison.add_equal('label_partner', label, recording['out/label_partner'].long())
        comparison.add(
            'state', 'confidence_partner', confidence, recording['out/confidence_partner']
        )
    for i, view in enumerate(step.streams['strong'], 1):
        pseudo = view.pseudo
        for name, ours in (
            ('label', pseudo.label),
            ('valid', pseudo.valid),
            ('selected', pseudo.used),
        ):
            comparison.add_equal(f'{name}_mixed{i}', ours, recording[f'out/{name}_mixed{i}'])


REPLAYS: dict[str, Callable[..., Outcome]] = {
    name: partial(replay, preset=preset)
    for name, preset in (
        ('fixmatch', 'fixmatch'),
        ('unimatch', 'unimatch'),
        ('unimatch_cityscapes', 'unimatch'),
        ('corrmatch', 'corrmatch'),
        ('rankmatch', 'rankmatch'),
    )
}
