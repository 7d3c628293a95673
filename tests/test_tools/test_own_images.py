"""From a labeling tool's export to a trained and tested network, with the commands alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from leaves import CLASSES, SIZE, scene
from PIL import Image
from pycocotools import mask as coco
from tool_runs import CONFIGS, REPO, TOOLS

CONFIG = """_base_ = {base!r}
data_root = {root!r}
split = 'splits/6-seed0'
folders = dict(img_path='images', seg_map_path='annotations')
part = dict(data_root=data_root, metainfo=dict(classes={classes!r}), data_prefix=folders)
train_dataloader = dict(
    batch_size=4, num_workers=0,
    dataset=dict(
        labeled=dict(part, ann_file=f'{{split}}/labeled.txt'),
        unlabeled=dict(data_root=data_root, data_prefix=dict(img_path='images'),
                       ann_file=f'{{split}}/unlabeled.txt'),
        geometry=dict(resize=dict(scale=(128, 32)), crop=dict(crop_size=(32, 32)))))
val_dataloader = dict(num_workers=0, dataset=dict(part, ann_file=f'{{split}}/val.txt'))
test_dataloader = dict(num_workers=0, dataset=dict(part, ann_file=f'{{split}}/test.txt'))
model = dict(segmentor=dict(backbone=dict(base_channels=4), decode_head=dict(
    in_channels=4, channels=4, num_classes={count})))
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


def test_the_whole_way(server, tmp_path):
    masks = write_export(tmp_path)
    program, root = REPO / 'mmseg_semi_cli.py', tmp_path / 'mine'
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
    config.write_text(CONFIG.format(base=base, root=str(root), classes=CLASSES, count=len(CLASSES)))
    checked = server.run(program, 'check', config, '--out', tmp_path / 'checked')
    assert '0 errors, ' in checked.output
    work_dir = tmp_path / 'work'
    trained = server.run(program, 'train', config, '--work-dir', work_dir)
    assert 'Method: EMATeacher labels' in trained.output
    tested = server.run(TOOLS / 'test.py', config, work_dir / 'iter_2.pth')
    assert 'mIoU' in tested.output
