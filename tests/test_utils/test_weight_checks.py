"""Weights that do not fit are refused before anything is trained or tested with them."""

from __future__ import annotations

import re
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from tool_runs import TOOLS, load_checkpoint
from torch import nn

from mmseg_semi.utils.weight_checks import (
    build_shapes,
    check_checkpoint,
    check_pretrained,
    without_downloads,
    wrong_shapes,
)

# The name of a copy: a hash of the whole address, and the address's own name.
COPY = 'c8ce12c58df9-resnet50_v1c-2cccc1ad.pth'


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


class Plain(nn.Module):
    """A segmentor by the names of its parts."""

    def __init__(self, width: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))
        self.decode_head = nn.Conv2d(width, classes, 1)
        self.auxiliary_head = nn.Conv2d(width, classes, 1)


class Semi(nn.Module):
    def __init__(self, **sizes: int) -> None:
        super().__init__()
        self.segmentor = Plain(**sizes)
        self.heads = nn.Linear(2, 2)


def state(model: nn.Module, prefix: str = '') -> dict[str, Any]:
    return dict(state_dict={prefix + name: v for name, v in model.state_dict().items()})


def test_shapes_are_compared_by_name():
    wanted = dict(a=torch.zeros(2, 3), b=torch.zeros(1), c=torch.zeros(1))
    assert wrong_shapes(dict(a=torch.zeros(3, 2), b=torch.zeros(1), d=torch.zeros(9)), wanted) == [
        'a is (3, 2), the network has (2, 3)'
    ]


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_what_fits_is_taken(training, prefix):
    check_checkpoint(Plain(), state(Plain(), prefix), training)
    check_checkpoint(Semi(), state(Semi(), prefix), training)
    check_checkpoint(Semi(), state(Plain(), prefix), training)  # a plain one starts the student
    check_checkpoint(Plain(), state(Plain(), prefix)['state_dict'], training)


def test_a_test_needs_everything_that_predicts_and_nothing_else():
    content = state(Semi())
    for name in ('heads.weight', 'segmentor.auxiliary_head.weight'):
        del content['state_dict'][name]
    counters = [name for name in content['state_dict'] if name.endswith('num_batches_tracked')]
    for name in counters:
        del content['state_dict'][name]
    assert counters
    check_checkpoint(Semi(), content, training=False)
    del content['state_dict']['segmentor.decode_head.weight']
    with pytest.raises(ValueError, match=r'1 tensors of \d+: segmentor.decode_head.weight is miss'):
        check_checkpoint(Semi(), content, training=False)
    with pytest.raises(ValueError, match='backbone.0.weight is missing'):
        check_checkpoint(Plain(), dict(state_dict=dict(other=torch.zeros(1))), training=False)


def test_what_does_not_predict_need_not_fit_in_a_test():
    """AEL's bank has the number of images of its run, which a test does not know."""
    content, model = state(Semi()), Semi()
    content['state_dict']['mixer.bank'] = torch.zeros(7, 3)
    model.mixer = nn.Module()
    model.mixer.register_buffer('bank', torch.zeros(0, 3))
    check_checkpoint(model, content, training=False)
    content['state_dict']['teacher.weight'] = torch.zeros(7, 3)
    model.teacher = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r'teacher.weight is \(7, 3\)'):
        check_checkpoint(model, content, training=False)


def test_training_may_begin_with_other_classes_but_not_with_another_backbone():
    check_checkpoint(Semi(), state(Plain(classes=7)), training=True)
    with pytest.raises(ValueError, match=r'decode_head.weight is \(7, 4, 1, 1\), the network has'):
        check_checkpoint(Semi(), state(Plain(classes=7)), training=False)
    with pytest.raises(ValueError, match=r'backbone.0.weight is \(8, 3, 3, 3\), .* \(4, 3, 3, 3\)'):
        check_checkpoint(Semi(), state(Plain(width=8)), training=True)
    part = {n: v for n, v in Plain().state_dict().items() if n != 'backbone.1.weight'}
    with pytest.raises(ValueError, match=r'1 tensors of \d+: segmentor.backbone.1.weight is miss'):
        check_checkpoint(Semi(), dict(state_dict=part), training=True)
    headless = {n: v for n, v in Plain().state_dict().items() if n.startswith('backbone.')}
    check_checkpoint(Semi(), dict(state_dict=headless), training=True)


# ------------------------------------------------------------------------------------- pretrained
RESNET = dict(type='ResNetV1c', depth=50, base_channels=8, stem_channels=16)


def config(backbone: dict[str, Any], semi: bool = True, **changes: Any) -> Config:
    segmentor = dict(type='EncoderDecoder', backbone=backbone, **changes)
    return Config(
        dict(model=dict(type='SemiSegmentor', segmentor=segmentor) if semi else segmentor)
    )


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with the weights of a narrow backbone with a wide stem."""
    backbone = MODELS.build(dict(RESNET, stem_channels=32))
    path = tmp_path_factory.mktemp('weights') / 'backbone.pth'
    torch.save(backbone.state_dict(), path)
    return str(path)


@pytest.mark.parametrize('semi', [True, False])
def test_a_stem_of_another_width_is_refused_with_the_remedy(weights, semi):
    check_pretrained(config(dict(RESNET, stem_channels=32), semi, pretrained=weights))
    key = 'model.segmentor.pretrained' if semi else 'model.pretrained'
    message = rf'(?s){key}: {weights} does not fit .*stem.0.weight is \(16.*stem_channels=128'
    with pytest.raises(ValueError, match=message):
        check_pretrained(config(RESNET, semi, pretrained=weights))


def test_init_cfg_and_its_prefix_are_looked_at(weights, tmp_path):
    content = {f'backbone.{name}': v for name, v in torch.load(weights).items()}
    torch.save(dict(state_dict=content), tmp_path / 'model.pth')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'model.pth'), prefix='backbone.')
    check_pretrained(config(dict(RESNET, stem_channels=32, init_cfg=init)))
    with pytest.raises(ValueError, match='model.segmentor.backbone.init_cfg.checkpoint: .*stem'):
        check_pretrained(config(dict(RESNET, init_cfg=init)))
    with pytest.raises(ValueError, match='none of the weights has a name of the backbone'):
        check_pretrained(config(dict(RESNET, init_cfg=dict(init, prefix='neck'))))


def test_weights_of_a_backbone_inside_of_another_are_looked_at(weights):
    init = dict(type='Pretrained', checkpoint=weights)
    key = 'model.segmentor.backbone.detail.init_cfg.checkpoint'
    clip = dict(type='CLIPVisionTransformer', channels=4, depth=1, heads=1, out_indices=())
    check_pretrained(config(dict(clip, detail=dict(RESNET, stem_channels=32, init_cfg=init))))
    with pytest.raises(ValueError, match=f'{key}: .*stem.0.weight'):
        check_pretrained(config(dict(clip, detail=dict(RESNET, init_cfg=init))))


def test_missing_files_are_named():
    with pytest.raises(FileNotFoundError, match=r'segmentor.pretrained: there is no file x.pth'):
        check_pretrained(config(RESNET, pretrained='x.pth'))
    check_pretrained(config(RESNET, pretrained=None))
    check_pretrained(config(dict(RESNET, init_cfg=dict(type='Kaiming', layer='Conv2d'))))


@pytest.fixture
def offline(monkeypatch, tmp_path) -> Path:
    """No network, and an empty folder for what was downloaded; returns the folder."""

    def refuse(url: str, *args: Any, **kwargs: Any) -> None:
        raise urllib.error.URLError('Name or service not known')

    monkeypatch.setattr(torch.hub, 'download_url_to_file', refuse)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    return tmp_path / 'checkpoints'


def test_weights_that_cannot_be_downloaded_are_named_with_what_to_do(offline):
    with pytest.raises(FileNotFoundError) as caught:
        check_pretrained(config(RESNET, pretrained='open-mmlab://resnet50_v1c'))
    address = 'https://download.openmmlab.com/pretrain/third_party/resnet50_v1c-2cccc1ad.pth'
    assert str(caught.value) == (
        f"model.segmentor.pretrained='open-mmlab://resnet50_v1c': {address} cannot be downloaded "
        '(Name or service not known): download it elsewhere and put it at '
        f'{offline / COPY}; or set the key to a local file, or to None to '
        'start from scratch.'
    )
    offline.mkdir(exist_ok=True)
    torch.save(MODELS.build(RESNET).state_dict(), offline / COPY)
    check_pretrained(config(RESNET, pretrained='open-mmlab://resnet50_v1c'))
    init = dict(type='Pretrained', checkpoint='open-mmlab://resnet50_v1x')
    with pytest.raises(FileNotFoundError, match="checkpoint='open-mm.*has the name 'resnet50_v1x'"):
        check_pretrained(config(dict(RESNET, init_cfg=init)))


def test_a_backbone_that_makes_weights_fit_itself_is_left_to_it(tmp_path):
    vit = dict(type='VisionTransformer', num_layers=1, embed_dims=8, num_heads=1, img_size=(32, 32))
    torch.save(MODELS.build(vit).state_dict(), tmp_path / 'vit.pth')
    check_pretrained(config(dict(vit, img_size=(64, 64)), pretrained=str(tmp_path / 'vit.pth')))


DINO = dict(type='DINOv2', arch='small', depth=1, out_indices=(0,))
CLIP = dict(type='CLIPVisionTransformer', channels=8, depth=1, heads=2, embed_dim=4, out_indices=())


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
@pytest.mark.parametrize(
    ('file', 'network', 'message'),
    [
        (dict(DINO, depth=2), DINO, None),
        (DINO, dict(DINO, arch='base'), r'cls_token is \(1, 1, 384\), the network has'),
        (DINO, dict(DINO, depth=2), r'blocks\.1\.norm1\.weight is missing'),
        (dict(DINO, registers=4), DINO, r'register_tokens is in the file alone.*registers to 4'),
        (DINO, dict(DINO, registers=4), r'register_tokens is missing.*set backbone.registers to 4'),
        (RESNET, DINO, r'none of the weights has a name of the backbone.*semi2mmseg\.py'),
        (CLIP, CLIP, None),
        (CLIP, dict(CLIP, channels=16), r'cls_token is \(8,\), the network has \(16,\)'),
        (dict(CLIP, depth=2), dict(CLIP, depth=3), r'blocks\.2\.\S+ is missing'),
    ],
)
def test_vision_transformers_with_names_of_published_files(
    tmp_path, file, network, message, prefix
):
    """They draw numbers where there is no file, and then take what one has."""
    made = MODELS.build(file).state_dict()
    made.pop('mask_token', None)  # of no use, and not in every file
    torch.save({f'{prefix}{name}': value for name, value in made.items()}, tmp_path / 'w.pth')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'w.pth'))
    cfg = config(dict(network, init_cfg=init))
    if message is None:
        check_pretrained(cfg)
        return
    with pytest.raises(ValueError, match=rf'checkpoint: \S+w\.pth does not fit.*{message}'):
        check_pretrained(cfg)


def test_weights_of_a_resumed_run_come_from_its_checkpoint():
    init = dict(type='Pretrained', checkpoint='x.pth')
    cfg = config(dict(RESNET, init_cfg=init), pretrained='y.pth')
    found = without_downloads(cfg.model).segmentor
    assert 'pretrained' not in found and found.backbone.init_cfg is None
    assert cfg.model.segmentor.pretrained == 'y.pth'


# ------------------------------------------------------------------------------------ in the tools
def test_the_tools_refuse_what_does_not_fit(server, unimatch_run, tmp_path):
    content = load_checkpoint(unimatch_run.checkpoint)
    name = 'segmentor.decode_head.conv_seg.weight'
    content['state_dict'][name] = content['state_dict'][name][:3]
    torch.save(content, tmp_path / 'wrong.pth')
    args = [unimatch_run.config, tmp_path / 'wrong.pth', '--work-dir', tmp_path / 'test']
    output = server.run(TOOLS / 'test.py', *args, code=1).output
    assert re.search(r'the checkpoint does not fit .*conv_seg.weight is \(3, ', output)
    assert '| mIoU' not in output and 'mIoU: ' not in output
    options = ['--cfg-options', 'model.segmentor.pretrained=nothing.pth']
    work = ['--work-dir', tmp_path / 'train']
    output = server.run(TOOLS / 'train.py', unimatch_run.config, *work, *options, code=1).output
    assert 'model.segmentor.pretrained: there is no file nothing.pth' in output


def test_extraction_refuses_a_checkpoint_of_another_config(server, unimatch_run, tmp_path):
    tool = TOOLS / 'model_converters' / 'extract_segmentor.py'
    args = [unimatch_run.checkpoint, '--out', tmp_path / 'plain.pth']
    options = ['--cfg-options', 'model.segmentor.backbone.base_channels=8']
    output = server.run(tool, *args, *options, code=1).output
    assert f'{unimatch_run.checkpoint}: the checkpoint does not fit' in output
    assert list(tmp_path.iterdir()) == []
    server.run(tool, *args)
    assert (tmp_path / 'plain.pth').is_file()


@pytest.mark.parametrize(
    ('cfg', 'device'),
    [
        (dict(type='mmseg.UNet', base_channels=4), 'meta'),
        (dict(type='mmseg.SwinTransformer', embed_dims=6, depths=(1,) * 4), 'cpu'),  # asks numbers
    ],
)
def test_shapes_are_those_of_the_network_and_nothing_is_filled(
    cfg: dict[str, Any], device: str
) -> None:
    wanted = {name: one.shape for name, one in MODELS.build(cfg).state_dict().items()}
    seed = torch.get_rng_state()
    found = build_shapes(cfg).state_dict()
    assert {name: one.shape for name, one in found.items()} == wanted
    assert {one.device.type for one in found.values()} == {device}
    assert torch.get_rng_state().equal(seed)
    assert MODELS.build(cfg).state_dict().keys() == wanted.keys()
    assert not torch.get_rng_state().equal(seed)  # as ever
