"""Running the command line tools, small configs for them, and reading what they leave."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import torch
from mmengine.config import Config

TESTS = Path(__file__).resolve().parent
REPO = TESTS.parent
TOOLS = REPO / 'tools'
CONFIGS = REPO / 'configs'
ONE_THREAD = {name: '1' for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS')}
UNIMATCH = 'unimatch/unimatch_unet_digit-scenes-60.py'
SUPERVISED = 'supervised/supervised_unet_digit-scenes-60.py'


def environment(**extra: str) -> dict[str, str]:
    """The environment of a subprocess: one thread, the repository and the tests importable."""
    path = os.pathsep.join(
        str(part) for part in (REPO, TESTS, os.environ.get('PYTHONPATH')) if part
    )
    return {**os.environ, **ONE_THREAD, 'PYTHONPATH': path, **extra}


def load_tool(name: str) -> Any:
    """Import a script below ``tools/``, once."""
    module = f'tools_{Path(name).stem}'
    if module not in sys.modules:
        spec = importlib.util.spec_from_file_location(module, TOOLS / name)
        sys.modules[module] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[module])
    return sys.modules[module]


# ------------------------------------------------------------------------------- processes
@dataclass
class Finished:
    """A command that has ended.

    Attributes:
        code: Exit code; negative is the signal that ended it.
        output: Standard output and error together.
    """

    code: int
    output: str


@dataclass
class Started:
    """A command of a fork server that runs.

    Attributes:
        pid: Its process.
        argv: Its script and arguments.
        log: What it prints.
    """

    pid: int
    argv: list[str]
    log: Path


def check_code(finished: Finished, command: Sequence[str], wanted: Optional[int]) -> Finished:
    """Raise AssertionError with the end of the output when the exit code is another one."""
    if wanted is not None and finished.code != wanted:
        tail = '\n'.join(finished.output.splitlines()[-40:])
        raise AssertionError(
            f'{" ".join(map(str, command))} ended with {finished.code}, not {wanted}:\n{tail}'
        )
    return finished


def run_command(
    command: Sequence[Any],
    cwd: Path,
    code: Optional[int] = 0,
    timeout: float = 900,
    **env: str,
) -> Finished:
    """Run a command as a real, fresh process."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
        text=True,
        errors='replace',
    )
    return check_code(Finished(done.returncode, done.stdout), command, code)


def free_port() -> str:
    """A port of this machine that nothing listens on."""
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return str(found.getsockname()[1])


def run_ranks(script: str, *args: Any, cwd: Path, **env: str) -> str:
    """Run tools/dist_train.sh or dist_test.sh on a free port and return the output."""
    command = ['bash', TOOLS / script, *args]
    return run_command(command, cwd, PYTHON=sys.executable, PORT=free_port(), **env).output


class ForkServer:
    """Runs Python scripts as forks of a process that has imported the heavy packages.

    Args:
        folder: Where outputs are kept.
        preload: Modules to import once.
        block: Packages that can not be imported, as if they were not installed.
    """

    def __init__(self, folder: Path, preload: Sequence[str], block: Sequence[str] = ()) -> None:
        self.folder, self.count = folder, 0
        settings = json.dumps(dict(preload=list(preload), block=list(block)))
        self.process = subprocess.Popen(
            [sys.executable, str(TESTS / 'fork_server.py'), settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            cwd=folder,
            text=True,
        )

    def _ask(self, **request: Any) -> Any:
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f'the fork server has ended ({self.process.wait()})')
        return json.loads(answer)

    def run(
        self,
        script: Any,
        *args: Any,
        code: Optional[int] = 0,
        cwd: Optional[Path] = None,
        timeout: float = 600,
        env: Optional[Mapping[str, str]] = None,
        unblock: Sequence[str] = (),
        paths: Sequence[Path] = (),
    ) -> Finished:
        """Run a script to its end.

        Args:
            script: Path of a Python file.
            *args: Its arguments.
            code: The exit code it must have; None allows any.
            cwd: Its working folder.
            timeout: Seconds after which it is killed.
            env: Further environment variables.
            unblock: Blocked packages that this one may import.
            paths: Further folders to import from, as in ``PYTHONPATH``.
        """
        started = self.start(script, *args, cwd=cwd, env=env, unblock=unblock, paths=paths)
        return self.finish(started, code, timeout)

    def run_ranks(self, script: Any, *args: Any, cwd: Path, **env: str) -> str:
        """Run tools/train.py or test.py as two gloo ranks, without a launcher.

        Returns:
            The outputs, rank 0's first.
        """
        started = self.start_ranks(script, *args, cwd=cwd, **env)
        return ''.join(self.finish(one).output for one in started)

    def start_ranks(self, script: Any, *args: Any, cwd: Path, **env: str) -> list[Started]:
        """Start both ranks, see :meth:`run_ranks`."""
        group = dict(WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port(), **env)
        args = (*args, '--launcher', 'pytorch')
        return [
            self.start(script, *args, cwd=cwd, env=dict(group, RANK=rank, LOCAL_RANK=rank))
            for rank in ('0', '1')
        ]

    def start(
        self,
        script: Any,
        *args: Any,
        cwd: Optional[Path] = None,
        env: Optional[Mapping[str, str]] = None,
        unblock: Sequence[str] = (),
        paths: Sequence[Path] = (),
    ) -> Started:
        """Start a script, see :meth:`run`; its process group has the number of the process."""
        self.count += 1
        log = self.folder / f'output_{self.count}.txt'
        argv = [str(script), *map(str, args)]
        pid = self._ask(
            do='start',
            argv=argv,
            cwd=str(cwd or self.folder),
            log=str(log),
            env=dict(env or {}),
            paths=[str(TESTS), *map(str, paths)],
            unblock=list(unblock),
        )
        return Started(pid, argv, log)

    def finish(self, started: Started, code: Optional[int] = 0, timeout: float = 600) -> Finished:
        """Wait for a script that was started, see :meth:`run`."""
        ended = self._ask(do='wait', pid=started.pid, timeout=timeout)
        with suppress(ProcessLookupError):  # data workers that outlived a killed process
            os.killpg(started.pid, signal.SIGKILL)
        output = started.log.read_text(errors='replace')
        if ended is None:
            raise AssertionError(f'{started.argv} took longer than {timeout} s:\n{output[-3000:]}')
        return check_code(Finished(ended, output), started.argv, code)

    def close(self) -> None:
        """End the server."""
        self.process.kill()
        self.process.wait()


# ------------------------------------------------------------------------------- configs
def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """``first`` with the entries of ``second``, dicts merged key by key."""
    out = dict(first)
    for key, value in second.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merged(out[key], value) if both else value
    return out


def small_settings(base: str, data_root: Path) -> dict[str, Any]:
    """What makes a shipped digit-scenes config small: 8 iterations of 4 images, a tiny model."""
    root = dict(data_root=str(data_root))
    labeled = dict(root, ann_file='splits/labeled_8.txt')
    # A classifier with large weights: an untrained network that predicts several classes, some of
    # the pixels surely.
    init = dict(type='Normal', std=1.0, override=dict(name='conv_seg'))
    segmentor = dict(
        backbone=dict(base_channels=4),
        decode_head=dict(in_channels=4, channels=4, init_cfg=init),
    )
    if base == SUPERVISED:
        train, model = dict(batch_size=2, dataset=dict(labeled=labeled)), segmentor
    else:
        train = dict(batch_size=4, dataset=dict(labeled=labeled, unlabeled=root))
        select = dict(threshold=0.6)
        model = dict(segmentor=segmentor, warmup_iters=0, refiners=dict(select=select))
    return dict(
        train_dataloader=train,
        val_dataloader=dict(batch_size=3, dataset=root),
        test_dataloader=dict(batch_size=3, dataset=root),
        model=model,
        train_cfg=dict(max_iters=8, val_interval=6),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=3),
            dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False, begin=3, end=10),
        ],
        default_hooks=dict(logger=dict(interval=1), checkpoint=dict(interval=2, max_keep_ckpts=10)),
        log_processor=dict(window_size=1),
        randomness=dict(seed=7),
    )


EMA = dict(model=dict(teacher=dict(type='EMATeacher', momentum=0.6)))


def write_config(path: Path, base: str, data_root: Path, **changes: Any) -> Path:
    """Write a small child of a shipped config.

    Args:
        path: File to write.
        base: Shipped config, relative to ``configs/``.
        data_root: A digit scenes folder.
        **changes: Further config entries, merged into the small settings.
    """
    settings = merged(small_settings(base, data_root), changes)
    lines = [f'_base_ = {str(CONFIGS / base)!r}', *(f'{k} = {v!r}' for k, v in settings.items())]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(lines) + '\n')
    return path


def with_hooks(changes: Mapping[str, Any], *hooks: Mapping[str, Any]) -> dict[str, Any]:
    """Config entries that add hooks of ``run_hooks.py`` to a run."""
    listed = changes.get('custom_hooks', [dict(type='DataCheckHook')])
    imports = dict(imports=['mmseg_semi', 'run_hooks'], allow_failed_imports=False)
    return {**changes, 'custom_imports': imports, 'custom_hooks': [*listed, *map(dict, hooks)]}


# ------------------------------------------------------------------------------- results
def train_scalars(work_dir: Path) -> dict[int, dict[str, float]]:
    """Logged training values by iteration (from 1), full precision, times left out.

    Of iterations that were run twice (killed, then resumed) the later values count.
    """
    values: dict[int, dict[str, float]] = {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            if 'loss' in entry:
                step = entry.pop('step')
                for key in ('time', 'data_time', 'iter', 'memory'):
                    entry.pop(key, None)
                values[step] = entry
    return values


def forget_logs(work_dir: Path) -> None:
    """Remove the logged values of a run, so that only later ones are found."""
    for path in work_dir.glob('*/vis_data/scalars.json'):
        path.unlink()


def text_log(work_dir: Path) -> str:
    """The text log of the only run of a folder."""
    (path,) = work_dir.glob('*/*.log')
    return path.read_text()


def read_metrics(work_dir: Path) -> dict[str, float]:
    """The metrics that a test run wrote as json, times left out."""
    (path,) = work_dir.glob('*/*.json')
    metrics = json.loads(path.read_text())
    return {key: value for key, value in metrics.items() if key not in ('time', 'data_time')}


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint with torch's safe loader."""
    import mmseg_semi  # noqa: F401  (allows what mmengine puts there)

    return torch.load(path, map_location='cpu', weights_only=True)


def differing(first: Any, second: Any, key: str = '') -> list[str]:
    """Paths at which two nests of dicts, lists, tensors and numbers differ in any bit."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        found = [f'{key}.{k}' for k in first.keys() ^ second.keys()]
        for name in first.keys() & second.keys():
            found += differing(first[name], second[name], f'{key}.{name}')
        return found
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        if len(first) != len(second):
            return [key]
        return [
            d for i, (a, b) in enumerate(zip(first, second)) for d in differing(a, b, f'{key}.{i}')
        ]
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        same = first.dtype == second.dtype and torch.equal(first, second)
    else:
        same = type(first) is type(second) and first == second
    return [] if same else [key]


def load_config(path: Path) -> Config:
    """Read a config as the tools do."""
    return Config.fromfile(str(path))
