"""mmseg-semi check finds each planted fault under its number, with its file, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from leaves import CLASSES, leaves_config, make_leaves
from mmengine.registry import DefaultScope
from PIL import Image

from mmseg_semi.apis import check
from mmseg_semi.datasets.findings import KINDS, Findings
from mmseg_semi.utils.config import load_config

LABELED = 'train_dataloader.dataset.labeled'
TEST_PART = """
folders = dict(img_path='images/test', seg_map_path='annotations/test')
test_dataloader = dict(dataset=dict(data_prefix=folders))
"""


@pytest.fixture(scope='module')
def clean(tmp_path_factory) -> Path:
    """Data without a fault."""
    return make_leaves(tmp_path_factory.mktemp('clean') / 'leaves', 6, 6, 4, 4)


@pytest.fixture
def root(clean, tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return Path(shutil.copytree(clean, tmp_path / 'leaves'))


def look(root: Path, options: dict) -> Findings:
    cfg = load_config(str(leaves_config(root.parent / 'config.py', root, TEST_PART)), options)
    with DefaultScope.overwrite_default_scope('mmseg'):
        return check.check_data(cfg)[0]


def test_clean_data_have_no_finding(root):
    assert list(look(root, {}).numbered()) == []


# A fault takes the folder of the data; it gives the files that are wrong, or config keys.
FAULTS: dict[str, tuple[str, Callable[[Path], object]]] = {}
#: What else such data have, as a matter of course.
ALSO = {
    'a_class_that_the_config_lacks': {'E20'},
    'an_image_is_turned': {'N43'},
    'no_class_at_all': {'W25'},
    'zero_and_255': {'W30'},
    'a_class_is_missing': {'W30'},
    'only_validation_has_a_class': {'W22'},
    'zeros_unknown': {'W25'},
    'an_image_with_alpha': {'N44'},
    'an_image_of_16_bits': {'N44', 'W40'},
}


def fault(*numbers: str) -> Callable:
    def add(plant: Callable) -> Callable:
        FAULTS[plant.__name__] = (numbers[0], plant)
        return plant

    return add


def files(root: Path, kind: str, part: str) -> list[Path]:
    return sorted((root / kind / part).iterdir())


def image(root: Path, part: str = 'labeled', place: int = 0) -> Path:
    return files(root, 'images', part)[place]


def mask(root: Path, part: str = 'labeled', place: int = 0) -> Path:
    return files(root, 'annotations', part)[place]


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def write(path: Path, pixels: np.ndarray, **options) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def change(root: Path, function: Callable, *parts: str) -> list[Path]:
    """Change all masks of parts."""
    found = [path for part in parts or ('labeled',) for path in files(root, 'annotations', part)]
    return [write(path, function(read(path)).astype(np.uint8)) for path in found]


def cut(path: Path, size: int = 300) -> Path:
    path.write_bytes(path.read_bytes()[:size])
    return path


# ------------------------------------------------------------------------------ config and lists
@fault('E01')
def a_weight_below_0(root):
    return {'model.supervised_weight': -1}


@fault('E02')
def no_such_folder(root):
    return {'val_dataloader.dataset.data_root': str(root / 'nowhere')}


@fault('E02')
def no_such_list(root):
    return {f'{LABELED}.ann_file': 'labeled.txt'}


@fault('E03')
def more_classes_than_outputs(root):
    return {'model.segmentor.decode_head.num_classes': 2}


@fault('E03')
def classes_in_another_order(root):
    return {'val_dataloader.dataset.metainfo.classes': CLASSES[::-1]}


@fault('E04')
def an_odd_batch(root):
    return {'train_dataloader.batch_size': 3}


@fault('E05')
def no_image_of_validation(root):
    for path in files(root, 'images', 'val'):
        path.unlink()


@fault('E05')
def no_unlabeled_image(root):
    for path in files(root, 'images', 'unlabeled'):
        path.unlink()


@fault('E06')
def a_name_without_image(root):
    (root / 'labeled.txt').write_text('l0\nl9\n')
    return {f'{LABELED}.ann_file': 'labeled.txt'}, [root / 'images/labeled/l9.jpg']


@fault('E07')
def no_mask(root):
    path = mask(root)
    path.unlink()
    return path


@fault('E07')
def no_mask_of_validation(root):
    path = mask(root, 'val', 2)
    path.unlink()
    return path


@fault('E07')
def a_mask_with_an_end(root):
    mask(root).rename(root / 'annotations/labeled/l0_mask.png')
    return root / 'annotations/labeled/l0.png'


@fault('E08')
def two_images_of_a_name(root):
    write(image(root).with_suffix('.png'), read(image(root)))


@fault('W09')
def a_mask_without_image(root):
    return write(root / 'annotations/labeled/lone.png', read(mask(root)))


@fault('W19')
def a_name_twice(root):
    path = root / 'labeled.txt'
    path.write_text('l0\nl1\nl2\nl3\nl1\n')
    return {f'{LABELED}.ann_file': 'labeled.txt'}, [path]


@fault('W19')
def an_unlabeled_name_twice(root):
    path = root / 'unlabeled.txt'
    path.write_text('u0\r\nu1\r\nu0\r\nu2\r\nu3\r\n')
    return {'train_dataloader.dataset.unlabeled.ann_file': 'unlabeled.txt'}, [path]


# ------------------------------------------------------------------------------------ files
@fault('E10')
def an_image_is_cut(root):
    return cut(image(root, 'unlabeled', 3), 900)


@fault('E10')
def an_image_is_empty(root):
    return cut(image(root), 0)


@fault('E10')
def an_image_is_text(root):
    image(root, 'val').write_text('not found')
    return image(root, 'val')


@fault('E11')
def a_mask_is_cut(root):
    return cut(mask(root, 'val'), 100)


@fault('E11')
def a_mask_is_empty(root):
    return cut(mask(root), 0)


@fault('E12')
def a_mask_is_a_jpeg(root):
    return write(mask(root), read(mask(root)), format='JPEG')


@fault('E13')
def a_mask_is_colored(root):
    return write(mask(root), np.stack([read(mask(root)) * 90] * 3, axis=2))


@fault('E13')
def a_mask_has_alpha(root):
    return write(mask(root, 'val'), np.stack([read(mask(root, 'val'))] * 4, axis=2))


@fault('E14')
def a_mask_of_two_pages(root):
    page = Image.open(mask(root))
    page.load()
    page.save(mask(root), format='TIFF', save_all=True, append_images=[page])
    return mask(root)


@fault('E15')
def a_mask_is_smaller(root):
    return write(mask(root), read(mask(root))[::2, ::2])


@fault('E15')
def a_mask_lies_on_its_side(root):
    return write(mask(root, 'val'), np.ascontiguousarray(read(mask(root, 'val')).T))


@fault('E16')
def an_image_is_turned(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    write(image(root), read(image(root)), exif=exif)
    return mask(root)


@fault('W16')
def an_image_is_mirrored(root):
    exif = Image.Exif()
    exif[0x0112] = 2
    return write(image(root), read(image(root)), exif=exif)


@fault('E17')
def two_palettes(root):
    for place, colors in ((0, [0, 0, 0, 9, 9, 9]), (1, [0, 0, 0, 50, 9, 9])):
        one = Image.fromarray(read(mask(root, place=place)), 'P')
        one.putpalette(colors)
        one.save(mask(root, place=place))
    return mask(root, place=1)


# ------------------------------------------------------------------------------------ values
@fault('E20')
def classes_from_seven(root):
    return write(mask(root), read(mask(root)) + 7)


@fault('E20')
def classes_from_one(root):
    return change(root, lambda one: one + 1, 'labeled', 'val', 'test')


@fault('E20')
def gray_levels(root):
    return change(root, lambda one: one * 64)


@fault('E20')
def a_mask_of_16_bits(root):
    return write(mask(root), read(mask(root)).astype(np.uint16) * 300)


@fault('E21')
def no_class_at_all(root):
    return change(root, lambda one: np.full_like(one, 255))


@fault('E22')
def zero_and_255(root):
    return change(root, lambda one: np.where(one > 0, 255, 0))


@fault('W22')
def a_class_is_missing(root):
    return change(root, lambda one: np.minimum(one, 1))


@fault('W23')
def a_mask_is_blank(root):
    return write(mask(root), np.full_like(read(mask(root)), 255))


@fault('W18')
def statistics_of_other_images(root):
    moments = dict.fromkeys(('mean', 'std', 'min', 'max'), [1.0, 2.0, 3.0])
    content = dict(in_channels=3, dtype='uint8', images=6, files='others', **moments)
    path = root / 'channels.json'
    path.write_text(json.dumps(content))
    return {'in_channels': 3}, [path]


@fault('W24')
def zeros_unknown(root):
    found = change(root, lambda one: np.where(np.arange(64) < 40, 0, one + 1))
    return {f'{LABELED}.reduce_zero_label': True}, found


@fault('W25')
def most_is_unknown(root):
    return change(root, lambda one: np.where(np.arange(64) < 40, 255, one), 'val')


@fault('W26')
def a_rare_class(root):
    change(root, lambda one: np.minimum(one, 1))
    pixels = read(mask(root)).copy()
    pixels[:2, :1] = 2
    return write(mask(root), pixels)


@fault('W27')
def a_class_is_nearly_everything(root):
    y, x = np.mgrid[:48, :64]
    for part, left in (('labeled', 10), ('val', 20), ('test', 30)):
        change(root, lambda one: 1 * (abs(x - left) < 4) + (abs(x - left) < 2), part)  # noqa: B023
        change(root, lambda one: np.where(abs(y - 20) < 8, one, 0), part)


@fault('W28')
def two_classes_are_exchanged(root):
    return change(root, lambda one: np.choose(one, [1, 0, 2]), 'val')


@fault('W29')
def one_class_a_mask(root):
    found = change(root, lambda one: np.zeros_like(one))
    for number, path in enumerate(found):
        write(path, np.full((48, 64), number % 3, np.uint8))
    return found


@fault('W30')
def only_validation_has_a_class(root):
    change(root, lambda one: np.minimum(one, 1), 'labeled')
    return files(root, 'annotations', 'val')


# ------------------------------------------------------------------------------------ copies
def resaved(source: Path, target: Path) -> Path:
    """The same image, smaller and in another quality."""
    pixels = cv2.resize(read(source), (60, 45), interpolation=cv2.INTER_AREA)
    return write(target, pixels, quality=80)


def with_mask(path: Path) -> Path:
    """Make a mask of three classes for a further image."""
    pixels = np.zeros(read(path).shape[:2], np.uint8)
    pixels[10:20], pixels[30:38] = 1, 2
    write(Path(str(path).replace('images', 'annotations')).with_suffix('.png'), pixels)
    return path


@fault('E31')
def a_labeled_image_validates(root):
    return with_mask(Path(shutil.copy(image(root, 'val'), root / 'images/labeled/copy.jpg')))


@fault('E31')
def a_labeled_image_is_a_link(root):
    link = root / 'images/labeled/link.jpg'
    link.symlink_to(image(root, 'test'))
    return with_mask(link)


@fault('E32')
def an_unlabeled_image_validates(root):
    return Path(shutil.copy(image(root, 'val'), root / 'images/unlabeled/copy.jpg'))


@fault('W33')
def a_labeled_image_looks_like_a_test_one(root):
    return with_mask(resaved(image(root, 'test'), root / 'images/labeled/again.jpg'))


@fault('W34')
def an_unlabeled_image_looks_like_a_validation_one(root):
    return resaved(image(root, 'val'), root / 'images/unlabeled/again.jpg')


@fault('W35')
def an_unlabeled_image_is_labeled(root):
    return Path(shutil.copy(image(root), root / 'images/unlabeled/copy.jpg'))


@fault('N36')
def an_unlabeled_image_looks_like_a_labeled_one(root):
    return resaved(image(root), root / 'images/unlabeled/again.jpg')


@fault('N38')
def a_labeled_image_twice(root):
    return with_mask(resaved(image(root), root / 'images/labeled/l0again.jpg'))


@fault('W37')
def a_test_image_validates(root):
    return with_mask(Path(shutil.copy(image(root, 'val'), root / 'images/test/copy.jpg')))


@fault('W37')
def a_test_image_looks_like_a_validation_one(root):
    return with_mask(resaved(image(root, 'val'), root / 'images/test/again.jpg'))


# ------------------------------------------------------------------------------------ kinds
def as_png(path: Path, pixels: np.ndarray) -> Path:
    path.unlink()
    return write(path.with_suffix('.png'), pixels)


@fault('W39')
def a_small_part_is_cropped(root):
    size = dict(scale=(4096, 1024), ratio_range=(1.0, 2.0))
    return {f'train_dataloader.dataset.geometry.resize.{k}': v for k, v in size.items()}, files(
        root, 'images', 'labeled'
    )


@fault('W40')
def a_gray_image(root):
    return write(image(root), read(image(root))[..., 1])


@fault('W40')
def an_image_with_alpha(root):
    return as_png(image(root), np.dstack([read(image(root)), np.full((48, 64), 255, np.uint8)]))


@fault('W41')
def an_image_of_16_bits(root):
    path = image(root, 'unlabeled', 2)
    pixels = read(path)[..., 0].astype(np.uint16) * 256
    return as_png(path, pixels)


@fault('W42')
def a_huge_image(root):
    path = image(root, 'unlabeled', 1)
    return write(path, cv2.resize(read(path), (640, 480)))


@fault('N43')
def a_portrait(root):
    path = image(root, 'unlabeled', 1)
    return write(path, np.ascontiguousarray(read(path).transpose(1, 0, 2)))


@fault('N44')
def another_suffix(root):
    path = image(root, 'unlabeled', 1)
    return as_png(path, read(path))


@fault('W45')
def the_crop_is_larger(root):
    key = 'train_dataloader.dataset.geometry.crop.crop_size'
    return {key: (96, 96)}, files(root, 'images', 'unlabeled')


@fault('W46')
def a_batch_is_larger_than_the_part(root):
    return {'train_dataloader.batch_size': 16}


@fault('W47')
def small_objects(root):
    y, x = np.mgrid[:48, :64]
    grid = (y % 12 < 2) & (x % 12 < 3)
    return change(root, lambda one: np.where(grid, 2, one > 0))


@fault('W48')
def noisy_masks(root):
    noise = np.random.default_rng(0).random((48, 64)) < 0.02
    return change(root, lambda one: np.where(noise, 2, one))


@fault('N49')
def masks_of_unlabeled_images(root):
    folder = root / 'annotations/unlabeled'
    folder.mkdir()
    return write(folder / 'u3.png', read(mask(root)))


def all_images(root: Path, suffix: str, save: Callable[[Path, int], None]) -> list[Path]:
    """Save all labeled images anew, as another kind."""
    paths = []
    for i, path in enumerate(files(root, 'images', 'labeled')):
        path.unlink()
        paths.append(path.with_suffix(suffix))
        save(paths[-1], i)
    return paths


@fault('E51')
def images_of_seven_channels(root):
    pixels = np.random.default_rng(0).integers(0, 4000, (6, 48, 64, 7)).astype(np.uint16)
    return all_images(root, '.tif', lambda path, i: tifffile.imwrite(path, pixels[i]))


@fault('E51')
def images_of_32_bits(root):
    pixels = np.random.default_rng(0).random((6, 48, 64), np.float32)
    return all_images(root, '.tif', lambda path, i: tifffile.imwrite(path, pixels[i]))


@fault('E51')
def arrays(root):
    pixels = np.random.default_rng(0).random((6, 48, 64, 2), np.float32)
    return all_images(root, '.npy', lambda path, i: np.save(path, pixels[i]))


@fault('W52')
def classes_that_the_file_calls_otherwise(root):
    (root / 'classes.json').write_text(json.dumps(dict(classes=[*CLASSES[:-1], 'spots'])))
    return root / 'classes.json'


@fault('E52')
def classes_that_the_file_has_in_another_order(root):
    (root / 'classes.json').write_text(json.dumps(dict(classes=CLASSES[::-1])))
    return root / 'classes.json'


@fault('E52')
def a_class_that_the_config_lacks(root):
    change(root, lambda one: np.where(one == 1, len(CLASSES), one))
    (root / 'classes.json').write_text(json.dumps(dict(classes=[*CLASSES, 'more'])))
    return root / 'classes.json'


@fault('E53')
def weights_that_are_not_there(root):
    return {'weights': str(root / 'nothing.pth')}


@pytest.mark.parametrize('name', FAULTS)
def test_a_planted_fault_is_found(root, name):
    number, plant = FAULTS[name]
    wrong = plant(root) or []
    options, wrong = wrong if isinstance(wrong, tuple) else (wrong, [])
    if not isinstance(options, dict):
        options, wrong = {}, options if isinstance(options, list) else [options]
    found: dict[str, set[str]] = {}
    for _, key, one in look(root, options).numbered():
        found.setdefault(key, set()).update(one.files)
    assert found.keys() == {number} | ALSO.get(name, set())
    assert {str(path) for path in wrong} <= found[number]


def test_the_channels_of_images_of_other_kinds_are_named(root):
    images_of_seven_channels(root)
    (one,) = look(root, {}).errors
    assert ': 6 of 6 images are not photographs of 8 or 16 bits' in one
    assert '/l0.tif (7 of uint16), ' in one and ' and 1 more. ' in one
    assert 'Set in_channels = 7 at the top' in one and "type='LoadChannels', in_channels=7" in one


def test_a_mask_of_another_name_is_hinted_at(root):
    path = mask(root).rename(root / 'annotations/labeled/l0_mask.png')
    (one,) = look(root, {}).errors
    assert f'/l0.png (there is {path}). ' in one


def test_all_kinds_but_that_of_a_step_are_planted():
    assert {int(number[1:]) for number, _ in FAULTS.values()} == KINDS.keys() - {50}
    assert len(FAULTS) >= 40


def test_parts_that_could_not_be_looked_at_are_named(root):
    mask(root).unlink()
    mask(root, 'test').unlink()
    found = look(root, {})
    assert found.unseen == ['train_dataloader.dataset', 'test_dataloader.dataset']
    assert look(root, {'train_dataloader.dataset.labeled.data_root': 'nowhere'}).unseen == [
        'train_dataloader.dataset',
        'test_dataloader.dataset',
    ]


def test_advice_for_a_large_class_is_a_line_of_the_config(root):
    a_class_is_nearly_everything(root)
    (found,) = (one for one in look(root, {}).warnings if one.kind == 27)
    weights = 'model.segmentor.decode_head.loss_decode.class_weight=[1.0, '
    assert found.remedy.startswith(f'Weigh the others with {weights}')
    assert found.remedy.count('class_weight') == 1
