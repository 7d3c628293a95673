from copy import deepcopy

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

import mmseg_semi  # noqa: F401

NORM = dict(type='BN', requires_grad=True)
SEGMENTOR = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[100.0] * 3, std=[50.0] * 3, bgr_to_rgb=True, size=(32, 32)
    ),
    backbone=dict(
        type='UNet',
        base_channels=4,
        num_stages=3,
        strides=(2, 1, 1),
        enc_num_convs=(1, 1, 1),
        dec_num_convs=(1, 1),
        downsamples=(True, True),
        enc_dilations=(1, 1, 1),
        dec_dilations=(1, 1),
        norm_cfg=NORM,
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=4,
        in_index=2,
        channels=4,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes=3,
        norm_cfg=NORM,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    ),
    test_cfg=dict(mode='whole'),
)
UNIMATCH = dict(
    type='SemiSegmentor',
    segmentor=SEGMENTOR,
    supervised_weight=0.5,
    refiners=dict(select=dict(type='ConfidenceThreshold', threshold=0.6)),
    mixer=dict(type='CutMix', prob=0.0),
    streams=dict(
        perturbed=dict(features='weak', perturbation=dict(type='FeatureDropout', prob=0.0))
    ),
    losses=dict(
        strong=dict(type='PseudoLabelCrossEntropy', stream='strong', loss_weight=0.25),
        perturbed=dict(type='PseudoLabelCrossEntropy', stream='perturbed', loss_weight=0.25),
    ),
)


@pytest.fixture(autouse=True)
def mmseg_scope():
    init_default_scope('mmseg')


@pytest.fixture
def build():
    """Build a small UniMatch model with changes, its weights drawn from seed 0."""

    def make(**changes):
        torch.manual_seed(0)
        return MODELS.build(ConfigDict({**deepcopy(UNIMATCH), **changes}))

    return make


@pytest.fixture
def batch():
    """Make a collated batch of images of the given sizes (height, width)."""

    def make(labeled=((32, 32),) * 2, unlabeled=((32, 32),) * 2, views=2, seed=0):
        source = torch.Generator().manual_seed(seed)

        def image(size):
            return torch.randint(0, 256, (3, *size), generator=source, dtype=torch.uint8)

        def sample(size, **data):
            out = SegDataSample(
                metainfo=dict(img_path=f'{size}.png', img_shape=size, ori_shape=size)
            )
            for name, value in data.items():
                setattr(out, name, PixelData(data=value))
            return out

        truth = [torch.randint(0, 3, (1, *size), generator=source) for size in labeled]
        valid = [torch.ones(1, *size, dtype=torch.bool) for size in unlabeled]
        return dict(
            labeled=dict(
                inputs=[image(size) for size in labeled],
                data_samples=[sample(s, gt_sem_seg=t) for s, t in zip(labeled, truth)],
            ),
            unlabeled=dict(
                weak=[image(size) for size in unlabeled],
                strong=[[image(size) for size in unlabeled] for _ in range(views)],
                data_samples=[sample(s, valid=v) for s, v in zip(unlabeled, valid)],
            ),
        )

    return make
