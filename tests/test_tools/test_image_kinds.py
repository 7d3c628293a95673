"""Own images of 1, 4 and 7 channels, of 8, 16 and 32 bits: checked, trained, tested."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from channel_files import pixels, write
from mmengine.registry import DefaultScope
from mmseg.registry import DATASETS
from PIL import Image
from tool_runs import CONFIGS, REPO, TOOLS

from mmseg_semi.datasets import DataError, SampleKey
from mmseg_semi.datasets.transforms import value_ranges
from mmseg_semi.utils.config import load_config

PROGRAM = REPO / 'mmseg_semi_cli/__main__.py'
SUFFIX = {'uint8': '.png', 'uint16': '.tif', 'float32': '.npy'}
TEXT = """_base_ = {base!r}
data_root = {root!r}
in_channels = {channels}
crop_size = (32, 32)
scale = (48, 32)
train_dataloader = dict(batch_size=4, num_workers=0)
val_dataloader = dict(num_workers=0)
test_dataloader = dict(num_workers=0)
model = dict(warmup_iters=0, segmentor=dict(
    backbone=dict(base_channels=4), decode_head=dict(in_channels=4, channels=4)))
custom_hooks = [dict(type='DataCheckHook'), dict(type='PseudoLabelVisHook', interval=2)]
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2))
"""


def make(root: Path, channels: int, dtype: str, suffix: str = '') -> np.ndarray:
    """Own images (half of them with masks); the pixels of the labeled images (N, C)."""
    rng, found = np.random.default_rng(channels), []
    for part, count in (('labeled', 4), ('unlabeled', 4), ('val', 2)):
        for i in range(count):
            image = pixels(rng, channels, dtype, (36, 52))
            name = f'images/{part}/{part[0]}{i}{suffix or SUFFIX[dtype]}'
            write(root / name, image)
            if part == 'labeled':
                found.append(image.reshape(-1, channels))
            if part != 'unlabeled':
                bright = image[..., 0] > np.median(image[..., 0])
                path = root / f'annotations/{part}/{part[0]}{i}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(bright.astype(np.uint8)).save(path)
    return np.concatenate(found).astype(np.float64)


def config(root: Path, channels: int, base: str = 'unimatch', **changes) -> Path:
    path = root.parent / f'{base}.py'
    text = {'root': str(root), 'channels': channels, **changes}
    path.write_text(TEXT.format(base=str(CONFIGS / f'{base}/{base}_unet_custom.py'), **text))
    return path


@pytest.mark.parametrize('dtype', SUFFIX)
@pytest.mark.parametrize('channels', [1, 4, 7])
def test_they_are_checked_and_trained(server, tmp_path, channels, dtype):
    suffix = '.tif' if dtype == 'uint8' and channels == 7 else ''
    values = make(tmp_path / 'own', channels, dtype, suffix)
    file = config(tmp_path / 'own', channels, 'fixmatch' if channels == 4 else 'unimatch')
    refused = server.run(PROGRAM, 'train', file, '--work-dir', tmp_path / 'work', code=1)
    lines = [line for line in refused.output.splitlines() if 'channels.json' in line]
    assert 'channels.json is not there: run: mmseg-semi check CONFIG' in lines[-1]
    assert 'Traceback' not in refused.output
    checked = server.run(PROGRAM, 'check', file, '--out', tmp_path / 'checked')
    assert f'channels.json: mean and standard deviation of {channels} channels' in checked.output
    found = json.loads((tmp_path / 'own/channels.json').read_text())
    assert (found['in_channels'], found['dtype'], found['images']) == (channels, dtype, 4)
    assert np.allclose(found['mean'], values.mean(0)) and np.allclose(found['std'], values.std(0))
    trained = server.run(PROGRAM, 'train', file, '--work-dir', tmp_path / 'work')
    assert 'RandomColorJitter: saturation and hue are left out for images of' in trained.output
    assert f'RandomGray: nothing is made gray for images of {channels} channels' in trained.output
    assert 'mIoU' in trained.output and 'nan' not in trained.output
    weights, out = tmp_path / 'work/iter_2.pth', ('--out', tmp_path / 'maps')
    pictures = ('--show-dir', tmp_path / 'pictures')
    tested = server.run(TOOLS / 'test.py', file, weights, *out, *pictures)
    assert 'mIoU' in tested.output
    width, height = Image.open(tmp_path / 'pictures/v1.png').size
    assert width == 2 * 8 + 3 * 208 + 2 * 8, 'image, truth and prediction, four times as large'
    assert height >= 30 + 4 * 36 + 22 + 8, 'titles and a legend'
    images = ('--images', tmp_path / 'own/images/unlabeled')
    server.run(TOOLS / 'test.py', file, weights, *images, '--out', tmp_path / 'more')
    assert len(list((tmp_path / 'more').rglob('u*.png'))) == 4


def test_the_means_of_the_training_are_those_of_the_test(server, tmp_path):
    make(tmp_path / 'own', 2, 'uint16')
    file, path = config(tmp_path / 'own', 2), tmp_path / 'own/channels.json'
    server.run(PROGRAM, 'check', file, '--out', tmp_path / 'checked')
    server.run(PROGRAM, 'train', file, '--work-dir', tmp_path / 'work')
    test = (TOOLS / 'test.py', file, tmp_path / 'work/iter_2.pth')
    server.run(*test)
    before = path.read_text()
    content = json.loads(before)
    content['mean'][0] += 1
    path.write_text(json.dumps(content))
    refused = server.run(*test, code=1)
    wanted = (
        'statistics: the checkpoint was trained with other means and deviations of the channels'
    )
    assert wanted in refused.output and 'Traceback' not in refused.output
    more = ('--resume', '--cfg-options', 'train_cfg.max_iters=3')
    resumed = server.run(PROGRAM, 'train', file, '--work-dir', tmp_path / 'work', *more)
    assert 'data_preprocessor.statistics=file ' in resumed.output
    path.write_text(before)
    server.run(*test)


def test_data_workers_do_not_say_it_again(tmp_path, monkeypatch):
    make(tmp_path / 'own', 4, 'uint16')
    said = []
    monkeypatch.setattr(value_ranges, 'print_log', lambda text, logger: said.append(text))
    cfg = load_config(str(config(tmp_path / 'own', 4)))
    with DefaultScope.overwrite_default_scope('mmseg'):
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
    names = sorted(text.split(':')[0] for text in said)
    assert names == ['RandomColorJitter', 'RandomGray']
    worker = pickle.loads(pickle.dumps(dataset))  # as a worker gets it
    for seed in range(9):
        assert worker[SampleKey('unlabeled', 1, seed)]['weak'].shape[0] == 4
    assert len(said) == 2


def test_an_image_that_cannot_be_decoded_is_skipped_where_that_is_wanted(tmp_path):
    make(tmp_path / 'own', 4, 'float32')
    path = tmp_path / 'own/images/unlabeled/u0.npy'
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"'fortran_order'", b"'fortrun_order'"))
    cfg = load_config(str(config(tmp_path / 'own', 4))).train_dataloader.dataset
    with DefaultScope.overwrite_default_scope('mmseg'):
        raising, skipping = (DATASETS.build(dict(cfg, on_error=way)) for way in ('raise', 'skip'))
    with pytest.raises(DataError, match='u0.npy can not be read'):
        raising[SampleKey('unlabeled', 0, 0)]
    item = skipping[SampleKey('unlabeled', 0, 0)]
    assert item['data_samples'].img_path.endswith('u1.npy')


def test_photographs_need_no_file(server, tmp_path):
    make(tmp_path / 'own', 3, 'uint8')
    file = config(tmp_path / 'own', 3)
    checked = server.run(PROGRAM, 'check', file, '--out', tmp_path / 'checked')
    assert 'channels.json' not in checked.output
    assert not (tmp_path / 'own/channels.json').exists()
    trained = server.run(PROGRAM, 'train', file, '--work-dir', tmp_path / 'work')
    assert 'mIoU' in trained.output and 'left out' not in trained.output
    # 16 bits need one.
    make(tmp_path / 'deep', 3, 'uint16', '.png')
    file = config(tmp_path / 'deep', 3)
    refused = server.run(PROGRAM, 'train', file, '--work-dir', tmp_path / 'deep_work', code=1)
    wanted = 'has more than 8 bits a channel, or no whole numbers, so its mean must be known'
    assert wanted in refused.output and 'Traceback' not in refused.output
    server.run(PROGRAM, 'check', file, '--out', tmp_path / 'checked')
    assert json.loads((tmp_path / 'deep/channels.json').read_text())['dtype'] == 'uint16'
    trained = server.run(PROGRAM, 'train', file, '--work-dir', tmp_path / 'deep_work')
    assert 'mIoU' in trained.output


def test_what_does_not_fit_is_named(server, tmp_path):
    make(tmp_path / 'own', 4, 'uint16')
    root = tmp_path / 'own'
    checked = server.run(PROGRAM, 'check', config(root, 7), '--out', tmp_path / 'a', code=1)
    assert 'l0.tif has 4 channels (uint16, 36 x 52 pixels), but in_channels is 7' in checked.output
    file = config(root, 4)
    other = ['--cfg-options', 'model.segmentor.backbone.in_channels=3']
    refused = server.run(PROGRAM, 'check', file, *other, code=1)
    assert 'model.segmentor.backbone.in_channels is 3, ' in refused.output
    server.run(PROGRAM, 'check', file, '--out', tmp_path / 'a')
    refused = server.run(PROGRAM, 'check', config(root, 5), '--out', tmp_path / 'a', code=1)
    assert 'channels.json is of images of 4 channels, but in_channels is 5' in refused.output
    # It is that of the labeled images, whichever config is checked.
    before = (root / 'channels.json').read_bytes()
    (root / 'channels.json').unlink()
    labels = config(root, 4, 'supervised')
    text = labels.read_text().replace('warmup_iters=0, segmentor=dict(', '')
    text = text.replace('channels=4)))', 'channels=4))')
    labels.write_text(text.replace(", dict(type='PseudoLabelVisHook', interval=2)", ''))
    server.run(PROGRAM, 'check', labels, '--no-steps', '--out', tmp_path / 'a')
    assert (root / 'channels.json').read_bytes() == before
    # One more of them: the file stays, with a warning.
    more = pixels(np.random.default_rng(0), 4, 'uint16', (36, 52))
    write(root / 'images/labeled/new.tif', more)
    shutil.copy(root / 'annotations/labeled/l0.png', root / 'annotations/labeled/new.png')
    checked = server.run(PROGRAM, 'check', config(root, 4), '--out', tmp_path / 'a')
    assert 'channels.json was computed of other labeled images' in checked.output
    assert (root / 'channels.json').read_bytes() == before
    image = pixels(np.random.default_rng(0), 5, 'uint16')
    val = (root / 'images/val/v0.tif').read_bytes()
    write(root / 'images/val/v0.tif', image)
    write(root / 'images/val/v1.tif', image[..., :4].astype(np.float32))
    checked = server.run(PROGRAM, 'check', config(root, 4), '--out', tmp_path / 'a', code=1)
    assert 'val_dataloader.dataset: 1 of 2 images cannot be used: ' in checked.output
    wanted = 'val_dataloader.dataset: 1 of 2 images have another type of numbers than the uint16 of'
    assert wanted in checked.output
    for name in ('v0', 'v1'):
        (root / f'images/val/{name}.tif').write_bytes(val)
    image = pixels(np.random.default_rng(0), 4, 'uint8')
    for path in (root / 'images/unlabeled').iterdir():
        write(path, image)
    refused = server.run(PROGRAM, 'train', config(root, 4), '--work-dir', tmp_path / 'w', code=1)
    assert 'an image has 8 bits a channel, but ' in refused.output
