"""Mixed precision on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmseg.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Train under CPU autocast in bfloat16.

    mmengine's ``AmpOptimWrapper`` refuses machines without an accelerator; bfloat16 has float32's
    range, so no loss scaling is needed.

    Args:
        dtype: Must be ``'bfloat16'``.
        **kwargs: Arguments of ``OptimWrapper``.

    Raises:
        ValueError: Another dtype.
    """

    def __init__(self, dtype: str = 'bfloat16', **kwargs: Any) -> None:
        if dtype != 'bfloat16':
            raise ValueError(
                f"optim_wrapper.dtype must be 'bfloat16' on a CPU, got {dtype!r}; float16 needs "
                'a GPU'
            )
        super().__init__(**kwargs)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the forward pass under autocast."""
        with super().optim_context(model), torch.autocast('cpu', dtype=torch.bfloat16):
            yield
