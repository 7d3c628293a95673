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
from mmseg_semi.utils.drawing import Tile, as_rgb, colors, legend, paint, png_of, sheet
from mmseg_semi.zoo.experiments import RESULT_FILE

TILE = 192


def draw_tests(path: Path, data: Any, runs: Mapping[str, Path], count: int, every: int = 1) -> None:
    """Write test images, their truth and the predictions of runs, one row each.

    Args:
        path: The picture, a PNG file.
        data: Config of the test part, with a folder of images and one of masks.
        runs: Work folders, which have ``predictions``, by what is written above their row.
        count: How many images.
        every: Each so-many-th image is taken.
    """
    meta, table = data.metainfo, colors(data.metainfo)
    images, truth = (Path(data.data_root, folder) for folder in data.data_prefix.values())
    names = sorted(one.name for one in images.glob('*.png'))[::every][:count]
    folders = {'truth': truth, **{name: run / 'predictions' for name, run in runs.items()}}
    pictures = [as_rgb(_read(images / name, cv2.IMREAD_COLOR)) for name in names]
    rows, shown = [_row('image', pictures)], []
    for title, folder in folders.items():
        maps = [_read(folder / name, cv2.IMREAD_UNCHANGED) for name in names]
        rows.append(_row(title, [paint(one, table) for one in maps]))
        shown += maps
    write_file(path, png_of(sheet(rows, legend(meta, *shown))))


def _read(path: Path, flag: int) -> np.ndarray:
    image = cv2.imread(str(path), flag)
    if image is None:
        raise FileNotFoundError(
            f'{path} can not be read as an image: put it there; a prediction is made anew where '
            f'{RESULT_FILE} of its run is removed and the command given again'
        )
    return image


def _row(title: str, images: Sequence[np.ndarray]) -> list[Tile]:
    """Images (H, W, 3) of any size in squares, under one line of text."""
    squares = [cv2.resize(one, (TILE, TILE), interpolation=cv2.INTER_NEAREST) for one in images]
    return [Tile('' if i else title, one) for i, one in enumerate(squares)]


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
