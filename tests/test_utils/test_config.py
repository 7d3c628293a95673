import importlib.util
import os
import re

import mmseg
import pytest
from tool_runs import CONFIGS, UNIMATCH

from mmseg_semi.apis.runner_setup import check_data_paths
from mmseg_semi.utils.config import load_config

DATASET = 'train_dataloader.dataset'


@pytest.mark.parametrize(
    'option, value, error, message',
    [
        ('train_dataloader.sampler.ratios', 1, TypeError, "sampler: .*'ratios'.*'ratio'"),
        (f'{DATASET}.onerror', 'skip', TypeError, f"{DATASET}: .*'onerror'.*'on_error'"),
        (f'{DATASET}.unlabeled.img_sufix', '', TypeError, "unlabeled: .*'img_sufix'.*'img_suffix'"),
        (f'{DATASET}.labeled.img_sufix', '', TypeError, "labeled: BaseSegDataset .*'img_suffix'"),
        (f'{DATASET}.geometry.crop.size', 1, TypeError, r"geometry\.crop: RandomCrop .*'size'"),
        (f'{DATASET}.geometry.crop.type', 'RandCrop', KeyError, r"crop\.type.*'RandomCrop'"),
        (f'{DATASET}.unlabeled.strong.views', 1, TypeError, r"unlabeled\.strong: .*'views'"),
        (
            f'{DATASET}.unlabeled.strong.transforms.gray.prop',
            1,
            TypeError,
            r"strong\.transforms\.gray: RandomGray .*'prop'.*'prob'",
        ),
        (
            f'{DATASET}.unlabeled.detections',
            dict(type='LoadDetections', result=''),
            TypeError,
            r"unlabeled\.detections: LoadDetections .*'result'.*'results'",
        ),
        (
            f'{DATASET}.unlabeled.maps',
            dict(mine=dict(type='LoadMine')),
            KeyError,
            r"unlabeled\.maps\.mine\.type: 'LoadMine' is not registered",
        ),
        (
            'val_dataloader.dataset.pipeline.1.a',
            1,
            TypeError,
            r"pipeline\[1\]: LoadAnnotations .*'a'",
        ),
        ('train_cfg.max_iter', 3, TypeError, "train_cfg: SemiTrainLoop .*'max_iters'"),
        ('default_hooks.checkpoint.type', 'AtomicHook', KeyError, 'default_hooks.checkpoint.type'),
        ('train_dataloader.sampler.type', 'SemSampler', KeyError, "'SemSampler'.*'SemiSampler'"),
        ('train_dataloader.collate_fn.type', 'semi_colate', KeyError, "'semi_collate'"),
        ('model.type', 'SemiSegmenter', KeyError, "model.type.*'SemiSegmentor'"),
        ('model.segmentor.backbone.type', 'UNett', KeyError, "backbone.type: 'UNett'.*'UNet'"),
        ('val_evaluator.type', 'IouMetric', KeyError, "val_evaluator.type.*'IoUMetric'"),
    ],
)
def test_misspelled_types_and_arguments_are_named_with_key_and_suggestion(
    option, value, error, message
):
    with pytest.raises(error, match=message):
        load_config(str(CONFIGS / UNIMATCH), {option: value})


def child_of(folder, base, text):
    path = folder / f'{len(list(folder.iterdir()))}.py'
    path.write_text(f'_base_ = {str(base)!r}\n{text}\n')
    return path


STRAY = 'method = dict(refiners=dict(select=dict(threshold=0.8)))'


def test_a_method_that_the_model_is_not_built_of_is_refused(tmp_path):
    stray = child_of(tmp_path, CONFIGS / UNIMATCH, STRAY)
    changed = child_of(tmp_path, CONFIGS / UNIMATCH, '_base_.method.mixer.prob = 1.0')
    message = (
        r'method\.refiners\.select\.threshold=0\.8 has no effect, because the model has been built '
        r'with 0\.95: set model\.refiners\.select\.threshold instead'
    )
    for path in (stray, child_of(tmp_path, stray, 'model = dict(warmup_iters=3)')):
        with pytest.raises(ValueError, match=message):
            load_config(str(path))
    with pytest.raises(ValueError, match=r'method\.mixer\.prob=1\.0 .* set model\.mixer\.prob'):
        load_config(str(changed))
    (tmp_path / '_base_').mkdir()  # where files are looked at as everywhere else
    base = child_of(tmp_path / '_base_', CONFIGS / UNIMATCH, STRAY)
    with pytest.raises(ValueError, match=message):
        load_config(str(child_of(tmp_path, base, 'model = dict(warmup_iters=3)')))
    with pytest.raises(ValueError, match=r'--cfg-options method\.a\.b .*: set model\.a\.b'):
        load_config(str(CONFIGS / UNIMATCH), {'method.a.b': 1})


@pytest.mark.parametrize(
    'text',
    [
        STRAY.replace('method', 'model', 1),
        f'{STRAY}\nmodel = dict(refiners=dict(select=dict(threshold=0.8)))',
        'method = _base_.method\nmethod.supervised_weight = 3.0\n'
        'model = dict(_delete_=True, segmentor=_base_.model.segmentor, **method)',
    ],
)
def test_a_method_that_the_model_is_built_of_passes(tmp_path, text):
    load_config(str(child_of(tmp_path, CONFIGS / UNIMATCH, text)))


def test_hook_priorities_and_scopes_are_no_arguments():
    hooks = [dict(type='DataCheckHook', priority='LOW'), dict(type='mmengine.EMAHook')]
    assert load_config(str(CONFIGS / UNIMATCH), dict(custom_hooks=hooks)).custom_hooks


def test_workers_and_persistence_fit(monkeypatch):
    path = str(CONFIGS / 'unimatch/unimatch_unet_custom.py')
    assert load_config(path).train_dataloader.persistent_workers is True
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {0, 1, 2, 3})
    cfg = load_config(path, {'train_dataloader.num_workers': 9})
    assert cfg.train_dataloader.num_workers == 4
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    cfg = load_config(path, {'train_dataloader.num_workers': 4})
    assert cfg.train_dataloader.num_workers == 2
    cfg = load_config(path, {'train_dataloader.num_workers': 0})
    assert cfg.train_dataloader.persistent_workers is False


def test_paths_of_validation_data_are_checked(digit_root):
    root = {'val_dataloader.dataset.data_root': str(digit_root)}
    check_data_paths(load_config(str(CONFIGS / UNIMATCH), root), ('val',))
    wrong = {**root, 'val_dataloader.dataset.ann_file': 'splits/nope.txt'}
    with pytest.raises(FileNotFoundError, match=r'val_dataloader\.dataset\.ann_file.*nope\.txt'):
        check_data_paths(load_config(str(CONFIGS / UNIMATCH), wrong), ('val',))


@pytest.mark.parametrize(
    ('kind', 'error', 'message'),
    [
        (
            'mmnosuch.ResNet',
            ModuleNotFoundError,
            "model.segmentor.backbone.type: 'mmnosuch.ResNet' needs mmnosuch, which is not "
            'installed. Install mmnosuch.',
        ),
        ('mmseg.NoSuch', KeyError, "backbone.type: 'mmseg.NoSuch' is not registered"),
    ],
)
def test_a_backbone_of_another_package(kind, error, message):
    with pytest.raises(error, match=re.escape(message)):
        load_config(str(CONFIGS / UNIMATCH), {'model.segmentor.backbone.type': kind})


@pytest.mark.parametrize(
    ('missing', 'reason'),
    [
        ('mmpretrain', 'is not installed'),
        ('torchvision', r'cannot be imported \([^()]*torchvision[^()]*\)'),
    ],
)
def test_packages_that_a_backbone_needs_are_named(missing, reason, plain_server, tmp_path):
    """In a process that has not imported them."""
    if missing == 'torchvision' and importlib.util.find_spec('mmpretrain') is None:
        pytest.skip('mmpretrain is not installed')
    config = CONFIGS / 'supervised/supervised_upernet_convnext-t_custom.py'
    script = tmp_path / 'script.py'
    script.write_text(f"""
import sys
assert not {{'mmpretrain', {missing!r}}} & set(sys.modules)
sys.modules[{missing!r}] = None
from mmseg_semi.errors import run_tool
from mmseg_semi.apis import check
run_tool(check.main)
""")
    output = plain_server.run(script, config, code=1, unblock=['mmseg_semi']).output
    assert re.fullmatch(
        f"error: model.backbone.type: 'mmpretrain.ConvNeXt' needs mmpretrain, which {reason}. "
        r'Install the torchvision that belongs to your torch, then it: '
        r"pip install 'mmseg_semi\[convnext\]'.",
        output.splitlines()[-1],
    )
    assert 'Traceback' not in output


def test_transforms_of_albumentations_are_not_looked_up():
    """Their names are those of another library; the arguments of ``Albu`` itself are checked."""
    inner = [dict(type='OneOf', transforms=[dict(type='Blur', blur_limit=3)], p=0.1)]
    key = f'{DATASET}.unlabeled.strong.transforms.gray'
    path = str(CONFIGS / UNIMATCH)
    albu = dict(type='Albu', transforms=inner, _delete_=True)
    load_config(path, {key: albu})
    with pytest.raises(TypeError, match='Albu has no argument .transform.'):
        load_config(path, {key: dict(albu, transform=[])})


@pytest.mark.parametrize(
    'name',
    [
        'maskformer/maskformer_r101-d32_8xb2-160k_ade20k-512x512.py',
        'mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py',
        'san/san-vit-b16_coco-stuff164k-640x640.py',
    ],
)
def test_mask_classification_of_mmseg_passes(name):
    pytest.importorskip('mmdet')
    load_config(os.path.join(os.path.dirname(mmseg.__file__), '.mim', 'configs', name))
