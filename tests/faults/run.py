"""Try every fault a number of times and print a table.

python tests/faults/run.py [--times 5] [--only WORD] [--seed 0]
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if str(Path(__file__).parents[1]) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.bench import Bench  # noqa: E402
from faults.faults import FAULTS, drop  # noqa: E402
from tool_runs import ForkServer  # noqa: E402

from mmseg_semi.prepare.digit_scenes import SceneParams, make_digit_scenes  # noqa: E402

HEAVY = ['torch._dynamo', 'mmengine.runner', 'mmseg.apis', 'mmseg.engine', 'mmseg_semi']


@contextmanager
def small_bench() -> Iterator[Bench]:
    """A bench in a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder, root = Path(name), Path(name) / 'scenes'
        params = SceneParams(labeled=8, subsets=(8,), unlabeled=13, val=3, test=5)
        make_digit_scenes(root, params)
        server = ForkServer(folder, HEAVY)
        try:
            yield Bench(folder, root, server)
        finally:
            server.close()


def main() -> int:
    """Print the table; the status is 1 when anything was lost or wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--times', type=int, default=5, help='how often each fault is tried')
    parser.add_argument('--only', default='', help='faults with this word in their name')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    rows = []
    with small_bench() as bench:
        for name, fault in FAULTS.items():
            if args.only not in name:
                continue
            rng, times = random.Random(f'{args.seed} {name}'), args.times
            if name.startswith('memory') or 'eight' in name:  # minutes each
                times = 1
            outcomes = [fault(bench, rng) for _ in range(times)]
            lost, wrong = (sum(one[i] for one in outcomes) for i in (0, 1))
            rows.append((name, times, lost, wrong))
            print(f'{name}: {times} times, {lost} lost, {wrong} wrong', file=sys.stderr, flush=True)
            drop(bench)
    print('| fault | times tried | lost | wrong |\n| --- | --- | --- | --- |')
    for row in rows:
        print('| ' + ' | '.join(map(str, row)) + ' |')
    total = [sum(row[i] for row in rows) for i in (1, 2, 3)]
    print(f'| all | {total[0]} | {total[1]} | {total[2]} |')
    return int(any(total[1:]))


if __name__ == '__main__':
    sys.exit(main())
