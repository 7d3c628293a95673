"""PrevMatch's guidance by earlier weights of the student."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Optional

import torch
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import Number, OneOf, Whole
from mmseg_semi.functional import image_confidence
from mmseg_semi.models.held_network import HeldNetwork
from mmseg_semi.models.memories import Snapshots
from mmseg_semi.structures import PseudoLabel, SemiStep, View

from .base_semi_head import BaseSemiHead

if TYPE_CHECKING:
    from mmseg_semi.models.segmentors import SemiSegmentor

PUSH_RULES = ('epochs', 'best')
RAMPS = ('epoch', 'iteration')
_WORST = torch.finfo(torch.float32).min


@MODELS.register_module()
class PreviousGuidance(HeldNetwork, BaseSemiHead):
    r"""Train the student's outputs a second time, with labels of its earlier weights.

    PrevMatch (Shin et al., WACV 2026). A few of the student's last weights, in evaluation
    mode, label the weak images together: the mean of their logits, weighted by a draw of
    :math:`\mathrm{Dirichlet}(1, ..., 1)`. That label is mixed as each view is, and every loss of
    ``model.losses`` on unlabeled images is taken with it once more, which gives :math:`L_{prev}`.
    Of all losses, :math:`L` before, it makes :math:`2 (L + \lambda L_{prev}) / (2 + \lambda)`:
    with the halves of UniMatch that is the paper's
    :math:`(L_x + L_{std} + \lambda L_{prev}) / (2 + \lambda)`. :math:`\lambda` rises linearly from
    0 to ``peak`` in the middle of the run and falls to 0. Pixels that a mixer has
    pasted from labeled or other images have no such label.

    Args:
        size: How many earlier weights are kept; the oldest makes room. Each takes as much memory
            as the student.
        most: The most of them that label in a step; their number is uniform in 1 to ``most``.
        push: ``'epochs'``: the student is kept every ``every`` epochs. ``'best'``: whenever its
            ``metric`` on the validation images is the best so far (the authors' program), which
            trains by the labels of these images.
        every: Passes over the unlabeled images, with ``push='epochs'``; None divides the run after
            the warm-up into ``2 * size`` parts (5 of the paper's 80 epochs on VOC).
        metric: What is compared, higher is better, with ``push='best'``.
        threshold: Pixels with at least this confidence train.
        by_mean_confidence: Whether each image's loss is multiplied by the mean confidence of its
            valid pixels (the authors' program on Cityscapes, with ``threshold=0``).
        peak: The largest lambda.
        ramp_by: ``'epoch'``, lambda is the same in an epoch; ``'iteration'`` for short runs.
        on_cpu: Whether the earlier weights stay in the CPU's memory.

    Raises:
        ValueError: An argument outside its values; there is no loss on unlabeled images; in the
            first step, a run too short for ``every``.
        RuntimeError: In the first step, the length of the run or of an epoch is not known.
    """

    hooks = (dict(type='SnapshotHook'),)
    saved = False  # it holds whichever weights label
    best: Tensor
    snapshots: Snapshots

    def __init__(
        self,
        size: Annotated[int, Whole(1)] = 8,
        most: Annotated[int, Whole(1)] = 3,
        push: Annotated[str, OneOf(*PUSH_RULES)] = 'epochs',
        every: Annotated[Optional[float], Number(0, above=True)] = None,
        metric: str = 'mIoU',
        threshold: Annotated[float, Number(0, 1)] = 0.9,
        by_mean_confidence: bool = False,
        peak: Annotated[float, Number(0)] = 1.0,
        ramp_by: Annotated[str, OneOf(*RAMPS)] = 'epoch',
        on_cpu: bool = False,
    ) -> None:
        super().__init__()
        self.size, self.most, self.push, self.every, self.metric = size, most, push, every, metric
        self.threshold, self.by_mean_confidence = threshold, by_mean_confidence
        self.peak, self.ramp_by, self.on_cpu = peak, ramp_by, on_cpu
        self.register_buffer('best', torch.tensor(_WORST))
        self._model: tuple[Any, ...] = ()
        self._guidance = 0.0

    def attach(self, model: SemiSegmentor) -> None:
        """Build the network that the earlier weights are put into."""
        unlabeled = [
            loss for loss in model.losses.values() if model.streams[loss.stream].source != 'labeled'
        ]
        if not unlabeled:
            raise ValueError(
                'PreviousGuidance takes the losses on unlabeled images a second time, but '
                "model.losses has none: add losses=dict(strong=dict(type='PseudoLabelCrossEntropy'"
                ')), or remove the head'
            )
        backbone = model.segmentor.backbone
        held = {id(backbone): backbone} if model.frozen_encoder else {}  # not copied
        self.set_network(copy.deepcopy(model.segmentor, held))
        self._model, self._losses = (model,), tuple(unlabeled)  # so that they are no submodules
        self.snapshots = Snapshots(self._weights(self.network), self.size, self.on_cpu)

    def check_batch(self, step: SemiStep) -> None:
        """Refuse a run of which no weights would be kept."""
        if not step.max_iters or not step.iters_per_epoch:
            raise RuntimeError(
                f'{self.config_key} needs to know the length of the run and of an epoch: train '
                "with train_cfg=dict(type='SemiTrainLoop', ...)"
            )
        left = step.max_iters - self._model[0].warmup_length
        if self.push == 'epochs' and self.every is not None and self.interval >= left:
            raise ValueError(
                f'{self.config_key}.every={self.every} is {self.interval} iterations, and the run '
                f'has {left} after its warm-up, so that no earlier weights would ever label: set '
                f'every below {left / step.iters_per_epoch:.3g} epochs, or to None'
            )

    @property
    def interval(self) -> int:
        """Iterations between the weights that are kept, with ``push='epochs'``."""
        model = self._model[0]
        if self.every is None:
            return max(1, (model.progress[1] - model.warmup_length) // (2 * self.size))
        return max(1, round(self.every * model.iters_per_epoch))

    def _weights(self, network: Any) -> list[Tensor]:
        """The floating tensors of a network, without those of an encoder that never changes."""
        own = [*network.named_parameters(), *network.named_buffers()]
        shared = 'backbone.' if self._model[0].frozen_encoder else None
        return [
            value.detach()
            for name, value in own
            if value.is_floating_point() and not (shared and name.startswith(shared))
        ]

    # ---------------------------------------------------------------- state

    def reset(self) -> None:
        """Begin a run that is not resumed."""
        self.snapshots.clear()
        self.best.fill_(_WORST)

    def keep(self) -> None:
        """Keep the student's weights."""
        self.snapshots.push(self._weights(self._model[0].segmentor))

    def update_state(self) -> None:
        """Keep the student's weights after an iteration, if it is time."""
        model = self._model[0]
        done = model.progress[0] + 1 - model.warmup_length
        if self.push == 'epochs' and done > 0 and done % self.interval == 0:
            self.keep()

    def validated(self, metrics: dict[str, float]) -> None:
        """Keep the student's weights after a validation, if they are the best so far.

        Raises:
            ValueError: The validation has no such metric.
        """
        if self.push != 'best':
            return
        if self.metric not in metrics:
            raise ValueError(
                f"{self.config_key}.metric is '{self.metric}', which the validation does not give; "
                f'it gives {", ".join(metrics)}'
            )
        score = float(torch.tensor(float(metrics[self.metric])))  # as exact as what is kept
        if score > self.best:
            self.best.fill_(score)
            self.keep()

    # ---------------------------------------------------------------- the step

    def strength(self, step: SemiStep) -> float:
        """Return lambda at a step: a triangle over the run."""
        done = 1 - step.remaining(self.config_key, by=self.ramp_by)
        return self.peak * (1 - abs(2 * done - 1))

    @torch.no_grad()
    def label(self, images: Tensor) -> Tensor:
        """Return logits (B, K, H, W) that a few earlier weights give weak images together."""
        model, known = self._model[0], len(self.snapshots)
        count = int(torch.randint(1, min(self.most, known) + 1, ()))
        shares = torch.empty(count).exponential_()  # normalized: Dirichlet(1, ..., 1)
        total: Any = 0
        for number, share in zip(torch.randperm(known).tolist(), (shares / shares.sum()).tolist()):
            self.snapshots.load(number, self._weights(self.network))
            total = total + share * model.run(images, self.network).logits
        return total

    def guide(self, view: View, pseudo: PseudoLabel) -> View:
        """Return a view with that label, mixed as the view is, in place of its own."""
        view = view.labeled_by(pseudo)
        if not self.by_mean_confidence:
            return view
        pseudo = view.pseudo
        weight = image_confidence(pseudo.confidence, pseudo.valid)
        return replace(view, pseudo=pseudo.update(weight=weight))

    def forward(self, step: SemiStep) -> dict[str, Tensor]:
        """Return lambda times the losses with the labels of earlier weights."""
        self._guidance = self.strength(step) if len(self.snapshots) else 0.0
        step.log(f'{self.name}.weight', self._guidance)
        if not self._guidance:
            return {}
        pseudo = PseudoLabel.from_logits(self.label(step.weak_images), step.valid)
        pseudo = pseudo.update(selected=pseudo.selected & (pseudo.confidence >= self.threshold))
        read = {name for loss in self._losses for name in loss.pseudo_fields}
        unread: dict[str, Optional[Tensor]] = dict.fromkeys({'prob', 'logits'} - read)
        pseudo = pseudo.update(**unread)
        values = []
        for loss in self._losses:
            views = [loss(self.guide(view, pseudo)) for view in step.streams[loss.stream]]
            values.append(loss.loss_weight * torch.stack(views).mean())
        return dict(loss=self._guidance * torch.stack(values).sum())

    def balance(self, losses: dict[str, Tensor], step: SemiStep) -> dict[str, Tensor]:
        """Divide all losses by 1 + lambda / 2."""
        factor = 2 / (2 + self._guidance)
        return {name: value * factor if 'loss' in name else value for name, value in losses.items()}
