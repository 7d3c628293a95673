"""CorrMatch through the tools: resumed, on two ranks, and extracted for plain mmseg."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace as Space
from typing import Any

import mmseg
import pytest
import torch
from mmengine.hooks import Hook
from mmseg.registry import HOOKS as MMSEG_HOOKS
from mmseg.registry import MODELS
from run_hooks import digest
from tool_runs import (
    CONFIGS,
    TOOLS,
    differing,
    forget_logs,
    load_checkpoint,
    load_config,
    merged,
    read_metrics,
    small_settings,
    train_scalars,
    with_hooks,
)

from mmseg_semi.apis.train import main as train
from mmseg_semi.models.refiners import EMAThreshold
from mmseg_semi.structures import PseudoLabel

CORRMATCH = 'corrmatch/corrmatch_unet_digit-scenes-60.py'
MMSEG_TEST = Path(mmseg.__file__).parent / '.mim' / 'tools' / 'test.py'
WARM_UP = 3
MODEL = dict(
    warmup_iters=WARM_UP,
    refiners=dict(
        select=dict(initial=0.6, momentum=0.5), regions=dict(num_shapes=16, threshold=0.1)
    ),
    heads=dict(correlation=dict(in_channels=8, hidden_channels=4)),
)
HOOKS = dict(custom_hooks=[dict(type='DataCheckHook')])
VALUE = 'refiners.select.value'


def write_small(path: Path, data_root: Path, **changes: Any) -> Path:
    """A small child of the shipped CorrMatch config."""
    settings = small_settings(CORRMATCH, data_root)
    settings['model'].update(MODEL)  # without the fixed threshold of the other methods
    lines = [f'_base_ = {str(CONFIGS / CORRMATCH)!r}']
    lines += [f'{key} = {value!r}' for key, value in merged(settings, changes).items()]
    path.write_text('\n'.join(lines) + '\n')
    return path


@pytest.fixture(scope='module')
def train_small(server, digit_root, tmp_path_factory):
    """Function that trains it and returns its config, its work folder and its output."""

    def train_small(*args: Any, work_dir: Path | None = None, code: int = 0, **changes: Any):
        folder = tmp_path_factory.mktemp('corrmatch')
        config = write_small(folder / 'config.py', digit_root, **{**HOOKS, **changes})
        work_dir = work_dir or folder / 'work'
        done = server.run(TOOLS / 'train.py', config, '--work-dir', work_dir, *args, code=code)
        return config, work_dir, done.output

    return train_small


@pytest.fixture(scope='module')
def corrmatch_run(train_small):
    return train_small()


def test_all_parts_are_at_work_after_the_warm_up(corrmatch_run):
    """One strong view, the threshold moves from the first iteration with pseudo-labels on."""
    values = train_scalars(corrmatch_run[1])
    assert list(values) == list(range(1, 9))
    labeled = {'decode.loss_ce', 'correlation.labeled.loss_ce'}
    unlabeled = {'strong.loss', 'perturbed.loss', 'soft.loss', 'correlation.loss'}
    for step, value in values.items():
        names = {name for name in value if '.' in name and 'loss' in name}
        assert names == (labeled if step <= WARM_UP else labeled | unlabeled), step
        assert all(value[name] > 0 for name in names)
    later = [values[step] for step in range(WARM_UP + 1, 9)]
    assert all(0 < value['selected'] < 1 for value in later)
    assert any(value['regions.gained'] > 0 for value in later)
    thresholds = [value['select.threshold'] for value in later]
    assert thresholds[0] == pytest.approx(0.6) and len(set(thresholds)) == len(thresholds)


def test_killed_and_resumed_equals_uninterrupted(train_small, corrmatch_run, tmp_path):
    """Killed after iteration 7, resumed from 6, threshold and all."""
    work_dir = tmp_path / 'work'
    killer = with_hooks(HOOKS, dict(type='KillHook', iteration=7))
    train_small(work_dir=work_dir, code=-signal.SIGKILL, **killer)
    assert list(train_scalars(work_dir)) == [1, 2, 3, 4, 5, 6, 7]
    middle = load_checkpoint(work_dir / 'iter_6.pth')['state_dict'][VALUE]
    forget_logs(work_dir)
    output = train_small('--resume', work_dir=work_dir)[2]
    assert 'iter_6.pth' in output
    wanted, got = train_scalars(corrmatch_run[1]), train_scalars(work_dir)
    assert got == {step: wanted[step] for step in (7, 8)}
    first, second = (
        load_checkpoint(folder / 'iter_8.pth') for folder in (corrmatch_run[1], work_dir)
    )
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert first[part] and differing(first[part], second[part], part) == []
    threshold = first['state_dict'][VALUE]
    assert threshold.dtype == torch.float64
    assert len({0.6, middle.item(), threshold.item()}) == 3
    assert middle.float().item() == wanted[7]['select.threshold']


@pytest.fixture
def train_child(server, corrmatch_run, tmp_path):
    """Function that trains a child of the small config and returns its work folder and output."""

    def train_child(text: str, code: int = 0):
        config, work_dir = tmp_path / 'child.py', tmp_path / 'work'
        config.write_text(f'_base_ = {str(corrmatch_run[0])!r}\n{text}')
        done = server.run(TOOLS / 'train.py', config, '--work-dir', work_dir, code=code)
        return work_dir, done.output

    return train_child


def test_without_its_hook_another_loop_stops(train_child):
    """mmengine's loop registers no hooks of components."""
    text = """
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=8, val_interval=8)
train_dataloader = dict(batch_size=4, sampler=dict(batch_size=4))
model = dict(warmup_iters=0)
"""
    work_dir, output = train_child(text, code=1)
    assert 'state that only EMAThresholdHook moves' in output
    assert "or add {'type': 'EMAThresholdHook'} to custom_hooks" in output
    assert train_scalars(work_dir) == {}


def test_a_child_replaces_the_threshold_and_its_hook_is_left_out(train_child):
    text = """
model = dict(
    refiners=dict(
        select=dict(_delete_=True, type='QuantileThreshold'), regions=dict(threshold=0.85)
    )
)
custom_hooks = [dict(type='DataCheckHook'), dict(type='EMAThresholdHook')]
"""
    work_dir, output = train_child(text)
    assert output.count('EMAThresholdHook is left out') == 1
    assert VALUE not in load_checkpoint(work_dir / 'iter_8.pth')['state_dict']


def test_extracted_segmentor_is_plain(server, plain_server, corrmatch_run, tmp_path):
    """It loads strictly, and mmseg's own tool gives the metrics of ours."""
    config, work_dir, _ = corrmatch_run
    out = tmp_path / 'plain.pth'
    checkpoint = work_dir / 'iter_8.pth'
    extract = TOOLS / 'model_converters/extract_segmentor.py'
    server.run(extract, checkpoint, '--config', config, '--out', out)
    state = torch.load(out, weights_only=True)['state_dict']
    trained = load_checkpoint(checkpoint)['state_dict']
    assert any(key.startswith('heads.correlation') for key in trained)
    cfg = load_config(config).model.segmentor
    cfg.pop('data_preprocessor', None)
    segmentor = MODELS.build(dict(cfg, _scope_='mmseg'))
    segmentor.load_state_dict(state, strict=True)
    for key, value in segmentor.state_dict().items():
        assert torch.equal(value, trained[f'segmentor.{key}']), key

    server.run(TOOLS / 'test.py', config, checkpoint, '--work-dir', tmp_path / 'ours')
    plain_server.run(MMSEG_TEST, out.with_suffix('.py'), out, '--work-dir', tmp_path / 'theirs')
    ours, theirs = read_metrics(tmp_path / 'ours'), read_metrics(tmp_path / 'theirs')
    assert ours.keys() >= {'mIoU', 'aAcc', 'mAcc'} and ours['mIoU'] > 0
    assert theirs == ours


# --------------------------------------------------------------------------------------- two ranks
UPDATES = ('presence', 'per_pixel', 'max', 'mean', 'per_class')


def batches():
    source = torch.Generator().manual_seed(0)
    for share in (0.8, 0.5, 0.0, 0.9):
        logits = 2 * torch.randn(4, 5, 6, 7, generator=source)
        logits[:2, 1] -= 50  # a class that the first rank never predicts
        logits[2:, 3] -= 50
        valid = torch.rand(4, 6, 7, generator=source) < share
        valid[:1] = False  # fewer pixels in the first half
        yield PseudoLabel.from_logits(logits, valid)
    # A rank without any valid pixel.
    logits = 3 * torch.randn(4, 5, 6, 7, generator=source)
    valid = torch.zeros(4, 6, 7, dtype=torch.bool)
    valid[2:] = True
    yield PseudoLabel.from_logits(logits, valid)


def thresholds_after(update, part):
    threshold = EMAThreshold(0.7, 0.8, update)
    head = Space(out_channels=5)
    threshold.attach(Space(segmentor=Space(decode_head=head)))
    values = []
    for pseudo in batches():
        pseudo = pseudo.map(part)
        threshold.observe(Space(raw_pseudo=pseudo, log=lambda *args: None))
        threshold.update_state()
        values.append([v.tolist() for v in threshold.state_dict().values()])
    return values


def every(part):
    return {update: thresholds_after(update, part) for update in UPDATES}


def thresholds_of_a_rank(rank):
    return every(lambda x: x[2 * rank : 2 * rank + 2])


def test_threshold_of_two_ranks_is_that_of_the_whole_batch(on_two_ranks):
    """Each rank has half of the images, other classes and another number of valid pixels."""
    mine, second = on_two_ranks(thresholds_of_a_rank)
    assert mine == second, 'ranks differ'
    assert len(mine) == 5
    all_images, halves = every(lambda x: x), [thresholds_of_a_rank(rank) for rank in (0, 1)]
    for update, values in mine.items():
        for ours, whole in zip(values, all_images[update]):
            torch.testing.assert_close(
                *(torch.tensor(flat(one), dtype=torch.float64) for one in (ours, whole)),
                rtol=1e-13,
                atol=0,
                msg=update,
            )
        assert values[2] == values[1], 'nothing valid on any rank'
        assert values[4] != values[3], 'the other rank has valid pixels'
        for half in halves:
            # Both halves are needed, except where one of them has the highest confidence.
            assert update == 'max' or half[update][1] != values[1]


def flat(values: list[Any]) -> list[float]:
    return [x for value in values for x in (value if isinstance(value, list) else [value])]


@MMSEG_HOOKS.register_module()
class ThresholdReport(Hook):
    priority = 'LOWEST'
    seen = {}

    def __init__(self):
        self.values = []

    def after_train_iter(self, runner, *args, **kwargs):
        model = runner.model.module
        self.values.append(model.refiners['select'].value.item())

    def after_train(self, runner):
        weights = {k: digest([v]) for k, v in runner.model.module.named_parameters()}
        self.seen.update(values=self.values, weights=weights, wrapper=type(runner.model).__name__)


def train_of_a_rank(rank, *args):
    """Be tools/train.py; the group is there."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
    train([*args, '--launcher', 'pytorch'])
    return ThresholdReport.seen


def test_two_ranks_train_one_model_with_one_threshold(on_two_ranks, digit_root, tmp_path):
    changes = dict(
        train_cfg=dict(max_iters=5),
        custom_hooks=[*HOOKS['custom_hooks'], dict(type='ThresholdReport')],
    )
    config = write_small(tmp_path / 'config.py', digit_root, **changes)
    work = ('--work-dir', str(tmp_path / 'work'))
    first, second = on_two_ranks(train_of_a_rank, str(config), *work)
    assert first == second
    assert first['wrapper'] == 'MMDistributedDataParallel'
    assert any(name.startswith('heads.correlation') for name in first['weights'])
    values = train_scalars(tmp_path / 'work')
    assert list(values) == [1, 2, 3, 4, 5]
    assert ['correlation.loss' in value for value in values.values()] == [False] * 3 + [True] * 2
    assert first['values'][:WARM_UP] == [0.6] * WARM_UP and len(set(first['values'])) == 3
    state = load_checkpoint(tmp_path / 'work' / 'iter_4.pth')['state_dict']
    assert state[VALUE].item() == first['values'][3]
