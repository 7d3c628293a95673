#!/usr/bin/env python
"""Measure what more labels, chosen by ``predict --rank-by uncertainty``, are worth.

Each seed trains the supervised network on the labels of a list, ranks the images without a label
with it, and trains two networks more from the beginning: on the labels and the first of the
ranking, and on the labels and as many that are drawn at random. Masks play no part in the choice.
Finished runs are not repeated and interrupted ones are resumed.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import MMLogger

from mmseg_semi.apis.ranking import RANKING
from mmseg_semi.errors import run_tool
from mmseg_semi.files import read_list, write_file
from mmseg_semi.utils.safe_checkpoints import latest_checkpoint
from mmseg_semi.zoo.boxes import hash_of_lists
from mmseg_semi.zoo.commands import call, ending_commands
from mmseg_semi.zoo.experiments import Experiment
from mmseg_semi.zoo.real_image_rows import ALL, BASE, check_lists, list_of, rows, test_options_of
from mmseg_semi.zoo.real_images import DATA, PARTS
from mmseg_semi.zoo.result_table import (
    add_run_options,
    positive,
    read_run_options,
    table,
    write_table,
)

RANDOM, RANKED = 'random', 'ranked'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--data', choices=DATA, default='camvid', help='the set of images')
    parser.add_argument('--labels', default='12', help='the list that is begun with')
    parser.add_argument('--more', type=positive, default=20, help='labels that are added')
    parser.add_argument(
        '--part', choices=PARTS, default='test', help='what is predicted; choices are made on val'
    )
    parser.add_argument('--iters', type=positive, default=1000, help='steps of each training')
    add_run_options(parser, 'work_dirs/ranking')
    return read_run_options(parser, argv)


def names_in(path: Path) -> list[str]:
    """The names in a list."""
    return [name for _, name in read_list(path)]


def train(labeled: Path, seed: int, config: Path, args: argparse.Namespace) -> Experiment:
    """Train on a list of labels and test, in the folder of the list."""
    options = [
        f'train_dataloader.dataset.labeled.ann_file={labeled.resolve()}',
        f'train_cfg.max_iters={args.iters}',
        f'train_cfg.val_interval={args.iters}',
    ]
    folder = str(labeled.parent / 'run')
    run = Experiment(
        str(config),
        folder,
        seed,
        options,
        args.threads,
        split=hash_of_lists(labeled),
        test_options=test_options_of(args.part),
    )
    print(f'{folder}: mIoU {run.run()["mIoU"]:.2f}', flush=True)
    return run


def rank(start: Experiment, names: Sequence[str], config: Path) -> list[str]:
    """Rank images with the network of a training.

    Args:
        start: The training.
        names: Of the images.
        config: Says where they are.

    Returns:
        The names, the one most worth a label first.
    """
    data = Config.fromfile(config).train_dataloader.dataset.labeled
    folder = Path(data.data_root, data.data_prefix.img_path)
    given, out = Path(start.work_dir, 'unlabeled.txt'), Path(start.work_dir, 'ranked')
    write_file(given, ''.join(f'{folder / name}{data.img_suffix}\n' for name in names))
    words = ['predict', str(latest_checkpoint(start.work_dir)), str(given), '--out', str(out)]
    command = [sys.executable, '-m', 'mmseg_semi', *words, '--rank-by', 'uncertainty']
    call(command, f'{out}.log', start.threads, str(given))
    with open(out / RANKING, newline='') as file:
        return [Path(row['image']).stem for row in csv.DictReader(file)]


def write_lists(folder: Path, labeled: Sequence[str], unlabeled: Sequence[str]) -> Path:
    """Write the lists of a split and return that of the labeled images."""
    for part, names in (('labeled', labeled), ('unlabeled', unlabeled)):
        write_file(folder / f'{part}.txt', ''.join(f'{name}\n' for name in names))
    return folder / 'labeled.txt'


def main(argv: Sequence[str] | None = None) -> None:
    """Run and tabulate."""
    args = parse_args(argv)
    MMLogger.get_instance('mmengine', log_level='WARNING')  # it reports each variable it reads
    config = rows(args.data)[BASE]
    check_lists(config, args.labels, args.part)
    first = list_of(config, args.labels)
    if args.labels == ALL:
        raise SystemExit('--labels all: there would be no image left to rank; name a list')
    labeled, unlabeled = names_in(first), names_in(first.with_name('unlabeled.txt'))
    if args.more > len(unlabeled):
        raise SystemExit(
            f'--more {args.more}: there are {len(unlabeled)} without labels; take fewer'
        )
    root = Path(args.work_dir, f'{args.data}-{args.labels}+{args.more}')
    alone = f'{args.labels} labels'
    results: dict[str, dict[int, dict[str, float]]] = {alone: {}, RANDOM: {}, RANKED: {}}
    runs: list[Experiment] = []
    with ending_commands():
        for seed in args.seeds:
            folder = root / f'seed{seed}'
            start = train(write_lists(folder / 'start', labeled, unlabeled), seed, config, args)
            results[alone][seed] = start.run()
            runs.append(start)
            drawn = random.Random(seed).sample(unlabeled, args.more)
            ranked = rank(start, unlabeled, config)[: args.more]
            for name, more in ((RANDOM, drawn), (RANKED, ranked)):
                left = [one for one in unlabeled if one not in more]
                lists = write_lists(folder / name, [*labeled, *more], left)
                runs.append(train(lists, seed, config, args))
                results[name][seed] = runs[-1].run()
    head = f'{args.data}, {alone} and {args.more} more, {args.part} part.\n\n'
    write_table(head + table(results, RANDOM), runs, args.seeds, args.out)


if __name__ == '__main__':
    run_tool(main)
