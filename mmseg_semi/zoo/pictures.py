"""Pictures of results: what runs predict, and a metric against the number of labels."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure

from mmseg_semi.files import write_file

TILE, GAP = 128, 4
#: What has no class.
DARK_GRAY = 64


def draw_tests(path: Path, data: Any, runs: Mapping[str, Path], count: int, every: int = 1) -> None:
    """Write test images, their truth and the predictions of runs, one row each.

    Args:
        path: The picture, a PNG file.
        data: Config of the test part, with a folder of images and one of masks.
        runs: Work folders, which have ``predictions``, by what is written above their row.
        count: How many images.
        every: Each so-many-th image is taken.
    """
    palette = np.full((256, 3), DARK_GRAY, np.uint8)
    palette[: len(data.metainfo.palette)] = data.metainfo.palette
    images, truth = (Path(data.data_root, folder) for folder in data.data_prefix.values())
    names = sorted(one.name for one in images.glob('*.png'))[::every][:count]
    folders = {'truth': truth, **{name: run / 'predictions' for name, run in runs.items()}}
    rows = [_row('image', [_read(images / name, cv2.IMREAD_COLOR) for name in names])]
    for title, folder in folders.items():
        maps = (_read(folder / name, cv2.IMREAD_UNCHANGED) for name in names)
        rows.append(_row(title, [palette[one][..., ::-1] for one in maps]))
    write_file(path, cv2.imencode('.png', np.concatenate(rows))[1].tobytes())


def _read(path: Path, flag: int) -> np.ndarray:
    image = cv2.imread(str(path), flag)
    if image is None:
        raise FileNotFoundError(
            f'{path} can not be read as an image: put it there, or run its test again'
        )
    return image


def _row(title: str, images: Sequence[np.ndarray]) -> np.ndarray:
    """Images (H, W, 3) of any size side by side, in squares, under one line of text."""
    height, width = TILE, len(images) * (TILE + GAP)
    strip = np.full((28, width, 3), 255, np.uint8)
    cv2.putText(strip, title, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    gap = np.full((height, GAP, 3), 255, np.uint8)
    tiles = [cv2.resize(one, (TILE, height), interpolation=cv2.INTER_NEAREST) for one in images]
    return np.concatenate([strip, np.hstack([part for tile in tiles for part in (tile, gap)])])


def draw_curve(
    path: Path,
    results: Mapping[str, Mapping[int, Sequence[float]]],
    ceiling: Sequence[float] = (),
    metric: str = 'mIoU',
) -> None:
    """Write the mean of each row against the number of labels, with its standard deviation.

    Args:
        path: The picture, a PNG file.
        results: By row and number of labels, one figure a seed.
        ceiling: Figures with all labels, drawn as a line.
        metric: What the figures are.
    """
    figure = Figure(figsize=(6, 4), layout='constrained')
    axes = figure.add_subplot(xscale='log', xlabel='labeled images', ylabel=metric)
    for name, row in results.items():
        numbers = sorted(row)
        means = [mean(row[number]) for number in numbers]
        spread = [stdev(row[number]) if len(row[number]) > 1 else 0.0 for number in numbers]
        axes.errorbar(numbers, means, spread, marker='o', capsize=3, label=name)
    if ceiling:
        axes.axhline(mean(ceiling), color='gray', linestyle='--', label='all labels')
    every = sorted({number for row in results.values() for number in row})
    axes.set_xticks(every, [str(number) for number in every])
    axes.minorticks_off()
    axes.legend()
    data = io.BytesIO()
    figure.savefig(data, dpi=120)
    write_file(path, data.getvalue())
