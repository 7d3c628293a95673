"""CarryMaps: every map goes where the pixels of its image go."""

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmseg.registry import TRANSFORMS

from mmseg_semi.datasets import CarryMaps, DataError, InitValidMask, PackSemiInputs

IMAGE = np.random.default_rng(0).integers(1, 256, (6, 8, 3), dtype=np.uint8)
SIZE = (23, 31)
GEOMETRY = [
    dict(type='Resize', scale=(40, 36), keep_ratio=False),
    dict(type='RandomRelativeResize', ratio_range=(0.7, 1.4)),
    dict(type='RandomResize', scale=(30, 44), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(19, 26)),
    dict(type='RandomFlip', prob=1.0, direction='diagonal'),
    dict(type='RandomRotate', prob=1.0, degree=(20, 40)),
    dict(type='Pad', size=(61, 67)),
    dict(type='CenterCrop', crop_size=(17, 12)),
    dict(type='RandomChoiceResize', scales=[(21, 40), (33, 18)], keep_ratio=False),
    dict(type='RandomRotFlip', rotate_prob=0.0, flip_prob=1.0),
    dict(type='mmcv.RandomFlip', prob=1.0),  # not mmseg's: it knows gt_seg_map alone
    dict(type='RandomCutOut', prob=1.0, n_holes=2, cutout_shape=(3, 5), seg_fill_in=255),
]


def maps_of_all_kinds():
    rng = np.random.default_rng(1)
    return dict(
        bytes=rng.integers(0, 256, SIZE, dtype=np.uint8),
        bits=rng.integers(0, 256, (*SIZE, 11), dtype=np.uint8),
        one=rng.integers(0, 256, (*SIZE, 1), dtype=np.uint8),
        flags=rng.random(SIZE) > 0.5,
        depth=rng.standard_normal((*SIZE, 2)).astype(np.float32),
        places=np.arange(SIZE[0] * SIZE[1]).reshape(SIZE),
    )


@pytest.mark.parametrize('number', range(len(GEOMETRY)))
@pytest.mark.parametrize('names', [['bytes'], None])
def test_every_map_goes_where_a_mask_of_its_image_goes(number, names):
    """Each channel is compared with a mask that the transforms carry in its place."""
    transforms = [GEOMETRY[number], GEOMETRY[3], GEOMETRY[(number + 5) % len(GEOMETRY)]]
    built = [TRANSFORMS.build(dict(t)) for t in transforms]
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    start = dict(img=image, img_shape=SIZE, img_path='x.png')
    maps = maps_of_all_kinds()
    maps = maps if names is None else {name: maps[name] for name in names}

    def reference(mask):
        np.random.seed(number)
        results = dict(start, img=image.copy(), gt_seg_map=mask, seg_fields=['gt_seg_map'])
        return Compose(built)(results)['gt_seg_map']

    results = dict(start, img=image.copy(), seg_fields=list(maps), **maps)
    np.random.seed(number)
    sample = Compose([InitValidMask(), CarryMaps(transforms), PackSemiInputs()])(results)
    sample = sample['data_samples']
    valid = reference(np.zeros(SIZE, np.uint8)) == 0
    assert np.array_equal(sample.valid.data[0].numpy(), valid) and valid.any()
    assert set(sample.keys()) == {'valid', *maps}
    for name, one in maps.items():
        packed = sample.get(name).data
        assert packed.dtype == torch.from_numpy(one).dtype and packed.is_contiguous()
        channels = np.atleast_3d(one)
        assert packed.shape == (channels.shape[2], *valid.shape)
        places = reference(
            np.arange(one[..., :1].size if one.ndim == 3 else one.size, dtype=np.float32).reshape(
                SIZE
            )
            + 300
        )
        index = np.where(valid, places - 300, 0).astype(int)
        wanted = channels.reshape(-1, channels.shape[2])[index]
        wanted[~valid] = 0
        assert np.array_equal(packed.numpy(), wanted.transpose(2, 0, 1)), name


def test_a_transform_that_leaves_maps_behind_is_named():
    def carry(transform):
        results = InitValidMask()(dict(img=IMAGE, img_path='x.png'))
        return CarryMaps([transform])(results)

    class Cut:
        def __call__(self, results):
            return dict(results, img=results['img'][1:])

    with pytest.raises(DataError, match=r"'valid_map' of x.png is \(6, 8\).*Cut did not carry"):
        carry(Cut())
    blurred = dict(type='RandomRotFlip', rotate_prob=1.0, flip_prob=0.0, degree=(20, 21))
    with pytest.raises(DataError, match='RandomRotFlip interpolates between the pixels'):
        carry(blurred)
    results = dict(img=IMAGE, img_path='x.png', seg_fields=['mine'], mine=np.zeros((3, 3)))
    with pytest.raises(DataError, match=r"map 'mine' of x.png is \(3, 3\).* must stand before"):
        CarryMaps([])(InitValidMask()(results))


def test_more_pixels_than_a_float_has_numbers():
    size = (2, 2**23)
    image = np.zeros((*size, 3), np.uint8)
    marks = (np.arange(image[..., 0].size) % 251).astype(np.uint8).reshape(size)
    results = dict(img=image, seg_fields=['marks'], marks=marks)
    flip = dict(type='mmcv.RandomFlip', prob=1.0)
    assert np.array_equal(CarryMaps([flip])(results)['marks'], marks[:, ::-1])
