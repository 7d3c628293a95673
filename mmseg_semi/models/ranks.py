"""What the ranks tell each other within a step, each in one call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.dist import all_gather, get_world_size
from torch import Tensor

from mmseg_semi.functional import pack_scores, quantile_threshold


class GlobalQuantiles:
    """Quantiles over the global batch.

    The ranks gather their scores in tensors of one size, which has room for those of the rank that
    has most. Each tensor also says how many its rank has, so that all of them gather again, with
    more room, where there are more than before; as a rule that is the first step alone.
    """

    #: Pixels in a unit of the size: float32 counts units, and so up to 2**32 pixels, exactly.
    unit = 256

    def __init__(self) -> None:
        self._units = 0  # the same on all ranks

    def __call__(self, score: Tensor, valid: Tensor, quantiles: Sequence[float]) -> list[Tensor]:
        """Return 0-dim quantiles of the valid scores of all ranks.

        Args:
            score: Floating point of any shape, which may differ between the ranks.
            valid: Bool, the same shape.
            quantiles: In [0, 1].
        """
        if get_world_size() > 1:
            score = self._gathered(score, valid)
            valid = ~score.isnan()
        return [quantile_threshold(score, valid, one) for one in quantiles]

    def _gathered(self, score: Tensor, valid: Tensor) -> Tensor:
        """Scores (ranks, size) of all ranks; NaN for what is not valid."""
        own = -(-score.numel() // self.unit)
        while True:
            size = self._units * self.unit
            if own <= self._units:
                packed = pack_scores(score, valid, size)
            else:
                packed = score.new_zeros(size)
            message = torch.cat([packed, packed.new_full((1,), own)])
            messages = torch.stack(all_gather(message))
            most = int(messages[:, -1].max())
            if most <= self._units:
                return messages[:, :-1]
            self._units = most


def gather_items(items: Tensor, present: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Gather what each rank holds, in the order of the ranks.

    Args:
        items: Floating point (K, M, C).
        present: Bool (K, M), which of them exist.
    """
    if get_world_size() == 1:
        return [(items, present)]
    packed = torch.cat([items, present[..., None].to(items.dtype)], dim=-1)
    return [(one[..., :-1], one[..., -1] > 0) for one in all_gather(packed)]
