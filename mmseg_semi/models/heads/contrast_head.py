"""U2PL's contrast with what a class is unlikely to be."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Optional

import torch
from mmcv.cnn import ConvModule
from mmengine.dist import all_gather, all_reduce, get_world_size
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_semi.arguments import (
    check_arguments,
    check_choice,
    check_feature,
    check_number,
    check_whole,
)
from mmseg_semi.functional import (
    confidence_score,
    mix_features,
    pack_scores,
    quantile_threshold,
    to_grid,
)
from mmseg_semi.functional.contrast import (
    class_ranks,
    class_sums,
    contrast_loss,
    draw_per_class,
    gather_pixels,
    labeled_negatives,
    unlabeled_negatives,
)
from mmseg_semi.models.component import feature_channels, last_head
from mmseg_semi.models.memories import ClassPrototypes, NegativeQueues
from mmseg_semi.structures import SemiStep

from .base_semi_head import BaseSemiHead


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

    Labels and the teacher's logits come to the features' resolution by the nearest pixel. The
    unlabeled pixels are those of the strong views, which the student sees; the teacher's logits
    and representations of the weak images are mixed as the view is, where the paper's teacher sees
    the mixed image; pixels that were pasted from outside of the unlabeled batch do not count.
    Probabilities, ranks and entropies are of the teacher's logits, so a refiner
    changes only which class a pixel has. The queues are those that the iterations before left, so
    the first one has none. On labeled images the teacher makes one more pass.

    Args:
        tap: The features: ``'penultimate'``, the input of the classifier, or another one, or the
            path of a module of the segmentor.
        in_channels: Channels of the features; found for the named ones.
        hidden_channels: Channels of the 3x3 convolutions (with norm and ReLU) of the projection.
        num_convs: How many of them there are before the 1x1 convolution.
        channels: Channels of the representation.
        norm_cfg: Normalisation. Defaults to the decode head's, or BatchNorm.
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
        queues: ``dict(size=30000, first_size=50000, num_push=256)``, arguments of
            ``NegativeQueues``.
        loss_weight: lambda_c.

    Raises:
        ValueError, TypeError: An argument outside its values, or one that does not exist; when
            the model is built, ranks that leave no negative, or a model without EMA teacher.
    """

    pseudo_fields = ('logits',)
    required_hooks = ('MeanTeacherHook', 'MemoryBankHook')

    def __init__(
        self,
        tap: str = 'penultimate',
        in_channels: Optional[int] = None,
        hidden_channels: int = 256,
        num_convs: int = 2,
        channels: int = 256,
        norm_cfg: Optional[dict[str, Any]] = None,
        min_prob: float = 0.3,
        alpha: float = 0.2,
        decay: bool = True,
        low_rank: Optional[int] = None,
        high_rank: Optional[int] = None,
        num_queries: int = 256,
        num_negatives: int = 50,
        temperature: float = 0.5,
        prototype_momentum: Optional[float] = None,
        queues: Optional[dict[str, Any]] = None,
        loss_weight: float = 0.1,
    ) -> None:
        super().__init__()
        check_feature('ContrastHead.tap', tap)
        whole = dict(
            in_channels=in_channels,
            hidden_channels=hidden_channels,
            channels=channels,
            low_rank=low_rank,
            high_rank=high_rank,
            num_queries=num_queries,
            num_negatives=num_negatives,
        )
        for name, value in whole.items():
            if value is not None or name not in ('in_channels', 'low_rank', 'high_rank'):
                check_whole(f'ContrastHead.{name}', value, 1)
        check_whole('ContrastHead.num_convs', num_convs, 0)
        check_number('ContrastHead.min_prob', min_prob, 0, 1)
        check_number('ContrastHead.alpha', alpha, 0, 0.5)
        check_choice('ContrastHead.decay', decay, (True, False))
        check_number('ContrastHead.temperature', temperature, 0)
        if temperature == 0:
            raise ValueError('ContrastHead.temperature must be above 0, got 0')
        if prototype_momentum is not None:
            check_number('ContrastHead.prototype_momentum', prototype_momentum, 0, 1)
        check_number('ContrastHead.loss_weight', loss_weight, 0)
        if norm_cfg is not None and not (isinstance(norm_cfg, dict) and 'type' in norm_cfg):
            raise ValueError(
                'ContrastHead.norm_cfg must be None or the config of a normalisation, such as '
                f"dict(type='BN'), got {norm_cfg!r}"
            )
        self.tap, self.taps, self.in_channels = tap, (tap,), in_channels
        self.hidden_channels, self.num_convs, self.channels = hidden_channels, num_convs, channels
        self.norm_cfg = norm_cfg
        self.min_prob, self.alpha, self.decay = min_prob, alpha, decay
        self.low_rank, self.high_rank = low_rank, high_rank
        self.num_queries, self.num_negatives = num_queries, num_negatives
        self.temperature, self.prototype_momentum = temperature, prototype_momentum
        self.loss_weight = loss_weight
        self._queues_cfg = dict(queues or {})
        key = 'ContrastHead.queues'
        check_arguments(NegativeQueues, self._queues_cfg, key, complete=False)
        if {'num_classes', 'channels'} & set(self._queues_cfg):
            raise ValueError(f'{key}: num_classes and channels follow from the segmentor')
        self._values: dict[str, Tensor] = {}

    # -------------------------------------------------------------------------------- layers

    def attach(self, model: nn.Module) -> None:
        """Build projection and queues, whose sizes follow the segmentor."""
        if model.teacher is None:
            raise ValueError(
                'ContrastHead takes positives and negatives from an EMA teacher and the model has '
                "none: set model.teacher=dict(type='ema') and add MeanTeacherHook to custom_hooks"
            )
        self._model = (model,)  # in a tuple, so that it is not a submodule
        head = last_head(model.segmentor)
        self.num_classes = head.out_channels
        self.low_rank, self.high_rank = rank_bounds(self.num_classes, self.low_rank, self.high_rank)
        width = self.in_channels or feature_channels(head, self.tap)
        if width is None:
            raise ValueError(
                f"ContrastHead.tap is the module path '{self.tap}': give its number of channels "
                'too (in_channels=...)'
            )
        self.in_channels = width
        norm_cfg = dict(self.norm_cfg or head.norm_cfg or dict(type='BN'))
        layers: list[nn.Module] = []
        for _ in range(self.num_convs):
            layers.append(ConvModule(width, self.hidden_channels, 3, padding=1, norm_cfg=norm_cfg))
            width = self.hidden_channels
        self.project = nn.Sequential(*layers, nn.Conv2d(width, self.channels, 1))
        self.teacher_project = copy.deepcopy(self.project).requires_grad_(False).eval()
        try:
            self.queues = NegativeQueues(self.num_classes, self.channels, **self._queues_cfg)
        except ValueError as error:
            raise ValueError(f'ContrastHead.queues: {error}') from error
        self.prototypes = (
            None
            if self.prototype_momentum is None
            else ClassPrototypes(self.num_classes, self.channels, self.prototype_momentum)
        )

    def teacher_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Return the projection's EMA and the projection."""
        return [(self.teacher_project, self.project)]

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
        features = self._checked(step.labeled.features[self.tap].detach())
        return dict(loss=0 * self.project(features).float().mean())

    def forward(self, step: SemiStep) -> dict[str, Tensor]:
        """Return ``dict(loss=...)`` and note what enters the queues."""
        if not step.views:
            raise ValueError(
                'ContrastHead takes anchors from strong views, but the batch has none: set '
                'StrongViews(num_views=...) to at least 1 in the unlabeled pipeline'
            )
        features = [step.labeled.features[self.tap]]
        features += [view.outputs.features[self.tap] for view in step.views]
        student = self.project(self._checked(torch.cat(features))).float()
        parts = [self.labeled_pixels(step), self.unlabeled_pixels(step)]
        names = ('features', 'prob', 'label', 'negative')
        teacher = TeacherPixels(*(torch.cat([getattr(p, n) for p in parts]) for n in names))
        index, present = draw_per_class(
            self.anchor_label(teacher).flatten(), self.num_classes, self.num_queries
        )
        negatives, filled = self.queues.draw(self.num_queries, self.num_negatives)
        loss = contrast_loss(
            gather_pixels(student, index),
            self.positives(teacher),
            negatives,
            present & filled,
            self.temperature,
        )
        self.queues.note(teacher.features, teacher.negative)
        self._values = dict(
            classes=(present & filled).sum().float(),
            queued=(self.queues.counts / self.queues.lengths).mean(),
        )
        return dict(loss=self.loss_weight * loss)

    def _checked(self, features: Tensor) -> Tensor:
        if features.shape[1] != self.in_channels:
            raise ValueError(
                f"{self.config_key} (ContrastHead): the features '{self.tap}' have "
                f'{features.shape[1]} channels, not {self.in_channels}: set '
                f'in_channels={features.shape[1]}'
            )
        return features

    @torch.no_grad()
    def labeled_pixels(self, step: SemiStep) -> TeacherPixels:
        """Let the teacher see the labeled images."""
        teacher = self._model[0].ask_teacher(step.labeled_images)
        features = self.teacher_project(teacher.features[self.tap]).float()
        grid = tuple(features.shape[-2:])
        logits = to_grid(teacher.logits, grid)
        truth = torch.stack([sample.gt_sem_seg.data[0] for sample in step.labeled_samples])
        truth = to_grid(truth.to(logits.device), grid)
        known = (truth >= 0) & (truth < self.num_classes)
        label = torch.where(known, truth, self.num_classes)
        negative = labeled_negatives(class_ranks(logits), label, self.low_rank)
        return TeacherPixels(features, logits.softmax(dim=1), label, negative)

    @torch.no_grad()
    def unlabeled_pixels(self, step: SemiStep) -> TeacherPixels:
        """Collect what the teacher said about the pixels of the strong views."""
        weak = self.teacher_project(step.teacher.features[self.tap]).float()
        grid, corners = tuple(weak.shape[-2:]), step.teacher.align_corners
        features = torch.cat(
            [
                weak
                if view.mix is None
                else mix_features(weak, view.mix.mask, view.mix.partners, corners)
                for view in step.views
            ]
        )
        pseudo = [view.pseudo for view in step.views]
        logits = to_grid(torch.cat([one.logits for one in pseudo]), grid)
        prob = logits.softmax(dim=1)
        label = to_grid(torch.cat([one.label for one in pseudo]), grid)
        valid = to_grid(torch.cat([view.own_valid for view in step.views]), grid)
        entropy = -confidence_score(prob, 'entropy')
        low, high = self.entropy_thresholds(entropy, valid, self.alpha_at(step))
        negative = unlabeled_negatives(
            class_ranks(logits), valid & (entropy >= high), self.low_rank, self.high_rank
        )
        sure = valid & (entropy <= low)
        return TeacherPixels(features, prob, torch.where(sure, label, self.num_classes), negative)

    def alpha_at(self, step: SemiStep) -> float:
        """Return the share of the pixels that have low (and high) entropy in this step."""
        if not self.decay:
            return self.alpha
        if step.max_iters < 1:
            raise RuntimeError(
                'ContrastHead.decay needs to know the length of the run: train with '
                "train_cfg=dict(type='SemiTrainLoop', ...), or set decay=False"
            )
        return self.alpha * max(0.0, 1 - step.iteration / step.max_iters)

    @torch.no_grad()
    def entropy_thresholds(
        self, entropy: Tensor, valid: Tensor, alpha: float
    ) -> tuple[Tensor, Tensor]:
        """Return the alpha- and the (1 - alpha)-quantile of the valid entropies of all ranks."""
        if get_world_size() > 1:
            size = torch.tensor(entropy.numel(), device=entropy.device)
            all_reduce(size, op='max')
            entropy = torch.cat(all_gather(pack_scores(entropy, valid, int(size))))
            valid = ~entropy.isnan()
        low, high = (quantile_threshold(entropy, valid, share) for share in (alpha, 1 - alpha))
        return low, high

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

    def log_values(self) -> dict[str, Tensor]:
        """Give the number of trained classes and the share of the queues that is filled."""
        return self._values

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return (
            f'tap={self.tap!r}, min_prob={self.min_prob}, alpha={self.alpha}, '
            f'ranks={self.low_rank}..{self.high_rank}, num_queries={self.num_queries}, '
            f'num_negatives={self.num_negatives}, temperature={self.temperature}, '
            f'loss_weight={self.loss_weight}'
        )


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
