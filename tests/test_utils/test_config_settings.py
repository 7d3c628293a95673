"""Settings that would train on wrong numbers are refused before anything is built."""

from __future__ import annotations

import os
import re

import mmseg
import pytest
import torch
from mmengine.config import Config
from mmseg.models.losses import CrossEntropyLoss
from tool_runs import CONFIGS, SUPERVISED

from mmseg_semi.errors import DataError
from mmseg_semi.utils.config import load_config
from mmseg_semi.utils.config_settings import check_settings, check_together

CUSTOM = str(CONFIGS / 'unimatch/unimatch_unet_custom.py')
HEAD, TEST = 'model.segmentor.decode_head', 'model.segmentor.test_cfg'
PIXELS = 'model.segmentor.data_preprocessor'
WEIGHTS = f'{HEAD}.loss_decode.class_weight'


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({f'{HEAD}.ignore_index': 0}, f'{HEAD}.ignore_index is 0, but pixels without a class are'),
        ({'model.data_preprocessor.seg_pad_val': 0}, 'data_preprocessor.seg_pad_val is 0'),
        ({'val_evaluator.ignore_index': 0}, 'val_evaluator.ignore_index is 0'),
        ({'train_dataloader.dataset.labeled.ignore_index': 254}, 'labeled.ignore_index is 254'),
        ({WEIGHTS: [1.0, 2.0, 3.0]}, f'{WEIGHTS} has 3 numbers, there are 2 classes'),
        ({WEIGHTS: [1.0]}, f'{WEIGHTS} has 1 numbers, there are 2 classes'),
        ({WEIGHTS: [1.0, -2.0]}, f'{WEIGHTS} is [1.0, -2.0]: weights must be finite'),
        ({WEIGHTS: [0.0, 0.0]}, 'not all 0'),
        ({WEIGHTS: 2.0}, f'{WEIGHTS} must be a list of 2 numbers, got 2.0'),
        ({WEIGHTS: ['a', 1]}, f"{WEIGHTS} must be a list of 2 numbers, got ['a', 1]"),
        ({WEIGHTS: [1.0, float('nan')]}, 'weights must be finite'),
        (
            {f'{HEAD}.num_classes': 1},
            f"{HEAD}.num_classes is 1, but what is not 'object' is a class too: set it to 2, "
            "metainfo.classes to ('background', 'object')",
        ),
        (
            {f'{HEAD}.num_classes': 1, f'{HEAD}.out_channels': 1}
            | {'train_dataloader.dataset.labeled.metainfo.classes': ['leaf']},
            "what is not 'leaf' is a class too: set it to 2 and remove out_channels, "
            "metainfo.classes to ('background', 'leaf')",
        ),
        ({'default_scope': 'xyz'}, "default_scope must be one of ('mmengine', "),
        ({'env_cfg.mp_cfg.mp_start_method': 'forc'}, 'env_cfg.mp_cfg.mp_start_method must be one'),
        ({'param_scheduler.0.end': 0}, 'param_scheduler[0].end is 0, but it begins at 0: set end'),
        ({'val_evaluator.iou_metrics': ['mIoU', 'mFooo']}, 'val_evaluator.iou_metrics must be one'),
        ({f'{TEST}.mode': 'slidee'}, f"{TEST}.mode must be one of ('whole', 'slide'), got"),
        ({f'{TEST}.mode': 'slide'}, f'{TEST}.crop_size must be two whole numbers >= 1 with mode='),
        (
            {TEST: dict(mode='slide', crop_size=(64, 64), stride=(0, 0))},
            f"{TEST}.stride must be two whole numbers >= 1 with mode='slide', got (0, 0): set",
        ),
        (
            {TEST: dict(mode='slide', crop_size=(64, 64.5), stride=(32, 32))},
            f"{TEST}.crop_size must be two whole numbers >= 1 with mode='slide', got (64, 64.5)",
        ),
        (
            {TEST: dict(mode='slide', crop_size=(64, 32), stride=(48, 48))},
            f'{TEST}.stride is (48, 48), more than crop_size=(64, 32), which leaves gaps',
        ),
        (
            {'default_hooks.checkpoint.save_best': 'mIuO'},
            "save_best is 'mIuO', which no val_evaluator computes. Did you mean 'mIoU'?",
        ),
        ({'train_dataloader.prefetch_factor': 0}, 'prefetch_factor must be a whole number >= 1'),
        (
            {'train_dataloader.timeout': -1},
            'timeout must be a number >= 0, got -1',
        ),
        ({'optim_wrapper.optimizer.weight_decay': -1}, 'weight_decay must be a number >= 0'),
        ({f'{PIXELS}.mean': [1, 2]}, f'{PIXELS}: mean has 2 values, std 3: give one for each'),
        ({f'{PIXELS}.std': [1, 0, 1]}, f'{PIXELS}.std must be a number > 0, got 0'),
        ({f'{PIXELS}.mean': 'abc'}, f"{PIXELS}.mean must be a list of values, got 'abc'"),
        ({'randomness.seed': -5}, 'randomness.seed must be a whole number from 0 to 4294967295'),
        ({'randomness.seed': 2**32}, 'from 0 to 4294967295, got 4294967296'),
        ({'log_level': 'FOO'}, "log_level must be one of ('CRITICAL', "),
        ({'default_hooks.checkpoint.rule': 'bigger'}, "checkpoint.rule must be one of (None, 'gre"),
        ({'default_hooks.checkpoint.save_best': 'mDice'}, 'Known: aAcc, mIoU, mAcc.'),
    ],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_config(CUSTOM, options)


@pytest.mark.parametrize('part', ['val', 'test'])
def test_parts_of_validation_go_together(part):
    keys = [f'{part}_dataloader', f'{part}_cfg', f'{part}_evaluator']
    cfg = Config({key: {} for key in keys})
    check_together(cfg)
    cfg[keys[0]] = None
    text = f'to go without, or none of them, got None for {keys[0]} alone: set {keys[1]} and '
    with pytest.raises(ValueError, match=text):
        check_together(cfg)
    check_together(Config({key: None for key in keys}))


def test_padding_of_masks_is_looked_at():
    pad = dict(type='Pad', size=(8, 8), pad_val=dict(img=0, seg=0))
    cfg = Config(dict(val_dataloader=dict(dataset=dict(pipeline=[pad]))))
    with pytest.raises(
        ValueError, match=r'val_dataloader\.dataset\.pipeline\[0\]\.pad_val\.seg is 0'
    ):
        check_settings(cfg)
    pad['pad_val']['seg'] = 255
    check_settings(Config(dict(val_dataloader=dict(dataset=dict(pipeline=[pad])))))


@pytest.mark.parametrize(
    'options',
    [
        {WEIGHTS: [1.0, 0.0]},
        {f'{HEAD}.ignore_index': 255, 'val_evaluator.ignore_index': 255},
        {'default_hooks.checkpoint.save_best': 'mIoU'},
        {
            'val_evaluator.iou_metrics': ['mIoU', 'mFscore'],
            'default_hooks.checkpoint.save_best': 'mFscore',
        },
    ],
)
def test_what_fits_passes(options):
    assert load_config(CUSTOM, options)


def test_weights_in_a_file_are_looked_at(tmp_path):
    path = tmp_path / 'weights.json'
    path.write_text('[1, 2, 3]')
    with pytest.raises(ValueError, match='has 3 numbers'):
        load_config(CUSTOM, {WEIGHTS: str(path)})
    path.write_text('[1,')
    with pytest.raises(DataError, match=f"{WEIGHTS}='{path}' cannot be read: JSONDecodeError"):
        load_config(CUSTOM, {WEIGHTS: str(path)})
    path.write_text('[1, 2]')
    load_config(CUSTOM, {WEIGHTS: str(path)})
    with pytest.raises(DataError, match=f"{WEIGHTS}='none.json' cannot be read: FileNotFound"):
        load_config(CUSTOM, {WEIGHTS: 'none.json'})


def test_a_plain_segmentor_is_looked_at_too():
    key = 'model.decode_head.loss_decode.class_weight'
    with pytest.raises(ValueError, match=f'{key} has 2 numbers, there are 6 classes'):
        load_config(str(CONFIGS / SUPERVISED), {key: [1, 2]})


def test_a_head_that_classifies_masks_weighs_no_object_too():
    path = os.path.join(os.path.dirname(mmseg.__file__), '.mim', 'configs', 'san')
    path = os.path.join(path, 'san-vit-b16_coco-stuff164k-640x640.py')
    key = 'model.decode_head.loss_decode.0.class_weight'
    load_config(path, {key: [1.0] * 172})
    for count in (171, 173):
        with pytest.raises(ValueError, match=f'has {count} numbers, there are 172 classes'):
            load_config(path, {key: [1.0] * count})


# ------------------------------------------------------------------------------- class weights
@pytest.mark.parametrize('avg_non_ignore', [False, True])
def test_unknown_pixels_weigh_nothing(avg_non_ignore):
    """Three known pixels of the classes 0, 1, 1 with the weights 1, 3: (a + 3 b + 3 c) / 7."""
    logits = torch.tensor([[[[0.0, 1.0, -1.0, 9.0]], [[0.0, 0.0, 0.0, 0.0]]]])
    target = torch.tensor([[[0, 1, 1, 255]]])
    loss = CrossEntropyLoss(class_weight=[1.0, 3.0], avg_non_ignore=avg_non_ignore)
    each = [-torch.log_softmax(logits, 1)[0, k, 0, i] for i, k in enumerate((0, 1, 1))]
    wanted = (each[0] + 3 * each[1] + 3 * each[2]) / 7
    torch.testing.assert_close(loss(logits, target, ignore_index=255), wanted)
    unknown = loss(logits, torch.full_like(target, 255), ignore_index=255)
    assert unknown == 0


def test_without_unknown_pixels_the_weighted_loss_is_torchs():
    logits, target = torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5))
    weights = [0.5, 1.0, 2.0]
    wanted = torch.nn.functional.cross_entropy(logits, target, weight=torch.tensor(weights))
    loss = CrossEntropyLoss(class_weight=weights)(logits, target, ignore_index=255)
    torch.testing.assert_close(loss, wanted)


@pytest.mark.parametrize('name', ['ck_{}.pth', 'iter_1.pth', 'a/iter_{}.pth', 'iter_{n}.pth', 7])
@pytest.mark.parametrize('key', ['default_hooks.checkpoint', 'default_hooks.other'])
def test_checkpoints_that_would_not_be_found_again_are_refused(key, name):
    hooks = {key: dict(type='CheckpointHook', filename_tmpl=name)}
    message = f'{key}.filename_tmpl is {name!r}, but --resume looks for iter_N.pth and epoch_N.pth'
    with pytest.raises(ValueError, match=re.escape(message)):
        load_config(CUSTOM, hooks)


@pytest.mark.parametrize('name', ['iter_{}.pth', 'epoch_{:05d}.pth', None])
def test_checkpoints_that_would_be_found_again_pass(name):
    options = {'default_hooks.checkpoint.filename_tmpl': name}
    assert load_config(CUSTOM, options).default_hooks.checkpoint.filename_tmpl == name


def test_names_of_checkpoints_in_custom_hooks_are_looked_at():
    hook = dict(type='CheckpointHook', filename_tmpl='{}.pth')
    with pytest.raises(ValueError, match=r"^custom_hooks\[0\]\.filename_tmpl is '{}.pth'"):
        load_config(CUSTOM, dict(custom_hooks=[hook]))


def test_a_crop_that_is_no_multiple_of_the_patch_is_refused():
    path = str(CONFIGS / 'unimatch_v2/unimatch_v2_dinov2-s_custom.py')
    key = 'train_dataloader.dataset.geometry.crop.crop_size'
    message = (
        f'{key} is (320, 323), but model.segmentor.backbone (DINOv2) takes images whose sides are '
        'multiples of 14: set it to (322, 322)'
    )
    for options in ({key: (320, 323)}, {'crop_size': (320, 323)}):
        with pytest.raises(ValueError, match=re.escape(message)):
            load_config(path, options)
    assert load_config(path, {'crop_size': (70, 84)}).train_dataloader.dataset.geometry
    message = "segmentor.type is 'EncoderDecoder', which .* multiples of 14: set it to 'PatchEnco"
    with pytest.raises(ValueError, match=message):
        load_config(path, {'model.segmentor.type': 'EncoderDecoder'})


def test_the_patch_of_a_network_of_transformers_is_in_its_settings(tmp_path):
    pytest.importorskip('transformers')
    settings = dict(model_type='dinov2', patch_size=16, num_hidden_layers=4)
    base = CONFIGS / 'unimatch_v2/unimatch_v2_dinov2-s_custom.py'
    path = tmp_path / 'own.py'
    backbone = dict(_delete_=True, type='HFBackbone', model=settings)
    path.write_text(f'_base_ = {str(base)!r}\nmodel = dict(segmentor=dict(backbone={backbone}))\n')
    with pytest.raises(ValueError, match=r'crop_size is \(322, 322\).*16: set it to \(320, 320\)'):
        load_config(str(path))
    assert load_config(str(path), {'crop_size': (64, 96)}).model
