"""The streams of images of a training step, as data.

A stream is a way through the student: it begins with images (labeled, weak or strong ones) or with
the encoded features of another stream, may have its features perturbed, and ends in outputs that
losses and heads read by the stream's name. Streams of one ``group`` share a pass: they are encoded
and decoded together, so that every normalization sees all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from torch import nn

from mmseg_semi.arguments import check_arguments, check_choice, check_whole
from mmseg_semi.errors import hint
from mmseg_semi.models.component import build_component
from mmseg_semi.models.perturbations import BasePerturbation

SOURCES = ('labeled', 'weak', 'strong')
NETWORKS = ('student', 'teacher')
MODES = ('', 'train', 'eval')
#: The streams that every model has, as far as something reads them.
DEFAULT_STREAMS: dict[str, dict[str, Any]] = dict(
    labeled=dict(images='labeled', group='clean'),
    weak=dict(images='weak', group='clean'),
    strong=dict(images='strong', group='strong'),
)


@dataclass
class Stream:
    """One stream of ``model.streams``.

    Attributes:
        name: Its name.
        images: ``'labeled'``, ``'weak'`` or ``'strong'``; None when it begins with features.
        view: Which of the strong views, from 0; None for all of them, one after the other.
        views: How many strong views the method has; None for as many as the data give.
        features: Name of the stream whose encoded (not perturbed) features it begins with.
        perturbation: What perturbs the features between encoder and decoder.
        mixed: Whether ``model.mixer`` mixes its images; strong ones are, if the config is silent.
        group: Streams of the same group share a pass; the stream's name, if the config is silent.
        network: ``'student'`` or ``'teacher'``; the teacher's passes have no gradient.
        mode: ``'train'``, or ``'eval'`` for running statistics, no dropout and no gradient; what is
            usual, if the config is silent: train for the student, eval for the teacher. The
            teacher's buffers stay in both, unless it has ``buffers='own'``.
        source: Which images it shows in the end: ``images``, or those of ``features``.
        trains: Whether its pass has a gradient.
    """

    name: str
    images: Optional[str] = None
    view: Optional[int] = None
    views: Optional[int] = None
    features: Optional[str] = None
    perturbation: Optional[BasePerturbation] = None
    mixed: Optional[bool] = None
    group: str = ''
    network: str = 'student'
    mode: str = ''
    source: str = field(init=False, default='')
    trains: bool = field(init=False, default=True)


def build_streams(
    cfgs: Optional[Mapping[str, Any]],
) -> tuple[dict[str, Stream], nn.ModuleDict]:
    """Build the streams that a config lists and the default ones.

    Args:
        cfgs: ``model.streams``: keys of :class:`Stream` by name. What a stream of
            ``DEFAULT_STREAMS`` does not say is as there; None takes a stream out.

    Returns:
        The streams by name, and the perturbations by the name of their stream.

    Raises:
        TypeError, ValueError: A key or value that does not exist, or streams that cannot work.
    """
    if not isinstance(cfgs, (Mapping, type(None))):
        raise TypeError(
            'model.streams must be a dict of named streams, for example '
            f"dict(strong=dict(images='strong')), got {type(cfgs).__name__}"
        )
    merged: dict[str, Any] = {name: dict(cfg) for name, cfg in DEFAULT_STREAMS.items()}
    for name, cfg in (cfgs or {}).items():
        if cfg is not None and not isinstance(cfg, Mapping):
            raise TypeError(f'model.streams.{name} must be a dict or None, got {cfg!r}')
        merged[name] = None if cfg is None else {**(merged.get(name) or {}), **cfg}
    # By name after the default ones: mmengine sorts the keys of a config that it writes.
    further = sorted(merged.keys() - DEFAULT_STREAMS.keys())
    merged = {name: merged[name] for name in (*DEFAULT_STREAMS, *further)}
    streams = {name: _build(name, cfg) for name, cfg in merged.items() if cfg is not None}
    for stream in streams.values():
        _check_source(stream, streams)
        origin = streams[stream.features] if stream.features else stream
        stream.source = origin.images or ''
        if stream.trains and not origin.trains:
            raise ValueError(
                f"model.streams.{stream.name} begins with the features of '{origin.name}', which "
                f'have no gradient (network={origin.network!r}, mode={origin.mode!r}): take those '
                f"of a stream in mode 'train', or give it mode='eval' too"
            )
    labeled = streams.get('labeled')
    if labeled is None or labeled.images != 'labeled' or not labeled.trains:
        raise ValueError(
            "model.streams.labeled must be there, with images='labeled', of the student in mode "
            "'train': the segmentor's own losses read it"
        )
    perturbed = {one.name: one.perturbation for one in streams.values() if one.perturbation}
    return streams, nn.ModuleDict(perturbed)


def _build(name: str, cfg: dict[str, Any]) -> Stream:
    key = f'model.streams.{name}'
    check_arguments(Stream, {**cfg, 'name': name}, key)
    stream = Stream(name=name, **cfg)
    if (stream.images is None) == (stream.features is None):
        raise ValueError(
            f'{key} must begin with one of images={SOURCES} and features=<name of a stream>, got '
            f'images={stream.images!r}, features={stream.features!r}'
        )
    if stream.images is not None:
        check_choice(f'{key}.images', stream.images, SOURCES)
    if stream.mixed is not None:
        check_choice(f'{key}.mixed', stream.mixed, (True, False))
    check_choice(f'{key}.network', stream.network, NETWORKS)
    check_choice(f'{key}.mode', stream.mode, MODES)
    for one, low in (('view', 0), ('views', 1)):
        if getattr(stream, one) is not None:
            check_whole(f'{key}.{one}', getattr(stream, one), low)
    given = {one: getattr(stream, one) for one in ('mixed', 'view', 'views')}
    wrong = [f'{n}={v}' for n, v in given.items() if v is not None and v is not False]
    if stream.images != 'strong' and wrong:
        raise ValueError(f"{key}: {wrong[0]} is for a stream with images='strong' alone: remove it")
    if stream.perturbation is not None:
        stream.perturbation = build_component(
            stream.perturbation, BasePerturbation, f'{key}.perturbation'
        )
    if stream.mixed is None:
        stream.mixed = stream.images == 'strong'
    stream.group = stream.group or name
    stream.mode = stream.mode or ('train' if stream.network == 'student' else 'eval')
    stream.trains = stream.network == 'student' and stream.mode == 'train'
    return stream


def _check_source(stream: Stream, streams: dict[str, Stream]) -> None:
    if stream.features is None:
        return
    source = streams.get(stream.features)
    if source is None or source.images is None:
        known = [one.name for one in streams.values() if one.images is not None]
        raise ValueError(
            f"model.streams.{stream.name}.features: there is no stream '{stream.features}' of "
            f'images.{hint(str(stream.features), known)} Streams of images: {", ".join(known)}'
        )


def plan_passes(streams: Sequence[Stream]) -> tuple[list[list[Stream]], list[list[Stream]]]:
    """Order the passes: those before the pseudo-label is made, and those after.

    First come the student's passes in mode 'eval' of images that are not mixed, before a training
    pass moves the running statistics, then its other passes of such images, then all others, each
    in the order in which the config first names their groups. The pseudo-label is made before the
    first pass with strong images (they are mixed with it), or at the end.

    Raises:
        ValueError: A stream begins with features that are encoded in a later pass.
    """
    groups: dict[str, list[Stream]] = {}
    for stream in streams:
        groups.setdefault(stream.group, []).append(stream)
    kinds = {group: {one.images for one in several} for group, several in groups.items()}
    early = {group for group, images in kinds.items() if images & {'labeled', 'weak'}}
    early -= {group for group, images in kinds.items() if 'strong' in images}
    still = {g for g in early if (groups[g][0].network, groups[g][0].mode) == ('student', 'eval')}
    order = sorted(groups, key=lambda group: (group not in early, group not in still))
    passes = [groups[group] for group in order]
    encoded: set[str] = set()
    for several in passes:
        encoded.update(one.name for one in several if one.images is not None)
        if len({(one.network, one.mode) for one in several}) > 1:
            raise ValueError(
                f'model.streams: {", ".join(one.name for one in several)} share the pass '
                f"'{several[0].group}', but not the network and its mode: give them one network "
                'and one mode, or groups of their own'
            )
        for stream in several:
            if stream.features is not None and stream.features not in encoded:
                raise ValueError(
                    f"model.streams.{stream.name} begins with the features of '{stream.features}', "
                    'which a later pass encodes: name its group after that one in model.streams'
                )
    strong = [any(one.images == 'strong' for one in several) for several in passes]
    first = strong.index(True) if any(strong) else len(passes)
    return passes[:first], passes[first:]
