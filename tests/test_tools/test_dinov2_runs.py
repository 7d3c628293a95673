"""A tiny DINOv2 with UniMatch V2: trained, resumed, tested, extracted and exported."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
import torch
from leaves import CLASSES, make_leaves
from mmseg.apis import inference_model, init_model
from tool_runs import CONFIGS, REPO, differing, forget_logs, load_checkpoint, train_scalars

from mmseg_semi.zoo import export, extract_segmentor

PROGRAM = REPO / 'mmseg_semi_cli/__main__.py'
TEXT = """_base_ = {base!r}
data_root = {root!r}
classes = {classes!r}
crop_size = (28, 42)
scale = (64, 32)
batch_size = 2
workers = 0
weights = None
train_dataloader = dict(dataset=dict(labeled=dict(serialize_data=False)))
model = dict(
    warmup_iters=1,
    segmentor=dict(
        backbone=dict(depth=1, out_indices=(0, 0, 0, 0), frozen={frozen}),
        decode_head=dict(channels=4, widths=(4, 4, 4, 4)),
    ),
)
train_cfg = dict(max_iters=4, val_interval=4)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2))
"""


def write(folder, root, frozen):
    base = CONFIGS / 'unimatch_v2/unimatch_v2_dinov2-s_custom.py'
    config = folder / 'config.py'
    text = TEXT.format(base=str(base), root=str(root), classes=CLASSES, frozen=frozen)
    config.write_text(text)
    return config


@pytest.fixture(scope='module')
def run(server, tmp_path_factory):
    """Config and folder of a training of the whole network."""
    folder = tmp_path_factory.mktemp('dinov2')
    config = write(folder, make_leaves(folder / 'leaves'), frozen=False)
    server.run(PROGRAM, 'train', config, '--work-dir', folder / 'work', '--seed', 0)
    return config, folder / 'work'


def test_it_trains(run):
    values = train_scalars(run[1])
    assert list(values) == [1, 2, 3, 4]
    assert all(np.isfinite(value) for step in values.values() for value in step.values())
    assert [step for step, one in values.items() if 'strong.loss' in one] == [2, 3, 4]
    before, after = (load_checkpoint(run[1] / f'iter_{n}.pth') for n in (2, 4))
    name = 'segmentor.backbone.blocks.0.attn.qkv.weight'
    assert not torch.equal(before['state_dict'][name], after['state_dict'][name])


def test_a_resumed_run_is_the_uninterrupted_one(server, run, tmp_path):
    config, work = run
    shutil.copytree(work, tmp_path / 'work')
    for path in (tmp_path / 'work').glob('*iter_4.pth*'):
        path.unlink()
    (tmp_path / 'work/last_checkpoint').write_text(str(tmp_path / 'work/iter_2.pth'))
    forget_logs(tmp_path / 'work')
    words = ('--work-dir', tmp_path / 'work', '--resume', '--seed', 0)
    assert 'iter_2.pth' in server.run(PROGRAM, 'train', config, *words).output
    assert list(train_scalars(tmp_path / 'work')) == [3, 4]
    ends = [load_checkpoint(folder / 'iter_4.pth') for folder in (work, tmp_path / 'work')]
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert differing(ends[0][part], ends[1][part], part) == []


def test_a_frozen_encoder_stays_and_has_no_state_in_the_optimizer(server, run, tmp_path):
    config = write(tmp_path, run[0].parent / 'leaves', frozen=True)
    server.run(PROGRAM, 'train', config, '--work-dir', tmp_path / 'work', '--seed', 0)
    two, four = (load_checkpoint(tmp_path / f'work/iter_{n}.pth') for n in (2, 4))
    state = four['state_dict']
    for name, value in state.items():
        own = name.replace('teacher.', 'segmentor.')
        if 'backbone' in name:
            assert torch.equal(value, two['state_dict'][name]), name
            assert value.data_ptr() == state[own].data_ptr(), 'written once'
    heads = sum(name.startswith('segmentor.decode_head') for name in state)
    assert len(four['optimizer']['state']) == heads


def test_it_is_tested_extracted_and_exported(server, run, tmp_path, capsys):
    config, work = run
    done = server.run(PROGRAM, 'test', config, work / 'iter_4.pth', '--work-dir', tmp_path)
    assert re.search(r'mIoU: +\d', done.output)
    words = ['--predict-with', 'teacher']
    extract_segmentor.main(
        [str(work / 'iter_4.pth'), '--out', str(tmp_path / 'plain.pth'), '--which', 'teacher']
    )
    model = init_model(str(tmp_path / 'plain.py'), str(tmp_path / 'plain.pth'), device='cpu')
    image = config.parent / 'leaves/images/val/v0.jpg'
    labels = inference_model(model, str(image)).pred_sem_seg.data
    assert labels.shape == (1, 48, 64)
    out = tmp_path / 'model.onnx'
    export.main(['--onnx', str(work / 'iter_4.pth'), '--out', str(out), *words])
    assert re.search(r'logits differ by \S+ at most', capsys.readouterr().out) and out.is_file()
