"""Labeled images that are loaded besides the batch."""

from __future__ import annotations

import pytest
import torch
from mmseg.registry import DATASETS

from mmseg_semi.datasets import SampleKey
from mmseg_semi.datasets.partner_loader import LabeledLoader

GEOMETRY = dict(
    order=('resize', 'crop', 'flip'),
    resize=dict(type='RandomRelativeResize', ratio_range=(1.0, 1.0)),
    crop=dict(type='RandomCrop', crop_size=(24, 24)),
    flip=None,
)


def dataset_of(scenes, **geometry):
    parts = dict(labeled=scenes.labeled(pipeline=None), unlabeled=scenes.unlabeled())
    return DATASETS.build(dict(type='SemiDataset', geometry={**GEOMETRY, **geometry}, **parts))


def test_random_labeled_images_of_a_scale_of_their_own(scenes):
    """At half their size the images of 32 x 40 are smaller than the crop, otherwise not."""
    dataset = dataset_of(scenes)
    loader = LabeledLoader(dataset, (0.5, 0.5))
    torch.manual_seed(0)
    part = loader(40)
    assert len(part['inputs']) == 40
    assert {tuple(image.shape) for image in part['inputs']} == {(3, 16, 20)}
    paths = {sample.img_path for sample in part['data_samples']}
    assert len(paths) == 5, 'all of them come up'
    for image, sample in zip(part['inputs'], part['data_samples']):
        assert sample.gt_sem_seg.data.shape[-2:] == image.shape[-2:]
    assert dataset[SampleKey('labeled', 0, 0)]['inputs'].shape == (3, 24, 24), 'left as it is'
    torch.manual_seed(0)
    again = loader(40)
    assert all(map(torch.equal, part['inputs'], again['inputs']))


def test_without_a_scale_the_data_sets_own(scenes):
    part = LabeledLoader(dataset_of(scenes))(3)
    assert {tuple(image.shape) for image in part['inputs']} == {(3, 24, 24)}


def test_a_scale_needs_the_resize_that_it_replaces(scenes):
    dataset = dataset_of(scenes, resize=None)
    with pytest.raises(ValueError, match=r'CopyPaste\.scale=\(0.5, 2.0\).*geometry has none'):
        LabeledLoader(dataset, (0.5, 2.0))
