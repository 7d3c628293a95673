"""Runs that are counted in epochs, and the best checkpoint."""

from __future__ import annotations

import re
import shutil

from tool_runs import SUPERVISED, TOOLS, UNIMATCH, load_checkpoint, text_log, train_scalars

EPOCHS = dict(
    train_cfg=dict(max_iters=None, max_epochs=2, val_begin=2, val_interval=1),
    default_hooks=dict(
        checkpoint=dict(by_epoch=True, interval=1, max_keep_ckpts=1, save_best='mIoU')
    ),
)


def test_epochs_are_passes_over_the_unlabeled_images(train):
    """13 images, 2 an iteration: 7 iterations an epoch."""
    run = train(**EPOCHS)
    assert list(train_scalars(run.work_dir)) == list(range(1, 15))
    log = text_log(run.work_dir)
    assert [log.count(f'Saving checkpoint at {step} iterations') for step in (7, 14)] == [1, 1]
    assert log.count('Saving checkpoint at') == 2
    assert log.count('mIoU: ') == 1, 'validated once, after the second epoch'
    names = sorted(path.name for path in run.work_dir.iterdir() if path.is_file())
    assert names == ['best_mIoU_iter_14.pth', 'config.py', 'iter_14.pth', 'last_checkpoint']
    best, last = (load_checkpoint(run.work_dir / name)['state_dict'] for name in names[::2])
    assert best.keys() == last.keys() and all(best[key].equal(last[key]) for key in best)


def test_iterations_and_epochs_exclude_each_other(train):
    both = train(train_cfg=dict(max_epochs=2), code=1)
    assert 'exactly one of max_iters and max_epochs, got max_iters=8, max_epochs=2' in both.output


def test_wrong_lengths_and_schedules_are_refused(train):
    for changes, message in (
        (dict(train_cfg=dict(val_interval=0)), 'train_cfg.val_interval must be a whole number'),
        (dict(train_cfg=dict(max_iters='many')), "train_cfg.max_iters .* got 'many'"),
        (
            dict(param_scheduler=[dict(type='PolyLR', by_epoch=True, end=2)]),
            'param_scheduler: PolyLR has by_epoch=True',
        ),
    ):
        assert re.search(message, train(code=1, **changes).output)


def test_a_best_checkpoint_is_replaced_only_by_a_finished_one(train):
    """save_best names a metric that rises or falls; one best file is left, and it is whole."""
    changes = dict(
        train_cfg=dict(val_interval=1),
        default_hooks=dict(checkpoint=dict(save_best='mIoU', interval=100)),
    )
    run = train(**changes)
    (best,) = run.work_dir.glob('best_mIoU_iter_*.pth')
    scores = re.findall(r'Iter\(val\).*mIoU: ([0-9.]+)', text_log(run.work_dir))
    assert int(best.stem.split('_')[-1]) == scores.index(max(scores, key=float)) + 1
    wrong = dict(default_hooks=dict(checkpoint=dict(save_best='miou')))
    assert "save_best is 'miou', which no val_evaluator computes" in train(code=1, **wrong).output
    wrong['val_evaluator'] = dict(type='mmseg.IoUMetric')  # which the config check does not know
    assert "there is no metric 'miou'; validation gave" in train(code=1, **wrong).output


def test_a_plain_segmentor_with_a_loss_that_is_not_finite_is_stopped(train):
    changes = dict(optim_wrapper=dict(optimizer=dict(lr=1e30)))
    assert re.search(
        r'iteration \d+: loss is not finite', train(SUPERVISED, code=1, **changes).output
    )


def test_a_run_that_goes_on_elsewhere_leaves_the_best_checkpoint_of_the_first(train, tmp_path):
    """By its name in another folder, as a copy, and as a copy whose best file is gone."""
    changes = dict(
        train_cfg=dict(max_iters=4, val_interval=1),
        default_hooks=dict(checkpoint=dict(save_best='mIoU', interval=2)),
        optim_wrapper=dict(optimizer=dict(lr=0.1)),
    )
    first = train(**changes)
    (best,) = first.work_dir.glob('best_*.pth')
    before = {path.name: path.read_bytes() for path in first.work_dir.glob('*.pth')}
    for name in ('copy', 'without', 'other'):
        if name != 'other':
            shutil.copytree(first.work_dir, tmp_path / name)
        if name == 'without':
            (tmp_path / name / best.name).unlink()
    longer = dict(changes, train_cfg=dict(max_iters=6, val_interval=1))
    for name in ('copy', 'without', 'other'):
        resume = ['--resume', first.work_dir / 'iter_4.pth'] if name == 'other' else ['--resume']
        run = train(UNIMATCH, *resume, work_dir=tmp_path / name, **longer)
        assert len(list((tmp_path / name).glob('best_*.pth'))) == 1, name
        assert ('is not in' in run.output) == (name != 'copy')
        assert 'Best on the validation images' in run.output
    longer['default_hooks'] = dict(checkpoint=dict(save_best=None, interval=2))
    run = train(UNIMATCH, '--resume', first.work_dir / 'iter_4.pth', **longer)
    assert 'Best on the validation images' not in run.output
    assert {path.name: path.read_bytes() for path in first.work_dir.glob('*.pth')} == before


def test_a_test_leaves_the_config_of_the_training_alone(train, server):
    run = train(**EPOCHS)
    path = run.work_dir / 'config.py'
    before = path.read_bytes()
    options = ['--cfg-options', 'test_dataloader.batch_size=2']
    checkpoint = run.work_dir / 'iter_14.pth'
    server.run(TOOLS / 'test.py', run.config, checkpoint, '--work-dir', run.work_dir, *options)
    assert path.read_bytes() == before
    refused = train(SUPERVISED, '--resume', work_dir=run.work_dir, code=1)
    assert 'of another model' in refused.output or 'does not fit' in refused.output
    assert path.read_bytes() == before
