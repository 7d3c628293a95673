"""Runs that are counted in epochs, and the best checkpoint."""

from __future__ import annotations

from tool_runs import load_checkpoint, text_log, train_scalars

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
