"""CorrMatch's correlation head."""

from __future__ import annotations

import logging
from typing import Any, Optional

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.logging import print_log
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_semi.arguments import check_choice, check_feature, check_number, check_whole
from mmseg_semi.functional import propagate_pixels, weighted_cross_entropy
from mmseg_semi.functional.losses import DENOMINATORS
from mmseg_semi.models.component import feature_channels, last_head
from mmseg_semi.structures import PseudoLabel, SegOutputs, SemiStep

from .base_semi_head import BaseSemiHead

SCALES = ('inside', 'outside')
# More positions than this make a step very slow: the cost grows with their square.
_MANY_POSITIONS = 12000
LABELED_LOSSES = ('decode_head', 'cross_entropy')
Maps = tuple[Tensor, Tensor]


@MODELS.register_module()
class CorrelationHead(BaseSemiHead):
    r"""Learns which positions belong together, and trains with logits propagated along that.

    CorrMatch (Sun et al., CVPR 2024). Features go through a 3x3 convolution with BatchNorm, ReLU
    and dropout, then through two 1x1 convolutions to :math:`w_1, w_2`; the student's detached
    logits z are propagated by :math:`C = softmax_{rows}(w_1^T w_2 / \sqrt{D})`, resized to the
    image and trained: on labeled images with the truth (:math:`L_s^c`), on unlabeled ones with
    the pseudo-label within the selected pixels (:math:`L_u^c`, the mean of the weak view and the
    strong views). It exists in training only.

    Labeled and weak images go through it together, as through the network, and so do the strong
    views.

    Args:
        position: Feature that correlates: ``'encoder'`` (the backbone's last map), ``'aspp'``,
            ``'fusion'`` (the decoder's output, which the classifier takes), ``'classifier'`` (the
            classifier's output), or the path of a module of the segmentor. A stride of 8 is
            usual; the cost grows with the square of the number of positions.
        in_channels: Channels of that feature; found by itself unless it is a path.
        hidden_channels: Channels after the 3x3 convolution.
        channels: D. Defaults to the number of classes.
        dropout: Probability of dropping a channel, in [0, 1).
        norm_cfg: Normalisation. Defaults to the decode head's, or BatchNorm.
        scale: Where :math:`\sqrt{D}` divides: ``'inside'`` the softmax, as the paper's results
            were made, or ``'outside'``, as it prints.
        labeled_loss: ``'decode_head'`` trains labeled images with the decode head's own criterion
            (its losses, weights and pixel sampler, such as OHEM), ``'cross_entropy'`` with the
            plain mean over labeled pixels.
        labeled_weight: Factor of the labeled loss.
        unlabeled_weight: Factor of the unlabeled loss; 0 leaves it out.
        denominator: As in ``PseudoLabelCrossEntropy``.

    Raises:
        ValueError: An argument outside its values; when the model is built, a feature that the
            segmentor does not have.
    """

    needs_weak = True

    def __init__(
        self,
        position: str = 'encoder',
        in_channels: Optional[int] = None,
        hidden_channels: int = 256,
        channels: Optional[int] = None,
        dropout: float = 0.1,
        norm_cfg: Optional[dict[str, Any]] = None,
        scale: str = 'inside',
        labeled_loss: str = 'decode_head',
        labeled_weight: float = 0.25,
        unlabeled_weight: float = 0.125,
        denominator: str = 'valid',
    ) -> None:
        super().__init__()
        check_feature('CorrelationHead.position', position)
        check_choice('CorrelationHead.scale', scale, SCALES)
        check_choice('CorrelationHead.labeled_loss', labeled_loss, LABELED_LOSSES)
        check_choice('CorrelationHead.denominator', denominator, DENOMINATORS)
        check_number('CorrelationHead.dropout', dropout, 0)
        if dropout >= 1:
            raise ValueError(f'CorrelationHead.dropout must be in [0, 1), got {dropout}')
        check_number('CorrelationHead.labeled_weight', labeled_weight, 0)
        check_number('CorrelationHead.unlabeled_weight', unlabeled_weight, 0)
        check_whole('CorrelationHead.hidden_channels', hidden_channels, 1)
        for name, value in (('in_channels', in_channels), ('channels', channels)):
            if value is not None:
                check_whole(f'CorrelationHead.{name}', value, 1)
        _check_norm(norm_cfg)
        self.position = self.tap = position
        self.taps = (position,)
        self._warned = False
        self.in_channels, self.hidden_channels, self.channels = (
            in_channels,
            hidden_channels,
            channels,
        )
        self.dropout, self.norm_cfg, self.scale = dropout, norm_cfg, scale
        self.labeled_loss, self.denominator = labeled_loss, denominator
        self.labeled_weight, self.unlabeled_weight = labeled_weight, unlabeled_weight
        self._decode_head: tuple[nn.Module, ...] = ()

    # -------------------------------------------------------------------------------- layers

    def attach(self, model: nn.Module) -> None:
        """Build the layers, whose sizes follow the segmentor."""
        head = last_head(model.segmentor)
        self._decode_head = (head,)  # in a tuple, so that it is not a submodule twice
        channels = self.channels or head.out_channels
        norm_cfg = self.norm_cfg or head.norm_cfg or dict(type='BN')
        self.project = nn.Sequential(
            ConvModule(
                self.in_channels or self._find_channels(head),
                self.hidden_channels,
                3,
                padding=1,
                norm_cfg=dict(norm_cfg),
            ),
            nn.Dropout2d(self.dropout),
        )
        self.w1 = nn.Conv2d(self.hidden_channels, channels, 1)
        self.w2 = nn.Conv2d(self.hidden_channels, channels, 1)

    def _find_channels(self, head: nn.Module) -> int:
        channels = feature_channels(head, self.position)
        if channels is None:
            raise ValueError(
                f"CorrelationHead.position is the module path '{self.position}': give its number "
                'of channels too (in_channels=...)'
            )
        return channels

    def _maps(self, features: Tensor) -> Maps:
        if features.shape[1] != self.project[0].conv.in_channels:
            raise ValueError(
                f"{self.config_key} (CorrelationHead): the feature '{self.position}' has "
                f'{features.shape[1]} channels, not {self.project[0].conv.in_channels}: set '
                f'in_channels={features.shape[1]}'
            )
        self._warn_of_size(*features.shape[-2:])
        hidden = self.project(features)
        w1, w2 = self.w1(hidden), self.w2(hidden)
        if self.scale == 'outside':
            w1 = w1 * w1.shape[1] ** 0.5
        return w1, w2

    def _warn_of_size(self, height: int, width: int) -> None:
        if height * width > _MANY_POSITIONS and not self._warned:
            self._warned = True
            print_log(
                f"{self.config_key}: the feature '{self.position}' has {height}x{width} = "
                f'{height * width} positions, and the cost of a step grows with their square. '
                'Correlate a coarser feature (position; a stride of 8 is usual) or train on '
                'smaller crops.',
                logger='current',
                level=logging.WARNING,
            )

    # ---------------------------------------------------------------------------------- step

    def _first_pass(self, step: SemiStep) -> tuple[Maps, Optional[Maps]]:
        """Maps of the labeled and of the weak images, computed once in a step."""
        if self not in step.shared:
            outputs = [step.labeled] + ([step.weak] if step.weak is not None else [])
            features = [one.features[self.tap] for one in outputs]
            with torch.enable_grad():  # a refiner may be the first to ask
                w1, w2 = self._maps(torch.cat(features))
            sizes = [len(one) for one in features]
            pairs = list(zip(w1.split(sizes), w2.split(sizes)))
            step.shared[self] = (pairs[0], pairs[1] if len(pairs) > 1 else None)
        return step.shared[self]

    def weak_maps(self, step: SemiStep) -> Maps:
        """Return w1 and w2 (B, D, h, w) of the weak images, without gradient."""
        w1, w2 = self._first_pass(step)[1]
        return w1.detach(), w2.detach()

    def _propagated(self, outputs: SegOutputs, maps: Maps, size: Optional[tuple] = None) -> Tensor:
        """Propagate the outputs' logits; resized to ``size`` when it is given."""
        corners = outputs.align_corners
        logits = outputs.stages[-1].detach().float()
        grid = tuple(maps[0].shape[-2:])
        if tuple(logits.shape[-2:]) != grid:
            logits = F.interpolate(logits, size=grid, mode='bilinear', align_corners=corners)
        z = propagate_pixels(logits, *maps)
        if self.scale == 'outside':
            z = z * maps[0].shape[1] ** -0.5
        if size is not None and tuple(size) != grid:
            z = F.interpolate(z, size=tuple(size), mode='bilinear', align_corners=corners)
        return z

    def supervised(self, step: SemiStep) -> dict[str, Tensor]:
        """Return the loss of the propagated logits on labeled images."""
        maps = self._first_pass(step)[0]
        if self.labeled_loss == 'decode_head':
            z = self._propagated(step.labeled, maps)
            values = self._decode_head[0].loss_by_feat(z, step.labeled_samples)
        else:
            truth = torch.cat([sample.gt_sem_seg.data for sample in step.labeled_samples])
            truth = truth.to(maps[0].device)
            z = self._propagated(step.labeled, maps, truth.shape[-2:])
            values = dict(loss_ce=weighted_cross_entropy(z, truth, torch.ones_like(truth).bool()))
        return {
            f'labeled.{name}': value * self.labeled_weight if 'loss' in name else value
            for name, value in values.items()
        }

    def forward(self, step: SemiStep) -> dict[str, Tensor]:
        """Return the loss of the propagated logits on unlabeled images."""
        if not self.unlabeled_weight:
            return {}
        weak = self._loss(step.weak, self._first_pass(step)[1], step.pseudo)
        if not step.views:
            return dict(loss=self.unlabeled_weight * weak)
        w1, w2 = self._maps(torch.cat([view.outputs.features[self.tap] for view in step.views]))
        number = len(step.views)
        strong = [
            self._loss(view.outputs, maps, view.pseudo)
            for view, maps in zip(step.views, zip(w1.chunk(number), w2.chunk(number)))
        ]
        return dict(loss=self.unlabeled_weight * (weak + torch.stack(strong).mean()) / 2)

    def _loss(self, outputs: SegOutputs, maps: Maps, pseudo: PseudoLabel) -> Tensor:
        return weighted_cross_entropy(
            self._propagated(outputs, maps, outputs.size),
            pseudo.label,
            pseudo.valid,
            pseudo.selected,
            pseudo.weight,
            self.denominator,
        )


def _check_norm(norm_cfg: Optional[dict[str, Any]]) -> None:
    if norm_cfg is None:
        return
    known = isinstance(norm_cfg, dict) and MODELS.get(str(norm_cfg.get('type'))) is not None
    if not known:
        raise ValueError(
            'CorrelationHead.norm_cfg must be None or the config of a normalisation, such as '
            f"dict(type='BN') or dict(type='SyncBN'), got {norm_cfg!r}"
        )
