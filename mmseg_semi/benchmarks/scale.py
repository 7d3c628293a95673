"""Measure the start of a training with very many files.

Makes a folder of small images, most of them hard links, and starts `tools/train.py` on it twice:
once when nothing is known of the files, and once when the records of the first start are there.
Prints the seconds from the start of the process to the end of its first iteration, those of CPU
time (a machine that is shared takes longer), and the peak memory of the process. The same is done
with a hundred images, which shows what program and model take by themselves. Then a list file that
names very many images is read; its seconds are CPU time. With ``--check``, `mmseg-semi check` looks
at the files in place of the training, with no steps; all images are then different ones.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from mmseg_semi.benchmarks.measuring import REPO, machine

_FOLDER_SIZE = 1000  # images of a nested folder
_LINKS = 20_000  # to one file; file systems have a limit
_CONFIG = """_base_ = {base!r}
data_root = {root!r}
part = dict(data_root=data_root, img_suffix='.png')
geometry = dict(resize=dict(scale=(64, 64)), crop=dict(crop_size=(32, 32)))
train_dataloader = dict(
    num_workers={workers},
    dataset=dict(labeled=part, unlabeled=dict(data_root=data_root), geometry=geometry),
)
val_dataloader = dict(dataset=part)
test_dataloader = dict(dataset=part)
train_cfg = dict(max_iters=10, val_interval=10)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=10))
"""
_LIST = """
import os, sys, time
import mmseg_semi_cli
mmseg_semi_cli._import_package()
from mmseg_semi.benchmarks.scale import memory_of
from mmseg_semi.datasets import UnlabeledDataset
before, start = memory_of(os.getpid(), 'VmHWM'), time.process_time()
data = UnlabeledDataset(ann_file=sys.argv[1], data_prefix=dict(img_path=sys.argv[2]), pipeline=[])
print(len(data), time.process_time() - start, before, memory_of(os.getpid(), 'VmHWM'))
"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--unlabeled', type=int, default=200_000, help='unlabeled images')
    parser.add_argument('--labeled', type=int, default=50_000, help='labeled images')
    parser.add_argument('--val', type=int, default=500, help='validation images')
    parser.add_argument('--lines', type=int, default=1_000_000, help='lines of the list file')
    parser.add_argument('--check', action='store_true', help='measure mmseg-semi check')
    parser.add_argument('--workers', type=int, default=2, help='data workers')
    parser.add_argument(
        '--folder', help='where the files are made for a while (default: the temporary folder)'
    )
    return parser.parse_args(argv)


def make_files(
    folder: Path, number: int, seed: int, mask: bool = False, links: int = _LINKS
) -> None:
    """Make images, or masks of two classes, of 64 x 64 in nested folders.

    Args:
        folder: Where.
        number: How many.
        seed: Of what they show.
        mask: Whether they are masks.
        links: How many in a row are links to one file.
    """
    rng, source = np.random.default_rng(seed), ''
    for i in range(number):
        path = folder / f'{i // _FOLDER_SIZE:04d}' / f'image_{i:07d}.png'
        if i % _FOLDER_SIZE == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        if i % links == 0:
            small = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
            pixels = cv2.resize(small, (64, 64))
            cv2.imwrite(str(path), (pixels[..., 0] > 127).astype(np.uint8) if mask else pixels)
            source = str(path)
        else:
            os.link(source, path)


def make_data(root: Path, args: argparse.Namespace) -> None:
    """Make the folders of a data set of one's own."""
    links = 1 if args.check else _LINKS
    for seed, (part, number) in enumerate((('labeled', args.labeled), ('val', args.val))):
        make_files(root / 'images' / part, number, seed, links=links)
        make_files(root / 'annotations' / part, number, seed + 10, mask=True, links=links)
    make_files(root / 'images' / 'unlabeled', args.unlabeled, 20, links=links)


def run_check(config: Path, work: Path, cache: Path) -> str:
    """Check in a process of its own; say how long it took and its peak memory."""
    command = [sys.executable, '-m', 'mmseg_semi_cli', 'check', str(config), '--no-steps']
    start = time.monotonic()
    process = subprocess.Popen(
        [*command, '--out', str(work)],
        env={**os.environ, 'XDG_CACHE_HOME': str(cache)},
        stdout=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit('the check has found errors: ' + (work / 'check.json').read_text()[:2000])
    return (
        f'{time.monotonic() - start:.0f} s ({used.ru_utime + used.ru_stime:.0f} s of CPU), '
        f'{used.ru_maxrss / 2**10:.0f} MiB at most'
    )


def start_training(config: Path, work: Path, cache: Path) -> str:
    """Run one iteration in a process of its own; say how long it took and its peak memory."""
    command = [sys.executable, str(REPO / 'tools' / 'train.py'), str(config)]
    start = time.monotonic()
    process = subprocess.Popen(
        [*command, '--work-dir', str(work)],
        env={**os.environ, 'XDG_CACHE_HOME': str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    checked, lines = 0, []
    try:
        for line in process.stdout:
            lines.append(line)
            if 'Data: ' in line:
                checked = memory_of(process.pid, 'VmHWM')
            iteration = re.search(r'Iter\(train\).* time: ([\d.]+)', line)
            if iteration:
                peak, files = (memory_of(process.pid, kind) for kind in ('VmHWM', 'RssFile'))
                seconds = time.monotonic() - start
                return (
                    f'{seconds:.0f} s ({cpu_seconds(process.pid):.0f} s of CPU) to the end of the '
                    f'first iteration, which took {iteration[1]} s; {checked / 2**20:.0f} MiB at '
                    f'most before it, {peak / 2**20:.0f} MiB with it, {files / 2**20:.0f} MiB of '
                    'them files in memory'
                )
    finally:
        process.kill()
        process.wait()
    raise SystemExit('the training failed, correct what it says:\n' + ''.join(lines[-30:]))


def memory_of(process: int, kind: str) -> int:
    """Resident memory of a process, in bytes; 0 where it is not told.

    Args:
        process: Its number.
        kind: A line of its status: ``VmHWM`` for the most so far, ``RssFile`` for what it has now
            of files, such as libraries, which all processes share.
    """
    try:
        text = Path(f'/proc/{process}/status').read_text()
    except OSError:
        return 0
    found = re.search(rf'{kind}:\s*(\d+) kB', text)
    return int(found[1]) * 1024 if found else 0


def cpu_seconds(process: int) -> float:
    """CPU time that a process has used, with all of its threads; 0 where it is not told."""
    try:
        fields = Path(f'/proc/{process}/stat').read_text().rsplit(')', 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def read_long_list(root: Path, lines: int) -> str:
    """Read a list of many images in a process of its own."""
    make_files(root / 'listed', lines, 30)
    path = root / 'list.txt'
    names = (f'{i // _FOLDER_SIZE:04d}/image_{i:07d}\n' for i in range(lines))
    path.write_text(''.join(names))
    command = [sys.executable, '-c', _LIST, str(path), str(root / 'listed')]
    number, seconds, before, peak = subprocess.check_output(command, text=True).split()[-4:]
    return (
        f'{float(seconds):.1f} s for {number} images; {int(peak) / 2**20:.0f} MiB at most, '
        f'{int(before) / 2**20:.0f} MiB before'
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Make the files, measure, print."""
    args = parse_args(argv)
    print(f'Measured on {machine("cpu")}.')
    few = argparse.Namespace(**{**vars(args), 'unlabeled': 100, 'labeled': 100, 'val': 10})
    for numbers in (few, args):
        with tempfile.TemporaryDirectory(dir=args.folder, prefix='scale_') as folder:
            root = Path(folder)
            make_data(root, numbers)
            print(f'{numbers.unlabeled} unlabeled, {numbers.labeled} labeled images', flush=True)
            base = str(REPO / 'configs' / 'unimatch' / 'unimatch_unet_custom.py')
            config = root / 'config.py'
            config.write_text(_CONFIG.format(base=base, root=str(root), workers=args.workers))
            measure, what = (run_check, 'check') if args.check else (start_training, 'start')
            for name in ('first', 'second'):
                text = measure(config, root / 'work', root / 'cache')
                print(f'  {name} {what}: {text}', flush=True)
            if numbers is args and args.lines and not args.check:
                print(f'list file of {args.lines} lines: {read_long_list(root, args.lines)}')
