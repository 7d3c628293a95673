"""Checkpoints of the UniMatch family, against a network of that family in plain torch."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.model import initialize
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from mmseg.registry import MODELS
from tool_runs import TOOLS
from unimatch_network import ResNet, UniMatchNetwork, shake

from mmseg_semi.utils.safe_checkpoints import CheckpointError
from mmseg_semi.zoo import semi2mmseg as tool

TOOL = TOOLS / 'model_converters' / 'semi2mmseg.py'
STRIDES = {
    16: dict(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)),
    8: dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
}
DILATIONS = {16: (6, 12, 18), 8: (12, 24, 36)}
pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')


@pytest.fixture(scope='module', autouse=True)
def default_scope():
    init_default_scope('mmseg')


@pytest.fixture(scope='module')
def network():
    """A ResNet-50 with output stride 16, five classes."""
    torch.manual_seed(0)
    return shake(UniMatchNetwork(50, 16, 5))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Save a content, convert it, and give the path, the loaded result and what was printed."""

    def convert(content, *args, source='in.pth', out='out.pth'):
        source, out = tmp_path / source, tmp_path / out
        if content is not None:
            torch.save(content, source)
        monkeypatch.setattr('sys.argv', [str(TOOL), str(source), str(out), *map(str, args)])
        tool.main()
        loaded = torch.load(out, weights_only=True)
        return SimpleNamespace(path=out, loaded=loaded, printed=capsys.readouterr().out)

    return convert


def backbone_config(depth, stride):
    return dict(
        type='ResNetV1c',
        depth=depth,
        stem_channels=128,
        contract_dilation=True,
        **STRIDES[stride],
    )


def plain_config(depth=50, stride=16, classes=5):
    head = dict(type='DeepLabV3PlusHead', num_classes=classes, dilations=DILATIONS[stride])
    return dict(
        type='EncoderDecoder',
        backbone=backbone_config(depth, stride),
        decode_head=head,
        test_cfg=dict(mode='whole'),
    )


def build(cfg):
    return MODELS.build(ConfigDict(cfg)).eval()


@torch.no_grad()
def check_logits(network, model, size=65):
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))
    meta = [dict(img_shape=(size, size), ori_shape=(size, size), pad_shape=(size, size))] * 2
    ours, theirs = model.encode_decode(images, meta), network(images)
    assert theirs.std() > 0.05, 'the network must tell pixels apart'
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('depth, stride', [(50, 8), (50, 16), (101, 8), (101, 16)])
def test_the_converted_model_predicts_the_same(run, depth, stride):
    torch.manual_seed(depth + stride)
    network = shake(UniMatchNetwork(depth, stride, 7))
    done = run(network.state_dict())
    model = build(plain_config(depth, stride, 7))
    assert done.loaded['state_dict'].keys() == model.state_dict().keys()
    assert done.loaded['meta'] == dict(part='model', depth=depth, num_classes=7)
    model.load_state_dict(done.loaded['state_dict'])
    check_logits(network, model)
    for line in (
        f'ResNet-{depth}, 7 classes',
        f"type='ResNetV1c', depth={depth}, stem_channels=128, contract_dilation=True",
        'output stride 16: strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)',
        'output stride 8: strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)',
        "type='DeepLabV3PlusHead', num_classes=7",
        f'load_from={str(done.path)!r}',
    ):
        assert line in done.printed


def test_a_semi_segmentor_starts_student_and_teacher_from_it(run, network):
    done = run(network.state_dict())
    cfg = dict(
        type='SemiSegmentor',
        segmentor=plain_config(),
        losses=dict(strong=dict(type='PseudoLabelCrossEntropy', stream='strong')),
        teacher=dict(type='EMATeacher'),
        data_preprocessor=dict(type='SemiDataPreprocessor'),
    )
    model = build(cfg)
    load_checkpoint(model, str(done.path), map_location='cpu', strict=True)
    for one in (model.segmentor, model.teacher.network):
        check_logits(network, one, 33)


def test_wrappings_and_prefixes_are_taken_off():
    state = {'backbone.bn1.bias': torch.zeros(2), 'classifier.bias': torch.zeros(3)}
    other = {key: value + 1 for key, value in state.items()}
    wrapped = {f'module.{key}': value for key, value in state.items()}
    both = dict(model=wrapped, model_ema=other, optimizer=dict(state={}), epoch=3)
    for content, which, wanted in (
        (state, 'student', state),
        (wrapped, 'student', state),
        (both, 'student', state),
        (both, 'teacher', other),
        (dict(state_dict=state, epoch=3), 'student', state),
    ):
        found = tool.take_state(content, which, 'in.pth')
        assert list(found) == list(wanted)
        assert all(torch.equal(found[key], wanted[key]) for key in found)
    partly = {**wrapped, 'classifier.weight': torch.zeros(1)}
    assert tool.take_state(partly, 'student', 'in.pth') == partly, 'not every key has it'
    for content, held in (
        (dict(model=state, epoch=3), 'model, epoch'),
        (state, 'a plain state dict'),
        ([state], "<class 'list'>"),
    ):
        with pytest.raises(
            SystemExit, match=f'^in.pth: .*teacher under model_ema; .* holds: {held}'
        ):
            tool.take_state(content, 'teacher', 'in.pth')


def test_the_teacher_of_a_training_checkpoint(run, network):
    state = {f'module.{key}': value for key, value in network.state_dict().items()}
    optimizer = dict(state={0: dict(momentum_buffer=torch.zeros(2))}, param_groups=[dict(lr=0.1)])
    content = dict(
        model={'module.classifier.bias': torch.zeros(5)},
        model_ema=state,
        optimizer=optimizer,
        epoch=3,
        previous_best=np.float64(1.5),
    )
    found = run(content, '--which', 'teacher').loaded['state_dict']
    bias = network.classifier.bias
    assert torch.equal(found['decode_head.conv_seg.bias'], bias)


def test_counters_of_norms_may_be_missing_and_halves_become_floats(run, network):
    state = {
        key: value.half()
        for key, value in network.state_dict().items()
        if not key.endswith('num_batches_tracked')
    }
    model = build(plain_config())
    found = run(state).loaded['state_dict']
    model.load_state_dict(found)
    assert {value.dtype for value in found.values()} == {torch.float32, torch.int64}
    weight = found['decode_head.conv_seg.weight']
    assert torch.equal(weight, state['classifier.weight'].float())


def test_counters_of_half_precision_become_whole_and_what_is_not_finite_is_refused(run, network):
    state = {key: value.half() for key, value in network.state_dict().items()}
    found = run(state).loaded['state_dict']
    assert {value.dtype for value in found.values()} == {torch.float32, torch.int64}
    state['fuse.0.weight'][3, 2, 1, 0] = torch.nan
    with pytest.raises(CheckpointError, match=r'not finite, in 1 .*\(fuse.0.weight\)'):
        run(state)


def test_a_backbone_goes_into_init_cfg(run, network):
    backbone = ResNet(50, 16, fc=True)
    backbone.load_state_dict(network.backbone.state_dict(), strict=False)
    images = torch.randn(1, 3, 33, 33)
    for content, args in (
        (backbone.state_dict(), ()),
        (network.state_dict(), ('--what', 'backbone')),
    ):
        done = run(content, *args)
        init = dict(type='Pretrained', checkpoint=str(done.path))
        model = MODELS.build(dict(backbone_config(50, 16), init_cfg=init))
        assert done.loaded['state_dict'].keys() == model.state_dict().keys()
        initialize(model, model.init_cfg)
        with torch.no_grad():
            model.eval()
            low, *_, high = model(images)
            wanted = network.backbone(images)
        torch.testing.assert_close((low, high), wanted, rtol=1e-4, atol=1e-4)
        assert f'segmentor: pretrained={str(done.path)!r}' in done.printed
        assert 'DeepLabV3PlusHead' not in done.printed
    with pytest.raises(SystemExit, match='--what model: .*in.pth has no key backbone'):
        run(backbone.state_dict(), '--what', 'model')


def test_unknown_keys_are_refused_by_name_unless_dropped(run, network, tmp_path):
    state = network.state_dict()
    extra = {f'corr.conv{i}.weight': torch.zeros(1) for i in range(8)}
    with pytest.raises(SystemExit) as refused:
        run({**state, **extra})
    message = str(refused.value)
    assert 'in.pth: 8 key(s) unknown: corr.conv0.weight, corr.conv1.weight' in message
    assert 'corr.conv5.weight and 2 more (--drop PREFIX leaves keys out)' in message
    assert not (tmp_path / 'out.pth').exists()
    with pytest.raises(SystemExit, match='--drop proj.: .*in.pth has no key that starts so'):
        run({**state, **extra}, '--drop', 'corr.', 'proj.')
    dropped = run({**state, **extra}, '--drop', 'corr.conv0', 'corr.').loaded['state_dict']
    assert dropped.keys() == run(state).loaded['state_dict'].keys()


def test_missing_keys_and_other_shapes_are_refused_by_name(run, network):
    state = network.state_dict()
    broken = {key: value for key, value in state.items() if not key.startswith('reduce.1.')}
    broken['fuse.3.weight'] = torch.zeros(128, 256, 3, 3)
    with pytest.raises(SystemExit) as refused:
        run(broken)
    message = str(refused.value)
    assert '4 key(s) missing: reduce.1.weight, reduce.1.bias, reduce.1.running_mean' in message
    shapes = '1 key(s) of another shape: fuse.3.weight (128, 256, 3, 3) instead of'
    assert f'{shapes} (256, 256, 3, 3)' in message
    assert 'Expected: a DeepLabV3+' in message and '64, 64, 128' in message


def test_networks_of_another_kind_are_refused(run, network):
    state = network.state_dict()
    backbone = {key: value for key, value in state.items() if key.startswith('backbone.')}
    other = {**backbone, 'decode_head.conv_seg.weight': torch.zeros(5, 256, 1, 1)}
    with pytest.raises(SystemExit, match=r'missing: head.b0.*1 key\(s\) unknown: decode_head.conv'):
        run(other)
    shallow = {key: value for key, value in state.items() if 'conv1.3' not in key}
    shallow['backbone.conv1.0.weight'] = torch.zeros(64, 3, 7, 7)
    with pytest.raises(SystemExit, match=r'backbone.conv1.3.weight.*\(64, 3, 7, 7\).*deep stem'):
        run(shallow)
    xception = {
        'backbone.block1.rep.0.conv1.weight': torch.zeros(1),
        'classifier.bias': torch.ones(5),
    }
    with pytest.raises(
        SystemExit, match='no ResNet-50 or 101.*Xception-65 .* can not be converted'
    ):
        run(xception)


class Rogue:
    def __reduce__(self):
        return print, ('executed',)


def test_only_the_safe_loader_reads(run, network, capsys):
    with pytest.raises(CheckpointError, match='IN.pth .*in.pth: the file holds print'):
        run(dict(model=network.state_dict(), args=Rogue()))
    assert 'executed' not in capsys.readouterr().out
    with pytest.raises(CheckpointError, match='IN.pth .*missing.pth: the file does not exist'):
        run(None, source='missing.pth')


def test_a_second_run_changes_nothing_and_no_part_is_left(run, network, tmp_path):
    first = run(network.state_dict())
    changed = first.path.stat().st_mtime_ns
    assert f'wrote {first.path} (model, ' in first.printed
    again = run(None)
    assert f'{first.path} is there already' in again.printed and 'ResNet-50' in again.printed
    assert first.path.stat().st_mtime_ns == changed
    first.path.write_bytes(b'something else')
    assert 'wrote' in run(None).printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ['in.pth', 'out.pth']


def test_the_source_is_never_overwritten(run, network, tmp_path, capsys):
    for out, message in (('in.pth', 'OUT.pth is IN.pth'), ('out.bin', 'must end in .pth')):
        with pytest.raises(SystemExit):
            run(network.state_dict(), out=out)
        assert message in capsys.readouterr().err


def test_it_runs_as_a_script(server, network, tmp_path):
    torch.save(network.state_dict(), tmp_path / 'in.pth')
    done = server.run(TOOL, 'in.pth', 'folder/out.pth', cwd=tmp_path)
    assert 'ResNet-50, 5 classes' in done.output and (tmp_path / 'folder' / 'out.pth').is_file()
    torch.save({'a.weight': torch.zeros(1)}, tmp_path / 'in.pth')
    done = server.run(TOOL, 'in.pth', 'other.pth', cwd=tmp_path, code=1)
    assert 'no ResNet-50 or 101' in done.output and 'Traceback' not in done.output
