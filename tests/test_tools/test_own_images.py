"""From a labeling tool's export to a trained and tested network, with the commands alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from leaves import CLASSES, SIZE, make_leaves, scene
from PIL import Image
from pycocotools import mask as coco
from tool_runs import CONFIGS, REPO, TOOLS

PROGRAM = REPO / 'mmseg_semi_cli/__main__.py'
CONFIG = """_base_ = {base!r}
data_root = {root!r}
split = 'splits/6-seed0'
crop_size = (32, 32)
scale = (128, 32)
train_dataloader = dict(batch_size=4, num_workers=0)
val_dataloader = dict(num_workers=0)
test_dataloader = dict(num_workers=0)
model = dict(warmup_iters=0, segmentor=dict(backbone=dict(base_channels=4), decode_head=dict(
    in_channels=4, channels=4)))
train_cfg = dict(max_iters=2, val_interval=2)
"""


def write_export(folder: Path, labeled: int = 12, rest: int = 5) -> dict[str, np.ndarray]:
    """A COCO json and photographs of two kinds; the masks by name."""
    rng, masks = np.random.default_rng(3), {}
    content = dict(images=[], annotations=[])
    content['categories'] = [dict(id=7, name='disease'), dict(id=3, name='leaf')]
    (folder / 'photos').mkdir(parents=True)
    for i in range(labeled + rest):
        image, mask = scene(rng)
        name = f'leaf{i:02}{".jpg" if i % 2 else ".png"}'
        Image.fromarray(image).save(folder / 'photos' / name)
        if i >= labeled:
            continue
        masks[Path(name).stem] = mask
        content['images'].append(dict(id=i, file_name=name, height=SIZE[0], width=SIZE[1]))
        for category, number in ((3, 1), (7, 2)):
            # The spots of disease lie on the leaves and are smaller, so that they are on top.
            area = mask == number if number == 2 else mask > 0
            runs = coco.encode(np.asfortranarray(area.astype(np.uint8)))
            runs['counts'] = runs['counts'].decode()
            one = dict(id=len(content['annotations']) + 1, image_id=i, category_id=category)
            one.update(segmentation=runs, area=int(area.sum()), iscrowd=0)
            one['bbox'] = coco.toBbox(runs).tolist()
            content['annotations'].append(one)
    (folder / 'export.json').write_text(json.dumps(content))
    return masks


UNETS = sorted(CONFIGS.glob('*/*_unet_custom.py'))
# Methods that change something for this network, and the two that they are compared with.
OTHERS = [
    CONFIGS / f'{method}/{method}_efficientnet-lite0_custom.py'
    for method in ('supervised', 'unimatch', 'corrmatch', 'rankmatch', 'u2pl')
]


def test_the_whole_way(server, tmp_path):
    masks = write_export(tmp_path)
    program, root = REPO / 'mmseg_semi_cli/__main__.py', tmp_path / 'mine'
    export = [tmp_path / 'export.json', '--images', tmp_path / 'photos', '--out', root]
    server.run(program, 'import-labels', *export)
    for name, mask in masks.items():
        brought = np.asarray(Image.open(root / f'annotations/{name}.png'))
        assert np.array_equal(brought, mask)
    assert json.loads((root / 'classes.json').read_text())['classes'] == list(CLASSES)
    done = server.run(program, 'split', root, '--labeled', 6)
    assert 'labeled         6' in done.output and 'unlabeled       7' in done.output
    base = str(CONFIGS / 'unimatch/unimatch_unet_custom.py')
    config = tmp_path / 'leaves.py'
    config.write_text(CONFIG.format(base=base, root=str(root)))
    checked = server.run(program, 'check', config, '--out', tmp_path / 'checked')
    assert '0 errors, ' in checked.output
    work_dir = tmp_path / 'work'
    trained = server.run(program, 'train', config, '--work-dir', work_dir)
    assert 'Method: EMATeacher labels' in trained.output
    tested = server.run(TOOLS / 'test.py', config, work_dir / 'iter_2.pth')
    assert 'mIoU' in tested.output


@pytest.mark.parametrize('base', [*UNETS, *OTHERS], ids=lambda path: path.stem)
def test_every_method_trains(server, tmp_path, base):
    """A start of one step on labels alone, and two steps of the method; the best is named."""
    root = make_leaves(tmp_path / 'leaves')
    text = f"""_base_ = {str(base)!r}
data_root = {str(root)!r}
classes = ('background', 'leaf', 'disease')
crop_size = (96, 96)
scale = (96, 96)
iterations = 3
train_dataloader = dict(batch_size=4, num_workers=0)
val_dataloader = dict(num_workers=0)
default_hooks = dict(logger=dict(interval=1))
"""
    if 'supervised' not in base.stem:
        text += 'model = dict(warmup_iters=1)\n'
    config = tmp_path / 'config.py'
    config.write_text(text)
    output = server.run(PROGRAM, 'train', config, '--work-dir', tmp_path / 'work').output
    assert len(re.findall(r'Iter\(train\) \[\d/3\]', output)) == 3 and 'nan' not in output
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
model = dict(warmup_iters=0)
""")
    done = subprocess.run(
        [sys.executable, str(PROGRAM), 'train', str(config), '--work-dir', str(tmp_path / 'work')],
        capture_output=True,
        text=True,
        timeout=55,  # a worker that is not told to end waits 60 s
    )
    assert done.returncode == 0 and 'Traceback' not in done.stderr, done.stderr
