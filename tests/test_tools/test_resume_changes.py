"""A run that is resumed with another config: exact, refused, or warned with what differs."""

from __future__ import annotations

import re
import shutil
from typing import Any

import cv2
import pytest
from tool_runs import CONFIGS, EMA, UNIMATCH, differing, load_checkpoint, train_scalars

from mmseg_semi.engine.resuming import settings_of
from mmseg_semi.utils.config import load_config
from mmseg_semi.utils.weight_checks import without_downloads

POLY = [dict(type='PolyLR', by_epoch=False, eta_min=0.0)]
SHORT = dict(train_cfg=dict(max_iters=4, val_interval=100), param_scheduler=POLY)


def warnings(output: str) -> list[str]:
    """What is said of differences."""
    found = re.findall(r'WARNING - (.*)', output)
    return [one for one in found if 'run to be resumed' in one or 'schedule of the' in one]


@pytest.fixture(scope='module')
def resume(train, unimatch_run):
    """Function that resumes the run of 8 iterations from its sixth, with changes."""

    def resume(*args: Any, code: int = 0, **changes: Any) -> str:
        path = unimatch_run.work_dir / 'iter_6.pth'
        return train(UNIMATCH, '--resume', path, *args, code=code, **changes).output

    return resume


def test_the_same_config_differs_in_nothing(resume, tmp_path):
    """How data and networks come to be fast, the validation, and what weights began as."""
    init = dict(std=0.5)
    changes = dict(
        model=dict(segmentor=dict(decode_head=dict(init_cfg=init)), compiled='eager'),
        train_dataloader=dict(
            num_workers=2,
            persistent_workers=False,
            prefetch_factor=3,
            dataset=dict(cache=str(tmp_path / 'cache')),
        ),
        train_cfg=dict(val_interval=7),
    )
    assert warnings(resume(**changes)) == []
    assert len(list((tmp_path / 'cache').rglob('*.raw'))) > 8


def test_weights_of_an_encoder_are_not_missed():
    """A resumed run does not load them again."""
    cfg = load_config(str(CONFIGS / 'unimatch' / 'unimatch_efficientnet-lite0_custom.py'))
    before = settings_of(cfg)
    assert cfg.model.segmentor.backbone.init_cfg.type == 'Pretrained'
    cfg.model = without_downloads(cfg.model)
    assert cfg.model.segmentor.backbone.init_cfg is None and settings_of(cfg) == before


def test_longer_training_says_where_the_schedule_ends(train):
    first = train(**SHORT)
    resumed = train(
        UNIMATCH,
        *('--resume', first.work_dir / 'iter_2.pth'),
        param_scheduler=POLY,
        train_cfg=dict(max_iters=6, val_interval=100),
    )
    changed, schedule = warnings(resumed.output)
    assert changed.startswith('the run to be resumed had train_cfg.max_iters=4 (now 6); it goes')
    assert schedule.startswith(
        'the schedule of the checkpoint ends at iteration 4 and training now at 6: from iteration '
        '4 on the learning rate stays 0. Set train_cfg as it was, or start a new run'
    )
    rates = {step: values['lr'] for step, values in train_scalars(resumed.work_dir).items()}
    assert rates[3] > 0 and rates[4] == rates[5] == rates[6] == 0


def test_a_schedule_with_an_end_of_its_own_is_no_surprise(resume):
    (changed,) = warnings(resume(train_cfg=dict(max_iters=9)))
    assert 'train_cfg.max_iters=8 (now 9)' in changed


def test_a_finished_run_has_nothing_to_train(train, unimatch_run):
    run = train(UNIMATCH, '--resume', unimatch_run.checkpoint)
    assert warnings(run.output) == [
        'the run to be resumed has had 8 iterations and the config wants 8: there is nothing to '
        'train'
    ]


def test_values_of_the_optimizer_are_those_of_the_checkpoint(resume):
    (text,) = warnings(resume(optim_wrapper=dict(optimizer=dict(lr=0.5))))
    assert text.startswith('the run to be resumed had optim_wrapper.optimizer.lr=0.004 (now 0.5);')
    assert 'it goes on with what it had' in text and 'load_from' in text


def test_other_settings_are_named_with_both_values(resume):
    changes = dict(model=dict(refiners=dict(select=dict(threshold=0.7))))
    (text,) = warnings(resume(**changes))
    assert 'had model.refiners.select.threshold=0.6 (now 0.7); it goes on with what the con' in text


def test_mixed_precision_that_is_turned_on_is_said(resume):
    (text,) = warnings(resume('--amp'))
    assert "had optim_wrapper.type='OptimWrapper' (now 'CPUAmpOptimWrapper')" in text


def test_another_kind_of_optimizer_is_refused(resume):
    wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=0.01))
    output = resume(code=1, optim_wrapper=wrapper)
    assert "had optim_wrapper.optimizer.type='AdamW' (now 'SGD'), whose state does not" in output


def test_another_kind_of_schedule_is_refused(resume):
    output = resume(code=1, param_scheduler=POLY)
    assert "param_scheduler[0].type='LinearLR' (now 'PolyLR')" in output
    assert "param_scheduler[1].type='PolyLR' (now nothing)" in output


def test_a_teacher_that_comes_or_goes_is_refused(resume, train, ema_run):
    output = resume(code=1, **EMA)
    assert 'the checkpoint is of another model' in output
    assert 'teacher.backbone' in output and 'is in the model alone' in output
    run = train(UNIMATCH, '--resume', ema_run.work_dir / 'iter_6.pth', code=1)
    assert 'is in the checkpoint alone' in run.output


def test_a_network_of_another_width_is_refused(resume):
    output = resume(code=1, model=dict(segmentor=dict(backbone=dict(base_channels=6))))
    assert (
        'the checkpoint is of another model' in output and 'the network has (6, 3, 3, 3)' in output
    )


def test_masks_that_were_changed_are_a_warning(train, digit_root, tmp_path):
    root = tmp_path / 'data'
    shutil.copytree(digit_root, root)
    first = train(data_root=root, **SHORT)
    path = next((root / 'annotations' / 'labeled').glob('*.png'))
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    mask[::2] = 1
    cv2.imwrite(str(path), mask)
    resumed = train(UNIMATCH, '--resume', first.work_dir / 'iter_2.pth', data_root=root, **SHORT)
    (text,) = warnings(resumed.output)
    assert text.startswith('labeled masks of the run to be resumed have been changed since')
    assert f'(1 of them: {path})' in text


def test_inside_accumulated_gradients_a_resumed_run_is_exact(train):
    """Updates after 3, 6 and 8 iterations; resumed from the second and the fourth."""
    accumulate = dict(optim_wrapper=dict(accumulative_counts=3))
    whole = train(**accumulate)
    wanted = load_checkpoint(whole.checkpoint)
    assert 'accumulated_gradients' not in wanted
    for start in (2, 4):
        path = whole.work_dir / f'iter_{start}.pth'
        assert len(load_checkpoint(path)['accumulated_gradients']) > 20
        resumed = train(UNIMATCH, '--resume', path, **accumulate)
        got = load_checkpoint(resumed.checkpoint)
        for part in ('state_dict', 'optimizer', 'param_schedulers'):
            assert differing(wanted[part], got[part], part) == []
    assert 'accumulated_gradients' not in load_checkpoint(whole.work_dir / 'iter_6.pth')
