"""Warnings about trainings that go wrong without an error."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from leaves import CLASSES, make_leaves
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from tool_runs import CONFIGS, REPO

from mmseg_semi.engine.hooks import TrainingMonitorHook
from mmseg_semi.engine.hooks.training_monitor_hook import _count, _judge
from mmseg_semi.structures import PseudoLabel

NAMES = ('sky', 'road', 'car')


def kinds(valid, selected, labeled, selects=True):
    counts = torch.tensor([valid, *selected], dtype=torch.float64)
    found = _judge(counts, torch.tensor([0.0, *labeled], dtype=torch.float64), selects, NAMES)
    return [(one.kind, one.about) for one in found]


@pytest.mark.parametrize(
    ('valid', 'selected', 'labeled', 'wanted'),
    [
        (1000, (300, 200, 100), (50, 40, 10), []),
        (1000, (4, 3, 2), (50, 40, 10), [('none', '')]),
        (1000, (500, 400, 99), (50, 40, 10), [('all', '')]),
        # Others have 4.9 %, less than a tenth of 50 %.
        (1000, (571, 20, 9), (50, 40, 10), [('collapse', '')]),
        (1000, (569, 21, 10), (50, 40, 10), []),
        # A hundredth of 10 % is 0.1 %.
        (2000, (600, 399, 1), (50, 40, 10), []),
        (2000, (1000, 999, 1), (50, 40, 10), [('all', ''), ('gone', 'car')]),
        (2000, (600, 399, 0), (50, 40, 10), [('gone', 'car')]),
        (2000, (600, 399, 0), (5000, 4996, 4), []),
        (1000, (0, 0, 0), (50, 40, 10), [('none', '')]),
        (1000, (600, 300, 0), (0, 0, 0), []),
    ],
)
def test_what_is_said_of_counts(valid, selected, labeled, wanted):
    assert kinds(valid, selected, labeled) == wanted


def test_where_nothing_selects_all_pixels_are_meant():
    assert kinds(1000, (500, 400, 100), (50, 40, 10), selects=False) == []


def test_counts_of_a_step():
    logits = torch.eye(3)[torch.tensor([0, 0, 1, 2])].T[None, :, None]  # labels 0, 0, 1, 2
    raw = PseudoLabel.from_logits(logits, torch.tensor([[[True, True, True, False]]]))
    pseudo = raw.update(selected=torch.tensor([[[True, False, True, True]]]))
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.tensor([[[2, 2, 255, 0]]])))
    step = SimpleNamespace(final=pseudo, raw_pseudo=raw, labeled_samples=[sample])
    assert _count(step).tolist() == [[3, 1, 1, 0], [0, 1, 0, 2]]


class Runner:
    """As much of a runner as the hook looks at."""

    def __init__(self, folder, rate=0.1, iters=100):
        self.iter, self.max_iters, self.log_dir = 0, iters, str(folder)
        self.rate, self.scalars = rate, {}
        self.model = SimpleNamespace(warmup_length=10)
        self.info = {}
        self.message_hub = SimpleNamespace(
            update_scalar=self.scalars.__setitem__,
            update_info=self.info.__setitem__,
            runtime_info=self.info,
        )
        self.optim_wrapper = SimpleNamespace(get_lr=lambda: dict(lr=[self.rate]))

    def warnings(self, hook, losses):
        for i, loss in enumerate(losses):
            self.iter = i
            hook.before_train_iter(self, i)
            hook.after_train_iter(self, i, outputs=dict(loss=torch.tensor(loss)))
        return [one['kind'] for one in self.given()]

    def given(self):
        files = Path(self.log_dir).glob('warnings.jsonl')
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.mark.parametrize(
    ('rate', 'losses', 'wanted'),
    [
        (0.1, [1.0, 1.0, 1.0], ['loss']),
        (0.1, [1.0, 1.0, 0.9999], []),
        (0.0, [3.0, 2.0, 1.0], ['rate']),
        (0.1, [math.nan] * 3, []),  # which ends a run
    ],
)
def test_rate_and_loss(tmp_path, rate, losses, wanted):
    runner = Runner(tmp_path, rate)
    assert runner.warnings(TrainingMonitorHook(interval=1, patience=3), losses) == wanted


def test_the_rate_may_end_at_zero(tmp_path):
    runner = Runner(tmp_path, rate=0.0, iters=1)
    assert runner.warnings(TrainingMonitorHook(interval=1), [1.0]) == []


def test_validation_under_the_start(tmp_path):
    runner, hook = Runner(tmp_path), TrainingMonitorHook()
    for runner.iter, score in ((5, 41.0), (10, 40.5), (20, 40.1), (30, 39.9), (40, 20.0)):
        hook.after_val_epoch(runner, dict(mIoU=score))
    (entry,) = runner.given()
    assert (entry['kind'], entry['iter']) == ('validation', 31)
    assert 'is 39.90, and was 41.00 at best in the start on labels alone' in entry['text']
    assert runner.scalars == {'train/warnings': 1}


def test_a_resumed_run_knows_its_start(tmp_path):
    runner, hook = Runner(tmp_path), TrainingMonitorHook()
    runner.iter = 10
    hook.after_val_epoch(runner, dict(mIoU=41.0))
    later = TrainingMonitorHook()
    later.before_train(runner)
    runner.iter = 20
    later.after_val_epoch(runner, dict(mIoU=39.0))
    assert [one['kind'] for one in runner.given()] == ['validation']


def test_a_run_that_is_made_to_collapse(server, tmp_path):
    """A head of zeros at a learning rate of 0 calls everything background."""
    config = tmp_path / 'config.py'
    config.write_text(f"""_base_ = {str(CONFIGS / 'fixmatch/fixmatch_unet_custom.py')!r}
data_root = {str(make_leaves(tmp_path / 'leaves'))!r}
classes = {CLASSES!r}
crop_size = (32, 32)
scale = (32, 32)
train_cfg = dict(max_iters=6, val_interval=2)
train_dataloader = dict(batch_size=4, num_workers=0)
val_dataloader = dict(num_workers=0)
optim_wrapper = dict(optimizer=dict(lr=0.0))
model = dict(
    warmup_iters=2,
    segmentor=dict(decode_head=dict(init_cfg=dict(
        _delete_=True, type='Constant', val=0.0, override=dict(name='conv_seg')))),
    refiners=dict(select=dict(_delete_=True, type='ConfidenceThreshold', threshold=0.2)),
)
default_hooks = dict(logger=dict(interval=1), monitor=dict(interval=1, patience=3))
""")
    work_dir = tmp_path / 'work'
    output = server.run(
        REPO / 'mmseg_semi_cli/__main__.py', 'train', config, '--work-dir', work_dir
    ).output
    assert "100.0% of the pseudo-labels that are trained with are 'background'" in output
    assert 'That is from the first 2 steps, which trained on labels alone' in output
    # The guard trains on, and the labels alone are no better at a learning rate of 0.
    assert output.count(' stays ') == 1 and list(work_dir.glob('labels_alone/iter_6.pth'))
    (path,) = work_dir.glob('*/warnings.jsonl')
    found = {entry['kind']: entry['iter'] for entry in map(json.loads, path.open())}
    assert found == dict(rate=1, loss=5, all=5, collapse=5)
    lines = next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()
    scalars = [json.loads(line) for line in lines]
    train = [one for one in scalars if 'loss' in one]
    assert [one.get('warnings') for one in train] == [1, 1, 1, 1, 4, 4]
    assert train[-1]['pseudo/classes'] == 1.0
