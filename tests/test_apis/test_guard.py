"""The guard of own images: the labels alone are trained as well, and the better one is kept."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.logging import MessageHub
from tool_runs import CONFIGS

from mmseg_semi.apis import guard
from mmseg_semi.apis.start import best_of, start_is_best
from mmseg_semi.utils.config import load_config

UNIMATCH = CONFIGS / 'unimatch/unimatch_unet_custom.py'
SAVE_BEST = 'default_hooks.checkpoint.save_best'
SUPERVISED = CONFIGS / 'supervised/supervised_unet_custom.py'


def runner_with(name, best, score, warmup=500, max_iters=1000):
    hub = MessageHub.get_instance(name)
    if best is not None:
        hub.update_info('best_ckpt', str(best))
        hub.update_info('best_score', score)
    model = SimpleNamespace(warmup_length=warmup)
    return SimpleNamespace(message_hub=hub, model=model, max_iters=max_iters)


@pytest.mark.parametrize(
    ('step', 'warmup', 'expected'),
    [(400, 500, True), (500, 500, True), (600, 500, False), (400, 0, False), (400, 1000, False)],
)
def test_when_the_start_is_the_best(step, warmup, expected):
    name = f'guard{step}{warmup}'
    runner = runner_with(name, f'work/best_mIoU_iter_{step}.pth', 40.0, warmup)
    assert start_is_best(runner) is expected
    assert best_of(runner) == (f'work/best_mIoU_iter_{step}.pth', 40.0)


def test_without_validation_nothing_is_the_best():
    assert not start_is_best(runner_with('guard none', None, 0.0))


@pytest.fixture
def config(tmp_path):
    hook = dict(type='CheckpointHook')
    model = dict(type='SemiSegmentor', segmentor=dict(pretrained='w.pth'), warmup_iters=500)
    content = dict(
        work_dir=str(tmp_path / 'work'), default_hooks=dict(checkpoint=hook), model=model
    )
    return Config(content)


def test_the_labels_alone_are_the_same_training_without_its_method(config, tmp_path):
    config.load_from = 'start.pth'
    config = guard.of_labels_alone(config)
    guard.set_labels_alone(config, 1000, 7)
    assert config.work_dir == str(tmp_path / 'work/labels_alone')
    assert config.model.warmup_iters == 1000 and config.model.warmup_epochs == 0
    assert config.model.supervised_weight == 1
    assert config.resume is False and config.load_from == 'start.pth'
    assert config.randomness.seed == 7
    assert config.model.segmentor.pretrained == 'w.pth'


def test_a_checkpoint_of_the_run_itself_does_not_start_them(config):
    config.update(resume=True, load_from='work/iter_500.pth')
    assert guard.of_labels_alone(config).load_from is None
    assert config.load_from == 'work/iter_500.pth'


def test_an_interrupted_one_is_resumed_where_checkpoints_go(config, tmp_path, monkeypatch):
    config.default_hooks.checkpoint.out_dir = str(tmp_path / 'large')
    asked = []

    def latest(folder):
        asked.append(folder)
        return f'{folder}/iter_40.pth'

    monkeypatch.setattr(guard, 'latest_checkpoint', latest)
    guard.set_labels_alone(config, 1000, 7)
    assert asked == [str(tmp_path / 'large/work/labels_alone')]
    assert config.resume is True and config.load_from == f'{asked[0]}/iter_40.pth'
    assert 'pretrained' not in config.model.segmentor


@pytest.mark.parametrize(
    ('score', 'step', 'taken'), [(41.0, 900, True), (41.0, 400, True), (40.0, 900, False)]
)
def test_the_better_checkpoint_is_kept(config, tmp_path, monkeypatch, score, step, taken):
    best = tmp_path / 'work/best_mIoU_iter_400.pth'
    other = tmp_path / f'work/labels_alone/best_mIoU_iter_{step}.pth'
    for path in (best, other):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(path.parent.name))
    said, trained = [], []
    runner = runner_with(f'alone{score}{step}', other, score)
    runner.train = lambda: trained.append(config.work_dir)
    monkeypatch.setattr(guard.StartRunner, 'from_cfg', lambda cfg: runner)
    monkeypatch.setattr(guard, 'print_log', lambda text, **_: said.append(text))
    guard.train_labels_alone(config, str(best), 40.0)
    assert trained == [config.work_dir]
    kept = {path.name: path.read_text() for path in (tmp_path / 'work').glob('*.pth*')}
    if taken:
        assert kept == {other.name: 'labels_alone', f'with_unlabeled_{best.name}': 'work'}
        where = tmp_path / 'work' / other.name
        assert said[-1] == (
            'Best on the validation images: 41.00, of the labels alone (with the unlabeled images: '
            f'40.00): {where}'
        )
    else:
        assert kept == {best.name: 'work'}
        assert said[-1] == (
            f'Best on the validation images stays 40.00 (the labels alone: {score:.2f}), {best}'
        )


def test_a_longer_run_may_be_the_better_one_after_all(config, tmp_path, monkeypatch):
    work = tmp_path / 'work'
    (work / 'labels_alone').mkdir(parents=True)
    for name in ('best_mIoU_iter_300.pth', 'with_unlabeled_best_mIoU_iter_900.pth'):
        (work / name).write_text(name)
    runner = runner_with('alone after all', work / 'labels_alone/best_mIoU_iter_300.pth', 41.0)
    runner.train = lambda: None
    monkeypatch.setattr(guard.StartRunner, 'from_cfg', lambda cfg: runner)
    guard.train_labels_alone(config, str(work / 'with_unlabeled_best_mIoU_iter_900.pth'), 43.0)
    (best,) = work.glob('*.pth')
    assert best.name == 'best_mIoU_iter_900.pth' and best.read_text().startswith('with_unlabeled')


@pytest.mark.parametrize(('text', 'expected'), [('', True), ('guard = False', False)])
def test_configs_of_own_images_are_guarded(tmp_path, text, expected):
    path = tmp_path / 'mine.py'
    path.write_text(f'_base_ = {str(UNIMATCH)!r}\n{text}\n')
    assert load_config(str(path)).guarded is expected
    assert not load_config(str(CONFIGS / 'unimatch/unimatch_unet_digit-scenes-60.py')).get(
        'guarded'
    )


def test_guarded_is_true_or_false():
    with pytest.raises(ValueError, match=r"guarded must be one of \(True, False\), got 'always'"):
        guard.check_guard(Config(dict(guarded='always')))


@pytest.mark.parametrize(
    ('change', 'key'),
    [
        (dict(val_dataloader=None, val_cfg=None, val_evaluator=None), 'val_dataloader'),
        ({SAVE_BEST: None}, SAVE_BEST),
    ],
)
def test_a_guard_that_compares_nothing_is_refused(tmp_path, change, key):
    path = tmp_path / 'mine.py'
    for base, guarded in ((UNIMATCH, True), (UNIMATCH, False), (SUPERVISED, True)):
        path.write_text(f'_base_ = {str(base)!r}\nguard = {guarded}\n')
        cfg = load_config(str(path))
        guard.check_guard(cfg)
        cfg.merge_from_dict(change)
        if base == UNIMATCH and guarded:
            with pytest.raises(ValueError, match=rf'{key} is None: set it, or guard = False'):
                guard.check_guard(cfg)
        else:
            guard.check_guard(cfg)


@pytest.mark.parametrize(
    ('guarded', 'step', 'warmup', 'expected'),
    [
        (True, 400, 500, True),
        (True, 600, 500, True),
        (True, 600, 0, True),
        (True, 600, 1000, False),  # it had no more than the labels
        (False, 600, 500, False),
    ],
)
def test_when_the_labels_alone_are_trained(config, guarded, step, warmup, expected):
    config.guarded = guarded
    name = f'wants{guarded}{step}{warmup}'
    runner = runner_with(name, f'best_mIoU_iter_{step}.pth', 40.0, warmup)
    assert guard.wants_labels_alone(config, runner) is expected
    config.model = dict(type='EncoderDecoder')
    assert guard.wants_labels_alone(config, runner) is False
