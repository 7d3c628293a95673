"""Semi-supervised training around any mmseg segmentor."""

from __future__ import annotations

import copy
from typing import Any, Optional

import torch
from mmengine.structures import PixelData
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import check_choice, check_number
from mmseg_semi.functional import selected_ratio
from mmseg_semi.models.component import Component
from mmseg_semi.models.heads import BaseSemiHead
from mmseg_semi.structures import PseudoLabel, SegOutputs, SemiStep

from . import building
from .network import PassesMixin, check_result, supervised_losses
from .predictor import PredictorMixin
from .run_state import RunStateMixin


@MODELS.register_module()
class SemiSegmentor(PassesMixin, RunStateMixin, PredictorMixin, BaseSegmentor):
    """Train any mmseg ``EncoderDecoder`` with labeled and unlabeled images.

    The step: the student sees the labeled and the weak images; the teacher (or the student itself,
    without gradient) gives a :class:`PseudoLabel`; refiners change it, each in its stage; the
    mixer mixes the strong views with it; the student sees the strong views and whatever other
    streams there are; losses and heads read the finished :class:`SemiStep`.

    Prediction is that of the wrapped segmentor, so mmseg's test tool and inferencer work.

    Args:
        segmentor: Config of the mmseg segmentor that is trained.
        losses: Named ``BaseSemiLoss`` configs.
        refiners: Named ``BaseRefiner`` configs; one set to None is left out.
        mixer: ``BaseMixer`` config; None leaves the strong views unmixed.
        labeled_mixer: ``BaseLabeledMixer`` config; None leaves the labeled images unmixed.
        streams: Named streams, see :mod:`mmseg_semi.models.segmentors.streams`; ``labeled`` and
            ``weak``, which share a pass, and ``strong`` are there by themselves, ``weak`` only
            where it is read or listed (for the normalization statistics).
        heads: Named ``BaseSemiHead`` configs.
        teacher: ``BaseTeacher`` config, such as ``dict(type='EMATeacher')``; None for the student.
        supervised_weight: Factor of the segmentor's own losses on labeled images.
        warmup_iters: Iterations at the start of a run that train on labeled images alone, as plain
            training does but for that factor: to the bit where it is 1 and no head or mixer has a
            part in it. Needs ``SemiTrainLoop``.
        warmup_epochs: The same in passes over the unlabeled images; one of the two.
        channels_last: Whether training passes run in torch's channels-last memory format.
        compiled: Backend of ``torch.compile`` for the encoders of student and teacher, such as
            'inductor'; None leaves them as they are. Decoders stay as they are: heads read features
            inside of them.
        data_preprocessor: ``SemiDataPreprocessor`` config. Defaults to that of ``segmentor``.
        test_cfg: ``dict(predict_with='student' | 'teacher' | 'both', refine=False)``. With
            ``'both'`` the teacher's is ``teacher_pred_sem_seg``. ``refine=True`` refines too.
        train_cfg: Not used; mmseg configs carry it.
        init_cfg: As in ``BaseModule``.

    Raises:
        TypeError, ValueError, KeyError: A part that cannot work, with the config key.
    """

    def __init__(
        self,
        segmentor: dict[str, Any],
        losses: Optional[dict[str, Any]] = None,
        refiners: Optional[dict[str, Any]] = None,
        mixer: Optional[dict[str, Any]] = None,
        labeled_mixer: Optional[dict[str, Any]] = None,
        streams: Optional[dict[str, Any]] = None,
        heads: Optional[dict[str, Any]] = None,
        teacher: Optional[dict[str, Any]] = None,
        supervised_weight: float = 1.0,
        warmup_iters: int = 0,
        warmup_epochs: int = 0,
        channels_last: bool = False,
        compiled: Optional[str] = None,
        data_preprocessor: Optional[dict[str, Any]] = None,
        test_cfg: Optional[dict[str, Any]] = None,
        train_cfg: Optional[dict[str, Any]] = None,
        init_cfg: Optional[dict[str, Any]] = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            building.refuse_unknown(type(self), dict(segmentor=segmentor, **unknown))
        segmentor = copy.deepcopy(segmentor)
        inner = segmentor.pop('data_preprocessor', None)
        super().__init__(building.preprocessor_cfg(data_preprocessor or inner), init_cfg)
        check_number('model.supervised_weight', supervised_weight, 0)
        check_choice('model.channels_last', channels_last, (True, False))
        self.supervised_weight, self.channels_last = supervised_weight, channels_last
        self.warmup_iters, self.warmup_epochs = building.check_warmup(warmup_iters, warmup_epochs)
        building.build_networks(self, segmentor, teacher)
        building.compile_encoders(self, compiled)
        with building.drawing_aside():
            building.build_components_of(
                self, refiners, losses, heads, mixer, labeled_mixer, streams
            )
        self.predict_with = self._check_predictor(test_cfg)
        self.train_cfg, self.test_cfg = train_cfg, test_cfg
        self.init_run_state()

    def loss(self, inputs: dict[str, Any], data_samples: dict[str, Any]) -> dict[str, Tensor]:
        """Run one training step and return its losses and figures.

        Args:
            inputs: ``labeled`` (Bl, 3, H, W), ``weak`` (Bu, 3, H, W), ``strong`` (a list of
                views like ``weak``), ``valid`` bool (Bu, H, W), and ``maps``, further maps of the
                weak images (Bu, C, H, W) by name.
            data_samples: ``labeled`` and ``unlabeled`` lists of ``SegDataSample``.

        Returns:
            Named 0-dim tensors; the sum of those whose name contains ``loss`` is trained.
        """
        step = self.begin_step(inputs, data_samples)
        self.mix_labeled(step)
        if step.iteration < self.warmup_length:
            self.run_pass(step, [self.streams['labeled']])
            return self.supervised(step)
        before, after = self.passes
        for streams in before:
            self.run_pass(step, streams)
        losses = {} if step.labeled is None else self.supervised(step)
        self.make_pseudo_label(step)
        self.mix_views(step)
        for streams in after:
            self.run_pass(step, streams)
        self.refine_views(step)
        losses = losses or self.supervised(step)
        for key, value in self.unsupervised(step).items():  # a head may train both with one name
            both = key in losses and 'loss' in key
            losses[key] = losses[key] + value if both else value
        losses = self.balance(losses, step)
        self.observe(step)
        if self.frozen_encoder:
            self.encoded.clear()
        return {**losses, **step.figures}

    @property
    def warmup_length(self) -> int:
        """Iterations at the start of the run that train on labeled images alone."""
        return self.warmup_iters or self.warmup_epochs * self.iters_per_epoch

    def begin_step(self, inputs: Any, data_samples: Any) -> SemiStep:
        """Collect the batch."""
        if not isinstance(inputs, dict) or 'labeled' not in inputs:
            building.refuse_plain_batch()
        if self.frozen_encoder:
            self.encoded.clear()
        iteration, max_iters = self.progress or (0, 0)
        step = SemiStep.of_batch(
            inputs,
            data_samples,
            iteration=iteration,
            max_iters=max_iters,
            iters_per_epoch=self.iters_per_epoch,
            load_partners=None if self.partner_source is None else self.load_partners,
        )
        self.image_names = step.image_names
        if not self.batch_checked:
            self.check_first_batch(step)
        return step

    @torch.no_grad()
    def mix_labeled(self, step: SemiStep) -> None:
        """Mix the labeled images together with their ground truth."""
        if self.labeled_mixer is None:
            return
        images, truth = self.labeled_mixer(step.labeled_images, step.labeled_truth, step)
        step.labeled_images = images
        step.labeled_samples = [sample.clone() for sample in step.labeled_samples]
        for sample, one in zip(step.labeled_samples, truth):
            sample.gt_sem_seg = PixelData(data=one[None])

    def supervised(self, step: SemiStep) -> dict[str, Tensor]:
        """Compute the segmentor's own losses and those of the heads on the labeled images."""
        values = supervised_losses(self.segmentor, step.labeled, step.labeled_samples)
        for name in [name for name in values if 'loss' in name]:
            values[name] = values[name] * self.supervised_weight
        for name, head in self.heads.items():
            own = check_result(head, step, head.supervised(step))
            values.update({f'{name}.{key}': value for key, value in own.items()})
        return values

    @torch.no_grad()
    def make_pseudo_label(self, step: SemiStep) -> None:
        """Let the teacher label the weak images, and refine that, stage by stage.

        Images that the mixer loads join that pass; labeled ones that a loss reads have one before.
        """
        sources = {self.streams[loss.stream].source for loss in self.losses.values()}
        labeled = self.teacher.label(step.labeled_images) if 'labeled' in sources else None
        load, images = getattr(self.mixer, 'load', None), [step.weak_images]
        step.partners = partners = load(step) if load else None
        if partners is not None:
            images.append(partners.weak)
        if self.teacher is None:
            step.teacher = step.weak
        else:
            outputs = self.teacher.label(images[0] if len(images) == 1 else torch.cat(images))
            step.teacher, *others = outputs.split([len(one) for one in images])
        step.raw_pseudo = PseudoLabel.from_logits(step.teacher.logits, step.valid, step.maps)
        step.pseudo = self.refine(step.raw_pseudo, step.teacher, step, step.refined)
        if partners is not None:
            pseudo = PseudoLabel.from_logits(others[0].logits, partners.valid, partners.maps)
            partners.pseudo = self.refine(pseudo, others[0], step)
        if labeled is not None:
            pseudo = PseudoLabel.from_logits(labeled.logits, step.labeled_valid, step.labeled_maps)
            step.labeled_pseudo = self.refine(pseudo, labeled, step)

    def refine(
        self,
        pseudo: PseudoLabel,
        outputs: SegOutputs,
        step: SemiStep,
        kept: Optional[dict[str, PseudoLabel]] = None,
    ) -> PseudoLabel:
        """Refine the pseudo-label of any images, made from ``outputs``.

        ``kept`` takes the pseudo-label after each refiner, by the refiner's name.
        """
        for name, refiner in self.refiners.items():
            if not refiner.after_mixing:
                pseudo = refiner(pseudo, outputs, step)
                if kept is not None:
                    kept[name] = pseudo
        return pseudo

    @torch.no_grad()
    def refine_views(self, step: SemiStep) -> None:
        """Let the refiners that work after mixing refine the pseudo-label of each view."""
        read = {part.stream for part in self.components}
        for key, refiner in self.refiners.items():
            for name, one in self.streams.items() if refiner.after_mixing else ():
                if one.source in refiner.sources and (one.source == 'strong' or name in read):
                    for view in step.streams[name]:
                        view.pseudo = refiner.refine_view(view, step)
                        step.refined.setdefault(key, view.own_pseudo)

    def unsupervised(self, step: SemiStep) -> dict[str, Tensor]:
        """Collect the losses on unlabeled images and of the heads, prefixed by their names."""
        values: dict[str, Tensor] = {}
        for name, loss in self.losses.items():
            of_views = [loss(view) for view in step.streams[loss.stream]]
            values[f'{name}.loss'] = loss.loss_weight * torch.stack(of_views).mean()
        for name, head in self.heads.items():
            values.update({f'{name}.{key}': value for key, value in head(step).items()})
        return values

    def balance(self, losses: dict[str, Tensor], step: SemiStep) -> dict[str, Tensor]:
        """Let the heads scale all losses against each other."""
        for head in self.heads.values():
            if type(head).balance is not BaseSemiHead.balance:
                losses = head.balance(losses, step)
        return losses

    @torch.no_grad()
    def observe(self, step: SemiStep) -> None:
        """Let the components and whoever asked for it look at the finished step."""
        valid = step.pseudo.valid
        mean = (step.pseudo.confidence * valid).sum() / valid.sum().clamp(min=1)
        step.log('selected', selected_ratio(step.final.selected, step.final.valid))
        step.log('confidence', mean)
        for part in self.components:
            if type(part).observe is not Component.observe:
                part.observe(step)
        for observe, due in self.observers:
            if due():
                observe(step)

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum the losses; stop before the update, naming the images, when one is not finite."""
        total, log_vars = super().parse_losses(losses)
        if not torch.isfinite(total):
            self.stop_at(log_vars)
        return total, log_vars
