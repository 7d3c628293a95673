"""Detectors of mmdet are trained and tested by this project's tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mmengine.utils import is_installed
from tool_runs import CONFIGS, TOOLS, load_checkpoint, train_scalars

pytestmark = pytest.mark.skipif(not is_installed('mmdet'), reason='detectors need mmdet')

DIGITS = CONFIGS / 'detection' / 'faster-rcnn_r50_fpn_digit_scenes.py'
CLASSES = ('zero', 'one', 'two', 'three', 'four')


def write_coco(path: Path, folder: Path, boxes: bool, classes: Any = CLASSES) -> Path:
    """A COCO file of a folder's images, each with one box; ids differ from positions."""
    images = [
        dict(id=3 * i + 7, file_name=image.name, width=64, height=64)
        for i, image in enumerate(sorted(folder.glob('*.png')))
    ]
    annotations = [
        dict(id=i + 1, image_id=one['id'], category_id=1 + i % 5, bbox=[9, 9, 24, 36], area=864)
        for i, one in enumerate(images)
    ]
    content = dict(
        images=images,
        annotations=[dict(one, iscrowd=0) for one in annotations] if boxes else [],
        categories=[dict(id=i, name=name) for i, name in enumerate(classes, 1)],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_detector(folder: Path, digit_root: Path, **lines: str) -> Path:
    """A child of the digits' detector: 4 iterations of 2 images, nearly any box is kept."""
    for part, boxes in (('labeled', True), ('unlabeled', False)):
        write_coco(folder / 'coco' / f'{part}.json', digit_root / 'images' / part, boxes)
    text = {
        '_base_': repr(str(DIGITS)),
        'model': 'dict(test_cfg=dict(rcnn=dict(score_thr=0.0, max_per_img=3)))',
        'train_dataloader': (
            f'dict(batch_size=2, dataset=dict(data_root={str(digit_root)!r}, '
            f'ann_file={str(folder / "coco/labeled.json")!r}))'
        ),
        'test_dataloader': (
            f'dict(batch_size=4, dataset=dict(data_root={str(digit_root)!r}, '
            f'ann_file={str(folder / "coco/unlabeled.json")!r}))'
        ),
        'test_evaluator': (
            f'dict(ann_file={str(folder / "coco/unlabeled.json")!r}, '
            f'outfile_prefix={str(folder / "coco/unlabeled")!r})'
        ),
        'train_cfg': 'dict(max_iters=4)',
        'default_hooks': 'dict(checkpoint=dict(interval=2), logger=dict(interval=1))',
        'log_processor': 'dict(window_size=1)',
        **lines,
    }
    config = folder / 'config.py'
    config.write_text('\n'.join(f'{key} = {value}' for key, value in text.items()) + '\n')
    return config


@pytest.fixture(scope='module')
def run(server, digit_root, tmp_path_factory) -> Path:
    """Folder of a detector that was trained for 4 iterations."""
    folder = tmp_path_factory.mktemp('detector')
    config = write_detector(folder, digit_root)
    server.run(TOOLS / 'train.py', config, '--work-dir', folder / 'work')
    return folder


def checked_boxes(path: Path, folder: Path) -> list[dict]:
    """The boxes of a results file, all of them of listed images and categories."""
    boxes = json.loads(path.read_text())
    listed = json.loads((folder / 'coco' / 'unlabeled.json').read_text())
    assert len(listed['images']) == 13
    assert {box['image_id'] for box in boxes} == {image['id'] for image in listed['images']}
    assert {box['category_id'] for box in boxes} <= {1, 2, 3, 4, 5}
    for box in boxes:
        x, y, width, height = box['bbox']
        assert -0.01 <= x <= x + width <= 64.01 and -0.01 <= y <= y + height <= 64.01
        assert 0 <= box['score'] <= 1
    return boxes


def test_training_writes_checkpoints_and_resumes(run, server, tmp_path):
    values = train_scalars(run / 'work')
    assert list(values) == [1, 2, 3, 4]
    assert values[1].keys() >= {'loss_rpn_cls', 'loss_bbox'}
    saved = load_checkpoint(run / 'work' / 'iter_4.pth')
    assert tuple(saved['meta']['dataset_meta']['classes']) == CLASSES
    resume = ['--work-dir', tmp_path, '--resume', run / 'work' / 'iter_2.pth']
    output = server.run(TOOLS / 'train.py', run / 'config.py', *resume).output
    assert 'iter_2.pth' in output and list(train_scalars(tmp_path)) == [3, 4]


def test_results_file_is_whole_and_where_it_was_asked_for(run, server, tmp_path):
    args = (run / 'config.py', run / 'work' / 'iter_4.pth', '--work-dir', tmp_path / 'work')
    server.run(TOOLS / 'test.py', *args)
    boxes = checked_boxes(run / 'coco' / 'unlabeled.bbox.json', run)
    out = tmp_path / 'new' / 'boxes.json'
    server.run(TOOLS / 'test.py', *args, '--out', out, '--show-dir', tmp_path / 'shown')
    assert checked_boxes(out, run) == boxes
    assert len(list((tmp_path / 'shown').glob('*.png'))) == 13
    assert [path.name for path in out.parent.iterdir()] == ['boxes.json']
    assert not list((run / 'coco').glob('*.part*'))


def test_a_failed_test_leaves_the_results_as_they_were(run, server, digit_root, tmp_path):
    config = write_detector(tmp_path, digit_root)
    results = tmp_path / 'coco' / 'unlabeled.bbox.json'
    results.write_text('[]')
    listed = tmp_path / 'coco' / 'unlabeled.json'
    listed.write_text(listed.read_text().replace('000012.png', 'missing.png'))
    work = ['--work-dir', tmp_path / 'work']
    done = server.run(TOOLS / 'test.py', config, run / 'work' / 'iter_4.pth', *work, code=1)
    assert 'missing.png' in done.output and results.read_text() == '[]'
    assert not list((tmp_path / 'coco').glob('*.part*'))


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_wrong_and_missing_annotations_are_refused(tool, run, server, digit_root, tmp_path):
    config = write_detector(tmp_path, digit_root)
    file = tmp_path / 'coco' / dict(train='labeled.json', test='unlabeled.json')[tool]
    command = [TOOLS / f'{tool}.py', config, *([run / 'work/iter_4.pth'] * (tool == 'test'))]
    command += ['--work-dir', tmp_path / 'work']
    swapped = ('one', 'zero', 'two', 'three', 'four')
    write_coco(file, digit_root / 'images' / file.stem, tool == 'train', swapped)
    output = server.run(*command, code=1).output
    for names in (swapped, CLASSES):
        assert f'({", ".join(names)})' in output
    assert str(file) in output and f'{tool}_dataloader.dataset' in output
    file.unlink()
    output = server.run(*command, code=1).output
    assert f'no annotation file {file}' in output and 'masks_to_coco.py' in output


def test_checkpoint_of_other_classes_is_refused(run, server, digit_root, tmp_path):
    other = ('five', 'six', 'seven', 'eight', 'nine')
    config = write_detector(tmp_path, digit_root)
    text = config.read_text()
    config.write_text(text + f"test_dataloader['dataset']['metainfo'] = dict(classes={other})\n")
    write_coco(tmp_path / 'coco/unlabeled.json', digit_root / 'images/unlabeled', False, other)
    args = (config, run / 'work' / 'iter_4.pth', '--work-dir', tmp_path / 'work')
    output = server.run(TOOLS / 'test.py', *args, code=1).output
    for names in (CLASSES, other):
        assert f'({", ".join(names)})' in output
    assert str(run / 'work' / 'iter_4.pth') in output


@pytest.mark.parametrize(
    'option, message',
    [
        (['--tta'], '--tta needs tta_model and tta_pipeline'),
        (['--predict-with', 'teacher'], 'which has no teacher'),
        (['--out', 'folder'], 'name a file that ends in .json'),
        (['--cfg-options', 'model.roi_head.type=StandardRoiHead'], "'StandardRoIHead'"),
    ],
)
def test_options_that_a_detector_lacks_are_refused(option, message, run, server, tmp_path):
    args = (run / 'config.py', run / 'work' / 'iter_4.pth', '--work-dir', tmp_path, *option)
    output = server.run(TOOLS / 'test.py', *args, code=1).output
    assert message in output


def test_without_mmdet_a_detector_is_refused_with_what_to_install(plain_server, tmp_path):
    args = (DIGITS, '--work-dir', tmp_path)
    output = plain_server.run(TOOLS / 'train.py', *args, code=1, unblock=['mmseg_semi']).output
    assert 'needs mmdet, which is not installed' in output and 'mmdet>=3.3.0' in output
