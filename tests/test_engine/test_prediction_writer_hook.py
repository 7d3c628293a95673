"""Files of predictions: one an image, never in the place of another, never outside the folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from tool_runs import TOOLS

from mmseg_semi.apis.saved_model import without_masks
from mmseg_semi.engine.hooks.prediction_writer_hook import (
    PredictionWriterHook,
    inside_folder,
    output_names,
    write_label_map,
)


def names(*paths: str, roots: tuple[str, ...] = ('/data/images',)) -> list[str]:
    return list(output_names(paths, roots).values())


def test_folders_and_twins_have_names_of_their_own():
    paths = [f'/data/images/{n}' for n in ('a/x.jpg', 'b/x.jpg', 'c.jpg', 'c.png', 'd.e.tif')]
    assert names(*paths) == ['a/x.png', 'b/x.png', 'c.jpg.png', 'c.png.png', 'd.e.png']


@pytest.mark.parametrize(
    ('images', 'wanted'),
    [
        (('b.jpg', 'b.png', 'b.jpg.png'), ['b.jpg.png', 'b.png.png', 'b.jpg.png.png']),
        (('b.jpg.png', 'b.png', 'b.jpg'), ['b.jpg.png.png', 'b.png.png', 'b.jpg.png']),
        (('a/b.jpg.png', 'b.jpg', 'b.png'), ['a/b.jpg.png', 'b.jpg.png', 'b.png.png']),
        (('b.jpg', 'b.jpg.jpg'), ['b.png', 'b.jpg.png']),
        (
            ('b.jpg', 'b.tif', 'b.jpg.jpg', 'b.jpg.jpg.jpg'),
            ['b.jpg.png', 'b.tif.png', 'b.jpg.jpg.png', 'b.jpg.jpg.jpg.png'],
        ),
        (('b.jpg', 'b.png/x.jpg'), ['b.jpg.png', 'b.png/x.png']),
        (('b.jpg', 'b.png/a/x.jpg'), ['b.jpg.png', 'b.png/a/x.png']),
        (('a/../b.jpg', 'b.jpg', 'b.tif'), ['b.jpg.png', 'b.jpg.png', 'b.tif.png']),
    ],
)
def test_a_longer_name_is_not_that_of_another_image(images, wanted):
    assert names(*(f'/data/images/{image}' for image in images)) == wanted


@pytest.mark.parametrize(
    'paths',
    [
        ('/data/images/x/y.jpg', '/x/y.jpg'),
        ('/data/images/b.jpg', '/data/images/b.png/x.jpg', '/data/images/b.jpg.png/x.jpg'),
    ],
)
def test_images_that_can_not_have_files_of_their_own_are_refused(paths):
    with pytest.raises(ValueError, match=f'the predictions of .*{paths[0]}.* the same file, or'):
        names(*paths)


def test_images_elsewhere_keep_their_whole_path():
    found = names('/data/images/../other/x.jpg', '/x.jpg', '/data/images_2/x.jpg')
    assert found == ['data/other/x.png', 'x.png', 'data/images_2/x.png']
    assert not any('..' in name or os.path.isabs(name) for name in found)


def test_several_folders_have_their_names_in_front():
    found = names('/d/a/i/x.jpg', '/d/b/i/x.jpg', roots=('/d/a/i', '/d/b/i'))
    assert found == ['a/i/x.png', 'b/i/x.png']


def test_links_out_of_the_folder_are_refused(tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'other').mkdir()
    os.symlink(tmp_path / 'other', tmp_path / 'out' / 'a')
    with pytest.raises(ValueError, match='outside of .*out, because a folder in it is a link to'):
        inside_folder(str(tmp_path / 'out'), 'a/x.png')
    path = inside_folder(str(tmp_path / 'out'), 'b/x.png')
    os.symlink(tmp_path / 'other' / 'x.png', path)
    write_label_map(path, np.zeros((2, 3), np.int64))
    assert not path.is_symlink() and not list((tmp_path / 'other').iterdir())


@pytest.mark.parametrize(('most', 'kind'), [(255, np.uint8), (256, np.uint16)])
def test_label_maps_hold_all_class_numbers(most, kind, tmp_path):
    labels = np.array([[0, 1, most]])
    write_label_map(tmp_path / 'x.png', labels)
    found = cv2.imread(str(tmp_path / 'x.png'), cv2.IMREAD_UNCHANGED)
    assert found.dtype == kind
    np.testing.assert_array_equal(found, labels)
    assert [path.name for path in tmp_path.iterdir()] == ['x.png']


def test_no_transform_of_masks_is_left():
    load, pack = dict(type='LoadImageFromFile'), dict(type='PackSegInputs')
    masks, check = dict(type='LoadAnnotations'), dict(type='CheckAnnotations')
    assert without_masks([load, masks, check, pack]) == [load, pack]
    flips = [dict(type='RandomFlip', prob=1.0)]
    several = dict(type='TestTimeAug', transforms=[flips, [masks], [pack]])
    assert without_masks([load, several]) == [load, {**several, 'transforms': [flips, [pack]]}]


def test_pictures_and_label_maps_have_places_of_their_own(tmp_path):
    for out, shown in (('a', 'a'), ('a', 'link'), ('.', 'teacher')):
        if shown == 'link':
            (tmp_path / 'link').symlink_to(tmp_path / 'a')
        hook = PredictionWriterHook(str(tmp_path / out), str(tmp_path / shown))
        hook.names = {'/data/x.jpg': 'x.png'}
        with pytest.raises(ValueError, match=r'--out and --show-dir would both write .*x\.png: na'):
            hook._check_places()
    hook = PredictionWriterHook(str(tmp_path / 'a'), str(tmp_path / 'b'))
    hook.names = {'/data/x.jpg': 'x.png'}
    hook._check_places()


# ------------------------------------------------------------------------------- the tool
@pytest.fixture(scope='module')
def folder(digit_root, tmp_path_factory) -> Path:
    """Images without masks: equal names in two folders, suffixes in upper and lower case."""
    root = tmp_path_factory.mktemp('photographs')
    images = sorted((digit_root / 'images/test').glob('*.png'))[:3]
    for image, name in zip(images, ('a/x.png', 'b/x.PNG', 'y.png')):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(image, root / name)
    return root


@pytest.mark.parametrize('option', ['--out', '--show-dir'])
@pytest.mark.parametrize('link', [False, True])
def test_images_are_never_overwritten(option, link, folder, server, ema_run, tmp_path):
    images = tmp_path / 'images'
    shutil.copytree(folder, images)
    before = {path: path.read_bytes() for path in images.rglob('*.[pP]*')}
    out = tmp_path / 'out'
    out.symlink_to(images)
    args = ['--images', images, option, out if link else images, '--work-dir', tmp_path]
    done = server.run(TOOLS / 'test.py', ema_run.config, ema_run.checkpoint, *args, code=1)
    assert 'would be written in the place of an image that is predicted' in done.output
    assert {path: path.read_bytes() for path in images.rglob('*.[pP]*')} == before


@pytest.mark.parametrize('option', ['--out', '--show-dir'])
def test_masks_are_never_overwritten(option, server, ema_run, digit_root, tmp_path):
    """Else the next test would compare predictions with themselves."""
    data = tmp_path / 'data'
    for part in ('images', 'annotations'):
        shutil.copytree(digit_root / part / 'test', data / part / 'test')
    before = {path: path.read_bytes() for path in data.rglob('*.png')}
    args = ['--work-dir', tmp_path, option, data / 'annotations/test']
    if option == '--show-dir':
        args += ['--images', data / 'images/test']
    args += ['--cfg-options', f'test_dataloader.dataset.data_root={data}']
    done = server.run(TOOLS / 'test.py', ema_run.config, ema_run.checkpoint, *args, code=1)
    assert 'in the place of an image or mask of the data: name another folder' in done.output
    assert {path: path.read_bytes() for path in data.rglob('*.png')} == before


def test_images_that_differ_in_the_suffix_are_all_predicted(server, folder, ema_run, tmp_path):
    images = tmp_path / 'images'
    images.mkdir()
    for name in ('y.png', 'y.jpg', 'y.jpg.png', 'y.jpg.part0.png', 'z.part0.png', 'z.png'):
        cv2.imwrite(str(images / name), cv2.imread(str(folder / 'y.png')))
    out = ['--out', tmp_path / 'out', '--show-dir', tmp_path / 'shown', '--work-dir', tmp_path]
    server.run(TOOLS / 'test.py', ema_run.config, ema_run.checkpoint, '--images', images, *out)
    wanted = ['y.jpg.part0.png', 'y.jpg.png', 'y.jpg.png.png', 'y.png.png', 'z.part0.png', 'z.png']
    for written in ('out', 'shown'):
        assert sorted(path.name for path in (tmp_path / written).iterdir()) == wanted


@pytest.mark.parametrize('tta', [False, True])
def test_a_folder_of_images_is_predicted(tta, folder, server, ema_run, digit_root, tmp_path):
    out = ['--out', tmp_path / 'maps', '--show-dir', tmp_path / 'shown', '--work-dir', tmp_path]
    args = [ema_run.config, ema_run.checkpoint, '--images', folder, *out]
    server.run(TOOLS / 'test.py', *args, *(['--tta'] if tta else ['--predict-with', 'both']))
    maps = {p.relative_to(tmp_path / 'maps').as_posix(): p for p in tmp_path.glob('maps/**/*.png')}
    wanted = ['a/x.png', 'b/x.png', 'y.png']
    assert sorted(maps) == sorted(wanted + ([] if tta else [f'teacher/{n}' for n in wanted]))
    shown = [p.relative_to(tmp_path / 'shown').as_posix() for p in tmp_path.glob('shown/**/*.png')]
    assert sorted(shown) == wanted
    if not tta:  # as the test images are predicted
        args = [ema_run.config, ema_run.checkpoint, '--out', tmp_path / 'all']
        server.run(TOOLS / 'test.py', *args, '--work-dir', tmp_path)
        first = sorted(path.stem for path in (digit_root / 'images/test').glob('*.png'))[:3]
        for name, image in zip(wanted, first):
            (truth,) = tmp_path.glob(f'all/**/{image}.png')
            same = cv2.imread(str(truth), -1) == cv2.imread(str(maps[name]), -1)
            assert same.all(), name


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['--images', 'nowhere', '--out', 'x'], '--images: there is no folder nowhere'),
        (['--images', '.'], '--images needs --out DIR'),
        (['--images', '.', '--out', 'x'], '--images .: no image is in it'),
    ],
)
def test_what_would_write_nothing_is_refused(args, message, server, ema_run, tmp_path):
    args = [ema_run.config, ema_run.checkpoint, *args, '--work-dir', tmp_path]
    output = server.run(TOOLS / 'test.py', *args, code=1).output
    assert f'error: {message}' in output and 'Traceback' not in output
