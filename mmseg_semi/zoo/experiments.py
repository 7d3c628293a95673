"""Training and testing configs as subprocesses, so that a list of runs can be interrupted.

A finished step leaves a result file and is not run again; an unfinished training is resumed.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from mmengine.config import Config

from mmseg_semi.datasets.file_digests import config_digest
from mmseg_semi.files import write_file
from mmseg_semi.utils.collect_env import checkout_commit
from mmseg_semi.utils.safe_checkpoints import best_checkpoint, latest_checkpoint
from mmseg_semi.zoo.commands import ROOT, TOOLS, call, ending_commands
from mmseg_semi.zoo.run_logs import Run

RESULT_FILE, SETTINGS_FILE, NOT_NOTED = 'result.json', 'settings.json', 'not noted'


@dataclass
class Experiment:
    """One training run and its test.

    Attributes:
        config: Config file.
        work_dir: Folder of the run.
        seed: Seed of the run.
        options: ``--cfg-options`` of training and testing, as ``key=value``.
        threads: CPU threads; None leaves it to the environment.
        processes: Processes (GPUs) of training and testing.
        train_args: Further arguments of tools/train.py, such as ``--amp``.
        split: Hash of the split that is trained on, where it is known.
        keep_predictions: Whether the predicted label maps are kept, in ``predictions``.
        best: Whether the checkpoint of the best validation is tested, and not the last one.
        test_options: ``--cfg-options`` of testing alone; another test does not train anew.
    """

    config: str
    work_dir: str
    seed: int = 0
    options: list[str] = field(default_factory=list)
    threads: Optional[int] = None
    processes: int = 1
    train_args: list[str] = field(default_factory=list)
    keep_predictions: bool = True
    split: Optional[str] = None
    best: bool = False
    test_options: list[str] = field(default_factory=list)

    @property
    def result_path(self) -> Path:
        """Where the result is kept."""
        return Path(self.work_dir) / RESULT_FILE

    def settings(self) -> dict[str, Any]:
        """What a kept checkpoint must agree with to be taken for this run's.

        Where data, checkout and the folder of all runs are does not count, what the files of the
        data hold does.
        """
        config = Config.fromfile(self.config).to_dict()
        text = json.dumps(config, default=repr)  # not pretty_text, which takes seconds
        for root in _data_roots(config):
            text = text.replace(root, 'DATA_ROOT')
        path = Path(self.config).resolve()
        inside = ROOT in path.parents
        found = dict(
            config=str(path.relative_to(ROOT) if inside else path),
            seed=self.seed,
            options=self.options,
            processes=self.processes,
            train_args=self.train_args,
            split=self.split,
            data=config_digest(config),
            config_text=text,
        )
        return self._moved(found, config)

    def result(self) -> Optional[dict[str, float]]:
        """Return the kept metrics, or None when the run is not finished."""
        kept = self.kept_result()
        return None if kept is None else kept['metrics']

    def kept_result(self) -> Optional[dict[str, Any]]:
        """What is kept of this run and test, None when there is no such result."""
        kept = self._kept_of_training()
        return kept if kept and kept.get('test_options', []) == self.test_options else None

    def _kept_of_training(self) -> Optional[dict[str, Any]]:
        """What is kept of this run, whatever was tested."""
        kept = _read_dict(self.result_path)
        same = kept and 'metrics' in kept and self._moved(kept.get('settings', {}))
        return kept if same == self.settings() else None

    def _moved(
        self, settings: dict[str, Any], config: Optional[dict[str, Any]] = None
    ) -> dict[str, Any]:
        """Settings without the folders of data, of all runs and of the configs written there."""
        runs = Path(self.work_dir).parent.parent
        folders = {str(runs): '../..'}
        given = Config.fromfile(self.config).to_dict() if config is None else config
        folders |= dict.fromkeys(_data_roots(given), 'DATA_ROOT')
        options = settings.get('options', [])
        for folder, name in folders.items():
            options = [one.replace(f'={folder}{os.sep}', f'={name}/') for one in options]
        path = Path(ROOT, settings.get('config', ''))
        written = Path(runs.parent, 'configs').resolve()
        if written in path.parents and written != ROOT / 'configs':
            settings = dict(settings, config=str(path.relative_to(written)))
        return dict(settings, options=options)

    def conflict(self) -> Optional[str]:
        """Why the folder cannot be used for this run, None when it can.

        It has checkpoints of other settings, which would be taken up.
        """
        if latest_checkpoint(self.work_dir) is None:
            return None
        settings, path = self.settings(), Path(self.work_dir, SETTINGS_FILE)
        earlier = self._moved(_read_dict(path) or {}) if path.is_file() else settings
        changed = [key for key in settings if earlier.get(key) != settings[key]]
        if not changed:
            return None
        if 'options' in changed:
            before, now = earlier['options'], settings['options']
            gone, new = (
                ', '.join(one for one in some if one not in others) or 'none'
                for some, others in ((before, now), (now, before))
            )
            changed[changed.index('options')] = f'options: before {gone}, now {new}'
        if 'data' in changed:
            changed[changed.index('data')] = 'data: other files of images or masks'
        return (
            f'{self.work_dir} has checkpoints of {self.config} with other settings '
            f'({"; ".join(changed)}), and training would go on from them. Give another work '
            'folder, or remove that one.'
        )

    def train_command(self) -> list[str]:
        """The command that trains, or resumes."""
        rest = ['--work-dir', self.work_dir, '--seed', str(self.seed), '--resume']
        return self._command('train', [self.config], [*rest, *self.train_args])

    def test_command(self, checkpoint: str) -> list[str]:
        """The command that tests a checkpoint."""
        rest = ['--work-dir', os.path.join(self.work_dir, 'test')]
        if self.keep_predictions:
            rest += ['--out', os.path.join(self.work_dir, 'predictions')]
        return self._command('test', [self.config, checkpoint], rest, self.test_options)

    def _command(
        self, tool: str, files: list[str], rest: list[str], more: Sequence[str] = ()
    ) -> list[str]:
        given = [*self.options, *more]
        options = ['--cfg-options', *given] if given else []
        if self.processes == 1:
            return [sys.executable, str(TOOLS / f'{tool}.py'), *files, *rest, *options]
        script = str(TOOLS / f'dist_{tool}.sh')
        return ['bash', script, *files, str(self.processes), *rest, *options]

    def run(self) -> dict[str, float]:
        """Train (or resume), test, keep and return the metrics.

        Raises:
            RuntimeError: Training or testing failed; names the log file. Training left no
                checkpoint. The folder has checkpoints of other settings, which would be taken up.
        """
        kept = self.result()
        if kept is not None:
            return kept
        self._claim_folder()
        minutes = self._train()
        find = best_checkpoint if self.best else latest_checkpoint
        checkpoint = find(self.work_dir)
        if checkpoint is None:
            raise RuntimeError(
                f'{self.work_dir} has no checkpoint after training {self.config}, so there is '
                'nothing to test. Let default_hooks.checkpoint save one.'
            )
        self._call('test', self.test_command(checkpoint))
        metrics = newest_metrics(os.path.join(self.work_dir, 'test'))
        metrics['train_minutes'] = round(minutes, 2)
        content = dict(
            settings=self.settings(),
            test_options=self.test_options,
            commits=self._note_commit(),
            metrics=metrics,
        )
        write_file(self.result_path, json.dumps(content, indent=1))
        return metrics

    def _train(self) -> float:
        """Train or resume; return the minutes of the training, those before it was resumed too."""
        start = time.time()
        self._call('train', self.train_command())
        kept = self._kept_of_training()
        before = kept['metrics'].get('train_minutes', 0.0) if kept else 0.0
        in_logs = Run(Path(self.work_dir), Path(self.config)).minutes
        return max((time.time() - start) / 60, in_logs, before)

    def _claim_folder(self) -> None:
        """Note the settings and the commit of the run, before it leaves any checkpoint."""
        conflict = self.conflict()
        if conflict:
            raise RuntimeError(conflict)
        self._note_commit()

    def _note_commit(self) -> list[str]:
        """Add the commit to those that the run has noted beside its settings; return all."""
        path = Path(self.work_dir, SETTINGS_FILE)
        begun = latest_checkpoint(self.work_dir) is not None
        noted = (_read_dict(path) or {}) if begun else dict(commits=[])
        commits = [*dict.fromkeys([*noted.pop('commits', [NOT_NOTED]), checkout_commit()])]
        settings = noted or self.settings()  # those that it was begun with
        write_file(path, json.dumps(dict(settings, commits=commits), indent=1))
        return commits

    def _call(self, step: str, command: Sequence[str]) -> None:
        log = os.path.join(self.work_dir, f'{step}.log')
        call(command, log, self.threads, self.config)


def _read_dict(path: Path) -> Optional[dict[str, Any]]:
    """What a JSON file has; None where it is not there, or broken."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _data_roots(node: object) -> list[str]:
    """Every ``data_root`` in a config, the longest first."""
    found: set[str] = set()
    if isinstance(node, dict):
        root = node.get('data_root')
        found.update([root] if isinstance(root, str) and root else [])
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        found.update(*(_data_roots(child) for child in node))
    return sorted(found, key=len, reverse=True)


def run_experiments(
    experiments: Sequence[Experiment],
    jobs: int = 1,
    report: Callable[[Experiment, dict[str, float]], None] = lambda experiment, metrics: None,
) -> list[dict[str, float]]:
    """Run experiments, several at a time, and return their metrics in the same order.

    Args:
        experiments: What to run.
        jobs: How many run at a time.
        report: Called when one is finished.
    """

    def run(experiment: Experiment) -> dict[str, float]:
        metrics = experiment.run()
        report(experiment, metrics)
        return metrics

    with ending_commands(), ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(run, experiments))


def mean_and_spread(values: Sequence[float]) -> str:
    """Format mean and sample standard deviation."""
    deviation = f' ± {statistics.stdev(values):.2f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.2f}{deviation}'


def commits_of(runs: Iterable[Experiment]) -> str:
    """The commits that the finished ones of some runs were trained and tested at, in words.

    Runs are kept over commits, so these need not be that of the checkout.
    """
    kept = [run.kept_result() for run in runs]
    each = [one.get('commits', [NOT_NOTED]) for one in kept if one is not None]
    commits = dict.fromkeys(commit for several in each for commit in several)
    return f'Commit{"s" if len(commits) > 1 else ""} {", ".join(commits) or NOT_NOTED}'


def newest_metrics(folder: str) -> dict[str, float]:
    """Read the metrics that mmengine wrote last below ``folder``.

    Raises:
        FileNotFoundError: There are none.
    """
    files = sorted(Path(folder).glob('*/*.json'), key=lambda path: path.stat().st_mtime)
    if not files:
        raise FileNotFoundError(f'no metrics (*/*.json) below {folder}: run tools/test.py first')
    line = files[-1].read_text().strip().splitlines()[-1]
    return {key: value for key, value in json.loads(line).items() if key not in ('step',)}
