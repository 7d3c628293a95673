import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmseg.registry import HOOKS, OPTIMIZERS, TRANSFORMS
from tool_runs import TOOLS, UNIMATCH, write_config

from mmseg_semi.apis import runner_setup
from mmseg_semi.apis.train import refuse_used
from mmseg_semi.engine.hooks import DataCheckHook, RunRecordHook
from mmseg_semi.errors import refusal
from mmseg_semi.files import check_writable


def test_sync_bn_becomes_bn_wherever_it_stands(monkeypatch):
    monkeypatch.setattr(runner_setup.dist, 'init_process_group', lambda *_: None)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setenv('RANK', '0')
    norm = dict(type='SyncBN', requires_grad=True)
    cfg = Config(dict(model=dict(segmentor=dict(backbone=dict(norm_cfg=norm), heads=[norm]))))
    cfg.env_cfg = dict(dist_cfg=dict(backend='nccl'))
    runner_setup.setup_distributed(cfg, 'pytorch')
    assert cfg.model.segmentor.backbone.norm_cfg.type == 'BN'
    assert cfg.model.segmentor.heads[0].type == 'BN'
    assert cfg.env_cfg.dist_cfg.backend == 'gloo' and cfg.model_wrapper_cfg.device_ids is None
    with pytest.raises(ValueError, match='slurm needs GPUs'):
        runner_setup.setup_distributed(cfg, 'slurm')


def test_a_launcher_that_did_not_start_this_process(monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    with pytest.raises(ValueError, match='--launcher pytorch is for processes that torchrun'):
        runner_setup.setup_distributed(Config(), 'pytorch')


@pytest.mark.parametrize(
    ('registry', 'key', 'part', 'text'),
    [
        (
            TRANSFORMS,
            'crop',
            dict(type='RandomCrop', crop_size=(0, 0)),
            'RandomCrop cannot be built: AssertionError: assert ',
        ),
        (TRANSFORMS, 'crop', dict(type='RandomCrop', crop_size='abc'), 'RandomCrop cannot be'),
        (
            OPTIMIZERS,
            'optim_wrapper.optimizer',
            dict(type='SGD', momentum=-1.0),
            'SGD cannot be built: Invalid momentum value: -1.0',
        ),
    ],
)
def test_the_key_of_what_cannot_be_built_is_named(registry, key, part, text):
    first, _, last = key.rpartition('.')
    cfg = Config({first: {last: part}} if first else {key: part})
    more = dict(params=[torch.zeros(1)]) if registry is OPTIMIZERS else {}
    with pytest.raises(ValueError) as found, runner_setup.explaining_built(cfg):
        registry.build(dict(part, **more))
    assert str(found.value).startswith(f'config key {key}: {text}')
    assert '\n' not in str(found.value) and refusal(found.value) == str(found.value)


def test_errors_of_a_running_program_are_left_alone():
    error = ValueError('of a step')
    with pytest.raises(ValueError) as found, runner_setup.explaining_built(Config()):
        raise error
    assert found.value is error


def test_nothing_changes_without_a_launcher():
    cfg = Config(dict(model=dict(norm_cfg=dict(type='SyncBN'))))
    runner_setup.setup_distributed(cfg, 'none')
    assert cfg.model.norm_cfg.type == 'SyncBN' and 'model_wrapper_cfg' not in cfg


@pytest.mark.parametrize(
    'cuda, wrapper', [(True, 'AmpOptimWrapper'), (False, 'CPUAmpOptimWrapper')]
)
def test_amp_follows_the_device(monkeypatch, cuda, wrapper):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: cuda)
    cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD'))))
    runner_setup.enable_amp(cfg)
    assert cfg.optim_wrapper.type == wrapper
    assert cfg.optim_wrapper.get('loss_scale') == ('dynamic' if cuda else None)
    with pytest.raises(ValueError, match="'ApexOptimWrapper'"):
        runner_setup.enable_amp(Config(dict(optim_wrapper=dict(type='ApexOptimWrapper'))))


def test_auto_scale_lr_needs_the_batch_size():
    cfg = Config(dict(auto_scale_lr=dict(enable=False, base_batch_size=16), optim_wrapper={}))
    runner_setup.enable_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr.enable is True and cfg.auto_scale_lr.base_batch_size == 16
    with pytest.raises(ValueError, match='base_batch_size'):
        runner_setup.enable_auto_scale_lr(Config(dict()))


def test_auto_scale_lr_counts_accumulated_batches(capsys):
    """4 images an iteration and 4 iterations an update: the batch that 16 is compared with."""
    auto = dict(enable=False, base_batch_size=16)
    cfg = Config(dict(auto_scale_lr=auto, optim_wrapper=dict(accumulative_counts=4)))
    runner_setup.enable_auto_scale_lr(cfg)
    said = 'for 16 images an update, which are 4 an iteration with accumulative_counts=4'
    assert said in ''.join(capsys.readouterr())
    runner = SimpleNamespace(
        _train_dataloader=dict(batch_size=4),
        world_size=1,
        logger=SimpleNamespace(info=lambda text: None),
        _param_schedulers=None,
        param_schedulers=None,
    )
    wrapper = OptimWrapper(torch.optim.SGD([torch.zeros(1)], lr=0.5))
    Runner.scale_lr(runner, wrapper, cfg.auto_scale_lr)
    assert wrapper.param_groups[0]['lr'] == 0.5


def test_tensorboard_is_added_once_and_only_when_installed(monkeypatch):
    cfg = Config(dict(visualizer=dict(vis_backends=[dict(type='LocalVisBackend')])))
    monkeypatch.setattr(runner_setup.importlib.util, 'find_spec', lambda _: None)
    runner_setup.enable_tensorboard(cfg)
    assert len(cfg.visualizer.vis_backends) == 1
    monkeypatch.setattr(runner_setup.importlib.util, 'find_spec', lambda _: object())
    for _ in range(2):
        runner_setup.enable_tensorboard(cfg)
    assert [b['type'] for b in cfg.visualizer.vis_backends] == [
        'LocalVisBackend',
        'TensorboardVisBackend',
    ]


def test_work_dir_is_argument_or_config_or_name():
    cfg = Config(dict())
    runner_setup.set_work_dir(cfg, None, 'configs/unimatch/some.py')
    assert cfg.work_dir == 'work_dirs/some'
    runner_setup.set_work_dir(cfg, None, 'other.py')
    assert cfg.work_dir == 'work_dirs/some'
    runner_setup.set_work_dir(cfg, 'here', 'other.py')
    assert cfg.work_dir == 'here'


def test_a_folder_that_takes_no_checkpoint_is_named_at_once(tmp_path):
    said = ('checkpoint', 'name another folder')
    check_writable(str(tmp_path / 'new'), *said)
    assert list((tmp_path / 'new').iterdir()) == []
    (tmp_path / 'file').touch()
    for folder in (str(tmp_path / 'file' / 'run'), '/proc/run'):
        with pytest.raises(ValueError, match=f'{folder}: no checkpoint can be written there'):
            check_writable(folder, *said)


CHECKS = [dict(type='mmseg.DataCheckHook'), dict(type='mmseg.RunRecordHook')]


@pytest.mark.parametrize(
    ('hooks', 'default_hooks', 'added'),
    [
        (None, None, CHECKS),
        ([], {}, CHECKS),
        ([dict(type='mmengine.EMAHook')], dict(timer=dict(type='IterTimerHook')), CHECKS),
        ([dict(type='EMAThresholdHook')], dict(record=dict(type='RunRecordHook')), CHECKS[:1]),
        ([dict(type='DataCheckHook', on_overlap='warn')], {}, CHECKS[1:]),
        ([dict(type='mmseg.DataCheckHook')], dict(record=None), CHECKS[1:]),
        ([dict(type=DataCheckHook), dict(type='RunRecordHook')], {}, []),
        ([DataCheckHook(), RunRecordHook()], {}, []),
    ],
)
def test_checks_that_a_config_lacks_are_added(hooks, default_hooks, added):
    cfg = Config(dict(custom_hooks=hooks, default_hooks=default_hooks))
    runner_setup.add_checks(cfg)
    assert (cfg.custom_hooks or []) == added + (hooks or [])
    assert all(HOOKS.build(hook) for hook in added)


def test_a_detector_keeps_its_own_checks():
    cfg = Config(dict(default_scope='mmdet', custom_hooks=[dict(type='NumClassCheckHook')]))
    runner_setup.add_checks(cfg)
    assert cfg.custom_hooks == [dict(type='NumClassCheckHook')]


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_the_tools_check_without_being_told(tool, server, digit_root, unimatch_run, tmp_path):
    """A child config whose own custom_hooks have taken the place of its base's."""
    root = tmp_path / 'data'
    shutil.copytree(digit_root, root)
    mask = min((root / 'annotations' / ('val' if tool == 'train' else tool)).glob('*.png'))
    mask.write_bytes(b'')
    config = write_config(tmp_path / 'config.py', UNIMATCH, root, custom_hooks=[])
    args = [unimatch_run.checkpoint] if tool == 'test' else []
    work = ['--work-dir', tmp_path / 'work']
    output = server.run(TOOLS / f'{tool}.py', config, *args, *work, code=1).output
    assert re.search(
        rf'^error: .*1 of \d+ masks can not be read: .*{mask.name}', output, re.MULTILINE
    )


@pytest.mark.parametrize('name', ['iter_2.pth', 'epoch_1.pth', 'best_mIoU_iter_6.pth'])
def test_a_new_run_does_not_mix_with_an_earlier_one(name, tmp_path):
    (tmp_path / 'weights.pth').touch()
    refuse_used(str(tmp_path))
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=rf'has checkpoints of an earlier run \({name}\): go on'):
        refuse_used(str(tmp_path))
