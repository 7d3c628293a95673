"""Train UniMatch and its supervised baseline on a small data set; write a picture and a table.

Digit scenes are drawn; land cover is real (docs/real_images.md). What is complete is not repeated.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger

from mmseg_semi.prepare import digit_scenes, land_cover
from mmseg_semi.zoo import real_images
from mmseg_semi.zoo.commands import ROOT, ending_commands
from mmseg_semi.zoo.experiments import Experiment
from mmseg_semi.zoo.pictures import draw_tests
from mmseg_semi.zoo.real_image_rows import BASE, parts_of, rows
from mmseg_semi.zoo.result_table import positive

CORES = os.cpu_count() or 1
NAMES = {'supervised': 'supervised', 'unimatch': 'UniMatch'}
START = 'common start'
#: Steps on land cover: of the common start, and of each network after it.
STEPS = (500, 500)
Runs = dict[str, Experiment]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--data', choices=list(DATA), default='digit-scenes', help='the data set')
    parser.add_argument(
        '--out', help='folder of the results (default: work_dirs/quickstart/<data>)'
    )
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--scenes', type=positive, default=8, help='test images in the picture')
    args = parser.parse_args(argv)
    args.out = args.out or f'work_dirs/quickstart/{args.data}'
    return args


def digit_runs(args: argparse.Namespace) -> tuple[Runs, Runs]:
    """No starts, and the two networks from scratch."""
    config = 'configs/{0}/{0}_unet_digit-scenes-60.py'
    return {}, {
        name: Experiment(
            os.path.relpath(ROOT / config.format(method)),
            str(Path(args.out, method)),
            args.seed,
            threads=max(1, CORES // len(NAMES)),
        )
        for method, name in NAMES.items()
    }


def land_runs(args: argparse.Namespace) -> tuple[Runs, Runs]:
    """The supervised start that both networks go on from, and the two."""
    configs = {
        method: Path(os.path.relpath(path))
        for method, path in rows('land-cover').items()
        if method in NAMES
    }
    options = ['--data', 'land-cover', '--seeds', str(args.seed), '--work-dir', args.out]
    options += ['--start-iters', str(STEPS[0]), '--iters', str(STEPS[1])]
    options += ['--threads', str(max(1, CORES // len(NAMES)))]
    base = configs[BASE]
    starts, runs = real_images.plan(
        configs, base, parts_of(base).labels, real_images.parse_args(options)
    )
    (start,) = starts.values()
    return {START: replace(start, threads=CORES)}, {
        NAMES[method]: run for (method, _), run in runs.items()
    }


@dataclass(frozen=True)
class Data:
    """A data set of the quickstart.

    Attributes:
        title: What the table says about it.
        config: One of its configs, relative to the repository.
        convert: Makes it in a folder; returns an exit status, None for success.
        plan: The runs that come first, and those of the two networks.
        every: The picture has each so-many-th test image.
    """

    title: str
    config: str
    convert: Callable[[str], Any]
    plan: Callable[[argparse.Namespace], tuple[Runs, Runs]]
    every: int = 1


DATA = {
    'digit-scenes': Data(
        'Digit scenes, 60 labeled and 1440 unlabeled images',
        'configs/supervised/supervised_unet_digit-scenes-60.py',
        lambda root: digit_scenes.main([root]),
        digit_runs,
    ),
    'land-cover': Data(
        f'Land cover, 32 labeled and 197 unlabeled images, {STEPS[1]} steps after a common '
        f'supervised start of {STEPS[0]}',
        'configs/supervised/supervised_efficientnet-lite0_land-cover-32.py',
        lambda root: land_cover.main(['--out', root]),
        land_runs,
        every=6,
    ),
}


def progress(experiment: Experiment) -> str:
    """Return the newest iteration of a running training, shortened."""
    log = Path(experiment.work_dir) / 'train.log'
    if not log.is_file():
        return 'starting'
    lines = re.findall(r'Iter\(train\) (\[[^]]*\]).*?(eta: \S+).*?(loss: \S+)', log.read_text())
    return ' '.join(lines[-1]) if lines else 'starting'


def run_all(experiments: dict[str, Experiment]) -> dict[str, dict]:
    """Run the experiments side by side and print where they are every 15 seconds."""
    waiting = {name: e for name, e in experiments.items() if e.result() is None}
    for name, experiment in experiments.items():
        state = 'training' if name in waiting else 'already trained and tested:'
        print(f'{name}: {state} {experiment.config}, log in {experiment.work_dir}', flush=True)
    with ending_commands(), ThreadPoolExecutor(max(1, min(len(waiting), CORES))) as pool:
        running = {name: pool.submit(e.run) for name, e in waiting.items()}
        while any(not job.done() for job in running.values()):
            wait(running.values(), timeout=15)
            busy = [name for name, job in running.items() if not job.done()]
            print(*(f'  {name} {progress(waiting[name])}' for name in busy), sep='\n', flush=True)
            failed = [e for job in running.values() if job.done() and (e := job.exception())]
            if failed:
                for job in running.values():
                    job.cancel()
                raise failed[0]
    return {name: experiment.run() for name, experiment in experiments.items()}


def write_table(out: Path, title: str, runs: Runs, results: dict, seed: int) -> Path:
    """Write the results as a Markdown table."""
    lines = [
        f'{title}, seed {seed}, test part:',
        '',
        '| method | config | mIoU | mAcc | training (minutes) |',
        '| --- | --- | --- | --- | --- |',
    ]
    for name, run in runs.items():
        metrics = results[name]
        lines.append(
            f'| {name} | `{run.config}` | {metrics["mIoU"]:.2f} | {metrics["mAcc"]:.2f} '
            f'| {metrics["train_minutes"]:.1f} |'
        )
    path = out / 'table.md'
    path.write_text('\n'.join(lines) + '\n')
    return path


def main(argv: Sequence[str] | None = None) -> None:
    """Run the quickstart."""
    args = parse_args(argv)
    MMLogger.get_instance('mmengine', log_level='WARNING')  # it reports each variable it reads
    start, out, data = time.time(), Path(args.out), DATA[args.data]
    part = Config.fromfile(str(ROOT / data.config)).test_dataloader.dataset
    status = data.convert(part.data_root)
    if status:
        sys.exit(status)
    starts, runs = data.plan(args)  # which knows its lists of images
    try:
        results = {**run_all(starts), **run_all(runs)}
    except RuntimeError as error:
        sys.exit(str(error))
    shown = {
        f'{name}: mIoU {results[name]["mIoU"]:.1f} on the test images': Path(run.work_dir)
        for name, run in runs.items()
    }
    picture = out / 'picture.png'
    draw_tests(picture, part, shown, args.scenes, data.every)
    table = write_table(out, data.title, {**starts, **runs}, results, args.seed)
    print(f'\n{table.read_text()}\npicture: {picture}\ntable: {table}')
    print(f'done in {(time.time() - start) / 60:.1f} minutes')
