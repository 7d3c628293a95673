"""Faults of images and masks that are found before the first iteration."""

import io
import os

import cv2
import numpy as np
import pytest
from mmseg.registry import DATASETS
from PIL import Image
from scene_files import LABELED_PIPELINE

from mmseg_semi.datasets.part_checks import Part, check_parts


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def find(scenes, role='train', skip=False, **changes):
    """Errors and warnings of a part of the scenes."""
    config = scenes.unlabeled() if role == 'unlabeled' else scenes.labeled(**changes)
    found = check_parts([Part('key', DATASETS.build(config), role, skip)])
    return found.errors, found.warnings


def set_masks(scenes, change, numbers=range(5)):
    for i in numbers:
        path = scenes.root / f'masks/l{i}.png'
        cv2.imwrite(str(path), change(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))


def binary(scenes, low, high):
    """Masks of two values, 640 pixels of each."""
    for i in range(5):
        scenes.mask(f'masks/l{i}.png', [[low] * 40] * 16 + [[high] * 40] * 16)


def one(texts):
    assert len(texts) == 1, texts
    return texts[0]


TWO = dict(metainfo=dict(classes=('ground', 'tree')))


def test_sound_data(scenes):
    assert find(scenes) == find(scenes, 'val') == find(scenes, 'unlabeled') == ([], [])


# ------------------------------------------------------------------------------------ values
@pytest.mark.parametrize(
    ('low', 'high', 'name', 'write'),
    [(0, 255, 'tree', 1), (255, 0, 'tree', 1), (1, 255, 'ground', 0)],
)
def test_one_class_and_255(scenes, low, high, name, write):
    binary(scenes, low, high)
    errors, warnings = find(scenes, **TWO)
    known = min(low, high)
    assert one(errors) == (
        f"key: 1 of 2 classes have no pixel in any of the 5 masks: '{name}'. The masks hold "
        f'{known}: 3200 pixels, 255: 3200 pixels, and 255 is unknown. If 255 is meant to be '
        f"'{name}', write {write} instead."
    )
    assert warnings == []
    assert find(scenes, 'val', **TWO) == ([], errors)


def test_two_of_three_classes_without_a_pixel(scenes):
    binary(scenes, 0, 255)
    assert 'meant to be one of these classes, write its number' in one(find(scenes)[0])
    binary(scenes, 0, 0)
    errors, warnings = find(scenes)
    assert errors == []
    assert one(warnings).startswith("key: 2 of 3 classes have no pixel in any of the 5 masks: 'tr")


def test_a_class_without_a_pixel_beside_unknown_ones(scenes):
    set_masks(scenes, lambda mask: np.where(mask == 2, 255, mask))
    errors, warnings = find(scenes)
    assert errors == []
    assert "no pixel in any of the 5 masks: 'house'. " in one(warnings)
    assert warnings[0].endswith("If 255 is meant to be 'house', write 2 instead.")


def test_masks_without_a_known_pixel(scenes):
    set_masks(scenes, lambda mask: np.full_like(mask, 255))
    assert one(find(scenes)[0]) == (
        'key: none of the 5 masks has a pixel of any class, so there is nothing to learn from: '
        'they hold 255: 6400 pixels, and 255 is unknown. Write the numbers of the classes, 0 to 2.'
    )
    assert 'compare with: every score will be nan' in one(find(scenes, 'val')[0])
    errors, warnings = find(scenes, 'test')
    assert (errors, len(warnings)) == ([], 1)


def test_some_masks_without_a_known_pixel(scenes):
    set_masks(scenes, lambda mask: np.full_like(mask, 255), [1, 3])
    errors, warnings = find(scenes)
    assert errors == []
    text = r'key: 2 of 5 masks have no pixel of any class, so nothing is learned from them: '
    assert one(warnings).startswith(text + str(scenes.root / 'masks/l1.png'))
    assert 'l3.png' in warnings[0]


def test_masks_that_start_at_0_with_reduce_zero_label(scenes):
    binary(scenes, 0, 1)
    errors, warnings = find(scenes, reduce_zero_label=True, **TWO)
    assert one(errors).startswith("key: 1 of 2 classes have no pixel in any of the 5 masks: 'tree'")
    assert 'The values 0 to 1 are 2 classes as they are: set reduce_zero_label=False' in errors[0]
    assert warnings == []
    assert find(scenes, **TWO) == ([], [])
    binary(scenes, 1, 2)
    assert find(scenes, reduce_zero_label=True, **TWO) == ([], [])
    assert 'has 2 (640 pixels)' in one(find(scenes, **TWO)[0])
    binary(scenes, 0, 0)
    assert 'and set reduce_zero_label=False.' in one(find(scenes, reduce_zero_label=True)[0])


def test_zeros_that_become_unknown_are_counted(scenes):
    for i in range(5):
        scenes.mask(f'masks/l{i}.png', [[0] * 40] * 20 + [[1] * 40] * 6 + [[2] * 40] * 6)
    errors, warnings = find(scenes, reduce_zero_label=True, **TWO)
    assert errors == []
    assert 'makes value 0 unknown, which 4000 of 6400 pixels of the masks have' in one(warnings)


@pytest.mark.parametrize(
    ('dtype', 'suffix', 'value', 'text'),
    [
        (np.float32, '.tif', 0.5, '0.5'),
        (np.float32, '.tif', np.nan, 'nan'),
        (np.float32, '.tif', np.inf, 'inf'),
        (np.float32, '.tif', -1, '-1'),
        (np.int32, '.tif', -1, '-1'),
        (np.int32, '.tif', 256, '256'),
        (np.int32, '.tif', 70000, '70000'),
        (np.uint16, '.png', 257, '257'),
        (np.uint16, '.tif', 65535, '65535'),
        (np.uint8, '.png', 254, '254'),
        (np.uint8, '.png', 3, '3'),
        (np.uint8, '.bmp', 128, '128'),
    ],
)
def test_values_that_are_no_class(scenes, dtype, suffix, value, text):
    for i in range(5):
        mask = np.arange(32 * 40).reshape(32, 40) % 3
        Image.fromarray(mask.astype(dtype)).save(scenes.root / f'masks/l{i}{suffix}')
    assert find(scenes, seg_map_suffix=suffix) == ([], [])
    mask = mask.astype(dtype)
    mask[3, 4:7] = value
    path = scenes.root / f'masks/l2{suffix}'
    Image.fromarray(mask).save(path)
    errors, _ = find(scenes, seg_map_suffix=suffix)
    start = 'key: 1 of 5 masks have values that are no class: '
    assert one(errors).startswith(f'{start}{path} has {text} (3 pixels). Allowed are whole numbers')
    assert 'from 0 to 2 and 255 for pixels' in errors[0]


def test_another_value_for_unknown_pixels(scenes):
    set_masks(scenes, lambda mask: np.where(mask == 0, 254, mask))
    pipeline = [dict(one) for one in LABELED_PIPELINE]
    pipeline[2]['ignore_index'] = 254
    errors, warnings = find(scenes, pipeline=pipeline)
    assert errors == []
    assert "in any of the 5 masks: 'ground'. " in one(warnings)
    assert '254 is unknown' in warnings[0]


def test_classes_taken_out(scenes):
    config = dict(type='COCO81Dataset', metainfo=dict(classes=('person', 'car')))
    set_masks(scenes, lambda mask: mask + 1)  # person, bicycle, car
    assert find(scenes, **config) == ([], [])
    set_masks(scenes, lambda mask: np.full_like(mask, 2))  # bicycles alone
    assert 'none of the 5 masks has a pixel' in one(find(scenes, **config)[0])


# ------------------------------------------------------------------------------------- files
def test_all_broken_files_are_named_in_one_message(scenes):
    for name in ('images/l0.png', 'masks/l3.png'):
        path = scenes.root / name
        path.write_bytes(path.read_bytes()[:-30])
    (scenes.root / 'images/l1.png').write_bytes(b'')
    (scenes.root / 'images/l2.png').write_text('<!DOCTYPE html><html></html>')
    (scenes.root / 'masks/l4.png').write_text('no mask')
    errors, _ = find(scenes)
    assert errors[0].startswith('key: 3 of 5 images can not be read: ')
    for name, reason in (('l0', 'ends too early'), ('l1', 'is empty'), ('l2', 'it is no image')):
        assert f'{name}.png (' in errors[0] and reason in errors[0]
    assert errors[1].startswith('key: 2 of 5 masks can not be read: ')
    assert len(errors) == 2


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.webp', '.tif'])
def test_cut_files_of_every_format(scenes, suffix):
    pixels = np.random.default_rng(0).integers(0, 255, (32, 40, 3), dtype=np.uint8)
    data = cv2.imencode(suffix, pixels)[1].tobytes()
    path = scenes.root / f'unlabeled/x{suffix}'
    path.write_bytes(data)
    assert find(scenes, 'unlabeled') == ([], [])
    path.write_bytes(data[: len(data) // 2])
    assert f'1 of 8 images can not be read: {path} (the file ends too ea' in one(
        find(scenes, 'unlabeled')[0]
    )


def test_a_pipe_is_no_image(scenes):
    os.mkfifo(scenes.root / 'unlabeled/pipe.png')
    assert 'pipe.png (it is no regular file)' in one(find(scenes, 'unlabeled')[0])


def test_unreadable_images_may_be_left_out(scenes):
    (scenes.root / 'unlabeled/u3.png').write_bytes(b'')
    errors, _ = find(scenes, 'unlabeled')
    assert "the same name, or set train_dataloader.dataset.on_error='skip'" in one(errors)
    errors, warnings = find(scenes, 'unlabeled', skip=True)
    assert errors == []
    assert one(warnings).startswith('key: 1 of 7 images can not be read: ')
    for path in (scenes.root / 'unlabeled').iterdir():
        path.write_bytes(b'')
    assert '7 of 7 images' in one(find(scenes, 'unlabeled', skip=True)[0])


def test_masks_of_several_channels_or_pages(scenes):
    Image.new('RGB', (40, 32)).save(scenes.root / 'masks/l0.png')
    Image.new('LA', (40, 32)).save(scenes.root / 'masks/l1.png')
    errors, _ = find(scenes)
    assert 'l0.png (3 channels), ' in one(errors)
    assert 'l1.png (2 channels). Replace each color' in errors[0]
    assert errors[0].startswith('key: 2 of 5 masks have several channels: ')
    buffer = io.BytesIO()
    pages = [Image.new('L', (40, 32), i) for i in range(2)]
    pages[0].save(buffer, 'TIFF', save_all=True, append_images=pages[1:])
    for i in (0, 1):
        (scenes.root / f'masks/l{i}.png').write_bytes(buffer.getvalue())
    assert 'l0.png (2 images), ' in one(find(scenes)[0])
    assert 'only the first would be read' in find(scenes)[0][0]


def test_masks_of_another_size(scenes):
    scenes.mask('masks/l2.png', np.zeros((16, 20)))
    mask, image = scenes.root / 'masks/l2.png', scenes.root / 'images/l2.png'
    assert one(find(scenes)[0]) == (
        'key: 1 of 5 masks have another size than their image (width x height): '
        f'{mask} is 20 x 16, {image} 40 x 32. Check that the files belong together, or resize the '
        'masks with nearest neighbor.'
    )


# ------------------------------------------------------------------------------------- EXIF
def turn(scenes, orientation, name='images/l1.png', size=(40, 32)):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(scenes.root / name, 'JPEG', exif=exif)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientations(scenes, orientation):
    turn(scenes, orientation)
    errors, warnings = find(scenes)
    if orientation == 1:
        assert errors == warnings == []
    elif orientation < 5:
        assert errors == []
        assert one(warnings).startswith('key: 1 images have an EXIF orientation and are turned')
        assert f'l1.png (orientation {orientation}). Masks that were' in warnings[0]
    else:
        assert warnings == []
        assert 'l1.png is 40 x 32, ' in one(errors)
        assert 'because an EXIF orientation turns the image' in errors[0]
        assert 'resize' not in errors[0]
        scenes.mask('masks/l1.png', [[0] * 32] * 40)  # drawn on the turned image
        assert find(scenes) == ([], [])


def test_a_square_image_that_is_turned_sideways(scenes):
    turn(scenes, 6, size=(32, 32))
    scenes.mask('masks/l1.png', [[0] * 32] * 32)
    errors, warnings = find(scenes)
    assert errors == []
    assert 'l1.png (orientation 6)' in one(warnings)


def test_a_loader_that_turns_nothing(scenes):
    turn(scenes, 6)
    pipeline = [dict(one) for one in LABELED_PIPELINE]
    pipeline[0]['color_type'] = 'color_ignore_orientation'
    assert find(scenes, pipeline=pipeline) == ([], [])


# ------------------------------------------------------------------------------------- datasets
def test_wrapped_datasets_and_other_backends(scenes):
    (scenes.root / 'images/l0.png').write_bytes(b'')
    wrapped = dict(type='RepeatDataset', times=3, dataset=scenes.labeled())
    joined = DATASETS.build(dict(type='ConcatDataset', datasets=[wrapped, scenes.labeled()]))
    assert '1 of 5 images' in one(check_parts([Part('key', joined, 'train')]).errors)
    leaf = DATASETS.build(scenes.labeled())
    leaf.backend_args = dict(backend='petrel')
    assert check_parts([Part('key', leaf, 'train')]).errors == []


def test_masks_that_nobody_loads_are_left_alone(scenes):
    (scenes.root / 'masks/l0.png').write_bytes(b'')
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
    assert find(scenes, 'test', pipeline=pipeline) == ([], [])


# ---------------------------------------------------------------------- formats and palettes
@pytest.mark.parametrize('suffix', ['.jpg', '.jpeg', '.png', '.webp', '.tif'])
@pytest.mark.parametrize('role', ['train', 'val'])
def test_masks_in_a_lossy_format(scenes, suffix, role):
    """By content, whatever the suffix says; a flat mask would come back unchanged."""
    kind, more, name = {
        '.webp': ('WEBP', {}, 'lossy WebP'),
        '.tif': ('TIFF', dict(compression='jpeg'), 'TIFF with JPEG compression'),
    }.get(suffix, ('JPEG', {}, 'JPEG'))
    for i in range(5):
        mask = Image.fromarray(np.full((32, 40), i % 3, np.uint8))
        mask.save(scenes.root / f'masks/l{i}{suffix}', kind, **more)
    errors, warnings = find(scenes, role, seg_map_suffix=suffix)
    assert one(errors).startswith(
        'key: 5 of 5 masks are in a format that changes class numbers when it is written: '
        f'{scenes.root}/masks/l0{suffix} ({name}), '
    )
    assert 'Save the masks as PNG' in errors[0] and warnings == []


def palette_mask(scenes, i, colors, values=(0, 1, 2)):
    mask = Image.fromarray(np.resize(np.array(values, np.uint8), (32, 40)), 'P')
    mask.putpalette([part for color in colors for part in color])
    path = scenes.root / f'masks/l{i}.png'
    mask.save(path)
    return path


BLACK, RED, BLUE, WHITE = (0, 0, 0), (128, 0, 0), (0, 0, 255), (255, 255, 255)


@pytest.mark.parametrize('role', ['train', 'val'])
def test_palettes_that_disagree(scenes, role):
    paths = [palette_mask(scenes, i, [BLACK, RED, BLUE]) for i in range(3)]
    paths.append(palette_mask(scenes, 3, [BLACK, BLUE, RED]))  # l4 has no palette
    assert find(scenes, role) == (
        [
            'key: the palettes of 1 of 5 masks disagree with those before: 1 is #800000 in '
            f'{paths[0]} and #0000ff in {paths[3]}. The number of a color is its class. Give all '
            'masks one palette, and each color its number in it.'
        ],
        [],
    )


def test_palettes_that_differ_where_no_pixel_is(scenes):
    for i, colors in enumerate(
        ([BLACK, RED, BLUE], [BLACK, RED, BLUE, WHITE], [BLACK, RED, BLUE, RED])
    ):
        palette_mask(scenes, i, colors)
    palette_mask(scenes, 3, [BLACK, RED, WHITE], (0, 1))
    palette_mask(scenes, 4, [WHITE, WHITE, BLUE], (2,))
    assert find(scenes) == ([], [])


def test_palettes_of_joined_datasets_are_their_own(scenes):
    for i in range(3):
        palette_mask(scenes, i, [BLACK, RED, BLUE])
    scenes.split(['l0', 'l1', 'l2'])
    scenes.split(['l3', 'l4'], 'other.txt')
    for i in (3, 4):
        palette_mask(scenes, i, [BLACK, BLUE, RED])
    joined = dict(
        type='ConcatDataset', datasets=[scenes.labeled(), scenes.labeled(ann_file='other.txt')]
    )
    found = check_parts([Part('key', DATASETS.build(joined), 'train')])
    assert found.errors == []
