"""The state of one training step, filled in the order in which the step runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional, Union

from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_semi.functional import mix

from .pseudo_label import PseudoLabel
from .seg_outputs import SegOutputs


@dataclass
class Mix:
    """Which pixels of each image come from which other image of the batch.

    Attributes:
        mask: Bool (B, H, W), True where the partner's pixel is taken.
        partners: int64 (B,).
        foreign: Bool (B, H, W), pixels of the mixed view that come from neither the image nor its
            partner in the batch, but from a labeled image or from one that was loaded besides;
            None when there are none.
    """

    mask: Tensor
    partners: Tensor
    foreign: Optional[Tensor] = None

    def __call__(self, tensor: Tensor) -> Tensor:
        """Mix a per-pixel tensor (B, H, W) or (B, C, H, W) at full resolution."""
        return mix(tensor, self.mask, self.partners)


@dataclass
class StrongView:
    """One strongly augmented (and mixed) view of the unlabeled images.

    Attributes:
        image: Normalised images (B, 3, H, W).
        pseudo: The pseudo-label that belongs to these pixels, mixed as they are.
        mix: How the view was mixed; None when it was not.
        outputs: What the student says about it; None before its forward pass.
    """

    image: Tensor
    pseudo: PseudoLabel
    mix: Optional[Mix] = None
    outputs: Optional[SegOutputs] = None

    @property
    def own_valid(self) -> Tensor:
        """Bool (B, H, W): pixels of the unlabeled images of the batch, without padding."""
        if self.mix is None or self.mix.foreign is None:
            return self.pseudo.valid
        return self.pseudo.valid & ~self.mix.foreign


@dataclass
class SemiStep:
    """Everything that refiners, mixers, heads and losses may read in one training step.

    Attributes:
        labeled_images: Normalised images (Bl, 3, H, W).
        labeled_samples: Their data samples, with ``gt_sem_seg``.
        weak_images: Normalised weakly augmented unlabeled images (Bu, 3, H, W).
        strong_images: Strongly augmented views of the same crops, each (Bu, 3, H, W).
        valid: Bool (Bu, H, W), False on padding.
        unlabeled_samples: Data samples of the unlabeled images (meta information only).
        detections: Packed map of the classes whose boxes cover each pixel of the weak images, uint8
            (Bu, ceil(K/8), H, W); None without ``LoadDetections``.
        labeled: Student outputs on the labeled images.
        weak: Student outputs on the weak images; None when a method does not need them.
        teacher: Outputs that the pseudo-label is made from (EMA teacher, or ``weak``).
        raw_pseudo: The pseudo-label before any refiner.
        pseudo: The pseudo-label after the refiners, not mixed.
        views: The strong views.
        perturbed: Student outputs on the weak images' perturbed features.
        iteration: Iterations that the run has done before this one.
        max_iters: Iterations of the whole run.
        threshold: Confidence threshold of this step, a number or a 0-dim tensor; set by selection
            refiners that have one.
        observed: Whether somebody looks at this step when it is finished.
        refined: The pseudo-label after each refiner by name; filled only when observed.
        shared: What a component computes once and others read, by the component that owns it.
    """

    labeled_images: Tensor
    labeled_samples: list[SegDataSample]
    weak_images: Tensor
    strong_images: list[Tensor]
    valid: Tensor
    unlabeled_samples: list[SegDataSample]
    detections: Optional[Tensor] = None
    labeled: Optional[SegOutputs] = None
    weak: Optional[SegOutputs] = None
    teacher: Optional[SegOutputs] = None
    raw_pseudo: Optional[PseudoLabel] = None
    pseudo: Optional[PseudoLabel] = None
    views: list[StrongView] = field(default_factory=list)
    perturbed: Optional[SegOutputs] = None
    iteration: int = 0
    max_iters: int = 0
    threshold: Optional[Union[float, Tensor]] = None
    observed: bool = False
    refined: dict[str, PseudoLabel] = field(default_factory=dict)
    shared: dict[Any, Any] = field(default_factory=dict)

    @property
    def image_names(self) -> list[str]:
        """Paths of all images of this step, labeled first."""
        samples = [*self.labeled_samples, *self.unlabeled_samples]
        return [str(sample.metainfo.get('img_path', '<unknown>')) for sample in samples]
