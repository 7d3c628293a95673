"""The variable ``weights``: where an encoder begins, and what is said where it cannot."""

from __future__ import annotations

import functools
import re
import threading
import urllib.error
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import mmseg
import pytest
import torch
from leaves import CLASSES, make_leaves
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from tool_runs import CONFIGS, load_checkpoint

from mmseg_semi.apis import train
from mmseg_semi.utils.config import load_config
from mmseg_semi.utils.encoder_weights import KNOWN, set_channels, set_weights
from mmseg_semi.utils.weight_checks import check_pretrained, without_downloads

CUSTOM = [one for name in ('supervised', 'unimatch') for one in CONFIGS.glob(f'{name}/*_custom.py')]
UNET = CONFIGS / 'unimatch/unimatch_unet_custom.py'
RESNET = CONFIGS / 'unimatch/unimatch_deeplabv3plus_r50_custom.py'
NARROW = dict(
    MixVisionTransformer=dict(embed_dims=8, num_layers=[1] * 4, num_heads=[1, 2, 5, 8]),
    SwinTransformer=dict(embed_dims=12, depths=[1] * 4, window_size=4),
    ResNetV1c=dict(depth=18, base_channels=8, stem_channels=8),
)


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


def own(folder, text, base=UNET, **options):
    path = folder / 'mine.py'
    path.write_text(f'_base_ = {str(base)!r}\n{text}\n')
    return load_config(str(path), options)


def network(cfg):
    return cfg.model.get('segmentor') or cfg.model


def pretrained(node):
    """All that is named of weights in a part of a config."""
    found = [node.get('pretrained')] if isinstance(node, dict) else []
    if isinstance(node, dict) and isinstance(node.get('init_cfg'), dict):
        found.append(node['init_cfg'].get('checkpoint'))
    below = node.values() if isinstance(node, dict) else node
    if isinstance(node, (dict, list, tuple)):
        found += [one for child in below for one in pretrained(child)]
    return [one for one in found if one is not None]


@pytest.mark.parametrize('base', CUSTOM, ids=lambda path: path.stem)
def test_none_starts_from_scratch_and_a_file_takes_the_place_of_the_base(tmp_path, base):
    assert pretrained(own(tmp_path, 'weights = None', base).model) == []
    assert pretrained(own(tmp_path, "weights = 'a.pth'", base).model) == ['a.pth']
    default = own(tmp_path, "weights = 'default'", base)
    assert pretrained(default.model) == pretrained(load_config(str(base)).model)
    assert bool(pretrained(default.model)) == ('unet' not in base.stem)


def test_names_are_addresses_of_mmseg():
    texts = [
        path.read_text()
        for path in (Path(mmseg.__file__).parent / '.mim/configs').rglob('*.py')
        if path.parent.name in ('segformer', 'swin', 'convnext', 'models')
    ]
    of_mmseg = [place for _, place in KNOWN.values() if place.startswith('https://download.open')]
    assert len(of_mmseg) == 12
    assert [one for one in of_mmseg if not any(f"'{one}'" in text for text in texts)] == []


@pytest.mark.parametrize('name', KNOWN)
def test_a_name_is_taken_by_its_backbone_alone(name):
    kind, place = KNOWN[name]
    fitting = ConfigDict(backbone=dict(type=kind), pretrained='x')
    set_weights(fitting, name)
    assert fitting.backbone.init_cfg == dict(type='Pretrained', checkpoint=place)
    assert 'pretrained' not in fitting
    other = ConfigDict(backbone=dict(type='UNet'))
    with pytest.raises(ValueError, match=f'these weights are of {kind}, and the backbone is UNet'):
        set_weights(other, name)


@pytest.mark.parametrize('value', [3, True, '', ('mit_b0',)])
def test_what_is_no_text_is_refused(tmp_path, value):
    message = rf'mine.py: weights={re.escape(repr(value))}: give a file, an address, a name \(eff'
    with pytest.raises(ValueError, match=message):
        own(tmp_path, f'weights = {value!r}')


# ---------------------------------------------------------------------------- what cannot be had
@pytest.fixture
def offline(monkeypatch, tmp_path) -> Path:
    """No network; returns the folder of the copies, which is empty."""

    def refuse(url, *args, **kwargs):
        raise urllib.error.URLError('Name or service not known')

    monkeypatch.setattr(torch.hub, 'download_url_to_file', refuse)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    return tmp_path / 'hub/checkpoints'


def refused(cfg):
    with pytest.raises((FileNotFoundError, ValueError)) as caught:
        check_pretrained(cfg)
    assert '\n' not in str(caught.value)
    return str(caught.value)


def test_without_a_network_the_variable_and_the_place_of_the_file_are_named(offline, tmp_path):
    address = 'https://download.openmmlab.com/pretrain/third_party/resnet50_v1c-2cccc1ad.pth'
    place = offline / 'c8ce12c58df9-resnet50_v1c-2cccc1ad.pth'
    rest = (
        f'{address} cannot be downloaded (Name or service not known): download it elsewhere and '
        f'put it at {place}; or set the key to a local file, or to None to start from scratch.'
    )
    assert refused(own(tmp_path, '', RESNET)) == (
        f"weights (left out, and so 'open-mmlab://resnet50_v1c'): {rest}"
    )
    assert refused(own(tmp_path, "weights = 'resnet50'", RESNET)) == f"weights='resnet50': {rest}"
    option = own(tmp_path, '', RESNET, weights='resnet50')
    assert refused(option) == f"weights='resnet50': {rest}"
    key = {'model.segmentor.pretrained': 'open-mmlab://resnet50_v1c'}  # not the variable
    assert refused(own(tmp_path, '', RESNET, **key)).startswith("model.segmentor.pretrained='open")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text('<html>')
    found = refused(own(tmp_path, '', RESNET))
    assert f'{place}: the file is no checkpoint of torch' in found
    assert f'Remove {place} to download it anew' in found


def test_files_names_and_packages_that_are_not_there(tmp_path, monkeypatch):
    found = refused(own(tmp_path, "weights = 'resnet51'", RESNET))
    assert re.match(r"weights='resnet51': there is no file resnet51 \(looked for from ", found)
    assert found.endswith(
        "Correct it, or set it to None to start from scratch. Did you mean 'resnet50'?"
    )
    found = refused(own(tmp_path, "weights = 'nonsense'", RESNET))
    assert 'Known names are efficientnet-lite0, resnet18, ' in found and found.endswith('_large.')
    found = refused(own(tmp_path, "weights = '~/nothing.pth'", RESNET))
    assert 'Known names' not in found
    assert f"'~/nothing.pth': there is no file {Path.home()}/nothing.pth" in found
    found = refused(own(tmp_path, "weights = 'package://no_such/a.pth'", RESNET))
    assert found == (
        "weights='package://no_such/a.pth': package://no_such/a.pth: the package no_such is not "
        'installed. Install it: pip install no-such'
    )
    found = refused(own(tmp_path, "weights = 'open-mmlab://resnet51'", RESNET))
    assert "weights='open-mmlab://resnet51': no model has the name 'resnet51'; or set" in found


# ------------------------------------------------------------------------------- what does not fit
def built(kind, **changes):
    torch.manual_seed(0)
    return MODELS.build(dict(type=kind, **{**NARROW[kind], **changes}))


def config(kind, place, **changes):
    backbone = dict(type=kind, **{**NARROW[kind], **changes})
    cfg = ConfigDict(model=dict(type='EncoderDecoder', backbone=backbone))
    set_weights(cfg.model, str(place))
    return cfg


@pytest.mark.parametrize('kind', NARROW)
@pytest.mark.parametrize('whole', [False, True])
def test_weights_of_the_encoder_and_of_a_whole_network_are_loaded(tmp_path, kind, whole):
    state = built(kind).state_dict()
    start = 'backbone.' if whole else ''
    content = {f'{start}{name}': value for name, value in state.items()}
    content.update({'decode_head.weight': torch.zeros(1)} if whole else {})
    torch.save(dict(state_dict=content), tmp_path / 'a.pth')
    cfg = config(kind, tmp_path / 'a.pth')
    check_pretrained(cfg)
    torch.manual_seed(1)
    backbone = MODELS.build(cfg.model.backbone)
    backbone.init_weights()
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize(
    ('kind', 'wider'),
    [
        ('MixVisionTransformer', dict(embed_dims=16)),
        ('SwinTransformer', dict(embed_dims=24)),
        ('ResNetV1c', dict(base_channels=16)),
    ],
)
def test_weights_of_another_size_or_kind_are_refused(tmp_path, kind, wider):
    """mmengine would go on with random numbers."""
    torch.save(built(kind, **wider).state_dict(), tmp_path / 'a.pth')
    found = refused(config(kind, tmp_path / 'a.pth'))
    assert f"weights='{tmp_path}/a.pth': {tmp_path}/a.pth does not fit the backbone {kind}" in found
    torch.save(dict(other=torch.zeros(1)), tmp_path / 'a.pth')
    assert 'none of the weights has a name of the backbone' in refused(
        config(kind, tmp_path / 'a.pth')
    )


def test_a_network_of_transformers_has_weights_and_channels_of_its_own():
    backbone = ConfigDict(type='HFBackbone', model='some/folder')
    network = ConfigDict(type='PatchEncoderDecoder', backbone=backbone)
    set_weights(network, 'default')
    set_channels(backbone, 3)
    assert set(backbone) == {'type', 'model'}
    with pytest.raises(ValueError, match=r'HFBackbone takes the weights of backbone.model'):
        set_weights(network, 'dinov2_small')
    with pytest.raises(ValueError, match=r'takes 3 channels: set .* with num_channels=4, which'):
        set_channels(backbone, 4)
    set_weights(network, None)
    assert backbone.pretrained is False
    backbone.model = ConfigDict(model_type='dinov2', num_channels=4)
    set_channels(backbone, 4)


def test_a_list_of_starts_has_no_weights_taken_out():
    init = [dict(type='Kaiming', layer='Conv2d'), dict(type='Constant', val=1, layer='BatchNorm2d')]
    assert without_downloads(dict(backbone=dict(init_cfg=init))).backbone.init_cfg == init


# ----------------------------------------------------------------------------------- a training
@pytest.fixture
def served(tmp_path):
    """Address of a folder, and what was asked for."""
    (tmp_path / 'served').mkdir()
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, text, *args):
            asked.append(self.path)

    handler = functools.partial(Handler, directory=str(tmp_path / 'served'))
    server = HTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}', asked
    server.shutdown()
    server.server_close()


TRAINING = """
data_root = {root!r}
classes = {classes!r}
crop_size = (32, 32)
scale = (32, 32)
iterations = 1
weights = {weights!r}
train_dataloader = dict(batch_size=4, num_workers=0)
val_dataloader = dict(num_workers=0)
optim_wrapper = dict(optimizer=dict(lr=0.0))
model = dict(warmup_iters=0, segmentor=dict(backbone=dict(base_channels=4),
    decode_head=dict(in_channels=4, channels=4)))
"""


def test_student_and_teacher_begin_with_weights_that_are_downloaded_once(
    tmp_path, served, monkeypatch
):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    address, asked = served
    root = str(make_leaves(tmp_path / 'leaves'))
    text = TRAINING.format(root=root, classes=CLASSES, weights=f'{address}/unet.pth')
    cfg = own(tmp_path, text)
    torch.manual_seed(5)
    backbone = MODELS.build({**cfg.model.segmentor.backbone, 'init_cfg': None})
    torch.save(backbone.state_dict(), tmp_path / 'served/unet.pth')
    for name in ('a', 'b'):
        train.main([str(tmp_path / 'mine.py'), '--work-dir', str(tmp_path / name)])
        state = load_checkpoint(tmp_path / name / 'iter_1.pth')['state_dict']
        for key, value in backbone.named_parameters():
            for owner in ('segmentor', 'teacher'):
                assert torch.equal(state[f'{owner}.backbone.{key}'], value), (owner, key)
    assert asked == ['/unet.pth']


@pytest.mark.parametrize('key', ['pretrained', 'weights'])
def test_a_teacher_is_built_of_a_network_with_weights(tmp_path, key):
    """mmseg's networks change the config that they are built of."""
    small = 'dict(depth=18, base_channels=8, stem_channels=8)'
    head = 'dict(in_channels=64, c1_in_channels=8, channels=8, c1_channels=4)'
    cfg = own(
        tmp_path, f'model = dict(segmentor=dict(backbone={small}, decode_head={head}))', RESNET
    )
    torch.save(MODELS.build(cfg.model.segmentor.backbone).state_dict(), tmp_path / 'a.pth')
    if key == 'pretrained':
        cfg.model.segmentor.pretrained = str(tmp_path / 'a.pth')
    else:
        set_weights(cfg.model.segmentor, str(tmp_path / 'a.pth'))
    check_pretrained(cfg)
    model = MODELS.build(cfg.model)
    model.init_weights()
    for name, value in torch.load(tmp_path / 'a.pth').items():
        assert torch.equal(model.segmentor.backbone.state_dict()[name], value), name
    assert type(model.teacher).__name__ == 'EMATeacher'


def test_training_with_weights_that_are_not_there_ends_with_a_sentence(server, tmp_path):
    root = str(make_leaves(tmp_path / 'leaves'))
    path = tmp_path / 'mine.py'
    text = TRAINING.format(root=root, classes=CLASSES, weights='nothing.pth')
    path.write_text(f'_base_ = {str(UNET)!r}\n{text}')
    tool = CONFIGS.parent / 'mmseg_semi_cli/__main__.py'
    output = server.run(tool, 'train', path, '--work-dir', tmp_path / 'work', code=1).output
    (last,) = (line for line in output.splitlines() if line.startswith('error: '))
    assert last.startswith("error: weights='nothing.pth': there is no file nothing.pth (looked for")
    assert 'Traceback' not in output and not (tmp_path / 'work').exists()
    place = 'load_from=http://127.0.0.1:9/a.pth'
    options = ['--cfg-options', 'weights=None', place]
    output = server.run(
        tool, 'train', path, '--work-dir', tmp_path / 'work', *options, code=1
    ).output
    assert (
        "error: load_from='http://127.0.0.1:9/a.pth': http://127.0.0.1:9/a.pth cannot be" in output
    )
    assert 'Traceback' not in output
