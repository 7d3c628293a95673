"""Compare finished trainings, of this package or of plain mmseg, in a table."""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from mmseg_semi.errors import hint, name_some
from mmseg_semi.files import UNLABELED_BEST, write_file
from mmseg_semi.zoo.experiments import mean_and_spread
from mmseg_semi.zoo.result_table import difference_text, markdown, paired
from mmseg_semi.zoo.run_logs import Row, find_runs, rows_of
from mmseg_semi_cli import runs as command_lines

Scores = Sequence[tuple[Optional[int], float]]
#: What each choice of scores is called.
SAID = dict(test='the newest test', last='the last validation', best='the best validation')


def difference(row: Scores, base: Scores) -> tuple[float, Optional[float]]:
    """Mean difference of two rows, and its standard error.

    Seed by seed where both rows have the same seeds; the standard errors of the means are added
    (as squares) where they have not.

    Args:
        row: Seed and score of each run.
        base: The same of what it is compared with.

    Returns:
        The difference, and its standard error; None with less than two runs of a row.
    """
    ours = {seed: score for seed, score in row if seed is not None}
    theirs = {seed: score for seed, score in base if seed is not None}
    if ours.keys() == theirs.keys() and len(ours) == len(row) and len(theirs) == len(base):
        return paired(ours, theirs)
    means = [statistics.mean(score for _, score in one) for one in (row, base)]
    if min(len(row), len(base)) < 2:
        return means[0] - means[1], None
    squares = [statistics.variance(score for _, score in one) / len(one) for one in (row, base)]
    return means[0] - means[1], sum(squares) ** 0.5


def table(rows: Sequence[Row], metric: str, of: str, base: Optional[Row]) -> list[list[str]]:
    """Cells of the table, the first line its heads.

    Args:
        rows: What is compared.
        metric: Such as ``mIoU``.
        of: See :meth:`Row.scores`.
        base: The row that the others are compared with; None for none.
    """
    lines = [['row', f'{metric} (mean ± std)', 'seeds', 'each', 'minutes a run']]
    if base:
        lines[0].insert(2, f'above {base.name} (± standard error)')
    for row in rows:
        scores = row.scores(metric, of)
        line = [
            row.name,
            mean_and_spread([score for _, score in scores]) if scores else 'none',
            ', '.join('drawn' if seed is None else str(seed) for seed, _ in scores),
            ', '.join(f'{score:.2f}' for _, score in scores),
            f'{statistics.mean(run.minutes for run in row.runs):.1f}',
        ]
        if base:
            line.insert(2, _above(scores, base.scores(metric, of)) if row is not base else '')
        lines.append(line)
    return lines


def _above(scores: Scores, base: Scores) -> str:
    if not scores or not base:
        return ''
    return difference_text(*difference(scores, base))


def choose_scores(rows: Sequence[Row], metric: str, of: Optional[str]) -> str:
    """The scores that every row has, the test's first.

    Raises:
        SystemExit: A row has none of this metric.
    """
    for one in (of,) if of else ('test', 'last'):
        if all(row.scores(metric, one) for row in rows):
            return one
    lacking = [row for row in rows if not row.scores(metric, of or 'last')]
    if of == 'test' and any(row.scores(metric, 'test') for row in rows):
        run = next(one for one in lacking[0].runs if metric not in one.tested)
        own = next(run.folder.glob(f'{UNLABELED_BEST}*.pth'), 'CHECKPOINT')
        raise SystemExit(
            f'--of test: {lacking[0].name} has no test of its own network that says {metric}: run '
            f'mmseg-semi test {run.config_path} {own} --work-dir {run.folder}'
        )
    known = {name for row in rows for run in row.runs for name in (*run.names, *run.tested)}
    metrics = sorted(name for name in known - {metric} if re.match('[am][A-Z]', name))
    raise SystemExit(
        f'--metric {metric}: {lacking[0].name} has no such score of {SAID[of or "last"]}.'
        f'{hint(metric, metrics)} Name one of '
        f'{", ".join(metrics) or "those that a validation logs"}, or test it with mmseg-semi test.'
    )


def without_score(rows: Sequence[Row], metric: str, of: str) -> list[str]:
    """Folders of the runs that are not in the table."""
    alone = [(run.folder, Row('', [run])) for row in rows for run in row.runs]
    return [str(folder) for folder, one in alone if not one.scores(metric, of)]


def choose_base(rows: Sequence[Row], name: Optional[str]) -> Optional[Row]:
    """The row that is named, or the only one of plain supervised training.

    Raises:
        SystemExit: No row has this name.
    """
    names = [row.name for row in rows]
    if name is None:
        plain = [row for row in rows if 'segmentor' not in row.runs[0].config.model]
        return plain[0] if len(plain) == 1 and len(rows) > 1 else None
    if name not in names:
        raise SystemExit(
            f'--base {name}: there is no such row.{hint(name, names)} Name one of '
            f'{", ".join(names)}.'
        )
    return rows[names.index(name)]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, and write it where asked."""
    args = command_lines.compare().parse_args(argv)
    suffix = Path(args.out).suffix if args.out else '.md'
    if suffix not in ('.md', '.csv'):
        raise SystemExit(f'--out {args.out}: name a file that ends with .md or .csv')
    rows = rows_of(find_runs(args.runs))
    of = choose_scores(rows, args.metric, args.of)
    cells = table(rows, args.metric, of, choose_base(rows, args.base))
    print(f'{args.metric} of {SAID[of]}.\n\n{markdown(cells)}')
    missing = without_score(rows, args.metric, of)
    if missing:
        print(f'Without a score, so not in the table: {name_some(missing)}.')
    every = [run for row in rows for run in row.runs]
    unfinished = [f'{run.folder} ({far})' for run in every if (far := run.unfinished)]
    if unfinished:
        print(f'Not finished, and in the table as they are: {name_some(unfinished)}.')
    if args.out:
        text = io.StringIO()
        csv.writer(text, lineterminator='\n').writerows(cells)
        write_file(Path(args.out), text.getvalue() if suffix == '.csv' else markdown(cells))
