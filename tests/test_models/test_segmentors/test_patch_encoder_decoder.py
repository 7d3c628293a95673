"""Images of any size through a network that takes multiples of 14."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmseg_semi.models.segmentors.patch_encoder_decoder import nearest_multiple

from ..conftest import SEGMENTOR

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')


def segmentor(kind='PatchEncoderDecoder', **changes):
    torch.manual_seed(0)
    backbone = dict(type='DINOv2', arch='small', depth=4, out_indices=(0, 1, 2, 3))
    head = dict(type='UniMatchDPTHead', in_channels=(384,) * 4, channels=8, num_classes=3)
    cfg = dict(type=kind, backbone=backbone, decode_head=head, test_cfg=dict(mode='whole'))
    model = MODELS.build(ConfigDict({**cfg, **changes}))
    for one in model.backbone.parameters():
        torch.nn.init.normal_(one, std=0.2)
    return model.eval()


@pytest.mark.parametrize(
    ('side', 'wanted'), [(500, 504), (375, 378), (518, 518), (7, 14), (3, 14), (1024, 1022)]
)
def test_the_nearest_multiple(side, wanted):
    assert nearest_multiple(side, 14) == wanted


@pytest.mark.filterwarnings('error:When align_corners')  # which no user can do anything about
@torch.no_grad()
def test_an_image_is_resized_and_its_logits_back():
    model = segmentor()
    images = torch.randn(1, 3, 45, 60)
    metas = [dict(img_shape=(45, 60), ori_shape=(45, 60), pad_shape=(45, 60))]
    fitted = F.interpolate(images, (42, 56), mode='bilinear', align_corners=True)
    logits = model.decode_head(model.backbone(fitted))
    assert logits.shape[2:] == (24, 32)
    for size in ((42, 56), (45, 60)):
        logits = F.interpolate(logits, size, mode='bilinear', align_corners=True)
    torch.testing.assert_close(model.encode_decode(images, metas), logits)
    assert metas[0]['img_shape'] == (45, 60)
    whole = model.predict(images, [SegDataSample(metainfo=metas[0])])[0]
    np.testing.assert_array_equal(whole.pred_sem_seg.data[0], logits[0].argmax(0))


@torch.no_grad()
def test_sizes_that_fit_stay_as_they_are():
    model, plain = segmentor(), segmentor('EncoderDecoder')
    images = torch.randn(2, 3, 28, 42)
    metas = [dict(img_shape=(28, 42))] * 2
    assert torch.equal(model.encode_decode(images, metas), plain.encode_decode(images, metas))


@torch.no_grad()
def test_windows_at_the_border_are_resized_too():
    slide = dict(mode='slide', crop_size=(42, 42), stride=(28, 28))
    model = segmentor(test_cfg=dict(slide, window_average='prob', window_border='cut'))
    metas = [dict(img_shape=(50, 45), ori_shape=(50, 45), pad_shape=(50, 45))]
    logits = model.inference(torch.randn(1, 3, 50, 45), metas)
    assert logits.shape == (1, 3, 50, 45) and logits.isfinite().all()


def test_a_backbone_without_patches_is_refused():
    cfg = ConfigDict(SEGMENTOR, type='PatchEncoderDecoder')
    with pytest.raises(ValueError, match="UNet has none: set type='EncoderDecoder'"):
        MODELS.build(cfg)
