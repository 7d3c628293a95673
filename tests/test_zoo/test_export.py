"""``mmseg-semi export --onnx``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import mmseg
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from equal_blocks import small_networks
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from PIL import Image
from saved_models import PALETTE, saved_model, several_classes
from tool_runs import CONFIGS, REPO, environment

from mmseg_semi.apis import predict
from mmseg_semi.errors import DataError
from mmseg_semi.models import DINOv2
from mmseg_semi.utils.config import load_config
from mmseg_semi.utils.weight_checks import without_downloads
from mmseg_semi.zoo import export
from mmseg_semi.zoo.onnx_graph import PooledBins, Positions

MODELS_OF_MMSEG = Path(mmseg.__file__).parent / '.mim/configs/_base_/models'
DATA = """
custom_imports = dict(imports=['mmseg_semi'])
default_scope = 'mmseg'
test_dataloader = dict(dataset=dict(
    type='BaseSegDataset', metainfo=dict(classes={classes!r}),
    pipeline=[dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]))
"""
#: Every network that a config of the repository has, and one of mmseg, small where they can be.
FAMILIES = {
    'unet_small': (CONFIGS / '_base_/models/unet_small.py', ''),
    'unet_digit_scenes': (CONFIGS / '_base_/models/unet_digit_scenes.py', ''),
    'deeplabv3plus_r50': (
        CONFIGS / '_base_/models/deeplabv3plus_r50.py',
        'model = dict(pretrained=None, auxiliary_head=None, backbone=dict(base_channels=8),'
        'decode_head=dict(in_channels=256, c1_in_channels=32, channels=16, c1_channels=8))\n',
    ),
    'deeplabv3plus_r101': (
        CONFIGS / '_base_/models/deeplabv3plus_r101-d8.py',
        'model = dict(pretrained=None, backbone=dict(depth=50, base_channels=8),'
        'decode_head=dict(in_channels=(32, 256), channels=16))\n',
    ),
    'deeplabv3plus_xception65': (
        CONFIGS / '_base_/models/deeplabv3plus_xception65.py',
        'model = dict(decode_head=dict(in_channels=(32, 256), channels=32, aspp_channels=32))\n',
    ),
    'efficientnet-lite0': (CONFIGS / '_base_/models/efficientnet-lite0_segformer.py', ''),
    'segformer': (
        MODELS_OF_MMSEG / 'segformer_mit-b0.py',
        'model = dict(pretrained=None, backbone=dict(embed_dims=8),'
        'decode_head=dict(in_channels=[8, 16, 40, 64], channels=16))\n',
    ),
    'upernet_swin': (
        MODELS_OF_MMSEG / 'upernet_swin.py',
        'model = dict(pretrained=None, auxiliary_head=None,'
        'backbone=dict(embed_dims=24, depths=(2, 2, 2, 2)),'
        'decode_head=dict(in_channels=[24, 48, 96, 192], channels=16, num_classes=7))\n',
    ),
    'upernet_convnext': (
        CONFIGS / '_base_/settings/upernet_convnext-t_custom.py',
        "model = dict(auxiliary_head=None, backbone=dict(arch='atto'),"
        'decode_head=dict(in_channels=[40, 80, 160, 320], channels=16))\n',
    ),
}


def checkpoint_of(folder: Path, base: Path, extra: str) -> Path:
    """Write a plain segmentor of a base and its config."""
    config = folder / 'model.py'
    text = f'_base_ = {str(base)!r}\n{extra}'
    config.write_text(text + DATA.format(classes=['a', 'b']))
    cfg = load_config(str(config), unread=True)
    count = cfg.model.decode_head.num_classes
    config.write_text(text + DATA.format(classes=[str(i) for i in range(count)]))
    with DefaultScope.overwrite_default_scope('mmseg'):
        torch.manual_seed(0)
        model = MODELS.build(without_downloads(cfg.model))
    several_classes(model)
    torch.save(dict(state_dict=model.state_dict()), folder / 'model.pth')
    return folder / 'model.pth'


@pytest.mark.parametrize('family', FAMILIES)
def test_every_network_gives_the_same_logits_for_any_size(family, tmp_path, capsys, monkeypatch):
    small_networks(monkeypatch)
    checkpoint = checkpoint_of(tmp_path, *FAMILIES[family])
    export.main([str(checkpoint), '--onnx', '--out', str(tmp_path / 'model.onnx')])
    said = capsys.readouterr().out
    sizes = '128 x 160, 192 x 96' if family == 'unet_digit_scenes' else '129 x 161, 200 x 97'
    assert re.search(rf'MiB\); images of {sizes}, 64 x 256: logits differ by \S+ at most', said)
    model = onnx.load(tmp_path / 'model.onnx')
    onnx.checker.check_model(model)
    names = [one.dim_param for one in model.graph.input[0].type.tensor_type.shape.dim]
    assert names == ['batch', '', 'height', 'width']


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """A run and the file of its teacher."""
    run = saved_model(tmp_path_factory.mktemp('saved'))
    out = run.parent / 'model.onnx'
    size = 'test_dataloader.dataset.pipeline.1.scale=(64,48)'  # that of the images
    words = ['--onnx', str(run), '--predict-with', 'teacher', '--cfg-options', size]
    export.main([*words, '--out', str(out)])
    return run, out, size


def test_the_example_of_the_documents_runs_without_torch(exported, tmp_path):
    run, out, size = exported
    image = run.parents[1] / 'leaves/images/val/v0.jpg'
    code = re.search(r'```python\n(.*?)```', (REPO / 'docs/predict.md').read_text(), re.DOTALL)
    assert len(code.group(1).strip().splitlines()) <= 23
    script = tmp_path / 'run.py'
    blocked = "import sys\nsys.modules.update(dict.fromkeys(['torch', 'mmseg', 'mmseg_semi']))\n"
    script.write_text(blocked + code.group(1))
    words = [sys.executable, script, out, image, tmp_path / 'labels.png']
    subprocess.run([str(word) for word in words], check=True, env=environment())
    predict.main(
        [str(run), str(image), '--out', str(tmp_path / 'out'), '--predict-with', 'teacher']
        + ['--cfg-options', size]
    )
    found, wanted = (Image.open(tmp_path / one) for one in ('labels.png', 'out/labels/v0.png'))
    assert found.mode == 'P' and found.getpalette()[:9] == wanted.getpalette()[:9]
    different = np.array(found) != np.array(wanted)  # decoders of JPEG round differently
    assert different.mean() < 0.01 and len(np.unique(found)) == 3


def test_metadata_say_what_the_graph_does_not_know(exported):
    session = onnxruntime.InferenceSession(str(exported[1]))
    found = session.get_modelmeta().custom_metadata_map
    assert {name: json.loads(value) for name, value in found.items()} == dict(
        classes=['background', 'leaf', 'disease'],
        palette=PALETTE,
        channels='RGB',
        scale=[64, 48],
        keep_ratio=True,
        reduce_zero_label=False,
    )


def test_a_graph_that_differs_is_refused(exported, tmp_path, monkeypatch):
    real = export.Graph.forward
    monkeypatch.setattr(export.Graph, 'forward', lambda self, x: real(self, x) + 0.01)
    with pytest.raises(DataError, match='on images of 129 x 161 pixels a logit .* differs by 0.01'):
        export.main([str(exported[0]), '--onnx', '--out', str(tmp_path / 'a.onnx')])
    assert not list(tmp_path.iterdir())
    words = ['--onnx', '--out', str(tmp_path / 'a.onnx'), '--size', '64', '96']
    with pytest.raises(DataError, match=r'64 x 96 pixels .* 0.00\d+, so no file is written\.$'):
        export.main([str(exported[0]), *words])


def test_large_logits_may_differ_by_more(exported, tmp_path, monkeypatch, capsys):
    """By a ten thousandth of the largest."""
    real, logits = export.Graph.forward, export.Predictor.logits
    monkeypatch.setattr(export.Graph, 'forward', lambda self, x: 100 * real(self, x) + 0.01)
    monkeypatch.setattr(export.Predictor, 'logits', lambda self, x: 100 * logits(self, x))
    export.main([str(exported[0]), '--onnx', '--out', str(tmp_path / 'a.onnx')])
    assert 'logits differ by 0.01 at most' in capsys.readouterr().out


def test_a_network_whose_graph_has_one_size_needs_it_said(exported, tmp_path, monkeypatch, capsys):
    real = export.Graph.forward

    def fixed(self, images):
        return real(self, images)[:, :, : int(images.shape[2]), : int(images.shape[3])].reshape(
            -1, 3, int(images.shape[2]), int(images.shape[3])
        )

    monkeypatch.setattr(export.Graph, 'forward', fixed)
    words = [str(exported[0]), '--onnx', '--out', str(tmp_path / 'a.onnx')]
    with pytest.raises(DataError, match='200 x 97 pixels.*Give --size HEIGHT WIDTH'):
        export.main(words)
    export.main([*words, '--size', '64', '96'])
    assert 'images of 64 x 96: logits differ' in capsys.readouterr().out


def test_a_graph_for_one_image_says_so(exported, tmp_path, monkeypatch, capsys):
    real = export.Graph.forward
    monkeypatch.setattr(export.Graph, 'forward', lambda self, images: real(self, images[:1]))
    export.main([str(exported[0]), '--onnx', '--out', str(tmp_path / 'a.onnx')])
    assert 'the graph takes one image at a time' in capsys.readouterr().out
    shape = onnx.load(tmp_path / 'a.onnx').graph.input[0].type.tensor_type.shape.dim
    assert (shape[0].dim_value, shape[2].dim_param) == (1, 'height')


@pytest.mark.parametrize('size', [(7, 9), (6, 6), (13, 2)])
def test_pooling_into_bins_is_that_of_torch(size):
    maps = torch.randn(2, 3, *size)
    for bins in (2, 3, 6):
        wanted = torch.nn.functional.adaptive_avg_pool2d(maps, bins)
        torch.testing.assert_close(PooledBins(bins)(maps), wanted)


def test_refusals(exported, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        export.main([str(exported[0]), '--onnx', '--out', 'model.pth'])
    assert '--out must end in .onnx, got model.pth' in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'mmseg_semi\[onnx\]'"):
        export.main([str(exported[0]), '--onnx', '--out', str(tmp_path / 'a.onnx')])


@torch.no_grad()
@pytest.mark.parametrize('size', [(37, 37), (37, 36), (5, 57), (1, 1)])
def test_position_embeddings_are_those_of_dinov2(size):
    encoder = DINOv2('small', depth=1, out_indices=(0,))
    torch.nn.init.normal_(encoder.pos_embed)
    found = Positions(encoder)(*size)
    # Places up to 36 have an error of 4e-6 in float32.
    torch.testing.assert_close(found, encoder._positions(*size), atol=5e-5, rtol=1e-5)
    assert not torch.equal(found, encoder.pos_embed) or size == (37, 37)


@pytest.mark.parametrize('size', [('0', '5'), ('-3', '5'), ('8', 'x')])
def test_a_size_that_is_none(size, capsys):
    with pytest.raises(SystemExit):
        export.main(['--onnx', 'a.pth', '--out', 'a.onnx', '--size', *size])
    assert 'is no number: give a whole one from 1 on' in capsys.readouterr().err
