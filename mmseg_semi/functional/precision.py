"""In which precision scores and losses are computed."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Take half precision to float32 and leave float64 as it is.

    Scores of half precision overflow, and so do sums over positions; a whole step in float64 can
    be compared with another program to the last digits.
    """
    return tensor if tensor.dtype == torch.float64 else tensor.float()
