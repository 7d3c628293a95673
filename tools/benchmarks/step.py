#!/usr/bin/env python
"""Measure what a method's own operations cost in a training step, beside its network's passes.

A step is as in frameworks.py: random images that are prepared once, past the warm-up. Its passes
are noted. Then they are run bare: the same images through the same networks, backward from the mean
of all logits, the optimizer. And the step is run without them: each pass gives what it gave before,
and gradients end at it. What is left is the method's own: mixing, pseudo-labels, heads, losses and
their backward pass, the teacher's update. Layers that a method adds (CorrMatch's projection, U2PL's
representation) are run by themselves, and count as passes. All take turns in one process; memory is
counted in a step of its own. What a method changes inside a pass (a dropout before the classifier)
is in neither.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Union
from unittest.mock import patch

import torch
from mmengine.logging import MMLogger
from torch import Tensor

from mmseg_semi.benchmarks import measuring
from mmseg_semi.benchmarks.frameworks import (
    CROPS,
    FRAMEWORKS,
    SUPERVISED,
    Step,
    keeps_gradients,
    load_config,
    make_data,
)
from mmseg_semi.benchmarks.measuring import (
    Report,
    Row,
    at_most,
    duration,
    in_turns,
    mebibytes,
    median_ratio,
)
from mmseg_semi.benchmarks.step_memory import LiveBytes
from mmseg_semi.errors import run_tool
from mmseg_semi.models.segmentors import network as segmentor_passes
from mmseg_semi.structures import Features, SegOutputs

#: Percent of the passes, those of layers that it adds among them, that own operations may take.
OWN_PERCENT = dict(cpu=10.0, cuda=5.0)
METHODS = tuple(name for name in FRAMEWORKS if name != SUPERVISED)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = measuring.make_parser(__doc__)
    parser.add_argument(
        '--method',
        nargs='+',
        default=METHODS,
        choices=METHODS,
        metavar='NAME',
        help=f'which ones (default: all of {", ".join(METHODS)})',
    )
    parser.add_argument('--network', default='deeplabv3plus_r50', choices=tuple(CROPS))
    return measuring.read_options(parser, list(argv) if argv is not None else None)


class Replayed(torch.autograd.Function):
    """Gives what a pass has made; gradients end here, and its inputs get zeros."""

    @staticmethod
    def forward(ctx: Any, made: Sequence[Tensor], *given: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors of ``made`` as if they were made of those that are given."""
        ctx.zeros = [torch.zeros((), dtype=one.dtype, device=one.device) for one in given]
        ctx.shapes = [one.shape for one in given]
        return tuple(one.detach() for one in made)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[Any, ...]:
        """Return zeros that take no memory."""
        return (None, *(zero.expand(shape) for zero, shape in zip(ctx.zeros, ctx.shapes)))


@dataclass
class Pass:
    """A pass of a step.

    Attributes:
        network: The network.
        part: ``'encoder'`` or ``'decoder'``.
        given: Images, or the maps of the encoder.
        grad: Whether it keeps what gradients need.
        made: The maps or the logits that it gave.
        taps: The features that were tapped in it.
    """

    network: Any
    part: str
    given: Any
    grad: bool
    made: list[Tensor]
    taps: dict[str, Tensor]

    def again(self, given: Union[Tensor, Features]) -> Union[Features, SegOutputs]:
        """What it gave, as if it had been made of what is given now."""
        maps = given.maps if isinstance(given, Features) else []
        every, anchor = [*self.made, *self.taps.values()], torch.zeros((), requires_grad=True)
        found = list(Replayed.apply(every, anchor, *maps))
        made, taps = found[: len(self.made)], dict(zip(self.taps, found[len(self.made) :]))
        if isinstance(given, Tensor):
            return Features(made, (given.shape[-2], given.shape[-1]), taps)
        features = {**given.taps, **taps}
        return SegOutputs(made, given.size, self.network.align_corners, maps, features)


class Passes:
    """The passes of a step: they are noted and timed, run again bare, and left out.

    Args:
        step: The step.
        device: ``'cpu'`` or ``'cuda'``.
    """

    def __init__(self, step: TimedStep, device: str) -> None:
        self.step, self.device = step, device
        self.noted: list[Pass] = []
        #: Layers of the method, what each is given, and whether that and the layer have gradients.
        self.layers: list[tuple[Any, Tensor, bool, bool]] = []
        #: Of the parts of the step that was noted; a GPU is waited for at the end of each pass.
        self.seconds: dict[str, float] = {}

    @contextmanager
    def watched(self, watch: Callable[[Any, str, Any, Callable[[], Any]], Any]) -> Iterator[None]:
        """Let ``watch`` make each pass of the step, of its network, part and what it is given."""
        encode, decode = segmentor_passes.encode, segmentor_passes.decode

        def watched_encode(network: Any, images: Tensor, taps: Any) -> Any:
            return watch(network, 'encoder', images, lambda: encode(network, images, taps))

        def watched_decode(network: Any, features: Features, taps: Any) -> Any:
            return watch(network, 'decoder', features, lambda: decode(network, features, taps))

        with patch.multiple(segmentor_passes, encode=watched_encode, decode=watched_decode):
            yield

    def note(self) -> None:
        """Run the step; note its passes, and the seconds of its parts."""
        found = dict(encoder=0.0, decoder=0.0)
        self.noted.clear()

        def watch(network: Any, part: str, given: Any, run: Callable[[], Any]) -> Any:
            made: list[Any] = []
            found[part] += measuring.timed(lambda: made.append(run()), self.device)
            (one,) = made
            if part == 'encoder':
                inputs, outputs, taps = given.detach(), one.maps, one.taps
            else:
                inputs, outputs = detached(given.maps), one.stages
                taps = {name: tap for name, tap in one.features.items() if name not in given.taps}
            taps = dict(zip(taps, detached([*taps.values()])))
            grad = keeps_gradients(network)
            self.noted.append(Pass(network, part, inputs, grad, detached(outputs), taps))
            return one

        with self.watched(watch):
            seconds = measuring.timed(self.step, self.device)
        found['backward and optimizer'] = self.step.update_seconds
        found['the rest'] = seconds - sum(found.values())
        self.seconds = found

    def bare(self) -> None:
        """Run the passes alone, backward from the mean of their logits, and the optimizer."""
        total = torch.zeros((), device=next(self.step.student.parameters()).device)
        made: dict[int, Any] = {}
        for one in self.noted:
            network = one.network
            with nullcontext() if one.grad else torch.no_grad():
                if one.part == 'encoder':
                    made[id(network)] = network.extract_feat(one.given)
                    continue
                maps = self._joined(made.get(id(network)), one.given) if one.grad else one.given
                logits = network.decode_head(maps)
                total = total + logits.mean() if one.grad else total
        self.step.optimizer.update_params(total)

    def note_layers(self) -> None:
        """Run the step without its passes; note what goes through the layers of the method."""
        passed = {part for one in self.noted for part in one.network.modules()}
        parts = [part for part in self.step.model.modules() if not [*part.children()]]
        own = [part for part in parts if part not in passed and [*part.parameters()]]
        self.layers.clear()

        def note(layer: Any, given: Any, _: Any) -> None:
            grad = torch.is_grad_enabled() and keeps_gradients(layer)
            self.layers.append((layer, given[0].detach(), given[0].requires_grad, grad))

        hooks = [layer.register_forward_hook(note) for layer in own]
        self.own()
        for hook in hooks:
            hook.remove()

    def own_layers(self) -> None:
        """Run the layers of the method alone, forward and backward."""
        for layer, given, wanted, grad in self.layers:
            with nullcontext() if grad else torch.no_grad():
                made = layer(given.detach().requires_grad_(wanted and grad))
            if grad:
                made.backward(torch.ones_like(made))
                layer.zero_grad()

    def own(self) -> None:
        """Run the step without its passes."""
        left = iter(self.noted)
        with self.watched(lambda network, part, given, run: next(left).again(given)):
            self.step()
        if next(left, None) is not None:
            raise AssertionError('the step has fewer passes than before')

    @staticmethod
    def _joined(features: Any, inputs: Any) -> Any:
        """The encoder's maps, so that gradients reach it; repeated or cut to the decoded images."""
        images = len(inputs[-1])
        return [
            one[torch.arange(images, device=one.device) % len(one)] if len(one) != images else one
            for one in features
        ]


def detached(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same values without what made them."""
    return [one.detach() for one in tensors]


class TimedStep(Step):
    """A step that remembers how long backward and optimizer took."""

    update_seconds = 0.0

    def __init__(self, config: Any, device: str) -> None:
        super().__init__(config, device)
        update = self.optimizer.update_params

        def timed(loss: Any, *args: Any, **kwargs: Any) -> None:
            self.update_seconds = measuring.timed(lambda: update(loss, *args, **kwargs), device)

        self.optimizer.update_params = timed


def peak_of(run: Callable[[], Any], step: Step, device: str) -> int:
    """Bytes that a call takes at its peak beyond the state."""
    if device == 'cuda':
        return measuring.peak_of_call(run, lambda: None, device)
    moments = [one for kept in step.optimizer.optimizer.state.values() for one in kept.values()]
    state = [*step.model.state_dict().values(), *moments]
    counter = LiveBytes()
    counter.ignore(one for one in state if torch.is_tensor(one))
    with counter:
        run()
    return counter.peak


def measure(name: str, args: argparse.Namespace) -> Report:
    """Measure a method's step, its bare passes, its layers and its own operations in turns."""
    step = TimedStep(load_config(name, args.network, args.crop), args.device)
    step.set_data(make_data(step.model, args.batch, args.crop))
    passes = Passes(step, args.device)
    passes.note()
    passes.note_layers()
    sides = (step, passes.bare, passes.own, passes.own_layers)
    whole, bare, own, layers = in_turns(sides, args.step_repeats, args.device)
    rest = [a - b for a, b in zip(own, layers)]
    bare = [a + b for a, b in zip(bare, layers)]
    percent, target = 100 * median_ratio(rest, bare), OWN_PERCENT[args.device]
    peaks = [peak_of(run, step, args.device) for run in (step, passes.bare)]
    report = Report()
    report.rows = [
        Row(
            name,
            'own operations, by themselves, against the passes',
            duration(statistics.median(rest)),
            duration(statistics.median(bare)),
            f'{percent:.1f} %',
            f'<= {target:g} %',
            at_most(percent, target),
        ),
        Row(
            name,
            'time of a step against its passes',
            duration(statistics.median(whole)),
            duration(statistics.median(bare)),
            f'{100 * (median_ratio(whole, bare) - 1):+.1f} %',
        ),
        Row(
            name,
            'memory of a step against its bare passes',
            mebibytes(peaks[0]),
            mebibytes(peaks[1]),
            f'{peaks[0] / peaks[1]:.2f}',
        ),
    ]
    if passes.layers:
        report.rows.insert(
            1,
            Row(
                name,
                'layers that it adds, of these passes',
                duration(statistics.median(layers)),
                duration(statistics.median(bare)),
                f'{100 * median_ratio(layers, bare):.1f} %',
            ),
        )
    turns = ', '.join(f'{100 * (a / b - 1):+.1f} %' for a, b in zip(whole, bare))
    parts = measuring.split_of([passes.seconds])
    report.notes = [f'`{name}`: {parts}; a step against its passes, by turn: {turns}.']
    return report


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and tabulate."""
    args = parse_args(argv)
    measuring.set_up(args)
    MMLogger.get_instance('mmengine', log_level='ERROR')  # optimizers report every parameter
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True  # as in the shipped configs
    measuring.tabulate(args, {name: partial(measure, name) for name in args.method})


if __name__ == '__main__':
    run_tool(main)
