"""Training and testing configs as subprocesses, so that a list of runs can be interrupted.

A finished step leaves a result file and is not run again; an unfinished training is resumed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from .safe_checkpoints import latest_checkpoint

TOOLS = Path(__file__).resolve().parents[2] / 'tools'
RESULT_FILE = 'result.json'


@dataclass
class Experiment:
    """One training run and its test.

    Attributes:
        config: Config file.
        work_dir: Folder of the run.
        seed: Seed of the run.
        options: ``--cfg-options`` of training and testing, as ``key=value``.
        threads: CPU threads; None leaves it to the environment.
    """

    config: str
    work_dir: str
    seed: int = 0
    options: list[str] = field(default_factory=list)
    threads: Optional[int] = None

    @property
    def result_path(self) -> Path:
        """Where the result is kept."""
        return Path(self.work_dir) / RESULT_FILE

    def settings(self) -> dict[str, object]:
        """What a kept result must agree with to be taken for this run's."""
        text = Path(self.config).read_text()
        return dict(config=self.config, seed=self.seed, options=self.options, config_text=text)

    def result(self) -> Optional[dict[str, float]]:
        """Return the kept metrics, or None when the run is not finished."""
        if not self.result_path.is_file():
            return None
        kept = json.loads(self.result_path.read_text())
        return kept['metrics'] if kept['settings'] == self.settings() else None

    def run(self) -> dict[str, float]:
        """Train (or resume), test, keep and return the metrics.

        Raises:
            RuntimeError: Training or testing failed; names the log file.
        """
        kept = self.result()
        if kept is not None:
            return kept
        os.makedirs(self.work_dir, exist_ok=True)
        options = ['--cfg-options', *self.options] if self.options else []
        start = time.time()
        self._call(
            'train.py',
            [self.config, '--work-dir', self.work_dir, '--seed', str(self.seed), '--resume'],
            options,
        )
        minutes = (time.time() - start) / 60
        checkpoint = latest_checkpoint(self.work_dir)
        out = os.path.join(self.work_dir, 'predictions')
        test_dir = os.path.join(self.work_dir, 'test')
        self._call(
            'test.py', [self.config, checkpoint, '--work-dir', test_dir, '--out', out], options
        )
        metrics = newest_metrics(test_dir)
        metrics['train_minutes'] = round(minutes, 2)
        text = json.dumps(dict(settings=self.settings(), metrics=metrics), indent=1)
        part = self.result_path.with_suffix('.part')
        part.write_text(text)
        os.replace(part, self.result_path)
        return metrics

    def _call(self, tool: str, arguments: Sequence[str], options: Sequence[str]) -> None:
        env = dict(os.environ)
        root = str(TOOLS.parent)
        env['PYTHONPATH'] = os.pathsep.join(p for p in (root, env.get('PYTHONPATH')) if p)
        if self.threads is not None:
            for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
                env[name] = str(self.threads)
        log = os.path.join(self.work_dir, f'{Path(tool).stem}.log')
        with open(log, 'ab') as output:
            code = subprocess.call(
                [sys.executable, str(TOOLS / tool), *arguments, *options],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
            )
        if code:
            tail = Path(log).read_text(errors='replace').splitlines()[-15:]
            raise RuntimeError(f'{tool} {self.config} failed, see {log}:\n' + '\n'.join(tail))


def newest_metrics(folder: str) -> dict[str, float]:
    """Read the metrics that mmengine wrote last below ``folder``.

    Raises:
        FileNotFoundError: There are none.
    """
    files = sorted(Path(folder).glob('*/*.json'), key=lambda path: path.stat().st_mtime)
    if not files:
        raise FileNotFoundError(f'no metrics (*/*.json) below {folder}')
    line = files[-1].read_text().strip().splitlines()[-1]
    return {key: value for key, value in json.loads(line).items() if key not in ('step',)}
