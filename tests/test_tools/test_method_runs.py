"""Short trainings of the methods' configs."""

from __future__ import annotations

import copy
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS
from tool_runs import (
    CONFIGS,
    TOOLS,
    differing,
    forget_logs,
    load_checkpoint,
    load_config,
    merged,
    small_settings,
    train_scalars,
    with_hooks,
)
from torch import nn

import mmseg_semi  # noqa: F401

S4MC = 's4mc/s4mc_unet_digit-scenes-60.py'
S4MC_FIXMATCH = 's4mc/s4mc_fixmatch_unet_digit-scenes-60.py'
RANKMATCH = 'rankmatch/rankmatch_unet_digit-scenes-60.py'
CUTMIX_SEG = 'cutmix_seg/cutmix_seg_unet_digit-scenes-60.py'
MEAN_TEACHER = 'mean_teacher/mean_teacher_unet_digit-scenes-60.py'
MIXED = 'mixed/mixed_corrmatch-s4mc-rank_unet_digit-scenes-60.py'
# The small UNet has 4 channels where the shipped one has 16.
NARROW_HEAD = dict(model=dict(heads=dict(correlation=dict(in_channels=8))))
SUPERVISED_LOSS = 'decode.loss_ce'


@pytest.fixture(scope='module')
def train_method(server, digit_root, tmp_path_factory):
    """Train a small child of a method's config, its own selection of pixels kept."""

    def train_method(
        base: str, *args: Any, work_dir: Path | None = None, code: int = 0, **changes: Any
    ) -> Path:
        settings = small_settings(base, digit_root)
        if 'threshold' not in load_config(CONFIGS / base).model.refiners.select:
            del settings['model']['refiners']
        folder = tmp_path_factory.mktemp('method')
        lines = [f'{k} = {v!r}' for k, v in merged(settings, changes).items()]
        config = folder / 'config.py'
        config.write_text('\n'.join([f'_base_ = {str(CONFIGS / base)!r}', *lines]) + '\n')
        work_dir = work_dir or folder / 'work'
        server.run(TOOLS / 'train.py', config, '--work-dir', work_dir, *args, code=code)
        return work_dir

    return train_method


@pytest.fixture(scope='module')
def s4mc_run(train_method):
    return train_method(S4MC)


def check_values(work_dir: Path, *positive: str) -> dict[int, dict[str, float]]:
    """Everything logged is finite; these losses are above zero in every iteration."""
    values = train_scalars(work_dir)
    assert list(values) == list(range(1, 9))
    for step in values.values():
        assert all(math.isfinite(value) for value in step.values()), step
        assert all(step[name] > 0 for name in (SUPERVISED_LOSS, *positive)), step
        terms = [value for name, value in step.items() if 'loss' in name and name != 'loss']
        assert step['loss'] == pytest.approx(sum(terms), rel=1e-4)
    return values


def has_teacher(work_dir: Path) -> bool:
    state = load_checkpoint(work_dir / 'iter_8.pth')['state_dict']
    return any(key.startswith('teacher.') for key in state)


def test_rankmatch_trains(train_method):
    work_dir = train_method(RANKMATCH)
    check_values(work_dir, 'rank.loss', 'strong.loss', 'perturbed.loss')
    assert not has_teacher(work_dir)


@pytest.mark.parametrize('base', [CUTMIX_SEG, MEAN_TEACHER])
def test_teacher_methods_train(train_method, base):
    work_dir = train_method(base)
    values = check_values(work_dir)
    assert any(step['strong.loss'] > 0 for step in values.values())
    assert 'perturbed.loss' not in values[1] and has_teacher(work_dir)


def check_s4mc(work_dir: Path) -> None:
    values = check_values(work_dir, 'strong.loss')
    for step, value in values.items():
        assert 0 < value['select.threshold'] < 1
        # At most the share above the quantile, and refinement moves some pixels over it.
        assert 0.05 < value['selected'] <= 1, step


def test_s4mc_trains(s4mc_run, train_method):
    check_s4mc(s4mc_run)
    assert has_teacher(s4mc_run)
    work_dir = train_method(S4MC_FIXMATCH)
    check_s4mc(work_dir)
    assert has_teacher(work_dir)


def test_the_mixed_config_trains_and_is_short(train_method):
    lines = (CONFIGS / MIXED).read_text().splitlines()
    assert len(lines) < 15
    values = check_values(
        train_method(MIXED, **NARROW_HEAD),
        'strong.loss',
        'soft.loss',
        'correlation.loss',
        'rank.loss',
    )
    assert all(
        {'select.threshold', 'regions.gained', 'perturbed.loss'} <= step.keys()
        for step in values.values()
    )


def test_killed_and_resumed_s4mc_equals_uninterrupted(train_method, s4mc_run, tmp_path):
    """Killed after iteration 5, resumed from 4: the share and the teacher go on where they were."""
    work_dir = tmp_path / 'work'
    killer = with_hooks({}, dict(type='KillHook', iteration=5))
    train_method(S4MC, work_dir=work_dir, code=-signal.SIGKILL, **killer)
    assert list(train_scalars(work_dir)) == [1, 2, 3, 4, 5]
    forget_logs(work_dir)
    train_method(S4MC, '--resume', work_dir=work_dir)
    wanted, got = train_scalars(s4mc_run), train_scalars(work_dir)
    assert got == {step: wanted[step] for step in (5, 6, 7, 8)}
    ends = [load_checkpoint(folder / 'iter_8.pth') for folder in (s4mc_run, work_dir)]
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert ends[0][part] and differing(ends[0][part], ends[1][part], part) == []
    state = ends[0]['state_dict']
    apart = [k for k in state if 'running_var' in k and k.startswith('teacher.')]
    assert apart and all(
        not state[k].equal(state['segmentor.' + k[len('teacher.') :]]) for k in apart
    )


# ------------------------------------------------------------- the teacher's BatchNorm statistics
LEARNING = dict(
    model=dict(
        segmentor=dict(
            backbone=dict(base_channels=8),
            decode_head=dict(in_channels=8, channels=8, dropout_ratio=0.0),
        ),
        warmup_iters=40,
    ),
    optim_wrapper=dict(optimizer=dict(lr=0.02)),
    param_scheduler=[dict(type='PolyLR', power=0.9, eta_min=1e-3, by_epoch=False)],
    train_dataloader=dict(batch_size=16),
    train_cfg=dict(max_iters=60, val_interval=1000),
    default_hooks=dict(checkpoint=dict(interval=60)),
)


def miou(model: nn.Module, dataset: Any) -> float:
    """Mean IoU of the predictions, without any augmentation."""
    evaluator = Evaluator(dict(type='IoUMetric', iou_metrics=['mIoU']))
    evaluator.dataset_meta = dataset.metainfo
    samples = [dataset[i] for i in range(len(dataset))]
    batch = {key: [sample[key] for sample in samples] for key in ('inputs', 'data_samples')}
    with torch.no_grad():
        results = model.eval().test_step(batch)
    evaluator.process(results, batch)
    return evaluator.evaluate(len(dataset))['mIoU']


def test_the_teachers_norms_follow_the_student(train_method, digit_root):
    """On the training images the teacher is as good as the student, by its own statistics."""
    changes = dict(model=dict(teacher=dict(momentum=0.9)), randomness=dict(seed=12))  # learns fast
    settings = merged(LEARNING, changes)
    work_dir = train_method(MEAN_TEACHER, **settings)
    config = load_config(next(work_dir.glob('*.py')))
    init_default_scope('mmseg')
    images = copy.deepcopy(config.val_dataloader.dataset)
    images.data_prefix = dict(img_path='images/labeled', seg_map_path='annotations/labeled')
    images.ann_file = 'splits/labeled_8.txt'
    dataset = DATASETS.build(images)
    assert len(dataset) == 8 and images.data_root == str(digit_root)
    model = MODELS.build(config.model)
    model.load_state_dict(load_checkpoint(work_dir / 'iter_60.pth')['state_dict'])

    student = miou(model, dataset)
    model.predict_with = 'teacher'
    teacher = miou(model, dataset)
    # A teacher whose parameters move and whose statistics stay where they began.
    for module in model.teacher.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    forgotten = miou(model, dataset)
    assert student > 50
    assert teacher > student - 8
    assert forgotten < student - 25
