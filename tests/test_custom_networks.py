"""SegFormer, Swin and ConvNeXt for own images: their optimizer, schedule, and a training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import mmseg
import pytest
from leaves import CLASSES, make_leaves
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from tool_runs import CONFIGS, load_checkpoint
from torch import nn

from mmseg_semi.apis import train
from mmseg_semi.utils.config import load_config
from mmseg_semi.utils.weight_checks import build_shapes, without_downloads

MMSEG = Path(mmseg.__file__).parent / '.mim/configs'
#: The config of mmseg that each is taken from, and a narrow network of the kind.
NETWORKS = {
    'segformer_mit-b0': (
        'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
        'dict(backbone=dict(embed_dims=8), decode_head=dict(in_channels=[8, 16, 40, 64], '
        'channels=8))',
    ),
    'upernet_swin-t': (
        'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py',
        'dict(backbone=dict(embed_dims=12), decode_head=dict(in_channels=[12, 24, 48, 96], '
        'channels=8), auxiliary_head=dict(in_channels=48, channels=8))',
    ),
    'upernet_convnext-t': (
        'convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py',
        "dict(backbone=dict(arch='atto'), decode_head=dict(in_channels=[40, 80, 160, 320], "
        'channels=8), auxiliary_head=dict(in_channels=160, channels=8))',
    ),
}
OWN = """_base_ = {base!r}
data_root = {root!r}
classes = {classes!r}
crop_size = (64, 64)
scale = (64, 64)
iterations = 4
weights = None
train_dataloader = dict(batch_size=4, num_workers=0)
val_dataloader = dict(num_workers=0)
default_hooks = dict(logger=dict(interval=1))
model = {model}
"""


@pytest.fixture(autouse=True)
def scope() -> Iterator[None]:
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


def config_of(method: str, network: str) -> str:
    return str(CONFIGS / f'{method}/{method}_{network}_custom.py')


def wanted(network: str, name: str, owner: nn.Module, value: nn.Parameter) -> tuple[float, float]:
    """Learning rate and weight decay of a parameter, as it should be."""
    norm = isinstance(owner, (nn.LayerNorm, nn.modules.batchnorm._BatchNorm))
    if network == 'upernet_convnext-t':
        return 1e-4, 0.0 if value.ndim == 1 else 0.05
    if network == 'segformer_mit-b0' and 'decode_head.' in name:
        return 6e-4, 0.01
    return 6e-5, 0.0 if norm or name.endswith('relative_position_bias_table') else 0.01


@pytest.mark.parametrize('method', ['supervised', 'unimatch'])
@pytest.mark.parametrize('network', NETWORKS)
def test_rates_and_decays_of_all_parameters(network, method):
    cfg = load_config(config_of(method, network))
    model = build_shapes(without_downloads(cfg.model))
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    found = {id(one): group for group in groups for one in group['params']}
    values = dict(model.named_parameters())
    assert len(found) == len(values) > 100
    for name, value in values.items():
        group = found[id(value)]
        owner = model.get_submodule(name.rpartition('.')[0])
        got = group['lr'], group['weight_decay']
        assert got == pytest.approx(wanted(network, name, owner, value), rel=1e-9), name
    for key in cfg.optim_wrapper.paramwise_cfg.get('custom_keys', {}):
        assert any(key in name for name in values), key


@pytest.mark.parametrize('network', NETWORKS)
def test_optimizer_schedule_weights_and_network_are_those_of_mmseg(network):
    theirs = Config.fromfile(MMSEG / NETWORKS[network][0])
    cfg = load_config(config_of('unimatch', network))
    ours = cfg.model.segmentor
    assert cfg.optim_wrapper.optimizer == theirs.optim_wrapper.optimizer
    warmup, fall = theirs.param_scheduler
    assert cfg.param_scheduler == [warmup, {k: v for k, v in fall.items() if k != 'end'}]
    assert ours.backbone == theirs.model.backbone
    for name in ('decode_head', 'auxiliary_head'):
        head, other = ours.get(name), theirs.model.get(name)
        if head is not None:
            head, other = dict(head), {**other, 'num_classes': 2}
            head['loss_decode'] = {**head['loss_decode']}
            assert head['loss_decode'].pop('avg_non_ignore') is True
        assert head == other


@pytest.mark.parametrize('method', ['supervised', 'unimatch'])
@pytest.mark.parametrize('network', NETWORKS)
def test_a_narrow_one_trains(network, method, tmp_path):
    """One step on labels alone, three of the method, from a warmed-up learning rate."""
    narrow = NETWORKS[network][1]
    if method != 'supervised':
        narrow = f'dict(warmup_iters=1, segmentor={narrow})'
    root = str(make_leaves(tmp_path / 'leaves', 6, 6, 2))
    path = tmp_path / f'{network}_{method}.py'  # runs of one name and second share their log
    base = config_of(method, network)
    path.write_text(OWN.format(base=base, root=root, classes=CLASSES, model=narrow))
    cfg = load_config(str(path))
    assert cfg.param_scheduler[0].end == cfg.param_scheduler[1].begin == 1  # 1500 of 20000
    train.main([str(path), '--work-dir', str(tmp_path / 'work')])
    content = load_checkpoint(tmp_path / 'work/iter_4.pth')
    state = content['state_dict']
    assert all(value.isfinite().all() for value in state.values() if value.is_floating_point())
    losses = content['message_hub']['log_scalars']['train/loss']._log_history
    assert len(losses) == 4 and all(math.isfinite(one) for one in losses)
    # All of the network learns: Adam has seen a gradient of each parameter.
    moments = content['optimizer']['state'].values()
    seen = [bool(one['exp_avg_sq'].any()) for one in moments]
    assert len(seen) > 50 and sum(seen) > 0.9 * len(seen)
