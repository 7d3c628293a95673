"""AEL's confidence bank: how well each class is learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Optional

import torch
from mmengine.dist import all_reduce
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_semi.arguments import Number, OneOf
from mmseg_semi.functional.equalization import class_confidence_sums
from mmseg_semi.models.component import last_head
from mmseg_semi.structures import SemiStep

from .base_semi_head import BaseSemiHead

if TYPE_CHECKING:
    from mmseg_semi.models.segmentors import SemiSegmentor

ABSENT = ('skip', 'zero')
MOMENTS = ('after', 'before')


@MODELS.register_module()
class ClassConfidence(BaseSemiHead):
    r"""Follow the student's confidence in the true class on labeled pixels, class by class.

    AEL (Hu et al., NeurIPS 2021): :math:`c_k \leftarrow m c_k + (1 - m) \bar p_k` after every
    iteration, with :math:`\bar p_k` the mean probability of class k over the labeled pixels of
    class k of the global batch, all ranks together, as the student saw them (after
    ``model.labeled_mixer``); in the warm-up too. ``ClassConfidenceHook`` does the update. It has no
    losses; ``CopyPaste``, ``ClassAwareCutMix`` and ``PseudoLabelCrossEntropy(equalize=...)`` find
    it by its name.

    The buffer ``values``, float64 (K,), is part of the checkpoint.

    Args:
        momentum: m, in [0, 1].
        absent: What a class without a labeled pixel does: ``'skip'`` keeps its value, ``'zero'``
            counts a mean of 0 (the authors' program).
        when: ``'after'``: an iteration reads what the iterations before it left; ``'before'``: its
            losses read the values that its own labeled pixels have moved (the program). Mixers,
            which work before the student's pass, read those of before in either case.

    Raises:
        ValueError: An argument outside its values.
    """

    values: Tensor
    hooks = (dict(type='ClassConfidenceHook'),)

    def __init__(
        self,
        momentum: Annotated[float, Number(0, 1)] = 0.999,
        absent: Annotated[str, OneOf(*ABSENT)] = 'skip',
        when: Annotated[str, OneOf(*MOMENTS)] = 'after',
    ) -> None:
        super().__init__()
        self.momentum, self.absent, self.when = momentum, absent, when
        self._pending: Optional[Tensor] = None
        self._current: Optional[Tensor] = None

    def attach(self, model: SemiSegmentor) -> None:
        """Make room for a value per class."""
        head = last_head(model.segmentor)
        # float64: with m = 0.999 the steps soon fall below float32's resolution.
        self.register_buffer('values', torch.zeros(head.out_channels, dtype=torch.float64))

    def supervised(self, step: SemiStep) -> dict[str, Tensor]:
        """Note the labeled pixels; there is no loss."""
        found = class_confidence_sums(step.labeled.logits.detach(), step.labeled_truth)
        self._pending = found if self._pending is None else self._pending + found
        self._current = self._moved() if self.when == 'before' else None
        return {}

    @property
    def current(self) -> Tensor:
        """What the losses of this iteration read: float64 (K,)."""
        return self.values if self._current is None else self._current

    def forward(self, step: SemiStep) -> dict[str, Tensor]:
        """Return nothing: there is no loss."""
        return {}

    @torch.no_grad()
    def update_state(self) -> None:
        """Move the values by what has been noted since the last call, over all ranks."""
        if self._pending is not None:
            self.values.copy_(self._moved())
        self._pending = self._current = None

    def _moved(self) -> Tensor:
        """The values after an update by what has been noted."""
        assert self._pending is not None  # supervised() has set it
        found = self._pending.clone()
        all_reduce(found, op='sum')
        sums, counts = found.to(self.values.dtype)
        moved = self.momentum * self.values + (1 - self.momentum) * (sums / counts.clamp(min=1))
        keep = (counts == 0) & (self.absent == 'skip')
        return torch.where(keep, self.values, moved)

    def observe(self, step: SemiStep) -> None:
        """Log the smallest and the mean confidence that this step read."""
        step.log(f'{self.name}.min', self.current.min())
        step.log(f'{self.name}.mean', self.current.mean())

    def extra_repr(self) -> str:
        """Show the constants in the model's printout."""
        return f'momentum={self.momentum}, absent={self.absent!r}, when={self.when!r}'


def find_class_confidence(
    model: Any, name: str, reader: str, argument: str
) -> tuple[ClassConfidence]:
    """Find the ``ClassConfidence`` of a model.

    Args:
        model: The ``SemiSegmentor``.
        name: Its name in ``model.heads``.
        reader: Class that needs it, for messages.
        argument: The reader's argument that names it, for messages.

    Returns:
        It, in a tuple: held so, it does not become a submodule of the reader.

    Raises:
        ValueError: There is none of this name.
    """
    head = dict(model.heads.items()).get(name)
    if not isinstance(head, ClassConfidence):
        raise ValueError(
            f"{reader} reads a ClassConfidence, and model.heads has none named '{name}' (it has: "
            f'{", ".join(model.heads) or "nothing"}): add '
            f"heads=dict({name}=dict(type='ClassConfidence')), or set {reader}.{argument} to the "
            'name of one'
        )
    return (head,)
