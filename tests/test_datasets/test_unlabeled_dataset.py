import builtins
import os

import mmengine.fileio
import pytest
from mmseg.registry import DATASETS

from mmseg_semi.datasets import UnlabeledDataset


def names(dataset, folder):
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    return [os.path.relpath(info['img_path'], folder) for info in infos]


@pytest.fixture
def folder(tmp_path):
    """Empty files do: listing decodes nothing."""
    folder = tmp_path / 'pictures'
    for name in (
        'b.JPG', 'a.png', 'deep/er/c.Tiff', 'deep/a.webp', 'with space.jpg',
        'notes.txt', '._a.png', '.thumbs/t.jpg',
    ):  # fmt: skip
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def build(folder, **arguments):
    return UnlabeledDataset(
        data_root=str(folder.parent), data_prefix=dict(img_path=folder.name), **arguments
    )


def list_file(folder, text):
    (folder.parent / 'list.txt').write_text(text)
    return 'list.txt'


def test_folder_nested_mixed_suffixes_in_sorted_order(folder):
    expected = ['a.png', 'b.JPG', 'deep/a.webp', 'deep/er/c.Tiff', 'with space.jpg']
    assert names(build(folder), folder) == expected
    info = build(folder, metainfo=dict(classes=('x',))).get_data_info(1)
    assert info == dict(img_path=str(folder / 'b.JPG'), seg_fields=[], sample_idx=1)
    assert build(folder, metainfo=dict(classes=('x',))).metainfo == dict(classes=('x',))
    assert names(build(folder, img_suffix='.jpg'), folder) == ['b.JPG', 'with space.jpg']
    assert names(build(folder, indices=2), folder) == expected[:2]


def test_links_are_followed_but_not_for_ever(folder, tmp_path):
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    (elsewhere / 'far.png').touch()
    (folder / 'link').symlink_to(elsewhere)
    (folder / 'deep' / 'loop').symlink_to(folder)
    assert 'link/far.png' in names(build(folder), folder)
    assert len(build(folder)) == 6


def test_list_file_takes_names_with_and_without_suffix(folder, warnings_logged):
    text = '# comment\n\nb\n  a.png masks/a.png\ndeep/er/c\nwith space\ndeep/a.webp\nb.JPG\n'
    dataset = build(folder, ann_file=list_file(folder, text))
    expected = ['a.png', 'b.JPG', 'deep/a.webp', 'deep/er/c.Tiff', 'with space.jpg']
    assert names(dataset, folder) == expected
    assert len(warnings_logged) == 1 and 'names 1 images more than once' in warnings_logged[0]


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match='data_prefix.img_path: there is no folder .*nope'):
        build(tmp_path / 'nope')


def test_folder_without_image(tmp_path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'empty' / 'a.txt').touch()
    with pytest.raises(ValueError, match=r'empty holds no image \(suffixes looked for: .jpg'):
        build(tmp_path / 'empty')


def test_image_with_a_twin_is_refused(folder):
    (folder / 'deep' / 'a.png').touch()  # perhaps the mask of deep/a.webp
    with pytest.raises(ValueError, match=r'a.png = a.webp.*img_suffix=.*list file'):
        build(folder)
    assert len(build(folder, img_suffix=['.webp', '.jpg'])) == 3


@pytest.mark.parametrize(
    ('text', 'error', 'message'),
    [
        (None, FileNotFoundError, r'unlabeled.ann_file: there is no list file .*list.txt.*Correct'),
        ('\n# only this\n', ValueError, r'list.txt names no image'),
        (
            'a\n' + '\n'.join(f'x{i}' for i in range(7)),
            ValueError,
            r'7 of 8 names in .*list.txt have no image in .*: x0, x1, x2, x3, x4 and 2 more',
        ),
        ('notes.txt', ValueError, r'1 of 1 names .*suffixes looked for: .jpg'),
        ('deep/twin', ValueError, r'fit more than one image: deep/twin \(twin.jpg, twin.png\)'),
    ],
)
def test_wrong_list_files(folder, text, error, message):
    for suffix in ('jpg', 'png'):
        (folder / f'deep/twin.{suffix}').touch()
    if text is not None:
        list_file(folder, text)
    with pytest.raises(error, match=message):
        build(folder, ann_file='list.txt')


def test_wrong_suffix_argument(folder):
    with pytest.raises(ValueError, match='unlabeled.img_suffix is'):
        build(folder, img_suffix=())


def test_masks_are_never_looked_for(scenes, monkeypatch):
    (scenes.root / 'masks' / 'u0.png').write_bytes(b'garbage')
    opened = []
    get, plain_open = mmengine.fileio.get, builtins.open

    def spy_get(path, *args, **kwargs):
        opened.append(str(path))
        return get(path, *args, **kwargs)

    def spy_open(path, *args, **kwargs):
        opened.append(str(path))
        return plain_open(path, *args, **kwargs)

    monkeypatch.setattr(mmengine.fileio, 'get', spy_get)
    monkeypatch.setattr(builtins, 'open', spy_open)
    dataset = DATASETS.build(scenes.unlabeled())
    item = dataset[0]
    assert sorted(item) == ['data_samples', 'strong', 'weak']
    assert 'gt_sem_seg' not in item['data_samples']
    assert str(scenes.root / 'unlabeled/u0.png') in opened
    assert not any(path.startswith(str(scenes.root / 'masks')) for path in opened)
