"""A killed and resumed run is the uninterrupted one, bit by bit."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from run_hooks import HALF_WRITTEN
from tool_runs import (
    EMA,
    SUPERVISED,
    UNIMATCH,
    differing,
    forget_logs,
    load_checkpoint,
    train_scalars,
    with_hooks,
)

from mmseg_semi.utils.safe_checkpoints import CheckpointError, latest_checkpoint

NO_DATA: dict[str, Any] = {}
# The run is killed and resumed in the last but one of the iterations without unlabeled images.
WARM_UP = dict(model=dict(warmup_iters=6))
# Earlier weights of iterations 2, 4, ... and of the best validations label from then on.
GUIDANCE = dict(type='PreviousGuidance', size=2, threshold=0.2, ramp_by='iteration')
GUIDED = dict(
    model=dict(heads=dict(guidance=GUIDANCE, best=dict(GUIDANCE, push='best'))),
    train_cfg=dict(val_interval=2),
)
TWO_WORKERS = dict(train_dataloader=dict(num_workers=2))
KILLED = -signal.SIGKILL


@pytest.fixture(scope='module')
def warm_run(train):
    return train(**WARM_UP)


@pytest.fixture(scope='module')
def guided_run(train):
    return train(**GUIDED)


def assert_same_run(work_dir: Path, reference: Any, first: int = 1) -> None:
    """All logged values from iteration ``first`` on, and everything in the last checkpoint."""
    wanted, got = train_scalars(reference.work_dir), train_scalars(work_dir)
    assert list(wanted) == list(range(1, 9))
    assert list(got) == list(range(first, 9))
    for step, values in got.items():
        assert {'loss', 'decode.loss_ce', 'lr'} <= values.keys()
        assert values == wanted[step], f'iteration {step}'
    first_end, second_end = (
        load_checkpoint(reference.checkpoint),
        load_checkpoint(work_dir / 'iter_8.pth'),
    )
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert first_end[part], part
        assert differing(first_end[part], second_end[part], part) == []


@pytest.mark.parametrize(
    ('reference', 'base', 'changes', 'workers'),
    [
        ('unimatch_run', UNIMATCH, {}, {}),
        ('unimatch_run', UNIMATCH, {}, TWO_WORKERS),
        ('ema_run', UNIMATCH, EMA, {}),
        ('ema_run', UNIMATCH, EMA, TWO_WORKERS),
        ('warm_run', UNIMATCH, WARM_UP, {}),
        ('guided_run', UNIMATCH, GUIDED, {}),
        ('supervised_run', SUPERVISED, {}, {}),
    ],
    ids=[
        'unimatch',
        'unimatch-2-workers',
        'ema',
        'ema-2-workers',
        'warm-up',
        'guided',
        'supervised',
    ],
)
def test_killed_and_resumed_equals_uninterrupted(
    request, train, tmp_path, reference, base, changes, workers
):
    """Killed after iteration 5, resumed from 4, in the middle of an epoch of 7 iterations."""
    reference = request.getfixturevalue(reference)
    work_dir = tmp_path / 'work'
    killer = with_hooks(changes, dict(type='KillHook', iteration=5))
    train(base, work_dir=work_dir, code=KILLED, **workers, **killer)
    assert list(train_scalars(work_dir)) == [1, 2, 3, 4, 5]
    assert not (work_dir / 'iter_6.pth').exists()
    forget_logs(work_dir)

    resumed = train(base, '--resume', work_dir=work_dir, **workers, **changes)
    assert 'iter_4.pth' in resumed.output
    assert_same_run(work_dir, reference, first=5)


def test_warm_up_trains_on_labeled_images_alone(warm_run):
    values = train_scalars(warm_run.work_dir)
    names = [step for step, value in values.items() if 'strong.loss' in value]
    assert list(values) == list(range(1, 9)) and names == [7, 8]


def test_earlier_weights_label_and_are_in_the_checkpoint(guided_run):
    values = train_scalars(guided_run.work_dir)
    for name in ('guidance', 'best'):
        guided = [step for step, value in values.items() if f'{name}.loss' in value]
        assert guided == list(range(3, 9)), name
        assert all(values[step][f'{name}.loss'] > 0 for step in guided)
    assert [values[step]['guidance.weight'] for step in (3, 5, 7)] == [0.5, 1.0, 0.5]
    assert "heads.best.push='best' chooses the weights" in guided_run.output
    state = load_checkpoint(guided_run.checkpoint)['state_dict']
    kept = [key for key in state if '.snapshots.' in key and not key.endswith('count')]
    assert len(kept) == 4 and int(state['heads.guidance.snapshots.count']) == 2
    student = [v for k, v in state.items() if k.startswith('segmentor.')]
    length = sum(value.numel() for value in student if value.is_floating_point())
    assert {tuple(state[key].shape) for key in kept} == {(length,)}


def test_the_best_weights_need_a_validation(train):
    none = dict(val_dataloader=None, val_evaluator=None, val_cfg=None)
    best = dict(model=dict(heads=dict(guidance=dict(GUIDANCE, push='best'))))
    failed = train(code=1, **best, **none)
    assert "model.heads.guidance.push is 'best', which needs a validation" in failed.output


def test_reference_runs_use_what_must_be_resumed(unimatch_run, ema_run):
    """Dropout, CutMix, the perturbed stream and the teacher are at work in the runs above."""
    values = train_scalars(unimatch_run.work_dir)
    assert all(0 < step['selected'] < 1 for step in values.values())
    assert all(step['strong.loss'] > 0 and step['perturbed.loss'] > 0 for step in values.values())
    state = load_checkpoint(ema_run.checkpoint)['state_dict']
    moved = [
        key
        for key, value in state.items()
        if key.startswith('teacher.')
        and value.is_floating_point()
        and not value.equal(state['segmentor.' + key[len('teacher.') :]])
    ]
    assert any('weight' in key for key in moved) and any('running_var' in key for key in moved)
    assert train_scalars(ema_run.work_dir) != values


# ------------------------------------------------------------------------ incomplete checkpoints
def cut(path: Path) -> None:
    """Leave the first two thirds of a file."""
    os.truncate(path, path.stat().st_size * 2 // 3)


@pytest.fixture
def interrupted(unimatch_run, tmp_path) -> Path:
    """The folder of a run with checkpoints of iterations 2, 4 and 6."""
    work_dir = tmp_path / 'work'
    work_dir.mkdir()
    for step in (2, 4, 6):
        shutil.copy(unimatch_run.work_dir / f'iter_{step}.pth', work_dir)
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'iter_6.pth'))
    return work_dir


def test_newest_complete_checkpoint(interrupted):
    pointer = interrupted / 'last_checkpoint'
    assert latest_checkpoint(interrupted) == str(interrupted / 'iter_6.pth')
    pointer.write_text('')
    assert latest_checkpoint(interrupted) == str(interrupted / 'iter_6.pth')
    pointer.write_text('/moved/away/iter_4.pth')
    assert latest_checkpoint(interrupted) == str(interrupted / 'iter_4.pth')
    pointer.unlink()
    cut(interrupted / 'iter_6.pth')
    (interrupted / 'iter_8.pth.part').write_bytes((interrupted / 'iter_4.pth').read_bytes())
    (interrupted / 'iter_10.pth').touch()
    assert latest_checkpoint(interrupted) == str(interrupted / 'iter_4.pth')
    cut(interrupted / 'iter_4.pth')
    cut(interrupted / 'iter_2.pth')
    with pytest.raises(
        CheckpointError, match='none of the 4 checkpoints of .* can be gone on from'
    ):
        latest_checkpoint(interrupted)


def test_resume_passes_over_a_truncated_checkpoint(interrupted, unimatch_run, train):
    """The pointer names a file that was cut short, and half a file lies beside it."""
    cut(interrupted / 'iter_6.pth')
    (interrupted / 'iter_8.pth.part').write_bytes(b'PK\x03\x04 half a file')
    resumed = train(UNIMATCH, '--resume', work_dir=interrupted)
    assert 'iter_4.pth' in resumed.output
    assert_same_run(interrupted, unimatch_run, first=5)


def test_resume_from_a_named_checkpoint_that_is_cut_short_is_refused(interrupted, train):
    cut(interrupted / 'iter_6.pth')
    path = interrupted / 'iter_6.pth'
    refused = train(UNIMATCH, '--resume', path, work_dir=interrupted, code=1)
    assert f'{path}: the file is cut short' in refused.output
    assert train_scalars(interrupted) == {}


@pytest.mark.parametrize('die', [True, False], ids=['killed', 'disk-full'])
def test_half_written_checkpoint_leaves_the_earlier_one(die, train, unimatch_run, tmp_path):
    """Even when only one checkpoint is kept."""
    work_dir = tmp_path / 'work'
    keep_one = dict(default_hooks=dict(checkpoint=dict(max_keep_ckpts=1)))
    hooks = with_hooks(keep_one, dict(type='HalfCheckpointHook', iteration=4, die=die))
    stopped = train(UNIMATCH, work_dir=work_dir, code=HALF_WRITTEN if die else 1, **hooks)
    assert die or 'the disk is full' in stopped.output
    assert [path.name for path in work_dir.glob('*.pth')] == ['iter_2.pth']
    assert (work_dir / 'last_checkpoint').read_text() == str(work_dir / 'iter_2.pth')
    assert len(list(work_dir.glob('*.part'))) == int(die)
    load_checkpoint(work_dir / 'iter_2.pth')
    if die:
        forget_logs(work_dir)
        resumed = train(UNIMATCH, '--resume', work_dir=work_dir, **keep_one)
        assert 'iter_2.pth' in resumed.output
        assert_same_run(work_dir, unimatch_run, first=3)
        assert [path.name for path in work_dir.glob('iter_*')] == ['iter_8.pth']
