"""check.html: one file that opens from disk; the first steps, of which nothing is left."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from leaves import leaves_config, make_leaves
from PIL import Image

from mmseg_semi.apis import check, check_page, first_steps
from mmseg_semi.utils.config import load_config

BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
STRANGE = 'a <b onload="x">&amp; ü.jpg'
VOID = {'meta', 'img', 'br', 'link', 'input', 'hr'}
EXTRA = """
custom_hooks = [dict(type='AtomicCheckpointHook', by_epoch=False, interval=1)]
"""


class Page(HTMLParser):
    """Its elements, their texts and addresses; every one is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.texts, self.images, self.links = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        assert not any(name.startswith('on') for name in values)
        self.links += [values[name] for name in ('href', 'src', 'data') if name in values]
        if tag == 'img':
            self.images.append((values['alt'], values['src']))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts += [data.strip()] if data.strip() else []


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """A checked data set with a rare class and an image of a strange name."""
    folder = tmp_path_factory.mktemp('page')
    root = make_leaves(folder / 'leaves', labeled=6, unlabeled=6, val=4)
    (root / 'images/unlabeled/u0.jpg').rename(root / 'images/unlabeled' / STRANGE)
    for path in sorted((root / 'annotations/labeled').iterdir()):
        mask = np.minimum(np.asarray(Image.open(path)), 1)
        mask[:2, 0] = 2 if path.stem == 'l0' else mask[:2, 0]
        Image.fromarray(mask).save(path)
    config = leaves_config(folder / 'leaves.py', root, EXTRA)
    config.write_text(config.read_text().replace('max_iters=2,', 'max_iters=20000,'))
    with pytest.MonkeyPatch.context() as patch:
        (folder / 'tmp').mkdir()
        patch.setenv('XDG_CACHE_HOME', str(folder / 'cache'))
        patch.setattr('tempfile.tempdir', str(folder / 'tmp'))
        patch.chdir(folder)
        with pytest.raises(SystemExit) as end:
            check.main([str(config), '--out', str(folder / 'out')])
    assert end.value.code == 0
    return folder


@pytest.fixture(scope='module')
def page(folder) -> Page:
    return Page((folder / 'out/check.html').read_text(encoding='utf-8'))


def test_nothing_but_the_two_files_is_left(folder):
    assert sorted(path.name for path in (folder / 'out').iterdir()) == ['check.html', 'check.json']
    assert list((folder / 'tmp').glob('first_steps*')) == []
    names = {path.name for path in folder.iterdir()}
    assert names == {'leaves', 'leaves.py', 'tmp', 'cache', 'out'}


def test_time_and_memory_of_the_training(folder):
    training = json.loads((folder / 'out/check.json').read_text())['training']
    assert training['steps'] == 20000 and 0 < training['step_seconds'] < 5
    assert training['hours'] == pytest.approx(training['step_seconds'] * 20000 / 3600, abs=0.002)
    assert re.match(r'\d+\.\d GiB', training['memory'])


def test_the_page_holds_all_it_needs(folder, page):
    assert (folder / 'out/check.html').stat().st_size < 5e6
    assert 'script' not in page.tags
    kinds = ('data:image/jpeg;base64,', 'data:image/png;base64,')
    assert page.links and all(one.startswith(kinds) for one in page.links)
    style = re.search('<style>(.*?)</style>', (folder / 'out/check.html').read_text(), re.S)[1]
    assert 'url(' not in style and '@import' not in style
    for _, source in page.images:
        data = np.frombuffer(base64.b64decode(source.partition(',')[2]), np.uint8)
        assert cv2.imdecode(data, cv2.IMREAD_COLOR).shape[2] == 3


def test_the_page_says_what_was_found(folder, page):
    (one,) = json.loads((folder / 'out/check.json').read_text())['findings']
    text = ' '.join(page.texts)
    assert one['number'] == 'W26' and 'W26 warning: a class is rare' in text
    assert one['text'] in text and one['what_to_do'] in text and one['files'][0] in page.texts
    for word in ('background', 'leaf', 'disease', 'unknown', 'train', 'unlabeled', 'val'):
        assert word in page.texts
    assert '0.011 % in 1' in page.texts and page.tags.count('rect') == 6


def test_file_names_are_escaped(folder, page):
    assert any(text.endswith(STRANGE) for text in page.texts)
    assert 'b' not in page.tags
    assert any(alt.endswith(STRANGE) for alt, _ in page.images)


def test_names_that_are_no_text(folder, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    root = Path(shutil.copytree(folder / 'leaves', tmp_path / 'leaves'))
    source, broken = root / 'images/unlabeled/u1.jpg', os.fsencode(root / 'images/unlabeled/')
    source.write_bytes(source.read_bytes()[:900])
    os.rename(source, broken + b'/caf\xe9.jpg')
    cfg = check.load_config(str(leaves_config(tmp_path / 'leaves.py', root)))
    with check.DefaultScope.overwrite_default_scope('mmseg'):
        found, parts = check.check_data(cfg)
    text = check_page.page('config', found, parts, None)
    assert 'caf\\udce9.jpg' in text and Page(text).texts and text.encode('utf-8')
    (one,) = found.errors
    assert one.kind == 10 and one.files[0].endswith('caf\udce9.jpg')


def test_images_and_the_batch_are_shown(page):
    names = [alt.partition(' of ')[0] for alt, _ in page.images]
    assert names[:6] == ['image', 'mask', 'both'] * 2
    batch = [alt for alt, _ in page.images if ' of ' not in alt]
    assert batch[:4] == ['labeled image', 'its label'] * 2
    assert batch[4:7] == ['unlabeled image, weak', 'strong view 1', 'strong view 2']
    mixed = ['strong view 1', 'its partner', 'the two mixed']
    assert [*mixed, 'its pseudo-label, before anything was learned'] == batch[10:14]


def test_masks_have_the_palette(folder):
    root, table = folder / 'leaves', check_page.colors(dict(classes='abc'))
    mask = np.asarray(Image.open(root / 'annotations/labeled/l1.png'))
    cfg = check.load_config(str(folder / 'leaves.py'))
    with check.DefaultScope.overwrite_default_scope('mmseg'):
        dataset = check.DATASETS.build(cfg.train_dataloader.dataset).labeled
    tiles = check_page._tiles(dataset, dataset.get_data_info(1), table)
    assert [tile.title for tile in tiles] == ['image', 'mask', 'both']
    assert np.array_equal(tiles[1].image, table[mask])
    rgb = np.asarray(Image.open(root / 'images/labeled/l1.jpg')).astype(int)
    assert np.abs(tiles[0].image - rgb).mean() < 2


def test_the_pictures_of_a_batch_are_what_the_network_gets(folder, monkeypatch):
    kept = []
    show = first_steps.semi_rows
    monkeypatch.setattr(
        first_steps, 'semi_rows', lambda *args: kept.append(args[:2]) or show(*args)
    )
    cfg = check.load_config(str(folder / 'leaves.py'))
    with check.DefaultScope.overwrite_default_scope('mmseg'):
        rows = first_steps.first_steps(cfg, check_page.colors(dict(classes='abc'))).rows
    step, preprocessor = kept[0]
    view = step.streams['strong'][0]
    mean, std = preprocessor.mean, preprocessor.std
    mixed = rows[4][2].image  # RGB, as the configs normalize it
    wanted = (view.image[0] * std + mean).permute(1, 2, 0).numpy()
    assert np.abs(mixed - wanted.clip(0, 255)).max() <= 0.51
    # The mixed image is the strong view, and its partner where the mask says so.
    mask = view.mix.mask[0].numpy()[..., None]
    assert np.array_equal(mixed, np.where(mask, rows[4][1].image, rows[4][0].image))
    assert mask.any() and not mask.all()


@pytest.mark.parametrize('wanted', [2, 8])
def test_the_stride_of_the_logits(wanted):
    unet = dict(type='UNet', in_channels=4, base_channels=4, strides=(2, 1, 1, 1, 1))
    resnet = dict(type='ResNetV1c', depth=18, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))
    norm, deep = dict(type='BN'), wanted == 8
    head = dict(
        type='FCNHead',
        in_channels=512 if deep else 4,
        in_index=-1,
        channels=4,
        num_classes=2,
        norm_cfg=norm,
    )
    backbone = dict(resnet if deep else unet, norm_cfg=norm)
    with check.DefaultScope.overwrite_default_scope('mmseg'):
        model = check.MODELS.build(dict(type='EncoderDecoder', backbone=backbone, decode_head=head))
    assert first_steps.output_stride(model) == wanted and model.training
    model.decode_head.forward = lambda maps: 1 / 0
    assert first_steps.output_stride(model) is None


def test_a_plain_config_shows_its_labeled_images(folder, tmp_path):
    cfg = load_config(str(folder / 'leaves.py'))
    cfg.model = dict(cfg.model.segmentor)
    dataset = dict(cfg.train_dataloader.dataset, unlabeled=None)
    cfg.train_dataloader = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='InfiniteSampler', shuffle=True),
        dataset=dataset,
    )
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=100)
    with check.DefaultScope.overwrite_default_scope('mmseg'):
        found = first_steps.first_steps(cfg, check_page.colors(dict(classes='abc')))
    assert found.iterations == 100 and found.seconds > 0
    assert [[tile.title for tile in row] for row in found.rows] == [
        ['labeled image', 'its label']
    ] * 2


def test_the_time_is_a_bound_where_a_start_takes_less():
    found = first_steps.FirstSteps(seconds=2, iterations=90, memory='1.0 GiB')
    assert found.text() == (
        'training: about 3 min for 90 steps of 2.00 s, without validation; 1.0 GiB of memory'
    )
    found.start = 30
    assert found.text() == (
        'training: at most 3 min for 90 steps of 2.00 s (30 of them on labels alone take less), '
        'without validation; 1.0 GiB of memory'
    )
    found.iterations = 30
    assert '30 steps of 2.00 s, all on labels alone (model.warmup_iters is 30), ' in found.text()
    found.guarded = True
    assert 'without validation and without the labels alone, which the guard trains' in found.text()


@pytest.mark.parametrize('refused', [True, False])
def test_a_step_that_fails_is_an_error(folder, tmp_path, refused, monkeypatch):
    def multiply(*_):
        raise RuntimeError('mat1 and mat2 do not fit\nwhere they are')

    arguments = [str(folder / 'leaves.py'), '--out', str(tmp_path)]
    if refused:
        arguments += ['--cfg-options', 'model.segmentor.data_preprocessor.size=(16, 16)']
    else:  # as a user's own network may
        monkeypatch.setattr('mmseg_semi.models.segmentors.SemiSegmentor.loss', multiply)
    with pytest.raises(SystemExit) as end:
        check.main(arguments)
    found = json.loads((tmp_path / 'check.json').read_text())
    numbers = {one['number']: one['text'] for one in found['findings']}
    assert end.value.code == 1 and numbers.keys() == {'E50', 'W26'}
    assert found['training'] is None
    reason = 'model.data_preprocessor.size is (16, 16) but the pipeline gives images of (32, 32)'
    reason = reason if refused else 'RuntimeError: mat1 and mat2 do not fit.'
    assert numbers['E50'].startswith(f'a training step cannot be made: {reason}')


def test_the_page_in_a_browser(folder, page):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f'there is no browser: none of {", ".join(BROWSERS)} is installed')
    shot = folder / 'tmp/page.png'
    command = [
        browser,
        '--headless',
        '--no-sandbox',
        '--disable-gpu',
        '--disable-background-networking',
        '--host-resolver-rules=MAP * 0.0.0.0',
        f'--user-data-dir={folder / "tmp/profile"}',
        '--window-size=1200,6000',
        '--hide-scrollbars',
    ]
    address = (folder / 'out/check.html').as_uri()
    subprocess.run([*command, f'--screenshot={shot}', address], check=True, capture_output=True)
    pixels = np.asarray(Image.open(shot).convert('RGB')).astype(int)
    assert pixels.shape[:2] == (6000, 1200)
    colors = re.findall('background: #(\\w{6})', (folder / 'out/check.html').read_text())
    for color in dict.fromkeys(colors):  # bars and swatches are seen
        wanted = np.array([int(color[i : i + 2], 16) for i in (0, 2, 4)])
        assert (np.abs(pixels - wanted).sum(axis=2) == 0).sum() > 50, color
    dom = subprocess.run([*command, '--dump-dom', address], check=True, capture_output=True)
    shown = Page(dom.stdout.decode())
    assert [text for text in shown.texts if text in page.texts] == page.texts
    assert shown.images == page.images
