"""mmseg-semi check: clean data have no finding, and planted faults are named."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from leaves import leaves_config, make_leaves
from PIL import Image

from mmseg_semi.apis import check

LABELED, VAL = 'train_dataloader.dataset.labeled', 'val_dataloader.dataset'


@pytest.fixture
def root(tmp_path) -> Path:
    return make_leaves(tmp_path / 'leaves', labeled=6, unlabeled=6, val=4)


def run(root: Path, capsys, *options: str, extra: str = '') -> tuple[int, dict, str]:
    """Exit status, check.json and output."""
    config = leaves_config(root.parent / 'leaves.py', root, extra)
    out = root.parent / 'out'
    with pytest.raises(SystemExit) as end:
        check.main([str(config), '--out', str(out), *options])
    return end.value.code, json.loads((out / 'check.json').read_text()), capsys.readouterr().out


def change(path: Path, function) -> None:
    mask = np.asarray(Image.open(path))
    Image.fromarray(function(mask).astype(np.uint8)).save(path)


def masks(root: Path, part: str) -> list[Path]:
    return sorted((root / 'annotations' / part).iterdir())


def test_clean_data_have_no_finding(root, capsys):
    code, found, text = run(root, capsys)
    assert (code, found['findings']) == (0, [])
    assert '0 errors, 0 warnings' in text
    labeled, unlabeled, val = found['parts']  # the test part is the validation part
    assert [part['role'] for part in found['parts']] == ['train', 'unlabeled', 'val']
    assert (labeled['images'], unlabeled['images'], val['images']) == (6, 6, 4)
    assert labeled['sizes'] == {'64x48': 6} and labeled['crop'] == [32, 32]
    truth = [np.asarray(Image.open(path)) for path in masks(root, 'labeled')]
    for number, one in enumerate(labeled['classes']):
        assert one['pixels'] == sum(int((mask == number).sum()) for mask in truth)
        assert one['images'] == sum(bool((mask == number).any()) for mask in truth)
    share = 100 * labeled['classes'][1]['pixels'] / (6 * 48 * 64)
    assert re.search(rf'^leaf +{share:.3f} % in +6', text, re.M)


def swap(mask: np.ndarray) -> np.ndarray:
    return np.choose(mask, [1, 0, 2])


def plant(root: Path, fault: str) -> None:
    first = masks(root, 'labeled')[0]
    if fault == '0/255':
        for part in ('labeled', 'val'):
            for path in masks(root, part):
                change(path, lambda mask: np.where(mask > 0, 255, 0))
    elif fault == 'high':
        change(first, lambda mask: mask + 7)
    elif fault == 'missing':
        first.unlink()
    elif fault == 'broken':
        path = next((root / 'images/unlabeled').iterdir())
        path.write_bytes(path.read_bytes()[:500])
    elif fault == 'size':
        Image.fromarray(np.zeros((10, 12), np.uint8)).save(first)
    elif fault == 'leak':
        image = root / 'images/val/v0.jpg'
        (root / 'images/unlabeled/copy.jpg').write_bytes(image.read_bytes())
    elif fault == 'swapped':
        for path in masks(root, 'val'):
            change(path, lambda mask: np.where(mask > 1, 2, 1 - (mask > 0)))
    elif fault == 'unknown':
        for path in masks(root, 'val'):
            change(path, lambda mask: np.where(np.arange(64) < 40, 255, mask))
    elif fault == 'rare':
        for path in masks(root, 'labeled'):
            change(path, lambda mask: np.minimum(mask, 1))
        change(first, lambda mask: np.where(np.arange(mask.size).reshape(mask.shape) < 2, 2, mask))
    elif fault == 'absent':
        for path in masks(root, 'labeled'):
            change(path, lambda mask: np.minimum(mask, 1))


@pytest.mark.parametrize(
    ('fault', 'code', 'number', 'said'),
    [
        ('0/255', 1, 'E1', 'train_dataloader.dataset.labeled: '),
        ('high', 1, 'E1', '7 ('),
        ('missing', 1, 'E1', 'l0'),
        ('broken', 1, 'E1', '1 of 6 images can not be read'),
        ('size', 1, 'E1', '1 of 6 masks have another size than their image'),
        ('leak', 1, 'E1', 'copy.jpg'),
        ('swapped', 0, 'W1', 'are the two exchanged in the masks of one of them?'),
        ('unknown', 0, 'W1', 'the pixels are unknown (255): is that meant'),
        ('rare', 0, 'W1', 'disease has 0.011 % of the pixels, in 1 of 6 masks: label more of it'),
        ('absent', 0, 'W1', 'disease'),
    ],
)
def test_a_planted_fault_is_named(root, capsys, fault, code, number, said):
    plant(root, fault)
    got, found, text = run(root, capsys)
    assert got == code, text
    texts = {one['number']: one['text'] for one in found['findings']}
    assert said in texts[number]
    assert f'{number} {texts[number]}' in text


def test_settings_that_do_not_fit_the_data(root, capsys):
    code, found, _ = run(root, capsys, '--cfg-options', 'train_dataloader.batch_size=16')
    (one,) = found['findings']
    assert code == 0 and 'labeled has 6 images, fewer than the 8 of a batch' in one['text']
    key = 'train_dataloader.dataset.geometry.crop.crop_size'
    code, found, _ = run(root, capsys, '--cfg-options', f'{key}=(96, 96)')
    texts = [one['text'] for one in found['findings']]
    assert any('6 of 6 images are smaller than the crop of 96 x 96' in text for text in texts)


def test_all_faults_are_found_at_once(root, capsys):
    for fault in ('high', 'broken', 'leak'):
        plant(root, fault)
    code, found, _ = run(root, capsys)
    assert code == 1 and [one['number'] for one in found['findings']] == ['E1', 'E2', 'E3']


def test_the_model_and_the_sampler_are_looked_at(root, capsys):
    head = 'model.segmentor.decode_head.num_classes=4'
    code, found, _ = run(root, capsys, '--cfg-options', head)
    (one,) = found['findings']
    assert code == 1 and one['text'].startswith('model.segmentor.decode_head.num_classes is 4, but')
    code, found, _ = run(root, capsys, '--cfg-options', 'train_dataloader.batch_size=3')
    (one,) = found['findings']
    assert code == 1 and one['text'].startswith('train_dataloader.batch_size is 3, but a batch')
    code, found, _ = run(root, capsys, '--cfg-options', 'val_dataloader.dataset.data_root=nowhere')
    assert code == 1 and found['findings'][0]['number'] == 'E1'
    assert 'nowhere' in found['findings'][0]['text']
