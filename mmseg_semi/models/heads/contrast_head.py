"""U2PL's contrast with what a class is unlikely to be."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Optional

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.dist import all_reduce
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_semi.arguments import Feature, Number, OneOf, Whole
from mmseg_semi.functional import at_least_float32, confidence_score, to_grid
from mmseg_semi.functional.contrast import (
    class_ranks,
    class_sums,
    contrast_loss,
    draw_per_class,
    gather_pixels,
    labeled_negatives,
    unlabeled_negatives,
)
from mmseg_semi.models.component import NormCfg, last_head
from mmseg_semi.models.memories import ClassPrototypes, NegativeQueues, check_memory
from mmseg_semi.models.ranks import GlobalQuantiles
from mmseg_semi.structures import STEPS, SegOutputs, SemiStep

from .base_semi_head import BaseSemiHead

if TYPE_CHECKING:
    from mmseg_semi.models.segmentors import SemiSegmentor

DIVISORS = ('trained', 'present')


@dataclass
class TeacherPixels:
    """What the teacher says about a batch of images, at the features' resolution.

    Attributes:
        features: Representations (B, C, h, w).
        prob: Class probabilities (B, K, h, w).
        label: int64 (B, h, w), the class of labeled and of sure unlabeled pixels; K elsewhere.
        negative: Bool (B, K, h, w), which classes a pixel is a negative of.
    """

    features: Tensor
    prob: Tensor
    label: Tensor
    negative: Tensor


@MODELS.register_module()
class ContrastHead(BaseSemiHead):
    r"""Learns representations that keep a class apart from pixels that are hardly of it.

    U2PL's :math:`L_c` (Wang et al., CVPR 2022, Eq. 7-13). A projection of the features before the
    classifier is trained; its EMA, ``teacher_project``, which ``MeanTeacherHook`` moves, gives the
    representations of positives and negatives, without gradient. For each class c:

    - *anchors* are drawn from the student's representations of pixels of c, labeled or of low
      entropy, where the teacher gives c a probability above ``min_prob``;
    - the *positive* is the mean teacher representation of the pixels of c that are labeled or of
      low entropy, over the batch of all ranks;
    - the *negatives* are drawn from a queue of teacher representations: unlabeled pixels of high
      entropy where c has rank ``low_rank`` .. ``high_rank - 1`` among the sorted probabilities
      (from 0), and labeled pixels of other classes where its rank is below ``low_rank``.

    Entropies are low up to the :math:`\alpha_t`-quantile of the valid unlabeled pixels of all
    ranks and high from the :math:`(1 - \alpha_t)`-quantile, :math:`\alpha_t = \alpha_0 (1 - t/T)`.
    The loss is the mean over the classes that have anchors and a queue that is not empty. Padding
    and ignored pixels do not count.

    Entropies are compared at full size; labels, masks and the teacher's logits come to the
    features' resolution by the nearest pixel. The unlabeled pixels are those of the strong views,
    which the student sees; the teacher's logits and representations of the weak images are mixed
    as the view is, and on labeled images the teacher makes one more pass. With ``teacher_stream``
    the teacher sees the mixed images together with the labeled ones instead, as in the authors'
    program. Pixels that were pasted from outside of the unlabeled batch do not count.
    Probabilities, ranks and entropies are of the teacher's logits, so a refiner changes only which
    class a pixel has.

    Args:
        tap: The features: ``'penultimate'``, the input of the classifier; ``'fusion'``, what
            DeepLabV3+ decodes (the authors' program); another one, or the path of a module of the
            segmentor.
        in_channels: Channels of the features; found for the named ones.
        hidden_channels: Channels of the 3x3 convolutions (with norm and ReLU) of the projection.
        num_convs: How many of them there are before the 1x1 convolution.
        channels: Channels of the representation.
        norm_cfg: Normalization. Defaults to the decode head's, or BatchNorm.
        dropout2d: Probability with which each channel is dropped after each of these convolutions,
            in [0, 1).
        min_prob: Probability above which a pixel can be an anchor, in [0, 1].
        alpha: :math:`\alpha_0`, in [0, 0.5].
        decay: Whether alpha falls linearly to 0 over the run; needs ``SemiTrainLoop``.
        low_rank: See above. Defaults to K / 7, rounded, but at least 1 and at most 3: 3 for VOC
            and Cityscapes, as in the paper, and fewer where 3 would leave no negatives.
        high_rank: Defaults to 20, or K when that is less.
        num_queries: Anchors of a class, drawn with replacement.
        num_negatives: Negatives of an anchor, drawn with replacement.
        temperature: tau, above 0.
        prototype_momentum: None takes the positives of the batch; a number in [0, 1] an EMA of
            them over the iterations.
        bank: ``dict(size=30000, first_size=50000, num_push=256, push='after')``, arguments of
            ``NegativeQueues``; with ``'after'`` the first iteration has no negatives.
        loss_weight: lambda_c.
        stream: Name of the stream of strong views.
        decay_by: ``'iteration'``, or ``'epoch'`` for an alpha that stays within an epoch.
        divisor: What the sum over the classes is divided by: ``'trained'``, the number of classes
            that have anchors and negatives; ``'present'``, of those with a labeled or low-entropy
            pixel (the authors' program).
        teacher_stream: Name of the teacher's stream of strong images in ``model.streams``, such as
            ``teacher_strong=dict(images='strong', network='teacher', mode='train',
            group='teacher')``, beside one of labeled images of the same group.

    Raises:
        ValueError, TypeError: An argument outside its values, or one that does not exist; when
            the model is built, ranks that leave no negative, or a model without EMA teacher.
    """

    moved = dict(queues='bank')
    hooks = (dict(type='MemoryBankHook'),)

    def __init__(
        self,
        tap: Annotated[str, Feature()] = 'penultimate',
        in_channels: Annotated[Optional[int], Whole(1)] = None,
        hidden_channels: Annotated[int, Whole(1)] = 256,
        num_convs: Annotated[int, Whole(0)] = 2,
        channels: Annotated[int, Whole(1)] = 256,
        norm_cfg: Annotated[Optional[dict[str, Any]], NormCfg()] = None,
        min_prob: Annotated[float, Number(0, 1)] = 0.3,
        alpha: Annotated[float, Number(0, 0.5)] = 0.2,
        decay: bool = True,
        low_rank: Annotated[Optional[int], Whole(1)] = None,
        high_rank: Annotated[Optional[int], Whole(1)] = None,
        num_queries: Annotated[int, Whole(1)] = 256,
        num_negatives: Annotated[int, Whole(1)] = 50,
        temperature: Annotated[float, Number(0, above=True)] = 0.5,
        prototype_momentum: Annotated[Optional[float], Number(0, 1)] = None,
        bank: Optional[dict[str, Any]] = None,
        loss_weight: Annotated[float, Number(0)] = 0.1,
        stream: str = 'strong',
        decay_by: Annotated[str, OneOf(*STEPS)] = 'iteration',
        divisor: Annotated[str, OneOf(*DIVISORS)] = 'trained',
        teacher_stream: Optional[str] = None,
        dropout2d: Annotated[float, Number(0, 1, below=True)] = 0,
    ) -> None:
        super().__init__()
        self.tap, self.taps, self.in_channels = tap, (tap,), in_channels
        self.hidden_channels, self.num_convs, self.channels = hidden_channels, num_convs, channels
        self.norm_cfg, self.dropout2d = norm_cfg, dropout2d
        self.min_prob, self.alpha, self.decay = min_prob, alpha, decay
        self.low_rank: Any = low_rank
        self.high_rank: Any = high_rank
        self.num_queries, self.num_negatives = num_queries, num_negatives
        self.temperature, self.prototype_momentum = temperature, prototype_momentum
        self.loss_weight, self.stream = loss_weight, stream
        self.decay_by, self.divisor, self.teacher_stream = decay_by, divisor, teacher_stream
        self.pseudo_fields = () if teacher_stream else ('logits',)
        self._quantiles = GlobalQuantiles()
        self._bank_cfg = check_memory('ContrastHead.bank', NegativeQueues, bank)

    # -------------------------------------------------------------------------------- layers

    def attach(self, model: SemiSegmentor) -> None:
        """Build projection and queues, whose sizes follow the segmentor."""
        if model.teacher is None:
            raise ValueError(
                'ContrastHead takes positives and negatives from an EMA teacher and the model has '
                "none: set model.teacher=dict(type='EMATeacher')"
            )
        self._model = (model,)  # in a tuple, so that it is not a submodule
        self._find_streams(model)
        head = last_head(model.segmentor)
        self.num_classes = head.out_channels
        self.low_rank, self.high_rank = rank_bounds(self.num_classes, self.low_rank, self.high_rank)
        width = self.in_channels = self.tapped_channels(head, self.tap, self.in_channels)
        norm_cfg = dict(self.norm_cfg or head.norm_cfg or dict(type='BN'))
        layers: list[nn.Module] = []
        for _ in range(self.num_convs):
            layers.append(ConvModule(width, self.hidden_channels, 3, padding=1, norm_cfg=norm_cfg))
            if self.dropout2d:
                layers.append(nn.Dropout2d(self.dropout2d))
            width = self.hidden_channels
        self.project = nn.Sequential(*layers, nn.Conv2d(width, self.channels, 1))
        self.teacher_project = copy.deepcopy(self.project)
        model.teacher.follow(self.teacher_project, self.project)
        self.bank = NegativeQueues(self.num_classes, self.channels, **self._bank_cfg)
        self.prototypes = (
            None
            if self.prototype_momentum is None
            else ClassPrototypes(self.num_classes, self.channels, self.prototype_momentum)
        )

    def _find_streams(self, model: SemiSegmentor) -> None:
        """Find the teacher's streams of labeled and strong images, which share a pass."""
        if self.teacher_stream is None:
            return
        stream = model.streams.get(self.teacher_stream)
        if stream is None or (stream.network, stream.images) != ('teacher', 'strong'):
            raise ValueError(
                f"ContrastHead.teacher_stream is '{self.teacher_stream}', and model.streams has no "
                "such stream of strong images with network='teacher': add it, or set it to None"
            )
        several = [one for one in model.streams.values() if one.group == stream.group]
        labeled = [one.name for one in several if one.images == 'labeled']
        if not labeled:
            raise ValueError(
                f"ContrastHead.teacher_stream: the pass '{stream.group}' of stream '{stream.name}' "
                'has no labeled images: add model.streams=dict(teacher_labeled=dict('
                f"images='labeled', network='teacher', mode={stream.mode!r}, "
                f'group={stream.group!r}))'
            )
        self._labeled_stream, self._mode = labeled[0], stream.mode

    def train(self, mode: bool = True) -> ContrastHead:
        """Set the mode; the teacher's projection stays in eval mode."""
        super().train(mode)
        if hasattr(self, 'teacher_project'):
            self.teacher_project.eval()
        return self

    # ---------------------------------------------------------------------------------- step

    def supervised(self, step: SemiStep) -> dict[str, Tensor]:
        """Return a loss of 0 in the warm-up, so that the projection has a gradient and statistics.

        After it :meth:`forward` projects labeled and unlabeled features together.
        """
        if step.iteration >= self._model[0].warmup_length:
            return {}
        features = self._tapped([step.labeled]).detach()
        return dict(loss=0 * at_least_float32(self.project(features)).mean())

    def forward(self, step: SemiStep) -> dict[str, Tensor]:
        """Return ``dict(loss=...)`` and note what enters the queues."""
        views = step.streams[self.stream]
        features = self._tapped([step.labeled, *(view.outputs for view in views)])
        student = at_least_float32(self.project(features))
        parts = self.teacher_pixels(step)
        names = ('features', 'prob', 'label', 'negative')
        teacher = TeacherPixels(*(torch.cat([getattr(p, n) for p in parts]) for n in names))
        index, present = self.draw_anchors(self.anchor_label(teacher).flatten())
        if self.bank.push_moment == 'before':
            self.bank.note(teacher.features, teacher.negative)
        places = self.draw_negatives(self.bank.counts_now)
        negatives, filled = self.bank.draw(self.num_queries, self.num_negatives, places)
        divisor = None
        if self.divisor == 'present':
            classes = torch.arange(self.num_classes + 1, device=teacher.label.device)
            divisor = torch.isin(classes[:-1], teacher.label).sum()
        loss = contrast_loss(
            gather_pixels(student, index),
            self.positives(teacher),
            negatives,
            present & filled,
            self.temperature,
            divisor,
        )
        if self.bank.push_moment == 'after':
            self.bank.note(teacher.features, teacher.negative)
        step.log(f'{self.name}.classes', (present & filled).sum())
        step.log(f'{self.name}.queued', (self.bank.counts / self.bank.lengths).mean())
        return dict(loss=self.loss_weight * loss)

    def _tapped(self, outputs: list[SegOutputs]) -> Tensor:
        return torch.cat([one.features[self.tap] for one in outputs])

    def draw_anchors(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """Draw anchors among pixels (P,): see ``functional.contrast.draw_per_class``."""
        return draw_per_class(label, self.num_classes, self.num_queries)

    def draw_negatives(self, counts: Tensor) -> Optional[Tensor]:
        """Choose entries int64 (K, Q, N) of queues that hold ``counts`` (K,): None for random."""
        return None

    @torch.no_grad()
    def teacher_pixels(self, step: SemiStep) -> list[TeacherPixels]:
        """Collect what the teacher says about the labeled images and about the strong views."""
        views = step.streams[self.stream]
        if self.teacher_stream is None:
            labeled = self._model[0].teacher.label(step.labeled_images)
            features = self._represent(labeled)
            weak, corners = self._represent(step.teacher), step.teacher.align_corners
            mixed = torch.cat([view.mix_features(weak, corners) for view in views])
            logits = torch.cat([view.pseudo.logits for view in views])
            grid = tuple(features.shape[-2:])
            return [
                self.labeled_pixels(step, features, to_grid(labeled.logits, grid)),
                self.unlabeled_pixels(step, mixed, to_grid(logits, grid), logits),
            ]
        outputs = [step.streams[self._labeled_stream][0].outputs]
        outputs += [view.outputs for view in step.streams[self.teacher_stream]]
        sizes = [len(outputs[0]), sum(map(len, outputs[1:]))]
        with self._model[0].teacher.in_mode(self._mode, self.teacher_project):
            features, mixed = self._represent(*outputs).split(sizes)
        grid = tuple(features.shape[-2:])
        known, unknown = torch.cat([_at_grid(one, grid) for one in outputs]).split(sizes)
        return [
            self.labeled_pixels(step, features, known),
            self.unlabeled_pixels(
                step, mixed, unknown, torch.cat([one.logits for one in outputs[1:]])
            ),
        ]

    def _represent(self, *outputs: SegOutputs) -> Tensor:
        """Teacher representations (B, C, h, w) of all outputs together."""
        return at_least_float32(self.teacher_project(self._tapped(list(outputs))))

    def labeled_pixels(self, step: SemiStep, features: Tensor, logits: Tensor) -> TeacherPixels:
        """Collect what is known about the labeled pixels.

        Args:
            step: The training step.
            features: Teacher representations (Bl, C, h, w).
            logits: Teacher logits (Bl, K, h, w).
        """
        truth = to_grid(step.labeled_truth, features.shape[-2:])
        known = (truth >= 0) & (truth < self.num_classes)
        label = torch.where(known, truth, self.num_classes)
        negative = labeled_negatives(class_ranks(logits), label, self.low_rank)
        return TeacherPixels(features, logits.softmax(dim=1), label, negative)

    def unlabeled_pixels(
        self, step: SemiStep, features: Tensor, logits: Tensor, full: Tensor
    ) -> TeacherPixels:
        """Collect what the teacher said about the pixels of the strong views.

        Args:
            step: The training step.
            features: Teacher representations (V Bu, C, h, w), view after view.
            logits: Teacher logits (V Bu, K, h, w).
            full: Teacher logits (V Bu, K, H, W), whose entropies are compared.
        """
        grid, views = tuple(features.shape[-2:]), step.streams[self.stream]
        valid = torch.cat([view.own_valid for view in views])
        entropy = -confidence_score(full.softmax(dim=1), 'entropy')
        alpha = self.alpha_at(step)
        low, high = self._quantiles(entropy, valid, [alpha, 1 - alpha])
        sure = to_grid(valid & (entropy <= low), grid)
        unsure = to_grid(valid & (entropy >= high), grid)
        label = to_grid(torch.cat([view.pseudo.label for view in views]), grid)
        negative = unlabeled_negatives(class_ranks(logits), unsure, self.low_rank, self.high_rank)
        label = torch.where(sure, label, self.num_classes)
        return TeacherPixels(features, logits.softmax(dim=1), label, negative)

    def alpha_at(self, step: SemiStep) -> float:
        """Return the share of the pixels that have low (and high) entropy in this step."""
        return self.alpha * (
            step.remaining('ContrastHead.decay', self.decay_by) if self.decay else 1
        )

    @torch.no_grad()
    def anchor_label(self, teacher: TeacherPixels) -> Tensor:
        """Return the class (B, h, w) that each pixel can be an anchor of; K for none."""
        own = teacher.label.clamp(max=self.num_classes - 1)[:, None]
        likely = teacher.prob.gather(1, own)[:, 0] > self.min_prob
        return torch.where(likely, teacher.label, self.num_classes)

    @torch.no_grad()
    def positives(self, teacher: TeacherPixels) -> Tensor:
        """Return the positive (K, C) of each class; 0 where there is none."""
        sums, counts = class_sums(teacher.features, teacher.label, self.num_classes)
        packed = torch.cat([sums, counts[:, None]], dim=1)
        all_reduce(packed)
        sums, counts = packed[:, :-1], packed[:, -1]
        means = sums / counts.clamp(min=1)[:, None]
        return means if self.prototypes is None else self.prototypes.note(means, counts > 0)

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return (
            f'tap={self.tap!r}, min_prob={self.min_prob}, alpha={self.alpha}, '
            f'ranks={self.low_rank}..{self.high_rank}, num_queries={self.num_queries}, '
            f'num_negatives={self.num_negatives}, temperature={self.temperature}, '
            f'loss_weight={self.loss_weight}, divisor={self.divisor!r}, '
            f'teacher_stream={self.teacher_stream!r}'
        )


def _at_grid(outputs: SegOutputs, grid: tuple[int, ...]) -> Tensor:
    """Logits of the last stage at the features' resolution."""
    raw = at_least_float32(outputs.stages[-1])
    if tuple(raw.shape[-2:]) == grid:
        return raw
    return F.interpolate(raw, grid, mode='bilinear', align_corners=outputs.align_corners)


def rank_bounds(num_classes: int, low: Optional[int], high: Optional[int]) -> tuple[int, int]:
    """Fill in the ranks of unlikely classes.

    Raises:
        ValueError: With these ranks no pixel would be a negative.
    """
    default = min(3, max(1, round(num_classes / 7)))
    low = default if low is None else low
    high = min(num_classes, 20) if high is None else high
    if low >= num_classes:
        raise ValueError(
            f'ContrastHead.low_rank={low} leaves no negatives among {num_classes} classes, whose '
            f'ranks are 0..{num_classes - 1}: set it below {num_classes}, or to None for {default}'
        )
    if high <= low:
        raise ValueError(
            f'ContrastHead.high_rank={high} leaves no negatives: it must be above low_rank={low}, '
            'or None'
        )
    return low, high
