"""Weights of RGB images in a network of another number of channels."""

from __future__ import annotations

from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

RGB = 3


def fits_averaged(given: Tensor, wanted: Tensor) -> bool:
    """Whether a convolution's weights (O, 3, k, k) differ in the number of channels alone."""
    return (
        given.ndim == wanted.ndim == 4
        and given.shape[1] == RGB != wanted.shape[1]
        and given.shape[0] == wanted.shape[0]
        and given.shape[2:] == wanted.shape[2:]
    )


def averaged_filters(weight: Tensor, channels: int) -> Tensor:
    """The mean of the RGB filters for each channel, times 3 / C.

    So an image whose channels are equal gives what its gray RGB image gave, and no order of the
    channels is better than another.

    Args:
        weight: (O, 3, k, k).
        channels: C.

    Returns:
        (O, C, k, k).
    """
    mean = weight.mean(dim=1, keepdim=True) * (RGB / channels)
    return mean.repeat(1, channels, 1, 1)


def average_rgb_filters(network: nn.Module) -> None:
    """Let a network take weights whose first layer was trained on RGB images.

    Whatever loads them (``init_cfg``, ``pretrained``, ``load_from``): a convolution without groups
    that is given (O, 3, k, k) where it has (O, C, k, k) takes :func:`averaged_filters`, and one
    line of the log says so.

    Args:
        network: A backbone, or what holds one.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups == 1 and module.in_channels != RGB:
            module._register_load_state_dict_pre_hook(_average, with_module=True)


def _average(module: nn.Conv2d, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    name = f'{prefix}weight'
    given = state.get(name)
    if not isinstance(given, Tensor) or not fits_averaged(given, module.weight):
        return
    state[name] = averaged_filters(given, module.in_channels)
    print_log(
        f'{name}: pretrained for RGB; each of the {module.in_channels} channels begins with the '
        f'mean of its three filters, times 3 / {module.in_channels}',
        logger='current',
    )
