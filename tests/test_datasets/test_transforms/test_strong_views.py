import cv2
import numpy as np
import pytest
from mmseg.registry import DATASETS, TRANSFORMS

from mmseg_semi.datasets import DataError, StrongViews


def coordinates(height, width):
    """An image that says where each pixel comes from: row, column, constant."""
    y, x = np.mgrid[:height, :width]
    return np.dstack([y, x, np.full((height, width), 50)]).astype(np.uint8)


def results(image):
    valid = np.zeros(image.shape[:2], np.uint8)
    return dict(img=image, gt_seg_map=valid, seg_fields=['gt_seg_map'], img_path='x')


class Add:
    """Adds a random number."""

    def __call__(self, results):
        results['img'] = results['img'] + np.uint8(np.random.randint(1, 100))
        return results


class InPlace:
    def __call__(self, results):
        results['img'][:] = 0
        results['img_path'] = 'changed'
        return results


def test_views_are_independent_and_pixelwise_those_of_the_weak_image():
    np.random.seed(0)
    image = coordinates(30, 40)
    out = StrongViews(3, [Add(), Add()])(results(image))
    assert len(out['strong_imgs']) == 3
    shifts = []
    for view in out['strong_imgs']:
        shift = view.astype(int) - image
        assert (shift == shift[0, 0, 0]).all()
        shifts.append(int(shift[0, 0, 0]))
    assert len(set(shifts)) == 3 and 0 not in shifts


def test_the_weak_image_stays_as_it_is():
    image = coordinates(30, 40)
    given = results(image)
    valid = given['gt_seg_map']
    out = StrongViews(2, [InPlace()])(given)
    assert (out['img'] == coordinates(30, 40)).all() and out['img'] is image
    assert out['gt_seg_map'] is valid and not valid.any() and out['img_path'] == 'x'
    assert all((view == 0).all() for view in out['strong_imgs'])


def test_default_transforms_keep_edges_in_place():
    np.random.seed(0)
    image = np.zeros((40, 40, 3), np.uint8)
    image[10:30, 5:20] = (40, 160, 220)
    transforms = [dict(type=t) for t in ('RandomColorJitter', 'RandomGray', 'RandomGaussianBlur')]
    for view in StrongViews(20, transforms)(results(image))['strong_imgs']:
        center = view[17:23, 12:14].reshape(-1, 3).astype(int)
        assert np.abs(center - center[0]).max() <= 3  # an even area stays even
        assert view[20, 12].astype(int).sum() > view[5, 30].astype(int).sum()


@pytest.mark.parametrize(
    'transform',
    [
        dict(type='RandomFlip', prob=1.0),
        dict(type='RandomRotate', prob=1.0, degree=(90, 90)),
        dict(type='RandomRotate', prob=1.0, degree=20),
        dict(type='RandomCutOut', prob=1.0, n_holes=2, cutout_shape=(4, 4), seg_fill_in=255),
    ],
)
def test_transforms_that_move_pixels_are_refused(transform):
    views = StrongViews(1, [transform])
    with pytest.raises((DataError, ValueError), match='moves pixels|read-only'):
        views(results(coordinates(32, 32)))


@pytest.mark.parametrize(
    ('transform', 'message'),
    [
        (dict(type='RandomCrop', crop_size=8), r'RandomCrop turned the image from uint8 \(32, 32'),
        (dict(type='Resize', scale=(64, 64), keep_ratio=True), r'Resize .* to uint8 \(64, 64, 3\)'),
        (dict(type='RandomGrayscale', prob=1.0), r'RandomGrayscale .* to uint8 \(32, 32\)'),
        (lambda r: dict(r, img=r['img'].astype(np.float32)), r'function .* to float32'),
        (lambda r: None, 'function returned None'),
    ],
)
def test_transforms_that_change_shape_or_type_are_refused(transform, message):
    with pytest.raises(DataError, match=message):
        StrongViews(1, [transform])(results(coordinates(32, 32)))


def test_photometric_transforms_of_mmseg_are_taken():
    views = StrongViews(2, [dict(type='PhotoMetricDistortion'), dict(type='CLAHE')])
    assert len(views(results(coordinates(32, 32)))['strong_imgs']) == 2


def test_wrong_arguments():
    with pytest.raises(ValueError, match='StrongViews.num_views must be .* got 0'):
        StrongViews(0, [Add()])


@pytest.mark.parametrize('transforms', [None, [], dict(order=('gray',), gray=None)])
def test_views_without_photometry_are_the_weak_image(transforms):
    image = coordinates(20, 30)
    views = TRANSFORMS.build(dict(type='StrongViews', num_views=2, transforms=transforms))
    first, second = views(results(image))['strong_imgs']
    assert (first == image).all() and (second == image).all()
    assert first is not image and first is not second


@pytest.mark.parametrize('size', [(10, 14), (32, 40), (70, 50)])
def test_whole_pipeline_on_images_smaller_and_larger_than_the_crop(scenes, size):
    """Crop 24: views, weak image and valid map agree, whatever the image's size."""
    for i in range(7):
        image = np.zeros((*size, 3), np.uint8)
        cv2.circle(image, (size[1] // 2, size[0] // 2), min(size) // 3, (255, 255, 255), -1)
        scenes.write(f'unlabeled/u{i}.png', image)
    config = scenes.unlabeled()
    config['pipeline'][2]['scale'] = size[::-1]
    config['pipeline'][-2]['transforms'] = [Add()]
    dataset = DATASETS.build(config)
    np.random.seed(0)
    sides = set()
    for i in range(7):
        item = dataset[i]
        height, width = item['weak'].shape[1:]
        assert height <= 24 and width <= 24
        sides |= {height, width}
        assert item['data_samples'].valid.data.shape == (1, height, width)
        assert item['data_samples'].valid.data.all()  # padding comes later
        for view in item['strong']:
            shift = (view.int() - item['weak'].int()) % 256
            assert (shift == shift[0, 0, 0]).all()
    assert len(sides) > 1 or sides == {24}
