"""What the faults are tried on: small runs of three methods, and the ends of uninterrupted ones."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Optional

from tool_runs import (
    CONFIGS,
    TOOLS,
    Finished,
    ForkServer,
    Started,
    differing,
    load_checkpoint,
    merged,
)

METHODS = {
    'CorrMatch': 'corrmatch/corrmatch_unet_digit-scenes-60.py',
    'U2PL': 'u2pl/u2pl_unet_digit-scenes-60.py',
    'Mean Teacher': 'mean_teacher/mean_teacher_unet_digit-scenes-60.py',
}
ITERATIONS = 8
EXACT = ('state_dict', 'optimizer', 'param_schedulers')


class Bench:
    """Runs in a folder.

    Args:
        folder: Where everything is written.
        data_root: A small digit scenes folder.
        server: Forks the processes.
    """

    def __init__(self, folder: Path, data_root: Path, server: ForkServer) -> None:
        self.folder, self.data_root, self.server, self.count = folder, data_root, server, 0
        self.references: dict[str, Path] = {}

    def new_work_dir(self) -> Path:
        """A work folder that is not there yet."""
        self.count += 1
        return self.folder / f'work_{self.count}'

    def config(self, method: str, **changes: Any) -> Path:
        """Write a config of eight iterations, each with a checkpoint."""
        root = dict(data_root=str(self.data_root))
        labeled = dict(root, ann_file='splits/labeled_8.txt')
        settings = dict(
            train_dataloader=dict(batch_size=4, dataset=dict(labeled=labeled, unlabeled=root)),
            val_dataloader=dict(batch_size=3, dataset=root),
            test_dataloader=dict(dataset=root),
            model=dict(warmup_iters=0),
            train_cfg=dict(max_iters=ITERATIONS, val_interval=5),
            default_hooks=dict(
                logger=dict(interval=1), checkpoint=dict(interval=1, max_keep_ckpts=20)
            ),
            custom_imports=dict(imports=['mmseg_semi', 'run_hooks'], allow_failed_imports=False),
            randomness=dict(seed=7),
        )
        lines = [f'{key} = {value!r}' for key, value in merged(settings, changes).items()]
        self.count += 1
        path = self.folder / f'config_{self.count}.py'
        path.write_text('\n'.join([f'_base_ = {str(CONFIGS / METHODS[method])!r}', *lines]) + '\n')
        return path

    def start(
        self, config: Path, work_dir: Path, *args: Any, script: Any = None, **options: Any
    ) -> Started:
        """Start tools/train.py, or a script that stands for it."""
        script = script or TOOLS / 'train.py'
        return self.server.start(script, config, '--work-dir', work_dir, *args, **options)

    def finish(self, run: Started, code: Optional[int] = None) -> Finished:
        """Wait for a run."""
        return self.server.finish(run, code, timeout=180)

    def train(self, config: Path, work_dir: Path, *args: Any, **options: Any) -> Finished:
        """Train to the end."""
        code = options.pop('code', None)
        return self.finish(self.start(config, work_dir, *args, **options), code)

    def reference(self, method: str) -> Path:
        """The work folder of an uninterrupted run."""
        if method not in self.references:
            self.references[method] = self.new_work_dir()
            self.train(self.config(method), self.references[method], code=0)
        return self.references[method]

    def copy(self, method: str, last: int) -> Path:
        """A work folder as that of a run that stopped after iteration ``last``."""
        work_dir, reference = self.new_work_dir(), self.reference(method)
        work_dir.mkdir()
        for step in range(1, last + 1):
            shutil.copy(reference / f'iter_{step}.pth', work_dir)
        (work_dir / 'last_checkpoint').write_text(str(work_dir / f'iter_{last}.pth'))
        return work_dir

    def goes_on(self, method: str, config: Path, work_dir: Path, least: int) -> tuple[bool, bool]:
        """Resume a run and compare its end.

        Args:
            method: Of the run.
            config: Of the run.
            work_dir: Of the run.
            least: The iteration from which it must go on, or a later one.

        Returns:
            Whether more was lost, and whether the end differs in any bit.
        """
        done = self.train(config, work_dir, '--resume')
        found = re.findall(r'goes on from .*iter_(\d+)\.pth', done.output)
        lost = done.code != 0 or (int(found[-1]) if found else 0) < least
        return lost, done.code != 0 or not self.same_end(method, work_dir)

    def same_end(self, method: str, work_dir: Path) -> bool:
        """Whether the last checkpoint is that of the uninterrupted run, bit by bit."""
        name = f'iter_{ITERATIONS}.pth'
        if not (work_dir / name).is_file():
            return False
        ends = [load_checkpoint(folder / name) for folder in (self.reference(method), work_dir)]
        return not any(differing(ends[0][part], ends[1][part], part) for part in EXACT)


def wait_until(condition: Callable[[], Any], run: Started, seconds: float = 120) -> bool:
    """Wait for a condition; False when the run has ended before."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end or not _alive(run.pid):
            return bool(condition())
        time.sleep(0.0003)
    return True


def _alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    return sys.platform != 'linux'


def iteration_of(run: Started) -> int:
    """The last iteration in a run's output."""
    text = run.log.read_text(errors='replace') if run.log.exists() else ''
    found = re.findall(r'Iter\(train\) \[ *(\d+)/', text)
    return int(found[-1]) if found else 0


def kill(run: Started) -> None:
    """SIGKILL for a run and its workers."""
    with suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGKILL)
