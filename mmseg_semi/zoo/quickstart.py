"""Train UniMatch and its supervised baseline on digit scenes; write a picture and a table."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mmseg_semi.prepare import digit_scenes
from mmseg_semi.zoo.experiments import ROOT, Experiment

CORES = os.cpu_count() or 1
DATA = 'data/digit_scenes'
RUNS = {
    'supervised': 'configs/supervised/supervised_unet_digit-scenes-60.py',
    'UniMatch': 'configs/unimatch/unimatch_unet_digit-scenes-60.py',
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', default='work_dirs/quickstart', help='folder of the results')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--scenes', type=int, default=8, help='test scenes in the picture')
    return parser.parse_args(argv)


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
    with ThreadPoolExecutor(max(1, min(len(waiting), CORES))) as pool:
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


def caption(text: str, width: int) -> np.ndarray:
    """Draw one line of text on white."""
    strip = np.full((28, width, 3), 255, np.uint8)
    cv2.putText(strip, text, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return strip


def draw(out: Path, results: dict, scenes: int) -> Path:
    """Write the first test scenes, their truth and both predictions, one row each."""
    palette = np.array(json.loads(Path(DATA, 'meta.json').read_text())['palette'], np.uint8)
    names = sorted(path.name for path in Path(DATA, 'images/test').glob('*.png'))[:scenes]
    rows = {'image': 'images/test', 'truth': 'annotations/test'}
    tiles = {label: [Path(DATA, folder, name) for name in names] for label, folder in rows.items()}
    for name, metrics in results.items():
        label = f'{name}: mIoU {metrics["mIoU"]:.1f} on the test scenes'
        folder = out / name.lower() / 'predictions'
        tiles[label] = [folder / file for file in names]
    picture: list[np.ndarray] = []
    for label, paths in tiles.items():
        parts: list[np.ndarray] = []
        for path in paths:
            tile: Any = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            if label != 'image':
                tile = palette[tile][..., ::-1]
            parts.append(cv2.resize(tile, (128, 128), interpolation=cv2.INTER_NEAREST))
            parts.append(np.full((128, 4, 3), 255, np.uint8))
        row = np.concatenate(parts, axis=1)
        picture += [caption(label, row.shape[1]), row]
    path = out / 'picture.png'
    cv2.imwrite(str(path), np.concatenate(picture, axis=0))
    return path


def write_table(out: Path, results: dict, seed: int) -> Path:
    """Write the results as a Markdown table."""
    lines = [
        f'Digit scenes, 60 labeled and 1440 unlabeled images, seed {seed}, test split:',
        '',
        '| method | config | mIoU | mAcc | training (minutes) |',
        '| --- | --- | --- | --- | --- |',
    ]
    for name, metrics in results.items():
        lines.append(
            f'| {name} | `{RUNS[name]}` | {metrics["mIoU"]:.2f} | {metrics["mAcc"]:.2f} '
            f'| {metrics["train_minutes"]:.1f} |'
        )
    path = out / 'table.md'
    path.write_text('\n'.join(lines) + '\n')
    return path


def main(argv: Sequence[str] | None = None) -> None:
    """Run the quickstart."""
    args = parse_args(argv)
    start = time.time()
    out = Path(args.out)
    status = digit_scenes.main([DATA])
    if status:
        sys.exit(status)
    threads = max(1, CORES // len(RUNS))
    experiments = {
        name: Experiment(
            os.path.relpath(ROOT / config), str(out / name.lower()), args.seed, threads=threads
        )
        for name, config in RUNS.items()
    }
    try:
        results = run_all(experiments)
    except RuntimeError as error:
        sys.exit(str(error))
    picture, table = draw(out, results, args.scenes), write_table(out, results, args.seed)
    print(f'\n{table.read_text()}\npicture: {picture}\ntable: {table}')
    print(f'done in {(time.time() - start) / 60:.1f} minutes')
