import pytest
import torch
from mmseg.models import SegDataPreProcessor

from mmseg_semi.models import SemiDataPreprocessor

ARGUMENTS = dict(mean=[1.0, 2.0, 3.0], std=[2.0, 2.0, 2.0], bgr_to_rgb=True, pad_val=-7)


def test_images_are_normalized_and_padded_as_by_mmseg(batch):
    data = batch(labeled=((32, 20), (24, 32)), unlabeled=((32, 32), (30, 31)))
    plain = batch(labeled=((32, 20), (24, 32)), unlabeled=((32, 32), (30, 31)))['labeled']
    ours = SemiDataPreprocessor(size=(32, 32), **ARGUMENTS)(data, training=True)
    theirs = SegDataPreProcessor(size=(32, 32), **ARGUMENTS)(plain, training=True)
    assert torch.equal(ours['inputs']['labeled'], theirs['inputs'])
    for mine, other in zip(ours['data_samples']['labeled'], theirs['data_samples']):
        assert torch.equal(mine.gt_sem_seg.data, other.gt_sem_seg.data)
        assert mine.metainfo['pad_shape'] == tuple(other.metainfo['pad_shape'])


def test_padding_is_invalid_and_ignored(batch):
    data = batch(labeled=((32, 20),), unlabeled=((10, 32),), views=3)
    out = SemiDataPreprocessor(size=(32, 32), **ARGUMENTS)(data, training=True)
    expected = torch.zeros(1, 32, 32, dtype=torch.bool)
    expected[:, :10] = True
    assert torch.equal(out['inputs']['valid'], expected)
    truth = out['data_samples']['labeled'][0].gt_sem_seg.data
    assert (truth[..., 20:] == 255).all() and (truth[..., :20] != 255).all()
    assert len(out['inputs']['strong']) == 3
    assert all(view.shape == (1, 3, 32, 32) for view in out['inputs']['strong'])
    assert (out['inputs']['strong'][2][:, :, 10:] == -7).all()


def test_without_size_everything_gets_the_largest_size_of_both_parts(batch):
    data = batch(labeled=((17, 40),), unlabeled=((33, 12),))
    out = SemiDataPreprocessor(size_divisor=16, **ARGUMENTS)(data, training=True)
    assert out['inputs']['labeled'].shape[-2:] == out['inputs']['weak'].shape[-2:] == (48, 48)


def test_plain_batches_are_treated_as_by_mmseg(batch):
    plain, other = batch()['labeled'], batch()['labeled']
    ours = SemiDataPreprocessor(size=(40, 40), **ARGUMENTS)(plain, training=False)
    theirs = SegDataPreProcessor(size=(40, 40), **ARGUMENTS)(other, training=False)
    assert torch.equal(ours['inputs'], theirs['inputs'])


def test_errors(batch):
    data = batch(unlabeled=((33, 32),))
    with pytest.raises(ValueError, match=r'size is \(32, 32\).*\(33, 32\).*leave size out'):
        SemiDataPreprocessor(size=(32, 32))(data, training=True)
    data = batch()
    del data['unlabeled']
    with pytest.raises(ValueError, match='no unlabeled image'):
        SemiDataPreprocessor(size=(32, 32))(data, training=True)
