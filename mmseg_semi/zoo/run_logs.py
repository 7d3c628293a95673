"""Work folders of trainings, of this package or of plain mmseg, as their logs have them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Optional

from mmengine.config import Config

from mmseg_semi.engine.hooks.training_monitor_hook import WARNINGS_FILE
from mmseg_semi.files import LABELS_ALONE, UNLABELED_BEST, read_json
from mmseg_semi.utils.config import data_places
from mmseg_semi.utils.safe_checkpoints import numbered
from mmseg_semi.utils.weight_checks import without_downloads

_SCALARS = 'vis_data/scalars.json'
#: What differs between the runs of one row.
_OF_A_RUN = ('work_dir', 'randomness', 'resume', 'load_from', 'launcher', 'log_level')


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    for text in path.read_text(encoding='utf-8').splitlines():
        try:
            yield json.loads(text)
        except ValueError:  # the last line of a run that was killed
            continue


@dataclass(frozen=True)
class Run:
    """One work folder.

    Attributes:
        folder: It, with a folder of logs for each time that the training was started.
        config_path: The config that the newest start has left.
    """

    folder: Path
    config_path: Path

    @cached_property
    def config(self) -> Config:
        """The whole config."""
        return Config.fromfile(self.config_path)

    @property
    def seed(self) -> Optional[int]:
        """Seed of the config, None where mmengine drew one."""
        seed = (self.config.get('randomness') or {}).get('seed')
        return None if seed is None else int(seed)

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """Logged figures in the order of their steps.

        A start from a checkpoint, or from the beginning, takes the place of what was run after it.
        """
        found: dict[tuple[int, bool], dict[str, Any]] = {}
        for path in sorted(self.folder.glob(f'*/{_SCALARS}')):
            steps = [line['step'] for line in _json_lines(path) if 'step' in line]
            if steps:
                found = {key: line for key, line in found.items() if key[0] < min(steps)}
            for line in _json_lines(path):
                if 'step' in line:
                    found[line['step'], 'loss' in line] = line
        return [found[key] for key in sorted(found)]

    def curve(self, name: str) -> list[tuple[int, float]]:
        """Step and value of a figure, where it was logged."""
        return [(line['step'], line[name]) for line in self.lines if name in line]

    @property
    def names(self) -> list[str]:
        """Names of all figures, in the order in which they first come."""
        return list(dict.fromkeys(name for line in self.lines for name in line))

    @cached_property
    def tested(self) -> dict[str, float]:
        """Metrics of the newest test of this run: in its folder, or the folder ``test`` in it.

        Where the guard has taken the labels alone, the best checkpoint is not of this training.
        """
        files = [*self.folder.glob('*/*.json'), *self.folder.glob('test/*/*.json')]
        files = [path for path in files if path.stem == path.parent.name]  # <time>/<time>.json
        others = any(self.folder.glob(f'{UNLABELED_BEST}*.pth'))
        for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
            if others and tested_checkpoint(path.with_suffix('.log')).startswith('best_'):
                continue
            found = list(_json_lines(path))
            if found and found[-1].keys() - {'time', 'data_time'}:  # one without masks has no more
                return found[-1]
        return {}

    @property
    def unfinished(self) -> Optional[str]:
        """How far a run has come that has not reached its last step; None for others."""
        length = (self.config.get('train_cfg') or {}).get('max_iters')
        done = max((line['step'] for line in self.lines), default=0)
        saved = [number for number, _ in numbered(self.folder)]
        if not length or length in (done, *saved):
            return None
        hooks = self.config.get('default_hooks') or {}
        if not saved and done + (hooks.get('logger') or {}).get('interval', 10) >= length:
            return None  # its checkpoints are elsewhere, and no more lines would have come
        return f'step {done} of {length}'

    @property
    def warnings(self) -> list[dict[str, Any]]:
        """What ``TrainingMonitorHook`` has warned of."""
        files = sorted(self.folder.glob(f'*/{WARNINGS_FILE}'))
        return [line for path in files for line in _json_lines(path)]

    @property
    def check(self) -> dict[str, Any]:
        """What ``mmseg-semi check`` has found, where it was asked about the data of this run."""
        path = self.folder / 'check.json'
        if not path.is_file():
            return {}
        found = read_json(path, 'Make it again with mmseg-semi check.')
        return found if found.get('data') == data_places(self.config) else {}

    @property
    def minutes(self) -> float:
        """Time of the training steps that are logged, with loading."""
        steps = [(line['step'], line['time']) for line in self.lines if 'loss' in line]
        before, total = 0, 0.0
        for step, seconds in steps:  # the mean since the line before
            total += (step - before) * seconds
            before = step
        return total / 60


def tested_checkpoint(log: Path) -> str:
    """Name of the checkpoint that a test has loaded, empty where its log does not say it."""
    text = log.read_text(errors='replace') if log.is_file() else ''
    return Path((re.findall('Load checkpoint from (.*)', text) or [''])[-1].strip()).name


@dataclass
class Row:
    """Runs that differ in nothing but their seed."""

    name: str
    runs: list[Run] = field(default_factory=list)

    def scores(self, metric: str, of: str) -> list[tuple[Optional[int], float]]:
        """Seed and score of each run that has one.

        Args:
            metric: Such as ``mIoU``.
            of: ``'test'``, ``'last'`` or ``'best'``, the latter two of the validations.
        """
        found = []
        for run in self.runs:
            values = [value for _, value in run.curve(metric)]
            if of == 'test':
                values = [run.tested[metric]] if metric in run.tested else []
            if values:
                found.append((run.seed, max(values) if of == 'best' else values[-1]))
        return found


def find_runs(paths: Iterable[str | Path]) -> list[Run]:
    """The work folders that are named, or that are below folders that are.

    Raises:
        FileNotFoundError: A folder is not there, or has no run.
    """
    found: dict[Path, Run] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise FileNotFoundError(f'{path}: there is no such folder, name that of a training')
        logs = sorted({*path.glob(f'*/{_SCALARS}'), *path.glob(f'**/{_SCALARS}')})
        folders = dict.fromkeys(log.parents[2] for log in logs)
        for folder in folders:
            configs = sorted(folder.glob('*.py'), key=lambda one: one.stat().st_mtime)
            run = Run(folder, configs[-1]) if configs else None
            if run is not None and any('loss' in line for line in run.lines):
                found.setdefault(folder.resolve(), run)
        if not any(path.resolve() in (one, *one.parents) for one in found):
            raise FileNotFoundError(
                f'{path}: no training has left its log here (*/{_SCALARS}): name a work folder, or '
                'one that has some'
            )
    return list(found.values())


def _name_of(run: Run) -> str:
    """Its config, and that it is what the guard has trained."""
    alone = ' (labels alone)' if run.folder.name == LABELS_ALONE else ''
    return f'{run.config_path.stem}{alone}'


def rows_of(runs: Sequence[Run]) -> list[Row]:
    """Put runs together whose configs differ in the seed alone; a row is named by its config.

    Rows of the same name are told apart by their folders.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        content = {key: one for key, one in run.config.to_dict().items() if key not in _OF_A_RUN}
        # A run that was resumed has its weights from its checkpoint.
        content['model'] = without_downloads(content.get('model')).to_dict()
        groups.setdefault(json.dumps(content, sort_keys=True, default=repr), []).append(run)
    stems = [_name_of(several[0]) for several in groups.values()]
    rows = []
    for stem, several in zip(stems, groups.values()):
        ordered = sorted(several, key=lambda run: (run.seed is None, run.seed, str(run.folder)))
        alone = stems.count(stem) == 1
        rows.append(Row(stem if alone else str(ordered[0].folder), ordered))
    return rows
