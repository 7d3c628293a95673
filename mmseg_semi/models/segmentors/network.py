"""Running an mmseg segmentor part by part.

mmseg's ``EncoderDecoder.loss`` and ``predict`` each do a whole pass. Semi-supervised training needs
the parts: encoding several streams together, perturbing what the decoder takes, decoding streams
together, the head's own loss on the labeled images, and features from the inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from mmseg.structures import SegDataSample
from mmseg.utils import add_prefix
from torch import Tensor, nn

from mmseg_semi.errors import hint
from mmseg_semi.models.component import last_head
from mmseg_semi.structures import Features, SegOutputs

TAP_NAMES = ('encoder', 'aspp', 'penultimate', 'classifier')


def decode_heads(segmentor: EncoderDecoder) -> list[BaseDecodeHead]:
    """Return the decode heads of a plain or cascaded segmentor, first stage first."""
    head = segmentor.decode_head
    return list(head) if isinstance(head, nn.ModuleList) else [head]


def encode(segmentor: EncoderDecoder, images: Tensor, taps: FeatureTaps) -> Features:
    """Encode images.

    Args:
        segmentor: The network.
        images: (B, 3, H, W), normalized.
        taps: Features to record on the way.
    """
    found: dict[str, Tensor] = {}
    with taps.record(segmentor, found):
        maps = segmentor.extract_feat(images)
    maps = [maps] if isinstance(maps, Tensor) else list(maps)
    return Features(maps, tuple(images.shape[-2:]), found)


def decode(segmentor: EncoderDecoder, features: Features, taps: FeatureTaps) -> SegOutputs:
    """Decode what :func:`encode` gave, perturbed or not.

    Raises:
        TypeError: The decode head gives something else than class logits.
        ValueError: A tapped feature is not on the way of this network.
    """
    found = dict(features.taps)
    stages: list[Tensor] = []
    with taps.record(segmentor, found):
        for head in decode_heads(segmentor):
            given = (features.maps, stages[-1]) if stages else (features.maps,)
            output = head.forward(*given)
            if not isinstance(output, Tensor):
                raise TypeError(
                    f'model.segmentor.decode_head: {type(head).__name__}.forward() gave '
                    f'{type(output).__name__} in training; one tensor of class logits '
                    '(B, K, h, w) is needed'
                )
            stages.append(output)
    taps.check_found(found)
    return SegOutputs(stages, features.size, segmentor.align_corners, features.maps, found)


def used_levels(segmentor: EncoderDecoder, count: int) -> list[int]:
    """Tell which of the encoder's ``count`` maps a decode head takes."""
    used = set()
    for head in decode_heads(segmentor):
        index = head.in_index
        used.update(i % count for i in (index if isinstance(index, (list, tuple)) else [index]))
        if getattr(head, 'c1_bottleneck', None) is not None:
            used.add(0)  # mmseg's DeepLabV3+ heads read it without naming it in in_index
    return sorted(used)


def supervised_losses(
    segmentor: EncoderDecoder, outputs: SegOutputs, samples: list[SegDataSample]
) -> dict[str, Tensor]:
    """Compute the segmentor's own losses (pixel samplers and auxiliary heads included).

    Args:
        segmentor: The segmentor that made ``outputs``.
        outputs: Its outputs on labeled images.
        samples: Their data samples with ``gt_sem_seg``.

    Returns:
        The names that mmseg itself would log: ``decode.*``, ``aux.*``.
    """
    losses: dict[str, Tensor] = {}
    heads = decode_heads(segmentor)
    for i, (head, logits) in enumerate(zip(heads, outputs.stages)):
        prefix = 'decode' if len(heads) == 1 else f'decode_{i}'
        losses.update(add_prefix(head.loss_by_feat(logits, samples), prefix))
    if segmentor.with_auxiliary_head:
        losses.update(segmentor._auxiliary_head_forward_train(outputs.maps, samples))
    return losses


def join_images(parts: Sequence[Tensor], names: Sequence[str]) -> Tensor:
    """Concatenate image batches that share a pass.

    Raises:
        ValueError: The images differ in size.
    """
    if len({tuple(part.shape[-2:]) for part in parts}) > 1:
        shapes = ', '.join(f'{n} {tuple(p.shape[-2:])}' for n, p in zip(names, parts))
        raise ValueError(
            f'images that go through the student together differ in size: {shapes}. Use '
            'SemiDataPreprocessor with `size`.'
        )
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


class FeatureTaps:
    """Records named features during a pass, without editing a segmentor.

    Args:
        names: ``'encoder'`` (the backbone's last map), ``'aspp'`` (the ASPP module's output),
            ``'penultimate'`` (the input of the classifier layer, what the decoder has put
            together), ``'classifier'`` (its output: class logits), or the path of any module
            inside the segmentor (its output).
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names: list[str] = sorted(set(names))

    def check(self, segmentor: nn.Module) -> None:
        """Raise ValueError for a name that ``segmentor`` does not have."""
        for name in self.names:
            _locate(segmentor, name)

    def check_found(self, found: dict[str, Tensor]) -> None:
        """Raise ValueError for a name that a whole pass has not given."""
        for name in self.names:
            if name not in found:
                raise ValueError(
                    f"tap '{name}': the segmentor does not run this module when it predicts; "
                    f'choose another one, or one of {TAP_NAMES}'
                )

    @contextmanager
    def record(self, segmentor: nn.Module, into: dict[str, Tensor]) -> Iterator[None]:
        """Write each tapped feature (B, C, h, w) that the block computes to ``into``."""
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
        finally:
            for handle in handles:
                handle.remove()


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
    if name == 'penultimate':
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
