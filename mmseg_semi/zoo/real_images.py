"""Compare methods on a small set of real images (docs/real_images.md) and write a table.

Each seed has one supervised start, and every row, the supervised one too, goes on from it for as
many steps. Runs that are finished are not repeated and interrupted ones are resumed, so the command
can be given again until the table is complete. With --custom, rows are the configs for own images.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional

from mmengine.config import Config
from mmengine.logging import MMLogger

from mmseg_semi.files import check_out
from mmseg_semi.zoo.boxes import Boxes, distinct, hash_of_lists
from mmseg_semi.zoo.experiments import Experiment
from mmseg_semi.zoo.pictures import draw_curve, draw_tests
from mmseg_semi.zoo.real_image_rows import (
    ALL,
    BASE,
    CONFIGS,
    CUSTOM,
    MODEL,
    as_own_images,
    check_lists,
    chosen,
    list_of,
    options_of,
    parts_of,
    rows,
    rows_of_table,
    test_options_of,
    unlabeled_of,
)
from mmseg_semi.zoo.result_table import (
    Results,
    add_run_options,
    positive,
    read_run_options,
    run_rows,
    table,
    write_table,
)

DATA = ('camvid', 'nuclei', 'sstem', 'land-cover')
PARTS = ('val', 'test')
STEPS = 500  # of the start, and of each row after it
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
    parser.add_argument(
        '--base', default=BASE, metavar='ROW', help=f'what rows are compared with (default: {BASE})'
    )
    parser.add_argument('--list', action='store_true', help='print the names of the rows and exit')
    parser.add_argument(
        '--start-iters', type=positive, help=f'steps of the common start (default: {STEPS})'
    )
    parser.add_argument(
        '--iters', type=positive, help=f'steps of each row after it (default: {STEPS})'
    )
    parser.add_argument(
        '--custom',
        action='store_true',
        help='rows are the configs for own images with the preset custom/laptop.py as they are, '
        'which say how many steps; the checkpoint that they keep (that of the best validation, or '
        'of the labels alone, see guard) is predicted',
    )
    parser.add_argument(
        '--part', choices=PARTS, default='test', help='what is predicted; choices are made on val'
    )
    parser.add_argument(
        '--picture', metavar='FILE.png', help='picture of predictions, of the first seed'
    )
    parser.add_argument(
        '--curve', metavar='FILE.png', help='picture of mIoU against the number of labels'
    )
    parser.add_argument('--images', type=positive, default=6, help='images in the picture')
    add_run_options(parser, 'work_dirs/real_images')
    args = read_run_options(parser, argv)
    steps = [option for option in ('start_iters', 'iters') if getattr(args, option)]
    if args.custom and steps:
        option = steps[0].replace('_', '-')
        parser.error(
            f'--{option} {getattr(args, steps[0])} does not go with --custom, whose configs say '
            'how many steps they train; leave out one of the two'
        )
    args.start_iters, args.iters = args.start_iters or STEPS, args.iters or STEPS
    for name in ('picture', 'curve'):
        file = getattr(args, name)
        if file and not file.endswith('.png'):
            parser.error(f'--{name} must end in .png, got {file}')
        check_out(parser, f'--{name}', file, f'{name}.png')
    if args.curve and len({*(args.labels or ())} - {ALL}) < 2:
        parser.error('--curve needs several numbers of labels, such as --labels 12 46 (and all)')
    return args


def boxes_of(config: Path, labels: str, folder: Path) -> Optional[Boxes]:
    """The boxes that a row reads, None where it reads none.

    Args:
        config: The row's config.
        labels: Number of labeled images.
        folder: Above the detector's work folder.
    """
    if not unlabeled_of(config).get('detections'):
        return None
    parts = parts_of(config)
    detector = CONFIGS / 'detection' / f'faster-rcnn{MODEL}{parts.data}-{parts.labels}.py'
    options = options_of(config, labels)
    return Boxes(str(config), str(detector), str(folder), '.png', options)


def main(argv: Sequence[str] | None = None) -> None:
    """Run and tabulate."""
    args = parse_args(argv)
    MMLogger.get_instance('mmengine', log_level='WARNING')  # it reports each variable it reads
    base = rows(args.data)[BASE]
    known = rows(CUSTOM if args.custom else args.data)
    if args.list:
        print('\n'.join(known))
        return
    names = [row for table in args.ablation for row in rows_of_table(table, known)]
    names = [*(args.methods or ([] if names else [ALL])), *names]
    numbers = args.labels or [parts_of(base).labels]
    for labels in numbers:
        check_lists(base, labels, args.part)
    written = Path(args.work_dir, 'configs')
    picked, alone = chosen(names, known, written), known[BASE]
    if args.custom:
        picked = {name: as_own_images(config, base, written) for name, config in picked.items()}
        alone = as_own_images(alone, base, written)
    if args.base not in {BASE, *picked}:
        raise SystemExit(
            f'--base {args.base}: no such row is run; name one of {", ".join(picked)}, or add it '
            'to --methods'
        )
    if args.base not in picked and {*numbers} != {ALL}:
        print(f'no row is compared with {BASE}, add it to --methods', file=sys.stderr)
    if ALL in numbers and [*picked] != [BASE]:
        print(f'--labels {ALL}: {BASE} alone is run, the ceiling', file=sys.stderr)
    every: dict[str, Results] = {}
    for labels in numbers:
        # With all of them, what is left to learn from are the labels.
        these = {BASE: alone} if labels == ALL else picked
        every[labels], boxes, runs = run(these, base, labels, args)
        results = every[labels]
        many = f'{args.data}, {labels} labeled images, {args.part} part'
        many += ', configs for own images' if args.custom else ''
        compared = args.base if args.base in results else None
        text = '\n'.join(
            [f'{many}.\n', table(results, compared), *(f'{one.said()}\n' for one in boxes)]
        )
        write_table(text, runs.values(), args.seeds, _out(args.out, labels, args))
        picture = _out(args.picture, labels, args)
        if picture:
            draw(picture, results, base, labels, args)
    if args.curve:
        ceiling = every.pop(ALL, {}).get(BASE, {})
        draw_curve(args.curve, by_row(every), scores(ceiling))


def scores(row: Mapping[int, Mapping[str, float]]) -> list[float]:
    """The mIoU of each seed."""
    return [metrics['mIoU'] for metrics in row.values()]


def by_row(every: Mapping[str, Results]) -> dict[str, dict[int, list[float]]]:
    """The mIoU of each seed by row and number of labels, from results by number of labels."""
    found: dict[str, dict[int, list[float]]] = {}
    for labels, results in every.items():
        for name, row in results.items():
            found.setdefault(name, {})[int(labels)] = scores(row)
    return found


def _out(file: Optional[str], labels: str, args: argparse.Namespace) -> Optional[str]:
    """A file with the number of labels in its name where there are several."""
    if not file or len(args.labels or []) < 2:
        return file
    path = Path(file)
    return str(path.with_name(f'{path.stem}-{labels}{path.suffix}'))


def draw(path: str, results: Results, base: Path, labels: str, args: argparse.Namespace) -> None:
    """Write a picture of what the rows predict with the first seed.

    Args:
        path: The picture.
        results: Metrics by row and seed.
        base: The supervised config, which names the images.
        labels: Number of labeled images.
        args: The command line.
    """
    data, seed = Config.fromfile(base).test_dataloader.dataset, args.seeds[0]
    data.data_prefix = dict(img_path=f'images/{args.part}', seg_map_path=f'annotations/{args.part}')
    there = len(list(Path(data.data_root, data.data_prefix.img_path).glob('*.png')))
    shown = {
        f'{name}, mIoU {row[seed]["mIoU"]:.1f}': folder_of(labels, args) / name / f'seed{seed}'
        for name, row in results.items()
    }
    draw_tests(Path(path), data, shown, args.images, max(1, there // args.images))


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
        Starts, of which there are none with ``--custom``, and runs by name and seed.
    """
    starts: Runs = {}
    runs: Runs = {}
    folder, split = folder_of(labels, args), hash_of_lists(list_of(base, labels))

    def experiment(name: str, config: Path, seed: int, *options: str) -> Experiment:
        return Experiment(
            str(config),
            str(folder / name / f'seed{seed}'),
            seed,
            [*options_of(config, labels), *options],
            args.threads,
            split=split,
            best=args.custom,
            test_options=test_options_of(args.part),
        )

    if args.custom:
        for name, config in picked.items():
            runs |= {(name, seed): experiment(name, config, seed) for seed in args.seeds}
        return starts, runs
    for seed in args.seeds:
        start = experiment('start', base, seed, f'train_cfg.max_iters={args.start_iters}')
        starts['start', seed] = start
        load = f'load_from={Path(start.work_dir, f"iter_{args.start_iters}.pth")}'
        for name, config in picked.items():
            options = [load, f'train_cfg.max_iters={args.iters}']
            if unlabeled_of(config):
                options.append('model.warmup_iters=0')
            runs[name, seed] = experiment(name, config, seed, *options)
    return starts, runs


def folder_of(labels: str, args: argparse.Namespace) -> Path:
    """Folder of a table's runs."""
    return Path(args.work_dir, f'{args.data}-{labels}{"-custom" if args.custom else ""}')


def run(
    picked: dict[str, Path], base: Path, labels: str, args: argparse.Namespace
) -> tuple[Results, list[Boxes], Runs]:
    """Make the boxes, run the starts, then the rows.

    Args:
        picked: Configs of the rows.
        base: The supervised config, which makes the starts.
        labels: Number of labeled images.
        args: The command line.

    Returns:
        Metrics by row and seed, the boxes that rows read, and all runs.
    """
    starts, runs = plan(picked, base, labels, args)
    found = [boxes_of(config, labels, folder_of(labels, args)) for config in picked.values()]
    boxes = distinct(one for one in found if one)
    for one in boxes:
        if one.missing():
            one.make(args.threads)
    run_rows(starts, args.jobs)
    results = run_rows(runs, args.jobs)
    return {name: results[name] for name in picked}, boxes, {**starts, **runs}
