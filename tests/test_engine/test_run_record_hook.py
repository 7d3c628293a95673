"""Split, effective batch and seed of a run: in its log, in its checkpoints, and when resumed."""

from __future__ import annotations

import re
import shutil
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmseg.registry import HOOKS
from tool_runs import (
    SUPERVISED,
    TOOLS,
    UNIMATCH,
    load_checkpoint,
    text_log,
)
from torch import nn
from torch.utils.data import DataLoader

from mmseg_semi.datasets.splits import split_hash
from mmseg_semi.engine.hooks import RunRecordHook
from mmseg_semi.engine.hooks.run_record_hook import accumulative_counts, make_record

ACCUMULATE = dict(optim_wrapper=dict(accumulative_counts=2))
SHORT = dict(
    train_cfg=dict(max_iters=2, val_interval=100),
    val_cfg=None,
    val_dataloader=None,
    val_evaluator=None,
)


def lines_of(log: str) -> list[str]:
    return re.findall(r'Run: .*', log)


def recorded(path: Any) -> dict[str, Any]:
    return load_checkpoint(path)['meta']['mmseg_semi']


def listed(root: Any) -> list[str]:
    return (root / 'splits' / 'labeled_8.txt').read_text().split()


def unlabeled_in(root: Any) -> list[str]:
    return [path.stem for path in (root / 'images' / 'unlabeled').iterdir()]


# ------------------------------------------------------------------------------------- what it says
def test_a_semi_supervised_run_is_recorded(unimatch_run, digit_root):
    """8 labeled and 13 unlabeled images, batches of 2 + 2 on one rank."""
    code = split_hash(listed(digit_root), unlabeled_in(digit_root))
    assert lines_of(text_log(unimatch_run.work_dir)) == [
        f'Run: split {code} (8 labeled, 13 unlabeled), effective batch 2 + 2 images '
        '(1 rank x 2 + 2 x accumulation 1), seed 7'
    ]
    digests = recorded(unimatch_run.checkpoint)['files']
    assert {part: len(one) for part, one in digests.items()} == {
        'labeled images': 8 * 8,
        'labeled masks': 8 * 8,
        'unlabeled images': 8 * 13,
    }
    for step in (2, 8):
        assert recorded(unimatch_run.work_dir / f'iter_{step}.pth') == dict(
            split=code,
            labeled=8,
            unlabeled=13,
            ranks=1,
            labeled_per_rank=2,
            unlabeled_per_rank=2,
            accumulation=1,
            labeled_batch=2,
            unlabeled_batch=2,
            seed=7,
            files=digests,
        )


def test_a_supervised_run_has_no_unlabeled_images(supervised_run, digit_root):
    code = split_hash(listed(digit_root), [])
    record = recorded(supervised_run.checkpoint)
    assert (record['split'], record['labeled'], record['unlabeled']) == (code, 8, 0)
    assert (record['labeled_batch'], record['unlabeled_batch']) == (2, 0)
    assert 'effective batch 2 + 0 images (1 rank x 2 + 0 x accumulation 1)' in supervised_run.output


def test_the_hash_is_that_which_the_tool_prints(train, server, digit_root, tmp_path):
    """A split made by make_splits.py, trained on with gradient accumulation."""
    root = tmp_path / 'scenes'
    shutil.copytree(digit_root, root)
    tool = TOOLS / 'dataset_converters' / 'make_splits.py'
    folders = ('--images', 'images/labeled', '--masks', 'annotations/labeled')
    output = server.run(tool, 'custom', '--sizes', 3, '--data-root', root, *folders).output
    (code,) = re.findall(r'3-seed0 +3 labeled +5 unlabeled +([0-9a-f]{12}) +written', output)
    unlabeled = dict(
        ann_file='semi/3-seed0/unlabeled.txt', data_prefix=dict(img_path='images/labeled')
    )
    parts = dict(labeled=dict(ann_file='semi/3-seed0/labeled.txt'), unlabeled=unlabeled)
    loader = dict(train_dataloader=dict(dataset=parts))
    run = train(data_root=root, **SHORT, **ACCUMULATE, **loader)
    assert lines_of(text_log(run.work_dir)) == [
        f'Run: split {code} (3 labeled, 5 unlabeled), effective batch 4 + 4 images '
        '(1 rank x 2 + 2 x accumulation 2), seed 7'
    ]
    record = recorded(run.work_dir / 'iter_2.pth')
    assert (record['accumulation'], record['labeled_batch'], record['labeled_per_rank']) == (
        2,
        4,
        2,
    )


# --------------------------------------------------------------------------------- resumed, or not
def other_split(digit_root: Any, tmp_path: Any) -> dict[str, Any]:
    (tmp_path / 'other.txt').write_text('\n'.join(listed(digit_root)[1:]))
    path = str(tmp_path / 'other.txt')
    return dict(train_dataloader=dict(dataset=dict(labeled=dict(ann_file=path))))


def test_a_run_is_not_resumed_with_another_split(train, unimatch_run, digit_root, tmp_path):
    changes = other_split(digit_root, tmp_path)
    old, new = (
        split_hash(names, unlabeled_in(digit_root))
        for names in (listed(digit_root), listed(digit_root)[1:])
    )
    checkpoint = unimatch_run.work_dir / 'iter_6.pth'
    refused = train(UNIMATCH, '--resume', checkpoint, code=1, **changes)
    assert f'was trained on split {old} (8 labeled, 13 unlabeled)' in refused.output
    assert f'now gives split {new} (7 labeled, 13 unlabeled)' in refused.output
    assert 'load_from=CHECKPOINT without resume' in refused.output
    assert not (refused.work_dir / 'iter_8.pth').exists()
    # A new run from its weights is another matter.
    run = train(load_from=str(checkpoint), **SHORT, **changes)
    assert recorded(run.work_dir / 'iter_2.pth')['split'] == new


def test_a_checkpoint_without_a_record_is_resumed(train, unimatch_run, digit_root, tmp_path):
    checkpoint = load_checkpoint(unimatch_run.work_dir / 'iter_6.pth')
    del checkpoint['meta']['mmseg_semi']
    torch.save(checkpoint, tmp_path / 'iter_6.pth')
    changes = other_split(digit_root, tmp_path)
    run = train(UNIMATCH, '--resume', tmp_path / 'iter_6.pth', **changes)
    assert 'the run to be resumed' not in run.output
    assert recorded(run.checkpoint)['labeled'] == 7


def test_another_batch_is_a_warning(train, unimatch_run):
    checkpoint = unimatch_run.work_dir / 'iter_6.pth'
    run = train(UNIMATCH, '--resume', checkpoint, **ACCUMULATE)
    (warning,) = re.findall(r'WARNING - (the run to be resumed.*)', run.output)
    assert warning.startswith(
        'the run to be resumed had an effective batch of 2 + 2 images (1 rank x 2 + 2 x '
        'accumulation 1), now it is 4 + 4 images (1 rank x 2 + 2 x accumulation 2).'
    )
    assert recorded(run.checkpoint)['accumulation'] == 2


# ------------------------------------------------------------------------ the hook without a runner
class Images(torch.utils.data.Dataset):
    """A dataset that keeps no list of its images."""

    def __len__(self) -> int:
        return 6


def runner_with(loader: DataLoader, seed: int = 3, iteration: int = 0) -> SimpleNamespace:
    return SimpleNamespace(
        train_dataloader=loader,
        optim_wrapper=OptimWrapper(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)),
        seed=seed,
        iter=iteration,
        message_hub=MessageHub(f'record-{id(loader)}'),
        cfg={},
        _randomness_cfg=dict(seed=seed),
    )


@pytest.fixture
def texts(monkeypatch):
    found = []
    name = 'mmseg_semi.engine.hooks.run_record_hook.print_log'
    monkeypatch.setattr(name, lambda text, **_: found.append(text))
    return found


def test_a_dataset_without_a_list_has_no_hash(texts):
    runner = runner_with(DataLoader(Images(), batch_size=4))
    hook = HOOKS.build(dict(type='RunRecordHook'))
    hook.before_train(runner)
    assert texts == [
        'Run: split without hash (a dataset keeps no list of its images) (6 labeled, 0 unlabeled), '
        'effective batch 4 + 0 images (1 rank x 4 + 0 x accumulation 1), seed 3'
    ]
    assert runner.message_hub.get_info('mmseg_semi') == hook.record
    assert hook.record['split'] is None and hook.record['labeled'] == 6
    # Nothing to compare with: neither refused nor warned of.
    hook.after_load_checkpoint(
        runner, dict(meta=dict(mmseg_semi=dict(hook.record, split='a' * 12)))
    )
    runner.iter = 5
    hook.before_train(runner)
    assert len(texts) == 2


def test_another_seed_is_a_warning(texts):
    """mmengine takes over the seed of the checkpoint; the config's is compared."""
    runner, hook = runner_with(DataLoader(Images()), iteration=5), RunRecordHook()
    old = dict(make_record(runner), seed=8)
    hook.after_load_checkpoint(runner, dict(meta=dict(mmseg_semi=old)))
    runner.seed = 8
    runner._randomness_cfg.update(seed=8)
    hook.before_train(runner)
    assert texts[0] == (
        'the run to be resumed has seed 8, the config says 3; it goes on with seed 8'
    )
    # A config without a seed has nothing against the checkpoint's.
    runner._randomness_cfg.update(seed=None)
    hook.after_load_checkpoint(runner, dict(meta=dict(mmseg_semi=old)))
    hook.before_train(runner)
    assert len(texts) == 3 and texts[1].startswith('Run:') and texts[2].startswith('Run:')


def test_records_in_checkpoints_are_their_own():
    runner, hook = runner_with(DataLoader(Images())), RunRecordHook()
    checkpoint = dict(meta={})
    hook.before_save_checkpoint(runner, checkpoint)
    assert checkpoint == dict(meta={})
    hook.before_train(runner)
    hook.before_save_checkpoint(runner, checkpoint)
    assert checkpoint['meta']['mmseg_semi'] == hook.record
    checkpoint['meta']['mmseg_semi']['seed'] = 99
    assert hook.record['seed'] == 3


def test_batch_of_a_loader_with_a_batch_sampler():
    data = Images()
    sampler = torch.utils.data.BatchSampler(range(6), 3, False)
    record = make_record(runner_with(DataLoader(data, batch_sampler=sampler)))
    assert record['labeled_batch'] == 3


def test_accumulation_of_several_optimizers():
    def wrapper(counts: int) -> OptimWrapper:
        optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
        return OptimWrapper(optimizer, accumulative_counts=counts)

    assert accumulative_counts(wrapper(3)) == 3
    assert accumulative_counts(OptimWrapperDict(a=wrapper(1), b=wrapper(4))) == 4


def test_an_extracted_model_keeps_the_record(server, unimatch_run, tmp_path):
    tool = TOOLS / 'model_converters' / 'extract_segmentor.py'
    server.run(tool, unimatch_run.checkpoint, '--out', tmp_path / 'out.pth')
    assert recorded(tmp_path / 'out.pth') == recorded(unimatch_run.checkpoint)


def test_supervised_base_has_the_hook():
    from tool_runs import CONFIGS, load_config

    for base in (UNIMATCH, SUPERVISED):
        hooks = load_config(CONFIGS / base).default_hooks
        assert hooks.record == dict(type='RunRecordHook')
