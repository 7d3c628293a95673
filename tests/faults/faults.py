"""The faults. Each function makes one, and returns whether something was lost, and was wrong.

Lost: the run can not go on, or not from the last checkpoint that was whole. Wrong: its end differs
from the uninterrupted run's in any bit, or the process did not end as it should.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Callable, Optional

from faults.bench import EXACT, ITERATIONS, Bench, iteration_of, kill, wait_until
from tool_runs import TOOLS, differing, environment, free_port, load_checkpoint

from mmseg_semi.utils.safe_checkpoints import CheckpointError, read_checkpoint

LIMITED = Path(__file__).with_name('limited.py')
Outcome = tuple[bool, bool]


def killed_while_saving(bench: Bench, rng: random.Random, method: str) -> Outcome:
    """SIGKILL while a checkpoint lies there half-written."""
    config, work_dir = bench.config(method), bench.new_work_dir()
    step = rng.randint(2, ITERATIONS)
    part = work_dir / f'iter_{step}.pth.part'
    run = bench.start(config, work_dir)
    if wait_until(part.exists, run):
        time.sleep(rng.uniform(0, 0.003))
    kill(run)
    bench.finish(run)
    return bench.goes_on(method, config, work_dir, step - 1)


def killed_anywhere(bench: Bench, rng: random.Random, method: str) -> Outcome:
    """SIGKILL at any moment."""
    config, work_dir = bench.config(method), bench.new_work_dir()
    step = rng.randint(1, ITERATIONS - 1)
    run = bench.start(config, work_dir)
    wait_until((work_dir / f'iter_{step}.pth').exists, run)
    time.sleep(rng.uniform(0, 0.3))
    kill(run)
    bench.finish(run)
    return bench.goes_on(method, config, work_dir, step)


def signaled(bench: Bench, rng: random.Random, number: int) -> Outcome:
    """SIGTERM, SIGINT or SIGUSR1 for a run and its two workers, at any moment."""
    method, rare = 'Mean Teacher', dict(default_hooks=dict(checkpoint=dict(interval=100)))
    workers = dict(train_dataloader=dict(num_workers=2), val_dataloader=dict(num_workers=1))
    config, work_dir = bench.config(method, **rare, **workers), bench.new_work_dir()
    run, step = bench.start(config, work_dir), rng.randint(1, ITERATIONS - 2)
    wait_until(lambda: iteration_of(run) >= step, run)
    time.sleep(rng.uniform(0, 0.1))
    os.killpg(run.pid, number)
    done = bench.finish(run)
    if done.code == 0:  # the run was faster
        return False, not bench.same_end(method, work_dir)
    ended = done.code == 128 + number and 'Traceback' not in done.output
    lost, wrong = bench.goes_on(method, config, work_dir, step)
    return lost, wrong or not ended


def damaged(bench: Bench, rng: random.Random, how: str) -> Outcome:
    """The newest checkpoint is cut short, empty, or has a flipped bit in its largest tensor."""
    method = rng.choice(['CorrMatch', 'U2PL', 'Mean Teacher'])
    work_dir = bench.copy(method, last=6)
    path = work_dir / 'iter_6.pth'
    data = bytearray(path.read_bytes())
    if how == 'flipped':
        weights = max(read_checkpoint(path)['state_dict'].values(), key=lambda one: one.nbytes)
        start = data.index(weights.numpy().tobytes())
        data[start + rng.randrange(weights.nbytes)] ^= 1 << rng.randrange(8)
    path.write_bytes(data[: dict(cut=rng.randrange(1, len(data)), empty=0).get(how, len(data))])
    done = bench.train(bench.config(method), work_dir, '--resume')
    said = f'{path}: the file' in done.output and 'It is passed over' in done.output
    lost = 'iter_5.pth' not in done.output
    return lost, done.code != 0 or not said or not bench.same_end(method, work_dir)


def flipped_anywhere(bench: Bench, rng: random.Random) -> Outcome:
    """A bit anywhere in a checkpoint: it is found, or it changes no number."""
    path = bench.reference('Mean Teacher') / 'iter_6.pth'
    data, copy = bytearray(path.read_bytes()), bench.folder / 'flipped.pth'
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    copy.write_bytes(data)
    wanted = read_checkpoint(path)['state_dict']
    try:
        found = read_checkpoint(copy)['state_dict']
    except CheckpointError:
        return False, False
    same = found.keys() == wanted.keys() and all(found[k].equal(wanted[k]) for k in wanted)
    return False, not same


def full_disk(bench: Bench, rng: random.Random) -> Outcome:
    """No file may grow to the size of a checkpoint from the fourth iteration on."""
    method = rng.choice(['CorrMatch', 'U2PL', 'Mean Teacher'])
    size = (bench.reference(method) / 'iter_3.pth').stat().st_size
    work_dir, config = bench.copy(method, last=3), bench.config(method)
    limit = dict(FILE_SIZE=str(rng.randrange(60_000, size)))
    done = bench.train(config, work_dir, '--resume', script=LIMITED, env=limit)
    refused = done.code == 1 and 'Traceback' not in done.output and 'error: ' in done.output
    clean = not list(work_dir.glob('*.part')) and not (work_dir / 'iter_4.pth').exists()
    lost, wrong = bench.goes_on(method, config, work_dir, 3)
    return lost, wrong or not refused or not clean


def second_run(bench: Bench, rng: random.Random) -> Outcome:
    """Another run starts in the folder of one that trains."""
    method = 'Mean Teacher'
    config, work_dir = bench.config(method), bench.new_work_dir()
    first = bench.start(config, work_dir)
    wait_until((work_dir / 'iter_1.pth').exists, first)
    os.kill(first.pid, signal.SIGSTOP)
    second = bench.train(config, work_dir, *rng.choice([[], ['--resume']]))
    os.kill(first.pid, signal.SIGCONT)
    lost = bench.finish(first).code != 0
    named = f'in use by process {first.pid}' in second.output
    return lost, second.code != 1 or not named or not bench.same_end(method, work_dir)


# One of two ranks: what is done to it, the exit status, and what must be said.
RANK_FAULTS = {
    'killed': (137, r'rank 1 was ended by signal 9'),
    'raises': (1, r'made up: rank 1 can not go on'),
    'unknown': (0, r'Saving checkpoint at 8 iterations'),
    'slow': (0, r'Saving checkpoint at 8 iterations'),
}


def run_ranks(
    config: Path, work_dir: Path, ranks: int, *args: str, until: Optional[Path] = None
) -> subprocess.CompletedProcess[str]:
    """Train with tools/dist_train.sh, and kill launcher and ranks when a file is there."""
    command = ['bash', TOOLS / 'dist_train.sh', config, ranks, '--work-dir', work_dir, *args]
    with tempfile.TemporaryFile('w+') as output:
        run = subprocess.Popen(
            list(map(str, command)),
            env=environment(PYTHON=sys.executable, PORT=free_port()),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        end = time.monotonic() + 60 * ranks
        while run.poll() is None and time.monotonic() < end:
            if until is not None and until.exists():
                break
            time.sleep(0.01)
        kill_all(work_dir)
        code = run.wait()
        output.seek(0)
        return subprocess.CompletedProcess(command, code, output.read())


def kill_all(work_dir: Path) -> None:
    """SIGKILL for all processes of a run; ranks have a session each and outlive their launcher."""
    for process in Path('/proc').glob('[0-9]*/cmdline'):
        with suppress(OSError):
            if os.fsencode(work_dir) in process.read_bytes().split(b'\0'):
                os.kill(int(process.parent.name), signal.SIGKILL)


def one_rank(bench: Bench, rng: random.Random, how: str) -> Outcome:
    """One of two ranks is killed, raises, has no known pixel, or is 10 s late."""
    fault = dict(type='RankFaultHook', how=how, iteration=rng.randint(2, 5))
    config, work_dir = bench.config('Mean Teacher', custom_hooks=[fault]), bench.new_work_dir()
    begun = time.monotonic()
    done = run_ranks(config, work_dir, 2)
    code, said = RANK_FAULTS[how]
    at = re.search(r'fault at ([\d.]+)', done.stdout)
    late = not at or time.time() - float(at.group(1)) > 60
    wrong = done.returncode != code or not re.search(said, done.stdout) or late
    if wrong:
        print(f'{how}: status {done.returncode} after {time.monotonic() - begun:.0f} s')
        print(done.stdout[-3000:])
    return not list(work_dir.glob('iter_*.pth')), wrong


def many_ranks(bench: Bench, rng: random.Random, ranks: int = 8) -> Outcome:
    """Eight ranks are killed at any moment, and eight go on.

    DDP groups gradients anew after its first step, unless some may be unused: more than two ranks
    would then add up in another order after a resume.
    """
    config = bench.config(
        'Mean Teacher', train_dataloader=dict(batch_size=2), find_unused_parameters=True
    )
    folders = [bench.new_work_dir() for _ in range(2)]
    step = rng.randint(1, ITERATIONS - 2)
    whole = run_ranks(config, folders[0], ranks)
    run_ranks(config, folders[1], ranks, until=folders[1] / f'iter_{step}.pth')
    cut_short = not (folders[1] / f'iter_{ITERATIONS}.pth').exists()
    done = run_ranks(config, folders[1], ranks, '--resume')
    found = re.findall(r'goes on from .*iter_(\d+)\.pth', done.stdout)
    lost = done.returncode != 0 or (int(found[-1]) if found else 0) < step
    ends = [load_checkpoint(folder / f'iter_{ITERATIONS}.pth') for folder in folders]
    parts = [part for part in EXACT if differing(ends[0][part], ends[1][part], part)]
    wrong = bool(whole.returncode or done.returncode or not cut_short or parts)
    if wrong:
        print(f'status {whole.returncode}, {done.returncode}; cut short: {cut_short}; {parts}')
        print(done.stdout[-2000:])
    return lost, wrong


def memory(bench: Bench, rng: random.Random, iterations: int = 300) -> Outcome:
    """Images of other sizes in every iteration: memory grows by less than 5 % after the 50th."""
    note = bench.folder / 'memory.txt'
    config = bench.config(
        'Mean Teacher',
        train_cfg=dict(max_iters=iterations, val_interval=10 * iterations),
        default_hooks=dict(checkpoint=dict(interval=iterations), logger=dict(interval=100)),
        custom_hooks=[dict(type='ChangingSizesHook', note=str(note), seed=rng.randrange(1000))],
    )
    done = bench.train(config, bench.new_work_dir())
    sizes = [int(line) for line in note.read_text().split()]
    growth = max(sizes[50:]) / max(sizes[:50]) - 1
    print(f'memory: {growth:.1%} in {len(sizes)} iterations')
    return done.code != 0, growth > 0.05


Fault = Callable[[Bench, random.Random], Outcome]


def _with(function: Callable[..., Outcome], value: object) -> Fault:
    return lambda bench, rng: function(bench, rng, value)


FAULTS: dict[str, Fault] = {
    **{
        f'{name}, {method}': _with(function, method)
        for name, function in (
            ('SIGKILL while a checkpoint is written', killed_while_saving),
            ('SIGKILL at any moment', killed_anywhere),
        )
        for method in ('CorrMatch', 'U2PL', 'Mean Teacher')
    },
    **{
        f'{signal.Signals(number).name} for the run and its workers': _with(signaled, number)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    },
    **{
        f'newest checkpoint {text}': _with(damaged, how)
        for how, text in (
            ('cut', 'cut short'),
            ('empty', 'empty'),
            ('flipped', 'with a flipped bit'),
        )
    },
    'flipped bit anywhere in a checkpoint': flipped_anywhere,
    'full disk': full_disk,
    'second run in the work folder': second_run,
    **{
        f'one of two ranks {text}': _with(one_rank, how)
        for how, text in (
            ('killed', 'is killed'),
            ('raises', 'raises an error'),
            ('unknown', 'has no known pixel'),
            ('slow', 'is 10 s late'),
        )
    },
    'SIGKILL of eight ranks, which go on': many_ranks,
    'memory over 300 iterations of changing sizes': memory,
}


def drop(bench: Bench) -> None:
    """Remove the folders of tries, which add up."""
    kept = set(bench.references.values())
    for folder in bench.folder.glob('work_*'):
        if folder not in kept:
            shutil.rmtree(folder, ignore_errors=True)
