"""Padding before the crop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmseg.registry import DATASETS, MODELS, TRANSFORMS

from mmseg_semi.datasets import SampleKey, semi_collate
from mmseg_semi.datasets.transforms import CarryMaps, PackLabeledInputs, RandomPaddedCrop


def sample(height: int, width: int) -> dict:
    image = np.full((height, width, 3), 200, np.uint8)
    truth = np.full((height, width), 3, np.uint8)
    return dict(img=image, gt_seg_map=truth, seg_fields=['gt_seg_map'])


def test_padding_is_right_and_below_in_the_color_and_its_truth_is_255() -> None:
    out = RandomPaddedCrop((4, 5), pad_color=(10, 20, 30))(sample(2, 3))
    assert out['img'].shape == (4, 5, 3) and out['img_shape'] == (4, 5)
    assert (out['img'][:2, :3] == 200).all() and (out['gt_seg_map'][:2, :3] == 3).all()
    outside = np.ones((4, 5), bool)
    outside[:2, :3] = False
    assert (out['img'][outside] == (30, 20, 10)).all()  # the image is BGR, the color RGB
    assert (out['gt_seg_map'][outside] == 255).all()


def test_the_model_is_told_that_a_labeled_image_was_padded() -> None:
    crop, pack = RandomPaddedCrop((4, 5), pad_color=(0, 0, 0)), PackLabeledInputs()
    metas = [pack(crop(sample(*size)))['data_samples'].metainfo for size in ((2, 3), (6, 7))]
    assert metas[0]['padded'] is True and 'padded' not in metas[1]


def test_one_side_is_padded_and_the_other_cut() -> None:
    np.random.seed(0)
    given = sample(9, 3)
    given['gt_seg_map'] = np.repeat(np.arange(9, dtype=np.uint8)[:, None], 3, axis=1)
    crop = TRANSFORMS.build(dict(type='RandomPaddedCrop', crop_size=(4, 5), pad_color=(0, 0, 0)))
    first = set()
    for _ in range(100):
        out = crop(dict(given, img=given['img'].copy()))
        rows = out['gt_seg_map'][:, 0].tolist()
        first.add(rows[0])
        assert rows == list(range(rows[0], rows[0] + 4))
        assert (out['gt_seg_map'][:, 3:] == 255).all() and not out['img'][:, 3:].any()
    assert first == set(range(6))


def test_without_a_color_nothing_is_padded() -> None:
    out = RandomPaddedCrop((4, 5))(sample(2, 9))
    assert out['img'].shape == (2, 5, 3) and (out['gt_seg_map'] == 3).all()


@pytest.mark.parametrize('dtype', [np.uint8, np.float32, np.int64])
def test_every_map_is_padded(dtype: type) -> None:
    deep = np.ones((2, 3, 5), dtype)
    given = dict(img=sample(2, 3)['img'], deep=deep, valid_map=np.zeros((2, 3), np.uint8))
    given['seg_fields'] = ['deep', 'valid_map']
    crop = CarryMaps([dict(type='RandomPaddedCrop', crop_size=(4, 4), pad_color=(0, 0, 0))])
    out = crop(given)
    assert out['deep'].dtype == dtype and out['deep'].shape == (4, 4, 5)
    assert (out['deep'][:2, :3] == 1).all() and (out['deep'][2:] == 255).all()
    assert out['valid_map'].tolist() == [[0, 0, 0, 255]] * 2 + [[255] * 4] * 2


def test_padding_goes_through_flip_and_photometry_and_is_not_valid(scenes) -> None:
    """Images of 32 x 40 in a crop of 40 x 50, flipped, halved in brightness by the strong view."""
    dim = dict(type='RandomColorJitter', brightness=0, contrast=0, saturation=0, hue=0)
    geometry = dict(
        order=('crop', 'flip'),
        crop=dict(type='RandomPaddedCrop', crop_size=(40, 50), pad_color=(100, 110, 120)),
        flip=dict(type='RandomFlip', prob=1.0),
    )

    def halve(results: dict) -> dict:
        return dict(results, img=results['img'] // 2)

    dataset = DATASETS.build(
        dict(
            type='SemiDataset',
            labeled=scenes.labeled(pipeline=None),
            unlabeled=scenes.unlabeled(pipeline=None, strong=dict(transforms=[dim, halve])),
            geometry=geometry,
        )
    )
    keys = [SampleKey(source, 0, 0) for source in ('labeled', 'unlabeled')]
    batch = semi_collate([dataset[key] for key in keys])
    preprocessor = MODELS.build(
        dict(type='SemiDataPreprocessor', mean=[100.0] * 3, std=[10.0] * 3, bgr_to_rgb=True)
    )
    prepared = preprocessor(batch, True)
    inputs, truth = prepared['inputs'], prepared['data_samples']['labeled'][0].gt_sem_seg.data
    color = torch.tensor([0.0, 1.0, 2.0])[:, None, None]  # (100, 110, 120) normalized
    for images, wanted in (
        (inputs['labeled'], color),
        (inputs['weak'], color),
        (inputs['strong'][0], color / 2 - 5),
    ):
        assert images.shape == (1, 3, 40, 50)
        assert torch.equal(images[0, :, 32:], wanted.expand(3, 8, 50))
        assert torch.equal(images[0, :, :, :10], wanted.expand(3, 40, 10))  # on the left
    inside = torch.zeros(40, 50, dtype=torch.bool)
    inside[:32, 10:] = True
    assert torch.equal(inputs['valid'][0], inside)
    assert torch.equal(truth[0] == 255, ~inside)
    assert prepared['data_samples']['labeled'][0].metainfo['crop_size'] == (40, 50)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(crop_size=8), 'RandomPaddedCrop.crop_size must be a list of 2 values, got 8'),
        (dict(crop_size=(8, 0)), 'crop_size must be a whole number >= 1, got 0'),
        (dict(crop_size=(8, 8), pad_color=0), 'pad_color must be a list of 3 values, got 0'),
        (
            dict(crop_size=(8, 8), pad_color=(0, 0, 256)),
            'pad_color must be a whole number from 0 to 255, got 256',
        ),
    ],
)
def test_wrong_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomPaddedCrop(**arguments)
