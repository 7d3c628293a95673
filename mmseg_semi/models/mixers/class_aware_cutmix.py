"""AEL's adaptive CutMix, whose boxes hold badly learned classes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Optional

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather
from mmengine.logging import print_log
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import Number
from mmseg_semi.functional import mix_partners
from mmseg_semi.functional.equalization import (
    class_boxes,
    draw_classes,
    draw_true,
    sampling_weights,
)
from mmseg_semi.models.component import last_head
from mmseg_semi.models.heads.class_confidence import find_class_confidence
from mmseg_semi.models.memories import check_stored
from mmseg_semi.structures import Mix, Partners, PseudoLabel, SemiStep, View

from .base_mixer import BaseMixer

if TYPE_CHECKING:
    from mmseg_semi.models.segmentors import SemiSegmentor


@dataclass
class ClassPlan:
    """What is drawn once for all V strong views of a step.

    Attributes:
        classes: int64 (V, B), the class that an image is to get.
        mixed: Bool (V, B), whether it gets anything.
        sources: int64 (V, B), the image that gives it: of the batch, or B + place in
            ``step.partners``.
        found: Bool (V, B), whether an image of the batch contains the class.
        views: Views that have been mixed so far.
    """

    classes: Tensor
    mixed: Tensor
    sources: Tensor
    found: Tensor
    views: int = 0


@MODELS.register_module()
class ClassAwareCutMix(BaseMixer):
    r"""Paste a box around a badly learned class of another unlabeled image, pseudo-label and all.

    AEL's adaptive CutMix (Hu et al., NeurIPS 2021). For each image a class is drawn from
    :math:`softmax(1 - c)` with c of a ``ClassConfidence``, and a partner that contains it by the
    bank, which remembers for every unlabeled image what its last pseudo-label contained: a random
    one of the batch where there is one; otherwise a random one of all, which is loaded with an
    augmentation of its own; otherwise any. The box is that of a large connected component of the
    class in the partner's pseudo-label, or a random one of half the image
    (``functional.equalization.class_boxes``).

    The teacher labels loaded images in one pass with those of the batch, and the refiners treat
    them alike, without counting them for thresholds and memories. In ``Mix`` their pixels are
    ``foreign``, and such an image is its own partner.

    The buffer ``bank``, uint8 (number of unlabeled images, K), is part of the checkpoint.
    ``ImageBankHook`` gives it its size, moves it after the iteration with the pseudo-labels of
    all ranks, and loads images; without it (in a program of one's own) only the batch gives
    partners, by what their pseudo-labels contain now. An image that comes up twice in an iteration
    gets the classes of both.

    Args:
        prob: Probability that an image gets a box. The paper and its program always mix.
        min_component: Share of an image's pixels that a component must exceed to be boxed; the
            program has 0.03 on VOC and 0.005 on Cityscapes.
        min_share: Share of an image's pixels from which on its pseudo-label contains a class; the
            program has 0.03 and 0.01.
        extra_loads: Whether partners are loaded from the bank; False takes those of the batch
            alone and keeps no bank.
        head: Name of the ``ClassConfidence`` in ``model.heads``.

    Raises:
        ValueError: An argument outside its range; there is no such head; with ``extra_loads``,
            no teacher.
    """

    bank: Tensor
    hooks: tuple[dict[str, Any], ...] = (dict(type='ImageBankHook'),)

    def __init__(
        self,
        prob: Annotated[float, Number(0, 1)] = 1.0,
        min_component: Annotated[float, Number(0, 1, below=True)] = 0.03,
        min_share: Annotated[float, Number(0, 1)] = 0.03,
        extra_loads: bool = True,
        head: str = 'class_confidence',
    ) -> None:
        super().__init__()
        self.prob, self.min_component, self.min_share = prob, min_component, min_share
        self.extra_loads, self.head = extra_loads, head
        if not extra_loads:
            self.hooks = ()
        self._found: tuple[Any, ...] = ()
        self._pending: list[Tensor] = []
        self._warned = False

    # ---------------------------------------------------------------- construction
    def attach(self, model: SemiSegmentor) -> None:
        """Find the class confidences and refuse what cannot label loaded images."""
        self._found = find_class_confidence(model, self.head, type(self).__name__, 'head')
        if not self.extra_loads:
            return
        if model.teacher is None:
            raise ValueError(
                'ClassAwareCutMix loads images that a teacher labels with the batch: set '
                "model.teacher=dict(type='EMATeacher'), or ClassAwareCutMix.extra_loads=False"
            )
        head = last_head(model.segmentor)
        self.register_buffer('bank', torch.zeros(0, head.out_channels, dtype=torch.uint8))

    def set_bank_size(self, number: int, keep: bool) -> None:
        """Give the bank a row for each unlabeled image.

        Args:
            number: How many there are.
            keep: Whether a bank that was loaded goes on (a resumed run).

        Raises:
            ValueError: The bank that was loaded is of another number of images.
        """
        if not keep or not len(self.bank):
            self.bank = self.bank.new_zeros(number, self.bank.shape[1])
        elif len(self.bank) != number:
            raise ValueError(
                f'the checkpoint has a bank of {len(self.bank)} unlabeled images '
                f'(model.mixer), and train_dataloader.dataset.unlabeled has {number}: resume with '
                'the data that the run began with, or begin a new run with load_from'
            )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        stored = state_dict.get(f'{prefix}bank')
        if stored is not None and self.extra_loads:
            # The number of images is the data's, which nobody knows yet.
            self.bank = self.bank.new_zeros(len(stored), self.bank.shape[1])
            check_stored(
                state_dict,
                f'{prefix}bank',
                self.bank,
                'a bank (images, classes)',
                'give the classes that the checkpoint was trained with',
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    # ---------------------------------------------------------------- mixing
    @torch.no_grad()
    def load(self, step: SemiStep) -> Optional[Partners]:
        """Load the partners that the bank knows outside the batch."""
        if not self.extra_loads or step.load_partners is None or not len(self.bank):
            return None
        places = _places(step, self.bank.device)
        present = self.bank[places].bool() & (places >= 0)[:, None]
        plan = step.once(self, lambda: self.plan(present, step))
        wanted = plan.mixed & ~plan.found
        outside = torch.ones(len(self.bank) + 1, dtype=torch.bool, device=self.bank.device)
        outside[places] = False  # -1 is the last one
        candidates = self.bank.bool() & outside[:-1, None]
        if len(places) == 1:  # nobody in the batch takes the place of one that nobody knows
            candidates |= outside[:-1, None] & ~candidates.any(0)
        index, known = draw_true(candidates.T[plan.classes[wanted]])
        if not known.any():
            return None
        numbers, slots = index[known].unique(return_inverse=True)
        sources = plan.sources[wanted]
        sources[known] = slots + len(places)
        plan.sources[wanted] = sources
        return step.load_partners(step, numbers.tolist())

    @torch.no_grad()
    def forward(self, images: Tensor, pseudo: PseudoLabel, step: SemiStep) -> View:
        """Mix with a new class, partner and box for each image."""
        plan = step.once(self, lambda: self.plan(self.contained(pseudo), step))
        view, plan.views = plan.views, plan.views + 1
        batch, sources, loaded = len(images), plan.sources[view], step.partners
        own = torch.arange(batch, device=images.device)
        everything = pseudo if loaded is None else pseudo.join(loaded.pseudo)
        target = everything.label[sources] == plan.classes[view][:, None, None]
        box, contains = self.boxes(target & everything.valid[sources])
        mixed = plan.mixed[view] & (sources != own)
        box &= mixed[:, None, None]
        with_class = (mixed & contains).sum().float() / mixed.sum().clamp(min=1)
        step.log(f'{self.name}.with_class', with_class)
        step.log(f'{self.name}.loads', 0 if loaded is None else len(loaded.weak))
        strong = images if loaded is None else torch.cat([images, loaded.strong[view]])

        def paste(one: Tensor) -> Tensor:
            inside = box[:, None] if one.dim() == 4 else box
            return torch.where(inside, one[sources], one[:batch])

        is_loaded = sources >= batch
        from_bank = is_loaded[:, None, None]
        record = Mix(box & ~from_bank, torch.where(is_loaded, own, sources))
        if loaded is not None:
            record.foreign = box & from_bank
        return View(paste(strong), everything.map(paste), record)

    def plan(self, present: Tensor, step: SemiStep) -> ClassPlan:
        """Draw classes, and partners of the batch; :meth:`load` replaces some of these.

        Args:
            present: Bool (B, K), which classes each image of the batch contains.
            step: The training step.
        """
        views, batch, device = len(step.strong_images), len(present), present.device
        weights = sampling_weights(self._found[0].values)
        classes = draw_classes(weights, views * batch)[:, 0].view(views, batch).to(device)
        mixed = (torch.rand(views, batch) < self.prob).to(device)
        others = ~torch.eye(batch, dtype=torch.bool, device=device)
        partners, found = draw_true(present.T[classes] & others)
        anyone = torch.stack([mix_partners(batch) for _ in range(views)]).to(device)
        if batch < 2 and (not self.extra_loads or step.load_partners is None):
            self._warn_once()
        return ClassPlan(classes, mixed, torch.where(found, partners, anyone), found)

    def boxes(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Box the pixels (B, H, W) of the wanted classes; see ``class_boxes``."""
        return class_boxes(target, self.min_component)

    def contained(self, pseudo: PseudoLabel) -> Tensor:
        """Which classes the predictions of each image contain: bool (B, K)."""
        classes = len(self._found[0].values)
        label = torch.where(pseudo.valid, pseudo.label, classes).flatten(1)
        counts = torch.zeros(len(label), classes + 1, dtype=torch.int64, device=label.device)
        counts.scatter_add_(1, label, torch.ones_like(label))
        return counts[:, :classes] >= max(self.min_share * label.shape[1], 1)

    # ---------------------------------------------------------------- the bank
    def observe(self, step: SemiStep) -> None:
        """Note what the pseudo-labels of this step contain."""
        if not self.extra_loads or not len(self.bank):
            return
        several = [(_places(step, self.bank.device), step.pseudo)]
        if step.partners is not None:
            several.append((step.partners.places, step.partners.pseudo))
        rows = torch.cat(
            [torch.cat([places[:, None], self.contained(p).long()], 1) for places, p in several]
        )
        # As many rows on every rank, whatever it loaded.
        most = len(step.pseudo.label) * (1 + len(step.strong_images))
        self._pending.append(F.pad(rows, (0, 0, 0, most - len(rows)), value=-1))

    @torch.no_grad()
    def update_state(self) -> None:
        """Write what has been noted since the last call into the bank, from all ranks."""
        if not self._pending:
            return
        rows, self._pending = torch.cat(self._pending), []
        rows = torch.cat(all_gather(rows))
        # Rows of no image go to a row that is dropped.
        place = torch.where(rows[:, 0] < 0, len(self.bank), rows[:, 0])
        classes = self.bank.shape[1]
        new = self.bank.new_zeros(len(self.bank) + 1, classes)
        new.scatter_reduce_(
            0, place[:, None].expand(-1, classes), (rows[:, 1:] > 0).to(new.dtype), 'amax'
        )
        seen = torch.zeros(len(new), dtype=torch.bool, device=new.device)
        seen[place] = True
        self.bank.copy_(torch.where(seen[:-1, None], new[:-1], self.bank))

    def _warn_once(self) -> None:
        if not self._warned:
            self._warned = True
            print_log(
                'ClassAwareCutMix got one unlabeled image in a batch and loads no others: nothing '
                'is mixed. Raise train_dataloader.batch_size or the unlabeled part of '
                'sampler.ratio, or use extra_loads=True with ImageBankHook.',
                logger='current',
                level=logging.WARNING,
            )

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return (
            f'prob={self.prob}, min_component={self.min_component}, '
            f'min_share={self.min_share}, extra_loads={self.extra_loads}'
        )


def _places(step: SemiStep, device: torch.device) -> Tensor:
    """Place of each unlabeled image among all, int64 (B,); -1 where it is not known."""
    places = [sample.metainfo.get('sample_index', -1) for sample in step.unlabeled_samples]
    return torch.tensor(places, device=device)
