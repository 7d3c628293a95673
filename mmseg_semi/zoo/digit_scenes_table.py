"""Run configs on digit scenes over several seeds and write a result table.

Runs that are finished are not repeated and interrupted ones are resumed, so the command can be
given again until the table is complete.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from mmseg_semi.zoo.experiments import (
    Experiment,
    checkout_commit,
    mean_and_spread,
    run_experiments,
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('configs', nargs='+', help='config files, one table row each')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--work-dir', default='work_dirs/digit_scenes_table')
    parser.add_argument('--out', help='Markdown file to write (default: only print)')
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time')
    parser.add_argument('--threads', type=int, help='CPU threads of each run')
    return parser.parse_args(argv)


def table(results: dict[str, list[tuple[int, dict[str, float]]]]) -> str:
    """Format the rows."""
    lines = [
        '| config | mIoU (mean ± std) | per seed | minutes a run |',
        '| --- | --- | --- | --- |',
    ]
    for config, rows in results.items():
        scores = [metrics['mIoU'] for _, metrics in rows]
        each = ', '.join(f'{seed}: {metrics["mIoU"]:.2f}' for seed, metrics in rows)
        minutes = statistics.mean(metrics['train_minutes'] for _, metrics in rows)
        lines.append(f'| `{config}` | {mean_and_spread(scores)} | {each} | {minutes:.1f} |')
    return '\n'.join(lines) + '\n'


def main(argv: Sequence[str] | None = None) -> None:
    """Run and tabulate."""
    args = parse_args(argv)
    runs = [
        Experiment(
            config,
            str(Path(args.work_dir, Path(config).stem, f'seed{seed}')),
            seed,
            threads=args.threads,
        )
        for seed in args.seeds
        for config in args.configs
    ]

    def report(run: Experiment, metrics: dict[str, float]) -> None:
        print(f'{run.config} seed {run.seed}: mIoU {metrics["mIoU"]:.2f}', flush=True)

    finished = list(zip(runs, run_experiments(runs, args.jobs, report)))
    results = {
        config: [(run.seed, metrics) for run, metrics in finished if run.config == config]
        for config in args.configs
    }
    text = f'Commit {checkout_commit()}, seeds {args.seeds}.\n\n{table(results)}'
    print(text)
    if args.out:
        Path(args.out).write_text(text)
