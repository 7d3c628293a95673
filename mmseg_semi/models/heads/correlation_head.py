"""CorrMatch's correlation head."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Any, Optional

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.logging import print_log
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_semi.arguments import Feature, Number, OneOf, Whole
from mmseg_semi.functional import at_least_float32, propagate_pixels, weighted_cross_entropy
from mmseg_semi.functional.losses import DENOMINATORS
from mmseg_semi.models.component import NormCfg, last_head
from mmseg_semi.structures import PseudoLabel, SegOutputs, SemiStep

from .base_semi_head import BaseSemiHead

if TYPE_CHECKING:
    from mmseg_semi.models.segmentors import SemiSegmentor

SCALES = ('inside', 'outside')
LOGITS = ('decoder', 'image')
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
        tap: Feature that correlates: ``'encoder'`` (the backbone's last map), ``'aspp'``,
            ``'penultimate'`` (the decoder's output, which the classifier takes),
            ``'classifier'`` (its output), or the path of a module of the segmentor. A stride of 8
            is usual; the cost grows with the square of the number of positions.
        in_channels: Channels of that feature; found by itself unless it is a path.
        hidden_channels: Channels after the 3x3 convolution.
        channels: D. Defaults to the number of classes.
        dropout: Probability of dropping a channel, in [0, 1).
        norm_cfg: Normalization. Defaults to the decode head's, or BatchNorm.
        scale: Where :math:`\sqrt{D}` divides: ``'inside'`` the softmax, as the paper's results
            were made, or ``'outside'``, as it prints.
        logits_from: What is propagated: the logits of the ``'decoder'`` as they are, or those
            resized to the ``'image'`` (the authors' program); the same where the crop's side less
            1 is a multiple of the stride, as in the papers' crops.
        labeled_loss: ``'decode_head'`` trains labeled images with the decode head's own criterion
            (its losses, weights and pixel sampler, such as OHEM), ``'cross_entropy'`` with the
            plain mean over labeled pixels.
        labeled_weight: Factor of the labeled loss.
        unlabeled_weight: Factor of the unlabeled loss; 0 leaves it out.
        denominator: As in ``PseudoLabelCrossEntropy``.
        stream: Name of the stream of strong views.

    Raises:
        ValueError: An argument outside its values; when the model is built, a feature that the
            segmentor does not have.
    """

    needs_weak = True
    moved = dict(position='tap')

    def __init__(
        self,
        tap: Annotated[str, Feature()] = 'encoder',
        in_channels: Annotated[Optional[int], Whole(1)] = None,
        hidden_channels: Annotated[int, Whole(1)] = 256,
        channels: Annotated[Optional[int], Whole(1)] = None,
        dropout: Annotated[float, Number(0, 1, below=True)] = 0.1,
        norm_cfg: Annotated[Optional[dict[str, Any]], NormCfg()] = None,
        scale: Annotated[str, OneOf(*SCALES)] = 'inside',
        logits_from: Annotated[str, OneOf(*LOGITS)] = 'decoder',
        labeled_loss: Annotated[str, OneOf(*LABELED_LOSSES)] = 'decode_head',
        labeled_weight: Annotated[float, Number(0)] = 0.25,
        unlabeled_weight: Annotated[float, Number(0)] = 0.125,
        denominator: Annotated[str, OneOf(*DENOMINATORS)] = 'valid',
        stream: str = 'strong',
    ) -> None:
        super().__init__()
        self.tap, self.taps, self.stream = tap, (tap,), stream
        self.in_channels, self.hidden_channels, self.channels = (
            in_channels,
            hidden_channels,
            channels,
        )
        self.dropout, self.norm_cfg, self.scale = dropout, norm_cfg, scale
        self.logits_from = logits_from
        self.labeled_loss, self.denominator = labeled_loss, denominator
        self.labeled_weight, self.unlabeled_weight = labeled_weight, unlabeled_weight
        self._decode_head: tuple[Any, ...] = ()
        self._warned = False

    # -------------------------------------------------------------------------------- layers

    def attach(self, model: SemiSegmentor) -> None:
        """Build the layers, whose sizes follow the segmentor."""
        head = last_head(model.segmentor)
        self._decode_head = (head,)  # in a tuple, so that it is not a submodule twice
        channels = self.channels or head.out_channels
        norm_cfg = self.norm_cfg or head.norm_cfg or dict(type='BN')
        projection = ConvModule(
            self.tapped_channels(head, self.tap, self.in_channels),
            self.hidden_channels,
            3,
            padding=1,
            norm_cfg=dict(norm_cfg),
        )
        projection.conv.reset_parameters()  # as torch starts it, not as mmcv does
        self.project = nn.Sequential(projection, nn.Dropout2d(self.dropout))
        self.w1 = nn.Conv2d(self.hidden_channels, channels, 1)
        self.w2 = nn.Conv2d(self.hidden_channels, channels, 1)

    def _maps(self, features: Tensor) -> Maps:
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
                f"{self.config_key}: the feature '{self.tap}' has {height}x{width} = "
                f'{height * width} positions, and the cost of a step grows with their square. '
                'Correlate a coarser feature (tap; a stride of 8 is usual) or train on '
                'smaller crops.',
                logger='current',
                level=logging.WARNING,
            )

    # ---------------------------------------------------------------------------------- step

    def _first_pass(self, step: SemiStep, stream: str) -> Maps:
        """Maps of the labeled or of the weak images; together, where both are there at once."""
        if (self, stream) not in step.shared:
            there = [one for one in ('labeled', 'weak') if getattr(step, one) is not None]
            names = [one for one in there if (self, one) not in step.shared]
            features = [getattr(step, one).features[self.tap] for one in names]
            with torch.enable_grad():  # a refiner may be the first to ask
                w1, w2 = self._maps(torch.cat(features))
            sizes = [len(one) for one in features]
            for name, maps in zip(names, zip(w1.split(sizes), w2.split(sizes))):
                step.shared[self, name] = maps
        return step.shared[self, stream]

    def maps_of(self, outputs: SegOutputs, step: SemiStep) -> Maps:
        """Return w1 and w2 (B, D, h, w) of unlabeled images, without gradient.

        Args:
            outputs: What the network that labels says about them. Those of the step's weak images
                stand for the student's own maps of these; other images go through the layers in
                eval mode, which changes nothing.
            step: The training step.
        """
        if outputs is step.teacher and step.weak is not None:
            w1, w2 = self._first_pass(step, 'weak')
            return w1.detach(), w2.detach()
        training = self.training
        self.eval()
        with torch.no_grad():
            maps = self._maps(outputs.features[self.tap])
        torch.clear_autocast_cache()  # as after a network's pass without gradient
        self.train(training)
        return maps

    def _propagated(self, outputs: SegOutputs, maps: Maps, size: Optional[tuple] = None) -> Tensor:
        """Propagate the outputs' logits; resized to ``size`` when it is given."""
        corners = outputs.align_corners
        logits = outputs.logits if self.logits_from == 'image' else outputs.stages[-1]
        logits = at_least_float32(logits.detach())
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
        maps = self._first_pass(step, 'labeled')
        if self.labeled_loss == 'decode_head':
            z = self._propagated(step.labeled, maps)
            values = self._decode_head[0].loss_by_feat(z, step.labeled_samples)
        else:
            truth = step.labeled_truth
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
        weak = self._loss(step.weak, self._first_pass(step, 'weak'), step.pseudo)
        views = step.streams[self.stream]
        w1, w2 = self._maps(torch.cat([view.outputs.features[self.tap] for view in views]))
        number = len(views)
        strong = [
            self._loss(view.outputs, maps, view.pseudo)
            for view, maps in zip(views, zip(w1.chunk(number), w2.chunk(number)))
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
