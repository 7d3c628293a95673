"""What tools/train.py trains, writes and refuses."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys

import cv2
import pytest
from mmengine.utils import is_installed
from tool_runs import (
    EMA,
    SUPERVISED,
    TOOLS,
    UNIMATCH,
    differing,
    load_checkpoint,
    run_command,
    text_log,
    train_scalars,
    with_hooks,
    write_config,
)

LOSSES = ('loss', 'decode.loss_ce', 'strong.loss', 'perturbed.loss')
NUMBER = r'\d+\.\d+(?:e[+-]\d+)?'


# ------------------------------------------------------------------------------- the start
def test_a_start_on_labels_alone_is_plain_training_to_the_bit(train, supervised_run):
    run = train(
        model=dict(**EMA['model'], warmup_iters=8, supervised_weight=1.0, channels_last=False)
    )
    alone, start = (load_checkpoint(one.checkpoint)['state_dict'] for one in (supervised_run, run))
    student = {k.removeprefix('segmentor.'): v for k, v in start.items() if 'segmentor.' in k}
    assert not differing(alone, student)


# ------------------------------------------------------------------------------- logs
def test_text_log_has_losses_share_lr_and_eta(unimatch_run):
    lines = [line for line in text_log(unimatch_run.work_dir).splitlines() if 'Iter(train)' in line]
    assert len(lines) == 8
    scalars = train_scalars(unimatch_run.work_dir)
    for step, line in enumerate(lines, 1):
        assert f'[{step}/8]' in line and re.search(r'eta: \d+:\d\d:\d\d', line)
        values = dict(re.findall(rf'([\w.]+): ({NUMBER})', line))
        for name in (*LOSSES, 'selected', 'confidence'):
            assert float(values[name]) == pytest.approx(scalars[step][name], abs=6e-5), name
        assert float(values['lr']) == pytest.approx(scalars[step]['lr'], rel=1e-4)


def test_logged_values_fit_together(unimatch_run):
    for values in train_scalars(unimatch_run.work_dir).values():
        parts = sum(values[name] for name in LOSSES[1:])
        assert values['loss'] == pytest.approx(parts, rel=1e-5)
        assert 0 < values['selected'] < values['confidence'] < 1


@pytest.mark.skipif(not is_installed('tensorboard'), reason='tensorboard is not installed')
def test_tensorboard_has_losses_and_share(unimatch_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (path,) = unimatch_run.work_dir.rglob('events.out.tfevents.*')
    events = EventAccumulator(str(path)).Reload()
    scalars = train_scalars(unimatch_run.work_dir)
    for name in (*LOSSES, 'selected', 'lr'):
        got = {event.step: event.value for event in events.Scalars(name)}
        assert got == {s: pytest.approx(v[name], rel=1e-6) for s, v in scalars.items()}, name


# ------------------------------------------------------------------------------- AMP
def test_amp_trains_in_bfloat16(train, tmp_path, unimatch_run):
    run = train(
        UNIMATCH,
        '--amp',
        **with_hooks({}, dict(type='ReportHook', folder=str(tmp_path))),
    )
    report = json.loads((tmp_path / 'rank0.json').read_text())
    assert report['conv_dtypes'][0] == 'torch.bfloat16'
    assert report['log_dtypes'] == ['torch.float32']
    values, exact = train_scalars(run.work_dir), train_scalars(unimatch_run.work_dir)
    assert all(math.isfinite(v[name]) for v in values.values() for name in LOSSES)
    assert values[1]['loss'] != exact[1]['loss']
    assert values[1]['loss'] == pytest.approx(exact[1]['loss'], rel=0.1)
    state = load_checkpoint(run.checkpoint)['state_dict']
    assert {str(v.dtype) for v in state.values()} == {'torch.float32', 'torch.int64'}


# ------------------------------------------------------------------------------- bad runs
def test_exploding_training_stops_and_keeps_the_checkpoint(train, tmp_path):
    """Iteration 3 makes the weights infinite, so the loss of iteration 4 is not finite."""
    work_dir = tmp_path / 'work'
    schedule = [dict(type='MultiStepLR', by_epoch=False, milestones=[2], gamma=1e35)]
    run = train(work_dir=work_dir, code=1, param_scheduler=schedule)
    (message,) = re.findall(r'^error: (.*)', run.output, flags=re.MULTILINE)
    assert message.startswith('iteration 4: loss is not finite')
    assert re.search(r'decode\.loss_ce=(nan|inf)', message)
    images = re.findall(r'images/(labeled|unlabeled)/\d+\.png', message)
    assert images == ['labeled', 'labeled', 'unlabeled', 'unlabeled']
    assert list(train_scalars(work_dir)) == [1, 2, 3]
    assert [path.name for path in work_dir.glob('*.pth')] == ['iter_2.pth']
    state = load_checkpoint(work_dir / 'iter_2.pth')['state_dict']
    assert all(value.isfinite().all() for value in state.values())


def test_the_config_that_a_run_leaves_is_a_config(server, supervised_run, tmp_path):
    """Without the helper variables of its bases, which would be refused as read by nothing."""
    config = supervised_run.work_dir / supervised_run.config.name
    args = (config, supervised_run.checkpoint, '--work-dir', tmp_path / 'test')
    assert 'mIoU: ' in server.run(TOOLS / 'test.py', *args).output


def test_missing_config_is_named(server, tmp_path):
    done = server.run(TOOLS / 'train.py', tmp_path / 'no_such.py', code=1)
    assert f'config file {tmp_path / "no_such.py"} does not exist' in done.output


# ------------------------------------------------------------------------------- data
def test_audit_folder_is_never_read(digit_root, unimatch_run, train, tmp_path):
    """With wrong masks of the unlabeled images, or none, every loss and weight is the same."""
    wrong, without = tmp_path / 'wrong', tmp_path / 'without'
    for copy in (wrong, without):
        shutil.copytree(digit_root, copy)
    masks = sorted((wrong / 'audit' / 'unlabeled').glob('*.png'))
    assert len(masks) == 13
    for i, path in enumerate(masks):
        truth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), (truth + 1 + i) % 6)
    shutil.rmtree(without / 'audit')
    for copy in (wrong, without):
        run = train(data_root=copy)
        assert train_scalars(run.work_dir) == train_scalars(unimatch_run.work_dir)
        states = [load_checkpoint(one.checkpoint)['state_dict'] for one in (run, unimatch_run)]
        assert differing(*states) == []


# ------------------------------------------------------------------------------- options
def test_load_from_a_plain_checkpoint_starts_student_and_teacher(train, supervised_run):
    """With learning rate 0 the loaded weights are those of the end."""
    run = train(
        UNIMATCH,
        *('--cfg-options', 'train_cfg.max_iters=1', 'optim_wrapper.optimizer.lr=0.0'),
        load_from=str(supervised_run.checkpoint),
        **EMA,
    )
    assert 'unexpected key' not in run.output and 'missing keys' not in run.output
    plain = load_checkpoint(supervised_run.checkpoint)['state_dict']
    state = load_checkpoint(run.work_dir / 'iter_1.pth')['state_dict']
    names = [key for key in plain if key.endswith(('weight', 'bias'))]
    assert len(names) > 20 and len(state) == 2 * len(plain)
    for prefix in ('segmentor.', 'teacher.'):
        assert [key for key in names if not plain[key].equal(state[prefix + key])] == []


def test_options_reach_the_run(train, unimatch_run):
    run = train(
        UNIMATCH,
        *('--seed', 8, '--auto-scale-lr', '--cfg-options', 'train_cfg.max_iters=2'),
    )
    values, other = train_scalars(run.work_dir), train_scalars(unimatch_run.work_dir)
    assert list(values) == [1, 2]
    assert values[1]['loss'] != other[1]['loss']
    # 4 images an iteration; the learning rate is for 16.
    assert values[1]['lr'] == pytest.approx(other[1]['lr'] * 4 / 16)


def test_a_fresh_process_trains_the_baseline(digit_root, tmp_path, train):
    """As a user types it; the other tests fork a process that has imported everything."""
    config = write_config(tmp_path / 'small.py', SUPERVISED, digit_root)
    args = (TOOLS / 'train.py', config, '--cfg-options', 'train_cfg.max_iters=2')
    run_command([sys.executable, *args], tmp_path)
    work_dir = tmp_path / 'work_dirs' / 'small'
    assert (work_dir / 'iter_2.pth').is_file()
    assert (work_dir / 'last_checkpoint').read_text().endswith('iter_2.pth')
    forked = train(SUPERVISED, *args[2:])
    assert train_scalars(work_dir) == train_scalars(forked.work_dir)
