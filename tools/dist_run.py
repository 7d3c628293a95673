#!/usr/bin/env python
"""torchrun that ends as its ranks did: with their status, and without a traceback of its own."""

from __future__ import annotations

import signal
import sys
from typing import Any


def _pass_on(number: int, frame: Any) -> None:
    """Do with Slurm's signal before the time limit what torchrun does with SIGTERM."""
    from torch.distributed.elastic.multiprocessing.api import SignalException

    raise SignalException(f'signal {number}', sigval=signal.Signals(number))


def _refusal(options: dict[str, str]) -> str:
    """What is wrong with the numbers that the scripts were given; nothing where all are right."""
    machines = options.get('--nnodes', '1')
    most = int(machines) - 1 if machines.isdecimal() else 0
    for option, name, low, high in (
        ('--nproc-per-node', 'PROCESSES', 1, None),
        ('--nnodes', 'NNODES', 1, None),
        ('--node-rank', 'NODE_RANK', 0, max(most, 0)),
        ('--master-port', 'PORT', 1, 65535),
    ):
        text = options.get(option, str(low))
        if not text.isdecimal() or int(text) < low or (high is not None and int(text) > high):
            allowed = f'>= {low}' if high is None else f'from {low} to {high}'
            return f'{name} must be a whole number {allowed}, got {text!r}'
    return ''


def run() -> int:
    """Start the ranks and wait for them; return the exit status."""
    wrong = _refusal(dict(one.partition('=')[::2] for one in sys.argv[1:]))
    if wrong:
        print(f'error: {wrong}', file=sys.stderr)
        return 2
    # torch takes seconds to import.
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    signal.signal(signal.SIGUSR1, _pass_on)
    try:
        main()
    except SignalException as error:
        return 128 + int(error.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        how = f'was ended by signal {-code}' if code < 0 else f'ended with status {code}'
        if code <= 128:  # the ranks themselves say what stopped a run above
            print(f'rank {rank} {how}; the others were ended', file=sys.stderr)
        return code if code > 0 else 128 - code
    return 0


if __name__ == '__main__':
    sys.exit(run())
