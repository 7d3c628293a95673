"""Run configs with several seeds and write a table of their results.

Runs that are finished are not repeated and interrupted ones are resumed, so the command can be
given again until the table is complete.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Optional

from mmseg_semi.files import check_out, write_file
from mmseg_semi.utils.config import load_config
from mmseg_semi.utils.config_settings import SEED
from mmseg_semi.zoo.experiments import Experiment, commits_of, mean_and_spread, run_experiments

#: Metrics of a row by seed.
Results = Mapping[str, Mapping[int, Mapping[str, float]]]


def positive(text: str) -> int:
    """A whole number from 1 on, as an argument.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'must be a whole number >= 1, got {text!r}')
    return int(text)


def add_run_options(parser: argparse.ArgumentParser, work_dir: str) -> None:
    """Add the options that every tool of this kind has.

    Args:
        parser: Of the tool.
        work_dir: The default folder of the runs.
    """
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--work-dir', default=work_dir, help=f'default: {work_dir}')
    parser.add_argument('--out', help='Markdown file to write (default: only print)')
    parser.add_argument('--jobs', type=positive, default=1, help='runs at a time')
    parser.add_argument('--threads', type=positive, help='CPU threads of each run')


def read_run_options(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    """Read a command line; refuse what would fail after the runs, or in the first of them."""
    args = parser.parse_args(argv)
    check_run_options(parser, args)
    return args


def check_run_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse seeds and a file that can not be; each seed is run once."""
    args.seeds = list(dict.fromkeys(args.seeds))
    for seed in args.seeds:
        try:
            SEED.check('--seeds', seed)
        except ValueError as error:
            parser.error(str(error))
    check_out(parser, '--out', args.out, 'table.md')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('configs', nargs='+', help='config files, one table row each')
    add_run_options(parser, 'work_dirs/result_table')
    return read_run_options(parser, argv)


def gain(
    row: Mapping[int, Mapping[str, float]], base: Mapping[int, Mapping[str, float]]
) -> tuple[float, Optional[float]]:
    """Mean difference of the seeds that both have, and its standard error.

    Args:
        row: Metrics by seed.
        base: What it is compared with.

    Returns:
        The difference of mIoU, and the standard error of the paired differences; None with one
        seed.
    """
    return paired(*({seed: one[seed]['mIoU'] for seed in one} for one in (row, base)))


def paired(row: Mapping[int, float], base: Mapping[int, float]) -> tuple[float, Optional[float]]:
    """Mean difference of the seeds that both have, and its standard error; None with one seed."""
    each = [row[seed] - base[seed] for seed in row.keys() & base.keys()]
    error = statistics.stdev(each) / len(each) ** 0.5 if len(each) > 1 else None
    return statistics.mean(each), error


def difference_text(mean: float, error: Optional[float]) -> str:
    """A difference with its standard error, where there is one."""
    return f'{mean:+.2f}' + ('' if error is None else f' ± {error:.2f}')


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """A table, whose first line are the heads, as Markdown."""
    head, *rest = (f'| {" | ".join(line)} |' for line in cells)
    return '\n'.join([head, '| --- ' * len(cells[0]) + '|', *rest]) + '\n'


def table(results: Results, base: Optional[str] = None) -> str:
    """Format the rows.

    Args:
        results: Metrics by row and seed.
        base: The row that the others are compared with; None leaves the column out.
    """
    heads = ['row', 'mIoU (mean ± std)', 'per seed', 'minutes a run']
    if base:
        heads.insert(2, f'above {base} (± standard error)')
    lines = [heads]
    for name, row in results.items():
        each = ', '.join(f'{seed}: {metrics["mIoU"]:.2f}' for seed, metrics in row.items())
        minutes = statistics.mean(metrics['train_minutes'] for metrics in row.values())
        cells = [
            f'`{name}`',
            mean_and_spread([metrics['mIoU'] for metrics in row.values()]),
            each,
            f'{minutes:.1f}',
        ]
        if base:
            cells.insert(2, '' if name == base else difference_text(*gain(row, results[base])))
        lines.append(cells)
    return markdown(lines)


def run_rows(runs: Mapping[tuple[str, int], Experiment], jobs: int) -> Results:
    """Run experiments, saying what each has reached.

    Args:
        runs: By row and seed.
        jobs: How many run at a time.

    Returns:
        Metrics by row and seed, in the order of ``runs``.
    """

    def report(run: Experiment, metrics: dict[str, float]) -> None:
        print(f'{run.work_dir}: mIoU {metrics["mIoU"]:.2f}', flush=True)

    finished = run_experiments(list(runs.values()), jobs, report)
    results: dict[str, dict[int, dict[str, float]]] = {}
    for (name, seed), metrics in zip(runs, finished):
        results.setdefault(name, {})[seed] = metrics
    return results


def write_table(
    text: str, runs: Iterable[Experiment], seeds: Sequence[int], out: Optional[str]
) -> None:
    """Print a table with its commits and seeds above it, and write it where asked.

    Args:
        text: The table.
        runs: The finished runs that it is of.
        seeds: Of the runs.
        out: Markdown file, or None.
    """
    text = f'{commits_of(runs)}, seeds {", ".join(map(str, seeds))}.\n\n{text}'
    print(text)
    if out:
        write_file(Path(out), text)


def main(argv: Sequence[str] | None = None) -> None:
    """Run and tabulate."""
    args = parse_args(argv)
    for config in args.configs:
        load_config(config)
    runs = {
        (config, seed): Experiment(
            config,
            str(Path(args.work_dir, Path(config).stem, f'seed{seed}')),
            seed,
            threads=args.threads,
        )
        for seed in args.seeds
        for config in args.configs
    }
    results = run_rows(runs, args.jobs)
    ordered = {config: results[config] for config in args.configs}
    write_table(table(ordered), runs.values(), args.seeds, args.out)
