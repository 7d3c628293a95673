"""Running an mmseg segmentor part by part.

mmseg's ``EncoderDecoder.loss`` and ``predict`` each do a whole pass. Semi-supervised training
needs the parts: one encoder pass over labeled and unlabeled images, logits of both, the head's
own loss on the labeled ones, and a second decoding of perturbed features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, Optional

import torch
from mmseg.models.decode_heads.cascade_decode_head import BaseCascadeDecodeHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from mmseg.structures import SegDataSample
from mmseg.utils import add_prefix
from torch import Tensor, nn

from mmseg_semi.structures import SegOutputs

from .feature_taps import FeatureTaps
from .sliding_encoder_decoder import WINDOW_KEYS, SlidingEncoderDecoder

# Heads whose forward() returns several maps in training although loss() and predict() are the
# standard ones.
_MULTI_OUTPUT_HEADS = ('DDRHead', 'PIDHead', 'VPDDepthHead')


def decode_heads(segmentor: EncoderDecoder) -> list[BaseDecodeHead]:
    """Return the decode heads of a plain or cascaded segmentor, first stage first."""
    head = segmentor.decode_head
    return list(head) if isinstance(head, nn.ModuleList) else [head]


def check_segmentor(segmentor: nn.Module) -> None:
    """Refuse a segmentor that gives no per-pixel class logits.

    Raises:
        TypeError: Not an ``EncoderDecoder``, or a head that predicts in another way (queries,
            points, several maps).
        ValueError: A head with a single sigmoid output, or a key of ``test_cfg`` that only
            ``SlidingEncoderDecoder`` reads.
    """
    name = type(segmentor).__name__
    if not isinstance(segmentor, EncoderDecoder):
        raise TypeError(
            f"model.segmentor: '{name}' is not an mmseg EncoderDecoder (or a subclass such as "
            'CascadeEncoderDecoder). Pseudo-labels need one map of class logits per image; choose '
            'a segmentor with a backbone and a decode head.'
        )
    ignored = [key for key in WINDOW_KEYS if key in (segmentor.test_cfg or {})]
    if ignored and not isinstance(segmentor, SlidingEncoderDecoder):
        raise ValueError(
            f"model.segmentor.test_cfg: '{name}' does not know {', '.join(ignored)}: use "
            "model.segmentor.type='SlidingEncoderDecoder', or remove the key(s)"
        )
    for head in decode_heads(segmentor):
        kind = type(head).__name__
        standard = isinstance(head, BaseDecodeHead) and (
            type(head).loss in (BaseDecodeHead.loss, BaseCascadeDecodeHead.loss)
            and type(head).predict in (BaseDecodeHead.predict, BaseCascadeDecodeHead.predict)
            and not any(base.__name__ in _MULTI_OUTPUT_HEADS for base in type(head).__mro__)
        )
        if not standard:
            raise TypeError(
                f"model.segmentor.decode_head: '{kind}' does not give one map of per-pixel class "
                'logits in training (it predicts by queries, points or several maps), so there is '
                'nothing to make pseudo-labels from. Use a per-pixel head, for example FCNHead, '
                'DepthwiseSeparableASPPHead, UPerHead or SegformerHead.'
            )
        if head.out_channels < 2:
            raise ValueError(
                f'model.segmentor.decode_head: {kind} has out_channels={head.out_channels} '
                f'(sigmoid). Pseudo-labels need softmax over classes: remove out_channels and '
                f'keep num_classes={max(head.num_classes, 2)}.'
            )


def _decode(segmentor: EncoderDecoder, maps: Sequence[Tensor]) -> list[Tensor]:
    stages: list[Tensor] = []
    for head in decode_heads(segmentor):
        output = head.forward(maps, stages[-1]) if stages else head.forward(maps)
        if not isinstance(output, Tensor):
            raise TypeError(
                f'model.segmentor.decode_head: {type(head).__name__}.forward() gave '
                f'{type(output).__name__} in training; one tensor of class logits (B, K, h, w) is '
                'needed'
            )
        stages.append(output)
    return stages


def forward_segmentor(
    segmentor: EncoderDecoder, images: Tensor, taps: Optional[FeatureTaps] = None
) -> SegOutputs:
    """Encode and decode images.

    Args:
        segmentor: A segmentor that ``check_segmentor`` accepts.
        images: (B, 3, H, W), normalised.
        taps: Features to record on the way.
    """
    features: dict[str, Tensor] = {}
    with (taps or FeatureTaps()).record(segmentor, features):
        maps = segmentor.extract_feat(images)
        maps = [maps] if isinstance(maps, Tensor) else list(maps)
        stages = _decode(segmentor, maps)
    size = tuple(images.shape[-2:])
    return SegOutputs(stages, size, segmentor.align_corners, maps, features)


def decode_perturbed(
    segmentor: EncoderDecoder, outputs: SegOutputs, perturb: Callable[[Tensor], Tensor]
) -> SegOutputs:
    """Decode again after perturbing every feature map that a decode head takes.

    Args:
        segmentor: The segmentor that made ``outputs``.
        outputs: Its outputs, with ``maps``.
        perturb: Applied to each used map (B, C, h, w).
    """
    used = set()
    for head in decode_heads(segmentor):
        index = head.in_index
        count = len(outputs.maps)
        used.update(i % count for i in (index if isinstance(index, (list, tuple)) else [index]))
        if getattr(head, 'c1_bottleneck', None) is not None:
            used.add(0)  # mmseg's DeepLabV3+ heads read it without naming it in in_index
    maps = [perturb(m) if i in used else m for i, m in enumerate(outputs.maps)]
    return SegOutputs(_decode(segmentor, maps), outputs.size, outputs.align_corners, maps)


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


def concat_batches(parts: Sequence[Tensor], names: Sequence[str]) -> tuple[Tensor, list[int]]:
    """Concatenate image batches and return their sizes for splitting again.

    Raises:
        ValueError: The images differ in size.
    """
    if len({tuple(part.shape[-2:]) for part in parts}) > 1:
        shapes = ', '.join(f'{n} {tuple(p.shape[-2:])}' for n, p in zip(names, parts))
        raise ValueError(
            f'images that go through the student together differ in size: {shapes}. Use '
            'SemiDataPreprocessor with `size`.'
        )
    return torch.cat(list(parts)), [part.shape[0] for part in parts]
