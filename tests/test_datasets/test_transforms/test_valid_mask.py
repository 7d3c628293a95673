"""InitValidMask, CarryMaps and PackSemiInputs: maps go where their pixels go."""

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose

from mmseg_semi.datasets import CarryMaps, DataError, InitValidMask, PackSemiInputs

IMAGE = np.random.default_rng(0).integers(1, 256, (6, 8, 3), dtype=np.uint8)


def run(*transforms, image=IMAGE):
    results = dict(img=image.copy(), img_shape=image.shape[:2], img_path='x.png')
    return Compose([InitValidMask(), CarryMaps(transforms), PackSemiInputs()])(results)


def test_without_transforms_everything_is_valid():
    packed = run()
    assert sorted(packed) == ['data_samples', 'strong', 'weak'] and packed['strong'] == []
    assert packed['weak'].dtype == torch.uint8 and packed['weak'].is_contiguous()
    assert (packed['weak'].numpy() == IMAGE.transpose(2, 0, 1)).all()
    valid = packed['data_samples'].valid.data
    assert valid.dtype == torch.bool and valid.shape == (1, 6, 8) and valid.all()


def test_padding_is_not_valid():
    packed = run(dict(type='Pad', size=(10, 7)))  # width, height
    valid = packed['data_samples'].valid.data[0]
    assert valid.shape == (7, 10) and packed['weak'].shape == (3, 7, 10)
    assert valid[:6, :8].all() and not valid[6:].any() and not valid[:, 8:].any()


def test_padding_follows_flip_and_crop():
    pad, flip = dict(type='Pad', size=(10, 7)), dict(type='RandomFlip', prob=1.0)
    valid = run(pad, flip)['data_samples'].valid.data[0]
    assert valid[:6, 2:].all() and not valid[6:].any() and not valid[:, :2].any()
    np.random.seed(0)
    packed = run(pad, dict(type='RandomCrop', crop_size=(5, 5)))
    # Real pixels are at least 1, padding is 0: the map must say which is which.
    assert ((packed['weak'] > 0).all(0) == packed['data_samples'].valid.data[0]).all()
    assert packed['weak'].shape == (3, 5, 5)


def test_corners_made_by_rotation_are_not_valid():
    image = np.full((40, 40, 3), 200, np.uint8)
    np.random.seed(1)
    packed = run(dict(type='RandomRotate', prob=1.0, degree=(30, 31)), image=image)
    valid = packed['data_samples'].valid.data[0]
    corners = [valid[0, 0], valid[0, -1], valid[-1, 0], valid[-1, -1]]
    assert not any(corners) and valid[20, 20] and 0.7 < valid.float().mean() < 0.95
    assert (packed['weak'][:, ~valid] <= 200).all() and (packed['weak'][0, ~valid] == 0).any()


def test_meta_information():
    packed = run(dict(type='RandomFlip', prob=1.0))
    assert packed['data_samples'].metainfo['img_path'] == 'x.png'
    assert packed['data_samples'].metainfo['flip'] is True
    assert packed['data_samples'].metainfo['img_shape'] == (6, 8)
    sample = PackSemiInputs(meta_keys=['sample_idx'])(
        InitValidMask()(dict(img=IMAGE, sample_idx=4, img_path='x'))
    )['data_samples']
    assert sample.metainfo == dict(sample_idx=4)


@pytest.mark.parametrize(
    'image', [IMAGE[..., 0], IMAGE[:0], IMAGE.astype(np.float64), IMAGE.astype(np.uint16), None]
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(DataError, match=r"a.png is .*uint8 or float32 .*color_type='color'"):
        InitValidMask()(dict(img=image, img_path='a.png'))


def test_wrong_pipelines():
    with pytest.raises(DataError, match='a.png has a mask already.*remove LoadAnnotations'):
        InitValidMask()(dict(img=IMAGE, gt_seg_map=1, img_path='a.png'))
    with pytest.raises(DataError, match='a.png has no valid map: put InitValidMask'):
        PackSemiInputs()(dict(img=IMAGE, img_path='a.png'))
    results = InitValidMask()(dict(img=IMAGE, img_path='a.png'))
    results['img'] = IMAGE[:5]
    message = r"map 'valid_map' of a.png is \(6, 8\), the image \(5, 8\): .*CarryMaps"
    with pytest.raises(DataError, match=message):
        PackSemiInputs()(results)
