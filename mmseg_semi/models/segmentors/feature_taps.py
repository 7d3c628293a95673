"""Reading intermediate features by name, without editing a segmentor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from mmseg_semi.errors import hint
from mmseg_semi.models.component import last_head

TAP_NAMES = ('encoder', 'aspp', 'fusion', 'penultimate', 'classifier')


def _last_tensor(output: Any, name: str) -> Tensor:
    while isinstance(output, (list, tuple)) and output:
        output = output[-1]
    if not isinstance(output, Tensor) or output.dim() != 4:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"tap '{name}' must give a feature map (B, C, h, w), got {shape}")
    return output


def _locate(segmentor: nn.Module, name: str) -> tuple[nn.Module, bool]:
    """Return the tapped module and whether its input (else its output) is read."""
    head = last_head(segmentor)
    if name == 'encoder':
        return segmentor.backbone, False
    if name in ('penultimate', 'fusion'):
        # The classifier's input before the head's own dropout.
        return (head.dropout if head.dropout is not None else head.conv_seg), True
    if name == 'classifier':
        return head.conv_seg, False
    if name == 'aspp':
        if not (hasattr(head, 'aspp_modules') and hasattr(head, 'bottleneck')):
            raise ValueError(
                f"tap 'aspp': {type(head).__name__} has no ASPP module. Use 'encoder', "
                "'penultimate' or a module path such as 'decode_head.convs'."
            )
        return head.bottleneck, False
    try:
        return segmentor.get_submodule(str(name)), False
    except AttributeError as error:
        modules = [n for n, _ in segmentor.named_modules() if n.count('.') == 1]
        raise ValueError(
            f"tap '{name}': there is no such feature.{hint(str(name), [*TAP_NAMES, *modules])} "
            f'Features: {", ".join(TAP_NAMES)}, or the path of a module of the segmentor. '
            f'Modules: {", ".join(modules)}'
        ) from error


class FeatureTaps:
    """Records named features during a forward pass.

    Args:
        names: ``'encoder'`` (the backbone's last map), ``'aspp'`` (the ASPP module's output),
            ``'penultimate'`` or ``'fusion'`` (the input of the classifier layer, what the decoder
            has put together), ``'classifier'`` (its output: class logits), or the path of any
            module inside the segmentor (its output).
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names: list[str] = sorted(set(names))

    def check(self, segmentor: nn.Module) -> None:
        """Raise ValueError for a name that ``segmentor`` does not have."""
        for name in self.names:
            _locate(segmentor, name)

    @contextmanager
    def record(self, segmentor: nn.Module, into: dict[str, Tensor]) -> Iterator[None]:
        """Write each tapped feature (B, C, h, w) of the passes inside the block to ``into``."""
        handles = []
        try:
            for name in self.names:
                module, before = _locate(segmentor, name)
                if before:

                    def hook(_: nn.Module, args: Any, name: str = name) -> None:
                        into[name] = _last_tensor(args, name)

                    handles.append(module.register_forward_pre_hook(hook))
                else:

                    def hook(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
                        into[name] = _last_tensor(output, name)

                    handles.append(module.register_forward_hook(hook))
            yield
            for name in self.names:
                if name not in into:
                    raise ValueError(
                        f"tap '{name}': the segmentor does not run this module when it predicts; "
                        f'choose another one, or one of {TAP_NAMES}'
                    )
        finally:
            for handle in handles:
                handle.remove()
