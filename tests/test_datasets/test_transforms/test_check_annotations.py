import numpy as np
import pytest
from mmcv.transforms import Compose
from mmseg.registry import TRANSFORMS
from PIL import Image

from mmseg_semi.datasets import CheckAnnotations, DataError


@pytest.fixture
def load(tmp_path, scenes):
    """Load a mask file with an image of 32 x 40 and check it."""

    def load(mask, check=None, reduce_zero_label=False, resize_first=False, suffix='.png'):
        path = tmp_path / f'mask{suffix}'
        mask.save(path) if isinstance(mask, Image.Image) else Image.fromarray(mask).save(path)
        transforms = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), check]
        if resize_first:
            transforms.insert(1, dict(type='Resize', scale=(20, 16)))
        transforms[-1] = transforms[-1] or CheckAnnotations(num_classes=3)
        pipeline = [TRANSFORMS.build(t) if isinstance(t, dict) else t for t in transforms]
        info = dict(
            img_path=str(scenes.root / 'images/l0.png'),
            seg_map_path=str(path),
            reduce_zero_label=reduce_zero_label,
            seg_fields=[],
        )
        return Compose(pipeline)(info)['gt_seg_map']

    return load


def values(*numbers, dtype=np.uint8):
    mask = np.zeros((32, 40), dtype)
    mask.flat[: len(numbers)] = numbers
    return mask


def test_sound_masks(load):
    assert (load(values(0, 1, 2, 255)) == values(0, 1, 2, 255)).all()
    load(values(0, 1, 2, 255), resize_first=True)  # as in mmseg's test pipelines
    load(values(0, 1, 2, 99), CheckAnnotations(3, ignore_index=99))
    load(values(1, 2, 3), reduce_zero_label=True)  # becomes 0, 1, 2 and 255
    palette = Image.fromarray(values(0, 1, 2))
    palette.putpalette([7, 8, 9] * 256)
    assert (load(palette) == values(0, 1, 2)).all()


def test_wrong_values(load):
    message = (
        r'mask .*mask.png of image .*l0.png has values that are no class: 3 \(2 pixels\), '
        r'254 \(1 pixels\)\. Allowed are 0 to 2 and 255'
    )
    with pytest.raises(DataError, match=message):
        load(values(1, 3, 254, 3, 255))
    with pytest.raises(DataError, match=r'255 \(1 pixels\)\. Allowed are 0 to 2 and 99'):
        load(values(255), CheckAnnotations(3, ignore_index=99))
    with pytest.raises(DataError, match=r'3 \(1 pixels\)'):
        load(values(4), reduce_zero_label=True)
    many = values(*range(10, 20))
    with pytest.raises(DataError, match=r'14 \(1 pixels\) and 5 more\. Allowed'):
        load(many)


@pytest.mark.parametrize(
    ('dtype', 'suffix'), [(np.uint16, '.png'), (np.uint16, '.tif'), (np.int32, '.tif')]
)
def test_values_above_255_would_wrap_around(load, dtype, suffix):
    load(values(1, 2, dtype=dtype), suffix=suffix)
    with pytest.raises(
        DataError, match=r'257 \(1 pixels\), 1000 \(2 pixels\)\. Allowed are 0 to 2'
    ):
        load(values(1000, 1000, 257, dtype=dtype), suffix=suffix)


@pytest.mark.parametrize(
    ('dtype', 'value', 'text'),
    [
        (np.float32, 1.5, '1.5'),
        (np.float32, np.nan, 'nan'),
        (np.float32, -2, '-2'),
        (np.int32, -1, '-1'),
        (np.int32, 70000, '70000'),
    ],
)
def test_values_that_the_loader_would_change(load, dtype, value, text):
    load(values(1, 2, 255, dtype=dtype), suffix='.tif')
    with pytest.raises(DataError, match=rf'no class: {text} \(2 pixels\)\. Allowed are 0 to 2'):
        load(values(1, value, value, dtype=dtype), suffix='.tif')


def test_files_of_several_images(load, tmp_path):
    load(values(1), suffix='.tif')
    pages = [Image.fromarray(values(number)) for number in (1, 2)]
    path = str(tmp_path / 'pages.tif')
    pages[0].save(path, save_all=True, append_images=pages[1:])
    results = dict(gt_seg_map=values(1), ori_shape=(32, 40), seg_map_path=path)
    with pytest.raises(DataError, match='pages.tif .*is a file of 2 images, of which only the fir'):
        CheckAnnotations(3)(results)


@pytest.mark.parametrize(('orientation', 'turned'), [(1, False), (3, False), (6, True), (8, True)])
def test_an_image_that_exif_turns(tmp_path, orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = str(tmp_path / 'image.jpg')
    Image.new('RGB', (40, 32)).save(path, exif=exif)
    results = dict(gt_seg_map=values(1), ori_shape=(40, 32), img_path=path)
    with pytest.raises(DataError, match='the mask is 32 x 40, the image 40 x 32') as error:
        CheckAnnotations(3)(results)
    assert ('EXIF orientation of the image turns it' in str(error.value)) == turned
    assert ('resize the mask' in str(error.value)) != turned


@pytest.mark.parametrize('channels', [3, 4])
def test_color_masks(load, channels):
    with pytest.raises(DataError, match=rf'shape \(32, 40, {channels}\).*replace each color'):
        load(np.zeros((32, 40, channels), np.uint8))


@pytest.mark.parametrize('resize_first', [False, True])
def test_size_differs_from_the_image(load, resize_first):
    message = r'mask .*mask.png of image .*l0.png: the mask is 16 x 20, the image 32 x 40'
    with pytest.raises(DataError, match=message):
        load(np.zeros((16, 20), np.uint8), resize_first=resize_first)


def test_number_of_classes_from_the_results():
    results = dict(gt_seg_map=values(4), ori_shape=(32, 40), num_classes=5)
    CheckAnnotations()(results)
    with pytest.raises(DataError, match=r'4 \(1 pixels\)'):
        CheckAnnotations()(dict(results, num_classes=4))


def test_unknown_number_of_classes_is_said_once(warnings_logged):
    check = CheckAnnotations()
    for _ in range(2):
        check(dict(gt_seg_map=values(200), ori_shape=(32, 40)))
    assert len(warnings_logged) == 1 and 'set num_classes' in warnings_logged[0]
    with pytest.raises(DataError, match='the mask is 32 x 40, the image 5 x 5'):
        check(dict(gt_seg_map=values(200), ori_shape=(5, 5)))


def test_wrong_arguments_and_place():
    with pytest.raises(ValueError, match='num_classes must be a whole number from 1 to 256, got 0'):
        CheckAnnotations(0)
    with pytest.raises(
        ValueError, match='ignore_index must be a whole number from 0 to 255, got 300'
    ):
        CheckAnnotations(3, ignore_index=300)
    with pytest.raises(DataError, match='put it directly after LoadAnnotations'):
        CheckAnnotations(3)(dict(img=1, seg_map_path='mask.png'))


def test_an_image_without_a_mask_passes():
    assert CheckAnnotations(3)(dict(img=1)) == dict(img=1)  # mmseg's inferencer
