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


def run() -> int:
    """Start the ranks and wait for them; return the exit status."""
    for option, number in (one.partition('=')[::2] for one in sys.argv[1:]):
        if option == '--nproc-per-node' and (not number.isdecimal() or int(number) < 1):
            print(f'error: PROCESSES must be a whole number >= 1, got {number!r}', file=sys.stderr)
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
