"""Lists read alike everywhere, and files that a folder's suffix leaves out."""

import os
import shutil
from types import SimpleNamespace

import pytest
from mmseg.registry import DATASETS
from PIL import Image

from mmseg_semi.datasets.labeled_checks import build_labeled
from mmseg_semi.datasets.listed_files import load_data_list
from mmseg_semi.datasets.splits import dataset_names, read_lines
from mmseg_semi.files import check_paths

NAMES = ['l0', 'l2', 'größe 1']
TEXT = '\n'.join(NAMES)
SAME = {
    'plain': TEXT.encode(),
    'bom': TEXT.encode('utf-8-sig'),
    'utf16': TEXT.encode('utf-16'),
    'utf16be': b'\xfe\xff' + TEXT.encode('utf-16-be'),
    'crlf': TEXT.replace('\n', '\r\n').encode(),
    'cr': TEXT.replace('\n', '\r').encode(),
    'blank': f'\n\n  {TEXT}  \n \n'.encode(),
    'comments': f'# first\n{TEXT}\n# last'.encode(),
}
REFUSED = {
    'latin1': (TEXT.encode('latin-1'), "is no text in UTF-8: 'utf-8' codec can't decode"),
    'utf16_without_mark': (TEXT.encode('utf-16-le'), 'is no text in UTF-8'),
    'utf16_of_ascii': (b'l\x000\x00', 'is no text in UTF-8: it has NUL characters'),
    'utf32': (TEXT.encode('utf-32'), 'is no text in UTF-8'),
    'nothing': (b'', 'names no image. Write one image name a line'),
    'comment': (b'\n# l0\n', 'names no image'),
}


@pytest.fixture
def named(scenes):
    """Scenes with an image whose name is not ASCII, in both folders."""
    for name in ('images', 'masks'):
        shutil.copy(scenes.root / name / 'l1.png', scenes.root / name / f'{NAMES[2]}.png')
    return scenes


def listed(scenes, kind, **changes):
    """Names that a part takes from list.txt."""
    prefix = dict(img_path='images') if kind == 'unlabeled' else None
    if kind == 'unlabeled':
        dataset = DATASETS.build(scenes.unlabeled(ann_file='list.txt', data_prefix=prefix))
        dataset.full_init()
    elif kind == 'labeled':
        dataset = build_labeled(scenes.labeled(ann_file='list.txt', **changes))
    else:  # as a runner builds validation and test data
        check_paths(scenes.labeled(ann_file='list.txt'), 'val_dataloader.dataset')
        dataset = DATASETS.build(scenes.labeled(ann_file='list.txt', test_mode=True))
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    return [os.path.splitext(os.path.basename(info['img_path']))[0] for info in infos]


@pytest.mark.parametrize('kind', ['labeled', 'unlabeled', 'val'])
@pytest.mark.parametrize('content', SAME.values(), ids=SAME)
def test_lists_that_all_parts_read(named, kind, content):
    (named.root / 'list.txt').write_bytes(content)
    assert sorted(listed(named, kind)) == sorted(NAMES)
    assert [line for _, line in read_lines(named.root / 'list.txt')] == NAMES


@pytest.mark.parametrize('kind', ['labeled', 'unlabeled', 'val'])
@pytest.mark.parametrize(('content', 'message'), REFUSED.values(), ids=REFUSED)
def test_lists_that_all_parts_refuse(named, kind, content, message):
    (named.root / 'list.txt').write_bytes(content)
    key = 'val_dataloader.dataset' if kind == 'val' else kind
    with pytest.raises(ValueError, match=rf'^{key}\.ann_file: the .*list\.txt {message}'):
        listed(named, kind)


@pytest.mark.parametrize('kind', ['labeled', 'unlabeled', 'val'])
def test_images_named_twice_are_taken_once(named, kind, warnings_logged):
    (named.root / 'list.txt').write_text('l0\nl2\nl0\nl0\n')
    assert listed(named, kind) == ['l0', 'l2']
    assert len(warnings_logged) == 1
    assert 'list.txt names 2 images more than once; each is taken once' in warnings_logged[0]


def test_samples_are_those_of_mmseg(scenes):
    ours = build_labeled(scenes.labeled())
    assert ours.get_data_info(0) == dict(
        img_path=str(scenes.root / 'images/l0.png'),
        seg_map_path=str(scenes.root / 'masks/l0.png'),
        label_map=None,
        reduce_zero_label=False,
        seg_fields=[],
        sample_idx=0,
    )
    folder = build_labeled(scenes.labeled(ann_file=''))
    assert [folder.get_data_info(i) for i in range(5)] == [ours.get_data_info(i) for i in range(5)]


# ------------------------------------------------------------------------------ left out
def rename(scenes, old, new):
    (scenes.root / 'images' / old).rename(scenes.root / 'images' / new)


def test_images_of_other_suffixes_are_refused_with_counts_and_names(scenes):
    for number, suffix in ((1, 'PNG'), (2, 'jpeg'), (3, 'JPG')):
        rename(scenes, f'l{number}.png', f'l{number}.{suffix}')
    with pytest.raises(ValueError) as error:
        build_labeled(scenes.labeled(ann_file=''))
    assert str(error.value) == (
        f'labeled: 3 files of {scenes.root / "images"} end in .JPG, .PNG, .jpeg and would not be '
        "used with img_suffix='.png': l1.PNG, l2.jpeg, l3.JPG. Give all images one suffix, upper "
        'and lower case alike, or name those to use in a list file (ann_file).'
    )
    assert len(build_labeled(scenes.labeled(ann_file='split.txt', indices=[0]))) == 1


def test_images_that_differ_in_case_alone_are_refused_without_masks_too(scenes):
    scenes.image('images/deep/more.png').rename(scenes.root / 'images/deep/more.PNG')
    with pytest.raises(ValueError, match='1 files of .* end in .PNG .*: deep/more.PNG'):
        build_labeled(scenes.labeled(ann_file=''))


def test_all_images_of_another_suffix(scenes):
    for number in range(5):
        rename(scenes, f'l{number}.png', f'l{number}.PNG')
    with pytest.raises(ValueError, match=r"ends in img_suffix='.png' \(it has 5 files \*\.PNG\)"):
        build_labeled(scenes.labeled(ann_file=''))
    with pytest.raises(ValueError, match=r'have no image: .*l0.png.* \(there is .*images/l0.PNG,'):
        build_labeled(scenes.labeled())


def test_other_images_and_lone_masks_are_a_warning(scenes, warnings_logged):
    scenes.image('images/l0_preview.jpg')
    scenes.mask('masks/x.png', [[0]])
    (scenes.root / 'images/.l9.jpg').touch()
    (scenes.root / 'images/notes.txt').touch()
    assert len(build_labeled(scenes.labeled(ann_file=''))) == 5
    assert len(warnings_logged) == 2
    assert (
        'labeled: 1 files of ' in warnings_logged[0] and ': l0_preview.jpg. ' in warnings_logged[0]
    )
    assert 'labeled: 1 masks of ' in warnings_logged[1]
    assert 'have no image: x.png. ' in warnings_logged[1]


@pytest.mark.parametrize('below', ['', 'masks'])
def test_masks_beside_or_below_the_images_are_not_left_out(scenes, below, warnings_logged):
    import cv2

    for number in range(5):
        path = scenes.root / f'images/l{number}.png'
        cv2.imwrite(str(path.with_suffix('.jpg')), cv2.imread(str(path)))
        path.unlink()
        folder = scenes.root / 'images' / below
        folder.mkdir(exist_ok=True)
        shutil.copy(scenes.root / f'masks/l{number}.png', folder)
    prefix = dict(img_path='images', seg_map_path=os.path.join('images', below))
    config = scenes.labeled(ann_file='', img_suffix='.jpg', data_prefix=prefix)
    assert len(build_labeled(config)) == 5
    assert warnings_logged == []


@pytest.mark.parametrize('kind', ['labeled', 'unlabeled', 'val'])
def test_hidden_folders_are_never_used(scenes, kind, monkeypatch):
    """Jupyter's copies of what has been opened; the part itself may lie in a hidden folder."""
    texts = []
    name = 'mmseg_semi.datasets.listed_files.print_log'
    monkeypatch.setattr(name, lambda text, **_: texts.append(text))
    inside = scenes.root / '.data'
    inside.mkdir()
    for name in ('images', 'masks', 'unlabeled'):
        (scenes.root / name).rename(inside / name)
    scenes.root = inside
    for name in ('images', 'masks', 'unlabeled'):
        folder = scenes.root / name / 'a' / '.ipynb_checkpoints'
        folder.mkdir(parents=True)
        first = next((scenes.root / name).glob('*.png'))
        shutil.copy(first, folder / 'l1-checkpoint.png')
        shutil.copy(first, scenes.root / name / 'a' / 'l9.png')
        shutil.copy(first, scenes.root / name / '.l1.png')
    config = dict(unlabeled=scenes.unlabeled, labeled=scenes.labeled, val=scenes.labeled)[kind]
    dataset = DATASETS.build(config(ann_file=''))
    dataset.full_init()
    paths = [dataset.get_data_info(i)['img_path'] for i in range(len(dataset))]
    assert len(paths) == (8 if kind == 'unlabeled' else 6)
    assert not any('/.' in os.path.relpath(path, scenes.root) for path in paths)
    folder = scenes.root / 'images'
    assert texts == (
        [] if kind == 'unlabeled' else [f'1 images in hidden folders of {folder} are left out']
    )


def mixed(scenes):
    """Images of three kinds, the last suffix in capitals."""
    for number, suffix in ((1, '.jpg'), (2, '.JPEG')):
        path = scenes.root / f'images/l{number}.png'
        Image.open(path).convert('RGB').save(path.with_suffix('.jpg'))
        path.unlink()
        path.with_suffix('.jpg').rename(path.with_suffix(suffix))
    return ('.jpg', '.jpeg', '.png')


def test_images_of_several_suffixes(scenes, warnings_logged):
    suffixes = mixed(scenes)
    files = ['l0.png', 'l1.jpg', 'l2.JPEG', 'l3.png', 'l4.png']
    (scenes.root / 'list.txt').write_text('l2\nl0\n')
    for ann_file, wanted in (('', files), ('list.txt', ['l2.JPEG', 'l0.png'])):
        dataset = build_labeled(scenes.labeled(ann_file=ann_file, img_suffix=suffixes))
        infos = [dataset.get_data_info(i) for i in range(len(dataset))]
        assert [os.path.basename(info['img_path']) for info in infos] == wanted
        masks = [os.path.basename(info['seg_map_path']) for info in infos]
        assert masks == [f'{os.path.splitext(name)[0]}.png' for name in wanted]
        assert dataset_names(dataset) == [os.path.splitext(name)[0] for name in wanted]
    assert warnings_logged == []
    scenes.mask('masks/x.png', [[0]])
    build_labeled(scenes.labeled(ann_file='', img_suffix=suffixes))
    assert '1 masks of ' in warnings_logged[0] and 'have no image: x.png' in warnings_logged[0]


def test_names_that_are_not_there_or_twice_with_several_suffixes(scenes):
    suffixes = mixed(scenes)
    (scenes.root / 'list.txt').write_text('l0\nl9\n')
    with pytest.raises(ValueError, match='have no image: .*l9'):
        build_labeled(scenes.labeled(ann_file='list.txt', img_suffix=suffixes))
    shutil.copy(scenes.root / 'images/l1.jpg', scenes.root / 'images/l1.png')
    with pytest.raises(ValueError, match='l1.jpg and l1.png, which differ in their suffix alone'):
        build_labeled(scenes.labeled(ann_file='', img_suffix=suffixes))


def test_several_suffixes_that_can_not_be(scenes):
    with pytest.raises(ValueError, match=r'img_suffix=\(\): give a suffix'):
        build_labeled(scenes.labeled(ann_file='', img_suffix=()))
    dataset = SimpleNamespace(img_suffix=('.jpg', '.png'), backend_args=dict(backend='petrel'))
    with pytest.raises(ValueError, match='must have one suffix: set it to that one'):
        load_data_list(dataset)
