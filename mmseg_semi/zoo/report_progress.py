"""The part of ``mmseg-semi report`` that shows pseudo-labels through the training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmseg_semi.engine.hooks.pseudo_label_progress_hook import FOLDER
from mmseg_semi.engine.hooks.pseudo_label_vis_hook import darkened
from mmseg_semi.utils.drawing import NOT_SELECTED, legend, paint
from mmseg_semi.zoo.run_logs import Row

_STEPS_SHOWN = 6


def through_training(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """What ``PseudoLabelProgressHook`` has kept of the first run of each row that has some.

    Yields:
        ``name``, ``steps``, ``lines`` and ``legend`` of a row.
    """
    for row in rows:
        for run in row.runs:
            found = dict(sorted(_kept_steps(run.folder).items()))
            if found:
                places = np.linspace(0, len(found) - 1, _STEPS_SHOWN).round().astype(int)
                kept = [list(found)[i] for i in sorted({*places.tolist()})]
                yield dict(name=row.name, steps=kept, **_progress([found[one] for one in kept]))
                break


def _kept_steps(folder: Path) -> dict[int, Path]:
    """File of each step; of one that was made twice, the later."""
    files = sorted(folder.glob(f'*/{FOLDER}/step_*.npz'))
    files = [one for one in files if one.with_name('images.npz').is_file()]
    return {int(one.stem.rpartition('_')[2]): one for one in files}


def _progress(files: Sequence[Path]) -> dict[str, Any]:
    """Rows of pictures, one column a file, and the legend of what they show."""
    given, steps = _arrays(files[-1].with_name('images.npz')), [_arrays(one) for one in files]
    table, lines = given['colors'], list[dict[str, Any]]()
    for i, path in enumerate(given['paths'].tolist()):
        tiles = [paint(one['label'][i], table) for one in steps]
        image = given[f'image{i}']
        lines.append(dict(path=path, title='pseudo-labels', tiles=tiles, image=image))
        if all('refined' in one for one in steps):
            tiles = [
                darkened(paint(one['refined'][i], table), one['light'][i] / 255) for one in steps
            ]
            lines.append(dict(path=path, title='trained with', tiles=tiles, image=None))
    meta = dict(classes=given['classes'].tolist(), palette=table)
    shown = [one[key] for one in steps for key in ('label', 'refined') if key in one]
    entries = [*legend(meta, *shown), NOT_SELECTED]
    return dict(lines=lines, legend=[(name, html_color(color)) for name, color in entries])


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as found:
        return dict(found)


def html_color(color: Sequence[int]) -> str:
    """A color as a page names it."""
    return '#{:02x}{:02x}{:02x}'.format(*color)
