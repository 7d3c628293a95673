"""Replay recorded training steps of the papers' released programs, and compare.

Each file holds weights, images, masks and everything that was drawn at random in one step of a
released program, and what came out. The step of the released preset
(``configs/_base_/methods/released``) runs on the same network in float64, with components that
give what was recorded in place of random draws, and the largest relative difference of losses,
gradient norms and state is printed.

    python tests/parity/replay.py FILE.npz [FILE.npz ...]
    python tests/parity/replay.py FILE.npz [FILE.npz ...] --set mixer.partner_stream=None

With ``--set`` one entry of the preset is changed, and what that does is printed: the cosine between
the gradients with and without it, over all parameters, and the change of the total loss.

The exit status is 1 when a difference is above 1e-8, and 2 when a file cannot be replayed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from mmengine.config import DictAction
from mmengine.registry import init_default_scope

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from tests.parity import pasting_family, teacher_family, unimatch_family
from tests.parity.comparison import Outcome, Recording

LIMIT = 1e-8
REPLAYS = {**unimatch_family.REPLAYS, **teacher_family.REPLAYS, **pasting_family.REPLAYS}


def replay(recording: Recording, changes: Optional[Mapping[str, Any]] = None) -> Outcome:
    """Run the step of a recording and compare.

    Args:
        recording: What was recorded.
        changes: Entries of the released preset to change, by dotted keys of ``method``.

    Raises:
        ValueError: Nobody knows how to replay this method.
    """
    method = recording.meta.get('method')
    if method not in REPLAYS:
        raise ValueError(f'method {method!r} is none of {sorted(REPLAYS)}')
    init_default_scope('mmseg')
    return REPLAYS[method](recording, changes or {})


def effect(one: Outcome, other: Outcome) -> tuple[float, float]:
    """Cosine between the gradients of two steps, and the relative change of the total loss."""
    names = sorted(one.gradients.keys() & other.gradients.keys())
    flat = [torch.cat([side.gradients[n].flatten() for n in names]) for side in (one, other)]
    cosine = torch.nn.functional.cosine_similarity(*flat, dim=0)
    return float(cosine), float(other.total / one.total - 1)


def main(arguments: Sequence[str]) -> int:
    """Replay files; print a line each."""
    parser = argparse.ArgumentParser(description=str(__doc__).split('\n')[0])
    parser.add_argument('files', nargs='+', metavar='FILE.npz')
    parser.add_argument(
        '--set', nargs='+', action=DictAction, metavar='KEY=VALUE', help='entries to change'
    )
    args = parser.parse_args(arguments)
    status = 0
    for path in args.files:
        name = Path(path).name
        try:
            recording = Recording(path)
            found = replay(recording)
            if args.set:
                cosine, change = effect(found, replay(recording, args.set))
                print(f'{name}: cosine {cosine:.4f}, total {100 * change:+.2f} %', flush=True)
                continue
        except Exception as error:  # a file of another form fails anywhere, and the others go on
            lines = str(error).strip().splitlines() or ['']
            print(f'{name}: cannot be replayed: {type(error).__name__}: {lines[0]}', flush=True)
            status = 2
            continue
        good = found.comparison.passes(LIMIT)
        print(f'{name}: {"equal" if good else "DIFFERS"}: {found.comparison}', flush=True)
        if not good:
            status = max(status, 1)
    return status


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
