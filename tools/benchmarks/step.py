#!/usr/bin/env python
"""Measure what a method's own operations cost in a training step, beside its network's passes.

A step is as in frameworks.py: random images that are prepared once, past the warm-up. Its passes
are noted, images and gradients of each, and run again bare: the same images through the same
networks, backward from the mean of all logits, the optimizer. What the step takes more is the
method's own: mixing, pseudo-labels, heads, losses and their backward pass, the teacher's update.
Step and bare passes take turns in one process; memory is counted in a step of its own.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from mmengine.logging import MMLogger

from mmseg_semi.benchmarks import measuring
from mmseg_semi.benchmarks.frameworks import (
    CROPS,
    FRAMEWORKS,
    SUPERVISED,
    Step,
    keeps_gradients,
    load_config,
    make_data,
    watched,
)
from mmseg_semi.benchmarks.measuring import Report, Row, at_most, duration, in_turns, mebibytes
from mmseg_semi.benchmarks.step_memory import LiveBytes
from mmseg_semi.errors import run_tool

#: Percent of the bare passes that a method's own operations may take.
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


class Passes:
    """The passes of a step: they are noted, timed, and run again bare.

    Args:
        step: The step.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        networks = [step.student] + ([step.teacher] if step.teacher is not None else [])
        self.modules = [(one, part) for one in networks for part in ('backbone', 'decode_head')]
        #: Of each pass: its network, part, inputs and whether it keeps what gradients need.
        self.noted: list[tuple[Any, str, Any, bool]] = []
        self.seconds: dict[str, float] = {}

    @contextmanager
    def watched(self, watch: Callable[[Any, str, Any, Callable[[], Any]], Any]) -> Iterator[None]:
        """Let ``watch`` make each pass of a part of a network."""
        with ExitStack() as stack:
            for network, part in self.modules:
                stack.enter_context(watched(getattr(network, part), partial(watch, network, part)))
            yield

    def note(self) -> None:
        """Run the step once and keep the inputs of its passes."""

        def watch(network: Any, part: str, inputs: Any, run: Callable[[], Any]) -> Any:
            kept = inputs.detach() if part == 'backbone' else [one.detach() for one in inputs]
            self.noted.append((network, part, kept, keeps_gradients(getattr(network, part))))
            return run()

        self.noted.clear()
        with self.watched(watch):
            self.step()

    def split(self, device: str) -> dict[str, float]:
        """Run the step once; seconds of the forward passes, of the rest before and after."""
        found = dict(encoder=0.0, decoder=0.0)

        def now() -> float:
            if device == 'cuda':
                torch.cuda.synchronize()
            return time.perf_counter()

        def watch(network: Any, part: str, inputs: Any, run: Callable[[], Any]) -> Any:
            start = now()
            made = run()
            found['encoder' if part == 'backbone' else 'decoder'] += now() - start
            return made

        with self.watched(watch):
            start = now()
            self.step()
            whole = now() - start
        update = self.step.update_seconds
        found['backward and optimizer'] = update
        found['the rest'] = whole - sum(found.values())
        return found

    def bare(self) -> None:
        """Run the passes alone, backward from the mean of their outputs, and the optimizer."""
        total = torch.zeros((), device=next(self.step.student.parameters()).device)
        made: dict[int, Any] = {}
        for network, part, inputs, grad in self.noted:
            with nullcontext() if grad else torch.no_grad():
                if part == 'backbone':
                    made[id(network)] = network.extract_feat(inputs)
                    continue
                maps = self._joined(made.get(id(network)), inputs) if grad else inputs
                logits = network.decode_head(maps)
                total = total + logits.mean() if grad else total
        self.step.optimizer.update_params(total)

    @staticmethod
    def _joined(features: Any, inputs: Any) -> Any:
        """The encoder's maps, so that gradients reach it; repeated or cut to the decoded images."""
        images = len(inputs[-1])
        return [
            one[torch.arange(images, device=one.device) % len(one)] if len(one) != images else one
            for one in features
        ]


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
    counter = LiveBytes()
    counter.ignore(one for one in step.model.state_dict().values() if torch.is_tensor(one))
    with counter:
        run()
    return counter.peak


def measure(name: str, args: argparse.Namespace) -> Report:
    """Measure a method's step and its bare passes in turns."""
    step = TimedStep(load_config(name, args.network, args.crop), args.device)
    step.set_data(make_data(step.model, args.batch, args.crop))
    passes = Passes(step)
    passes.note()
    whole, bare = in_turns([step, passes.bare], args.step_repeats, args.device)
    own = [100 * (a / b - 1) for a, b in zip(whole, bare)]
    percent, target = statistics.median(own), OWN_PERCENT[args.device]
    peaks = [peak_of(run, step, args.device) for run in (step, passes.bare)]
    report = Report()
    report.rows = [
        Row(
            name,
            'time of a step against its bare passes',
            duration(statistics.median(whole)),
            duration(statistics.median(bare)),
            f'{percent:+.1f} %',
            f'<= {target:g} %',
            at_most(percent, target),
        ),
        Row(
            name,
            'memory of a step against its bare passes',
            mebibytes(peaks[0]),
            mebibytes(peaks[1]),
            f'{peaks[0] / peaks[1]:.2f}',
        ),
    ]
    parts = [passes.split(args.device) for _ in range(args.step_repeats)]
    report.notes = [
        f'`{name}`: {measuring.split_of(parts)}; own share by turn '
        f'{", ".join(f"{one:+.1f} %" for one in own)}.'
    ]
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
