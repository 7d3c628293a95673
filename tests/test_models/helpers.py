"""Steps, hooks and random tensors for tests of parts of a model."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from types import SimpleNamespace
from typing import Any, Optional

import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.registry import HOOKS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmseg_semi.models.segmentors.building import needed_hooks
from mmseg_semi.structures import PseudoLabel, SemiStep, View


def noise(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Normal random numbers of a generator of their own."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def integers(high: int, *shape: int, seed: int = 0) -> Tensor:
    """Whole random numbers in [0, high) of a generator of their own."""
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


def spy(monkeypatch: Any, module: Any, name: str) -> list[tuple[tuple, Any]]:
    """Record what a function of a module is given and returns."""
    calls, original = [], getattr(module, name)

    def recorded(*args: Any, **kwargs: Any) -> Any:
        calls.append((args, original(*args, **kwargs)))
        return calls[-1][1]

    monkeypatch.setattr(module, name, recorded)
    return calls


def hooked(model: nn.Module, without: Sequence[str] = ()) -> nn.Module:
    """The model as a run leaves it whose hooks, but those of the given types, have begun."""
    for cfg in needed_hooks(model):
        if cfg['type'] not in without:
            model.hook_attached(HOOKS.build(dict(cfg)))
    return model


def runner_of(model: nn.Module, iteration: int = 0, **more: Any) -> Any:
    """What a hook reads of a runner."""
    return SimpleNamespace(model=model, iter=iteration, **more)


def finish_step(model: nn.Module, prepared: dict[str, Any]) -> tuple[SemiStep, dict[str, Tensor]]:
    """One training iteration without update on a preprocessed batch: the step and its losses."""
    steps: list[SemiStep] = []
    model.observers.clear()
    model.add_observer(steps.append)
    losses = model(**prepared, mode='loss')
    return steps[-1], losses


def run_step(model: nn.Module, data: dict[str, Any]) -> tuple[SemiStep, dict[str, Tensor]]:
    """One training iteration without update on a collated batch, which is left as it is."""
    return finish_step(model, model.data_preprocessor(deepcopy(data), True))


def begin_step(model: nn.Module, data: dict[str, Any]) -> SemiStep:
    """A step of a collated batch, which is left as it is."""
    return model.begin_step(**model.data_preprocessor(deepcopy(data), True))


def make_step(
    pseudo: Optional[PseudoLabel] = None,
    labeled: Any = None,
    weak: Any = None,
    truth: Optional[Tensor] = None,
    strong: Sequence[Tensor] = (),
    places: Optional[Sequence[int]] = None,
    **fields: Any,
) -> SemiStep:
    """A step without a model.

    Args:
        pseudo: Pseudo-label of the weak images: before, and as far as nothing else is said, after
            the refiners.
        labeled: Outputs on the labeled images.
        weak: The student's outputs on the weak images.
        truth: Classes (Bl, H, W) of the labeled images.
        strong: Strong views.
        places: Places of the unlabeled images among all.
        **fields: Further fields of ``SemiStep``.
    """
    truth = torch.zeros(0, 1, 1, dtype=torch.int64) if truth is None else truth
    samples = [SegDataSample(gt_sem_seg=PixelData(data=one[None])) for one in truth]
    count = len(strong[0]) if strong else 0
    metas = [{}] * count if places is None else [dict(sample_index=place) for place in places]
    outputs = dict(labeled=labeled, weak=weak)
    given: dict[str, Any] = dict(
        labeled_images=torch.zeros(len(truth), 3, *truth.shape[1:]),
        labeled_samples=samples,
        weak_images=None,
        strong_images=list(strong),
        valid=None if pseudo is None else pseudo.valid,
        unlabeled_samples=[SegDataSample(metainfo=meta) for meta in metas],
        streams={k: [View(outputs=one)] for k, one in outputs.items() if one is not None},
        raw_pseudo=pseudo,
        pseudo=pseudo,
    )
    return SemiStep(**{**given, **fields})


def logits_of(segmentor: nn.Module, images: Tensor) -> Tensor:
    """Logits at input size, from mmseg's own parts."""
    raw = segmentor.decode_head(segmentor.extract_feat(images))
    return F.interpolate(raw, images.shape[-2:], mode='bilinear', align_corners=False)


def mixed_by_hand(weak: Tensor, mix: Any, align_corners: bool) -> Tensor:
    """Weak features enlarged, cut and pasted with the view's box, and reduced again."""
    resize = dict(mode='bilinear', align_corners=align_corners)
    full = F.interpolate(weak, size=mix.mask.shape[-2:], **resize)
    mixed = full.clone()
    for b, partner in enumerate(mix.partners.tolist()):
        mixed[b][:, mix.mask[b]] = full[partner][:, mix.mask[b]]
    return F.interpolate(mixed, size=weak.shape[-2:], **resize)


def shake(network: nn.Module, scale: float = 0.3, seed: int = 1) -> None:
    """Add noise to the parameters of a network."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for value in network.parameters():
            value.add_(scale * torch.randn_like(value))


def same_rows(first: Tensor, second: Tensor) -> bool:
    """Two sets of vectors are one, up to rounding."""
    if not len(first) or not len(second):
        return len(first) == len(second)
    distance = torch.cdist(first.double(), second.double())
    return bool(distance.amin(0).max() < 1e-4 and distance.amin(1).max() < 1e-4)


def queue_of(queues: nn.Module, number: int) -> Tensor:
    """Entries of one of ``NegativeQueues``, the oldest first."""
    count, head = int(queues.counts[number]), int(queues.heads[number])
    length, start = int(queues.lengths[number]), int(queues.starts[number])
    places = [(head - count + i) % length for i in range(count)]
    return queues.features[start : start + length][places]
