"""What flows through one training step, filled in the order in which the step runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Callable, Optional, TypeVar, Union

import torch
import torch.nn.functional as F
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_semi.functional import at_least_float32, mix, mix_features

T = TypeVar('T')
#: By what a share falls over a run, see ``SemiStep.remaining``.
STEPS = ('iteration', 'epoch')
# A field that the step fills later; None until then.
_LATER: Any = None
# Logit of a class that is known; its softmax among zeros is 1 in float32.
_SURE = 30.0
# What a pseudo-label without such a field stands for beside one that has it.
_ALONE: dict[str, Any] = dict(weight=1.0, reliable=False)


@dataclass
class Features:
    """What the encoder gives for a batch of images.

    Attributes:
        maps: Feature maps (B, C, h, w), one for each level, as the decoder takes them.
        size: Size ``(H, W)`` of the images.
        taps: Features that were tapped in the encoder, by name, (B, C, h, w) each.
    """

    maps: list[Tensor]
    size: tuple[int, int]
    taps: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.maps[0].shape[0]

    def split(self, sizes: Sequence[int]) -> list[Features]:
        """Cut the batch into consecutive parts of the given sizes."""
        maps = [one.split(sizes) for one in self.maps]
        taps = {name: one.split(sizes) for name, one in self.taps.items()}
        return [
            Features([m[i] for m in maps], self.size, {name: t[i] for name, t in taps.items()})
            for i in range(len(sizes))
        ]

    @classmethod
    def join(cls, parts: Sequence[Features]) -> Features:
        """Put batches of images of one size after each other."""
        if len(parts) == 1:
            return parts[0]
        maps = [torch.cat(level) for level in zip(*(part.maps for part in parts))]
        taps = {name: torch.cat([part.taps[name] for part in parts]) for name in parts[0].taps}
        return cls(maps, parts[0].size, taps)


@dataclass
class SegOutputs:
    """Logits and named features of one pass through encoder and decoder.

    Attributes:
        stages: Raw logits of each decoding stage, (B, K, h, w) at the head's own resolution;
            a plain segmentor has one stage, a cascade several. The last one predicts.
        size: Input size ``(H, W)``.
        align_corners: How the last stage's logits are resized.
        maps: What the decoder was given.
        features: Tapped features by name, (B, C, h, w) each.
    """

    stages: list[Tensor]
    size: tuple[int, int]
    align_corners: bool
    maps: Sequence[Tensor] = ()
    features: dict[str, Tensor] = field(default_factory=dict)
    _logits: Optional[Tensor] = field(default=None, repr=False)

    @property
    def logits(self) -> Tensor:
        """Logits at input size, (B, K, H, W), in float32 at least."""
        if self._logits is None:
            raw = self.stages[-1]
            with torch.enable_grad():  # a refiner may be the first to ask
                raw = at_least_float32(raw)
                if raw.shape[-2:] != tuple(self.size):
                    raw = F.interpolate(
                        raw, size=self.size, mode='bilinear', align_corners=self.align_corners
                    )
            self._logits = raw
        return self._logits

    def __len__(self) -> int:
        return self.stages[-1].shape[0]

    def split(self, sizes: Sequence[int]) -> list[SegOutputs]:
        """Cut the batch into consecutive parts of the given sizes."""
        if sum(sizes) != len(self):
            raise ValueError(f'sizes {list(sizes)} must sum to the batch size {len(self)}')
        stages = [stage.split(sizes) for stage in self.stages]
        maps = [part.split(sizes) for part in self.maps]
        features = {name: part.split(sizes) for name, part in self.features.items()}
        return [
            replace(
                self,
                stages=[stage[i] for stage in stages],
                maps=[part[i] for part in maps],
                features={name: part[i] for name, part in features.items()},
                _logits=None,
            )
            for i in range(len(sizes))
        ]


@dataclass
class PseudoLabel:
    """Everything known about a batch of unlabeled images, pixel by pixel, without gradient.

    Refiners change it, mixers mix all of it at once, losses read it.

    Attributes:
        logits: Teacher logits (B, K, H, W); None in a mixed view when no loss reads them.
        prob: Class probabilities (B, K, H, W), summing to 1 over dim 1 until a refiner says
            otherwise; None in a mixed view when no loss reads them.
        label: int64 (B, H, W), the class to train with.
        confidence: (B, H, W), largest probability.
        valid: Bool (B, H, W), False on padding.
        selected: Bool (B, H, W), pixels that the losses use; never read without ``valid``.
        weight: (B, H, W), factor of each pixel's loss; None means 1 everywhere.
        reliable: Bool (B, H, W), pixels that a second source confirms; None when there is none.
        extras: Further per-pixel tensors by name; they are mixed like the fields.
    """

    logits: Tensor
    prob: Tensor
    label: Tensor
    confidence: Tensor
    valid: Tensor
    selected: Tensor
    weight: Optional[Tensor] = None
    reliable: Optional[Tensor] = None
    extras: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    @torch.no_grad()
    def from_logits(
        cls, logits: Tensor, valid: Tensor, extras: Optional[dict[str, Tensor]] = None
    ) -> PseudoLabel:
        """Start from the teacher's logits: everything valid is selected.

        Args:
            logits: (B, K, H, W); detached and taken to float32 at least.
            valid: Bool (B, H, W).
            extras: Further per-pixel tensors by name.

        Raises:
            ValueError: The sizes differ.
        """
        if logits.shape[0] != valid.shape[0] or logits.shape[-2:] != valid.shape[-2:]:
            raise ValueError(
                f'logits {tuple(logits.shape)} and valid {tuple(valid.shape)} differ in batch or '
                'size; logits must be at input size'
            )
        logits = at_least_float32(logits.detach())
        prob = logits.softmax(dim=1)
        confidence, label = prob.max(dim=1)
        extras = dict(extras or {})
        return cls(logits, prob, label, confidence, valid, valid.clone(), extras=extras)

    def update(self, **changes: Any) -> PseudoLabel:
        """Return a copy in which the given fields are replaced."""
        return replace(self, **changes)

    def map(self, function: Callable[[Tensor], Tensor]) -> PseudoLabel:
        """Return a copy with ``function`` applied to every tensor, extras included."""
        changes: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                changes[item.name] = function(value)
            elif isinstance(value, dict):
                changes[item.name] = {key: function(entry) for key, entry in value.items()}
        return replace(self, **changes)

    def paste(self, mask: Tensor, truth: Tensor) -> PseudoLabel:
        """Return a copy in which the pixels of ``mask`` show a labeled image.

        They have its class, confidence 1 and weight 1, are selected and reliable, and no detector
        saw them: of the extras, masks become True and everything else 0.

        Args:
            mask: Bool (B, H, W).
            truth: int64 (B, H, W), the classes; 255 is taken as padding.
        """
        known = truth != 255
        label = torch.where(known, truth, 0)

        def fill(old: Tensor, new: Any) -> Tensor:
            inside = mask[:, None] if old.dim() == 4 else mask
            return torch.where(inside, torch.as_tensor(new, dtype=old.dtype).to(old.device), old)

        changes: dict[str, Any] = dict(
            label=fill(self.label, label),
            confidence=fill(self.confidence, 1.0),
            valid=torch.where(mask, known, self.valid),
            selected=fill(self.selected, True),
            extras={
                name: fill(value, value.dtype == torch.bool) for name, value in self.extras.items()
            },
        )
        for name, value in (('weight', 1.0), ('reliable', True)):
            if getattr(self, name) is not None:
                changes[name] = fill(getattr(self, name), value)
        for name, scale in (('prob', 1.0), ('logits', _SURE)):
            old = getattr(self, name)
            if old is not None:
                classes = torch.arange(old.shape[1], device=old.device)[:, None, None]
                changes[name] = fill(old, (label[:, None] == classes) * scale)
        return replace(self, **changes)

    def combine(
        self, other: PseudoLabel, function: Callable[[Tensor, Tensor], Tensor]
    ) -> PseudoLabel:
        """Return ``function(own, other's)`` of every tensor that both have, extras included.

        Where one of them alone has weights, the other's are 1; where one alone knows which pixels
        are reliable, none of the other's is.
        """
        changes: dict[str, Any] = {}
        for item in fields(self):
            one, two = getattr(self, item.name), getattr(other, item.name)
            if item.name in _ALONE and (one is None) != (two is None):
                if one is None:
                    one = two.new_full(self.label.shape, _ALONE[item.name])
                else:
                    two = one.new_full(other.label.shape, _ALONE[item.name])
            if isinstance(one, dict):
                both = [key for key in one if key in two]
                changes[item.name] = {key: function(one[key], two[key]) for key in both}
            else:
                there = one is not None and two is not None
                changes[item.name] = function(one, two) if there else None
        return replace(self, **changes)

    def join(self, other: PseudoLabel) -> PseudoLabel:
        """Append another batch, which has the same fields, as a new object."""
        return self.combine(other, lambda one, two: torch.cat([one, two]))

    @property
    def used(self) -> Tensor:
        """Bool (B, H, W): selected and valid."""
        return self.selected & self.valid


@dataclass
class Mix:
    """Which pixels of each image come from which other image of the batch.

    Attributes:
        mask: Bool (B, H, W), True where the partner's pixel is taken.
        partners: int64 (B,).
        foreign: Bool (B, H, W), pixels of the mixed view that come from neither the image nor its
            partner in the batch, but from a labeled image or from one that was loaded besides;
            None when there are none.
        outputs: What the partners' pixels were labeled with, where that is another pass than the
            images' own; None where it is the same.
    """

    mask: Tensor
    partners: Tensor
    foreign: Optional[Tensor] = None
    outputs: Optional[SegOutputs] = None

    def __call__(self, tensor: Tensor, others: Optional[Tensor] = None) -> Tensor:
        """Mix a per-pixel tensor (B, H, W) or (B, C, H, W) at full resolution.

        Args:
            tensor: Of the images.
            others: What the partners' pixels are taken from; ``tensor`` by default.
        """
        return mix(tensor, self.mask, self.partners, others)


@dataclass
class View:
    """One batch of images on its way through a stream.

    Attributes:
        image: Normalized images (B, 3, H, W); None in a stream that begins with features.
        pseudo: The pseudo-label that belongs to these pixels, mixed as they are; None for labeled
            images, and before the pseudo-label is made.
        mix: How the view was mixed; None when it was not.
        outputs: What the student says about it; None before its pass.
        number: Which of the strong views it shows, from 0.
    """

    image: Optional[Tensor] = None
    pseudo: PseudoLabel = _LATER
    mix: Optional[Mix] = None
    outputs: SegOutputs = _LATER
    number: int = 0

    @property
    def own_valid(self) -> Tensor:
        """Bool (B, H, W): pixels of the unlabeled images of the batch, without padding."""
        if self.mix is None or self.mix.foreign is None:
            return self.pseudo.valid
        return self.pseudo.valid & ~self.mix.foreign

    @property
    def own_pseudo(self) -> PseudoLabel:
        """The pseudo-label, valid only on the image's own pixels, where nothing was pasted."""
        own = self.own_valid if self.mix is None else self.own_valid & ~self.mix.mask
        return self.pseudo.update(valid=own)

    def labeled_by(self, pseudo: PseudoLabel) -> View:
        """This view with another label of the images, mixed as the view is.

        Pixels that a mixer has pasted from labeled or other images have no such label.
        """
        if self.mix is not None:
            pseudo = pseudo.map(self.mix)
            if self.mix.foreign is not None:
                pseudo = pseudo.update(valid=pseudo.valid & ~self.mix.foreign)
        return replace(self, pseudo=pseudo)

    def mix_features(
        self, features: Tensor, align_corners: bool, others: Optional[Tensor] = None
    ) -> Tensor:
        """Mix features (B, C, h, w) of the unmixed images as this view is mixed.

        Args:
            features: Of the images.
            align_corners: The segmentor's own.
            others: Of the images as ``mix.outputs`` shows them, where that is not None.
        """
        if self.mix is None:
            return features
        return mix_features(features, self.mix.mask, self.mix.partners, align_corners, others)


@dataclass
class Partners:
    """Unlabeled images that were loaded besides the batch, to be labeled with it.

    Attributes:
        weak: Normalized weakly augmented images (F, 3, H, W).
        strong: Their strong views, normalized, (F, 3, H, W) each.
        valid: Bool (F, H, W), False on padding.
        places: int64 (F,), their places among all unlabeled images.
        maps: Further maps (F, C, H, W) of the weak images by name.
        pseudo: Their refined pseudo-label; None before it is made.
    """

    weak: Tensor
    strong: list[Tensor]
    valid: Tensor
    places: Tensor
    maps: dict[str, Tensor] = field(default_factory=dict)
    pseudo: PseudoLabel = _LATER


@dataclass
class SemiStep:
    """Everything that refiners, mixers, heads and losses may read in one training step.

    Attributes:
        labeled_images: Normalized images (Bl, 3, H, W).
        labeled_samples: Their data samples, with ``gt_sem_seg``.
        weak_images: Normalized weakly augmented unlabeled images (Bu, 3, H, W).
        strong_images: Strongly augmented views of the same crops, each (Bu, 3, H, W).
        valid: Bool (Bu, H, W), False on padding.
        unlabeled_samples: Data samples of the unlabeled images (meta information only).
        maps: Further maps (Bu, C, H, W) of the weak images by name.
        streams: The views of each stream of ``model.streams`` by its name.
        encoded: Encoded features of each stream that began with images, by the stream's name.
        teacher: Outputs that the pseudo-label is made from (the teacher's, or the student's on
            the weak images).
        raw_pseudo: The pseudo-label before any refiner.
        refined: The pseudo-label after each refiner, by the refiner's name; of one that works
            after mixing that of its first view, valid on the images' own pixels.
        pseudo: The pseudo-label after all refiners, not mixed.
        labeled_pseudo: What the teacher says of the labeled images, refined; None where no loss
            trains them with it.
        partners: Unlabeled images that the mixer has loaded besides; None when there are none.
        iteration: Iterations that the run has done before this one.
        max_iters: Iterations of the whole run, 0 when nobody knows.
        iters_per_epoch: Iterations of one pass over the unlabeled images, 0 when nobody knows.
        figures: 0-dim figures for the log by name, see :meth:`log`.
        shared: What is computed once in a step, see :meth:`once`.
        load_partners: ``load_partners(step, places)`` loads further unlabeled images of these
            places among all; None where no data set stands behind.
    """

    labeled_images: Tensor
    labeled_samples: list[SegDataSample]
    weak_images: Tensor
    strong_images: list[Tensor]
    valid: Tensor
    unlabeled_samples: list[SegDataSample]
    maps: dict[str, Tensor] = field(default_factory=dict)
    streams: dict[str, list[View]] = field(default_factory=dict)
    encoded: dict[str, Features] = field(default_factory=dict)
    teacher: SegOutputs = _LATER
    raw_pseudo: PseudoLabel = _LATER
    refined: dict[str, PseudoLabel] = field(default_factory=dict)
    pseudo: PseudoLabel = _LATER
    labeled_pseudo: PseudoLabel = _LATER
    partners: Optional[Partners] = None
    iteration: int = 0
    max_iters: int = 0
    iters_per_epoch: int = 0
    figures: dict[str, Tensor] = field(default_factory=dict)
    shared: dict[Any, Any] = field(default_factory=dict)
    load_partners: Optional[Callable[[SemiStep, list[int]], Partners]] = None

    @classmethod
    def of_batch(cls, inputs: dict[str, Any], samples: dict[str, Any], **more: Any) -> SemiStep:
        """Begin with a batch, as ``SemiSegmentor.loss`` takes it, and further fields."""
        return cls(
            labeled_images=inputs['labeled'],
            labeled_samples=samples['labeled'],
            weak_images=inputs['weak'],
            strong_images=inputs['strong'],
            valid=inputs['valid'],
            unlabeled_samples=samples['unlabeled'],
            maps=inputs.get('maps', {}),
            **more,
        )

    @property
    def labeled(self) -> SegOutputs:
        """Student outputs on the labeled images; None before their pass."""
        return self._outputs('labeled')

    @property
    def weak(self) -> SegOutputs:
        """Student outputs on the weak images; None before their pass, or without one."""
        return self._outputs('weak')

    def _outputs(self, stream: str) -> SegOutputs:
        views = self.streams.get(stream)
        return views[0].outputs if views else _LATER

    @property
    def final(self) -> PseudoLabel:
        """What unlabeled images are trained with, after all refiners.

        Where one works after mixing that of its first view, valid on the images' own pixels.
        """
        return [self.pseudo, *self.refined.values()][-1]

    @property
    def labeled_truth(self) -> Tensor:
        """int64 (Bl, H, W), classes of the labeled pixels; 255 where nobody knows."""
        truth = torch.stack([sample.gt_sem_seg.data[0] for sample in self.labeled_samples])
        return truth.to(self.labeled_images.device)

    @property
    def labeled_valid(self) -> Tensor:
        """Bool (Bl, H, W): labeled pixels that are no padding, or that something was pasted on.

        Of images that ``RandomPaddedCrop`` has padded in a color, those of a known class.
        """
        valid = self.labeled_truth != 255
        for one, sample in zip(valid, self.labeled_samples):
            if not sample.metainfo.get('padded'):
                height, width = sample.metainfo.get('img_shape', one.shape)[:2]
                one[:height, :width] = True
        return valid

    @property
    def labeled_maps(self) -> dict[str, Tensor]:
        """Maps (Bl, C, H, W) as ``maps``, of labeled images: masks are True, the rest is 0."""
        shape = (len(self.labeled_images),)
        return {
            name: value.new_full(shape + tuple(value.shape[1:]), value.dtype == torch.bool)
            for name, value in self.maps.items()
        }

    @property
    def image_names(self) -> list[str]:
        """Paths of all images of this step, labeled first."""
        samples = [*self.labeled_samples, *self.unlabeled_samples]
        return [str(sample.metainfo.get('img_path', '<unknown>')) for sample in samples]

    def log(self, name: str, value: Union[Tensor, float]) -> None:
        """Give a figure of this step to the log.

        Args:
            name: As it stands in the log, such as ``'select.threshold'``.
            value: A number or a 0-dim tensor.

        Raises:
            ValueError: The name contains ``loss``: mmengine would train it.
        """
        if 'loss' in name:
            raise ValueError(f"step.log('{name}'): a name with 'loss' in it would be trained")
        self.figures[name] = torch.as_tensor(value).detach().float()

    def once(self, key: Any, compute: Callable[[], T]) -> T:
        """Return what ``compute`` gives, computed at the first call with this key in the step."""
        if key not in self.shared:
            self.shared[key] = compute()
        return self.shared[key]

    def remaining(self, reader: str, by: str = 'iteration') -> float:
        """Share of the run that remains, 1 at its start, for what falls linearly over the run.

        Args:
            reader: Config key that needs it, for the message.
            by: ``'iteration'``, or ``'epoch'`` for a share that stays the same within an epoch.

        Raises:
            RuntimeError: The length of the run, or of an epoch, is not known.
        """
        if self.max_iters < 1:
            raise RuntimeError(
                f'{reader} needs to know the length of the run: train with '
                f"train_cfg=dict(type='SemiTrainLoop', ...), or set {reader}=False"
            )
        done = self.iteration
        if by == 'epoch':
            if self.iters_per_epoch < 1:
                raise RuntimeError(
                    f"{reader}_by='epoch' needs to know how long an epoch is: train with "
                    "train_cfg=dict(type='SemiTrainLoop', ...), or give set_progress the "
                    'iterations of one pass over the unlabeled images'
                )
            done -= done % self.iters_per_epoch
        return max(0.0, 1 - done / self.max_iters)
