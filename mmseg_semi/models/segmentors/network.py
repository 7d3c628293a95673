"""Running an mmseg segmentor part by part, and several streams of images through it together.

mmseg's ``EncoderDecoder.loss`` and ``predict`` each do a whole pass. Semi-supervised training needs
the parts: encoding several streams together, perturbing what the decoder takes, decoding streams
together, the head's own loss on the labeled images, and features from the inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Callable, Optional, Union

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.structures import SegDataSample
from mmseg.utils import add_prefix
from torch import Tensor, nn

from mmseg_semi.errors import hint
from mmseg_semi.models.component import Component, classifier_of, fusion_layers
from mmseg_semi.models.heads import BaseSemiHead
from mmseg_semi.models.losses import BaseSemiLoss
from mmseg_semi.models.mixers import BaseLabeledMixer, BaseMixer
from mmseg_semi.models.perturbations import BasePerturbation
from mmseg_semi.models.refiners import BaseRefiner
from mmseg_semi.models.teachers.base_teacher import forward_mode
from mmseg_semi.structures import Features, PseudoLabel, SegOutputs, SemiStep, View

from .frozen_encoder import EncodedImages
from .streams import Stream

TAP_NAMES = ('encoder', 'aspp', 'fusion', 'penultimate', 'classifier')


def decode_heads(segmentor: Any) -> list[BaseDecodeHead]:
    """Return the decode heads of a plain or cascaded segmentor, first stage first."""
    head = segmentor.decode_head
    return list(head) if isinstance(head, nn.ModuleList) else [head]


def encode(segmentor: Any, images: Tensor, taps: FeatureTaps) -> Features:
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
    height, width = images.shape[-2:]
    return Features(maps, (height, width), found)


def decode(segmentor: Any, features: Features, taps: FeatureTaps) -> SegOutputs:
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
            output = _decode_stage(head, given)
            if not isinstance(output, Tensor):
                raise TypeError(
                    f'model.segmentor.decode_head: {type(head).__name__}.forward() gave '
                    f'{type(output).__name__} in training; one tensor of class logits '
                    '(B, K, h, w) is needed: use a head that gives one'
                )
            stages.append(output)
    taps.check_found(found)
    return SegOutputs(stages, features.size, segmentor.align_corners, features.maps, found)


def _decode_stage(head: Any, given: tuple) -> Any:
    try:
        return head.forward(*given)
    except ValueError as error:
        if 'more than 1 value per channel' not in str(error):
            raise
        raise ValueError(
            'a normalization of the segmentor gets one image alone, pooled to one pixel (ASPP '
            'and pyramid pooling do that), and cannot normalize it: train with at least 2 '
            'labeled and 2 unlabeled images a rank (train_dataloader.batch_size, '
            'sampler.ratio), or with SyncBN on several GPUs'
        ) from error


def used_levels(segmentor: Any, count: int) -> list[int]:
    """Tell which of the encoder's ``count`` maps a decode head takes."""
    used: set[int] = set()
    for head in decode_heads(segmentor):
        index = head.in_index
        used.update(i % count for i in (index if isinstance(index, (list, tuple)) else [index]))
        if getattr(head, 'c1_bottleneck', None) is not None:
            used.add(0)  # mmseg's DeepLabV3+ heads read it without naming it in in_index
    return sorted(used)


def supervised_losses(
    segmentor: Any, outputs: SegOutputs, samples: list[SegDataSample]
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


def _are_tensors(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and all(isinstance(one, Tensor) for one in values)


_RESULTS: dict[type[Component], tuple[str, Callable[[Any], bool]]] = {
    BaseRefiner: ('a PseudoLabel', lambda found: isinstance(found, PseudoLabel)),
    BaseMixer: (
        'a View with an image and a pseudo-label',
        lambda found: (
            isinstance(found, View)
            and isinstance(found.image, Tensor)
            and isinstance(found.pseudo, PseudoLabel)
        ),
    ),
    BaseLabeledMixer: (
        'two tensors, images and truth',
        lambda found: _are_tensors(found) and len(found) == 2,
    ),
    BasePerturbation: ('a list of feature maps', _are_tensors),
    BaseSemiLoss: ('a 0-dim tensor', lambda found: isinstance(found, Tensor) and not found.dim()),
    BaseSemiHead: (
        'a dict of tensors of one number',
        lambda found: (
            isinstance(found, dict)
            and _are_tensors(list(found.values()))
            and all(one.numel() == 1 for one in found.values())
        ),
    ),
}


def check_result(part: Component, _: Any, result: Any) -> Any:
    """Refuse what a component may not return; a forward hook of every one, see ``attach``.

    Raises:
        TypeError: Names the config key, what it must return and what it did.
    """
    for base, (wanted, fits) in _RESULTS.items():
        if isinstance(part, base) and not fits(result):
            raise TypeError(
                f'{part.config_key} ({type(part).__name__}) must return {wanted}, got '
                f'{_describe(result)}'
            )
    return result


def _describe(result: Any) -> str:
    if isinstance(result, Tensor):
        return f'a tensor of shape {tuple(result.shape)}'
    if isinstance(result, dict):
        return f'a dict of {", ".join(f"{k}: {_describe(v)}" for k, v in result.items())}'
    if isinstance(result, (list, tuple)):
        return f'a {type(result).__name__} of {", ".join(map(_describe, result)) or "nothing"}'
    return 'None' if result is None else f'a {type(result).__name__}'


def check_sizes(parts: Sequence[Tensor], names: Sequence[str]) -> None:
    """Raise ValueError when image batches that share a pass differ in size."""
    if len({tuple(part.shape[-2:]) for part in parts}) > 1:
        shapes = ', '.join(f'{n} {tuple(p.shape[-2:])}' for n, p in zip(names, parts))
        raise ValueError(
            f'images that go through the student together differ in size: {shapes}. Use '
            'SemiDataPreprocessor with `size`.'
        )


class PassesMixin:
    """Sends the streams of a ``SemiSegmentor`` through its student."""

    segmentor: Any
    teacher: Any
    mixer: Any
    components: list[Component]
    streams: dict[str, Stream]
    taps: FeatureTaps
    channels_last: bool
    frozen_encoder: bool
    encoded: EncodedImages

    def encode(
        self, images: Union[Tensor, list[Tensor]], network: Optional[nn.Module] = None
    ) -> Features:
        """Encode normalized images (B, 3, H, W) with the student, or with another network.

        A frozen encoder is not asked again for images that it has seen in this step.

        Args:
            images: A batch, or several that are encoded together.
            network: The network; None for the student.
        """
        parts = [images] if isinstance(images, Tensor) else images
        network = network or self.segmentor
        if self.frozen_encoder and network.backbone is self.segmentor.backbone:
            return self.encoded.encode(parts, lambda new: self._encode(new, network))
        return self._encode(parts, network)

    def _encode(self, parts: list[Tensor], network: nn.Module) -> Features:
        images = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return encode(network, images, self.taps)

    def decode(self, features: Features, network: Optional[nn.Module] = None) -> SegOutputs:
        """Decode features with the student, or with another network."""
        return decode(network or self.segmentor, features, self.taps)

    def run(self, images: Tensor, network: Optional[nn.Module] = None) -> SegOutputs:
        """Encode and decode."""
        return self.decode(self.encode(images, network), network)

    @contextmanager
    def network_of(self, stream: Stream) -> Iterator[nn.Module]:
        """Give the network that a stream's pass goes through, in the stream's mode."""
        if stream.trains:
            yield self.segmentor
        elif stream.network == 'student':
            with torch.no_grad(), forward_mode(self.segmentor, stream.mode):
                yield self.segmentor
        else:
            with torch.no_grad(), self.teacher.in_mode(stream.mode) as network:
                yield network

    def run_pass(self, step: SemiStep, streams: list[Stream]) -> None:
        """Send streams through a network together, so that its normalizations see them all."""
        with self.network_of(streams[0]) as network:
            self._run_pass(step, streams, network)

    def _run_pass(self, step: SemiStep, streams: list[Stream], network: nn.Module) -> None:
        views = {stream.name: self.open_views(step, stream) for stream in streams}
        flat = [view for several in views.values() for view in several]
        if not flat:
            return
        with_images = [stream for stream in streams if stream.images is not None]
        images: list[list[Any]] = [[v.image for v in views[one.name]] for one in with_images]
        if images:
            names = [one.name for one, several in zip(with_images, images) for _ in several]
            joined = [one for several in images for one in several]
            check_sizes(joined, names)
            features = self.encode(joined, network)
            parts = features.split([sum(map(len, several)) for several in images])
            step.encoded.update({one.name: part for one, part in zip(with_images, parts)})
        if len(with_images) < len(streams) or any(_perturbation(one, 'encoder') for one in streams):
            features = Features.join(
                [self.perturb(step, stream, len(views[stream.name])) for stream in streams]
            )
        counts = {s.name: len(step.encoded[s.features or s.name]) for s in streams}
        sizes = [counts[name] // len(several) for name, several in views.items() for _ in several]
        with self.perturbed_classifier(streams, counts, views, network):
            outputs = self.decode(features, network).split(sizes)
        for view, own in zip(flat, outputs):
            view.outputs = own

    def open_views(self, step: SemiStep, stream: Stream) -> list[View]:
        """Return what goes through a stream; strong views were mixed before."""
        if stream.name not in step.streams:
            if stream.features is not None:
                sources = self.open_views(step, self.streams[stream.features])
                views = [View(None, one.pseudo, one.mix, number=one.number) for one in sources]
            elif stream.images == 'labeled':
                views = [View(step.labeled_images, step.labeled_pseudo)]
            else:
                views = [View(step.weak_images, step.pseudo)]
            step.streams[stream.name] = views
        return step.streams[stream.name]

    @torch.no_grad()
    def mix_views(self, step: SemiStep) -> None:
        """Mix the strong views together with the pseudo-label."""
        for name, views in step.streams.items():  # those whose pass is done
            labeled = self.streams[name].source == 'labeled'
            for view in views:
                view.pseudo = step.labeled_pseudo if labeled else step.pseudo
        read = {name for part in self.components for name in part.pseudo_fields}
        dropped = {name: None for name in ('logits', 'prob') if name not in read}
        pseudo = step.pseudo.update(**dropped)
        strong = [one for one in self.streams.values() if one.images == 'strong']
        plain = [View(images, pseudo) for images in step.strong_images]
        mixed = plain
        if self.mixer is not None and any(one.mixed for one in strong):
            mixed = [self.mixer(images, pseudo, step) for images in step.strong_images]
        for stream in strong:
            views = mixed if stream.mixed else plain
            numbers = range(len(views)) if stream.view is None else [stream.view]
            step.streams[stream.name] = [replace(views[i], number=i) for i in numbers]

    def perturb(self, step: SemiStep, stream: Stream, views: int) -> Features:
        """Return the features of a stream as the decoder gets them."""
        features = step.encoded[stream.features or stream.name]
        perturbation = _perturbation(stream, 'encoder')
        if perturbation is None:
            return features
        used = used_levels(self.segmentor, len(features.maps))
        maps = list(features.maps)
        changed = _perturbed(perturbation, [maps[i] for i in used], views)
        for level, one in zip(used, changed):
            maps[level] = one
        return Features(maps, features.size, features.taps)

    @contextmanager
    def perturbed_classifier(
        self,
        streams: list[Stream],
        counts: dict[str, int],
        views: dict[str, list[View]],
        network: nn.Module,
    ) -> Iterator[None]:
        """Let the perturbations whose place it is change what the classifier takes."""
        every = {one.name: _perturbation(one, 'classifier') for one in streams}
        there = {name: one for name, one in every.items() if one is not None}

        def change(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            parts = dict(zip(counts, given[0].split(list(counts.values()))))
            for name, perturbation in there.items():
                (parts[name],) = _perturbed(perturbation, [parts[name]], len(views[name]))
            return (torch.cat(list(parts.values())), *given[1:])

        if not there:
            yield
            return
        handle = classifier_of(decode_heads(network)[-1]).register_forward_pre_hook(change)
        try:
            yield
        finally:
            handle.remove()


def _perturbation(stream: Stream, place: str) -> Optional[BasePerturbation]:
    """The perturbation of a stream at a place, None where there is none."""
    one = stream.perturbation
    return one if one is not None and one.place == place else None


def _perturbed(perturbation: BasePerturbation, maps: list[Tensor], views: int) -> list[Tensor]:
    """Maps of a stream after its perturbation, which keeps their shapes."""
    changed = perturbation(maps, views)
    shapes = [[tuple(one.shape) for one in several] for several in (maps, changed)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f'{perturbation.config_key} ({type(perturbation).__name__}) must return maps of the '
            f'shapes that it got, {shapes[0]}, got {shapes[1]}'
        )
    return changed


class FeatureTaps:
    """Records named features during a pass, without editing a segmentor.

    Args:
        readers: The components that read them. A name is ``'encoder'`` (the backbone's last map),
            ``'aspp'`` (the ASPP module's output), ``'fusion'`` (the input of DeepLabV3+'s
            convolutions after ASPP: low-level features and ASPP output), ``'penultimate'`` (the
            input of the classifier layer, what the decoder has put together), ``'classifier'``
            (its output: class logits), or the path of any module inside the segmentor (its
            output).
    """

    def __init__(self, readers: Iterable[Component] = ()) -> None:
        self.readers = list(readers)
        self.names = sorted({name for reader in self.readers for name in reader.taps})

    def check(self, segmentor: nn.Module) -> None:
        """Raise ValueError for a name that ``segmentor`` does not have."""
        for name in self.names:
            _locate(segmentor, name)

    def check_found(self, found: dict[str, Tensor]) -> None:
        """Raise ValueError for a feature that a whole pass has not given, or of other channels."""
        for name in self.names:
            if name not in found:
                raise ValueError(
                    f"tap '{name}': the segmentor does not run this module when it predicts; "
                    f'choose another one, or one of {TAP_NAMES}'
                )
        for reader in self.readers:
            for name, channels in reader.tap_channels.items():
                if found[name].shape[1] != channels:
                    raise ValueError(
                        f"{reader.config_key} ({type(reader).__name__}): the features '{name}' "
                        f'have {found[name].shape[1]} channels, not {channels}: set '
                        f'in_channels={found[name].shape[1]}'
                    )

    @contextmanager
    def record(self, segmentor: nn.Module, into: dict[str, Tensor]) -> Iterator[None]:
        """Write each tapped feature (B, C, h, w) that the block computes to ``into``."""
        handles = []
        try:
            for name in self.names:
                module, before = _locate(segmentor, name)
                if before:

                    def read_input(_: nn.Module, args: Any, name: str = name) -> None:
                        into[name] = _last_tensor(args, name)

                    handles.append(module.register_forward_pre_hook(read_input))
                else:

                    def read(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
                        into[name] = _last_tensor(output, name)

                    handles.append(module.register_forward_hook(read))
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


def _locate(segmentor: Any, name: str) -> tuple[nn.Module, bool]:
    """Return the tapped module and whether its input (else its output) is read."""
    head = decode_heads(segmentor)[-1]
    if name == 'encoder':
        return segmentor.backbone, False
    if name == 'penultimate':
        # The classifier's input before the head's own dropout.
        layer = classifier_of(head)
        return (head.dropout if head.dropout is not None else layer), True
    if name == 'classifier':
        return classifier_of(head), False
    if name == 'aspp':
        if not (hasattr(head, 'aspp_modules') and hasattr(head, 'bottleneck')):
            raise ValueError(
                f"tap 'aspp': {type(head).__name__} has no ASPP module. Use 'encoder', "
                "'penultimate' or a module path such as 'decode_head.convs'."
            )
        return head.bottleneck, False
    if name == 'fusion':
        return fusion_layers(head), True
    try:
        return segmentor.get_submodule(str(name)), False
    except AttributeError as error:
        modules = [n for n, _ in segmentor.named_modules() if n.count('.') == 1]
        raise ValueError(
            f"tap '{name}': there is no such feature.{hint(str(name), [*TAP_NAMES, *modules])} "
            f'Features: {", ".join(TAP_NAMES)}, or the path of a module of the segmentor. '
            f'Modules: {", ".join(modules)}'
        ) from error
