"""UniMatch around mmseg's segmentors: which train, and which are refused."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import mmseg
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.utils import is_installed
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import nn

from mmseg_semi.models.segmentors.network import supervised_losses

from ..helpers import hooked

BN = dict(type='BN', requires_grad=True)
PREPROCESSOR = dict(
    type='SegDataPreProcessor', mean=[110.0] * 3, std=[60.0] * 3, bgr_to_rgb=True, size=(64, 64)
)
CONFIGS = Path(mmseg.__file__).parent / '.mim' / 'configs'


def head(kind: str, in_channels: Any, in_index: Any, **more: Any) -> dict[str, Any]:
    loss = dict(type='CrossEntropyLoss', loss_weight=more.pop('loss_weight', 1.0))
    return dict(
        type=kind,
        in_channels=in_channels,
        in_index=in_index,
        **{'channels': 8, 'num_classes': 3, 'dropout_ratio': 0.1, 'norm_cfg': BN, **more},
        align_corners=False,
        loss_decode=loss,
    )


def auxiliary(in_channels: int, in_index: int) -> dict[str, Any]:
    return head('FCNHead', in_channels, in_index, num_convs=1, loss_weight=0.4)


def resnet() -> dict[str, Any]:
    return dict(
        type='ResNetV1c',
        depth=18,
        stem_channels=8,
        base_channels=8,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        norm_cfg=BN,
        contract_dilation=True,
    )


def deeplabv3plus() -> dict[str, Any]:
    return dict(
        type='EncoderDecoder',
        backbone=resnet(),
        decode_head=head(
            'DepthwiseSeparableASPPHead',
            *(64, 3),
            dilations=(1, 3, 6, 9),
            c1_in_channels=8,
            c1_channels=4,
        ),
        auxiliary_head=auxiliary(32, 2),
    )


def segformer() -> dict[str, Any]:
    return dict(
        type='EncoderDecoder',
        backbone=dict(
            type='MixVisionTransformer',
            embed_dims=8,
            num_stages=4,
            num_layers=[1, 1, 1, 1],
            num_heads=[1, 2, 4, 4],
            patch_sizes=[7, 3, 3, 3],
            sr_ratios=[8, 4, 2, 1],
            out_indices=(0, 1, 2, 3),
            mlp_ratio=2,
            drop_path_rate=0.1,
        ),
        decode_head=head('SegformerHead', [8, 16, 32, 32], [0, 1, 2, 3]),
    )


def upernet_swin() -> dict[str, Any]:
    return dict(
        type='EncoderDecoder',
        backbone=dict(
            type='SwinTransformer',
            embed_dims=8,
            depths=[1, 1, 2, 1],
            num_heads=[1, 2, 2, 4],
            window_size=4,
            mlp_ratio=2,
            drop_path_rate=0.1,
            patch_norm=True,
        ),
        decode_head=head('UPerHead', [8, 16, 32, 64], [0, 1, 2, 3], pool_scales=(1, 2)),
        auxiliary_head=auxiliary(32, 2),
    )


def fcn_unet() -> dict[str, Any]:
    backbone = dict(
        type='UNet',
        base_channels=4,
        num_stages=3,
        strides=(1, 1, 1),
        enc_num_convs=(2, 2, 2),
        dec_num_convs=(2, 2),
        downsamples=(True, True),
        enc_dilations=(1, 1, 1),
        dec_dilations=(1, 1),
        norm_cfg=BN,
    )
    return dict(
        type='EncoderDecoder',
        backbone=backbone,
        decode_head=head('FCNHead', 4, 2, num_convs=1, concat_input=False),
        auxiliary_head=auxiliary(8, 1),
    )


def ocrnet() -> dict[str, Any]:
    return dict(
        type='CascadeEncoderDecoder',
        num_stages=2,
        backbone=resnet(),
        decode_head=[
            auxiliary(32, 2),
            head('OCRHead', 64, 3, ocr_channels=4),
        ],
    )


BUILDERS = dict(
    deeplabv3plus=deeplabv3plus,
    segformer=segformer,
    upernet_swin=upernet_swin,
    fcn_unet=fcn_unet,
    ocrnet=ocrnet,
)


def unimatch(segmentor: dict[str, Any]) -> dict[str, Any]:
    """Config entries that replace the segmentor of ``build``."""
    tests = dict(train_cfg=dict(), test_cfg=dict(mode='whole'))
    return dict(
        segmentor=dict(deepcopy(segmentor), data_preprocessor=PREPROCESSOR, **tests),
        streams=dict(perturbed=dict(features='weak', perturbation=dict(type='FeatureDropout'))),
        mixer=dict(type='CutMix', prob=1.0),
        refiners=dict(select=dict(type='ConfidenceThreshold', threshold=0.3)),
        teacher=dict(type='EMATeacher'),
    )


def make_model(build: Any, name: str) -> Any:
    model = hooked(build(**unimatch(BUILDERS[name]())))
    model.train()
    return model


@pytest.fixture
def images(batch):
    """Two labeled and three unlabeled images of 64 x 64, collated."""
    return lambda: batch(labeled=((64, 64),) * 2, unlabeled=((64, 64),) * 3)


def state_of(network: nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in network.state_dict().values()]


@pytest.mark.parametrize('name', BUILDERS)
def test_trains_the_student_and_nothing_else(build, images, name):
    model = make_model(build, name)
    teacher = state_of(model.teacher.network)
    losses = model(**model.data_preprocessor(images(), True), mode='loss')
    assert {'strong.loss', 'perturbed.loss'} < losses.keys()
    total, log = model.parse_losses(losses)
    assert log['selected'] > 0 and log['strong.loss'] > 0
    first = next(model.segmentor.backbone.parameters())
    for stream in ('decode', 'strong.loss', 'perturbed.loss'):  # each reaches the encoder
        parts = [value for key, value in losses.items() if stream in key and 'loss' in key]
        (gradient,) = torch.autograd.grad(sum(parts), first, retain_graph=True)
        assert gradient.isfinite().all() and gradient.abs().sum() > 0, stream
    total.backward()
    parameters = dict(model.segmentor.named_parameters())
    without = {key for key, value in parameters.items() if value.grad is None}
    assert without == set(), 'parameters that no loss reaches'
    assert all(value.grad is None for value in model.teacher.network.parameters())

    before = {key: value.detach().clone() for key, value in parameters.items()}
    optimizer = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0))
    values = [model.train_step(images(), optimizer) for _ in range(2)]
    assert all(value.isfinite() for value in values[-1].values())
    assert {key for key in parameters if torch.equal(before[key], parameters[key])} == set()
    assert all(map(torch.equal, state_of(model.teacher.network), teacher))


@pytest.mark.parametrize('name', BUILDERS)
def test_part_by_part_is_what_mmseg_does_in_one_pass(build, images, name):
    """Logits, losses and their names, auxiliary heads and cascades included."""
    model = make_model(build, name)
    data = model.data_preprocessor(images(), True)
    inputs, samples = data['inputs']['labeled'], data['data_samples']['labeled']
    segmentor = model.segmentor.eval()
    outputs = model.run(inputs)
    assert outputs.logits.shape == (2, 3, 64, 64)
    metas = [sample.metainfo for sample in samples]
    torch.testing.assert_close(outputs.logits, segmentor.encode_decode(inputs, metas))
    ours, theirs = supervised_losses(segmentor, outputs, samples), segmentor.loss(inputs, samples)
    assert ours.keys() == theirs.keys()
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], msg=key)


# ------------------------------------------------------------------------------- refused
def with_head(**decode_head: Any) -> dict[str, Any]:
    return dict(fcn_unet(), decode_head=decode_head, auxiliary_head=None)


@MODELS.register_module()
class QueryHeadForTest(BaseDecodeHead):
    """Predicts by queries, as the heads of Mask2Former and its relatives do."""

    def forward(self, inputs: Any) -> Any:
        return inputs, inputs

    def loss(self, inputs: Any, batch_data_samples: Any, train_cfg: Any) -> Any:
        return {}

    def predict(self, inputs: Any, batch_img_metas: Any, test_cfg: Any) -> Any:
        return inputs


SMALL = dict(in_channels=4, channels=8, num_classes=3, norm_cfg=BN)
REFUSED = dict(
    queries=(with_head(type='QueryHeadForTest', **SMALL), TypeError, 'QueryHeadForTest.*queries'),
    ddr=(with_head(type='DDRHead', **SMALL), TypeError, 'DDRHead.*several maps'),
    pid=(with_head(type='PIDHead', **SMALL), TypeError, 'PIDHead.*several maps'),
    enc=(
        with_head(**head('EncHead', [4, 4, 4], (0, 1, 2), num_codes=4, use_se_loss=True)),
        TypeError,
        'EncHead.*several maps',
    ),
    sigmoid=(
        with_head(**head('FCNHead', 4, 2, num_classes=2, out_channels=1, threshold=0.3)),
        ValueError,
        r'FCNHead has out_channels=1 \(sigmoid\)',
    ),
    cascade=(
        dict(
            ocrnet(),
            decode_head=[
                auxiliary(32, 2),
                head('PointHead', [64], [3], num_fcs=1, coarse_pred_each_layer=True),
            ],
        ),
        TypeError,
        'PointHead.*points',
    ),
)


@pytest.mark.parametrize('name', REFUSED)
def test_refused_with_the_reason(build, name):
    segmentor, error, message = REFUSED[name]
    with pytest.raises(error, match=rf'model\.segmentor\.decode_head.*{message}'):
        build(**unimatch(segmentor))


@pytest.mark.skipif(not is_installed('mmdet'), reason='Mask2Former needs mmdet')
def test_mask2former_is_refused(build):
    config = CONFIGS / 'mask2former' / 'mask2former_r50_8xb2-90k_cityscapes-512x1024.py'
    segmentor = Config.fromfile(str(config)).model.to_dict()
    segmentor['backbone']['init_cfg'] = None
    with pytest.raises(TypeError, match='Mask2FormerHead.*queries.*Use a per-pixel head'):
        build(**unimatch(segmentor))
