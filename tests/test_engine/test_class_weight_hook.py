"""Weights of rare classes in the loss of the labeled images."""

from __future__ import annotations

import re

import numpy as np
import pytest
from leaves import leaves_config, make_leaves
from mmengine.runner import Runner
from PIL import Image
from tool_runs import REPO

from mmseg_semi.engine.hooks import ClassWeightHook
from mmseg_semi.utils.config import load_config

PROGRAM = REPO / 'mmseg_semi_cli/__main__.py'
MORE = 'balance = True\ntrain_cfg = dict(max_iters=1, val_interval=1)'


def shares(root):
    masks = [np.array(Image.open(one)) for one in (root / 'annotations/labeled').iterdir()]
    counts = np.bincount(np.concatenate(masks, axis=None), minlength=3)
    return counts / counts.sum()


@pytest.mark.parametrize('method', ['supervised', 'unimatch'])
def test_the_root_of_the_shares(tmp_path, method):
    root = make_leaves(tmp_path / 'leaves')
    base = f'{method}/{method}_unet_custom.py'
    path = leaves_config(tmp_path / 'c.py', root, MORE, base)
    if method == 'supervised':  # which has no segmentor of its own
        path.write_text(path.read_text().replace('warmup_iters=0, segmentor=dict(', '**dict('))
    cfg = load_config(str(path))
    cfg.work_dir = str(tmp_path / 'work')
    runner = Runner.from_cfg(cfg)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    hook = ClassWeightHook()
    hook.before_train(runner)
    network = getattr(runner.model, 'segmentor', runner.model)
    wanted = np.minimum(10, np.sqrt(shares(root).max() / shares(root)))
    assert wanted[1] > 1.5 and wanted[2] > 3
    np.testing.assert_allclose(network.decode_head.loss_decode.class_weight, wanted, atol=0.05)
    with pytest.raises(ValueError, match='a loss_decode is a CrossEntropyLoss with class_weight'):
        hook.before_train(runner)


def test_it_trains_and_says_them(server, tmp_path):
    root = make_leaves(tmp_path / 'leaves')
    path = leaves_config(tmp_path / 'c.py', root, MORE)
    output = server.run(PROGRAM, 'train', path, '--work-dir', tmp_path / 'work').output
    said = re.search(r'Class weights: background 1\.0, leaf ([\d.]+), disease ([\d.]+)', output)
    assert 1.5 < float(said[1]) < float(said[2]) <= 10
    loss = re.search(r'Iter\(train\) \[1/1\].* decode\.loss_ce: ([\d.]+)', output)
    assert 0 < float(loss[1]) < 5


@pytest.mark.parametrize(
    ('head', 'message'),
    [
        ("sampler=dict(type='OHEMPixelSampler')", 'decode_head.sampler chooses pixels by their'),
        ("loss_decode=dict(_delete_=True, type='DiceLoss')", 'a loss_decode is a DiceLoss: change'),
    ],
)
def test_other_losses_are_refused(server, tmp_path, head, message):
    root = make_leaves(tmp_path / 'leaves')
    path = leaves_config(tmp_path / 'c.py', root, MORE)
    path.write_text(path.read_text().replace('in_channels=4, channels=4', f'in_channels=4, {head}'))
    path.write_text(path.read_text().replace('in_channels=4,', 'in_channels=4, channels=4,'))
    output = server.run(PROGRAM, 'train', path, '--work-dir', tmp_path / 'w', code=1).output
    assert message in output and 'Traceback' not in output
