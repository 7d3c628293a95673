"""Checkpoints of untrained networks, which predict several classes, with their configs."""

from __future__ import annotations

from pathlib import Path

import torch
from leaves import CLASSES, leaves_config, make_leaves
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS

from mmseg_semi.utils.config import load_config
from mmseg_semi.utils.weight_checks import without_downloads

PALETTE = [[0, 0, 0], [40, 170, 50], [150, 90, 30]]
#: A network that looks not far, so that what is far away cannot matter.
NEAR = """
model = dict(segmentor=dict(
    backbone=dict(
        _delete_=True, type='UNet', base_channels=4, num_stages=2, strides=(1, 1),
        enc_num_convs=(1, 1), dec_num_convs=(1,), downsamples=(True,), enc_dilations=(1, 1),
        dec_dilations=(1,), norm_cfg=dict(type='BN')),
    decode_head=dict(in_channels=4, channels=4, in_index=1, norm_cfg=dict(type='BN'))))
"""


def saved_model(
    folder: Path, base: str = 'unimatch/unimatch_unet_custom.py', extra: str = NEAR
) -> Path:
    """Write a run's folder: ``config.py`` and ``iter_2.pth``, beside a folder of leaves."""
    root = make_leaves(folder / 'leaves')
    path = leaves_config(folder / 'child.py', root, '', base)
    path.write_text(path.read_text() + extra)
    cfg = load_config(str(path))
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(without_downloads(cfg.model))
    several_classes(model)
    run = folder / 'run'
    run.mkdir()
    cfg.dump(str(run / 'config.py'))
    meta = dict(dataset_meta=dict(classes=CLASSES, palette=PALETTE))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), run / 'iter_2.pth')
    return run / 'iter_2.pth'


@torch.no_grad()
def several_classes(model: torch.nn.Module) -> None:
    """Let the networks of a model, student and teacher, predict several classes."""
    teacher = getattr(getattr(model, 'teacher', None), 'network', None)
    for network in filter(None, (getattr(model, 'segmentor', model), teacher)):
        classifier = network.eval().decode_head.conv_seg
        classifier.weight.normal_(std=3.0)
        images = torch.randn(2, next(network.parameters()).shape[1], 64, 64)
        logits = network._forward(images)
        classifier.weight /= logits.std() / 3
        classifier.bias -= network._forward(images).mean(dim=(0, 2, 3))
