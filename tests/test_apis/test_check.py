"""mmseg-semi check: clean data have no finding, and planted faults are named."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from leaves import leaves_config, make_leaves
from PIL import Image
from tool_runs import REPO

from mmseg_semi.apis import check
from mmseg_semi.datasets.findings import KINDS

TABLE = REPO / 'docs/checks.md'


@pytest.fixture
def root(tmp_path) -> Path:
    return make_leaves(tmp_path / 'leaves', labeled=6, unlabeled=6, val=4)


def run(root: Path, capsys, *options: str, extra: str = '') -> tuple[int, dict, str]:
    """Exit status, check.json and output."""
    config = leaves_config(root.parent / 'leaves.py', root, extra)
    out = root.parent / 'out'
    with pytest.raises(SystemExit) as end:
        check.main([str(config), '--out', str(out), '--no-steps', *options])
    return end.value.code, json.loads((out / 'check.json').read_text()), capsys.readouterr().out


def change(path: Path, function) -> None:
    mask = np.asarray(Image.open(path))
    Image.fromarray(function(mask).astype(np.uint8)).save(path)


def masks(root: Path, part: str) -> list[Path]:
    return sorted((root / 'annotations' / part).iterdir())


def test_clean_data_have_no_finding(root, capsys):
    code, found, text = run(root, capsys)
    assert (code, found['findings']) == (0, [])
    assert '0 errors, 0 warnings, 0 notes' in text
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


def test_every_kind_has_a_row():
    rows = re.findall(r'^\| ([EWN]\d\d)(?:, [EW]\d\d)? \| (.*?) \|', TABLE.read_text(), re.M)
    assert [int(number[1:]) for number, _ in rows] == list(KINDS)
    for number, what in rows:
        assert what.replace('`', '').startswith(KINDS[int(number[1:])])


def test_settings_that_do_not_fit_the_data(root, capsys):
    code, found, _ = run(root, capsys, '--cfg-options', 'train_dataloader.batch_size=16')
    (one,) = found['findings']
    assert code == 0 and 'labeled has 6 images, fewer than the 8 of a batch' in one['text']
    key = 'train_dataloader.dataset.geometry.crop.crop_size'
    code, found, _ = run(root, capsys, '--cfg-options', f'{key}=(96, 96)')
    texts = [one['text'] for one in found['findings']]
    assert any('6 of 6 images are smaller than the crop of 96 x 96' in text for text in texts)


def test_findings_have_number_files_and_what_to_do(root, capsys):
    first, broken = masks(root, 'labeled')[0], root / 'images/unlabeled/u3.jpg'
    change(first, lambda mask: mask + 7)
    broken.write_bytes(broken.read_bytes()[:500])
    shutil.copy(root / 'images/val/v0.jpg', root / 'images/unlabeled/copy.jpg')
    code, found, text = run(root, capsys)
    assert code == 1 and '3 errors, 0 warnings, 0 notes' in text
    numbers = {one['number']: one for one in found['findings']}
    assert list(numbers) == ['E10', 'E20', 'E32']
    assert numbers['E20']['files'] == [str(first)] and numbers['E10']['files'] == [str(broken)]
    assert numbers['E32']['files'] == [str(root / 'images/unlabeled/copy.jpg')]
    for number, one in numbers.items():
        assert one['severity'] == 'error' and one['kind'] == KINDS[int(number[1:])]
        assert f'{number} {one["text"]} {one["what_to_do"]}\n' in text
        assert one['what_to_do']


def test_a_training_that_goes_on_with_overlaps_has_warnings(root, capsys):
    shutil.copy(root / 'images/val/v0.jpg', root / 'images/unlabeled/copy.jpg')
    hook = "custom_hooks = [dict(type='DataCheckHook', on_overlap='warn')]"
    code, found, _ = run(root, capsys, extra=hook)
    assert code == 0 and [one['number'] for one in found['findings']] == ['W32']


def test_the_model_and_the_sampler_are_looked_at(root, capsys):
    head = 'model.segmentor.decode_head.num_classes=4'
    code, found, _ = run(root, capsys, '--cfg-options', head)
    (one,) = found['findings']
    assert code == 1 and one['number'] == 'E03'
    assert one['text'].startswith('model.segmentor.decode_head.num_classes is 4, but')
    code, found, _ = run(root, capsys, '--cfg-options', 'train_dataloader.batch_size=3')
    (one,) = found['findings']
    assert code == 1 and one['number'] == 'E04'
    assert one['text'].startswith('train_dataloader.batch_size is 3, but a batch')
    code, found, _ = run(root, capsys, '--cfg-options', 'val_dataloader.dataset.data_root=nowhere')
    assert code == 1 and found['findings'][0]['number'] == 'E02'
    assert 'nowhere' in found['findings'][0]['text']


def test_a_file_is_no_folder_to_write_in(tmp_path):
    out = tmp_path / 'out'
    out.write_text('mine')
    with pytest.raises(SystemExit, match=f'^--out {out} is a file: name a folder'):
        check.main([str(tmp_path / 'none.py'), '--out', str(out)])
    assert out.read_text() == 'mine'
