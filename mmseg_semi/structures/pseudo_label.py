"""The pseudo-label: every per-pixel field in one object."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Callable, Optional

import torch
from torch import Tensor

# Logit of a class that is known; its softmax among zeros is 1 in float32.
_SURE = 30.0


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

    logits: Optional[Tensor]
    prob: Optional[Tensor]
    label: Tensor
    confidence: Tensor
    valid: Tensor
    selected: Tensor
    weight: Optional[Tensor] = None
    reliable: Optional[Tensor] = None
    extras: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    @torch.no_grad()
    def from_logits(cls, logits: Tensor, valid: Tensor) -> PseudoLabel:
        """Start from the teacher's logits: everything valid is selected.

        Args:
            logits: (B, K, H, W); detached and taken to float32.
            valid: Bool (B, H, W).

        Raises:
            ValueError: The sizes differ.
        """
        if logits.shape[0] != valid.shape[0] or logits.shape[-2:] != valid.shape[-2:]:
            raise ValueError(
                f'logits {tuple(logits.shape)} and valid {tuple(valid.shape)} differ in batch or '
                'size; logits must be at input size'
            )
        logits = logits.detach().float()
        prob = logits.softmax(dim=1)
        confidence, label = prob.max(dim=1)
        return cls(logits, prob, label, confidence, valid, valid.clone())

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

    def join(self, other: PseudoLabel) -> PseudoLabel:
        """Append another batch, which has the same fields, as a new object."""
        changes: dict[str, Any] = {}
        for item in fields(self):
            one, two = getattr(self, item.name), getattr(other, item.name)
            if isinstance(one, Tensor):
                changes[item.name] = torch.cat([one, two])
            elif isinstance(one, dict):
                changes[item.name] = {key: torch.cat([one[key], two[key]]) for key in one}
        return replace(self, **changes)

    @property
    def used(self) -> Tensor:
        """Bool (B, H, W): selected and valid."""
        return self.selected & self.valid
