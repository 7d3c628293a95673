#!/usr/bin/env python
"""Train UniMatch and its supervised baseline on digit scenes; write a picture and a table."""

import argparse
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np

from mmseg_semi.utils.experiments import TOOLS, Experiment

ROOT = TOOLS.parent
DATA = 'data/digit_scenes'
RUNS = {
    'supervised': 'configs/supervised/supervised_unet_digit-scenes-60.py',
    'UniMatch': 'configs/unimatch/unimatch_unet_digit-scenes-60.py',
}
PALETTE = np.array(
    [[0, 0, 0], [230, 25, 75], [60, 180, 75], [255, 225, 25], [67, 99, 216], [245, 130, 49]],
    dtype=np.uint8,
)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', default='work_dirs/quickstart', help='folder of the results')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--scenes', type=int, default=8, help='test scenes in the picture')
    return parser.parse_args()


def last_progress(log: Path) -> str:
    """Return the newest iteration line of a log, shortened."""
    if not log.is_file():
        return 'starting'
    lines = [line for line in log.read_text(errors='replace').splitlines() if 'Iter(' in line]
    return lines[-1].split('- INFO -')[-1].strip()[:110] if lines else 'starting'


def run_with_progress(name: str, experiment: Experiment) -> dict:
    """Run an experiment and print where it is every 15 seconds."""
    if experiment.result() is not None:
        print(f'{name}: already trained and tested ({experiment.result_path})', flush=True)
        return experiment.result()
    print(
        f'{name}: training {experiment.config} (log: {experiment.work_dir}/train.log)', flush=True
    )
    done = threading.Event()

    def report() -> None:
        while not done.wait(15):
            print(f'  {last_progress(Path(experiment.work_dir) / "train.log")}', flush=True)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        return experiment.run()
    finally:
        done.set()
        thread.join()


def caption(text: str, width: int) -> np.ndarray:
    """Draw one line of text on white."""
    strip = np.full((28, width, 3), 255, np.uint8)
    cv2.putText(strip, text, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return strip


def draw(out: Path, results: dict, scenes: int) -> Path:
    """Write the first test scenes, their truth and both predictions, one row each."""
    names = sorted(path.name for path in Path(DATA, 'images/test').glob('*.png'))[:scenes]
    rows = {'image': 'images/test', 'truth': 'annotations/test'}
    tiles = {label: [Path(DATA, folder, name) for name in names] for label, folder in rows.items()}
    for name, metrics in results.items():
        label = f'{name}: mIoU {metrics["mIoU"]:.1f} on the test scenes'
        folder = out / name.lower() / 'predictions'
        tiles[label] = [folder / file for file in names]
    picture = []
    for label, paths in tiles.items():
        row = []
        for path in paths:
            if label == 'image':
                tile = cv2.imread(str(path), cv2.IMREAD_COLOR)
            else:
                tile = PALETTE[cv2.imread(str(path), cv2.IMREAD_UNCHANGED)][..., ::-1]
            row.append(cv2.resize(tile, (128, 128), interpolation=cv2.INTER_NEAREST))
            row.append(np.full((128, 4, 3), 255, np.uint8))
        row = np.concatenate(row, axis=1)
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


def main() -> None:
    """Run the quickstart."""
    args = parse_args()
    start = time.time()
    out = Path(args.out)
    converter = ROOT / 'tools/dataset_converters/digit_scenes.py'
    subprocess.run([sys.executable, str(converter), DATA], check=True)
    results = {}
    for name, config in RUNS.items():
        experiment = Experiment(config, str(out / name.lower()), args.seed)
        results[name] = run_with_progress(name, experiment)
        print(f'{name}: mIoU {results[name]["mIoU"]:.2f}', flush=True)
    picture, table = draw(out, results, args.scenes), write_table(out, results, args.seed)
    print(f'\n{table.read_text()}\npicture: {picture}\ntable: {table}')
    print(f'done in {(time.time() - start) / 60:.1f} minutes')


if __name__ == '__main__':
    main()
