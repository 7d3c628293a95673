"""Semi-supervised training around any mmseg segmentor."""

from __future__ import annotations

import copy
import logging
from typing import Any, Callable, Optional

import torch
from mmengine.logging import print_log
from mmengine.structures import PixelData
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import check_arguments
from mmseg_semi.functional import selected_ratio
from mmseg_semi.models.component import Component, build_component, build_components
from mmseg_semi.models.heads import BaseSemiHead
from mmseg_semi.models.losses import BaseSemiLoss
from mmseg_semi.models.mixers import BaseLabeledMixer, BaseMixer
from mmseg_semi.models.perturbations import BasePerturbation
from mmseg_semi.models.refiners import STAGES, BaseRefiner
from mmseg_semi.structures import DETECTIONS, PseudoLabel, SegOutputs, SemiStep, StrongView

from .ema_teacher import FORWARD_MODES, TeacherMixin, forward_mode, update_teacher
from .feature_taps import FeatureTaps
from .predictor import PredictorMixin
from .student import (
    check_segmentor,
    concat_batches,
    decode_perturbed,
    forward_segmentor,
    supervised_losses,
)

_PREPROCESSOR_TYPES = ('SegDataPreProcessor', 'SemiDataPreprocessor')


@MODELS.register_module()
class SemiSegmentor(TeacherMixin, PredictorMixin, BaseSegmentor):
    """Train any mmseg ``EncoderDecoder`` with labeled and unlabeled images.

    The step: the student sees {labeled, weak} in one forward; a teacher (the EMA teacher, or the
    student itself without gradient) gives a :class:`PseudoLabel`; refiners change it, each in its
    stage; the mixer mixes the strong views with it; the student sees the strong views and its own
    perturbed features; losses and heads read the finished :class:`SemiStep`.

    Prediction is that of the wrapped segmentor, so mmseg's test tool and inferencer work.

    Args:
        segmentor: Config of the mmseg segmentor that is trained.
        losses: Named ``BaseSemiLoss`` configs.
        refiners: Named ``BaseRefiner`` configs; a component set to None is left out.
        mixer: ``BaseMixer`` config; None leaves the strong views unmixed.
        labeled_mixer: ``BaseLabeledMixer`` config; None leaves the labeled images unmixed.
        perturbation: ``BasePerturbation`` config for the feature-perturbed stream; None for none.
        heads: Named ``BaseSemiHead`` configs.
        teacher: ``None`` for the student itself, or ``dict(type='ema', mode='eval')`` for an EMA
            teacher, which ``MeanTeacherHook`` moves. ``mode='train'`` normalises the images it
            labels by their own statistics and applies dropout, as some methods do; its state is
            not touched by that.
        supervised_weight: Factor of the segmentor's own losses on labeled images.
        warmup_iters: Iterations at the start of a run that train on labeled images alone, for
            networks that start from scratch and have nothing to teach yet. Needs
            ``SemiTrainLoop``, which tells the model where the run is.
        warmup_epochs: The same in passes over the unlabeled images, whatever their number and the
            batch size; one of the two.
        student_sees_weak: Whether weak images are part of the student's first forward pass (they
            then count for its BatchNorm statistics). None: only if something reads them.
        channels_last: Whether training passes run in torch's channels-last memory format, which
            is faster for convolutions on CPUs and on tensor cores.
        data_preprocessor: ``SemiDataPreprocessor`` config. Defaults to the ``data_preprocessor``
            of ``segmentor``, whose arguments are the same.
        test_cfg: ``dict(predict_with='student' | 'teacher' | 'both', refine=False)``. With
            ``'both'`` the student's result is ``pred_sem_seg`` and the teacher's
            ``teacher_pred_sem_seg``. ``refine=True`` applies the refiners that change
            probabilities to predictions too.
        train_cfg: Not used; accepted because mmseg configs carry it.
        init_cfg: Passed to ``BaseModule``.

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
        perturbation: Optional[dict[str, Any]] = None,
        heads: Optional[dict[str, Any]] = None,
        teacher: Optional[dict[str, Any]] = None,
        supervised_weight: float = 1.0,
        warmup_iters: int = 0,
        warmup_epochs: int = 0,
        student_sees_weak: Optional[bool] = None,
        channels_last: bool = False,
        data_preprocessor: Optional[dict[str, Any]] = None,
        test_cfg: Optional[dict[str, Any]] = None,
        train_cfg: Optional[dict[str, Any]] = None,
        init_cfg: Optional[dict[str, Any]] = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            check_arguments(SemiSegmentor, dict(segmentor=segmentor, **unknown), 'model')
        segmentor = copy.deepcopy(segmentor)
        inner = segmentor.pop('data_preprocessor', None)
        super().__init__(_preprocessor_cfg(data_preprocessor or inner), init_cfg)
        if not supervised_weight >= 0:
            raise ValueError(f'model.supervised_weight must be >= 0, got {supervised_weight}')
        self.segmentor = MODELS.build(segmentor)
        check_segmentor(self.segmentor)
        teacher, self.teacher_mode = _build_teacher(segmentor, self.segmentor, teacher)
        self._set_teacher(teacher)
        refiners = build_components(refiners, BaseRefiner, 'model.refiners')
        self.refiners = _in_stage_order(refiners)
        self.losses = build_components(losses, BaseSemiLoss, 'model.losses')
        self.heads = build_components(heads, BaseSemiHead, 'model.heads')
        self.mixer = build_component(mixer, BaseMixer, 'model.mixer') if mixer else None
        self.labeled_mixer = (
            build_component(labeled_mixer, BaseLabeledMixer, 'model.labeled_mixer')
            if labeled_mixer
            else None
        )
        self.perturbation = (
            build_component(perturbation, BasePerturbation, 'model.perturbation')
            if perturbation
            else None
        )
        self.warmup_iters, self.warmup_epochs = _check_warmup(warmup_iters, warmup_epochs)
        self.supervised_weight = supervised_weight
        self.progress: Optional[tuple[int, int]] = None
        self.iters_per_epoch = 0
        self.channels_last = channels_last
        self._check_streams()
        self._attach_components()
        self.student_sees_weak = self._decide_weak(student_sees_weak)
        self.taps = FeatureTaps(tap for part in self._components() for tap in part.taps)
        self.mixed_fields = {f for part in self._components() for f in part.pseudo_fields}
        self.predict_with = self._check_predictor(test_cfg)
        self.train_cfg, self.test_cfg = train_cfg, test_cfg
        self._reads_detections = any(part.reads_detections for part in self._components())
        self._image_names: list[str] = []
        self._hooks_seen: set[str] = set()
        self._observers: list[tuple[Callable[[SemiStep], None], Callable[[], bool]]] = []

    # ---------------------------------------------------------------- construction

    def _components(self) -> list[Component]:
        parts = [*self.refiners.values(), *self.losses.values(), *self.heads.values()]
        single = (self.mixer, self.labeled_mixer, self.perturbation)
        return parts + [part for part in single if part is not None]

    def _attach_components(self) -> None:
        kinds = dict(refiners=self.refiners, losses=self.losses, heads=self.heads)
        named = {f'{kind}.{n}': part for kind, parts in kinds.items() for n, part in parts.items()}
        named.update(mixer=self.mixer, labeled_mixer=self.labeled_mixer)
        named.update(perturbation=self.perturbation)
        for key, part in named.items():
            if part is not None:
                part.config_key = f'model.{key}'
                try:
                    part.attach(self)
                    FeatureTaps(part.taps).check(self.segmentor)
                except ValueError as error:
                    raise ValueError(f'model.{key}: {error}') from error

    def _check_streams(self) -> None:
        streams = {getattr(part, 'stream', None) for part in self.losses.values()}
        if not self.losses and not len(self.heads):
            raise ValueError(
                'model.losses is empty: unlabeled images would train nothing. Add for example '
                "losses=dict(strong=dict(type='PseudoLabelCrossEntropy')), or train the plain "
                'segmentor with its supervised config.'
            )
        if 'perturbed' in streams and self.perturbation is None:
            raise ValueError(
                "model.losses has a loss on stream 'perturbed' but model.perturbation is None: "
                "set perturbation=dict(type='FeatureDropout') or remove that loss (name=None)"
            )
        if self.perturbation is not None and 'perturbed' not in streams and not len(self.heads):
            raise ValueError(
                "model.perturbation is set but no loss reads stream 'perturbed': add such a loss "
                'or set perturbation=None'
            )

    def _decide_weak(self, wanted: Optional[bool]) -> bool:
        readers = [type(part).__name__ for part in self._components() if part.needs_weak]
        if self.perturbation is not None:
            readers.append('perturbation')
        if self.teacher is None:
            readers.append('the student is its own teacher')
        if wanted is False and readers:
            raise ValueError(
                'model.student_sees_weak=False, but weak images are needed by it '
                f'({", ".join(readers)}); remove the key'
            )
        return bool(readers) if wanted is None else wanted

    # ---------------------------------------------------------------- training step

    def loss(self, inputs: dict[str, Any], data_samples: dict[str, Any]) -> dict[str, Tensor]:
        """Run one training step and return its losses and diagnostics.

        Args:
            inputs: ``labeled`` (Bl, 3, H, W), ``weak`` (Bu, 3, H, W), ``strong`` (a list of
                views like ``weak``), ``valid`` bool (Bu, H, W), and optionally ``detections``
                uint8 (Bu, ceil(K/8), H, W).
            data_samples: ``labeled`` and ``unlabeled`` lists of ``SegDataSample``.

        Returns:
            Named 0-dim tensors; the sum of those whose name contains ``loss`` is trained.
        """
        try:
            return self._run_step(inputs, data_samples)
        except ValueError as error:
            if 'more than 1 value per channel' not in str(error):
                raise
            raise ValueError(
                'a normalisation of the segmentor gets one image alone, pooled to one pixel (ASPP '
                'and pyramid pooling do that), and cannot normalise it: train with at least 2 '
                'labeled and 2 unlabeled images a rank (train_dataloader.batch_size, '
                'sampler.ratio), or with SyncBN on several GPUs'
            ) from error

    def _run_step(self, inputs: Any, data_samples: Any) -> dict[str, Tensor]:
        step = self.begin_step(inputs, data_samples)
        self.mix_labeled(step)
        if step.iteration < self.warmup_length:
            step.labeled = self._run(self.segmentor, step.labeled_images)
            return self.supervised(step)
        self.forward_student(step)
        losses = self.supervised(step)
        self.make_pseudo_label(step)
        self.refine(step)
        self.make_views(step)
        self.forward_views(step)
        losses.update(self.unsupervised(step))
        losses.update(self.diagnostics(step))
        for observe, due in self._observers:
            if due():
                observe(step)
        return losses

    def begin_step(self, inputs: Any, data_samples: Any) -> SemiStep:
        """Collect the batch."""
        if not isinstance(inputs, dict) or 'labeled' not in inputs:
            raise TypeError(
                'SemiSegmentor trains on semi-supervised batches but got a plain one: use '
                'SemiDataset, SemiSampler and semi_collate in train_dataloader, and '
                'SemiDataPreprocessor'
            )
        self._check_hooks()
        step = SemiStep(
            labeled_images=inputs['labeled'],
            labeled_samples=data_samples['labeled'],
            weak_images=inputs['weak'],
            strong_images=inputs['strong'],
            valid=inputs['valid'],
            unlabeled_samples=data_samples['unlabeled'],
            detections=inputs['maps'].get('detections'),
        )
        needs_views = any(loss.stream == 'strong' for loss in self.losses.values())
        if needs_views and not step.strong_images:
            raise ValueError(
                "a loss reads stream 'strong' but the batch has no strong view: add "
                "dict(type='StrongViews', num_views=..., transforms=...) to the unlabeled "
                'pipeline, with num_views at least 1'
            )
        for part in self._components():
            part.check_batch(step)
        if step.detections is not None and not self._reads_detections:
            self._warn_of_detections()
        step.iteration, step.max_iters = self._get_progress()
        step.observed = any(due() for _, due in self._observers)
        self._image_names = step.image_names
        return step

    def _warn_of_detections(self) -> None:
        self._reads_detections = True  # once is enough
        print_log(
            'LoadDetections gives boxes, but no component reads them: add refiners=dict(agreement='
            "dict(type='DetectionAgreement')), or take LoadDetections out of the pipeline",
            logger='current',
            level=logging.WARNING,
        )

    @torch.no_grad()
    def mix_labeled(self, step: SemiStep) -> None:
        """Mix the labeled images together with their ground truth."""
        if self.labeled_mixer is None:
            return
        truth = torch.stack([sample.gt_sem_seg.data[0] for sample in step.labeled_samples])
        images, truth = self.labeled_mixer(
            step.labeled_images, truth.to(step.labeled_images.device), step
        )
        step.labeled_images, samples = images, []
        for sample, one in zip(step.labeled_samples, truth):
            sample = sample.clone()
            sample.gt_sem_seg = PixelData(data=one[None])
            samples.append(sample)
        step.labeled_samples = samples

    def _run(self, network: BaseSegmentor, images: Tensor) -> SegOutputs:
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return forward_segmentor(network, images, self.taps)

    def forward_student(self, step: SemiStep) -> None:
        """Encode and decode {labeled, weak} in one pass, so that BatchNorm sees both."""
        if not self.student_sees_weak:
            step.labeled = self._run(self.segmentor, step.labeled_images)
            return
        images, sizes = concat_batches([step.labeled_images, step.weak_images], ['labeled', 'weak'])
        outputs = self._run(self.segmentor, images)
        step.labeled, step.weak = outputs.split(sizes)

    def supervised(self, step: SemiStep) -> dict[str, Tensor]:
        """Compute the segmentor's own losses and those of the heads on the labeled images."""
        losses = supervised_losses(self.segmentor, step.labeled, step.labeled_samples)
        values = {
            name: value * self.supervised_weight if 'loss' in name else value
            for name, value in losses.items()
        }
        for name, head in self.heads.items():
            values.update({f'{name}.{key}': v for key, v in head.supervised(step).items()})
        return values

    @torch.no_grad()
    def make_pseudo_label(self, step: SemiStep) -> None:
        """Ask the teacher about the weak images."""
        if self.teacher is not None:
            step.teacher = self.ask_teacher(step.weak_images)
        else:
            step.teacher = step.weak
        step.raw_pseudo = PseudoLabel.from_logits(step.teacher.logits, step.valid)
        if step.detections is not None:
            step.raw_pseudo.extras[DETECTIONS] = step.detections

    @torch.no_grad()
    def ask_teacher(self, images: Tensor) -> SegOutputs:
        """Run the EMA teacher on normalised images (B, 3, H, W)."""
        with forward_mode(self.teacher, self.teacher_mode):
            return self._run(self.teacher, images)

    @torch.no_grad()
    def refine(self, step: SemiStep) -> None:
        """Run the refiners, stage by stage."""
        step.pseudo = step.raw_pseudo
        for name, refiner in self.refiners.items():
            step.pseudo = refiner(step.pseudo, step)
            if step.observed:
                step.refined[name] = step.pseudo

    @torch.no_grad()
    def make_views(self, step: SemiStep) -> None:
        """Mix the strong views together with the pseudo-label."""
        dropped = {name: None for name in ('logits', 'prob') if name not in self.mixed_fields}
        pseudo = step.pseudo.update(**dropped)
        for images in step.strong_images:
            if self.mixer is None:
                step.views.append(StrongView(images, pseudo))
            else:
                step.views.append(self.mixer(images, pseudo, step))

    def forward_views(self, step: SemiStep) -> None:
        """Run the student on all strong views in one pass, and on the perturbed features."""
        if step.views:
            images, sizes = concat_batches(
                [view.image for view in step.views], [f'view {i}' for i in range(len(step.views))]
            )
            outputs = self._run(self.segmentor, images).split(sizes)
            for view, output in zip(step.views, outputs):
                view.outputs = output
        if self.perturbation is not None:
            step.perturbed = decode_perturbed(self.segmentor, step.weak, self.perturbation)

    def unsupervised(self, step: SemiStep) -> dict[str, Tensor]:
        """Collect the losses on unlabeled images and of the heads, prefixed by their names."""
        values: dict[str, Tensor] = {}
        for name, part in [*self.losses.items(), *self.heads.items()]:
            values.update({f'{name}.{key}': value for key, value in part(step).items()})
        return values

    @torch.no_grad()
    def diagnostics(self, step: SemiStep) -> dict[str, Tensor]:
        """Give figures for the log: the selected share, the mean confidence, the components'."""
        valid = step.pseudo.valid
        mean = (step.pseudo.confidence * valid).sum() / valid.sum().clamp(min=1)
        values = dict(selected=selected_ratio(step.pseudo.selected, valid), confidence=mean)
        mixers = dict(mixer=self.mixer, labeled_mixer=self.labeled_mixer)
        for parts in (self.refiners, self.losses, self.heads, mixers):
            for name, part in parts.items():
                if part is not None:
                    values.update({f'{name}.{key}': v for key, v in part.log_values().items()})
        return values

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum the losses; stop before the update when one is not finite.

        Raises:
            FloatingPointError: Names the losses and the images of the batch.
        """
        total, log_vars = super().parse_losses(losses)
        if not torch.isfinite(total):
            bad = [f'{k}={float(v):g}' for k, v in log_vars.items() if not torch.isfinite(v)]
            raise FloatingPointError(
                f'loss is not finite: {", ".join(bad)}. Images of this batch: '
                f'{", ".join(self._image_names)}. The weights were not updated and the last '
                'checkpoint is kept; lower the learning rate, clip gradients '
                '(optim_wrapper.clip_grad) or look at these images.'
            )
        return total, log_vars

    # ---------------------------------------------------------------- state

    def hook_attached(self, name: str) -> None:
        """Tell the model that the hook ``name`` moves its state in this run."""
        self._hooks_seen.add(name)

    def add_observer(
        self, observe: Callable[[SemiStep], None], due: Callable[[], bool] = lambda: True
    ) -> None:
        """Show the finished step of training iterations after the warm-up to ``observe``.

        Args:
            observe: Called with the step, which then also holds the pseudo-label after each
                refiner (``step.refined``).
            due: Asked before and after each step whether this one is to be shown.
        """
        self._observers.append((observe, due))

    def set_progress(self, iteration: int, max_iters: int, iters_per_epoch: int = 0) -> None:
        """Tell the model where the run is; ``SemiTrainLoop`` does it before each iteration.

        Args:
            iteration: Iterations done so far.
            max_iters: Iterations of the whole run.
            iters_per_epoch: Iterations of one pass over the unlabeled images.
        """
        self.progress = (iteration, max_iters)
        self.iters_per_epoch = iters_per_epoch

    @property
    def warmup_length(self) -> int:
        """Iterations at the start of the run that train on labeled images alone."""
        return self.warmup_iters or self.warmup_epochs * self.iters_per_epoch

    def _get_progress(self) -> tuple[int, int]:
        if self.progress is None:
            for name in ('warmup_iters', 'warmup_epochs'):
                if getattr(self, name):
                    raise RuntimeError(
                        f'model.{name}={getattr(self, name)} needs to know the iteration: train '
                        "with train_cfg=dict(type='SemiTrainLoop', ...)"
                    )
            return 0, 0
        if self.warmup_epochs and self.iters_per_epoch < 1:
            raise RuntimeError(
                f'model.warmup_epochs={self.warmup_epochs} needs to know how long an epoch is: '
                'give set_progress the iterations of one pass over the unlabeled images, or use '
                'warmup_iters'
            )
        return self.progress

    def _check_hooks(self) -> None:
        required = {hook for part in self._components() for hook in part.required_hooks}
        if self.teacher is not None:
            required.add('MeanTeacherHook')
        missing = sorted(required - self._hooks_seen)
        if missing:
            remedy = (
                'set model.teacher=None'
                if missing[0] == 'MeanTeacherHook'
                else 'remove the component that needs it'
            )
            raise RuntimeError(
                f'the model has state that only {", ".join(missing)} moves, and the config lacks '
                f"it: add dict(type='{missing[0]}') to custom_hooks, or {remedy}"
            )

    def reset_teacher(self) -> None:
        """Make the teacher an exact copy of the student."""
        update_teacher(self.teacher, self.segmentor, momentum=0.0, buffers='copy')

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # A plain mmseg checkpoint of the segmentor starts both student and teacher.
        own = f'{prefix}segmentor.'
        if state_dict and not any(key.startswith(own) for key in state_dict):
            heads = tuple(f'{prefix}{name}.' for name, _ in self.segmentor.named_children())
            plain = {key: value for key, value in state_dict.items() if key.startswith(heads)}
            for key, value in plain.items():
                state_dict[own + key[len(prefix) :]] = value
                if self.teacher is not None:
                    state_dict[f'{prefix}teacher.{key[len(prefix) :]}'] = value
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args)


def _check_warmup(warmup_iters: int, warmup_epochs: int) -> tuple[int, int]:
    for name, value in (('warmup_iters', warmup_iters), ('warmup_epochs', warmup_epochs)):
        if not (isinstance(value, int) and value >= 0):
            raise ValueError(f'model.{name} must be a whole number >= 0, got {value!r}')
    if warmup_iters and warmup_epochs:
        raise ValueError(
            f'model.warmup_iters={warmup_iters} and model.warmup_epochs={warmup_epochs} are both '
            'given: set one of them to 0'
        )
    return warmup_iters, warmup_epochs


def _preprocessor_cfg(cfg: Any) -> Any:
    if not isinstance(cfg, dict):
        return cfg if cfg is not None else dict(type='SemiDataPreprocessor')
    if cfg.get('type', 'SemiDataPreprocessor') not in _PREPROCESSOR_TYPES:
        return cfg
    return {**cfg, 'type': 'SemiDataPreprocessor'}


def _build_teacher(
    cfg: dict[str, Any], student: BaseSegmentor, teacher: Optional[dict[str, Any]]
) -> tuple[Optional[BaseSegmentor], str]:
    if teacher is None:
        return None, 'eval'
    mode = teacher.get('mode', 'eval') if isinstance(teacher, dict) else None
    if mode not in FORWARD_MODES or {**teacher, 'mode': mode} != dict(type='ema', mode=mode):
        raise ValueError(
            f"model.teacher must be None or dict(type='ema', mode='eval' | 'train'), got "
            f'{teacher!r}. Momentum and buffers are arguments of MeanTeacherHook.'
        )
    built = MODELS.build(cfg)
    update_teacher(built, student, momentum=0.0, buffers='copy')
    return built, mode


def _in_stage_order(refiners: torch.nn.ModuleDict) -> torch.nn.ModuleDict:
    ordered = sorted(refiners.items(), key=lambda item: STAGES.index(item[1].stage))
    return torch.nn.ModuleDict(ordered)
