"""Labeled images with masks of 8 bits, until they are on the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.datasets.transforms import PackSegInputs
from mmseg.structures import SegDataSample

from mmseg_semi.datasets import PackLabeledInputs
from mmseg_semi.datasets.pipelines import labeled_pipeline
from mmseg_semi.models import SemiDataPreprocessor

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (7, 9, 3), dtype=np.uint8)
MASK = RNG.choice(np.array([0, 1, 18, 255], np.uint8), (7, 9))


@pytest.mark.parametrize('flipped', [False, True])
def test_all_but_the_bits_of_the_mask_is_as_mmseg_packs_it(flipped):
    step = -1 if flipped else 1
    results = dict(img=IMAGE[:, ::step], gt_seg_map=MASK[:, ::step], flip=flipped, seg_fields=[])
    ours, theirs = PackLabeledInputs()(dict(results)), PackSegInputs()(dict(results))
    assert ours.keys() == theirs.keys() and torch.equal(ours['inputs'], theirs['inputs'])
    mine, their = ours['data_samples'], theirs['data_samples']
    assert mine.metainfo == their.metainfo and mine.metainfo['flip'] == flipped
    assert mine.gt_sem_seg.data.dtype == torch.uint8
    assert torch.equal(mine.gt_sem_seg.data.long(), their.gt_sem_seg.data)


def test_the_preprocessor_makes_them_int64():
    labeled = PackLabeledInputs()(dict(img=IMAGE, gt_seg_map=MASK))
    valid = SegDataSample(valid=PixelData(data=torch.ones(1, 7, 9, dtype=torch.bool)))
    weak = torch.from_numpy(IMAGE.transpose(2, 0, 1).copy())
    batch = dict(
        labeled={key: [one] for key, one in labeled.items()},
        unlabeled=dict(weak=[weak], strong=[], data_samples=[valid]),
    )
    prepared = SemiDataPreprocessor(size=(8, 10))(batch, True)
    found = prepared['data_samples']['labeled'][0].gt_sem_seg.data
    assert found.dtype == torch.int64 and found.shape == (1, 8, 10)
    assert found[0, :7, :9].tolist() == MASK.tolist()
    assert (found[0, 7] == 255).all() and (found[0, :, 9] == 255).all()


def test_without_unlabeled_images_masks_are_as_mmseg_wants_them():
    assert labeled_pipeline()[-1] == dict(type='PackLabeledInputs')
    assert labeled_pipeline(beside_unlabeled=False)[-1] == dict(type='PackSegInputs')


@pytest.mark.parametrize('left_out', ['img', 'gt_seg_map'])
def test_what_is_not_there_is_left_out(left_out):
    results = dict(img=IMAGE, gt_seg_map=MASK)
    del results[left_out]
    ours, theirs = PackLabeledInputs()(dict(results)), PackSegInputs()(dict(results))
    assert ours.keys() == theirs.keys()
    assert ours['data_samples'].keys() == theirs['data_samples'].keys()


def test_a_plain_batch_gets_them_int64_too():
    packed = PackLabeledInputs()(dict(img=IMAGE, gt_seg_map=MASK))
    batch = {key: [one] for key, one in packed.items()}
    found = SemiDataPreprocessor(size=(8, 10))(batch, True)['data_samples'][0].gt_sem_seg.data
    assert found.dtype == torch.int64 and found[0, :7, :9].tolist() == MASK.tolist()
