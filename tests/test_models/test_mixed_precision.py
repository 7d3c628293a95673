"""A step in mixed precision, beside the same step in float32."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from mmseg_semi.benchmarks.frameworks import FRAMEWORKS, SUPERVISED, Step, load_config, make_data

SCALE = 1024.0  # of the loss, so that small gradients are not lost in float16


def run(method: str, dtype: torch.dtype | None) -> tuple[dict[str, float], Tensor]:
    """Losses of a step and all its gradients in one row."""
    torch.manual_seed(0)
    step = Step(load_config(method, 'unet', 64), 'cpu')
    step.set_data(make_data(step.model, 2, 64))
    torch.manual_seed(1)
    with torch.autocast('cpu', dtype=dtype) if dtype else nullcontext():
        losses = step.model.loss(**step.data)
    total, values = step.model.parse_losses(losses)
    (total * SCALE).backward()
    grads = [one.grad.flatten() / SCALE for one in step.model.parameters() if one.grad is not None]
    return {key: one.item() for key, one in values.items() if 'loss' in key}, torch.cat(grads)


@pytest.mark.parametrize('method', [name for name in FRAMEWORKS if name != SUPERVISED])
def test_losses_and_gradients_of_both_kinds_are_near_those_of_float32(method):
    plain, whole = run(method, None)
    assert plain['strong.loss'] > 0
    for dtype, near, cosine in ((torch.float16, 0.02, 0.98), (torch.bfloat16, 0.1, 0.9)):
        losses, grads = run(method, dtype)
        assert losses != plain, 'nothing ran in half precision'
        assert losses == pytest.approx(plain, rel=near, abs=1e-7)
        assert torch.cosine_similarity(grads, whole, dim=0) > cosine
        assert grads.norm() == pytest.approx(whole.norm().item(), rel=0.05)
