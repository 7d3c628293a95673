"""Run, resume or print the configs of a paper's table, and write the table.

Finished runs are not repeated and interrupted ones are resumed, so the command can be given again
until the table is complete. Rows that need boxes of a detector get them first.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from threading import Lock

from mmengine.config import Config
from mmengine.logging import MMLogger

from mmseg_semi.datasets.benchmark_layouts import BENCHMARK_LAYOUTS
from mmseg_semi.errors import exiting
from mmseg_semi.files import shipped_root, write_file
from mmseg_semi.utils.config import gpus_of
from mmseg_semi.zoo.boxes import Boxes, distinct, hash_of_lists
from mmseg_semi.zoo.commands import shown
from mmseg_semi.zoo.experiments import Experiment, commits_of, mean_and_spread, run_experiments
from mmseg_semi.zoo.paper_tables import (
    DIGIT_SCENES,
    Method,
    Row,
    Table,
    find_paper_table,
    find_table,
    load_methods,
)
from mmseg_semi.zoo.result_table import check_run_options, positive

CONFIGS = shipped_root() / 'configs'
DETECTIONS = 'train_dataloader.dataset.unlabeled.detections'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('tables', nargs='*', help='such as rankmatch/table-1; see --list')
    parser.add_argument(
        '--table',
        action='append',
        default=[],
        metavar='NAME',
        help='as the paper numbers it, such as "CorrMatch 5" or "Weighting Supplementary Table 4"',
    )
    parser.add_argument('--list', action='store_true', help='list all tables and exit')
    parser.add_argument(
        '--count', action='store_true', help='print how many rows have a config and exit'
    )
    parser.add_argument('--only', metavar='REGEX', help='rows whose config name it is found in')
    parser.add_argument('--baselines', action='store_true', help='add the rows of other methods')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument(
        '--gpus',
        type=positive,
        help='processes of each run; default: as many as its batch size and learning rate are for. '
        'With another number give --auto-scale-lr too, or other batch sizes (docs/reproduce.md)',
    )
    parser.add_argument('--jobs', type=positive, default=1, help='runs at a time, on CPUs')
    parser.add_argument('--threads', type=positive, help='CPU threads of each run')
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate with the batch size'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for every run'
    )
    parser.add_argument('--work-dir', default='work_dirs/tables', help='folder of all runs')
    parser.add_argument('--out', help='Markdown file to write (default: only print)')
    parser.add_argument('--dry-run', action='store_true', help='print the commands, run nothing')
    args = parser.parse_args(argv)
    if not (args.list or args.count or args.tables or args.table):
        parser.error('name a table, or give --list')
    try:
        re.compile(args.only or '')
    except re.error as error:
        parser.error(f'--only {args.only}: this is no regular expression ({error}); \\( means (')
    check_run_options(parser, args)
    return args


# --------------------------------------------------------------------------------------------- rows
def choose_tables(methods: Mapping[str, Method], args: argparse.Namespace) -> list[Table]:
    """The tables that were asked for."""
    with exiting(ValueError):
        tables = [find_table(methods, name) for name in args.tables]
        tables += [table for name in args.table for table in find_paper_table(methods, name)]
    if not any(table.runs for table in tables):
        reasons = {f'{row.label or row.prefix}: {row.reason}': 0 for t in tables for row in t.rows}
        names = ', '.join(table.full_name for table in tables)
        raise SystemExit(f'no row of {names} has a config:\n  ' + '\n  '.join(reasons))
    return tables


def choose_rows(
    methods: Mapping[str, Method], tables: Iterable[Table], args: argparse.Namespace
) -> list[Row]:
    """The rows that were asked for, each once."""
    rows: list[Row] = []
    for table in tables:
        if args.baselines:
            rows += baseline_rows(methods, table)
        rows += table.runs
    rows = list({row.stem: row for row in rows}.values())
    if args.only:
        kept = [row for row in rows if re.search(args.only, row.stem)]
        if not kept:
            listed = ', '.join(row.stem for row in rows)
            raise SystemExit(f'--only {args.only}: fits no row. There are: {listed}.')
        rows = kept
    return rows


@cache
def crop_of(config: str) -> int:
    """Side of the crops of a config."""
    cfg = Config.fromfile(str(CONFIGS / config))
    return int(cfg.train_dataloader.dataset.geometry.crop.crop_size[0])


def baseline_rows(methods: Mapping[str, Method], table: Table) -> list[Row]:
    """Rows of other methods that belong beside a table.

    They have its data sets, splits and networks, and its crops: where a method has several, the
    nearest.
    """
    wanted: dict[tuple[str, str, str], set[int]] = {}
    for row in table.runs:
        place = (row.dataset, row.split, row.model)
        wanted.setdefault(place, set()).add(crop_of(row.config))
    found = []
    for name in table.baselines:
        for place, crops in wanted.items():
            rows = [r for r in methods[name].rows if (r.dataset, r.split, r.model) == place]
            for crop in sorted(crops):
                distance = {row.stem: abs(crop_of(row.config) - crop) for row in rows}
                found += [r for r in rows if distance[r.stem] == min(distance.values())]
    return list({row.stem: row for row in found}.values())


def count_text(methods: Mapping[str, Method]) -> str:
    """How many rows of the papers' tables and ablations have a config, by method.

    A row of a table is a network and split. A row of an ablation is one of the paper's lines,
    which may have several splits.
    """
    heads = (
        *('method', 'table rows with a config', "with the paper's figure", 'without a config'),
        *('ablation rows with a config', 'without a config', 'configs of ablations'),
    )
    lines, sums, reasons = [], [0] * (len(heads) - 1), []
    for method in methods.values():
        rows = [row for t in method.tables for row in t.rows if row.dataset != DIGIT_SCENES]
        rows = list({row.stem: row for row in rows}.values())
        built = [row for row in rows if row.reason is None]
        ablations = {(t.name, row.label): row for t in method.ablations for row in t.rows}
        lacking = {f'{name}: {row.label}': row.reason for (name, _), row in ablations.items()}
        lacking = {name: reason for name, reason in lacking.items() if reason}
        numbers = [len(built), sum(row.paper is not None for row in built), len(rows) - len(built)]
        numbers += [len(ablations) - len(lacking), len(lacking), len(method.ablation_rows)]
        sums = [a + b for a, b in zip(sums, numbers)]
        lines.append((method.name, *map(str, numbers)))
        lacking.update({row.stem: row.reason for row in rows if row.reason})
        reasons += [f'{method.folder}: {name}: {reason}' for name, reason in lacking.items()]
    lines.append(('all', *map(str, sums)))
    table = [heads, ('---',) * len(heads), *lines]
    text = '\n'.join(f'| {" | ".join(line)} |' for line in table)
    return f'{text}\n\nWithout a config:\n' + '\n'.join(reasons) + '\n'


def own_gpus(row: Row) -> int:
    """As many processes as a config's batch size and learning rate are for."""
    cfg = Config.fromfile(str(CONFIGS / row.config))
    return gpus_of(cfg)


def experiment(row: Row, seed: int, args: argparse.Namespace) -> Experiment:
    """The run of a row and seed."""
    return Experiment(
        str(CONFIGS / row.config),
        str(Path(args.work_dir, row.stem, f'seed{seed}')),
        seed,
        list(args.cfg_options),
        args.threads,
        args.gpus or own_gpus(row),
        [f'--{name}' for name in ('amp', 'auto-scale-lr') if getattr(args, name.replace('-', '_'))],
        keep_predictions=False,
        split=hash_of_lists(labeled_list(row)),
    )


# -------------------------------------------------------------------------------------------- boxes
def labeled_list(row: Row) -> Path:
    """The list of a row's labeled images."""
    labeled = Config.fromfile(str(CONFIGS / row.config)).train_dataloader.dataset.labeled
    return Path(labeled.data_root, labeled.ann_file)


def boxes_of(row: Row, args: argparse.Namespace) -> Boxes:
    """The boxes of a row, with the detector of its split."""
    if row.dataset == DIGIT_SCENES:
        name = 'detection/faster-rcnn_r50_fpn_digit_scenes.py'
    else:
        split = row.split.replace('_', '-')
        name = f'detection/faster-rcnn_r50_fpn_{row.dataset}-{split}.py'
    layout = BENCHMARK_LAYOUTS.get(row.dataset)
    suffix = layout.img_suffix if layout else '.png'
    return Boxes(str(CONFIGS / row.config), str(CONFIGS / name), args.work_dir, suffix)


def missing_boxes(rows: Sequence[Row], args: argparse.Namespace) -> list[Boxes]:
    """The boxes that are needed and not there, or are of other images."""
    # An ablation without boxes sets them to None.
    needed = [row for row in rows if row.method == 'weighting' and DETECTIONS not in row.keys]
    boxes = distinct(boxes_of(row, args) for row in needed)
    return [one for one in boxes if one.missing()]


# --------------------------------------------------------------------------------------------- data
def missing_data(rows: Sequence[Row]) -> list[str]:
    """Split files that are not there, with what makes them."""
    missing = []
    for row in rows:
        path = labeled_list(row)
        if not path.is_file():
            missing.append(f'{path} ({remedy(row)})')
    return list(dict.fromkeys(missing))


def remedy(row: Row) -> str:
    """The tool that makes a split."""
    if row.dataset == DIGIT_SCENES:
        return 'tools/dataset_converters/digit_scenes.py makes it'
    if not BENCHMARK_LAYOUTS[row.dataset].published:
        return 'tools/dataset_converters/make_splits.py draws it'
    return 'tools/dataset_converters/import_splits.py imports it'


# -------------------------------------------------------------------------------------------- table
def table_text(rows: Sequence[Row], results: dict[str, dict[int, float]]) -> str:
    """The table: the paper's figure beside mean and spread of the seeds that are finished."""
    lines = [
        "| config | crop | labeled + unlabeled | the paper's mIoU | our mIoU | seeds |",
        '| --- | --- | --- | --- | --- | --- |',
    ]
    for row in rows:
        found = results.get(row.stem) or {}
        mean = mean_and_spread(list(found.values())) if found else ''
        each = ', '.join(f'{seed}: {value:.2f}' for seed, value in found.items())
        paper = '' if row.paper is None else str(float(row.paper))
        counts = f'{row.labeled} + {row.unlabeled}'
        cells = (row.stem, str(crop_of(row.config)), counts, paper, mean, each)
        lines.append('|' + '|'.join(f' {cell} ' if cell else ' ' for cell in cells) + '|')
    return '\n'.join(lines) + '\n'


def said_options(args: argparse.Namespace) -> str:
    """What the runs had besides their configs."""
    said = [f'{args.gpus} GPUs' if args.gpus else 'as many GPUs as the configs are for']
    said += ['mixed precision'] * args.amp + ['scaled learning rate'] * args.auto_scale_lr
    return ''.join(f', {one}' for one in [*said, *args.cfg_options])


def last_iteration(row: Row, args: argparse.Namespace) -> str:
    """Number in the name of a run's last checkpoint; LAST where options may change it."""
    if args.gpus or args.cfg_options:
        return 'LAST'
    cfg = Config.fromfile(str(CONFIGS / row.config))
    if 'max_iters' in cfg.train_cfg:
        return str(cfg.train_cfg.max_iters)
    batch = cfg.auto_scale_lr.base_batch_size // 2
    return str(cfg.train_cfg.max_epochs * -(-row.unlabeled // batch))


def finished_results(runs: Sequence[tuple[Row, Experiment]]) -> dict[str, dict[int, float]]:
    """MIoU of the finished runs, by config and seed."""
    found: dict[str, dict[int, float]] = {}
    for row, run in runs:
        metrics = run.result()
        if metrics is not None:
            found.setdefault(row.stem, {})[run.seed] = metrics['mIoU']
    return found


def conflicts(runs: Sequence[tuple[Row, Experiment]]) -> list[str]:
    """Folders of unfinished runs that hold checkpoints of other settings, as sentences."""
    found = [run.conflict() for _, run in runs if run.result() is None]
    return [conflict for conflict in found if conflict]


def table_plan(tables: Iterable[Table], args: argparse.Namespace) -> str:
    """The rows of tables with their configs, seeds and the papers' figures."""
    lines = []
    for table in tables:
        number = f' ({table.paper_table})' if table.paper_table else ''
        lines.append(f'# {table.full_name}{number}: {table.caption}; seeds {args.seeds}')
        for row in table.rows:
            label = f'{row.label}, {row.split}' if row.label else row.split
            paper = '' if row.paper is None else f', paper {float(row.paper)}'
            what = f'no config, {row.reason}' if row.reason else f'configs/{row.config}'
            lines.append(f'#   {label}: {what}{paper}')
    return '\n'.join(lines)


def print_plan(
    rows: Sequence[Row], runs: Sequence[tuple[Row, Experiment]], args: argparse.Namespace
) -> None:
    """Print what would be run."""
    done = {(row.stem, run.seed): run.result() for row, run in runs}
    boxes = missing_boxes(rows, args)
    for one in boxes:
        print(f'# boxes {one.path}')
        print('\n'.join(shown(command) for command in one.commands()))
    for row, run in runs:
        kept = done[row.stem, run.seed]
        state = f': finished, mIoU {kept["mIoU"]:.2f}' if kept else ''
        print(f'# {row.stem}, seed {run.seed}{state}')
        if not kept:
            last = f'{run.work_dir}/iter_{last_iteration(row, args)}.pth'
            print(shown(run.train_command()))
            print(shown(run.test_command(last)))
    left = sum(kept is None for kept in done.values())
    print(
        f'# {len(rows)} configs, {len(args.seeds)} seeds: {len(runs)} runs, {left} left; '
        f'{len(boxes)} detectors to train first'
    )
    for line in missing_data(rows):
        print(f'# missing: {line}')
    for line in conflicts(runs):
        print(f'# refused: {line}')


def run_all(
    rows: Sequence[Row], runs: Sequence[tuple[Row, Experiment]], args: argparse.Namespace
) -> None:
    """Make boxes where they are missing, run everything, and write the table after each run."""
    for boxes in missing_boxes(rows, args):
        boxes.make(args.threads)
    writing = Lock()

    def report(run: Experiment, metrics: dict[str, float]) -> None:
        with writing:  # several runs may end together
            name = Path(run.config).stem
            print(f'{name} seed {run.seed}: mIoU {metrics["mIoU"]:.2f}', flush=True)
            write_out()

    def write_out() -> str:
        text = f'{commits_of(run for _, run in runs)}, seeds {args.seeds}{said_options(args)}.\n\n'
        text += table_text(rows, finished_results(runs))
        if args.out:
            write_file(args.out, text)
        return text

    run_experiments([run for _, run in runs], args.jobs, report)
    print(write_out())


def main(argv: Sequence[str] | None = None) -> None:
    """Run or print."""
    args = parse_args(argv)
    MMLogger.get_instance('mmengine', log_level='WARNING')  # it reports each variable it reads
    methods = load_methods(CONFIGS)
    if args.list:
        for method in methods.values():
            for table in method.all_tables:
                number = f' ({method.name} {table.paper_table})' if table.paper_table else ''
                print(f'{table.full_name:34} {len(table.runs):3} rows  {table.caption}{number}')
        return
    if args.count:
        print(count_text(methods))
        return
    tables = choose_tables(methods, args)
    print(table_plan(tables, args), flush=True)
    rows = choose_rows(methods, tables, args)
    runs = [(row, experiment(row, seed, args)) for seed in args.seeds for row in rows]
    if args.dry_run:
        print_plan(rows, runs, args)
        return
    missing = missing_data(rows)
    if missing:
        raise SystemExit(
            'these splits are missing, so nothing was run (docs/reproduce.md says how to make '
            'them):\n  ' + '\n  '.join(missing)
        )
    refused = conflicts(runs)
    if refused:
        raise SystemExit('nothing was run:\n  ' + '\n  '.join(refused))
    try:
        run_all(rows, runs, args)
    except RuntimeError as error:  # a run failed, or its folder is another run's
        raise SystemExit(
            f'{error}\nFinished runs are kept; after that the same command goes on.'
        ) from error
