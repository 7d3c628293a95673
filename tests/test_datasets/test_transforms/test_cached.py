import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path

import cv2
import mmcv
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import DATASETS
from torch.utils.data import DataLoader

from mmseg_semi.datasets import SampleKey, semi_collate
from mmseg_semi.datasets.dataset_tree import image_loaders
from mmseg_semi.datasets.transforms import LoadChannels
from mmseg_semi.datasets.transforms.cached import Cached, cached

KEYS = [SampleKey('labeled', i, 3) for i in range(5)]
KEYS += [SampleKey('unlabeled', i, 3) for i in range(7)]


def build(scenes, cache, **arguments):
    parts = dict(labeled=scenes.labeled(), unlabeled=scenes.unlabeled())
    return DATASETS.build(dict(type='SemiDataset', **parts, cache=cache, **arguments))


def arrays(item):
    sample = item['data_samples']
    if 'inputs' in item:
        found = [item['inputs'], sample.gt_sem_seg.data]
    else:
        found = [item['weak'], *item['strong'], sample.valid.data]
    return [one.numpy() for one in found]


def items(dataset):
    return [one for key in KEYS for one in arrays(dataset[key])]


def same(first, second):
    return len(first) == len(second) and all(map(np.array_equal, first, second))


def kept(folder):
    return sorted(Path(folder).rglob('*.raw'))


@pytest.fixture
def decodes(monkeypatch):
    """Count what is decoded."""
    counted = []

    def count(*args, **kwargs):
        counted.append(1)
        return decode(*args, **kwargs)

    decode = mmcv.imfrombytes
    monkeypatch.setattr(mmcv, 'imfrombytes', count)
    return counted


def test_samples_are_the_same_and_each_file_is_decoded_once(scenes, tmp_path, decodes):
    plain = items(build(scenes, None))
    decodes.clear()
    folder = tmp_path / 'new' / 'cache'
    dataset = build(scenes, str(folder))
    assert same(items(dataset), plain) and len(decodes) == 17
    assert same(items(dataset), plain) and same(items(build(scenes, str(folder))), plain)
    assert len(decodes) == 17 and len(kept(folder)) == 17
    assert [path for path in folder.rglob('*') if path.is_file()] == [*folder.rglob('*.raw')]


def test_workers_share_it(scenes, tmp_path, decodes):
    plain = items(build(scenes, None))
    loader = DataLoader(
        build(scenes, str(tmp_path / 'cache')),
        batch_sampler=[[key] for key in KEYS] * 2,
        num_workers=2,
        collate_fn=semi_collate,
    )
    batches = list(loader)
    assert len(batches) == 24 and len(kept(tmp_path / 'cache')) == 17
    decodes.clear()
    assert same(items(build(scenes, str(tmp_path / 'cache'))), plain) and not decodes


def test_a_file_that_changes_is_decoded_anew(scenes, tmp_path):
    dataset = build(scenes, str(tmp_path / 'cache'))
    before = arrays(dataset[KEYS[0]])
    path = dataset[KEYS[0]]['data_samples'].img_path
    cv2.imwrite(path, 255 - cv2.imread(path))
    os.utime(path, (1, 1))
    after = arrays(dataset[KEYS[0]])
    assert same(after, arrays(build(scenes, None)[KEYS[0]])) and not same(after, before)


def test_a_broken_file_is_written_anew(scenes, tmp_path, decodes):
    dataset = build(scenes, str(tmp_path / 'cache'))
    plain = items(dataset)
    files = kept(tmp_path / 'cache')
    for size, path in enumerate(files):
        whole = path.read_bytes()
        path.write_bytes((b'', whole[:9], whole[:-1], bytes(len(whole)))[size % 4])
    decodes.clear()
    assert same(items(dataset), plain) and len(decodes) == 17
    assert same(items(dataset), plain) and len(decodes) == 17 and kept(tmp_path / 'cache') == files


def test_what_is_loaded_may_be_changed(scenes, tmp_path):
    loader = image_loaders(build(scenes, str(tmp_path / 'cache')).labeled)[0]
    dataset = build(scenes, str(tmp_path / 'cache'))
    load = dataset.labeled.pipeline.transforms[0]
    assert isinstance(load, Cached) and type(load.loader) is type(loader)
    info = dataset.labeled.get_data_info(0)
    load(dict(info))
    image = load(dict(info))['img']
    assert type(image) is np.ndarray
    image[:] = 7
    assert not np.array_equal(load(dict(info))['img'], image)
    assert np.array_equal(load(dict(info))['img'], loader(dict(info))['img'])


@pytest.mark.parametrize('again', [False, True])
def test_masks_of_other_numbers_are_others(scenes, tmp_path, again):
    path = str(scenes.root / 'masks' / 'l0.png')
    for labels in (None, {0: 2, 2: 1}), (None, {0: 2, 1: 0}), (True, None), (None, None):
        info = dict(seg_map_path=path, reduce_zero_label=labels[0], label_map=labels[1])
        loaders = LoadAnnotations(), Cached(LoadAnnotations(), tmp_path)
        results = [one(dict(info, seg_fields=[])) for one in loaders for _ in range(1 + again)]
        assert all(one['seg_fields'] == ['gt_seg_map'] for one in results)
        first = results[0]['gt_seg_map']
        assert all(np.array_equal(one['gt_seg_map'], first) for one in results)
    assert len(kept(tmp_path)) == 4


def test_deep_images_are_left_alone(scenes, tmp_path):
    path = str(scenes.write('deep.png', np.full((5, 4, 3), 3000, np.uint16)))
    load = Cached(LoadChannels(), tmp_path)
    assert all((load(dict(img_path=path))['img'] == 3000).all() for _ in range(2))
    assert not kept(tmp_path)


def test_what_may_load_more_is_left_alone(scenes, tmp_path):
    class LoadMore(LoadImageFromFile):
        pass

    class Loud(LoadAnnotations):
        pass

    remote = LoadImageFromFile(backend_args=dict(backend='http'))
    plain, local = LoadImageFromFile(), LoadAnnotations()
    found = cached([LoadMore(), Loud(), remote, plain, local], tmp_path)
    assert [type(one) for one in found] == [LoadMore, Loud, LoadImageFromFile, Cached, Cached]
    assert cached([plain], tmp_path, backend_args=dict(backend='http')) == [plain]


def test_a_full_disk_is_said(scenes, tmp_path, monkeypatch, warnings_logged):
    usage = namedtuple('usage', 'total used free')(2**40, 2**40, 2**30 + 10)
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: usage)
    dataset = build(scenes, str(tmp_path / 'cache'))
    assert same(items(dataset), items(build(scenes, None))) and not kept(tmp_path / 'cache')
    said = [text for text in warnings_logged if 'nothing more is kept' in text]
    assert len(said) == 3  # once by each loader
    assert all('less than 1 GiB would be left on its disk' in text for text in said)


@pytest.mark.parametrize(
    ('number', 'remedy'),
    [(errno.ENOSPC, 'free some space'), (errno.EACCES, 'make it a folder that can be written')],
)
def test_what_ends_the_keeping_says_what_to_do(
    scenes, tmp_path, monkeypatch, warnings_logged, number, remedy
):
    def fail(*paths):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, 'replace', fail)
    items(build(scenes, str(tmp_path / 'cache')))
    said = [text for text in warnings_logged if 'nothing more is kept' in text]
    assert said and all(f'; {remedy}, or set train_dataloader.dataset.cache' in one for one in said)
    assert not [path for path in (tmp_path / 'cache').rglob('*') if path.is_file()]


@pytest.mark.parametrize('case', ['file', 'below a file'])
def test_a_folder_that_cannot_be_is_refused(scenes, tmp_path, case):
    (tmp_path / 'file').write_text('')
    folder = str(tmp_path / 'file' / ('deeper' if case == 'below a file' else ''))
    with pytest.raises(ValueError, match=r'^train_dataloader\.dataset\.cache is .*Name a folder'):
        build(scenes, folder)


@pytest.mark.parametrize('folder', ['', ' ', 'http://x/y', 1, True])
def test_what_is_no_folder_is_refused(scenes, tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(ValueError, match=r'dataset\.cache is .*: it is no folder\. Name a folder'):
        build(scenes, folder)
    assert sorted(tmp_path.rglob('*')) == before


def test_what_killed_runs_left_is_removed_and_what_is_being_written_is_not(scenes, tmp_path):
    build(scenes, str(tmp_path / 'cache'))
    old, new = (tmp_path / 'cache' / 'parts' / name for name in ('old', 'new'))
    old.write_bytes(b'x')
    new.write_bytes(b'x')
    os.utime(old, (1, 1))
    build(scenes, str(tmp_path / 'cache'))
    assert new.exists() and not old.exists()


def test_other_users_may_read_what_the_umask_lets_them(scenes, tmp_path):
    before = os.umask(0o022)
    try:
        items(build(scenes, str(tmp_path / 'cache')))
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in kept(tmp_path / 'cache')} == {0o644}
