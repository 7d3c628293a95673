"""Quantiles over the global batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.dist import all_gather, all_reduce, get_world_size
from torch import Tensor

from mmseg_semi.functional import pack_scores, quantile_threshold


def global_quantiles(score: Tensor, valid: Tensor, quantiles: Sequence[float]) -> list[Tensor]:
    """Return 0-dim quantiles of the valid scores of all ranks.

    Args:
        score: Of any shape, which may differ between the ranks.
        valid: Bool, the same shape.
        quantiles: In [0, 1].
    """
    if get_world_size() > 1:
        size = torch.tensor(score.numel(), device=score.device)
        all_reduce(size, op='max')
        score = torch.cat(all_gather(pack_scores(score, valid, int(size))))
        valid = ~score.isnan()
    return [quantile_threshold(score, valid, one) for one in quantiles]
