"""Replay recorded training steps of the papers' released programs, and compare.

Each file holds weights, images, masks and everything that was drawn at random in one step of a
released program, and what came out. The step of the released preset
(``configs/_base_/methods/released``) runs on the same network in float64, with components that
give what was recorded in place of random draws, and the largest relative difference of losses,
gradient norms and state is printed.

    python tests/parity/replay.py FILE.npz [FILE.npz ...]

The exit status is 1 when a difference is above 1e-8, and 2 when a file cannot be replayed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.parity import unimatch_family
from tests.parity.comparison import Comparison, Recording

LIMIT = 1e-8
REPLAYS = {**unimatch_family.REPLAYS}


def replay(recording: Recording) -> Comparison:
    """Run the step of a recording and compare.

    Raises:
        ValueError: Nobody knows how to replay this method.
    """
    method = recording.meta.get('method')
    if method not in REPLAYS:
        raise ValueError(f'{recording.path.name}: method {method!r} is none of {sorted(REPLAYS)}')
    return REPLAYS[method](recording)


def main(paths: Sequence[str]) -> int:
    """Replay files; print a line each."""
    if not paths:
        print(__doc__)
        return 2
    status = 0
    for path in paths:
        try:
            result = replay(Recording(path))
        except ValueError as error:
            print(f'{Path(path).name}: cannot be replayed: {error}')
            status = 2
            continue
        good = result.passes(LIMIT)
        print(f'{Path(path).name}: {"equal" if good else "DIFFERS"}: {result}', flush=True)
        if not good:
            status = max(status, 1)
    return status


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
