"""Two gloo ranks on a CPU, started by the shell scripts as a user does."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from mmengine.hooks import logger_hook
from tool_runs import (
    EMA,
    TOOLS,
    UNIMATCH,
    load_checkpoint,
    merged,
    read_metrics,
    run_ranks,
    train_scalars,
    with_hooks,
    write_config,
)

from mmseg_semi.apis.test import main as run_test

SYNC = dict(type='SyncBN', requires_grad=True)
SYNC_BN = dict(
    model=dict(segmentor=dict(backbone=dict(norm_cfg=SYNC), decode_head=dict(norm_cfg=SYNC))),
    train_cfg=dict(max_iters=4),
)
pytestmark = pytest.mark.two_ranks
WEIGHTS = ('student_parameters', 'student_buffers', 'teacher_parameters', 'teacher_buffers')
Report = dict[str, Any]


def reports_in(folder: Path) -> list[Report]:
    """What each rank reports."""
    return [json.loads((folder / f'rank{rank}.json').read_text()) for rank in (0, 1)]


def config_of(folder: Path, data_root: Path) -> Path:
    """Write the config of a run with an EMA teacher, of which both ranks report."""
    changes = with_hooks(merged(EMA, SYNC_BN), dict(type='ReportHook', folder=str(folder)))
    return write_config(folder / 'config.py', UNIMATCH, data_root, **changes)


@pytest.fixture(scope='module')
def two_ranks(digit_root, tmp_path_factory):
    """A run of two ranks, by the launcher: its folder, the reports of both, its output."""
    folder = tmp_path_factory.mktemp('ranks')
    args = (config_of(folder, digit_root), 2, '--work-dir', folder / 'work')
    output = run_ranks('dist_train.sh', *args, cwd=folder)
    return folder, reports_in(folder), output


def test_two_ranks_train_one_model(two_ranks):
    folder, ranks, output = two_ranks
    for rank in ranks:
        assert rank['world_size'] == 2 and rank['backend'] == 'gloo'
        assert rank['wrapper'] == 'MMDistributedDataParallel'
        assert rank['norms'] == ['BatchNorm2d']
    assert [ranks[0][key] for key in WEIGHTS] == [ranks[1][key] for key in WEIGHTS]
    assert len({ranks[0][key] for key in WEIGHTS}) == 4
    assert 'SyncBN needs GPUs' in output
    assert list(train_scalars(folder / 'work')) == [1, 2, 3, 4]


def test_two_ranks_see_different_images(two_ranks):
    """Of the 13 unlabeled images the ranks load 2 an iteration each, none twice in the epoch."""
    _, ranks, _ = two_ranks
    batches = [rank['images'][4 * i : 4 * i + 4] for rank in ranks for i in range(3)]
    unlabeled = [name for batch in batches for name in batch[2:]]
    assert len(set(unlabeled)) == len(unlabeled) == 12


def test_two_ranks_say_the_run_once_and_count_both(two_ranks, unimatch_run):
    folder, _, output = two_ranks
    one, two = (
        load_checkpoint(path)['meta']['mmseg_semi']
        for path in (unimatch_run.checkpoint, folder / 'work' / 'iter_4.pth')
    )
    line = (
        f'Run: split {one["split"]} (8 labeled, 13 unlabeled), effective batch 4 + 4 images '
        '(2 ranks x 2 + 2 x accumulation 1), seed 7'
    )
    assert re.findall(r'Run: .*', output) == [line]
    assert two == {**one, **dict(ranks=2, labeled_batch=4, unlabeled_batch=4)}


def test_two_ranks_resume_exactly(two_ranks, server, digit_root, tmp_path):
    folder, ranks, _ = two_ranks
    (tmp_path / 'work').mkdir()
    shutil.copy(folder / 'work' / 'iter_2.pth', tmp_path / 'work')
    args = (config_of(tmp_path, digit_root), '--work-dir', tmp_path / 'work', '--resume')
    assert 'iter_2.pth' in server.run_ranks(TOOLS / 'train.py', *args, cwd=tmp_path)
    for one, other in zip(ranks, reports_in(tmp_path)):
        assert other['images'] == one['images'][8:]
        assert [one[key] for key in WEIGHTS] == [other[key] for key in WEIGHTS]
    values = train_scalars(folder / 'work')
    assert train_scalars(tmp_path / 'work') == {step: values[step] for step in (3, 4)}


def test_two_ranks_test_as_one_process(two_ranks, server, tmp_path):
    folder, _, _ = two_ranks
    args = (folder / 'config.py', folder / 'work' / 'iter_4.pth')
    for tta in ([], ['--tta']):
        folders = [tmp_path / f'{name}{len(tta)}' for name in ('two', 'one')]
        server.run_ranks(TOOLS / 'test.py', *args, '--work-dir', folders[0], *tta, cwd=tmp_path)
        server.run(TOOLS / 'test.py', *args, '--work-dir', folders[1], *tta)
        two, one = map(read_metrics, folders)
        assert one.keys() >= {'mIoU', 'aAcc', 'mAcc'} and two == one


def metrics_files_of_a_rank(rank, *args):
    """Be tools/test.py; the group is there."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
    written = []
    logger_hook.dump = lambda metrics, path: written.append(str(path))
    run_test([*args, '--launcher', 'pytorch'])
    return written


def test_only_one_rank_writes_the_metrics(two_ranks, on_two_ranks, tmp_path):
    """Two that open one file at a time leave the end of a longer text behind a shorter one."""
    folder, _, _ = two_ranks
    args = (folder / 'config.py', folder / 'work' / 'iter_4.pth', '--work-dir', tmp_path)
    first, second = on_two_ranks(metrics_files_of_a_rank, *map(str, args))
    assert len(first) == 1 and first[0].startswith(str(tmp_path)) and second == []


def test_no_file_is_written_by_two_ranks(server, digit_root, tmp_path):
    """Training with validation, a best checkpoint and pictures, then a test with predictions."""
    hooks = dict(checkpoint=dict(interval=2, save_best='mIoU'), visualization=dict(draw=True))
    listed = [dict(type='PseudoLabelVisHook', interval=2), dict(type='PseudoLabelStatsHook')]
    cfg = with_hooks(merged(EMA, dict(default_hooks=hooks)), *listed)
    cfg['train_cfg'] = dict(max_iters=4, val_interval=2)
    config, work_dir = write_config(tmp_path / 'c.py', UNIMATCH, digit_root, **cfg), tmp_path / 'w'
    record = dict(RECORD_WRITES=str(work_dir))
    args = [config, '--work-dir', work_dir]
    server.run_ranks(TOOLS / 'train.py', *args, cwd=tmp_path, **record)
    args = [config, work_dir / 'iter_4.pth', '--work-dir', work_dir / 'test']
    args += ['--out', work_dir / 'out', '--show-dir', work_dir / 'shown']
    server.run_ranks(TOOLS / 'test.py', *args, cwd=tmp_path, **record)
    written = [set(Path(f'{work_dir}.rank{r}').read_text().split()) for r in (0, 1)]
    assert {'iter_4.pth.part', 'last_checkpoint.part'} <= {Path(one).name for one in written[0]}
    assert any('/out/' in one for one in written[1]), 'each rank writes its own predictions'
    kept = sorted(path.name for path in work_dir.glob('*/pseudo_labels/*'))
    assert kept == ['images.npz', 'step_2.npz', 'step_4.npz']
    assert len(list((work_dir / 'shown').glob('*.png'))) == 5, 'each rank draws its own'
    assert written[0] & written[1] == set()


def test_checkpoint_of_two_ranks_has_no_wrapper_prefix(two_ranks):
    state = load_checkpoint(two_ranks[0] / 'work' / 'iter_4.pth')['state_dict']
    assert {key.split('.')[0] for key in state} == {'segmentor', 'teacher'}


LEAVES = """
import os
from pathlib import Path
import torch.distributed as dist
from torch import nn
from mmseg_semi.apis.runner_setup import finish_distributed

def gloo_threads():
    return sum('gloo' in path.read_text() for path in Path('/proc/self/task').glob('*/comm'))

finish_distributed()  # nothing to do
dist.init_process_group('gloo', init_method=f'file://{os.getcwd()}/store', rank=0, world_size=1)
wrapper = nn.parallel.DistributedDataParallel(nn.Linear(2, 2))
wrapper.itself = [wrapper]
del wrapper
print('threads', gloo_threads() > 0)
finish_distributed()
print('threads', gloo_threads() > 0)
"""


@pytest.mark.skipif(not Path('/proc/self/task').is_dir(), reason='needs the proc file system')
def test_no_thread_of_the_process_group_outlives_it(server, tmp_path):
    """Processes that exited with such threads were aborted about once in a hundred times."""
    script = tmp_path / 'script.py'
    script.write_text(LEAVES)
    output = server.run(script, cwd=tmp_path).output
    assert [line for line in output.splitlines() if 'threads' in line] == [
        *('threads True', 'threads False')
    ]
