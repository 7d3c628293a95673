"""Compare methods on a small set of real images (docs/real_images.md) and write a table.

Each seed has one supervised start, and every row, the supervised one too, goes on from it for as
many steps. Runs that are finished are not repeated and interrupted ones are resumed, so the command
can be given again until the table is complete.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from mmengine.config import Config
from mmengine.logging import MMLogger

from mmseg_semi.errors import exiting, hint
from mmseg_semi.files import shipped_root, write_file
from mmseg_semi.zoo.boxes import Boxes, distinct
from mmseg_semi.zoo.experiments import Experiment
from mmseg_semi.zoo.paper_tables import find_paper_table, load_methods
from mmseg_semi.zoo.result_table import (
    Results,
    add_run_options,
    positive,
    run_rows,
    table,
    write_table,
)
from mmseg_semi.zoo.write_configs import assignment, nested

CONFIGS = shipped_root() / 'configs'
MODEL, BASE = '_efficientnet-lite0_', 'supervised'
DATA = ('camvid', 'nuclei', 'sstem', 'land-cover')
ALL = 'all'
PARTS = ('val', 'test')
Runs = dict[tuple[str, int], Experiment]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--data', choices=DATA, required=True, help='the set of images')
    parser.add_argument(
        '--labels',
        nargs='+',
        help='numbers of labeled images, those of the lists of the data or "all" (default: that of '
        'the configs); with all, the supervised row alone is run: the ceiling',
    )
    parser.add_argument(
        '--methods',
        nargs='+',
        help='names of rows, or "all" (default without --ablation); see --list. METHOD:SETTING is '
        "a setting of the method's configs/*/ablations.yml, such as corrmatch:no-soft",
    )
    parser.add_argument(
        '--ablation',
        nargs='+',
        default=[],
        metavar='TABLE',
        help='the rows of a paper\'s table, such as "CorrMatch 5", with the settings that it has',
    )
    parser.add_argument('--list', action='store_true', help='print the names of the rows and exit')
    parser.add_argument(
        '--start-iters', type=positive, default=1000, help='steps of the common start'
    )
    parser.add_argument('--iters', type=positive, default=500, help='steps of each row after it')
    parser.add_argument(
        '--part', choices=PARTS, default='test', help='what is predicted; choices are made on val'
    )
    add_run_options(parser, 'work_dirs/real_images')
    return parser.parse_args(argv)


def rows(data: str, configs: Path = CONFIGS) -> dict[str, Path]:
    """Configs of a data set by the name of their row; the supervised one comes first.

    Args:
        data: One of ``DATA``.
        configs: Folder of the configs.
    """
    found = configs.glob(f'*/**/*{MODEL}{data}-*.py')
    methods = [path for path in found if path.parent.name != 'detection']
    named = {_name(path): path for path in sorted(methods, key=lambda path: path.stem)}
    return {BASE: named.pop(BASE), **named}


def _name(config: Path) -> str:
    """Name of a row: the method, and the change of an ablation."""
    method, _, data = config.stem.partition(MODEL)
    _, _, change = data.partition('_')
    return f'{method}_{change}' if change else method


def labels_of(config: Path) -> str:
    """The number of labeled images that a config's name ends with."""
    return config.stem.partition(MODEL)[2].partition('_')[0].rpartition('-')[2]


def _unlabeled(config: Path) -> dict[str, Any]:
    """The unlabeled part of a config, empty for supervised training."""
    return Config.fromfile(config).train_dataloader.dataset.get('unlabeled') or {}


def options_of(config: Path, labels: str, part: str) -> list[str]:
    """What is changed in a config for a number of labels and the part that is predicted."""
    options = []
    if labels != labels_of(config):
        dataset, split = 'train_dataloader.dataset', f'splits/{labels}'
        # Without a list, a dataset has the whole folder.
        names = '' if labels == ALL else f'{split}/labeled.txt'
        options.append(f'{dataset}.labeled.ann_file={names}')
        unlabeled = _unlabeled(config)
        if unlabeled:
            options.append(f'{dataset}.unlabeled.ann_file={split}/unlabeled.txt')
        boxes = unlabeled.get('detections') or {}
        for key in ('results', 'images') if boxes else ():
            path = Path(boxes[key])
            path = path.parent.with_name(labels) / path.name
            options.append(f'{dataset}.unlabeled.detections.{key}={path}')
    if part != 'test':
        prefix = 'test_dataloader.dataset.data_prefix'
        options += [f'{prefix}.img_path=images/{part}', f'{prefix}.seg_map_path=annotations/{part}']
    return options


def check_lists(config: Path, labels: str) -> None:
    """Refuse a number of labels of which the data set has no lists.

    Raises:
        SystemExit: Says which there are.
    """
    data = Config.fromfile(config).train_dataloader.dataset.labeled
    root = Path(data.data_root)
    if not root.is_dir():
        raise SystemExit(
            f'{root} does not exist: get the data set as docs/real_images.md says, or name its '
            f'folder with the environment variable {_variable(config)}'
        )
    there = sorted(path.parent.name for path in root.glob('splits/*/labeled.txt'))
    if labels not in (*there, ALL):
        raise SystemExit(
            f'--labels {labels}: {root}/splits/{labels}/labeled.txt does not exist; there are '
            f'{", ".join(there)} and all. Name one, or make lists with --labels of the converter.'
        )


def _variable(config: Path) -> str:
    data = config.stem.partition(MODEL)[2].partition('_')[0].rpartition('-')[0]
    return f'{data.upper().replace("-", "_")}_ROOT'


def boxes_of(config: Path, labels: str, folder: Path) -> Optional[Boxes]:
    """The boxes that a row reads, None where it reads none.

    Args:
        config: The row's config.
        labels: Number of labeled images.
        folder: Above the detector's work folder.
    """
    if not _unlabeled(config).get('detections'):
        return None
    data = config.stem.partition(MODEL)[2].partition('_')[0]
    detector = CONFIGS / 'detection' / f'faster-rcnn{MODEL}{data}.py'
    options = options_of(config, labels, 'test')
    return Boxes(str(config), str(detector), str(folder), '.png', options)


def chosen(names: Sequence[str], known: dict[str, Path], folder: Path) -> dict[str, Path]:
    """Configs of the rows that were asked for; those of settings are written.

    Args:
        names: ``all``, names of rows, and names with a setting: ``corrmatch:no-soft``.
        known: Configs of the rows.
        folder: Where configs of settings are written.

    Raises:
        SystemExit: There is no such row, or no such setting.
    """
    found: dict[str, Path] = {}
    for name in names:
        method, colon, setting = name.partition(':')
        if name != ALL and method not in known:
            raise SystemExit(
                f'--methods {name}: there is no such row.{hint(method, list(known))} Name some of '
                f'{", ".join(known)}, or all.'
            )
        if name == ALL:
            found |= known
        elif colon:
            found[f'{method}_{setting}'] = write_setting(known[method], method, setting, folder)
        else:
            found[name] = known[name]
    return found


def write_setting(config: Path, method: str, setting: str, folder: Path) -> Path:
    """Write the child of a config that a setting of the method's ablations makes.

    Args:
        config: The method's config.
        method: Name of its row.
        setting: Name in ``configs/*/ablations.yml``.
        folder: Where it is written.

    Raises:
        SystemExit: There is no such setting, or it is of another data set.
    """
    rows = load_methods(CONFIGS)[config.parent.name].ablation_rows
    settings = {str(row.setting): row.keys for row in rows}
    if setting not in settings:
        raise SystemExit(
            f'--methods {method}:{setting}: there is no such setting.'
            f'{hint(setting, list(settings))} Name one of {", ".join(sorted(settings))}.'
        )
    lines = [f'_base_ = {str(config)!r}']
    for name, value in nested(settings[setting]).items():
        lines += assignment(name, value)
    text = '\n'.join(lines) + '\n'
    if '_ROOT' in text:
        raise SystemExit(
            f'--methods {method}:{setting}: this setting reads files of VOC, choose another one'
        )
    path = folder / f'{config.stem}_{setting}.py'
    write_file(path, text)
    return path


def rows_of_table(name: str, known: dict[str, Path]) -> list[str]:
    """Names of the rows of a paper's table, for ``--methods``.

    Args:
        name: Such as ``CorrMatch 5``.
        known: Configs of the rows, of which a method on a framework that is not there is left out.

    Raises:
        SystemExit: There is no such table, or it has no settings.
    """
    with exiting(ValueError):
        tables = find_paper_table(load_methods(CONFIGS), name)
    found: dict[str, None] = {}
    for row in (row for one in tables for row in one.rows):
        if row.prefix in known and not row.reason:
            found[f'{row.prefix}:{row.setting}' if row.setting else row.prefix] = None
    if not found:
        raise SystemExit(f'--ablation {name}: none of its rows has a method of {", ".join(known)}')
    return list(found)


def main(argv: Sequence[str] | None = None) -> None:
    """Run and tabulate."""
    args = parse_args(argv)
    MMLogger.get_instance('mmengine', log_level='WARNING')  # it reports each variable it reads
    known = rows(args.data)
    if args.list:
        print('\n'.join(known))
        return
    names = [row for table in args.ablation for row in rows_of_table(table, known)]
    names = [*(args.methods or ([] if names else [ALL])), *names]
    picked = chosen(names, known, Path(args.work_dir, 'configs'))
    numbers = args.labels or [labels_of(known[BASE])]
    for labels in numbers:
        check_lists(known[BASE], labels)
    for labels in numbers:
        if labels == ALL:  # what is left to learn from are the labels
            picked = {BASE: known[BASE]}
        results, boxes = run(picked, known[BASE], labels, args)
        many = f'{args.data}, {labels} labeled images, {args.part} part'
        base = BASE if BASE in results else None
        text = '\n'.join(
            [f'{many}.\n', table(results, base), *(f'{one.said()}\n' for one in boxes)]
        )
        write_table(text, args.seeds, _out(args, labels))


def _out(args: argparse.Namespace, labels: str) -> Optional[str]:
    """File of a table, with the number of labels in its name where there are several tables."""
    if not args.out or len(args.labels or []) < 2:
        return args.out
    path = Path(args.out)
    return str(path.with_name(f'{path.stem}-{labels}{path.suffix}'))


def plan(
    picked: dict[str, Path], base: Path, labels: str, args: argparse.Namespace
) -> tuple[Runs, Runs]:
    """The start of each seed, and the rows on it.

    Args:
        picked: Configs of the rows.
        base: The supervised config, which makes the starts.
        labels: Number of labeled images.
        args: The command line.

    Returns:
        Starts and runs by name and seed.
    """
    folder, starts, runs = folder_of(labels, args), {}, {}
    for seed in args.seeds:
        start = folder / 'start' / f'seed{seed}'
        options = [*options_of(base, labels, args.part), f'train_cfg.max_iters={args.start_iters}']
        starts['start', seed] = Experiment(str(base), str(start), seed, options, args.threads)
        for name, config in picked.items():
            options = [
                *options_of(config, labels, args.part),
                f'load_from={start / f"iter_{args.start_iters}.pth"}',
                f'train_cfg.max_iters={args.iters}',
            ]
            if _unlabeled(config):
                options.append('model.warmup_iters=0')
            work_dir = folder / name / f'seed{seed}'
            runs[name, seed] = Experiment(str(config), str(work_dir), seed, options, args.threads)
    return starts, runs


def folder_of(labels: str, args: argparse.Namespace) -> Path:
    """Folder of a table's runs."""
    return Path(args.work_dir, f'{args.data}-{labels}')


def run(
    picked: dict[str, Path], base: Path, labels: str, args: argparse.Namespace
) -> tuple[Results, list[Boxes]]:
    """Make the boxes, run the starts, then the rows.

    Args:
        picked: Configs of the rows.
        base: The supervised config, which makes the starts.
        labels: Number of labeled images.
        args: The command line.

    Returns:
        Metrics by row and seed, and the boxes that rows read.
    """
    starts, runs = plan(picked, base, labels, args)
    found = [boxes_of(config, labels, folder_of(labels, args)) for config in picked.values()]
    boxes = distinct(one for one in found if one)
    for one in boxes:
        if one.missing():
            one.make(args.threads)
    run_rows(starts, args.jobs)
    results = run_rows(runs, args.jobs)
    return {name: results[name] for name in picked}, boxes
