"""Masks by number, gray level, color and class."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from label_exports import bring, classes, files, mask, not_used, photo
from PIL import Image

from mmseg_semi.errors import DataError

H, W = 30, 40
COLORS = {'background': (0, 0, 0), 'cat': (250, 50, 50), 'dog': (20, 20, 220)}
NAMED = ['background=#000000,cat=#fa3232', 'dog=#1414dc']


@pytest.fixture
def source(tmp_path):
    """Images in two folders, one of them without a mask."""
    for seed, name in enumerate(('a.jpg', 'sub/b.png', 'later.png')):
        photo(tmp_path / 'source/images' / name, W, H, seed=seed)
    return tmp_path / 'source'


def numbers(kinds=3, seed=0):
    """Blocks of class numbers, all of them there."""
    blocks = np.random.default_rng(seed).integers(0, kinds, (3, 5), np.uint8)
    blocks.ravel()[:kinds] = np.arange(kinds)
    return np.kron(blocks, np.ones((10, 8), np.uint8))


def put(source, name, pixels, **options):
    path = source / 'masks' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def both(source, change, suffix='.png', **options):
    """Write the masks of two images; their class numbers."""
    wanted = {'a.png': numbers(seed=1), 'sub/b.png': numbers(seed=2)}
    for name, array in wanted.items():
        put(source, name.replace('.png', suffix), change(array), **options)
    return wanted


def check(out, wanted):
    for name, array in wanted.items():
        np.testing.assert_array_equal(mask(out, name), array)
    assert len(list((out / 'annotations').rglob('*.png'))) == len(wanted)
    assert (out / 'images/later.png').exists()


def colored(array):
    return np.array(list(COLORS.values()), np.uint8)[array]


def test_numbers_with_255_for_unknown(source, tmp_path):
    wanted = both(source, lambda array: np.where(array == 2, 255, array).astype(np.uint8))
    wanted = {name: np.where(array == 2, 255, array) for name, array in wanted.items()}
    out = bring(source, tmp_path / 'out')
    check(out, wanted)
    assert classes(out) == ['class_0', 'class_1']
    check(bring(source, tmp_path / 'named', classes=['ground,cat,dog']), wanted)
    assert classes(tmp_path / 'named') == ['ground', 'cat', 'dog']


def test_background_is_first_where_the_names_leave_a_number_for_it(source, tmp_path):
    wanted = both(source, lambda array: array)  # 0, 1, 2
    check(bring(source, tmp_path / 'out', classes=['cat,dog']), wanted)
    assert classes(tmp_path / 'out') == ['background', 'cat', 'dog']
    with pytest.raises(DataError, match='numbers 0, 1, 2, which are not those of 2 classes'):
        bring(source, tmp_path / 'wrong', classes=['Background,cat'])


@pytest.mark.parametrize('high', [255, 128, 1])
@pytest.mark.parametrize('mode', ['L', 'RGB'])
def test_binary_masks(source, tmp_path, high, mode):
    for name in ('a.png', 'sub/b.png'):
        put(source, name, Image.fromarray(numbers(2) * high).convert(mode))
    out = bring(source, tmp_path / 'out', classes=['background,nucleus'])
    check(out, {name: numbers(2) for name in ('a.png', 'sub/b.png')})
    assert classes(out) == ['background', 'nucleus']


@pytest.mark.parametrize('high', [255, 128])
def test_binary_jpeg_masks_become_clean_and_the_changes_are_counted(source, tmp_path, high, capsys):
    for name in ('a.jpg', 'sub/b.jpg'):
        path = put(source, name, numbers(2) * high, quality=70)
        with Image.open(path) as image:
            noisy = np.array(image)
        assert len(np.unique(noisy)) > 2
    out = bring(source, tmp_path / 'out')
    check(out, {name: numbers(2) for name in ('a.png', 'sub/b.png')})
    assert classes(out) == ['background', 'foreground']
    changed = 2 * int(((noisy != 0) & (noisy != high)).sum())
    assert f'{changed} pixels (' in capsys.readouterr().out


def test_gray_levels(source, tmp_path, capsys):
    wanted = both(source, lambda array: np.array([0, 100, 200], np.uint8)[array])
    check(bring(source, tmp_path / 'out', classes=['background,cat,dog']), wanted)
    check(bring(source, tmp_path / 'other'), wanted)
    assert classes(tmp_path / 'other') == ['level_0', 'level_100', 'level_200']
    assert 'if the numbers in the masks count objects, give --numbers' in capsys.readouterr().out
    with pytest.raises(DataError, match='numbers 0, 100, 200, which are not those of 2 classes'):
        bring(source, tmp_path / 'wrong', classes=['cat,dog'])


def test_what_an_import_has_written_is_no_export(source, tmp_path):
    both(source, lambda array: array)
    with pytest.raises(DataError, match='--out .*source is SRC, too'):
        bring(source, source)
    with pytest.raises(DataError, match='--out .*images is --images, too'):
        bring(source / 'masks', source / 'images', images=source / 'images')
    first = bring(source, source / 'brought')
    assert bring(source, first) == first  # its own result is not read
    with pytest.raises(DataError, match='SRC .*source holds .*brought, which an import has'):
        bring(source, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_a_mask_of_several_pages_is_not_its_first_one(source, tmp_path):
    pages = [Image.fromarray(numbers(seed=seed)) for seed in range(3)]
    put(source, 'a.tif', pages[0], save_all=True, append_images=pages[1:])
    put(source, 'sub/b.tif', numbers())
    with pytest.raises(DataError, match='masks/a.tif has 3 pages, and the mask of one image must'):
        bring(source, tmp_path / 'out', pages='channels')


def test_numbers_of_many_objects_are_no_binary_masks(source, tmp_path):
    array = np.zeros((H, W), np.uint8)
    array[0, :20] = np.arange(70, 250, 9)  # most is background
    put(source, 'a.png', array)
    with pytest.raises(DataError, match='have the numbers 0, 70, 79, .*: give the gray of each'):
        bring(source, tmp_path / 'out', classes=['background,nucleus'])


def test_more_classes_than_two_levels_are_refused(source, tmp_path):
    put(source, 'a.png', numbers(2) * 255)
    with pytest.raises(DataError, match='only 0 and 255, which are two classes: .* not 3'):
        bring(source, tmp_path / 'out', classes=['background,cat,dog'])


def test_palettes_are_read_as_numbers(source, tmp_path):
    def paletted(array):
        image = Image.fromarray(array)
        image.putpalette([9, 9, 9, 250, 50, 50, 20, 20, 220])
        return image

    out = bring(source, tmp_path / 'out', classes=[]) if both(source, paletted) else None
    check(out, {'a.png': numbers(seed=1), 'sub/b.png': numbers(seed=2)})
    palette = json.loads((out / 'classes.json').read_text())['palette']
    assert palette == [[9, 9, 9], [250, 50, 50], [20, 20, 220]]


def test_colors_that_are_given(source, tmp_path):
    wanted = both(source, colored)
    out = bring(source, tmp_path / 'out', classes=NAMED)
    check(out, wanted)
    assert classes(out) == list(COLORS)
    assert json.loads((out / 'classes.json').read_text())['palette'] == [
        list(color) for color in COLORS.values()
    ]


def test_colors_of_a_noisy_jpeg_become_the_nearest(source, tmp_path, capsys):
    wanted = both(source, colored, suffix='.jpg', quality=90, subsampling=0)
    out = bring(source, tmp_path / 'out', classes=NAMED)
    for name, array in wanted.items():
        assert (mask(out, name) == array).mean() > 0.97
        assert mask(out, name).max() == 2
    said = re.search(
        r'(\d+) pixels .* have not exactly the color of a class: .* (\d+) are close to it',
        capsys.readouterr().out,
    )
    changed, close = map(int, said.groups())
    assert 0.9 * changed < close <= changed
    with pytest.raises(DataError, match='give the color of each class with --classes'):
        bring(source, tmp_path / 'unknown')


def test_colors_of_no_class_are_unknown_and_named(source, tmp_path):
    both(source, colored)
    image = colored(numbers(seed=1))
    image[0, :3] = (0, 255, 0)
    image[1, :3] = (5, 3, 0)  # nearly black
    put(source, 'a.png', image)
    out = bring(source, tmp_path / 'out', classes=NAMED)
    wanted = numbers(seed=1)
    wanted[0, :3], wanted[1, :3] = 255, 0
    np.testing.assert_array_equal(mask(out, 'a.png'), wanted)
    assert any('3 pixels of the color #00ff00 are of no class' in one for one in not_used(out))


def test_colors_that_nobody_names(source, tmp_path):
    both(source, colored)
    out = bring(source, tmp_path / 'out')
    assert classes(out) == ['background', '#1414dc', '#fa3232']
    np.testing.assert_array_equal(
        mask(out, 'a.png'), np.array([0, 2, 1], np.uint8)[numbers(seed=1)]
    )


@pytest.mark.parametrize('layout', ['cat/a.png', 'a_cat.png'])
def test_one_file_for_each_class_the_smaller_on_top(source, tmp_path, layout):
    inside = {
        'cat': np.zeros((H, W), bool),
        'big dog': np.zeros((H, W), bool),
    }
    inside['cat'][5:10, 5:10] = True
    inside['big dog'][0:20, 0:20] = True
    for name, pixels in inside.items():
        put(source, layout.replace('cat', name), pixels.astype(np.uint8) * 255)
    out = bring(source, tmp_path / 'out')
    assert classes(out) == ['background', 'big dog', 'cat']
    wanted = np.where(inside['cat'], 2, inside['big dog']).astype(np.uint8)
    check(out, {'a.png': wanted})
    out = bring(source, tmp_path / 'other', classes=['cat,big dog'])
    assert classes(out) == ['background', 'cat', 'big dog']
    check(out, {'a.png': np.array([0, 2, 1], np.uint8)[wanted]})


def test_masks_elsewhere_and_masks_beside_their_images(source, tmp_path):
    wanted = both(source, lambda array: array)
    out = bring(source / 'masks', tmp_path / 'out', images=source / 'images')
    check(out, wanted)
    for name, array in wanted.items():
        Image.fromarray(array).save(source / 'images' / name.replace('.png', '_mask.png'))
    check(bring(source / 'images', tmp_path / 'beside'), wanted)
    assert len(list((tmp_path / 'beside/images').rglob('*.*'))) == 3


def test_a_second_run_writes_nothing(source, tmp_path):
    both(source, lambda array: array)
    before = files(bring(source, tmp_path / 'out'))
    assert files(bring(source, tmp_path / 'out')) == before


def test_other_classes_than_before_are_said(source, tmp_path, capsys):
    both(source, lambda array: array)
    out = bring(source, tmp_path / 'out')
    assert 'the classes were' not in capsys.readouterr().out
    for folder in (source / 'masks').rglob('*.png'):
        Image.fromarray(255 * (np.array(Image.open(folder)) > 0).astype(np.uint8)).save(folder)
    bring(source, tmp_path / 'out')
    said = capsys.readouterr().out
    assert f'2 classes: {", ".join(classes(out))}' in said
    assert 'the classes were class_0, class_1, class_2: predictions' in said


def test_masks_of_the_stored_size_are_turned_with_their_images(source, tmp_path):
    photo(source / 'images/turned.jpg', W, H, orientation=6)
    put(source, 'turned.png', numbers())
    out = bring(source, tmp_path / 'out')
    np.testing.assert_array_equal(mask(out, 'turned.png'), np.rot90(numbers(), -1))


def test_bad_masks_are_named(source, tmp_path):
    with pytest.raises(DataError, match='name the folder of the images with --images'):
        bring(source, tmp_path / 'out', kind='masks')
    put(source, 'other.png', numbers())
    with pytest.raises(DataError, match='has no masks of the images of'):
        bring(source, tmp_path / 'out')
    put(source, 'a.png', numbers()[:-1])
    with pytest.raises(DataError, match=r'masks/a\.png: the labels belong to 40 x 29 pixels'):
        bring(source, tmp_path / 'out')
    path = put(source, 'a.png', numbers())
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r'masks/a\.png cannot be read'):
        bring(source, tmp_path / 'out')
    put(source, 'a.png', numbers())
    out = bring(source, tmp_path / 'fine')
    assert 'other.png: there is no image of this name' in not_used(out)[0]


def boxes(out):
    """Boxes by image: x1, y1, x2, y2."""
    content = json.loads((out / 'boxes.json').read_text())
    names = {one['id']: one['file_name'] for one in content['images']}
    found = {name: [] for name in names.values()}
    for one in content['annotations']:
        x, y, width, height = one['bbox']
        found[names[one['image_id']]].append((x, y, x + width, y + height))
    return {name: sorted(several) for name, several in found.items()}


OBJECTS = {'one': (2, 3, 10, 9), 'two': (20, 5, 31, 25), 'three': (8, 20, 12, 30)}


def inside(box):
    array = np.zeros((H, W), np.uint8)
    array[box[1] : box[3], box[0] : box[2]] = 255
    return array


@pytest.mark.parametrize('given', [[], ['background,nucleus']])
@pytest.mark.parametrize('layout', ['folder-an-image', 'masks/image'])
def test_a_file_an_object(tmp_path, layout, given):
    """``ID/images/ID.png`` with ``ID/masks/*.png``, and ``masks/ID/*.png``."""
    for seed, name in enumerate('ab'):
        folder = f'source/{name}/images' if layout == 'folder-an-image' else 'source/images'
        photo(tmp_path / folder / f'{name}.png', W, H, seed=seed)
        folder = f'{name}/masks' if layout == 'folder-an-image' else f'masks/{name}'
        for one, box in list(OBJECTS.items())[: 3 - seed]:
            path = tmp_path / 'source' / folder / f'{one}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(inside(box)).save(path)
    out = bring(tmp_path / 'source', tmp_path / 'out', classes=given)
    assert classes(out) == ['background', 'nucleus' if given else 'object']
    place = '{0}/images/{0}.png' if layout == 'folder-an-image' else '{0}.png'
    for count, name in ((3, 'a'), (2, 'b')):
        several = list(OBJECTS.values())[:count]
        wanted = sum(inside(box) > 0 for box in several).astype(np.uint8)
        np.testing.assert_array_equal(mask(out, place.format(name)), wanted)
        assert boxes(out)[place.format(name)] == sorted(several)
    assert not not_used(out)


def test_numbers_of_objects(source, tmp_path):
    """16 bits, as programs that find cells write them."""
    array = np.zeros((H, W), np.uint16)
    for number, box in zip((1, 7, 300), OBJECTS.values()):
        array[inside(box) > 0] = number
    put(source, 'a.png', array)
    out = bring(source, tmp_path / 'out', numbers='objects')
    np.testing.assert_array_equal(mask(out, 'a.png'), array > 0)
    assert classes(out) == ['background', 'object'] and not not_used(out)
    assert boxes(out) == {'a.jpg': sorted(OBJECTS.values())}
    with pytest.raises(DataError, match='--classes cat,dog: the masks are of objects'):
        bring(source, tmp_path / 'two', classes=['cat,dog'], numbers='objects')


def test_many_numbers_may_count_objects(source, tmp_path, capsys):
    put(source, 'a.png', np.repeat(np.arange(H, dtype=np.uint8)[:, None], W, 1))
    bring(source, tmp_path / 'out')
    assert (
        'if the numbers in the masks count objects, give --numbers objects'
        in capsys.readouterr().out
    )


@pytest.mark.parametrize('folders', [('leftImg8bit', 'gtFine'), ('images', 'masks')])
def test_names_of_cityscapes(tmp_path, folders):
    source, wanted = tmp_path / 'source', numbers()
    start = 'train/aachen/aachen_000000_000019'
    photo(source / folders[0] / f'{start}_leftImg8bit.png', W, H)
    ends = {'labelIds': wanted, 'instanceIds': wanted.astype(np.uint16) * 1000}
    ends['color'] = np.stack([wanted] * 3, -1) * 40
    for end, array in ends.items():
        path = source / folders[1] / f'{start}_gtFine_{end}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)
    out = bring(source, tmp_path / 'out')
    np.testing.assert_array_equal(mask(out, f'{start}_leftImg8bit.png'), wanted)
    lines = not_used(out)
    assert len(lines) == 2 and all('it has no numbers of classes' in line for line in lines)


def test_ends_of_images_that_their_masks_do_not_have(tmp_path):
    photo(tmp_path / 'source/images/12_sat.jpg', W, H)
    path = tmp_path / 'source/masks/12_mask.png'
    path.parent.mkdir()
    Image.fromarray(numbers()).save(path)
    out = bring(tmp_path / 'source', tmp_path / 'out')
    np.testing.assert_array_equal(mask(out, '12_sat.png'), numbers())


def test_an_unreadable_mask_leaves_its_image_out(source, tmp_path):
    both(source, lambda array: array)
    (source / 'masks/a.png').write_bytes(b'no image')
    with pytest.raises(DataError, match='So 1 of 3 images could not be brought'):
        bring(source, tmp_path / 'out')
    np.testing.assert_array_equal(mask(tmp_path / 'out', 'sub/b.png'), numbers(seed=2))
    assert not (tmp_path / 'out/annotations/a.png').exists()
    (source / 'masks/sub/b.png').write_bytes(b'no image')
    with pytest.raises(DataError, match='cannot be read'):
        bring(source, tmp_path / 'none')
