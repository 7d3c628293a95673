"""Split files: hash, names of built datasets, layouts, checks, writing."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmseg.registry import DATASETS

from mmseg_semi.datasets.benchmark_layouts import (
    ADE20K,
    BENCHMARK_LAYOUTS,
    CITYSCAPES,
    COCO,
    LUCCHI,
    VOC12,
    BenchmarkLayout,
)
from mmseg_semi.datasets.split_checks import DataFiles, find_data, list_folder, verify_split
from mmseg_semi.datasets.splits import (
    NameList,
    Split,
    dataset_names,
    image_name,
    read_lines,
    read_names,
    split_hash,
    summary_lines,
    write_splits,
)
from mmseg_semi.errors import DataError


def split_of(labeled, unlabeled, name='s'):
    return Split(name, NameList(labeled), NameList(unlabeled))


# -------------------------------------------------------------------------------------------- hash
def test_hash_is_that_of_the_documented_bytes():
    expected = hashlib.sha256(b'a/1\nb\n\nc\nd\n').hexdigest()[:12]
    assert split_hash(['b', 'a/1'], ['d', 'c']) == expected == '408e3bfa0abe'
    assert split_hash(iter(['a/1', 'b']), ('c', 'd')) == expected
    assert split_hash(['\xe9', 'z'], []) == hashlib.sha256(b'z\n\xc3\xa9\n\n').hexdigest()[:12]


def test_hash_tells_parts_and_names_apart():
    hashes = [
        *(split_hash(['a', 'b'], ['c']), split_hash(['a'], ['b', 'c']), split_hash(['c'], ['a'])),
        *(split_hash(['a'], []), split_hash([], ['a']), split_hash(['a', 'a'], [])),
    ]
    assert len(set(hashes)) == 6


# -------------------------------------------------------------------------- names of built datasets
def test_names_of_labeled_datasets_wrapped_or_not(scenes):
    leaf = DATASETS.build(scenes.labeled())
    assert sorted(dataset_names(leaf)) == [f'l{i}' for i in range(5)]
    assert sorted(dataset_names(RepeatDataset(leaf, 3))) == [f'l{i}' for i in range(5)]
    scenes.split(['l3', 'l1'], 'other.txt')
    other = DATASETS.build(scenes.labeled(ann_file='other.txt'))
    joined = dataset_names(ConcatDataset([other, leaf]))
    assert sorted(joined) == ['l0', 'l1', 'l1', 'l2', 'l3', 'l3', 'l4']
    first = DATASETS.build(scenes.labeled(ann_file='other.txt', indices=1))
    assert dataset_names(first) == ['l3']


def test_names_of_unlabeled_datasets(scenes, monkeypatch):
    for name in ('city/a_0_leftImg8bit.png', 'city/b_0_leftImg8bit.png'):
        scenes.image(f'nested/{name}')
    (scenes.root / 'list.txt').write_text('city/b_0\n')
    nested = dict(data_prefix=dict(img_path='nested'), img_suffix='_leftImg8bit.png')
    folder = DATASETS.build(scenes.unlabeled(**nested))
    assert dataset_names(folder) == ['city/a_0', 'city/b_0']
    listed = DATASETS.build(scenes.unlabeled(ann_file='list.txt', **nested))
    assert dataset_names(listed) == ['city/b_0']
    monkeypatch.chdir(scenes.root)  # a root that paths do not begin with letter by letter
    here = scenes.unlabeled(data_root='./', ann_file='list.txt', **nested)
    assert dataset_names(DATASETS.build(here)) == ['city/b_0']
    (scenes.root / 'unlabeled' / 'u0.png').rename(scenes.root / 'unlabeled' / 'u0.PNG')
    assert dataset_names(DATASETS.build(scenes.unlabeled()))[0] == 'u0'


def test_a_dataset_without_a_list_has_no_names(scenes):
    assert dataset_names([1, 2]) is None
    methods = dict(get_data_info=lambda self, index: {}, __len__=lambda self: 1)
    leaf = type('Leaf', (), methods)()
    assert dataset_names(leaf) is None
    joined = SimpleNamespace(datasets=[DATASETS.build(scenes.labeled()), [1]])
    assert dataset_names(joined) is None


# ----------------------------------------------------------------------------------------- reading
@pytest.mark.parametrize(
    'content',
    [b'a\nb c\n', b'a\r\nb c\r\n', b'\xef\xbb\xbfa\n\n  b c', b'\n a \rb c\n\n'],
    ids=['plain', 'crlf', 'bom', 'cr'],
)
def test_lines_whatever_their_ends(tmp_path, content):
    (tmp_path / 'list.txt').write_bytes(content)
    assert [line for _, line in read_lines(tmp_path / 'list.txt')] == ['a', 'b c']


def test_lines_keep_their_numbers_and_unreadable_lists_are_named(tmp_path):
    path = tmp_path / 'list.txt'
    path.write_bytes(b'\n\na\r\n\r\nb')
    assert read_lines(path) == [(3, 'a'), (5, 'b')]
    for content, message in (
        (b'\n \n# a\n', 'list.txt names no image'),
        (b'a\xff', 'list.txt is no text in UTF-8: .* Save it as UTF-8'),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_lines(path)
    with pytest.raises(DataError, match='there is no list file .*none.txt'):
        read_lines(tmp_path / 'none.txt')


ULM = 'ulm/ulm_000061_000019'


@pytest.mark.parametrize(
    'layout, text, name',
    [
        (VOC12, 'JPEGImages/2007_000032.jpg', '2007_000032'),
        (VOC12, '2007_000032', '2007_000032'),
        (VOC12, '2007_000032.jpg', '2007_000032'),
        (VOC12, 'SegmentationClass/2007_000032.png', None),
        (VOC12, 'aachen/aachen_000000_000019', None),
        (CITYSCAPES, f'leftImg8bit/train/{ULM}_leftImg8bit.png', ULM),
        (CITYSCAPES, ULM, ULM),
        (CITYSCAPES, f'leftImg8bit/val/{ULM}_leftImg8bit.png', None),
        (CITYSCAPES, 'bochum/ulm_000061_000019', None),
        (COCO, 'train2017/000000000009.jpg', '000000000009'),
        (COCO, 'val2017/000000000009.jpg', None),
        (ADE20K, 'images/training/ADE_train_00000009.jpg', 'ADE_train_00000009'),
        (ADE20K, 'images/validation/ADE_val_00000009.jpg', None),
        (LUCCHI, 'images/train/slice_004.png', 'slice_004'),
    ],
)  # fmt: skip
def test_image_of_a_line(layout, text, name):
    assert image_name(text, layout, layout.img_dir) == name


def test_a_line_that_is_no_image_is_named(tmp_path):
    (tmp_path / 'labeled.txt').write_text('2007_000032\n\nimage_7\n')
    with pytest.raises(DataError, match=r"labeled.txt, line 3: 'image_7' .*JPEGImages/2007_000032"):
        read_names(tmp_path / 'labeled.txt', VOC12, 'JPEGImages')


# ----------------------------------------------------------------------------------------- layouts
def test_examples_fit_the_patterns_and_counts_fit_the_data():
    assert list(BENCHMARK_LAYOUTS) == ['voc12', 'cityscapes', 'coco', 'ade20k', 'lucchi']
    numbers = {name: one.num_train for name, one in BENCHMARK_LAYOUTS.items()}
    assert numbers == dict(voc12=10582, cityscapes=2975, coco=118287, ade20k=20210, lucchi=165)
    for layout in BENCHMARK_LAYOUTS.values():
        assert image_name(layout.example, layout, layout.img_dir) == layout.example
        names = [split.name for split in layout.published]
        assert len(set(names)) == len(names)
        assert all(str(split.labeled) in split.name for split in layout.published)


PUBLISHED = {
    (VOC12, 'unimatch'): dict(
        {str(n): str(n) for n in (92, 183, 366, 732, 1464)},
        **{'1_16': 'cps_662', '1_8': 'cps_1323', '1_4': 'cps_2646', 'u2pl_1_16': 'u2pl_662'},
        **{'u2pl_1_8': 'u2pl_1323', 'u2pl_1_4': 'u2pl_2646'},
    ),
    (VOC12, 'u2pl'): dict(
        {str(n): str(n) for n in (92, 183, 366, 732, 1464)},
        **{str(n): f'u2pl_{n}' for n in (662, 1323, 2646, 5291)},
        **{'cps_662': 'cps_662', 'u2pl_662': 'u2pl_662'},
    ),
    (CITYSCAPES, 'unimatch'): {
        **{'1_30': '100', '1_16': '186', '1_8': '372', '1_4': '744', '1_2': '1488'},
        '100': '100',
    },
    (CITYSCAPES, 'u2pl'): {str(n): f'u2pl_{n}' for n in (186, 372, 744, 1488)},
    (CITYSCAPES, 'own'): {'100': '100', 'u2pl_186': 'u2pl_186'},
    (COCO, 'unimatch'): {
        **{'1_512': '232', '1_256': '463', '1_128': '925', '1_64': '1849', '1_32': '3697'},
        '232': '232',
    },
    (ADE20K, 'unimatch'): {
        **{'1_64': '316', '1_32': '631', '1_16': '1263', '1_8': '2526', '1_4': '5052'},
        '631': '631',
    },
}


@pytest.mark.parametrize('key', PUBLISHED, ids=lambda key: f'{key[0].name}-{key[1]}')
def test_published_folders(key):
    layout, style = key
    found = {folder: layout.find_published(folder, style) for folder in PUBLISHED[key]}
    assert {folder: split.name for folder, split in found.items()} == PUBLISHED[key]
    for split in found.values():
        assert split.labeled == int(split.name.split('_')[-1])
    assert layout.find_published('mine', style) is None


@pytest.mark.parametrize(
    'layout, folder, style, cps, u2pl',
    [
        (VOC12, '662', 'unimatch', 'cps_662', 'u2pl_662'),
        (VOC12, '1_8', 'u2pl', 'cps_1323', 'u2pl_1323'),
        (CITYSCAPES, '186', 'own', '186', 'u2pl_186'),
        (CITYSCAPES, '1_2', 'u2pl', '1488', 'u2pl_1488'),
    ],
)
def test_folders_of_which_the_partition_must_be_said(layout, folder, style, cps, u2pl):
    with pytest.raises(DataError, match=rf'folder {folder}: .*--partition cps\|u2pl'):
        layout.find_published(folder, style)
    assert layout.find_published(folder, style, 'cps').name == cps
    assert layout.find_published(folder, style, 'u2pl').name == u2pl


def test_a_partition_that_a_folder_is_not():
    assert VOC12.find_published('92', 'u2pl', 'cps').name == '92'
    with pytest.raises(DataError, match='--partition cps: folder u2pl_1_16 is u2pl_662 of .* u2pl'):
        VOC12.find_published('u2pl_1_16', 'unimatch', 'cps')


# ---------------------------------------------------------------------------------------- checking
SMALL = BenchmarkLayout('small', '', 'img', 'ann', '.jpg', '.png', num_train=5, val_img_dir='val')
NAMES = frozenset('abcde')
ALL = DataFiles(NAMES, NAMES, sorted(NAMES), frozenset('v'))


def test_a_sound_split_passes():
    verify_split(split_of('ab', 'cde'), SMALL, 2, ALL, 'v')


@pytest.mark.parametrize(
    'labeled, unlabeled, changes, message',
    [
        ('aab', 'cd', {}, 'a stands here and in'),
        ('ab', 'bde', {}, 'b stands here and in'),
        ('ab', 'cd', {}, r'2 \+ 2 = 4 images, but small has 5 training images'),
        ('abc', 'de', {}, 'labeled.txt names 3 images, but the published split s has 2'),
        ('ab', 'cdv', {}, r'1 of 3 images \(v\) are validation images'),
        ('ab', 'cde', dict(val='e'), r'\(e\) are validation images'),
        ('ab', 'cde', dict(files=replace(ALL, images=NAMES - {'d'})), r'\(d\) are not in img'),
        ('ab', 'cde', dict(files=replace(ALL, masks=NAMES - {'a'})), r'\(a\) are without mask'),
        ('ab', 'cde', dict(files=replace(ALL, train=list('abcd'))), r'\(e\) are no training'),
        ('ab', 'cde', dict(files=replace(ALL, train=list('abcdef'))), 'neither part: f'),
    ],
    ids=[
        *('repeated', 'overlap', 'total', 'labeled', 'validation', 'listed-validation', 'image'),
        *('mask', 'not-training', 'left-out'),
    ],
)  # fmt: skip
def test_what_is_refused(labeled, unlabeled, changes, message):
    kwargs = {**dict(num_labeled=2, files=ALL), **changes}
    with pytest.raises(DataError, match=message):
        verify_split(split_of(labeled, unlabeled), SMALL, **kwargs)


def test_unlabeled_images_need_no_mask():
    verify_split(split_of('ab', 'cde'), SMALL, files=replace(ALL, masks=frozenset('ab')))


def test_places_in_files_are_named():
    labeled, unlabeled = NameList('ab', 'x/l.txt', [1, 2]), NameList('cbd', 'x/u.txt', [1, 4, 5])
    with pytest.raises(DataError, match=r'x/u.txt, line 4: b stands here and in x/l.txt, line 2;'):
        verify_split(Split('s', labeled, unlabeled), SMALL)
    unlabeled = NameList('cve', 'x/u.txt', [1, 4, 5])
    with pytest.raises(DataError, match=r'x/u.txt, line 4: 1 of 3 images'):
        verify_split(Split('s', labeled, unlabeled), SMALL, val='v')


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def test_what_is_on_the_disk(tmp_path):
    touch(tmp_path, 'img/a.jpg', 'img/c/b.jpg', 'img/.d.jpg', 'img/.x/e.jpg', 'img/f.png')
    touch(tmp_path, 'ann/a.png', 'val/v.jpg')
    files = find_data(SMALL, tmp_path)
    assert files == DataFiles(frozenset({'a', 'c/b'}), frozenset('a'), ['a', 'c/b'], frozenset('v'))
    assert not find_data(replace(SMALL, names_are_unique=False), tmp_path).val
    with pytest.raises(DataError, match='no folder .*none .*--data-root'):
        list_folder(tmp_path, 'none', '.jpg')
    with pytest.raises(DataError, match=r'img has no file \*.bmp'):
        list_folder(tmp_path, 'img', '.bmp')


def test_list_of_the_training_images(tmp_path):
    touch(tmp_path, 'img/a.jpg', 'img/b.jpg', 'img/v.jpg', 'ann/a.png')
    lists = dict(train_list='train.txt', train_list_tool='tools/t.py', val_list='val.txt')
    layout = replace(SMALL, val_img_dir='img', **lists)
    (tmp_path / 'val.txt').write_text('v')
    assert find_data(layout, tmp_path).train is None
    with pytest.raises(DataError, match='no list .*train.txt .*Run tools/t.py'):
        find_data(layout, tmp_path, need_train=True)
    (tmp_path / 'train.txt').write_text('b\nimg/a.jpg ann/a.png\n')
    files = find_data(layout, tmp_path, need_train=True)
    assert files.train == ['a', 'b'] and files.val == {'v'}


# ----------------------------------------------------------------------------------------- writing
def test_splits_are_written_in_their_order_and_then_kept(tmp_path):
    splits = [split_of('ba', 'edc', 'two'), split_of('c', 'abde', 'one')]
    assert write_splits(splits, tmp_path) == dict(two='written', one='written')
    assert (tmp_path / 'two' / 'labeled.txt').read_bytes() == b'b\na\n'
    assert (tmp_path / 'two' / 'unlabeled.txt').read_bytes() == b'e\nd\nc\n'
    assert sorted(path.name for path in tmp_path.rglob('*.*')) == [
        *('labeled.txt', 'labeled.txt', 'unlabeled.txt', 'unlabeled.txt')
    ]
    before = (tmp_path / 'two' / 'labeled.txt').stat().st_mtime_ns
    again = [split_of('ab', 'cde', 'two'), split_of('d', 'abce', 'three')]
    states = write_splits(again, tmp_path)
    assert states == dict(two='unchanged', three='written')
    assert (tmp_path / 'two' / 'labeled.txt').stat().st_mtime_ns == before
    lines = [' '.join(line.split()) for line in summary_lines(again, states)]
    assert lines[0] == f'two 2 labeled 3 unlabeled {split_hash("ab", "cde")} unchanged'


def test_another_split_is_refused_and_nothing_written(tmp_path):
    write_splits([split_of('a', 'bc', 'one')], tmp_path)
    new = [split_of('c', 'ab', 'zero'), split_of('b', 'ac', 'one')]
    with pytest.raises(DataError, match='one/labeled.txt exists .*--overwrite'):
        write_splits(new, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['one']
    assert (tmp_path / 'one' / 'labeled.txt').read_text() == 'a\n'
    write_splits(new, tmp_path, overwrite=True)
    assert (tmp_path / 'one' / 'labeled.txt').read_text() == 'b\n'


def test_half_a_split_is_completed_and_another_half_refused(tmp_path):
    split = split_of('a', 'bc')
    write_splits([split], tmp_path)
    (tmp_path / 's' / 'labeled.txt').unlink()
    assert write_splits([split], tmp_path) == dict(s='written')
    assert (tmp_path / 's' / 'labeled.txt').read_text() == 'a\n'
    (tmp_path / 's' / 'labeled.txt').unlink()
    (tmp_path / 's' / 'unlabeled.txt').write_bytes(b'')
    with pytest.raises(DataError, match='unlabeled.txt exists'):
        write_splits([split], tmp_path)


def test_a_write_that_is_cut_off_leaves_whole_files_and_is_completed(tmp_path, monkeypatch):
    splits = [split_of('a', 'bc', 'one'), split_of('ab', 'c', 'two')]
    replace_file, done = os.replace, []

    def second_fails(*args):
        if done:
            raise OSError(28, 'No space left on device')
        done.append(replace_file(*args))

    monkeypatch.setattr(os, 'replace', second_fails)
    with pytest.raises(OSError, match='No space'):
        write_splits(splits, tmp_path)
    monkeypatch.undo()
    files = [path for path in tmp_path.rglob('*') if path.is_file()]
    assert [path.read_text() for path in files] == ['a\n']
    assert write_splits(splits, tmp_path) == dict(one='written', two='written')
    assert write_splits(splits, tmp_path) == dict(one='unchanged', two='unchanged')
