"""Keys of a config that nothing reads are refused, with the nearest known key or the reason."""

from __future__ import annotations

import re

import pytest
from tool_runs import CONFIGS, SUPERVISED, UNIMATCH

from mmseg_semi.utils.config import load_config

CUSTOM = CONFIGS / 'unimatch/unimatch_unet_custom.py'
SGD = CONFIGS / 'unimatch/unimatch_deeplabv3plus_r50_custom.py'


def child(folder, text, base=CUSTOM, name='mine.py'):
    path = folder / name
    path.write_text(f'_base_ = {str(base)!r}\n{text}\n')
    return str(path)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('train_datalaoder = dict(batch_size=2)', "'train_datalaoder'. Did you mean 'train_data"),
        ('max_iters = 100', "mine.py, line 2: nothing reads 'max_iters'. Known keys: auto_scale"),
        ('a = 1\nb = a', "line 3: nothing reads 'b'"),
        ('if True:\n    a = 1', "line 3: nothing reads 'a'"),
        ('strong: dict = dict()', 'custom.py has used its own value before (line 9): set the key'),
        ('user_variables = dict(scale=None)', 'datasets/custom.py has used its own value before'),
        ("clases = ('a', 'b')", "nothing reads 'clases'. Did you mean 'classes'?"),
    ],
)
def test_what_nothing_reads_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_config(child(tmp_path, text))


@pytest.mark.parametrize(
    'text',
    [
        "data_root = 'data/leaves'\nval_dataloader = dict(dataset=dict(data_root=data_root))",
        '_mine = 3',
        'for i in range(3):\n    pass',
        'custom_hooks = []\nauto_scale_lr = dict(base_batch_size=8)\nwork_dir = "x"',
        'find_unused_parameters = True',
    ],
)
def test_what_is_read_passes(tmp_path, text):
    assert load_config(child(tmp_path, text))


def test_a_base_may_offer_what_it_does_not_read(tmp_path):
    base = child(tmp_path, 'steps = 5\nspare = 1', name='base.py')
    read = child(tmp_path, 'train_cfg = dict(max_iters=_base_.steps)', base)
    assert load_config(read).train_cfg.max_iters == 5
    with pytest.raises(ValueError, match=r"mine\.py, line 2: nothing reads 'steps' here"):
        user = child(tmp_path, 'train_cfg = dict(max_iters=_base_.steps)', base, 'user.py')
        load_config(child(tmp_path, 'steps = 7', user))


def test_what_a_base_sets_in_vain_is_refused(tmp_path):
    base = child(tmp_path, 'head = dict(lr_mult=5.0)', SGD, 'base.py')
    with pytest.raises(ValueError, match=r"base\.py, line 2: nothing reads 'head' here"):
        load_config(child(tmp_path, 'randomness = dict(seed=1)', base))


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('strong', '--cfg-options strong: .*custom.py has used its own value before'),
        ('crop_size.0', "--cfg-options crop_size.0: nothing reads 'crop_size'"),
        ('max_iters', "--cfg-options max_iters: nothing reads 'max_iters'"),
        ('train_cgf.max_iters', "nothing reads 'train_cgf'. Did you mean 'train_cfg'?"),
        ('train_dataloader.batchsize', "train_dataloader.batchsize. Did you mean 'batch_size'?"),
        ('randomness.sed', "nothing reads randomness.sed. Did you mean 'seed'?"),
        ('optim_wrapper.clipgrad', "optim_wrapper.clipgrad. Did you mean 'clip_grad'?"),
        ('env_cfg.cudnn_bench', "env_cfg.cudnn_bench. Did you mean 'cudnn_benchmark'?"),
        ('default_hooks.chekpoint.interval', "hooks.chekpoint. Did you mean 'checkpoint'?"),
        ('default_hooks.checkpoint.intervall', "checkpoint.intervall. Did you mean 'interval'?"),
        ('optim_wrapper.clip_grad.maxnorm', "clip_grad.maxnorm. Did you mean 'max_norm'?"),
        ('optim_wrapper.paramwise_cfg.custom_key', "custom_key. Did you mean 'custom_keys'?"),
        ('env_cfg.mp_cfg.mp_start', "mp_cfg.mp_start. Did you mean 'mp_start_method'?"),
        ('env_cfg.dist_cfg.bakend', "dist_cfg.bakend. Did you mean 'backend'?"),
        ('model.segmentor.test_cfg.mod', "test_cfg.mod. Did you mean 'mode'?"),
    ],
)
def test_options_that_nothing_reads_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        load_config(str(CUSTOM), {option: 5})


@pytest.mark.parametrize(
    ('option', 'value', 'message'),
    [
        ('model.segmentor.decode_head.num_clases', 3, r"decode_head: FCNHead .*'num_classes'"),
        ('model.segmentor.backbone.base_chanels', 3, r"backbone: .*'base_channels'"),
        (
            'model.segmentor.decode_head.loss_decode.class_weigth',
            [1, 1],
            r"loss_decode: CrossEntropyLoss .*'class_weight'",
        ),
        ('optim_wrapper.optimizer.rl', 0.1, r'optim_wrapper\.optimizer: AdamW .*lr'),
        ('optim_wrapper.optimizer.type', 'AdmW', r"optimizer\.type: 'AdmW'.*'AdamW'"),
        ('val_evaluator.iou_metric', ['mDice'], r"val_evaluator: IoUMetric .*'iou_metrics'"),
        ('param_scheduler.0.typ', 'x', r'param_scheduler\[0\]: '),
        ('visualizer.nam', 'x', r"visualizer: .*'name'"),
    ],
)
def test_arguments_of_networks_losses_and_optimizers_are_checked(option, value, message):
    with pytest.raises((TypeError, KeyError), match=message):
        load_config(str(CUSTOM), {option: value})


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('x = (', r'mine\.py cannot be read: SyntaxError: .*line 2'),
        ('_x = unknown', r"NameError: name 'unknown' is not defined \(line 2\)"),
        ('_x = _base_.nothing', r'mine\.py cannot be read: .*nothing'),
        ("custom_imports = dict(imports=['no_such_package'])", 'no_such_package'),
    ],
)
def test_a_config_that_cannot_be_run_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load_config(child(tmp_path, text))


def test_an_import_that_is_not_there_is_named(tmp_path):
    config = tmp_path / 'mine.py'
    config.write_text('import no_such_package\n')
    with pytest.raises(ValueError, match=r'mine\.py cannot be read: .*no_such_package.*Install'):
        load_config(str(config))


def test_a_missing_base_is_named(tmp_path):
    with pytest.raises(ValueError, match=r'mine\.py cannot be read: .*no_such_base\.py'):
        load_config(child(tmp_path, '', './no_such_base.py'))
    near = r'there is no base \S+/custom/laptpo\.py\. Did you mean .laptop\.py.\? Correct _base_'
    with pytest.raises(ValueError, match=near):
        load_config(child(tmp_path, '', str(CONFIGS / 'custom/laptpo.py')))


@pytest.mark.parametrize('option', ['param_scheduler.9.end', 'train_cfg.max_iters.more'])
def test_options_that_cannot_be_set_are_named(option):
    with pytest.raises(ValueError, match=f'--cfg-options {option}=3 cannot be set'):
        load_config(str(CONFIGS / SUPERVISED), {option: 3})


def test_shipped_configs_have_no_unread_key():
    """One of each form; that all pass is part of the config checks."""
    for name in (UNIMATCH, SUPERVISED, 'corrmatch/corrmatch_unet_digit-scenes-60.py'):
        assert load_config(str(CONFIGS / name))


MMSEG_CONFIGS = (
    'pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py',
    'segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py',
    'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py',
    'deeplabv3plus/deeplabv3plus_r50-d8_4xb4-20k_voc12aug-512x512.py',
)


@pytest.mark.parametrize('name', MMSEG_CONFIGS)
def test_configs_of_mmseg_as_a_base_pass(name, tmp_path):
    """mmengine writes ``_scope_`` into their components."""
    assert load_config(child(tmp_path, '', f'mmseg::{name}')).model.decode_head
