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

from mmseg_semi.arguments import Number, OneOf, Whole
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
class _Plan:
    """What is drawn once for all V strong views of a step.

    Attributes:
        classes: int64 (V, B), the class that an image is to get.
        mixed: Bool (V, B), whether it gets anything.
        sources: int64 (V, B), the image that gives it: of the batch, or B + place in ``loaded``.
        loaded: The images that were loaded besides the batch; None when there are none.
        views: Views that have been mixed so far.
    """

    classes: Tensor
    mixed: Tensor
    sources: Tensor
    loaded: Optional[Partners] = None
    views: int = 0


@MODELS.register_module()
class ClassAwareCutMix(BaseMixer):
    r"""Paste a box around a badly learned class of another unlabeled image, pseudo-label and all.

    AEL's adaptive CutMix (Hu et al., NeurIPS 2021). For each image a class is drawn from
    :math:`softmax(1 - c)` with c of a ``ClassConfidence``, and a partner whose pseudo-label (used
    pixels) contains it: a random one of the batch where there is one; otherwise a random one of
    the bank, which remembers for every unlabeled image what its last pseudo-label contained, is
    loaded with an augmentation of its own. The box is the bounding box of the class in the partner,
    or a part of it (``functional.equalization.class_boxes``). Where no partner contains the class
    (the bank is empty at first, and a loaded image's new crop may miss the class), the box is a
    random window of a random partner, or of the loaded image.

    The EMA teacher labels all loaded images of a step in one further pass, and the refiners treat
    them as those of the batch, without counting them for thresholds and memories. In ``Mix`` their
    pixels are ``foreign``, and such an image is its own partner.

    The buffer ``bank``, uint8 (number of unlabeled images, K), is part of the checkpoint.
    ``ImageBankHook`` gives it its size, moves it after the iteration with the pseudo-labels of
    all ranks, and loads images; without it (in a program of one's own) only the batch gives
    partners. An image that comes up twice in an iteration gets the classes of both.

    The paper does not fix ``prob``, ``max_area`` and ``min_pixels``.

    Args:
        prob: Probability that an image gets a box.
        max_area: Largest box area as a share of the image, in (0, 1].
        min_pixels: Pixels of a class from which on a pseudo-label contains it.
        extra_loads: Whether partners are loaded from the bank; False takes those of the batch
            alone and keeps no bank.
        head: Name of the ``ClassConfidence`` in ``model.heads``.

    Raises:
        ValueError: An argument outside its range; there is no such head; with ``extra_loads``,
            no EMA teacher in eval mode.
    """

    bank: Tensor
    hooks: tuple[dict[str, Any], ...] = (dict(type='ImageBankHook'),)

    def __init__(
        self,
        prob: Annotated[float, Number(0, 1)] = 0.5,
        max_area: Annotated[float, Number(1e-6, 1)] = 0.5,
        min_pixels: Annotated[int, Whole(1)] = 50,
        extra_loads: Annotated[bool, OneOf(True, False)] = True,
        head: str = 'class_confidence',
    ) -> None:
        super().__init__()
        self.prob, self.max_area, self.min_pixels = prob, max_area, min_pixels
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
        if model.teacher is None or getattr(model.teacher, 'mode', 'eval') != 'eval':
            raise ValueError(
                'ClassAwareCutMix labels the few images that it loads with the EMA teacher, which '
                'must not normalize them by their own statistics: set model.teacher=dict(type='
                "'EMATeacher') without mode='train', or ClassAwareCutMix.extra_loads=False"
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
    def forward(self, images: Tensor, pseudo: PseudoLabel, step: SemiStep) -> View:
        """Mix with a new class, partner and box for each image."""
        plan = step.once(self, lambda: self._plan(pseudo, step))
        view, plan.views = plan.views, plan.views + 1
        batch, sources = len(images), plan.sources[view]
        own = torch.arange(batch, device=images.device)
        is_loaded = sources >= batch
        everything = pseudo
        if plan.loaded is not None:
            everything = pseudo.join(plan.loaded.pseudo)
        wanted = everything.label[sources] == plan.classes[view][:, None, None]
        target = everything.used[sources] & wanted
        contains = target.flatten(1).sum(1) >= self.min_pixels
        target = torch.where(contains[:, None, None], target, everything.valid[sources])
        box = class_boxes(target, self.max_area)
        mixed = plan.mixed[view] & (sources != own)
        box &= mixed[:, None, None]
        number = 0 if plan.loaded is None else len(plan.loaded.pseudo.label)
        with_class = (mixed & contains).sum().float() / mixed.sum().clamp(min=1)
        step.log(f'{self.name}.with_class', with_class)
        step.log(f'{self.name}.loads', number)
        strong = images
        if plan.loaded is not None:
            strong = torch.cat([images, plan.loaded.strong[view]])

        def paste(one: Tensor) -> Tensor:
            inside = box[:, None] if one.dim() == 4 else box
            return torch.where(inside, one[sources], one[:batch])

        from_bank = is_loaded[:, None, None]
        record = Mix(box & ~from_bank, torch.where(is_loaded, own, sources))
        if plan.loaded is not None:
            record.foreign = box & from_bank
        return View(paste(strong), everything.map(paste), record)

    def _plan(self, pseudo: PseudoLabel, step: SemiStep) -> _Plan:
        views, device = len(step.strong_images), pseudo.label.device
        batch = len(pseudo.label)
        weights = sampling_weights(self._found[0].values)
        present = self._present(pseudo, len(weights))
        classes = draw_classes(weights, views * batch)[:, 0].view(views, batch).to(device)
        mixed = (torch.rand(views, batch) < self.prob).to(device)
        others = ~torch.eye(batch, dtype=torch.bool, device=device)
        partners, found = draw_true(present.T[classes] & others)
        anyone = torch.stack([mix_partners(batch) for _ in range(views)]).to(device)
        plan = _Plan(classes, mixed, torch.where(found, partners, anyone))
        places = _places(step, device)
        rows = [torch.cat([places[:, None], present.long()], dim=1)]
        if self.extra_loads and step.load_partners is not None and len(self.bank):
            rows += self._load(plan, mixed & ~found, places, pseudo, step)
        elif batch < 2:
            self._warn_once()
        if self.extra_loads and len(self.bank):
            # As many rows on every rank, whatever it loaded.
            known = torch.cat(rows)
            missing = batch + views * batch - len(known)
            self._pending.append(F.pad(known, (0, 0, 0, missing), value=-1))
        return plan

    def _present(self, pseudo: PseudoLabel, classes: int) -> Tensor:
        """Which classes the used pixels of each image contain: bool (B, K)."""
        label = torch.where(pseudo.used, pseudo.label, classes).flatten(1)
        counts = torch.zeros(len(label), classes + 1, dtype=torch.int64, device=label.device)
        counts.scatter_add_(1, label, torch.ones_like(label))
        return counts[:, :classes] >= self.min_pixels

    def _load(
        self, plan: _Plan, wanted: Tensor, places: Tensor, pseudo: PseudoLabel, step: SemiStep
    ) -> list[Tensor]:
        """Load partners where they are wanted; return the rows that they give the bank."""
        inside = torch.zeros(len(self.bank) + 1, dtype=torch.bool, device=self.bank.device)
        inside[places] = True  # -1 is the last one
        candidates = self.bank.bool() & ~inside[:-1, None]
        index, known = draw_true(candidates.T[plan.classes[wanted]])
        index = torch.where(known, index, -1)
        numbers, slots = index.unique(return_inverse=True)
        numbers = numbers.tolist()
        absent = int(bool(numbers) and numbers[0] < 0)  # sorted: at most the first is -1
        if len(numbers) == absent:
            return []
        sources = plan.sources[wanted]
        loaded = slots - absent + len(pseudo.label)
        plan.sources[wanted] = torch.where(index >= 0, loaded, sources)
        assert step.load_partners is not None  # _plan asked
        plan.loaded = step.load_partners(step, numbers[absent:])
        dropped = {name: None for name in ('logits', 'prob') if getattr(pseudo, name) is None}
        plan.loaded.pseudo = plan.loaded.pseudo.update(**dropped)
        present = self._present(plan.loaded.pseudo, self.bank.shape[1])
        return [torch.cat([plan.loaded.places[:, None], present.long()], dim=1)]

    # ---------------------------------------------------------------- the bank
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
            f'prob={self.prob}, max_area={self.max_area}, min_pixels={self.min_pixels}, '
            f'extra_loads={self.extra_loads}'
        )


def _places(step: SemiStep, device: torch.device) -> Tensor:
    """Place of each unlabeled image among all, int64 (B,); -1 where it is not known."""
    places = [sample.metainfo.get('sample_index', -1) for sample in step.unlabeled_samples]
    return torch.tensor(places, device=device)
