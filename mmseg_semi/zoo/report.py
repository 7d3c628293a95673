"""One page about finished trainings: ``mmseg-semi report``."""

from __future__ import annotations

import argparse
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Optional

import jinja2
import numpy as np
from matplotlib.figure import Figure

from mmseg_semi.apis.check_page import picture
from mmseg_semi.apis.saved_model import load_saved
from mmseg_semi.apis.start import ignore_library_warnings
from mmseg_semi.engine.hooks.run_record_hook import RECORD_KEY, VERSIONS_KEY
from mmseg_semi.errors import DataError, refusal
from mmseg_semi.files import UNLABELED_BEST, write_file
from mmseg_semi.utils.drawing import as_rgb, colors, overlay
from mmseg_semi.utils.safe_checkpoints import best_checkpoint, numbered, read_checkpoint
from mmseg_semi.zoo.compare import SAID, choose_base, choose_scores, table, without_score
from mmseg_semi.zoo.evaluating import Evaluation, evaluate, same_images, validation_batches
from mmseg_semi.zoo.report_progress import html_color, through_training
from mmseg_semi.zoo.run_logs import Row, Run, find_runs, rows_of
from mmseg_semi_cli import runs as command_lines

#: Curves of one figure: what it is called, and the figures of the log that are in it.
_FIGURES = {
    'Validation': r'.*(mIoU|mDice|mFscore|aAcc)$',
    'Losses': r'(.*\.)?loss(_\w+)?$',
    'Selected share of the unlabeled pixels': r'selected$|pseudo/.*/filter_ratio$',
    'Thresholds and confidence': r'.*(threshold|confidence).*',
    'Classes of the pseudo-labels, in effect': r'pseudo/classes$',
    'Learning rate': r'base_lr$',
}
#: Figures whose curves are of single batches.
_SMOOTHED = ('Losses', 'Selected share of the unlabeled pixels')
_SMOOTH, _POINTS = 0.9, 400
#: Curves of so few points show them.
_FEW = 10
_SHOWN, _MOST_CLASSES = 4, 40
_PALETTE = [f'C{i}' for i in range(10)]


@dataclass
class Predicted:
    """A row's networks on the validation images.

    Attributes:
        row: It.
        each: One evaluation a run.
        checkpoints: Their files.
    """

    row: Row
    each: list[Evaluation]
    checkpoints: list[str]

    @property
    def confusion(self) -> np.ndarray:
        """Of all runs together."""
        return np.sum([one.confusion for one in self.each], axis=0)


def last_checkpoint(run: Run) -> Optional[str]:
    """The checkpoint of the last iteration or epoch."""
    found = numbered(str(run.folder))
    return str(max(found)[1]) if found else None


def checkpoint_of(run: Run) -> Optional[str]:
    """The checkpoint of the best validation where it is kept, else the last one.

    Where the guard has taken that of the labels alone, which are a row of their own, the method's.
    """
    own = sorted(run.folder.glob(f'{UNLABELED_BEST}*.pth'))
    return str(own[-1]) if own else best_checkpoint(run.folder) or last_checkpoint(run)


def predict_rows(rows: Sequence[Row]) -> tuple[list[Predicted], dict[str, Any], list[str]]:
    """Evaluate all runs that have a checkpoint, on the same images.

    Returns:
        The rows, ``classes`` and ``palette``, and why runs are left out.
    """
    found: list[Predicted] = []
    meta: dict[str, Any] = {}
    notes: list[str] = []
    for row in rows:
        one = Predicted(row, [], [])
        for run in row.runs:
            checkpoint = checkpoint_of(run)
            if checkpoint is None:
                notes.append(f'{run.folder} has no checkpoint, so that nothing is predicted.')
                continue
            try:
                saved = load_saved(checkpoint, str(run.config_path))
                if meta and list(meta['classes']) != saved.classes:
                    raise DataError(f'its classes are {saved.classes}, not {meta["classes"]}')
                result = evaluate(saved, validation_batches(saved), keep=not one.each)
                first = next((run for other in [*found, one] for run in other.each), result)
                if not same_images(result, first):
                    raise DataError(
                        'its validation images are others than those of the runs before: report '
                        'it alone, or all with --no-predict'
                    )
            except Exception as error:
                reason = refusal(error)
                if reason is None:
                    raise
                notes.append(f'{checkpoint} is not predicted with: {reason}')
                continue
            meta = meta or saved.meta
            one.each.append(result)
            one.checkpoints.append(checkpoint)
        if one.each:
            found.append(one)
    return found, meta, notes


# ------------------------------------------------------------------------------------ curves
def smooth(values: Iterable[float]) -> np.ndarray:
    """Running mean with exponential weights that forgets a tenth a point."""
    result, mean, weight = [], 0.0, 0.0
    for value in values:
        if np.isfinite(value):
            mean, weight = _SMOOTH * mean + (1 - _SMOOTH) * value, _SMOOTH * weight + 1 - _SMOOTH
        result.append(mean / weight if weight else np.nan)
    return np.array(result)


def _curves(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Title and SVG of each figure that has a curve."""
    for title, pattern in _FIGURES.items():
        names = list(
            dict.fromkeys(
                name
                for row in rows
                for run in row.runs
                for name in run.names
                if re.fullmatch(pattern, name)
            )
        )
        if names:
            yield title, _figure(rows, names, smoothed=title in _SMOOTHED)


def _figure(rows: Sequence[Row], names: Sequence[str], smoothed: bool) -> str:
    styles = ('-', '--', ':', '-.')
    figure = Figure(figsize=(8, 3.6), layout='constrained')
    axes = figure.add_subplot(xlabel='step')
    for i, row in enumerate(rows):
        for j, name in enumerate(names):
            look: dict[str, Any] = dict(
                color=_PALETTE[i % len(_PALETTE)], linestyle=styles[j % len(styles)]
            )
            label: Optional[str] = f'{row.name}: {name}' if len(rows) > 1 else name
            if len(rows) == 1:
                look['color'] = _PALETTE[j % len(_PALETTE)]
            for run in row.runs:
                points = np.array(run.curve(name), float)
                if not len(points):
                    continue
                points = points[:: max(1, len(points) // _POINTS)]
                look['marker'] = 'o' if len(points) <= _FEW else None  # one alone has no line
                if smoothed and len(points) > _FEW:
                    axes.plot(*points.T, alpha=0.25, linewidth=0.7, **look)
                    points[:, 1] = smooth(points[:, 1])
                axes.plot(*points.T, label=label, linewidth=1.4, markersize=3, **look)
                label = None
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc='upper left', bbox_to_anchor=(1.0, 1.0), frameon=False)
    return _svg(figure)


def _reliability(predicted: Sequence[Predicted]) -> str:
    figure = Figure(figsize=(5.5, 3.6), layout='constrained')
    axes = figure.add_subplot(xlabel='confidence', ylabel='right', xlim=(0, 1), ylim=(0, 1))
    axes.plot([0, 1], [0, 1], color='gray', linewidth=0.8, linestyle='--')
    for i, one in enumerate(predicted):
        count, confidence, right = np.sum([each.bins for each in one.each], axis=0).T
        there = count > 0
        look: dict[str, Any] = dict(color=_PALETTE[i % len(_PALETTE)], marker='o', markersize=3)
        axes.plot(
            confidence[there] / count[there],
            right[there] / count[there],
            label=one.row.name,
            **look,
        )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return _svg(figure)


def _svg(figure: Figure) -> str:
    data = io.StringIO()
    figure.savefig(data, format='svg', metadata=dict(Date=None, Creator=None))
    return data.getvalue()[data.getvalue().index('<svg') :]


# ------------------------------------------------------------------------------------ tables
def _spread(values: Sequence[float]) -> str:
    known = [value for value in values if np.isfinite(value)]
    if not known:
        return ''
    deviation = f' ± {np.std(known, ddof=1):.2f}' if len(known) > 1 else ''
    return f'{np.mean(known):.2f}{deviation}'


def _confusions(predicted: Sequence[Predicted], classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Shares of the predicted classes among the pixels of each true class, of all runs of a row."""
    for one in predicted:
        shares = one.confusion / np.maximum(one.confusion.sum(axis=1, keepdims=True), 1)
        yield dict(name=one.row.name, lines=list(zip(classes, shares.tolist())))


def _classes(predicted: Sequence[Predicted], meta: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    table = colors(meta)
    for number, name in enumerate(meta['classes']):
        each = [_spread([float(run.iou[number]) for run in one.each]) for one in predicted]
        yield dict(name=name, color=html_color(table[number % 256]), each=each)


def _facts(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """What each run trained on and with, as its checkpoint has it."""
    for row in rows:
        for run in row.runs:
            checkpoint = last_checkpoint(run)
            meta = read_checkpoint(checkpoint).get('meta', {}) if checkpoint else {}
            record = meta.get(RECORD_KEY) or {}
            counts = [
                f'{record[part]} {part}' for part in ('labeled', 'unlabeled') if part in record
            ]
            versions = {**(meta.get(VERSIONS_KEY) or {})}
            versions.setdefault('mmengine', meta.get('mmengine_version', '?'))
            yield dict(
                row=row.name,
                folder=str(run.folder),
                seed=meta.get('seed', run.seed),
                images=', '.join(counts),
                split=record.get('split') or '',
                versions=', '.join(f'{name} {one}' for name, one in versions.items()),
                config=run.config.pretty_text if run is row.runs[0] else '',
                warnings=run.warnings,
            )


# ---------------------------------------------------------------------------------- pictures
def _chosen(predicted: Sequence[Predicted]) -> list[tuple[str, int]]:
    """The worst and the best images by the mean score of all networks."""
    scores = np.nanmean([each.scores for one in predicted for each in one.each], axis=0)
    order = [int(i) for i in np.argsort(scores) if np.isfinite(scores[i])]
    worst = order[: min(_SHOWN, (len(order) + 1) // 2)]
    best = [i for i in order[::-1][:_SHOWN] if i not in worst]
    return [('worst', i) for i in worst] + [('best', i) for i in best]


def _pictures(predicted: Sequence[Predicted], table: np.ndarray) -> Iterator[dict[str, Any]]:
    """Tiles of the chosen images: the image, its truth, and what the first run of each row says."""
    first = predicted[0].each[0]
    for kind, i in _chosen(predicted):
        image = as_rgb(first.load_image(first.paths[i]))
        tiles = [('image', image), ('truth', overlay(image, first.truth(i), table))]
        for one in predicted:
            title = f'{one.row.name}: {one.each[0].scores[i]:.1f}'
            tiles.append((title, overlay(image, one.each[0].label(i), table)))
        yield dict(kind=kind, path=first.paths[i], tiles=tiles)


def page(args: argparse.Namespace, rows: Sequence[Row]) -> tuple[str, list[str]]:
    """Write the page.

    Args:
        args: ``metric``, ``of``, ``base`` and ``no_predict`` of the command line.
        rows: What it is about.

    Returns:
        HTML, and what could not be looked at.
    """
    predicted: list[Predicted] = []
    meta: dict[str, Any] = {}
    notes: list[str] = []
    if not args.no_predict:
        predicted, meta, notes = predict_rows(rows)
    of = choose_scores(rows, args.metric, args.of)
    notes += [f'{one} has no score.' for one in without_score(rows, args.metric, of)]
    text = files('mmseg_semi.zoo').joinpath('report.html.j2').read_text(encoding='utf-8')
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters['picture'] = picture
    few = predicted if len(meta.get('classes', ())) <= _MOST_CLASSES else []
    rendered = environment.from_string(text).render(
        notes=notes,
        metric=args.metric,
        said=SAID[of],
        cells=table(rows, args.metric, of, choose_base(rows, args.base)),
        curves=list(_curves(rows)),
        names=[one.row.name for one in predicted],
        classes=list(_classes(predicted, meta)) if predicted else [],
        confusions=list(_confusions(few, meta['classes'])) if few else [],
        reliability=_reliability(predicted) if predicted else '',
        errors=[
            (one.row.name, _spread([each.calibration_error for each in one.each]))
            for one in predicted
        ],
        pictures=list(_pictures(predicted, colors(meta))) if predicted else [],
        training=list(through_training(rows)),
        checks=[(row.name, row.runs[0].check.get('findings', [])) for row in rows],
        facts=list(_facts(rows)),
    )
    return rendered.encode('utf-8', 'backslashreplace').decode('utf-8'), notes


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page and say where it is."""
    args = command_lines.report().parse_args(argv)
    if Path(args.out).suffix not in ('.html', '.htm'):
        raise SystemExit(f'--out {args.out}: name a file that ends with .html')
    ignore_library_warnings()
    rows = rows_of(find_runs(args.runs))
    text, notes = page(args, rows)
    write_file(Path(args.out), text)
    for note in notes:
        print(note)
    print(f'{args.out}: {len(rows)} rows, {sum(len(row.runs) for row in rows)} runs')
