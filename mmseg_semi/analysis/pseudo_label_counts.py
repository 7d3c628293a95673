"""Counts that compare pseudo-labels with hidden truth, and gradients of loss terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import torch
from torch import Tensor

from mmseg_semi.structures import PseudoLabel, SemiStep, View

#: What a refiner does to pixels: gives one that stays selected another label, selects it, leaves it
#: out, or says that it is reliable.
CHANGES = ('relabeled', 'added', 'removed', 'reliable')


def share(part: float, whole: float) -> Optional[float]:
    """Return a share, None of nothing."""
    return part / whole if whole else None


class LabelCounts:
    """Pixels of known truth by true class and label: all, the selected ones, and their weights.

    Args:
        classes: Number of classes K.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.all, self.used, self.weight = torch.zeros(3, classes, classes, dtype=torch.float64)

    def add(
        self,
        label: Tensor,
        truth: Tensor,
        known: Tensor,
        used: Tensor,
        weight: Optional[Tensor] = None,
    ) -> None:
        """Count a batch.

        Args:
            label: int64 (B, H, W), classes.
            truth: The same.
            known: Bool (B, H, W), the pixels that are counted.
            used: Bool (B, H, W), the selected ones.
            weight: (B, H, W), the weights of the selected ones; None for 1.
        """
        used = used & known
        place = truth.long() * self.classes + label
        ones = torch.ones_like(place, dtype=torch.float64)
        weight = ones if weight is None else weight.double()
        for counts, mask, values in (
            (self.all, known, ones),
            (self.used, used, ones),
            (self.weight, used, weight),
        ):
            found = torch.bincount(place[mask], values[mask], minlength=counts.numel())
            counts += found.cpu().view_as(counts)

    def figures(self, names: Sequence[str]) -> dict[str, Any]:
        """Return shares in [0, 1], None of nothing, by what they are."""
        pixels, used, weight = (float(one.sum()) for one in (self.all, self.used, self.weight))
        return dict(
            pixels=int(pixels),
            selected=share(used, pixels),
            accuracy=share(float(self.used.trace()), used),
            accuracy_of_all=share(float(self.all.trace()), pixels),
            mean_weight=share(weight, used),
            weighted_accuracy=share(float(self.weight.trace()), weight),
            per_class={name: self._of_class(i) for i, name in enumerate(names)},
        )

    def _of_class(self, i: int) -> dict[str, Any]:
        true, right = float(self.all[i].sum()), float(self.used[i, i])
        return dict(
            pixels=int(true),
            selected=share(float(self.used[i].sum()), true),
            precision=share(right, float(self.used[:, i].sum())),
            recall=share(right, true),
        )


def changed(before: PseudoLabel, after: PseudoLabel, known: Tensor) -> list[Tensor]:
    """Find the pixels, of those that are ``known`` (B, H, W), of each of ``CHANGES``."""
    old, new = before.selected & known, after.selected & known
    nowhere = torch.zeros_like(known)
    was, sure = (nowhere if p.reliable is None else p.reliable for p in (before, after))
    relabeled = old & new & (before.label != after.label)
    return [relabeled, new & ~old, old & ~new, known & sure & ~was]


class RefinerCounts:
    """What a refiner did, on the pixels that it could change.

    Args:
        classes: Number of classes K.
    """

    def __init__(self, classes: int) -> None:
        self.before, self.after = LabelCounts(classes), LabelCounts(classes)
        self.changes = torch.zeros(len(CHANGES), 3, dtype=torch.float64)

    def add(self, before: PseudoLabel, after: PseudoLabel, truth: Tensor, known: Tensor) -> None:
        """Count a batch; of the pixels ``known`` (B, H, W), those that ``after`` has as valid."""
        known = known & after.valid
        for counts, one in ((self.before, before), (self.after, after)):
            counts.add(one.label, truth, known, one.selected, one.weight)
        right = [one.label == truth for one in (before, after)]
        self.changes += torch.tensor(
            [
                [int(one.sum()), *(int((one & r).sum()) for r in right)]
                for one in changed(before, after, known)
            ],
            dtype=torch.float64,
        )

    def figures(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the figures before and after, and of the pixels that changed."""
        before, after = self.before.figures(names), self.after.figures(names)
        changes = {}
        for name, (number, was_right, is_right) in zip(CHANGES, self.changes.tolist()):
            changes[name] = dict(
                pixels=int(number),
                share=share(number, after['pixels']),
                right_before=share(was_right, number),
                right_after=share(is_right, number),
            )
        return dict(before=before, after=after, changes=changes)


class PseudoLabelCounts:
    """Counts of the teacher's own label, of every refiner and of what every loss trains with.

    Args:
        model: A ``SemiSegmentor``.
        names: Class names.
    """

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        self.model, self.names = model, list(names)
        classes = len(self.names)
        self.raw = LabelCounts(classes)
        self.refiners: dict[str, RefinerCounts] = {
            n: RefinerCounts(classes) for n in model.refiners
        }
        self.losses = {
            name: LabelCounts(classes)
            for name, loss in model.losses.items()
            if model.streams[loss.stream].source != 'labeled'
        }

    def add(self, step: SemiStep, truth: Tensor) -> None:
        """Count a finished step.

        Args:
            step: The step.
            truth: Classes (B, H, W) of its unlabeled images; 255 where nobody knows.
        """
        known, pseudo = truth != 255, step.raw_pseudo
        self.raw.add(pseudo.label, truth, known & pseudo.valid, pseudo.selected)
        for name, after in step.refined.items():
            self.refiners[name].add(pseudo, after, truth, known)
            pseudo = after
        for name, counts in self.losses.items():
            loss = self.model.losses[name]
            for view in step.streams[loss.stream]:
                self._add_view(counts, view, truth, *loss.pixels(view))

    def _add_view(
        self,
        counts: LabelCounts,
        view: View,
        truth: Tensor,
        selected: Tensor,
        weight: Optional[Tensor],
    ) -> None:
        """Count a view, whose truth is mixed as it is; pasted labeled pixels do not count."""
        truth = truth if view.mix is None else view.mix(truth)
        known = (truth != 255) & view.own_valid
        counts.add(view.pseudo.label, truth, known, selected, weight)

    def figures(self) -> dict[str, Any]:
        """Return all figures, see ``docs/usage.md``."""
        refiners, losses = self.model.refiners, self.model.losses
        return dict(
            classes=self.names,
            raw=self.raw.figures(self.names),
            refiners={
                name: dict(
                    type=type(refiners[name]).__name__,
                    after_mixing=refiners[name].after_mixing,
                    **counts.figures(self.names),
                )
                for name, counts in self.refiners.items()
            },
            losses={
                name: dict(stream=losses[name].stream, **counts.figures(self.names))
                for name, counts in self.losses.items()
            },
        )


class GradientCounts:
    """How strongly each loss term pulls the student's parameters, and whether it pulls alike.

    Args:
        model: A ``SemiSegmentor``.
    """

    def __init__(self, model: Any) -> None:
        self.parameters = [one for one in model.segmentor.parameters() if one.requires_grad]
        self.of_parts = tuple(f'{name}.' for name in (*model.losses, *model.heads))
        self.rows: dict[str, list[tuple[float, float, Optional[float]]]] = {}

    def add(self, losses: Mapping[str, Any]) -> None:
        """Take the gradients of a step's losses; its graph is kept.

        Args:
            losses: As ``SemiSegmentor.loss`` returns them, each after its weight.
        """
        terms = {name: _number(value) for name, value in losses.items() if 'loss' in name}
        own = [value for name, value in terms.items() if not name.startswith(self.of_parts)]
        supervised = self._gradient(torch.stack(own).sum())
        whole = _dot(supervised, supervised) ** 0.5
        for name, value in terms.items():
            gradient = self._gradient(value)
            norm = _dot(gradient, gradient) ** 0.5
            cosine = share(_dot(gradient, supervised), norm * whole)
            self.rows.setdefault(name, []).append((value.item(), norm, cosine))

    def _gradient(self, loss: Tensor) -> list[Optional[Tensor]]:
        if not loss.requires_grad:
            return [None] * len(self.parameters)
        return list(
            torch.autograd.grad(loss, self.parameters, retain_graph=True, allow_unused=True)
        )

    def figures(self) -> dict[str, Any]:
        """Return by term: mean loss, mean norm, its share of all terms' norms, mean cosine."""
        means = {
            name: [_mean([row[i] for row in rows]) for i in range(3)]
            for name, rows in self.rows.items()
        }
        total = sum(norm or 0.0 for _, norm, _ in means.values())
        return {
            name: dict(loss=loss, norm=norm, share=share(norm or 0.0, total), cosine=cosine)
            for name, (loss, norm, cosine) in means.items()
        }


def _number(value: Any) -> Tensor:
    """Reduce a loss as mmengine does."""
    if isinstance(value, Tensor):
        return value.mean()
    return torch.stack([one.mean() for one in value]).sum()


def _dot(one: Sequence[Optional[Tensor]], other: Sequence[Optional[Tensor]]) -> float:
    products = [
        (a.double() * b.double()).sum()
        for a, b in zip(one, other)
        if a is not None and b is not None
    ]
    return float(torch.stack(products).sum()) if products else 0.0


def _mean(values: Sequence[Optional[float]]) -> Optional[float]:
    given = [one for one in values if one is not None]
    return share(sum(given), len(given))
