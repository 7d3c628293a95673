"""Orthogonal agents of RankMatch: choosing pixels and comparing every pixel with them.

Shape legend: ``B`` images, ``C`` channels, ``h w`` feature grid, ``N`` agents. A pixel index is
``row * w + column``.
"""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from mmseg_semi.arguments import check_choice, check_shapes

AGENT_STRATEGIES = ('orthogonal', 'random', 'top', 'all')
# Matrix products treat the last columns of an odd width by other instructions, which round
# differently. A width of whole blocks gives identical pixels identical bits, so that they tie.
_BLOCK = 64


@torch.no_grad()
def select_agents(
    features: Tensor,
    num: int,
    start: Optional[Tensor] = None,
    strategy: str = 'orthogonal',
    generator: Optional[torch.Generator] = None,
    valid: Optional[Tensor] = None,
) -> Tensor:
    r"""Choose the pixels that describe an image (RankMatch, Mai et al., CVPR 2024).

    With :math:`\hat f` the pixel features of length 1 and :math:`A` the agents chosen so far,
    ``'orthogonal'`` takes next the pixel outside :math:`A` with the smallest
    :math:`\max_{a \in A} |\hat f^T a|`, ties going to the lower index. Only the running maximum
    is kept: O(num h w C) time, O(h w) memory beside one normalized copy of the features, and
    nothing is read back from the device.

    The others are the paper's ablations: ``'random'`` draws pixels without replacement,
    ``'top'`` takes those of the largest :math:`\sum_j \hat f^T \hat f_j` (the cumulative
    self-correlation; ties to the lower index), ``'all'`` takes every pixel in raster order
    whatever ``num`` says.

    Args:
        features: (B, C, h, w), of any scale; compared in float32 at least. A pixel of zeros is
            orthogonal to everything.
        num: Number of agents N, at most h * w.
        start: int64 (B,), the first agent of each image, for ``'orthogonal'`` only. Drawn
            uniformly by default.
        strategy: ``'orthogonal'``, ``'random'``, ``'top'`` or ``'all'``.
        generator: Source of randomness, on its own device. Defaults to torch's global one of
            the device of ``features``.
        valid: Bool (B, h, w), False on padding: such pixels are taken when there are no others
            left. ``'all'`` takes them too. Defaults to all.

    Returns:
        int64 pixel indices (B, N) in the order of choice, without repetition; (B, h * w) for
        ``'all'``. Without gradient.

    Raises:
        ValueError: The strategy is unknown, ``num`` is not in [1, h * w], or ``start`` has
            another shape or type, lies outside the image (checked where that needs no copy from
            a device), or came with a strategy that has no start.
    """
    check_shapes(features=(features, 'B C h w'))
    check_choice('strategy', strategy, AGENT_STRATEGIES)
    if start is not None and strategy != 'orthogonal':
        raise ValueError(f"start is used by strategy='orthogonal' only, got {strategy!r}")
    batch, pixels, device = features.shape[0], features[0, 0].numel(), features.device
    if strategy == 'all':
        return torch.arange(pixels, device=device).repeat(batch, 1)
    if not 1 <= num <= pixels:
        raise ValueError(
            f'num must be in [1, {pixels}] for features of {tuple(features.shape[-2:])} pixels, '
            f'got {num}; take fewer agents or a finer feature grid'
        )
    if valid is not None:
        check_shapes(features=(features, 'B C h w'), valid=(valid, 'B h w'))
        valid = valid.flatten(1)
    source = device if generator is None else generator.device
    if strategy == 'random':
        draw = torch.rand(batch, pixels, generator=generator, device=source).to(device)
        return (draw if valid is None else draw + valid).topk(num, dim=1).indices

    unit = _unit_columns(features)
    with torch.autocast(device_type=device.type, enabled=False):
        if strategy == 'top':
            counted = unit[:, :, :pixels]
            total = (counted if valid is None else counted * valid[:, None]).sum(dim=2)[:, None]
            score = torch.bmm(total, unit)[:, 0, :pixels]
            if valid is not None:
                score = score.masked_fill(~valid, float('-inf'))
            return score.sort(dim=1, descending=True, stable=True).indices[:, :num].clone()
        if start is None and valid is not None:
            draw = torch.rand(batch, pixels, generator=generator, device=source).to(device)
            start = (draw + valid).argmax(dim=1)
        elif start is None:
            start = torch.randint(pixels, (batch,), generator=generator, device=source)
        else:
            _check_start(start, batch, pixels)
        return _spread(unit, pixels, num, start.to(device), valid)


def _check_start(start: Tensor, batch: int, pixels: int) -> None:
    if start.shape != (batch,) or start.dtype != torch.int64:
        raise ValueError(
            f'start must be int64 of shape ({batch},), got {start.dtype} {tuple(start.shape)}'
        )
    outside = start.device.type == 'cpu' and batch and (start.min() < 0 or start.max() >= pixels)
    if outside:
        raise ValueError(f'start must lie in [0, {pixels}), got {start.tolist()}')


def _unit_columns(features: Tensor) -> Tensor:
    """Pixel features of length 1 as (B, C, P): h * w columns, then zeros up to whole blocks."""
    batch, channels, height, width = features.shape
    pixels = height * width
    dtype = torch.promote_types(features.dtype, torch.float32)
    unit = features.new_zeros(batch, channels, pixels + -pixels % _BLOCK, dtype=dtype)
    unit[:, :, :pixels].view(batch, channels, height, width).copy_(features)
    length = torch.linalg.vector_norm(unit, dim=1, keepdim=True)
    return unit.div_(length.clamp_(min=1e-12))


def _spread(unit: Tensor, pixels: int, num: int, start: Tensor, valid: Optional[Tensor]) -> Tensor:
    """The orthogonal choice; ``unit`` as from ``_unit_columns``."""
    chosen = [start[:, None]]
    nearest = unit.new_zeros(len(unit), pixels)
    if valid is not None:
        nearest.masked_fill_(~valid, 2.0)  # above every cosine
    while len(chosen) < num:
        index = chosen[-1][:, None].expand(-1, unit.shape[1], -1)
        agent = unit.gather(2, index).transpose(1, 2)
        cosine = torch.bmm(agent, unit)[:, 0, :pixels]
        torch.maximum(nearest, cosine.abs_(), out=nearest)
        nearest.scatter_(1, chosen[-1], float('inf'))
        chosen.append(nearest.argmin(dim=1, keepdim=True))
    return torch.cat(chosen, dim=1)


def gather_agents(features: Tensor, indices: Tensor) -> Tensor:
    """Read the features at the agents' pixels, of the weak or of a strong view.

    Args:
        features: (B, C, h, w).
        indices: int64 (B, N) from ``select_agents``.

    Returns:
        Agents (B, N, C); the gradient flows to ``features``.

    Raises:
        ValueError: The shapes do not fit.
    """
    check_shapes(features=(features, 'B C h w'), indices=(indices, 'B N'))
    index = indices[:, None].expand(-1, features.shape[1], -1)
    return features.flatten(2).gather(2, index).transpose(1, 2)


def agent_correlation(features: Tensor, agents: Tensor) -> Tensor:
    r"""How much each pixel belongs to each agent (RankMatch, CVPR 2024).

    :math:`\log c_n(x) = \log \mathrm{softmax}_n(f(x)^T a_n)` of unnormalized features and
    without a temperature.

    Args:
        features: (B, C, h, w).
        agents: (B, N, C), from ``gather_agents``.

    Returns:
        Log-probabilities (B, N, h, w) over dim 1, in float32 at least, also under autocast:
        unnormalized products of many channels do not fit half precision.

    Raises:
        ValueError: The shapes do not fit.
    """
    check_shapes(features=(features, 'B C h w'), agents=(agents, 'B N C'))
    dtype = torch.promote_types(features.dtype, torch.float32)
    with torch.autocast(device_type=features.device.type, enabled=False):
        product = torch.bmm(agents.to(dtype), features.to(dtype).flatten(2))
        return product.log_softmax(dim=1).unflatten(2, features.shape[-2:])
