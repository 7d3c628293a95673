"""Training on own images: every method (test_walk.py has the way there and on)."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from leaves import CLASSES, make_leaves
from tool_runs import CONFIGS, REPO

PROGRAM = REPO / 'mmseg_semi_cli/__main__.py'
UNETS = sorted(CONFIGS.glob('*/*_unet_custom.py'))
# Methods that change something for this network, and the two that they are compared with.
OTHERS = [
    CONFIGS / f'{method}/{method}_efficientnet-lite0_custom.py'
    for method in ('supervised', 'unimatch', 'corrmatch', 'rankmatch', 'u2pl')
]
NARROW = dict(backbone=dict(base_channels=8), decode_head=dict(in_channels=8, channels=8))


@pytest.mark.parametrize('base', [*UNETS, *OTHERS], ids=lambda path: path.stem)
def test_every_method_trains(server, tmp_path, base):
    """One step on labels alone, two of the method, and the labels alone; the best is named."""
    root = make_leaves(tmp_path / 'leaves')
    text = f"""_base_ = {str(base)!r}
data_root = {str(root)!r}
classes = ('background', 'leaf', 'disease')
crop_size = (96, 96)
scale = (96, 96)
iterations = 3
guarded = {base in UNETS}
train_dataloader = dict(batch_size=4, num_workers=0)
val_dataloader = dict(num_workers=0)
default_hooks = dict(logger=dict(interval=1))
"""
    segmentor, model = (NARROW if base in UNETS else {}), dict(warmup_iters=1)
    model = segmentor if 'supervised' in base.stem else dict(model, segmentor=segmentor)
    if base.stem == 'corrmatch_unet_custom':
        model['heads'] = dict(correlation=dict(in_channels=32))
    text += f'model = {model}\n'
    config = tmp_path / 'config.py'
    config.write_text(text)
    output = server.run(PROGRAM, 'train', config, '--work-dir', tmp_path / 'work').output
    trainings = 2 if base in UNETS and 'supervised' not in base.stem else 1  # the labels alone, too
    assert len(re.findall(r'Iter\(train\) \[\d/3\]', output)) == 3 * trainings
    assert output.count('The guard is on') == trainings - 1 and 'nan' not in output
    best = sorted((tmp_path / 'work').glob('best_mIoU_iter_*.pth'))
    assert len(best) == 1
    assert re.search(rf'Best on the validation images: [\d.]+, {best[0]}', output)


def test_data_workers_end_with_the_training(tmp_path):
    """In a process of its own: persistent workers of the training and the validation."""
    root = make_leaves(tmp_path / 'leaves')
    config = tmp_path / 'config.py'
    config.write_text(f"""_base_ = {str(CONFIGS / 'fixmatch/fixmatch_unet_custom.py')!r}
data_root = {str(root)!r}
classes = {CLASSES!r}
crop_size = (32, 32)
scale = (32, 32)
iterations = 1
train_dataloader = dict(batch_size=4, num_workers=1)
val_dataloader = dict(num_workers=1)
model = dict(warmup_iters=0, segmentor={NARROW})
""")
    done = subprocess.run(
        [sys.executable, str(PROGRAM), 'train', str(config), '--work-dir', str(tmp_path / 'work')],
        capture_output=True,
        text=True,
        timeout=55,  # a worker that is not told to end waits 60 s
    )
    assert done.returncode == 0 and 'Traceback' not in done.stderr, done.stderr
