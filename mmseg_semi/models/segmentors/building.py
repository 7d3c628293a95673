"""Building a ``SemiSegmentor`` from its config, and refusing what cannot work."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, Optional

import torch
from mmseg.models.decode_heads.cascade_decode_head import BaseCascadeDecodeHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import HOOKS, MODELS
from torch import nn

from mmseg_semi.arguments import check_arguments, check_choice, check_whole
from mmseg_semi.errors import hint
from mmseg_semi.models.backbones.first_layer import average_rgb_filters
from mmseg_semi.models.component import Component, build_component, build_components
from mmseg_semi.models.heads import BaseSemiHead
from mmseg_semi.models.losses import BaseSemiLoss
from mmseg_semi.models.mixers import BaseLabeledMixer, BaseMixer
from mmseg_semi.models.refiners import STAGES, BaseRefiner
from mmseg_semi.models.teachers import BaseTeacher

from .frozen_encoder import EncodedImages, has_frozen_encoder
from .network import FeatureTaps, check_result, decode_heads
from .sliding_encoder_decoder import WINDOW_KEYS, SlidingEncoderDecoder
from .streams import Stream, build_streams, plan_passes

#: What ``model.compiled`` may be: compilers of torch, and two that compile nothing, to find faults.
COMPILERS = ('inductor', 'cudagraphs', 'aot_eager', 'eager')
_PREPROCESSOR_TYPES = ('SegDataPreProcessor', 'SemiDataPreprocessor')
# Heads whose forward() returns several maps in training although loss() and predict() are the
# standard ones.
_MULTI_OUTPUT_HEADS = ('DDRHead', 'PIDHead', 'VPDDepthHead')
_MOVED = dict(
    perturbation="model.streams=dict(perturbed=dict(features='weak', perturbation=...))",
    student_sees_weak="model.streams=dict(weak=dict(images='weak'))",
)


def is_semi(model: Mapping[str, Any]) -> bool:
    """Tell whether a model's config is that of ``SemiSegmentor`` or of a subclass."""
    kind = model['type']
    found = MODELS.get(kind) if isinstance(kind, str) else kind
    return isinstance(found, type) and issubclass(found, MODELS.get('SemiSegmentor'))


def refuse_unknown(owner: type, arguments: dict[str, Any]) -> NoReturn:
    """Raise TypeError for arguments that the model does not have."""
    for name, place in _MOVED.items():
        if name in arguments:
            raise TypeError(f'model.{name} is now {place}')
    check_arguments(owner, arguments, 'model')
    raise TypeError(f'model: remove the unknown argument(s) among {sorted(arguments)}')


def preprocessor_cfg(cfg: Any) -> Any:
    """Turn the config of mmseg's data preprocessor into that of ours; leave others."""
    if not isinstance(cfg, dict):
        return cfg if cfg is not None else dict(type='SemiDataPreprocessor')
    if cfg.get('type', 'SemiDataPreprocessor') not in _PREPROCESSOR_TYPES:
        return cfg
    return {**cfg, 'type': 'SemiDataPreprocessor'}


def build_teacher(model: Any, cfg: Optional[dict[str, Any]]) -> Optional[BaseTeacher]:
    """Build ``model.teacher`` and show it the student."""
    if cfg is None:
        return None
    if isinstance(cfg, Mapping) and cfg.get('type') == 'ema':
        raise ValueError(
            "model.teacher: type='ema' is now type='EMATeacher', and momentum and buffers are "
            "arguments of it: teacher=dict(type='EMATeacher', momentum=0.99)"
        )
    teacher = build_component(cfg, BaseTeacher, 'model.teacher')
    teacher.config_key, teacher.name = 'model.teacher', 'teacher'
    teacher.attach(model)
    return teacher


def check_segmentor(segmentor: Any) -> None:
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
        _check_decode_head(head)
        _check_channels(segmentor, head)


def _check_decode_head(head: Any) -> None:
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


def _check_channels(segmentor: Any, head: Any) -> None:
    """Refuse a head for other channels than those of a backbone that says which it has."""
    given = getattr(segmentor.backbone, 'channels', None)
    if not isinstance(given, tuple) or segmentor.with_neck:
        return
    index = head.in_index if isinstance(head.in_index, (list, tuple)) else [head.in_index]
    wanted = head.in_channels if isinstance(head.in_channels, (list, tuple)) else [head.in_channels]
    there = [given[i] if -len(given) <= i < len(given) else None for i in index]
    if head.input_transform != 'resize_concat' and list(wanted) != there:
        raise ValueError(
            f'model.segmentor.decode_head.in_channels is {head.in_channels} with in_index='
            f'{head.in_index}, but the maps of {type(segmentor.backbone).__name__} have {given} '
            'channels: set both to what the backbone gives'
        )


def refuse_plain_batch() -> NoReturn:
    """Raise TypeError for a batch that is not of labeled and unlabeled images."""
    raise TypeError(
        'SemiSegmentor trains on semi-supervised batches but got a plain one: use SemiDataset, '
        'SemiSampler and semi_collate in train_dataloader, and SemiDataPreprocessor'
    )


@contextmanager
def drawing_aside() -> Iterator[None]:
    """Give torch's CPU generator a stream of its own in the ``with`` block.

    What the student draws afterwards, when its weights are initialized, is then what the plain
    segmentor draws: both start alike with the same seed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**62, ())))
        yield


def build_networks(model: Any, segmentor: dict[str, Any], teacher: Any) -> None:
    """Build the student and its teacher."""
    # mmseg changes what it builds: where ``pretrained`` is given, it cannot be built of that again.
    model.segmentor_cfg, model.segmentor = segmentor, MODELS.build(copy.deepcopy(segmentor))
    check_segmentor(model.segmentor)
    model.frozen_encoder, model.encoded = has_frozen_encoder(model.segmentor), EncodedImages()
    with drawing_aside():
        model.teacher = build_teacher(model, teacher)
    for network in (model.segmentor, getattr(model.teacher, 'network', None)):
        backbone = getattr(network, 'backbone', None)
        if backbone is not None:
            average_rgb_filters(backbone)


def compile_encoders(model: Any, backend: Optional[str]) -> None:
    """Let torch compile the encoders of student and teacher when they are called first.

    Raises:
        ValueError: It is none of ``COMPILERS``.
    """
    if backend is None:
        return
    check_choice('model.compiled', backend, (None, *COMPILERS))
    for network in (model.segmentor, getattr(model.teacher, 'network', None)):
        if network is not None:
            network.backbone.compile(backend=backend)


def build_components_of(
    model: Any,
    refiners: Optional[dict[str, Any]],
    losses: Optional[dict[str, Any]],
    heads: Optional[dict[str, Any]],
    mixer: Optional[dict[str, Any]],
    labeled_mixer: Optional[dict[str, Any]],
    streams: Optional[dict[str, Any]],
) -> None:
    """Build the components and streams of a model, and show them to each other."""
    model.refiners = build_refiners(refiners)
    model.losses = build_components(losses, BaseSemiLoss, 'model.losses')
    # By name, whatever the order in a config that mmengine has written.
    heads = dict(sorted(heads.items())) if isinstance(heads, Mapping) else heads
    model.heads = build_components(heads, BaseSemiHead, 'model.heads')
    both = sorted(set(model.losses) & set(model.heads))
    if both:
        raise ValueError(
            f'model.losses and model.heads have one name, {both[0]!r}, under which both would be '
            'logged and trained: give one of them another'
        )
    model.mixer = build_component(mixer, BaseMixer, 'model.mixer') if mixer else None
    key = 'model.labeled_mixer'
    model.labeled_mixer = (
        build_component(labeled_mixer, BaseLabeledMixer, key) if labeled_mixer else None
    )
    model.streams, model.perturbations = build_streams(streams)
    model.components = [*([model.teacher] if model.teacher else []), *attach_all(model)]
    model.streams = choose_streams(model, streams)
    model.passes = plan_passes(list(model.streams.values()))
    check_label_pass(model)
    model.taps = FeatureTaps(model.components)


def build_refiners(cfgs: Optional[dict[str, Any]]) -> nn.ModuleDict:
    """Build refiners sorted by their stage, and those of one stage by their name."""
    refiners = build_components(cfgs, BaseRefiner, 'model.refiners')
    for name, one in refiners.items():
        if one.stage not in STAGES:
            raise TypeError(
                f'model.refiners.{name} ({type(one).__name__}): its stage must be one of {STAGES}, '
                f'got {one.stage!r}'
            )
    # By name within a stage: mmengine sorts the keys of a config that it writes.
    ordered = sorted(refiners.items(), key=lambda item: (STAGES.index(item[1].stage), item[0]))
    return nn.ModuleDict(dict(ordered))


def check_warmup(warmup_iters: int, warmup_epochs: int) -> tuple[int, int]:
    """Refuse a warm-up that is no whole number, or is given twice."""
    check_whole('model.warmup_iters', warmup_iters, 0)
    check_whole('model.warmup_epochs', warmup_epochs, 0)
    if warmup_iters and warmup_epochs:
        raise ValueError(
            f'model.warmup_iters={warmup_iters} and model.warmup_epochs={warmup_epochs} are both '
            'given: set one of them to 0'
        )
    return warmup_iters, warmup_epochs


def attach_all(model: Any) -> list[Component]:
    """Show every component but the teacher the model, and return them."""
    kinds = dict(refiners=model.refiners, losses=model.losses, heads=model.heads)
    named = {f'{kind}.{n}': part for kind, parts in kinds.items() for n, part in parts.items()}
    single = dict(mixer=model.mixer, labeled_mixer=model.labeled_mixer)
    named.update({key: part for key, part in single.items() if part is not None})
    perturbations = model.perturbations.items()
    named.update({f'streams.{n}.perturbation': part for n, part in perturbations})
    for key, part in named.items():
        attach(model, key, part)
    return list(named.values())


def attach(model: Any, key: str, part: Component) -> None:
    """Show a component the model; an error names its config key."""
    part.config_key, part.name = f'model.{key}', key.split('.')[1] if '.' in key else key
    try:
        part.attach(model)
        FeatureTaps([part]).check(model.segmentor)
        if part.stream and part.stream not in model.streams:
            known = list(model.streams)
            raise ValueError(
                f"{type(part).__name__}.stream is '{part.stream}', which model.streams does not "
                f'have.{hint(part.stream, known)} It has: {", ".join(known)}. Add it, for example '
                f"model.streams=dict({part.stream}=dict(features='weak', perturbation=dict("
                "type='FeatureDropout'))), or remove the component (name=None)"
            )
    except ValueError as error:
        raise ValueError(f'model.{key}: {error}') from error
    part.register_forward_hook(check_result)


def check_label_pass(model: Any) -> None:
    """Refuse passes in which the pseudo-label is needed before what it is made of is known.

    Raises:
        ValueError: The weak images share a pass with strong ones that are mixed with it.
    """
    early = {stream.name for streams in model.passes[0] for stream in streams}
    parts = [part for part in (*model.refiners.values(), model.mixer) if part is not None]
    late = [part for part in parts if getattr(part, 'after_mixing', False)]
    readers = [type(p).__name__ for p in parts if p.needs_weak and p not in late]
    if model.teacher is None:
        readers.insert(0, 'the student as its own teacher')
    if readers and 'weak' not in early:
        raise ValueError(
            'model.streams.weak shares a pass with strong images, but the pseudo-label that these '
            f'are mixed with needs its outputs before ({", ".join(readers)}): give one of them '
            'another group, or set model.teacher'
        )


def choose_streams(model: Any, listed: Optional[Mapping[str, Any]]) -> dict[str, Stream]:
    """Leave the default stream of the weak images out where nothing needs the student's passes.

    Args:
        model: Attached.
        listed: ``model.streams`` of the config.

    Raises:
        ValueError: The config takes a stream out that is needed, or has one that trains nothing.
    """
    if not model.losses and not len(model.heads):
        raise ValueError(
            'model.losses is empty: unlabeled images would train nothing. Add for example '
            "losses=dict(strong=dict(type='PseudoLabelCrossEntropy')), or train the plain "
            'segmentor with its supervised config.'
        )
    streams = dict(model.streams)
    readers = [type(part).__name__ for part in model.components if part.needs_weak]
    readers += [f'stream {one.name}' for one in streams.values() if one.features == 'weak']
    if model.teacher is None:
        readers.append('the student is its own teacher')
    readers += [type(p).__name__ for p in model.components if p.stream == 'weak']
    listed = listed or {}
    if readers and 'weak' not in streams:
        raise ValueError(
            'model.streams.weak is None, but the student must see the weak images '
            f'({", ".join(readers)}); remove the key'
        )
    if not readers and 'weak' not in listed:
        streams.pop('weak')
    for stream in streams.values():
        if stream.network == 'teacher' and getattr(model.teacher, 'network', None) is None:
            raise ValueError(
                f"model.streams.{stream.name}.network is 'teacher', but the model has no teacher "
                "with a network: set model.teacher=dict(type='EMATeacher')"
            )
    for key, loss in model.losses.items():
        stream = streams[loss.stream]
        if stream.source == 'labeled' and model.teacher is None:
            raise ValueError(
                f"model.losses.{key}.stream: stream '{stream.name}' shows labeled images, which "
                'have a pseudo-label only where a teacher gives it: set model.teacher=dict(type='
                "'EMATeacher'), or name a stream of weak or strong images"
            )
    readers_of = {**model.losses, **model.heads}
    for part in (one for one in readers_of.values() if one.stream):
        stream = streams[part.stream]
        if not stream.trains:
            raise ValueError(
                f"{part.config_key}.stream: stream '{stream.name}' has no gradient (network="
                f'{stream.network!r}, mode={stream.mode!r}); name a stream that the student sees '
                "in mode 'train'"
            )
        if stream.source == 'labeled' and part in model.heads.values():
            raise ValueError(
                f"{part.config_key}.stream: stream '{stream.name}' shows labeled images, and "
                f'{type(part).__name__} compares unlabeled ones; name a stream of strong images'
            )
    read = {'labeled', 'weak', *(part.stream for part in model.components)}
    for stream in streams.values():
        alone = [one.name for one in streams.values() if one.group == stream.group] == [stream.name]
        source = any(one.features == stream.name for one in streams.values())
        idle = alone and not source and stream.name not in read
        if idle and stream.trains and stream.name in listed:
            raise ValueError(
                f'model.streams.{stream.name} trains nothing: no loss or head reads it, and it '
                f"shares no pass. Add a loss with stream='{stream.name}', or remove the stream"
            )
    return streams


def needed_hooks(model: Any, present: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """Configs of the hooks that the components of a model need, each once.

    Args:
        model: The model.
        present: Hooks that are there; what one of the class, or of a subclass, serves is left out.

    Raises:
        ValueError: Two components need the same hook with other arguments.
    """
    needed: dict[str, dict[str, Any]] = {}
    for part in (one for one in model.modules() if isinstance(one, Component)):
        if isinstance(part.hooks, Mapping):
            raise TypeError(
                f'{part.config_key} ({type(part).__name__}).hooks must be a tuple of configs, got '
                f'the dict {part.hooks}: write (dict(...),)'
            )
        for cfg in part.hooks:
            kind = hook_class(cfg['type'], f'{part.config_key} ({type(part).__name__})')
            if any(isinstance(hook, kind) and _serves(hook, kind, part) for hook in present):
                continue
            known = needed.setdefault(str(cfg['type']), dict(cfg))
            if known != dict(cfg):
                raise ValueError(
                    f'{part.config_key} needs the hook {dict(cfg)}, and another component needs '
                    f'{known}: list the one to be used in custom_hooks'
                )
    return list(needed.values())


def _serves(hook: Any, wanted: type, part: Component) -> bool:
    """Whether a hook of the wanted class also is for this component, not for a narrower kind."""
    kind: Any = getattr(hook, 'kind', None)
    return kind is getattr(wanted, 'kind', None) or any(
        isinstance(one, kind) for one in part.modules()
    )


def hook_class(kind: Any, reader: str) -> type:
    """Return the class of the hook's ``type`` that a component names.

    Raises:
        KeyError: There is no such hook; names the component.
    """
    found = HOOKS.get(kind) if isinstance(kind, str) else kind
    if found is None:
        raise KeyError(
            f"{reader} needs the hook '{kind}', which is not registered: import its module in "
            'custom_imports, or correct the name'
        )
    return found
